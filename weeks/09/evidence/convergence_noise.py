"""Noise: the floor against many chains, and two ways below it."""

import numpy as np

from shared import plots
from shared.stats import mean_interval
from shared.study import Run
from week09.convergence import noise_floor, polyak_average, sgd

CURVATURES = np.array([0.1, 1.0])


def check_noise(run: Run) -> None:
    """Steps of 1/(λk) against the sample mean."""
    k, noise = np.arange(1, 101), np.random.default_rng(run.seed).normal(size=100)
    rng = np.random.default_rng(run.seed)
    ours = sgd(lambda x: 2.0 * x, np.array([5.0]), 1 / (2.0 * k), 1.0, rng)[1:, 0]
    check = run.against("sample mean", kind="theorem", atol=1e-13, why="float64 rounding")
    name = "SGD with steps 1/(λk): the running mean of what it saw"
    check(name, ours, np.cumsum(-noise / 2.0) / k)


def gap(points: np.ndarray) -> np.ndarray:
    """f - f*, (points, chains)."""
    return (CURVATURES * points**2).sum(-1) / 2


def floor(lr: float, momentum: float = 0.0) -> float:
    """What is left in the mean, by the closed form."""
    return (CURVATURES * noise_floor(CURVATURES, lr, 1.0, momentum)).sum() / 2


def small_step_floor(lr: float, momentum: float) -> float:
    """The same as far as lr is small: lr over 1 - momentum counts, curvature does not."""
    return lr / (1 - momentum) * len(CURVATURES) / 4


def show_noise(run: Run, chains: int) -> None:
    """Floors, decreasing steps and averages, each beside its closed form."""
    steps = run.budget(quick=200, default=5000)
    rng = np.random.default_rng([run.seed, 5])
    grad, start = CURVATURES.__mul__, np.full((chains, 2), 3.0)
    lrs = np.geomspace(0.02, 0.8, run.budget(quick=3, default=6))
    floors = {
        momentum: [stationary_loss(steps, chains, lr, momentum, rng) for lr in lrs]
        for momentum in (0.0, 0.9)
    }

    def off_by(theory) -> list[float]:
        """Distance of each measured floor from the theory's, in half-widths of its interval."""
        pairs = [(i, theory(lr, m)) for m in floors for i, lr in zip(floors[m], lrs, strict=True)]
        return [abs(i.mean - expected) / (i.high - i.mean) for i, expected in pairs]

    name = "the noise floor of SGD is the closed form's: distance / half of a 99.9 % interval"
    note = f"{chains} chains of {steps} steps for each step size and momentum"
    run.claim(name, off_by(floor), at_most=1, each=True, quick=False, note=note)
    run.falsifier("the formula for small steps", off_by(small_step_floor), breaks=name)
    silent = gap(sgd(grad, start, np.full(steps, lrs[0]), 0.0, rng))[-1].max()
    name = "without noise there is no floor: what is left / the floor with noise"
    run.claim(name, silent / floor(lrs[0]), at_most=0.05, deterministic=True, quick=False)

    k = np.arange(1, steps + 1)
    decreasing = 1 / (0.1 * (k + 10))
    large = sgd(grad, start, np.full(steps, 0.5), 1.0, rng)
    losses = {
        "step 0.5": gap(large),
        "step 0.05": gap(sgd(grad, start, np.full(steps, 0.05), 1.0, rng)),
        "step 10/(k + 10)": gap(sgd(grad, start, decreasing, 1.0, rng)),
        "average, step 0.5": gap(polyak_average(large)),
    }
    variance, expected = np.full(2, 9.0), []  # E x², exactly, while the step sizes fall
    for lr in decreasing:
        variance = (1 - lr * CURVATURES) ** 2 * variance + lr**2
        expected.append((CURVATURES * variance).sum() / 2)
    efficient = (1 / CURVATURES).sum() / 2 / steps  # tr(H⁻¹Σ)/(2k)
    found = mean_interval(losses["step 10/(k + 10)"][-1], level=0.999)
    half, why = found.high - found.mean, f"99.9 % interval of {chains} chains"
    check = run.against("E x² ← (1 - ηλ)² E x² + η²", kind="theorem", atol=half, why=why)
    check("steps of 1/k: E f at the last step", found.mean, expected[-1])
    name = "steps of 1/k reach O(1/k): E f by the recursion / tr(H⁻¹Σ)/(2k)"
    run.claim(name, expected[-1] / efficient, at_most=3, deterministic=True, quick=False)
    name = "Polyak's average of a large constant step reaches tr(H⁻¹Σ)/(2k): measured / theory"
    seen = "that the mean is about 1; the upper bound is an earlier rule's"
    averaged, plain = (losses[n][-1] / efficient for n in ("average, step 0.5", "step 0.5"))
    rule = {"at_least": 0.7, "at_most": 1.3}
    run.claim(name, averaged, **rule, quick=False, seen_before=seen)
    run.falsifier("not averaged", plain, breaks=name)

    title = "Noise sets a floor; smaller steps lower it, averaging removes it"
    with run.figure("noise_floor", title, columns=2, size=(9.4, 4.4)) as (left, right):
        shown = np.unique(np.geomspace(1, steps, 160).astype(int))
        means = {name: values.mean(1)[shown] for name, values in losses.items()}
        left.plot(k[k > 30], np.array(expected)[k > 30], ":", color=plots.REFERENCE)
        left.plot(k[k > 30], efficient * steps / k[k > 30], "--", color=plots.REFERENCE)
        for lr in (0.5, 0.05):
            left.axhline(floor(lr), color=plots.REFERENCE, ls="--", lw=1)
        colors = (plots.ORANGE, plots.YELLOW, plots.BLUE, plots.GREEN)
        labels = {"xlabel": "step", "ylabel": f"$E f(x_k) - f^*$, mean of {chains} chains"}
        labels |= {"xscale": "log", "yscale": "log", "ends": False}
        plots.curves(left, shown, means, colors=colors, **labels)
        for (momentum, found), color in zip(floors.items(), (plots.BLUE, plots.PINK), strict=True):
            right.plot(lrs, [floor(lr, momentum) for lr in lrs], "--", color=plots.REFERENCE)
            name, dots = f"momentum {momentum:g}", [i.mean for i in found]
            half = [i.high - i.mean for i in found]
            right.errorbar(lrs, dots, half, fmt="o", color=color, label=name)
        right.set(xscale="log", yscale="log", xlabel="step size", ylabel="floor of $E f - f^*$")
        right.set_xticks([0.02, 0.1, 0.5], ["0.02", "0.1", "0.5"])
        right.minorticks_off()
        right.legend()


def stationary_loss(steps: int, chains: int, lr: float, momentum: float, rng):
    """Mean loss of chains that begin on the floor, with its 99.9 % interval."""
    spread = np.sqrt(noise_floor(CURVATURES, lr, 1.0, momentum))
    wait = min(steps // 2, int(40 * (1 - momentum) / (lr * 0.1)))
    start = spread * rng.normal(size=(chains, 2))
    points = sgd(CURVATURES.__mul__, start, np.full(steps, lr), 1.0, rng, momentum)
    return mean_interval(gap(points[wait:]).mean(0), level=0.999)
