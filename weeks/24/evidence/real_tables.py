"""Nine predictions on digits and on a table: log loss, calibration, and what is not a digit."""

import numpy as np
import torch
from torch import Tensor

from shared import datasets, plots
from shared.study import Run
from week06.metrics import roc_auc
from week06.probabilities import calibration_error
from week24.bayes_by_backprop import fit_mean_field
from week24.bayesian_nn import doubt, dropout_masks, fit, log_predictive
from week24.laplace import KroneckerLaplace, Laplace, draw
from week24.net_posterior import MLP, Categorical, Posterior
from week24.stochastic_gradient_samplers import sgld, swag

SEEN = "another split, while the code was written"
N_TEST, P = 300, 0.2
WIDTHS = {"digits": (64, 16, 10), "breast_cancer": (30, 10, 2)}
N_TRAIN = {"digits": 400, "breast_cancer": 150}


def rows_of(name: str, seed: int) -> tuple[Posterior, Tensor, Tensor, Tensor]:
    """Training rows in a posterior, test rows with labels, and other test rows to doubt."""
    if name == "digits":
        images, labels = datasets.digits()
        x = images.reshape(len(images), -1) / 16
    else:
        table = datasets.bundled(name)
        x, labels = (table.data - table.data.mean(axis=0)) / table.data.std(axis=0), table.target
    order = np.random.default_rng(seed).permutation(len(x))
    x, y = torch.from_numpy(x[order]), torch.from_numpy(labels[order]).long()
    n, net = N_TRAIN[name], MLP(*WIDTHS[name])
    posterior = Posterior(net, Categorical(), x[:n], y[:n], 1.0)
    return posterior, x[n : n + N_TEST], y[n : n + N_TEST], x[n + N_TEST : n + 2 * N_TEST]


def patches(n: int, rng: np.random.Generator) -> Tensor:
    """Eight by eight pixels out of photographs, as bright and as contrasted as digits can be."""
    photos = [photo.mean(axis=-1) for photo in datasets.photographs().values()]
    found = np.empty((n, 8, 8))
    for patch in found:
        photo = photos[rng.integers(len(photos))]
        i, j = (rng.integers(0, side - 8) for side in photo.shape)
        patch[:] = photo[i : i + 8, j : j + 8]
    found -= found.min(axis=(1, 2), keepdims=True)
    found /= np.maximum(found.max(axis=(1, 2), keepdims=True), 1)
    return torch.from_numpy(found.reshape(n, -1))


def outputs_of(posterior: Posterior, x: Tensor, seed: int, scale: float) -> dict[str, Tensor]:
    """Outputs of many nets on the rows of x, by method; `scale` shortens training."""
    net, g = posterior.net, torch.Generator().manual_seed(seed)
    steps, batches = max(int(500 * scale), 5), {"batch_size": 100, "generator": g}
    members = fit(posterior, net.start(5, g), steps=steps, lr=0.02, **batches)
    theta = members[0]
    dropped = fit(posterior, net.start(1, g), steps=steps, lr=0.02, dropout=P, **batches)[0]
    q = fit_mean_field(
        posterior, steps=2 * steps, lr=0.02, n_draws=2, start=theta, start_sd=0.05, **batches
    )
    path = {"steps": steps, "keep_every": max(steps // 40, 1), **batches}
    wandered = swag(posterior, theta, lr=0.05, **path)
    walk = {"burn_in": steps // 4, "keep_every": max(steps // 100, 1), **batches}
    chain = sgld(posterior, theta, step=2e-4, steps=2 * steps, **walk)
    laplaces = {
        "Laplace": Laplace(posterior, theta),
        "Kronecker": KroneckerLaplace(posterior, theta),
        "last layer": Laplace(posterior, theta, last_layer=True),
    }
    return {
        "one net": net(members[:1], x),
        "ensemble": net(members, x),
        "MC dropout": net(dropped, x, dropout_masks(net, P, (100, 1), g)),
        "mean field": net(q.draw(100, g), x),
        **{name: draw(found.predict(x), 100, g) for name, found in laplaces.items()},
        "SWAG": net(wandered.draw(100, g), x),
        "SGLD": net(chain, x),
    }


def judged(outputs: Tensor, y: Tensor) -> tuple[float, float]:
    """Log loss, and calibration error of the confidence in the likeliest class."""
    said, guess = outputs.softmax(-1).mean(0).max(-1)
    loss = -float(log_predictive(Categorical(), outputs, y).mean())
    sure = said.clamp(max=1).numpy()  # a mean of ones may round above one
    return loss, calibration_error((guess == y).numpy(), sure, n_bins=10)


def area(inside: Tensor, outside: Tensor) -> float:
    """How often a row from outside is doubted more than one from inside, by entropy."""
    scores = np.concatenate([doubt(part)[0].numpy() for part in (inside, outside)])
    return roc_auc(np.arange(len(scores)) >= inside.shape[1], scores)


def judge_real_tables(run: Run, splits: int) -> None:
    """Each method on each split, and a figure of them all."""
    scale = run.budget(quick=0.02, default=0.4, full=2.0)
    scores: dict[tuple[str, str], dict[str, list]] = {}
    for seed in run.progress(range(run.seed, run.seed + splits), "splits"):
        for data in WIDTHS:
            posterior, x, y, other = rows_of(data, seed)
            parts = {"test": x}
            if data == "digits":
                turned = other.view(-1, 8, 8).rot90(1, (1, 2)).flatten(1)
                photos = patches(N_TEST, np.random.default_rng(seed))
                parts |= {"upright": other, "turned": turned, "photographs": photos}
            found = outputs_of(posterior, torch.cat(list(parts.values())), seed, scale)
            for method, outputs in found.items():
                cut = outputs.split([len(part) for part in parts.values()], dim=1)
                by_part = dict(zip(parts, cut, strict=True))
                row = dict(zip(("log loss", "ECE"), judged(by_part["test"], y), strict=True))
                for name in list(parts)[1:]:
                    row[name] = area(by_part["test"], by_part[name])
                if method == "one net":
                    row["copies"] = judged(outputs[:, : len(x)].repeat(5, 1, 1), y)[0]
                for name, value in row.items():
                    scores.setdefault((data, name), {}).setdefault(method, []).append(value)
    judge(run, scores)
    show(run, scores)


def judge(run: Run, scores: dict) -> None:
    """Claims with an interval over splits, each with the control that must fail."""
    options = {"quick": False, "rtol": None, "seen_before": SEEN}
    for data in WIDTHS:
        loss = {k: np.array(v) for k, v in scores[data, "log loss"].items()}
        copies = np.array(scores[data, "copies"]["one net"])
        for method in ("ensemble", "Kronecker"):
            name = f"{data}: a lower log loss than one net, {method}"
            gain = loss["one net"] - loss[method]
            run.claim(name, gain, at_least=0.005, unit="nats", **options)
            if method == "ensemble":
                run.falsifier(
                    f"{data}: five copies of a net", loss["one net"] - copies, breaks=name
                )
    seen = scores["digits", "turned"]
    name = "an ensemble tells turned digits from upright ones"
    run.claim(name, seen["ensemble"], at_least=0.75, unit="AUC", **options)
    run.falsifier("other upright digits", scores["digits", "upright"]["ensemble"], breaks=name)
    name = "an ensemble sees them better than one net"
    gain = np.subtract(seen["ensemble"], seen["one net"])
    run.claim(name, gain, at_least=0.0, unit="AUC", **options)
    for (data, what), by_method in scores.items():
        for method, values in by_method.items():
            if what not in ("upright", "copies"):
                run.metric(f"{data}, {what}, {method}", np.mean(values), rtol=None)


def show(run: Run, scores: dict) -> None:
    """Log loss and calibration of digits; turned digits and photographs."""
    wanted = {
        "log loss (nats)": "log loss",
        "calibration error": "ECE",
        "AUC, turned digits": "turned",
        "AUC, photographs": "photographs",
    }
    title = "Digits: what is averaging over nets worth?"
    with run.figure("digits", title, 1, 4, size=(12, 4.5), sharey=True) as axes:
        for ax, (label, what) in zip(axes, wanted.items(), strict=True):
            plots.bars(ax, scores["digits", what], xlabel=label)
        axes[2].set(xlim=(0.5, 1))
        axes[3].set(xlim=(0.5, 1))
