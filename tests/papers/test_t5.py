"""The grammar, its questions, and the judging of papers/2020-t5."""

import numpy as np
import pytest
import torch
from test_scripts import load

from shared import papers, records
from shared.run import Run
from week14.span_corruption import EOS, restore

SCRIPT = records.ROOT / "papers/2020-t5/reproduce.py"
paper = load(SCRIPT)
WORD = {i: word for word, i in paper.IDS.items()}


def words(tokens):
    return [WORD[t] for t in tokens.tolist() if t in WORD]


def subject_of(text):
    return text[1] if text[0] in paper.ADJECTIVES else text[0]


def is_verb(word):
    return word.removesuffix("s") in paper.VERBS


def test_the_verb_agrees_with_the_subject_and_not_with_what_is_nearer():
    rng, nearer = np.random.default_rng(0), 0
    for _ in range(300):
        text = paper.words_of(paper.sentence(rng))
        place = next(i for i, word in enumerate(text) if is_verb(word))
        assert text[place].endswith("s") != subject_of(text).endswith("s")
        nearer += text[place].endswith("s") == text[place - 1].endswith("s")
    assert nearer > 30  # an attractor of the other number


def test_questions_have_their_answers():
    rng = np.random.default_rng(0)
    yes = 0
    for _ in range(300):
        question, answer = paper.ask("copying", rng)
        start, end = question.index("["), question.index("]")
        assert question[start + 1 : end] == answer
        assert 1 <= len(answer) <= 2

        question, (verb,) = paper.ask("agreement", rng)
        shown = next(word for word in question if is_verb(word))
        assert verb in (shown, paper.other_number(shown))
        assert verb.endswith("s") != subject_of(question[1:]).endswith("s")

        question, (answer,) = paper.ask("entailment", rng)
        bar = question.index("|")
        text, (noun, verb) = question[1:bar], question[bar + 1 :]
        told = noun == subject_of(text) and verb == next(word for word in text if is_verb(word))
        assert told == (answer == "yes")
        assert verb.endswith("s") != noun.endswith("s")  # its number gives nothing away
        yes += told
    assert 100 < yes < 200


def test_objectives_of_a_seed_see_the_same_sentences():
    texts = []
    for objective in paper.OBJECTIVES:
        source, target = paper.unlabeled(objective)(np.random.default_rng(3))
        if objective == "denoising":
            tokens = restore(source, target, vocab_size=paper.VOCAB)
        elif objective == "prefix":
            tokens = np.concatenate([source[:-1], target[:-1]])
        else:
            tokens = target[:-1]
            assert sorted(source.tolist()) == sorted(target.tolist())
        texts.append(words(tokens))
    assert texts[0] == texts[1] == texts[2]
    source, target = paper.unlabeled("denoising", shuffled=True)(np.random.default_rng(3))
    mixed = words(restore(source, target, vocab_size=paper.VOCAB))
    assert mixed != texts[0]
    assert sorted(mixed) == sorted(texts[0])


def test_arms_start_alike_and_only_nothing_stays():
    models = {arm: paper.pretrain(arm, 5, steps=1, lr=0.01) for arm in ("nothing", "denoising")}
    start = paper.T5(paper.SIZES, torch.Generator().manual_seed(5))
    assert torch.equal(models["nothing"].embed.weight, start.embed.weight)
    assert not torch.equal(models["denoising"].embed.weight, start.embed.weight)


def test_accuracy_asks_for_every_word(monkeypatch):
    pairs = [(np.array([5, EOS]), np.array(answer)) for answer in ([7, 8, EOS], [7, EOS], [8, EOS])]
    written = torch.tensor([[7, 9, EOS], [7, EOS, 0], [8, EOS, 0]])
    monkeypatch.setattr(paper, "greedy", lambda model, source, max_len: written)
    assert paper.accuracy(None, pairs) == pytest.approx(200 / 3)


def test_judging_by_made_up_scores(tmp_path):
    run = Run(SCRIPT, out=tmp_path, quiet=True)
    levels = {"denoising": 80, "prefix": 70, "deshuffling": 60, "shuffled words": 50, "nothing": 40}
    scores = {
        arm: {task: [level + i, level + 2.0 * i] for i, task in enumerate(paper.TASKS)}
        for arm, level in levels.items()
    }
    paper.judge(run, papers.load(SCRIPT), scores)
    assert [claim["verdict"] for claim in run.claims] == ["reproduced"] * 3
    assert [claim["mean"] for claim in run.claims] == pytest.approx([20, 10, 10])
    assert all(row["broken"] for row in run.falsifiers)
    assert {m["name"]: m["value"] for m in run.metrics}["score after prefix"] == pytest.approx(71.5)


def test_wrong_input():
    for call, match in (
        (lambda: paper.ask("spelling", np.random.default_rng(0)), "task must be one of agreement"),
        (lambda: paper.pretrain("mask", 0, steps=1, lr=0.1), "arm must be one of denoising"),
    ):
        with pytest.raises(ValueError, match=match):
            call()
