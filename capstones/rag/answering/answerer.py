"""From a question to an answer that was checked: search, weigh, write, verify.

What a model writes is held back until a whole sentence is there, and looked up before it is
shown. Sentences that nothing supports are left out, and a bare "Yes, " before one that something
does support. If none is left, quotes stand in for the answer.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from threading import Event
from typing import Any

from rag.answering.abstention import THRESHOLD, Evidence, confidence, evidence
from rag.answering.citations import LEAST, Verifier, split
from rag.answering.extractive import quote
from rag.answering.guard import suspicious
from rag.answering.models import Extractive, Model
from rag.answering.prompt import UNKNOWN, Message, fitting
from rag.conversation.memory import summarize, window
from rag.conversation.rewriting import is_small_talk, rewrite
from rag.types import Answer, Hit, Results, Sentence, Turn
from shared.require import require

REFUSAL = re.compile(r"\W*(?:i\s+(?:do\s+not|don['’]t)\s+know|i['’]m\s+not\s+sure)\b", re.I)
# No source says yes: what follows it is looked up.
OPENER = re.compile(r"(\s*)(?:yes|no|sure|certainly|of course|indeed),\s+(\S)", re.I)
LEFT_OUT = "left out: not found in the documents"
GREETING = "Hello. Ask me something, and I look it up in the documents."


@dataclass(frozen=True)
class AnswerSettings:
    """How answers are made.

    Attributes
    ----------
    k
        Chunks to search for: the choice of quotes, and what decides whether to answer.
    shown
        How many of them a model is shown; fewer, if its context is short.
    min_confidence
        Below it the answer is that it is not known.
    least_support
        The share of a sentence's content words that a source must hold.
    quotes
        Most sentences of an extractive answer.
    history_tokens, summary_tokens
        How much of the last turns a model is told word for word, and of those before in short.
    guard
        Whether instruction-like sentences of documents are kept from the model.
    """

    k: int = 5
    shown: int = 3
    min_confidence: float = THRESHOLD
    least_support: float = LEAST
    quotes: int = 2
    max_new_tokens: int = 120
    history_tokens: int = 200
    summary_tokens: int = 100
    temperature: float = 0.0
    seed: int = 0
    guard: bool = True

    def __post_init__(self):
        require(self.k >= 1, "k must be at least 1", self.k)
        share = 0 <= self.min_confidence <= 1
        require(share, "min_confidence must be between 0 and 1", self.min_confidence)


def silenced(answer: Answer) -> Answer:
    """The same question, unanswered."""
    said = (Sentence(UNKNOWN),)
    return replace(answer, text=UNKNOWN, sentences=said, citations=(), abstained=True)


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
        sure = confidence(self.evidence(query, results))
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
            yield silenced(base)
            return
        yield from self._written(base, query, history, stop)

    def evidence(self, query: str, results: Results) -> Evidence:
        """What speaks for the chunks that were found; see `abstention`."""
        store = self.retriever.store
        return evidence(query, results.hits, store.frequency, len(store))

    def _written(
        self, base: Answer, query: str, history: Sequence[Turn], stop: Event | None
    ) -> Iterator[str | Answer]:
        """The part after the decision to answer."""
        settings, hits, name = self.settings, base.hits, self.model.name
        names = dict.fromkeys(hit.chunk.document for hit in hits)
        documents = {each: self.retriever.store.document(each) for each in names}
        said: list[Sentence] = []
        if not isinstance(self.model, Extractive):
            prompt, hits = self._prompt(base.question, query, history, hits)
            verifier = Verifier(hits, documents, least=settings.least_support)
            doubtful = 0
            for sentence in self._checked(prompt, verifier, stop):
                if not sentence.citations and sentence.text != UNKNOWN:
                    doubtful += not sentence.supported
                    continue
                if not said:
                    sentence = replace(sentence, text=sentence.text.lstrip())
                said.append(sentence)
                yield sentence.text
            if said == [Sentence(UNKNOWN)]:
                yield silenced(replace(base, note=f"{name} found no answer in the documents"))
                return
            if said and doubtful:
                plural = "s" * (doubtful > 1)
                base = replace(base, note=f"{doubtful} sentence{plural} of {name} {LEFT_OUT}")
            if not said:
                base = replace(
                    base, note=f"nothing that {name} said is supported: these are quotes"
                )
        if not said:
            verifier = Verifier(hits, documents, least=settings.least_support)
            encode = self.retriever.store.embedder.encode
            quotes = quote(query, hits, encode, most=settings.quotes, guard=settings.guard)
            # Not joined and split again: a quote may end without a full stop.
            said = [verifier.check(" " * (n > 0) + text) for n, text in enumerate(quotes)]
            yield "".join(sentence.text for sentence in said) or UNKNOWN
        if not said:
            yield silenced(base)
            return
        text, citations = "".join(s.text for s in said), tuple(verifier.citations)
        yield replace(base, text=text, sentences=tuple(said), citations=citations)

    def _prompt(
        self, question: str, query: str, history: Sequence[Turn], hits: Sequence[Hit]
    ) -> tuple[list[Message], list[Hit]]:
        """Messages that fit, and the hits in them; without history a follow-up is told in full."""
        settings = self.settings
        recent = window(history, settings.history_tokens)
        earlier = summarize(history[: len(history) - len(recent)], settings.summary_tokens)
        asked = question if recent else query

        def fits(prompt: list[Message]) -> bool:
            return self.model.fits(prompt, settings.max_new_tokens)

        return fitting(asked, hits[: settings.shown], recent, fits, earlier, guard=settings.guard)

    def _checked(
        self, prompt: list[Message], verifier: Verifier, stop: Event | None
    ) -> Iterator[Sentence]:
        """A model's sentences, each looked up in the chunks; with citations if it was found.

        If it says that it does not know, that is the only sentence.
        """
        settings, seen = self.settings, set()
        options = {"max_new_tokens": settings.max_new_tokens, "seed": settings.seed}
        options |= {"temperature": settings.temperature, "stop": stop}
        with closing(self.model.stream(prompt, **options)) as pieces:
            for text in _whole_sentences(pieces):
                plain = " ".join(text.split()).lower()
                if not seen and REFUSAL.match(text):
                    yield Sentence(UNKNOWN)
                    return
                if plain in seen:  # small models repeat themselves until their budget is spent
                    return
                seen.add(plain)
                yield verifier.check(_without_opener(text))


def _without_opener(text: str) -> str:
    found = OPENER.match(text)
    return found[1] + found[2].upper() + text[found.end() :] if found else text


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
