"""The judging of papers/2021-clip and papers/2024-paligemma2."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_scripts import load

from shared import records
from shared.run import Run
from week25.scenes import COLORS, NUMBERS, WORDS, decoded, encoded

CLIP, PALIGEMMA = (
    records.ROOT / "papers" / name / "reproduce.py" for name in ("2021-clip", "2024-paligemma2")
)
clip_paper, paligemma_paper = load(CLIP), load(PALIGEMMA)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


# ---- CLIP


def test_examples_are_read_off_a_straight_line_and_all_count_if_never():
    curve = [0.0, 0.2, 0.4, 0.3, 0.8]
    assert clip_paper.examples_to(0.3, curve, 100) == pytest.approx(150)
    assert clip_paper.examples_to(0.2, curve, 100) == pytest.approx(100)
    assert clip_paper.examples_to(0.55, curve, 100) == pytest.approx(350)
    assert clip_paper.examples_to(0.9, curve, 100) == 400


def clip_run(tmp_path, monkeypatch, contrast, words):
    curves = {("contrast", g): contrast for g in clip_paper.GIVEN}
    curves |= {("words", g): words for g in clip_paper.GIVEN}
    curves["strangers", "with noise"] = [0.03] * len(contrast)
    monkeypatch.setattr(clip_paper, "check", lambda run: None)
    monkeypatch.setattr(clip_paper, "measure", lambda *size: curves)
    run = Run(CLIP, out=tmp_path, quiet=True)
    clip_paper.main(run)
    return run


def test_half_the_examples_are_one_doubling(tmp_path, monkeypatch):
    slow, fast = [0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 0.5, 1.0, 1.0, 1.0]
    run = clip_run(tmp_path, monkeypatch, fast, slow)
    assert [c["verdict"] for c in run.claims] == ["reproduced", "reproduced"]
    assert [c["mean"] for c in run.claims] == [1.0, 1.0]
    assert all(f["broken"] for f in run.falsifiers)


def test_more_examples_are_no_reproduction(tmp_path, monkeypatch):
    slow, fast = [0.0, 0.25, 0.5, 0.75, 1.0], [0.0, 0.5, 1.0, 1.0, 1.0]
    run = clip_run(tmp_path, monkeypatch, slow, fast)
    assert [c["verdict"] for c in run.claims] == ["not reproduced", "not reproduced"]


def test_a_bag_forgets_order_and_padding_and_counts_words_twice():
    tokens = encoded(["a red disc", "disc a red", "red red"])
    bags = clip_paper.bag(tokens)
    assert torch.allclose(bags.sum(1), torch.ones(3))
    assert torch.equal(bags[0], bags[1])
    assert bags[2, WORDS.index("red")] == 0.5
    assert bags[2, 0] == 0


def test_word_prediction_is_a_cross_entropy():
    model, images = clip_paper.WordPredictor(gen()), torch.randn(2, 3, 16, 16, generator=gen())
    tokens = encoded(["a red disc", "two"])
    logits = model.head(model.image(images))
    expected = -(clip_paper.bag(tokens) * F.log_softmax(logits, -1)).sum(-1)
    assert torch.allclose(-model(images, tokens).diagonal(), expected, atol=1e-6)


def test_captions_name_no_pair_that_is_held_out_and_end_in_noise():
    shown = clip_paper.glyphs()
    _, tokens = clip_paper.new_data(3, 50, 3, shown)
    _, held_out = clip_paper.split(gen(3))
    for text in decoded(tokens):
        said = " ".join(text.split()[:-3])
        assert len(said.split()) in (3, 7)
        assert not any(str(clip_paper.Thing(*pair, 0)) in said for pair in held_out)


def test_all_arms_have_curves_of_one_length(monkeypatch):
    def curve(arm, data, test, *, steps, every, **_):
        return [0.0] * (steps // every + 1)

    monkeypatch.setattr(clip_paper, "curve", curve)
    monkeypatch.setattr(clip_paper, "new_test", lambda *_: None)
    matter = {"noise": 1, "lr": {"words": 1.0, "contrast": 1.0}}
    found = clip_paper.measure(0, matter, 4, 8, 2)
    assert {len(curve) for curve in found.values()} == {5}
    assert len(found) == 5


# ---- PaliGemma 2


def paligemma_run(tmp_path, monkeypatch, cells):
    monkeypatch.setattr(paligemma_paper, "check", lambda run: None)
    noise = iter(np.random.default_rng(0).normal(0, 0.01, 100))

    def cell(size, side, zoom, **options):
        reading, counting = cells["twice as large" if zoom == 2 else size, side]
        return {"reading": reading + next(noise), "counting": counting + next(noise)}

    monkeypatch.setattr(paligemma_paper, "cell", cell)
    run = Run(PALIGEMMA, out=tmp_path, quiet=True)
    paligemma_paper.main(run)
    return run


def test_both_interactions_are_judged(tmp_path, monkeypatch):
    cells = {("small", 16): (0.3, 0.5), ("small", 32): (0.8, 0.5)}
    cells |= {("large", 16): (0.3, 0.9), ("large", 32): (0.8, 0.9)}
    cells |= {("twice as large", 16): (0.8, 0.9), ("twice as large", 32): (0.8, 0.9)}
    run = paligemma_run(tmp_path, monkeypatch, cells)
    assert [c["verdict"] for c in run.claims] == ["reproduced", "reproduced"]
    assert [c["mean"] for c in run.claims] == pytest.approx([0.5, 0.4], abs=0.03)
    assert all(f["broken"] for f in run.falsifiers)


def test_help_for_the_other_task_is_no_reproduction(tmp_path, monkeypatch):
    cells = {("small", 16): (0.3, 0.3), ("small", 32): (0.3, 0.8)}
    cells |= {("large", 16): (0.7, 0.3), ("large", 32): (0.7, 0.8)}
    cells |= {("twice as large", 16): (0.8, 0.9), ("twice as large", 32): (0.8, 0.9)}
    run = paligemma_run(tmp_path, monkeypatch, cells)
    assert [c["verdict"] for c in run.claims] == ["not reproduced", "not reproduced"]


def test_answers_of_the_pictures_are_right():
    names, values = list(COLORS), torch.tensor(list(COLORS.values()))
    for seed in range(20):
        image, question, answer = paligemma_paper.draw_squares(gen(seed))
        color = names.index(question.split()[-1])
        same = (image == (2 * values[color] - 1)[:, None, None]).all(0)
        assert int(same.sum()) == 64 * NUMBERS.index(answer)
        small, _, digit = paligemma_paper.draw_digit(gen(seed), 1)
        large, _, again = paligemma_paper.draw_digit(gen(seed), 2)
        assert digit == again
        assert int(large.sum()) == 4 * int(small.sum()) > 0


def test_digits_of_the_font_differ():
    glyphs = paligemma_paper.FONT.split()
    assert len(set(glyphs)) == 10
    assert {len(glyph) for glyph in glyphs} == {15}


def test_an_answer_counts_if_all_its_words_are_the_likeliest():
    tokens = torch.tensor([[2, 5, 6, 1], [2, 5, 7, 1]])
    data = paligemma_paper.Rows(tokens, torch.tensor([2, 2]), torch.tensor([4, 4]))

    def model(images, tokens, prefix, real):
        logits = F.one_hot(tokens.roll(-1, 1), 10).float()
        logits[1, 2] = 0  # the second row misses its end
        return logits

    found = paligemma_paper.shares(model, torch.zeros(2), data, torch.tensor([True, False]))
    assert found == {"reading": 1.0, "counting": 0.0}
