r"""The fused decode step: one new token per row, in as few operators as the arithmetic allows.

Reading one token through a small model is bound by the framework's dispatch, not by arithmetic:
each operator costs microseconds whatever its size. So the step keeps nothing of `GPT.forward`
that one token does not need: no mask where all rows are equally long, one rotation matrix for
all layers, the residual added by the product itself, weights stored transposed, which is how the
product of a short and a wide matrix reads them fastest.

Rows of unequal length lie in the cache from slot 0 on, each with its own length: a row's keys,
and so its tokens, do not depend on the company it keeps, and nothing is padded between them.

Sources: Pope et al., "Efficiently scaling transformer inference" (2022), section 2; PyTorch team,
"Accelerating generative AI with PyTorch II: GPT, fast" (2023), static cache and compiled step.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tiny_gpt.model.gpt import GPT, Block
from week18.llama3 import RMSNorm
from week19.fused_llama import attention_of_one
from week19.kv_cache import KVCache

__all__ = ["Decoder", "StaticCache", "why_not_compiled"]


def why_not_compiled() -> str | None:
    """Why the decode step cannot be compiled on this machine, in one line; None if it can."""
    try:
        from torch._inductor.cpp_builder import get_cpp_compiler

        get_cpp_compiler()
    except (ImportError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}".strip().splitlines()[0]
    return None


class StaticCache(KVCache):
    """Week 19's cache, with the token that each row read `last`, set by whoever reads."""

    last: Int[Tensor, "batch"] | None = None

    @property
    def keys_values(self) -> tuple[Float[Tensor, "layer batch head slot dim"], ...]:
        """All slots of all layers, full or not: the keys and the values."""
        return self._k, self._v

    def copy_rows(self, rows: Int[Tensor, "row"], other: "StaticCache") -> None:
        """Put the tokens of `other` into slots 0, 1, … of these rows."""
        n = other.length
        self._k[:, rows, :, :n] = other._k[:, :, :, :n]
        self._v[:, rows, :, :n] = other._v[:, :, :, :n]


@dataclass(frozen=True)
class _Norm:
    kind: str
    eps: float
    weight: Tensor | None
    bias: Tensor | None

    @classmethod
    def of(cls, norm: nn.Module) -> "_Norm":
        kind = "rms" if isinstance(norm, RMSNorm) else "layer"
        bias = getattr(norm, "bias", None)
        return cls(kind, norm.eps, _data(norm.weight), _data(bias))

    def __call__(self, x: Tensor) -> Tensor:
        if self.kind == "rms":
            return F.rms_norm(x, x.shape[-1:], self.weight, self.eps)
        return torch.native_layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)[0]


@dataclass(frozen=True)
class _Linear:
    """A product with a matrix that is stored as (in, out), in memory too."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, linear: nn.Linear) -> "_Linear":
        return cls(linear.weight.detach().t().contiguous(), _data(linear.bias))

    def __call__(self, x: Tensor) -> Tensor:
        if self.bias is None:
            return torch.mm(x, self.weight)
        return torch.addmm(self.bias, x, self.weight)

    def onto(self, stream: Tensor, x: Tensor) -> None:
        """Add the product to the residual stream."""
        stream.addmm_(x, self.weight)
        if self.bias is not None:
            stream += self.bias


class _Layer:
    def __init__(self, block: Block):
        self.attention_norm, self.mlp_norm = map(_Norm.of, (block.attention_norm, block.mlp_norm))
        matrices = (block.qkv, block.out_proj, block.up, block.down)
        self.qkv, self.out_proj, self.up, self.down = map(_Linear.of, matrices)


def _data(p: Tensor | None) -> Tensor | None:
    return None if p is None else p.detach()


class Decoder:
    """A model's decode step over a cache, its weights laid out anew.

    A `compiled` step is compiled once for each shape of model, batch and cache: always masked, over
    all slots. Where that fails, it warns why and goes on without.
    """

    def __init__(self, model: GPT, cache: StaticCache, *, compiled: bool = False):
        c = self.config = model.config
        self.cache = cache
        self.embed = model.embed.weight.detach()
        self.previous = model.previous.weight.detach() if c.mix_previous else None
        self.norm = _Norm.of(model.norm)
        self.head = model.head.weight.detach().t().contiguous()
        self.layers = [_Layer(block) for block in model.blocks]
        # A tensor of its own for each layer: the compiler would copy all layers to write to one.
        self.cached = [x.unbind() for x in cache.keys_values]
        device = self.embed.device
        self.rows = torch.arange(cache.keys_values[0].shape[1], device=device)
        self.slots = torch.arange(cache.max_length, device=device)
        self.cos = self.sin = None
        self.positions = model.positions.weight.detach() if c.positions == "learned" else None
        if c.positions == "rotary" or c.qk_norm:
            still = torch.zeros(c.head_dim // 2, device=device)
            frequencies = still if c.positions == "learned" else model.frequencies
            angles = self.slots[:, None].to(frequencies.dtype) * frequencies
            cos, sin = angles.cos().to(self.embed.dtype), angles.sin().to(self.embed.dtype)
            # (a, b) turned is (a, b)·(cos, cos) + (b, a)·(-sin, sin), and (b, a) is a roll.
            self.cos, self.sin = torch.cat([cos, cos], 1), torch.cat([-sin, sin], 1)
            # One matrix for both: a turn, and what is left to do of the norm.
            size = c.head_dim**0.5 if c.qk_norm else 1.0
            self.stay = size * torch.eye(c.head_dim, dtype=self.embed.dtype, device=device)
            self.swap = self.stay.roll(c.head_dim // 2, 0)
        # `F.rms_norm`'s eps, as a length; the default one.
        shortest = (c.head_dim * torch.finfo(self.embed.dtype).eps) ** 0.5
        self.shortest = torch.tensor(shortest, dtype=self.embed.dtype, device=device)
        # In a short context the window comes by the same slots again and again.
        self._views = lru_cache(maxsize=128)(self._views_at)
        self._compiled: Callable[..., Tensor] | None = None
        if compiled:
            self._compiled = torch.compile(Decoder._masked, dynamic=False)

    def step(
        self, tokens: Int[Tensor, "batch"], slots: int | Sequence[int]
    ) -> Float[Tensor, "batch vocab"]:
        """Logits after one more token of each row.

        A token's slot is its position: how many tokens its row's window holds before it. One number
        will do where that is the same for all rows.
        """
        last, self.cache.last = self.cache.last, tokens
        same = isinstance(slots, int)
        if self._compiled is None and same:
            return self._equal(tokens, last, slots)
        at = torch.full_like(tokens, slots) if same else torch.tensor(slots, device=tokens.device)
        if self._compiled is not None:
            try:
                return self._compiled(self, tokens, last, at, self.cache.max_length)
            except RuntimeError as error:  # what the compiler raises, whatever the cause
                reason = str(error).strip().splitlines()[0]
                warnings.warn(f"decoding is not compiled: {reason}", RuntimeWarning, stacklevel=2)
                self._compiled = None
        return self._masked(tokens, last, at, 1 + (slots if same else max(slots)))

    def _equal(self, tokens: Tensor, last: Tensor | None, slot: int) -> Tensor:
        """All rows at one slot: what was read so far is a slice, and nothing is masked."""
        write, keys, values, position, turn = self._views(slot)

        def attend(i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            write[0][i].copy_(k)
            write[1][i].copy_(v)
            return attention_of_one(q, keys[i], values[i])

        return self._through(tokens, last, position, turn, attend)

    def _views_at(self, slot: int) -> tuple:
        """What belongs to a slot: where it lies, what it looks at, its position and rotation."""
        # One slice and one unbind for all layers: indexing costs as much as a small product.
        write = [x[..., slot, :].unbind() for x in self.cache.keys_values]
        keys, values = (x[..., : slot + 1, :].unbind() for x in self.cache.keys_values)
        position = None if self.positions is None else self.positions[slot]
        turn = None if self.cos is None else self._rotation(self.cos[slot], self.sin[slot])
        return write, keys, values, position, turn

    def _masked(self, tokens: Tensor, last: Tensor | None, slots: Tensor, n: int) -> Tensor:
        """Each row at its own slot, of which those below n are looked at."""
        allowed = (self.slots[:n] <= slots[:, None])[:, None, None]

        def attend(i: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.cached[0][i], self.cached[1][i]
            keys[self.rows, :, slots] = k
            values[self.rows, :, slots] = v
            seen = keys[:, :, :n], values[:, :, :n]
            return F.scaled_dot_product_attention(q, *seen, attn_mask=allowed)

        position = None if self.positions is None else self.positions[slots]
        turn = None
        if self.cos is not None:
            turn = self._rotation(self.cos[slots, None], self.sin[slots, None])
        return self._through(tokens, last, position, turn, attend)

    def _rotation(self, cos: Tensor, sin: Tensor) -> Tensor:
        """Matrices that turn a head (and stretch it, if normalized), made once for all layers."""
        return torch.addcmul(self.stay * cos, self.swap, sin)

    def _through(
        self,
        tokens: Tensor,
        last: Tensor | None,
        position: Tensor | None,
        turn: Tensor | None,
        attend: Callable[[int, Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """All layers; `attend` stores a layer's key and value and answers its queries."""
        c, batch_size = self.config, tokens.shape[0]
        n_turned, width = c.n_heads + c.n_kv_heads, c.n_heads * c.head_dim
        # Query heads that share a key are queries of one head: nothing is repeated.
        queries = (batch_size, c.n_kv_heads, c.n_heads // c.n_kv_heads, c.head_dim)
        x = torch.embedding(self.embed, tokens)
        if self.previous is not None:
            x += torch.embedding(self.previous, last)
        if position is not None:
            x += position
        for i, layer in enumerate(self.layers):
            u = layer.attention_norm(x)
            qkv = layer.qkv(u).view(batch_size, -1, c.head_dim)
            qk, v = qkv.split_with_sizes((n_turned, c.n_kv_heads), 1)
            if c.qk_norm:
                # Of length 1 now; `turn` makes it a root mean square of 1.
                length = torch.linalg.vector_norm(qk, dim=-1, keepdim=True)
                qk = qk / torch.hypot(length, self.shortest)
            if turn is not None:
                qk = qk @ turn
            q, k = qk.split_with_sizes((c.n_heads, c.n_kv_heads), 1)
            heads = attend(i, q.view(queries), k, v)
            layer.out_proj.onto(x, heads.reshape(batch_size, width))
            h = layer.up(layer.mlp_norm(x))
            if c.mlp == "gelu":
                h = F.gelu(h, approximate="tanh")
            elif c.mlp == "relu2":
                h = torch.relu_(h)
                h *= h
            else:
                gate, h = h.chunk(2, -1)
                h = F.silu(gate) * h
            layer.down.onto(x, h)
        return torch.mm(self.norm(x), self.head)
