r"""Choosing the next token: from greedy to min-p, in the order in which they are applied.

A language model gives logits $z$; generation needs one token. Temperature $T$ sharpens or
flattens, $p_i \propto e^{z_i/T}$; a filter sets the tail's logits to $-\infty$: all but the k
likeliest (top-k), all but the smallest set of mass p (top-p), all below a share of the best
(min-p). What is left is sampled by the exponential race, which is the Gumbel-max trick: with
independent $E_i \sim \mathrm{Exp}(1)$,

$$P\Big(i = \arg\max_j \frac{p_j}{E_j}\Big) = \frac{p_i}{\sum_j p_j} .$$

>>> logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
>>> keep_top_p(logits, 0.75).exp()  # 0.5 + 0.3 crosses 0.75
tensor([[0.5000, 0.3000, 0.0000, 0.0000]])
>>> keep_min_p(logits, 0.2).exp()  # 0.1 and more
tensor([[0.5000, 0.3000, 0.1500, 0.0000]])
>>> choose, history = Sampler(temperature=0.8, top_p=0.75), torch.zeros(1, 1, dtype=torch.long)
>>> sum(int(choose(logits, history, torch.Generator().manual_seed(s))) for s in range(100))
37

    uv run weeks/19/sampling.py

Sources: Fan et al., "Hierarchical neural story generation" (2018), section 5.1 (top-k); Holtzman
et al., "The curious case of neural text degeneration" (2020), eq. 2 (top-p); Nguyen et al.,
"Turning up the heat" (2024), section 3 (min-p); Keskar et al., "CTRL" (2019), section 4.1
(repetition penalty); beam search is in `beam_search.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared.arguments import checked
from shared.require import require

NEVER = -math.inf
FP32 = torch.finfo(torch.float32)
FINITE = "logits must have a finite largest value in each row, got NaN, +∞ or nothing but -∞"
Generators = torch.Generator | Sequence[torch.Generator] | None

# ---- what was said before


@checked
def penalize_repetition(
    logits: Float[Tensor, "batch vocab"], history: Int[Tensor, "batch seq"], penalty: float
) -> Float[Tensor, "batch vocab"]:
    """Divide the logits of tokens in the history, or multiply them where they are negative.

    Not invariant to adding a constant to all logits, as a softmax is: the sign of a logit has no
    meaning, and here it decides. Negative tokens of the history are padding.

    References
    ----------
    Keskar et al. (2019), section 4.1.
    """
    usual = FP32.tiny <= penalty <= FP32.max
    require(usual, "penalty must be positive and finite in float32", penalty)
    penalized = torch.where(logits < 0, logits * penalty, logits / penalty)
    said = torch.zeros_like(logits)
    said.scatter_add_(1, history.clamp(min=0), (history >= 0).to(logits.dtype))
    return torch.where(said > 0, penalized, logits)


# ---- how bold to be, and what to leave out


def apply_temperature(
    logits: Float[Tensor, "*rows vocab"], temperature: float
) -> Float[Tensor, "*rows vocab"]:
    """Divide by the temperature: towards 0 the likeliest always wins, towards ∞ all are equal."""
    require(0 < temperature < math.inf, "temperature must be positive and finite", temperature)
    t = min(max(temperature, FP32.tiny), FP32.max)  # in float32 1e-50 is 0, and 0/0 NaN
    top = logits.amax(-1, keepdim=True)
    # Where that overflows, the distances from the likeliest say the same, and cannot.
    return torch.where((top / t).isfinite(), logits / t, (logits - top) / t)


def keep_top_k(logits: Float[Tensor, "batch vocab"], k: int) -> Float[Tensor, "batch vocab"]:
    """Remove all but the k likeliest tokens; those that tie with the last stay too.

    0 removes none, as does a k above the size of the vocabulary.
    """
    whole = isinstance(k, Integral) and k >= 0
    require(whole, "k must be a whole number of tokens, or 0 for all", k)
    last = logits.topk(min(k or logits.shape[-1], logits.shape[-1])).values[..., -1:]
    return logits.masked_fill(logits < last, NEVER)


def keep_top_p(logits: Float[Tensor, "batch vocab"], p: float) -> Float[Tensor, "batch vocab"]:
    """Remove all but the smallest set of likeliest tokens whose probabilities reach p.

    The token that carries the sum over p belongs to the set. Counted from the unlikely end, that
    is plain to write: a token goes if it and all below it have at most 1 - p. Which of several
    equally likely ones go is left to the sort.

    References
    ----------
    Holtzman et al. (2020), eq. 2.
    """
    require(0 <= p <= 1, "p must be between 0 and 1", p)
    ascending, order = logits.sort()
    goes = in_float32(ascending).softmax(-1).cumsum(-1) <= 1 - p
    goes[..., -1:] = False
    return logits.masked_fill(goes.scatter(-1, order, goes), NEVER)


def keep_min_p(logits: Float[Tensor, "batch vocab"], p: float) -> Float[Tensor, "batch vocab"]:
    r"""Remove tokens less likely than p times the likeliest.

    $p_i < p \cdot p_{\max}$ is $z_i < z_{\max} + \ln p$: neither softmax nor sorting is needed.

    References
    ----------
    Nguyen et al. (2024), section 3.
    """
    require(0 <= p <= 1, "p must be between 0 and 1", p)
    threshold = logits.amax(-1, keepdim=True) + (math.log(p) if p > 0 else NEVER)
    return logits.masked_fill(logits < threshold, NEVER)


# ---- the draw


def in_float32(logits: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows vocab"]:
    """In float32 at least: half precision rounds a probability to two or three digits."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def probabilities(logits: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows vocab"]:
    """The softmax, in float32 at least; refuses a row that has none."""
    p = in_float32(logits).softmax(-1)
    require(not p[..., :1].isnan().any(), FINITE)  # one bad logit makes all of its row NaN
    return p


def greedy(
    logits: Float[Tensor, "*rows vocab"],
    history: Int[Tensor, "batch seq"] | None = None,
    generator: Generators = None,
) -> Int[Tensor, "*rows"]:
    """The likeliest token; of several, the first. History and generator play no part."""
    token = logits.argmax(-1, keepdim=True)
    require(logits.gather(-1, token).isfinite().all(), FINITE)  # NaN and +∞ win every argmax
    return token[..., 0]


def draw(
    logits: Float[Tensor, "batch vocab"], generator: Generators = None
) -> Int[Tensor, "batch"]:
    """Draw a token for each row with probability softmax(logits).

    One generator serves the batch in one call, and a row's token then depends on how many rows
    stand before it. With a sequence of generators, one per row, it depends on its own alone: a row
    gets in any batch what it would get by itself.
    """
    p = probabilities(logits)
    noise = torch.empty_like(p)
    if isinstance(generator, Sequence):
        n, rows = len(generator), len(p)
        require(n == rows, f"generator must be one per row, {rows}", n)
        for row, own in zip(noise, generator, strict=True):
            row.exponential_(generator=own)
    else:
        noise.exponential_(generator=generator)
    # Where p is 0 a noise of 0 would make 0/0, and argmax would take that NaN.
    return (p / noise.clamp_(min=1e-30)).argmax(-1)


@dataclass(frozen=True)
class Sampler:
    """Penalty, temperature, filters and the draw, in the order that transformers applies them.

    What is not set costs nothing. Call it as `sampler(logits, history, generator)`.

    Attributes
    ----------
    temperature
        0 takes the likeliest token, after the penalty.
    top_k, top_p, min_p
        Filters; None leaves them out, and so does a `top_k` of 0.
    repetition_penalty
        Pushes down what the history holds; 1 does nothing.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self):
        t = self.temperature
        require(0 <= t < math.inf, "temperature must be at least 0 and finite", t)
        trial = torch.zeros(1, 2)
        self.process(trial, torch.zeros(1, 1, dtype=torch.long))  # complains of a bad setting now

    def process(
        self, logits: Float[Tensor, "batch vocab"], history: Int[Tensor, "batch seq"]
    ) -> Float[Tensor, "batch vocab"]:
        """The logits to draw from; what was removed is -∞."""
        logits = in_float32(logits)
        if self.repetition_penalty != 1:
            logits = penalize_repetition(logits, history, self.repetition_penalty)
        if self.temperature not in (0, 1):
            logits = apply_temperature(logits, self.temperature)
        if self.top_k is not None:
            logits = keep_top_k(logits, self.top_k)
        if self.top_p is not None and self.top_p != 1:
            logits = keep_top_p(logits, self.top_p)
        if self.min_p is not None and self.min_p != 0:
            logits = keep_min_p(logits, self.min_p)
        return logits

    @checked
    def __call__(
        self,
        logits: Float[Tensor, "batch vocab"],
        history: Int[Tensor, "batch seq"],
        generator: Generators = None,
    ) -> Int[Tensor, "batch"]:
        """The next token of each row."""
        logits = self.process(logits, history)
        return greedy(logits) if self.temperature == 0 else draw(logits, generator)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
