"""Exact velocities against closed forms and scipy; flows, reflow and DDIM on the same points."""

import math
import statistics

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from shared import plots
from shared.study import Run
from week23.flow_matching import (
    Mixture,
    Velocity,
    VelocityNet,
    exact_velocity,
    integrate,
    log_density,
    matching,
    straightness,
)
from week23.schedules import Schedule, sample_ddim
from week23.score_matching import fit

STEPS = (1, 2, 4, 8, 16, 32, 64)


def ring(dtype: torch.dtype = torch.float32) -> Mixture:
    """Eight round Gaussians on a circle."""
    angle = torch.arange(8, dtype=dtype) * math.pi / 4
    means = 2 * torch.stack([angle.cos(), angle.sin()], dim=1)
    return Mixture(torch.full((8,), 1 / 8, dtype=dtype), means, torch.full((8,), 0.15, dtype=dtype))


def main(run: Run) -> None:
    """Hold the exact flow against closed forms, then train flows and DDIM beside it."""
    run.rounding(0.2, "small networks after few steps, float32 sums in another order")
    torch.set_num_threads(1)  # products this small are slower on several threads
    check_exact(run)
    check_conventions(run)
    compare(run)


def check_exact(run: Run) -> None:
    """Where the exact velocity takes noise, and the density that comes out."""
    draw, double = run.generator(1), torch.double
    noise = torch.randn(50, 2, generator=draw, dtype=double)
    mean = torch.tensor([[3.0, -1.0]], dtype=double)
    one = Mixture(torch.ones(1, dtype=double), mean, torch.tensor([0.5], dtype=double))
    order4 = {"atol": 1e-7, "rtol": 0, "why": "order four: (1/100)⁴ times slopes of size ten"}
    equal = run.against("m + s x₀, the flow to N(m, s²)", kind="theorem", **order4)
    velocity = exact_velocity(one)
    equal("a Gaussian", integrate(velocity, noise, steps=100, method="rk4"), mean + 0.5 * noise)
    weights = torch.tensor([0.3, 0.7], dtype=double)
    means, spreads = torch.tensor([[-1.0], [2.0]], dtype=double), torch.tensor([0.4, 0.6]).double()
    two, line_noise = Mixture(weights, means, spreads), torch.linspace(-2, 2, 41).double()[:, None]
    found = integrate(exact_velocity(two), line_noise, steps=400, method="rk4")
    below = (0.5 * (1 + torch.erf((found - means.T) / (spreads * math.sqrt(2))))) @ weights
    normal = 0.5 * (1 + torch.erf(line_noise[:, 0] / math.sqrt(2)))
    rule = {"kind": "theorem", "atol": 1e-6, "rtol": 0, "why": "order four, 400 steps"}
    run.check("in one dimension, share below", below, normal, against="Φ: order is kept", **rule)
    velocity, data = exact_velocity(ring(double)), ring(double)
    x = data.sample(50, draw)
    family = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(data.weights),
        torch.distributions.Independent(
            torch.distributions.Normal(data.means, data.spreads[:, None].expand(-1, 2)), 1
        ),
    )
    rule = {"atol": 1e-4, "rtol": 0, "why": "order four, 200 steps, around narrow modes"}
    found = log_density(velocity, x, steps=200)
    run.check(
        "log-density of the ring", found, family.log_prob(x), against="torch's mixture", **rule
    )
    start = noise[:5]

    def field(t: float, flat: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(flat).view(5, 2)
        return velocity(x, x.new_full((5, 1), t)).flatten().numpy()

    theirs = solve_ivp(field, (0, 1), start.flatten().numpy(), rtol=1e-9, atol=1e-10).y[:, -1]
    ours = integrate(velocity, start, steps=400, method="rk4").flatten()
    rule |= {"atol": 1e-5, "why": "order four, 400 steps"}
    run.check(
        "paths to the ring", ours, torch.from_numpy(theirs), against="scipy.solve_ivp", **rule
    )


def check_conventions(run: Run) -> None:
    """Diffusers' scheduler, whose time is one minus ours, step by step."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    velocity, x = exact_velocity(ring()), torch.randn(20, 2, generator=run.generator(2))
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    scheduler.set_timesteps(sigmas=[1 - i / 10 for i in range(10)])
    theirs, ours, found = x, x, ([], [])
    for i, t in enumerate(scheduler.timesteps):
        span = (i / 10, (i + 1) / 10)
        ours = integrate(velocity, ours, steps=1, times=span)
        at = x.new_full((20, 1), 1 - float(t) / 1000)
        theirs = scheduler.step(-velocity(theirs, at), t, theirs).prev_sample
        found[0].append(ours)
        found[1].append(theirs)
    close = {"atol": 1e-5, "rtol": 1e-5, "why": "float32 rounding over ten steps"}
    against = "diffusers.FlowMatchEulerDiscreteScheduler"
    run.check("ten steps of Euler", *map(torch.stack, found), against=against, **close)


def energy_distance(a: Tensor, b: Tensor) -> float:
    """Twice the mean distance between two samples minus those within each (Székely & Rizzo)."""
    return float(2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())


def learned(run: Run, seed: int, pairs: Tensor, steps: int, *, shuffled: bool = False) -> Velocity:
    """A network trained on rows (x₀, x₁); shuffled, each is told another pair's velocity."""
    draw = run.generator(100 * seed + 10)
    net = VelocityNet(2, 64, draw)

    def loss(rows: Tensor) -> Tensor:
        x0, x1 = rows.chunk(2, dim=1)
        t = torch.rand(len(rows), 1, generator=draw)
        if not shuffled:
            return matching(net, x0, x1, t)
        other = (x1 - x0)[torch.randperm(len(rows), generator=draw)]
        return (net((1 - t) * x0 + t * x1, t) - other).square().sum(-1)

    batch = lambda: pairs[torch.randint(len(pairs), (256,), generator=draw)]  # noqa: E731
    fit(net, lambda: loss(batch()).mean(), steps=steps)
    return net


def for_ddim(run: Run, seed: int, data: Tensor, schedule: Schedule, steps: int):
    """The same network and budget for DDIM, trained to name v.

    The first step would divide an error of the noise by the square root of ᾱ, which is nearly 0.
    """
    draw = run.generator(100 * seed + 10)
    net = VelocityNet(2, 64, draw)
    model = lambda x, t: net(x, (t[:, None] + 1) / len(schedule))  # noqa: E731

    def loss(x: Tensor) -> Tensor:
        noise = torch.randn(x.shape, generator=draw)
        t = torch.randint(len(schedule), (len(x),), generator=draw)
        noisy = schedule.add_noise(x, noise, t)
        target = schedule.convert(noise, noisy, t, "epsilon", "v")
        return (model(noisy, t) - target).square().sum(-1)

    batch = lambda: data[torch.randint(len(data), (256,), generator=draw)]  # noqa: E731
    fit(net, lambda: loss(batch()).mean(), steps=steps)
    return model


def compare(run: Run) -> None:
    """Distance from fresh data, by steps: flow, flow after reflow, DDIM, and a control."""
    n, data = run.budget(quick=200, default=1000, full=5000), ring()
    steps, seeds = (
        run.budget(quick=5, default=1000, full=6000),
        run.budget(quick=2, default=3, full=8),
    )
    schedule = Schedule.cosine(1000)
    lines: dict[str, list] = {"flow": [], "after reflow": [], "DDIM": []}
    bends, control, excess = {"flow": [], "after reflow": []}, [], []
    for seed in run.progress(range(seeds), "seeds"):
        draw = run.generator(100 * seed + 3)
        x0, x1 = torch.randn(4 * n, 2, generator=draw), data.sample(4 * n, draw)
        noise, fresh = torch.randn(n, 2, generator=draw), data.sample(n, draw)
        unit = energy_distance(noise, fresh)
        flow = learned(run, seed, torch.cat([x0, x1], dim=1), steps)
        with torch.no_grad():
            ends = integrate(flow, x0, steps=50)
        flows = {"flow": flow, "after reflow": learned(run, seed, torch.cat([x0, ends], 1), steps)}
        lost = learned(run, seed, torch.cat([x0, x1], dim=1), steps, shuffled=True)
        model = for_ddim(run, seed, x1, schedule, steps)
        far = lambda x, fresh=fresh, unit=unit: energy_distance(x, fresh) / unit  # noqa: E731
        with torch.no_grad():
            for name, net in flows.items():
                lines[name].append([far(integrate(net, noise, steps=k)) for k in STEPS])
                bends[name].append(straightness(net, noise))
            lines["DDIM"].append(
                [far(sample_ddim(model, schedule, noise, steps=k, kind="v")) for k in STEPS]
            )
            t = torch.rand(n, 1, generator=draw)
            losses = (matching(v, noise, fresh, t).mean() for v in (flow, exact_velocity(data)))
            excess.append(float(next(losses) / next(losses)) - 1)
            control.append(far(integrate(lost, noise, steps=64)))
    judge(run, lines, bends, control)
    run.metric("loss above the least, flow", statistics.mean(excess), rtol=None)


def judge(run: Run, lines: dict, bends: dict, control: list) -> None:
    """Claims on distances, in units of the noise's own distance from the data."""
    late = {"quick": False, "rtol": None}
    reaches, last = "the learned flow reaches the data", STEPS.index(64)
    run.claim(reaches, [row[last] for row in lines["flow"]], at_most=0.1, **late)
    run.falsifier("velocities of other pairs", control, breaks=reaches)

    def gain(better: str, worse: str, steps: int) -> list[float]:
        k = STEPS.index(steps)
        return [b[k] - a[k] for a, b in zip(lines[better], lines[worse], strict=True)]

    few = gain("flow", "DDIM", 4)
    run.claim("four steps of the flow are closer than four of DDIM", few, at_least=0.0, **late)
    one = gain("after reflow", "flow", 1)
    run.claim("one step is closer after reflow", one, at_least=0.0, **late)
    ratios = [b / a for a, b in zip(bends["flow"], bends["after reflow"], strict=True)]
    run.claim("reflow halves the departure from straight lines", ratios, at_most=0.5, **late)
    for name, rows in lines.items():
        for steps in (1, 4, 64):
            value = statistics.mean(row[STEPS.index(steps)] for row in rows)
            run.metric(f"distance, {name}, {steps} steps", value, rtol=None)
    for name, values in bends.items():
        run.metric(f"bend, {name}", statistics.mean(values), rtol=None)
    with run.figure("steps", "How many steps does a sample need?") as axes:
        labels = {"xlabel": "steps", "ylabel": "distance from the data / that of noise"}
        options = {"marker": "o", "xscale": "log", "yscale": "log"}
        plots.curves(axes, STEPS, lines, **options, **labels)
        axes.set_xticks(STEPS, [str(k) for k in STEPS])
        axes.minorticks_off()
