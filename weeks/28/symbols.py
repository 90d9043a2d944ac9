"""Symbols on a page: regions that lines enclose, told apart by a small convolutional net.

A gate or a box encloses white paper. So do loops of wire, which the net has to learn are nothing.

>>> net = Detector(torch.Generator().manual_seed(0))
>>> page = np.full((80, 80), 255, dtype=np.uint8)
>>> views(page, [(20, 20, 50, 50)]).shape
torch.Size([1, 1, 32, 32])
>>> net.find(page, np.zeros((80, 80), dtype=bool))
[]

Source: R. Girshick et al., "Rich feature hierarchies" (2014): regions are proposed, then named.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from week10.cnn_ablations import Recipe, SmallCNN, train
from week28.diagrams import BOXES, GATES
from week28.drawn_pages import LEVELS, Page, random_page, scan
from week28.scanned_pages import Box, Ink, Picture, enclosed, upright

KINDS = (*GATES, *BOXES, "nothing")
SIDE = 32
AROUND = 1.7  # a view is so much wider and higher than its region


class Symbol(NamedTuple):
    """A kind, and the box of the paper inside."""

    kind: str
    box: Box


def views(image: Picture, boxes: list[Box]) -> Float[Tensor, "n 1 side side"]:
    """Pictures around the regions, stretched to squares; ink is about 1 and paper about 0."""
    page, found = Image.fromarray(image), []
    for left, top, right, bottom in boxes:
        x, y = (left + right) / 2, (top + bottom) / 2
        dx, dy = AROUND * (right - left) / 2, AROUND * (bottom - top) / 2
        corners = tuple(round(v) for v in (x - dx, y - dy, x + dx, y + dy))
        small = Image.new("L", (corners[2] - corners[0], corners[3] - corners[1]), 240)
        small.paste(page.crop(_within(corners, page.size)), _offset(corners))
        found.append(np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BOX)))
    pixels = np.array(found, dtype=np.float32).reshape(-1, 1, SIDE, SIDE)
    return torch.from_numpy(1 - pixels / 240)


def _within(corners: Box, size: tuple[int, int]) -> Box:
    left, top, right, bottom = corners
    return max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])


def _offset(corners: Box) -> tuple[int, int]:
    return max(-corners[0], 0), max(-corners[1], 0)


class Detector:
    """Week 10's convolutional net on views of enclosed regions."""

    def __init__(self, generator: torch.Generator):
        self.generator = generator
        self.net = SmallCNN(Recipe(), n_classes=len(KINDS), generator=generator)

    def learn(
        self,
        x: Float[Tensor, "n 1 side side"],
        y: Int[Tensor, " n"],
        steps: int,
        *,
        lr: float = 0.2,
    ) -> Float[Tensor, " steps"]:
        """Train on views and numbers of kinds; the losses."""
        return train(self.net, x, y, lr=lr, steps=steps, generator=self.generator)

    @torch.no_grad()
    def kinds(self, x: Float[Tensor, "n 1 side side"]) -> Int[Tensor, " n"]:
        """Numbers of the likeliest kinds."""
        self.net.eval()
        return self.net(x).argmax(1)

    def find(self, image: Picture, ink: Ink) -> list[Symbol]:
        """The symbols of an upright page."""
        boxes = enclosed(ink)
        if not boxes:
            return []
        kinds = self.kinds(views(image, boxes)).tolist()
        return [
            Symbol(KINDS[k], box)
            for k, box in zip(kinds, boxes, strict=True)
            if KINDS[k] != "nothing"
        ]


# ---- what it learns from


def kind_at(page: Page, box: Box) -> str:
    """What was drawn where a region is; nothing, unless both cover much of each other."""
    left, top, right, bottom = box
    for kind, (a, b, c, d) in page.symbols:
        wide, high = min(right, c) - max(left, a), min(bottom, d) - max(top, b)
        both = max(wide, 0) * max(high, 0)
        if both > 0.35 * max((right - left) * (bottom - top), (c - a) * (d - b)):
            return kind
    return "nothing"


def lessons(
    rng: np.random.Generator, n_pages: int, **which
) -> tuple[Float[Tensor, "n 1 side side"], Int[Tensor, " n"]]:
    """Views of regions on new pages of both kinds, scanned at all levels, and their kinds.

    Of loops that are nothing half is left out; `which` says whether fonts and topologies are held
    out.
    """
    x, y = [], []
    for k in range(n_pages):
        page = random_page(rng, "flowchart" if k % 3 == 2 else "circuit", **which)
        how = LEVELS[rng.choice(list(LEVELS))]._replace(angle=0.0)  # known is where things are
        image, ink = upright(scan(page.image, how, rng))
        named = [(box, KINDS.index(kind_at(page, box))) for box in enclosed(ink)]
        named = [pair for pair in named if KINDS[pair[1]] != "nothing" or rng.random() < 0.5]
        x.append(views(image, [box for box, _ in named]))
        y += [kind for _, kind in named]
    return torch.cat(x), torch.tensor(y)
