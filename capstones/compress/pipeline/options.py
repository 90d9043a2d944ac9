"""Steps from what a YAML file holds: every option known and of its kind, or one line that says so.

>>> @dataclasses.dataclass(frozen=True)
... class Bake:
...     minutes: int = 10
>>> made(Bake, {"minutes": 20})
Bake(minutes=20)
>>> made(Bake, {"minutes": "long"})
Traceback (most recent call last):
shared.errors.UserError: minutes must be a whole number, got 'long'
"""

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from shared.errors import UserError
from shared.require import require


def must_hold(holds: Any, what: str, *got: Any) -> None:
    """`require`, as a mistake of the user's."""
    require(holds, what, *got, error=UserError)


def plain(part: Any) -> dict[str, Any]:
    """The fields of a dataclass by name."""
    return {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}


def made(kind: type, options: Any) -> Any:
    """A part from its options, each of its kind."""
    options = {} if options is None else options
    name = kind.__name__.lower()
    must_hold(isinstance(options, Mapping), f"{name} must be options by name", repr(options))
    kinds = typing.get_type_hints(kind)
    for option, value in options.items():
        must_hold(option in kinds, f"{name} must have options of {', '.join(kinds)}", repr(option))
        right, says = _fits(value, kinds[option])
        must_hold(right, f"{option} must be {says}", repr(value))
    return kind(**options)


def _fits(value: Any, kind: Any) -> tuple[bool, str]:
    """Whether a value is of a kind, and what the kind is called."""
    if get_origin(kind) is Literal:
        return value in get_args(kind), f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) is Mapping:
        return isinstance(value, Mapping), "a mapping"
    if arms := get_args(kind):  # X | None
        fits = [_fits(value, arm) for arm in arms if arm is not type(None)]
        return value is None or any(each for each, _ in fits), fits[0][1]
    numbers = {float: ((float, int), "a number"), int: ((int,), "a whole number")}
    allowed, says = numbers.get(kind, ((kind,), {bool: "true or false"}.get(kind, "text")))
    return type(value) in allowed, says
