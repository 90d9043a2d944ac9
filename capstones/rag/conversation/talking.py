"""One more turn of a conversation: answered in the light of the others, and kept with them."""

from collections.abc import Iterator, Mapping
from threading import Event
from typing import TYPE_CHECKING

from rag.conversation.sessions import Sessions
from rag.types import Answer

if TYPE_CHECKING:
    from rag.answering.answerer import Answerer
    from rag.store.store import Store


def sessions_of(store: "Store") -> Sessions:
    """A store's conversations, in a file of their own beside its database.

    Who reads the database keeps its log from being cut, and what is forgotten would stay there.
    """
    return Sessions(store.folder / "sessions.sqlite")


def talk(
    answerer: "Answerer",
    question: str,
    sessions: Sessions,
    name: str | None,
    *,
    where: str | Mapping | None = None,
    stop: Event | None = None,
) -> Iterator[str | Answer]:
    """Pieces of an answer and, last, the whole, as `Answerer.stream` gives them.

    Parameters
    ----------
    name
        The session; if None the question stands alone. An answer that was broken off is not kept.
    """
    history = sessions.turns(name) if name else ()
    for piece in answerer.stream(question, history=history, where=where, stop=stop):
        if name and isinstance(piece, Answer) and not (stop and stop.is_set()):
            sessions.append(name, piece)
        yield piece
