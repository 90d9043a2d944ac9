r"""Schedules: how fast a picture drowns in noise, and the steps that lead back.

With $\bar\alpha_t = \prod_{i \le t} (1 - \beta_i)$ and $x_t = \sqrt{\bar\alpha_t}\, x_0 +
\sqrt{1 - \bar\alpha_t}\, \epsilon$, a network may name the noise $\epsilon$, the data $x_0$, the
velocity $v = \sqrt{\bar\alpha_t}\, \epsilon - \sqrt{1 - \bar\alpha_t}\, x_0$ or the score
$-\epsilon / \sqrt{1 - \bar\alpha_t}$: given $x_t$, each is a linear function of each. From time
$t$ to an earlier time $s$, with $\beta_{t|s} = 1 - \bar\alpha_t / \bar\alpha_s$,

$$ q(x_s \mid x_t, x_0) = N\Big(\frac{\sqrt{\bar\alpha_s}\, \beta_{t|s}}{1 - \bar\alpha_t} x_0 +
   \frac{\sqrt{\bar\alpha_t / \bar\alpha_s}\, (1 - \bar\alpha_s)}{1 - \bar\alpha_t} x_t,\;
   \frac{1 - \bar\alpha_s}{1 - \bar\alpha_t} \beta_{t|s}\Big) . $$

Times count from 0, the first noise, to T - 1; time -1 is the data, where $\bar\alpha = 1$.

>>> schedule = Schedule.linear(1000)
>>> schedule.alphas_bar[[0, 499, 999]]
tensor([9.9990e-01, 7.8587e-02, 4.0358e-05], dtype=torch.float64)
>>> schedule.times(4)
[999, 749, 499, 249]
>>> x0, noise = torch.ones(2, 3), torch.zeros(2, 3)
>>> x = schedule.add_noise(x0, noise, 499)
>>> torch.allclose(ddim_step(schedule, noise, x, 499, -1), x0)  # the last step gives x0 itself
True

`uv run weeks/23/ddpm.py` holds each step against diffusers' schedulers.

Sources: Ho, Jain & Abbeel, "Denoising diffusion probabilistic models" (2020), equations 4 to 7;
Nichol & Dhariwal (2021), section 3.2, for the cosine; Song, Meng & Ermon, "Denoising diffusion
implicit models" (2020), equations 12 and 16; Salimans & Ho (2022), appendix D, for v.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared.require import require

__all__ = ["Kind", "Model", "Schedule", "ancestral_step", "ddim_step", "sample_ddim", "sample_ddpm"]

Kind = Literal["epsilon", "x0", "v", "score"]
KINDS = ("epsilon", "x0", "v", "score")
# What a network says about x at times t, one per row.
Model = Callable[[Float[Tensor, "batch *dims"], Int[Tensor, " batch"]], Tensor]
Time = int | Int[Tensor, " batch"]


@dataclass(frozen=True)
class Schedule:
    """Noise per step, by ᾱ, and all that follows from it in closed form.

    ᾱ is what is left of the data's variance after each step. It is kept in float64: near time 0 it
    is 1 minus little, and later a product of a thousand factors.
    """

    alphas_bar: Float[Tensor, " steps"]

    @classmethod
    def of(cls, betas: Float[Tensor, " steps"]) -> "Schedule":
        """The schedule of given variances per step."""
        require(betas.ndim == 1 and len(betas) > 0, "betas must be one row of numbers", betas.shape)
        inside = bool(((betas > 0) & (betas < 1)).all())
        require(inside, "betas must lie between 0 and 1", f"{betas.min():g} to {betas.max():g}")
        return cls((1 - betas.double()).cumprod(0))

    @classmethod
    def linear(cls, steps: int, first: float = 1e-4, last: float = 0.02) -> "Schedule":
        """Variances that grow evenly; those of DDPM are made for a thousand steps."""
        _check_steps(steps)
        return cls.of(torch.linspace(first, last, steps, dtype=torch.double))

    @classmethod
    def scaled_linear(cls, steps: int, first: float = 0.00085, last: float = 0.012) -> "Schedule":
        """Deviations that grow evenly, as in Stable Diffusion."""
        _check_steps(steps)
        return cls.of(torch.linspace(first**0.5, last**0.5, steps, dtype=torch.double) ** 2)

    @classmethod
    def cosine(cls, steps: int, offset: float = 0.008, most: float = 0.999) -> "Schedule":
        """ᾱ along a squared cosine, for any number of steps; no step takes more than `most`."""
        _check_steps(steps)
        u = torch.linspace(0, 1, steps + 1, dtype=torch.double)
        f = ((u + offset) / (1 + offset) * math.pi / 2).cos() ** 2
        return cls.of((1 - f[1:] / f[:-1]).clamp(max=most))

    def __len__(self) -> int:
        return len(self.alphas_bar)

    @property
    def betas(self) -> Float[Tensor, " steps"]:
        """The variance that each step adds."""
        before = torch.cat([torch.ones_like(self.alphas_bar[:1]), self.alphas_bar[:-1]])
        return 1 - self.alphas_bar / before

    def alpha_bar(self, t: Time, like: Float[Tensor, "batch *dims"]) -> Float[Tensor, "..."]:
        """ᾱ at one time, or at one time per row; 1 at time -1. In `like`'s type, to go with it."""
        t = torch.as_tensor(t, device=like.device)
        low, high = int(t.min()), int(t.max())
        times = f"times must be between -1 and {len(self) - 1}"
        require(low >= -1 and high < len(self), times, low, high)
        padded = torch.cat([torch.ones_like(self.alphas_bar[:1]), self.alphas_bar])
        found = padded.to(like.device)[t + 1].to(like.dtype)
        return found.view(-1, *[1] * (like.ndim - 1)) if t.ndim else found

    def times(self, steps: int) -> list[int]:
        """So many times from T - 1 downwards, evenly spread (diffusers' "trailing")."""
        require(1 <= steps <= len(self), f"steps must be between 1 and {len(self)}", steps)
        return [round(len(self) - i * len(self) / steps) - 1 for i in range(steps)]

    def add_noise(
        self, x0: Float[Tensor, "batch *dims"], noise: Float[Tensor, "batch *dims"], t: Time
    ) -> Float[Tensor, "batch *dims"]:
        """x at time t, in one step from the data."""
        a = self.alpha_bar(t, x0)
        return a.sqrt() * x0 + (1 - a).sqrt() * noise

    def convert(
        self,
        value: Float[Tensor, "batch *dims"],
        x: Float[Tensor, "batch *dims"],
        t: Time,
        kind: Kind,
        to: Kind,
    ) -> Float[Tensor, "batch *dims"]:
        """What a value of one kind means in another, given x at time t."""
        require(kind in KINDS, f"kind must be one of {', '.join(KINDS)}", kind)
        require(to in KINDS, f"to must be one of {', '.join(KINDS)}", to)
        if kind == to:
            return value
        a = self.alpha_bar(t, x)
        signal, sigma = a.sqrt(), (1 - a).sqrt()
        if kind == "x0":
            x0, epsilon = value, (x - signal * value) / sigma
        elif kind == "v":
            x0, epsilon = signal * x - sigma * value, sigma * x + signal * value
        else:
            epsilon = value if kind == "epsilon" else -sigma * value
            x0 = (x - sigma * epsilon) / signal
        if to == "x0":
            return x0
        if to == "v":
            return signal * epsilon - sigma * x0
        return epsilon if to == "epsilon" else -epsilon / sigma

    def predict_x0(
        self,
        prediction: Float[Tensor, "batch *dims"],
        x: Float[Tensor, "batch *dims"],
        t: Time,
        *,
        kind: Kind = "epsilon",
        clip: float | None = None,
    ) -> Float[Tensor, "batch *dims"]:
        """The data that a prediction points to, cut off at ±`clip`."""
        x0 = self.convert(prediction, x, t, kind, "x0")
        return x0 if clip is None else x0.clamp(-clip, clip)

    def posterior(
        self,
        x: Float[Tensor, "batch *dims"],
        x0: Float[Tensor, "batch *dims"],
        t: Time,
        s: Time | None = None,
    ) -> tuple[Float[Tensor, "batch *dims"], Float[Tensor, "..."]]:
        """Mean and variance of x at time s, given x at time t and the data; s is t - 1 at first.

        References
        ----------
        Ho et al. (2020), equations 6 and 7.
        """
        now, before = self.alpha_bar(t, x), self.alpha_bar(t - 1 if s is None else s, x)
        beta = 1 - now / before  # not a product of β: steps may be left out
        mean = (before.sqrt() * beta * x0 + (now / before).sqrt() * (1 - before) * x) / (1 - now)
        return mean, (1 - before) / (1 - now) * beta


def ancestral_step(
    schedule: Schedule,
    prediction: Float[Tensor, "batch *dims"],
    x: Float[Tensor, "batch *dims"],
    t: int,
    s: int | None = None,
    *,
    kind: Kind = "epsilon",
    clip: float | None = None,
    noise: Float[Tensor, "batch *dims"],
    variance: Literal["small", "large"] = "small",
) -> Float[Tensor, "batch *dims"]:
    """From time t to s by a draw from the posterior of the predicted data.

    Parameters
    ----------
    variance
        That of the posterior, right for data that are one point; or β, right for data that are
        standard normal. The last step, to time -1, adds no noise.

    References
    ----------
    Ho et al. (2020), algorithm 2 and section 3.2.
    """
    s = t - 1 if s is None else s
    x0 = schedule.predict_x0(prediction, x, t, kind=kind, clip=clip)
    mean, spread = schedule.posterior(x, x0, t, s)
    if s < 0:
        return mean
    if variance == "large":
        spread = 1 - schedule.alpha_bar(t, x) / schedule.alpha_bar(s, x)
    return mean + spread.sqrt() * noise


def ddim_step(
    schedule: Schedule,
    prediction: Float[Tensor, "batch *dims"],
    x: Float[Tensor, "batch *dims"],
    t: int,
    s: int | None = None,
    *,
    kind: Kind = "epsilon",
    clip: float | None = None,
    eta: float = 0.0,
    noise: Float[Tensor, "batch *dims"] | None = None,
) -> Float[Tensor, "batch *dims"]:
    """From time t to s along the noise that was predicted; with `eta` some of it is drawn anew.

    Where the data are cut off, the noise is what then remains of x: two predictions that do not
    add up to x would leave a trace in every later step.

    Parameters
    ----------
    eta
        0 is deterministic, 1 has the posterior's variance.

    References
    ----------
    Song et al. (2020), equations 12 and 16.
    """
    require(0 <= eta <= 1, "eta must be in [0, 1]", eta)
    require(eta == 0 or noise is not None, "noise must be given where eta is above 0", "none")
    s = t - 1 if s is None else s
    x0 = schedule.predict_x0(prediction, x, t, kind=kind, clip=clip)
    epsilon = schedule.convert(x0, x, t, "x0", "epsilon")
    now, before = schedule.alpha_bar(t, x), schedule.alpha_bar(s, x)
    variance = eta**2 * (1 - before) / (1 - now) * (1 - now / before)
    x = before.sqrt() * x0 + (1 - before - variance).clamp(min=0).sqrt() * epsilon
    return x + variance.sqrt() * noise if eta else x


@torch.no_grad()
def sample_ddpm(
    model: Model,
    schedule: Schedule,
    x: Float[Tensor, "batch *dims"],
    *,
    steps: int | None = None,
    kind: Kind = "epsilon",
    clip: float | None = None,
    variance: Literal["small", "large"] = "small",
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch *dims"]:
    """Samples from pure noise x by ancestral steps: all of them, or so many."""
    times = schedule.times(len(schedule) if steps is None else steps)
    for t, s in zip(times, [*times[1:], -1], strict=True):
        noise = torch.empty_like(x).normal_(generator=generator)
        prediction = model(x, torch.full((len(x),), t, device=x.device))
        options = {"kind": kind, "clip": clip, "noise": noise, "variance": variance}
        x = ancestral_step(schedule, prediction, x, t, s, **options)
    return x


@torch.no_grad()
def sample_ddim(
    model: Model,
    schedule: Schedule,
    x: Float[Tensor, "batch *dims"],
    *,
    steps: int = 50,
    kind: Kind = "epsilon",
    clip: float | None = None,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "batch *dims"]:
    """Samples from pure noise x in few steps."""
    times = schedule.times(steps)
    for t, s in zip(times, [*times[1:], -1], strict=True):
        noise = torch.empty_like(x).normal_(generator=generator) if eta else None
        prediction = model(x, torch.full((len(x),), t, device=x.device))
        options = {"kind": kind, "clip": clip, "eta": eta, "noise": noise}
        x = ddim_step(schedule, prediction, x, t, s, **options)
    return x


def _check_steps(steps: int) -> None:
    require(steps >= 1, "steps must be at least 1", steps)
