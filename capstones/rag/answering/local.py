"""Models on this machine: whatever computes tokens, and the text of what it writes."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from threading import Event

from llm_eval.models.networks import PlainNetwork, Prompt
from llm_eval.models.tokens import Codec, prompt
from rag.answering.prompt import Message
from shared.errors import UserError
from week27.streaming import Writing

END = "\n\n"  # of an answer, where a model was never taught to chat


def plain(messages: list[Message]) -> str:
    """A conversation for a model that was never taught to chat: it goes on after "Answer:"."""
    body = "\n\n".join(message["content"] for message in messages)
    return f"{body}\nAnswer:"


def stopped(pieces: Iterator[str], stop: Event | None) -> Iterator[str]:
    """Pieces until `stop` is set."""
    for piece in pieces:
        if stop is not None and stop.is_set():
            return
        yield piece


def written(
    tokens: Iterable[int],
    decode: Callable[[Sequence[int]], str],
    *,
    ends: Collection[int],
    stops: Collection[str] = (),
) -> Iterator[str]:
    """The text of tokens in whole characters, until one of the `ends` or a stop string."""
    text = Writing(decode, ends=ends, stops=stops)
    for token in tokens:
        if piece := text.feed(token):
            yield piece
        if text.finished:
            return
    if piece := text.end():
        yield piece


class LocalModel(ABC):
    """A tokenizer and what computes; see `rag.answering.models.Model`.

    One that knows no conversations goes on to the end of a paragraph.
    """

    def __init__(self, name: str, codec: Codec, context: int):
        self.name, self.note, self.codec, self.context = name, "", codec, context

    def fits(self, messages: list[Message], max_new_tokens: int) -> bool:
        """Whether prompt and answer are within the context."""
        return len(self._tokens(messages)[0]) + max_new_tokens <= self.context

    def _tokens(self, messages: list[Message]) -> tuple[list[int], tuple[str, ...]]:
        """A conversation, and what ends its answer beside the model's own tokens."""
        try:
            return prompt(self.codec, tuple((m["role"], m["content"]) for m in messages)), ()
        except UserError:  # it was never taught to chat
            pass
        try:
            return prompt(self.codec, plain(messages)), (END,)
        except ValueError as error:
            raise UserError(f"prompt cannot be encoded: {error}") from error

    def stream(
        self,
        messages: list[Message],
        *,
        max_new_tokens: int = 160,
        seed: int = 0,
        temperature: float = 0.0,
        stop: Event | None = None,
    ) -> Iterator[str]:
        """The answer in pieces of whole characters; see `Model.stream`."""
        tokens, stops = self._tokens(messages)
        new = self._new(Prompt(tuple(tokens), max_new_tokens, temperature, seed), stop)
        return stopped(written(new, self.codec.decode, ends=self.codec.ends, stops=stops), stop)

    @abstractmethod
    def _new(self, asked: Prompt, stop: Event | None) -> Iterator[int]:
        """New tokens."""


class NetworkModel(LocalModel):
    """A network that reads and writes for one user at a time."""

    def __init__(self, name: str, network: PlainNetwork, codec: Codec):
        super().__init__(name, codec, network.context)
        self.network = network

    def _new(self, asked: Prompt, stop: Event | None) -> Iterator[int]:
        return self.network.stream(asked)
