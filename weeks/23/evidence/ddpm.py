"""Steps against diffusers, the bound against an entropy, and digits out of noise."""

import math

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from shared.study import PositiveInt, Run
from week23.ddpm import (
    EMA,
    TimeMLP,
    bound_terms,
    decoder_log_prob,
    prior_term,
    simple_loss,
)
from week23.digit_judge import LEVELS, split
from week23.evidence.digit_pictures import judge_digits, optimal
from week23.evidence.scheduler_steps import (
    check_oracle,
    check_schedules,
    check_steps,
    noise_on_the_data,
)
from week23.schedules import Schedule, sample_ddim, sample_ddpm

SCHEDULE = Schedule.linear(100, 1e-3, 0.2)  # a tenth of the steps, each ten times as large


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 600) -> None:
    """Check the pieces, then train small networks on digits.

    Parameters
    ----------
    seeds
        Networks, each with its own split of the digits.
    steps
        Of each training.
    """
    run.rounding(0.05, "some hundred steps in float32")
    check_schedules(run)
    check_steps(run)
    check_oracle(run)
    noise_on_the_data(run)
    check_decoder(run)
    check_bound(run)
    check_weights_of_the_bound(run)
    check_average(run)
    memorize(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    judge_digits(run, seeds, run.budget(quick=20, default=steps, full=5 * steps))
    if run.mode == "full":
        from week23.evidence.mnist_pictures import judge_mnist

        judge_mnist(run)


# ---- checks


def check_decoder(run: Run) -> None:
    """Probabilities of gray levels: they add up to one, and are those of a normal law."""
    levels = torch.linspace(-1, 1, LEVELS, dtype=torch.double)
    means = torch.tensor([-2.0, -0.3, 0.99, 4.0], dtype=torch.double)[:, None]
    sigma = torch.tensor(0.06, dtype=torch.double)
    found = decoder_log_prob(levels.expand(4, -1), means, sigma, LEVELS)
    exact = {"why": "float64 rounding", "rtol": 1e-9}
    one = {"against": "one", "kind": "theorem"}
    run.check("the levels' probabilities", found.exp().sum(-1), torch.ones(4), **exact, **one)
    half = 1 / (LEVELS - 1)
    low, high = ((levels + side - means).numpy() / 0.06 for side in (-half, half))
    low[:, 0], high[:, -1] = -np.inf, np.inf
    near = np.where(low > 0, norm.sf(low) - norm.sf(high), norm.cdf(high) - norm.cdf(low))
    seen = near > 1e-280  # elsewhere scipy's probabilities are 0, and ours are not
    theirs = {"against": "scipy.stats.norm", "kind": "library"}
    exact["atol"] = 1e-12  # where a level is certain its logarithm is 0
    run.check("each of them", found[torch.from_numpy(seen)], np.log(near[seen]), **exact, **theirs)


def gaussian_bound(s: float, schedule: Schedule, n: int = 81) -> float:
    """The bound in nats for data from N(0, s²) and the best possible network, by quadrature."""
    grid = torch.linspace(-8, 8, n, dtype=torch.double)
    w = torch.from_numpy(norm.pdf(grid)) * 16 / (n - 1)
    x0, noise = s * grid.repeat_interleave(n)[:, None], grid.repeat(n)[:, None]
    weights = torch.outer(w, w).flatten()

    def best(x: Tensor, t: Tensor) -> Tensor:  # the score of a Gaussian
        a = schedule.alpha_bar(t, x)
        return -x / (a * s**2 + 1 - a)

    total = (weights * prior_term(schedule, x0)).sum()
    for t in range(len(schedule)):
        times = torch.full((len(x0),), t)
        total += (weights * bound_terms(schedule, best, x0, times, noise, kind="score")).sum()
    return float(total)


def missing(s: float, schedule: Schedule) -> float:
    """What the bound must lose: true steps back are Gaussian, but of another variance than β."""
    a, lost = schedule.alphas_bar, 0.0
    before = torch.cat([torch.ones(1, dtype=torch.double), a[:-1]])
    now, then = (x * s**2 + 1 - x for x in (a, before))
    ratio = then * (1 - a / before * then / now) / schedule.betas
    lost += ((ratio - 1 - ratio.log()) / 2).sum()
    return float(lost + (now[-1] - 1 - now[-1].log()) / 2)


def check_bound(run: Run) -> None:
    """On one Gaussian pixel the bound is the entropy plus what wrong variances cost."""
    schedules = {n: Schedule.cosine(n) for n in run.budget(quick=(8,), default=(8, 32, 128))}
    exact = run.against("½ ln(2πe)", kind="theorem", rtol=1e-6, why="sums on a grid for integrals")
    entropy = math.log(2 * math.pi * math.e) / 2
    found = {n: gaussian_bound(1.0, schedule) for n, schedule in schedules.items()}
    exact("bound for N(0, 1), variance β", list(found.values()), [entropy] * len(found))
    entropy += math.log(0.5)
    found = {n: gaussian_bound(0.5, schedule) for n, schedule in schedules.items()}
    theirs = [entropy + missing(0.5, schedule) for schedule in schedules.values()]
    why = {"against": "entropy plus the KL of each step"}
    exact("bound for N(0, 1/4)", list(found.values()), theirs, **why)
    for n, value in found.items():
        run.metric(f"nats above the entropy of N(0, 1/4), {n} steps", value - entropy)


def check_weights_of_the_bound(run: Run) -> None:
    """From the second time on the bound is the simple loss with a weight per time."""
    g = run.generator(3)
    net = TimeMLP(6, 16, len(SCHEDULE), g).double()
    torch.nn.init.normal_(net.leave[1].weight, generator=g)
    t = torch.arange(1, len(SCHEDULE))
    x0, noise = (torch.randn(len(t), 6, generator=g, dtype=torch.double) for _ in range(2))
    betas, a = SCHEDULE.betas[1:], SCHEDULE.alphas_bar[1:]
    weights = 6 * betas / (2 * (1 - betas) * (1 - a))
    spread = SCHEDULE.posterior(x0, x0, t)[1][:, 0] / betas  # smaller than β, and that costs too
    constant = 6 * (spread - 1 - spread.log()) / 2
    ours = bound_terms(SCHEDULE, net, x0, t, noise)
    other = weights * simple_loss(SCHEDULE, net, x0, t, noise) + constant
    why = {"against": "β/2α(1 - ᾱ) ‖ε - ε̂‖² + constant", "kind": "theorem", "rtol": 1e-9}
    run.check("terms of the bound", ours, other, why="float64 rounding", **why)


def check_average(run: Run) -> None:
    """The average of weights, against torch's, which starts at the first ones and keeps them."""
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    g, decay, n = run.generator(4), 0.9, 6
    net = torch.nn.Linear(3, 2).double()
    theirs = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay))
    ours, seen = EMA(net, decay), []
    for _ in range(n):
        torch.nn.init.normal_(net.weight, generator=g)
        seen.append(net.weight.detach().clone())
        ours.update(net)
        theirs.update_parameters(net)
    ours.copy_to(net)
    found, first = net.weight.detach(), seen[0]
    other = theirs.module.weight.detach()
    exact = {"why": "float64 rounding", "rtol": 1e-9}
    corrected = (other - decay**n * first) / (1 - decay**n)
    name = "average of weights, torch's without what it keeps of the first"
    run.check(name, found, corrected, against="torch's AveragedModel", **exact)
    w = decay ** torch.arange(n - 1, -1, -1, dtype=torch.double)
    by_hand = torch.einsum("n,noi->oi", w / w.sum(), torch.stack(seen))
    kind = {"kind": "theorem", "against": "weights decay^age, added to one"}
    run.check("average of weights", found, by_hand, **kind, **exact)


# ---- the best denoiser of what was seen


def memorize(run: Run) -> None:
    """It draws the data themselves: what looks like a sample is a memory."""
    data = split(run.seed)
    rows, n = run.budget(quick=(30, 10), default=(300, 40))
    points, g = data.x[:rows].double(), run.generator(5)
    model = optimal(points, SCHEDULE)
    start = torch.randn(n, 64, generator=g, dtype=torch.double)
    options = {"kind": "score", "generator": g}
    ends = [sample_ddpm(model, SCHEDULE, start, **options)]
    ends.append(sample_ddim(model, SCHEDULE, start, steps=50, **options))
    x = torch.cat(ends)
    nearest = points[torch.cdist(x, points).argmin(-1)]
    why = {"against": "the nearest row", "kind": "theorem", "atol": 1e-6}
    name = "samples of the best denoiser of a finite data set"
    run.check(name, x, nearest, why="rows are many deviations of the last noise apart", **why)
