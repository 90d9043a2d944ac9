"""Servers as processes of their own, one at a time: started, waited for, ended."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from shared.errors import UserError
from shared.measuring import environment

NAME = "smollm2"  # in requests, whatever the model is
STARTING = 180.0  # seconds


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    url: str
    pid: int

    def resident(self) -> int:
        """Bytes of memory that it holds now."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        return 1024 * int(status.split("VmRSS:")[1].split()[0])


@contextlib.contextmanager
def started(kind: str, *options: str, model: str = "smollm2") -> Iterator[Running]:
    """A server of a kind, ended at the end.

    Raises
    ------
    UserError
        It does not begin to answer.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", *_module(kind, model, port), *options]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=environment(os.cpu_count() or 1),
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(f"{url}/{'ready' if kind == 'serve' else 'health'}", process, kind)
        yield Running(url, process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # LitServe's workers outlive it
        process.wait()


def _module(kind: str, model: str, port: str) -> Sequence[str]:
    if kind == "serve":
        return ["serving", model, "--port", port, "--quiet", "--served-model-name", NAME]
    return [f"serving.benchmark.{'rivals' if kind == 'fastapi' else 'batched'}", port]


def _wait(url: str, process: subprocess.Popen, kind: str) -> None:
    end = time.monotonic() + STARTING
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    raise UserError(f"the server {kind} did not begin to answer")
