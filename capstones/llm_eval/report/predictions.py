"""Numbers of predictions that some other program made, no model needed.

A file has a JSON object per line, with a prediction and its references under any of the usual
names:

    {"prediction": "Paris", "reference": "Paris"}
    {"id": "7", "output": "1889", "references": ["1889", "in 1889"]}

A prediction of null is a document that got no answer: it is counted apart, in no average.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_eval.statistics.estimates import bootstrap_estimate, mean_estimate
from llm_eval.types import Number
from shared.errors import UserError

if TYPE_CHECKING:
    from llm_eval.metrics.registry import Metric

PREDICTION = ("prediction", "pred", "hypothesis", "output", "response", "generated")
REFERENCE = ("references", "reference", "targets", "target", "answers", "answer", "gold", "label")
LONGEST = 10_000_000  # bytes of a line; a longer one is no prediction


@dataclass(frozen=True)
class Prediction:
    """A line: what was written, None for no answer, and what would have been right."""

    id: str
    text: str | None
    references: tuple[str, ...]


def score(path: Path, metrics: Sequence[str] = ("exact_match",), *, seed: int = 0) -> list[Number]:
    """What the predictions of a file are worth by metrics of generated text.

    Raises
    ------
    UserError
        The file cannot be read, a line is not a prediction, or a metric is unknown.
    """
    chosen = [_metric(name) for name in metrics]
    values: list[list[Any]] = [[] for _ in chosen]
    failed = 0
    for prediction in read_predictions(path):
        if prediction.text is None:
            failed += 1
            continue
        for metric, found in zip(chosen, values, strict=True):
            found.append(metric.value(prediction.text, list(prediction.references)))
    return [
        _number(Path(path).stem, metric, found, failed, seed)
        for metric, found in zip(chosen, values, strict=True)
    ]


def read_predictions(path: Path) -> Iterator[Prediction]:
    """The predictions of a file, a line at a time.

    Raises
    ------
    UserError
        The file cannot be read or holds none, or a line is not a prediction; it is named.
    """
    seen = False
    try:
        with Path(path).open("rb") as stream:
            for line in count(1):
                raw = stream.readline(LONGEST + 1)
                if not raw:
                    break
                if raw.strip():
                    yield _prediction(raw, f"{path}, line {line}", str(line))
                    seen = True
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    if not seen:
        raise UserError(f"{path} must hold predictions, one JSON object per line; it is empty")


def _prediction(raw: bytes, place: str, line: str) -> Prediction:
    if len(raw) > LONGEST:
        raise UserError(f"{place}: a line must be at most {LONGEST:,} bytes long")
    try:
        row = json.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: must be UTF-8 ({error.reason})") from error
    except (ValueError, RecursionError) as error:
        why = getattr(error, "msg", "nested too deeply")
        raise UserError(f"{place}: must be a JSON object ({why})") from error
    if not isinstance(row, dict):
        raise UserError(f"{place}: must be a JSON object, got {_kind(row)}")
    name, text = _field(row, PREDICTION, place)
    if text is not None:
        _text(text, f"{place}: {name}")
    name, given = _field(row, REFERENCE, place)
    references = given if isinstance(given, list) else [given]
    if not references:
        raise UserError(f"{place}: {name} must be text or a list of texts, got an empty list")
    for reference in references:
        _text(reference, f"{place}: {name}")
    return Prediction(str(row.get("id", line)), text, tuple(references))


def _field(row: dict[str, Any], names: Sequence[str], place: str) -> tuple[str, Any]:
    for name in names:
        if name in row:
            return name, row[name]
    raise UserError(f"{place}: must have a field {', '.join(names[:-1])} or {names[-1]}")


def _text(value: Any, what: str) -> None:
    if not isinstance(value, str):
        raise UserError(f"{what} must be text, got {_kind(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{what} must be text, got half a character ({error.reason})") from error


def _kind(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return (names | {dict: "an object", str: "text", type(None): "null"})[type(value)]


def _metric(name: str) -> "Metric":
    from llm_eval.metrics.registry import metric

    try:
        return metric("generate_until", name)
    except UserError as error:  # who scores predictions has no types of tasks
        raise UserError(str(error).replace("metric of generate_until", "metrics", 1)) from None


def _number(task: str, metric: "Metric", values: list, failed: int, seed: int) -> Number:
    value = stderr = low = high = None
    if values and metric.linear:
        found = mean_estimate(values)
        value, stderr, low, high = found.value, found.stderr, found.low, found.high
    elif values:
        found = bootstrap_estimate(values, metric.aggregate, seed=seed)
        value, stderr, low, high = found.value, found.stderr, found.low, found.high
    better, n = metric.higher_is_better, len(values)
    signature = metric.signature
    return Number(task, metric.name, value, stderr, low, high, n, failed, better, signature)
