r"""Where the definitions of a program begin: Python by its own parser, other languages by a look.

>>> text = "import os\n\n# Yes.\ndef f():\n    pass\nx = f()\n"
>>> [(text[start : start + 6], names) for start, names in sections(text, "py")]
[('import', ()), ('# Yes.', ('f',)), ('x = f(', ())]
"""

import ast
import re
import warnings

__all__ = ["LANGUAGES", "sections"]

Section = tuple[int, tuple[str, ...]]

# The suffixes of each language; `lang` of a document is its name here.
_SUFFIXES = {
    "py": "py pyi pyx",
    "js": "js jsx mjs cjs",
    "ts": "ts tsx mts cts",
    "c": "c h",
    "cpp": "cc cpp cxx hh hpp hxx cu cuh",
    "cs": "cs",
    "go": "go",
    "java": "java",
    "kt": "kt kts",
    "lua": "lua",
    "php": "php",
    "pl": "pl pm",
    "r": "r",
    "rb": "rb",
    "rs": "rs",
    "scala": "scala",
    "sh": "sh bash zsh",
    "sql": "sql",
    "swift": "swift",
    "v": "v sv vh svh",
}
LANGUAGES = {f".{suffix}": lang for lang, all_ in _SUFFIXES.items() for suffix in all_.split()}

_LINE = re.compile(r"\r\n|\r|\n")
# Lines that belong to the definition below them: comments, decorators, attributes.
_ABOVE = re.compile(r"[ \t]*(?:#|//|/\*|\*|--|@|\[|template\b)")
_KEYWORDS = """class struct interface enum trait impl union func function fn def module namespace
type record object protocol sub proc macro_rules! package task"""
_DEFINITION = re.compile(
    rf"""^(?:[\w@()]+[ \t]+){{0,6}}(?:{"|".join(_KEYWORDS.split())})(?:<[^>\n]*>)?\*?[ \t]+
         (?:\([^)\n]*\)[ \t]*)?(?P<named>[\w.:$]+)
       |^(?:export[ \t]+)?(?:const|let|var)[ \t]+(?P<arrow>[\w$]+)[ \t]*=[ \t]*(?:async[ \t]*)?
         (?:function\b|\()
       |^(?!(?:if|for|while|switch|else|do|return)\b)[A-Za-z_][\w \t*&:<>,\[\]~]{{0,200}}?
         (?P<called>[\w~:]{{1,80}})[ \t]*\([^;{{}}]{{0,400}}\)[^;{{}}]{{0,100}}\{{""",
    re.M | re.X,
)


def sections(text: str, lang: str, size: int = 0) -> list[Section]:
    """Where each definition begins, with the comments above it, and the names it stands under.

    What stands between two definitions of Python is a section of its own; elsewhere it belongs to
    the one before. A class of Python with more than `size` characters is cut at its methods.
    """
    if lang == "py":
        try:
            with warnings.catch_warnings(action="ignore"):  # "\d" and the like in another's code
                body = ast.parse(text).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            pass  # Python 2, a template, a part of a file
        else:
            lines = [0, *(end.end() for end in _LINE.finditer(text)), len(text)]
            return _python(text, lines, body, (0, ()), size)
    found: list[Section] = [(0, ())]
    for match in _DEFINITION.finditer(text):
        start = _with_comments(text, match.start(), found[-1][0])
        name = match["named"] or match["arrow"] or match["called"]
        if start == found[-1][0]:
            found.pop()
        found.append((start, (name,)))
    return found


def _python(text: str, lines: list[int], body: list, first: Section, size: int) -> list[Section]:
    found = [first]
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            line = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            start = _with_comments(text, lines[line - 1], found[-1][0])
            end = lines[node.end_lineno]
            at_once = node is body[0] and first[1]  # after the line "class A:"
            if start == found[-1][0] or at_once:
                start, _ = found.pop()
            own = (start, (*first[1], node.name))
            if isinstance(node, ast.ClassDef) and end - start > size:
                found += _python(text, lines, node.body, own, size)
            else:
                found.append(own)
            found.append((end, first[1]))
    return found


def _with_comments(text: str, start: int, floor: int) -> int:
    """Where the comments begin that stand right above a line, not before `floor`."""
    while start > floor:
        above = text.rfind("\n", 0, start - 1) + 1
        if above < floor or not _ABOVE.match(text, above, start):
            break
        start = above
    return start
