r"""Porter's stemmer: suffixes fall off, step by step, while enough of a word is left.

A word is read as $[C](VC)^m[V]$, runs of consonants and of vowels. Its *measure* $m$ counts the
syllables, roughly, and nearly every rule asks it of what would remain: *-ement* goes if $m > 1$,
so *replacement* becomes *replac*, and *cement* stays.

    >>> pattern("toy"), measure("tree"), measure("trouble"), measure("private")
    ('cvc', 0, 1, 2)
    >>> [stem(word) for word in ("relational", "hopping", "hoping", "skies", "analogy")]
    ['relat', 'hop', 'hope', 'ski', 'analogi']
    >>> stem("analogy", revised=True)  # the rule -logi is younger than the paper
    'analog'

Source: M. F. Porter, "An algorithm for suffix stripping", Program 14 (1980). The author's later
program departs from it in three places: *bli* for *abli*, *logi*, and words of two letters stay.
"""

import functools

# Suffix and what takes its place, if the rest has a measure above 0 (steps 2 and 3) or 1 (step 4).
STEP_2 = {
    "ational": "ate",
    "tional": "tion",
    "enci": "ence",
    "anci": "ance",
    "izer": "ize",
    "abli": "able",
    "alli": "al",
    "entli": "ent",
    "eli": "e",
    "ousli": "ous",
    "ization": "ize",
    "ation": "ate",
    "ator": "ate",
    "alism": "al",
    "iveness": "ive",
    "fulness": "ful",
    "ousness": "ous",
    "aliti": "al",
    "iviti": "ive",
    "biliti": "ble",
}
STEP_2_REVISED = {s: r for s, r in STEP_2.items() if s != "abli"} | {"bli": "ble", "logi": "log"}
STEP_3 = {
    "icate": "ic",
    "ative": "",
    "alize": "al",
    "iciti": "ic",
    "ical": "ic",
    "ful": "",
    "ness": "",
}
SHORT = "al ance ence er ic able ible ant ement ment ent ion ou ism ate iti ous ive ize"
STEP_4 = dict.fromkeys(SHORT.split(), "")


def pattern(word: str) -> str:
    """Consonants and vowels of a word, as ``c`` and ``v``; y after a consonant is a vowel."""
    kinds = ""
    for letter in word:
        vowel = letter in "aeiou" or (letter == "y" and kinds.endswith("c"))
        kinds += "v" if vowel else "c"
    return kinds


def measure(word: str) -> int:
    """How often a vowel is followed by a consonant: the m of the paper."""
    return pattern(word).count("vc")


def repaired(word: str) -> str:
    """Without eed, ed or ing, and the end made a word's again (step 1b): hopping, hop."""
    if word.endswith("eed"):
        return word[:-1] if measure(word[:-3]) > 0 else word  # feed is not fe + ed
    rest = word[:-2] if word.endswith("ed") else word[:-3] if word.endswith("ing") else ""
    if "v" not in pattern(rest):
        return word
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if _doubled(rest):
        return rest if rest[-1] in "lsz" else rest[:-1]
    return rest + "e" if measure(rest) == 1 and _short(rest) else rest


def stem(word: str, *, revised: bool = False) -> str:
    """Strip the suffixes of an English word; in lower case.

    Parameters
    ----------
    revised
        Follow the author's program, with its three departures, instead of the paper's letter.
    """
    word = word.lower()
    return word if revised and len(word) <= 2 else _stem(word, revised)


@functools.lru_cache(maxsize=65_536)
def _stem(word: str, revised: bool) -> str:
    word = repaired(_plurals(word))
    if word.endswith("y") and "v" in pattern(word[:-1]):
        word = word[:-1] + "i"
    word = _replace(word, STEP_2_REVISED if revised else STEP_2, above=0)
    word = _replace(word, STEP_3, above=0)
    word = _replace(word, STEP_4, above=1)
    return _tidy(word)


def _plurals(word: str) -> str:
    """Step 1a: sses → ss, ies → i, s → nothing, but ss stays."""
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _replace(word: str, rules: dict[str, str], above: int) -> str:
    """The longest suffix with a rule decides, even where the measure then forbids it."""
    for length in range(min(7, len(word)), 1, -1):
        rest, suffix = word[:-length], word[-length:]
        if suffix in rules:
            fits = measure(rest) > above and (suffix != "ion" or rest[-1] in "st")
            return rest + rules[suffix] if fits else word
    return word


def _tidy(word: str) -> str:
    """Step 5: a final e, and one l of two."""
    if word.endswith("e"):
        m = measure(word[:-1])
        if m > 1 or (m == 1 and not _short(word[:-1])):
            word = word[:-1]
    return word[:-1] if word.endswith("ll") and measure(word[:-1]) > 1 else word


def _doubled(word: str) -> bool:
    return len(word) > 1 and word[-1] == word[-2] and pattern(word)[-1] == "c"


def _short(word: str) -> bool:
    """Ends like hop: consonant, vowel, consonant, and the last is none of w, x, y."""
    return pattern(word).endswith("cvc") and word[-1] not in "wxy"
