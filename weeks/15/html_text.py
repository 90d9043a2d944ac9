r"""Text out of crawled HTML: cut a page into blocks and keep those that look like prose.

A block is what stands between two block-level tags. Menus are short and all links, prose is long
and has few, so two numbers decide, those of the block and of its neighbors:

$$\text{words} \quad\text{and}\quad \text{link density} = \text{words in links} / \text{words} .$$

>>> page = "<ul><li><a href=/>Home</a></ul><h1>Minima</h1><p>" + "A minimum is a fair draw. " * 4
>>> [(block.n_words, block.link_density) for block in blocks(page)]
[(1, 1.0), (1, 0.0), (24, 0.0)]
>>> main_text(page).split("\n")[0]  # short, but prose follows
'Minima'

Source: Kohlschütter, Fankhauser & Nejdl, "Boilerplate detection using shallow text features"
(2010), algorithm 2, a decision tree learned from 621 labeled news pages.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import unescape

_INLINE = """a abbr b bdi bdo big cite code data del dfn em font i ins kbd label mark q s samp small
span strike strong sub sup time tt u var wbr"""
INLINE = frozenset(_INLINE.split())
# Their content is text up to the end tag of the same name; of some it shows.
RAW = dict.fromkeys(("title", "script", "style", "iframe", "noembed", "noframes"), False)
RAW |= {"textarea": True, "xmp": True}
# No head: its end may be left out, and all of its parts that hold text are here.
NESTED = frozenset(("noscript", "template", "svg", "object", "select"))
HIDDEN = NESTED | {tag for tag, shows in RAW.items() if not shows}
# What ends an open element although its own end is missing, by the standard (13.2.6).
_TABLE = "caption table tbody tfoot thead tr td th"
_HTML = """b big blockquote body br center code dd div dl dt em embed h1 h2 h3 h4 h5 h6 head hr i
img li listing menu meta nobr ol p pre ruby s small span strong strike sub sup table tt u ul var"""
STARTS_END = {"select": frozenset(f"input keygen select textarea {_TABLE}".split())}
STARTS_END |= {"svg": frozenset(_HTML.split())}
# The end of an element around it: <div><svg></div>. No element of SVG has such a name.
_AROUND = """html article aside button details fieldset figcaption figure footer form header label
main nav section td th tr"""
ENDS_END = {"select": frozenset(_TABLE.split()), "svg": frozenset(f"{_HTML} {_AROUND}".split())}
HTML_INSIDE = frozenset(("foreignobject", "desc", "title"))  # there <p> does not leave the drawing
# An element whose end never comes hides these and the text up to the next tag, not the whole page.
STAY = {"select": frozenset(("option", "optgroup", "hr")), "object": frozenset(("param",))}

_OPENING = re.compile(r"<(?:!--(-?>)?|[!?]|/(?=[^a-z])|(/?)([a-z][^\s/>]*))", re.IGNORECASE)
_COMMENT_END = re.compile(r"--!?>")
# Quotes count where a value begins, and if they are closed.
_TAG_END = re.compile(r"""(?:[^>=]++|=\s*+(?:"[^"]*"|'[^']*')|=)*+>""")


@dataclass(frozen=True)
class Block:
    """A run of text without a block-level tag inside; how many words it has, and in links."""

    text: str
    n_words: int
    n_link_words: int

    @property
    def link_density(self) -> float:
        """Share of the words that are links."""
        return self.n_link_words / max(1, self.n_words)


def tokens(html: str) -> Iterator[tuple[str, str, str]]:
    """Text, the name of the tag that follows (if it is none, ""), and the tag's kind.

    Kinds are "" for a start, "/" for an end, "/>", and "raw" for a start whose content is text. One
    pass: an end that is missing is looked for once. A comment without one ends at its first `>`.
    """
    absent, at = set(), 0

    def find(pattern: re.Pattern, start: int) -> re.Match | None:
        found = None if pattern in absent else pattern.search(html, start)
        if not found:
            absent.add(pattern)
        return found

    while opening := _OPENING.search(html, at):
        text, end = html[at : opening.start()], opening.end()
        empty, slash, tag = opening.groups()
        if empty or (opening[0] == "<!--" and (closing := find(_COMMENT_END, end))):
            at = end if empty else closing.end()
            yield text, "", ""
            continue
        whole = _TAG_END.match(html, end) if tag and _TAG_END not in absent else None
        if tag and not whole:
            absent.add(_TAG_END)
        at = whole.end() if whole else html.find(">", end) + 1
        if not at:
            at = len(html)  # a page cut off inside a tag
            yield text, "", ""
        elif not tag:
            yield text, "", ""
        else:
            tag, last = tag.lower(), re.split(r"[\s\"']", html[end : at - 1])[-1]
            alone = last.endswith("/") and "=" not in last  # not <a href=/>
            raw = None
            if tag in RAW and not slash and not alone:
                raw = find(re.compile(rf"</{tag}(?=[\s/>])", re.IGNORECASE), at)
            yield text, tag, slash or ("/>" if alone else "raw" if raw else "")
            if raw:
                yield html[at : raw.start()] if RAW[tag] else "", "", ""
                at = raw.start()
    yield html[at:], "", ""


def blocks(html: str) -> list[Block]:
    """Blocks of visible text, in order. Real pages leave tags open, so no end is relied on."""
    found: list[Block] = []
    parts: list[tuple[str, bool]] = []

    def end_block() -> None:
        # Words can span tags (<b>W</b>ord), so the text is joined before it is cut into words.
        text = " ".join("".join(part for part, _ in parts).split())
        if text:
            linked = sum(len(part.split()) for part, is_link in parts if is_link)
            n_words = len(text.split())
            found.append(Block(text, n_words, min(linked, n_words)))
        parts.clear()

    page = list(tokens(html))
    ends, opened = {}, defaultdict(list)
    for i, (_, tag, kind) in enumerate(page):
        if tag in NESTED and not kind:
            opened[tag].append(i)
        elif kind == "/" and opened.get(tag):
            ends[opened[tag].pop()] = i

    hidden, end, inside, in_link = "", None, 0, False  # the tag that hides, and where it ends
    for i, (text, tag, kind) in enumerate(page):
        if not hidden:
            parts.append((unescape(text), in_link))
        elif tag:
            if hidden == "svg" and end and tag in HTML_INSIDE:
                inside = max(0, inside + (kind == "") - (kind == "/"))
            if i == end or (not inside and _leaves(hidden, tag, kind, end is not None)):
                hidden = ""
            if hidden or kind == "/":
                continue
        if tag == "a":
            in_link = kind == ""
        elif tag not in INLINE | {""} and not (tag in HIDDEN and kind == "/>"):  # <svg/> hides none
            end_block()
            in_link = False  # an open link ends with its block
            if tag in HIDDEN and not kind:
                hidden, end, inside = tag, ends.get(i), 0
    end_block()
    return found


def _leaves(hidden: str, tag: str, kind: str, closed: bool) -> bool:
    """Whether a tag is no longer part of what hides, although that has not ended."""
    if closed or hidden == "svg":
        known = ENDS_END if kind == "/" or not closed else STARTS_END
        return tag in known.get(hidden, ())
    return tag not in STAY.get(hidden, ())


def is_content(before: Block, block: Block, after: Block) -> bool:
    """Whether a block belongs to the main text, given its neighbors.

    References
    ----------
    Kohlschütter et al. (2010), algorithm 2.
    """
    if block.link_density > 1 / 3:
        return False
    if before.link_density > 5 / 9:
        return block.n_words > 40 or after.n_words > 17
    return block.n_words > 16 or after.n_words > 15 or before.n_words > 4


def main_text(html: str) -> str:
    """The main text of a page, one block a line."""
    empty = Block("", 0, 0)
    found: Sequence[Block] = [empty, *blocks(html), empty]
    neighbors = zip(found, found[1:], found[2:], strict=False)
    return "\n".join(b.text for a, b, c in neighbors if is_content(a, b, c))
