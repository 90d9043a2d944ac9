"""Words that are insults by themselves, found as words: not in Scunthorpe, but as f.0.0.l too.

A baseline beside the classifier, and what is left where its data is absent. The list is short,
incomplete and English; it lies in `lexicon.rot13` so that nobody stumbles on it. A line is a word,
with `+` where its verb forms count too.

>>> find = Lexicon(["fool+"]).matches
>>> find("Fooled you, f00l! F.O.O.L."), find("A foolscap sheet")
(('fool', 'fool', 'fool'), ())

Seen through: letters written as digits and signs, letters repeated, single letters set apart by
one sign each, starred vowels, invisible and full-width characters. Not seen through: letters of
other alphabets, misspellings, paraphrase, irony. A word in a quotation or a complaint counts, and
so do initials that spell one.
"""

import codecs
import functools
import re
import unicodedata
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from shared.require import require

_SIGNS = {"a": "4@*", "b": "8", "e": "3*", "g": "9", "i": "1!|*", "l": "1|", "o": "0*"}
_SIGNS |= {"s": "5$", "t": "7", "u": "*"}
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_ENDINGS = "(?:s|es|ed|er|ers|in|in[g9]|in[g9]s)?"


class Lexicon:
    """Finds the words of a list in texts.

    Parameters
    ----------
    words
        Lower case, letters only; plurals in s are found too, and verb forms with a `+` behind.
    """

    def __init__(self, words: Iterable[str]):
        self.words = tuple(words)
        require(self.words, "words must be at least one", "none")
        for word in self.words:
            plain = word.removesuffix("+")
            fits = plain.isascii() and plain.isalpha() and plain.islower()
            require(fits, "words must be of letters a to z", word)
        # Longer words first: a short one must not take the beginning of what the longer explains.
        ordered = sorted(self.words, key=lambda word: (-len(word), word))
        forms = "|".join(f"(?P<{word.removesuffix('+')}>{_pattern(word)})" for word in ordered)
        self._pattern = re.compile(rf"(?<![^\W_])(?:{forms})(?![^\W_])")

    def matches(self, text: str) -> tuple[str, ...]:
        """The words found, in the order of the text."""
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).casefold()
        found = self._pattern.finditer(text)
        return tuple(hit.lastgroup for hit in found if any(map(str.isalpha, hit[0])))


@functools.cache
def lexicon() -> Lexicon:
    """The list that comes with this code."""
    veiled = Path(__file__).with_name("lexicon.rot13").read_text(encoding="utf-8")
    lines = codecs.decode(veiled, "rot13").splitlines()
    return Lexicon(line for line in lines if line and not line.startswith("#"))


def _pattern(word: str) -> str:
    """Each letter at least as often as the word has it, without a way back: no text is slow."""
    stem, verb = word.removesuffix("+"), word.endswith("+")
    runs = [(letter, len(list(group))) for letter, group in groupby(stem)]
    together = "".join(f"{_class(letter)}{{{n},}}+" for letter, n in runs)
    together += _ENDINGS if verb else "s?"
    if len(stem) < 4:  # three letters set apart are initials
        return together
    return together + "|" + r"[\s._*-]".join(_class(letter) for letter in stem)


def _class(letter: str) -> str:
    return f"[{letter}{re.escape(_SIGNS.get(letter, ''))}]"
