"""GitHub's Markdown to HTML: its anchors, its formulas, and links that lead into the book."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from shared.book.code import highlight
from shared.book.mathml import formula
from shared.book.pages import Library
from shared.book.words import verdict

CODE_OR_COMMENT = re.compile(r"(^ *```.*?^ *```|`[^`\n]+`)|<!--.*?-->", re.DOTALL | re.MULTILINE)
INLINE_MATH = re.compile(r"\$(?!\s)([^$]*?[^$\s\\])\$(?![\w$])", re.DOTALL)
DISPLAY_MATH = re.compile(r"\$\$(.+?)\$\$", re.DOTALL)
PUNCTUATED = re.compile(r"<math\b(?:(?!<math).)*?</math>[.,;:!?)]+", re.DOTALL)
INTERVAL = re.compile(r"\[(-?[\d.,]+), (-?[\d.,]+)\]")
VERDICT = re.compile(r"<strong>(holds|fails|reproduced|not reproduced|inconclusive)</strong>")


@dataclass
class Text:
    """A rendered text and its title, without markup."""

    title: str = ""
    html: str = ""


def render(text: str, here: str, library: Library, *, tags: bool = True) -> Text:
    """HTML of a Markdown text that stands in the file `here`; it may have `tags` of HTML."""
    text = CODE_OR_COMMENT.sub(lambda match: match[1] or "", text)  # one may begin a line
    parser, env = _parser(tags), {"here": here, "library": library}
    tokens = parser.parse(text, env)
    title = _anchors(tokens)
    _rewrite(tokens, here, library)
    page = parser.renderer.render(tokens, parser.options, env)
    page = PUNCTUATED.sub(r'<span class="together">\g<0></span>', page)
    return Text(title, VERDICT.sub(lambda match: verdict(match[1]), page))


def inline(text: str, here: str, library: Library) -> str:
    """HTML of one line of Markdown, without a paragraph around it."""
    return render(text, here, library).html.strip().removeprefix("<p>").removesuffix("</p>")


def slug(heading: str) -> str:
    """GitHub's anchor of a heading's text."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def display(latex: str) -> str:
    """A formula on a line of its own, which scrolls within itself where it is too wide."""
    return f'<span class="formula">{formula(latex, display=True)}</span>'


@cache
def _parser(tags: bool):
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": tags}).enable(["table", "strikethrough"])
    parser.block.ruler.before(
        "code",
        "math",
        _block_math,
        {"alt": ["paragraph", "reference", "blockquote", "list"]},
    )
    parser.inline.ruler.before("escape", "math", _inline_math)
    parser.add_render_rule("display_math", lambda _, t, i, *rest: display(t[i].content))
    parser.add_render_rule("inline_math", lambda _, t, i, *rest: formula(t[i].content))
    parser.add_render_rule("fence", _fence)
    parser.add_render_rule("code_block", _fence)
    return parser


def _block_math(state, start: int, end: int, silent: bool) -> bool:
    """`$$` at the beginning of a line, up to the line that ends with `$$`."""

    def line(number: int) -> str:
        return state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]]

    if state.is_code_block(start) or not line(start).startswith("$$"):
        return False
    last = start
    while not (line(last).rstrip().endswith("$$") and (last > start or len(line(last)) > 4)):
        last += 1
        if last >= end or state.sCount[last] < state.blkIndent:
            return False
    text = "\n".join(line(number) for number in range(start, last + 1)).strip()
    if "$$" in text[2:-2]:  # two formulas, or words between them: a paragraph
        return False
    if not silent:
        token = state.push("display_math", "div", 0)
        token.block, token.content, token.map = True, text[2:-2].strip(), [start, last + 1]
        state.line = last + 1
    return True


def _inline_math(state, silent: bool) -> bool:
    if state.src[state.pos] != "$":
        return False
    shown = DISPLAY_MATH.match(state.src, state.pos)
    before = state.src[state.pos - 1] if state.pos else " "
    match = shown or (None if before.isalnum() else INLINE_MATH.match(state.src, state.pos))
    if match is None:
        return False
    if not silent:
        token = state.push("display_math" if shown else "inline_math", "math", 0)
        token.content = match[1].strip()
    state.pos = match.end()
    return True


def _fence(_, tokens, index: int, *rest) -> str:
    token = tokens[index]
    language = (token.info or "").strip().split(" ")[0]
    if language == "math":
        return display(token.content)
    return highlight(token.content, language)


def _plain(token) -> str:
    """What a reader sees of an inline token, formulas as they are written."""
    parts = []
    for child in token.children or []:
        if child.type in ("text", "code_inline", "inline_math"):
            parts.append(child.content)
        elif child.type in ("softbreak", "hardbreak"):
            parts.append(" ")
    return "".join(parts).strip()


def _anchors(tokens) -> str:
    """Give each heading GitHub's anchor; returns the text of the first of level 1."""
    title, seen = "", {}
    for index, token in enumerate(tokens):
        if token.type != "heading_open":
            continue
        text = _plain(tokens[index + 1])
        anchor = slug(text)
        seen[anchor] = seen.get(anchor, -1) + 1
        if seen[anchor]:
            anchor = f"{anchor}-{seen[anchor]}"
        token.attrs["id"] = anchor
        title = title or (text if token.tag == "h1" else "")
    return title


def headings(page: str) -> list[tuple[int, str, str]]:
    """Level, anchor and inner HTML of a page's headings."""
    found = re.findall(r"""<h([1-6]) id=["']([^"']+)["'][^>]*>(.*?)</h\1>""", page, re.DOTALL)
    return [
        (int(level), anchor, re.sub(r"</?a\b[^>]*>", "", text)) for level, anchor, text in found
    ]


def outline(page: str) -> list[dict]:
    """Headings as mkdocs wants them, nested."""
    top: list[dict] = []
    stack: list[dict] = []
    for level, anchor, text in headings(page):
        token = {"level": level, "id": anchor, "name": text, "children": []}
        while stack and stack[-1]["level"] >= level:
            stack.pop()
        (stack[-1]["children"] if stack else top).append(token)
        stack.append(token)
    return top


def _rewrite(tokens, here: str, library: Library) -> None:
    """Links and pictures lead into the book."""
    for token in tokens:
        if token.type == "html_block":  # Markdown sleeps there, formulas do not
            token.content = INLINE_MATH.sub(lambda match: formula(match[1]), token.content)
        elif token.type == "link_open":
            token.attrs["href"] = library.href(str(token.attrs["href"]), here)
        elif token.type == "image":
            token.attrs["src"] = library.href(str(token.attrs["src"]), here)
            token.attrs |= {"loading": "lazy"} | size_of(library, here, token.attrs["src"])
        elif token.type == "text":
            token.content = INTERVAL.sub("[\\1,\u00a0\\2]", token.content)  # no line ends within
        _rewrite(token.children or [], here, library)


def size_of(library: Library, here: str, src: str) -> dict[str, int]:
    """Width and height of a PNG picture, so that text does not jump when it arrives."""
    path = (library.root / Path(here).parent / src).resolve()
    head = path.read_bytes()[:24] if path.suffix == ".png" and path.exists() else b""
    if len(head) < 24:
        return {}
    width, height = struct.unpack(">II", head[16:24])
    return {"width": width, "height": height}
