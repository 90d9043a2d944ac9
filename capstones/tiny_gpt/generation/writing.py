"""From a prompt to text, as it comes or several at once."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jaxtyping import Int
from torch import Tensor

from shared.errors import UserError
from tiny_gpt.data.tokenizers import Tokenizer
from tiny_gpt.generation.generate import decode_stream, generate
from tiny_gpt.training.checkpoints import Checkpoint

__all__ = ["prompt_tokens", "stream", "until", "write"]


def stream(
    checkpoint: Checkpoint,
    prompt: str,
    max_new_tokens: int,
    *,
    seed: int = 0,
    stop: str | None = None,
    **options: Any,
) -> Iterator[str]:
    """What follows a prompt, piece by piece, to the end of the text or before `stop`.

    Options are `sampler` and `cache`, as `generate` takes them.
    """
    columns = _rows(checkpoint, prompt, max_new_tokens, seeds=[seed], **options)
    row = _before(checkpoint.tokenizer.end_of_text, (int(column[0]) for column in columns))
    return until(decode_stream(checkpoint.tokenizer, row), stop)


def write(
    checkpoint: Checkpoint,
    prompt: str,
    max_new_tokens: int,
    *,
    seeds: Sequence[int],
    stop: str | None = None,
    **options: Any,
) -> list[str]:
    """What follows a prompt, once for each seed; each is what `stream` gives alone."""
    columns = list(_rows(checkpoint, prompt, max_new_tokens, seeds=seeds, **options))
    tokenizer, texts = checkpoint.tokenizer, []
    for i in range(len(seeds)):
        row = _before(tokenizer.end_of_text, (int(column[i]) for column in columns))
        texts.append("".join(until([tokenizer.decode(list(row))], stop)))
    return texts


def prompt_tokens(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """A prompt's tokens; of an empty one the token between texts, or a line end, or a blank.

    Where the tokenizer knows none of them, it is the first one that it does know.
    """
    if prompt:
        try:
            return tokenizer.encode(prompt).tolist()
        except ValueError as error:
            raise UserError(f"prompt cannot be encoded: {error}") from error
    if tokenizer.end_of_text is not None:
        return [tokenizer.end_of_text]
    for text in ("\n", " "):
        with contextlib.suppress(ValueError):
            return tokenizer.encode(text).tolist()
    return [0]


def until(pieces: Iterable[str], stop: str | None) -> Iterator[str]:
    """Pieces of a text up to the first `stop`, wherever the pieces are cut.

    What might be the beginning of `stop` is held back until the next piece decides.
    """
    held = ""
    for piece in pieces:
        held += piece
        if not stop:
            yield held
            held = ""
            continue
        if (at := held.find(stop)) >= 0:
            yield held[:at]
            return
        lengths = range(min(len(stop) - 1, len(held)), 0, -1)
        keep = next((n for n in lengths if held.endswith(stop[:n])), 0)
        yield held[: len(held) - keep]
        held = held[len(held) - keep :]
    yield held


def _rows(
    checkpoint: Checkpoint, prompt: str, n: int, *, seeds: Sequence[int], **options: Any
) -> Iterator[Int[Tensor, "batch"]]:
    tokens, end = prompt_tokens(checkpoint.tokenizer, prompt), checkpoint.tokenizer.end_of_text
    stop = () if end is None else (end,)
    rows = [tokens] * len(seeds)
    return generate(checkpoint.model, rows, n, stop=stop, seeds=seeds, **options)


def _before(end: int | None, tokens: Iterable[int]) -> Iterator[int]:
    """Tokens before the one that ends a text (or -1, which stands behind it)."""
    for token in tokens:
        if token < 0 or token == end:
            return
        yield token
