"""Answers in OpenAI's shapes, whole and in chunks.

A stream's order: the role first, the text's pieces, a chunk with `finish_reason` for each answer,
the usage if it was asked for (its `choices` empty), and `[DONE]`.
"""

import itertools
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from serving.models.language_model import LanguageModel
from serving.types import Answer, Piece, Said
from week27.streaming import Detokenizer


def usage(answers: Sequence[Answer]) -> dict[str, Any]:
    """How many tokens; the prompt counts once."""
    prompt, written = answers[0].n_prompt, sum(answer.n_written for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": written,
        "total_tokens": prompt + written,
    }


class Shape:
    """How one request is answered.

    Parameters
    ----------
    served
        The name under which the model is served.
    model
        Spells tokens; None where answers have none.
    told
        Whether log-probabilities are asked for.
    """

    prefix = kind = chunk_kind = ""

    def __init__(self, served: str, model: LanguageModel | None, *, told: bool):
        self.model, self.told = model, told
        self._head = {
            "id": f"{self.prefix}-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": served,
        }

    def whole(self, pieces: Sequence[Sequence[Piece]], answers: Sequence[Answer]) -> dict[str, Any]:
        """All answers, at once."""
        choices = [self._choice(i, each) for i, each in enumerate(pieces)]
        return {**self._head, "object": self.kind, "choices": choices, "usage": usage(answers)}

    async def chunks(
        self,
        pieces: AsyncIterator[tuple[int, Piece]],
        answers: Sequence[Answer],
        *,
        include_usage: bool,
    ) -> AsyncIterator[dict[str, Any]]:
        """All answers, piece by piece."""
        more = {"usage": None} if include_usage else {}
        head = {**self._head, "object": self.chunk_kind or self.kind}
        for choice in self._openings(len(answers)):
            yield {**head, "choices": [choice], **more}
        async for i, piece in pieces:
            for choice in self._deltas(i, piece):
                yield {**head, "choices": [choice], **more}
        if include_usage:
            yield {**head, "choices": [], "usage": usage(answers)}

    def _choice(self, i: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        raise NotImplementedError

    def _openings(self, n: int) -> Iterable[dict[str, Any]]:
        return ()

    def _deltas(self, i: int, piece: Piece) -> Iterable[dict[str, Any]]:
        raise NotImplementedError


class ChatShape(Shape):
    """`chat.completion`."""

    prefix, kind, chunk_kind = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def _choice(self, i: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces)
        message = {"role": "assistant", "content": text, "refusal": None}
        tokens = list(itertools.chain.from_iterable(piece.tokens for piece in pieces))
        return {
            "index": i,
            "message": message | dict(pieces[-1].extra),
            "logprobs": self._logprobs(tokens),
            "finish_reason": pieces[-1].finish,
        }

    def _openings(self, n: int) -> Iterable[dict[str, Any]]:
        for i in range(n):
            delta = {"role": "assistant", "content": ""}
            yield {"index": i, "delta": delta, "logprobs": None, "finish_reason": None}

    def _deltas(self, i: int, piece: Piece) -> Iterable[dict[str, Any]]:
        if piece.text or piece.tokens:
            logprobs = self._logprobs(piece.tokens)
            delta = {"content": piece.text}
            yield {"index": i, "delta": delta, "logprobs": logprobs, "finish_reason": None}
        if piece.finish:
            delta = dict(piece.extra)
            yield {"index": i, "delta": delta, "logprobs": None, "finish_reason": piece.finish}

    def _logprobs(self, tokens: Sequence[Said]) -> dict[str, Any] | None:
        if not self.told:
            return None

        def entry(token: int, logprob: float) -> dict[str, Any]:
            spelled = self.model.spelled(token)
            text = spelled.decode("utf-8", "replace")
            return {"token": text, "logprob": logprob, "bytes": list(spelled)}

        content = [
            entry(said.token, said.logprob) | {"top_logprobs": [entry(*pair) for pair in said.top]}
            for said in tokens
        ]
        return {"content": content, "refusal": None}


class CompletionShape(Shape):
    """`text_completion`.

    Parameters
    ----------
    echo
        The prompt, as the first piece of each answer; None if it is not wanted.
    """

    prefix, kind = "cmpl", "text_completion"

    def __init__(
        self, served: str, model: LanguageModel | None, *, told: bool, echo: Piece | None = None
    ):
        super().__init__(served, model, told=told)
        self._echo, self._texts, self._lengths = echo, {}, {}

    def _choice(self, i: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        pieces = [*([self._echo] if self._echo else []), *pieces]
        tokens = list(itertools.chain.from_iterable(piece.tokens for piece in pieces))
        return {
            "index": i,
            "text": "".join(piece.text for piece in pieces),
            "logprobs": self._logprobs(i, tokens),
            "finish_reason": pieces[-1].finish,
        }

    def _openings(self, n: int) -> Iterable[dict[str, Any]]:
        for i in range(n) if self._echo else ():
            yield from self._deltas(i, self._echo)

    def _deltas(self, i: int, piece: Piece) -> Iterable[dict[str, Any]]:
        choice = {"index": i, "finish_reason": None}
        if piece.text or piece.tokens:
            yield choice | {"text": piece.text, "logprobs": self._logprobs(i, piece.tokens)}
        if piece.finish:
            yield choice | {"text": "", "logprobs": None, "finish_reason": piece.finish}

    def _logprobs(self, i: int, tokens: Sequence[Said]) -> dict[str, Any] | None:
        if not self.told:
            return None
        found: dict[str, list] = {
            name: [] for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset")
        }
        text = self._texts.setdefault(i, Detokenizer(self.model.decode))
        for said in tokens:
            offset = self._lengths.get(i, 0)
            self._lengths[i] = offset + len(text.feed(said.token))
            best = {self._name(token): logprob for token, logprob in said.top}
            found["tokens"].append(self._name(said.token))
            found["token_logprobs"].append(said.logprob)
            found["top_logprobs"].append(None if said.logprob is None else best)
            found["text_offset"].append(offset)
        return found

    def _name(self, token: int) -> str:
        """Its text; of half a character its bytes, or two tokens would have one name."""
        spelled = self.model.spelled(token)
        try:
            return spelled.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in spelled)
