"""Training and replies of a tiny model; what the judge makes of replies; the trained folder."""

import copy
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import UserError
from shared.run import Run
from week18.pretrained import save_pretrained
from week19.kv_cache import generate
from week19.sampling import greedy
from week20.adapter_folder import hugging_face_layer, save_adapter
from week20.domain_lora import with_lora
from week20.lora import adapters, trainable
from week21.dpo import Preference, collate, response_log_probs
from week28 import good_teacher
from week28.evidence.good_teacher import tell, tell_knowledge
from week28.evidence.teacher_checks import agreement, one_by_one, spellings, tiny
from week28.evidence.teacher_judge import Judged, Knowledge, Material, judged, knowledge, material
from week28.good_teacher import (
    Pair,
    draw_pairs,
    gained,
    imitate,
    known,
    pair_log_probs,
    prefer,
    preference,
    prompt_ids,
    replies,
    shuffled,
    train,
    upper_layers,
)
from week28.lessons import BAD, JUDGING
from week28.rubric import Rubric, labeled
from week28.word_problems import HELD_OUT, TAUGHT


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "weeks/28/good_teacher.py", mode="quick", out=tmp_path, quiet=True)


@pytest.fixture
def small(run):
    return tiny(run)


@pytest.fixture
def pairs(small):
    return [preference(small[1], p) for p in draw_pairs(4, random.Random(0))]


# ---- pairs


def test_pairs_hold_all_sorts_of_bad_replies_of_the_kinds_asked_for():
    drawn = draw_pairs(28, random.Random(0), kinds=HELD_OUT, bank=JUDGING)
    assert {p.lesson.problem.kind for p in drawn} == set(HELD_OUT)
    assert all(
        any(s.format(**vars(p.lesson.problem)) in p.good for s in JUDGING.checks) for p in drawn
    )
    quiet = draw_pairs(4, random.Random(0), good="silent", bad=("tells",))
    assert all(str(p.lesson.problem.answer) in p.bad and "?" not in p.good for p in quiet)
    assert len(BAD) == 7


@given(st.integers(0, 40), st.integers(0, 99))
def test_shuffling_turns_half_of_the_pairs(n, seed):
    pairs = [Pair(None, f"good {i}", f"bad {i}") for i in range(n)]
    turned = shuffled(pairs, random.Random(seed))
    assert sum(p.good.startswith("bad") for p in turned) == n // 2
    assert all({t.good, t.bad} == {p.good, p.bad} for t, p in zip(turned, pairs, strict=True))


def test_what_is_trained_on_is_what_a_chat_gives_and_ends(small, pairs):
    _, tokenizer = small
    lesson = draw_pairs(1, random.Random(0))[0].lesson
    assert prompt_ids(tokenizer, lesson) == tokenizer.chat(
        [{"role": "user", "content": lesson.prompt}]
    )
    start = tokenizer.special_tokens["<|im_start|>"]
    for pair in pairs:
        assert pair.chosen[-1] == pair.rejected[-1] == tokenizer.end
        assert pair.prompt.count(start) == 2  # the user's turn and the teacher's, once each
    told = prompt_ids(tokenizer, lesson, "Ask.")
    assert tokenizer.decode(told).startswith("<|im_start|>system\nAsk.<|im_end|>")


# ---- log-probabilities


@settings(max_examples=20)
@given(st.lists(st.tuples(*[st.integers(1, 9)] * 3), min_size=1, max_size=4), st.integers(0, 99))
def test_log_probs_of_replies_are_those_from_all_logits(sizes, seed):
    chance = random.Random(seed)
    draw = lambda n: [chance.randrange(258) for _ in range(n)]  # noqa: E731
    pairs = [Preference(*map(draw, size)) for size in sizes]
    model, _ = tiny(Run(Path("x"), seed=seed, quiet=True))
    batch = collate(pairs)
    with torch.no_grad():
        all_logits = response_log_probs(model(batch.tokens), batch.tokens, batch.scored).sum(1)
        torch.testing.assert_close(pair_log_probs(model, pairs), all_logits.view(2, -1).T)
        torch.testing.assert_close(known(model, pairs, 2), one_by_one(model, pairs))


# ---- training


def test_dpo_begins_at_the_logarithm_of_two_and_falls(small, pairs):
    model, _ = small
    before = copy.deepcopy(model)
    reference = known(model, pairs)
    losses = list(prefer(model, pairs, reference, steps=6, batch_size=4, lr=3e-3, seed=0))
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    assert losses[-1] < 0.6
    assert gained(known(model, pairs), reference).min() > 0
    assert torch.equal(known(before, pairs), reference)


def test_beta_multiplies_the_gap(small, pairs):
    model, _ = small
    reference = known(model, pairs) - torch.tensor([1.0, 0.0])  # the chosen one has gained a nat
    loss = next(prefer(model, pairs, reference, steps=1, batch_size=4, lr=1e-3, seed=0, beta=0.5))
    assert loss == pytest.approx(-math.log(1 / (1 + math.exp(-0.5))), abs=1e-4)


def test_imitation_counts_tokens_alike_and_falls(small, pairs):
    model, _ = small
    with torch.no_grad():
        chosen = -one_by_one(model, pairs)[:, 0].sum() / sum(len(p.chosen) for p in pairs)
    losses = list(imitate(model, pairs, steps=8, batch_size=4, lr=1e-2, seed=0))
    assert losses[0] == pytest.approx(float(chosen), abs=1e-4)
    assert losses[-1] < losses[0] - 0.5


def test_each_row_is_seen_once_before_any_is_seen_again(small):
    model, seen = small[0], []

    def loss(rows):
        seen.append(rows)
        return model.embed.weight.sum()

    list(train(model, 6, loss, steps=4, batch_size=3, lr=0.1, seed=0))
    assert sorted(seen[0] + seen[1]) == sorted(seen[2] + seen[3]) == list(range(6))
    assert seen[0] + seen[1] != seen[2] + seen[3]


def test_the_rate_falls_to_zero_linearly(small):
    model = small[0]
    model.requires_grad_(False)
    model.norm.weight.requires_grad_(True)
    found = []
    for _ in train(
        model, 1, lambda _: model.norm.weight.sum(), steps=4, batch_size=1, lr=0.1, seed=0
    ):
        found.append(float(model.norm.weight.detach()[0]))
    moved = np.diff(found)
    np.testing.assert_allclose(moved, [-0.075, -0.05, -0.025], atol=1e-4)


def test_training_refuses_what_does_not_fit(small, pairs):
    model = small[0]
    options = {"steps": 1, "lr": 1e-3, "seed": 0}
    with pytest.raises(ValueError, match="batch_size must be 1 to 4, got 5"):
        next(imitate(model, pairs, batch_size=5, **options))
    with pytest.raises(ValueError, match="reference must hold two numbers for each of 4 pairs"):
        next(prefer(model, pairs, torch.zeros(3, 2), batch_size=2, **options))


def test_what_a_first_reply_has_gained_on_the_second():
    policy, reference = (
        torch.tensor([[-5.0, -9.0], [-1.0, 0.0]]),
        torch.tensor([[-3.0, -2.0], [-3.0, -3.0]]),
    )
    assert gained(policy, reference).tolist() == [5.0, -1.0]


def test_corrections_stand_in_the_upper_layers_only(small):
    model = small[0]
    config = upper_layers(model, r=2)
    with_lora(model, config, 0)
    assert {name.split(".")[1] for name, _ in adapters(model)} == {"1"}
    assert len(list(adapters(model))) == 4
    assert trainable(model)[0] == sum(
        p.numel() for n, p in model.named_parameters() if n[-2:] in (".A", ".B")
    )
    assert all(layer.scaling == 2 for _, layer in adapters(model))


# ---- replies


def test_replies_together_are_replies_alone_and_end(small):
    model, tokenizer = small
    prompts = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
    together = replies(model, tokenizer, prompts, 6)
    assert together == [replies(model, tokenizer, [p], 6)[0] for p in prompts]
    first = int(next(generate(model, [prompts[0]], 1, choose=greedy))[0])
    tokenizer.end = first  # what it says first is an end now
    assert replies(model, tokenizer, prompts, 6)[0] == ""


@pytest.fixture
def trained(run, small, monkeypatch, tmp_path):
    """A folder as the experiment leaves it, and the base under the name of SmolLM2."""
    model, tokenizer = small
    model.config.__dict__["context"] = 160
    save_pretrained(model, tmp_path / "base")
    monkeypatch.setattr(good_teacher.pretrained, "smollm2", lambda: tmp_path / "base")
    monkeypatch.setattr(good_teacher.GGUF, "open", lambda path: None)
    monkeypatch.setattr(good_teacher.GGUFTokenizer, "from_gguf", lambda file: tokenizer)
    monkeypatch.setenv("STUDY_RUNS", str(tmp_path))
    good_teacher.load.cache_clear()
    yield model, tokenizer
    good_teacher.load.cache_clear()


HELLO = [{"role": "user", "content": "Hi"}]


def test_a_reply_is_that_of_the_saved_teacher(trained):
    model, tokenizer = trained
    config = upper_layers(model)
    with_lora(model, config, 0)
    for _, layer in adapters(model):
        torch.nn.init.normal_(layer.B, std=0.3)
    save_adapter(model, good_teacher.adapter_folder(), config, rename=hugging_face_layer)
    expected = replies(model, tokenizer, [tokenizer.chat(HELLO)])[0]
    assert good_teacher.reply(HELLO) == expected
    with pytest.raises(UserError, match="messages must end with a question of the user's"):
        good_teacher.reply([{"role": "assistant", "content": "Hi"}])
    with pytest.raises(UserError, match="there is no room for a reply after their tokens, got 2"):
        good_teacher.reply([{"role": "user", "content": "x" * 200}])


def test_without_training_it_says_how_in_one_line(trained):
    with pytest.raises(UserError, match=r"no teacher was trained yet; `uv run weeks/28/good_tea"):
        good_teacher.reply(HELLO)


# ---- the judge


def test_what_is_judged_with_was_not_trained_on(small):
    sizes = {"labeled": 80, "prompts": 8, "pairs": 4, "windows": 2, "questions": 2}
    by = material(small[1], 0, sizes)
    assert {lesson.problem.kind for lesson in by.given} <= set(HELD_OUT)
    assert all(
        any(
            lesson.said in s.format(answer=lesson.problem.answer, wrong=lesson.problem.wrong)
            for s in JUDGING.says[lesson.remark]
        )
        for lesson in by.given
    )
    assert (len(by.pairs), len(by.windows), len(by.questions)) == (4, 2, 2)
    found = judged(by, ["It is 77777."] * 8)
    assert found.states.tolist() == [1.0] * 8
    assert found.score.shape == (8,)


def test_the_quiz_takes_the_likeliest_and_its_place_says_nothing(small):
    _, tokenizer = small
    sizes = {"labeled": 80, "prompts": 1, "pairs": 1, "windows": 1, "questions": 3}
    by = material(tokenizer, 0, sizes)

    class Knows(torch.nn.Module):
        """Likes the answers' bytes in their order."""

        def forward(self, tokens):
            logits = torch.zeros(*tokens.shape, 258)
            for (asked, right, *_), _ in zip(by.questions, range(3), strict=True):
                said = tokenizer.encode(f" {right}")
                given = [0, *tokenizer.encode(f"Question: {asked}\nAnswer:")]
                for row, ids in enumerate(tokens.tolist()):
                    if ids[: len(given)] == given:
                        for i, token in enumerate(said):
                            at = len(given) - 1 + i
                            if at < len(ids):
                                logits[row, at, token] = 9.0
            return logits

    found = knowledge(Knows(), tokenizer, by)
    assert found.right.tolist() == [1.0] * 3
    assert found.nats == pytest.approx(math.log(258), abs=1e-4)


def test_agreement_is_by_mark():
    known_ = labeled(TAUGHT, 80, JUDGING, random.Random(0))
    rubric = Rubric().fit([r for _, r in known_])
    wrong = [(lesson, r._replace(checks=not r.checks)) for lesson, r in known_]
    found = agreement(rubric, wrong)
    assert found[2] < 0.1
    assert found[:2].min() > 0.9


def test_spellings():
    assert set(spellings(121)) == {
        f"{head} hundred{link}twenty{dash}one"
        for head in ("one", "a")
        for link in (" ", " and ")
        for dash in "- "
    }
    assert list(spellings(2000)) == ["two thousand"]


def found_for(rows):
    """Teachers with given marks (asks, one step, checks, keeps), on eight lessons each."""
    table = {}
    for name, (marks, states, names) in rows.items():
        marks = np.tile(np.array(marks, dtype=float), (8, 1))
        table[name] = Judged(["Why?"] * 8, marks, np.full(8, states), np.full(8, names))
    return table


def test_verdicts_follow_the_marks(tmp_path):
    run = Run(tmp_path / "weeks/28/good_teacher.py", out=tmp_path, quiet=True)
    found = found_for(
        {
            "as it is": ([0, 0, 0, 1], 1.0, 1.0),
            "told the rubric": ([0, 1, 0, 1], 0.5, 1.0),
            "SFT": ([1, 1, 0, 1], 0.0, 0.25),
            "learned silence": ([0, 1, 0, 1], 0.0, 0.0),
            "SFT and DPO": ([1, 1, 1, 1], 0.0, 0.25),
        }
    )
    lesson = draw_pairs(1, random.Random(0))[0].lesson
    by = Material(Rubric(), [lesson] * 8, [], [], [], [])
    tell(run, by, found, ([2.0] * 8, [0.5, -0.5] * 4))
    verdicts = {c["name"]: c["verdict"] for c in run.claims}
    assert list(verdicts.values()) == ["holds", "holds", "holds", "fails", "holds", "holds"]
    assert run.claims[0]["mean"] == pytest.approx(0.25)
    assert {m["name"]: m["value"] for m in run.metrics}["words, SFT"] == 1
    before, after = (Knowledge(np.full(8, r), np.full(4, n)) for r, n in ((1.0, 3.0), (0.5, 3.05)))
    tell_knowledge(run, before, after)
    assert [c["verdict"] for c in run.claims[-2:]] == ["fails", "holds"]
