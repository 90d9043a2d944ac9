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
from shared.errors import UserError
from shared.measuring import pinned, read_record, save
from shared.require import require

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
    for name in names:
        require(name in ROWS, f"rows must be among {', '.join(ROWS)}", name, error=UserError)
    if quick and Path(out).resolve() == RECORD.resolve():
        raise UserError("a quick trial measures nothing; give it a record of its own")
    threads = os.cpu_count() or 1
    with pinned(threads):
        for name, measure in ROWS.items():
            if not names or name in names:
                say(f"{name} …")
                save(out, name, measure(quick), quick=quick, threads=threads)
    return read_record(out)
