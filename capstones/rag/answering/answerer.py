"""From a question to an answer that was checked: search, weigh, write, verify.

What a model writes is held back until a whole sentence is there, and looked up before it is
shown. An answer of which no sentence is supported is never shown: quotes stand in for it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import lru_cache
from threading import Event
from typing import Any

from rag.answering.abstention import confidence, evidence
from rag.answering.citations import Verifier, split
from rag.answering.extractive import quote
from rag.answering.guard import suspicious
from rag.answering.models import Extractive, Model
from rag.answering.prompt import UNKNOWN, fitting
from rag.conversation.memory import window
from rag.conversation.rewriting import is_small_talk, rewrite
from rag.types import Answer, Document, Hit, Results, Sentence, Turn
from shared.require import require

REFUSAL = re.compile(r"\W*(?:i\s+(?:do\s+not|don['’]t)\s+know|i['’]m\s+not\s+sure)\b", re.I)
GREETING = "Hello. Ask me something, and I look it up in the documents."


@dataclass(frozen=True)
class AnswerSettings:
    """How answers are made.

    Attributes
    ----------
    k
        Chunks to search for; how many of them a model sees is up to its context.
    min_confidence
        Below it the answer is that it is not known.
    least_support
        The share of a sentence's content words that a source must hold.
    quotes
        Most sentences of an extractive answer.
    history_tokens
        How much of earlier turns a model is told.
    guard
        Whether instruction-like sentences of documents are kept from the model.
    """

    k: int = 5
    min_confidence: float = 0.5
    least_support: float = 0.6
    quotes: int = 1
    max_new_tokens: int = 120
    history_tokens: int = 200
    temperature: float = 0.0
    seed: int = 0
    guard: bool = True

    def __post_init__(self):
        require(self.k >= 1, "k must be at least 1", self.k)
        share = 0 <= self.min_confidence <= 1
        require(share, "min_confidence must be between 0 and 1", self.min_confidence)


class Answerer:
    """Answers questions from what a retriever finds.

    Parameters
    ----------
    retriever
        Has `search(query, k=…, where=…)` and `store`.
    """

    def __init__(self, retriever: Any, model: Model, settings: AnswerSettings | None = None):
        self.retriever, self.model = retriever, model
        self.settings = settings or AnswerSettings()
        self._frequency = lru_cache(maxsize=4096)(self._count)

    def answer(
        self,
        question: str,
        *,
        history: Sequence[Turn] = (),
        where: str | Mapping | None = None,
        stop: Event | None = None,
    ) -> Answer:
        """The answer as a whole."""
        *_, answer = self.stream(question, history=history, where=where, stop=stop)
        return answer

    def stream(
        self,
        question: str,
        *,
        history: Sequence[Turn] = (),
        where: str | Mapping | None = None,
        stop: Event | None = None,
    ) -> Iterator[str | Answer]:
        """Pieces of the answer's text, then the `Answer`, whose text is the pieces in a row."""
        require(question.strip(), "question must not be empty", repr(question))
        if is_small_talk(question):
            yield GREETING
            yield Answer(question, GREETING, (Sentence(GREETING),))
            return
        query = rewrite(question, history).query
        results = self.retriever.search(query, k=self.settings.k, where=where)
        sure = self.confidence(query, results)
        flagged = [h.chunk.document for h in results.hits if suspicious(h.chunk.text)]
        base = Answer(
            question,
            UNKNOWN,
            confidence=sure,
            query=query,
            hits=results.hits,
            stages=results.stages,
            flagged=tuple(dict.fromkeys(flagged)),
            note=self.model.note,
        )
        if not results.hits or sure < self.settings.min_confidence:
            yield UNKNOWN
            yield replace(base, abstained=True, sentences=(Sentence(UNKNOWN),))
            return
        yield from self._written(base, query, history, stop)

    def confidence(self, query: str, results: Results) -> float:
        """How sure the search is that its chunks hold an answer; see `abstention`."""
        n_chunks = len(self.retriever.store)
        return confidence(evidence(query, results.hits, self._frequency, n_chunks))

    def _count(self, term: str) -> int:
        bm25 = self.retriever.store.bm25
        return len(bm25.search([term], k=max(len(bm25), 1))[0])

    def _written(
        self, base: Answer, query: str, history: Sequence[Turn], stop: Event | None
    ) -> Iterator[str | Answer]:
        """The part after the decision to answer."""
        hits, documents = base.hits, self._documents(base.hits)
        least, said, note = self.settings.least_support, [], base.note
        if not isinstance(self.model, Extractive):
            prompt, hits = self._prompt(base.question, query, hits, history)
            verifier = Verifier(hits, documents, least=least)
            for sentence in self._checked(prompt, verifier, stop):
                said.append(sentence)
                yield sentence.text
            if not said:
                note = (
                    f"{self.model.name} said nothing that the documents support: these are quotes"
                )
        if not said:
            verifier = Verifier(hits, documents, least=least)
            encode = self.retriever.store.embedder.encode
            options = {"most": self.settings.quotes, "guard": self.settings.guard}
            for text in _whole_sentences([quote(query, hits, encode, **options)]):
                said.append(verifier.check(text))
                yield said[-1].text
        if not said:
            yield UNKNOWN
            yield replace(base, abstained=True, sentences=(Sentence(UNKNOWN),), note=note)
            return
        text, citations = "".join(s.text for s in said), tuple(verifier.citations)
        yield replace(base, text=text, sentences=tuple(said), citations=citations, note=note)

    def _documents(self, hits: Sequence[Hit]) -> dict[str, Document]:
        names = dict.fromkeys(hit.chunk.document for hit in hits)
        return {name: self.retriever.store.document(name) for name in names}

    def _prompt(self, question, query, hits, history):
        """Messages that fit, and the hits in them; a follow-up is told in full words."""
        settings = self.settings
        recent = window(history, settings.history_tokens)
        asked = question if recent else query

        def fits(messages: list) -> bool:
            return self.model.fits(messages, settings.max_new_tokens)

        return fitting(asked, hits, recent, fits, guard=settings.guard)

    def _checked(self, prompt, verifier: Verifier, stop: Event | None) -> Iterator[Sentence]:
        """Verified sentences of a model, from the moment on at which one is supported."""
        settings, held, supported, seen = self.settings, [], False, set()
        options = {"max_new_tokens": settings.max_new_tokens, "seed": settings.seed}
        options |= {"temperature": settings.temperature, "stop": stop}
        with closing(self.model.stream(prompt, **options)) as pieces:
            for text in _whole_sentences(pieces):
                plain = " ".join(text.split()).lower()
                if plain in seen or (not seen and REFUSAL.match(text)):
                    break  # small models repeat themselves to the end of their budget
                seen.add(plain)
                held.append(verifier.check(text))
                supported = supported or bool(held[-1].citations)
                if supported:
                    yield from held
                    held = []


def _whole_sentences(pieces: Iterable[str]) -> Iterator[str]:
    """Sentences as soon as the next one has begun, for a marker may follow the full stop.

    What stands between two sentences goes with the later one, so that nothing follows the last.
    """
    text = ""
    for piece in pieces:
        text += piece
        cut = split(text)
        while len(cut) > 1 and re.match(r"\s*[^\s\[]", cut[1]):
            body = cut[0].rstrip()
            yield body
            cut = [cut[0][len(body) :] + cut[1], *cut[2:]]
            text = "".join(cut)
    for body in split(text.rstrip()):
        yield body
