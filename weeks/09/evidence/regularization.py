"""Training is torch's; what theory says of four ingredients; then which of nine helps."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared import plots
from shared.study import PositiveInt, Run
from week09 import regularization as ours
from week09.evidence.regularization_ablation import ablate
from week09.stacked_mlp import Settings, StackedMLP, train_step


def main(run: Run, *, seeds: PositiveInt = 10, steps: PositiveInt = 400) -> None:
    """Check the training against torch, prove two theorems by numbers, and run the ablation.

    Parameters
    ----------
    seeds
        Draws of the training set, its wrong labels and the first weights.
    steps
        Optimizer steps of each network.
    """
    penalty_is_not_decay(run)
    for norm in ("none", "batch", "layer"):
        check_training(run, norm)
    check_dropout_is_ridge(run)
    stopping_is_ridge(run)
    decay_under_adam(run)
    clipping_and_heavy_tails(run)
    seeds = run.budget(quick=min(seeds, 2), default=seeds, full=3 * seeds)
    ablate(run, seeds, run.budget(quick=min(steps, 20), default=steps))


# ---- checks


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def penalty_is_not_decay(run: Run, steps: int = 20) -> None:
    """The paths of penalty and decay: one under SGD, two under Adam."""
    generator, lr, strength = run.generator(2), 0.05, 0.3
    start, x, y = (normal(generator, *shape) for shape in ((8, 12), (40, 12), (40, 8)))

    def follow(optimizer: str, **kind) -> Tensor:
        weight, path, state = start.clone(), [], {}
        options = {"lr": lr, "l2": 0.0, "decay": 0.0, **kind}
        each = {k: torch.full((8,), v, dtype=torch.float64) for k, v in options.items()}
        for _ in range(steps):
            grad = (2 / y.numel()) * (weight @ x.T - y.T) @ x
            if optimizer == "sgd":
                weight = ours.sgd_step(weight, grad, **options)
            else:
                ours.adam_step(weight, grad, state, **each)
            path.append(weight.clone())
        return torch.stack(path)

    l2, decay = (
        {name: follow(name, **{kind: strength}) for name in ("sgd", "adam")}
        for kind in ("l2", "decay")
    )
    check = run.against("the L2 penalty", kind="theorem", atol=1e-12, why="float64 rounding")
    check("under SGD, weight decay", decay["sgd"], l2["sgd"])
    name = "under Adam the L2 penalty is not weight decay: largest distance of the two paths"
    run.claim(name, (l2["adam"] - decay["adam"]).abs().max(), at_least=0.01, deterministic=True)
    run.falsifier("under SGD", (l2["sgd"] - decay["sgd"]).abs().max(), breaks=name)


def check_training(run: Run, norm: str, steps: int = 10) -> None:
    """Run 1 of a stack of three, with every ingredient but dropout, against torch alone."""
    generator = run.generator(3)
    x = torch.randn(steps, 3, 16, 6, generator=generator)
    y = torch.randint(4, (steps, 3, 16), generator=generator)
    rows = [{"lr": 0.01}, {"lr": 0.02, "decay": 0.5, "smoothing": 0.1, "clip": 0.4}, {"lr": 0.1}]
    stack, layers = StackedMLP((6, 8, 8, 4), [0, 1, 2], norm), []
    kinds = {"none": nn.Identity, "batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
    for weight, bias in zip(stack.weights, stack.biases, strict=True):
        linear = nn.Linear(*weight.shape[1:])
        with torch.no_grad():
            linear.weight.copy_(weight[1].T)
            linear.bias.copy_(bias[1, 0])
        layers += [linear, kinds[norm](8), nn.ReLU()]
    alone = nn.Sequential(*layers[:-2])
    matrices = [p for p in alone.parameters() if p.ndim == 2]
    vectors = [p for p in alone.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.5}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.02)
    settings, states, losses = Settings.of(rows), [{} for _ in stack.parameters()], []
    for i in range(steps):
        loss = F.cross_entropy(alone(x[i, 1]), y[i, 1], label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(alone.parameters(), 0.4)
        optimizer.step()
        in_stack = train_step(stack, x[i], y[i], settings, states, generator)[1]
        losses.append((in_stack.item(), loss.item()))
    why = "float32 rounding, amplified by Adam's division"
    check = run.against("torch.nn and torch.optim.AdamW, that run alone", atol=2e-5, why=why)
    check(f"losses of {steps} training steps, norm {norm}", *np.array(losses).T)


# ---- theorems by numbers


def check_dropout_is_ridge(run: Run) -> None:
    """Dropout on linear regression is ridge, by all masks."""
    rng, n, d, p = np.random.default_rng(run.seed), 30, 8, 0.4
    X, y = rng.normal(size=(n, d)) * np.geomspace(0.3, 3, d), rng.normal(size=n)
    masks = np.array(np.meshgrid(*[[0, 1]] * d)).reshape(d, -1).T  # all 256, so no sampling error
    chance = (1 - p) ** masks.sum(1) * p ** (d - masks.sum(1))
    w = rng.normal(size=d)
    predictions = np.einsum("nd,md,d->nm", X, masks / (1 - p), w)
    expected = (((y[:, None] - predictions) ** 2) @ chance).sum()
    squares = (X**2).sum(0)
    ridge = ((y - X @ w) ** 2).sum() + p / (1 - p) * (squares * w**2).sum()
    against = "squared error + p/(1-p) Σ (Σ x²) w²"
    check = run.against(against, kind="theorem", rtol=1e-12, why="float64 rounding")
    check("dropout's expected loss, all masks", expected, ridge)


def stopping_is_ridge(run: Run) -> None:
    """Gradient descent from 0 shrinks as ridge does, nearly, with λ = 1 / (η t)."""
    rng, n, d, noise, lr = np.random.default_rng(run.seed), 60, 40, 1.0, 0.02
    spectrum = np.geomspace(3, 0.01, d)
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    X = np.linalg.qr(rng.normal(size=(n, d)))[0] * np.sqrt(n * spectrum) @ basis.T
    y = X @ rng.normal(size=d) / np.sqrt(d) * 2 + noise * rng.normal(size=n)
    w, steps = np.zeros(d), 400
    for _ in range(steps):
        w = ours.sgd_step(torch.tensor(w), torch.tensor(X.T @ (X @ w - y) / n), lr=lr).numpy()
    least_squares = np.linalg.lstsq(X, y, rcond=None)[0]
    shrunk = basis @ ((1 - (1 - lr * spectrum) ** steps) * (basis.T @ least_squares))
    against = "1 - (1 - ηs)^t in the eigenbasis of XᵀX/n, numpy.linalg.lstsq"
    check = run.against(against, kind="theorem", atol=1e-10, why="float64 rounding")
    check(f"gradient descent after {steps} steps", w, shrunk)

    times = np.geomspace(0.05, 5000, 400)[:, None]

    def worst_ratio(factor: float) -> float:
        """Stopped at t over ridge with λ = factor / t: exact risks under the prior N(0, r²/d)."""

        def risk(keep, prior: float):
            each = prior * (1 - keep) ** 2 + noise / n * keep**2 / spectrum
            return each.sum(-1)

        stopped, kept = 1 - np.exp(-times * spectrum), spectrum / (spectrum + factor / times)
        powers = [power / d for power in (0.1, 1.0, 10.0, 100.0)]
        return max(float((risk(stopped, r) / risk(kept, r)).max()) for r in powers)

    name = "stopping is ridge with λ = 1/t: stopped / ridge risk, worst"
    note = "400 times, 4 signal strengths; 1.69 is the bound of Ali, Kolter and Tibshirani (2019)"
    run.claim(name, worst_ratio(1.0), at_most=1.69, deterministic=True, note=note)
    run.falsifier("ridge with λ = 10/t", worst_ratio(10.0), breaks=name)
    title = "Stopping after t (solid) is ridge with λ = 1/t (dashed), nearly"
    with run.figure("filters", title, size=(8.0, 4.2)) as axes:
        s, colors = np.geomspace(1e-4, 10, 300), (plots.BLUE, plots.ORANGE, plots.GREEN)
        for t, color in zip((1, 10, 100), colors, strict=True):
            axes.plot(s, s / (s + 1 / t), color=color, ls="--", lw=1.5)
        stopped = {f"t = {t}": 1 - np.exp(-s * t) for t in (1, 10, 100)}
        labels = {"xlabel": "eigenvalue s of XᵀX/n: how well the data show a direction"}
        labels |= {"ylabel": "share of least squares kept", "xscale": "log", "ends": False}
        plots.curves(axes, s, stopped, colors=colors, **labels)


def decay_under_adam(run: Run) -> None:
    """Weights whose gradients are pure noise of ten sizes: what each kind of decay leaves."""
    runs, lr, strength = run.budget(quick=10, default=100), 1e-3, 1.0
    steps, scales, left = 1000, torch.logspace(-1, 2, 10), {}
    for name in ("L2 in the gradient", "decoupled decay"):
        generator, state, weight = run.generator(5), {}, torch.ones(runs, 10)
        kinds = {"l2": strength, "decay": 0.0}
        if name == "decoupled decay":
            kinds = {"l2": 0.0, "decay": strength}
        options = {k: torch.full((runs,), v) for k, v in {"lr": lr, **kinds}.items()}
        for _ in range(steps):
            grad = scales * torch.randn(runs, 10, generator=generator)
            ours.adam_step(weight, grad, state, **options)
        left[name] = weight.numpy()
    theory = (1 - lr * strength) ** steps
    # without the smallest scales, where the penalty is no smaller than the gradient
    decades = np.log10(scales[3:].numpy())
    coupled, decoupled = (np.polyfit(decades, values.T[3:], 1)[0] for values in left.values())
    options = {"note": "rise per decade of gradient", "rtol": 0.01}
    name = "Adam with L2 leaves more of weights with larger gradients"
    run.claim(name, coupled, at_least=0.05, **options)
    run.falsifier("decoupled decay", decoupled, breaks=name)
    name = "decoupled decay is blind to the size of gradients"
    run.claim(name, decoupled, at_least=-0.05, at_most=0.05, **options)
    run.metric("left under L2, gradient scale 100", left["L2 in the gradient"][:, -1].mean())
    name = "left under decoupled decay, gradient scale 100"
    run.metric(name, left["decoupled decay"][:, -1].mean())
    run.metric("left under decay, theory", theory)
    title = "Under Adam, L2 spares the weights with the largest gradients"
    with run.figure("adam_decay", title, size=(8.0, 4.0)) as axes:
        fine = np.geomspace(1, 100, 50)
        axes.plot(fine, np.exp(-lr * strength * steps / fine), ":", color=plots.REFERENCE)
        labels = {"xlabel": "size of a weight's gradient (dotted: theory, exp(−ηλt / size))"}
        labels |= {"ylabel": f"left of a weight after {steps} steps", "xscale": "log"}
        options = {"colors": (plots.ORANGE, plots.BLUE), "reference": {"(1 − ηλ)^t": theory}}
        plots.curves(axes, scales, left, **options, ends=False, **labels)


def clipping_and_heavy_tails(run: Run) -> None:
    """SGD on a bowl with noise of infinite variance and with Gaussian noise, clipped or not."""
    seeds, steps, d = run.budget(quick=10, default=60), run.budget(quick=50, default=300), 10
    plain = [(float("inf"), lr) for lr in np.geomspace(1e-3, 1, 18)]
    clipped = [(c, lr) for c in (3.0, 10.0, 30.0) for lr in np.geomspace(1e-3, 1, 6)]
    trials = plain + clipped  # 18 each: both arms are tuned alike
    limit, lr = (torch.tensor(v).repeat_interleave(seeds) for v in np.array(trials).T)

    def final_distances(kind: str, offset: int) -> np.ndarray:
        noise = np.random.default_rng([run.seed, 9, offset])
        w = torch.full((len(trials) * seeds, d), 3.0, dtype=torch.float64)
        for _ in range(steps):
            shape = (seeds, d)
            draw = noise.standard_t(1.2, shape) if kind == "heavy" else noise.normal(size=shape)
            grad = w + torch.tensor(draw).repeat(len(trials), 1)
            w = w - lr[:, None] * ours.clip_by_norm([grad], limit)[0]
        return w.norm(dim=1).view(len(trials), seeds).numpy()

    gain, final, best = {}, {}, {}
    for kind in ("heavy", "gaussian"):
        tuning = final_distances(kind, 0).mean(1)  # chosen with one noise, judged with another
        best[kind] = int(tuning[:18].argmin()), 18 + int(tuning[18:].argmin())
        final[kind] = final_distances(kind, 1)
        a, b = (final[kind][i] for i in best[kind])
        gain[kind] = np.log(a / b)
        run.metric(f"final distance, {kind} noise, unclipped", a.mean())
        run.metric(f"final distance, {kind} noise, clipped", b.mean())
    options = {"quick": False, "note": "log of unclipped over clipped final distance"}
    name = "clipping helps where gradients have heavy tails"
    run.claim(name, gain["heavy"], at_least=0.2, **options)
    run.falsifier("Gaussian noise", gain["gaussian"], breaks=name)
    name = "under Gaussian noise clipping does not help"
    run.claim(name, gain["gaussian"], at_most=0.1, **options)
    title = "Where does clipping matter? Where single gradients can be huge"
    with run.figure("clipping", title, columns=2, size=(9.2, 4.2), sharey=True) as axes:
        names = {"heavy": "Student noise, infinite variance", "gaussian": "Gaussian noise"}
        for panel, (kind, name) in zip(axes, names.items(), strict=True):
            c = trials[best[kind][1]][0]
            rows = {"no clipping": list(range(18))}
            rows[f"norm clipped to {c:.0f}"] = [i for i in range(18, 36) if trials[i][0] == c]
            rates = {label: [trials[i][1] for i in which] for label, which in rows.items()}
            medians = {label: np.median(final[kind][which], 1) for label, which in rows.items()}
            labels = {"xlabel": "learning rate", "xscale": "log", "yscale": "log", "marker": "o"}
            options = {"colors": (plots.ORANGE, plots.BLUE), "reference": {"start": 3 * d**0.5}}
            plots.curves(panel, rates, medians, **options, ends=False, **labels)
            panel.set_title(name, fontsize=11, weight="normal")
        axes[0].set_ylabel(f"median distance after {steps} steps")
