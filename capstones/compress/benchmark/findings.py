"""Sentences about a record, each made of its numbers: what they say, and whether goals were met.

>>> goal("int4 file", 0.28, 0.30)
'int4 file: 0.280 of 16 bits per weight, goal at most 0.30: reached'
"""

from collections.abc import Mapping
from typing import Any

from compress.benchmark.grid import rows
from compress.benchmark.lines import Line, lines

MOST = 0.30  # of 16 bits per weight, for int4 with its scales
INT4 = "int4 GPTQ g64 sym"
OUTER = (f"{INT4}, int8 embedding", f"{INT4}, int4 embedding")
PAIRS = (
    ("int4 RTN g64", "int4 GPTQ g64"),
    ("int4 RTN g64", "int4 GPTQ g64, plain"),
    ("int4 RTN g64 sym", "int4 GPTQ g64 sym"),
    ("int4 RTN g64 sym", "int4 GPTQ g64 sym, by Python's manual"),
    ("int3 RTN g64", "int3 GPTQ g64"),
    ("50 % magnitude", "50 % Wanda"),
    ("50 % magnitude", "50 % SparseGPT"),
    ("2:4 SparseGPT", "2:4 SparseGPT, recovered"),
)


def findings(record: Mapping[str, Any]) -> str:
    """A list in Markdown, of what is there."""
    by_name = {line.name: line for line in lines(record)}
    found = [_off_grid(record["about"]["off_grid"])]
    found += [_pair(by_name, *pair) for pair in PAIRS]
    found += _bytes(by_name)
    found.append(_pruned_speed(by_name.get("50 % SparseGPT")))
    found.append(_memory(by_name))
    found.append(_speed(by_name))
    found.append(_unmeasured(record, by_name))
    return "".join(f"- {text}\n" for text in found if text)


def goal(what: str, got: float, most: float) -> str:
    """Whether bytes are as few as they should be."""
    verdict = "reached" if got <= most else "missed"
    return f"{what}: {got:.3f} of 16 bits per weight, goal at most {most:.2f}: {verdict}"


def _off_grid(distance: float | None) -> str:
    if distance is None:
        return ""
    text = (
        "The distance of the copy's weights from a grid of four bits in blocks of 32, mean square"
    )
    return f"{text} over that of weights without a grid: {distance:.2f}."


def _pair(by_name: Mapping[str, Line], worse: str, better: str) -> str:
    """What the second of two leaves of the first one's loss."""
    a, b = (by_name.get(name) for name in (worse, better))
    if not (a and b and a.lost and b.lost):
        return ""
    lost = a.lost["mean"], b.lost["mean"]
    share = f", {lost[1] / lost[0]:.0%} of it" if a.lost.get("low", 0) > 0 else ""
    return f"**{worse}** loses {lost[0]:.3f} nats per token, **{better}** {lost[1]:.3f}{share}."


def _bytes(by_name: Mapping[str, Line]) -> list[str]:
    found = []
    if (line := by_name.get(INT4)) and line.blocks_of_float16:
        found.append(goal(f"{INT4}, matrices of the blocks", line.blocks_of_float16, MOST) + ".")
        found.append(goal(f"{INT4}, whole file", line.of_float16, MOST) + ".")
    for name in OUTER:
        if line := by_name.get(name):
            found.append(goal(f"{name}, whole file", line.of_float16, MOST) + ".")
    return found


def _pruned_speed(line: Line | None) -> str:
    """What users ask first of a pruned model."""
    if line is None or not line.verdicts:
        return ""
    count = min(line.verdicts, key=int)
    text = f"{line.name}: half of the weights are zero, and the file is {line.of_float16:.2f}"
    return f"{text} of 16 bits; writing is {line.verdicts[count]}."


def _memory(by_name: Mapping[str, Line]) -> str:
    """What a process holds of a form, beyond torch."""
    known = [line for line in by_name.values() if line.memory and not line.like]
    if not known:
        return ""
    told = [f"{line.name} {line.memory['held'] / 1e6:.0f}" for line in known]
    bare = max(line.memory["bare"] for line in known)
    text = "Memory in MB beyond a process that has imported torch and nothing else, which holds up"
    return f"{text} to {bare / 1e6:.0f}: {'; '.join(told)}."


def _speed(by_name: Mapping[str, Line]) -> str:
    """Which kernels are worth their trouble on this processor."""
    timed = [x for x in by_name.values() if x.verdicts and not x.like and x.name != "float32"]
    if not timed:
        return ""
    count = min(timed[0].verdicts, key=int)
    told = [f"{x.name} {x.verdicts[count].partition(' ')[0]}" for x in timed]
    return f"Tokens written per second, float32 = 1, {count} thread: {'; '.join(told)}."


def _unmeasured(record: Mapping[str, Any], by_name: Mapping[str, Line]) -> str:
    """What the command would measure and the record does not hold."""
    grid = record["about"].get("grid", "default")
    left = [row.name for row in rows(grid) if row.name not in by_name]
    return f"Rows of the {grid} grid that this record does not hold: {'; '.join(left)}." * bool(
        left
    )
