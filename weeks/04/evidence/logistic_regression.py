"""Checks, claims and figures of logistic_regression."""

import warnings

import numpy as np
from jaxtyping import Float
from matplotlib.colors import ListedColormap

from shared import datasets, plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week01.pca import PCA
from week04.evidence.linear_regression import split
from week04.linear_regression import StandardScaler
from week04.logistic_regression import (
    LogisticRegression,
    gradient_descent,
    irls_step,
    loss_and_gradient,
    newton_step,
    probabilities,
)


def breast_cancer() -> tuple[np.ndarray, np.ndarray]:
    """569 tumours, 30 measurements each; 0 is malignant, 1 benign."""
    from sklearn.datasets import load_breast_cancer

    return load_breast_cancer(return_X_y=True)


def digits() -> tuple[np.ndarray, np.ndarray]:
    """1797 digits of 8 by 8 pixels, 0 to 1."""
    data = datasets.digits()
    return data.images.reshape(len(data.images), -1) / data.images.max(), data.labels


def ones(X: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n q"]:
    """X with a last column of ones, for the intercept."""
    return np.column_stack([X, np.ones(len(X))])


# ---- checks


def _reference(C: float):
    from sklearn.linear_model import LogisticRegression as Reference

    return Reference(C=C, solver="newton-cholesky", tol=1e-12, max_iter=1000)


def check_binary(run: Run) -> None:
    """Breast cancer, by Newton and by gradient descent, against scikit-learn."""
    X, y = breast_cancer()
    X = StandardScaler().fit_transform(X)
    against, why = "sklearn LogisticRegression", "both stop at a gradient of about 1e-10"
    for C in (0.01, 1.0, 100.0):
        ours, theirs = LogisticRegression(C=C, tol=1e-11).fit(X, y), _reference(C).fit(X, y)
        run.check(f"breast cancer, C = {C:g}: weights",
                  np.append(ours.coef_, ours.intercept_),
                  np.append(theirs.coef_, theirs.intercept_),
                  against=against, atol=1e-8, why=why)  # fmt: skip
        run.check(f"breast cancer, C = {C:g}: probabilities", ours.predict_proba(X),
                  theirs.predict_proba(X), against=against, atol=1e-9, why=why)  # fmt: skip
    C, steps = 0.01, run.budget(quick=5000, default=20000)
    slow = LogisticRegression(C=C, solver="gd", tol=1e-7, max_iter=steps).fit(X, y)
    fast = LogisticRegression(C=C, tol=1e-7).fit(X, y)
    run.check("gradient descent ends where Newton does", slow.coef_, fast.coef_,
              against="Newton's method", atol=1e-4,
              why="gradients of 1e-7 over curvature of 1e-2")  # fmt: skip
    run.metric("steps of Newton, breast cancer", fast.n_iter_, rtol=0.3)
    run.metric("steps of gradient descent, breast cancer", slow.n_iter_, rtol=0.3)


def check_multinomial(run: Run) -> None:
    """Digits, ten classes, against scikit-learn."""
    X, y = digits()
    X, y = (X[:600], y[:600]) if run.mode == "quick" else (X, y)
    ours, theirs = LogisticRegression(tol=1e-11).fit(X, y), _reference(1.0).fit(X, y)
    against, why = "sklearn LogisticRegression", "both stop at a gradient of about 1e-10"
    # Only differences of intercepts mean anything; both sides are told apart from their mean.
    centered = [model.intercept_ - model.intercept_.mean() for model in (ours, theirs)]
    run.check("digits: weights", ours.coef_, theirs.coef_, against=against, atol=1e-8, why=why)
    run.check("digits: intercepts", *centered, against=against, atol=1e-8, why=why)
    run.check("digits: probabilities", ours.predict_proba(X), theirs.predict_proba(X),
              against=against, atol=1e-9, why=why)  # fmt: skip


def check_first_steps(run: Run) -> None:
    """Ten steps of gradient descent against torch; IRLS against Newton."""
    import torch

    X, y = digits()
    X, Y = ones(X[:300]), np.eye(10)[y[:300]]
    penalty = np.append(np.full(64, 1 / 300), 0.0)
    start = 0.1 * np.random.default_rng(run.seed).normal(size=(10, 65))
    path = gradient_descent(start, X, Y, penalty, learning_rate=0.5, n_steps=10)
    W = torch.tensor(start, requires_grad=True)
    theirs = [start]
    for _ in range(10):
        loss = torch.nn.functional.cross_entropy(torch.tensor(X) @ W.T, torch.tensor(Y))
        (gradient,) = torch.autograd.grad(loss + (W[:, :64] ** 2).sum() / 600, W)
        W = (W - 0.5 * gradient).detach().requires_grad_()
        theirs.append(W.detach().numpy().copy())
    run.check("10 steps of gradient descent", path, np.array(theirs),
              against="torch autograd", atol=1e-12, why="rounding")  # fmt: skip

    X, y = breast_cancer()
    X, Y = ones(StandardScaler().fit_transform(X[:, :5])), np.eye(2)[y]
    w = 0.1 * np.random.default_rng(run.seed).normal(size=6)
    newton = (w - newton_step(w[None], X, Y, np.zeros(6)))[0]
    run.check("a step of Newton", newton, irls_step(w, X, Y[:, 1]),
              against="weighted least squares (IRLS)", atol=1e-9, why="rounding")  # fmt: skip


# ---- what it shows


def control(run: Run, seeds: int) -> None:
    """Accuracy on unseen data, and with permuted labels."""
    for name, (X, y), size in (("breast cancer", breast_cancer(), 190), ("digits", digits(), 1297)):
        scores, permuted = [], []
        for seed in run.progress(range(seeds if name != "digits" else min(seeds, 5)), name):
            train, test = split(len(X), size, run.seed, seed)
            scaler = StandardScaler().fit(X[train])
            A, B = scaler.transform(X[train]), scaler.transform(X[test])
            scores.append(LogisticRegression(C=0.1, tol=1e-4).fit(A, y[train]).score(B, y[test]))
            # Equal numbers of each class, so that chance is 1 / classes and not the majority.
            rng = np.random.default_rng([run.seed, seed, 1])
            few = np.bincount(y[train]).min()
            even = np.concatenate([rng.choice(np.flatnonzero(y[train] == c), few, replace=False)
                                   for c in np.unique(y)])  # fmt: skip
            model = LogisticRegression(C=0.1, tol=1e-4)
            model.fit(A[even], rng.permutation(y[train][even]))
            predicted = model.predict(B)
            # Balanced accuracy: the mean over classes of the share that was found.
            found = [np.mean(predicted[y[test] == c] == c) for c in np.unique(y)]
            permuted.append(np.mean(found))
        real, chance, level = mean_interval(scores), mean_interval(permuted), 1 / len(np.unique(y))
        run.metric(f"accuracy on unseen data, {name}", 100 * real.mean, "%")
        run.claim(
            f"{name}: permuted labels score at chance ({level:.0%}), true ones above 90 %",
            abs(chance.mean - level) < max(chance.high - chance.mean, 0.05) and real.low > 0.9,
            f"true {real}; permuted {chance}, balanced",
        )


def loss_surface(run: Run) -> None:
    """One measurement and the intercept: the loss as a map, with both paths on it."""
    X, y = breast_cancer()
    radius, Y = X[:, :1], np.eye(2)[y]
    title = "Why scale features? 200 steps of gradient descent, and Newton's"
    scaled = StandardScaler().fit_transform(radius)
    panels = (
        ("mean radius in mm", radius, (-2.6, 0.9), (-6, 34)),
        ("mean radius, standardized", scaled, (-8, 3), (-5, 6)),
    )
    ends = []
    with run.figure("surface", title, columns=2, size=(9.2, 4.5)) as axes:
        for ax, (name, x, w_range, b_range) in zip(axes, panels, strict=True):
            A, none = ones(x), np.zeros(2)
            W, B = np.meshgrid(np.linspace(*w_range, 120), np.linspace(*b_range, 120))
            sign = 1 - 2 * y
            Z = sign * (W[..., None] * x[:, 0] + B[..., None])
            surface = np.logaddexp(0, Z).mean(axis=-1)
            path = gradient_descent(np.zeros((1, 2)), A, Y, none, n_steps=200)[:, 0]
            newton = [np.zeros(2)]
            for _ in range(8):
                newton.append(newton[-1] - newton_step(newton[-1][None], A, Y, none)[0])
            newton = np.array(newton)
            levels = surface.min() * np.array([1.02, 1.2, 1.6, 2.4, 4, 7, 12, 20, 35])
            ax.contour(W, B, surface, levels=levels, colors=plots.GRAY, linewidths=0.7)
            shades = [str(gray) for gray in np.linspace(1.0, 0.72, len(levels) + 1)]
            ax.contourf(W, B, surface, levels=[0, *levels, 1e9], colors=shades)
            ax.plot(*newton.T, "o-", color=plots.BLUE, markersize=10, lw=1.5, mfc="white")
            ax.plot(*newton[-1], "*", color=plots.REFERENCE, markersize=15)
            ax.plot(*path.T, ".-", color=plots.ORANGE, markersize=5, lw=1.2)
            ax.set_title(name, fontsize=11, weight="normal")
            ax.set(xlabel="weight w", ylabel="intercept b", xlim=w_range, ylim=b_range)
            ax.grid(False)
            best = loss_and_gradient(newton[-1][None], A, Y, none)[0]
            ends.append(loss_and_gradient(path[-1][None], A, Y, none)[0] - best)
        for ax, text, color, place in (
            (axes[0], "gradient descent,\nafter 200 steps still here", plots.ORANGE, (-1.1, -4.8)),
            (axes[0], "Newton", plots.BLUE, (-0.55, 11)),
            (axes[0], "minimum", plots.REFERENCE, (-1.85, 14)),
            (axes[1], "gradient descent", plots.ORANGE, (-3.9, -0.4)),
            (axes[1], "Newton", plots.BLUE, (-2.1, 1.1)),
        ):
            ax.text(*place, text, color=color, fontsize=10)
    run.metric("excess loss after 200 steps, raw", ends[0], "nats", rtol=0.1)
    run.metric("excess loss after 200 steps, standardized", ends[1], "nats", rtol=0.1)
    run.claim("200 steps on the raw feature leave 100 times the excess loss of the standardized",
              ends[0] > 100 * ends[1], f"{ends[0]:.3f} against {ends[1]:.5f} nats")  # fmt: skip


def boundaries(run: Run) -> None:
    """Where the classes change: straight lines, for two classes and for five."""
    X, y = breast_cancer()
    title = "What do the boundaries look like? Straight, for two classes and for five"
    with run.figure("boundaries", title, columns=2, size=(9.2, 4.6)) as (left, right):
        A = StandardScaler().fit_transform(X[:, [0, 1]])
        model = LogisticRegression().fit(A, y)
        grid = np.stack(np.meshgrid(*[np.linspace(-2.6, 4.2, 200)] * 2), axis=-1)
        p = model.predict_proba(grid.reshape(-1, 2))[:, 0].reshape(200, 200)
        left.imshow(p, extent=(-2.6, 4.2, -2.6, 4.2), origin="lower", aspect="auto",
                    cmap="PuOr_r", alpha=0.4, vmin=-0.2, vmax=1.2)  # fmt: skip
        left.contour(*np.moveaxis(grid, -1, 0), p, levels=[0.1, 0.5, 0.9],
                     colors=plots.REFERENCE, linewidths=[1, 2, 1])  # fmt: skip
        for level in (0.1, 0.5, 0.9):
            at = float(np.interp(level, p[199], grid[199, :, 0]))
            left.text(at, 4.25, f"{level}", ha="center", va="bottom", fontsize=9)
        for c, color, name, place in ((1, "#542788", "benign", (-2.4, -2.4)),
                                      (0, "#B35806", "malignant", (2.3, 3.6))):  # fmt: skip
            left.plot(*A[y == c].T, "o", color=color, markersize=3, alpha=0.6)
            left.text(*place, name, color=color, weight="bold")
        left.set(xlabel="mean radius (standard deviations)", ylabel="mean texture (same)")
        left.set(xlim=(-2.6, 4.2), ylim=(-2.6, 4.2))
        left.set_title("tumours: probability of malignant\n", fontsize=11, weight="normal")

        X, y = digits()
        few = y < 5
        Z, y = StandardScaler().fit_transform(PCA(2).fit_transform(X[few])), y[few]
        model = LogisticRegression().fit(Z, y)
        side = np.linspace(-2.6, 2.6, 300)
        grid = np.stack(np.meshgrid(side, side), axis=-1)
        regions = model.predict(grid.reshape(-1, 2)).reshape(300, 300)
        colors = [plots.BLUE, plots.ORANGE, plots.GREEN, plots.PINK, plots.YELLOW]
        right.imshow(regions, extent=(-2.6, 2.6, -2.6, 2.6), origin="lower", aspect="auto",
                     cmap=ListedColormap(colors), alpha=0.2)  # fmt: skip
        for c, color in enumerate(colors):
            right.scatter(*Z[y == c].T, s=14, marker=f"${c}$", color=color, alpha=0.8, lw=0.2)
        right.set(xlabel="first principal component (scaled)", ylabel="second (scaled)")
        right.set(xlim=(-2.6, 2.6), ylim=(-2.6, 2.6))
        right.set_title("digits 0 to 4: the most probable\n", fontsize=11, weight="normal")
        for ax in (left, right):
            ax.grid(False)


def separable(run: Run) -> None:
    """Without a penalty, separable classes have no minimum: the weights grow for ever."""
    rng = np.random.default_rng([run.seed, 4])
    y = np.repeat([0, 1], 40)
    X = rng.normal(size=(80, 2)) * 0.6 + np.where(y[:, None] == 1, 1.6, -1.6)
    steps = run.budget(quick=3000, default=30000)
    A, Y, at = ones(X), np.eye(2)[y], np.unique(np.geomspace(1, steps, 60).astype(int))
    curves = {}
    for C in (np.inf, 10.0, 1.0):
        penalty = np.array([1, 1, 0]) / (C * len(X))
        path = gradient_descent(np.zeros((1, 3)), A, Y, penalty, n_steps=steps)
        curves[C] = np.linalg.norm(path[at, 0, :2], axis=1)
    # Soudry et al. (2018): |w| grows like ln t, along the direction of the widest margin.
    from scipy.optimize import minimize

    late = at > steps // 30
    slope = np.polyfit(np.log(at[late]), curves[np.inf][late], 1)[0]
    # The intercept takes part: the widest margin is that of the points with a one attached.
    edge = {"type": "ineq", "fun": lambda w: (2 * y - 1) * (A @ w) - 1}
    svm = minimize(lambda w: w @ w / 2, np.ones(3), jac=lambda w: w, constraints=[edge])
    theory = float(np.linalg.norm(svm.x[:2]))  # |w| = 1 / margin, as for any hard-margin SVM
    run.metric("growth of the weights per unit of ln t", slope, rtol=0.1)
    run.metric("growth that theory gives", theory, rtol=0.1)
    run.claim(
        "separable and unpenalized: weights grow by 1 / margin per ln t, to 30 %, and do not stop",
        abs(slope / theory - 1) < 0.3 and curves[1.0][-1] / curves[1.0][len(at) // 2] < 1.05,
        f"slope {slope:.2f}, 1 / margin {theory:.2f}; with C = 1 it stays at {curves[1.0][-1]:.2f}",
        quick=False,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        LogisticRegression(C=np.inf, solver="gd", max_iter=500).fit(X, y)
    run.claim("the class says so: it warns that it has not converged", len(caught) == 1,
              str(caught[0].message) if caught else "no warning")  # fmt: skip
    title = "Separable classes: do the weights ever stop growing?"
    with run.figure("separable", title, size=(8.4, 4.2)) as ax:
        for (C, norms), color in zip(
            curves.items(), (plots.ORANGE, plots.SKY, plots.BLUE), strict=True
        ):
            label = "no penalty" if np.inf == C else f"C = {C:g}"
            ax.plot(at, norms, color=color, label=label)
        line = curves[np.inf][-1] + theory * np.log(at / steps)
        ax.plot(at, np.where(line > 0, line, np.nan), "--", color=plots.REFERENCE, lw=1.2)
        ax.text(0.9 * at[-1], line[-1] - 2.8 * theory, "theory: 1 / margin", va="top",
                ha="right", color=plots.REFERENCE)  # fmt: skip
        ax.set(xscale="log", xlabel="step of gradient descent", ylabel="length of the weights |w|")
        ax.set(ylim=(0, None), xlim=(1, steps))
        plots.label_lines(ax)


def classic_bugs(run: Run) -> None:
    """The genre's mistakes, one learning rate for all: what each does to the loss."""
    X, y = breast_cancer()
    train, test = split(len(X), 190, run.seed, 5)
    scaler = StandardScaler().fit(X[train])
    A, B, Y = scaler.transform(X[train]), scaler.transform(X[test]), np.eye(2)[y[train]]
    n, steps = len(A), 300
    penalty = np.append(np.full(30, 1.0 / n), 0.0)
    runs = {
        "right": (ones(A), ones(B), 0.1),
        "no 1/n": (ones(A), ones(B), 0.1 * n),  # the sum's gradient is n times the mean's
        "no intercept": (A + 1, B + 1, 0.1),  # standardized data hide it; a shift does not
        "not scaled": (ones(X[train]), ones(X[test]), 0.1),
    }
    at = np.arange(steps + 1)
    curves, accuracy = {}, {}
    for name, (left, right, rate) in runs.items():
        p = penalty[: left.shape[1]]
        path = gradient_descent(np.zeros((1, left.shape[1])), left, Y, p,
                                learning_rate=rate, n_steps=steps)  # fmt: skip
        curves[name] = [loss_and_gradient(W, left, Y, 0 * p)[0] for W in path]
        last = probabilities(right, path[-1]).argmax(axis=1)
        accuracy[name] = float(np.mean(last == y[test]))
        run.metric(f"log loss after {steps} steps, {name}", curves[name][-1], "nats", rtol=0.2)
        run.metric(f"accuracy after {steps} steps, {name}", 100 * accuracy[name], "%", rtol=0.1)
    right = curves.pop("right")
    run.claim(
        "the right code's loss falls at every step; a bug's worst loss in the second half of the "
        "run is more than 3 times as high",
        bool((np.diff(right) < 0).all())
        and all(max(curve[steps // 2 :]) > 3 * right[-1] for curve in curves.values()),
        ", ".join(f"{name} {max(c[steps // 2 :]):.3g}" for name, c in curves.items())
        + f"; right {right[-1]:.3g} nats",
    )
    title = "What do the classic bugs do? The same rate and data, one mistake each"
    with run.figure("bugs", title, size=(8.6, 4.4)) as ax:
        ax.plot(at, right, color=plots.BLUE, label=f"right, {accuracy['right']:.0%}")
        for (name, curve), color in zip(
            curves.items(), (plots.ORANGE, plots.PINK, plots.GREEN), strict=True
        ):
            ax.plot(at, curve, color=color, label=f"{name}, {accuracy[name]:.0%}", lw=1.4)
        ax.plot(at, np.full(steps + 1, np.log(2)), "--", color=plots.REFERENCE, lw=1.2,
                label="guessing, ln 2")  # fmt: skip
        ax.set(yscale="log")
        ax.set_xlabel("step of gradient descent, rate 0.1 (percent: accuracy on unseen tumours)")
        ax.set_ylabel("training log loss (nats)")
        plots.label_lines(ax)


def main(run: Run, *, seeds: PositiveInt = 20) -> None:
    """Check both solvers, draw what they do, and repeat the classic mistakes.

    Parameters
    ----------
    seeds
        Random splits of the data for the claims.
    """
    seeds = run.budget(quick=min(seeds, 4), default=seeds)
    check_binary(run)
    check_multinomial(run)
    check_first_steps(run)
    control(run, seeds)
    loss_surface(run)
    boundaries(run)
    separable(run)
    classic_bugs(run)
