"""What can be chosen on the command line for searches and for answers."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from rag.terminal import follow
from rag.types import Answer

if TYPE_CHECKING:
    from rag.answering.answerer import Answerer, AnswerSettings
    from rag.conversation.sessions import Sessions
    from rag.retrieval.retriever import Retriever
    from rag.retrieval.settings import RetrievalSettings
    from rag.store.store import Store

Json = Annotated[bool, Parameter(name="--json", negative="")]
Share = Annotated[float, Parameter(validator=validators.Number(gte=0, lte=1))]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Finding:
    """How passages are found; what is not given is as it was tuned.

    Attributes
    ----------
    mode
        By words (bm25), by meaning (dense), or both (hybrid).
    fusion
        How the two scores of hybrid are joined: minmax, rrf or weighted.
    rerank
        What orders the best again: none, mmr (variety), late (word by word), or the folder of a
        cross-encoder.
    feedback
        Ask once more with what the best passages say.
    filter
        Only passages whose facts satisfy this, such as 'lang == "py" and page >= 3'.
    """

    mode: Literal["bm25", "dense", "hybrid"] | None = None
    fusion: Literal["minmax", "rrf", "weighted"] | None = None
    rerank: str | None = None
    feedback: bool | None = None
    filter: str | None = None

    def retriever(self, store: "Store") -> "Retriever":
        """A search of a store in this way."""
        from rag.retrieval.retriever import Retriever

        return Retriever(store, self.settings())

    def settings(self) -> "RetrievalSettings":
        """The tuned settings with these changes."""
        from rag.retrieval.settings import RetrievalSettings

        names = ("mode", "fusion", "rerank", "feedback")
        given = {name: getattr(self, name) for name in names}
        return replace(RetrievalSettings(), **{k: v for k, v in given.items() if v is not None})


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Answering(Finding):
    """How answers are made.

    Attributes
    ----------
    llm
        smollm2, hf:FOLDER, tiny_gpt:RUN, compress:DIR, gguf:FILE, openai:URL[#MODEL] or extractive
        (quotes only).
    min_confidence
        Below it the answer is that it is not known; as calibrated if not given.
    """

    llm: str = "smollm2"
    min_confidence: Share | None = None

    def answers(self) -> "AnswerSettings":
        """The calibrated settings with this change."""
        from rag.answering.answerer import AnswerSettings

        given = {} if self.min_confidence is None else {"min_confidence": self.min_confidence}
        return AnswerSettings(**given)

    def answerer(self, store: "Store") -> "Answerer":
        """What answers from a store in this way."""
        from rag.answering.answerer import Answerer
        from rag.answering.models import open_model

        return Answerer(self.retriever(store), open_model(self.llm), self.answers())

    def answer(
        self,
        answerer: "Answerer",
        question: str,
        kept: "Sessions",
        name: str | None,
        *,
        quiet: bool,
    ) -> Answer:
        """An answer, shown as it is written unless `quiet`."""
        from rag.conversation.talking import talk

        pieces = talk(answerer, question, kept, name, where=self.filter)
        return list(pieces)[-1] if quiet else follow(pieces)
