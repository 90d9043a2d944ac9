"""Checks, claims and figures of loss_functions."""

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
    """Compare each loss and gradient with torch, then see what three classic mistakes cost.

    Parameters
    ----------
    n
        Examples in each comparison.
    """
    _check_against_torch(run, n)
    rng = np.random.default_rng([run.seed, 1])
    labels, logits = rng.integers(0, 10, n), rng.normal(size=(n, 10))

    # Softmax twice: probabilities taken for logits, so no logit differs by more than 1.
    sure = np.eye(10)[labels]
    run.check("softmax twice: the least loss it can reach", cross_entropy(sure, labels)[0],
              np.log(np.e + 9) - 1, against="closed form ln(e + k - 1) - 1", atol=1e-12,
              why="float64 rounding")  # fmt: skip
    run.metric("least loss of a softmax twice, 10 classes", cross_entropy(sure, labels)[0])

    padded = np.where(np.arange(n) < n // 4, labels, IGNORE)
    honest = cross_entropy(logits, padded)[0]
    shorter = cross_entropy(logits[: n // 4], labels[: n // 4])[0]
    run.check("padding drops out", honest, shorter, against="the batch without it", atol=1e-12,
              why="float64 rounding")  # fmt: skip
    summed, grad = cross_entropy(logits, padded)[0] * (n // 4) / n, cross_entropy(logits, padded)[1]
    run.claim("padding has no gradient, and counting it only in the mean hides three quarters",
              bool((grad[n // 4 :] == 0).all()) and abs(summed / honest - (n // 4) / n) < 1e-12,
              f"loss {honest:.2f}, divided by all {n} places {summed:.2f}")  # fmt: skip

    clean = rng.normal(5.0, 1.0, 99)
    data = np.append(clean, 1000.0)  # one outlier
    guesses = np.linspace(0.0, 20.0, 4001)
    best = {
        loss.__name__: guesses[np.argmin([loss(np.full(100, c), data)[0] for c in guesses])]
        for loss in (squared, absolute, huber)
    }
    run.claim("one outlier in a hundred moves the squared loss's answer, not the others'",
              bool(abs(best["squared"] - data.mean()) < 0.01
                   and abs(best["absolute"] - np.median(data)) < 0.1
                   and max(abs(best[k] - clean.mean()) for k in ("absolute", "huber")) < 0.5),
              "best constant for values around 5 and one of 1000: "
              + ", ".join(f"{k} {v:.2f}" for k, v in best.items()))  # fmt: skip

    q, p = np.linspace(0.001, 0.999, 999), 0.7
    rules = {
        "log": -p * np.log(q) - (1 - p) * np.log(1 - q),
        "Brier": p * (1 - q) ** 2 + (1 - p) * q**2,
        "absolute": p * (1 - q) + (1 - p) * q,
    }
    said = {name: q[values.argmin()] for name, values in rules.items()}
    run.claim("log and Brier scores reward the truth, the absolute error rewards bravado",
              bool(abs(said["log"] - p) < 2e-3 and abs(said["Brier"] - p) < 2e-3
                   and said["absolute"] > 0.99),
              "rain falls on 70% of days; best forecast: "
              + ", ".join(f"{k} {v:.2f}" for k, v in said.items()))  # fmt: skip
    _draw(run)


def _check_against_torch(run: Run, n: int) -> None:
    """Value and gradient of every loss, torch's by autograd."""
    import torch
    import torch.nn.functional as F

    rng = np.random.default_rng([run.seed, 2])
    x, y, k = 3 * rng.normal(size=n), rng.normal(size=n), 7
    z, labels = 3 * rng.normal(size=(n, k)), rng.integers(0, k, n)
    labels[:3] = IGNORE
    soft = rng.dirichlet(np.ones(k), n)
    a, b = rng.normal(size=(2, n, 5)) / 3
    t_y, t_labels, t_soft, t_b = (torch.tensor(v) for v in (y, labels, soft, b))
    ones, own = torch.ones(n, dtype=torch.float64), torch.arange(n)
    pairs = {
        "squared": (squared(x, y), x, lambda t: F.mse_loss(t, t_y)),
        "absolute": (absolute(x, y), x, lambda t: F.l1_loss(t, t_y)),
        "Huber": (huber(x, y, 0.8), x, lambda t: F.huber_loss(t, t_y, delta=0.8)),
        "hinge": (hinge(x), x, lambda t: F.margin_ranking_loss(t, 0 * t, ones, margin=1.0)),
        "logistic": (logistic(x), x, lambda t: F.binary_cross_entropy_with_logits(t, ones)),
        "focal": (logistic(x, 2.0), x,
                  lambda t: ((1 - torch.sigmoid(t)) ** 2 * -F.logsigmoid(t)).mean()),
        "cross-entropy": (cross_entropy(z, labels), z, lambda t: F.cross_entropy(t, t_labels)),
        "label smoothing": (cross_entropy(z, labels, 0.1), z,
                            lambda t: F.cross_entropy(t, t_labels, label_smoothing=0.1)),
        "KL divergence": (kl_divergence(z, soft), z,
                          lambda t: F.kl_div(t.log_softmax(1), t_soft, reduction="batchmean")),
        "InfoNCE": (info_nce(a, b), a, lambda t: F.cross_entropy(t @ t_b.T / 0.1, own)),
    }  # fmt: skip
    for name, ((value, grad), at, theirs) in pairs.items():
        t = torch.tensor(at, requires_grad=True)
        loss = theirs(t)
        loss.backward()
        run.check(f"{name}: value and gradient", np.append(grad, value),
                  np.append(t.grad.numpy(), loss.item()), against="torch.nn.functional, autograd",
                  atol=1e-12, why="float64 rounding")  # fmt: skip


def _draw(run: Run) -> None:
    margin, error = np.linspace(-3, 3, 400), np.linspace(-3.5, 3.5, 400)
    nothing = np.zeros(1)

    def curve(loss, points, *options):
        return [loss(np.array([p]), *options)[0] for p in points]

    title = "What does a mistake cost? Its slope is what the model feels"
    with run.figure("shapes", title, columns=2, size=(9.4, 4.2)) as axes:
        axes[0].step(
            margin, margin < 0, color=plots.REFERENCE, ls="--", lw=1.2, label="wrong or not"
        )
        axes[0].plot(margin, curve(hinge, margin), color=plots.ORANGE, label="hinge")
        axes[0].plot(margin, curve(logistic, margin), color=plots.BLUE, label="logistic")
        axes[0].plot(margin, curve(logistic, margin, 2.0), color=plots.GREEN, label="focal, γ = 2")
        axes[0].set(xlabel="margin $y z$: how right, how sure", ylabel="loss")
        axes[0].legend(loc="upper right")
        for loss, color in ((squared, plots.ORANGE), (absolute, plots.BLUE), (huber, plots.GREEN)):
            axes[1].plot(error, curve(loss, error, nothing), color=color, label=loss.__name__)
        axes[1].set(xlabel=r"error $\hat y - y$", ylim=(-0.2, 8))
        axes[1].legend(loc="upper center")
