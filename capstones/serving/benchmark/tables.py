"""Tables of `serve duel`'s record: nothing in the README is typed by hand.

    python -m serving.benchmark.tables

writes them into `results/`, from where `study log` includes them.
"""

import sys
from collections.abc import Mapping
from typing import Any

from serving.benchmark.bench import RECORD
from serving.benchmark.rows import GOALS
from shared.files import write_atomic
from shared.measuring import machines, read_record, table

Rows = Mapping[str, Any]
NAMES = {
    "serve": "serve",
    "fastapi": "FastAPI, a lock, `generate`",
    "litserve": "LitServe, batches of 16, `generate`",
}


def pages(record: Rows) -> dict[str, str]:
    """The tables that the README includes, by file; of the rows that are there."""
    makers = {"goals.md": _goals, "load.md": _load, "safety.md": _safety}
    found = {name: make(record) for name, make in makers.items()}
    rows = {"goals.md": GOALS, "load.md": ("throughput", "latency"), "safety.md": ()}
    return {
        name: text + machines({row: record[row] for row in rows[name] if row in record})
        for name, text in found.items()
        if text
    }


def held(name: str, row: Mapping[str, Any]) -> tuple[str, bool]:
    """What was measured, in words, and whether the goal of a row is reached."""
    least = GOALS[name][1]
    if name == "throughput":
        return f"{row['times']:.2f} times", row["times"] >= least
    if name == "latency":
        ours, theirs = (row["lines"][i]["first"]["p99"] for i in (0, -1))
        n = row["lines"][0]["n"]
        return f"{ours:.2f} s beside {theirs:.2f} s, {n} requests each", ours < theirs
    if name == "memory":
        said = f"{100 * row['growth']:+.2f} %, {row['left']} hung up, {row['failed']} failed"
        return said, row["growth"] < least and row["sound"] and not row["failed"]
    return f"{row['failed']} of {row['n']:,}", row["failed"] <= least and row["sound"]


def _goals(record: Rows) -> str:
    """Each goal, what was measured, and whether it was reached."""
    lines = []
    for name in GOALS:
        if row := record.get(name):
            said, reached = held(name, row)
            verdict = "reached" if reached else "missed"
            verdict = "a quick trial: none" if row["machine"]["quick"] else verdict
            lines.append([name, GOALS[name][0], said, verdict])
    return table(["row", "goal", "measured", "verdict"], lines, left=4) if lines else ""


def _load(record: Rows) -> str:
    """Both loads, all servers."""
    text = ""
    if row := record.get("throughput"):
        lines = [
            [
                NAMES[line["side"]],
                f"{line['tokens_per_second']:.1f}",
                f"{line['least']:.1f} to {line['most']:.1f}",
                f"{line['first']['p50']:.2f}",
                str(line["failed"]),
            ]
            for line in row["lines"]
        ]
        head = ["16 clients", "tokens/s, median", "of 3 rounds", "first text, p50 (s)", "failed"]
        text += table(head, lines) + f"\nllama-cpp-python's server: {row['llama_cpp']}.\n"
    if row := record.get("latency"):
        lines = []
        for line in row["lines"]:
            first, between, whole = (line[name] for name in ("first", "between", "whole"))
            cells = [first["p50"], first["p99"], between["p50"], between["p99"], whole["p99"]]
            name = NAMES[line["side"]]
            lines.append([name, *(f"{x:.2f}" for x in cells), str(line["well"]), str(line["n"])])
        head = [f"{row['rate']:g} requests/s (seconds)", "first, p50", "first, p99"]
        head += ["between, p50", "between, p99", "whole, p99", "answered", "of"]
        text += "\n" + table(head, lines)
    return text


def _safety(record: Rows) -> str:
    """What the filter ends."""
    if not (row := record.get("safety")):
        return ""
    lines = [
        [
            line["data"],
            "ends" if line["toxic"] else "passes",
            f"{line['n']:,}",
            str(line["n"] - line["blocked"] if line["toxic"] else line["blocked"]),
            _missed(line),
        ]
        for line in row["lines"]
    ]
    head = ["texts", "right if it", "n", "wrong", "wrong, %, 95 % interval"]
    return table(head, lines, left=2)


def loaded(found: Mapping[str, Any]) -> str:
    """A summary of a load, in lines."""
    counts = ", ".join(f"{name} {found[name]}" for name in ("well", "left", "refused", "failed"))
    lines = [f"{found['n']} requests in {found['seconds']:.1f} s: {counts}"]
    lines += [f"{found['tokens_per_second']:.1f} pieces of text per second"]
    for name in ("first", "between", "whole"):
        if values := found[name]:
            spelled = ", ".join(f"{p} {value:.3f} s" for p, value in values.items())
            lines.append(f"{name}: {spelled}")
    return "\n".join(lines)


def _missed(line: Mapping[str, Any]) -> str:
    value, low, high = line["blocked"] / line["n"], line["low"], line["high"]
    if line["toxic"]:
        value, low, high = 1 - value, 1 - high, 1 - low
    return f"{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def main() -> None:
    """Write the tables beside the record."""
    for name, text in pages(read_record(RECORD)).items():
        write_atomic(RECORD.with_name(name), text)
    sys.stdout.write("now `study log` puts the tables into the README\n")


if __name__ == "__main__":
    main()
