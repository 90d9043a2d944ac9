"""Jinja templates over a document, in a sandbox.

The environment is lm-eval's: an undefined name is an error, a trailing newline stays, and there is
the filter `regex_replace`. Templates come from files that others write, so that they run in Jinja's
sandbox and may not make a text of more than a million characters. What a sandbox cannot stop is a
long loop: templates of strangers want reading first.

>>> render("{{question}}\\nAnswer:", {"question": "Why?"})
'Why?\\nAnswer:'
>>> render("{{ 'a-b' | regex_replace('-', '+') }}", {})
'a+b'
>>> render("{{qestion}}", {"question": "Why?"})
Traceback (most recent call last):
shared.errors.UserError: the template '{{qestion}}' cannot be filled: 'qestion' is undefined
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment, SecurityError

from llm_eval.tasks.located import one_line, short
from shared.errors import UserError

MAX_LENGTH = 1_000_000


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(["*", "**", "%"])

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Products and powers of small numbers only: `'a' * 10 ** 10` would fill the memory."""
        if operator == "**" or not all(isinstance(x, int | float) for x in (left, right)):
            raise SecurityError(f"the operator {operator} works on numbers only, ** not at all")
        return super().call_binop(context, operator, left, right)


def _regex_replace(text: str, pattern: str, replacement: str, count: int = 0) -> str:
    return re.sub(pattern, replacement, text, count=count)


_ENVIRONMENT = _Environment(undefined=StrictUndefined, keep_trailing_newline=True)
_ENVIRONMENT.filters["regex_replace"] = _regex_replace
for _name in ("center", "indent", "format", "wordwrap", "pprint", "xmlattr"):
    _ENVIRONMENT.filters.pop(_name, None)  # make long texts of short ones, and no prompt needs them


@cache
def compiled(template: str) -> Template:
    """A template, compiled once.

    Raises
    ------
    UserError
        It is no template.
    """
    try:
        return _ENVIRONMENT.from_string(template)
    except TemplateSyntaxError as error:
        raise UserError(f"must be a template: {one_line(error.message)}") from error
    except (TemplateError, RecursionError, SyntaxError, ValueError, ArithmeticError) as error:
        raise UserError(f"must be a template, got {short(template)}") from error


def render(template: str, document: Mapping[str, Any]) -> str:
    """The template's text for a document.

    Raises
    ------
    UserError
        A name is undefined, something goes wrong in it, or the text is too long.
    """
    parts, length = [], 0
    try:
        for part in compiled(template).generate(**document):
            length += len(part)
            if length > MAX_LENGTH:
                raise SecurityError(f"its text is longer than {MAX_LENGTH:,} characters")
            parts.append(part)
    except Exception as error:  # whatever a template of others does
        why = one_line(error) or type(error).__name__
        raise UserError(f"the template {short(template)} cannot be filled: {why}") from error
    return "".join(parts)
