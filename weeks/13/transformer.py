r"""The Transformer, block by block: an encoder and a decoder on one residual stream.

Every block adds something to its input. With the norm before the sublayer ("pre-norm"),

$$ x \leftarrow x + \mathrm{Attention}(\mathrm{LN}(x)), \qquad
   x \leftarrow x + \mathrm{FFN}(\mathrm{LN}(x)) ; $$

the paper normalizes after the addition, $x \leftarrow \mathrm{LN}(x + \ldots)$ ("post-norm").
A one-layer model learns here to write sequences of digits backwards.

    uv run weeks/13/transformer.py

Vaswani et al. (2017), "Attention is all you need", sections 3 and 5; pre-norm: Xiong et al. (2020).
"""

import math
import warnings
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from week13.attention import MultiHeadAttention
from week13.positional_encodings import sinusoidal_encoding

PAD, BOS, EOS, FIRST_DIGIT, N_TOKENS = 0, 1, 2, 3, 13
SHORTEST, LONGEST = 4, 8

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
    """Self-attention, then the feed-forward network.

    Parameters
    ----------
    d_model, n_heads
        As in `MultiHeadAttention`.
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
        self,
        x: Float[Tensor, "batch seq d_model"],
        mask: Bool[Tensor, "..."] | None = None,
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


class Encoder(nn.Module):
    """A stack of `EncoderLayer`s; pre-norm leaves the stream unnormalized, so one norm ends it."""

    def __init__(self, n_layers: int, d_model: int, *args, norm_first: bool = True, **kwargs):
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(d_model, *args, norm_first=norm_first, **kwargs) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d_model) if norm_first else nn.Identity()

    def forward(
        self, x: Float[Tensor, "batch seq d_model"], mask: Bool[Tensor, "..."] | None = None
    ) -> Float[Tensor, "batch seq d_model"]:
        """Run the layers in order."""
        for layer in self.layers:
            x = layer(x, mask)
        return self.norm(x)


class Decoder(nn.Module):
    """A stack of `DecoderLayer`s that all read the same memory."""

    def __init__(self, n_layers: int, d_model: int, *args, norm_first: bool = True, **kwargs):
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(d_model, *args, norm_first=norm_first, **kwargs) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d_model) if norm_first else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "batch target d_model"],
        memory: Float[Tensor, "batch source d_model"],
        mask: Bool[Tensor, "..."] | None = None,
        memory_mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "batch target d_model"]:
        """Run the layers in order."""
        for layer in self.layers:
            x = layer(x, memory, mask, memory_mask)
        return self.norm(x)


def padding_mask(tokens: Int[Tensor, "batch seq"], pad: int) -> Bool[Tensor, "batch 1 1 seq"]:
    """True where a key is a real token; the two middle axes let heads and queries broadcast."""
    return (tokens != pad)[:, None, None, :]


class Transformer(nn.Module):
    """Encoder–decoder from token ids to logits.

    Parameters
    ----------
    source_vocab, target_vocab
        Numbers of token ids.
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
        if n_layers < 1:
            raise ValueError(f"n_layers must be at least 1, got {n_layers}")
        if not 0 <= pad < min(source_vocab, target_vocab):
            raise ValueError(f"pad must be a token id of both vocabularies, got {pad}")
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
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
    log_p = logits.log_softmax(dim=-1)
    nll = -log_p.gather(-1, target[..., None])[..., 0]
    loss = (1 - label_smoothing) * nll - label_smoothing * log_p.mean(dim=-1)
    counts = torch.ones_like(loss) if pad is None else (target != pad).to(loss)
    return (loss * counts).sum() / counts.sum()


@torch.no_grad()
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
    if max_len < 1:
        raise ValueError(f"max_len must be at least 1, got {max_len}")
    memory = model.encode(source)
    tokens = source.new_full((len(source), 1), bos)
    done = torch.zeros(len(source), dtype=torch.bool, device=source.device)
    for _ in range(max_len):
        following = model.decode(tokens, memory, source)[:, -1].argmax(dim=-1)
        following = following.masked_fill(done, model.pad)
        tokens = torch.cat([tokens, following[:, None]], dim=1)
        done |= following == eos
        if done.all():
            break
    return tokens[:, 1:]


# ---- what it shows


def reversal_batch(
    n: int, generator: torch.Generator, *, extra_padding: int = 0
) -> tuple[Int[Tensor, "n source"], Int[Tensor, "n target"]]:
    """Sequences of 4 to 8 digits, and the same backwards; both end with EOS, then padding."""
    lengths = torch.randint(SHORTEST, LONGEST + 1, (n, 1), generator=generator)
    digits = torch.randint(FIRST_DIGIT, N_TOKENS, (n, LONGEST), generator=generator)
    position = torch.arange(LONGEST)
    backwards = digits.gather(1, (lengths - 1 - position).clamp(min=0))
    source = torch.full((n, LONGEST + 1 + extra_padding), PAD)
    target = torch.full((n, LONGEST + 2), PAD)
    target[:, 0] = BOS
    for tokens, start, row in ((source, 0, digits), (target, 1, backwards)):
        tokens[:, start : start + LONGEST] = row.masked_fill(position >= lengths, PAD)
        tokens.scatter_(1, lengths + start, EOS)
    return source, target


class WithoutPaddingMask(Transformer):
    """The classic mistake: padding is attended to as if it were text."""

    def keep(self, tokens: Int[Tensor, "batch seq"]) -> Bool[Tensor, "batch 1 1 seq"]:
        """Everything."""
        return torch.ones_like(tokens, dtype=torch.bool)[:, None, None, :]


def train_reversal(
    steps: int, seed: int, *, kind: type[Transformer] = Transformer, shuffled: bool = False
) -> tuple[Transformer, list[float]]:
    """Train one layer with one head on reversal; return it and its losses."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = kind(N_TOKENS, N_TOKENS, d_model=64, n_heads=1, n_layers=1, pad=PAD)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, steps, pct_start=0.1)
    losses = []
    for _ in range(steps):
        source, target = reversal_batch(64, generator)
        if shuffled:
            target = target[torch.randperm(len(target), generator=generator)]
        loss = cross_entropy(model(source, target[:, :-1]), target[:, 1:], pad=PAD)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return model.eval(), losses


def exact_match(model: Transformer, seed: int, *, extra_padding: int = 0, n: int = 500) -> float:
    """Share of new sequences that greedy decoding gets right to the last token."""
    generator = torch.Generator().manual_seed(1000 + seed)
    source, target = reversal_batch(n, generator, extra_padding=extra_padding)
    output = greedy_decode(model, source, bos=BOS, eos=EOS, max_len=LONGEST + 1)
    wanted = target[:, 1 : output.shape[1] + 1]
    return (output == wanted).all(dim=1).float().mean().item()


@torch.no_grad()
def cross_attention_map(
    model: Transformer, source: Int[Tensor, "1 source"], target: Int[Tensor, "1 target"]
) -> Float[Tensor, "target source"]:
    """Weights of the first layer's first head, a row a target token."""
    layer, memory = model.decoder.layers[0], model.encode(source)
    x = model._embed(target, model.target_embedding)
    x = layer.residuals[0](x, lambda h: layer.self_attention(h, is_causal=True))
    x = layer.residuals[1].norm(x) if layer.residuals[1].norm_first else x
    return layer.cross_attention.weights(x, memory, mask=model.keep(source))[0, 0]


# ---- against torch


def torch_names(model: Transformer, pick: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Encoder and decoder as a state dict of nn.Transformer; `pick` takes weight or gradient."""
    state = {}
    for stack in ("encoder", "decoder"):
        ours = getattr(model, stack)
        for i, layer in enumerate(ours.layers):
            name = f"{stack}.layers.{i}."
            attentions = {"self_attn": layer.self_attention}
            if stack == "decoder":
                attentions["multihead_attn"] = layer.cross_attention
            for kind in ("weight", "bias"):
                for key, a in attentions.items():
                    packed = [pick(getattr(p, kind)) for p in (a.q_proj, a.k_proj, a.v_proj)]
                    state[f"{name}{key}.in_proj_{kind}"] = torch.cat(packed)
                    state[f"{name}{key}.out_proj.{kind}"] = pick(getattr(a.out_proj, kind))
                for j, linear in ((1, layer.feed_forward[0]), (2, layer.feed_forward[3])):
                    state[f"{name}linear{j}.{kind}"] = pick(getattr(linear, kind))
                for j, residual in enumerate(layer.residuals, start=1):
                    state[f"{name}norm{j}.{kind}"] = pick(getattr(residual.norm, kind))
        for key, parameter in ours.norm.named_parameters():
            state[f"{stack}.norm.{key}"] = pick(parameter)
    return state


class TorchTransformer(nn.Module):
    """nn.Transformer with the weights, embeddings and positions of ours."""

    def __init__(self, ours: Transformer, n_heads: int, d_ff: int, norm_first: bool):
        super().__init__()
        n_layers = len(ours.encoder.layers)
        with warnings.catch_warnings():  # about a fast path that is not wanted here
            warnings.filterwarnings("ignore", message="enable_nested_tensor")
            self.stacks = nn.Transformer(
                ours.d_model, n_heads, n_layers, n_layers, d_ff, dropout=0.0, batch_first=True,
                norm_first=norm_first,
            )  # fmt: skip
        if not norm_first:  # torch ends post-norm stacks with a second norm; the paper does not
            self.stacks.encoder.norm = self.stacks.decoder.norm = None
        self.stacks.load_state_dict(torch_names(ours, lambda p: p.detach()))
        self.source = nn.Embedding.from_pretrained(ours.source_embedding.weight.clone(), False)
        self.target = nn.Embedding.from_pretrained(ours.target_embedding.weight.clone(), False)

    def forward(
        self, source: Int[Tensor, "batch source"], target: Int[Tensor, "batch target"]
    ) -> Float[Tensor, "batch target symbol"]:
        """Logits of the next target token."""
        d = self.target.weight.shape[1]
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1]) < 0
        embedded = [
            d**0.5 * table(tokens) + sinusoidal_encoding(tokens.shape[1], d)
            for table, tokens in ((self.source, source), (self.target, target))
        ]
        x = self.stacks(
            *embedded, tgt_mask=causal, src_key_padding_mask=source == PAD,
            tgt_key_padding_mask=target == PAD, memory_key_padding_mask=source == PAD,
        )  # fmt: skip
        return x @ self.target.weight.T


# ---- figures


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
