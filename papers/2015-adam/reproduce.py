r"""Does Adam need its bias correction when β₂ is close to 1?

Adam's running means start at zero. Uncorrected, the first step is not $\alpha$ long but

$$ \alpha\,\frac{1 - \beta_1}{\sqrt{1 - \beta_2}} , \qquad
   \text{and step } t \text{ is } \frac{1 - \beta_1^t}{\sqrt{1 - \beta_2^t}}
   \text{ times too long.} $$

The paper trains a variational autoencoder with and without the correction (section 6.4). Here a
smaller one (32 softplus units, 4 latent numbers, scikit-learn's 8 by 8 digits) is trained for every
pair of betas, nine step sizes and several seeds, all at once: each weight has one more axis, and
one batched product is one layer of all networks. The rules stand in the front matter of README.md.

    uv run papers/2015-adam/reproduce.py

Kingma and Ba (2015), "Adam: A method for stochastic optimization", section 3 and figure 4.
"""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from shared import datasets, papers, plots
from shared.study import PositiveInt, Run, cli
from week09.optimizers import Adam

BETAS = tuple(itertools.product((0.0, 0.9), (0.99, 0.999, 0.9999)))
HIDDEN, LATENT, BATCH = 32, 4, 64


# ---- Adam with the correction as a switch, for many networks at once


class Arm(NamedTuple):
    """One curve: options of Adam, and whether the averages are corrected for starting at zero."""

    lr: float
    beta1: float
    beta2: float
    corrected: bool
    rescaled: bool = False  # the falsifier: no correction, but lr times the missing factor


class Coefficients(NamedTuple):
    """What one step multiplies by, one row per run."""

    beta1: Float[Tensor, "run 1 1"]
    beta2: Float[Tensor, "run 1 1"]
    length: Float[Tensor, "run 1 1"]
    square_correction: Float[Tensor, "run 1 1"]


def missing_factor(beta1: float, beta2: float, t: int) -> float:
    """What step t must be multiplied by, if its averages were not corrected."""
    return math.sqrt(1 - beta2**t) / (1 - beta1**t)


def coefficients(arms: list[Arm], t: int, dtype: torch.dtype = torch.float32) -> Coefficients:
    """The numbers of step t = 1, 2, … of every arm; powers of β in Python's float64."""
    rows = []
    for lr, beta1, beta2, corrected, rescaled in arms:
        length = lr / (1 - beta1**t) if corrected else lr
        length *= missing_factor(beta1, beta2, t) if rescaled else 1.0
        rows.append((beta1, beta2, length, 1 - beta2**t if corrected else 1.0))
    columns = torch.tensor(rows, dtype=torch.float64).T[:, :, None, None]
    return Coefficients(*columns.to(dtype))


def adam_change(
    grad: Float[Tensor, "run n m"], state: dict, step: Coefficients, *, eps: float = 1e-8
) -> Float[Tensor, "run n m"]:
    """What algorithm 1 subtracts from the weights of all runs."""
    if not state:
        state |= {name: torch.zeros_like(grad) for name in ("mean", "square")}
    state["mean"].mul_(step.beta1).add_((1 - step.beta1) * grad)
    state["square"].mul_(step.beta2).add_((1 - step.beta2) * grad * grad)
    rms = (state["square"] / step.square_correction).sqrt_().add_(eps)
    return state["mean"] * step.length / rms


# ---- the network


def vae_weights(seeds: int, seed: int) -> list[Tensor]:
    """Weights and biases of `seeds` autoencoders, (seed, in, out) and (seed, 1, out)."""
    generator = torch.Generator().manual_seed(seed)
    weights = []
    for n, m in ((64, HIDDEN), (HIDDEN, 2 * LATENT), (LATENT, HIDDEN), (HIDDEN, 64)):
        weights.append(torch.randn(seeds, n, m, generator=generator) / math.sqrt(n))
        weights.append(torch.zeros(seeds, 1, m))
    return weights


def vae_loss(
    weights: list[Tensor],
    x: Float[Tensor, "run batch 64"],
    noise: Float[Tensor, "run batch latent"],
) -> Float[Tensor, " run"]:
    """Negative evidence bound of each run, nats per image (Bernoulli pixels, normal prior)."""
    w1, b1, w2, b2, w3, b3, w4, b4 = weights
    hidden = F.softplus(torch.baddbmm(b1, x, w1))
    mean, log_variance = torch.baddbmm(b2, hidden, w2).chunk(2, dim=-1)
    z = mean + noise * torch.exp(log_variance / 2)
    logits = torch.baddbmm(b4, F.softplus(torch.baddbmm(b3, z, w3)), w4)
    pixels = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    divergence = (mean**2 + log_variance.exp() - 1 - log_variance).sum(-1) / 2
    return (pixels + divergence).mean(-1)


def losses_of(
    x: Float[Tensor, "n 64"], arms: list[Arm], *, steps: int, seeds: int, seed: int
) -> Iterator[Float[Tensor, " run"]]:
    """Loss of all arms and seeds, step by step; a seed has the same start, batches and noise."""
    weights = [w.repeat(len(arms), 1, 1).requires_grad_() for w in vae_weights(seeds, seed)]
    generator, states = torch.Generator().manual_seed(seed + 1), [{} for _ in weights]
    for t in range(steps):
        rows = torch.randint(len(x), (seeds, BATCH), generator=generator)
        noise = torch.randn(seeds, BATCH, LATENT, generator=generator)
        loss = vae_loss(weights, x[rows].repeat(len(arms), 1, 1), noise.repeat(len(arms), 1, 1))
        gradients = torch.autograd.grad(loss.sum(), weights)  # no run enters another's loss
        each = coefficients(arms, t + 1)
        each = Coefficients(*(c.repeat_interleave(seeds, 0) for c in each))
        with torch.no_grad():
            for w, gradient, state in zip(weights, gradients, states, strict=True):
                w.sub_(adam_change(gradient, state, each))
        yield loss.detach()


def train(
    x: Float[Tensor, "n 64"], arms: list[Arm], *, seeds: int, **options
) -> Float[np.ndarray, "step arm seed"]:
    """All of `losses_of` at once."""
    losses = torch.stack(list(losses_of(x, arms, seeds=seeds, **options)))
    return losses.unflatten(1, (len(arms), seeds)).numpy()


# ---- the rules


def diverged(losses: Float[np.ndarray, "step *rest"], factor: float) -> Bool[np.ndarray, "*rest"]:
    """Whether the loss was ever above `factor` times the first one, or no number at all."""
    return ~(losses <= factor * losses[0]).all(axis=0)


def last_loss(losses: Float[np.ndarray, "step *rest"], end: int) -> Float[np.ndarray, "*rest"]:
    """Mean over the last tenth of the first `end` steps; no number counts as infinite."""
    tail = losses[end - max(end // 10, 1) : end].mean(axis=0)
    return np.where(np.isfinite(tail), tail, np.inf)


def main(run: Run, *, epochs: PositiveInt = 60, seeds: PositiveInt = 5) -> None:
    """Train the grid and judge by the front matter's rules.

    Parameters
    ----------
    epochs
        Passes over the digits; the paper looks after 10 and after 100.
    seeds
        Seeds of every cell.
    """
    paper = papers.load(__file__)
    seeds = run.budget(quick=2, default=seeds, full=max(8, seeds))
    x = torch.from_numpy(np.asarray(datasets.digits().images, dtype=np.float32)).flatten(1) / 16
    per_epoch = len(x) // BATCH
    early = run.budget(quick=3, default=10 * per_epoch)
    steps = run.budget(quick=6, default=max(epochs, 10) * per_epoch)
    rates = 10.0 ** np.arange(-5, -0.75, run.budget(quick=2.0, default=0.5))
    _check(run, run.budget(quick=20, default=1000))
    _first_step(run, paper)

    grid = itertools.product((True, False), BETAS, rates)
    arms = [Arm(float(lr), *betas, corrected) for corrected, betas, lr in grid]
    run.metric("networks", len(arms) * seeds)
    options = {"seeds": seeds, "seed": run.seed}
    going = losses_of(x, arms, steps=steps, **options)
    shown = zip(run.progress(range(steps), "training"), going, strict=True)
    losses = torch.stack([loss for _, loss in shown]).numpy()
    losses = losses.reshape(steps, 2, 2, 3, len(rates), seeds)  # corrected, β1, β2, lr

    factor = paper.matter["diverged_at"]
    blown = diverged(losses, factor).mean(axis=3)  # (corrected, β1, β2, seed)
    extra = blown[1] - blown[0]  # without minus with
    run.metric("share that diverges without, β1 = 0, β2 = 0.9999", blown[1, 0, 2].mean(), rtol=0.3)
    run.metric("share that diverges with, β1 = 0, β2 = 0.9999", blown[0, 0, 2].mean(), rtol=0.3)
    late = {"quick": False}
    paper.judge(run, "stability", extra[:, 2].mean(axis=0), **late)
    paper.judge(run, "growing with β2", (extra[:, 2] - extra[:, 0]).mean(axis=0), **late)

    for name, end in (("at its best, early", early), ("at its best, at the end", steps)):
        final = last_loss(losses, end)  # (corrected, β1, β2, lr, seed)
        best = final.mean(axis=-1).argmin(axis=-1)
        edge = int(((best == 0) | (best == len(rates) - 1)).sum())
        chosen = np.take_along_axis(final, best[..., None, None], axis=3)[..., 0, :]
        gain = (chosen[0] - chosen[1]).reshape(6, seeds)
        kept = (gain.mean(axis=-1) <= 0).sum()
        note = f"{end} steps; {kept} of 6 pairs of betas, best at the edge: {edge}"
        paper.judge(run, name, gain.mean(axis=0), note=note, **late)

    # the falsifier: no correction, but every step multiplied by what is missing
    arms = [Arm(float(lr), *betas, False, True) for betas, lr in itertools.product(BETAS, rates)]
    short = run.budget(quick=6, default=2 * per_epoch)
    rescaled = train(x, arms, steps=short, **options).reshape(short, 2, 3, len(rates), seeds)
    fair, calm = losses[:short, 0], rates <= 1e-2  # rounding is not amplified there
    more = diverged(rescaled, factor).mean(axis=2) - diverged(fair, factor).mean(axis=2)
    name, both = "steps rescaled by the missing factor", more[:, 2].mean(axis=0)
    run.falsifier(name, both, breaks="stability")
    why = {"kind": "theorem", "rtol": 1e-3, "why": "float32 rounding over two epochs"}
    name, against = "losses with rescaled steps, α ≤ 0.01", "the arm with correction"
    run.check(name, rescaled[:, :, :, calm], fair[:, :, :, calm], against=against, **why)
    _figure(run, rates, last_loss(losses, steps), blown)


def _check(run: Run, steps: int) -> None:
    """Our corrected arm against torch.optim.Adam, in float64, and the loss by distributions."""
    from torch import distributions as D

    generator = run.generator(1)
    weight = torch.randn(1, 5, 4, generator=generator, dtype=torch.float64)
    for beta1, beta2 in BETAS:
        ours, theirs, state = weight.clone(), weight.clone().requires_grad_(), {}
        adam = torch.optim.Adam([theirs], lr=0.01, betas=(beta1, beta2))
        path, reference = [], []
        for t in range(1, steps + 1):
            gradient = torch.randn(1, 5, 4, generator=generator, dtype=torch.float64)
            step = coefficients([Arm(0.01, beta1, beta2, True)], t, torch.float64)
            ours = ours - adam_change(gradient + ours, state, step)
            theirs.grad = gradient + theirs.detach()
            adam.step()
            path.append(ours)
            reference.append(theirs.detach().clone())
        name, paths = f"{steps} steps, β1 = {beta1}, β2 = {beta2}", (path, reference)
        why = "float64 rounding, averaged over by a contracting path"
        run.check(name, *map(torch.stack, paths), against="torch.optim.Adam", atol=1e-12, why=why)
    weights = [w.double() for w in vae_weights(2, run.seed)]
    x = torch.rand(2, 7, 64, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, 7, LATENT, generator=generator, dtype=torch.float64)
    w1, b1, w2, b2, w3, b3, w4, b4 = weights
    code = F.softplus(x @ w1 + b1) @ w2 + b2
    q = D.Normal(code[..., :LATENT], code[..., LATENT:].exp().sqrt())
    z = q.loc + q.scale * noise
    p = D.Bernoulli(logits=F.softplus(z @ w3 + b3) @ w4 + b4, validate_args=False)
    theirs = (D.kl_divergence(q, D.Normal(0.0, 1.0)).sum(-1) - p.log_prob(x).sum(-1)).mean(-1)
    rounding = {"against": "torch.distributions", "rtol": 1e-12, "why": "float64 rounding"}
    run.check("loss", vae_loss(weights, x, noise), theirs, **rounding)


def _first_step(run: Run, paper: papers.Paper) -> None:
    """Rule (a): with correction the first step is α long, without α (1 - β1)/√(1 - β2)."""
    gradient = torch.randn(1, 6, 5, generator=run.generator(2), dtype=torch.float64)
    worst, alpha = 0.0, 0.001
    for beta1, beta2 in BETAS:
        for corrected, factor in ((True, 1.0), (False, (1 - beta1) / math.sqrt(1 - beta2))):
            step = coefficients([Arm(alpha, beta1, beta2, corrected)], 1, torch.float64)
            change = adam_change(gradient, {}, step, eps=0.0)
            worst = max(worst, float((change.abs() / (alpha * factor) - 1).abs().max()))
        reference = Adam([gradient], lr=alpha, betas=(beta1, beta2), eps=0.0).update(gradient, {})
        worst = max(worst, float((reference.abs() / alpha - 1).abs().max()))
    run.metric("longest first step without correction", 1 / math.sqrt(1 - 0.9999), "α", rtol=1e-6)
    paper.judge(run, "first step", worst, note="largest error over six pairs of betas", rtol=None)


def _figure(run: Run, rates, final, blown) -> None:
    title = "Does Adam need its bias correction? Loss of a small VAE by step size"
    options = {"size": (9.6, 5.6), "sharex": True, "sharey": True}
    arms = (("with correction", plots.BLUE), ("without", plots.ORANGE))
    with run.figure("step_sizes", title, 2, 3, **options) as axes:
        low = final[np.isfinite(final)].min()
        for (i, j), panel in np.ndenumerate(axes):
            for arm, (name, color) in enumerate(arms):
                runs = np.where(final[arm, i, j] < 80, final[arm, i, j], np.nan)  # (lr, seed)
                seen = np.isfinite(runs).all(axis=-1)
                plots.interval_band(panel, rates[seen], runs[seen].T, color=color, label=name)
                panel.get_lines()[-1].set(marker="o", ms=3.5)
            beta1, beta2 = BETAS[3 * i + j]
            share = " and ".join(f"{blown[arm, i, j].mean():.0%}" for arm in (0, 1))
            title = f"$β_1$ = {beta1:g}, $β_2$ = {beta2}\ndiverging: {share}"
            panel.set_title(title, fontsize=10.5, weight="normal")
            panel.set(xscale="log", ylim=(low - 10, low + 28), xlabel="step size α")
        axes[0, 1].legend(loc="upper right", fontsize=9)
        axes[0, 0].set_ylabel("− bound (nats per image)")


if __name__ == "__main__":
    cli(main)
