r"""BERT's task: fill the gaps of a text, and say whether two stretches belong together.

An encoder sees the whole sentence, so it would only have to copy. A share of the tokens, $S$, is
hidden, and the loss asks for those; a second head asks whether $B$ really follows $A$:

$$ L = -\frac{1}{|S|} \sum_{i \in S} \ln p(x_i \mid \tilde x) \;-\; \ln p(y \mid \tilde x), \qquad
   \tilde x = [\mathrm{CLS}]\, A\, [\mathrm{SEP}]\, B\, [\mathrm{SEP}] \text{ with gaps.} $$

At a place of $S$, $\tilde x_i$ is [MASK] with probability 0.8, a random token with 0.1 and $x_i$
itself with 0.1: no token can be trusted, so that the model has to think about all of them, and a
text without [MASK] is nothing new to it.

>>> special = Special(pad=0, cls=1, sep=2, mask=3, first=4)
>>> tokens = torch.tensor([[1, 7, 8, 9, 2, 5, 6, 2, 0, 0]])
>>> gaps, chosen = mask_tokens(tokens, special, 10, rate=1.0, generator=torch.manual_seed(0))
>>> chosen.int().tolist()  # never [CLS], [SEP] or padding
[[0, 1, 1, 1, 0, 1, 1, 0, 0, 0]]
>>> gaps.tolist()
[[1, 3, 3, 3, 2, 3, 3, 2, 0, 0]]

`uv run weeks/14/bert.py` trains with it.

Source: Devlin et al., "BERT" (2019), sections 3.1 and A.1, with the published code.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from shared.arguments import checked
from shared.require import require
from week09.muon import Muon
from week09.optimizers import AdamW
from week13.transformer import cross_entropy
from week14.bert import BertForPretraining


@dataclass(frozen=True)
class Special:
    """Ids of the special tokens; those from `first` on are ordinary."""

    pad: int
    cls: int
    sep: int
    mask: int
    first: int

    def __post_init__(self):
        last = max(self.pad, self.cls, self.sep, self.mask)
        require(last < self.first, f"first must be above the special ids, {last}", self.first)


@checked
def mask_tokens(
    tokens: Int[Tensor, "batch seq"],
    special: Special,
    vocab_size: int,
    *,
    rate: float = 0.15,
    kinds: tuple[float, float] = (0.8, 0.1),
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "batch seq"], Bool[Tensor, "batch seq"]]:
    """Hide a share of the ordinary tokens.

    Parameters
    ----------
    rate
        Probability that an ordinary token is chosen.
    kinds
        Shares of the chosen that become [MASK], and a random ordinary token; the rest stays.

    Returns
    -------
    gaps
        The input with its gaps.
    chosen
        Where the loss counts. It cannot be read off `gaps`: some of the chosen are unchanged.
    """
    masked, random = kinds
    require(0 <= rate <= 1, "rate must be in [0, 1]", rate)
    shares = min(kinds) >= 0 and masked + random <= 1 + 1e-9
    require(shares, "kinds must be two shares that sum to at most 1", kinds)
    must = f"vocab_size must be above special.first = {special.first}"
    require(vocab_size > special.first, must, vocab_size)
    device = tokens.device
    chance, kind = (torch.rand(tokens.shape, generator=generator).to(device) for _ in range(2))
    other = torch.randint(special.first, vocab_size, tokens.shape, generator=generator).to(device)
    chosen = (tokens >= special.first) & (chance < rate)
    gaps = tokens.masked_fill(chosen & (kind < masked), special.mask)
    replaced = chosen & (kind >= masked) & (kind < masked + random)
    return other.where(replaced, gaps), chosen


class Pairs(NamedTuple):
    """A batch: tokens, their segments, and whether B does not follow A (1)."""

    tokens: Int[Tensor, "batch seq"]
    types: Int[Tensor, "batch seq"]
    apart: Int[Tensor, " batch"]


@checked
def sentence_pairs(
    text: Int[Tensor, " n"],
    document: Int[Tensor, " n"],
    special: Special,
    *,
    size: int,
    batch: int,
    generator: torch.Generator | None = None,
) -> Pairs:
    """Draw [CLS] A [SEP] B [SEP]; B follows A in half of the rows, else it is of another document.

    Parameters
    ----------
    text, document
        All documents' tokens one after another, and the number of the document of each.
    size
        Tokens of A, and of B. As in the paper, a "sentence" is any stretch of text.
    """
    require(size >= 1, "size must be at least 1", size)
    require(batch >= 1, "batch must be at least 1", batch)
    n = len(text) - 2 * size + 1
    starts = torch.arange(max(n, 0))
    starts = starts[document[starts] == document[starts + 2 * size - 1]]
    several = len(document[starts].unique()) > 1
    require(several, "text must hold two documents of 2 size tokens", f"size = {size}")

    def draw(k: int) -> Int[Tensor, " k"]:
        return starts[torch.randint(len(starts), (k,), generator=generator)]

    a, apart = draw(batch), torch.rand(batch, generator=generator) < 0.5
    b = draw(batch)
    while len(same := (document[a] == document[b]).nonzero()[:, 0]):
        b[same] = draw(len(same))
    b = b.where(apart, a + size)
    within = torch.arange(size)
    cls, sep = (torch.full((batch, 1), i) for i in (special.cls, special.sep))
    parts = [cls, text[a[:, None] + within], sep, text[b[:, None] + within], sep]
    types = (torch.arange(2 * size + 3) >= size + 2).long().expand(batch, -1)
    return Pairs(torch.cat(parts, dim=1), types, apart.long())


def pretraining_losses(
    model: BertForPretraining,
    pairs: Pairs,
    gaps: Int[Tensor, "batch seq"],
    chosen: Bool[Tensor, "batch seq"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Mean nats per chosen token, and per pair; training lowers their sum."""
    x = model.encoder(gaps, pairs.types)
    words = cross_entropy(model.token_logits(x[chosen]), pairs.tokens[chosen])
    return words, cross_entropy(model.pair_logits(x), pairs.apart)


def make_optimizers(
    model: BertForPretraining, name: Literal["muon", "adamw"], *, lr_scale: float = 1.0
) -> list[AdamW | Muon]:
    """Muon for the matrices of the layers and AdamW for the rest, or AdamW for all, as in BERT.

    AdamW pulls matrices to zero; gains and biases are left alone.
    """
    of_layers = [p for p in model.encoder.layers.parameters() if p.ndim == 2]
    by_muon = {id(p) for p in of_layers} if name == "muon" else set()
    rest = [p for p in model.parameters() if id(p) not in by_muon]
    lr = (4e-3 if name == "muon" else 1e-3) * lr_scale
    options = {"lr": lr, "betas": (0.9, 0.98), "eps": 1e-6}
    optimizers = [Muon(of_layers, lr=0.02 * lr_scale)] if by_muon else []
    for decay, matrices in ((0.01, True), (0.0, False)):
        part = [p for p in rest if (p.ndim == 2) == matrices]
        optimizers.append(AdamW(part, weight_decay=decay, **options))
    return optimizers


def pretrain(
    model: BertForPretraining,
    text: Int[Tensor, " n"],
    document: Int[Tensor, " n"],
    special: Special,
    *,
    steps: int,
    batch: int,
    generator: torch.Generator,
    optimizer: Literal["muon", "adamw"] = "muon",
    lr_scale: float = 1.0,
    kinds: tuple[float, float] = (0.8, 0.1),
) -> Iterator[tuple[float, float]]:
    """Train in place; the two losses of each step. The rate rises for a tenth, then falls to 0."""
    size, vocab_size = (model.encoder.config.context - 3) // 2, model.encoder.config.vocab_size
    optimizers = make_optimizers(model, optimizer, lr_scale=lr_scale)
    peaks, warm = [o.lr for o in optimizers], max(1, steps // 10)
    for step in range(steps):
        pairs = sentence_pairs(text, document, special, size=size, batch=batch, generator=generator)
        gaps = mask_tokens(pairs.tokens, special, vocab_size, kinds=kinds, generator=generator)
        words, follows = pretraining_losses(model, pairs, *gaps)
        for o, lr in zip(optimizers, peaks, strict=True):
            o.zero_grad()
            o.lr = lr * min((step + 1) / warm, (steps - step) / (steps - warm + 1))
        (words + follows).backward()
        for o in optimizers:
            o.step()
        yield words.item(), follows.item()
