"""BERT's words: what WordPiece cuts into pieces is cut out of the text first.

White space separates; each punctuation mark and each Chinese character stands alone.

>>> basic_words("Ångström's 5$-naïveté")
['angstrom', "'", 's', '5', '$', '-', 'naivete']
>>> basic_words("中文ab", lowercase=False)
['中', '文', 'ab']

Source: Devlin et al., "BERT" (2019), the published code.
"""

import unicodedata
from functools import lru_cache

CJK = {  # blocks of Chinese characters, first and last code
    "CJK Unified Ideographs": (0x4E00, 0x9FFF),
    "Extension A": (0x3400, 0x4DBF),
    "Extension B": (0x20000, 0x2A6DF),
    "Extension C": (0x2A700, 0x2B73F),
    "Extension D": (0x2B740, 0x2B81F),
    "Extension E": (0x2B820, 0x2CEAF),
    "Compatibility Ideographs": (0xF900, 0xFAFF),
    "Compatibility Supplement": (0x2F800, 0x2FA1F),
}

VANISH = {"Cc", "Cf", "Co", "Cs"}  # control, format, private; not Cn, which a newer table may know


@lru_cache(4096)
def is_punctuation(char: str) -> bool:
    """Unicode's punctuation, and every visible ASCII sign that is no letter or digit ($, +, ~)."""
    ascii_sign = char.isascii() and char.isprintable() and not char.isalnum() and char != " "
    return ascii_sign or unicodedata.category(char)[0] == "P"


@lru_cache(4096)
def is_chinese(char: str) -> bool:
    """Whether BERT lets the character stand alone."""
    return any(low <= ord(char) <= high for low, high in CJK.values())


def basic_words(text: str, *, lowercase: bool = True) -> list[str]:
    """The words of a text; `lowercase` drops accents, too."""
    clean = []
    for char in text:
        if char in "\t\n\r":
            clean.append(" ")
        elif char == "\ufffd" or unicodedata.category(char) in VANISH:
            continue  # they separate nothing
        else:
            clean.append(f" {char} " if is_chinese(char) else char)
    text = "".join(clean)
    if lowercase:  # character by character, so that Σ becomes σ at a word's end, too
        text = unicodedata.normalize("NFD", text)
        text = "".join(char.lower() for char in text if unicodedata.category(char) != "Mn")
    return "".join(f" {char} " if is_punctuation(char) else char for char in text).split()
