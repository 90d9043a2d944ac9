"""Losses and gradients are torch's; what padding, an outlier and a bad score cost."""

import numpy as np

from shared import plots
from shared.study import PositiveInt, Run
from week09.loss_functions import (
    IGNORE,
    absolute,
    cross_entropy,
    hinge,
    huber,
    info_nce,
    kl_divergence,
    logistic,
    squared,
)


def main(run: Run, *, n: PositiveInt = 40) -> None:
    """Compare losses and gradients with torch, then see what three classic mistakes cost.

    Parameters
    ----------
    n
        Examples in each comparison.
    """
    check_against_torch(run, n)
    twice_and_padded(run, n)
    one_outlier(run)
    honest_forecasts(run)
    draw(run)


def twice_and_padded(run: Run, n: int) -> None:
    """Probabilities taken for logits, and padding counted in the mean."""
    rng = np.random.default_rng([run.seed, 1])
    labels, logits = rng.integers(0, 10, n), rng.normal(size=(n, 10))
    least = cross_entropy(np.eye(10)[labels], labels)[0]  # no logit differs by more than 1
    check = run.against("ln(e + k - 1) - 1", kind="theorem", atol=1e-12, why="float64 rounding")
    check("softmax twice: the least loss it can reach", least, np.log(np.e + 9) - 1)
    run.metric("least loss of a softmax twice, 10 classes", least)

    few = n // 4
    padded, grad = cross_entropy(logits, np.where(np.arange(n) < few, labels, IGNORE))
    note = f"three quarters padding: loss {padded:.2f}, over all {n} places {padded * few / n:.2f}"
    largest = np.abs(grad[few:]).max()
    run.claim("padding has no gradient", largest, at_most=0, deterministic=True, note=note)


def one_outlier(run: Run) -> None:
    """The best constant for 99 values around 5 and one of 1000."""
    rng = np.random.default_rng([run.seed, 3])
    guesses, samples = np.linspace(0.0, 20.0, 4001), run.budget(quick=2, default=10)
    clean = rng.normal(5.0, 1.0, (samples, 99))
    data = np.concatenate([clean, np.full((samples, 1), 1000.0)], axis=1)
    best = {
        loss: np.array(
            [guesses[np.argmin([loss(np.full(100, c), x)[0] for c in guesses])] for x in data]
        )
        for loss in (squared, absolute, huber)
    }
    check = run.against("numpy", atol=0.0026, why="half the distance of the guesses")
    check("the best constant under squared loss is the mean", best[squared], data.mean(1))
    why = "every value between the two in the middle is best"
    name = "the best constant under absolute loss is the median"
    check(name, best[absolute], np.median(data, axis=1), atol=0.1, why=why)
    moved = {loss: np.abs(found - clean.mean(1)) for loss, found in best.items()}
    name = "one outlier in a hundred hardly moves the answer of absolute and Huber loss"
    means = ", ".join(f"{loss.__name__} {found.mean():.2f}" for loss, found in best.items())
    note = f"best constant for values around 5 and one of 1000: {means}"
    run.claim(name, np.maximum(moved[absolute], moved[huber]), at_most=0.5, note=note)
    run.falsifier("squared loss", moved[squared], breaks=name)


def honest_forecasts(run: Run) -> None:
    """The forecast with the best expected score, when it rains on 70 % of days."""
    q, p = np.linspace(0.001, 0.999, 999), 0.7
    rules = {
        "log": -p * np.log(q) - (1 - p) * np.log(1 - q),
        "Brier": p * (1 - q) ** 2 + (1 - p) * q**2,
        "absolute": p * (1 - q) + (1 - p) * q,
    }
    said = {name: q[values.argmin()] for name, values in rules.items()}
    name = "log and Brier scores reward the truth: largest distance from it"
    off = max(abs(said["log"] - p), abs(said["Brier"] - p))
    note = "best forecast when rain falls on 70% of days: "
    note += ", ".join(f"{k} {v:.2f}" for k, v in said.items())
    run.claim(name, off, at_most=2e-3, deterministic=True, note=note)
    run.falsifier("the absolute error", abs(said["absolute"] - p), breaks=name)
    name = "the absolute error rewards bravado: best forecast"
    run.claim(name, said["absolute"], at_least=0.99, deterministic=True)


def check_against_torch(run: Run, n: int) -> None:
    """Value and gradient of the losses that models are trained with, torch's by autograd."""
    import torch
    import torch.nn.functional as F

    rng = np.random.default_rng([run.seed, 2])
    x, y, k = 3 * rng.normal(size=n), rng.normal(size=n), 7
    z, labels = 3 * rng.normal(size=(n, k)), rng.integers(0, k, n)
    labels[:3] = IGNORE
    soft = rng.dirichlet(np.ones(k), n)
    a, b = rng.normal(size=(2, n, 5)) / 3
    t_y, t_labels, t_soft, t_b = (torch.tensor(v) for v in (y, labels, soft, b))
    cases = {
        "Huber": (huber(x, y, 0.8), x, lambda t: F.huber_loss(t, t_y, delta=0.8)),
        "cross-entropy, smoothed": (
            cross_entropy(z, labels, 0.1),
            z,
            lambda t: F.cross_entropy(t, t_labels, label_smoothing=0.1),
        ),
        "KL divergence": (
            kl_divergence(z, soft),
            z,
            lambda t: F.kl_div(t.log_softmax(1), t_soft, reduction="batchmean"),
        ),
        "InfoNCE": (
            info_nce(a, b),
            a,
            lambda t: F.cross_entropy(t @ t_b.T / 0.1, torch.arange(n)),
        ),
    }
    check = run.against("torch.nn.functional, autograd", atol=1e-12, why="float64 rounding")
    for name, ((value, grad), at, theirs) in cases.items():
        t = torch.tensor(at, requires_grad=True)
        loss = theirs(t)
        loss.backward()
        expected = np.append(t.grad.numpy(), loss.item())
        check(f"{name}: value and gradient", np.append(grad, value), expected)


def draw(run: Run) -> None:
    """Losses of a margin, and of an error."""
    margin, error = np.linspace(-3, 3, 400), np.linspace(-3.5, 3.5, 400)

    def curve(loss, points, *options):
        return [loss(np.array([p]), *options)[0] for p in points]

    of_margins = {
        "hinge": curve(hinge, margin),
        "logistic": curve(logistic, margin),
        "focal, γ = 2": curve(logistic, margin, 2.0),
    }
    losses = (squared, absolute, huber)
    of_errors = {loss.__name__: curve(loss, error, np.zeros(1)) for loss in losses}
    colors = (plots.ORANGE, plots.BLUE, plots.GREEN)
    title = "What does a mistake cost? Its slope is what the model feels"
    with run.figure("shapes", title, columns=2, size=(9.4, 4.2)) as (left, right):
        left.step(margin, margin < 0, color=plots.REFERENCE, ls="--", label="wrong or not")
        labels = {"xlabel": "margin $y z$: how right, how sure", "ylabel": "loss"}
        plots.curves(left, margin, of_margins, colors=colors, ends=False, **labels)
        labels = {"xlabel": r"error $\hat y - y$", "ylim": (-0.2, 8)}
        plots.curves(right, error, of_errors, colors=colors, ends=False, **labels)
