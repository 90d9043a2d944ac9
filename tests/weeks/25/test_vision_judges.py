"""The judging of CLIP and PaliGemma 2: models that know all, or nothing, get what they deserve."""

import torch

from week25.clip import Clip
from week25.evidence import clip as clip_evidence
from week25.evidence import paligemma2 as evidence
from week25.scenes import WORDS, decoded, glyphs, split

DRAWN = glyphs()


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


class Known(torch.nn.Module):
    """A tower that gives back the next vectors of a list."""

    def __init__(self, *vectors):
        super().__init__()
        self.vectors = iter(vectors)

    def forward(self, _):
        return next(self.vectors)


def test_a_perfect_reader_prefers_the_true_caption():
    true, false = torch.eye(300), torch.eye(300).roll(1, 0)
    model = Clip(Known(true), Known(true, *[false] * 3), gen())
    seen, held_out = split(gen())
    data = clip_evidence.Data(None, None, seen, held_out)
    shares, recalls = clip_evidence.preferred(model, data, DRAWN)
    assert list(shares.values()) == [1.0] * 3
    assert recalls == [1.0] * 4


def test_a_bag_of_words_is_at_no_advantage_where_words_are_the_same():
    class Bag(torch.nn.Module):
        def forward(self, tokens):
            return torch.nn.functional.one_hot(tokens, len(WORDS)).float().sum(1)

    seen, held_out = split(gen())
    model = Clip(Known(torch.randn(300, len(WORDS), generator=gen())), Bag(), gen())
    shares, _ = clip_evidence.preferred(
        model, clip_evidence.Data(None, None, seen, held_out), DRAWN
    )
    assert shares["exchanged colors"] == 0  # equal, not better
    assert shares["another color"] > 0.2


def test_another_color_is_none_of_the_scene():
    seen, _ = split(gen())
    for seed in range(20):
        scene = clip_evidence.draw_neighbors(seen, gen(seed))
        changed = clip_evidence.other_color(scene)
        assert changed[0].color not in {thing.color for thing in scene}
        assert changed[0]._replace(color=scene[0].color) == scene[0]
        assert changed[1] == scene[1]


def test_a_model_that_reads_the_picture_fails_with_anothers(monkeypatch):
    """A reader that finds the very picture in its memory answers rightly, else wrongly."""
    seen, held_out = split(gen())
    data = evidence.Data(None, None, seen, held_out)
    memory: dict[bytes, int] = {}

    def render(scenes, drawn, g):
        images = torch.arange(float(len(scenes)))[:, None, None, None].expand(-1, 3, 16, 16)
        memory.update({image.numpy().tobytes(): i for i, image in enumerate(images)})
        return images

    def right(model, images, questions, answers):
        at = [memory[image.numpy().tobytes()] for image in images]
        return [i == j for i, j in zip(at, indices[len(answers)], strict=True)]

    monkeypatch.setattr(evidence, "render", render)
    monkeypatch.setattr(evidence, "right", right)
    n = 18 * len(held_out)
    indices = {n: range(n), n // 3: range(0, n, 3)}
    model, _ = evidence.new_model(0)
    assert set(evidence.shares(model, data, held_out, DRAWN).values()) == {1.0}
    blind = evidence.shares(model, data, held_out, DRAWN, strangers=True)
    assert set(blind.values()) == {0.0}


def test_the_mean_is_that_of_three_kinds_of_question():
    found = dict(zip(evidence.KINDS, (0.9, 0.6, 0.3, 0.0, 0.0), strict=True))
    assert abs(evidence.mean(found) - 0.6) < 1e-12


def test_rows_of_the_evidence_show_no_pair_that_is_held_out():
    data = evidence.new_data(3, 30, DRAWN)
    assert len(data.images) == len(data.rows.tokens)
    for text in decoded(data.rows.tokens):
        if text.startswith("caption"):
            words = text.split()
            for color, kind in data.held_out:
                name = evidence.draw_scene([(color, kind)], 1, gen())[0]
                assert f" {name!s} " not in f" {' '.join(words)} "
