r"""Which numbers a text says, however they are written: has the answer been given away?

`24`, `twenty-four`, `24.0`, `48/2`: a filter that looks for the digits alone lets the others pass.
A text is cut into numerals and words, and the longest run that is a number counts,

$$\text{leak} = \mathbb{1}[\, a \in V(\text{reply}) \setminus V(\text{what was said before}) \,],$$

with $V$ the set of values. `six fours` is no number, and neither is a product: work that is set and
not done gives nothing away. Ordinals are read both ways: a third is a place and a part.

>>> sorted(values_in("Twenty-four pens, 1,200.50 dollars, or 3/4 of it."))
[Fraction(3, 4), Fraction(24, 1), Fraction(2401, 2)]
>>> leaks("So it is two hundred and five.", Fraction(205), said="2 hundreds and 5")
True
>>> leaks("What is 41 × 5?", Fraction(205), said=""), leaks("Yes, 205.", Fraction(205), said="205?")
(False, False)

`uv run weeks/28/good_teacher.py` compares it with a list of all spellings. Source: Hurford, *The
Linguistic Theory of Numerals* (1975), for the grammar of English numerals, here below a million.
"""

import re
import unicodedata
from fractions import Fraction

UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    " fifteen sixteen seventeen eighteen nineteen"
)
TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
SMALL = {word: n for n, word in enumerate(UNITS.split())}
ROUND = {word: 10 * n for n, word in enumerate(TENS, 2)}
ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
PLACES = {word: n for n, word in enumerate(ORDINALS.split(), 1)}
PARTS = {word: n for word, n in PLACES.items() if n > 2} | {"half": 2, "quarter": 4}
PARTS |= {f"{word}s": n for word, n in PARTS.items()} | {"halves": 2}

NUMERAL = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+"
TOKEN = re.compile(
    rf"(?P<mixed>\d+)[ -](?P<a>\d+)/(?P<b>\d+)|(?P<over>\d+)/(?P<under>\d+)|(?P<number>{NUMERAL})"
    r"|(?P<word>[a-z]+)|(?P<other>[^\s-])"
)


def values_in(text: str) -> set[Fraction]:
    """Values of all the numbers in a text.

    `12/4` is a division that is still to be done, and `3/4` is a number; a sign is not read.
    """
    text = re.sub("([¼½¾⅐-⅞])", r" \1 ", text)  # 1½ is not 11/2
    text = unicodedata.normalize("NFKC", text).lower().replace("\N{FRACTION SLASH}", "/")
    text = re.sub(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}", r" \1/\2", text)
    found, words = set(), []
    for match in TOKEN.finditer(text):
        if match["word"]:
            words.append(match["word"])
            continue
        found |= _spelled(words)
        words = []
        found |= _written(match)
    return found | _spelled(words)


def leaks(reply: str, answer: Fraction, said: str) -> bool:
    """Whether a reply gives an answer that was not said before."""
    return answer in values_in(reply) - values_in(said)


def _written(match: re.Match) -> set[Fraction]:
    """What a numeral stands for."""
    if match["mixed"] and int(match["b"]):
        return {int(match["mixed"]) + Fraction(int(match["a"]), int(match["b"]))}
    if match["over"]:
        a, b = int(match["over"]), int(match["under"])
        return {Fraction(a, b)} if b and a % b else {Fraction(a), Fraction(b)}
    return {Fraction(match["number"].replace(",", ""))} if match["number"] else set()


def _spelled(words: list[str]) -> set[Fraction]:
    """What runs of words stand for: at each place the longest number is taken."""
    found, i = set(), 0
    while i < len(words):
        values, after = _number(words, i)
        found |= values
        i = max(after, i + 1)
    return found


def _number(words: list[str], i: int) -> tuple[set[Fraction], int]:
    """The longest number from place i on, in all its readings, and the place after it."""
    part = _parts(words, i)
    if part:
        return {part[0]}, part[1]
    value, end = _below_million(words, i)
    if end > i:
        if words[end : end + 1] == ["and"]:  # two and a half
            part = _parts(words, end + 1)
            if part and part[0] < 1:
                return {value + part[0]}, part[1]
        ordinal = PLACES.get(words[end], 0) if end < len(words) else 0
        if words[end - 1] in ROUND and 0 < ordinal < 10:  # twenty-first
            return {Fraction(value + ordinal)}, end + 1
        return {Fraction(value)}, end
    word = words[i]
    readings = {Fraction(PLACES[word])} if word in PLACES else set()
    if word in PARTS:
        readings.add(Fraction(1, PARTS[word]))
    return readings, i + bool(readings)


def _parts(words: list[str], i: int) -> tuple[Fraction, int] | None:
    """`three quarters`, `a half`: a fraction in words."""
    few = 1 if words[i : i + 1] == ["a"] else SMALL.get(words[i], 0) if i < len(words) else 0
    if few and i + 1 < len(words) and words[i + 1] in PARTS:
        return Fraction(few, PARTS[words[i + 1]]), i + 2
    return None


def _below_hundred(words: list[str], i: int) -> tuple[int, int]:
    word = words[i] if i < len(words) else ""
    if word in ROUND:
        unit = SMALL.get(words[i + 1], 0) if i + 1 < len(words) else 0
        return (ROUND[word] + unit, i + 2) if 0 < unit < 10 else (ROUND[word], i + 1)
    return (SMALL[word], i + 1) if word in SMALL else (0, i)


def _below_thousand(words: list[str], i: int) -> tuple[int, int]:
    few, end = _below_hundred(words, i)
    if words[i : i + 2] == ["a", "hundred"]:
        few, end = 1, i + 1
    if end == i or words[end : end + 1] != ["hundred"]:
        return few, end
    return _with_rest(words, 100 * few, end + 1, _below_hundred)


def _below_million(words: list[str], i: int) -> tuple[int, int]:
    few, end = _below_thousand(words, i)
    if words[i : i + 2] == ["a", "thousand"]:
        few, end = 1, i + 1
    if end == i or words[end : end + 1] != ["thousand"]:
        return few, end
    return _with_rest(words, 1000 * few, end + 1, _below_thousand)


def _with_rest(words: list[str], value: int, i: int, below) -> tuple[int, int]:
    """What may follow a hundred or a thousand, with an `and` before it or without."""
    start = i + (words[i : i + 1] == ["and"])
    rest, end = below(words, start)
    return (value + rest, end) if rest else (value, i)
