r"""Whether a model may have seen a task's documents while it was trained.

With the training text at hand, by n-grams: a document is *dirty* if it has 13 words in a row that
the text has (Brown et al., 2020, appendix C), or a share of its 8-grams (Chowdhery et al., 2022,
section 8). Only the documents' n-grams are held, as 64-bit hashes; the text goes by in pieces.

Without it, by the model's own probabilities (Shi et al., 2024, *Detecting Pretraining Data*): text
that was seen has few tokens that surprise,

$$\text{Min-}k\%(x) = \frac{1}{|E|} \sum_{x_i \in E} \log p(x_i \mid x_{<i}),$$

E being the k % of tokens with the lowest probabilities. How high is high? A text's own words in
another order are what no corpus has; `auc` compares. Any model prefers order, so an area of 1
proves nothing: what counts is how much higher it is than that of text known to be new.

>>> min_k([-0.1, -5.0, -0.2, -3.0], k=0.5)
-4.0
>>> auc([3.0, 2.0], [1.0, 2.0])
0.875
"""

import hashlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from llm_eval.statistics.estimates import mean_estimate
from llm_eval.types import Document, Number, Sample
from shared.errors import UserError
from shared.require import require

SHORTEST = 8  # a document of fewer words shares them with any large text by chance
PIECE = 1 << 16  # words of a corpus that are held at once
WORD = re.compile(r"\w+")


def overlaps(
    documents: Mapping[str, Document | str], corpus: Sequence[Path], *, n: int = 13
) -> dict[str, float | None]:
    """The share of each document's n-grams of words that a corpus has.

    Parameters
    ----------
    documents
        By id; of a mapping, all its texts. One of fewer than n words is one n-gram of all its
        words.
    corpus
        Files: `.jsonl`, of which each line's `text` is read, or plain text in UTF-8.

    Returns
    -------
    By id; None for documents of fewer words than 8, or than n, whatever is less.

    Raises
    ------
    UserError
        A file cannot be read, or is not what its name says.
    """
    require(n > 0, "n must be at least 1", n)
    grams: dict[str, tuple[int, np.ndarray]] = {}
    for id, document in documents.items():
        words = np.array(list(_hashes(text_of(document))), np.uint64)
        if len(words) >= min(n, SHORTEST):
            size = min(n, len(words))
            grams[id] = size, np.unique(_windows(words, size))
    wanted = defaultdict(list)
    for size, hashes in grams.values():
        wanted[size].append(hashes)
    found = {size: _found(np.unique(np.concatenate(h)), size, corpus) for size, h in wanted.items()}
    shares: dict[str, float | None] = dict.fromkeys(documents)
    for id, (size, hashes) in grams.items():
        shares[id] = float(np.isin(hashes, found[size]).mean())
    return shares


def contamination(
    samples: Sequence[Sample],
    shares: Mapping[str, float | None],
    metric: str,
    *,
    signature: str,
    above: float = 0.0,
    higher_is_better: bool | None = True,
) -> list[Number]:
    """How many documents are dirty, and a metric on the clean and on the dirty ones.

    Parameters
    ----------
    samples
        Of one task.
    shares
        What `overlaps` found.
    above
        A document is dirty if its share is greater: 0 for any 13-gram, 0.7 as PaLM for 8-grams.
    """
    known = [sample for sample in samples if shares.get(sample.id) is not None]
    require(known, "samples must have a document long enough to be looked for", "none")
    task, failed = known[0].task, sum(bool(sample.error) for sample in known)
    note = f"{len(samples) - len(known)} documents too short to tell" * (len(samples) > len(known))
    dirty = [shares[sample.id] > above for sample in known]
    estimates = {"contaminated": mean_estimate([float(x) for x in dirty])}
    for name, side in (("clean", False), ("dirty", True)):
        part = [s for s, x in zip(known, dirty, strict=True) if x is side and not s.error]
        if part:
            values = [float(sample.values[metric]) for sample in part]
            clusters = [sample.cluster or ("alone", sample.id) for sample in part]
            estimates[f"{metric}_{name}"] = mean_estimate(values, clusters=clusters)
    rule = f"{signature}|dirty:>{above:g}"
    return [
        Number(
            *(task, name, of.value, of.stderr, of.low, of.high, of.n),
            failed=0 if name == "contaminated" else failed,
            higher_is_better=False if name == "contaminated" else higher_is_better,
            signature=rule,
            note=note,
        )
        for name, of in estimates.items()
    ]


def min_k(logprobs: Sequence[float], k: float = 0.2) -> float:
    """The mean of the lowest k of the tokens' log-probabilities, of one token at least."""
    require(0 < k <= 1, "k must be in (0, 1]", k)
    require(len(logprobs) > 0, "logprobs must be of at least one token", 0)
    lowest = np.sort(np.asarray(logprobs, np.float64))[: max(1, int(k * len(logprobs)))]
    return float(lowest.mean())


def shuffled(text: str, seed: int = 0) -> str:
    """The same words in another order: text that no corpus has."""
    words = text.split()
    random.Random(seed).shuffle(words)
    return " ".join(words)


def auc(seen: Sequence[float], unseen: Sequence[float]) -> float:
    """The chance that one of the first is above one of the second, ties half (Mann-Whitney)."""
    from scipy.stats import rankdata

    require(len(seen) and len(unseen), "seen and unseen must hold a score each", "none")
    ranks = rankdata(np.concatenate([seen, unseen]))[: len(seen)]
    return float((ranks.sum() / len(seen) - (len(seen) + 1) / 2) / len(unseen))


def text_of(document: Any) -> str:
    """All texts of a document, one after another."""
    if isinstance(document, str):
        return document
    if isinstance(document, Mapping):
        document = list(document.values())
    return "\n".join(map(text_of, document)) if isinstance(document, list | tuple) else ""


def _found(wanted: np.ndarray, n: int, corpus: Sequence[Path]) -> np.ndarray:
    """Which of the sorted hashes a corpus has."""
    seen = np.zeros(len(wanted), bool)
    for file in corpus:
        words: list[int] = []
        for piece in _texts(Path(file)):
            words += _hashes(piece)
            if len(words) >= PIECE:
                _mark(wanted, seen, words, n)
                words = words[len(words) - n + 1 :]  # n-grams across the border
        _mark(wanted, seen, words, n)
    return wanted[seen]


def _mark(wanted: np.ndarray, seen: np.ndarray, words: Sequence[int], n: int) -> None:
    if len(words) >= n:
        hashes = _windows(np.array(words, np.uint64), n)
        places = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
        seen[places[wanted[places] == hashes]] = True


def _windows(words: np.ndarray, n: int) -> np.ndarray:
    """A hash of each n words in a row: a polynomial modulo 2⁶⁴."""
    total = np.zeros(len(words) - n + 1, np.uint64)
    for i in range(n):
        total = total * np.uint64(0x9E3779B97F4A7C15) + words[i : len(words) - n + 1 + i]
    return total


def _hashes(text: str) -> Iterator[int]:
    return map(_hash, WORD.findall(text.casefold()))


@lru_cache(maxsize=1 << 18)
def _hash(word: str) -> int:
    return int.from_bytes(
        hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )


def _texts(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8") as stream:
            if path.suffix != ".jsonl":
                yield from _pieces(stream)
                return
            for number, line in enumerate(stream, 1):
                try:
                    yield str(json.loads(line)["text"])
                except (ValueError, KeyError, TypeError) as error:
                    must = "must be a JSON object with a text"
                    raise UserError(f"{path}, line {number}: {must} ({error})") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read as text ({reason})") from error


def _pieces(stream: TextIO) -> Iterator[str]:
    """A text that may be one long line, cut between words."""
    rest = ""
    while piece := stream.read(1 << 20):
        rest += piece
        cut = max(rest.rfind(" "), rest.rfind("\n")) + 1
        yield rest[:cut]
        rest = rest[cut:]
    yield rest
