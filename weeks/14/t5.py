r"""T5: an encoder reads, a decoder writes, and every task is a text for a text.

Positions enter as a learned number $b$ per head that is added to a score, chosen by the *bucket*
of the distance from query $i$ to key $j$: near distances have buckets of their own, far ones share
them, ever wider. One table serves all layers of a stack; cross-attention has none:

$$ w_{ij} = \mathrm{softmax}_j \big( q_i \cdot k_j + b_{\mathrm{bucket}(j - i)} \big) . $$

There is no $1 / \sqrt{d}$, it is part of the start of $W_q$, and there are no biases. Version 1.0
has ReLU and writes with its embedding, scaled by $d^{-1/2}$; 1.1 has a gated GELU and a head.

>>> model = T5(T5Config(vocab_size=30), torch.Generator().manual_seed(0))
>>> source, target = torch.tensor([[5, 6, 29, 8, 1]]), torch.tensor([[29, 7, 1]])
>>> model(source, target).shape  # logits of each target token, given those before it
torch.Size([1, 3, 30])
>>> greedy(model, source, max_len=4).shape[1] <= 4
True

    uv run weeks/14/t5.py

Raffel et al., "Exploring the limits of transfer learning with a unified text-to-text transformer"
(2020), sections 2.1 and 3.1; version 1.1 is the authors' release notes and code.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared.require import require
from week09.optimizers import AdamW
from week09.schedules import linear
from week13.attention import causal_mask, scaled_dot_product_attention
from week13.positional_encodings import RelativePositionBias
from week13.transformer import cross_entropy, padding_mask
from week14.span_corruption import EOS, PAD

KeysValues = tuple[Float[Tensor, "batch head key dim"], Float[Tensor, "batch head key dim"]]


@dataclass(frozen=True)
class T5Config:
    """Sizes of a model; encoder and decoder have `n_layers` each.

    Attributes
    ----------
    head_dim
        Size of a head; `d_model / n_heads` if None.
    d_ff
        Width of the feed-forward part; 4 d_model if None.
    n_buckets, max_distance
        Of `week13.positional_encodings.relative_position_bucket`.
    """

    vocab_size: int
    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 4
    head_dim: int | None = None
    d_ff: int | None = None
    n_buckets: int = 32
    max_distance: int = 128
    norm_eps: float = 1e-6
    version: Literal["1.0", "1.1"] = "1.0"

    def __post_init__(self):
        d, n = self.d_model, self.n_heads
        divides = self.head_dim is not None or n < 1 or d % n == 0
        require(divides, f"n_heads must divide d_model = {d} where head_dim is not given", n)
        for name, value in {"head_dim": d // max(1, n), "d_ff": 4 * d}.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        for name in ("vocab_size", "d_model", "n_layers", "n_heads", "head_dim", "d_ff"):
            require(getattr(self, name) >= 1, f"{name} must be at least 1", getattr(self, name))
        require(self.version in ("1.0", "1.1"), "version must be 1.0 or 1.1", self.version)
        n = self.n_buckets
        require(n >= 4 and n % 4 == 0, "n_buckets must be a positive multiple of 4", n)
        must = f"max_distance must exceed n_buckets / 2 = {n // 2}"
        require(self.max_distance > n // 2, must, self.max_distance)


# ---- the parts


class Attention(nn.Module):
    """Attention without biases and without 1/sqrt(d)."""

    def __init__(self, config: T5Config):
        super().__init__()
        d, width, self.n_heads = config.d_model, config.n_heads * config.head_dim, config.n_heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(d, width, bias=False) for _ in range(3))
        self.out_proj = nn.Linear(width, d, bias=False)

    def heads(self, x: Float[Tensor, "batch seq width"]) -> Float[Tensor, "batch head seq dim"]:
        """Cut the width into heads."""
        return x.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def keys_values(self, x: Float[Tensor, "batch key d_model"]) -> KeysValues:
        """What queries look at."""
        return self.heads(self.k_proj(x)), self.heads(self.v_proj(x))

    def forward(
        self,
        x: Float[Tensor, "batch query d_model"],
        seen: KeysValues,
        mask: Float[Tensor, "#batch head query key"] | Bool[Tensor, "batch 1 1 key"],
    ) -> Float[Tensor, "batch query d_model"]:
        """Look at the keys and values `seen`; `mask` is added to the scores, or says who may."""
        q = self.heads(self.q_proj(x))
        heads = scaled_dot_product_attention(q, *seen, mask=mask, scale=1.0)
        return self.out_proj(heads.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """ReLU between two matrices (1.0), or a GELU of one times another before the last (1.1)."""

    def __init__(self, config: T5Config):
        super().__init__()
        d, width = config.d_model, config.d_ff
        self.up_proj = nn.Linear(d, width, bias=False)
        self.gate_proj = nn.Linear(d, width, bias=False) if config.version == "1.1" else None
        self.down_proj = nn.Linear(width, d, bias=False)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Each position by itself."""
        if self.gate_proj is None:
            return self.down_proj(F.relu(self.up_proj(x)))
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


class Layer(nn.Module):
    """Self-attention, in a decoder cross-attention, and the feed-forward part, all pre-norm."""

    def __init__(self, config: T5Config, decoder: bool):
        super().__init__()
        size = config.d_model, config.norm_eps
        self.self_norm, self.self_attention = nn.RMSNorm(*size), Attention(config)
        if decoder:
            self.cross_norm, self.cross_attention = nn.RMSNorm(*size), Attention(config)
        self.ff_norm, self.feed_forward = nn.RMSNorm(*size), FeedForward(config)

    def forward(
        self,
        x: Float[Tensor, "batch new d_model"],
        bias: Float[Tensor, "#batch head new key"],
        memory: "Memory | None" = None,
        keep: Bool[Tensor, "batch 1 1 source"] | None = None,
    ) -> Float[Tensor, "batch new d_model"]:
        """The stream after this layer; a decoder's reads and extends its `memory`."""
        u = self.self_norm(x)
        new = self.self_attention.keys_values(u)
        x = x + self.self_attention(u, memory.extend(new) if memory else new, bias)
        if memory:
            x = x + self.cross_attention(self.cross_norm(x), memory.source, keep)
        return x + self.feed_forward(self.ff_norm(x))


class Memory:
    """What a decoder's layer need not compute again: of the source, and of what is written."""

    def __init__(self, source: KeysValues):
        self.source = source
        self.written = tuple(x[:, :, :0] for x in source)

    def extend(self, new: KeysValues) -> tuple[Tensor, Tensor]:
        """Store keys and values of new tokens; those of all."""
        self.written = tuple(torch.cat(pair, 2) for pair in zip(self.written, new, strict=True))
        return self.written


class Stack(nn.Module):
    """Layers in order, one table of position biases for all of them, and a norm at the end."""

    def __init__(self, config: T5Config, decoder: bool):
        super().__init__()
        sizes = {"n_buckets": config.n_buckets, "max_distance": config.max_distance}
        self.layers = nn.ModuleList(Layer(config, decoder) for _ in range(config.n_layers))
        self.bias = RelativePositionBias(config.n_heads, bidirectional=not decoder, **sizes)
        self.norm = nn.RMSNorm(config.d_model, config.norm_eps)


# ---- the model


class T5(nn.Module):
    """Encoder–decoder from tokens to logits; 0 is padding, and begins what the decoder reads."""

    def __init__(self, config: T5Config, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder, self.decoder = Stack(config, decoder=False), Stack(config, decoder=True)
        if config.version == "1.1":
            self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:  # 1 / sqrt(inputs), but for two tables
                std = 1.0 if name == "embed.weight" else p.shape[1] ** -0.5
                std = config.d_model**-0.5 if "bias" in name else std
                std *= config.head_dim**-0.5 if "q_proj" in name else 1.0  # the missing 1/sqrt(d)
                nn.init.normal_(p, std=std, generator=generator)

    def encode(self, source: Int[Tensor, "batch source"]) -> Float[Tensor, "batch source d_model"]:
        """What the decoder looks at."""
        n, x = source.shape[1], self.embed(source)
        require(n >= 1, "source must hold at least one token per row", n)
        bias = self.encoder.bias(n, n)[None].masked_fill(~padding_mask(source, PAD), -torch.inf)
        for layer in self.encoder.layers:
            x = layer(x, bias)
        return self.encoder.norm(x)

    def begin(self, source: Int[Tensor, "batch source"]) -> list[Memory]:
        """Read the source: the memory of each layer of a decoder that has written nothing."""
        x = self.encode(source)
        return [Memory(layer.cross_attention.keys_values(x)) for layer in self.decoder.layers]

    def decode(
        self,
        written: Int[Tensor, "batch new"],
        source: Int[Tensor, "batch source"],
        memory: list[Memory],
    ) -> Float[Tensor, "batch new vocab"]:
        """Logits of what follows each new token; `memory` holds those before them, and grows."""
        new, x = written.shape[1], self.embed(written)
        total, keep = memory[0].written[0].shape[2] + new, padding_mask(source, PAD)
        may = causal_mask(new, total, written.device)
        bias = self.decoder.bias(new, total)[None].masked_fill(~may, -torch.inf)
        for layer, its_memory in zip(self.decoder.layers, memory, strict=True):
            x = layer(x, bias, its_memory, keep)
        x = self.decoder.norm(x)
        if self.config.version == "1.1":
            return self.head(x)
        return F.linear(x * self.config.d_model**-0.5, self.embed.weight)

    def forward(
        self, source: Int[Tensor, "batch source"], target: Int[Tensor, "batch target"]
    ) -> Float[Tensor, "batch target vocab"]:
        """Logits of each target token, given the source and the tokens before it."""
        return self.decode(F.pad(target, (1, -1), value=PAD), source, self.begin(source))


# ---- training and writing


def training_losses(
    model: T5, batches: Iterable[tuple[Tensor, Tensor]], *, steps: int, lr: float
) -> Iterator[float]:
    """AdamW on `steps` batches of sources and targets, the rate falling to zero; each loss."""
    optimizer = AdamW(model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.0)
    for step, (source, target) in zip(range(steps), batches, strict=False):
        loss = cross_entropy(model(source, target), target, pad=PAD)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.lr = lr * linear(step, steps=steps)
        optimizer.step()
        yield loss.item()


@torch.no_grad()
def greedy(
    model: T5, source: Int[Tensor, "batch source"], *, max_len: int
) -> Int[Tensor, "batch length"]:
    """The likeliest token at each step, until EOS or `max_len` tokens; then padding."""
    require(max_len >= 1, "max_len must be at least 1", max_len)
    memory, written = model.begin(source), source.new_full((len(source), 1), PAD)
    done = torch.zeros(len(source), 1, dtype=torch.bool, device=source.device)
    while written.shape[1] <= max_len and not done.all():
        best = model.decode(written[:, -1:], source, memory).argmax(-1).masked_fill(done, PAD)
        written, done = torch.cat([written, best], 1), done | (best == EOS)
    return written[:, 1:]


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
