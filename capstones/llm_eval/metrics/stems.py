"""Porter's stems as NLTK gives them, which is what ROUGE's reference program counts.

NLTK departs from Porter's own program (`week12.porter`, `revised`) in a few words and rules: short
words in -ies and -ied keep an e, a y after a vowel stays, -alli is followed by what it uncovers.

>>> [stem(word) for word in ("dies", "enjoy", "fly", "dried", "formalization", "skies")]
['die', 'enjoy', 'fli', 'dri', 'formal', 'sky']

Source: Porter, "An algorithm for suffix stripping" (1980); `nltk.stem.porter`, NLTK_EXTENSIONS.
"""

import functools

from week12.porter import STEP_2_REVISED, STEP_3, STEP_4, measure, pattern

IRREGULAR = {"skies": "sky", "dying": "die", "lying": "lie", "tying": "tie"}
IRREGULAR |= {"innings": "inning", "outings": "outing", "cannings": "canning"}
KEPT = {"sky", "news", "inning", "outing", "canning", "howe", "proceed", "exceed", "succeed"}
STEP_2 = STEP_2_REVISED | {"fulli": "ful"}


@functools.lru_cache(maxsize=65_536)
def stem(word: str) -> str:
    """The stem of a word in lower case."""
    if word in KEPT or len(word) <= 2:
        return word
    return IRREGULAR.get(word) or _step_5(_steps_2_to_4(_step_1(word)))


def _step_1(word: str) -> str:
    if word.endswith("sses") or (word.endswith("ies") and len(word) != 4):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]  # of ties, the s
    if word.endswith("ied"):
        word = word[: -1 if len(word) == 4 else -2]
    elif word.endswith("eed"):
        word = word[:-1] if measure(word[:-3]) else word
    elif word.endswith(("ed", "ing")):
        word = _repaired(word, word[: -2 if word.endswith("ed") else -3])
    after_consonant = len(word) > 2 and pattern(word[:-1]).endswith("c")
    return word[:-1] + "i" if word.endswith("y") and after_consonant else word


def _repaired(word: str, rest: str) -> str:
    """Without -ed or -ing, and the end made a word's again: hopping, hop; filing, file."""
    if "v" not in pattern(rest):
        return word
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if len(rest) > 1 and rest[-1] == rest[-2] and pattern(rest)[-1] == "c":
        return rest if rest[-1] in "lsz" else rest[:-1]
    return rest + "e" if measure(rest) == 1 and _short(rest) else rest


def _steps_2_to_4(word: str) -> str:
    if word.endswith("alli") and measure(word[:-4]):
        word = word[:-2]
    word = _replaced(word, STEP_2, above=0)
    word = _replaced(word, STEP_3, above=0)
    return _replaced(word, STEP_4, above=1)


def _replaced(word: str, rules: dict[str, str], above: int) -> str:
    """The longest suffix with a rule decides, even where the measure then forbids it."""
    for length in range(min(7, len(word)), 1, -1):
        rest, suffix = word[:-length], word[-length:]
        if suffix in rules:
            measured = rest + "l" if suffix == "logi" else rest
            fits = measure(measured) > above and (suffix != "ion" or rest[-1] in "st")
            return rest + rules[suffix] if fits else word
    return word


def _step_5(word: str) -> str:
    if word.endswith("e"):
        m = measure(word[:-1])
        word = word[:-1] if m > 1 or (m == 1 and not _short(word[:-1])) else word
    return word[:-1] if word.endswith("ll") and measure(word[:-1]) > 1 else word


def _short(word: str) -> bool:
    """Ends like hop, or is a vowel and a consonant."""
    kinds = pattern(word)
    return kinds == "vc" or (kinds.endswith("cvc") and word[-1] not in "wxy")
