"""A server over a small random model of bytes, whose passes a test may hold."""

import contextlib
import json
import socket
import threading
import time

import httpx
import uvicorn
from torch import nn

from serving.api.app import create_app
from serving.api.service import Service
from serving.engine.backend import Limits, TokenBackend
from serving.engine.metrics import Metrics
from serving.guard.connections import Impatient
from serving.guard.guard import GuardSettings
from serving.models.language_model import LanguageModel
from serving.models.opening import open_model

DUMMY = open_model("dummy")
HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "temperature": 0}


class Held(nn.Module):
    """The small model, each pass of which waits while a test holds it, and may be made to fail."""

    def __init__(self, network):
        super().__init__()
        self.network, self.config, self.embed = network, network.config, network.embed
        self.go, self.passes = threading.Event(), 0
        self.holds_after = self.fails_after = float("inf")
        self.pause = 0.0
        self.go.set()

    def forward(self, *args, **options):
        self.passes += 1
        if self.passes > self.holds_after:
            self.holds_after = float("inf")
            self.go.clear()
        self.go.wait(120)
        time.sleep(self.pause)
        if self.passes > self.fails_after:
            raise RuntimeError("Hello is secret")
        return self.network(*args, **options)


class Served:
    """An application in a thread, with its parts at hand."""

    def __init__(
        self, limits=None, guard=None, *, load=None, model=DUMMY, header_seconds=60.0, **more
    ):
        self.held = Held(model.network)
        held = LanguageModel(model.name, self.held, model.plain, model.codec)
        self.metrics, self.lines = Metrics("dummy"), []
        self.limits = limits or Limits()
        load = load or (lambda: TokenBackend(held, self.limits, self.metrics))
        self.service = Service(load, ["dummy", "other"], self.metrics, **more)
        guard = guard or GuardSettings(log=self.lines.append)
        protocol = type("Protocol", (Impatient,), {"seconds": header_seconds})
        options = {"http": protocol, "port": 0, "log_level": "critical", "ws": "none"}
        config = uvicorn.Config(create_app(self.service, guard), **options)
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        wait(lambda: self.server.started and (self.service.ready or self.service.failure))
        if self.service.failure:
            raise self.service.failure
        self.port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.client = httpx.Client(base_url=self.url, timeout=120)
        return self

    def __exit__(self, *_):
        self.held.go.set()
        self.client.close()
        self.server.should_exit = True
        self.thread.join()

    @property
    def engine(self):
        return self.service._backend.engine

    @property
    def pool(self):
        return self.engine.scheduler.pool

    def chat(self, **changes):
        return self.client.post("/v1/chat/completions", json=HELLO | changes)

    def metric(self, name, **labels):
        """A number of /metrics."""
        text = self.client.get("/metrics").text
        for line in text.splitlines():
            named = all(f'{key}="{value}"' in line for key, value in labels.items())
            if line.startswith(f"{name}{{") and named:
                return float(line.rpartition(" ")[2])
        return None


def wait(true, seconds=60):
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)
    return found


@contextlib.contextmanager
def connection(served, body, path="/v1/chat/completions"):
    """A request on a connection that the test may close at any time."""
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as sock:
        sock.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        yield sock


def events(text):
    """The objects of a stream, the last one being `[DONE]`."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]
