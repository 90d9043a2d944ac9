r"""Does Adam need its bias correction when β₂ is close to 1?

Adam's running means start at zero. Uncorrected, the first step is not $\alpha$ long but

$$ \alpha\,\frac{1 - \beta_1}{\sqrt{1 - \beta_2}} , \qquad
   \text{and step } t \text{ is } \frac{1 - \beta_1^t}{\sqrt{1 - \beta_2^t}}
   \text{ times too long.} $$

The paper trains a variational autoencoder with and without the correction (section 6.4). Here a
smaller one (32 softplus units, 4 latent numbers, scikit-learn's 8 by 8 digits) is trained for every
pair of betas, eleven step sizes and several seeds, all at once: each weight has one more axis, and
one batched product is one layer of all networks. What counts as reproduced stands in the front
matter of README.md and is read from there.

    uv run papers/2015-adam/reproduce.py

Kingma and Ba (2015), "Adam: A method for stochastic optimization", section 3 and figure 4.
"""

import itertools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from jaxtyping import Bool, Float
from torch import Tensor

from shared import datasets, plots
from shared.study import PositiveInt, Run, cli
from week09.optimizers import Adam

README = Path(__file__).with_name("README.md")
BETAS = tuple(itertools.product((0.0, 0.9), (0.99, 0.999, 0.9999)))
HIDDEN, LATENT, BATCH = 32, 4, 64


def front_matter(readme: str) -> dict:
    """The YAML between the first two lines of three dashes."""
    parts = readme.split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        raise ValueError("readme must start with front matter between two lines '---', got none")
    return yaml.safe_load(parts[1])


# ---- Adam with the correction as a switch, for many networks at once


class Arm(NamedTuple):
    """One curve: options of Adam, and whether the averages are corrected for starting at zero."""

    lr: float
    beta1: float
    beta2: float
    corrected: bool
    rescaled: bool = False  # the falsifier: no correction, but lr times the missing factor


class Coefficients(NamedTuple):
    """What one step multiplies by; shape (run, 1, 1), one row a run."""

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
        state.update(mean=torch.zeros_like(grad), square=torch.zeros_like(grad))
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
    """Negative evidence bound of each run, nats an image (Bernoulli pixels, normal prior)."""
    w1, b1, w2, b2, w3, b3, w4, b4 = weights
    hidden = F.softplus(torch.baddbmm(b1, x, w1))
    mean, log_variance = torch.baddbmm(b2, hidden, w2).chunk(2, dim=-1)
    z = mean + noise * torch.exp(log_variance / 2)
    logits = torch.baddbmm(b4, F.softplus(torch.baddbmm(b3, z, w3)), w4)
    pixels = F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
    divergence = (mean**2 + log_variance.exp() - 1 - log_variance).sum(-1) / 2
    return (pixels + divergence).mean(-1)


def train(
    x: Float[Tensor, "n 64"], arms: list[Arm], *, steps: int, seeds: int, seed: int, steps_of=range
) -> Float[np.ndarray, "step arm seed"]:
    """Losses of all arms and seeds; a seed has the same start, batches and noise in every arm."""
    weights = [w.repeat(len(arms), 1, 1).requires_grad_() for w in vae_weights(seeds, seed)]
    generator = torch.Generator().manual_seed(seed + 1)
    states, losses = [{} for _ in weights], []
    for t in steps_of(steps):
        rows = torch.randint(len(x), (seeds, BATCH), generator=generator)
        noise = torch.randn(seeds, BATCH, LATENT, generator=generator)
        loss = vae_loss(weights, x[rows].repeat(len(arms), 1, 1), noise.repeat(len(arms), 1, 1))
        gradients = torch.autograd.grad(loss.sum(), weights)  # no run enters another's loss
        each = coefficients(arms, t + 1)
        each = Coefficients(*(c.repeat_interleave(seeds, 0) for c in each))
        with torch.no_grad():
            for w, gradient, state in zip(weights, gradients, states, strict=True):
                w.sub_(adam_change(gradient, state, each))
        losses.append(loss.detach())
    return torch.stack(losses).view(steps, len(arms), seeds).numpy()


# ---- the rules


def diverged(losses: Float[np.ndarray, "step *rest"], factor: float) -> Bool[np.ndarray, "*rest"]:
    """Whether the loss was ever above `factor` times the first one, or no number at all."""
    return ~(losses <= factor * losses[0]).all(axis=0)


def last_loss(losses: Float[np.ndarray, "step *rest"], end: int) -> Float[np.ndarray, "*rest"]:
    """Mean over the last tenth of the first `end` steps; no number counts as infinite."""
    tail = losses[end - max(end // 10, 1) : end].mean(axis=0)
    return np.where(np.isfinite(tail), tail, np.inf)


def judge_divergence(extra: Float[np.ndarray, "beta1 beta2 seed"], least: float) -> str:
    """Rule (b), for the extra share of diverging step sizes without correction.

    Reproduced if, for every β1 at the largest β2, each seed's is above 0 and their mean at least
    `least`, and the mean grows with β2; partly if only the first holds.
    """
    last, means = extra[:, -1], extra.mean(axis=-1)
    if not ((last > 0).all() and (last.mean(axis=-1) >= least).all()):
        return "not reproduced"
    return "reproduced" if (np.diff(means, axis=1) > 0).all() else "partly"


def judge_best(gain: Float[np.ndarray, "cell seed"], edge: bool, most: float, share: float) -> str:
    """Rule (c), for the loss with correction less the loss without, each at its best step size.

    Inconclusive if a best step size lies on the grid's edge; reproduced if the mean is at most
    `most` in all cells, partly if in at least `share` of them.
    """
    if edge:
        return "inconclusive"
    kept = (gain.mean(axis=-1) <= most).mean()
    return "reproduced" if kept == 1 else "partly" if kept >= share else "not reproduced"


def main(run: Run, *, epochs: PositiveInt = 60, seeds: PositiveInt = 3) -> None:
    """Train the grid and judge by the front matter's rules.

    Parameters
    ----------
    epochs
        Passes over the digits; the paper looks after 10 and after 100.
    seeds
        Seeds of every cell.
    """
    paper = front_matter(README.read_text(encoding="utf-8"))
    rules = {rule["name"]: rule for rule in paper["rules"]}
    seeds = run.budget(quick=2, default=seeds, full=max(8, seeds))
    x = torch.from_numpy(np.asarray(datasets.digits().images, dtype=np.float32)).flatten(1) / 16
    per_epoch = len(x) // BATCH
    early = run.budget(quick=10, default=10 * per_epoch)
    steps = run.budget(quick=20, default=max(epochs, 10) * per_epoch)
    rates = 10.0 ** np.arange(-5, 0.25, run.budget(quick=2.5, default=0.5))
    _check(run, run.budget(quick=100, default=1000))
    _first_step(run, rules["first step"])

    arms = [Arm(float(lr), *betas, corrected)
            for corrected in (True, False) for betas in BETAS for lr in rates]  # fmt: skip
    losses = train(x, arms, steps=steps, seeds=seeds, seed=run.seed,
                   steps_of=lambda n: run.progress(range(n), "training"))  # fmt: skip
    losses = losses.reshape(steps, 2, 2, 3, len(rates), seeds)  # corrected, β1, β2, lr
    run.metric("loss at the start", losses[0].mean(), "nats/image", rtol=0.05)

    # ---- (b) stability
    rule = rules["stability"]
    blown = diverged(losses, rule["factor"]).mean(axis=3)  # (corrected, β1, β2, seed)
    extra = blown[1] - blown[0]
    for i, beta1 in enumerate((0.0, 0.9)):
        for j, beta2 in enumerate((0.99, 0.999, 0.9999)):
            for arm, name in enumerate(("with", "without")):
                run.metric(f"share of step sizes that diverge, β1 = {beta1}, β2 = {beta2}, {name}",
                           blown[arm, i, j].mean(), rtol=0.3)  # fmt: skip
    run.verdict(
        rule["name"], judge_divergence(extra, rule["least"]),
        "diverging step sizes, without less with correction, by β2 = 0.99, 0.999, 0.9999: "
        + "; ".join(f"β1 = {b}: " + ", ".join(f"{v:+.2f}" for v in extra[i].mean(-1))
                    for i, b in enumerate((0.0, 0.9)))
        + f" ({seeds} seeds)",
    )  # fmt: skip

    # ---- (c) quality, each arm at its own best step size
    rule = rules["at its best"]
    gains, edge, spread = [], False, []
    for end in (early, steps):
        final = last_loss(losses, end)  # (corrected, β1, β2, lr, seed)
        best = final.mean(axis=-1).argmin(axis=-1)
        edge |= bool(((best == 0) | (best == len(rates) - 1)).any())
        chosen = np.take_along_axis(final, best[..., None, None], axis=3)[..., 0, :]
        gains.append((chosen[0] - chosen[1]).reshape(6, seeds))
        spread.append(chosen[0].std(axis=-1, ddof=1).mean())
    gain = np.concatenate(gains)
    run.metric("seed spread of the best loss", np.mean(spread), "nats/image", rtol=0.5)
    ranges = [f"{g.mean(-1).min():+.3f} to {g.mean(-1).max():+.3f}" for g in gains]
    run.verdict(
        rule["name"], judge_best(gain, edge, rule["most"], rule["share"]),
        f"best loss with less without correction, nats an image: {ranges[0]} over the betas after "
        f"{early} steps, {ranges[1]} after {steps}; at most 0 in "
        f"{(gain.mean(-1) <= 0).sum()} of {len(gain)} cells, in every one of {seeds} seeds in "
        f"{(gain <= 0).all(-1).sum()}",
    )  # fmt: skip
    for name, part in (("10 epochs", gains[0]), ("the end", gains[1])):
        run.metric(f"best loss, with less without correction, {name}", part.mean(), "nats/image",
                   rtol=None)  # fmt: skip

    # ---- the falsifier: no correction, but every step multiplied by what is missing
    arms = [Arm(float(lr), *betas, False, True) for betas in BETAS for lr in rates]
    short = run.budget(quick=20, default=2 * per_epoch)
    rescaled = train(x, arms, steps=short, seeds=seeds, seed=run.seed)
    rescaled = rescaled.reshape(short, 2, 3, len(rates), seeds)
    factor = rules["stability"]["factor"]
    fair = diverged(losses[:short, 0], factor).mean(axis=2)
    verdict = judge_divergence(diverged(rescaled, factor).mean(axis=2) - fair,
                               rules["stability"]["least"])  # fmt: skip
    calm = rates <= 1e-2  # where rounding is not amplified by steps as long as the weights
    apart = np.abs(rescaled[:, :, :, calm] / losses[:short, 0][:, :, :, calm] - 1).max()
    run.claim(
        "with steps rescaled by the missing factor, the rule on stability fails",
        verdict == paper["falsifier"]["verdict"] and apart < paper["falsifier"]["most"],
        f"{verdict}; losses of the two arms differ by {apart:.1e} of their size at step sizes up "
        f"to 0.01, {short} steps",
        quick=False,
    )
    _figure(run, paper, rates, last_loss(losses, steps), blown)


def _check(run: Run, steps: int) -> None:
    """Our corrected arm against torch.optim.Adam, in float64, and the loss by hand."""
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
        run.check(f"{steps} steps, β1 = {beta1}, β2 = {beta2}", torch.stack(path),
                  torch.stack(reference), against="torch.optim.Adam", atol=1e-12,
                  why="float64 rounding, averaged over by a contracting path")  # fmt: skip
    weights = [w.double() for w in vae_weights(2, run.seed)]
    x = torch.rand(2, 7, 64, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, 7, LATENT, generator=generator, dtype=torch.float64)
    run.check("loss", vae_loss(weights, x, noise), _loss_by_distributions(weights, x, noise),
              against="torch.distributions", rtol=1e-12, why="float64 rounding")  # fmt: skip


def _loss_by_distributions(weights, x, noise):
    from torch import distributions as D

    result = []
    for r in range(len(x)):
        w1, b1, w2, b2, w3, b3, w4, b4 = (w[r] for w in weights)
        code = F.softplus(x[r] @ w1 + b1) @ w2 + b2
        q = D.Normal(code[:, :LATENT], code[:, LATENT:].exp().sqrt())
        z = q.loc + q.scale * noise[r]
        p = D.Bernoulli(logits=F.softplus(z @ w3 + b3) @ w4 + b4, validate_args=False)
        kl = D.kl_divergence(q, D.Normal(0.0, 1.0)).sum(-1)
        result.append((kl - p.log_prob(x[r]).sum(-1)).mean())
    return torch.stack(result)


def _first_step(run: Run, rule: dict) -> None:
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
    run.verdict(rule["name"], "reproduced" if worst <= rule["most"] else "not reproduced",
                f"largest relative error {worst:.0e} over six pairs of betas")  # fmt: skip


def _figure(run: Run, paper: dict, rates, final, blown) -> None:
    title = "Does Adam need its bias correction? Loss of a small VAE by step size"
    with run.figure("step_sizes", title, 2, 3, size=(9.6, 5.6), sharex=True, sharey=True) as axes:
        low = final[np.isfinite(final)].min()
        for (i, j), panel in np.ndenumerate(axes):
            for arm, (name, color) in enumerate(
                (("with correction", plots.BLUE), ("without", plots.ORANGE))
            ):
                runs = np.where(final[arm, i, j] < 80, final[arm, i, j], np.nan)  # (lr, seed)
                seen = np.isfinite(runs).all(axis=-1)
                panel.fill_between(rates[seen], runs[seen].min(-1), runs[seen].max(-1),
                                   color=color, alpha=0.2, lw=0)  # fmt: skip
                panel.plot(rates[seen], runs[seen].mean(-1), "o-", ms=3.5, color=color, label=name)
                bad = blown[arm, i, j].mean()
                panel.text(0.03, 0.13 - 0.095 * arm, f"{bad:.0%} of step sizes diverge",
                           color=color, fontsize=9, transform=panel.transAxes)  # fmt: skip
            panel.set_xscale("log")
            betas = BETAS[3 * i + j]
            panel.set_title(f"$β_1$ = {betas[0]:g}, $β_2$ = {betas[1]}", fontsize=10.5,
                            weight="normal")  # fmt: skip
            panel.set_ylim(low - 10, low + 28)
        axes[0, 1].legend(loc="upper right", fontsize=9)
        for panel in axes[1]:
            panel.set_xlabel("step size α")
        for panel in axes[:, 0]:
            panel.set_ylabel("− bound (nats an image)")


if __name__ == "__main__":
    cli(main)
