"""Filters: a small language about metadata, that is parsed and never evaluated as code.

>>> test = parse('lang == "py" and (page >= 3 or path ~ "docs/*") and not draft')
>>> test.matches({"lang": "py", "page": 4})
True
>>> test.matches({"lang": "py", "path": "docs/index.md", "draft": True})
False
>>> parse("lang = 'py'")
Traceback (most recent call last):
shared.errors.UserError: where must have an operator (== != < <= > >= ~ !~ in) at character 6, \
got '='

A comparison with a key that is not there, or with a value of another kind, is false; `!=`, `!~` and
`not in` are the opposites of `==`, `~` and `in`. A key alone asks whether it is there and neither
false nor 0 nor empty. `~` matches a pattern as file names do, with * ? and [a-z].
"""

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol, runtime_checkable

from rag.types import Metadata, Scalar
from shared.errors import UserError

TOKEN = re.compile(
    r"""\s* (?: (?P<string> "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' )
    | (?P<number> [-+]? (?: \d+ (?:\.\d*)? | \.\d+ ) (?:[eE][-+]?\d+)? (?![\w.]) )
    | (?P<name> [^\W\d][\w.\-]* )
    | (?P<mark> == | != | <= | >= | !~ | [<>~(),\[\]=] )
    | (?P<end> $ ) )""",
    re.VERBOSE | re.DOTALL,
)
ORDER = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
OPERATORS = ("==", "!=", *ORDER, "~", "!~", "in")
WORDS = {"and", "or", "not", "in", "true", "false"}
DEEPEST = 50  # brackets and nots in one another


@runtime_checkable
class Condition(Protocol):
    """A question about metadata."""

    def matches(self, metadata: Metadata) -> bool:
        """Its answer."""
        ...


@dataclass(frozen=True)
class Compare:
    """One key against a value: `operator` is ==, <, <=, >, >=, ~, or "is" for a key alone."""

    key: str
    operator: str
    value: Scalar = True

    def matches(self, metadata: Metadata) -> bool:
        """Whether the key has such a value."""
        if self.key not in metadata:
            return False
        have, value = metadata[self.key], self.value
        if self.operator == "is":
            return bool(have)
        if kind(have) != kind(value):
            return False
        if self.operator == "~":
            return isinstance(have, str) and fnmatchcase(have, value)
        return have == value if self.operator == "==" else ORDER[self.operator](have, value)


@dataclass(frozen=True)
class Not:
    """The opposite."""

    part: Condition

    def matches(self, metadata: Metadata) -> bool:
        """Whether the part does not."""
        return not self.part.matches(metadata)


@dataclass(frozen=True)
class Every:
    """All of several."""

    parts: tuple[Condition, ...]

    def matches(self, metadata: Metadata) -> bool:
        """Whether all parts do."""
        return all(part.matches(metadata) for part in self.parts)


@dataclass(frozen=True)
class Some:
    """At least one of several."""

    parts: tuple[Condition, ...]

    def matches(self, metadata: Metadata) -> bool:
        """Whether a part does."""
        return any(part.matches(metadata) for part in self.parts)


def kind(value: object) -> str:
    """What values can be compared with: true is no number."""
    if isinstance(value, bool):
        return "truth"
    return "number" if isinstance(value, int | float) else type(value).__name__


def parse(where: str | Mapping[str, object]) -> Condition:
    """The test that a filter says.

    Parameters
    ----------
    where
        An expression; or keys with the value each must have, or a list of those it may have.

    Raises
    ------
    UserError
        It is no filter; the message says at which character.
    """
    if isinstance(where, Mapping):
        many = {key: v if isinstance(v, list | tuple) else [v] for key, v in where.items()}
        parts = (Some(tuple(Compare(k, "==", v) for v in values)) for k, values in many.items())
        return Every(tuple(parts))
    return _Parser(where).whole()


class _Parser:
    """One character after another, from left to right."""

    def __init__(self, text: str):
        self.text, self.tokens, end = text, [], 0
        while not self.tokens or self.tokens[-1][0] != "end":
            match = TOKEN.match(text, end)
            if not match:
                start = len(text) - len(text[end:].lstrip())
                got = repr(text[start : start + 10])
                raise UserError(f"where must be a filter, at character {start + 1} got {got}")
            self.tokens.append(
                (match.lastgroup, match[match.lastgroup], match.start(match.lastgroup))
            )
            end = match.end()
        self.place, self.depth = 0, 0

    @property
    def now(self) -> tuple[str, str, int]:
        return self.tokens[self.place]

    def fail(self, must: str) -> UserError:
        _, text, start = self.now
        return UserError(f"where must {must} at character {start + 1}, got {text or 'the end'!r}")

    def take(self, *texts: str) -> str | None:
        """The next token if it is one of these words or marks."""
        group, text, _ = self.now
        if group in ("name", "mark") and text in texts:
            self.place += 1
            return text
        return None

    def expect(self, text: str) -> None:
        if not self.take(text):
            raise self.fail(f"have {text!r}")

    def whole(self) -> Condition:
        test = self.any_of()
        if self.now[0] != "end":
            raise self.fail("go on with 'and' or 'or', or end")
        return test

    def any_of(self) -> Condition:
        parts = [self.all_of()]
        while self.take("or"):
            parts.append(self.all_of())
        return parts[0] if len(parts) == 1 else Some(tuple(parts))

    def all_of(self) -> Condition:
        parts = [self.one()]
        while self.take("and"):
            parts.append(self.one())
        return parts[0] if len(parts) == 1 else Every(tuple(parts))

    def one(self) -> Condition:
        self.depth += 1
        if self.depth > DEEPEST:
            raise self.fail(f"not nest more than {DEEPEST} deep")
        if self.take("not"):
            test = Not(self.one())
        elif self.take("("):
            test = self.any_of()
            self.expect(")")
        else:
            test = self.comparison()
        self.depth -= 1
        return test

    def comparison(self) -> Condition:
        group, text, _ = self.now
        if group not in ("name", "string") or text in WORDS:
            raise self.fail("name a key")
        key = text if group == "name" else unquoted(text)
        self.place += 1
        if self.take("not"):
            self.expect("in")
            return Not(self.listed(key))
        if self.take("in"):
            return self.listed(key)
        if found := self.take("==", "!=", *ORDER, "~", "!~"):
            test = Compare(key, {"!=": "==", "!~": "~"}.get(found, found), self.value())
            return Not(test) if found[0] == "!" else test
        if self.now[1] in ("", "and", "or", ")"):
            return Compare(key, "is")
        raise self.fail(f"have an operator ({' '.join(OPERATORS)})")

    def listed(self, key: str) -> Condition:
        close = {"(": ")", "[": "]"}.get(self.take("(", "[") or "")
        if not close:
            raise self.fail("have a list, (1, 2) or [1, 2],")
        values = []
        while not self.take(close):
            values.append(self.value())
            if not self.take(","):
                self.expect(close)
                break
        return Some(tuple(Compare(key, "==", value) for value in values))

    def value(self) -> Scalar:
        group, text, _ = self.now
        if group == "string":
            value = unquoted(text)
        elif group == "number":
            value = int(text) if re.fullmatch(r"[-+]?\d+", text) else float(text)
        elif text in ("true", "false"):
            value = text == "true"
        else:
            raise self.fail('have a value ("text", a number, true or false)')
        self.place += 1
        return value


def unquoted(text: str) -> str:
    """A string's content; a backslash takes the next character as it is."""
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
