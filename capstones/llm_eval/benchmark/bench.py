"""`llm-eval bench`: the harness beside lm-eval, its metrics beside their libraries.

    llm-eval bench
    llm-eval bench choices rouge

Each row goes into the record as soon as it is measured, both sides in one run, with as many threads
as the machine has cores.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from llm_eval.benchmark import known, rows, upkeep
from llm_eval.benchmark.standard import standard
from shared.measuring import check_rows, measure, pinned

RECORD = Path(__file__).parents[1] / "results" / "bench.json"
ROWS: dict[str, Callable[[bool], dict[str, Any]]] = {
    "standard": standard,
    "choices": rows.choices,
    "generation": rows.generation,
    "rouge": rows.rouge,
    "bleu": rows.bleu,
    "chrf": rows.chrf,
    "ter": rows.ter,
    "resume": upkeep.resume,
    "memory": upkeep.memory,
    "kills": upkeep.kills,
    "card": known.card,
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
        A row is unknown, two sides that must agree do not, or a quick trial would be recorded.
    """
    check_rows(names, ROWS, out=out, record=RECORD, quick=quick)
    threads = os.cpu_count() or 1
    with pinned(threads):
        return measure(ROWS, names, out=out, quick=quick, say=say, threads=threads)
