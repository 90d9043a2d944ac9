"""A record as lines: each number with what it is compared with and the protocol it was measured by.

>>> nats = {"signature": "s", "page_signature": "p", "word_perplexity": None}
>>> record = {"about": {"rows": ["float32", "small"], "float16": {"file": 100, "blocks": 50}}}
>>> record |= {
...     "float32": {"bytes": {"file": 200, "blocks": 100}, "ppl": nats | {"nats": [1.0, 2.0]}}
... }
>>> record |= {"small": {"bytes": {"file": 60, "blocks": 20}, "ppl": nats | {"nats": [1.5, 2.6]}}}
>>> floats, small = lines(record)
>>> small.of_float16, round(small.lost["mean"], 2), small.on_front
(0.4, 0.55, True)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from compress.benchmark.grid import BY_NAME, FLOATS
from compress.benchmark.pareto import front
from compress.benchmark.probe import verdict
from compress.benchmark.quality import accuracy_change, nats_lost


@dataclass(frozen=True, kw_only=True)
class Line:
    """What was measured of a row; None where it was not.

    Attributes
    ----------
    of_float16, blocks_of_float16
        Bytes of the file and of the blocks' matrices, as shares of 16 bits per weight.
    lost, accuracy
        Beside float32, with intervals; as `nats_lost` and `accuracy_change` give them.
    memory, speed
        In bytes and by thread count; those of row `like` where it is not empty.
    on_front, on_fast_front
        Whether no row loses less with fewer bytes, or with faster decoding.
    """

    name: str
    what: str = ""
    n_bytes: int = 0
    of_float16: float = 0.0
    blocks_of_float16: float | None = None
    perplexity: float | None = None
    word_perplexity: float | None = None
    lost: dict[str, float] | None = None
    accuracy: dict[str, Any] | None = None
    seconds: float | None = None
    memory: dict[str, Any] | None = None
    speed: dict[str, dict[str, Any]] | None = None
    like: str = ""
    verdicts: dict[str, str] | None = None
    on_front: bool = False
    on_fast_front: bool = False


def lines(record: Mapping[str, Any]) -> list[Line]:
    """The rows in their order."""
    about = record["about"]
    order = [*(name for name in BY_NAME if name in about["rows"])]
    order += [name for name in about["rows"] if name not in BY_NAME]
    found = [_line(record, name) for name in order if name in record]
    found = _marked(found, "on_front", lambda line: line.n_bytes)
    return _marked(found, "on_fast_front", _step)


def _line(record: Mapping[str, Any], name: str) -> Line:
    row, full = record[name], record["about"]["float16"]
    like = BY_NAME[name].like if name in BY_NAME else ""
    same_kernels = record.get(like or name, {})
    timed = same_kernels.get("speed")
    facts: dict[str, Any] = {"what": row.get("what", ""), "seconds": row.get("seconds")}
    facts |= {"n_bytes": row["bytes"]["file"], "of_float16": row["bytes"]["file"] / full["file"]}
    if row["bytes"]["blocks"]:
        facts["blocks_of_float16"] = row["bytes"]["blocks"] / full["blocks"]
    if read := row.get("ppl"):
        facts["perplexity"] = perplexity(read["nats"])
        facts["word_perplexity"] = read["word_perplexity"]
        if (floats := record.get(FLOATS, {}).get("ppl")) and same(read, floats):
            facts["lost"] = nats_lost(read["nats"], floats["nats"])
    if answered := row.get("acc"):
        floats = record.get(FLOATS, {}).get("acc", answered)
        facts["accuracy"] = accuracy_change(answered["answers"], floats["answers"])
    if timed:
        facts |= {"speed": timed["speed"], "like": like}
        if floats := record.get(FLOATS, {}).get("speed"):
            facts["verdicts"] = verdicts(timed["speed"], floats["speed"])
    return Line(name=name, memory=same_kernels.get("memory"), **facts)


def same(read: Mapping[str, Any], floats: Mapping[str, Any]) -> bool:
    """Whether two perplexities are of one protocol: others are never compared."""
    return read["signature"] == floats["signature"]


def perplexity(nats: list[float]) -> float:
    """Of windows of one length."""
    return math.exp(min(sum(nats) / len(nats), 700))


def verdicts(speed: Mapping[str, Any], floats: Mapping[str, Any]) -> dict[str, str]:
    """Of decoding, by thread count."""
    return {
        count: verdict(own["decode_per_second"], floats[count]["decode_per_second"])
        for count, own in speed.items()
        if count in floats
    }


def _step(line: Line) -> float | None:
    """Seconds per new token with the fewest threads."""
    return line.speed and 1 / line.speed[min(line.speed, key=int)]["decode_per_second"]


def _marked(found: list[Line], mark: str, cost: Any) -> list[Line]:
    known = [i for i, line in enumerate(found) if line.perplexity and cost(line) is not None]
    best = front([(cost(found[i]), found[i].perplexity) for i in known])
    on = {known[i] for i in best}
    return [replace(line, **{mark: i in on}) for i, line in enumerate(found)]
