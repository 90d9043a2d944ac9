r"""How a pattern cuts text into words, the same way whatever Unicode version a library has.

Which characters are letters depends on the table: what Unicode 16 left free is no letter in the
library `tokenizers`, and may be one in `regex`. Words would end elsewhere, and with them tokens.
So younger characters are cut as what they were then: neither letter, digit nor space.

>>> cut_words("low, lower", regex.compile(r"\p{L}+"))
['low', ', ', 'lower']
>>> cut_words("a\U000323b0b", regex.compile(r"\p{L}+|\P{L}+"))  # Chinese, since 2025
['a', '\U000323b0', 'b']

Source: Unicode's table of general categories, versions 16 to 18.
"""

import itertools
from collections import Counter
from collections.abc import Iterable

import regex

YOUNG = """
558 58B-58C 5C8-5C9 88F B53-B54 C5C CDC 1ACF-1AF0 208F 209D-209F 20C1-20C4 2B96 2E60-2E63
A7CE-A7CF A7D2 A7D4 A7DD-A7F1 AB6C-AB6D FBC3-FBD2 FD90-FD91 FDC8-FDCE 107BB-107BF 10940-10959
10EC5-10EFB 11B0A-11B67 11DB0-11DF1 1246F 12475-1247F 12550-12686 16EA0-16ED3 16FF2-16FF6
187F8-187FF 18CD6-18CDA 18D09-191D2 1B123-1B128 1B168 1CCFA-1CCFC 1CEBA-1CEFD 1D127-1D128
1D1EB-1D1FF 1D250-1D281 1D6A6 1DB00-1DB1C 1DF1F-1DF24 1DF2B-1DFFF 1E6C0-1E6FF 1F1AE 1F6D8-1F6D9
1F777-1F77A 1F7DA-1F7DB 1F7F1-1F7FF 1F8D0-1F8D8 1FA54-1FA57 1FA8A-1FA8E 1FAC8-1FACD 1FADD
1FAEA-1FAEF 1FAF9-1FAFA 1FBFA 2B73A-2B73F 2B81E 2CEA2-2CEAD 323B0-3FC3F
"""
_ENDS = (part.split("-") for part in YOUNG.split())
_SET = "".join(f"\\U{int(e[0], 16):08X}-\\U{int(e[-1], 16):08X}" for e in _ENDS)
_YOUNG = regex.compile(f"[{_SET}]")
MOST_CHARACTERS, LONGEST = 2**23, 2**16  # of all different words, of one
_NEVER_ASSIGNED = "\ufdd0"  # no letter, digit, mark or space in any version
_MOVED = str.maketrans("ʕ", "ȷ")  # a lowercase letter until version 17, as the other still is


def cut_words(text: str, pattern: regex.Pattern) -> list[str]:
    """The pattern's matches and what lies between them: every character, in order."""
    young = not text.isascii() and _YOUNG.search("".join(characters := set(text)))
    if not young and (text.isascii() or "ʕ" not in characters) and not pattern.groups:
        words = pattern.findall(text)
        if sum(map(len, words)) == len(text):
            return words
    old = (_YOUNG.sub(_NEVER_ASSIGNED, text) if young else text).translate(_MOVED)
    spans = (match.span() for match in pattern.finditer(old))
    edges = sorted({0, len(text), *itertools.chain.from_iterable(spans)})
    return [text[start:end] for start, end in itertools.pairwise(edges)]


def young_in(pattern: str) -> str:
    """The part of a pattern that names younger characters, or spans them."""
    for start, end in regex.findall("(.)-(.)", pattern, regex.DOTALL, overlapped=True):
        if _YOUNG.search("".join(map(chr, range(ord(start), ord(end) + 1)))):
            return f"{start}-{end}"
    return "".join(_YOUNG.findall(pattern))


def count_words(
    texts: Iterable[str], pattern: regex.Pattern | None, most: int = MOST_CHARACTERS
) -> Counter[str]:
    """How often each word that the pattern cuts occurs, see `count_bounded`."""
    return count_bounded((cut_words(text, pattern) if pattern else [text] for text in texts), most)


def count_bounded(texts: Iterable[list[str]], most: int = MOST_CHARACTERS) -> Counter[str]:
    """How often each word occurs, in memory that does not grow with the texts, lists of words.

    If all different words together exceed `most` characters, the rarest go until half of that is
    left; who comes again is counted from 0. A word longer than `LONGEST` is counted in parts.
    """
    counts: Counter[str] = Counter()
    size = 0
    for words in texts:
        if max(map(len, words), default=0) > LONGEST:
            words = [w[i : i + LONGEST] for w in words for i in range(0, len(w), LONGEST)]
        for start in range(0, len(words), LONGEST):
            before = len(counts)
            counts.update(words[start : start + LONGEST])
            fresh = itertools.islice(reversed(counts), len(counts) - before)
            size += sum(map(len, fresh))
            if size > most:
                for word in sorted(counts, key=counts.__getitem__):
                    if 2 * size <= most:
                        break
                    size -= len(word)
                    del counts[word]
    return counts
