"""Wires from ink: straight pieces, joined where they meet, not joined where they only cross.

What is left without the symbols is opened with a row of pixels and with a column of them, which
keeps the horizontal and the vertical pieces. Where two of them meet there is a corner, a branch or
a crossing. A crossing joins only if it has a dot: ink in all four of its corners.

>>> ink = np.zeros((40, 40), dtype=bool)
>>> ink[19:21, 5:35] = True
>>> ink[5:35, 19:21] = True
>>> pieces = straight(ink, 12)
>>> len(pieces), len(set(joined(pieces, ink, 2)))
(2, 2)
>>> ink[16:24, 16:24] = True
>>> len(set(joined(straight(ink, 12), ink, 2)))
1

Source: opening by a line is standard, for example P. Soille, *Morphological Image Analysis* (2003),
section 4.4; the rest is counting.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from shared.arguments import checked
from shared.require import require
from week28.scanned_pages import Box, Ink


class Piece(NamedTuple):
    """A straight piece of wire along its middle."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def across(self) -> bool:
        """Whether it runs from left to right."""
        return self.x1 - self.x0 > self.y1 - self.y0

    @property
    def ends(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """The left or upper end, and the other."""
        return (self.x0, self.y0), (self.x1, self.y1)


def _opened(ink: Ink, length: int) -> Ink:
    """What holds a row of so many pixels."""
    sums = np.cumsum(np.pad(ink, ((0, 0), (length, length))).astype(np.int32), axis=1)
    full = np.pad(sums[:, length:] - sums[:, :-length], ((0, 0), (0, length))) == length
    counts = np.cumsum(full.astype(np.int32), axis=1)
    lit = np.pad(counts, ((0, 0), (length, 0)))
    return ((lit[:, length:] - lit[:, :-length]) > 0)[:, length - 1 : length - 1 + ink.shape[1]]


@checked
def straight(ink: Ink, length: int) -> list[Piece]:
    """Pieces of at least this length, horizontal ones first."""
    require(length >= 2, "length must be at least 2", length)
    found = []
    for turned in (False, True):
        marks, _ = ndimage.label(_opened(ink.T if turned else ink, length), np.ones((3, 3)))
        for rows, columns in ndimage.find_objects(marks):
            middle = (rows.start + rows.stop - 1) / 2
            piece = (columns.start, middle, columns.stop - 1, middle)
            found.append(Piece(*(piece[1], piece[0], piece[3], piece[2]) if turned else piece))
    return found


def has_dot(ink: Ink, x: float, y: float, width: float) -> bool:
    """Whether there is ink in all four corners of a crossing."""
    far = width / 2 + 1
    for dx in (-1, 1):
        for dy in (-1, 1):
            row, column = round(y + dy * far), round(x + dx * far)
            corner = ink[max(row - 1, 0) : row + 1, max(column - 1, 0) : column + 1]
            if not corner.size or corner.mean() < 0.5:
                return False
    return True


@checked
def joined(
    pieces: Sequence[Piece], ink: Ink, width: float, *, slack: float = 5.0, dots: bool = True
) -> list[int]:
    """The number of each piece's net.

    Parameters
    ----------
    width
        Of lines, in pixels.
    slack
        How far pieces may end from each other and still meet.
    dots
        False takes every crossing for a joint.
    """
    net = list(range(len(pieces)))

    def root(i: int) -> int:
        while net[i] != i:
            i = net[i]
        return i

    for i, flat in enumerate(pieces):
        for j, steep in enumerate(pieces):
            if not flat.across or steep.across:
                continue
            x, y = steep.x0, flat.y0
            arms = (x - flat.x0, flat.x1 - x, y - steep.y0, steep.y1 - y)
            if min(arms) < -slack:
                continue
            if min(arms) > slack and dots and not has_dot(ink, x, y, width):
                continue  # they cross and go on
            net[root(i)] = root(j)
    return [root(i) for i in range(len(pieces))]


@checked
def is_arrow(
    ink: Ink, tip: tuple[float, float], way: tuple[int, int], width: float, unit: float
) -> bool:
    """Whether a line that ends at `tip`, running in direction `way`, ends in an arrowhead."""
    wide = []
    for back in (0.5 * unit, 0.75 * unit):
        x, y = round(tip[0] - back * way[0]), round(tip[1] - back * way[1])
        reach = round(0.7 * unit)
        if way[0]:
            wide.append(int(ink[max(y - reach, 0) : y + reach + 1, x].sum()))
        else:
            wide.append(int(ink[y, max(x - reach, 0) : x + reach + 1].sum()))
    return max(wide) > 1.7 * width + 1


@checked
def without(ink: Ink, boxes: Sequence[Box]) -> Ink:
    """The ink outside these boxes."""
    left_over = ink.copy()
    for left, top, right, bottom in boxes:
        left_over[max(top, 0) : bottom, max(left, 0) : right] = False
    return left_over


@checked
def wires_and_words(
    ink: Bool[np.ndarray, "height width"], boxes: Sequence[Box], unit: float
) -> tuple[Ink, list[Box]]:
    """What is long or touches a symbol, and the boxes of what is written elsewhere."""
    marks, n = ndimage.label(ink, np.ones((3, 3)))
    reach = 2
    near = np.zeros(ink.shape, dtype=bool)
    for left, top, right, bottom in boxes:
        near[max(top - reach, 0) : bottom + reach, max(left - reach, 0) : right + reach] = True
    places = ndimage.find_objects(marks)
    long = np.zeros(n + 1, dtype=bool)
    long[np.unique(marks[near & ink])] = True
    for number, (rows, columns) in enumerate(places, start=1):
        if max(rows.stop - rows.start, columns.stop - columns.start) > 2.0 * unit:
            long[number] = True
    long[0] = False
    wires = long[marks]
    letters = ink & ~wires
    spread = max(round(0.55 * unit), 1)
    lines, _ = ndimage.label(ndimage.maximum_filter(letters, size=(1, 2 * spread + 1)))
    words = []
    for rows, columns in ndimage.find_objects(lines):
        part = letters[rows, columns]
        if part.sum() >= 0.12 * unit**2 and rows.stop - rows.start >= 0.45 * unit:
            words.append((columns.start + spread, rows.start, columns.stop - spread, rows.stop))
    return wires, words
