"""Hints that tell a little more each time, and the answer."""

from __future__ import annotations

import ast
import difflib
import textwrap

from shared import records
from shared.judge import rule_text
from shared.practice.exercises import Exercise

AROUND = 5  # lines before and after the place that the second hint names


def hints(exercise: Exercise) -> list[str]:
    """From vague to plain; of a prediction, what to think about and not what came out."""
    return {"find": _find, "write": _write, "predict": _predict}[exercise.kind](exercise)


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


def _predict(exercise: Exercise) -> list[str]:
    record = records.load(records.record_of(records.ROOT / exercise.file))
    about = [_on_claim(claim, record["falsifiers"]) for claim in record["claims"]]
    return [f"What the script is about:\n{_idea(exercise)}", *about]


def _on_claim(claim: dict, falsifiers: list[dict]) -> str:
    """What the rule asks for, and what the run takes away to see it broken."""
    rule, n = rule_text(claim).removesuffix(" for each"), claim["n"]
    if claim["each"]:
        must = f"Each of {n} values must be {rule}."
    elif n == 1:
        must = f"One number must be {rule}."
    else:
        must = f"The whole 95 % interval of a mean (n = {n}) must be {rule}; a part is not enough."
    taken = "; ".join(f["name"] for f in falsifiers if f["breaks"] == claim["name"])
    without = f" What should break it: {taken}. What is missing there?" if taken else ""
    return f"{claim['name']}: {must}{without}"


def _idea(exercise: Exercise) -> str:
    """The script's docstring between title and command, without its doctest."""
    source = (records.ROOT / exercise.file).read_text(encoding="utf-8")
    doc = ast.get_docstring(ast.parse(source)) or ""
    parts = doc.partition("\n    uv run ")[0].split("\n\n")[1:]
    prose = [part.strip("\n") for part in parts if not part.lstrip().startswith(">>>")]
    return "\n".join(prose) or f"{exercise.why}."


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
