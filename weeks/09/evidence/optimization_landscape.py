"""Six optimizers tuned alike and judged on fresh starts, and facts that a picture cannot prove."""

import math

import numpy as np
import torch

from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week09.evidence.optimization_landscape_figures import Rates, animate, draw_paths
from week09.optimization_landscape import (
    OPTIMIZERS,
    SURFACES,
    Surface,
    descend,
    ravine_gradient,
    rosenbrock,
    rosenbrock_gradient,
    saddle_gradient,
    scatter,
    score,
    tune,
)


def main(run: Run, *, steps: PositiveInt = 250) -> None:
    """Tune six optimizers on six surfaces, judge them on fresh starts, draw and animate them.

    Parameters
    ----------
    steps
        Steps of each path.
    """
    check_surfaces(run)
    check_paths(run)
    rates = compare(run, run.budget(quick=20, default=steps, full=4 * steps))
    draw_paths(run, rates)
    animate(run, rates)
    leave_the_saddle(run)
    turn_the_ravine(run)


def check_surfaces(run: Run) -> None:
    """The minima that the literature gives, found again."""
    from scipy.optimize import minimize

    found, listed = [], []
    for surface in SURFACES:

        def value(x, surface=surface):
            x = torch.tensor(x)
            return float(surface.value(x)), surface.gradient(x).numpy()

        for minimum in surface.minima:
            near, options = np.array(minimum) + 0.05, {"gtol": 1e-9}
            result = minimize(value, near, jac=True, method="BFGS", options=options)
            found.append([*result.x, result.fun])
            listed.append([*minimum, surface.least])
    why = "the literature gives Himmelblau's to 6 decimals"
    check = run.against("scipy.optimize.minimize", atol=1e-6, why=why)
    check("minima and least values", np.array(listed), np.array(found))


def check_paths(run: Run) -> None:
    """Each optimizer's path on Rosenbrock's valley against torch's, with autograd's gradients."""
    theirs = {
        "SGD": lambda p: torch.optim.SGD(p, lr=1e-3),
        "momentum": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
        "Nesterov": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, nesterov=True),
        "RMSProp": lambda p: torch.optim.RMSprop(p, lr=1e-3),
        "Adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    }
    why = "rounding of two formulas for one gradient, over 100 steps"
    check = run.against("torch.optim with autograd", atol=1e-11, why=why)
    start = torch.tensor([[-1.2, 1.0]], dtype=torch.float64)
    for name, make in theirs.items():
        p = start.clone().requires_grad_()
        optimizer, path = make([p]), [start]
        for _ in range(100):
            optimizer.zero_grad()
            rosenbrock(p).sum().backward()
            optimizer.step()
            path.append(p.detach().clone())
        ours = descend(OPTIMIZERS[name], 1e-3, rosenbrock_gradient, start, 100)
        check(f"{name}: 100 steps in Rosenbrock's valley", ours, torch.stack(path))


def compare(run: Run, steps: int) -> Rates:
    """The best learning rate of each optimizer on each surface, judged on fresh starts."""
    lrs = torch.logspace(-4, 1.5, run.budget(quick=4, default=12), dtype=torch.float64)
    n_tune, n_test = run.budget(quick=2, default=6), run.budget(quick=4, default=16)
    rates, scores, edges = {}, {}, []

    def judge(name: str, surface: Surface, number: int, steps: int) -> np.ndarray:
        tuning = scatter(surface, n_tune, run.generator(100 + number))
        fresh = scatter(surface, n_test, run.generator(200 + number))
        best, _ = tune(OPTIMIZERS[name], surface, tuning, lrs, steps)
        if best in (0, len(lrs) - 1):
            edges.append(f"{name} on {surface.name}")
        rate = rates[surface.name, name] = float(lrs[best])
        path = descend(OPTIMIZERS[name], rate, surface.gradient, fresh, steps)
        return score(surface, path).numpy()

    for number, surface in enumerate(run.progress(SURFACES, "surfaces")):
        scores[surface.name] = {n: judge(n, surface, number, steps) for n in OPTIMIZERS}
    options = {"quick": False, "deterministic": True}
    name = "best learning rates on the edge of the grid"
    note = f"{len(lrs)} rates from 1e-4 to 31.6 for each of {len(rates)} pairs"
    run.claim(name, len(edges), at_most=0, note=note, **options)

    behind = {}  # of each optimizer, by start, on the surface where it is most surely behind

    def surely(gap: np.ndarray) -> float:
        return mean_interval(gap).low

    wins = dict.fromkeys(OPTIMIZERS, 0)
    for found in scores.values():
        best = min(found, key=lambda name: found[name].mean())
        wins[best] += 1
        for name, values in found.items():
            gap = values - found[best]
            behind[name] = max(behind.get(name, gap), gap, key=surely)
    name = "no optimizer is the best on every surface: how far behind even the best one falls"
    note = "surfaces won: " + ", ".join(f"{k} {v}" for k, v in wins.items())
    options = {"quick": False, "unit": "log10 (f - f*)"}
    seen = "that on the surface of the largest mean gap the starts differ too much to decide"
    least = min(behind.values(), key=surely)
    run.claim(name, least, at_least=0, note=note, seen_before=seen, **options)

    name = "in the ravine, momentum gets further than SGD: difference"
    ravine = scores["ravine"]
    run.claim(name, ravine["momentum"] - ravine["SGD"], at_most=0, **options)
    window, start = SURFACES[0].window, SURFACES[0].start
    bowl = Surface("bowl", lambda p: (p**2).sum(-1) / 2, lambda p: p, window, start)
    found = {name: judge(name, bowl, 6, min(steps, 40)) for name in ("SGD", "momentum")}
    run.falsifier("in a round bowl", found["momentum"] - found["SGD"], breaks=name)
    return rates


# ---- facts that a picture cannot prove


def leave_the_saddle(run: Run) -> None:
    """How long until a saddle is left, against how close to its ridge the path begins."""
    distances, lr = torch.logspace(-1, -12, 12, dtype=torch.float64), 0.1
    starts = torch.stack([torch.ones_like(distances), distances], -1)
    left = {}
    for name in ("SGD", "Adam"):
        y = descend(OPTIMIZERS[name], lr, saddle_gradient, starts, 400)[..., 1].abs().numpy()
        left[name] = (y < 0.5).sum(0)
        run.metric(f"steps to leave the saddle from 1e-12, {name}", left[name][-1])
    growth = -np.polyfit(np.log(distances.numpy()), left["SGD"], 1)[0]
    why = "whole steps, and the surface bends near the minimum"
    check = run.against("1 / ln(1 + lr)", kind="theorem", rtol=0.02, why=why)
    name = "SGD leaves a saddle: extra steps for an e times smaller start"
    check(name, growth, 1 / math.log(1 + lr))
    ridge = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    paths = [descend(make, lr, saddle_gradient, ridge, 100) for make in OPTIMIZERS.values()]
    stuck = max(float(path[..., 1].abs().max()) for path in paths)
    name = "on the ridge itself no optimizer ever leaves: largest distance from it"
    run.claim(name, stuck, at_most=0, deterministic=True)
    spread = {name: np.ptp(steps[:7]) for name, steps in left.items()}  # to 1e-7, above Adam's eps
    name = "Adam's time to leave hardly depends on the distance: spread from 1e-1 to 1e-7"
    run.claim(name, spread["Adam"], at_most=10, deterministic=True, unit="steps")
    run.falsifier("SGD", spread["SGD"], breaks=name)


def turn_the_ravine(run: Run) -> None:
    """Turn the ravine by 45°: SGD's path turns with it; Adam's and RMSProp's do not."""
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) / math.sqrt(2)
    start = torch.tensor([[-2.0, 0.4]], dtype=torch.float64)

    def turned_gradient(p):
        return ravine_gradient(p @ turn) @ turn.T

    def both(name: str, lr: float, steps: int = 100):
        straight = descend(OPTIMIZERS[name], lr, ravine_gradient, start, steps)
        turned = descend(OPTIMIZERS[name], lr, turned_gradient, start @ turn.T, steps)
        return straight[:, 0], (turned @ turn)[:, 0]

    options = {"kind": "consistency", "atol": 1e-12, "why": "float64 rounding"}
    check = run.against("the path on the straight surface", **options)
    for name, lr in (("SGD", 0.019), ("momentum", 0.01)):
        straight, turned = both(name, lr)
        check(f"{name}: a turned surface gives the turned path", turned, straight)
    sgd_away = (straight - turned).norm(dim=-1).max()
    straight, turned = both("Adam", 0.1)
    name = "Adam's path depends on how the axes lie: how far away it comes out, turned back"
    run.claim(name, (straight - turned).norm(dim=-1).max(), at_least=0.1, deterministic=True)
    run.falsifier("SGD's path, with momentum", sgd_away, breaks=name)

    straight, turned = both("RMSProp", 10.0, 30)
    why = "eps, 1e-8, beside a gradient of 2"
    check = run.against("lr / √(1 - α), not lr", kind="theorem", rtol=1e-6, why=why)
    check("RMSProp: its first step", straight[1] - straight[0], np.array([100.0, -100.0]))
    name = "RMSProp at lr = 10 jumps a hundred away and returns: distance after 30 steps"
    run.claim(name, straight[-1].norm(), at_most=1e-12, deterministic=True)
    run.falsifier("RMSProp in the turned ravine", turned[-1].norm(), breaks=name)
