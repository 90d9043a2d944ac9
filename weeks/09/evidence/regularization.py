"""Checks, theorems by numbers, the ablation and the figures of `regularization.py`."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared import plots
from shared.datasets import digits
from shared.stats import Interval, mean_interval
from shared.study import PositiveInt, Run
from week09 import regularization as ours
from week09.stacked_mlp import Settings, StackedMLP, train_step

FLOAT64 = {"atol": 1e-11, "why": "float64 rounding, sums in another order"}

# ---- checks


def check_ingredients(run: Run) -> None:
    """Each ingredient forward and backward, then ten training steps with all of them."""
    generator = run.generator()

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    # batch norm: three training batches, so that the running statistics have something to run over
    mine = ours.BatchNorm(1, 5, dtype=torch.float64)
    theirs = nn.BatchNorm1d(5, dtype=torch.float64)
    with torch.no_grad():
        for a, b in ((mine.gain, theirs.weight), (mine.bias, theirs.bias)):
            a.copy_(normal(1, 1, 5))
            b.copy_(a[0, 0])
    for _ in range(3):
        x, probe = 2 * normal(7, 5) + 3, normal(7, 5)
        results = []
        for norm, shape in ((mine, (1, 7, 5)), (theirs, (7, 5))):
            z = x.view(shape).clone().requires_grad_()
            out = norm(z, training=True) if norm is mine else norm(z)
            affine = (mine.gain, mine.bias) if norm is mine else (theirs.weight, theirs.bias)
            grads = torch.autograd.grad((out * probe.view(shape)).sum(), (z, *affine))
            results.append(torch.cat([t.flatten() for t in (out, *grads)]))
    against = "torch.nn.BatchNorm1d"
    run.check("batch norm, output and gradients", *results, against=against, **FLOAT64)
    run.check("batch norm, running mean", mine.running_mean[0, 0], theirs.running_mean,
              against=against, **FLOAT64)  # fmt: skip
    run.check("batch norm, running variance (unbiased)", mine.running_var[0, 0],
              theirs.running_var, against=against, **FLOAT64)  # fmt: skip
    run.check("batch norm in use", mine(x[None], training=False)[0], theirs.eval()(x),
              against=against, **FLOAT64)  # fmt: skip

    x, gain, bias, probe = normal(1, 7, 5), normal(1, 1, 5), normal(1, 1, 5), normal(1, 7, 5)
    results = []
    for norm in (ours.layer_norm,
                 lambda x, g, b: F.layer_norm(x, (5,), g.view(5), b.view(5))):  # fmt: skip
        leaves = [t.clone().requires_grad_() for t in (x, gain, bias)]
        out = norm(*leaves)
        grads = torch.autograd.grad((out * probe).sum(), leaves)
        results.append(torch.cat([t.flatten() for t in (out, *grads)]))
    run.check("layer norm, output and gradients", *results, against="F.layer_norm", **FLOAT64)

    grads = [normal(1, 4, 3), normal(1, 6)]
    for name, function, limit, reference in (
        ("norm", ours.clip_by_norm, 1.5, nn.utils.clip_grad_norm_),
        ("value", ours.clip_by_value, 0.3, nn.utils.clip_grad_value_),
    ):
        params = [nn.Parameter(torch.zeros_like(g)) for g in grads]
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.clone()
        reference(params, limit)
        clipped = function(grads, torch.tensor([limit], dtype=torch.float64))
        run.check(f"clipping by {name}", torch.cat([g.flatten() for g in clipped]),
                  torch.cat([p.grad.flatten() for p in params]),
                  against=f"torch.nn.utils.{reference.__name__}", **FLOAT64)  # fmt: skip
    weight = normal(1, 6, 4)
    run.check("max-norm", ours.max_norm(weight, torch.tensor([0.8], dtype=torch.float64))[0],
              torch.renorm(weight[0], 2, 1, 0.8), against="torch.renorm", atol=1e-6,
              why="torch.renorm adds 1e-7 to the norm")  # fmt: skip
    _check_decay(run, normal(8, 12), normal(40, 12), normal(40, 8))
    for norm in ("none", "batch", "layer"):
        _check_training(run, norm)


def _check_decay(run: Run, start: Tensor, x: Tensor, y: Tensor, steps: int = 20) -> None:
    """The paths of penalty and decay under SGD and Adam, and where the two are one."""
    lr, strength = 0.05, 0.3
    paths = {}

    def gradient(weight):
        return (2 / y.numel()) * (weight @ x.T - y.T) @ x

    for name in ("sgd, l2", "sgd, decay", "adam, l2", "adam, decay"):
        weight, state, path = start.clone(), {}, []
        for _ in range(steps):
            kind = {name.split(", ")[1]: strength}
            if name.startswith("sgd"):
                weight = ours.sgd_step(weight, gradient(weight), lr=lr, **kind)
            else:
                options = {"lr": lr, "l2": 0.0, "decay": 0.0, **kind}
                options = {k: torch.full((8,), v, dtype=torch.float64) for k, v in options.items()}
                ours.adam_step(weight, gradient(weight), state, **options)
            path.append(weight.clone())
        paths[name] = torch.stack(path)
    for name, make in (("sgd, l2", torch.optim.SGD), ("adam, l2", torch.optim.Adam),
                       ("adam, decay", torch.optim.AdamW)):  # fmt: skip
        weight, path = nn.Parameter(start.clone()), []
        optimizer = make([weight], lr=lr, weight_decay=strength)
        for _ in range(steps):
            weight.grad = gradient(weight.detach())
            optimizer.step()
            path.append(weight.detach().clone())
        run.check(f"{name}: {steps} steps", paths[name], torch.stack(path),
                  against=f"torch.optim.{make.__name__}", **FLOAT64)  # fmt: skip
    gap = (paths["sgd, l2"] - paths["sgd, decay"]).abs().max().item()
    adam_gap = (paths["adam, l2"] - paths["adam, decay"]).abs().max().item()
    run.claim("under SGD the L2 penalty is weight decay, under Adam it is not",
              gap < 1e-12 and adam_gap > 0.01,
              f"largest distance of the two paths: SGD {gap:.0e}, Adam {adam_gap:.2f}")  # fmt: skip


def _check_training(run: Run, norm: str, steps: int = 10) -> None:
    """Run 1 of a stack of three, with every ingredient but dropout, against torch alone."""
    sizes, generator = (6, 8, 8, 4), run.generator(3)
    x = torch.randn(steps, 3, 16, 6, generator=generator)
    y = torch.randint(4, (steps, 3, 16), generator=generator)
    rows = [{"lr": 0.01}, {"lr": 0.02, "decay": 0.5, "smoothing": 0.1, "clip": 0.4}, {"lr": 0.1}]
    stack = StackedMLP(sizes, [0, 1, 2], norm)
    kinds = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}
    layers = []
    for i, (weight, bias) in enumerate(zip(stack.weights, stack.biases, strict=True)):
        linear = nn.Linear(*weight.shape[1:])
        with torch.no_grad():
            linear.weight.copy_(weight[1].T)
            linear.bias.copy_(bias[1, 0])
        layers.append(linear)
        if i < 2:
            layers += [nn.ReLU()] if norm == "none" else [kinds[norm](8), nn.ReLU()]
    alone = nn.Sequential(*layers)
    groups = [{"params": [p for p in alone.parameters() if (p.ndim == 2) == decayed],
               "weight_decay": 0.5 * decayed} for decayed in (True, False)]  # fmt: skip
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
    run.check(f"losses of {steps} training steps, norm {norm}", *np.array(losses).T,
              against="torch.nn and torch.optim.AdamW, that run alone", atol=2e-5,
              why="float32 rounding, amplified by Adam's division")  # fmt: skip


# ---- theorems by numbers


def check_theory(run: Run) -> None:
    """Dropout on linear regression is ridge; steps of gradient descent are ridge, nearly."""
    from sklearn.linear_model import Ridge

    rng, n, d, p = np.random.default_rng(run.seed), 30, 8, 0.4
    X, y = rng.normal(size=(n, d)) * np.geomspace(0.3, 3, d), rng.normal(size=n)
    masks = np.array(np.meshgrid(*[[0, 1]] * d)).reshape(d, -1).T  # all 256, so no sampling error
    chance = (1 - p) ** masks.sum(1) * p ** (d - masks.sum(1))
    w = rng.normal(size=d)
    predictions = np.einsum("nd,md,d->nm", X, masks / (1 - p), w)
    expected = (((y[:, None] - predictions) ** 2) @ chance).sum()
    penalty = p / (1 - p) * ((X**2).sum(0) * w**2).sum()
    run.check("dropout's expected loss, all masks", expected, ((y - X @ w) ** 2).sum() + penalty,
              against="squared error + p/(1-p) Σ (Σ x²) w²", rtol=1e-12,
              why="float64 rounding")  # fmt: skip
    scale = np.sqrt((X**2).sum(0))  # ridge in units in which every column has length 1
    ridge = Ridge(alpha=p / (1 - p), fit_intercept=False).fit(X / scale, y).coef_ / scale
    dropped = [X * masks[rng.choice(len(masks), n, p=chance)] / (1 - p)
               for _ in range(run.budget(quick=4000, default=40_000))]  # fmt: skip
    gram = np.mean([Z.T @ Z for Z in dropped], axis=0)
    cross = np.mean([Z.T @ y for Z in dropped], axis=0)
    run.check("least squares on dropped-out copies", np.linalg.solve(gram, cross), ridge,
              against="sklearn Ridge, columns scaled to length 1", atol=0.05 * np.abs(ridge).max(),
              why="Monte Carlo: thousands of masks a row, 5 % of the largest weight")  # fmt: skip

    # early stopping: gradient descent from 0 shrinks as ridge does, with λ = 1 / (η t)
    n, d, noise, lr = 60, 40, 1.0, 0.02
    spectrum = np.geomspace(3, 0.01, d)
    basis = np.linalg.qr(rng.normal(size=(d, d)))[0]
    X = np.linalg.qr(rng.normal(size=(n, d)))[0] * np.sqrt(n * spectrum) @ basis.T
    y = X @ rng.normal(size=d) / np.sqrt(d) * 2 + noise * rng.normal(size=n)
    w, steps = np.zeros(d), 400
    for _ in range(steps):
        w = ours.sgd_step(torch.tensor(w), torch.tensor(X.T @ (X @ w - y) / n), lr=lr).numpy()
    least_squares = np.linalg.lstsq(X, y, rcond=None)[0]
    shrunk = basis @ ((1 - (1 - lr * spectrum) ** steps) * (basis.T @ least_squares))
    run.check(f"gradient descent after {steps} steps", w, shrunk,
              against="1 - (1 - ηs)^t in the eigenbasis of XᵀX/n, numpy.linalg.lstsq",
              atol=1e-10, why="float64 rounding")  # fmt: skip
    # prior N(0, r²/d), noise σ²: the exact expected risks along both paths, direction by direction
    times, worst = np.geomspace(0.05, 5000, 400), 0.0
    for power in (0.1, 1.0, 10.0, 100.0):
        stopped = _risk(1 - np.exp(-times[:, None] * spectrum), spectrum, power / d, noise / n)
        ridged = _risk(spectrum / (spectrum + 1 / times[:, None]), spectrum, power / d, noise / n)
        worst = max(worst, float((stopped / ridged).max()))
    run.metric("stopped / ridge risk, worst", worst)
    run.claim("stopping is ridge with λ = 1/t: its risk is at most 1.69 times ridge's",
              1.0 < worst <= 1.69,
              f"worst of 400 times and 4 signal strengths: {worst:.2f}; bound of Ali, Kolter and "
              "Tibshirani (2019): 1.69")  # fmt: skip
    _figure_filters(run)


def _risk(keep, spectrum, prior_variance, noise_variance):
    """Expected squared error of the weights when direction i keeps the share keep_i."""
    return (prior_variance * (1 - keep) ** 2 + noise_variance * keep**2 / spectrum).sum(-1)


def _figure_filters(run: Run) -> None:
    with run.figure("filters", "Stopping after t and ridge with λ = 1/t keep the same directions",
                    size=(8.0, 4.2)) as ax:  # fmt: skip
        s = np.geomspace(1e-4, 10, 300)
        for t, color in ((1, plots.BLUE), (10, plots.ORANGE), (100, plots.GREEN)):
            ax.plot(s, 1 - np.exp(-s * t), color=color)
            ax.plot(s, s / (s + 1 / t), color=color, ls="--", lw=1.5)
            where = 1.15 / t
            ax.annotate(f"t = {t}", (where, 1 - np.exp(-1.15)), (-7, 6), ha="right",
                        textcoords="offset points", color=color, weight="bold")  # fmt: skip
        ax.plot([], [], color=plots.REFERENCE, label="gradient flow stopped at t: 1 − exp(−st)")
        ax.plot([], [], color=plots.REFERENCE, ls="--", lw=1.5, label="ridge: s / (s + 1/t)")
        ax.set(xscale="log", xlabel="eigenvalue s of XᵀX/n: how well the data show a direction",
               ylabel="share of the least-squares\nsolution that is kept",
               ylim=(-0.02, 1.05))  # fmt: skip
        ax.legend(loc="upper left", bbox_to_anchor=(0.0, 0.98))


def show_decay_under_adam(run: Run) -> None:
    """Weights whose gradients are pure noise of ten sizes: what each kind of decay leaves."""
    runs, steps, lr, strength = run.budget(quick=20, default=100), 1000, 1e-3, 1.0
    scales = torch.logspace(-1, 2, 10)
    left = {}
    for name in ("l2", "decay"):
        generator, state = run.generator(5), {}
        weight = torch.ones(runs, 10)
        off, on, rate = torch.zeros(runs), torch.full((runs,), strength), torch.full((runs,), lr)
        for _ in range(steps):
            grad = scales * torch.randn(runs, 10, generator=generator)
            ours.adam_step(weight, grad, state, lr=rate, l2=on if name == "l2" else off,
                           decay=on if name == "decay" else off)  # fmt: skip
        left[name] = weight.numpy()
    theory = (1 - lr * strength) ** steps
    # the mean over all scales but the smallest, where the penalty is no smaller than the gradient
    slope = mean_interval(np.polyfit(np.log10(scales[3:]), left["l2"].T[3:], 1)[0])
    flat = mean_interval(np.polyfit(np.log10(scales[3:]), left["decay"].T[3:], 1)[0])
    run.claim("Adam with L2 hardly decays weights with large gradients; decoupled decay is blind "
              "to them", slope.low > 0.05 > flat.high and flat.low > -0.05,
              f"what is left of a weight rises by {slope} a decade of gradient under L2, by {flat} "
              f"under decoupled decay")  # fmt: skip
    run.metric("left under L2, gradient scale 100", left["l2"][:, -1].mean())
    run.metric("left under decoupled decay, gradient scale 100", left["decay"][:, -1].mean())
    run.metric("left under decay, theory", theory)
    with run.figure("adam_decay", "Under Adam, L2 spares the weights with the largest gradients",
                    size=(8.0, 4.0)) as ax:  # fmt: skip
        for name, color, label in (("l2", plots.ORANGE, "L2 in the gradient"),
                                   ("decay", plots.BLUE, "decoupled decay")):  # fmt: skip
            mean, sd = left[name].mean(0), left[name].std(0)
            ax.fill_between(scales, mean - sd, mean + sd, color=color, alpha=0.18, lw=0)
            ax.plot(scales, mean, "o-", color=color, label=label)
        fine = np.geomspace(1, 100, 50)
        ax.plot(fine, np.exp(-lr * strength * steps / fine), ":", color=plots.REFERENCE,
                label="theory: exp(−ηλt / scale)")  # fmt: skip
        ax.axhline(theory, color=plots.REFERENCE, ls="--", lw=1, label="theory: (1 − ηλ)^t")
        ax.set(xscale="log", xlabel="size of a weight's gradient (pure noise, standard deviation)")
        ax.set_ylabel(f"what is left of a weight of 1\nafter {steps} steps (band: ± 1 SD)")
        ax.legend(loc="upper left")


def show_clipping(run: Run) -> None:
    """SGD on a bowl with noise of infinite variance and with Gaussian noise, clipped or not."""
    seeds, steps, d = run.budget(quick=20, default=60), 300, 10
    plain = [(float("inf"), lr) for lr in np.geomspace(1e-3, 1, 18)]
    clipped = [(c, lr) for c in (3.0, 10.0, 30.0) for lr in np.geomspace(1e-3, 1, 6)]
    trials = plain + clipped  # 18 each: both arms are tuned alike
    limit, lr = (torch.tensor(v).repeat_interleave(seeds) for v in np.array(trials).T)
    final = {}
    for kind in ("heavy", "gaussian"):
        for offset in (0, 1):  # settings are chosen with the first noise, judged with the second
            noise = np.random.default_rng([run.seed, 9, offset])
            w = torch.full((len(trials) * seeds, d), 3.0, dtype=torch.float64)
            for _ in range(steps):
                shape = (seeds, d)
                draw = noise.standard_t(1.2, shape) if kind == "heavy" else noise.normal(size=shape)
                grad = w + torch.tensor(draw).repeat(len(trials), 1)
                grad = ours.clip_by_norm([grad], limit)[0]
                w = w - lr[:, None] * grad
            final[kind, offset] = w.norm(dim=1).view(len(trials), seeds).numpy()
    gain, best = {}, {}
    for kind in ("heavy", "gaussian"):
        mean = final[kind, 0].mean(1)
        best[kind] = int(mean[:18].argmin()), 18 + int(mean[18:].argmin())
        a, b = (final[kind, 1][i] for i in best[kind])
        gain[kind] = mean_interval(np.log(a / b))
        run.metric(f"final distance, {kind} noise, unclipped", a.mean(), rtol=0.1)
        run.metric(f"final distance, {kind} noise, clipped", b.mean(), rtol=0.1)
    run.claim("clipping helps where gradients have heavy tails, and not under Gaussian noise",
              gain["heavy"].low > 0.2 and gain["gaussian"].high < 0.1,
              f"log of unclipped over clipped final distance, best of 18 settings each: "
              f"{gain['heavy']} with Student noise (1.2 degrees of freedom), {gain['gaussian']} "
              "with Gaussian noise, paired seeds")  # fmt: skip
    with run.figure("clipping", "Where does clipping matter? Where single gradients can be huge",
                    columns=2, size=(9.2, 4.2), sharey=True) as axes:  # fmt: skip
        for ax, kind, name in zip(axes, ("heavy", "gaussian"),
                                  ("Student noise, infinite variance", "Gaussian noise"),
                                  strict=True):  # fmt: skip
            c = trials[best[kind][1]][0]
            for rows, color, label in (
                (range(18), plots.ORANGE, "no clipping"),
                ([i for i in range(18, 36) if trials[i][0] == c], plots.BLUE,
                 f"norm clipped to {c:.0f}"),
            ):  # fmt: skip
                rates, runs = [trials[i][1] for i in rows], final[kind, 1][list(rows)]
                ax.fill_between(rates, *np.quantile(runs, [0.1, 0.9], axis=1), color=color,
                                alpha=0.18, lw=0)  # fmt: skip
                ax.plot(rates, np.median(runs, 1), "o-", ms=4, color=color, label=label)
            ax.axhline(3 * np.sqrt(d), color=plots.REFERENCE, ls="--", lw=1)
            ax.set(xscale="log", yscale="log", xlabel="learning rate")
            ax.set_title(name, fontsize=11, weight="normal")
            ax.legend(loc="lower left" if kind == "heavy" else "upper center")
        axes[1].text(1.0, 3 * np.sqrt(d) * 1.08, "start", ha="right", color=plots.REFERENCE,
                     fontsize=9)  # fmt: skip
        axes[0].set(ylabel=f"distance from the minimum\nafter {steps} steps (median, 80 % band)")


# ---- the ablation

N_TRAIN, N_VALID, BATCH, HIDDEN, LR, EVERY = 200, 300, 50, 64, 3e-3, 10
GRID = {
    "weight decay": ("decay", (0.3, 1.0, 3.0, 10.0)),
    "L2 in Adam": ("l2", (0.003, 0.01, 0.03, 0.1)),
    "dropout": ("dropout", (0.2, 0.35, 0.5, 0.65)),
    "max-norm": ("max_norm", (0.25, 0.35, 0.5, 0.8)),
    "label smoothing": ("smoothing", (0.03, 0.1, 0.3, 0.6)),
    "gradient clipping": ("clip", (0.01, 0.1, 0.3, 1.0)),
}
PATIENCE = (1, 2, 4, 8)


class Task:
    """Rows to learn from and to choose by, drawn by seed with wrong labels; one clean test set.

    The test rows are the same for every seed and never among those drawn.
    """

    def __init__(self, seeds: int, noise: float, first: int):
        data = digits()
        x = torch.tensor(data.images.reshape(-1, 64) / 8 - 1, dtype=torch.float32)
        y = torch.tensor(data.labels)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(first))
        self.x, self.y_test = x[order], y[order][1000:]
        rows, labels = [], []
        for seed in range(seeds):
            g = torch.Generator().manual_seed(1000 * first + seed + 1)
            row = torch.randperm(1000, generator=g)[: N_TRAIN + N_VALID]
            label = y[order][row]
            wrong = torch.rand(len(row), generator=g) < noise
            other = (label + torch.randint(1, 10, label.shape, generator=g)) % 10
            rows.append(row)
            labels.append(torch.where(wrong, other, label))
        self.rows, self.labels, self.seeds = torch.stack(rows), torch.stack(labels), seeds
        self.x_test = self.x[1000:]

    def train(self, rows: list[dict], norm: str, steps: int, *, watch: Callable | None = None):
        """All settings, all seeds at once; losses a step, and what `watch` saw every few steps."""
        seeds = list(range(self.seeds)) * len(rows)
        settings = Settings.of([row for row in rows for _ in range(self.seeds)])
        model = StackedMLP((64, HIDDEN, HIDDEN, 10), seeds, norm)
        states = [{} for _ in model.parameters()]
        generator = torch.Generator().manual_seed(7)
        order = [torch.Generator().manual_seed(seed) for seed in range(self.seeds)]
        each = torch.tensor(seeds)[:, None]
        losses, seen = [], []
        for step in range(steps):
            if watch is not None and step % EVERY == 0:
                seen.append(watch(model))
            batch = torch.stack([torch.randperm(N_TRAIN, generator=g)[:BATCH] for g in order])
            x, y = self.x[self.rows[each, batch[seeds]]], self.labels[each, batch[seeds]]
            losses.append(train_step(model, x, y, settings, states, generator))
        return model, torch.stack(losses).view(steps, len(rows), self.seeds), seen

    @torch.no_grad()
    def score(self, model: StackedMLP, part: str) -> tuple[Tensor, Tensor]:
        """Log loss and accuracy, (settings, seeds), by the labels that the part has."""
        cut = {"train": slice(0, N_TRAIN), "valid": slice(N_TRAIN, None)}
        if part == "test":
            x, y = self.x_test[None], self.y_test[None].expand(self.seeds, -1)
        else:
            x, y = self.x[self.rows[:, cut[part]]], self.labels[:, cut[part]]
        repeat = len(model.weights[0]) // self.seeds
        x = x.expand(self.seeds, -1, -1).repeat(repeat, 1, 1)
        y = y.repeat(repeat, 1)
        log_p = model.forward(x).log_softmax(-1)
        loss = -log_p.gather(-1, y[..., None]).mean((1, 2))
        right = (log_p.argmax(-1) == y).float().mean(1)
        return loss.view(repeat, self.seeds), right.view(repeat, self.seeds)


def ablate(run: Run, seeds: int, steps: int) -> None:
    """Each ingredient alone against none; strengths by validation, the test set used once."""
    seeds = run.budget(quick=min(seeds, 3), default=seeds, full=3 * seeds)
    steps = run.budget(quick=min(steps, 60), default=steps)
    task = Task(seeds, 0.2, run.seed + 1)
    run.say(f"{seeds} seeds: {N_TRAIN} digits to learn from, {N_VALID} to choose by, a fifth of")
    run.say(f"the labels of both wrong; {len(task.x_test)} with true labels to judge by")

    copies = []

    def watch(model):
        copies.append(model.pick(list(range(seeds))))
        return [task.score(copies[-1], part)[0][0].numpy() for part in ("train", "valid")]

    plain, losses, seen = task.train([{"lr": LR}, {"lr": 0.0}], "none", steps, watch=watch)
    plain = plain.pick(list(range(seeds)))
    curves = np.array(seen)  # (evaluation, part, seed)
    chosen, note = {"none": plain}, {"none": ""}
    # early stopping costs no training: its strength is the patience
    stops = {q: [ours.early_stopping(curves[:, 1, s], q) for s in range(seeds)] for q in PATIENCE}
    valid = {q: np.mean([task.score(copies[i], "valid")[1][0, s].item()
                         for s, i in enumerate(stop)]) for q, stop in stops.items()}  # fmt: skip
    patience = max(valid, key=valid.get)
    note["early stopping"] = f"patience {patience * EVERY} steps"
    for name in run.progress(GRID, "ablation"):
        key, strengths = GRID[name]
        model, *_ = task.train([{"lr": LR, key: s} for s in strengths], "none", steps)
        best = int(task.score(model, "valid")[1].mean(1).argmax())
        chosen[name] = model.pick(list(range(best * seeds, (best + 1) * seeds)))
        note[name] = f"{strengths[best]:g}"
    for norm in ("batch", "layer"):
        chosen[f"{norm} norm"], *_ = task.train([{"lr": LR}], norm, steps)
        note[f"{norm} norm"] = ""
    pairs = [{"dropout": p, "decay": d} for p in (0.2, 0.35) for d in (1.0, 3.0)]
    model, *_ = task.train([{"lr": LR, **pair} for pair in pairs], "none", steps)
    best = int(task.score(model, "valid")[1].mean(1).argmax())
    chosen["dropout + decay"] = model.pick(list(range(best * seeds, (best + 1) * seeds)))
    note["dropout + decay"] = " + ".join(f"{v:g}" for v in pairs[best].values())

    test = {name: task.score(model, "test")[1][0].numpy() for name, model in chosen.items()}
    test["early stopping"] = np.array([task.score(copies[i], "test")[1][0, s].item()
                                       for s, i in enumerate(stops[patience])])  # fmt: skip
    gain = {n: mean_interval(100 * (v - test["none"])) for n, v in test.items() if n != "none"}
    run.metric("test accuracy, none", 100 * test["none"].mean(), "%")
    for name, interval in gain.items():
        run.metric(f"gain, {name}", interval.mean, "points", rtol=None)
        run.metric(f"test accuracy, {name}", 100 * test[name].mean(), "%")
        run.say(f"{name} ({note[name]}): {interval} points")
    _claims(run, task, losses, gain, test)
    _figure_overfitting(run, curves, test, [i * EVERY for i in stops[patience]])
    _figure_ablation(run, gain, note)
    _leave_training_mode_on(run, task, chosen, float(note["dropout"]))


def _claims(run: Run, task: Task, losses: Tensor, gain: dict[str, Interval], test: dict) -> None:
    first, last = losses[:5, 0].mean(0), losses[-20:, 0].mean(0)
    frozen = (losses[-20:, 1].mean(0) - losses[:20, 1].mean(0)).abs().max().item()
    shuffled = Task(task.seeds, 0.9, run.seed + 1)  # nine tenths wrong at random: no signal is left
    blind, lost, _ = shuffled.train([{"lr": LR}], "none", len(losses))
    chance = mean_interval(100 * shuffled.score(blind, "test")[1][0].numpy())
    run.claim("it trains, and what it learns is in the labels",
              bool((last < 0.2 * first).all()) and frozen < 0.2 and 6 < chance.mean < 14,
              f"training loss {first.mean():.2f} to {last.mean():.3f}; with learning rate 0 it "
              f"moves by at most {frozen:.2f} (batches differ); with random labels it falls to "
              f"{lost[-20:].mean():.3f} and test accuracy is {chance} %, chance 10 %",
              quick=False)  # fmt: skip
    helped = ("weight decay", "L2 in Adam", "dropout", "early stopping")
    run.claim("decay, dropout and stopping each help against memorized labels",
              all(gain[n].low > 0 for n in helped),
              "; ".join(f"{n} {gain[n]}" for n in helped) + " points of test accuracy, paired",
              quick=False)  # fmt: skip
    idle = ("batch norm", "layer norm", "gradient clipping")
    run.claim("normalization and clipping are not what stops memorizing here",
              all(gain[n].high < 2 for n in idle),
              "; ".join(f"{n} {gain[n]}" for n in idle) + " points, paired",
              quick=False)  # fmt: skip


def _figure_overfitting(run: Run, curves: np.ndarray, test: dict, stops: list[int]) -> None:
    steps = EVERY * np.arange(len(curves))
    with run.figure("overfitting", "Without any ingredient the network learns its wrong labels",
                    size=(8.0, 4.0)) as ax:  # fmt: skip
        plots.interval_band(ax, steps, curves[:, 0].T, color=plots.BLUE, label="training rows")
        plots.interval_band(ax, steps, curves[:, 1].T, color=plots.ORANGE, label="validation rows")
        floor = -(0.8 * np.log(0.8) + 0.2 * np.log(0.2 / 9))
        ax.axhline(floor, color=plots.REFERENCE, ls="--", lw=1)
        ax.text(steps[-1], floor + 0.05, "perfect knowledge of the noise", ha="right", fontsize=9,
                color=plots.REFERENCE)  # fmt: skip
        top = 1.02 * curves.max()
        ax.plot(stops, np.full(len(stops), 0.93 * top), "|", ms=14, color=plots.GREEN)
        ax.text(max(stops) + 8, 0.93 * top, "early stopping, one mark a seed", color=plots.GREEN,
                va="center", fontsize=10)  # fmt: skip
        ax.set(xlabel="optimizer steps", ylabel="log loss, nats\n(mean and range of the seeds)",
               ylim=(0, top))  # fmt: skip
        plots.label_lines(ax)


def _figure_ablation(run: Run, gain: dict[str, Interval], note: dict[str, str]) -> None:
    names = sorted(gain, key=lambda name: gain[name].mean)
    title = "What does each ingredient add by itself?"
    with run.figure("ablation", title, size=(8.4, 4.8)) as ax:
        for i, name in enumerate(names):
            g = gain[name]
            color = plots.BLUE if g.low > 0 else plots.ORANGE if g.high < 0 else plots.GRAY
            ax.errorbar(g.mean, i, xerr=[[g.mean - g.low], [g.high - g.mean]], fmt="o", color=color,
                        capsize=4, ms=7)  # fmt: skip
        ax.axvline(0, color=plots.REFERENCE, lw=1, ls="--")
        ax.set_yticks(range(len(names)),
                      [f"{n} ({note[n]})" if note[n] else n for n in names])  # fmt: skip
        ax.set(
            xlabel="test accuracy minus that of the plain network, percentage points\n"
            f"(a fifth of the labels wrong; paired, 95 % interval, {gain[names[0]].n} seeds)"
        )
        ax.grid(axis="y", visible=False)


@torch.no_grad()
def _leave_training_mode_on(run: Run, task: Task, chosen: dict, p: float) -> None:
    """The failure on display: the same weights, used as if they were still being trained."""
    generator, x, y = run.generator(8), task.x_test, task.y_test
    model, sizes = chosen["batch norm"], (1, 2, 4, 8, 16, 32, 64)
    right = {}
    for size in sizes:
        n = len(x) // size * size
        parts = zip(x[:n].split(size), y[:n].split(size), strict=True)
        hits = [(model.forward(part.expand(task.seeds, -1, -1), training=True, update=False)
                 .argmax(-1) == label).float() for part, label in parts]  # fmt: skip
        right[size] = 100 * torch.cat(hits, 1).mean(1).numpy()
    every = x.expand(task.seeds, -1, -1)
    used = 100 * (model.forward(every).argmax(-1) == y).float().mean(1).numpy()
    order = torch.argsort(y, stable=True)
    of_one_kind = [(model.forward(x[i].expand(task.seeds, -1, -1), training=True, update=False)
                    .argmax(-1) == y[i]).float() for i in order.split(32)]  # fmt: skip
    of_one_kind = 100 * torch.cat(of_one_kind, 1).mean(1).numpy()
    dropped, off = chosen["dropout"], torch.full((task.seeds,), p)
    passes = [dropped.forward(every, training=True, p=off, generator=generator).softmax(-1)
              for _ in range(50)]  # fmt: skip
    on = 100 * np.array([(q.argmax(-1) == y).float().mean(1).numpy() for q in passes]).mean(0)
    mean = 100 * (torch.stack(passes).mean(0).argmax(-1) == y).float().mean(1).numpy()
    scaled = 100 * (dropped.forward(every).argmax(-1) == y).float().mean(1).numpy()
    loss = mean_interval(scaled - on)
    run.metric("batch norm in use", used.mean(), "%")
    run.metric("batch norm left in training mode, batch of one", right[1].mean(), "%")
    run.metric("batch norm left in training mode, sorted by class", of_one_kind.mean(), "%")
    run.metric("dropout off", scaled.mean(), "%")
    run.metric("dropout left on", on.mean(), "%")
    run.metric("dropout left on, mean of 50 passes", mean.mean(), "%")
    run.claim("training mode left on: a batch of one is worthless, dropout costs points",
              bool(right[1].max() < 20) and loss.low > 0,
              f"batch norm {used.mean():.1f} % in use, {right[1].mean():.1f} % on batches of one; "
              f"dropout costs {loss} points",
              quick=False)  # fmt: skip
    with run.figure("training_mode", "What does a forgotten eval() cost?", columns=2,
                    size=(9.2, 4.2), width_ratios=[1.5, 1]) as (left, panel):  # fmt: skip
        plots.interval_band(left, sizes, np.array([right[s] for s in sizes]).T, color=plots.ORANGE,
                            label="training mode")  # fmt: skip
        left.axhline(used.mean(), color=plots.BLUE)
        left.text(1, used.mean() + 1.5, "in use: running statistics", color=plots.BLUE)
        left.plot(32, of_one_kind.mean(), "s", color=plots.PINK, ms=8)
        left.annotate("batches of 32,\nsorted by class", (32, of_one_kind.mean()), (0, 9),
                      textcoords="offset points", color=plots.PINK, ha="center")  # fmt: skip
        left.axhline(10, color=plots.REFERENCE, ls="--", lw=1)
        left.text(64, 11.5, "chance", color=plots.REFERENCE, ha="right", fontsize=9)
        left.text(6.2, right[4].mean() - 3, "training mode:\nbatch statistics", color=plots.ORANGE,
                  va="top")  # fmt: skip
        left.set_xscale("log", base=2)
        left.set_xticks(sizes, [str(s) for s in sizes])
        left.set(xlabel="batch size at test time", ylabel="test accuracy, %", ylim=(0, 100))
        left.set_title("Batch norm (mean and range of the seeds)", fontsize=11, weight="normal")
        for i, (values, color) in enumerate(((scaled, plots.BLUE), (on, plots.ORANGE),
                                             (mean, plots.GREEN))):  # fmt: skip
            g = mean_interval(values)
            panel.errorbar(i, g.mean, g.high - g.mean, fmt="o", color=color, capsize=4, ms=7)
            panel.annotate(f"{g.mean:.1f}", (i, g.mean), (9, 0), textcoords="offset points",
                           va="center", color=color, weight="bold")  # fmt: skip
        panel.set_xticks(range(3), ["off", "left on", "left on, mean\nof 50 passes"])
        panel.set(ylabel="test accuracy, %", xlim=(-0.4, 2.7))
        panel.set_title(f"Dropout, p = {p:g} (95 % interval)", fontsize=11, weight="normal")
        panel.grid(axis="x", visible=False)


def main(run: Run, *, seeds: PositiveInt = 10, steps: PositiveInt = 400) -> None:
    """Check every ingredient against torch, prove two theorems by numbers, and run the ablation.

    Parameters
    ----------
    seeds
        Draws of the training set, its wrong labels and the first weights.
    steps
        Optimizer steps of each network.
    """
    check_ingredients(run)
    check_theory(run)
    show_decay_under_adam(run)
    show_clipping(run)
    ablate(run, seeds, steps)
