"""Jacobian, inverse and mass; then two arcs of a ring, by more and more layers."""

import math

import numpy as np
import torch

from shared.study import PositiveInt, Run
from week22.planar_flow import Planar, PlanarFlow, fit, ring
from week22.plane import mass_on_grid


def main(run: Run, *, seeds: PositiveInt = 3) -> None:
    """Check the change of variables by quadrature, then fit two arcs of a ring.

    Parameters
    ----------
    seeds
        Flows of each depth.
    """
    check_layers(run)
    fit_ring(run, run.budget(quick=1, default=max(seeds, 2)))


def folded(layer: Planar) -> float:
    """Share of 1,001 places along w at which the layer turns space around."""
    a = torch.linspace(-10, 10, 1001)
    slope = float(layer.w.detach() @ layer.direction().detach())
    return float((1 + slope * (1 - a.tanh() ** 2) < 0).float().mean())


def drawn(layers: int, size: float, generator: torch.Generator, **options) -> PlanarFlow:
    """A flow of random layers that are far from the identity."""
    flow = PlanarFlow(2, layers, generator, **options).double()
    with torch.no_grad():
        for parameter in flow.layers.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += size * noise
    return flow


def check_layers(run: Run) -> None:
    """Autograd's Jacobian, the way back, and a density that integrates to 1."""
    g = run.generator(1)
    flow = drawn(4, 1.0, g)
    z = torch.randn(20, 2, generator=g, dtype=torch.float64)
    x, log_det = flow(z)
    jacobians = [
        torch.autograd.functional.jacobian(lambda v: flow(v[None])[0][0], row) for row in z
    ]
    autograd = torch.stack(jacobians).slogdet().logabsdet
    exact = {"atol": 1e-10, "why": "float64 rounding"}
    run.check(
        "log-determinant, 4 layers",
        log_det.detach(),
        autograd,
        against="slogdet of autograd's Jacobian",
        **exact,
    )
    back = {"atol": 1e-5, "why": "where the slope is small bisection loses digits"}
    run.check("inverse by bisection", flow.inverse(x), z, kind="consistency", against="z", **back)
    points = run.budget(quick=150, default=600)
    mass = mass_on_grid(flow.log_prob, 10.0, points)
    run.check(
        "mass of the density",
        mass,
        1.0,
        against="midpoint rule",
        kind="theorem",
        atol=0.01,
        why="cells of the grid; narrow ridges",
    )
    layer = Planar(2, g, constrain=False)
    with torch.no_grad():
        layer.u.copy_(-2.5 * layer.w / (layer.w @ layer.w))
    run.metric("places folded without the constraint", folded(layer), rtol=0.05)
    layer.constrain = True
    run.check(
        "places folded with it",
        folded(layer),
        0.0,
        against="wᵀu ≥ -1",
        kind="theorem",
        why="identical",
    )


def fit_ring(run: Run, seeds: int) -> None:
    """The bound after fitting, K = 0, 2, 8, beside the log of the mass by quadrature."""
    steps = run.budget(quick=30, default=1500, full=10_000)
    exact = math.log(mass_on_grid(ring, 6.0, 600))
    run.metric("ln of the mass", exact, "nats")
    depths = run.budget(quick=(0, 2), default=(0, 2, 8))
    gaps, flows = {k: [] for k in depths}, {}
    for seed in range(seeds):
        for k in depths:
            g = run.generator(10 + seed)
            flow = PlanarFlow(2, k, g)
            fit(flow, ring, steps=steps, lr=0.005, generator=g)
            z = torch.randn(run.budget(quick=2000, default=20_000), 2, generator=g)
            gaps[k].append(exact - float(flow.bound(ring, z).detach().mean()))
            flows.setdefault(k, flow)
    for k, gap in gaps.items():
        run.metric(f"nats below ln of the mass, {k} layers", np.mean(gap), "nats", rtol=0.2)
    name = f"{depths[-1]} layers come nearer to the mass than a Gaussian"
    gain = np.array(gaps[0]) - gaps[depths[-1]]
    run.claim(
        name, gain, at_least=0.1, unit="nats", quick=False, rtol=None, seen_before="a quick run"
    )
    run.claim(
        "the bound stays below the mass",
        [g for gap in gaps.values() for g in gap],
        at_least=0,
        each=True,
        unit="nats below",
        rtol=None,
    )
    draw(run, flows)


def draw(run: Run, flows: dict[int, PlanarFlow]) -> None:
    """The target and what each depth makes of it, as densities on a square."""
    n = run.budget(quick=30, default=120)
    side = torch.linspace(-4, 4, n)
    grid = torch.cartesian_prod(side, side)
    panels = {"target": ring(grid)}
    panels |= {f"{k} layers": flow.log_prob(grid) for k, flow in flows.items()}
    title = "How many hinges bend a Gaussian into two arcs?"
    with run.figure("ring", title, 1, len(panels), size=(2.6 * len(panels), 3.4)) as axes:
        for axis, (name, log_p) in zip(axes, panels.items(), strict=True):
            p = log_p.detach().exp().reshape(n, n).T
            axis.imshow(p, origin="lower", extent=(-4, 4, -4, 4), cmap="Blues")
            axis.set(title=name, xlabel="$z_1$")
            axis.grid(False)
        axes[0].set(ylabel="$z_2$")
