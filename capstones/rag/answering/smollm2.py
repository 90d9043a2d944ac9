"""SmolLM2-135M-Instruct on week 19's engine, for one user or several at a time.

All streams share one scheduler and one pool of keys and values: who needs a token computes a step
for all who wait, so that no thread stands behind them, and prompts that begin alike (the
instruction, an earlier turn) are read once.
"""

from collections import defaultdict, deque
from collections.abc import Iterator
from threading import Event, Lock

from rag.answering.decoding import decoded
from rag.answering.prompt import Message
from shared.require import require
from week18.smollm2 import smollm2
from week19.fused_llama import FusedLlama
from week19.sampling import Sampler, greedy
from week19.scheduler import Request, Scheduler

BLOCK = 16


class SmolLM2:
    """The default model.

    Parameters
    ----------
    context
        Most tokens of prompt and answer; the weights allow 8192, a processor's patience does not.
    users
        Answers that are written at the same time; others wait.
    """

    def __init__(self, *, context: int = 2048, users: int = 4):
        model, self.tokenizer = smollm2()
        must = f"context must be between 64 and {model.config.context}"
        require(64 <= context <= model.config.context, must, context)
        self.name, self.note, self.context = "smollm2", "", context
        blocks = 2 * context // BLOCK  # two of the longest, or more of the usual length
        fused = FusedLlama(model)
        self._scheduler = Scheduler(fused, n_blocks=blocks, block_size=BLOCK, max_batch=users)
        self._inbox: defaultdict[int, deque[int]] = defaultdict(deque)
        self._lock = Lock()

    def fits(self, messages: list[Message], max_new_tokens: int) -> bool:
        """Whether prompt and answer are within the context."""
        return len(self.tokenizer.chat(messages)) + max_new_tokens <= self.context

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
        prompt, end = self.tokenizer.chat(messages), self.tokenizer.end
        must = f"prompt and answer must fit in {self.context} tokens"
        total = len(prompt) + max_new_tokens
        require(total <= self.context, must, f"{len(prompt)} + {max_new_tokens}")
        choose = Sampler(temperature=temperature) if temperature else greedy
        request = Request(prompt, max_new_tokens, choose, seed, (end,))
        return decoded(self._bytes(request, stop))

    def _bytes(self, request: Request, stop: Event | None) -> Iterator[bytes]:
        with self._lock:
            number = self._scheduler.submit(request)
        ended = False
        try:
            for _ in range(request.max_new_tokens):
                token = self._next(number, stop)
                if token is None:
                    return
                if token in request.stop:
                    ended = True
                    return
                yield self.tokenizer.vocab[token]
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
