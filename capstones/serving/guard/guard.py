"""What stands before every request: who may ask, and how much.

A server on the loopback is reached by every page that a browser has open: the Host header must
name this machine, and a request from another page (its Origin) is refused. Where there is a key,
`/v1` asks for it.

>>> is_key("Bearer secret", "secret"), is_key("Bearer guess", "secret"), is_key("", "secret")
(True, False, False)
"""

import asyncio
import hmac
import time
import uuid
from collections.abc import Callable, Set
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag.web.guard import LOOPBACK, is_ours, place_of
from serving.api.sending import error_response
from serving.errors import ApiError


@dataclass(frozen=True)
class GuardSettings:
    """Who may ask, and how much.

    Attributes
    ----------
    hosts
        Names and addresses by which a request may call this machine.
    key
        What `/v1` wants as a bearer; None for nothing.
    body
        Most bytes of a request.
    seconds
        In which a request's body must be here.
    log
        Told of each request that has ended: who, what, how long, how many tokens, no text.
    """

    hosts: Set[str] = LOOPBACK
    key: str | None = field(default=None, repr=False)
    body: int = 1024**2
    seconds: float = 10.0
    log: Callable[[dict[str, Any]], None] = lambda line: None


def is_key(authorization: str, key: str) -> bool:
    """Whether a header holds the key; the time that takes says nothing about it."""
    kind, _, given = authorization.partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), key.encode())


class Guard:
    """Reads a request's body under limits, names the request, and tells the log of its end."""

    def __init__(self, app: ASGIApp, settings: GuardSettings):
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        start, status, headers = time.perf_counter(), 499, Headers(scope=scope)
        number = headers.get("x-request-id", "")
        if not (0 < len(number) <= 64 and number.isascii() and number.isprintable()):
            number = f"req-{uuid.uuid4().hex}"

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = number
                MutableHeaders(scope=message)["X-Content-Type-Options"] = "nosniff"
            await send(message)

        try:
            self._check(scope, headers)
            body = await self._body(receive)
        except ApiError as error:
            response = error_response(error)
            if error.status in (408, 413):
                response.headers["Connection"] = "close"  # the rest of the body is not read
            await response(scope, receive, named)
        except ConnectionError:
            pass
        else:
            await self.app(scope, _again(body, receive), named)
        finally:
            seconds = time.perf_counter() - start
            self.settings.log(_line(scope, number, status, seconds))

    def _check(self, scope: Scope, headers: Headers) -> None:
        host, settings = headers.get("host", ""), self.settings
        if not is_ours(host, settings.hosts):
            raise ApiError(403, f"the Host header must name this machine, got {host[:100]!r}")
        origin = headers.get("origin")
        if origin is not None and place_of(origin) != host.lower():
            raise ApiError(403, f"requests of other pages are refused, got one of {origin[:100]!r}")
        given = headers.get("authorization", "")
        if settings.key and scope["path"].startswith("/v1") and not is_key(given, settings.key):
            raise ApiError(401, "a valid API key is wanted as a bearer", code="invalid_api_key")
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > settings.body:
            raise self._too_long()

    async def _body(self, receive: Receive) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self.settings.seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ConnectionError
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > self.settings.body:
                        raise self._too_long()
        except TimeoutError as error:
            message = f"a request must be here within {self.settings.seconds:g} s"
            raise ApiError(408, message, code="timeout") from error
        return bytes(body)

    def _too_long(self) -> ApiError:
        most = self.settings.body
        return ApiError(413, f"a request must have at most {most:,} bytes", code="too_large")


def _again(body: bytes, receive: Receive) -> Receive:
    """`receive`, which first gives a body that was read."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return first.pop() if first else await receive()

    return again


def _line(scope: Scope, number: str, status: int, seconds: float) -> dict[str, Any]:
    line = {
        "time": round(time.time(), 3),
        "request": number,
        "client": (scope.get("client") or ("", 0))[0],
        "method": scope["method"],
        "path": scope["path"],
        "status": status,
        "seconds": round(seconds, 4),
    }
    answers = scope.get("state", {}).get("answers")
    if answers:
        line["prompt_tokens"] = answers[0].n_prompt
        line["completion_tokens"] = sum(answer.n_written for answer in answers)
        if found := [answer.reason for answer in answers if getattr(answer, "reason", None)]:
            line["safety"] = found
    return line
