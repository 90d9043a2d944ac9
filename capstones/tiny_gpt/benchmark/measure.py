"""How the benchmark measures: in processes of their own, threads pinned, one record for all rows.

What is timed is a function in a fresh process, whose whole time, imports included, is taken from
outside. Rows may be measured at different times: each goes into the record by itself, with the
machine, the versions and the date it was measured with.
"""

import contextlib
import importlib
import importlib.metadata
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.errors import UserError
from shared.files import locked, write_atomic
from shared.measuring import environment

__all__ = ["child", "machine", "merge", "peak_bytes", "read_record"]

MARK = "tiny-gpt-measured: "  # before the line of JSON, so that a library's chatter is not it


def child(name: str, *, threads: int, timeout: float = 7200, **arguments: Any) -> dict[str, Any]:
    """Call a function such as ``"tiny_gpt.benchmark.rival:train_rival"`` in a new process.

    It is given `threads` too, a path as text, and returns a dictionary; `inside_seconds`,
    `peak_bytes`, and `whole_seconds`, measured from outside, are added to it.
    """
    words = [name, json.dumps({"threads": threads, **arguments}, default=str)]
    command = [sys.executable, "-m", "tiny_gpt.benchmark.measure", *words]
    around = environment(threads)
    # Without it every import of torch would be compiled again: seconds that no user waits for.
    around.pop("PYTHONDONTWRITEBYTECODE", None)
    options = {"capture_output": True, "text": True, "env": around, "check": False}
    begin = time.perf_counter()
    try:
        done = subprocess.run(command, timeout=timeout, **options)
    except subprocess.TimeoutExpired:
        raise UserError(f"{name} took longer than {timeout:g} seconds") from None
    whole = time.perf_counter() - begin
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not lines:
        reason = (done.stderr.strip().splitlines() or ["it reported nothing"])[-1]
        raise UserError(f"{name} ended with status {done.returncode}: {reason}")
    return json.loads(lines[-1].removeprefix(MARK)) | {"whole_seconds": whole}


def main() -> None:
    """Be the process that `child` waits for."""
    began = time.perf_counter()
    name, arguments = sys.argv[1:]
    module, _, function = name.partition(":")
    report = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    report |= {"inside_seconds": time.perf_counter() - began, "peak_bytes": peak_bytes()}
    sys.stdout.write(MARK + json.dumps(report) + "\n")


def peak_bytes() -> int:
    """Most memory that this process has had at once."""
    try:
        # Linux carries ru_maxrss across exec: a child would report its parent's peak.
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def machine(threads: int) -> dict[str, Any]:
    """Where, when and with what a row was measured."""
    from shared import measuring

    # Of what the processes in `child` compute with, whether it is loaded here or not.
    found, loaded = measuring.machine(threads), {}
    for name in ("torch", "transformers"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            loaded[name] = importlib.metadata.version(name)
    return found | {"versions": found["versions"] | loaded}


def read_record(path: Path) -> dict[str, Any]:
    """A record that `merge` wrote, empty where there is none yet."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {"rows": {}}
    except (OSError, ValueError) as error:
        raise UserError(f"record {path} cannot be read: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("rows"), dict):
        raise UserError(f"record {path} has no rows")
    return record


def merge(path: Path, name: str, change: Callable[[dict[str, Any] | None], dict]) -> dict:
    """Replace one row of a record by `change(row)`; several processes may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent):
        record = read_record(path)
        record["rows"][name] = change(record["rows"].get(name))
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
        write_atomic(path, text + "\n")
    return record


if __name__ == "__main__":
    main()
