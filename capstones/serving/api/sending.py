"""Answers on their way to a client that may leave at any time.

A client that leaves says nothing more: the server's interface is told `http.disconnect`. Whatever
waits for the model then is cancelled, and with it the request's place in the batch.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serving.errors import ApiError
from serving.types import Answer, Piece

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
SLACK = 30.0  # seconds that a slow reader has, beyond the deadline of the answer


class Gone(Exception):
    """The client has left."""


def as_json(content: Any) -> bytes:
    """JSON of text that may hold anything, half a surrogate pair too."""
    return json.dumps(content, separators=(",", ":")).encode("ascii")


class Json(Response):
    """An object as JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """See `as_json`."""
        return as_json(content)


def error_response(error: ApiError) -> Json:
    """An error as an answer."""
    return Json(error.body(), error.status, error.headers)


async def unless_gone(request: Request, work: Coroutine[Any, Any, Any]) -> Any:
    """The result of `work`, which is cancelled if the client leaves: then `Gone`."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(work), asyncio.ensure_future(left())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise Gone
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def merged(answers: Sequence[Answer], seconds: float) -> AsyncIterator[tuple[int, Piece]]:
    """Pieces of several answers as they come, with the number of the answer.

    Raises
    ------
    ApiError
        504 if they are not at their ends after so many seconds.
    """
    queue: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue()

    async def pump(i: int, answer: Answer) -> None:
        try:
            async for piece in answer:
                queue.put_nowait((i, piece))
            queue.put_nowait((i, None))
        except Exception as error:
            queue.put_nowait((i, error))

    tasks = [asyncio.create_task(pump(i, answer)) for i, answer in enumerate(answers)]
    left, end = len(tasks), asyncio.get_running_loop().time() + seconds
    try:
        while left:
            async with asyncio.timeout_at(end):
                i, piece = await queue.get()
            if isinstance(piece, Exception):
                raise piece
            if piece is None:
                left -= 1
            else:
                yield i, piece
    except TimeoutError as error:
        message = f"the answer was not written within {seconds:g} s"
        raise ApiError(504, message, code="deadline_exceeded") from error
    finally:
        for task in tasks:
            task.cancel()
        for answer in answers:
            answer.cancel()


class EventStream(Response):
    """Server-sent events; the answers are cancelled when the client leaves, or reads too slowly.

    Parameters
    ----------
    events
        Objects to send; an `ApiError` that they raise becomes the last one before `[DONE]`.
    """

    def __init__(
        self, events: AsyncIterator[dict[str, Any]], answers: Sequence[Answer], seconds: float
    ):
        self.status_code, self.background = 200, None
        self._events, self._answers, self._seconds = events, answers, seconds
        self.init_headers({**HEADERS, "Content-Type": "text/event-stream; charset=utf-8"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send all, unless the client leaves."""
        try:
            with contextlib.suppress(Gone, TimeoutError):
                async with asyncio.timeout(self._seconds + SLACK):
                    await unless_gone(Request(scope, receive), self._send(send))
        finally:
            for answer in self._answers:
                answer.cancel()

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        async for data in self._lines():
            body = b"data: " + data + b"\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _lines(self) -> AsyncIterator[bytes]:
        try:
            async for event in self._events:
                yield as_json(event)
        except ApiError as error:
            yield as_json(error.body())
        except Exception as error:
            failure = f"the server failed ({type(error).__name__})"
            yield as_json(ApiError(500, failure).body())
        yield b"[DONE]"
