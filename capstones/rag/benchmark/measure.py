"""What all rows of the benchmark share: one thread, medians, memory from outside, one record.

>>> times([0.3, 0.1, 0.2])
{'p50_ms': 200.0, 'p95_ms': 290.0, 'per_second': 5.0}
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from shared import records
from shared.errors import UserError
from shared.files import write_atomic

RECORD = Path(__file__).parents[1] / "results" / "bench.json"


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """BLAS, FAISS and torch compute with one thread."""
    import faiss
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def seconds(step: Callable[[], Any]) -> tuple[float, Any]:
    """How long a step took, and what it gave."""
    start = time.perf_counter()
    result = step()
    return time.perf_counter() - start, result


def each(step: Callable[[Any], Any], items: Sequence[Any]) -> list[float]:
    """Seconds of a step for each item; the first is done once before, to warm up."""
    step(items[0])
    return [seconds(lambda item=item: step(item))[0] for item in items]


def times(taken: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile in milliseconds, and how many per second at the median."""
    p50, p95 = np.percentile(taken, [50, 95])
    return {
        "p50_ms": round(1000 * float(p50), 6),
        "p95_ms": round(1000 * float(p95), 6),
        "per_second": float(1 / p50),
    }


def resident(code: str, *arguments: str) -> int:
    """Most bytes of memory that a fresh process has had after running `code`."""
    peak = "\nprint(next(x for x in open('/proc/self/status') if x.startswith('VmHWM')).split()[1])"
    done = subprocess.run(
        [sys.executable, "-c", code + peak, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"memory cannot be measured: {reason}")
    return 1024 * int(done.stdout.split()[-1])


def clustered(
    n: int, dim: int, *, seed: int = 0, clusters: int = 1000
) -> Float[np.ndarray, "n dim"]:
    """Unit vectors around random centers, as those of texts lie around subjects."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(1).standard_normal((clusters, dim), np.float32)
    vectors = rng.standard_normal((n, dim), np.float32)
    vectors += 1.5 * centers[rng.integers(clusters, size=n)]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# ---- the record


def read_record(path: Path) -> dict[str, Any]:
    """A record that `save` wrote, empty where there is none yet."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"record {path} cannot be read: {error}") from error


def save(path: Path, name: str, row: Mapping[str, Any], *, quick: bool) -> None:
    """Put a row into the record, with the machine it was measured on."""
    made = {"date": datetime.now(UTC).date().isoformat(), "commit": records.commit()}
    made |= {"versions": records.versions(), "quick": quick, "threads": 1}
    made |= {"cpu": _cpu(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}
    record = read_record(path) | {name: {**row, "machine": made}}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(Path(path), json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _cpu() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as info:
        for line in info:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
