"""What no other harness promises: resumed at once, flat memory, the same bytes after any kill."""

import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from llm_eval.engine.journal import Journal
from llm_eval.engine.run import evaluate
from llm_eval.models.dummy import Dummy
from llm_eval.tasks.opening import open_tasks
from shared.measuring import resident, seconds

Row = dict[str, Any]
N_KILLS = 50
RUN = """
import sys, time
from pathlib import Path
from llm_eval.engine.run import evaluate
from llm_eval.models.dummy import Dummy
from llm_eval.report.writing import save
from llm_eval.tasks.opening import open_tasks

class Slow(Dummy):
    def answer(self, requests):
        time.sleep({pause})
        return super().answer(requests)

folder = Path(sys.argv[1])
save(evaluate(Slow(), open_tasks({tasks!r}), limit={limit}, cache=folder / "cache"), folder / "out")
"""


def resume(quick: bool = False) -> Row:
    """Seconds until 10,000 answered documents are found answered."""
    n = 200 if quick else 10_000
    (task,) = open_tasks(["blimp"])
    with tempfile.TemporaryDirectory(prefix="llm-eval-") as cache:
        evaluate(Dummy(), [task], limit=n, cache=Path(cache))
        judge = task.judge()
        keys = [r.key for _, document in task.documents(n) for r in judge.requests(document)]

        def again() -> bool:
            with Journal(Path(cache), Dummy().identity) as journal:
                return journal.holds(keys)

        took, there = seconds(again)
        whole, _ = seconds(lambda: evaluate(Dummy(), [task], limit=n, cache=Path(cache)))
    if not there:
        raise AssertionError("answers are missing after a run")
    return {"n": n, "seconds": took, "whole_seconds": whole}


def memory(quick: bool = False) -> Row:
    """Most memory of a run, by the number of its documents."""
    sizes = (50, 100) if quick else (1_000, 10_000)
    lines = []
    for n in sizes:
        with tempfile.TemporaryDirectory(prefix="llm-eval-") as folder:
            code = RUN.format(pause=0, tasks=["blimp"], limit=n)
            lines.append({"n": n, "bytes": resident(code, folder)})
    return {"lines": lines, "growth": lines[-1]["bytes"] / lines[0]["bytes"]}


def kills(quick: bool = False) -> Row:
    """Of runs that are killed at random moments and started again: how many end in other bytes."""
    n, rng = 2 if quick else N_KILLS, random.Random(0)
    code = RUN.format(pause=0.01, tasks=["mini_cloze", "mini_mcqa", "mini_extract"], limit=30)
    with tempfile.TemporaryDirectory(prefix="llm-eval-") as folder:
        took, _ = seconds(lambda: _run(code, f"{folder}/straight"))
        straight = _digest(f"{folder}/straight")
        differing = hit = 0
        for i in range(n):
            where = f"{folder}/{i}"
            hit += _killed(code, where, rng.uniform(0.3, 1.0) * took)
            _run(code, where)
            differing += _digest(where) != straight
    return {"n": n, "hit": hit, "differing": differing}


def _run(code: str, folder: str) -> None:
    subprocess.run([sys.executable, "-c", code, folder], check=True, capture_output=True)


def _killed(code: str, folder: str, after: float) -> bool:
    """Whether it was still running when it was killed."""
    process = subprocess.Popen([sys.executable, "-c", code, folder], stderr=subprocess.DEVNULL)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def _digest(folder: str) -> str:
    results = Path(folder, "out", "results.json").read_bytes()
    json.loads(results)
    return hashlib.sha256(results).hexdigest()
