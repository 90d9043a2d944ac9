"""A server whose model says what a test gave it, piece by piece."""

import asyncio
import contextlib
import threading
import time
from dataclasses import dataclass, field

import uvicorn

from serving.api.app import create_app
from serving.api.service import Service
from serving.engine.metrics import Metrics
from serving.safety.policy import Safety
from serving.types import Asked, Piece


class Scripted:
    """An answer of given pieces; after the last one it waits if it has no end."""

    n_prompt = 3

    def __init__(self, pieces, pause=0.0, finish="stop", extra=None):
        self.pieces, self.pause, self.finish, self.extra = pieces, pause, finish, extra or {}
        self.n_written, self.cancelled = 0, False

    async def __aiter__(self):
        for text in self.pieces:
            await asyncio.sleep(self.pause)
            if self.cancelled:
                return
            self.n_written += 1
            yield Piece(text)
        while self.finish is None and not self.cancelled:
            await asyncio.sleep(0.01)
        yield Piece("", finish=self.finish or "stop", extra=self.extra)

    def cancel(self):
        self.cancelled = True


@dataclass
class ScriptedBackend:
    """Answers with `pieces`; what it was asked and what it answered is kept."""

    pieces: list[str] = field(default_factory=lambda: ["Rain ", "is ", "water."])
    pause: float = 0.0
    finish: str | None = "stop"
    extra: dict = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    answers: list[Scripted] = field(default_factory=list)
    active = 0

    def begin(self, asked):
        if asked.max_tokens == 0:
            return []
        self.asked.append(asked)
        script = (self.pieces, self.pause, self.finish, self.extra)
        answers = [Scripted(*script) for _ in range(asked.n)]
        self.answers += answers
        return answers

    def close(self):
        pass


def scripted_app(backend, safety=None, guard=None):
    """An application that is ready once it runs, and its metrics."""
    metrics = Metrics("scripted")
    service = Service(lambda: backend, ["scripted"], metrics, safety=safety or Safety())
    return create_app(service, guard)


@contextlib.contextmanager
def running(app):
    """The address of an application that runs in a thread."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
