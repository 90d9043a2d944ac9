r"""The Transformer, block by block: an encoder and a decoder on one residual stream.

Every block adds something to its input. With the norm before the sublayer ("pre-norm"),

$$ x \leftarrow x + \mathrm{Attention}(\mathrm{LN}(x)), \qquad
   x \leftarrow x + \mathrm{FFN}(\mathrm{LN}(x)) ; $$

the paper normalizes after the addition, $x \leftarrow \mathrm{LN}(x + \ldots)$ ("post-norm").

>>> model = Transformer(source_vocab=5, target_vocab=7).eval()
>>> logits = model(torch.tensor([[1, 2, 3, 0]]), torch.tensor([[1, 4]]))  # 0 is padding
>>> logits.shape
torch.Size([1, 2, 7])
>>> greedy_decode(model, torch.tensor([[1, 2, 3, 0]]), bos=1, eos=2, max_len=3).shape[0]
1

    uv run weeks/13/transformer.py

Vaswani et al. (2017), "Attention is all you need", sections 3 and 5; pre-norm: Xiong et al. (2020).
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared.arguments import checked
from shared.require import require
from week13.attention import MultiHeadAttention
from week13.positional_encodings import sinusoidal_encoding

# ---- the blocks


class FeedForward(nn.Sequential):
    """Two linear maps around a ReLU, the same at every position (eq. 2)."""

    def __init__(self, d_model: int, d_ff: int, dropout: float = 0.0):
        super().__init__(
            nn.Linear(d_model, d_ff), nn.ReLU(), nn.Dropout(dropout), nn.Linear(d_ff, d_model)
        )


class Residual(nn.Module):
    """Add a sublayer's output to its input, with the norm before it or after the sum."""

    def __init__(self, d_model: int, dropout: float, norm_first: bool):
        super().__init__()
        self.norm, self.dropout = nn.LayerNorm(d_model), nn.Dropout(dropout)
        self.norm_first = norm_first

    def forward(
        self, x: Float[Tensor, "batch seq d_model"], sublayer: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "batch seq d_model"]:
        """x + sublayer(norm(x)), or norm(x + sublayer(x))."""
        if self.norm_first:
            return x + self.dropout(sublayer(self.norm(x)))
        return self.norm(x + self.dropout(sublayer(x)))


class EncoderLayer(nn.Module):
    """Self-attention, then the feed-forward network (d_model, n_heads as in the attention).

    Parameters
    ----------
    d_ff
        Width of the feed-forward network; 4 d_model in the paper.
    dropout
        Of the attention weights, inside the feed-forward network and of each sublayer's output.
    norm_first
        Pre-norm (True) or the paper's post-norm.
    """

    def __init__(
        self, d_model: int, n_heads: int, d_ff: int, dropout: float = 0.0, norm_first: bool = True
    ):
        super().__init__()
        self.self_attention = MultiHeadAttention(d_model, n_heads, dropout=dropout)
        self.feed_forward = FeedForward(d_model, d_ff, dropout)
        self.residuals = nn.ModuleList(Residual(d_model, dropout, norm_first) for _ in range(2))

    def forward(
        self, x: Float[Tensor, "batch seq d_model"], mask: Bool[Tensor, "..."] | None = None
    ) -> Float[Tensor, "batch seq d_model"]:
        """`mask` is True where a position may be attended to."""
        x = self.residuals[0](x, lambda h: self.self_attention(h, mask=mask))
        return self.residuals[1](x, self.feed_forward)


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder's output, feed-forward network.

    The parameters are those of `EncoderLayer`.
    """

    def __init__(
        self, d_model: int, n_heads: int, d_ff: int, dropout: float = 0.0, norm_first: bool = True
    ):
        super().__init__()
        self.self_attention = MultiHeadAttention(d_model, n_heads, dropout=dropout)
        self.cross_attention = MultiHeadAttention(d_model, n_heads, dropout=dropout)
        self.feed_forward = FeedForward(d_model, d_ff, dropout)
        self.residuals = nn.ModuleList(Residual(d_model, dropout, norm_first) for _ in range(3))

    def forward(
        self,
        x: Float[Tensor, "batch target d_model"],
        memory: Float[Tensor, "batch source d_model"],
        mask: Bool[Tensor, "..."] | None = None,
        memory_mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "batch target d_model"]:
        """`mask` and `memory_mask` are True where target and source may be attended to."""
        x = self.residuals[0](x, lambda h: self.self_attention(h, mask=mask, is_causal=True))
        x = self.residuals[1](x, lambda h: self.cross_attention(h, memory, mask=memory_mask))
        return self.residuals[2](x, self.feed_forward)


class Stack(nn.Module):
    """Layers in order; pre-norm leaves the stream unnormalized, so one norm ends it."""

    layer: type[nn.Module]

    def __init__(self, n_layers: int, d_model: int, *args, norm_first: bool = True, **kwargs):
        super().__init__()
        options = {**kwargs, "norm_first": norm_first}
        self.layers = nn.ModuleList(self.layer(d_model, *args, **options) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model) if norm_first else nn.Identity()

    def forward(
        self, x: Float[Tensor, "batch seq d_model"], *others: Tensor | None
    ) -> Float[Tensor, "batch seq d_model"]:
        """The stream after the last layer; the layers all get the same `others`."""
        for layer in self.layers:
            x = layer(x, *others)
        return self.norm(x)


class Encoder(Stack):
    """A stack of `EncoderLayer`s; `forward` takes their mask."""

    layer = EncoderLayer


class Decoder(Stack):
    """A stack of `DecoderLayer`s that all read the same memory; `forward` takes it and masks."""

    layer = DecoderLayer


def padding_mask(tokens: Int[Tensor, "batch seq"], pad: int) -> Bool[Tensor, "batch 1 1 seq"]:
    """True where a key is a real token; the two middle axes let heads and queries broadcast."""
    return (tokens != pad)[:, None, None, :]


class Transformer(nn.Module):
    """Encoder–decoder from token ids to logits.

    Parameters
    ----------
    d_model, n_heads, d_ff, dropout, norm_first
        As in `EncoderLayer`.
    n_layers
        Layers of the encoder and of the decoder.
    pad
        Id of the padding token in both vocabularies; it is never attended to.

    References
    ----------
    Vaswani et al. (2017), section 3.4: the target embedding is also the output matrix, and
    embeddings are multiplied by the square root of d_model.
    """

    def __init__(
        self,
        source_vocab: int,
        target_vocab: int,
        *,
        d_model: int = 64,
        n_heads: int = 4,
        n_layers: int = 2,
        d_ff: int | None = None,
        dropout: float = 0.0,
        norm_first: bool = True,
        pad: int = 0,
    ):
        super().__init__()
        require(n_layers >= 1, "n_layers must be at least 1", n_layers)
        known = 0 <= pad < min(source_vocab, target_vocab)
        require(known, "pad must be a token id of both vocabularies", pad)
        self.d_model, self.pad = d_model, pad
        sizes = {"n_heads": n_heads, "d_ff": 4 * d_model if d_ff is None else d_ff}
        options = {**sizes, "dropout": dropout, "norm_first": norm_first}
        self.source_embedding = nn.Embedding(source_vocab, d_model)
        self.target_embedding = nn.Embedding(target_vocab, d_model)
        for embedding in (self.source_embedding, self.target_embedding):
            nn.init.normal_(embedding.weight, std=d_model**-0.5)
        self.dropout = nn.Dropout(dropout)
        self.encoder = Encoder(n_layers, d_model, **options)
        self.decoder = Decoder(n_layers, d_model, **options)

    def keep(self, tokens: Int[Tensor, "batch seq"]) -> Bool[Tensor, "batch 1 1 seq"]:
        """Which tokens may be attended to."""
        return padding_mask(tokens, self.pad)

    def _embed(self, tokens: Int[Tensor, "batch seq"], embedding: nn.Embedding):
        x = math.sqrt(self.d_model) * embedding(tokens)
        return self.dropout(x + sinusoidal_encoding(tokens.shape[1], self.d_model).to(x))

    def encode(self, source: Int[Tensor, "batch source"]) -> Float[Tensor, "batch source d_model"]:
        """The memory that the decoder reads."""
        x = self._embed(source, self.source_embedding)
        return self.encoder(x, self.keep(source))

    def decode(
        self,
        target: Int[Tensor, "batch target"],
        memory: Float[Tensor, "batch source d_model"],
        source: Int[Tensor, "batch source"],
    ) -> Float[Tensor, "batch target vocab"]:
        """Logits of the token that follows each prefix; `source` tells which memory is padding."""
        x = self._embed(target, self.target_embedding)
        x = self.decoder(x, memory, self.keep(target), self.keep(source))
        return x @ self.target_embedding.weight.T

    def forward(
        self, source: Int[Tensor, "batch source"], target: Int[Tensor, "batch target"]
    ) -> Float[Tensor, "batch target vocab"]:
        """Logits under teacher forcing: row t sees target tokens 0 … t."""
        return self.decode(target, self.encode(source), source)


# ---- the loss and the decoding


@checked
def cross_entropy(
    logits: Float[Tensor, "*batch vocab"],
    target: Int[Tensor, "*batch"],
    *,
    label_smoothing: float = 0.0,
    pad: int | None = None,
) -> Float[Tensor, ""]:
    """Mean cross-entropy (nats) over the tokens that are not padding.

    Parameters
    ----------
    label_smoothing
        Share of the target probability that is spread evenly over *all* tokens of the vocabulary,
        the right one included.
    pad
        Target id that does not count, neither in the sum nor in the denominator.

    References
    ----------
    Szegedy et al. (2016), section 7; Vaswani et al. (2017), section 5.4.
    """
    require(0.0 <= label_smoothing < 1.0, "label_smoothing must be in [0, 1)", label_smoothing)
    log_p = logits.log_softmax(dim=-1)
    counts = torch.ones_like(target).bool() if pad is None else target != pad
    nll = -log_p.gather(-1, (target * counts)[..., None])[..., 0]  # pad may be no token: -100
    everywhere = log_p.mean(dim=-1) if label_smoothing else 0.0
    loss = (1 - label_smoothing) * nll - label_smoothing * everywhere
    return loss.where(counts, 0.0).sum() / counts.sum()


@torch.no_grad()
@checked
def greedy_decode(
    model: Transformer,
    source: Int[Tensor, "batch source"],
    *,
    bos: int,
    eos: int,
    max_len: int,
) -> Int[Tensor, "batch length"]:
    """Take the likeliest token at each step until `eos` or `max_len` tokens; then padding.

    Runs the model as it stands: call `model.eval()` first.
    """
    require(max_len >= 1, "max_len must be at least 1", max_len)
    memory = model.encode(source)
    tokens = source.new_full((len(source), 1), bos)
    done = torch.zeros(len(source), dtype=torch.bool, device=source.device)
    for _ in range(max_len):
        top, following = model.decode(tokens, memory, source)[:, -1].max(dim=-1)
        require(top.isfinite().all(), "the largest logit of each row must be finite", top.tolist())
        following = following.masked_fill(done, model.pad)
        tokens = torch.cat([tokens, following[:, None]], dim=1)
        done |= following == eos
        if done.all():
            break
    return tokens[:, 1:]


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
