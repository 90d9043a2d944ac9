r"""BERT: an encoder that reads a sentence both ways, to fill its gaps.

A GPT's token sees those before it. Here all see all; tokens, positions and segments (first or
second sentence) are added up and go through the transformer's post-norm layers,

$$ x \leftarrow \mathrm{LN}\big(x + \mathrm{Attention}(x)\big), \qquad
   x \leftarrow \mathrm{LN}\big(x + W_2\, \mathrm{GELU}(W_1 x)\big) . $$

Two heads are trained on top (`week14.bert_pretraining`): what stood in a gap, and whether the
second sentence follows the first. The encoder is what one keeps.

>>> model = Bert(BertConfig(vocab_size=10), torch.Generator().manual_seed(0))
>>> tokens = torch.tensor([[1, 7, 8, 2], [1, 9, 2, 0]])  # 0 is padding
>>> x = model(tokens, keep=tokens != 0)
>>> x.shape
torch.Size([2, 4, 64])
>>> torch.allclose(x[1, :3], model(tokens[1:, :3])[0], atol=1e-6)  # it changes nothing
True

    uv run weeks/14/bert.py

Source: Devlin et al., "BERT" (2019), sections 3 and A.2, with the published code.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared.require import require
from week13.transformer import EncoderLayer


@dataclass(frozen=True)
class BertConfig:
    """Sizes of an encoder.

    Attributes
    ----------
    d_ff
        Width of the feed-forward part; 4 d_model if None.
    n_types
        Kinds of segments: 0 for the first, 1 for the second.
    norm_eps
        BERT's is far below torch's 1e-5.
    """

    vocab_size: int
    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 4
    d_ff: int | None = None
    context: int = 64
    n_types: int = 2
    norm_eps: float = 1e-12
    dropout: float = 0.0

    def __post_init__(self):
        for name in ("vocab_size", "d_model", "n_layers", "n_heads", "context", "n_types"):
            size = getattr(self, name)
            require(size >= 1, f"{name} must be at least 1", size)


class BertLayer(EncoderLayer):
    """The transformer's own post-norm layer, with an exact GELU where the ReLU was."""

    def __init__(self, config: BertConfig):
        d_ff = 4 * config.d_model if config.d_ff is None else config.d_ff
        super().__init__(config.d_model, config.n_heads, d_ff, config.dropout, norm_first=False)
        self.feed_forward[1] = nn.GELU()  # by erf: GPT-2's has tanh
        self.feed_forward[2] = nn.Identity()  # BERT drops nothing between the two maps
        for residual in self.residuals:
            residual.norm.eps = config.norm_eps


class Bert(nn.Module):
    """Tokens, positions and segments are added, normalized and passed through the layers."""

    def __init__(self, config: BertConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Embedding(config.context, config.d_model)
        self.types = nn.Embedding(config.n_types, config.d_model)
        self.norm = nn.LayerNorm(config.d_model, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(BertLayer(config) for _ in range(config.n_layers))
        initialize(self, generator)

    def forward(
        self,
        tokens: Int[Tensor, "batch seq"],
        types: Int[Tensor, "batch seq"] | None = None,
        keep: Bool[Tensor, "batch seq"] | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        """Hidden states after the last layer; `keep` is False at padding."""
        return self.hidden_states(tokens, types, keep)[-1]

    def hidden_states(
        self,
        tokens: Int[Tensor, "batch seq"],
        types: Int[Tensor, "batch seq"] | None = None,
        keep: Bool[Tensor, "batch seq"] | None = None,
    ) -> list[Float[Tensor, "batch seq d_model"]]:
        """The embeddings and the output of each layer."""
        n, context = tokens.shape[1], self.config.context
        require(n <= context, f"tokens must be at most context = {context} long", n)
        segments = self.types.weight[0] if types is None else self.types(types)
        x = self.embed(tokens) + segments + self.positions.weight[:n]
        states = [self.dropout(self.norm(x))]
        mask = None if keep is None else keep[:, None, None, :]
        for layer in self.layers:
            states.append(layer(states[-1], mask))
        return states


class BertForPretraining(nn.Module):
    """The encoder with its two heads; the head for tokens shares the embedding's matrix."""

    def __init__(self, config: BertConfig, generator: torch.Generator | None = None):
        super().__init__()
        d = config.d_model
        self.encoder = Bert(config)
        self.transform, self.norm = nn.Linear(d, d), nn.LayerNorm(d, config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.pooler, self.follows = nn.Linear(d, d), nn.Linear(d, 2)
        initialize(self, generator)

    def token_logits(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        """What stood here, from hidden states."""
        x = self.norm(nn.functional.gelu(self.transform(x)))
        return x @ self.encoder.embed.weight.T + self.bias

    def pair_logits(self, x: Float[Tensor, "batch seq d_model"]) -> Float[Tensor, "batch 2"]:
        """Does B follow A (0) or not (1), from the hidden state of [CLS]."""
        return self.follows(self.pooler(x[:, 0]).tanh())


def initialize(model: nn.Module, generator: torch.Generator | None) -> None:
    """Matrices from N(0, 0.02²), biases zero."""
    for name, p in model.named_parameters():
        if p.ndim == 2:
            nn.init.normal_(p, std=0.02, generator=generator)
        elif name.endswith("bias"):
            nn.init.zeros_(p)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
