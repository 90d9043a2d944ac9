"""Rendered scenes: words that say what is there, pairs never shown, pictures that agree."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from week25.answering import rows
from week25.scenes import (
    CELL,
    COLORS,
    END,
    KINDS,
    START,
    Thing,
    caption,
    decoded,
    draw_neighbors,
    draw_scene,
    encoded,
    glyphs,
    questions,
    relation,
    render,
    split,
    swap_cells,
    swap_colors,
)

SEEDS = st.integers(0, 10_000)


def gen(seed):
    return torch.Generator().manual_seed(seed)


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(0, 8))
def test_split_is_by_combination_and_leaves_each_color_and_kind(seed, n):
    seen, held_out = split(gen(seed), n)
    assert len(held_out) == n
    assert not set(seen) & set(held_out)
    assert len(seen) + n == 32
    assert {color for color, _ in seen} == set(range(4))
    assert all(sum(k == kind for _, k in seen) >= 2 for kind in range(8))


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.integers(1, 4))
def test_scenes_are_of_pairs_that_may_be_shown_and_things_differ(seed, n):
    seen, held_out = split(gen(seed))
    scene = draw_scene(seen, n, gen(seed))
    assert len(scene) == n
    assert all((thing.color, thing.kind) in seen for thing in scene)
    for part in range(3):
        assert len({thing[part] for thing in scene}) == n
    first = draw_scene(seen, n, gen(seed), held_out[0])[0]
    assert (first.color, first.kind) == held_out[0]


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_relations_are_turned_by_exchanging_and_changed_words_are_the_same_words(seed):
    scene = draw_neighbors(split(gen(seed))[0], gen(seed))
    turned = {"left": "right", "right": "left", "above": "below", "below": "above"}
    words = relation(scene).split()
    assert [turned.get(word, word) for word in words] == relation(swap_cells(scene)).split()
    assert sorted(words) == sorted(relation(swap_colors(scene)).split())
    assert relation(scene) != relation(swap_colors(scene))
    assert abs(scene[0].cell - scene[1].cell) in (1, 2)


def test_relation_by_hand():
    square, disc = Thing(0, 0, 0), Thing(2, 3, 1)
    assert relation((square, disc)) == "a red square left of a blue disc"
    assert relation((square, disc._replace(cell=2))) == "a red square above a blue disc"
    assert relation((disc._replace(cell=3), square._replace(cell=1))) == (
        "a blue disc below a red square"
    )
    with pytest.raises(ValueError, match="things must be neighbors"):
        relation((square, disc._replace(cell=3)))
    with pytest.raises(ValueError, match="scene must have two things, got 1"):
        relation((square,))


def test_answers_are_those_of_the_scene():
    scene = (Thing(1, 5, 3), Thing(0, 2, 0), Thing(3, 0, 1))
    assert questions(scene) == [
        ("how many things", "three"),
        ("what color is the one", "green"),
        ("where is the one", "bottom right"),
        ("what is green", "one"),
    ]
    assert caption(scene).startswith("a red plus at top left and a yellow square at top right and")


@settings(deadline=None, max_examples=20)
@given(SEEDS, st.integers(1, 3))
def test_every_text_comes_back_from_its_ids(seed, n):
    scene = draw_scene(split(gen(seed))[0], n, gen(seed))
    texts = [caption(scene), "how many things", "picture of four"]
    ids = encoded(texts, context=30)
    assert ids.shape == (3, 30)
    assert (ids[:, 0] == START).all()
    assert ((ids == END).sum(1) == 1).all()
    assert decoded(ids) == texts
    assert encoded(texts).shape[1] == max(len(text.split()) for text in texts) + 2


def test_unknown_words_and_long_texts_are_refused():
    with pytest.raises(ValueError, match="texts must be of known words, got 'purple'"):
        encoded(["a purple disc"])
    with pytest.raises(ValueError, match="context must hold the longest text, got 4"):
        encoded(["a red disc"], context=4)
    with pytest.raises(ValueError, match="n must be between 1 and 4, got 5"):
        draw_scene([(0, 0)], 5, gen(0))
    with pytest.raises(ValueError, match="answers must be as many as questions, 1, got 2"):
        rows(["how many things"], ["one", "two"])


def test_a_thing_is_painted_in_its_cell_and_color():
    shown = glyphs()
    for cell in range(4):
        for color, rgb in enumerate(COLORS.values()):
            image = render([(Thing(color, 3, cell),)], shown, gen(cell))[0]
            y, x = (CELL * i for i in divmod(cell, 2))
            inside = image[:, y : y + CELL, x : x + CELL]
            assert torch.equal(inside[:, 3, 4] > 0.5, torch.tensor(rgb) > 0.5)
            outside = image.clone()
            outside[:, y : y + CELL, x : x + CELL] = 0
            assert outside.abs().max() < 0.4  # noise of deviation 0.05 only


def test_digits_that_judge_are_not_those_that_train():
    train, judge = glyphs(), glyphs(judge=True)
    assert len(train) == len(judge) == len(KINDS)
    for a, b in zip(train[:4], judge[:4], strict=True):
        assert torch.equal(a, b)
    for a, b in zip(train[4:], judge[4:], strict=True):
        assert len(a) > len(b) > 20
        assert not (a[:, None] == b[None]).flatten(2).all(-1).any()


def test_rows_say_where_question_and_padding_begin():
    batch = rows(["what is red", "how many things"], ["two", "three"])
    assert batch.prefix.tolist() == [4, 4]
    assert batch.real.tolist() == [6, 6]
    assert (batch.tokens[:, 5] == END).all()
    batch = rows(["what is red", "caption"], ["two", "a red two at top left"])
    assert batch.tokens.shape == (2, 9)
    assert batch.real.tolist() == [6, 9]
    assert (batch.tokens[0, 6:] == 0).all()
