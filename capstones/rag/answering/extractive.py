"""The answer that cannot be made up: the sentences of the chunks that say most on the question.

Each sentence is scored by BM25 among its fellows, by the cosine of its embedding with the
question's, and a little by the rank of its chunk:

    score = bm25 / best bm25 + 2 cosine + 0.3 / rank.

The weights were chosen on the dev questions of `evaluation/questions.jsonl`.

>>> from rag.types import Chunk
>>> hits = [Hit(Chunk("tea.md", 0, 35, "Tea is a plant. Water boils at 100."), row=0, score=1.0)]
>>> quote("When does water boil?", hits)
['Water boils at 100. [1]']
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from rag.answering.citations import content
from rag.answering.guard import suspicious
from rag.documents.chunkers import sentences
from rag.types import Hit
from week12.bm25 import BM25

Encode = Callable[[Sequence[str]], Float[np.ndarray, "n dim"]]
COSINE_WEIGHT, CHUNK_WEIGHT = 2.0, 0.3
LONGEST = 400  # characters
TITLE = re.compile(r"#{1,6}\s")
ANNOUNCES = 8  # words of meaning, at least, or "Some examples of integer literals:" is no quote
UNDERLINED = re.compile(r"([*=~^#-])\1{2}|::=")  # headings, tables and grammars say nothing


def quote(
    question: str,
    hits: Sequence[Hit],
    encode: Encode | None = None,
    *,
    most: int = 2,
    near: float = 0.8,
    guard: bool = True,
) -> list[str]:
    """The best sentence, and up to `most` that score at least `near` of it, with citations.

    Empty if no chunk holds a sentence with words of meaning.

    Parameters
    ----------
    encode
        Turns texts into unit vectors; without it only the words count.
    guard
        Whether sentences that look like instructions to a model are passed over.
    """
    found = _candidates(hits, guard)
    if not found:
        return []
    texts = [text for _, text in found]
    names = [str(i) for i in range(len(texts))]
    wanted = sorted(content(question))
    bm25 = BM25().add(names, [sorted(content(text)) for text in texts]).scores(wanted)
    score = bm25 / max(float(bm25.max()), 1e-9) + [CHUNK_WEIGHT / n for n, _ in found]
    if encode is not None:
        vectors = encode([question, *texts])
        score = score + COSINE_WEIGHT * (vectors[1:] @ vectors[0])
    best = np.argsort(-score, kind="stable")[:most]
    chosen = sorted(int(i) for i in best if score[i] >= near * score[best[0]])
    return [f"{texts[i]} [{found[i][0]}]" for i in chosen]


def _candidates(hits: Sequence[Hit], guard: bool) -> list[tuple[int, str]]:
    """Sentences on one line each, with the number of their chunk."""
    found, seen = [], set()
    for number, hit in enumerate(hits, start=1):
        text = hit.chunk.text
        bad = suspicious(text) if guard else []
        for start, end in sentences(text):
            piece = " ".join(text[start:end].split())
            said = any(span.start < end and start < span.end for span in bad)
            torn = start == 0 < hit.chunk.start and piece[0].islower()  # it began before
            if said or torn or piece in seen or len(content(piece)) < 2:
                continue
            if len(piece) > LONGEST or UNDERLINED.search(piece) or TITLE.match(piece):
                continue
            if piece.endswith(":") and len(content(piece)) < ANNOUNCES:
                continue
            seen.add(piece)
            found.append((number, piece))
    return found
