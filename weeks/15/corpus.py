r"""From crawled pages to packed rows: extract, filter, deduplicate, split, pack, mix.

Each step is a rule that can be read and that tells what it threw away. The order matters: a split
that comes after packing, or that knows nothing of near-duplicates, puts the exam into the
textbook. Here a document's split depends on a hash of its text alone,

$$u = \mathrm{hash}(\text{text}) / 2^{64}, \qquad \text{validation if } u < 0.1 ,$$

so that it stays where it is when documents are added, and copies stay together.

The rules are those of C4 and Gopher; what is reduced: some thousand documents instead of billions,
and the language is guessed from stop words.

>>> lines = ["Home", "The cat sat on the mat and slept.", "We use cookies on this site."]
>>> kept, removed = clean_lines("\n".join(lines))
>>> kept, removed["no end mark"], removed["site notice"]
('The cat sat on the mat and slept.', ['Home'], ['We use cookies on this site.'])
>>> [split_of(f"document {i}", {"train": 0.9, "valid": 0.1}) for i in range(4)]
['train', 'valid', 'train', 'train']

    uv run weeks/15/corpus.py
    uv run weeks/15/corpus.py --data pydocs

Sources: Raffel et al., "Exploring the limits of transfer learning" (2020), section 2.2 (C4); Rae et
al., "Scaling language models" (2021), appendix A.1 (Gopher); Brown et al., "Language models are
few-shot learners" (2020), appendix C, for 13-word overlaps.
"""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from shared.require import require
from week15.deduplication import deduplicate, normalize, shingles

# ---- lines


POLICY = re.compile(
    r"javascript|terms of use|privacy policy|cookie policy|uses? (of )?cookies", re.IGNORECASE
)
CITATION = re.compile(r"\[(?:\d+|edit|citation needed)\]")


def clean_lines(text: str) -> tuple[str, dict[str, list[str]]]:
    """Keep the lines that end like a sentence, and say which others there were.

    References
    ----------
    Raffel et al. (2020), section 2.2: terminal punctuation, at least five words, no notices.
    """
    kept: list[str] = []
    removed: dict[str, list[str]] = {"no end mark": [], "under 5 words": [], "site notice": []}
    for line in text.split("\n"):
        line = CITATION.sub("", line).strip()
        if not line:
            continue
        if not line.rstrip("\"'”’)").endswith((".", "!", "?")) or line.endswith("..."):
            removed["no end mark"].append(line)
        elif len(line.split()) < 5:
            removed["under 5 words"].append(line)
        elif POLICY.search(line):
            removed["site notice"].append(line)
        else:
            kept.append(line)
    return "\n".join(kept), removed


# ---- documents


STOP_WORDS = {
    "en": frozenset(("the", "be", "to", "of", "and", "that", "have", "with", "is", "in", "it")),
    "de": frozenset(("der", "die", "und", "das", "nicht", "ist", "mit", "den", "ein", "zu")),
    "fr": frozenset(("le", "la", "les", "et", "des", "est", "dans", "une", "que", "pour")),
    "es": frozenset(("el", "los", "que", "y", "en", "una", "por", "con", "las", "del")),
}
GOPHER_STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))


def language(text: str) -> str | None:
    """The language whose stop words are most frequent; None below one word in twenty."""
    words = text.lower().split()
    share = {
        name: sum(w in stop for w in words) / max(1, len(words))
        for name, stop in STOP_WORDS.items()
    }
    best = max(share, key=share.__getitem__)
    return best if share[best] >= 0.05 else None


def line_repetition(text: str) -> tuple[float, float]:
    """Shares of the lines, and of their characters, that an earlier line has said."""
    lines = [line for line in text.split("\n") if line.strip()]
    counts = Counter(lines)
    characters = sum(map(len, lines))
    repeated = sum(len(line) * (n - 1) for line, n in counts.items())
    return (len(lines) - len(counts)) / max(1, len(lines)), repeated / max(1, characters)


def top_ngram_share(text: str, n: int) -> float:
    """Share of the characters that the most frequent run of n words takes, if it repeats."""
    words = text.split()
    counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    if not counts:
        return 0.0
    # of equally frequent ones the longest, so that the result does not depend on their order
    gram, times = max(counts.items(), key=lambda item: (item[1], sum(map(len, item[0]))))
    return times * sum(map(len, gram)) / sum(map(len, words)) if times > 1 else 0.0


def duplicate_ngram_share(text: str, n: int) -> float:
    """Share of the characters inside runs of n words that came before, each counted once."""
    words = text.split()
    covered, seen = [False] * len(words), set()
    for i in range(len(words) - n + 1):
        gram = tuple(words[i : i + n])
        if gram in seen:
            covered[i : i + n] = [True] * n  # runs overlap: mark, do not add
        seen.add(gram)
    total = sum(map(len, words))
    return sum(len(w) for w, c in zip(words, covered, strict=True) if c) / max(1, total)


def _repeats_lines(text: str) -> bool:
    share, characters = line_repetition(text)
    return share > 0.3 or characters > 0.2


def _repeats_ngrams(text: str) -> bool:
    return any(top_ngram_share(text, n) > m for n, m in ((2, 0.20), (3, 0.18), (4, 0.16))) or any(
        duplicate_ngram_share(text, n) > 0.15 - 0.01 * (n - 5) for n in range(5, 11)
    )


def _words_not_alphabetic(text: str) -> bool:
    words = text.split()
    return sum(any(c.isalpha() for c in w) for w in words) < 0.8 * len(words)


def _is_list(text: str) -> bool:
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    bullets = sum(line.startswith(("•", "-", "*", "–")) for line in lines)
    ellipses = sum(line.endswith(("...", "…")) for line in lines)
    return bullets > 0.9 * len(lines) or ellipses > 0.3 * len(lines)


RULES: dict[str, Callable[[str], bool]] = {  # True: remove; the first that says so is blamed
    "placeholder text": lambda text: "lorem ipsum" in text.lower(),
    "code (a brace)": lambda text: "{" in text,
    "under 3 sentences": lambda text: len(re.findall(r"[.!?][\"')\]”’]*(?=\s|$)", text)) < 3,
    "not 50 to 100,000 words": lambda text: not 50 <= len(text.split()) <= 100_000,
    "mean word not 3 to 10 letters": lambda text: (
        not 3 <= sum(map(len, text.split())) / len(text.split()) <= 10
    ),
    "symbols": lambda text: (
        text.count("#") + len(re.findall(r"\.\.\.|…", text)) > 0.1 * len(text.split())
    ),
    "bullets or cut-off lines": _is_list,
    "words without letters": _words_not_alphabetic,
    "not English": lambda text: language(text) != "en",
    "under 2 stop words": lambda text: len(GOPHER_STOP_WORDS & set(text.lower().split())) < 2,
    "repeated lines": _repeats_lines,
    "repeated n-grams": _repeats_ngrams,
}


def filter_documents(
    documents: Iterable[str], rules: Mapping[str, Callable[[str], bool]] = RULES
) -> tuple[list[int], dict[str, list[int]]]:
    """Documents that no rule objects to, and of each rule those that it removed.

    References
    ----------
    Raffel et al. (2020), section 2.2; Rae et al. (2021), appendix A.1 and table A1.
    """
    kept: list[int] = []
    removed: dict[str, list[int]] = {name: [] for name in rules}
    for i, text in enumerate(documents):
        reason = next((name for name, objects in rules.items() if objects(text)), None)
        (kept if reason is None else removed[reason]).append(i)
    return kept, removed


# ---- splits


def split_of(text: str, fractions: Mapping[str, float], *, salt: str = "") -> str:
    """The split of a document, by a hash of its normalized text alone.

    Parameters
    ----------
    text
        The document, or what stands for its group of near-duplicates.
    fractions
        Shares of the splits in a fixed order; they add up to 1.
    salt
        Another salt gives another, independent split.
    """
    shares = [*fractions.values()]
    valid = shares and min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-9
    require(valid, "fractions must be at least 0 and add up to 1", dict(fractions))
    data = (salt + "\0" + normalize(text)).encode("utf-8", "surrogatepass")
    u = int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") / 2**64
    edges = itertools.accumulate(shares)
    inside = (name for name, edge in zip(fractions, edges, strict=True) if u < edge)
    return next(inside, next(name for name in reversed(fractions) if fractions[name]))


def split_documents(
    documents: Sequence[str],
    fractions: Mapping[str, float],
    *,
    leader: Sequence[int] | None = None,
    salt: str = "",
) -> dict[str, list[int]]:
    """Indices of each split; with `leader` (see `deduplicate`) a group stays together."""
    leader = range(len(documents)) if leader is None else leader
    n = len(documents)
    require(len(leader) == n, f"leader must have {n} entries", len(leader))
    splits: dict[str, list[int]] = {name: [] for name in fractions}
    for i, first in enumerate(leader):
        splits[split_of(documents[first], fractions, salt=salt)].append(i)
    return splits


@dataclass(frozen=True)
class Leaks:
    """Held-out documents that training has seen.

    Attributes
    ----------
    exact, near
        Indices of held-out documents with a copy or near-duplicate in training.
    overlap
        Of each held-out document the share of its 13-word runs that training has: also what is
        quoted inside of a longer text, which Jaccard overlooks. A script without spaces has a
        word for each character (`words_of`).
    """

    exact: list[int]
    near: list[int]
    overlap: Float[np.ndarray, " n"]


def find_leaks(train: Sequence[str], held_out: Sequence[str], *, threshold: float = 0.8) -> Leaks:
    """Compare held-out documents with the training documents, three ways."""
    texts = {normalize(text) for text in train}
    exact = [i for i, text in enumerate(held_out) if normalize(text) in texts]
    # The first of a group leads it, so a leader among the training documents is a leak.
    leader = deduplicate([*train, *held_out], threshold=threshold).leader[len(train) :]
    near = [i for i, j in enumerate(leader) if j < len(train) and i not in set(exact)]
    seen = np.unique(np.concatenate([np.zeros(0, np.uint64), *(shingles(t, 13) for t in train)]))
    runs = [shingles(text, 13) for text in held_out]
    overlap = [float(np.isin(run, seen).mean()) if len(run) else 0.0 for run in runs]
    return Leaks(exact, near, np.array(overlap, dtype=np.float64))


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
