r"""Scaling laws from twenty small GPTs: how to split a compute budget between model and data.

Training a model of N weights on D tokens costs about C = 6ND floating-point operations. Hoffmann et
al. fit the loss that comes out by three terms: text's own entropy, a model too small, data too few,

$$L(N, D) = E + \frac{A}{N^\alpha} + \frac{B}{D^\beta}, \qquad
  N_\text{opt}(C) \propto C^a, \quad a = \frac{\beta}{\alpha + \beta}.$$

Reduced: one layer and 1,000 to 33,000 weights instead of 70 million to 16 billion, budgets within
a factor of 16 instead of 500, characters instead of word pieces.

>>> config = make_config(d_model=32, vocab_size=100)
>>> count_weights(config), training_flops(config, 1000) / count_weights(config)
(15488, 6000.0)
>>> sizes = np.array([1e3, 1e4, 3e5])
>>> round(isoflop_valley(sizes, (np.log10(sizes) - 4.5) ** 2).n_opt)  # 10 ** 4.5
31623

    uv run weeks/16/scaling_laws.py
    uv run weeks/16/scaling_laws.py --dataset tinyshakespeare

Sources: Hoffmann et al., "Training compute-optimal large language models" (2022), section 3,
approaches 2 and 3, equations 2 to 4; Kaplan et al., "Scaling laws for neural language models"
(2020), section 2.1 for 6ND. The fit of the law itself is in parametric_fit.py.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared.require import require
from week14.minimal_gpt import (
    GPT,
    GPTConfig,
    evaluate,
    make_optimizers,
    next_token_loss,
    random_batch,
)

CONTEXT, BATCH = 64, 8  # characters a window, windows a step: 512 tokens a step in every run

# ---- what a run costs


def make_config(d_model: int, vocab_size: int, n_layers: int = 1) -> GPTConfig:
    """The family of models: depth fixed, width free, heads of about 16 dimensions."""
    return GPTConfig(vocab_size, CONTEXT, n_layers, max(1, d_model // 16), d_model)


def count_weights(config: GPTConfig) -> int:
    """N: weights that multiply, the blocks' matrices and the head, 12 L d² + V d.

    The embedding is a table to look things up in; biases and norms add, they do not multiply.
    """
    d = config.d_model
    return 12 * config.n_layers * d**2 + config.vocab_size * d


def training_flops(config: GPTConfig, n_tokens: int, *, attention: bool = False) -> float:
    """6ND: a multiply and an add for every weight and token, once forward and twice backward.

    `attention` adds the 12 L T d per token of the products q·k and weights·v, which 6ND leaves out.
    """
    flops = 6 * count_weights(config)
    if attention:
        flops += 12 * config.n_layers * config.context * config.d_model
    return float(flops * n_tokens)


def peak_scale(steps: int) -> float:
    """Factor of week 14's learning rates, the same for every width: 4 (128 / steps)^(1/3).

    The longer a run, the smaller its best rate; a trial at three budgets gave the constants, among
    factors 0.5, 1, 2, 4 and 8.
    """
    require(steps >= 1, "steps must be at least 1", steps)
    return 4.0 * (128 / steps) ** (1 / 3)


# ---- the sweep


class TrainedRun(NamedTuple):
    """One point of the sweep.

    `budget` is what it should cost and n_weights · n_tokens · 6 what it does; `loss` is measured on
    held-out text at the end (nats per character), `curve` on the training text at every step.
    """

    budget: float
    d_model: int
    n_weights: int
    n_tokens: int
    loss: float
    curve: list[float]


def train_run(
    model: GPT,
    tokens: Int[Tensor, " n"],
    *,
    steps: int,
    generator: torch.Generator,
    horizon: int | None = None,
    floor: float = 0.0,
    lr_scale: float = 1.0,
    batch_size: int = BATCH,
    optimizer: Literal["muon", "adamw"] = "muon",
) -> Iterator[float]:
    """Train `model` in place and yield each step's loss.

    Week 14's loop, but that the learning rate falls linearly to `floor`, a share of the peak, over
    `horizon` steps, which need not be the length of the run.
    """
    horizon = steps if horizon is None else horizon
    both = "steps and horizon must be at least 1"
    require(steps >= 1 and horizon >= 1, both, steps, horizon)
    require(0 <= floor <= 1, "floor must be between 0 and 1", floor)
    optimizers = make_optimizers(model, optimizer, lr_scale=lr_scale)
    peak = [o.lr for o in optimizers]
    for step in range(steps):
        x, y = random_batch(tokens, batch_size, model.config.context, generator)
        loss = next_token_loss(model(x), y)
        for o, lr in zip(optimizers, peak, strict=True):
            o.zero_grad()
            o.lr = lr * max(floor, 1 - step / horizon)
        loss.backward()
        for o in optimizers:
            o.step()
        yield loss.item()


def steps_for(budget: float, config: GPTConfig) -> int:
    """Steps of 512 tokens that `budget` floating-point operations buy."""
    price = training_flops(config, BATCH * CONTEXT)
    steps = round(budget / price)
    require(steps >= 1, f"budget must pay for a step, {price:.3g} FLOP", f"{budget:.3g}")
    return steps


def sweep(
    training: Int[Tensor, " n"],
    validation: Int[Tensor, " m"],
    grid: Mapping[float, Sequence[int]],
    *,
    vocab_size: int,
    seed: int,
    n_layers: int = 1,
    tune: Callable[[int, int], float] = lambda d_model, steps: peak_scale(steps),
) -> Iterator[TrainedRun]:
    """Train every width at every budget of `grid`, each with a schedule of its own length.

    `seed` is that of weights and batches; `tune` gives the learning-rate factor for a width and a
    number of steps.
    """
    for budget, widths in grid.items():
        for d_model in widths:
            config = make_config(d_model, vocab_size, n_layers)
            model = GPT(config, torch.Generator().manual_seed(seed))
            steps = steps_for(budget, config)
            options = {"steps": steps, "lr_scale": tune(d_model, steps)}
            options["generator"] = torch.Generator().manual_seed(seed + 1)
            curve = list(train_run(model, training, **options))
            loss = evaluate(model, validation, window=CONTEXT)
            n_tokens = steps * BATCH * CONTEXT
            yield TrainedRun(budget, d_model, count_weights(config), n_tokens, loss, curve)


def sweep_fixed_schedule(
    training: Int[Tensor, " n"],
    validation: Int[Tensor, " m"],
    grid: Mapping[float, Sequence[int]],
    *,
    vocab_size: int,
    seed: int,
    horizon: int,
    floor: float,
    n_layers: int = 1,
    tune: Callable[[int, int], float] = lambda d_model, steps: peak_scale(steps),
) -> Iterator[TrainedRun]:
    """The same points with one schedule of `horizon` steps for all: a mistake, and a cheap one.

    A schedule that does not know where a run ends lets one run per width stand for all of its
    budgets: the loss is read off as it passes by.
    """
    for d_model in sorted({d for widths in grid.values() for d in widths}):
        config = make_config(d_model, vocab_size, n_layers)
        stops = {steps_for(c, config): c for c, widths in grid.items() if d_model in widths}
        model = GPT(config, torch.Generator().manual_seed(seed))
        options = {"horizon": horizon, "floor": floor, "lr_scale": tune(d_model, horizon)}
        options["generator"] = torch.Generator().manual_seed(seed + 1)
        curve: list[float] = []
        for loss in train_run(model, training, steps=max(stops), **options):
            curve.append(loss)
            if budget := stops.get(len(curve)):
                loss = evaluate(model, validation, window=CONTEXT)
                n_tokens, n_weights = len(curve) * BATCH * CONTEXT, count_weights(config)
                yield TrainedRun(budget, d_model, n_weights, n_tokens, loss, curve[:])


# ---- approach 2: IsoFLOP parabolas


class Valley(NamedTuple):
    """Parabola through the losses of one budget: best N, its loss, whether inside the data."""

    n_opt: float
    loss: float
    curvature: float
    interior: bool


def isoflop_valley(n_weights: Float[np.ndarray, " run"], loss: Float[np.ndarray, " run"]) -> Valley:
    """Fit loss = quadratic of ln N and take its minimum.

    A parabola that opens downward has none: its best measured run is returned, not interior.
    Hoffmann et al. (2022), section 3.2.
    """
    different = len(np.unique(n_weights))
    require(different >= 3, "n_weights must hold 3 different sizes", different)
    center = np.log(n_weights).mean()
    x = np.log(n_weights) - center
    curvature, slope, height = np.polyfit(x, loss, 2)
    if curvature <= 0:
        best = int(np.argmin(loss))
        return Valley(float(n_weights[best]), float(loss[best]), float(curvature), False)
    x_min = -slope / (2 * curvature)
    inside = bool(x.min() < x_min < x.max())
    # a nearly flat parabola has its minimum anywhere; beyond the data it means nothing
    x_min = float(np.clip(x_min, x.min(), x.max()))
    lowest = float(curvature * x_min**2 + slope * x_min + height)
    return Valley(math.exp(x_min + center), lowest, float(curvature), inside)


def power_law(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Exponent and factor of y = factor · x^exponent, by least squares of the logarithms."""
    require(min(x.min(), y.min()) > 0, "x and y must be positive", x.min(), y.min())
    exponent, intercept = np.polyfit(np.log(x), np.log(y), 1)
    return float(exponent), float(np.exp(intercept))


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
