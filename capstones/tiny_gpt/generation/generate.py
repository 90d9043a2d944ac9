"""Sampling: continue prompts token by token, whatever their lengths and however long the text.

Each row of a batch is written as if it were alone: its own random numbers, its own place in the
cache, its own window. So a row depends on its prompt and its seed and on nothing else.

A text longer than the model's `context` is read through a window, which is a function of the
text's length alone (`window_start`): it grows to `context` tokens, and where the next one would
not fit it is read anew from the last `context / 4`. Between two such moments a step reads one
token, with the cache; without, it reads the window again, and the tokens are the same. A window
that slid by one token per step could use no cache: every position would change at every step. What
the shorter window costs in loss is measured in `windows.py`.

Sources: Pope et al., "Efficiently scaling transformer inference" (2022), section 2 (prefill and
decode); Xiao et al., "Efficient streaming language models with attention sinks" (2024), section
3.1, where "sliding window with re-computation" is the baseline of best quality.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from shared.require import require
from tiny_gpt.data.tokenizers import Tokenizer
from tiny_gpt.generation.decoder import Decoder, StaticCache
from tiny_gpt.model.gpt import GPT
from week19.kv_cache import Tokens, left_pad

__all__ = ["StaticCache", "decode_stream", "generate", "window_start"]

Sample = Callable[..., Int[Tensor, "batch"]]


def window_start(length: int, context: int, kept: int | None = None) -> int:
    """Where the window of a text of so many tokens begins; it reaches to the text's end.

    One that begins anew holds `kept` tokens, a quarter of the context if None.
    """
    if length <= context:
        return 0
    hop = context + 1 - (max(1, context // 4) if kept is None else kept)
    return -((context - length) // hop) * hop  # the least multiple that leaves at most context


def generate(
    model: GPT,
    prompts: Sequence[Tokens] | Int[Tensor, "batch seq"],
    max_new_tokens: int,
    *,
    sampler: Sample,
    stop: Collection[int] = (),
    seeds: Sequence[int] | None = None,
    cache: bool = True,
    compile: bool = False,
) -> Iterator[Int[Tensor, "batch"]]:
    """Continue each prompt, yielding one token per row as soon as it is known.

    Parameters
    ----------
    prompts
        Tokens of each row; their lengths may differ, and may exceed the model's `context`.
    sampler
        `sampler(logits, history, generators)` picks the next tokens, as `week19.sampling.Sampler`
        does; the history is (batch, seq), the whole text, -1 where padded on the left.
    stop
        A row ends with any of these tokens; from then on it yields -1. All ended, all is over.
    seeds
        One per row, of its random numbers; 0, 1, 2, … if None.
    cache
        Whether to keep keys and values; without, every step reads the whole window again.
    compile
        Compile the decode step: seconds before the first token, fewer once it is in the compiler's
        own cache. Where no compiler works, it warns why and decodes without.

    Raises
    ------
    ValueError
        If a prompt is empty or holds tokens outside the vocabulary, or seeds are not one per row.
    """
    require(max_new_tokens >= 1, "max_new_tokens must be at least 1", max_new_tokens)
    padded, vocab_size = left_pad(prompts), model.config.vocab_size
    largest = int(padded.tokens.max())
    require(largest < vocab_size, f"prompts must hold tokens below {vocab_size}", largest)
    batch_size, device = len(padded.tokens), model.embed.weight.device
    seeds = range(batch_size) if seeds is None else seeds
    require(len(seeds) == batch_size, f"seeds must be one per row, {batch_size}", len(seeds))
    generators = [torch.Generator(device).manual_seed(int(seed)) for seed in seeds]
    reader = _Cached(model, batch_size, compile).read if cache else partial(_read_anew, model)
    text = _Text(padded.tokens, padded.mask.sum(1).tolist(), max_new_tokens, device)
    return _stream(text, reader, sampler, generators, tuple(stop))


class _Text:
    """What has been said: each row's text ends at column `end` of `tokens`, -1 before it begins."""

    def __init__(self, prompts: Tensor, lengths: list[int], new: int, device: torch.device):
        self.end, self.lengths = prompts.shape[1], lengths
        # Empty: what is never written takes no memory.
        self.tokens = torch.empty(len(prompts), self.end + new, dtype=torch.int64, device=device)
        self.tokens[:, : self.end] = prompts

    def starts(self, context: int) -> list[int]:
        """Where each row's window begins, counted from the row's first token."""
        return [window_start(n, context) for n in self.lengths]

    def windows(self, rows: Sequence[int], starts: list[int]) -> list[Tensor]:
        """Tokens of some rows from their windows' starts to their ends."""
        return [
            # A row that has ended is read on, unseen, with 0 for each of its -1.
            self.tokens[i, self.end - self.lengths[i] + starts[i] : self.end].clamp(min=0)
            for i in rows
        ]

    def append(self, token: Tensor) -> Tensor:
        """Add one token per row; the column that now holds them."""
        self.tokens[:, self.end] = token
        self.end += 1
        self.lengths = [n + 1 for n in self.lengths]
        return self.tokens[:, self.end - 1]


def _stream(text: _Text, read: Callable, sampler: Sample, generators, stop) -> Iterator[Tensor]:
    endings = torch.tensor(stop, device=text.tokens.device)
    ended = torch.zeros(len(text.tokens), dtype=torch.bool, device=text.tokens.device)
    while text.end < text.tokens.shape[1]:
        with torch.inference_mode():  # not around the yield: the mode is the caller's there
            token = sampler(read(text), text.tokens[:, : text.end], generators)
            if stop:
                token = token.masked_fill(ended, -1)
                ended |= torch.isin(token, endings)
            column = text.append(token)
        yield column
        if stop and ended.all():
            return


def _read_windows(
    model: GPT, windows: list[Tensor], cache: StaticCache | None = None
) -> Float[Tensor, "row vocab"]:
    """Logits after each window; row i's keys and values fill the cache from slot 0 on."""
    rows = torch.arange(len(windows), device=windows[0].device)
    last = torch.tensor([len(window) - 1 for window in windows], device=rows.device)
    # Padded on the right, where causality hides it: no mask, and positions count from 0.
    tokens = pad_sequence(windows, batch_first=True)
    training = model.training
    if training:
        model.eval()
    try:
        logits = model(tokens, cache=cache)[rows, last]
    finally:
        if training:
            model.train()
    if cache is not None:
        cache.last = tokens[rows, last]
    return logits


def _read_anew(model: GPT, text: _Text) -> Float[Tensor, "batch vocab"]:
    starts = text.starts(model.config.context)
    return _read_windows(model, text.windows(range(len(starts)), starts))


class _Cached:
    """Reads a row's window where it begins anew, and else the one token that is new."""

    def __init__(self, model: GPT, batch_size: int, compiled: bool):
        self.model, self.starts = model, [-1] * batch_size
        self.cache = StaticCache.for_model(model, batch_size, model.config.context)
        self.decoder = Decoder(model, self.cache, compiled=compiled)

    def read(self, text: _Text) -> Float[Tensor, "batch vocab"]:
        """Logits of each row's next token."""
        before, self.starts = self.starts, text.starts(self.model.config.context)
        moved = [i for i, start in enumerate(self.starts) if start != before[i]]
        windows = text.windows(moved, self.starts)
        if len(moved) == len(before):
            self.cache.crop(0)
            return _read_windows(self.model, windows, self.cache)
        slots = [n - 1 - start for n, start in zip(text.lengths, self.starts, strict=True)]
        newest = text.tokens[:, text.end - 1].clamp(min=0)
        logits = self.decoder.step(newest, slots[0] if len(set(slots)) == 1 else slots)
        if moved:
            # What the step computed for these rows is overwritten, in the cache too.
            aside = StaticCache.for_model(self.model, len(moved), max(map(len, windows)))
            rows = torch.tensor(moved, device=logits.device)
            logits[rows] = _read_windows(self.model, windows, aside)
            self.cache.copy_rows(rows, aside)
        return logits


def decode_stream(tokenizer: Tokenizer, tokens: Iterable[int]) -> Iterator[str]:
    """Text of tokens that arrive one by one, as soon as it is final: never half a character.

    The pieces, none of them empty, join to `tokenizer.decode(tokens)`; the -1 of a row that has
    ended are left out. Bytes that are half a character decode to one U+FFFD at the end, so a last
    U+FFFD waits for what comes next.
    """
    waiting: list[int] = []
    text, shown = "", 0
    for token in tokens:
        if token < 0:
            continue
        waiting.append(int(token))
        text = tokenizer.decode(waiting)
        final = text.removesuffix("\ufffd")
        if len(final) > shown:
            yield final[shown:]
            shown = len(final)
        if final == text:
            waiting, text, shown = [], "", 0
    if len(text) > shown:
        yield text[shown:]
