"""A LLaMA on week 19's engine, for one user or several at a time.

All streams share one scheduler and one pool of keys and values: who needs a token computes a step
for all who wait, so that no thread stands behind them, and prompts that begin alike (the
instruction, an earlier turn) are read once.
"""

from collections import defaultdict, deque
from collections.abc import Iterator
from threading import Event, Lock

from llm_eval.models.networks import Prompt, fused
from llm_eval.models.tokens import Codec
from rag.answering.local import LocalModel
from shared.require import require
from week18.llama3 import Llama
from week19.sampling import Sampler, greedy
from week19.scheduler import Request, Scheduler

BLOCK = 16


class LlamaModel(LocalModel):
    """A LLaMA and its tokenizer.

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
        super().__init__(name, codec, min(context, model.config.context))
        blocks = -(-2 * self.context // BLOCK)  # two of the longest, or more of the usual length
        network = fused(model)
        self._scheduler = Scheduler(network, n_blocks=blocks, block_size=BLOCK, max_batch=users)
        self._inbox: defaultdict[int, deque[int]] = defaultdict(deque)
        self._lock = Lock()

    def _new(self, asked: Prompt, stop: Event | None) -> Iterator[int]:
        must = f"prompt and answer must fit in {self.context} tokens"
        total = len(asked.tokens) + asked.max_new_tokens
        require(total <= self.context, must, f"{len(asked.tokens)} + {asked.max_new_tokens}")
        choose = Sampler(temperature=asked.temperature) if asked.temperature else greedy
        options = asked.max_new_tokens, choose, asked.seed, self.codec.ends
        return self._answered(Request(asked.tokens, *options), stop)

    def _answered(self, request: Request, stop: Event | None) -> Iterator[int]:
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
