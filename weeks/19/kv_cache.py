r"""The key-value cache: remember what every token offered, so that a new one costs one token.

Keys and values of earlier tokens never change, since nothing earlier sees anything later. Stored,
they turn the next token from a pass over the whole text into a pass over one position. The price
is memory, for $L$ layers, $H_{kv}$ heads of keys and values of size $d$, $T$ tokens, $b$ bytes:

$$\text{bytes} = 2\, L\, H_{kv}\, d\, T\, b .$$

`KVCache` keeps a batch of week 18's `Llama` in one piece of memory; `PagedKVCache`, in
`paged_cache.py`, cuts memory into blocks that sequences take from a pool and share.

>>> from week18.llama3 import LlamaConfig
>>> model = Llama(LlamaConfig(vocab_size=50), torch.Generator().manual_seed(0))
>>> tokens, cache = torch.arange(8)[None], KVCache.for_model(model, batch=1, max_length=8)
>>> parts = [model(part, cache=cache) for part in tokens.split([5, 1, 1, 1], dim=1)]
>>> torch.allclose(torch.cat(parts, dim=1), model(tokens), atol=1e-5)
True
>>> cache_bytes(n_layers=2, n_kv_heads=4, head_dim=16, n_tokens=8, bytes_per_number=4)
8192
>>> cache.nbytes
8192

    uv run weeks/19/kv_cache.py

Sources: Shazeer, "Fast transformer decoding" (2019), section 2.3; Pope et al., "Efficiently
scaling transformer inference" (2022), section 2; Kwon et al., "Efficient memory management for
large language model serving with PagedAttention" (2023), sections 4.1 to 4.4.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from shared.require import require
from week18.llama3 import Llama
from week19.paged_cache import PagedKVCache

__all__ = ["KVCache", "LeftPadded", "PagedKVCache", "cache_bytes", "generate", "left_pad"]

Tokens = Sequence[int] | Int[Tensor, "seq"]


def cache_bytes(
    *, n_layers: int, n_kv_heads: int, head_dim: int, n_tokens: int, bytes_per_number: int = 2
) -> int:
    """Bytes of the keys and values of `n_tokens` tokens: two numbers per layer, head and dimension.

    References
    ----------
    Kwon et al. (2023), section 3: 800 kB per token for OPT-13B.
    """
    return 2 * n_layers * n_kv_heads * head_dim * n_tokens * bytes_per_number


# ---- one block of memory


class KVCache:
    """Keys and values of a batch in memory that is set aside once.

    Writing in place keeps each step's cost independent of the past; growing by `torch.cat` would
    copy everything at every token. No gradient flows through a cache.
    """

    def __init__(
        self,
        *,
        n_layers: int,
        batch: int,
        n_kv_heads: int,
        max_length: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        shape = (n_layers, batch, n_kv_heads, max_length, head_dim)
        names = ("n_layers", "batch", "n_kv_heads", "max_length", "head_dim")
        for name, size in zip(names, shape, strict=True):
            require(size >= 1, f"{name} must be at least 1", size)
        self.max_length, self.length = max_length, 0
        # A buffer born in inference mode could not be written outside it.
        with torch.inference_mode(False):
            self._k = torch.zeros(shape, dtype=dtype, device=device)
            self._v = torch.zeros_like(self._k)

    @classmethod
    def for_model(cls, model: nn.Module, batch: int, max_length: int) -> "KVCache":
        """A cache of the sizes, dtype and device of a model that is built as week 18's."""
        config, weight = model.config, model.embed.weight
        return cls(
            n_layers=config.n_layers,
            batch=batch,
            n_kv_heads=config.n_kv_heads,
            max_length=max_length,
            head_dim=config.head_dim,
            dtype=weight.dtype,
            device=weight.device,
        )

    @property
    def nbytes(self) -> int:
        """Bytes set aside."""
        return 2 * self._k.numel() * self._k.element_size()

    def update(
        self,
        layer: int,
        k: Float[Tensor, "batch kv_head new dim"],
        v: Float[Tensor, "batch kv_head new dim"],
    ) -> tuple[Float[Tensor, "batch kv_head key dim"], Float[Tensor, "batch kv_head key dim"]]:
        """Write the new tokens' keys and values; return views of those of all tokens so far."""
        start, end = self.length, self.length + k.shape[2]
        most = self.max_length
        require(end <= most, f"cache holds at most max_length = {most}", end)
        keys, values = self._k[layer, :, :, :end], self._v[layer, :, :, :end]
        # A batch of one would otherwise be broadcast over every row without a word.
        rows, got = tuple(keys.shape[:2]), tuple(k.shape[:2])
        require(got == rows, f"k must have (batch, kv_head) = {rows}", got)
        keys[:, :, start:] = k.detach()
        values[:, :, start:] = v.detach()
        return keys, values

    def advance(self, n: int) -> None:
        """Every layer has stored its n new tokens."""
        self.length += n

    def crop(self, length: int) -> None:
        """Forget all tokens after the first `length`: the roll-back of speculative decoding."""
        fits = 0 <= length <= self.length
        require(fits, f"length must be between 0 and {self.length}", length)
        self.length = length  # what lies beyond is overwritten before it is read

    def select(self, rows: Int[Tensor, "row"]) -> None:
        """Row i becomes what row `rows[i]` was: beams that survive, in their new order."""
        batch = self._k.shape[1]
        inside = len(rows) > 0 and int(rows.min()) >= 0 and int(rows.max()) < batch
        require(inside, f"rows must lie in 0..{batch - 1}", rows.tolist())
        if len(rows) != batch:
            self._k, self._v = self._k[:, rows], self._v[:, rows]
            return
        for buffer in (self._k, self._v):  # the right side is a copy, so rows may cross
            buffer[:, :, :, : self.length] = buffer[:, rows, :, : self.length]


# ---- decoding


@dataclass(frozen=True)
class LeftPadded:
    """Prompts of unequal length as one batch that ends together.

    Where padded, tokens are -1 and the mask is False; positions count from a prompt's first token.
    """

    tokens: Int[Tensor, "batch seq"]
    mask: Bool[Tensor, "batch seq"]
    positions: Int[Tensor, "batch seq"]


def left_pad(prompts: Sequence[Tokens] | Int[Tensor, "batch seq"]) -> LeftPadded:
    """Pad on the left: the next token of every row then belongs in the same column."""
    rows = [torch.as_tensor(prompt, dtype=torch.long).cpu() for prompt in prompts]
    shapes = [tuple(row.shape) for row in rows]
    full = rows and all(row.ndim == 1 and len(row) > 0 for row in rows)
    require(full, "prompts must each hold at least one token", f"shapes {shapes}")
    least = min(int(row.min()) for row in rows)
    require(least >= 0, "prompts must hold tokens of at least 0", least)
    tokens = pad_sequence(rows, batch_first=True, padding_value=-1, padding_side="left")
    mask = tokens >= 0
    return LeftPadded(tokens, mask, (mask.cumsum(1) - 1).clamp(min=0))


def generate(
    model: Llama,
    prompts: Sequence[Tokens] | Int[Tensor, "batch seq"],
    max_new_tokens: int,
    *,
    choose: Callable[..., Int[Tensor, "batch"]],
    cache: bool = True,
    stop: Collection[int] = (),
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> Iterator[Int[Tensor, "batch"]]:
    """Continue each prompt, yielding one token per row as soon as it is known.

    The prompts are read in one pass (prefill), then one token at a time (decode).

    Parameters
    ----------
    prompts
        Tokens of each row; their lengths may differ.
    choose
        `choose(logits, history, generator)` picks the next tokens, as `week19.sampling` does; the
        history is (batch, seq), -1 where padded.
    cache
        Whether to keep keys and values; without, every step reads the whole text again.
    stop
        A row ends with any of these tokens; from then on it yields -1. All ended, all is over.
    """
    require(max_new_tokens >= 1, "max_new_tokens must be at least 1", max_new_tokens)
    padded, config = left_pad(prompts), model.config
    largest, vocab_size = int(padded.tokens.max()), config.vocab_size
    require(largest < vocab_size, f"prompts must hold tokens below {vocab_size}", largest)
    total = padded.tokens.shape[1] + max_new_tokens - 1  # the last token is never read
    must = f"prompt and new tokens must fit in context = {config.context}"
    require(total <= config.context, must, total)
    return _decode(model, padded, max_new_tokens, choose, cache, tuple(stop), generator)


@torch.inference_mode()
def _decode(model, padded, max_new_tokens, choose, cache, stop, generator):
    device = model.embed.weight.device
    batch, start = padded.tokens.shape
    total = start + max_new_tokens
    with torch.inference_mode(False):  # so that what is yielded may be trained on
        history = torch.full((batch, total), -1, device=device)
    history[:, :start] = padded.tokens
    # Without padding, causality says it all: no mask, and positions follow from the length.
    mask = positions = None
    if not padded.mask.all():
        mask = torch.ones(batch, total, dtype=torch.bool, device=device)
        mask[:, :start] = padded.mask
        later = padded.positions[:, -1:] + torch.arange(1, max_new_tokens + 1)
        positions = torch.cat([padded.positions, later], dim=1).to(device)
    kv = KVCache.for_model(model, batch, max(1, total - 1)) if cache else None
    endings = torch.tensor(stop, device=device) if stop else None
    ended = torch.zeros(batch, dtype=torch.bool, device=device)
    first = 0  # of the tokens that the model has not read
    for end in range(start, total):
        tokens = history[:, first:end]
        logits = model(
            tokens.clamp(min=0) if mask is not None or endings is not None else tokens,
            cache=kv,
            mask=None if mask is None else mask[:, :end],
            positions=None if positions is None else positions[:, first:end],
        )[:, -1]
        token = choose(logits, history[:, :end], generator)
        if endings is not None:
            token = token.masked_fill(ended, -1)
            ended |= torch.isin(token, endings)
        column = history[:, end]
        column.copy_(token)
        yield column
        if endings is not None and ended.all():
            return
        first = end if cache else 0


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
