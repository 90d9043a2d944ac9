r"""Activation checkpointing: forget what the backward pass needs, and compute it once more.

Backpropagation keeps every activation that a gradient formula mentions. With $L$ layers of $A$
bytes each, cut into segments of $c$ layers of which only the inputs ($B$ bytes each) are kept,

$$ \text{peak}(c) \approx \frac{L}{c} B + c\,A, \qquad c^* = \sqrt{L B / A}, \qquad
   \text{peak}^* = 2 \sqrt{L A B}, $$

so memory grows with $\sqrt L$, for one forward pass more: 4/3 of the arithmetic. `checkpoint` is
written here from nothing as an autograd function. The blocks are small and run on the CPU; bytes
and operations are counted exactly, which needs no large model.

>>> def three_layers(x):
...     return x.exp().exp().exp()
>>> x = torch.zeros(1000, requires_grad=True)
>>> for forward in (three_layers, lambda x: checkpoint(three_layers, x)):
...     with SavedTensors([x]) as saved:
...         y = forward(x)
...         kept = saved.live
...         print(kept, "bytes, gradient", round(torch.autograd.grad(y.sum(), x)[0][0].item(), 2))
12000 bytes, gradient 41.19
0 bytes, gradient 41.19

    uv run weeks/16/activation_checkpointing.py

Sources: T. Chen et al., *Training Deep Nets with Sublinear Memory Cost* (2016), section 4;
V. Korthikanti et al., *Reducing Activation Recomputation in Large Transformer Models* (2022),
eq. 1 and section 5 (selective recomputation).
"""

import math
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from shared.require import require

# ---- the mechanism


class _Checkpoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx, fn, restore_rng, *inputs):
        ctx.fn, ctx.restore_rng = fn, restore_rng
        ctx.device = inputs[0].device.type
        ctx.gpus = sorted({x.device.index for x in inputs if x.is_cuda})
        ctx.rng = torch.get_rng_state(), [torch.cuda.get_rng_state(i) for i in ctx.gpus]
        ctx.autocast = torch.is_autocast_enabled(ctx.device), torch.get_autocast_dtype(ctx.device)
        ctx.save_for_backward(*inputs)  # all that is kept
        return fn(*inputs)  # autograd is off inside a Function: no graph, nothing saved

    @staticmethod
    def backward(ctx, grad):
        # new leaves: this graph must end here and not run on into what made the inputs
        inputs = [
            x.detach().requires_grad_(needed)
            for x, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[2:], strict=True)
        ]
        enabled, dtype = ctx.autocast
        rng = torch.random.fork_rng(ctx.gpus) if ctx.restore_rng else nullcontext()
        with rng, torch.enable_grad(), torch.autocast(ctx.device, dtype, enabled=enabled):
            if ctx.restore_rng:  # or dropout would draw other masks than the loss was made with
                torch.set_rng_state(ctx.rng[0])
                for i, state in zip(ctx.gpus, ctx.rng[1], strict=True):
                    torch.cuda.set_rng_state(state, i)
            output = ctx.fn(*inputs)
        torch.autograd.backward(output, grad)  # parameters used by fn get their .grad here
        return None, None, *(x.grad for x in inputs)


def checkpoint(
    fn: Callable[..., Tensor], *inputs: Shaped[Tensor, "..."], restore_rng: bool = True
) -> Float[Tensor, "..."]:
    """fn(*inputs), keeping only the inputs; the backward pass computes the rest again.

    Gradients reach `.grad` of every tensor involved by `backward()`; `torch.autograd.grad` with
    respect to parameters inside `fn` is not supported.

    Parameters
    ----------
    fn
        It must do the same again when called again.
    inputs
        At least one must require a gradient, else autograd would never come back to this node, and
        the parameters inside `fn` would silently get none.
    restore_rng
        Rewind torch's global random numbers for the second call, so that dropout repeats.
    """
    require(inputs, "inputs must hold at least one tensor", "none")
    if torch.is_grad_enabled():
        needed = any(x.requires_grad for x in inputs)
        require(needed, "inputs must hold one that requires a gradient", "none")
    return _Checkpoint.apply(fn, restore_rng, *inputs)


def checkpoint_sequential(
    layers: Sequence[nn.Module], x: Float[Tensor, "..."], segment: int
) -> Float[Tensor, "..."]:
    """Run `layers` in order, `segment` of them to a checkpoint."""
    require(segment >= 1, "segment must be at least 1", segment)
    for start in range(0, len(layers), segment):
        x = checkpoint(nn.Sequential(*layers[start : start + segment]), x)
    return x


# ---- counting bytes


class SavedTensors:
    """Context in which the bytes that autograd keeps for the backward pass are counted.

    Storages are counted once, however many nodes keep a view of them, and those of `excluded`
    (parameters, inputs that live anyway) not at all. Counts what runs in this thread: the CPU's
    backward pass does, a GPU's does not.

    Attributes
    ----------
    live, peak
        Bytes kept now, and the most that were kept at once.
    """

    def __init__(self, excluded: Sequence[Shaped[Tensor, "..."]] = ()):
        self.live = self.peak = 0
        self._users: dict[int, int] = {}
        self._excluded = {t.untyped_storage().data_ptr() for t in excluded}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda box: box[0])

    def __enter__(self) -> "SavedTensors":
        self._hooks.__enter__()
        return self

    def __exit__(self, *error):
        self._hooks.__exit__(*error)

    def _pack(self, tensor: Tensor):
        storage = tensor.untyped_storage()
        where, size = storage.data_ptr(), storage.nbytes()
        box = _Box([tensor.detach()])  # dies with its node of the graph
        if where not in self._excluded:
            self._users[where] = self._users.get(where, 0) + 1
            if self._users[where] == 1:
                self.live += size
                self.peak = max(self.peak, self.live)
            weakref.finalize(box, self._release, where, size)
        return box

    def _release(self, where: int, size: int):
        self._users[where] -= 1
        if self._users[where] == 0:
            del self._users[where]  # the address may be given to another tensor
            self.live -= size


class _Box(list):
    """A list that can be watched by a weak reference."""


# ---- a transformer block and what it should keep


class Block(nn.Module):
    """Pre-norm transformer block whose attention scores are written out, as Korthikanti et al.'s.

    `recompute` is what the backward pass computes again: nothing, the attention between q, k, v
    and its output ("selective"), or all of the block ("full").
    """

    def __init__(
        self,
        d_model: int,
        n_heads: int,
        dropout: float = 0.1,
        recompute: Literal["none", "selective", "full"] = "none",
    ):
        super().__init__()
        require(d_model % n_heads == 0, f"n_heads must divide d_model = {d_model}", n_heads)
        known = recompute in ("none", "selective", "full")
        require(known, "recompute must be none, selective or full", recompute)
        self.n_heads, self.dropout, self.recompute = n_heads, dropout, recompute
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(2))
        self.qkv, self.out_proj = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.up, self.down = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)

    def forward(self, x: Float[Tensor, "batch seq d_model"]) -> Float[Tensor, "batch seq d_model"]:
        """The residual stream after this block."""
        if self.recompute == "full" and torch.is_grad_enabled():
            return checkpoint(self._forward, x)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        q, k, v = (  # copied: a view would keep the storage of all three alive
            part.unflatten(-1, (self.n_heads, -1)).transpose(1, 2).contiguous()
            for part in self.qkv(self.norms[0](x)).chunk(3, dim=-1)
        )
        if self.recompute == "selective" and torch.is_grad_enabled():
            heads = checkpoint(self._attend, q, k, v)
        else:
            heads = self._attend(q, k, v)
        x = x + self._drop(self.out_proj(heads.transpose(1, 2).flatten(2)))
        return x + self._drop(self.down(F.gelu(self.up(self.norms[1](x)))))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        future = q.new_full((q.shape[2], q.shape[2]), -torch.inf).triu(1)
        weights = (q / math.sqrt(q.shape[-1]) @ k.transpose(-2, -1) + future).softmax(dim=-1)
        return self._drop(weights) @ v

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


class Activations(NamedTuple):
    """What one block keeps for its backward pass, by kind, in bytes."""

    linear: int
    attention: int
    statistics: int


def block_activations(
    batch: int, seq: int, d_model: int, n_heads: int, *, bytes_each: int = 4, mask_bytes: int = 4
) -> Activations:
    """Bytes of activations that `Block` with dropout keeps.

    With T = batch · seq tokens: 16 T d activations and 2 T d mask entries around the matrices,
    2 a seq T activations and a seq T mask entries in the attention, 4 T norm statistics.

    The bytes are those of an activation and of a mask's entry; torch's CPU masks are as wide as the
    data. With 2 and 1: T d (34 + 5 a seq / d), Korthikanti et al.'s eq. 1, statistics left out.
    """
    for name, size in {"batch": batch, "seq": seq, "d_model": d_model, "n_heads": n_heads}.items():
        require(size >= 1, f"{name} must be at least 1", size)
    tokens = batch * seq
    return Activations(
        linear=tokens * d_model * (16 * bytes_each + 2 * mask_bytes),
        attention=n_heads * seq * tokens * (2 * bytes_each + mask_bytes),
        statistics=4 * tokens * bytes_each,
    )


def block_flops(batch: int, seq: int, d_model: int) -> tuple[int, int]:
    """Operations of a block's forward pass: of its matrices, and of its attention's two products.

    A multiplication and an addition each count; masked scores count too, as they are computed.
    """
    return 24 * batch * seq * d_model**2, 4 * batch * seq**2 * d_model


def peak_bytes(layers: int, segment: int, boundary: int, inner: int) -> int:
    """Most bytes kept at once by `checkpoint_sequential`, forward and backward.

    While a segment of c layers is computed again, its c A bytes are there beside the inputs of the
    segments before it: (⌈L/c⌉ - 1) B + c A. `boundary` is B, the bytes of a layer's input, `inner`
    A, those of all that a layer keeps, its input included.
    """
    allowed = f"segment must be between 1 and layers = {layers}"
    require(1 <= segment <= layers, allowed, segment)
    starts = range(0, layers, segment)
    return max(i * boundary + min(segment, layers - s) * inner for i, s in enumerate(starts))


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
