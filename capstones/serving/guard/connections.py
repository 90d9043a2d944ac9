"""Connections that do not wait forever, and a server that leaves when its answers are written."""

import asyncio
import time
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from serving.api.service import Service

HEADER_SECONDS = 10.0


class Impatient(H11Protocol):
    """Closes a connection whose next request's headers do not come: slow-loris.

    uvicorn itself waits for the first byte of a second request, and for a first one forever.
    """

    seconds = HEADER_SECONDS
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.seconds, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Server(uvicorn.Server):
    """Ends when asked to, after the answers that are on their way; meanwhile others get 503.

    Parameters
    ----------
    drain
        Seconds that answers have; asked a second time, it ends at once.

    Attributes
    ----------
    broken_off
        Answers that were not written to their ends.
    """

    def __init__(self, config: uvicorn.Config, service: Service, drain: float):
        super().__init__(config)
        self._service, self._drain, self._until = service, drain, float("inf")
        self.broken_off = 0

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Of SIGTERM and Ctrl-C; uvicorn's own would end by the signal, not with status 0."""
        if self._service.leaving:
            self._until = 0.0
            return
        self._service.leaving = True
        self._until = time.monotonic() + self._drain

    async def on_tick(self, counter: int) -> bool:
        """Whether to end now; asked ten times per second."""
        over = time.monotonic() >= self._until
        if self._service.leaving and (over or not self._service.active):
            self.broken_off, self.force_exit = self._service.active, over
            return True
        return await super().on_tick(counter)
