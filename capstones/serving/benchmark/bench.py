"""`serve duel`: the server beside plain FastAPI and LitServe, its memory, and absurd requests.

    serve duel
    serve duel throughput latency

Each row goes into the record as soon as it is measured.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from serving.benchmark import rows
from shared.measuring import check_rows, measure

RECORD = Path(__file__).parents[1] / "results" / "bench.json"
ROWS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "throughput": rows.throughput,
    "latency": rows.latency,
    "memory": rows.memory,
    "fuzz": rows.fuzz,
    "safety": rows.safety,
}


def bench(
    names: Sequence[str] = (),
    *,
    out: Path = RECORD,
    quick: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure rows, all if none is named, and put each into the record.

    Parameters
    ----------
    quick
        Little of everything, to see that it runs; no number means anything.

    Returns
    -------
    record
        With everything it held before.

    Raises
    ------
    UserError
        A row is unknown, or a quick trial would be recorded.
    """
    check_rows(names, ROWS, out=out, record=RECORD, quick=quick)
    return measure(ROWS, names, out=out, quick=quick, say=say, threads=os.cpu_count() or 1)
