r"""Translation: a Transformer from German to English, and the search for its likeliest sentence.

Training asks for each next token of a caption, given the right ones before it. Writing has only
its own; of all sentences $y$ it looks for the one with the highest mean log-probability per
$|y|^\alpha$, each sentence divided by its *own* length,

$$ \hat y = \arg\max_y \frac{1}{|y|^\alpha} \sum_{t=1}^{|y|} \ln p(y_t \mid y_{<t}, x) , $$

keeping a beam of $k$ beginnings; $k = 1$ is greedy, $k \ge |V|^L$ looks at all of them.

>>> first, then = [0.6, 0.4, 0.0], {0: [0.4, 0.3, 0.3], 1: [0.0, 0.0, 1.0], 2: [1.0, 0.0, 0.0]}
>>> def step(rows, tokens):  # 2 ends a sentence
...     return torch.tensor([first if t == 9 else then[t] for t in tokens.tolist()]).log()
>>> for k in (1, 2):  # greedy starts with 0 and is worse off
...     found = beam_search(step, batch=1, bos=9, eos=2, pad=0, max_len=2, beams=k, alpha=0.0)
...     print(found[0][0], round(math.exp(found[0][1]), 2))
[0, 0] 0.24
[1, 2] 0.4

    uv run weeks/13/translate.py

Vaswani et al. (2017), sections 3.4, 5.3, 5.4 and 6.1; beam search with a length penalty: Wu et al.
(2016), section 7, whose penalty is a shifted power.
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.require import require
from week09.schedules import linear, warmup
from week11.batches import length_buckets, pad
from week13.attention import MultiHeadAttention, scaled_dot_product_attention
from week13.positional_encodings import sinusoidal_encoding
from week13.subwords import BOS, EOS, PAD
from week13.transformer import Transformer, cross_entropy

Pair = tuple[Sequence[int], Sequence[int]]  # ids of a sentence and of its translation
Step = Callable[[Int[Tensor, " rows"], Int[Tensor, " rows"]], Float[Tensor, "rows vocab"]]

# ---- training


def translator(vocab_size: int, **sizes) -> Transformer:
    """A Transformer with one vocabulary, whose three vector tables are one (section 3.4)."""
    model = Transformer(vocab_size, vocab_size, pad=PAD, **sizes)
    model.source_embedding = model.target_embedding
    return model


def as_batch(
    pairs: Sequence[Pair],
) -> tuple[Int[Tensor, "batch source"], Int[Tensor, "batch target"]]:
    """Padded sources, and targets between start and end."""
    source, _ = pad([source for source, _ in pairs], PAD)
    target, _ = pad([[BOS, *target, EOS] for _, target in pairs], PAD)
    return source, target


def train(
    model: nn.Module,
    pairs: Sequence[Pair],
    *,
    steps: int,
    lr: float,
    generator: torch.Generator,
    batch_size: int = 64,
    warmup_steps: int = 20,
    label_smoothing: float = 0.1,
    keep: int = 5,
    every: int = 10,
) -> list[float]:
    """Adam on length buckets, the rate rising, then falling to zero; ends at the mean of weights.

    Parameters
    ----------
    model
        Gives logits for a source and a target's beginnings, as `Transformer` does.
    warmup_steps
        Steps until the rate is `lr`.
    keep, every
        How many checkpoints are averaged at the end, and how many steps lie between them.

    Returns
    -------
    losses
        Label-smoothed cross-entropy of each step, nats per token.
    """
    require(steps >= 1, "steps must be at least 1", steps)
    require(pairs, "pairs must hold at least one pair of sentences", "none")
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, betas=(0.9, 0.98), eps=1e-9)
    lengths, batches, losses, checkpoints = [len(y) for _, y in pairs], [], [], []
    model.train()
    for step in range(1, steps + 1):
        batches = batches or length_buckets(lengths, batch_size, generator)
        source, target = as_batch([pairs[i] for i in batches.pop().tolist()])
        falling = linear(max(0, step - 1 - warmup_steps), steps=max(1, steps - warmup_steps))
        rate = lr * warmup(step, steps=warmup_steps) * falling
        optimizer.param_groups[0]["lr"] = rate
        logits = model(source, target[:, :-1])  # teacher forcing: it reads the right beginning
        options = {"label_smoothing": label_smoothing, "pad": PAD}
        loss = cross_entropy(logits, target[:, 1:], **options)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (steps - step) % every == 0 and (steps - step) // every < keep:
            checkpoints.append({name: w.clone() for name, w in model.state_dict().items()})
    model.load_state_dict(average(checkpoints))
    model.eval()
    return losses


def average(checkpoints: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of several states of one model, weight by weight (section 6.1)."""
    require(checkpoints, "checkpoints must hold at least one state", "none")
    return {name: torch.stack([c[name] for c in checkpoints]).mean(0) for name in checkpoints[0]}


# ---- one token at a time


class DecoderCache:
    """What the decoder need not compute again: keys and values of the source and of what it wrote.

    Rows of the cache are beginnings; `step` first picks those that are continued.
    """

    def __init__(self, model: Transformer, source: Int[Tensor, "batch source"]):
        memory = model.encode(source)
        self.model, self.keep, self.length = model, model.keep(source), 0
        self.memory = [_keys_values(layer.cross_attention, memory) for layer in self.layers]
        nothing = [x[:, :, :0] for x in self.memory[0]]
        self.written = [nothing for _ in self.layers]

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder's."""
        return self.model.decoder.layers

    def step(
        self, rows: Int[Tensor, " rows"], tokens: Int[Tensor, " rows"]
    ) -> Float[Tensor, "rows vocab"]:
        """Logits of what follows when row i continues what was row rows[i] by tokens[i]."""
        self.keep = self.keep[rows]
        self.memory = [[x[rows] for x in pair] for pair in self.memory]
        self.written = [[x[rows] for x in pair] for pair in self.written]
        embedding = self.model.target_embedding
        position = sinusoidal_encoding(self.length + 1, self.model.d_model)[-1].to(embedding.weight)
        x = math.sqrt(self.model.d_model) * embedding(tokens)[:, None] + position
        for i, layer in enumerate(self.layers):
            x = layer.residuals[0](x, lambda h, i=i: self._look_back(i, h))
            x = layer.residuals[1](x, lambda h, i=i: self._look_at_source(i, h))
            x = layer.residuals[2](x, layer.feed_forward)
        self.length += 1
        return self.model.decoder.norm(x)[:, 0] @ embedding.weight.T

    def _look_back(self, i: int, h: Tensor) -> Tensor:
        layer = self.layers[i].self_attention
        both = zip(self.written[i], _keys_values(layer, h), strict=True)
        self.written[i] = [torch.cat(pair, dim=2) for pair in both]
        return _attend(layer, h, *self.written[i])

    def _look_at_source(self, i: int, h: Tensor) -> Tensor:
        return _attend(self.layers[i].cross_attention, h, *self.memory[i], mask=self.keep)


def _keys_values(layer: MultiHeadAttention, x: Tensor) -> list[Tensor]:
    return [layer._heads(proj(x), layer.n_kv_heads) for proj in (layer.k_proj, layer.v_proj)]


def _attend(layer: MultiHeadAttention, x: Tensor, k: Tensor, v: Tensor, **options) -> Tensor:
    q = layer._heads(layer.q_proj(x), layer.n_heads)
    heads = scaled_dot_product_attention(q, k, v, **options)
    return layer.out_proj(heads.transpose(1, 2).flatten(2))


# ---- the search


@torch.no_grad()
def beam_search(
    step: Step,
    *,
    batch: int,
    bos: int,
    eos: int,
    pad: int,
    max_len: int,
    beams: int,
    alpha: float = 1.0,
) -> list[tuple[list[int], float]]:
    """The best sentence found for each row of a batch, `eos` included, and its score.

    A finished sentence stays in its beam at the score of its own length, and competes with what is
    still being written; the search ends when nothing in any beam is unfinished.

    Parameters
    ----------
    step
        `step(rows, tokens)`: logits where row i continues what was row rows[i] by tokens[i];
        `DecoderCache.step`, or anything else.
    max_len
        Most tokens; a sentence that has not ended by then counts as it is.
    beams
        Beginnings kept per sentence; 1 is greedy.
    alpha
        Power of the length; 0 prefers short sentences, since each token costs.
    """
    for name, value in (("batch", batch), ("max_len", max_len), ("beams", beams)):
        require(value >= 1, f"{name} must be at least 1", value)
    written = torch.full((batch, 1, 0), pad)
    sums, lengths = torch.zeros(batch, 1), torch.zeros(batch, 1)
    rows, tokens = torch.arange(batch), torch.full((batch,), bos)
    done = torch.zeros(batch, 1, dtype=torch.bool)
    for _ in range(max_len):
        logits = step(rows, tokens)
        require(not logits.isnan().any(), "logits must not be NaN; the model has diverged")
        log_p = logits.float().log_softmax(-1).view(batch, done.shape[1], -1)
        only_pad = torch.full_like(log_p[0, 0], -torch.inf)
        only_pad[pad] = 0.0  # what is finished goes on at no cost and with no other choice
        log_p = torch.where(done[..., None], only_pad, log_p)
        totals = (sums[..., None] + log_p).flatten(1)
        grown = (lengths + (~done).float())[..., None].expand_as(log_p).flatten(1)
        _, best = (totals / grown**alpha).topk(min(beams, totals.shape[1]))
        parents, token = best // log_p.shape[-1], best % log_p.shape[-1]
        was_done = done.gather(1, parents)
        sums, lengths = totals.gather(1, best), grown.gather(1, best)
        done = was_done | (token == eos) | (sums == -torch.inf)
        written = torch.cat([_of(written, parents), token.masked_fill(was_done, pad)[..., None]], 2)
        if done.all():
            break
        before = log_p.shape[1] * torch.arange(batch)[:, None]
        rows, tokens = (before + parents).flatten(), token.flatten()
    scores, winner = (sums / lengths**alpha).max(dim=1)
    found = [written[i, w, : int(lengths[i, w])].tolist() for i, w in enumerate(winner.tolist())]
    return list(zip(found, scores.tolist(), strict=True))


def _of(written: Tensor, parents: Tensor) -> Tensor:
    return written.gather(1, parents[..., None].expand(-1, -1, written.shape[-1]))


@torch.no_grad()
def translate(
    model: Transformer,
    source: Int[Tensor, "batch source"],
    *,
    beams: int,
    max_len: int,
    alpha: float = 1.0,
) -> list[list[int]]:
    """Ids of the best sentence found for each source, without the end."""
    cache = DecoderCache(model, source)
    ends = {"bos": BOS, "eos": EOS, "pad": PAD, "max_len": max_len}
    found = beam_search(cache.step, batch=len(source), beams=beams, alpha=alpha, **ends)
    return [[token for token in tokens if token != EOS] for tokens, _ in found]


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
