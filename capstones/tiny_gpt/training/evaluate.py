r"""Evaluation: every token of a split predicted exactly once, and a number that says how.

A model sees at most `context` tokens, so a long text is cut into windows; where the cuts lie
decides how much comes before each token, and with it the result. A window of inputs
$t_b \dots t_{b+L-1}$ predicts $t_{b+1} \dots t_{b+L}$, the last ones of which are scored:

- ``fixed``: windows do not overlap; a token has on average half a context before it. The split is
  one stream, its ends of text are predicted like any token, and only its very first token is not:
  nothing stands before it.
- ``strided`` (`stride` < context): a window scores its last `stride` tokens and reads the ones
  before again, so each has at least context - stride + 1 tokens before it (the sliding windows of
  Hugging Face's "Perplexity of fixed-length models", whose max_length is our context + 1).
- ``rolling``: each document on its own, its first token predicted from an end of text; ends of
  text are not predicted; the last window reaches back to a whole context. The totals are those of
  lm-eval's `loglikelihood_rolling`. The right one for a model trained with a document mask.

Nats are $-\ln p$ of a token. With $N$ of them in all over $T$ tokens, $B$ bytes of UTF-8 and $W$
words between white space, perplexity is $e^{N/T}$, word perplexity $e^{N/W}$, and bits per byte
$N / (B \ln 2)$, the one that compares models of different tokenizers.

Sources: Jelinek et al., "Perplexity: a measure of the difficulty of speech recognition tasks"
(1977); Gao et al., "The Pile" (2020), section 3.1, for bits per byte; Biderman et al., "Lessons
from the trenches on reproducible evaluation of language models" (2024), appendix A; Post, "A call
for clarity in reporting BLEU scores" (2018), for signatures.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Float64, Int64
from torch import nn

from shared.require import require
from shared.stats import Interval, bootstrap_interval
from tiny_gpt.data.shards import Split
from tiny_gpt.data.tokenizers import Tokenizer

__all__ = ["Evaluation", "Protocol", "evaluate", "token_losses", "windows"]

VERSION = 1  # of what the numbers mean: raise it when any of them would change
MIN_DOCUMENTS, BLOCK, MAX_UNITS = 20, 1024, 1000
NAMES = {torch.float64: "fp64", torch.float32: "fp32"}
NAMES |= {torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a split.

    Attributes
    ----------
    bits_per_byte
        With a 95 % bootstrap interval, which says how far another text of the same kind and
        length might lie, not another training run; its ends are NaN where there is none.
    word_perplexity
        All nats shared out among the words between white space; NaN if there is none.
    n_tokens, n_bytes
        Tokens that were predicted, and the bytes they stand for.
    signature
        Everything the numbers depend on: they compare only where it is equal.
    """

    nats_per_token: float
    perplexity: float
    bits_per_byte: Interval
    word_perplexity: float
    n_tokens: int
    n_bytes: int
    n_words: int
    signature: str

    def __str__(self) -> str:
        """Return one line: the numbers, never without the signature."""
        bits = self.bits_per_byte
        ends = "" if math.isnan(bits.low) else f" [{bits.low:.4f}, {bits.high:.4f}]"
        return (
            f"{self.nats_per_token:.4f} nats/token, perplexity {self.perplexity:.4g}, "
            f"{bits.mean:.4f} bits/byte{ends}, "
            f"perplexity per word between white space {self.word_perplexity:.4g} "
            f"({self.signature})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; None for what is not finite."""
        bits = self.bits_per_byte
        ends = {"value": bits.mean, "low": bits.low, "high": bits.high}
        flat = asdict(self) | {"bits_per_byte": {k: _finite(v) for k, v in ends.items()}}
        return {key: _finite(value) for key, value in flat.items()}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a split is evaluated.

    Attributes
    ----------
    context
        Most tokens that a window reads; the model's own if None.
    stride
        Tokens that each window but the first scores; by default all, so that none is read twice.
    rolling
        Whether each document stands alone, behind an end of text, as in lm-eval.
    batch_size
        Windows at a time, 8,192 tokens' worth if None; it changes the result by rounding alone.
    dtype
        Of the matrix products: the weights' own for float32, else through autocast. Log
        probabilities are computed in float32 and summed in float64.
    """

    context: int | None = None
    stride: int | None = None
    rolling: bool = False
    batch_size: int | None = None
    dtype: torch.dtype = torch.float32

    def settled(self, model: nn.Module, split: Split, tokenizer: Tokenizer) -> "Protocol":
        """With the defaults of a model, a split and its tokenizer filled in, and checked."""
        longest, vocab_size = model.config.context, model.config.vocab_size
        context = longest if self.context is None else self.context
        stride = context if self.stride is None else self.stride
        batch_size = self.batch_size
        if batch_size is None:
            batch_size = max(1, 8192 // max(1, context))
        require(1 <= context <= longest, f"context must be between 1 and {longest}", context)
        require(1 <= stride <= context, f"stride must be between 1 and {context}", stride)
        require(split.n_tokens >= 2, "split must have at least 2 tokens", split.n_tokens)
        must = f"tokenizer must have at most the model's {vocab_size} ids"
        require(tokenizer.vocab_size <= vocab_size, must, tokenizer.vocab_size)
        ends = not self.rolling or tokenizer.end_of_text is not None
        require(ends, "rolling must have an end of text to put before each document")
        require(batch_size >= 1, "batch_size must be at least 1", batch_size)
        must = "dtype must be float32, bfloat16 or float16"
        require(self.dtype in (torch.float32, torch.bfloat16, torch.float16), must, self.dtype)
        return replace(self, context=context, stride=stride, batch_size=batch_size)

    def spans(self, split: Split) -> list[tuple[int, int]]:
        """The stretches of tokens that are scored."""
        return _documents(split) if self.rolling else [(1, split.n_tokens)]

    def name(self) -> str:
        """As the signature has it."""
        overlap = self.stride < self.context
        return "rolling" if self.rolling else "strided" if overlap else "fixed"


def evaluate(
    model: nn.Module, split: Split, tokenizer: Tokenizer, *, interval: bool = True, **protocol: Any
) -> Evaluation:
    """Evaluate a model on a whole split; `protocol` is what `Protocol` takes.

    The interval resamples documents where there are at least 20, and blocks of at least 1,024
    consecutive tokens otherwise (of more than 1,000 units, neighbors are joined); the signature
    says which. There is none for a text of fewer than two blocks, nor without `interval`.

    Raises
    ------
    ValueError
        For a size out of range, a split without two tokens or without text, a tokenizer that is
        not the split's or larger than the model's vocabulary, or no end of text to begin with.
    """
    how = Protocol(**protocol).settled(model, split, tokenizer)
    lengths, n_words = _text(split, tokenizer)
    losses = token_losses(model, split, tokenizer, **protocol)
    # By the plan and not by what is NaN: a model that diverged must not lose its worst tokens.
    predicted = np.zeros(split.n_tokens, dtype=bool)
    for first, stop in how.spans(split):
        predicted[first:stop] = True
    sums = np.zeros(
        (2, split.n_tokens + 1)
    )  # running sums of nats and bytes: a stretch is a difference
    np.cumsum(np.where(predicted, losses, 0), dtype=np.float64, out=sums[0, 1:])
    # Bytes of predicted tokens alone: the others would count as known for nothing.
    np.cumsum(np.where(predicted, lengths, 0), out=sums[1, 1:])
    nats, n_bytes, n_tokens = float(sums[0, -1]), int(sums[1, -1]), int(predicted.sum())
    require(n_bytes > 0, "split must hold text, got none in the tokens that are predicted")
    bits, unit = Interval(nats / n_bytes / math.log(2), math.nan, math.nan, 1), "none"
    edges, name = _units(split)
    if interval and len(edges) > 2 and math.isfinite(nats):
        bits, unit = _ratio_interval(np.diff(sums[:, edges])), name
    products = next(model.parameters()).dtype if how.dtype == torch.float32 else how.dtype
    parts = [
        "tiny-gpt",
        f"split:{split.name}",
        f"protocol:{how.name()}",
        f"context:{how.context}",
        *([f"stride:{how.stride}"] if how.stride < how.context else []),
        *([f"prefix:{tokenizer.end_of_text}"] if how.rolling else []),
        f"tokens:{n_tokens}",
        f"dtype:{NAMES.get(products, products)}",
        f"tokenizer:{tokenizer.kind}:{tokenizer.sha256[:6]}",
        f"interval:{unit}",
        f"v{VERSION}",
    ]
    return Evaluation(
        nats_per_token=nats / n_tokens,
        perplexity=_exp(nats / n_tokens),
        bits_per_byte=bits,
        word_perplexity=_exp(nats / n_words) if n_words else math.nan,
        n_tokens=n_tokens,
        n_bytes=n_bytes,
        n_words=n_words,
        signature="|".join(parts),
    )


def token_losses(
    model: nn.Module, split: Split, tokenizer: Tokenizer, **protocol: Any
) -> Float32[np.ndarray, " n_tokens"]:
    """Nats of each token of a split; NaN for a token that the protocol does not predict.

    Parameters and errors as in `evaluate`. The model is left in the mode it came in.
    """
    how = Protocol(**protocol).settled(model, split, tokenizer)
    spans = how.spans(split)
    plan = (
        window
        for first, stop in spans
        for window in windows(first - 1, stop, how.context, how.stride, reach_back=how.rolling)
    )
    prefixed: set[int] = set()  # windows that begin here begin with the prefix
    if how.rolling:
        prefixed = {first - 1 for first, _ in spans}
        # Windows of one length side by side: what is padded is computed in vain.
        plan = iter(sorted(plan, key=lambda window: window[0] - window[2]))
    losses = np.full(split.n_tokens, np.nan, dtype=np.float32)
    device = next(model.parameters()).device
    # Without a type the caller's own autocast would go on: float32 must mean float32.
    narrow = how.dtype != torch.float32
    products = torch.autocast(device.type, dtype=how.dtype if narrow else None, enabled=narrow)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), products:
            while batch := list(itertools.islice(plan, how.batch_size)):
                width = max(end - begin for begin, _, end in batch)
                # Padding lies to the right, where nothing that is scored can see it.
                tokens = torch.zeros(len(batch), width, dtype=torch.int64)
                for row, (begin, _, end) in zip(tokens, batch, strict=True):
                    skip = int(begin in prefixed)
                    row[:skip] = tokenizer.end_of_text or 0
                    row[skip : end - begin] = torch.from_numpy(split.read(begin + skip, end))
                tokens = tokens.to(device)
                logits = model(tokens[:, :-1]).float()
                nats = F.cross_entropy(logits.mT, tokens[:, 1:], reduction="none").cpu().numpy()
                for row, (begin, first, end) in zip(nats, batch, strict=True):
                    losses[first:end] = row[first - begin - 1 : end - begin - 1]
    finally:
        for module, training in modes:
            module.training = training
    return losses


def windows(
    start: int, stop: int, context: int, stride: int, *, reach_back: bool = False
) -> Iterator[tuple[int, int, int]]:
    """Cut tokens start .. stop - 1 into windows that predict each but the first exactly once.

    Of (begin, first, end), tokens begin .. end - 2 are read and first .. end - 1 are scored. A last
    window that scores fewer than `stride` reads more context instead if it may `reach_back`.
    """
    first = start + 1
    while first < stop:
        begin = max(start, first + stride - 1 - context)
        end = min(begin + context + 1, stop)
        if reach_back:
            begin = max(start, end - 1 - context)
        yield begin, first, end
        first = end


def _documents(split: Split) -> list[tuple[int, int]]:
    """Where each document's text starts and stops, its end of text left out."""
    stops = split.offsets[1:] - (split.end_of_text is not None)
    return list(zip(split.offsets[:-1].tolist(), stops.tolist(), strict=True))


def _text(split: Split, tokenizer: Tokenizer) -> tuple[Int64[np.ndarray, " n"], int]:
    """Bytes that each token stands for, and how many words they are."""
    per_id = tokenizer.byte_lengths()
    lengths, n_words = np.zeros(split.n_tokens, dtype=np.int64), 0
    for (start, stop), size in zip(_documents(split), split.document_bytes, strict=True):
        ids = split.read(start, stop)
        must, largest = "tokenizer must be the split's", ids.max(initial=0)
        require(largest < len(per_id), must, f"one of {len(per_id)} ids for id {largest}")
        lengths[start:stop] = per_id[ids]
        found = lengths[start:stop].sum()
        require(found == size, must, f"one by which {size} bytes of text are {found}")
        n_words += len(tokenizer.decode(ids).split())
    return lengths, n_words


def _units(split: Split) -> tuple[Int64[np.ndarray, " k"], str]:
    """Edges of the stretches of tokens that the bootstrap draws, and their name."""
    documents = np.unique(split.offsets)
    by_document = len(documents) > MIN_DOCUMENTS
    units = len(documents) - 1 if by_document else max(1, split.n_tokens // BLOCK)
    kept = min(units, MAX_UNITS)
    if by_document:
        edges = documents[np.linspace(0, units, kept + 1).astype(np.int64)]
    else:
        edges = np.linspace(0, split.n_tokens, kept + 1).astype(np.int64)
    return edges, f"{'documents' if by_document else 'blocks'}-{kept}"


def _ratio_interval(units: Float64[np.ndarray, "2 k"]) -> Interval:
    """Bits per byte of units with their nats and bytes: a ratio of sums, not a mean of ratios."""
    nats, n_bytes = units

    def ratio(drawn: Float64[np.ndarray, "*draws k"], axis: int) -> Any:
        index = drawn.astype(np.int64)
        total = np.maximum(n_bytes[index].sum(axis), 1)  # where all that was drawn is empty
        return nats[index].sum(axis) / total / math.log(2)

    # Numbers of units are what is resampled, so nats and bytes of a unit stay together.
    return bootstrap_interval(np.arange(len(nats)), ratio, rng=np.random.default_rng(0))


def _exp(x: float) -> float:
    return math.exp(x) if not x > 709 else math.inf


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
