"""Approximations against closed forms, numpyro and NUTS; then what they are worth on real data."""

import numpy as np
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from shared import plots
from shared.study import PositiveInt, Run
from week24.adaptation import sample
from week24.bayes_by_backprop import MeanField, ascent, fit_mean_field
from week24.bayesian_nn import dropout_masks, fit, regression_target
from week24.diagnostics import rhat
from week24.evidence.real_tables import judge_real_tables
from week24.hmc_nuts import nuts
from week24.laplace import KroneckerLaplace, Laplace, ggn, kronecker_factors
from week24.mean_field_twin import auto_normal
from week24.net_posterior import MLP, Categorical, Gaussian, Posterior
from week24.stochastic_gradient_samplers import Moments, sgld, stationary_variance, swag

SEEN = "the same net, another draw of the data, while the code was written"
GRID = torch.linspace(-3, 3, 61, dtype=torch.float64)[:, None]
P = 0.1  # of dropout
REGIONS = {"gap": (0.0, 0.5), "data": (0.9, 1.9), "outside": (2.3, 3.0)}  # of |x|


def main(run: Run, *, splits: PositiveInt = 3) -> None:
    """Check each part, then compare with NUTS on a small net, then on digits and a table.

    Parameters
    ----------
    splits
        Of the real data; 8 with --full.
    """
    run.rounding(0.3, "hundreds of steps of Adam and of a sampler")
    torch.set_num_threads(1)  # products this small are slower on several threads
    check_net(run)
    check_linear(run)
    check_sampling(run)
    if run.mode != "quick":  # JAX takes seconds to start and compile
        compare_with_numpyro(run)
    judge_small_net(run)
    judge_dropout_and_n(run)
    judge_real_tables(run, run.budget(quick=1, default=max(splits, 2), full=max(splits, 8)))


# ---- closed forms


def check_net(run: Run) -> None:
    """Jacobian, GGN and gradients against torch.func and autograd, factors by their definition."""
    g, exact = run.generator(), {"atol": 1e-9, "rtol": 1e-9, "why": "float64 rounding"}
    net = MLP(3, 5, 4, 3)
    x, y = torch.randn(20, 3, generator=g).double(), torch.arange(20) % 3
    posterior, theta = Posterior(net, Categorical(), x, y, 1.0), net.start(1, g)[0]
    J = torch.func.jacrev(lambda t: net(t, x))(theta)
    equal = run.against("torch.func", **exact)
    equal("jacobian of the outputs", net.jacobian(theta, x), J)

    def loss(outputs, label):
        return outputs.logsumexp(0) - outputs @ label

    labels = torch.nn.functional.one_hot(y).double()
    H = torch.func.vmap(torch.func.hessian(loss))(net(theta, x), labels)
    found = ggn(posterior, theta)
    equal("generalized Gauss-Newton matrix", found, torch.einsum("ncp,ncd,ndq->pq", J, H, J))
    scores = torch.func.jacrev(lambda t: net(t, x).log_softmax(-1))(theta)
    fisher = torch.einsum("nc,ncp,ncq->pq", net(theta, x).softmax(-1), scores, scores)
    enumerated = {"against": "Fisher information, all labels", "kind": "theorem", **exact}
    run.check("GGN of a softmax", found, fisher, **enumerated)
    one = Posterior(MLP(3, 3), Categorical(), x[:1], y[:1], 1.0)
    (A, G), w = kronecker_factors(one, theta[:12])[0], theta[:12]
    rule = {"against": "GGN of one row", "kind": "theorem", **exact}
    run.check("Kronecker factors of one layer", np.kron(G, A), ggn(one, w), **rule)

    eps = torch.randn(4, len(theta), generator=g, dtype=torch.float64)
    q = MeanField(theta, torch.randn(len(theta), generator=g, dtype=torch.float64))
    leaves = [part.clone().requires_grad_() for part in q]
    moving = MeanField(*leaves)
    bound = posterior.log_joint(moving.mean + moving.sd * eps).mean() + moving.sd.log().sum()
    theirs = torch.autograd.grad(bound, leaves)
    ours = ascent(q, eps, posterior.gradient(q.mean + q.sd * eps))
    equal = run.against("torch.autograd", **exact)
    equal("gradient of the ELBO by μ and ρ", torch.cat(ours), torch.cat(theirs))
    small = small_posterior(30, run.rng)
    theta = small.net.start(1, g)[0]
    by_hand = regression_target(small)(theta.numpy())[1]
    equal("gradient of the log joint by hand", by_hand, small.gradient(theta))


def linear_posterior(rng: np.random.Generator, n: int = 60) -> Posterior:
    """Normal noise, normal prior, a linear model with correlated inputs: all is known."""
    x = torch.from_numpy(rng.normal(size=(n, 4)) @ rng.normal(size=(4, 4)) / 2)
    y = x @ torch.tensor([1.0, -1.0, 0.5, 0.0]).double()
    return Posterior(MLP(4, 1), Gaussian(0.5), x, y + 0.5 * torch.from_numpy(rng.normal(size=n)), 1)


def check_linear(run: Run) -> None:
    """Where the posterior is normal, Laplace is exact and mean field has 1 / precision."""
    posterior = linear_posterior(run.rng)
    X = np.column_stack([posterior.x, np.ones(len(posterior.x))])
    precision = X.T @ X / 0.25 + np.eye(5)
    covariance = np.linalg.inv(precision)
    mean = covariance @ X.T @ posterior.y.numpy() / 0.25
    exact = Laplace(posterior, torch.from_numpy(mean))
    equal = run.against("closed form", kind="theorem", atol=1e-8, why="float64 rounding")
    equal("slope at the posterior's mean", posterior.gradient(exact.theta), np.zeros(5))
    equal("Laplace: covariance", exact.covariance(), covariance)
    marginal = multivariate_normal(cov=0.25 * np.eye(len(X)) + X @ X.T)
    name = "scipy.stats.multivariate_normal"
    equal = run.against(name, atol=1e-6, why="float64 rounding")
    equal("Laplace: log evidence", exact.log_evidence, marginal.logpdf(posterior.y.numpy()))
    # Points with the mean and covariance of ε: averages of what is quadratic in it are exact.
    eps = 5**0.5 * torch.cat([torch.eye(5), -torch.eye(5)]).double()
    sd = torch.from_numpy(np.diag(precision) ** -0.5)
    q = MeanField(exact.theta, sd.expm1().log())
    equal = run.against("posterior mean, 1 / precision", kind="theorem", atol=1e-8, why="rounding")
    for name, batches in {"all rows": 1, "batches": 3}.items():
        parts = [
            posterior.gradient(q.mean + sd * eps, rows)
            for rows in torch.arange(len(X)).chunk(batches)
        ]
        slopes = torch.cat(ascent(q, eps, torch.stack(parts).mean(0)))
        equal(f"slope of the ELBO at mean field's solution, {name}", slopes, np.zeros(10))


def check_sampling(run: Run) -> None:
    """SGLD's law at a step that is too long, SWAG's moments, the spread of dropout."""
    g, n, batch = run.generator(), 40, 5
    y = torch.from_numpy(run.rng.normal(size=n))
    # All inputs are zero: the bias has the data, the weight its prior, and batches are plain noise.
    still = Posterior(MLP(1, 1), Gaussian(1.0), torch.zeros(n, 1).double(), y, 0.2)
    precisions, noise = (25.0, 25.0 + n), (0.0, n**2 / batch * float(y.var(correction=0)))
    step, chains, steps = 0.02, 500, run.budget(quick=300, default=1500)
    kept = {"burn_in": 60, "keep_every": 20, "generator": g, "batch_size": batch}
    start = torch.zeros(chains, 2, dtype=torch.float64)
    draws = sgld(still, start, step=step, steps=steps, **kept).flatten(0, 1)
    exact = [
        stationary_variance(step=step, precision=a, noise_variance=v)
        for a, v in zip(precisions, noise, strict=True)
    ]
    rule = {"kind": "theorem", "rtol": 6 * (2 / len(draws)) ** 0.5, "why": "six standard errors"}
    run.check("SGLD: variances", draws.var(0), exact, against="law of the recursion", **rule)
    run.metric("SGLD's variance over the posterior's", exact[1] * precisions[1])

    path = torch.from_numpy(run.rng.normal(size=(30, 4)).cumsum(axis=0))
    moments = Moments(rank=8)
    for theta in path:
        moments.add(theta)
    running = path.numpy().cumsum(axis=0) / np.arange(1, 31)[:, None]
    D = (path.numpy() - running)[-8:]
    theirs = (np.diag(path.numpy().var(axis=0)) + D.T @ D / 7) / 2
    equal = run.against("numpy", atol=1e-10, why="float64 rounding")
    equal("SWAG: covariance", moments.covariance(), theirs)
    n = run.budget(quick=4000, default=40_000)
    drawn = np.cov(moments.draw(n, g).T)
    scale = float(np.trace(theirs))
    law = {"against": "its covariance", "kind": "consistency", "why": "six standard errors"}
    run.check("SWAG: draws", drawn, theirs, atol=6 * scale / n**0.5, **law)

    net, p = MLP(1, 6, 1), 0.3
    theta, x = net.start(1, g)[0], torch.tensor([[0.7]], dtype=torch.float64)
    outputs = net(theta, x, dropout_masks(net, p, (n, 1), g))[:, 0, 0]
    active = x * net.matrices(theta)[0][:, :1].T
    weighted = active.tanh() * net.matrices(theta)[1][:, :-1]
    exact = float(p / (1 - p) * weighted.square().sum())
    rule = {"against": "p / (1 - p) Σ (v h)²", "kind": "theorem", "rtol": 6 * (2 / n) ** 0.5}
    run.check("MC dropout: variance", outputs.var(), exact, why="six standard errors", **rule)


def compare_with_numpyro(run: Run) -> None:
    """Mean-field posteriors of a line and of a softmax regression."""
    from sklearn.datasets import load_iris

    x, y = load_iris(return_X_y=True)
    x = torch.from_numpy((x - x.mean(axis=0)) / x.std(axis=0))
    iris = Posterior(MLP(4, 3), Categorical(), x, torch.from_numpy(y).long(), 1.0)
    posteriors = {"line": linear_posterior(run.rng), "iris": iris}
    theirs = auto_normal(list(posteriors.values()), steps=2000, seed=run.seed)
    why = "draws of both's stochastic gradients"
    for (name, posterior), their in zip(posteriors.items(), theirs, strict=True):
        options = {"steps": 2000, "lr": 0.05, "generator": run.generator(2), "n_draws": 16}
        q = fit_mean_field(posterior, **options)
        equal = run.against("numpyro AutoNormal", why=why)
        equal(f"{name}: standard deviations", q.sd, their["sd"], rtol=0.05)
        apart = (q.mean - torch.tensor(their["mean"])) / q.sd
        equal(f"{name}: means, in their sd", apart, np.zeros(len(apart)), atol=0.2)


# ---- a net that NUTS can sample


def small_posterior(n: int, rng: np.random.Generator) -> Posterior:
    """A net of eight units; a sine with a gap in the middle."""
    x = rng.uniform(0.8, 2, n) * np.where(np.arange(n) % 2, 1, -1)
    y = torch.from_numpy(np.sin(2 * x) + 0.2 * rng.normal(size=n))
    return Posterior(MLP(1, 8, 1), Gaussian(0.2), torch.from_numpy(x[:, None]), y, 1.0)


def moments_of(outputs: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over draws, at each point of the grid."""
    return outputs[..., 0].mean(0).numpy(), outputs[..., 0].std(0).numpy()


def linear_moments(approximation: Laplace | KroneckerLaplace) -> tuple[np.ndarray, np.ndarray]:
    """The same of a Laplace approximation."""
    mean, covariance = approximation.predict(GRID)
    return mean[:, 0].numpy(), covariance[:, 0, 0].sqrt().numpy()


def within(values: np.ndarray, region: str) -> np.ndarray:
    """Values at the places of a region."""
    low, high = REGIONS[region]
    at = GRID[:, 0].abs().numpy()
    return values[(low <= at) & (at <= high)]


def spread(found: tuple[np.ndarray, np.ndarray], nuts: np.ndarray, region: str) -> float:
    """Standard deviation over that of NUTS, geometric mean over a region."""
    return float(np.exp(np.log(within(found[1] / nuts, region)).mean()))


def approximations(posterior: Posterior, run: Run, seeds: int) -> dict[str, list]:
    """Means and standard deviations on the grid, one for each seed."""
    net, g, steps = posterior.net, run.generator(5), run.budget(quick=60, default=1500)
    batches = {"batch_size": 20, "generator": g}
    # ten members of each seed's ensemble; the first of them is where the others begin
    start = net.start(10 * seeds, g)
    members = fit(posterior, start, steps=steps, lr=0.03, generator=g).unflatten(0, (seeds, 10))
    best = members[:, 0]
    dropped = fit(posterior, best, steps=steps, lr=0.02, generator=g, dropout=P)
    wandered = swag(posterior, best, lr=2e-3, steps=2 * steps, keep_every=steps // 20, **batches)
    walk = {"step": 5e-5, "steps": 3 * steps, "burn_in": steps, "keep_every": 50}
    chains = sgld(posterior, members, **walk, **batches)
    wander = wandered.draw(500, g)
    found: dict[str, list] = {}
    for seed, theta in enumerate(best):
        options = {"steps": steps, "lr": 0.02, "generator": g, "start_sd": 0.03, "n_draws": 4}
        q = fit_mean_field(posterior, start=theta, **options)
        masks = dropout_masks(net, P, (500, 1), g)
        for name, one in {
            "mean field": moments_of(net(q.draw(500, g), GRID)),
            "Laplace": linear_moments(Laplace(posterior, theta)),
            "Kronecker": linear_moments(KroneckerLaplace(posterior, theta)),
            "last layer": linear_moments(Laplace(posterior, theta, last_layer=True)),
            "ensemble": moments_of(net(members[seed], GRID)),
            "SGLD": moments_of(net(chains[:, seed].flatten(0, 1), GRID)),
            "SWAG": moments_of(net(wander[:, seed], GRID)),
            "MC dropout": moments_of(net(dropped[seed], GRID, masks)),
        }.items():
            found.setdefault(name, []).append(one)
    return found


def judge_small_net(run: Run) -> None:
    """NUTS first, then all others by its means and standard deviations."""
    posterior, n = small_posterior(40, run.rng), run.budget(quick=20, default=150)
    net, g = posterior.net, run.generator(4)
    start = fit(posterior, net.start(4, g), steps=300, lr=0.03, generator=g).numpy()
    chains = sample(regression_target(posterior), start, nuts(7), n, n, run.rng).draws
    outputs = net(torch.from_numpy(chains), GRID)
    flat = outputs[..., 0].numpy()
    worst = max(rhat(flat[:, :, i]) for i in range(0, len(GRID), 5))
    run.metric("largest R̂ of the outputs", worst, rtol=None)
    truth = moments_of(outputs.flatten(0, 1))
    found = approximations(posterior, run, run.budget(quick=2, default=4))
    late = {"rtol": None}
    for name, all_seeds in found.items():
        for region in REGIONS:
            ratio = np.mean([spread(one, truth[1], region) for one in all_seeds])
            run.metric(f"sd over NUTS's, {region}, {name}", ratio, **late)
        off = [within((one[0] - truth[0]) / truth[1], "data") for one in all_seeds]
        off = np.sqrt(np.mean(np.square(off)))
        run.metric(f"error of the mean in NUTS's sd, data, {name}", off, **late)
    name = "in the gap mean field has less than half of the spread"
    ratios = {k: [spread(one, truth[1], "gap") for one in v] for k, v in found.items()}
    rule = {"at_most": 0.5, "unit": "of NUTS's sd", "seen_before": SEEN, "quick": False}
    run.claim(name, ratios["mean field"], **rule, **late)
    run.falsifier("Laplace, with all covariances", ratios["Laplace"], breaks=name)
    title = "One posterior, eight approximations: two standard deviations, NUTS dashed"
    with run.figure("small_net", title, 2, 4, sharex=True, sharey=True, size=(11, 5)) as axes:
        x = GRID[:, 0].numpy()
        for ax, (name, all_seeds) in zip(axes.flat, found.items(), strict=True):
            mean, sd = all_seeds[0]
            ax.fill_between(x, mean - 2 * sd, mean + 2 * sd, color=plots.BLUE, alpha=0.25, lw=0)
            ax.plot(x, mean, color=plots.BLUE)
            for sign in (-2, 2):
                ax.plot(x, truth[0] + sign * truth[1], "--", lw=1, color=plots.REFERENCE)
            ax.plot(posterior.x[:, 0], posterior.y, ".", ms=3, color=plots.ORANGE)
            ax.set(title=name, ylim=(-3, 3))
        for ax in axes[1]:
            ax.set(xlabel="x")


def judge_dropout_and_n(run: Run) -> None:
    """Sixteen times the rows: what shrinks, and what does not."""
    nets, steps = run.budget(quick=(2, 30), default=(4, 800))
    g = run.generator(7)
    sizes, spreads = (50, 200, 800), {"MC dropout": [], "Laplace": []}
    for n in sizes:
        posterior = small_posterior(n, run.rng)
        net, batches = posterior.net, {"batch_size": 50, "generator": g}
        start = net.start(nets, g)
        plain = fit(posterior, start, steps=steps, lr=0.02, **batches)
        dropped = fit(posterior, start, steps=steps, lr=0.02, dropout=P, **batches)
        masks = dropout_masks(net, P, (500, 1), g)
        rows = {
            "MC dropout": [moments_of(net(theta, GRID, masks)) for theta in dropped],
            "Laplace": [linear_moments(Laplace(posterior, theta)) for theta in plain],
        }
        for name, found in rows.items():
            spreads[name].append([within(sd, "data").mean() for _, sd in found])
    ratios = {k: np.array(v)[-1] / np.array(v)[0] for k, v in spreads.items()}
    name = "with sixteen times the rows MC dropout doubts as much as before"
    rule = {"at_least": 0.7, "unit": "times the sd", "seen_before": SEEN, "quick": False}
    run.claim(name, ratios["MC dropout"], **rule, rtol=None)
    run.falsifier("Laplace, a posterior", ratios["Laplace"], breaks=name)
    title = "Does doubt among the data go away with more of them?"
    with run.figure("rows", title) as axes:
        lines = {k: np.array(v).T for k, v in spreads.items()}
        labels = {"xlabel": "rows", "ylabel": "standard deviation of the output"}
        plots.curves(axes, sizes, lines, marker="o", xscale="log", yscale="log", **labels)
        axes.set_xticks(sizes, [str(n) for n in sizes])
        axes.minorticks_off()
