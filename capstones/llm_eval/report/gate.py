"""Rules that a run must meet, so that a build fails where a model got worse.

    acc=.6               every task's accuracy is no worse than 0.6
    arc_easy.acc=.3      that of one task
    bbq_age.s_AMB<=.1    a gap is at most 0.1

>>> number = Number("arc_easy", "acc", 0.5, 0.05, 0.4, 0.6, 100, 0, True, "acc|v:1")
>>> check([number], parse(["acc=.4", "arc_easy.acc>=.55"]))
['arc_easy.acc must be at least 0.55, got 0.500']
>>> check([number], parse(["acc=.45"]), strict=True)
['arc_easy.acc must be at least 0.45, got 0.500 with the low end 0.400']
"""

import difflib
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llm_eval.report.labels import digits
from llm_eval.types import Number
from shared.errors import UserError

if TYPE_CHECKING:
    from llm_eval.tasks.task import Task

_RULE = re.compile(r"\s*([^<>=\s]+)\s*(>=|<=|=)\s*([^<>=\s]+)\s*")
FORM = "[TASK.]METRIC=NUMBER, or with >= or <= for ="


@dataclass(frozen=True)
class Rule:
    """A limit that numbers of a name must keep; "=" is the side on which a metric is better."""

    name: str
    sign: str
    limit: float


def parse(rules: Sequence[str]) -> list[Rule]:
    """Rules as a user writes them.

    Raises
    ------
    UserError
        One of them has another form.
    """
    return [_parsed(rule) for rule in rules]


def foresee(rules: Sequence[Rule], tasks: "Sequence[Task]") -> None:
    """Refuse a rule about a number that these tasks cannot have, before they are asked.

    What a summary will be called is known only when it is made, so a task with summaries may have
    any number.

    Raises
    ------
    UserError
        A rule names what will not be measured.
    """
    named = {task: [task.name, *task.judge(num_fewshot=0).metrics] for task in tasks}
    known = {n for name, *own in named.values() for m in own for n in (m, f"{name}.{m}")}
    for rule in rules:
        owners = [task for task in tasks if rule.name.startswith(f"{task.name}.")] or tasks
        if rule.name not in known and not any(task.summaries for task in owners):
            raise _unknown(rule.name, known)


def check(numbers: Sequence[Number], rules: Sequence[Rule], *, strict: bool = False) -> list[str]:
    """What is not kept, a sentence each; empty if all is.

    Parameters
    ----------
    numbers
        Only those of whole tasks with their standard prompt are judged.
    strict
        Judge the worse end of the 95 % interval instead of the value.

    Raises
    ------
    UserError
        A rule names what was not measured, or neither direction is better and it does not say
        which is meant.
    """
    whole = [number for number in numbers if not number.group and not number.template]
    return [
        broken
        for rule in rules
        for number in _named(rule.name, whole)
        if (broken := _judge(number, rule, strict))
    ]


def _parsed(text: str) -> Rule:
    found = _RULE.fullmatch(text)
    try:
        limit = float(found[3]) if found else math.nan
    except ValueError:
        limit = math.nan
    if not found or not math.isfinite(limit):
        raise UserError(f"a rule must be {FORM}, got {text!r}")
    return Rule(found[1], found[2], limit)


def _named(name: str, numbers: Sequence[Number]) -> list[Number]:
    found = [x for x in numbers if name in (x.metric, f"{x.task}.{x.metric}")]
    if not found:
        raise _unknown(name, {n for x in numbers for n in (x.metric, f"{x.task}.{x.metric}")})
    return found


def _unknown(name: str, known: Collection[str]) -> UserError:
    close = difflib.get_close_matches(name, sorted(known), 3, 0.5)
    hint = f"there are {', '.join(sorted(known))}" if known else "there is none at all"
    hint = f"did you mean {' or '.join(close)}?" if close else hint
    return UserError(f"no number is called {name!r}; {hint}")


def _judge(number: Number, rule: Rule, strict: bool) -> str:
    """Why a number breaks a rule; empty if it keeps it."""
    name = f"{number.task}.{number.metric}"
    better = number.higher_is_better
    if rule.sign == "=" and better is None:
        raise UserError(f"of {name} neither direction is better: say >= or <= instead of =")
    at_least = rule.sign == ">=" or (rule.sign == "=" and better is True)
    must = f"{name} must be at {'least' if at_least else 'most'} {rule.limit:g}"
    if number.value is None or number.n == 0:
        return f"{must}, but it has no value ({number.n} documents)"
    if number.failed:
        total = number.n + number.failed
        return f"{must}, but {number.failed} of {total} documents got no answer"
    value, got = number.value, f"{must}, got {digits(number.value)}"
    if strict:
        value = number.low if at_least else number.high
        if value is None:
            return f"{got} without an interval"
        got += f" with the {'low' if at_least else 'high'} end {digits(value)}"
    return "" if (value >= rule.limit if at_least else value <= rule.limit) else got
