"""Rendered scenes with known answers: colored shapes and handwritten digits on a small canvas.

A canvas of 16×16 pixels has four cells of 8×8; in each is one thing or nothing. Some pairs of a
color and a kind are never drawn for training: the split is by combination, not by picture.

>>> scene = (Thing(0, 0, 0), Thing(2, 6, 1))
>>> caption(scene)
'a red square at top left and a blue two at top right'
>>> relation(scene)
'a red square left of a blue two'
>>> questions(scene)[:2]
[('how many things', 'two'), ('what color is the square', 'red')]
>>> seen, held_out = split(torch.Generator().manual_seed(0))
>>> len(seen), len(held_out)
(26, 6)

`uv run weeks/25/clip.py` and `uv run weeks/25/paligemma2.py` learn from them. The shapes are those
of week 23's glyphs; the digits are those of UCI, Alpaydin & Kaynak (1998).
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from shared.datasets import digits
from shared.require import require
from week23.glyphs import COLORS, SHAPES

CELL, SIDE = 8, 16
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
DIGITS = NUMBERS[:4]
KINDS = (*SHAPES, *DIGITS)
PLACES = ("top left", "top right", "bottom left", "bottom right")
PAD, END, START = 0, 1, 2
_TALK = """a an at and is the of there picture what where color how many things caption
top bottom left right above below"""
WORDS = ("<pad>", "<end>", "<start>", *_TALK.split(), *COLORS, *SHAPES, *NUMBERS)
N_TRAIN_DIGITS = 1400  # the other handwritten digits are only drawn to judge


class Thing(NamedTuple):
    """Numbers of a color, a kind and a cell."""

    color: int
    kind: int
    cell: int

    def __str__(self) -> str:
        return f"a {list(COLORS)[self.color]} {KINDS[self.kind]}"


Scene = tuple[Thing, ...]
Pair = tuple[int, int]


# ---- words


def caption(scene: Scene) -> str:
    """Everything that is to be seen, in the order of the cells."""
    parts = sorted(scene, key=lambda thing: thing.cell)
    return " and ".join(f"{thing} at {PLACES[thing.cell]}" for thing in parts)


def relation(scene: Scene) -> str:
    """Where the first of two neighbors is, seen from the second."""
    require(len(scene) == 2, "scene must have two things", len(scene))
    first, second = scene
    (row, column), (other_row, other_column) = divmod(first.cell, 2), divmod(second.cell, 2)
    require((row == other_row) != (column == other_column), "things must be neighbors", scene)
    if row == other_row:
        return f"{first} {'left' if column < other_column else 'right'} of {second}"
    return f"{first} {'above' if row < other_row else 'below'} {second}"


def swap_colors(scene: Scene) -> Scene:
    """The same kinds in the same cells, colors exchanged: the same words in another order."""
    first, second = scene
    return first._replace(color=second.color), second._replace(color=first.color)


def swap_cells(scene: Scene) -> Scene:
    """The same two things, in each other's cells."""
    first, second = scene
    return first._replace(cell=second.cell), second._replace(cell=first.cell)


def questions(scene: Scene) -> list[tuple[str, str]]:
    """Questions with their answers: how many, and color and place of the first thing."""
    first, kind = scene[0], KINDS[scene[0].kind]
    return [
        ("how many things", NUMBERS[len(scene)]),
        (f"what color is the {kind}", list(COLORS)[first.color]),
        (f"where is the {kind}", PLACES[first.cell]),
        (f"what is {list(COLORS)[first.color]}", kind),
    ]


def encoded(texts: Sequence[str], *, context: int | None = None) -> Int[Tensor, "batch context"]:
    """Ids: start, words, end, then padding up to `context` or the longest text."""
    for word in {word for text in texts for word in text.split()} - set(WORDS):
        raise ValueError(f"texts must be of known words, got {word!r}")
    rows = [[START, *(WORDS.index(word) for word in text.split()), END] for text in texts]
    longest = max(map(len, rows))
    context = longest if context is None else context
    require(longest <= context, "context must hold the longest text", context)
    return torch.tensor([row + [PAD] * (context - len(row)) for row in rows])


def decoded(ids: Int[Tensor, "batch context"]) -> list[str]:
    """The texts up to their end."""
    rows = (itertools.takewhile(lambda i: i != END, row) for row in ids.tolist())
    return [" ".join(WORDS[i] for i in row if i > START) for row in rows]


# ---- scenes


def split(generator: torch.Generator, n_held_out: int = 6) -> tuple[list[Pair], list[Pair]]:
    """Pairs of color and kind to learn from, and pairs never shown; each kind and color is shown.

    No kind and no color loses more than half of its pairs.
    """
    pairs = list(itertools.product(range(len(COLORS)), range(len(KINDS))))
    most = len(pairs) // 4
    require(0 <= n_held_out <= most, f"n_held_out must be between 0 and {most}", n_held_out)
    held_out: list[Pair] = []
    for i in torch.randperm(len(pairs), generator=generator).tolist():
        color, kind = pairs[i]
        room = sum(k == kind for _, k in held_out) < 2 and sum(c == color for c, _ in held_out) < 4
        if len(held_out) < n_held_out and room:
            held_out.append((color, kind))
    return [pair for pair in pairs if pair not in held_out], held_out


def draw_scene(
    pairs: Sequence[Pair], n: int, generator: torch.Generator, first: Pair | None = None
) -> Scene:
    """A scene of n things of different colors and kinds; the first is given or drawn, too."""
    require(1 <= n <= 4, "n must be between 1 and 4", n)
    chosen = [] if first is None else [first]
    for i in torch.randperm(len(pairs), generator=generator).tolist():
        color, kind = pairs[i]
        if len(chosen) < n and all(color != c and kind != k for c, k in chosen):
            chosen.append((color, kind))
    cells = torch.randperm(4, generator=generator)[: len(chosen)].tolist()
    return tuple(Thing(*pair, cell) for pair, cell in zip(chosen, cells, strict=True))


def draw_neighbors(
    pairs: Sequence[Pair], generator: torch.Generator, first: Pair | None = None
) -> Scene:
    """Two things side by side or one above the other."""
    first, second = draw_scene(pairs, 2, generator, first)
    flip = 1 + int(torch.randint(2, (), generator=generator))  # the other column, or the other row
    return first, second._replace(cell=first.cell ^ flip)


Glyphs = list[Float[Tensor, "_ 8 8"]]


def glyphs(*, judge: bool = False) -> Glyphs:
    """Pictures of each kind, with values from 0 to 1; to judge by, digits never drawn else."""
    shapes = [[[c == "#" for c in row] for row in shape.split()] for shape in SHAPES.values()]
    found = [F.pad(torch.tensor(shape).float(), (1, 1, 1, 1))[None] for shape in shapes]
    data = digits()
    x, y = torch.tensor(data.images).float() / 16, torch.tensor(data.labels)
    rows = slice(N_TRAIN_DIGITS, None) if judge else slice(N_TRAIN_DIGITS)
    return found + [x[rows][y[rows] == digit] for digit in range(len(DIGITS))]


def render(
    scenes: Sequence[Scene], glyphs: Glyphs, generator: torch.Generator
) -> Float[Tensor, "batch 3 16 16"]:
    """Pictures in [-1, 1]: things shifted by up to a pixel, in varying light, on noisy gray."""
    colors = 2 * torch.tensor(list(COLORS.values())) - 1
    images = torch.zeros(len(scenes), 3, SIDE, SIDE)
    n = sum(map(len, scenes))
    shifts = iter(torch.randint(-1, 2, (n, 2), generator=generator).tolist())
    which = iter(torch.rand(n, generator=generator).tolist())
    for image, scene in zip(images, scenes, strict=True):
        for thing in scene:
            kind = glyphs[thing.kind]
            shape = kind[int(next(which) * len(kind))].roll(next(shifts), (0, 1))
            y, x = (CELL * i for i in divmod(thing.cell, 2))
            image[:, y : y + CELL, x : x + CELL] = colors[thing.color][:, None, None] * shape
    light = 0.7 + 0.3 * torch.rand(len(scenes), 1, 1, 1, generator=generator)
    noise = 0.05 * torch.randn(images.shape, generator=generator)
    return (light * images + noise).clamp(-1, 1)
