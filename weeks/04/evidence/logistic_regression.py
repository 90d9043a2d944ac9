"""What logistic regression is measured by: scikit-learn, torch, theory, and classic mistakes."""

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from threadpoolctl import threadpool_limits

from shared import plots
from shared.study import PositiveInt, Run
from week04.evidence.data import breast_cancer, digits, split
from week04.linear_regression import StandardScaler
from week04.logistic_regression import (
    LogisticRegression,
    gradient_descent,
    loss_and_gradient,
    newton_step,
    probabilities,
)

RAW = "200 steps on the raw feature leave 100 times the excess loss of the standardized"
STOPS = "with a penalty the weights stop growing (5 % in the second half)"
GROWS = "separable and unpenalized: weights grow by 1 / margin per ln t, to 30 %"


def main(run: Run, *, seeds: PositiveInt = 20) -> None:
    """Check both solvers, draw what they do, and repeat the classic mistakes.

    Parameters
    ----------
    seeds
        Random splits of the data for the claims.
    """
    run.rounding(2e-2, "the excess loss over its own rounding, which differs between processors")
    seeds = run.budget(quick=min(seeds, 2), default=seeds)
    tumors, images = breast_cancer(), digits()
    with threadpool_limits(1):  # on matrices so small, threads only wait for each other
        check_binary(run, *tumors)
        check_multinomial(run, *images)
        check_first_steps(run, *images)
        n_test = run.budget(quick=400, default=190), run.budget(quick=1600, default=1297)
        control(run, "breast cancer", *tumors, n_test[0], 3 * seeds)
        control(run, "digits", *images, n_test[1], min(seeds, 12))
        loss_surface(run, *tumors)
        separable(run)
        classic_bugs(run, *tumors)


def ones(X: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n q"]:
    """X with a last column of ones, for the intercept."""
    return np.column_stack([X, np.ones(len(X))])


# ---- checks


def reference():
    """The same model in scikit-learn."""
    from sklearn.linear_model import LogisticRegression as Reference

    return Reference(solver="newton-cholesky", tol=1e-12, max_iter=1000)


def check_binary(run: Run, X, y) -> None:
    """Breast cancer, by Newton and by gradient descent, against scikit-learn."""
    X = StandardScaler().fit_transform(X)
    why = "both stop at a gradient of about 1e-10"
    equal = run.against("sklearn LogisticRegression", atol=1e-8, why=why)
    ours, theirs = LogisticRegression(tol=1e-11).fit(X, y), reference().fit(X, y)
    weights = (np.append(model.coef_, model.intercept_) for model in (ours, theirs))
    equal("breast cancer: weights", *weights)
    equal("breast cancer: probabilities", ours.predict_proba(X), theirs.predict_proba(X))
    C, tol = run.budget(quick=1e-4, default=0.01), run.budget(quick=1e-5, default=1e-7)
    slow = LogisticRegression(C=C, solver="gd", tol=tol, max_iter=20_000).fit(X, y)
    fast = LogisticRegression(C=C, tol=tol).fit(X, y)
    why = "gradients of 1e-7 over curvature of 1e-2"
    equal = run.against("Newton's method", kind="consistency", atol=1e-4, why=why)
    equal("gradient descent ends where Newton does", slow.coef_, fast.coef_)
    run.metric("steps of Newton, breast cancer", fast.n_iter_, rtol=0.3)
    run.metric("steps of gradient descent, breast cancer", slow.n_iter_, rtol=0.3)


def check_multinomial(run: Run, X, y) -> None:
    """Digits, ten classes, against scikit-learn."""
    n = run.budget(quick=150, default=len(X))
    X, y = X[:n], y[:n]
    ours, theirs = LogisticRegression(tol=1e-11).fit(X, y), reference().fit(X, y)
    why = "both stop at a gradient of about 1e-10"
    equal = run.against("sklearn LogisticRegression", atol=1e-8, why=why)
    # Only differences of intercepts mean anything: the mean of all comes off on both sides.
    intercepts = (model.intercept_ - model.intercept_.mean() for model in (ours, theirs))
    equal("digits: weights", ours.coef_, theirs.coef_)
    equal("digits: intercepts", *intercepts)
    equal("digits: probabilities", ours.predict_proba(X), theirs.predict_proba(X), atol=1e-9)


def check_first_steps(run: Run, X, y) -> None:
    """Ten steps of gradient descent against torch."""
    import torch

    X, Y = ones(X[:300]), np.eye(10)[y[:300]]
    penalty = np.append(np.full(64, 1 / 300), 0.0)
    start = 0.1 * np.random.default_rng(run.seed).normal(size=(10, 65))
    path = gradient_descent(start, X, Y, penalty, lr=0.5, steps=10)
    W, theirs = torch.tensor(start, requires_grad=True), [start]
    for _ in range(10):
        loss = torch.nn.functional.cross_entropy(torch.tensor(X) @ W.T, torch.tensor(Y))
        (gradient,) = torch.autograd.grad(loss + (W[:, :64] ** 2).sum() / 600, W)
        W = (W - 0.5 * gradient).detach().requires_grad_()
        theirs.append(W.detach().numpy().copy())
    equal = run.against("torch autograd", atol=1e-12, why="rounding")
    equal("10 steps of gradient descent", path, np.array(theirs))


# ---- what it shows


def control(run: Run, name: str, X, y, n_test: int, seeds: int) -> None:
    """Balanced accuracy on unseen data, and with permuted labels."""
    found, classes = {"true": [], "permuted": []}, np.unique(y)
    for seed in run.progress(range(seeds), name):
        train, test = split(len(X), n_test, run.seed, seed)
        scaler = StandardScaler().fit(X[train])
        A, B, t = scaler.transform(X[train]), scaler.transform(X[test]), y[train]
        # Equal numbers of each class, so that chance is 1 / classes and not the majority.
        rng = np.random.default_rng([run.seed, seed, 1])
        few = np.bincount(t).min()
        even = [rng.choice(np.flatnonzero(t == c), few, replace=False) for c in classes]
        even = np.concatenate(even)
        for kind, rows, labels in (
            ("true", slice(None), t),
            ("permuted", even, rng.permutation(t[even])),
        ):
            predicted = LogisticRegression(C=0.1, tol=1e-4).fit(A[rows], labels).predict(B)
            right = [np.mean(predicted[y[test] == c] == c) for c in classes]
            found[kind].append(np.mean(right))
    level, options = 1 / len(classes), {"note": "balanced accuracy", "quick": False}
    run.claim(f"{name}: over 90 % are right", found["true"], at_least=0.9, **options)
    chance, around = f"{name}: permuted labels score at chance", (level - 0.05, level + 0.05)
    run.claim(chance, found["permuted"], at_least=around[0], at_most=around[1], **options)
    run.falsifier(f"{name}: true labels score at chance", found["true"], breaks=chance)


def loss_surface(run: Run, X, y) -> None:
    """One measurement and the intercept: the loss as a map, with both paths on it."""
    panels = {
        "mean radius in mm": (X[:, :1], (-2.6, 0.9), (-6, 34)),
        "mean radius, standardized": (StandardScaler().fit_transform(X[:, :1]), (-8, 3), (-5, 6)),
    }
    title = "Why scale features? 200 steps of gradient descent, and Newton's"
    with run.figure("surface", title, columns=2, size=(9.2, 4.5)) as axes:
        excess = []
        for ax, (name, (x, *ranges)) in zip(axes, panels.items(), strict=True):
            excess.append(draw_paths(ax, x[:, 0], y, *ranges))
            ax.set_title(name, fontsize=11, weight="normal")
        axes[0].legend(loc="upper right")
    note = f"{excess[0]:.3f} against {excess[1]:.5f} nats"
    run.claim(RAW, excess[0] / excess[1], at_least=100, deterministic=True, note=note)


def draw_paths(ax: Axes, x: Float[np.ndarray, " n"], y, w_range, b_range) -> float:
    """Both paths on the loss over (w, b); the loss that 200 steps leave above the minimum."""
    A, Y, none = ones(x[:, None]), np.eye(2)[y], np.zeros(2)
    path = gradient_descent(np.zeros((1, 2)), A, Y, none, steps=200)[:, 0]
    newton = [np.zeros(2)]
    for _ in range(8):
        newton.append(newton[-1] - newton_step(newton[-1][None], A, Y, none)[0])
    W, B = np.meshgrid(np.linspace(*w_range, 120), np.linspace(*b_range, 120))
    surface = np.logaddexp(0, (1 - 2 * y) * (W[..., None] * x + B[..., None])).mean(axis=-1)
    levels = surface.min() * np.array([1.02, 1.2, 1.6, 2.4, 4, 7, 12, 20, 35])
    ax.contour(W, B, surface, levels=levels, colors=plots.GRAY, linewidths=0.7)
    ax.plot(*np.transpose(newton), "o-", color=plots.BLUE, markersize=8, label="Newton")
    ax.plot(*path.T, ".-", color=plots.ORANGE, markersize=5, label="gradient descent")
    ax.set(xlabel="weight w", ylabel="intercept b", xlim=w_range, ylim=b_range)
    ax.grid(False)
    end, best = (loss_and_gradient(w[None], A, Y, none)[0] for w in (path[-1], newton[-1]))
    return end - best


def separable(run: Run) -> None:
    """Without a penalty, separable classes have no minimum: the weights grow for ever."""
    steps, draws = run.budget(quick=200, default=30_000), run.budget(quick=2, default=3)
    at = np.unique(np.geomspace(1, steps, 60).astype(int))
    late, lengths, theory = at > steps // 30, [], []
    for draw in range(draws):
        rng, y = np.random.default_rng([run.seed, 4, *[draw] * (draw > 0)]), np.repeat([0, 1], 40)
        X = rng.normal(size=(80, 2)) * 0.6 + np.where(y[:, None] == 1, 1.6, -1.6)
        A, Y = ones(X), np.eye(2)[y]
        paths = [
            gradient_descent(np.zeros((1, 3)), A, Y, np.array([1, 1, 0]) / (C * 80), steps=steps)
            for C in (np.inf, 10.0, 1.0)
        ]
        lengths.append([np.linalg.norm(path[at, 0, :2], axis=1) for path in paths])
        theory.append(1 / margin(A, y))
    lengths, theory = np.array(lengths), np.array(theory)
    slopes = np.array([np.polyfit(np.log(at[late]), free[late], 1)[0] for free in lengths[:, 0]])
    run.metric("growth of the weights per unit of ln t", slopes[0], rtol=0.1)
    run.metric("growth that theory gives", theory[0], rtol=0.1)
    note = f"slope over 1 / margin; first draw {slopes[0]:.2f} over {theory[0]:.2f}"
    run.claim(GROWS, slopes / theory, at_least=0.7, at_most=1.3, note=note, quick=False)
    growth = lengths[..., -1] / lengths[..., len(at) // 2]
    run.claim(STOPS, growth[:, 2], at_most=1.05, note="C = 1", quick=False)
    run.falsifier("no penalty", growth[:, 0], breaks=STOPS)
    lines = dict(zip(("no penalty", "C = 10", "C = 1"), lengths[0], strict=True))
    title = "Separable classes: do the weights ever stop growing?"
    with run.figure("separable", title, size=(8.4, 4.2)) as ax:
        lines["theory: 1 / margin"] = lengths[0, 0, -1] + theory[0] * np.log(at / steps)
        colors = (plots.ORANGE, plots.SKY, plots.BLUE, plots.REFERENCE)
        labels = {"xscale": "log", "xlabel": "step of gradient descent", "ylim": (0, None)}
        labels |= {"ylabel": "length of the weights |w|", "xlim": (1, steps)}
        plots.curves(ax, at, lines, colors=colors, **labels)


def margin(A: Float[np.ndarray, "n 3"], y) -> float:
    """The widest margin of a line that separates the classes.

    Gradient descent goes to |w| = ln t / margin (Soudry et al., 2018), with the margin of the
    points with a one attached, as the intercept takes part.
    """
    from scipy.optimize import minimize

    edge = {"type": "ineq", "fun": lambda w: (2 * y - 1) * (A @ w) - 1}
    svm = minimize(lambda w: w @ w / 2, np.ones(3), jac=lambda w: w, constraints=[edge])
    return 1 / float(np.linalg.norm(svm.x[:2]))


def classic_bugs(run: Run, X, y) -> None:
    """The genre's mistakes, one learning rate for all: what each does to the loss."""
    train, test = split(len(X), 190, run.seed, 5)
    scaler = StandardScaler().fit(X[train])
    A, B, Y = scaler.transform(X[train]), scaler.transform(X[test]), np.eye(2)[y[train]]
    n, steps, lines, worst = len(A), run.budget(quick=60, default=300), {}, {}
    for name, left, right, rate in (
        ("right", ones(A), ones(B), 0.1),
        ("no 1/n", ones(A), ones(B), 0.1 * n),  # the sum's gradient is n times the mean's
        ("no intercept", A + 1, B + 1, 0.1),  # standardized data hide it; a shift does not
        ("not scaled", ones(X[train]), ones(X[test]), 0.1),
    ):
        penalty = np.append(np.full(30, 1.0 / n), 0.0)[: left.shape[1]]
        start = np.zeros((1, left.shape[1]))
        path = gradient_descent(start, left, Y, penalty, lr=rate, steps=steps)
        losses = np.array([loss_and_gradient(W, left, Y, 0 * penalty)[0] for W in path])
        accuracy = np.mean(probabilities(right, path[-1]).argmax(axis=1) == y[test])
        lines[f"{name}, {accuracy:.0%}"] = losses
        worst[name] = losses[steps // 2 :].max()
    right, rise = next(iter(lines.values())), "the right code's loss falls at every step"
    run.claim(rise, np.diff(right).max(), at_most=0, deterministic=True, unit="nats per step")
    name = "each bug's worst loss in the second half of the run is over 3 times the right one's"
    ratios = [loss / right[-1] for bug, loss in worst.items() if bug != "right"]
    note = ", ".join(f"{bug} {loss:.3g}" for bug, loss in worst.items()) + " nats"
    run.claim(name, ratios, at_least=3, each=True, unit="times", note=note, quick=False, rtol=0.05)
    title = "What do the classic bugs do? The same rate and data, one mistake each"
    with run.figure("bugs", title, size=(8.6, 4.4)) as ax:
        labels = {"yscale": "log", "ylabel": "training log loss (nats)"}
        labels |= {"xlabel": "step of gradient descent (percent: accuracy on unseen tumors)"}
        labels |= {"reference": {"guessing, ln 2": np.log(2)}}
        colors = (plots.BLUE, plots.ORANGE, plots.PINK, plots.GREEN)
        plots.curves(ax, np.arange(steps + 1), lines, colors=colors, **labels)
