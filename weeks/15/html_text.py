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

from collections.abc import Sequence
from dataclasses import dataclass
from html.parser import HTMLParser

_INLINE = """a abbr b bdi bdo big cite code data del dfn em font i ins kbd label mark q s samp small
span strike strong sub sup time tt u var wbr"""
# No head: its end may be left out, and all of its parts that hold text are here.
_HIDDEN = "title script style noscript template svg iframe object select"
INLINE, HIDDEN = frozenset(_INLINE.split()), frozenset(_HIDDEN.split())
NESTED = frozenset(("template", "svg", "object"))
# What ends an open element although its own end is missing, by the standard (13.2.6).
_TABLE = "caption table tbody tfoot thead tr td th"
_HTML = """b big blockquote body br center code dd div dl dt em embed h1 h2 h3 h4 h5 h6 head hr i
img li listing menu meta nobr ol p pre ruby s small span strong strike sub sup table tt u ul var"""
STARTS_END = {"select": frozenset(f"input keygen textarea {_TABLE}".split())}
STARTS_END |= {"svg": frozenset(_HTML.split())}
# The end of an element around it: <div><svg></div>. No element of SVG has such a name.
_AROUND = "html article aside footer header main nav section td th tr"
ENDS_END = {"select": frozenset(_TABLE.split()), "svg": frozenset(f"{_HTML} {_AROUND}".split())}
HTML_INSIDE = frozenset(("foreignobject", "desc", "title"))  # there <p> does not leave the drawing


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


class _Blocks(HTMLParser):
    """Collect blocks. Real pages leave tags open, so nothing relies on a matching end."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.blocks: list[Block] = []
        self._parts: list[tuple[str, bool]] = []
        self._hidden: str | None = None  # the tag that hides
        self._depth = self._inside = 0  # how often it is open, and of HTML_INSIDE in a drawing
        self._in_link = False

    def handle_starttag(self, tag, attrs):
        if not self._inside and tag in STARTS_END.get(self._hidden, ()):
            self._hidden = None
        if self._hidden:
            self._depth += tag == self._hidden and tag in NESTED
            self._inside += self._hidden == "svg" and tag in HTML_INSIDE
        elif tag not in INLINE | HIDDEN:
            self.end_block()
        elif tag in HIDDEN:
            self.end_block()
            self._hidden, self._depth, self._inside = tag, 1, 0
        elif tag == "a":
            self._in_link = True

    def handle_startendtag(self, tag, attrs):
        if tag not in HIDDEN and not (self._hidden and tag in HTML_INSIDE):  # <svg/> hides nothing
            self.handle_starttag(tag, attrs)
            if tag == "a":
                self._in_link = False

    def handle_endtag(self, tag):
        if self._hidden:
            self._depth -= tag == self._hidden
            self._inside -= self._inside > 0 and tag in HTML_INSIDE
            if not self._depth or (not self._inside and tag in ENDS_END.get(self._hidden, ())):
                self._hidden = None
        elif tag == "a":
            self._in_link = False
        elif tag not in INLINE:
            self.end_block()

    def handle_data(self, data):
        if not self._hidden:
            self._parts.append((data, self._in_link))

    def end_block(self):
        # Words can span tags (<b>W</b>ord), so the text is joined before it is cut into words.
        text = " ".join("".join(part for part, _ in self._parts).split())
        if text:
            linked = sum(len(part.split()) for part, is_link in self._parts if is_link)
            n_words = len(text.split())
            self.blocks.append(Block(text, n_words, min(linked, n_words)))
        self._parts, self._in_link = [], False  # an open link ends with its block


def blocks(html: str) -> list[Block]:
    """Blocks of visible text, in order."""
    parser = _Blocks()
    parser.feed(html)
    parser.close()
    parser.end_block()
    return parser.blocks


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
