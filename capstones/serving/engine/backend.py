"""Answers by a language model: week 27's engine, asked in OpenAI's terms."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import torch

from serving.engine.choosing import Chooser, said
from serving.engine.metrics import Metrics
from serving.errors import ApiError, refused
from serving.models.language_model import LanguageModel
from serving.types import Answer, Asked, Piece, Said, Turns
from shared.errors import UserError
from shared.require import require
from week19.scheduler import Request, Scheduler
from week27.serve import Broken, Engine, Full, Stream
from week27.streaming import Writing

BLOCK = 16


@dataclass(frozen=True)
class Limits:
    """What the server takes on.

    Attributes
    ----------
    max_num_seqs
        Answers that are written at a time.
    max_queue
        Answers that may wait for it; more are refused with 429.
    max_model_len
        Most tokens of a prompt and its answer; what the model and the cache allow if None.
    kv_cache_memory_bytes
        Of keys and values.
    """

    max_num_seqs: int = 8
    max_queue: int = 64
    max_model_len: int | None = None
    kv_cache_memory_bytes: int = 512 * 1024**2

    def __post_init__(self):
        least = {"max_num_seqs": 1, "max_queue": 0, "max_model_len": 1}
        for name, bound in least.items():
            value, flag = getattr(self, name), name.replace("_", "-")
            fits = value is None or value >= bound
            require(fits, f"--{flag} must be at least {bound}", value, error=UserError)
        must, most = "--max-num-seqs must be at most 1024", self.max_num_seqs
        require(most <= 1024, must, most, error=UserError)


class TokenAnswer:
    """One answer of the engine; see `serving.types.Answer`."""

    def __init__(self, stream: Stream, choose: Chooser, writing: Writing, metrics: Metrics):
        self._stream, self._choose, self._writing = stream, choose, writing
        self._metrics, self._start, self._over = metrics, time.perf_counter(), False
        self.n_prompt, self.n_written = len(stream.request.prompt), 0

    async def __aiter__(self) -> AsyncIterator[Piece]:
        told, last = 0, self._start
        try:
            async for token in self._stream:
                now = time.perf_counter()
                self._count(now - last)
                last = now
                text = self._writing.feed(token)
                if self._writing.finished:
                    yield self._end("stop", text, told)
                    return
                if text:
                    yield Piece(text, tuple(self._choose.said[told : self.n_written]))
                    told = self.n_written
            yield self._end("length", self._writing.end(), told)
        except Broken as error:
            raise ApiError(500, f"{error}; the request is lost", code="engine_dead") from error
        finally:
            self.cancel()

    def cancel(self) -> None:
        """See `serving.types.Answer`."""
        self._stream.cancel()
        if not self._over:
            self._over = True
            self._metrics.ended("abort")

    def _count(self, seconds: float) -> None:
        self.n_written += 1
        self._metrics.written.inc()
        (self._metrics.between if self.n_written > 1 else self._metrics.first).observe(seconds)

    def _end(self, reason: str, text: str, told: int) -> Piece:
        self._over = True
        self._metrics.ended(reason)
        self._metrics.whole.observe(time.perf_counter() - self._start)
        rest = self._choose.said[told : self.n_written]
        if rest and rest[-1].token in self._writing.ends:
            rest = rest[:-1]  # it is no part of the text
        return Piece(text, tuple(rest), reason)


class NoAnswer:
    """To a request for nothing but its prompt."""

    def __init__(self, n_prompt: int):
        self.n_prompt, self.n_written = n_prompt, 0

    async def __aiter__(self) -> AsyncIterator[Piece]:
        yield Piece("", finish="length")

    def cancel(self) -> None:
        """Nothing to do."""


class TokenBackend:
    """A language model that answers; see `serving.types.Backend`.

    Raises
    ------
    UserError
        If the cache has no room for one answer.
    """

    def __init__(self, model: LanguageModel, limits: Limits, metrics: Metrics):
        self.model, self.limits, self.metrics = model, limits, metrics
        config, weight = model.network.config, model.network.embed.weight
        token_bytes = 2 * config.n_layers * config.n_kv_heads * config.head_dim
        token_bytes *= weight.element_size()
        longest = limits.max_model_len or model.context
        must = f"--max-model-len must be at most the model's context, {model.context}"
        require(longest <= model.context, must, longest, error=UserError)
        blocks = min(
            limits.kv_cache_memory_bytes // (token_bytes * BLOCK),
            limits.max_num_seqs * (-(-longest // BLOCK) + 1),
        )
        if limits.max_model_len is None:
            longest = min(longest, blocks * BLOCK)
        need = -(-longest // BLOCK) * BLOCK * token_bytes
        must = f"--kv-cache-memory-bytes must be at least {need:,}, for one answer"
        given = limits.kv_cache_memory_bytes
        require(0 < longest <= blocks * BLOCK, must, f"{given:,}", error=UserError)
        self.longest = longest
        scheduler = Scheduler(
            model.network, n_blocks=blocks, block_size=BLOCK, max_batch=limits.max_num_seqs
        )
        self.engine = Engine(scheduler, most=limits.max_num_seqs + limits.max_queue).__enter__()
        metrics.watch(metrics.running, lambda: self.engine.running)
        metrics.watch(metrics.waiting, lambda: max(0, self.active - self.engine.running))
        metrics.watch(metrics.cache, lambda: self.engine.used_blocks / blocks)

    @property
    def active(self) -> int:
        """See `serving.types.Backend`."""
        return len(self.engine.active)

    @property
    def broken(self) -> bool:
        """Whether the model failed."""
        return self.engine.error is not None

    def begin(self, asked: Asked) -> list[Answer]:
        """See `serving.types.Backend`."""
        prompt = self.model.tokens(asked.prompt)
        new = self._room(prompt, asked.max_tokens)
        if asked.n > self.limits.max_num_seqs:
            raise refused(f"n must be at most {self.limits.max_num_seqs}", param="n")
        if wrong := [i for i in asked.sampling.bias if not 0 <= i < self.model.vocab_size]:
            most = self.model.vocab_size - 1
            message = f"logit_bias must name tokens from 0 to {most}, got {wrong[0]}"
            raise refused(message, param="logit_bias")
        if asked.max_tokens == 0:
            return [NoAnswer(len(prompt))]
        answers: list[Answer] = []
        if self.active + asked.n > self.engine.most:
            raise self._busy()
        try:
            for i in range(asked.n):
                answers.append(self._answer(asked, prompt, new, (asked.seed + i) % 2**63))
        except Full as error:
            raise self._busy() from error
        except Broken as error:
            raise ApiError(500, str(error), code="engine_dead") from error
        self.metrics.prompt.inc(len(prompt))
        return answers

    def _answer(self, asked: Asked, prompt: Sequence[int], new: int, seed: int) -> TokenAnswer:
        ends = frozenset() if asked.ignore_end else self.model.codec.ends
        choose = Chooser(asked.sampling, len(prompt), asked.top)
        stream = self.engine.submit(Request(prompt, new, choose, seed, ends))
        writing = Writing(self.model.decode, stops=asked.stops, ends=ends)
        return TokenAnswer(stream, choose, writing, self.metrics)

    def _room(self, prompt: Sequence[int], new: int | None) -> int:
        left = self.longest - len(prompt)
        if left < 0 or (1 if new is None else new) > left:
            message = f"this model's maximum context length is {self.longest} tokens; "
            message += f"the prompt has {len(prompt)}"
            message += f" and {new} are asked for" if new else ""
            raise refused(message, param="messages", code="context_length_exceeded")
        return left if new is None else new

    def _busy(self) -> ApiError:
        message = f"{self.active} answers are being written or wait; come again"
        return ApiError(429, message, code="overloaded", wait=1)

    async def prompt(self, asked: Turns | str | tuple[int, ...], top: int | None) -> Piece:
        """A prompt as a piece of text, with the likelihood of its tokens if `top` is given."""
        tokens = self.model.tokens(asked)
        text = asked if isinstance(asked, str) else self.model.decode(tokens)
        if top is None:
            return Piece(text)
        self._room(tokens, 0)
        return Piece(text, await self.engine.call(lambda: self._likelihood(tokens, top)))

    @torch.inference_mode()
    def _likelihood(self, tokens: Sequence[int], top: int) -> tuple[Said, ...]:
        logits = self.model.plain(torch.tensor([tokens]))[0]
        rest = [said(row, token, top) for row, token in zip(logits, tokens[1:], strict=False)]
        return (Said(tokens[0], None), *rest)

    def close(self) -> None:
        """See `serving.types.Backend`."""
        self.engine.__exit__()
