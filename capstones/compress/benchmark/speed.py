"""Tokens per second of several forms, each in a process of its own, in turns.

One form after another would give each another mood of the machine. So all of them wait in their
processes, and each round goes through all: A B C, A B C, … The first round warms up.

>>> found = summary([{"prefill": 0.5, "steps": [0.1, 0.1, 0.3]}] * 2, prefill=64)
>>> found["prefill_per_second"], found["decode_per_second"], found["decode_p95_ms"]
(128.0, 10.0, 300.0)
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shared.errors import UserError
from shared.measuring import environment

MEMORY = "memory:VmRSS and VmHWM beyond torch imported|threads:1|prefill:8|decode:2"
REST = 0.25  # seconds in which the last form's idle threads stop spinning


def summary(turns: Sequence[dict[str, Any]], *, prefill: int) -> dict[str, float]:
    """Medians and 95th percentiles of all turns, of new tokens over all of them."""
    reads = [found["prefill"] for found in turns]
    steps = [step for found in turns for step in found["steps"]]
    return {
        "prefill_per_second": prefill / float(np.median(reads)),
        "prefill_p95_ms": 1000 * float(np.quantile(reads, 0.95, method="higher")),
        "decode_per_second": 1 / float(np.median(steps)),
        "decode_p95_ms": 1000 * float(np.quantile(steps, 0.95, method="higher")),
    }


def signature(*, threads: int, prefill: int, decode: int, repeats: int) -> str:
    """The protocol of a speed."""
    return (
        f"threads:{threads}|batch:1|prefill:{prefill}|decode:{decode}|repeats:{repeats}"
        "|order:in turns|process:each its own|cores:not pinned|warm-up:1 round"
    )


def speeds(
    forms: Sequence[tuple[str, str]],
    *,
    threads: Sequence[int],
    prefill: int,
    decode: int,
    repeats: int,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Memory and speeds of forms of models, by thread count.

    Parameters
    ----------
    forms
        (ref, form) each, as `forms.opened` takes them.

    Raises
    ------
    UserError
        If a process ends before it has answered.
    """
    workers: list[subprocess.Popen] = []
    try:
        found = []
        for ref, form in forms:
            say(f"opening {ref} as {form}")
            workers.append(_start(ref, form, max(threads)))
            _read(workers[-1])
            found.append({"speed": {}})
        for count in threads:
            turns: list[list] = [[] for _ in workers]
            for i in range(repeats + 1):
                say(f"{count} threads, round {i} of {repeats}")
                for worker, own in zip(workers, turns, strict=True):
                    time.sleep(REST if count > 1 else 0)
                    own.append(_ask(worker, threads=count, prefill=prefill, decode=decode))
            size = {"prefill": prefill, "decode": decode, "repeats": repeats}
            for row, own in zip(found, turns, strict=True):
                row["speed"][str(count)] = summary(own[1:], prefill=prefill)
                row["speed"][str(count)]["signature"] = signature(threads=count, **size)
        return found
    finally:
        for worker in workers:
            _stop(worker)


def memory(ref: str, form: str) -> dict[str, Any]:
    """Bytes of a form in a process of its own, beside one that has only imported torch.

    Returns
    -------
    dict
        `bare`: what such a process holds; `held`: what this one holds beyond that when it has read
        and written a little; `peak`: the most beyond that, also while it opened the model.
    """
    worker = _start(ref, form, 1)
    try:
        found = _read(worker)
    finally:
        _stop(worker)
    bare = found["bare"]
    beyond = {"held": found["resident"] - bare, "peak": found["peak"] - bare}
    return {"form": form, "bare": bare, **beyond, "signature": MEMORY}


def _start(ref: str, form: str, most: int) -> subprocess.Popen:
    command = [sys.executable, "-m", "compress.benchmark.speed_worker", ref, form]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(most) | {"TOKENIZERS_PARALLELISM": "false"},
    )


def _stop(worker: subprocess.Popen) -> None:
    worker.kill()
    worker.communicate()


def _ask(worker: subprocess.Popen, **asked: int) -> dict[str, Any]:
    worker.stdin.write(json.dumps(asked) + "\n")
    worker.stdin.flush()
    return _read(worker)


def _read(worker: subprocess.Popen) -> dict[str, Any]:
    line = worker.stdout.readline()
    if not line:
        raise UserError(f"speed cannot be measured: {' '.join(worker.args[1:])} ended early")
    return json.loads(line)
