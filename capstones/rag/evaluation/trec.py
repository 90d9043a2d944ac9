"""Runs and judgments as files of TREC, which every tool of the field reads.

A run has six columns, ``query Q0 document rank score tag``, and qrels four, ``query 0 document
grade``. Scores are written in full: what is read is what was written.

>>> import tempfile
>>> path = Path(tempfile.mkdtemp()) / "run.trec"
>>> write_run(path, {"q1": {"b": 0.1, "a": 0.3}}, tag="hybrid")
>>> print(path.read_text(), end="")
q1 Q0 a 1 0.3 hybrid
q1 Q0 b 2 0.1 hybrid
>>> read_run(path)
{'q1': {'a': 0.3, 'b': 0.1}}
"""

import math
from collections.abc import Iterator
from pathlib import Path

from rag.evaluation.metrics import Qrels, Run, order
from shared.errors import UserError
from shared.files import write_atomic
from shared.require import require


def read_run(path: Path) -> dict[str, dict[str, float]]:
    """Scores by document by query; the ranks in the file are not believed, as in trec_eval."""
    run: dict[str, dict[str, float]] = {}
    for where, (query, _, document, _, text, _) in _lines(Path(path), 6):
        score = _number(text, where)
        if document in run.setdefault(query, {}):
            raise UserError(f"{where}: document {document!r} comes twice for query {query!r}")
        run[query][document] = score
    return run


def write_run(path: Path, run: Run, *, tag: str = "rag") -> None:
    """Write a run in the order in which trec_eval will judge it."""
    rows = [
        (query, "Q0", document, str(rank), repr(float(scores[document])), tag)
        for query, scores in run.items()
        for rank, document in enumerate(order(scores), 1)
    ]
    _write(Path(path), rows)


def read_qrels(path: Path) -> dict[str, dict[str, int]]:
    """Grades by document by query; a pair that is judged twice has its last grade."""
    qrels: dict[str, dict[str, int]] = {}
    for where, (query, _, document, grade) in _lines(Path(path), 4):
        qrels.setdefault(query, {})[document] = int(_number(grade, where))
    return qrels


def write_qrels(path: Path, qrels: Qrels) -> None:
    """Write judgments."""
    rows = [
        (query, "0", document, str(grade))
        for query, grades in qrels.items()
        for document, grade in grades.items()
    ]
    _write(Path(path), rows)


def _lines(path: Path, columns: int) -> Iterator[tuple[str, list[str]]]:
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(text.split("\n"), 1):
        if cells := line.split():
            where = f"{path}, line {number}"
            if len(cells) != columns:
                raise UserError(f"{where}: must have {columns} columns, got {len(cells)}")
            yield where, cells


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{where}: must have a finite number, got {text!r}")
    return value


def _write(path: Path, rows: list[tuple[str, ...]]) -> None:
    for row in rows:
        for name in (row[0], row[2], row[-1]):
            whole = name.split() == [name]
            require(whole, "names in TREC files must be without spaces", repr(name))
    write_atomic(path, "".join(" ".join(row) + "\n" for row in rows))
