"""The bug catalogue: classic mistakes, each with the test that must go red.

`tests/**/bugs.toml` list small edits to our own code. A test suite that stays green under one of
them shows nothing about that bug. What was seen to be caught is *sealed*: `tests/bugs.lock` keeps a
digest of source, edit and test for each bug, and only a bug whose digest changed must be proved
again (and a sample of the others, another one every time).
"""

from __future__ import annotations

import ast
import functools
import hashlib
import random
import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

from shared import records
from shared.artifacts import write_atomic
from shared.errors import UserError

LOCK = "tests/bugs.lock"


@dataclass(frozen=True)
class Bug:
    """One classic mistake.

    Attributes
    ----------
    file
        The source to edit, from the project's root.
    before, after
        The text to replace, occurring exactly once, and what replaces it.
    symptom
        What goes wrong for whoever makes the mistake.
    test
        The pytest node that must go red.
    """

    id: str
    file: str
    before: str
    after: str
    symptom: str
    test: str

    def mistaken(self, root: Path) -> str:
        """The source of the project at `root` with the mistake made.

        Raises
        ------
        UserError
            If there is no such file, or `before` does not occur in it exactly once.
        """
        try:
            source = (root / self.file).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UserError(f"bug {self.id}: there is no file {self.file}") from None
        if source.count(self.before) != 1:
            raise UserError(
                f"bug {self.id}: `before` must occur once in {self.file}, "
                f"found {source.count(self.before)} times"
            )
        return source.replace(self.before, self.after)

    def digest(self) -> str:
        """SHA-256 of the source's and the test's code (blind to comments) and of the edit."""
        file, _, test = self.test.partition("::")
        parts = [self.before, self.after, test, _code(self.file), _test_code(file, test)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _code(name: str) -> str:
    text = _text(name)
    return _digest(text) if name.endswith(".py") else text


def _test_code(name: str, test: str) -> str:
    """A test and what its file has beside other tests, for these have no say in its outcome."""
    text, named = _text(name), test.partition("[")[0].partition("::")[0]
    lines = text.split("\n")
    for kind, first, last in _tests(text):
        if kind != named:
            lines[first - 1 : last] = [""] * (last - first + 1)
    return _digest("\n".join(lines))


@functools.cache
def _tests(text: str) -> list[tuple[str, int, int]]:
    """Name, first and last line of the tests of a file, and of its classes of tests."""
    return [
        (node.name, min(n.lineno for n in (node, *node.decorator_list)), node.end_lineno)
        for node in ast.parse(text).body
        if _is_test(node)
    ]


def _is_test(node: ast.AST) -> bool:
    if isinstance(node, ast.ClassDef):
        return node.name.startswith("Test") and any(map(_is_test, node.body))
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith(
        "test_"
    )


_digest = functools.cache(records.source_digest)


def _text(name: str) -> str:
    path = records.ROOT / name
    if not path.exists():
        raise UserError(f"there is no file {name}, which the bug catalogue names")
    return path.read_text(encoding="utf-8")


def catalogue() -> list[Bug]:
    """The bugs of every `bugs.toml` below `tests/`.

    Raises
    ------
    UserError
        If an entry lacks a field or has an unknown one, or two have the same name.
    """
    found, names = [], {field.name for field in fields(Bug)}
    for path in sorted((records.ROOT / "tests").rglob("bugs.toml")):
        where = path.relative_to(records.ROOT).as_posix()
        entries = tomllib.loads(path.read_text(encoding="utf-8")).get("bug", [])
        for number, entry in enumerate(entries, 1):
            if wrong := sorted(names ^ entry.keys()):
                name = entry.get("id", f"number {number}")
                raise UserError(f"{where}, bug {name}: missing or unknown {', '.join(wrong)}")
        found += [Bug(**entry) for entry in entries]
    if twice := {bug.id for bug in found if sum(b.id == bug.id for b in found) > 1}:
        raise UserError(f"two bugs are named {', '.join(sorted(twice))}")
    return found


def sealed() -> dict[str, str]:
    """Digest by bug, as last proved: the lines `id digest` of the lock."""
    path = records.ROOT / LOCK
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return dict(line.split() for line in lines if line)


def seal(caught: list[Bug], *, known: list[Bug]) -> None:
    """Add the caught bugs to the lock; those that the catalogue no longer knows leave it."""
    names = {bug.id for bug in known}
    lines = {name: digest for name, digest in sealed().items() if name in names}
    lines |= {bug.id: bug.digest() for bug in caught}
    text = "".join(f"{name} {digest}\n" for name, digest in sorted(lines.items()))
    write_atomic(records.ROOT / LOCK, text)


def unproved(bugs: list[Bug], *, sample: int = 0, seed: str = "") -> list[Bug]:
    """The bugs whose digest is not sealed, and a sample of the others.

    Parameters
    ----------
    sample
        How many of the sealed ones to add.
    seed
        Decides which: the commit's hash, so that the sample rotates.
    """
    seals = sealed()
    changed = [bug for bug in bugs if seals.get(bug.id) != bug.digest()]
    others = [bug for bug in bugs if bug not in changed]
    return changed + random.Random(seed).sample(others, min(sample, len(others)))
