"""What stands before every request: who may ask, how much may be sent, what a page may do.

A server on the loopback is reached by every page that a browser has open. Three things keep them
out: the Host header must name this machine (a name of somebody else's that resolves to it, DNS
rebinding, is refused), what changes something must come from our own page, and no other page is
ever allowed to read an answer (no CORS).

>>> is_ours("localhost:8000", {"localhost"}), is_ours("evil.example:8000", {"localhost"})
(True, False)
"""

from __future__ import annotations

import ipaddress
from collections.abc import Set
from dataclasses import dataclass
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
READS = {"GET", "HEAD", "OPTIONS"}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Limits:
    """What one request may cost.

    Attributes
    ----------
    body, upload
        Bytes of a request, and of one that carries files.
    files
        Of an upload.
    answers
        That are written at the same time; who comes then is told to come again.
    seconds
        Until an answer is broken off.
    """

    body: int = 64 * 1024
    upload: int = 64 * 1024**2
    files: int = 200
    answers: int = 2
    seconds: float = 300


class Guard:
    """Checks a request's host, origin and size, and adds the headers that bind the page."""

    def __init__(self, app: ASGIApp, hosts: Set[str], limits: Limits):
        self.app, self.hosts, self.limits = app, hosts, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def bound(message: Message) -> None:
            if message["type"] == "http.response.start":
                for name, value in HEADERS.items():
                    MutableHeaders(scope=message).setdefault(name, value)
            await send(message)

        most = self.limits.upload if scope["path"] == "/api/upload" else self.limits.body
        if refusal := self._refusal(scope["method"], Headers(scope=scope), most):
            status, why = refusal
            return await JSONResponse({"detail": why}, status)(scope, receive, bound)
        return await self.app(scope, _counted(receive, most), bound)

    def _refusal(self, method: str, headers: Headers, most: int) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not is_ours(host, self.hosts):
            return 403, f"the Host header must name this machine, got {host!r}"
        origin = headers.get("origin", f"http://{host}")
        if method not in READS and place_of(origin) != host.lower():
            return 403, f"a change must be asked for by this server's own page, got one of {origin}"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 18 or int(length) > most:
            return 413, f"a request must have at most {most:,} bytes, got {length[:40]}"
        return None


def place_of(origin: str) -> str:
    """Name and port of an address; empty if it is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def is_ours(host: str, hosts: Set[str]) -> bool:
    """Whether a Host header names this machine.

    Where the server listens on all addresses ("0.0.0.0"), any address will do, but no name:
    rebinding needs one.
    """
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name in hosts or (bool({"0.0.0.0", "::"} & hosts) and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        return bool(ipaddress.ip_address(name))
    except ValueError:
        return False


def _counted(receive: Receive, most: int) -> Receive:
    """`receive`, which ends a body that says no length, or a wrong one, at `most` bytes."""
    seen = 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise HTTPException(413, f"a request must have at most {most:,} bytes")
        return message

    return counted
