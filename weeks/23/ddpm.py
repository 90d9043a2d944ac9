r"""DDPM: learn to name the noise, and walk from noise to data by taking a little of it away.

The forward process has nothing to learn, $x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 -
\bar\alpha_t}\, \epsilon$. A network predicts $\epsilon$ (or $x_0$, or $v$) and is trained by

$$ L_{\text{simple}} = E_{t, x_0, \epsilon} \|\epsilon - \epsilon_\theta(x_t, t)\|^2 , $$

a reweighting of a bound on the negative log-likelihood,

$$ L = E_q\Big[\mathrm{KL}(q(x_T \mid x_0) \,\|\, p(x_T)) + \sum_{t > 1} \mathrm{KL}(q(x_{t-1} \mid
   x_t, x_0) \,\|\, p_\theta(x_{t-1} \mid x_t)) - \log p_\theta(x_0 \mid x_1)\Big] , $$

whose last term gives each gray level the probability of its bin. The code counts $x_1$ as time 0.

>>> schedule = Schedule.linear(100, 1e-3, 0.2)
>>> net = TimeMLP(4, 16, len(schedule), torch.Generator().manual_seed(0))
>>> x0, noise = torch.zeros(3, 4), torch.ones(3, 4)
>>> simple_loss(schedule, net, x0, torch.tensor([0, 50, 99]), noise)  # an untrained net says 0
tensor([1., 1., 1.], grad_fn=<MeanBackward1>)
>>> levels = torch.tensor([-1.0, 0.0, 1.0])
>>> decoder_log_prob(levels, torch.tensor(0.3), torch.tensor(0.5), 3).exp().sum()
tensor(1.)

    uv run weeks/23/ddpm.py

Sources: Ho, Jain & Abbeel, "Denoising diffusion probabilistic models" (2020), equations 5 to 14;
Sohl-Dickstein and others (2015) for the bound; Salimans & Ho (2022), section 4, for v; Kingma & Ba
(2015), section 7.2, for the average's correction.
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.require import require
from week23.schedules import Kind, Model, Schedule, sample_ddim, sample_ddpm

__all__ = [
    "EMA",
    "Schedule",
    "TimeMLP",
    "bits_per_dim",
    "bound_terms",
    "decoder_log_prob",
    "prior_term",
    "sample_ddim",
    "sample_ddpm",
    "simple_loss",
    "train",
]

Variance = Literal["small", "large"]


class TimeMLP(nn.Module):
    """A residual network that is told the time, and a label if there are any.

    Its last layer starts at zero: the first prediction is 0, and the first loss that of knowing
    nothing.
    """

    def __init__(
        self, d: int, width: int, steps: int, generator: torch.Generator, *, n_labels: int = 0
    ):
        super().__init__()
        angles = torch.arange(steps)[:, None] * 1e4 ** -torch.linspace(0, 1, width // 2)
        self.register_buffer("table", torch.cat([angles.sin(), angles.cos()], -1))
        self.n_labels = n_labels
        linear = lambda a, b: _new_linear(a, b, generator)  # noqa: E731
        self.enter, self.time = linear(d, width), linear(width // 2 * 2, width)
        if n_labels:  # one more stands for "no label" and stays zero, as all are at first
            self.label = nn.Embedding(n_labels + 1, width, padding_idx=n_labels)
            nn.init.zeros_(self.label.weight)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.SiLU(), linear(width, width), nn.SiLU(), linear(width, width))
            for _ in range(2)
        )
        self.leave = nn.Sequential(nn.SiLU(), linear(width, d))
        nn.init.zeros_(self.leave[1].weight)

    def forward(
        self,
        x: Float[Tensor, "batch d"],
        t: Int[Tensor, " batch"],
        label: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch d"]:
        """The prediction at times t; without a label, that for any."""
        h = self.enter(x) + self.time(self.table[t])
        if self.n_labels:
            h = h + self.label(torch.full_like(t, self.n_labels) if label is None else label)
        for block in self.blocks:
            h = h + block(h)
        return self.leave(h)


def _new_linear(a: int, b: int, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(a, b)
    nn.init.normal_(layer.weight, std=a**-0.5, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


# ---- losses


def simple_loss(
    schedule: Schedule,
    model: Model,
    x0: Float[Tensor, "batch *dims"],
    t: Int[Tensor, " batch"],
    noise: Float[Tensor, "batch *dims"],
    *,
    kind: Kind = "epsilon",
) -> Float[Tensor, " batch"]:
    """Squared error of the prediction, mean over dimensions: every time counts alike.

    References
    ----------
    Ho et al. (2020), equation 14.
    """
    x = schedule.add_noise(x0, noise, t)
    target = schedule.convert(noise, x, t, "epsilon", kind)
    return (model(x, t) - target).square().flatten(1).mean(-1)


def decoder_log_prob(
    x0: Float[Tensor, "*shape"],
    mean: Float[Tensor, "..."],
    sigma: Float[Tensor, "..."],
    levels: int,
) -> Float[Tensor, "*shape"]:
    """Log-probability of gray levels from -1 to 1: a Gaussian's mass in each one's bin.

    The first bin and the last are open to their ends, so that the levels' probabilities add up to
    1. Far from the mean both ends of a bin have the same Φ in floating point; seen from the other
    side, in logarithms, they have not.

    References
    ----------
    Ho et al. (2020), equation 13.
    """
    require(levels >= 2, "levels must be at least 2", levels)
    half = 1 / (levels - 1)
    low, high = (x0 - half - mean) / sigma, (x0 + half - mean) / sigma
    flip = low + high > 0
    a, b = torch.where(flip, -high, low), torch.where(flip, -low, high)
    log_a, log_b = torch.special.log_ndtr(a), torch.special.log_ndtr(b)
    inside = log_b + torch.log(-torch.expm1(log_a - log_b))
    open_high = torch.where(x0 > 1 - half, torch.special.log_ndtr(-low), inside)
    return torch.where(x0 < half - 1, torch.special.log_ndtr(high), open_high)


def bound_terms(
    schedule: Schedule,
    model: Model,
    x0: Float[Tensor, "batch *dims"],
    t: Int[Tensor, " batch"],
    noise: Float[Tensor, "batch *dims"],
    *,
    kind: Kind = "epsilon",
    clip: float | None = None,
    variance: Variance = "large",
    levels: int | None = None,
) -> Float[Tensor, " batch"]:
    """The bound's term at each row's time, in nats per row.

    Parameters
    ----------
    variance
        Of the steps back. The posterior has none at the first time; there, "small" takes that of
        the next.
    levels
        Gray levels of the data; None takes the Gaussian's density in place of the bins' mass.

    References
    ----------
    Ho et al. (2020), equations 5 and 8.
    """
    x = schedule.add_noise(x0, noise, t)
    guess = schedule.predict_x0(model(x, t), x, t, kind=kind, clip=clip)
    mean, spread = schedule.posterior(x, x0, t)
    ours, _ = schedule.posterior(x, guess, t)
    if variance == "large":
        other = 1 - schedule.alpha_bar(t, x) / schedule.alpha_bar(t - 1, x)
    else:
        other = schedule.posterior(x, x0, t.clamp(min=1))[1]
    first = t == 0
    row = first.view(-1, *[1] * (x.ndim - 1))
    spread = torch.where(row, other, spread)  # there it is 0, and its logarithm not needed
    nats = _kl(mean, spread, ours, other).flatten(1).sum(-1)
    if not first.any():
        return nats
    data, center, sigma = x0[first], ours[first], other.expand_as(x)[first].sqrt()
    if levels is None:
        log_prob = torch.distributions.Normal(center, sigma).log_prob(data)
    else:
        log_prob = decoder_log_prob(data, center, sigma, levels)
    return nats.masked_scatter(first, -log_prob.flatten(1).sum(-1))


def prior_term(schedule: Schedule, x0: Float[Tensor, "batch *dims"]) -> Float[Tensor, " batch"]:
    """KL of the last noised data from pure noise, in nats per row: what training cannot change."""
    a = schedule.alpha_bar(len(schedule) - 1, x0)
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    return _kl(a.sqrt() * x0, 1 - a, zero, one).flatten(1).sum(-1)


def _kl(m: Tensor, v: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """KL(N(m, v) ‖ N(mean, variance)) per dimension."""
    return ((variance / v).log() + (v + (m - mean) ** 2) / variance - 1) / 2


@torch.no_grad()
def bits_per_dim(
    model: Model,
    schedule: Schedule,
    x0: Float[Tensor, "batch *dims"],
    *,
    generator: torch.Generator | None = None,
    **options,
) -> Float[Tensor, " batch"]:
    """The whole bound of each row, all times with one draw of noise each, in bits per dimension.

    Options are those of `bound_terms`.
    """
    nats = prior_term(schedule, x0)
    for t in range(len(schedule)):
        noise = torch.empty_like(x0).normal_(generator=generator)
        times = torch.full((len(x0),), t, device=x0.device)
        nats = nats + bound_terms(schedule, model, x0, times, noise, **options)
    return nats / x0[0].numel() / math.log(2)


# ---- training


class EMA:
    """Exponential moving average of a model's weights.

    It starts at 0 and is divided by the weight that it has gathered, 1 - decay^n: an average that
    starts at the first weights still holds decay^n of them.
    """

    def __init__(self, model: nn.Module, decay: float):
        require(0 <= decay < 1, "decay must be in [0, 1)", decay)
        self.decay, self.updates = decay, 0
        self.sums = [torch.zeros_like(p) for p in model.parameters()]

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the weights as they are now."""
        self.updates += 1
        torch._foreach_lerp_(self.sums, list(model.parameters()), 1 - self.decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Put the average in the place of a model's weights."""
        require(self.updates > 0, "the average must have seen weights", self.updates)
        for p, total in zip(model.parameters(), self.sums, strict=True):
            p.copy_(total / (1 - self.decay**self.updates))


def train(
    model: nn.Module,
    loss: Callable[[Int[Tensor, " batch"]], Float[Tensor, " batch"]],
    rows: int,
    *,
    steps: int,
    generator: torch.Generator,
    batch_size: int = 128,
    lr: float = 2e-3,
    decay: float = 0.99,
) -> list[float]:
    """Adam on batches of rows; at the end the model holds the average of its weights.

    `loss` is given which rows; the rate falls to zero. Gives the mean loss of each batch.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    ema, losses = EMA(model, decay), []
    for step in range(steps):
        i = torch.randint(rows, (batch_size,), generator=generator)
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        value = loss(i).mean()
        value.backward()
        optimizer.step()
        ema.update(model)
        losses.append(value.item())
    ema.copy_to(model)
    return losses


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
