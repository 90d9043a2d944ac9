"""Week 28's assistants behind the interface of a language model: `week28:verilog` and others.

Each answers a whole conversation with a whole text, so a stream has it in one piece.
"""

import threading
from collections.abc import Iterator

from serving.engine.backend import Limits
from serving.engine.metrics import Metrics
from serving.errors import refused
from serving.models.threaded import ThreadBackend
from serving.types import Piece, Turns
from shared.errors import UserError
from week28.chatting import Assistant, assistant


class AssistantBackend(ThreadBackend):
    """An assistant by its name, or the given one; see `serving.types.Backend`.

    What it must read first (weights, manuals) is read here, where it has an `opened()`, and not
    while the first question waits.

    Raises
    ------
    UserError
        If there is none of that name, or what it needs is missing.
    """

    def __init__(
        self, name: str, limits: Limits, metrics: Metrics, *, given: Assistant | None = None
    ):
        self._assistant = given or assistant(name)
        getattr(self._assistant, "opened", lambda: None)()
        super().__init__(limits, metrics)

    def write(self, turns: Turns, stop: threading.Event) -> Iterator[Piece]:
        """Its reply; what it says it cannot answer is the request's mistake."""
        try:
            said = self._assistant.reply([{"role": r, "content": text} for r, text in turns])
        except UserError as error:
            raise refused(" ".join(str(error).split()), param="messages") from error
        yield Piece(said)
        yield Piece("", finish="stop")
