"""Citations: every sentence of an answer is looked up in the chunks before it is believed.

A model may cite the wrong chunk, or none, or say what no chunk says. So its markers are a hint
only. A sentence is *supported* by a span of one or two sentences of a chunk that

- holds most of its content words, as stems, and whose chunk has the first of them, its topic,
- says its numbers, names and code words in one sentence (the headings above may name them too),
- is negated if and only if it is.

The best such span becomes the citation: its quote is exactly what stands in the document. The
markers of the text are written anew and count the citations. What nothing supports keeps none and
is marked.

>>> text = "Tea was first drunk in China. Green tea needs water at 80 degrees."
>>> chunk = Chunk("tea.md", 10, 76, text)
>>> said = "Green tea needs water at 80 degrees. Black tea needs 100 [1]."
>>> sentences, citations = verify(said, [Hit(chunk, row=0, score=1.0)])
>>> [(sentence.text, sentence.supported) for sentence in sentences]
[('Green tea needs water at 80 degrees. [1] ', True), ('Black tea needs 100.', False)]
>>> citations[0].quote, citations[0].start
('Green tea needs water at 80 degrees.', 40)
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from rag.documents.chunkers import sentences as sentence_spans
from rag.types import Chunk, Citation, Document, Hit, Sentence
from week12.preprocessing import terms, words

# Behind a name, a quote or a bracket it is an index: items[1].
MARKER = re.compile(r"(?:\s+|(?<![\w\]\")'`\s]))((?:\[\d+(?:\s*,\s*\d+)*\])+)")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
NAME = re.compile(r"\b(?:[A-Z]\w+|\w*_\w+|[a-z]+[A-Z]\w*)")
CODE = re.compile(r"`([^`]+)`|\"(\w+)\"")  # `finally`, or "finally" as in Python's manual
NEGATION = re.compile(r"\b(?:not|no|never|without|neither|nor|cannot|none)\b|n['’]t\b")
EMPTY = (
    "does do did can could may might must should would has have had been being which what when"
    " where who whose how why its also so than from other any some all each you your we our one"
    " only much many used use using called means following document documents answer yes example"
    " here"
)
# Of five words one may differ. At 0.7 "use `finally` to catch the exception" would pass on a
# sentence that has all of it but "catch".
LEAST = 0.8
EMPTY_WORDS = frozenset(EMPTY.split())


class Support(NamedTuple):
    """How far a text supports a sentence, from 0 to 1, and where it does so best."""

    score: float
    start: int = 0
    end: int = 0


class Claim:
    """What must be found of a sentence: its words, its numbers and names, whether it is negated."""

    def __init__(self, sentence: str):
        text = " ".join(sentence.split())
        self.plain = text.strip(" .!?").lower()
        self.words = content(text)
        self.topic = next((found for word in words(text) if (found := content(word))), self.words)
        self.strict = _strict(text)
        self.negated = _negated(text)

    def found_in(self, text: str, heading: str = "") -> Support:
        """The span of one or two sentences that supports it best; of equals the first, shortest."""
        best = Support(0.0)
        above = content(heading)
        if not self.words or not self.topic <= content(text) | above:
            return best
        spans = sentence_spans(text)
        pieces = [text[start:end] for start, end in spans]
        named = frozenset(words(heading))
        found = [content(piece) for piece in pieces]
        # a sentence that says the numbers and names, and as many of the other words as any
        shares = [len(self.words & each) for each in found]
        says = [
            self.strict <= _tokens(piece) | named and _negated(piece) == self.negated
            for piece in pieces
        ]
        for width in (1, 2):
            for i in range(len(spans) - width + 1):
                inside = range(i, i + width)
                if not says[max(inside, key=shares.__getitem__)]:
                    continue
                seen = frozenset().union(*(found[j] for j in inside))
                # A heading may name the topic, but cannot say it all.
                score = len(self.words & (seen | above)) / len(self.words) if seen else 0.0
                if self.words & seen and score > best.score:
                    best = Support(score, *_stripped(text, spans[i][0], spans[i + width - 1][1]))
        return best

    def quoted_from(self, text: str) -> Support:
        """Where the sentence stands word for word, whatever the line breaks."""
        pattern = r"\s+".join(map(re.escape, self.plain.split())) + "[.!?]*"
        match = re.search(pattern, text, re.IGNORECASE) if len(self.words) > 1 else None
        return Support(1.0, *match.span()) if match else Support(0.0)


def content(text: str) -> frozenset[str]:
    """Stems of the words that carry meaning."""
    return _content(text) if len(text) < 2000 else _content.__wrapped__(text)


@lru_cache(maxsize=4096)
def _content(text: str) -> frozenset[str]:
    return frozenset(terms(" ".join(w for w in words(text) if w not in EMPTY_WORDS)))


def _tokens(text: str) -> frozenset[str]:
    return frozenset(words(text)) | {n.rstrip(".,") for n in NUMBER.findall(text)}


def _strict(text: str) -> frozenset[str]:
    """Numbers, names, code; the first word of the sentence may be any word with a capital."""
    names = {m[0].lower() for m in NAME.finditer(text) if m.start() > 0 or "_" in m[0]}
    names |= {"".join(m.groups("")).lower() for m in CODE.finditer(text)}
    return frozenset(NUMBER.findall(text)) | {w for name in names for w in words(name)}


def _negated(text: str) -> bool:
    # None with a capital is a value of Python's, not a negation.
    return NEGATION.search(text) is not None


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())


def cited_in(text: str) -> list[int]:
    """The numbers in a text's markers, each once."""
    numbers = [int(n) for marks in MARKER.findall(text) for n in re.findall(r"\d+", marks)]
    return list(dict.fromkeys(numbers))


def split(text: str) -> list[str]:
    """Sentences that add up to the text; a marker belongs to the sentence that it follows."""
    starts = [start for start, _ in sentence_spans(text)][1:]
    cut = [text[a:b] for a, b in zip([0, *starts], [*starts, len(text)], strict=True)]
    pieces = cut[:1] if text else []
    for piece in cut[1:]:
        marks = re.match(r"(?:\s*\[\d+(?:\s*,\s*\d+)*\][.,;]?)+\s*", piece)
        if marks:
            pieces[-1] += marks[0]
            piece = piece[marks.end() :]
        if piece:
            pieces.append(piece)
    return pieces


class Verifier:
    """Checks an answer sentence by sentence, as a model writes it.

    Parameters
    ----------
    hits
        The chunks that the model was shown; [1] is the first.
    documents
        By id, for titles and pages; those that are missing have none.
    least
        The share of a sentence's content words that a span must hold to support it.
    """

    def __init__(
        self,
        hits: Sequence[Hit],
        documents: Mapping[str, Document] | None = None,
        *,
        least: float = LEAST,
    ):
        self.chunks, self.least = [hit.chunk for hit in hits], least
        self.documents = documents or {}
        self.citations: list[Citation] = []

    def check(self, sentence: str) -> Sentence:
        """The sentence with markers of verified citations instead of its own."""
        cited = cited_in(sentence)
        plain = MARKER.sub("", sentence)
        claim = Claim(plain)
        if not claim.words:  # "Yes." or "For example:" says nothing that could be looked up
            return Sentence(plain)
        hinted = [self.chunks[n - 1] for n in cited if 0 < n <= len(self.chunks)]
        places = self._supporting(claim, hinted)
        numbers = tuple(dict.fromkeys(self._cite(chunk, at) for chunk, at in places))
        if not numbers:
            return Sentence(plain, (), supported=False)
        body = plain.rstrip()
        marks = " " + "".join(f"[{n}]" for n in numbers)
        return Sentence(body + marks + plain[len(body) :], numbers)

    def _supporting(self, claim: Claim, hinted: list[Chunk]) -> Iterator[tuple[Chunk, Support]]:
        """The cited chunks that support a claim, or of all chunks the one that does so best."""
        supports = [(chunk, self._support(claim, chunk)) for chunk in hinted]
        good = [pair for pair in supports if pair[1].score >= self.least]
        if not good:
            every = [(chunk, self._support(claim, chunk)) for chunk in self.chunks]
            best = max(every, key=lambda pair: pair[1].score, default=None)
            good = [best] if best and best[1].score >= self.least else []
        yield from good

    @staticmethod
    def _support(claim: Claim, chunk: Chunk) -> Support:
        quoted = claim.quoted_from(chunk.text)
        return quoted if quoted.score else claim.found_in(chunk.text, chunk.heading)

    def _cite(self, chunk: Chunk, at: Support) -> int:
        start, end = chunk.start + at.start, chunk.start + at.end
        for citation in self.citations:
            if (citation.document, citation.start, citation.end) == (chunk.document, start, end):
                return citation.number
        document = self.documents.get(chunk.document)
        title = document.title if document else ""
        page = bisect_right(document.pages, start) if document else 0
        quote, number = chunk.text[at.start : at.end], len(self.citations) + 1
        self.citations.append(
            Citation(number, chunk.document, start, end, quote, title=title, page=page)
        )
        return number


def verify(
    text: str,
    hits: Sequence[Hit],
    documents: Mapping[str, Document] | None = None,
    *,
    least: float = LEAST,
) -> tuple[tuple[Sentence, ...], tuple[Citation, ...]]:
    """Check a whole answer; the texts of the sentences add up to the answer to show.

    Parameters are `Verifier`'s.
    """
    verifier = Verifier(hits, documents, least=least)
    sentences = tuple(verifier.check(sentence) for sentence in split(text))
    return sentences, tuple(verifier.citations)
