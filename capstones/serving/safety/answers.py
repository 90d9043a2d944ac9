"""The policy around a request: its prompt before it is begun, its answers on their way out.

A token's log-probability tells the token, so that under *block* none are given; and what is blocked
is also no longer written: its place in the batch is free at once.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from serving.engine.metrics import Metrics
from serving.errors import refused
from serving.safety.policy import Safety, Watched
from serving.safety.stream import StreamFilter
from serving.types import Answer, Asked, Backend, Piece


async def admit(asked: Asked, backend: Backend, safety: Safety, metrics: Metrics) -> None:
    """Look at a prompt.

    Raises
    ------
    ApiError
        400: it has a reason to be blocked, or asks for log-probabilities.
    """
    if safety.mode == "off":
        return
    if safety.mode == "block" and asked.top is not None:
        raise refused("logprobs would tell what the filter holds back", param="logprobs")
    backend.begin(replace(asked, max_tokens=0, n=1))  # a prompt that is too long is not read
    reason = await asyncio.to_thread(safety.check, _text(asked, backend))
    if reason:
        metrics.found("prompt", reason, safety.mode)
        if safety.mode == "block":
            raise refused(
                f"the prompt was blocked by the safety filter: {reason}",
                param="messages",
                code="content_filter",
            )


def _text(asked: Asked, backend: Backend) -> str:
    """What people said; what the model said before has passed already."""
    prompt = asked.prompt
    if isinstance(prompt, str):
        return prompt
    if prompt and isinstance(prompt[0], int):
        return backend.model.decode(prompt)  # only what has tokens takes them
    return "\n".join(text for role, text in prompt if role != "assistant")


def guarded(answers: Sequence[Answer], safety: Safety, metrics: Metrics) -> Sequence[Answer]:
    """The answers, each behind a filter of its own."""
    if safety.mode == "off":
        return answers
    return [Guarded(answer, safety, metrics) for answer in answers]


class Guarded:
    """An answer behind a filter; see `serving.types.Answer`.

    Attributes
    ----------
    reason
        Why it was blocked, or would have been.
    """

    reason: str | None = None

    def __init__(self, answer: Answer, safety: Safety, metrics: Metrics):
        self._answer, self._safety, self._metrics = answer, safety, metrics
        self._stream: StreamFilter | Watched = safety.stream()

    @property
    def n_prompt(self) -> int:
        """Tokens of the prompt."""
        return self._answer.n_prompt

    @property
    def n_written(self) -> int:
        """Tokens so far, those that are held back among them."""
        return self._answer.n_written

    def cancel(self) -> None:
        """Nobody reads on."""
        self._answer.cancel()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        async for piece in self._answer:
            released = self._stream.feed(piece.text)
            text = released.text
            if piece.finish and not released.blocked:
                released = self._stream.end()
                text += released.text
            self._note(released.blocked or getattr(self._stream, "warning", None))
            if released.blocked:
                self._answer.cancel()
                extra = {"content_filter": released.blocked}
                yield Piece(text, finish="content_filter", extra=extra)
                return
            if text or piece.tokens or piece.finish:
                yield replace(piece, text=text, extra=_through(piece.extra, self._safety))

    def _note(self, reason: str | None) -> None:
        if reason and not self.reason:
            self.reason = reason
            self._metrics.found("answer", reason, self._safety.mode)


def _through(value: Any, safety: Safety) -> Any:
    """What goes beside the text, such as quotations, each through a filter; None if blocked."""
    if isinstance(value, str):
        stream = safety.stream()
        first, rest = stream.feed(value), stream.end()
        return None if rest.blocked else first.text + rest.text
    if isinstance(value, Mapping):
        return {name: _through(one, safety) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_through(one, safety) for one in value]
    return value
