"""How the benchmark measures: in processes of their own, threads pinned, one record for all rows.

What is timed runs in a fresh process that prints one line of JSON; its whole time, imports
included, is taken from outside. Rows may be measured at different times: each goes into the record
by itself, with the machine, the versions and the date it was measured with.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared.errors import UserError
from shared.files import locked, write_atomic

__all__ = ["child", "machine", "merge", "peak_bytes", "read_record", "report_line"]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
MARK = "tiny-gpt-measured: "  # before the line of JSON, so that a library's chatter is not it


def child(
    module: str,
    arguments: Iterable[str | Path],
    *,
    threads: int,
    timeout: float = 7200,
) -> dict[str, Any]:
    """Run `python -m module` to its end and return what it reported.

    Returns
    -------
    report
        What the process gave to `report_line`, and `whole_seconds`, measured from outside.

    Raises
    ------
    UserError
        If it fails, takes longer than `timeout` seconds, or reports nothing.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
    # Without it every import of torch would be compiled again: seconds that no user waits for.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{module} took longer than {timeout:g} seconds") from None
    whole = time.perf_counter() - begin
    lines = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if done.returncode or not lines:
        said = (done.stderr.strip().splitlines() or ["it reported nothing"])[-1]
        raise UserError(f"{module} ended with status {done.returncode}: {said}")
    return json.loads(lines[-1].removeprefix(MARK)) | {"whole_seconds": whole}


def report_line(report: dict[str, Any]) -> None:
    """Tell the process that waits in `child` what was measured."""
    sys.stdout.write(MARK + json.dumps(report) + "\n")
    sys.stdout.flush()


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
    from shared.records import commit, versions

    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "versions": versions() | measured_with(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": threads,
        # Other programs' work at the beginning: a timing on a busy machine says so.
        "load": round(os.getloadavg()[0], 2),
    }


def measured_with() -> dict[str, str]:
    """Versions of what the processes in `child` compute with, whether it is loaded here or not."""
    found = {}
    for name in ("torch", "transformers"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def cpu_model() -> str:
    """The processor's name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            for line in info:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def read_record(path: Path) -> dict[str, Any]:
    """A record that `merge` wrote, empty where there is none yet.

    Raises
    ------
    UserError
        If the file is not one.
    """
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
    """Replace one row of a record by `change(row)` and leave all others as they are.

    The file holds the old record or the new one at any moment, and two processes that change
    different rows both get theirs in.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent):
        record = read_record(path)
        record["rows"][name] = change(record["rows"].get(name))
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
        write_atomic(path, text + "\n")
    return record


def matmul_peak(dtype_name: str, *, size: int = 1536, repeats: int = 3) -> float:
    """Floating-point operations a second in large products of `dtype_name` (fp32, bf16, fp16)."""
    import torch

    from tiny_gpt.training.precision import DTYPES
    from week16.mixed_precision import matmul_seconds

    cpu, dtype = torch.device("cpu"), DTYPES[dtype_name]
    seconds = min(matmul_seconds(cpu, dtype, size=size) for _ in range(repeats))
    return 2 * size**3 / seconds
