"""Texts that tokenizers trip over, and corpora of them with one to three references each."""

import random
from itertools import zip_longest

from hypothesis import strategies as st

ODD = r"""
a the the The cat cats sat mat. on (hi) was wa gas ga relational skies . , ! - -- ... '' 3,000.5
1-2 5- 1990. .5 x, don't cat's &amp; &quot;hi&quot; &amp;lt; <skipped> a/b naïve Straße İstanbul ﬁ
— … “quoted” 中文 ０１ カナー。 ひら、が 한국어 🙂 Ⅳ ² ½
"""
WORDS = [*ODD.split(), "e\u0301", "👩\u200d👧", "soft\u00adhyphen"]
GAPS = st.sampled_from([*"    ", "  ", "\n", "\n-", "-\n", "\t", "\u3000", "\x1c", ""])
PIECES = st.lists(st.tuples(st.sampled_from(WORDS), GAPS), max_size=14)
TEXTS = PIECES.map(lambda pieces: "".join(map("".join, pieces))) | st.text(max_size=20)


def plain(seed):
    """Few words, so that they repeat, move and match; drawn evenly, unlike hypothesis' own."""
    rng = random.Random(seed)
    return " ".join(rng.choices(["a", "b", "c", "cat", "cats"][: rng.randint(2, 5)], k=seed % 15))


PLAIN = st.integers(0, 10**6).map(plain)
CORPORA = st.lists(
    st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
    | st.tuples(PLAIN, st.lists(PLAIN, min_size=1, max_size=3)),
    min_size=1,
    max_size=4,
)


def unzipped(corpus):
    """Hypotheses and references by hypothesis; then sacreBLEU's form, padded with None."""
    hypotheses, references = map(list, zip(*corpus, strict=True))
    return hypotheses, references, list(zip_longest(*references))


def all_characters():
    """Every character of the basic plane and some beyond, 256 to a line."""
    codes = [*range(0xD800), *range(0xE000, 0x10000), *range(0x1F300, 0x1F700), 0x20000, 0x2F800]
    for start in range(0, len(codes), 256):
        yield " 1".join(f"x{chr(code)}y{chr(code)}" for code in codes[start : start + 256])
