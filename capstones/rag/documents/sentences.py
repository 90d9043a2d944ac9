r"""Where a sentence ends: after its mark, unless the mark belongs to an abbreviation.

A full stop ends a sentence if what follows can begin one. It does not after "Dr." or in "Fig. 2";
after "etc." or "U.S.", which may stand last, it does if a word that opens sentences follows.

>>> text = "Dr. Ada wrote 1.5 pages (cf. Fig. 2). Who read them?  Nobody!"
>>> [text[start:end] for start, end in sentences(text)]
['Dr. Ada wrote 1.5 pages (cf. Fig. 2).', 'Who read them?', 'Nobody!']
"""

import re
from collections.abc import Iterator

__all__ = ["ends", "sentences"]

_NEVER = """adj approx brig ca capt cf cmdr det dr e.g eg esp gov hon i.e ie incl lt maj messrs mr
mrs ms mt prof pvt rep rev sen sgt st univ viz vs"""
NEVER = frozenset(_NEVER.split())
_NUMBERED = (
    "art ch chap col eq eqs fig figs no nos nr op p para pp ref refs sec sect tab v vol vols"
)
NUMBERED = frozenset(_NUMBERED.split())
_MAY_STAND_LAST = """al bros co corp dept ed eds est etc inc jr ltd ph.d plc sr jan feb mar apr jun
jul aug sep sept oct nov dec"""
MAY_STAND_LAST = frozenset(_MAY_STAND_LAST.split())
_OPENERS = """a after all although an and as at both but by during each even every first for from he
here his how however i if in it its many more most my no nobody on once one only our she since so
some such that the their then there these they this those to today two under we what when where
which while who why with you"""
OPENERS = frozenset(_OPENERS.split())

# After the marks of Chinese and Japanese no blank is needed. An empty line always ends a sentence.
_END = re.compile(
    r"""(?<![.!?…])(?P<mark>[.!?…]++)["'”’»)\]}*_]*+(?=\s)|[。！？]++[”’」』）]*+"""
    r"""|(?=\n[^\S\n]*+\n)|\Z"""
)
_NEXT = re.compile(r"""\s++["'“‘«(\[*_]*+(\S?)([^\W\d_]*+)""")
_WORD_BEFORE = re.compile(r"[\w.]*\Z")
_LETTERS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")  # initials: "J", "U.S", "p.m"


def sentences(text: str) -> list[tuple[int, int]]:
    """Spans of the sentences, without the blanks around them; no other character is left out."""
    spans, start = [], 0
    for end in ends(text):
        piece = text[start:end]
        if piece.strip():
            spans.append((end - len(piece.lstrip()), start + len(piece.rstrip())))
        start = end
    return spans


def ends(text: str) -> Iterator[int]:
    """Where sentences end, the last at the end of the text."""
    for found in _END.finditer(text):
        if found["mark"] is None or _is_end(text, found):
            yield found.end()


def _is_end(text: str, found: re.Match) -> bool:
    first, rest = _NEXT.match(text, found.end()).groups()
    if found["mark"] != ".":  # 'It is?" he asked' goes on; "It is? no it is not" does not
        return not first.islower() or (found["mark"][-1] in "!?" and found[0][-1] in "!?")
    if first.islower():
        return False
    # A look at a few characters, so that a text of one long word does not take quadratic time.
    before = text[max(0, found.start() - 16) : found.start()]
    word = _WORD_BEFORE.search(before)[0].lower()
    if word.isdecimal() and len(word) < 4:  # "1. First" in a list, not "in 1999. Then"
        return before.rpartition("\n")[2].strip() != word
    if word in NUMBERED:
        return not first.isdecimal()
    if word in MAY_STAND_LAST or _LETTERS.fullmatch(word):
        return (first + rest).lower() in OPENERS
    return word not in NEVER
