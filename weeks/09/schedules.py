r"""Learning-rate schedules as pure functions of the step, and what warm-up and decay buy.

A schedule is a factor $f(t)$ for the learning rate, $\eta_t = \eta f(t)$, that depends on the step
alone: no object, no state, nothing to save. Training loops write

    optimizer.lr = 3e-3 * warmup_cosine(step, steps=1000, warmup_steps=50)

Two reasons to vary it. *Warm-up*: the first gradients of a deep net are the least typical, and a
few long steps along them can ruin it. *Decay*: with gradients of noise $\sigma$ on the bowl
$\tfrac12\lambda x^2$, steps of constant length end in a cloud of mean loss

$$\tfrac12\lambda\,\mathbb{E}[x^2] = \frac{\eta\sigma^2}{2(2 - \eta\lambda)}
    \approx \tfrac14\eta\sigma^2,$$

a floor proportional to $\eta$, which only a smaller $\eta$ gets under.

>>> [warmup_cosine(step, steps=100, warmup_steps=20) for step in (0, 10, 20, 60, 100)]
[0.0, 0.5, 1.0, 0.5, 0.0]
>>> [warmup_stable_decay(t, steps=100, warmup_steps=20, decay_steps=40) for t in (10, 50, 80)]
[0.5, 1.0, 0.5]

    uv run weeks/09/schedules.py

Sources: Loshchilov & Hutter, SGDR (2017), equation 5; Smith & Topin, super-convergence (2019);
Goyal et al. (2017), section 2.2 (warm-up); Xiong et al. (2020) (where it is needed); Hu et al.,
MiniCPM (2024), section 4 (warm-up, stable, decay).
"""

import math
from collections.abc import Callable, Sequence

from shared.require import require

Schedule = Callable[[int], float]


def _check(step: int, **positive: int) -> None:
    require(step >= 0, "step must be at least 0", step)
    for name, value in positive.items():
        require(value >= 1, f"{name} must be at least 1", value)


def _fraction(name: str, value: float) -> None:
    require(0 <= value <= 1, f"{name} must lie in [0, 1]", value)


def warmup(step: int, *, steps: int, start: float = 0.0) -> float:
    """Rise in a straight line from `start` to 1 in `steps` steps, then stay.

    With start 0 the first step goes nowhere; `start=1 / steps` avoids that.
    """
    _check(step, steps=steps)
    _fraction("start", start)
    return start + (1 - start) * min(step / steps, 1.0)


def cosine(step: int, *, steps: int, final: float = 0.0) -> float:
    """Fall from 1 to `final` along half a cosine in `steps` steps, then stay.

    References
    ----------
    Loshchilov & Hutter (2017), equation 5, without restarts.
    """
    _check(step, steps=steps)
    _fraction("final", final)
    return final + (1 - final) * (1 + math.cos(math.pi * min(step / steps, 1.0))) / 2


def linear(step: int, *, steps: int, final: float = 0.0) -> float:
    """Fall in a straight line from 1 to `final` in `steps` steps, then stay."""
    _check(step, steps=steps)
    _fraction("final", final)
    return 1 - (1 - final) * min(step / steps, 1.0)


def step_decay(step: int, *, every: int, gamma: float = 0.1) -> float:
    """Multiply by `gamma` after each `every` steps."""
    _check(step, every=every)
    _fraction("gamma", gamma)
    return gamma ** (step // every)


def exponential(step: int, *, gamma: float) -> float:
    """Multiply by `gamma` after every step."""
    _check(step)
    _fraction("gamma", gamma)
    return gamma**step


def one_cycle(
    step: int,
    *,
    steps: int,
    rising: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> float:
    """Half a cosine up from 1 / div_factor to 1, half a cosine down to far below the start.

    Parameters
    ----------
    steps
        Length of the whole run: the last step is `steps` - 1.
    rising
        Share of it that goes up.
    div_factor, final_div_factor
        The first factor is 1 / div_factor, the last 1 / (div_factor * final_div_factor).

    References
    ----------
    Smith & Topin (2019), figure 1; cosines instead of their lines, as in fastai and torch.
    """
    _check(step, steps=steps)
    must = f"rising must lie in (0, 1) and cover more than one of steps = {steps}"
    require(0 < rising < 1 and rising * steps > 1, must, rising)
    factors = div_factor, final_div_factor
    require(min(factors) >= 1, "div_factor and final_div_factor must be at least 1", *factors)
    peak, last = rising * steps - 1, steps - 1
    low, lowest = 1 / div_factor, 1 / (div_factor * final_div_factor)
    if step <= peak:
        return 1 - (1 - low) * (1 + math.cos(math.pi * step / peak)) / 2
    down = min((step - peak) / (last - peak), 1.0)
    return lowest + (1 - lowest) * (1 + math.cos(math.pi * down)) / 2


def sequential(step: int, *, parts: Sequence[Schedule], milestones: Sequence[int]) -> float:
    """Follow one schedule after another; each sees its own steps, counted from its milestone.

    Parameters
    ----------
    parts
        Functions of the step.
    milestones
        Where each part but the first begins, increasing.
    """
    _check(step)
    must = f"milestones must be one fewer than the {len(parts)} parts"
    require(len(milestones) == len(parts) - 1, must, len(milestones))
    starts = [0, *milestones]
    increasing = sorted(set(starts)) == starts
    require(increasing, "milestones must increase from above 0", list(milestones))
    index = max(i for i, start in enumerate(starts) if step >= start)
    return parts[index](step - starts[index])


def warmup_cosine(step: int, *, steps: int, warmup_steps: int, final: float = 0.0) -> float:
    """Warm up, then half a cosine down to `final` at `steps`: how most GPTs are trained."""
    _check(step, steps=steps)
    possible = 0 <= warmup_steps < steps
    require(possible, f"warmup_steps must be from 0 to below steps = {steps}", warmup_steps)
    if step < warmup_steps:
        return warmup(step, steps=warmup_steps)
    return cosine(step - warmup_steps, steps=steps - warmup_steps, final=final)


def warmup_stable_decay(
    step: int, *, steps: int, warmup_steps: int, decay_steps: int, final: float = 0.0
) -> float:
    """Warm up, stay at 1, and fall in a straight line to `final` over the last `decay_steps`.

    The stable part does not know how long the run will be, so it can be prolonged at will.

    References
    ----------
    Hu et al. (2024), section 4.1.
    """
    _check(step, steps=steps, decay_steps=decay_steps)
    require(warmup_steps >= 0, "warmup_steps must be at least 0", warmup_steps)
    must = f"warmup_steps + decay_steps must be at most steps = {steps}"
    require(warmup_steps + decay_steps <= steps, must, f"{warmup_steps} + {decay_steps}")
    if step < steps - decay_steps:
        return warmup(step, steps=warmup_steps) if step < warmup_steps else 1.0
    return linear(step - (steps - decay_steps), steps=decay_steps, final=final)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
