"""Language, sight and judging of papers/2018-bert."""

import pytest
import torch
from test_scripts import load

from shared import papers, records
from shared.run import Run

SCRIPT = records.ROOT / "papers/2018-bert/reproduce.py"
paper = load(SCRIPT)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def topics_of(tokens):
    """The topic of each word, -1 for those that all topics have."""
    word = tokens - paper.SPECIAL.first
    return (word // paper.WORDS).where((word >= 0) & (tokens < paper.COMMON), -1)


def test_the_tasks_are_mirror_images():
    topic = torch.randint(paper.TOPICS, (50,), generator=seeded())
    left, right = (paper.sentences(topic, side, seeded(1)) for side in ("left", "right"))
    assert torch.equal(left.flip(1), right)
    for side, words in (("left", left), ("right", right)):
        place = paper.SIDES[side]
        assert (words[:, place] >= paper.AMBIGUOUS).all()
        assert (words >= paper.AMBIGUOUS).sum() == 50
    assert (topics_of(left[:, :3]) == topic[:, None]).all()
    assert (topics_of(left[:, 3:]) == -1).all()


def test_words_of_any_order_stand_anywhere():
    words = paper.sentences(torch.zeros(600, dtype=torch.long), None, seeded())
    places = (words >= paper.AMBIGUOUS).float().mean(dim=0)
    assert places.sum() == pytest.approx(1)
    assert places.min() > 0.1
    assert ((topics_of(words) == 0).sum(dim=1) == 3).all()


def test_half_of_the_second_topics_follow_the_first_and_the_others_are_spread():
    pairs, topic = paper.draw_pairs(4000, seeded(), "right")
    first = topics_of(pairs.tokens[:, 1:7]).max(dim=1).values
    assert torch.equal(topics_of(pairs.tokens[:, 8:14]).max(dim=1).values, topic)
    shares = torch.bincount((topic - first) % paper.TOPICS, minlength=paper.TOPICS) / 4000
    assert shares.tolist() == pytest.approx([1 / 6, 1 / 2, 1 / 6, 1 / 6], abs=0.03)
    assert torch.equal(pairs.apart == 0, (topic - first) % paper.TOPICS == 1)
    assert (pairs.types[:, 7:9] == torch.tensor([0, 1])).all()


@pytest.mark.parametrize("left_only", [True, False])
def test_who_looks_left_only_sees_nothing_to_its_right(left_only):
    body = paper.Bert(paper.BODY, seeded())
    x = []
    body.embed.register_forward_hook(lambda module, given, out: x.append(out.retain_grad() or out))
    tokens = torch.randint(4, paper.VOCAB, (1, paper.TOKENS), generator=seeded(1))
    with paper.looking(body, left_only):
        body(tokens)[0, 6].square().sum().backward()
    moved = x[0].grad[0].abs().sum(dim=1) > 0
    assert moved[:7].all()
    assert moved[7:].any() != left_only


def test_sight_is_restored_also_after_an_error():
    body = paper.Bert(paper.BODY, seeded())
    tokens = torch.randint(4, paper.VOCAB, (2, paper.TOKENS), generator=seeded(1))
    before = body(tokens)
    with paper.looking(body, left_only=True):
        assert not torch.allclose(body(tokens), before)
    with pytest.raises(ValueError, match="context"), paper.looking(body, left_only=True):
        body(tokens.repeat(1, 2))
    assert torch.equal(body(tokens), before)


def test_the_next_token_is_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(
        paper, "cross_entropy", lambda logits, tokens: asked.extend((logits, tokens))
    )
    model = paper.BertForPretraining(paper.BODY, seeded())
    pairs, _ = paper.draw_pairs(3, seeded())
    paper.next_token_loss(model, pairs)
    assert asked[0].shape == (3, paper.TOKENS - 1, paper.VOCAB)
    assert torch.equal(asked[1], pairs.tokens[:, 1:])


def test_bodies_start_alike_and_only_nothing_stays():
    start = paper.pretrain("nothing", 5, steps=1, lr_scale=1.0).state_dict()
    same = paper.BertForPretraining(paper.BODY, seeded(5)).encoder.state_dict()
    assert all(torch.equal(start[name], same[name]) for name in same)
    for kind in ("MLM", "LTR"):
        moved = paper.pretrain(kind, 5, steps=1, lr_scale=1.0)
        assert not torch.equal(moved.embed.weight, start["embed.weight"])
        assert sum(p.numel() for p in moved.parameters()) == sum(p.numel() for p in start.values())


def test_tuning_learns_where_the_word_is_in_sight_and_leaves_the_body_alone():
    body = paper.Bert(paper.BODY, seeded())
    kept = body.embed.weight.clone()
    options = {"steps": 40, "lr": 0.01, "tests": 400}
    told = paper.fine_tune(body, "left", 0, left_only=True, **options)
    unseen = paper.fine_tune(body, "right", 0, left_only=True, **options)
    assert torch.equal(body.embed.weight, kept)
    assert told > 40  # a quarter by chance
    assert unseen < 52  # the first sentence gives half at most, and noise


def test_senses_are_read_at_the_ambiguous_word():
    for side in paper.SIDES:
        pairs, _ = paper.draw_pairs(20, seeded(), side)
        place = paper.Senses(paper.Bert(paper.BODY), side, seeded()).place
        assert (pairs.tokens[:, place] >= paper.AMBIGUOUS).all()


def test_judging_by_made_up_scores(tmp_path):
    run = Run(SCRIPT, out=tmp_path, quiet=True)
    levels = {"MLM": 90, "MLM, left only in tuning": 45, "LTR": 50, "nothing": 30}
    scores = {
        arm: {"right": [levels.get(arm, 60) + i for i in (0, 1, 2)], "left": [80.0, 81.0, 82.0]}
        for arm in paper.ARMS
    }
    scores["LTR"]["left"] = [81.0, 81.0, 81.0]
    paper.judge(run, papers.load(SCRIPT), scores)
    assert [claim["verdict"] for claim in run.claims] == ["reproduced"] * 2
    assert [claim["mean"] for claim in run.claims] == pytest.approx([40, 0])
    assert [(row["mean"], row["broken"]) for row in run.falsifiers] == [(-5, True)]
    found = {m["name"]: m["value"] for m in run.metrics}
    assert found["LTR: told by the right"] == 51


def test_wrong_input():
    for call, match in (
        (lambda: paper.draw_pairs(2, seeded(), "above"), "side must be one of right, left"),
        (lambda: paper.pretrain("GPT", 0, steps=1, lr_scale=1.0), "kind must be one of MLM"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
