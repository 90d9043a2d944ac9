r"""A small CLIP: pictures and captions in one space, each nearest to its own.

Two towers give unit vectors $u_i$ of pictures and $v_j$ of captions. In a batch of n pairs every
caption is a wrong answer for every other picture. With logits $s_{ij} = e^{t} u_i^\top v_j$,

$$ L = \frac{1}{2n} \sum_i \left[ -\log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}
     - \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ji}}} \right] . $$

SigLIP asks of each pair alone whether it is one: with $z_{ij} = 1$ if $i = j$ and else $-1$,
$L = -\frac{1}{n} \sum_{ij} \log \sigma(z_{ij} (s_{ij} + b))$. No softmax runs over the batch.

>>> round(contrastive_loss(torch.zeros(8, 8)).item() / math.log(8), 5)  # knows nothing: log n
1.0
>>> similarity = torch.tensor([[3.0, 0, 0], [0, 1, 2], [0, 0, 5]])
>>> recall(similarity, 1), recall(similarity, 2)  # the second picture's caption comes second
(0.6666666865348816, 1.0)
>>> first_end(torch.tensor([[5, 1, 0, 1]]), 1)
tensor([1])

    uv run weeks/25/clip.py

Sources: Radford et al., "Learning transferable visual models from natural language supervision"
(2021), sections 2.3 to 2.5 and figure 3; Zhai et al., "Sigmoid loss for language image
pre-training" (2023), equation 1. Reduced here: towers of two layers, pictures of 16×16 pixels.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.arguments import checked
from shared.require import require
from week13.attention import MultiHeadAttention

MAX_SCALE = 100.0  # of the logits, "to prevent training instability"

# ---- losses


@checked
def contrastive_loss(logits: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """Each picture picks its caption and each caption its picture; the mean of both."""
    labels = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


@checked
def sigmoid_loss(logits: Float[Tensor, "n n"]) -> Float[Tensor, ""]:
    """Each pair is right or wrong by itself; summed over captions, averaged over pictures."""
    signs = 2 * torch.eye(len(logits), device=logits.device, dtype=logits.dtype) - 1
    return -F.logsigmoid(signs * logits).sum(-1).mean()


# ---- towers


def quick_gelu(x: Float[Tensor, "*dims"]) -> Float[Tensor, "*dims"]:
    """The approximation x σ(1.702 x) that CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Attention and MLP, each after a norm; `activation` is CLIP's or SigLIP's."""

    def __init__(
        self, d_model: int, n_heads: int, d_ff: int, activation: Callable = quick_gelu, eps=1e-5
    ):
        super().__init__()
        self.attention_norm = nn.LayerNorm(d_model, eps)
        self.attention = MultiHeadAttention(d_model, n_heads)
        self.mlp_norm = nn.LayerNorm(d_model, eps)
        self.fc1, self.fc2 = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)
        self.activation = activation

    def forward(
        self, x: Float[Tensor, "batch seq d_model"], *, is_causal: bool = False
    ) -> Float[Tensor, "batch seq d_model"]:
        """The residual stream after this layer."""
        x = x + self.attention(self.attention_norm(x), is_causal=is_causal)
        return x + self.fc2(self.activation(self.fc1(self.mlp_norm(x))))


class ImageTower(nn.Module):
    """A vision transformer, read at its class token."""

    def __init__(
        self, side: int, patch: int, d_model: int, n_heads: int, n_layers: int, d_embed: int
    ):
        super().__init__()
        require(side % patch == 0, f"patch must divide side = {side}", patch)
        self.patch = nn.Conv2d(3, d_model, patch, stride=patch, bias=False)
        self.cls = nn.Parameter(torch.zeros(d_model))
        self.positions = nn.Embedding((side // patch) ** 2 + 1, d_model)
        self.pre_norm, self.norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.blocks = nn.ModuleList(Block(d_model, n_heads, 4 * d_model) for _ in range(n_layers))
        self.projection = nn.Linear(d_model, d_embed, bias=False)

    def forward(self, images: Float[Tensor, "batch 3 side side"]) -> Float[Tensor, "batch d_embed"]:
        """A vector of each picture, not yet of length 1."""
        patches = self.patch(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(images), 1, -1), patches], 1) + self.positions.weight
        x = self.pre_norm(x)
        for block in self.blocks:
            x = block(x)
        return self.projection(self.norm(x[:, 0]))


def first_end(tokens: Int[Tensor, "batch seq"], end: int) -> Int[Tensor, " batch"]:
    """Where each text ends; what comes after the first end is padding."""
    there = tokens == end
    missing = (~there.any(1)).nonzero().flatten().tolist()
    require(
        not missing, f"tokens must contain the end {end} in each row", f"none in rows {missing}"
    )
    return there.int().argmax(1)


class TextTower(nn.Module):
    """A causal transformer, read at the first end: no padding behind it can be seen there."""

    def __init__(
        self,
        vocab_size: int,
        context: int,
        d_model: int,
        n_heads: int,
        n_layers: int,
        d_embed: int,
        *,
        end: int = 1,
    ):
        super().__init__()
        self.end = end
        self.embed, self.positions = (nn.Embedding(n, d_model) for n in (vocab_size, context))
        self.blocks = nn.ModuleList(Block(d_model, n_heads, 4 * d_model) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model)
        self.projection = nn.Linear(d_model, d_embed, bias=False)

    def forward(self, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch d_embed"]:
        """A vector of each text, not yet of length 1."""
        n, context = tokens.shape[1], self.positions.num_embeddings
        require(n <= context, f"tokens must be at most context = {context} long", n)
        ends = first_end(tokens, self.end)
        x = self.embed(tokens) + self.positions.weight[:n]
        for block in self.blocks:
            x = block(x, is_causal=True)
        return self.projection(self.norm(x)[torch.arange(len(x)), ends])


class Clip(nn.Module):
    """Two towers, a learned scale of the logits, and a bias if it learns by the sigmoid loss."""

    def __init__(
        self,
        image: nn.Module,
        text: nn.Module,
        generator: torch.Generator,
        *,
        scale: float = 1 / 0.07,
        bias: float | None = None,
    ):
        super().__init__()
        self.image, self.text = image, text
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = None if bias is None else nn.Parameter(torch.tensor(bias))
        initialize(self, generator)

    def forward(
        self, images: Float[Tensor, "n 3 side side"], tokens: Int[Tensor, "m seq"]
    ) -> Float[Tensor, "n m"]:
        """Logits, a row per picture and a column per text."""
        return self.logits(self.image(images), self.text(tokens))

    def logits(
        self, u: Float[Tensor, "n d_embed"], v: Float[Tensor, "m d_embed"]
    ) -> Float[Tensor, "n m"]:
        """Scaled cosines, of vectors of any length."""
        logits = self.log_scale.exp() * F.normalize(u, dim=-1) @ F.normalize(v, dim=-1).T
        return logits if self.bias is None else logits + self.bias

    @torch.no_grad()
    def clip_scale(self) -> None:
        """To be called after each step: the logits are never scaled by more than 100."""
        self.log_scale.clamp_(max=math.log(MAX_SCALE))


def initialize(model: nn.Module, generator: torch.Generator) -> None:
    """Matrices with deviation 1/√fan-in, embeddings with 1/√width, biases 0."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.weight.normal_(0, module.embedding_dim**-0.5, generator=generator)
            elif isinstance(module, nn.Linear | nn.Conv2d):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, fan_in**-0.5, generator=generator)
                if module.bias is not None:
                    module.bias.zero_()


def train_step(
    model: Clip,
    optimizer: torch.optim.Optimizer,
    images: Float[Tensor, "n 3 side side"],
    tokens: Int[Tensor, "n seq"],
    loss: Callable[[Tensor], Tensor] = contrastive_loss,
) -> float:
    """One update; row i of the pictures belongs to row i of the texts."""
    optimizer.zero_grad()
    value = loss(model(images, tokens))
    value.backward()
    optimizer.step()
    model.clip_scale()
    return value.item()


# ---- use


@torch.no_grad()
def class_vectors(
    model: Clip, prompts: Sequence[Int[Tensor, "classes _"]]
) -> Float[Tensor, "classes d_embed"]:
    """A vector per class: the mean direction of its prompts, one tensor for each template."""
    return F.normalize(sum(F.normalize(model.text(p), dim=-1) for p in prompts), dim=-1)


@torch.no_grad()
def zero_shot(
    model: Clip,
    images: Float[Tensor, "n 3 side side"],
    prompts: Sequence[Int[Tensor, "classes _"]],
) -> Int[Tensor, " n"]:
    """The class whose vector is nearest; no picture of it needs to have been seen."""
    return model.logits(model.image(images), class_vectors(model, prompts)).argmax(-1)


@checked
def recall(similarity: Float[Tensor, "n n"], k: int) -> float:
    """Share of rows whose own column is among the k largest; equal ones in front count against.

    Give the transpose for the other direction.
    """
    require(1 <= k <= len(similarity), f"k must be between 1 and n = {len(similarity)}", k)
    own = similarity.diagonal()[:, None]
    return ((similarity >= own).sum(1) <= k).float().mean().item()


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
