r"""A small GPT that learns English from nothing, on a laptop.

Text is a sequence of characters; the model gives, after every character, a distribution over the
next one, and training lowers the average surprise

$$L(\theta) = -\frac{1}{T} \sum_{t=1}^{T} \ln p_\theta(x_t \mid x_1, \dots, x_{t-1})
  \quad \text{(nats per character)}.$$

>>> model = GPT(GPTConfig(vocab_size=50), torch.Generator().manual_seed(0))
>>> tokens = torch.arange(200) % 50
>>> f"{evaluate(model, tokens, window=64):.1f} nats, guessing: {math.log(50):.1f}"
'3.9 nats, guessing: 3.9'
>>> losses = train(model, tokens, steps=30, batch=4, optimizer="muon", generator=torch.Generator())
>>> evaluate(model, tokens, window=64) < 1
True

    uv run weeks/14/minimal_gpt.py                                # Python's manual
    uv run weeks/14/minimal_gpt.py --dataset tinyshakespeare
    uv run weeks/14/minimal_gpt.py --text my_diary.txt --steps 2000 --prompt "Dear"

Sources: Radford et al., "Language models are unsupervised multitask learners" (2019), section 2.3;
Su et al., "RoFormer" (2021) for the positions; Jordan et al., "Muon" (2024) for the optimizer.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.arguments import checked
from shared.require import require
from week09.muon import Muon
from week09.optimizers import AdamW
from week13.attention import scaled_dot_product_attention
from week13.positional_encodings import apply_rope

# ---- the model


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of a GPT.

    Attributes
    ----------
    context
        Most characters the model sees at once.
    positions
        `rotary` turns queries and keys by their position; `learned` adds a vector per position.
    """

    vocab_size: int
    context: int = 64
    n_layers: int = 3
    n_heads: int = 4
    d_model: int = 96
    positions: Literal["rotary", "learned"] = "rotary"

    def __post_init__(self):
        for name in ("vocab_size", "context", "n_layers", "n_heads", "d_model"):
            size = getattr(self, name)
            require(size >= 1, f"{name} must be at least 1", size)
        d, n = self.d_model, self.n_heads
        require(d % n == 0, f"n_heads must divide d_model = {d}", n)
        even = self.positions == "learned" or d // n % 2 == 0
        must = "rotary positions need an even head dimension"
        require(even, must, f"d_model / n_heads = {d // n}")


class Block(nn.Module):
    """One layer: attention moves information between positions, the MLP works on each alone.

    Both read a normalized copy of the residual stream and add to it (pre-norm).
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        d = config.d_model
        self.n_heads, self.rotary = config.n_heads, config.positions == "rotary"
        self.attention_norm, self.mlp_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(d, d) for _ in range(3))
        self.out_proj = nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def qkv(
        self, x: Float[Tensor, "batch seq d_model"]
    ) -> tuple[Float[Tensor, "batch head seq head_dim"], ...]:
        """Queries, keys and values."""
        x = self.attention_norm(x)
        q, k, v = (
            project(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return (apply_rope(q), apply_rope(k), v) if self.rotary else (q, k, v)

    def forward(self, x: Float[Tensor, "batch seq d_model"]) -> Float[Tensor, "batch seq d_model"]:
        """The residual stream after this layer."""
        heads = scaled_dot_product_attention(*self.qkv(x), is_causal=True)
        x = x + self.out_proj(heads.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))


class GPT(nn.Module):
    """Decoder-only transformer over a fixed alphabet, with an untied output head.

    References
    ----------
    Radford et al. (2019), section 2.3: pre-norm, final norm, residual projections scaled by
    1/sqrt(2 n_layers) at initialization.
    """

    def __init__(self, config: GPTConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        if config.positions == "learned":
            self.positions = nn.Embedding(config.context, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                onto_stream = name.endswith(("out_proj.weight", "down.weight"))
                std = 0.02 / math.sqrt(2 * config.n_layers) if onto_stream else 0.02
                nn.init.normal_(p, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq vocab"]:
        """Logits of the next token after each one."""
        return self.head(self.norm(self.residual_stream(tokens)[-1]))

    def residual_stream(
        self, tokens: Int[Tensor, "batch seq"]
    ) -> list[Float[Tensor, "batch seq d_model"]]:
        """The stream before each block and after the last."""
        n, context = tokens.shape[1], self.config.context
        require(n <= context, f"tokens must be at most context = {context} long", n)
        x = self.embed(tokens)
        if self.config.positions == "learned":
            x = x + self.positions.weight[:n]
        stream = [x]
        for block in self.blocks:
            stream.append(block(stream[-1]))
        return stream


# ---- training


@checked
def next_token_loss(
    logits: Float[Tensor, "batch seq vocab"], targets: Int[Tensor, "batch seq"]
) -> Float[Tensor, ""]:
    """Mean surprise of the targets, in nats per token."""
    log_probs = logits.log_softmax(dim=-1)
    return -log_probs.gather(-1, targets[..., None]).mean()


def random_batch(
    tokens: Int[Tensor, " n"], batch: int, context: int, generator: torch.Generator
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """Windows from random places, and the same windows one character later."""
    n = len(tokens)
    require(n > context, f"tokens must be longer than context = {context}", n)
    starts = torch.randint(n - context, (batch, 1), generator=generator)
    index = starts + torch.arange(context)
    return tokens[index], tokens[index + 1]


def make_optimizers(
    model: GPT, name: Literal["muon", "adamw"], *, lr_scale: float = 1.0
) -> list[AdamW | Muon]:
    """Muon for the matrices of the blocks and AdamW for the rest, or AdamW for all."""
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    if name == "adamw":
        return [AdamW(model.parameters(), lr=3e-3 * lr_scale, betas=(0.9, 0.95), weight_decay=0.1)]
    of_blocks = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in of_blocks]
    return [
        Muon(matrices, lr=0.02 * lr_scale),
        AdamW(rest, lr=1.2e-2 * lr_scale, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def training_losses(
    model: GPT,
    tokens: Int[Tensor, " n"],
    *,
    steps: int,
    batch: int,
    optimizer: Literal["muon", "adamw"],
    generator: torch.Generator,
    lr_scale: float = 1.0,
) -> Iterator[float]:
    """Train `model` in place and give the loss of each step; the learning rate falls to zero.

    A step reads `batch` windows of the model's context; `lr_scale` multiplies the learning rates
    of `make_optimizers`.
    """
    device = next(model.parameters()).device
    optimizers = make_optimizers(model, optimizer, lr_scale=lr_scale)
    peak = [o.lr for o in optimizers]
    for step in range(steps):
        x, y = random_batch(tokens, batch, model.config.context, generator)
        loss = next_token_loss(model(x.to(device)), y.to(device))
        for o, lr in zip(optimizers, peak, strict=True):
            o.zero_grad()
            o.lr = lr * (1 - step / steps)
        loss.backward()
        for o in optimizers:
            o.step()
        yield loss.item()


def train(model: GPT, tokens: Int[Tensor, " n"], **options) -> list[float]:
    """All steps of `training_losses` at once; the loss of each, in nats per character."""
    return list(training_losses(model, tokens, **options))


@torch.no_grad()
def evaluate(model: GPT, tokens: Int[Tensor, " n"], *, window: int) -> float:
    """Loss over `tokens`, cut into windows that do not overlap (nats per character).

    The first character of a window is predicted from one character only, so this is an upper bound
    on what the model would have with its full context everywhere.
    """
    require(window >= 1, "window must be at least 1", window)
    require(len(tokens) > window, f"tokens must be longer than window = {window}", len(tokens))
    device = next(model.parameters()).device
    n = (len(tokens) - 1) // window
    x, y = tokens[: n * window].view(n, window), tokens[1 : n * window + 1].view(n, window)
    total = 0.0
    for i in range(0, n, 64):
        logits = model(x[i : i + 64].to(device))
        total += next_token_loss(logits, y[i : i + 64].to(device)).item() * len(x[i : i + 64])
    return total / n


@torch.no_grad()
@checked
def sample(
    model: GPT,
    prompt: Int[Tensor, " n"],
    length: int,
    *,
    temperature: float = 0.8,
    top_k: int = 0,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " m"]:
    """Continue `prompt` by `length` tokens, one at a time, out of the `top_k` likeliest.

    A `top_k` of 0, or one above the size of the vocabulary, allows all tokens.
    """
    require(len(prompt), "prompt must hold at least one token", "none")
    require(length >= 0, "length must be at least 0", length)
    require(0 < temperature < math.inf, "temperature must be positive and finite", temperature)
    require(top_k >= 0, "top_k must be at least 0", top_k)
    tokens = prompt.to(next(model.parameters()).device)
    for _ in range(length):
        logits = model(tokens[None, -model.config.context :])[0, -1].float()
        best = logits.max()
        require(best.isfinite(), "model must give logits with a finite maximum", best.item())
        logits = (logits - best) / min(max(temperature, 1e-30), 1e30)  # the best gets 0
        if top_k:
            logits[logits < logits.topk(min(top_k, len(logits))).values[-1]] = -torch.inf
        token = torch.multinomial(logits.softmax(-1).cpu(), 1, generator=generator)
        tokens = torch.cat([tokens, token.to(tokens.device)])
    return tokens.cpu()


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
