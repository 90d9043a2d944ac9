"""Jacobians, inverses and mass; two moons beside mixtures; digits in bits per dimension."""

import numpy as np
import torch
from torch import Tensor

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week22.dequantization import bits_per_dim, dequantize, from_logits, to_logits
from week22.plane import fit, mass_on_grid, moons
from week22.realnvp import Flow, Linear, picture_flow, real_nvp


def main(run: Run, *, seeds: PositiveInt = 3) -> None:
    """Check the flows, then fit two moons and handwritten digits.

    Parameters
    ----------
    seeds
        Flows fitted to the moons; two for the digits.
    """
    check_flows(run)
    check_linear(run)
    fit_moons(run, run.budget(quick=1, default=max(seeds, 2)))
    fit_digits(run, run.budget(quick=1, default=2))


# ---- tools


def gaussian_likelihood(train: Tensor, test: Tensor) -> float:
    """Mean log density of the test rows by the likeliest Gaussian of the training rows."""
    from scipy.stats import multivariate_normal

    law = multivariate_normal(train.mean(0).numpy(), np.cov(train.numpy().T, bias=True))
    return float(law.logpdf(test.numpy()).mean())


def stir(flow: Flow, size: float, generator: torch.Generator) -> Flow:
    """Move every parameter, in float64: nothing is the identity that it starts as."""
    flow = flow.double().eval()
    with torch.no_grad():
        for p in flow.parameters():
            p += size * torch.randn(p.shape, generator=generator, dtype=torch.float64)
    return flow


# ---- checks


def check_flows(run: Run) -> None:
    """Log-determinants by autograd both ways, inverses, and what bits mean."""
    g = run.generator(1)
    flows = {
        "rows of 5": (stir(real_nvp(5, width=8, generator=g), 0.3, g), (3, 5)),
        "4 × 4 pictures": (stir(picture_flow(4, width=4, generator=g), 0.2, g), (2, 1, 4, 4)),
    }
    equal = run.against("slogdet of autograd's Jacobian", atol=1e-9, why="float64 rounding")
    for name, (flow, shape) in flows.items():
        x = torch.randn(shape, generator=g, dtype=torch.float64)
        z, log_det = (part.detach() for part in flow(x))
        for way, f, at, ours in (
            ("forward", lambda v, flow=flow: flow(v)[0], x, log_det),
            ("inverse", flow.inverse, z, -log_det),
        ):
            jacobians = [
                torch.autograd.functional.jacobian(lambda v, f=f: f(v[None])[0].ravel(), row)
                for row in at
            ]
            exact = torch.stack([j.flatten(1).slogdet().logabsdet for j in jacobians])
            equal(f"log-determinant, {way}, {name}", ours, exact)
        single, x = flow.float(), x.float()
        back = single.inverse(single(x)[0]).detach()
        run.check(
            f"there and back, {name}",
            back,
            x,
            against="x",
            kind="consistency",
            atol=1e-5,
            why="float32 through all layers",
        )
    uniform = bits_per_dim(torch.zeros(4), n_dims=64, levels=256)
    run.check(
        "bits of a uniform density, 256 levels",
        uniform,
        np.full(4, 8.0),
        against="log₂ 256",
        kind="theorem",
        why="identical",
    )
    x = torch.rand(3, 4, generator=g, dtype=torch.float64)
    jacobians = [
        torch.autograd.functional.jacobian(lambda v: to_logits(v[None])[0][0], row) for row in x
    ]
    equal(
        "log-determinant of the logits", to_logits(x)[1], torch.stack(jacobians).slogdet().logabsdet
    )


def check_linear(run: Run) -> None:
    """The linear flow's optimum is the Gaussian with the data's mean and covariance."""
    g = run.generator(2)
    x = torch.randn(200, 3, generator=g, dtype=torch.float64)
    x = x @ torch.randn(3, 3, generator=g, dtype=torch.float64) + 1
    x = x / x.std(0)
    flow = Linear(3).double()
    optimizer = torch.optim.LBFGS(flow.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -flow.log_prob(x).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    run.check(
        "a linear flow at its optimum",
        float(flow.log_prob(x).detach().mean()),
        gaussian_likelihood(x, x),
        against="scipy, the likeliest Gaussian",
        atol=1e-5,
        why="L-BFGS stops",
    )


# ---- two moons


def fit_moons(run: Run, seeds: int) -> None:
    """Held-out log density beside a Gaussian and a mixture, and on data that has no shape."""
    from sklearn.mixture import GaussianMixture

    n, steps = run.budget(quick=(500, 20), default=(5000, 500), full=(20_000, 8000))
    gains, likelihood, kept = {"moons": [], "a Gaussian": []}, {"flow": [], "mixture": []}, None
    for seed in range(seeds):
        rng, g = np.random.default_rng([run.seed, seed]), run.generator(10 + seed)
        parts = [moons(n, int(rng.integers(2**31))) for _ in range(2)]
        law = torch.distributions.MultivariateNormal(parts[0].mean(0), torch.cov(parts[0].T))
        for name in gains:
            train, test = parts
            if name != "moons":  # the same mean and covariance, and nothing else to learn
                eps = (torch.randn(n, 2, generator=g) for _ in range(2))
                train, test = (law.mean + e @ law.scale_tril.T for e in eps)
            flow = real_nvp(2, generator=g)
            batch = lambda: train[torch.randint(n, (256,), generator=g)]  # noqa: B023, E731
            fit(flow, batch, steps=steps)
            with torch.no_grad():
                reached = float(flow.log_prob(test).mean())
            gains[name].append(reached - gaussian_likelihood(train, test))
            if name == "moons":
                mixture = GaussianMixture(10, random_state=0).fit(train)
                likelihood["flow"].append(reached)
                likelihood["mixture"].append(mixture.score(test))
                kept = kept or (flow, mixture, law, test)
    name = "the flow beats the likeliest Gaussian on held-out moons"
    run.claim(name, gains["moons"], at_least=0.3, unit="nats per point", quick=False, rtol=None)
    run.falsifier("data of a Gaussian", gains["a Gaussian"], breaks=name)
    for name, values in likelihood.items():
        run.metric(f"log density of moons, {name}", np.mean(values), "nats", rtol=0.05)
    flow, *rest = kept
    flow, points = flow.double(), run.budget(quick=100, default=400)
    run.check(
        "mass of the fitted density",
        mass_on_grid(flow.log_prob, 6.0, points),
        1.0,
        against="midpoint rule",
        kind="theorem",
        atol=0.01,
        why="cells of the grid",
    )
    draw_moons(run, flow, *rest)


@torch.no_grad()
def draw_moons(run: Run, flow: Flow, mixture, law, points: Tensor) -> None:
    """Held-out points and three densities."""
    n = run.budget(quick=40, default=160)
    side = torch.linspace(-2.6, 2.6, n, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    panels = {
        "Gaussian": law.log_prob(grid.float()).numpy(),
        "mixture of 10": mixture.score_samples(grid.numpy()),
        "RealNVP": flow.log_prob(grid).numpy(),
    }
    title = "Which density follows two moons?"
    with run.figure("moons", title, 1, 4, size=(9.6, 3.4)) as axes:
        axes[0].plot(*points[:1000].T, ".", ms=2, color=plots.GRAY)
        axes[0].set(title="held-out points", xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), aspect="equal")
        for axis, (name, log_p) in zip(axes[1:], panels.items(), strict=True):
            p = np.exp(log_p).reshape(n, n).T
            axis.imshow(p, origin="lower", extent=(-2.6, 2.6) * 2, cmap="Blues", vmax=0.6)
            axis.set(title=name)
            axis.grid(False)
        for axis in axes:
            axis.set(xlabel="$x_1$")
        axes[0].set(ylabel="$x_2$")


# ---- digits


def fit_digits(run: Run, seeds: int) -> None:
    """Bits per dimension of held-out digits, by a flow, a Gaussian and a mixture of logits."""
    from sklearn.mixture import GaussianMixture

    images, _ = datasets.digits()
    levels = torch.as_tensor(images).long()[:, None]
    levels = levels[torch.as_tensor(np.random.default_rng(0).permutation(len(levels)))]
    train, test = levels[:1437], levels[1437:]
    steps, bits, gains = run.budget(quick=3, default=200, full=5000), [], []
    for seed in range(seeds):
        g = run.generator(30 + seed)

        def logits(rows: Tensor, g: torch.Generator = g) -> tuple[Tensor, Tensor]:
            return to_logits(dequantize(rows, 17, g))

        flow = picture_flow(8, generator=g)
        batch = lambda: logits(train[torch.randint(1437, (128,), generator=g)])[0]  # noqa: B023, E731
        fit(flow, batch, steps=steps)
        (y, _), (held_out, log_det) = logits(train), logits(test)
        with torch.no_grad():
            density = {"RealNVP": float(flow.log_prob(held_out).mean())}
        flat, held = y.flatten(1).double(), held_out.flatten(1).double()
        density["Gaussian"] = gaussian_likelihood(flat, held)
        parts = run.budget(quick=2, default=10)
        mixture = GaussianMixture(parts, covariance_type="full", reg_covar=1e-2, random_state=0)
        density["mixture"] = mixture.fit(flat.numpy()).score(held.numpy())
        bits.append(
            {
                name: float(bits_per_dim(value + log_det.mean(), n_dims=64, levels=17))
                for name, value in density.items()
            }
        )
        gains.append(bits[-1]["Gaussian"] - bits[-1]["RealNVP"])
        if seed == 0:
            draw_digits(run, flow, test)
    for name in bits[0]:
        run.metric(
            f"bits per dimension of digits, {name}",
            np.mean([b[name] for b in bits]),
            "bits",
            rtol=0.05,
        )
    run.claim(
        "the flow beats a full Gaussian on held-out digits",
        gains,
        at_least=0.05,
        unit="bits per dimension",
        quick=False,
        rtol=None,
    )


@torch.no_grad()
def draw_digits(run: Run, flow: Flow, test: Tensor) -> None:
    """Held-out digits above, samples of the flow below."""
    x = from_logits(flow.sample((24, 4, 4, 4), run.generator(60))).clamp(0, 1)
    rows = [test[:12, 0] / 16, x[:12, 0], x[12:, 0]]
    pad = torch.nn.functional.pad
    sheet = torch.cat([torch.cat([pad(p, (0, 1, 0, 1)) for p in row], dim=1) for row in rows])
    with run.figure("digits", "What does the flow draw?", size=(8.3, 2.6)) as axes:
        axes.imshow(sheet, cmap="gray_r", vmin=0, vmax=1)
        axes.set_xticks([])
        axes.set_yticks([4.5, 13.5, 22.5], ["held out", "sampled", "sampled"])
        axes.grid(False)
