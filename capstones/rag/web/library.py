"""One store and a model, shared by all requests of a server."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rag.answering.answerer import Answerer, AnswerSettings
from rag.answering.models import Model
from rag.conversation.sessions import Sessions
from rag.conversation.talking import talk
from rag.retrieval.retriever import Retriever
from rag.retrieval.settings import RetrievalSettings
from rag.store.store import Report, Store
from rag.types import Answer, Document
from rag.web.guard import Limits

# Shown on the empty page over Python's manual, where they are answered well.
EXAMPLES = (
    "What does the with statement do?",
    "How are default parameter values evaluated?",
    "When is the else clause of a loop executed?",
)
TITLE = 60


class Library:
    """What the requests share.

    Requests run in threads. What they read is one `Store`, which is replaced, not changed, when
    something was ingested: whoever is still reading the old one is not disturbed.

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
        self.store = Store.open(folder)
        self.places = threading.BoundedSemaphore(limits.answers)
        self._writing = threading.Lock()

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def retriever(self, **changes: Any) -> Retriever:
        """A search over the store as it is now, with some settings changed."""
        return Retriever(self.store, replace(self.settings, **changes))

    def answer(
        self, question: str, stop: threading.Event, *, session: str | None, where: str | None
    ) -> Iterator[str | Answer]:
        """The pieces of an answer and, last, the whole, which is then kept in the session."""
        answerer = Answerer(self.retriever(), self.model, self.answering)
        yield from talk(answerer, question, self.sessions(), session, where=where, stop=stop)

    def sessions(self) -> Sessions:
        """The conversations in the store."""
        return Sessions(self.store.database)

    def new_session(self, title: str) -> str:
        """Begin a conversation that is called by its first question."""
        sessions = self.sessions()
        taken = {info.name for info in sessions.names()}
        words = " ".join(title.split())
        name = short = words if len(words) <= TITLE else f"{words[:TITLE].rsplit(' ', 1)[0]} …"
        number = 1
        while name in taken:
            number += 1
            name = f"{short} ({number})"
        return sessions.create(name)

    def ingest(self, documents: Sequence[Document]) -> Report:
        """Put documents into the store."""
        with self._changed() as store:
            return store.ingest(documents)

    def delete(self, id: str) -> None:
        """Take a document out of the store."""
        with self._changed() as store:
            store.delete([id])

    @contextmanager
    def _changed(self) -> Iterator[Store]:
        """A store to write to, one writer at a time; what it became is served from then on."""
        with self._writing:
            embedder = self.store.embedder
            with Store.open(self.folder, embedder=embedder) as store:
                yield store
            self.store = Store.open(self.folder, embedder=embedder)

    def document(self, id: str) -> Document:
        """A document; a KeyError's place is taken by what a user can read."""
        return self.store.document(id)

    def facts(self) -> dict[str, Any]:
        """What is served, in numbers."""
        documents = self.store.documents()
        manual = any(info.id.startswith("pydocs/") for info in documents)
        return {
            "documents": len(documents),
            "chunks": len(self.store),
            "generation": self.store.generation,
            "model": self.model.name,
            "examples": EXAMPLES if manual else (),
        }
