"""Our models as LangChain's chat models, and a chain of retriever, prompt and model.

>>> class Parrot:
...     name = "parrot"
...
...     def stream(self, messages, **options):
...         yield from messages[-1]["content"].split(" ")
>>> RagChatModel(model=Parrot()).invoke("Hello you there", stop=["the"]).content
'Helloyou'
"""

from collections.abc import Iterable, Iterator
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.documents import Document
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda, RunnablePassthrough

from rag.types import Chunk, Hit
from shared.errors import UserError

ROLES = {"human": "user", "ai": "assistant", "system": "system"}


class RagChatModel(BaseChatModel):
    """A model of `rag.answering.models` that LangChain can call and stream.

    Attributes
    ----------
    model
        Has `name` and `stream(messages, …)`.
    temperature
        0 takes the likeliest token, always.
    """

    model: Any
    max_new_tokens: int = 160
    temperature: float = 0.0
    seed: int = 0

    @property
    def _llm_type(self) -> str:
        return "rag"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        options = {"max_new_tokens": self.max_new_tokens, "temperature": self.temperature}
        return {"model": self.model.name, "seed": self.seed, **options}

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        options = {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
        }
        pieces = self.model.stream([plain(message) for message in messages], **options)
        for piece in until(pieces, stop or []):
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=piece))
            if run_manager:
                run_manager.on_llm_new_token(piece, chunk=chunk)
            yield chunk

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        pieces = self._stream(messages, stop, run_manager, **kwargs)
        text = "".join(str(piece.message.content) for piece in pieces)
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content=text))])


def plain(message: BaseMessage) -> dict[str, str]:
    """A message as our models take it."""
    if message.type not in ROLES or not isinstance(message.content, str):
        raise UserError(
            f"messages must be text of a user, an assistant or a system, got {message!r}"
        )
    return {"role": ROLES[message.type], "content": message.content}


def until(pieces: Iterable[str], stop: list[str]) -> Iterator[str]:
    """Pieces up to the first of the words to stop at, wherever the pieces are cut."""
    held, back = "", max(map(len, stop), default=1) - 1  # so much may be the begin of such a word
    for piece in pieces:
        held += piece
        ends = [held.find(word) for word in stop if word in held]
        if ends:
            held, back = held[: min(ends)], 0
            break
        if len(held) > back:
            yield held[: len(held) - back]
            held = held[len(held) - back :]
    if held:
        yield held


def chain(retriever: BaseRetriever, model: BaseChatModel) -> Runnable[str, str]:
    """Question to answer: what the retriever finds stands fenced in the prompt of our answerer.

    Citations are not verified here; `rag.answering.answerer.Answerer` does that.
    """
    from rag.answering.prompt import messages

    def prompt(found: dict[str, Any]) -> list[tuple[str, str]]:
        hits = [hit_of(document) for document in found["documents"]]
        return [(m["role"], m["content"]) for m in messages(found["question"], hits)]

    look = {"documents": retriever, "question": RunnablePassthrough()}
    return look | RunnableLambda(prompt) | model | StrOutputParser()


def hit_of(document: Document) -> Hit:
    """A document that LangChain found, as ours."""
    text = document.page_content
    return Hit(Chunk(document.id or "", 0, len(text), text), row=-1, score=0.0)
