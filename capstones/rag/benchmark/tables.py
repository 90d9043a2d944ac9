"""Tables and the figure of `rag bench`'s record: nothing in the README is typed by hand.

    python -m rag.benchmark.tables

writes them into `results/`, from where `study log` includes them.
"""

import sys
from collections.abc import Mapping
from typing import Any

from rag.benchmark import growth
from rag.benchmark.crossover import SIDES
from rag.benchmark.measure import RECORD
from rag.benchmark.rows import GOALS
from rag.store.generation import SCAN_UP_TO
from shared.files import write_atomic
from shared.measuring import machines, read_record, table

Rows = Mapping[str, Any]


def pages(record: Rows) -> dict[str, str]:
    """The tables that the README includes, by file; of the rows that are there."""
    makers = {"speed.md": _speed, "store.md": _store, "goals.md": _goals, "growth.md": _growth}
    makers["crossover.md"] = _crossover
    found = {name: make(record) for name, make in makers.items()}
    return {name: text + machines(record) for name, text in found.items() if text}


def _speed(record: Rows) -> str:
    """Queries per second of the words, milliseconds of each stage."""
    parts = []
    if row := record.get("lexical"):
        lines = [
            [x["side"], f"{x['index_seconds']:.1f}", *_times(x), x["note"]] for x in row["lines"]
        ]
        head = [f"BM25 of {row['n']:,} chunks", "index (s)", "p50 (ms)", "p95 (ms)", "queries/s"]
        parts.append(table([*head, ""], lines))
    if row := record.get("stages"):
        head = [f"one search of {row['n']:,} chunks", "p50 (ms)", "p95 (ms)", "per second"]
        timed = [x for x in row["lines"] if x["side"] != "rag: embedding"]  # vectors were given
        parts.append(table(head, [[x["side"], *_times(x)] for x in timed]))
        parts.append("The question's vector is known beforehand on both sides.\n")
    if row := record.get("haystack"):
        said = row.get("skipped") or f"{row['per_second']:.1f} queries per second"
        parts.append(f"haystack, in memory: {said}.\n")
    return "\n".join(parts)


def _store(record: Rows) -> str:
    """Opening, memory, and filters."""
    parts = []
    if row := record.get("opening"):
        lines = [
            [x["side"], f"{x['seconds']:.3f}", f"{x['first_seconds']:.3f}"] for x in row["lines"]
        ]
        head = [f"{row['n']:,} chunks on the disk", "open (s)", "first results after (s)"]
        parts.append(table(head, lines))
    if row := record.get("memory"):
        lines = [
            [x["side"], f"{x['bytes'] / 1e6:,.0f}", f"{x['disk'] / 1e6:,.0f}"] for x in row["lines"]
        ]
        lines.append(["a process with none", f"{row['empty_process'] / 1e6:,.0f}", ""])
        parts.append(table([f"{row['n']:,} chunks", "most memory (MB)", "disk (MB)"], lines))
    if row := record.get("filters"):
        lines = [[side, f"{100 * share:.0f} %"] for side, share in row["shares"].items()]
        head = f"a filter that {row['passing']:,} of {row['n']:,} chunks pass"
        parts.append(table([head, "results returned, of those asked for"], lines))
    return "\n".join(parts)


def _goals(record: Rows) -> str:
    """Each goal, what was measured, and whether it was reached."""
    said = {
        "lexical": lambda row: f"{row['times_rank_bm25']:.0f} times",
        "filters": lambda row: f"{100 * row['shares']['rag']:.0f} %",
        "opening": lambda row: f"{row['lines'][0]['seconds']:.3f} s for {row['n']:,} chunks",
        "again": lambda row: f"{row['seconds']:.3f} s for {row['n']:,} unchanged chunks",
    }
    lines = []
    for name, goal in GOALS.items():
        if row := record.get(name):
            verdict = "reached" if row["reached"] else "missed"
            verdict = "a quick trial: none" if row["machine"]["quick"] else verdict
            lines.append([name, goal, said[name](row), verdict])
    return table(["row", "goal", "measured", "verdict"], lines, left=4) if lines else ""


def _growth(record: Rows) -> str:
    """Every index at every size."""
    if not (row := record.get("growth")):
        return ""
    lines = [
        [
            f"{x['n']:,}",
            x["index"] + ("" if x["used"] == x["index"] else f" (is {x['used']})"),
            f"{x['build_seconds']:.1f}",
            f"{x['per_second']:,.0f}",
            f"{x['recall']:.3f}",
            f"{x['bytes'] / 1e6:,.0f}",
        ]
        for x in row["lines"]
    ]
    head = ["vectors", "index", "build (s)", "queries/s", f"recall@{row['k']}", "disk (MB)"]
    scanned = f"Up to {SCAN_UP_TO:,} vectors are scanned, whatever the index.\n"
    return f"{table(head, lines)}\n{scanned}"


def _crossover(record: Rows) -> str:
    """Clients at once on a folder and on PostgreSQL."""
    row = record.get("crossover", {})
    if "skipped" in row:
        return f"PostgreSQL: not measured, {row['skipped']}.\n"
    lines = [
        [x["work"], str(x["clients"]), *(f"{x[side]:,.1f}" for side in SIDES)]
        for x in row.get("lines", [])
    ]
    head = [f"per second, {row.get('n', 0):,} chunks", "clients", *SIDES]
    return table(head, lines) if lines else ""


def _times(line: Rows) -> list[str]:
    return [f"{line['p50_ms']:.2f}", f"{line['p95_ms']:.2f}", f"{line['per_second']:,.0f}"]


def main() -> None:
    """Write the tables and the figure beside the record."""
    record = read_record(RECORD)
    for name, text in pages(record).items():
        write_atomic(RECORD.with_name(name), text)
    if "growth" in record:
        growth.draw(record["growth"], RECORD.with_name("growth.png"))
    sys.stdout.write("now `study log` puts the tables into the README\n")


if __name__ == "__main__":
    main()
