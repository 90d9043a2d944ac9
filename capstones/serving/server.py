"""The server as a process: what is listened to, what is served, how it ends."""

import json
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TextIO

import uvicorn

from rag.web.guard import LOOPBACK
from serving.api.app import create_app
from serving.api.service import Service
from serving.engine.backend import Limits, TokenBackend
from serving.engine.metrics import Metrics
from serving.guard.connections import Impatient, Server
from serving.guard.guard import GuardSettings
from serving.safety.policy import open_safety
from serving.types import Backend
from shared.errors import UserError
from shared.model_refs import LOCAL, parse
from shared.require import require

ACCEPTS = (*LOCAL, "rag", "week28", "dummy")
REFUSES = {"openai": "openai:URL is served already"}


@dataclass(frozen=True)
class Settings:
    """What `serve` is asked for; see its help."""

    model: str = "smollm2"
    host: str = "127.0.0.1"
    port: int = 8000
    names: Sequence[str] = ("smollm2",)
    key: str | None = field(default=None, repr=False)
    allowed_hosts: Sequence[str] = ()
    limits: Limits = field(default_factory=Limits)
    deadline: float = 120.0
    drain: float = 30.0
    safety: str = "off"
    redact: bool = False
    quiet: bool = False


def run(settings: Settings) -> int:
    """Serve until a signal; the exit status.

    Raises
    ------
    UserError
        If the address or the model is none that can be served.
    """
    must, deadline = "--deadline must be above 0 and at most a day", settings.deadline
    require(0 < deadline <= 24 * 3600, must, deadline, error=UserError)
    require(settings.drain >= 0, "--drain must be at least 0", settings.drain, error=UserError)
    place = f"{settings.host} without --api-key"
    safe = settings.host in LOOPBACK or settings.key
    must = "--host must be an address of the loopback where there is no --api-key"
    require(safe, must, place, error=UserError)
    metrics = Metrics(settings.names[0])
    load = partial(open_backend, settings.model, settings.limits, metrics)
    say = partial(_say, sys.stderr)
    safety = open_safety(settings.safety, redact=settings.redact, say=say)
    service = Service(load, settings.names, metrics, deadline=settings.deadline, safety=safety)
    hosts = LOOPBACK | {name.lower() for name in (settings.host, *settings.allowed_hosts)}
    log = _silent if settings.quiet else _log
    guard = GuardSettings(hosts=hosts, key=settings.key, log=log)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.create_server((settings.host, settings.port), family=family) as listener:
        port = listener.getsockname()[1]
        host = f"[{settings.host}]" if ":" in settings.host else settings.host

        def loaded() -> None:
            if service.failure is None:
                _say(sys.stdout, f"{settings.model} at http://{host}:{port}/v1")
            else:
                server.should_exit = True

        web = create_app(service, guard, loaded=loaded)
        config = uvicorn.Config(
            web,
            http=Impatient,
            ws="none",
            log_config=None,
            log_level="critical",
            access_log=False,
            limit_concurrency=1000,
            timeout_graceful_shutdown=5,
        )
        server = Server(config, service, settings.drain)
        server.run(sockets=[listener])
    if service.failure is not None:
        raise service.failure
    if server.broken_off:
        _say(sys.stderr, f"serve: {server.broken_off} answers were broken off")
    return 1 if server.broken_off else 0


def open_backend(ref: str, limits: Limits, metrics: Metrics) -> Backend:
    """What answers: a model of `models.opening.open_model`, `rag:STORE` or `week28:NAME`."""
    found = parse(ref, accepts=ACCEPTS, refuses=REFUSES)
    if found.kind == "rag":
        from serving.models.rag_pipeline import RagBackend

        return RagBackend(str(found.path), limits, metrics)
    if found.kind == "week28":
        from serving.models.assistants import AssistantBackend

        return AssistantBackend(found.rest, limits, metrics)
    from serving.models.opening import open_model

    return TokenBackend(open_model(found.text, batch=limits.max_num_seqs), limits, metrics)


def _log(line: dict[str, Any]) -> None:
    _say(sys.stderr, json.dumps(line))


def _say(stream: TextIO, line: str) -> None:
    stream.write(f"{line}\n")
    stream.flush()


def _silent(line: dict[str, Any]) -> None:
    pass
