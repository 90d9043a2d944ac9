"""One store and a model, shared by all requests of a server."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rag.answering.answerer import Answerer, AnswerSettings
from rag.answering.models import Model
from rag.conversation.talking import sessions_of, talk
from rag.retrieval.retriever import Retriever
from rag.retrieval.settings import RetrievalSettings
from rag.store.database import cut_log
from rag.store.store import Store
from rag.store.writing import tidy
from rag.types import Answer
from rag.web.guard import Limits

# Shown on the empty page over Python's manual.
EXAMPLES = (
    "What does the with statement do?",
    "When are default parameter values evaluated?",
    "What does the else clause of a loop do?",
)
TITLE = 60
STEPS = (".", "..")  # browsers take them out of addresses


@dataclass
class Loan:
    """An open store and how many requests read it."""

    store: Store
    readers: int = 0


class Library:
    """What the requests share; they run in threads.

    Parameters
    ----------
    folder
        The store.
    model
        What writes the answers.
    settings, answering
        How to search, and how to answer.
    limits
        What a request may cost.
    """

    def __init__(
        self,
        folder: Path,
        model: Model,
        settings: RetrievalSettings,
        answering: AnswerSettings,
        limits: Limits,
    ):
        self.folder, self.model, self.limits = folder, model, limits
        self.settings, self.answering = settings, answering
        self.places = threading.BoundedSemaphore(limits.answers)
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._loan = Loan(Store.open(folder))
        self._embedder = self._loan.store.embedder
        self.sessions = sessions_of(self._loan.store)

    @contextmanager
    def reading(self) -> Iterator[Store]:
        """The store as it is now. Who still reads what it was before is not disturbed."""
        with self._lock:
            if self._loan.store.is_outdated():
                old = self._loan
                if not old.readers:  # first, so that deleted texts can be cut from the log
                    old.store.close()
                    cut_log(self.folder)
                self._loan = Loan(Store.open(self.folder, embedder=self._embedder))
                tidy(self._loan.store)
            loan = self._loan
            loan.readers += 1
        try:
            yield loan.store
        finally:
            with self._lock:
                loan.readers -= 1
                self._close_if_unread(loan)

    def _close_if_unread(self, loan: Loan) -> None:
        if loan is not self._loan and not loan.readers:
            loan.store.close()

    @contextmanager
    def changing(self) -> Iterator[Store]:
        """A store to write to, one writer at a time."""
        with self._writing, Store.open(self.folder, embedder=self._embedder) as store:
            yield store

    def close(self) -> None:
        """Close the store."""
        self._loan.store.close()

    def retriever(self, store: Store, **changes: Any) -> Retriever:
        """A search, with some settings changed."""
        return Retriever(store, replace(self.settings, **changes))

    def answer(
        self, question: str, stop: threading.Event, *, session: str | None, where: str | None
    ) -> Iterator[str | Answer]:
        """The pieces of an answer and, last, the whole, which is then kept in the session."""
        with self.reading() as store:
            answerer = Answerer(self.retriever(store), self.model, self.answering)
            yield from talk(answerer, question, self.sessions, session, where=where, stop=stop)

    def new_session(self, title: str) -> str:
        """Begin a conversation that is called by its first question."""
        words = " ".join(title.split())
        name = short = words if len(words) <= TITLE else f"{words[:TITLE].rsplit(' ', 1)[0]} …"
        number = 1
        while name in STEPS or not self.sessions.begin(name):
            number += 1
            name = f"{short} ({number})"
        return name

    def facts(self) -> dict[str, Any]:
        """What is served, in numbers."""
        with self.reading() as store:
            documents = store.documents()
            manual = any(info.id.startswith("pydocs/") for info in documents)
            return {
                "documents": len(documents),
                "chunks": len(store),
                "generation": store.generation,
                "model": self.model.name,
                "note": self.model.note,
                "examples": EXAMPLES if manual else (),
            }
