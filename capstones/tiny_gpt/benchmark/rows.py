"""`tiny-gpt bench`: the benchmark, row by row, against what a user would otherwise run.

    tiny-gpt bench speed same-size
    tiny-gpt bench decoding --threads 2
    tiny-gpt bench wikipedia-small --record

Each row goes into the record as soon as it is measured.
"""

from collections.abc import Callable, Sequence
from typing import Any

from shared.measuring import check_rows
from tiny_gpt.benchmark.ablation import ablate
from tiny_gpt.benchmark.bench import RECORD, Bench
from tiny_gpt.benchmark.costs import run_data, run_models, run_sources
from tiny_gpt.benchmark.duels import DUELS, run_curves, run_duels, run_ngrams
from tiny_gpt.benchmark.measure import read_record
from tiny_gpt.benchmark.speed import run_decoding, run_prepare, run_throughput
from tiny_gpt.benchmark.wikipedia import ROWS as WIKIPEDIA
from tiny_gpt.benchmark.wikipedia import run_wikipedia
from tiny_gpt.benchmark.windows import run_windows

__all__ = ["ROWS", "bench"]

ROWS: dict[str, Callable[[Bench], None]] = {
    "ngrams": run_ngrams,
    "decoding": run_decoding,
    "windows": run_windows,
    "throughput": run_throughput,
    "prepare": run_prepare,
    "curves": run_curves,
    "costs-model": run_models,
    "costs-data": run_data,
    "costs-prepare": run_sources,
}


def bench(rows: Sequence[str] = (), **options: Any) -> dict[str, Any]:
    """Measure rows and put each into the record as soon as it is done; options are of `Bench`.

    Rows are names of `DUELS` and `ROWS`, all of these if none is named; or `ablation`, `wikipedia`
    and `wikipedia-small`, which have records of their own beside `b.out` and take long. The record
    that is returned has everything it held before.
    """
    b = Bench(**options)
    known = [*DUELS, *ROWS]
    every = [*known, "ablation", *WIKIPEDIA]
    check_rows(rows, every, out=b.out, record=RECORD, quick=b.quick)
    chosen = list(rows) or known
    if duels := [name for name in DUELS if name in chosen]:
        run_duels(b, duels)
    for name, run in ROWS.items():
        if name in chosen:
            run(b)
    if "ablation" in chosen:
        out = b.out.with_name("ablation.json")
        ablate(seeds=b.seeds, threads=b.threads, out=out, say=b.say)
    for name in WIKIPEDIA:
        if name in chosen:
            run_wikipedia(b, name)
    return read_record(b.out)
