"""Which exercises there are: mistakes to find, functions to write, verdicts to predict.

All come from what the log holds anyway. A mistake to find is an entry of a week's bug catalogue. A
function can be written anew if the catalogue has a mistake inside its body: the entry's test was
seen to go red under it, so it needs the body. The new body is graded by such tests first and then
by the other tests of the catalogue for that module. A script whose record has claims can be
predicted.
"""

from __future__ import annotations

import ast
import hashlib
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import zip_longest
from pathlib import Path

from shared import log, records
from shared.bugs import Bug

KINDS = ("find", "write", "predict")
LINES = range(5, 41)  # of a body that is worth writing: longer than a line, not a whole program


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes
    ----------
    name
        `find/week01-pca-1f2e`: the folder below the reader's, which does not tell the answer.
    file
        The module, from the project's root; the script of a prediction.
    tests
        The pytest nodes that grade it, from the repository; none for a prediction.
    start, solution
        The module as the reader gets it, and as it stands in the repository.
    place
        First and last line of the mistake in `start`; of the body in `solution`.
    function
        The qualified name of the function around it; empty outside one.
    why
        What goes wrong with the mistake; the first line of the function's docstring.
    """

    name: str
    week: str
    file: str
    tests: tuple[str, ...] = ()
    start: str = ""
    solution: str = ""
    place: tuple[int, int] = (0, 0)
    function: str = ""
    why: str = ""

    @property
    def kind(self) -> str:
        """The kind of exercise, one of `KINDS`."""
        return self.name.split("/")[0]

    @property
    def target(self) -> str:
        """The name of the reader's file."""
        return Path(self.file).name


def weeks() -> list[str]:
    """Numbers of the weeks that have something to practice on."""
    return [w["number"] for w in log.curriculum()["week"] if "date" in w]


def of_week(week: str) -> list[Exercise]:
    """A week's exercises: kinds take turns, each in the catalogue's order."""
    return list(_of_week(records.ROOT, week))


@cache  # a session asks again and again; a project's files stay as they are meanwhile
def _of_week(root: Path, week: str) -> tuple[Exercise, ...]:
    mistakes = _mistakes(week)
    find = (_find(week, bug) for bug in mistakes)
    turns = zip_longest(find, _write(week, mistakes), _predict(week))
    return tuple(exercise for turn in turns for exercise in turn if exercise is not None)


def every(week: str = "", kind: str = "") -> Iterator[Exercise]:
    """The exercises of a week (all if none is named) and of a kind, in the log's order."""
    for number in [week] if week else weeks():
        yield from (e for e in of_week(number) if kind in ("", e.kind))


def names(like: str) -> list[str]:
    """Names of the exercises of the week that `like` is about, all if of none; kinds in front."""
    week = next((number for number in weeks() if f"week{number}" in like), "")
    return [exercise.name for exercise in every(week)]


def counts(week: str) -> dict[str, int]:
    """How many exercises of each kind a week has."""
    found = [exercise.kind for exercise in of_week(week)]
    return {kind: found.count(kind) for kind in KINDS}


def _mistakes(week: str) -> list[Bug]:
    """The catalogue's mistakes in a week's own ideas."""
    path = records.ROOT / "tests" / "weeks" / week / "bugs.toml"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    entries = tomllib.loads(text).get("bug", [])
    folder = f"weeks/{week}/"
    return [
        Bug(**entry)
        for entry in entries
        if entry["file"].startswith(folder)
        and entry["file"].endswith(".py")
        and "/evidence/" not in entry["file"]
        and entry["test"].startswith("tests/weeks/")
    ]


def _named(kind: str, week: str, file: str, secret: str) -> str:
    mark = hashlib.sha256(secret.encode()).hexdigest()[:4]
    return f"{kind}/week{week}-{Path(file).stem}-{mark}"


def _find(week: str, bug: Bug) -> Exercise:
    source = (records.ROOT / bug.file).read_text(encoding="utf-8")
    planted = bug.mistaken(records.ROOT)
    at = source.index(bug.before)
    place = changed_lines(planted, bug.after, bug.before, at)
    first, last = changed_lines(source, bug.before, bug.after, at)
    around = (n for n, f in _functions(source) if f.lineno <= first and last <= f.end_lineno)
    function = next(around, "")
    name = _named("find", week, bug.file, bug.id)
    return Exercise(
        name, week, bug.file, (bug.test,), planted, source, place, function, bug.symptom
    )


def changed_lines(text: str, new: str, old: str, at: int) -> tuple[int, int]:
    """First and last line of `text` that `new` (at offset `at`, in place of `old`) changed."""
    most = min(len(new), len(old))
    head = next((i for i in range(most) if new[i] != old[i]), most)
    tail = next((i for i in range(most - head) if new[-1 - i] != old[-1 - i]), most - head)
    first, last = at + head, max(at + head, at + len(new) - tail - 1)
    return text.count("\n", 0, first) + 1, text.count("\n", 0, last) + 1


@lru_cache(maxsize=8)  # a file has many mistakes
def _functions(source: str) -> list[tuple[str, ast.FunctionDef]]:
    """Functions of a module and methods of its classes, with their qualified names."""
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef):
            found.append((node.name, node))
        elif isinstance(node, ast.ClassDef):
            inner = [f for f in node.body if isinstance(f, ast.FunctionDef)]
            found += [(f"{node.name}.{f.name}", f) for f in inner]
    return found


def body_of(function: ast.FunctionDef) -> tuple[int, int] | None:
    """First and last line of a documented function's body after its docstring."""
    if not ast.get_docstring(function) or len(function.body) < 2:
        return None
    return function.body[0].end_lineno + 1, function.body[-1].end_lineno


def _write(week: str, mistakes: list[Bug]) -> list[Exercise]:
    found = []
    for file in dict.fromkeys(bug.file for bug in mistakes):
        source = (records.ROOT / file).read_text(encoding="utf-8")
        own = [
            (bug.test, changed_lines(source, bug.before, bug.after, source.index(bug.before)))
            for bug in mistakes
            if bug.file == file
        ]
        for name, function in _functions(source):
            body = body_of(function)
            if body is None or "_" in (name[0], function.name[0]):
                continue
            if body[1] - body[0] + 1 not in LINES:
                continue
            tests = [test for test, (top, low) in own if body[0] <= top and low <= body[1]]
            if not tests:
                continue
            lines = source.split("\n")
            blank = " " * function.body[0].col_offset + "raise NotImplementedError"
            start = "\n".join([*lines[: body[0] - 1], blank, *lines[body[1] :]])
            why = ast.get_docstring(function).split("\n")[0]
            label = _named("write", week, f"{function.name}.py", f"{file} {name}")
            tests = tuple(dict.fromkeys([*tests, *(test for test, _ in own)]))
            found.append(Exercise(label, week, file, tests, start, source, body, name, why))
    return found


def _predict(week: str) -> list[Exercise]:
    folder, found = records.ROOT / "weeks" / week, []
    for script in log.scripts_in(folder):
        path = records.record_of(script)
        if path.exists() and records.load(path)["claims"]:
            name = f"predict/week{week}-{script.stem}"
            found.append(Exercise(name, week, log.key(script), why=log.title_of(script)))
    return found
