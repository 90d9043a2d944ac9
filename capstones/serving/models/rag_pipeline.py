"""Answers from documents: a pipeline of `rag` behind the interface of a language model.

A question is the conversation's last message, in the light of those before. What comes back is
what `rag` lets through: sentences that the documents support, and the citations in a field of
their own.
"""

import threading
from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

from rag.answering.answerer import Answerer
from rag.answering.models import Model, open_model
from rag.retrieval.retriever import Retriever
from rag.store.store import Store
from rag.types import Answer, Turn
from serving.engine.backend import Limits
from serving.engine.metrics import Metrics
from serving.models.threaded import ThreadBackend
from serving.types import Piece, Turns


class RagBackend(ThreadBackend):
    """A store and what writes answers from it; see `serving.types.Backend`.

    Raises
    ------
    UserError
        If there is no such store.
    """

    what = "documents are"

    def __init__(
        self, folder: str, limits: Limits, metrics: Metrics, *, model: Model | None = None
    ):
        self._store = Store.open(Path(folder))
        self._answerer = Answerer(Retriever(self._store), model or open_model())
        super().__init__(limits, metrics)

    def write(self, turns: Turns, stop: threading.Event) -> Iterator[Piece]:
        """What `rag` answers to the last question, given the pairs of turns before it."""
        pairs = [(a, b) for a, b in pairwise(turns) if (a[0], b[0]) == ("user", "assistant")]
        history = [Turn(a[1], b[1]) for a, b in pairs]
        for piece in self._answerer.stream(turns[-1][1], history=history, stop=stop):
            if isinstance(piece, Answer):
                citations = [asdict(citation) for citation in piece.citations]
                extra = {"citations": citations, "abstained": piece.abstained}
                yield Piece("", finish="stop", extra=extra)
                return
            yield Piece(piece)

    def release(self) -> None:
        """Close the store."""
        self._store.close()
