"""Tables of `compress bench`'s record: nothing in the README is typed by hand.

    python -m compress.benchmark.tables

writes them into `results/`, and the picture, from where `study log` includes them.
"""

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from compress.benchmark.bench import RECORD
from compress.benchmark.findings import findings
from compress.benchmark.grid import FLOATS
from compress.benchmark.lines import Line, lines, perplexity
from compress.benchmark.quality import nats_lost
from compress.benchmark.rivals import OURS
from shared.files import write_atomic
from shared.measuring import read_record, table

Rows = Mapping[str, Any]


def pages(record: Rows) -> dict[str, str]:
    """The tables by file, of what is there."""
    rows = lines(record)
    texts = {"quality.md": _quality(rows), "speed.md": _speed(rows), "rivals.md": _rivals(record)}
    found = {name: f"{text}\n{notes(record, name)}" for name, text in texts.items() if text}
    return found | {"findings.md": findings(record)}


def _quality(found: list[Line]) -> str:
    head = ["", "MB", "of 16 bits", "blocks", "perplexity", "nats lost", "right", "change"]
    head += ["per word", "made in s"]
    rows = []
    for line in found:
        star = "**" if line.on_front else ""
        blocks = "" if line.blocks_of_float16 is None else f"{line.blocks_of_float16:.3f}"
        row = [f"{star}{line.name}{star}", f"{line.n_bytes / 1e6:.1f}", f"{line.of_float16:.3f}"]
        row += [blocks, _number(line.perplexity, ".2f"), interval(line.lost, ".3f")]
        accuracy = line.accuracy
        row += ["" if accuracy is None else f"{accuracy['accuracy']:.3f}"]
        row += ["" if accuracy is None else change(accuracy)]
        row += [_number(line.word_perplexity, ".1f"), _number(line.seconds, ".0f")]
        rows.append(row)
    return table(head, rows) if any(line.perplexity for line in found) else ""


def _speed(found: list[Line]) -> str:
    counts = sorted({count for line in found for count in line.speed or ()}, key=int)
    head = ["", "file, MB", "memory, MB", "peak, MB"]
    for count in counts:
        threads = "1 thread" if count == "1" else f"{count} threads"
        head += [f"reads/s, {threads}", f"writes/s, {threads}", "p95, ms", "writes beside float32"]
    rows = []
    for line in found:
        if (line.speed or line.memory) and not line.like:
            row = [line.name, f"{line.n_bytes / 1e6:.0f}"]
            row += [f"{line.memory[x] / 1e6:.0f}" if line.memory else "" for x in ("held", "peak")]
            for count in counts:
                if not line.speed:
                    row += ["", "", "", ""]
                    continue
                own = line.speed[count]
                row += [f"{own['prefill_per_second']:.0f}", f"{own['decode_per_second']:.1f}"]
                verdict = "" if line.name == FLOATS else (line.verdicts or {}).get(count, "")
                row += [f"{own['decode_p95_ms']:.0f}", verdict]
            rows.append(row)
    return table(head, rows) if rows else ""


def _rivals(record: Rows) -> str:
    """Each library's row, and ours beside it."""
    head = ["", "MB", "perplexity", "nats lost", "made in s", "reads/s", "writes/s"]
    head += ["ours", "MB", "nats lost", "reads/s", "writes/s"]
    by_name = {line.name: line for line in lines(record)}
    rows = []
    for name, ours in OURS.items():
        if name not in record:
            continue
        row, line = record[name], by_name.get(ours)
        read, floats = row.get("ppl"), record.get("float32", {}).get("ppl")
        part = next(iter(row.get("bytes", {})), "blocks")
        text = [name, _megabytes(row, part)]
        text += ["", ""] if not read else [f"{perplexity(read['nats']):.2f}"]
        if read:
            text += [interval(nats_lost(read["nats"], floats["nats"]), ".3f")]
        text += [_number(row.get("seconds"), ".1f"), *_rates(row.get("speed", {}).get("speed"))]
        text += [ours, "", "", "", ""] if line is None else [ours, *_ours(record, line, part)]
        rows.append(text)
    return table(head, rows) if rows else ""


def _ours(record: Rows, line: Line, part: str) -> list[str]:
    size = _megabytes(record[line.name], part)
    return [size, interval(line.lost, ".3f"), *_rates(line.speed)]


def _megabytes(row: Rows, part: str) -> str:
    """Of what the other library's bytes are known of: the matrices of the blocks, or the file."""
    size = row.get("bytes", {}).get(part)
    return "" if size is None else f"{size / 1e6:.1f} {part}"


def _rates(speed: Rows | None) -> list[str]:
    """Tokens per second with the fewest threads."""
    if not speed:
        return ["", ""]
    own = speed[min(speed, key=int)]
    return [f"{own['prefill_per_second']:.0f}", f"{own['decode_per_second']:.1f}"]


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


def interval(found: Mapping[str, float] | None, spec: str) -> str:
    """A mean with its ends, as `nats_lost` gives them.

    >>> interval({"mean": 0.1, "low": 0.05, "high": 0.15}, ".2f")
    '+0.10 [0.05, 0.15]'
    """
    if found is None:
        return ""
    text = format(found["mean"], "+" + spec)
    if "low" in found:
        text += f" [{format(found['low'], spec)}, {format(found['high'], spec)}]"
    return text


def change(found: Mapping[str, Any]) -> str:
    """A change with its ends, as `accuracy_change` gives them."""
    if found["low"] is None:
        return f"{found['change']:+.3f}"
    return f"{found['change']:+.3f} [{found['low']:.3f}, {found['high']:.3f}]"


# ---- what stands below a table


def notes(record: Rows, name: str) -> str:
    """The protocols of a table's numbers, and where they were measured."""
    parts = {
        "quality.md": ("ppl", "acc"),
        "speed.md": ("memory", "speed"),
        "rivals.md": ("ppl", "speed"),
    }
    names = {*OURS, *OURS.values()} if name == "rivals.md" else {*record["about"]["rows"]}
    rows = [row for key, row in record.items() if key in names and any(map(row.get, parts[name]))]
    found: dict[str, None] = {}
    for row in rows:
        for part in parts[name]:
            found |= dict.fromkeys(signatures(row.get(part) or {}))
        if name == "quality.md" and row.get("learned"):
            found[row["learned"]] = None
    text = "".join(f"- `{signature}`\n" for signature in found)
    return f"{text}\n{machines(rows, record['about'])}"


def signatures(part: Rows) -> list[str]:
    """Protocols of what was measured together."""
    found = [part[key] for key in ("signature", "page_signature") if part.get(key)]
    found += [task["signature"] for task in part.get("answers", {}).values()]
    return found + [own["signature"] for own in part.get("speed", {}).values()]


def machines(rows: Iterable[Rows], about: Rows) -> str:
    """The machines of rows, each once with its commits; of the newest, what its processor can."""
    found: dict[str, dict[str, None]] = {}
    for where in (row["machine"] for row in rows):
        quick = ", a quick trial" if where["quick"] else ""
        text = f"{where['cpu']}, {where['cores']} cores, {where['date']}{quick}"
        found.setdefault(text, {})[where["commit"]] = None
    texts = [f"Measured on {text}, commits {', '.join(of)}." for text, of in found.items()]
    if any(commit.endswith("+") for of in found.values() for commit in of):
        texts.append("A + says that changes were not committed yet.")
    cpu = about["machine"]["cpu"]
    if any(text.startswith(cpu) for text in found):
        texts.append(f"{cpu}, by what it says: {about['probe']}.")
    return "\n".join([*texts, ""])


def main(path: Path = RECORD) -> None:
    """Write the tables and the picture beside a record."""
    from compress.report.picture import write_picture

    record = read_record(path)
    for name, text in pages(record).items():
        write_atomic(path.with_name(name), text)
    write_picture(record, path.with_name("front.png"))
    sys.stderr.write("now `study log` puts the tables into the README\n")


if __name__ == "__main__":
    for path in sorted(RECORD.parent.rglob(RECORD.name)):
        main(path)
