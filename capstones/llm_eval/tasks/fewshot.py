"""Which examples stand before a document, drawn as lm-eval draws them.

One generator serves all documents in their order, so that the n-th document's examples are the n-th
draw, whichever documents a run looks at. Where examples are of the evaluated documents, one more is
drawn and the document itself is dropped.

>>> documents = [{"q": str(i)} for i in range(5)]
>>> examples = Examples(documents, documents, 2, apart=True, seed=0)
>>> [example["q"] for example in examples.of({"q": "4"})]
['1', '2']
>>> [example["q"] for example in examples.of({"q": "0"})]
['3', '4']

Behavior: lm-eval 0.4.13, api/samplers.py.
"""

import random
from collections.abc import Sequence
from functools import cached_property

from llm_eval.types import Document, digest
from shared.errors import UserError


class Examples:
    """Draws from a pool.

    Parameters
    ----------
    pool
        What examples are drawn from.
    documents
        The evaluated ones, in order.
    number
        How many examples.
    sampler
        default draws anew for each document; first_n takes the first.
    """

    def __init__(
        self,
        pool: Sequence[Document],
        documents: Sequence[Document],
        number: int,
        *,
        sampler: str = "default",
        apart: bool = False,
        seed: int = 0,
    ):
        self.pool, self.documents, self.number = pool, documents, number
        self.sampler, self.apart = sampler, apart
        if number + apart > len(pool):
            raise UserError(f"num_fewshot must be at most {len(pool) - apart}, got {number}")
        self._random = random.Random(seed)
        self._draws: list[list[int]] = []

    def of(self, document: Document) -> list[Document]:
        """The examples of a document."""
        if not self.number:
            return []
        if self.sampler == "first_n":
            pool = [other for other in self.pool if not self.apart or other != document]
            if len(pool) < self.number:
                raise UserError(f"num_fewshot must be at most {len(pool)}, got {self.number}")
            return pool[: self.number]
        position = self._positions.get(digest(document))
        if position is None:
            raise UserError("examples are drawn for the task's own documents only")
        while len(self._draws) <= position:
            self._draws.append(self._draw(self.documents[len(self._draws)]))
        return [self.pool[i] for i in self._draws[position]]

    @cached_property
    def _positions(self) -> dict[str, int]:
        # of equal documents the first
        found: dict[str, int] = {}
        for i, document in enumerate(self.documents):
            found.setdefault(digest(document), i)
        return found

    def _draw(self, document: Document) -> list[int]:
        everywhere = range(len(self.pool))
        if not self.apart:
            return self._random.sample(everywhere, self.number)
        drawn = self._random.sample(everywhere, self.number + 1)
        kept = [i for i in drawn if self.pool[i] != document][: self.number]
        if len(kept) < self.number:  # the pool has the document more than once
            others = [i for i in everywhere if self.pool[i] != document]
            if len(others) < self.number:
                raise UserError(f"num_fewshot must be at most {len(others)}, got {self.number}")
            kept = self._random.sample(others, self.number)
        return kept
