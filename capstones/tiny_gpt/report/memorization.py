r"""Memorization: the longest passage of each sample that stands word for word in the training text.

A fluent sample may be one that was learned by heart. The suffix automaton of all samples, the
smallest machine that recognizes every substring of theirs, answers that exactly: the training text
runs through it once, and the state reached after each character is the longest substring of the
samples that ends there. That takes time in proportion to the text and memory to the samples, so a
corpus larger than memory may stream by.

A number of characters alone says little, since unseen text of the same author shares names and
phrases with the training text too. So the same is measured for pieces of held-out text, as many and
as long as the samples: what a sample shares beyond that was memorized.

Sources: Blumer et al., "The smallest automaton recognizing the subwords of a text" (1985), for the
automaton; Chang & Lawler, "Sublinear approximate string matching" (1994), section 3, for what runs
through it (matching statistics); Carlini et al., "Quantifying memorization across neural language
models" (2023), for why one asks.
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from shared.require import require

__all__ = ["MemorizationReport", "Overlap", "longest_overlaps", "memorization_report"]


@dataclass(frozen=True)
class Overlap:
    """The longest substring that a sample shares with the training text, the first of several.

    It stands `where`: in a document, counted from 0, from a character on; None if nothing is
    shared.
    """

    sample: int
    length: int
    text: str
    where: tuple[int, int] | None


@dataclass(frozen=True)
class MemorizationReport:
    """Characters that samples share with the training text, beside what unseen text shares.

    The held-out pieces are as many and as long as the samples; None without such text.
    """

    longest: int
    median: float
    held_out_longest: int | None
    held_out_median: float | None
    overlaps: list[Overlap]

    def __str__(self) -> str:
        """Return one line."""
        line = f"longest overlap with the training text {self.longest} characters"
        line += f" (median {self.median:g})"
        if self.held_out_longest is None:
            return line
        unseen = f"{self.held_out_longest} (median {self.held_out_median:g})"
        return f"{line}; unseen text of the same lengths {unseen}"

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold: the numbers, and the longest overlap with its place."""
        longest = max(self.overlaps, key=lambda overlap: overlap.length)
        numbers = {key: value for key, value in vars(self).items() if key != "overlaps"}
        return {**numbers, "text": longest.text, "where": longest.where and list(longest.where)}


def longest_overlaps(samples: Sequence[str], training: Iterable[str]) -> list[Overlap]:
    """The longest substring of each sample that occurs in a training document, exactly.

    Case, white space and all other characters count. Text that was given to the model, such as a
    prompt, does not belong in a sample. Samples are held in memory, with a few hundred bytes for
    each character; documents are read once, and a passage does not go on from one to the next.
    """
    automaton = SuffixAutomaton()
    # The states after each character. A sample's end is a symbol of its own, which no text has.
    ends = []
    for i, sample in enumerate(samples):
        ends.append([automaton.extend(character) for character in sample])
        automaton.extend(i)
    found, places = automaton.scan(training)
    overlaps = []
    for i, (sample, states) in enumerate(zip(samples, ends, strict=True)):
        at = max(range(len(states)), key=lambda k: found[states[k]], default=None)
        length = 0 if at is None else found[states[at]]
        if not length:
            overlaps.append(Overlap(i, 0, "", None))
            continue
        document, stop = places[states[at]]
        text = sample[at + 1 - length : at + 1]
        overlaps.append(Overlap(i, length, text, (document, stop - length)))
    return overlaps


def memorization_report(
    samples: Sequence[str], training: Iterable[str], held_out: Iterable[str] | None = None
) -> MemorizationReport:
    """Overlaps of samples with the training text, and of unseen text as the measure of them.

    Pieces of the `held_out` documents are spread evenly over the documents joined together, so
    these need not be as long as a sample.
    """
    require(samples, "samples must be at least one text, got none")
    unseen = []
    if held_out is not None:
        text = "".join(held_out)
        for i, sample in enumerate(samples):
            room = len(text) - len(sample)
            must = f"held_out must have as much text as a sample of {len(sample)} characters"
            require(room >= 0, must, len(text))
            start = room * i // max(1, len(samples) - 1)
            unseen.append(text[start : start + len(sample)])
    # Both in one pass: the training text may be a stream, and it is the long part.
    overlaps = longest_overlaps([*samples, *unseen], training)
    lengths = [overlap.length for overlap in overlaps]
    ours, theirs = lengths[: len(samples)], lengths[len(samples) :]
    return MemorizationReport(
        longest=max(ours),
        median=float(statistics.median(ours)),
        held_out_longest=max(theirs) if theirs else None,
        held_out_median=float(statistics.median(theirs)) if theirs else None,
        overlaps=overlaps[: len(samples)],
    )


class SuffixAutomaton:
    """All substrings of a growing text: a state is a set of them that end at the same places.

    For each state, `edges` has the next one by symbol (state 0 is the empty string), `link` that of
    its longest suffix that ends at more places, and `length` that of its longest string; the
    shortest has one more than the link's (Blumer et al., 1985, section 3).
    """

    def __init__(self):
        self.edges: list[dict[str | int, int]] = [{}]
        self.link, self.length, self.last = [-1], [0], 0

    def extend(self, symbol: str | int) -> int:
        """Append a symbol; return the state of the whole text so far."""
        edges, link, length = self.edges, self.link, self.length
        new, state = len(edges), self.last
        edges.append({})
        length.append(length[state] + 1)
        link.append(0)
        while state >= 0 and symbol not in edges[state]:
            edges[state][symbol] = new
            state = link[state]
        if state >= 0:
            target = edges[state][symbol]
            if length[target] == length[state] + 1:
                link[new] = target
            else:
                # Only the target's shorter strings end here as well: they get their own state.
                clone = len(edges)
                edges.append(dict(edges[target]))
                length.append(length[state] + 1)
                link.append(link[target])
                link[target] = link[new] = clone
                while state >= 0 and edges[state].get(symbol) == target:
                    edges[state][symbol] = clone
                    state = link[state]
        self.last = new
        return new

    def scan(self, documents: Iterable[str]) -> tuple[list[int], list[tuple[int, int]]]:
        """How much of each state's longest string, counted from its end, documents hold.

        For each state, the length of the longest suffix that occurs; and a document in which it
        does, with the character it ends before.
        """
        edges, link, length = self.edges, self.link, self.length
        found = [0] * len(edges)
        places = [(0, 0)] * len(edges)
        for number, document in enumerate(documents):
            state = matched = 0
            for at, character in enumerate(document, 1):
                while (target := edges[state].get(character)) is None and state:
                    state = link[state]
                    matched = length[state]
                if target is None:
                    continue
                state = target
                matched += 1
                if matched > found[state]:
                    found[state], places[state] = matched, (number, at)
        # Where a string occurs, so do its suffixes, which the links lead to; where only a suffix
        # does, it is the link's.
        by_length = sorted(range(1, len(edges)), key=length.__getitem__)
        for state in reversed(by_length):
            parent = link[state]
            if found[state] and found[parent] < length[parent]:
                found[parent], places[parent] = length[parent], places[state]
        for state in by_length:
            if not found[state]:
                found[state], places[state] = found[link[state]], places[link[state]]
        return found, places
