r"""YAML whose every value knows its line, read field by field.

What is wrong in a task's file is told with file, line and field. Fields are asked for by name; what
nobody asked for is a mistake, mostly of spelling. Nothing in a file is ever executed: `!function`
and every other tag of code is refused.

>>> fields = parse("task: demo\nnum_fewshot: five\n", "demo.yaml")
>>> fields.take("task", str)
'demo'
>>> fields.take("num_fewshot", int)
Traceback (most recent call last):
shared.errors.UserError: demo.yaml:2: num_fewshot must be a whole number, got 'five'
>>> parse("tsk: demo\n", "demo.yaml").done("task")
Traceback (most recent call last):
shared.errors.UserError: demo.yaml:1: unknown field tsk; did you mean task?
"""

import difflib
from pathlib import Path
from typing import Any

import yaml

from shared.errors import UserError

MAX_BYTES = 1_000_000
MAX_NODES = 100_000  # an alias of an alias of an alias grows without end
MAX_DEPTH = 50
KINDS = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    dict: "a mapping",
    list: "a list",
}
Step = str | int


class Fields:
    """A mapping of a file, whose fields are taken one by one.

    Attributes
    ----------
    content
        The mapping's plain values.
    asked
        Names that were taken, for `done`.
    """

    def __init__(
        self,
        content: dict[str, Any],
        places: dict[tuple[Step, ...], tuple[str, int]],
        path: tuple[Step, ...] = (),
    ):
        self.content, self.places, self.path = content, places, path
        self.asked: set[str] = set()

    def take(self, name: str, *kinds: type, default: Any = None) -> Any:
        """A field's value; the default where it is absent or null.

        Raises
        ------
        UserError
            The value is of none of the kinds. A whole number is a float too, true is no number.
        """
        self.asked.add(name)
        value = self.content.get(name)
        if value is None:
            return default
        allowed = (*kinds, int) if float in kinds else kinds
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(KINDS[kind] for kind in kinds)
            raise self.error(name, f"must be {wanted}, got {short(value)}")
        return float(value) if float in kinds and isinstance(value, int) else value

    def texts(self, name: str, default: tuple[str, ...] = ()) -> tuple[str, ...]:
        """A text, which is a list of one, or a list of texts."""
        value = self.take(name, str, list)
        if value is None:
            return default
        value = [value] if isinstance(value, str) else value
        if not all(isinstance(item, str) for item in value):
            raise self.error(name, f"must be text or a list of texts, got {short(value)}")
        return tuple(value)

    def block(self, name: str) -> "Fields":
        """A mapping in it; empty where it is absent."""
        return Fields(self.take(name, dict, default={}), self.places, (*self.path, name))

    def blocks(self, name: str) -> "list[Fields] | None":
        """A list of mappings in it; None where it is absent."""
        values = self.take(name, list)
        if values is None:
            return None
        for i, value in enumerate(values):
            if not isinstance(value, dict):
                raise self.error(name, f"item {i} must be a mapping, got {short(value)}")
        return [Fields(value, self.places, (*self.path, name, i)) for i, value in enumerate(values)]

    def done(self, *also: str) -> None:
        """Refuse fields that were not asked for."""
        known = self.asked | set(also)
        for name in self.content:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else "known are " + listed(known)
                raise UserError(f"{self._place(name)}: unknown field {self._dotted(name)}; {hint}")

    def error(self, name: str, why: str) -> UserError:
        """The mistake in a field, with where it stands."""
        return UserError(f"{self._place(name)}: {self._dotted(name)} {one_line(why)}")

    def _dotted(self, name: str) -> str:
        return one_line(".".join(map(str, (*self.path, name))))

    def _place(self, name: str) -> str:
        path = (*self.path, name)
        while path and path not in self.places:
            path = path[:-1]
        file, line = self.places[path]
        return f"{file}:{line}"


def parse(text: str, file: str) -> Fields:
    """The mapping that a text in YAML holds.

    Raises
    ------
    UserError
        It is no YAML, no mapping, names a field twice, holds code, or is too large.
    """
    places: dict[tuple[Step, ...], tuple[str, int]] = {(): (file, 1)}
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{file}:1: must hold a mapping of fields, such as task: NAME")
        return Fields(_value(loader, node, (), file, places), places)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise UserError(f"{file}:{line}: is no YAML: {one_line(error.problem)}") from error
    except yaml.YAMLError as error:  # a character that YAML does not know
        raise UserError(f"{file}:1: is no YAML: {one_line(str(error))}") from error
    except RecursionError as error:
        raise UserError(f"{file}:1: is nested too deeply") from error
    finally:
        if loader is not None:
            loader.dispose()


def read(path: Path) -> str:
    """The text of a small regular file, or one line why not."""
    try:
        if path.stat().st_size > MAX_BYTES or not path.is_file():
            raise UserError(f"{path} must be a file of at most {MAX_BYTES:,} bytes")
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text (byte {error.start})") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{one_line(str(path))} cannot be read ({why})") from error


def short(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"


def one_line(text: Any) -> str:
    """Text for a message: no control characters, not too long."""
    text = "".join(c if c.isprintable() else " " for c in str(text))
    return text if len(text) <= 300 else text[:297] + "…"


def listed(names: Any) -> str:
    """Names in order."""
    return ", ".join(sorted(names))


def _value(loader, node, path, file, places) -> Any:
    line = node.start_mark.line + 1
    places[path] = places.get(path, (file, line))
    if len(places) > MAX_NODES or len(path) > MAX_DEPTH:
        raise UserError(f"{file}:{line}: holds too much, or is nested too deeply")
    if not node.tag.startswith("tag:yaml.org,2002:"):
        where = ".".join(map(str, path)) or "the file"
        raise UserError(
            f"{file}:{line}: {one_line(where)} is {one_line(node.tag)}, which asks to run code of "
            "the file; nothing of a task's file is run here"
        )
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = key_node.value
            at = f"{file}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode) or key == "<<":
                raise UserError(f"{at}: names of fields must be plain text")
            if key in found:
                raise UserError(f"{at}: field {one_line(key)} comes twice")
            places[(*path, key)] = (file, key_node.start_mark.line + 1)
            found[key] = _value(loader, value_node, (*path, key), file, places)
        return found
    if isinstance(node, yaml.SequenceNode):
        items = enumerate(node.value)
        return [_value(loader, item, (*path, i), file, places) for i, item in items]
    try:
        value = loader.construct_object(node)
    except (ValueError, yaml.YAMLError, OverflowError, LookupError) as error:
        raise UserError(f"{file}:{line}: {one_line(node.value)!r} is no value") from error
    return value if isinstance(value, str | int | float | bool | None) else node.value
