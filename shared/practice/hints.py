"""Hints that tell a little more each time, and the answer."""

from __future__ import annotations

import ast
import difflib
import textwrap

from shared.practice.exercises import Exercise

AROUND = 5  # lines before and after the place that the second hint names


def hints(exercise: Exercise) -> list[str]:
    """From vague to plain; none for a prediction."""
    return {"find": _find, "write": _write, "predict": lambda exercise: []}[exercise.kind](exercise)


def _find(exercise: Exercise) -> list[str]:
    lines, (first, last) = exercise.start.split("\n"), exercise.place
    where = f"in `{exercise.function}`" if exercise.function else "outside the functions"
    low, high = max(1, first - AROUND), min(len(lines), last + AROUND)
    shown = "\n".join(f"{i:4d}  {lines[i - 1]}" for i in range(first, last + 1))
    return [
        f"The mistake is {where}.",
        f"It is between lines {low} and {high}.",
        f"It is here:\n{shown}",
    ]


def _write(exercise: Exercise) -> list[str]:
    body = body_text(exercise)
    called = dict.fromkeys(
        ast.unparse(node.func)
        for node in ast.walk(ast.parse(textwrap.dedent(f"def f():\n{body}")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute)
    )
    names = [name for name in called if name != "require" and "\n" not in name]
    lines = body.split("\n")
    count = f"The body in the repository has {len(lines)} lines."
    return [
        count,
        f"It calls {', '.join(names)}." if names else "It calls nothing.",
        "It begins so:\n" + "\n".join(lines[: (len(lines) + 1) // 2]),
    ]


def body_text(exercise: Exercise) -> str:
    """The body that was taken out of a function to write."""
    first, last = exercise.place
    return "\n".join(exercise.solution.split("\n")[first - 1 : last])


def answer(exercise: Exercise) -> str:
    """The change from what the reader got to what stands in the repository, as a diff."""
    lines = difflib.unified_diff(
        exercise.start.split("\n"), exercise.solution.split("\n"), lineterm="", n=2
    )
    return "\n".join(list(lines)[2:])  # after the two lines of file names
