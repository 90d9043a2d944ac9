"""What benchmarks share: pinned threads, memory from outside, one record for all rows, tables.

>>> print(table(["", "recall"], [["bm25", "0.5"]]), end="")
|  | recall |
| --- | ---: |
| bm25 | 0.5 |
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shared import records
from shared.errors import UserError
from shared.files import write_atomic
from shared.require import require

# How threads wait, and where, is a matter of several times on two cores: what a shell sets for
# itself is no part of what is measured.
OF_THREADS = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_")


def environment(threads: int) -> dict[str, str]:
    """What a process that is measured is started in: this one's, with so many threads as usual."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OF_THREADS)}
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return kept | dict.fromkeys(names, str(threads))


@contextlib.contextmanager
def pinned(threads: int = 1) -> Iterator[None]:
    """BLAS, torch and, if it is loaded, FAISS compute with so many threads."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    if faiss := sys.modules.get("faiss"):
        faiss.omp_set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            yield
    finally:
        torch.set_num_threads(before)


def seconds(step: Callable[[], Any]) -> tuple[float, Any]:
    """How long a step took, and what it gave."""
    start = time.perf_counter()
    result = step()
    return time.perf_counter() - start, result


def resident(code: str, *arguments: str) -> int:
    """Most bytes of memory that a fresh process has had after running `code`."""
    peak = "\nprint(next(x for x in open('/proc/self/status') if x.startswith('VmHWM')).split()[1])"
    done = subprocess.run(
        [sys.executable, "-c", code + peak, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment(threads=1),
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"memory cannot be measured: {reason}")
    return 1024 * int(done.stdout.split()[-1])


# ---- the record


def check_rows(
    names: Sequence[str], known: Collection[str], *, out: Path, record: Path, quick: bool
) -> None:
    """Refuse a row that is not known, and a quick trial that would become the record."""
    for name in names:
        require(name in known, f"rows must be among {', '.join(known)}", name, error=UserError)
    if quick and Path(out).resolve() == record.resolve():
        raise UserError("a quick trial measures nothing; give it a record of its own")


def measure(
    rows: Mapping[str, Callable[[bool], Mapping[str, Any]]],
    names: Sequence[str],
    *,
    out: Path,
    quick: bool,
    say: Callable[[str], None],
    threads: int,
) -> dict[str, Any]:
    """Measure rows, all if none is named, put each into the record at once, and return that."""
    for name, row in rows.items():
        if not names or name in names:
            say(f"{name} …")
            save(out, name, row(quick), quick=quick, threads=threads)
    return read_record(out)


def read_record(path: Path) -> dict[str, Any]:
    """A record that `save` wrote, empty where there is none yet."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"record {path} cannot be read: {error}") from error


def save(path: Path, name: str, row: Mapping[str, Any], *, quick: bool, threads: int = 1) -> None:
    """Put a row into the record, with the machine it was measured on."""
    record = read_record(path) | {name: {**row, "machine": machine(threads) | {"quick": quick}}}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(Path(path), json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def machine(threads: int) -> dict[str, Any]:
    """Where, when and with what a row is measured."""
    made = {"date": datetime.now(UTC).date().isoformat(), "commit": records.commit()}
    made |= {"versions": records.versions(), "threads": threads, "cpu": cpu_model()}
    # The load is other programs' work: a timing on a busy machine says so.
    return made | {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}


def cpu_model() -> str:
    """The processor's name."""
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as info:
        for line in info:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def table(header: Sequence[str], lines: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; columns but the first `left` are aligned right."""
    rule = ["---" if i < left else "---:" for i in range(len(header))]
    return "".join("| " + " | ".join(row) + " |\n" for row in (header, rule, *lines))


def machines(record: Mapping[str, Any]) -> str:
    """The machines of a record's rows, each once, as the last lines of a table."""
    found: dict[str, list[str]] = {}
    for name, row in record.items():
        where = row["machine"]
        count = where.get("threads", 1)
        threads = "one thread" if count == 1 else f"{count} threads"
        text = f"{where['cpu']}, {threads} of {where['cores']} cores, {where['date']}"
        found.setdefault(f"{text}, commit {where['commit']}", []).append(name)
    return "".join(f"\nMeasured on {text}: {', '.join(of)}.\n" for text, of in found.items())
