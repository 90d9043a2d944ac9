r"""Tensor parallelism: every matrix of a block cut among processes, with two sums per direction.

Cut the first matrix of an MLP by columns and the second by rows, $A = [A_1, A_2]$ and
$B = [B_1; B_2]$. The nonlinearity acts on each number, so it never meets the cut, and

$$\mathrm{gelu}(xA)\,B = \mathrm{gelu}(xA_1)\,B_1 + \mathrm{gelu}(xA_2)\,B_2 ,$$

one sum over processes at the end ($g$). Attention is cut by heads in the same way. Backward, the
gradient of $x$ is a sum over processes as well ($f$). So a block costs two all-reduces forward and
two backward. *Sequence parallelism* replaces each sum by a reduce-scatter along the sequence and
puts an all-gather before the next matrix: the norms between then work on a slice of the text.

>>> [shares(n, 3) for n in (6, 7)]
[[2, 2, 2], [3, 2, 2]]
>>> ring_bytes(16, 4)  # what each of 4 processes sends when 16 bytes are summed: 2 (t - 1) / t
24.0

    uv run weeks/17/tensor_parallel.py

Sources: Shoeybi et al., "Megatron-LM" (2019), section 3; Korthikanti et al., "Reducing activation
recomputation in large transformer models" (2022), section 4.2.2.
"""

from collections.abc import Iterable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from week13.attention import scaled_dot_product_attention
from week13.positional_encodings import apply_rope
from week14.minimal_gpt import GPT, Block


def shares(n: int, world: int) -> list[int]:
    """How `n` things are dealt to processes: sizes that differ by at most one."""
    return [n // world + (rank < n % world) for rank in range(world)]


def ring_bytes(n_bytes: int, world: int) -> float:
    """Bytes that each process of a ring sends to sum `n_bytes`."""
    return 2 * (world - 1) / world * n_bytes


# ---- the four conjugate pairs: what is a copy forward is a sum backward


class _Copy(torch.autograd.Function):
    """f: every process gets x, so the gradient of x is the sum of what they make of it."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(grad, group=ctx.group)
        return grad, None


class _Sum(torch.autograd.Function):
    """g: a sum, whose gradient is the same for each term."""

    @staticmethod
    def forward(ctx, x, group):
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x, group=group)
        return x

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def _all_gather(x: Tensor, n: int, group: ProcessGroup | None) -> Tensor:
    """Slices of a sequence of `n` joined; padded on the way, since gloo sends equal sizes only."""
    sizes = shares(n, dist.get_world_size(group))
    padded = F.pad(x, (0, 0, 0, max(sizes) - x.shape[1])).contiguous()
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part[:, :size] for part, size in zip(parts, sizes, strict=True)], dim=1)


def _reduce_scatter(x: Tensor, group: ProcessGroup | None) -> Tensor:
    """The own slice of the sequence, summed over processes."""
    sizes = shares(x.shape[1], dist.get_world_size(group))
    parts = [F.pad(p, (0, 0, 0, max(sizes) - p.shape[1])) for p in x.split(sizes, dim=1)]
    out = torch.empty_like(parts[0], memory_format=torch.contiguous_format)
    dist.reduce_scatter(out, [p.contiguous() for p in parts], group=group)
    return out[:, : sizes[dist.get_rank(group)]]


class _Gather(torch.autograd.Function):
    """f of sequence parallelism: join the slices; backward, sum and keep the own one."""

    @staticmethod
    def forward(ctx, x, n, group):
        ctx.group = group
        return _all_gather(x, n, group)

    @staticmethod
    def backward(ctx, grad):
        return _reduce_scatter(grad, ctx.group), None, None


class _Scatter(torch.autograd.Function):
    """g of sequence parallelism: sum and keep the own slice; backward, join the slices."""

    @staticmethod
    def forward(ctx, x, group):
        ctx.n, ctx.group = x.shape[1], group
        return _reduce_scatter(x, group)

    @staticmethod
    def backward(ctx, grad):
        return _all_gather(grad, ctx.n, ctx.group), None


# ---- shards


def shard(p: Float[Tensor, "..."], dim: int, sizes: list[int], rank: int) -> nn.Parameter:
    """This process's part of a parameter, which remembers the dimension of the cut."""
    part = nn.Parameter(p.detach().split(sizes, dim)[rank].clone())
    part.cut = dim
    return part


class TensorParallelGPT(nn.Module):
    """Week 14's `GPT`, its matrices cut among the processes of a group.

    Parameters
    ----------
    full
        The whole model; this process copies its part.
    group
        Processes that share one model; None for all.
    sequence_parallel
        Whether the stream between the matrices is cut along the sequence.
    """

    def __init__(
        self, full: GPT, group: ProcessGroup | None = None, *, sequence_parallel: bool = False
    ):
        super().__init__()
        self.group, self.sequence_parallel = group, sequence_parallel
        world, rank = dist.get_world_size(group), dist.get_rank(group)
        words = shares(full.config.vocab_size, world)
        self.first = sum(words[:rank])  # of the words that are kept here
        self.embed = shard(full.embed.weight, 0, words, rank)
        self.blocks = nn.ModuleList(TensorParallelBlock(block, self) for block in full.blocks)
        self.norm = copied(full.norm)
        self.head = shard(full.head.weight, 0, words, rank)

    def enter(self, x: Float[Tensor, "batch some d"]) -> Float[Tensor, "batch seq d"]:
        """Before a matrix that is cut by columns."""
        if self.sequence_parallel:
            return _Gather.apply(x, self.n, self.group)
        return _Copy.apply(x, self.group)

    def leave(self, x: Float[Tensor, "batch seq d"]) -> Float[Tensor, "batch some d"]:
        """After a matrix that is cut by rows."""
        return (_Scatter if self.sequence_parallel else _Sum).apply(x, self.group)

    def forward(self, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq words"]:
        """Logits of the words that are kept here."""
        self.n = tokens.shape[1]
        local = tokens - self.first
        here = (local >= 0) & (local < len(self.embed))
        # Words kept elsewhere give zeros here, so that the sum holds each word once.
        rows = self.embed[local[here]]
        x = rows.new_zeros(*tokens.shape, rows.shape[-1]).masked_scatter(here[..., None], rows)
        x = self.leave(x)
        for block in self.blocks:
            x = block(x, self)
        return F.linear(self.enter(self.norm(x)), self.head)

    def loss(
        self, logits: Float[Tensor, "batch seq words"], targets: Int[Tensor, "batch seq"]
    ) -> Float[Tensor, ""]:
        """Mean surprise, in nats per token, without gathering the logits.

        Three numbers per token go round: the largest logit, the sum of exponentials, and the
        target's logit, which one process has.
        """
        largest = logits.detach().amax(-1)
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self.group)
        local = targets - self.first
        here = (local >= 0) & (local < logits.shape[-1])
        shifted = logits - largest[..., None]
        target = shifted.gather(-1, local.where(here, 0)[..., None])[..., 0].where(here, 0.0)
        both = _Sum.apply(torch.stack([shifted.exp().sum(-1), target]), self.group)
        return (both[0].log() - both[1]).mean()


class TensorParallelBlock(nn.Module):
    """Week 14's `Block`: queries, keys, values and `up` cut by columns, the rest by rows."""

    def __init__(self, full: Block, model: TensorParallelGPT):
        super().__init__()
        world, rank = dist.get_world_size(model.group), dist.get_rank(model.group)
        head_dim = full.q_proj.out_features // full.n_heads
        self.head_dim, self.rotary = head_dim, full.rotary
        heads = [head_dim * n for n in shares(full.n_heads, world)]  # a head is never cut
        hidden = shares(full.up.out_features, world)
        self.attention_norm, self.mlp_norm = copied(full.attention_norm), copied(full.mlp_norm)
        cuts = {"q_proj": heads, "k_proj": heads, "v_proj": heads, "out_proj": heads}
        for name, sizes in (cuts | {"up": hidden, "down": hidden}).items():
            rows = name in ("out_proj", "down")
            linear = getattr(full, name)
            self.register_parameter(name, shard(linear.weight, int(rows), sizes, rank))
            # What is cut by rows is a sum: its bias is kept whole and added once, after it.
            bias = linear.bias.detach().clone()
            bias = nn.Parameter(bias) if rows else shard(bias, 0, sizes, rank)
            self.register_parameter(f"{name}_bias", bias)

    def forward(
        self, x: Float[Tensor, "batch some d"], model: TensorParallelGPT
    ) -> Float[Tensor, "batch some d"]:
        """The stream after this layer: one f and one g for attention, one of each for the MLP."""
        u = model.enter(self.attention_norm(x))
        q, k, v = (
            F.linear(u, w, b).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for w, b in (
                (self.q_proj, self.q_proj_bias),
                (self.k_proj, self.k_proj_bias),
                (self.v_proj, self.v_proj_bias),
            )
        )
        q, k = (apply_rope(q), apply_rope(k)) if self.rotary else (q, k)
        heads = scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + model.leave(F.linear(heads, self.out_proj)) + self.out_proj_bias
        u = model.enter(self.mlp_norm(x))
        hidden = F.gelu(F.linear(u, self.up, self.up_bias), approximate="tanh")
        return x + model.leave(F.linear(hidden, self.down)) + self.down_bias


def copied(norm: nn.LayerNorm) -> nn.LayerNorm:
    """A replica of a norm."""
    new = nn.LayerNorm(norm.normalized_shape, eps=norm.eps).to(norm.weight)
    new.load_state_dict(norm.state_dict())
    return new


# ---- what the optimizer needs


def sum_replicas(model: TensorParallelGPT) -> None:
    """Norms and biases saw a slice of the text each: their gradients are sums over processes.

    Without sequence parallelism all processes computed the same, and there is nothing to do.
    """
    if model.sequence_parallel:
        for p in model.parameters():
            if not hasattr(p, "cut"):
                dist.all_reduce(p.grad, group=model.group)


def grad_norm(parameters: Iterable[nn.Parameter], group: ProcessGroup | None = None) -> float:
    """Length of the whole model's gradient: shards add up, replicas count once."""
    squares = torch.zeros(2, dtype=torch.float64)
    for p in parameters:
        squares[int(hasattr(p, "cut"))] += p.grad.double().square().sum()
    replicated, cut = squares.split(1)
    dist.all_reduce(cut, group=group)
    return float((replicated + cut).sqrt())


def generators(
    seed: int, group: ProcessGroup | None = None
) -> tuple[torch.Generator, torch.Generator]:
    """Chance for dropout: one source that is the same in the group, and one of each process.

    Where activations are replicated, replicas that drop different numbers are none any more. Where
    they are cut, the same source would drop the same places of each shard.
    """
    own = seed * 1000 + 1 + dist.get_rank(group)
    return tuple(torch.Generator().manual_seed(s) for s in (seed * 1000, own))


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
