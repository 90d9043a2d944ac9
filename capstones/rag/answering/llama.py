"""A LLaMA on week 19's engine, for one user or several at a time.

All streams share one scheduler and one pool of keys and values: who needs a token computes a step
for all who wait, so that no thread stands behind them, and prompts that begin alike (the
instruction, an earlier turn) are read once.
"""

from collections import defaultdict, deque
from collections.abc import Iterator
from threading import Event, Lock

from llm_eval.models.networks import fused
from llm_eval.models.tokens import Codec, prompt
from rag.answering.local import END, plain, stopped, written
from rag.answering.prompt import Message
from shared.errors import UserError
from shared.require import require
from week18.llama3 import Llama
from week19.sampling import Sampler, greedy
from week19.scheduler import Request, Scheduler

BLOCK = 16


class LlamaModel:
    """A model and its tokenizer; one that knows no conversations goes on to the end of a paragraph.

    Parameters
    ----------
    context
        Most tokens of prompt and answer; the weights may allow more, a processor's patience does
        not.
    users
        Answers that are written at the same time; others wait.
    """

    def __init__(
        self, name: str, model: Llama, codec: Codec, *, context: int = 2048, users: int = 4
    ):
        require(context >= 1, "context must be at least 1", context)
        self.name, self.note, self.codec = name, "", codec
        self.context = min(context, model.config.context)
        blocks = -(-2 * self.context // BLOCK)  # two of the longest, or more of the usual length
        network = fused(model)
        self._scheduler = Scheduler(network, n_blocks=blocks, block_size=BLOCK, max_batch=users)
        self._inbox: defaultdict[int, deque[int]] = defaultdict(deque)
        self._lock = Lock()

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
        must = f"prompt and answer must fit in {self.context} tokens"
        total = len(tokens) + max_new_tokens
        require(total <= self.context, must, f"{len(tokens)} + {max_new_tokens}")
        choose = Sampler(temperature=temperature) if temperature else greedy
        ends = self.codec.ends
        new = self._new(Request(tokens, max_new_tokens, choose, seed, ends), stop)
        return stopped(written(new, self.codec.decode, ends=ends, stops=stops), stop)

    def _new(self, request: Request, stop: Event | None) -> Iterator[int]:
        with self._lock:
            number = self._scheduler.submit(request)
        ended = False
        try:
            for _ in range(request.max_new_tokens):
                token = self._next(number, stop)
                if token is None:
                    return
                ended = token in request.stop
                yield token
                if ended:
                    return
            ended = True
        finally:
            with self._lock:
                if not ended and number not in self._scheduler.finished:
                    self._scheduler.cancel(number)
                self._scheduler.finished.pop(number, None)
                self._inbox.pop(number, None)

    def _next(self, number: int, stop: Event | None) -> int | None:
        """The next token of a request, computed here or by another stream; None if stopped."""
        while stop is None or not stop.is_set():
            with self._lock:
                mine = self._inbox[number]
                if not mine:
                    for other, token in self._scheduler.step().items():
                        self._inbox[other].append(token)
                if mine:
                    return mine.popleft()
        return None
