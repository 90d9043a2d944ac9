"""Clips whose every pixel, place and word is known."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from week26.moving_digits import (
    DIGITS,
    DIRECTIONS,
    SIZE,
    WORDS,
    Reader,
    caption,
    clips,
    encoded,
    held_out,
    locate,
    path_error,
    render,
    split,
    strip,
)


def some(n: int = 6, seed: int = 0, **options):
    data = split(0)
    return clips(data.x, data.y, n, torch.Generator().manual_seed(seed), **options)


@given(seed=st.integers(0, 10**6), frames=st.integers(1, 10), speed=st.sampled_from([1, 2, 3, 4]))
@settings(max_examples=8)
def test_a_clip_is_one_picture_rolled_along(seed, frames, speed):
    data = some(3, seed, frames=frames, speed=speed)
    names = list(DIRECTIONS)
    for video, sprite, path, way in zip(
        data.video, data.sprite, data.path, data.direction, strict=True
    ):
        assert (path % speed == 0).all()
        still = np.full((SIZE, SIZE), -1.0)
        still[:8, :8] = sprite
        move = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}[names[way]]
        for t in range(frames):
            at = [int(path[0, i]) + t * speed * move[i] for i in (0, 1)]
            np.testing.assert_array_equal(video[t], np.roll(still, at, axis=(0, 1)))
            assert path[t].tolist() == [place % SIZE for place in at]


def test_places_are_found_again_and_errors_go_the_short_way_around():
    data = some(20)
    assert torch.equal(locate(data.video, data.sprite), data.path)
    noisy = data.video + 0.3 * torch.randn(data.video.shape, generator=torch.Generator())
    assert torch.equal(locate(noisy, data.sprite), data.path)
    a, b = torch.tensor([[[0, 0], [3, 4]]]), torch.tensor([[[11, 0], [0, 0]]])
    assert path_error(a, b).item() == path_error(b, a).item() == (1 + 5) / 2


def test_combinations_held_out_are_not_in_training_and_all_others_are():
    data = some(3000, known_only=True)
    seen = {*zip(data.digit.tolist(), data.direction.tolist(), strict=True)}
    assert not held_out(data.digit, data.direction).any()
    assert len(seen) == 30
    assert held_out(some(500).digit, some(500).direction).any()


def test_a_strip_has_the_frames_in_order_between_gray_lines():
    found = strip(torch.stack([torch.full((2, 3), v) for v in (-1.0, 0.0, 4.0)]))
    assert found.shape == (2, 15)
    line = [0.5, 0, 0, 0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 1, 1, 1, 0.5]
    assert found.tolist() == [line, line]


def test_captions_are_words_filled_up():
    assert caption(3, 0) == "a three moves left"
    ids = encoded(["a three moves left", "", "nine"])
    assert [[WORDS[i] for i in row if i] for row in ids.tolist()] == [
        ["a", "three", "moves", "left"],
        [],
        ["nine"],
    ]
    assert len({caption(k, w) for k in range(10) for w in range(4)}) == 40 == len(DIGITS) * 4


def test_a_reader_does_not_care_where_the_digit_is():
    reader = Reader(torch.Generator().manual_seed(0))
    video = some().video
    for a, b in zip(reader(video), reader(video.roll((2, 4), dims=(2, 3))), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    back = reader(video.flip(1))[1]
    assert not torch.allclose(back, reader(video)[1], atol=1e-3)  # the order of frames matters
    right = reader.right(video, *(logits.argmax(-1) for logits in reader(video)))
    assert right.all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: encoded(["a cat"]), "captions must have words of a moves .*, got cat"),
        (lambda: encoded(["a " * 7]), "captions must have at most 6 words, got 7"),
        (lambda: some(speed=5), "speed must divide 12, got 5"),
        (lambda: some(0), "n and frames must be at least 1, got 0 and 8"),
        (
            lambda: render(2 * torch.ones(1, 8, 8), torch.zeros(1, 2, 2, dtype=torch.long)),
            r"sprite must lie in \[-1, 1\]",
        ),
        (
            lambda: render(torch.ones(2, 8, 8), torch.zeros(1, 2, 2, dtype=torch.long)),
            r"path must be integers of shape \(n = 2, frames, 2\), got torch.int64 of shape \(1, 2",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(call, message):
    with pytest.raises(ValueError, match=message):
        call()
