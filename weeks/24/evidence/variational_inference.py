"""scikit-learn's mixture from the same start, enumeration, components that become empty."""

import itertools
import warnings
from typing import NamedTuple

import numpy as np
from matplotlib.patches import Ellipse
from scipy.special import logsumexp, xlogy
from scipy.stats import multivariate_t

from shared import plots
from shared.study import PositiveInt, Run
from week05.gaussian_mixture import GaussianMixture
from week05.kmeans import KMeans
from week24.sklearn_twins import mixture_from
from week24.variational_inference import (
    Fit,
    Posterior,
    Prior,
    as_posterior,
    elbo,
    fit,
    kl_from_prior,
    log_normalizer,
    update_parameters,
    update_shares,
)


def main(run: Run, *, seeds: PositiveInt = 12) -> None:
    """Compare bounds and parameters, then show what the bound leaves out and what it prunes.

    Parameters
    ----------
    seeds
        Data sets of each claim.
    """
    seeds = run.budget(quick=2, default=max(seeds, 2))
    check_sklearn(run)
    check_exact(run)
    judge_certainty(run, seeds)
    judge_empty(run, seeds)


def random_shares(n: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """A start that prefers no component."""
    return rng.dirichlet(np.ones(k), n)


# ---- checks


def check_sklearn(run: Run) -> None:
    """Twenty sweeps from the same shares; their bound leaves out constants, which are known."""
    rng, (n, d, k) = run.rng, (120, 3, 4)
    X = (
        rng.normal(size=(n, d)) @ rng.normal(size=(d, d))
        + 3 * rng.normal(size=(k, d))[rng.integers(k, size=n)]
    )
    prior, shares = Prior(0.5, X.mean(axis=0), 0.7, d + 1.0, np.cov(X.T)), random_shares(n, k, rng)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        theirs = mixture_from(shares, prior, sweeps=20).fit(X)
    ours = fit(X, prior, shares, sweeps=20, tol=-np.inf)
    same = {"rtol": 1e-8, "atol": 1e-10, "why": "float64 rounding over twenty sweeps"}
    same = run.against("sklearn's BayesianGaussianMixture", **same)
    q = ours.posterior
    same("concentrations of the weights", q.concentration, theirs.weight_concentration_)
    same("means", q.means, theirs.means_)
    same("precisions of the means", q.mean_precision, theirs.mean_precision_)
    same("degrees of freedom", q.dof, theirs.degrees_of_freedom_)
    same("spread over degrees of freedom", q.spreads / q.dof[:, None, None], theirs.covariances_)
    same("shares", update_shares(X, q), theirs.predict_proba(X), atol=1e-8)
    constants = k * d * (d - 1) / 4 * np.log(np.pi) - n * d / 2 * np.log(2 * np.pi)
    constants -= log_normalizer(as_posterior(prior, k))
    same("bound after each sweep", ours.bounds, np.array(theirs.lower_bounds_) + constants)


def small(run: Run, n: int = 7, d: int = 2) -> tuple[np.ndarray, Prior]:
    """A few points in two clusters that touch, and a vague prior."""
    X = run.rng.normal(size=(n, d)) + 1.5 * run.rng.integers(2, size=n)[:, None]
    return X, Prior(1.0, np.zeros(d), 0.3, d + 1.0, np.eye(d))


class Way(NamedTuple):
    """Some first points assigned: ln p of them and their components, and what each one now says."""

    log_joint: float
    urn: np.ndarray
    states: list

    def then(self, x: np.ndarray, j: int) -> "Way":
        """The next point in component j: Pólya's urn and Student's t of what came before."""
        mean, beta, dof, spread = self.states[j]
        d, urn, states = len(x), self.urn.copy(), list(self.states)
        shape = spread * (beta + 1) / (beta * (dof - d + 1))
        density = multivariate_t.logpdf(x, mean, shape, dof - d + 1)
        total = self.log_joint + np.log(urn[j] / urn.sum()) + density
        urn[j] += 1
        spread = spread + beta / (beta + 1) * np.outer(x - mean, x - mean)
        states[j] = ((beta * mean + x) / (beta + 1), beta + 1, dof + 1, spread)
        return Way(float(total), urn, states)


def enumerate_joint(X: np.ndarray, prior: Prior, k: int) -> tuple[list, np.ndarray]:
    """Each way to assign the points, and ln p(X, z)."""
    found = [Way(0.0, np.full(k, prior.concentration), [prior[1:]] * k)]
    for x in X:
        found = [way.then(x, j) for way in found for j in range(k)]
    return list(itertools.product(range(k), repeat=len(X))), np.array([w.log_joint for w in found])


def check_exact(run: Run) -> None:
    """Where the bound is tight, and that it rises at each half of a sweep."""
    X, prior = small(run)
    ways, exact = enumerate_joint(X, prior, 2)
    bounds = []
    for z in ways:
        shares = np.eye(2)[list(z)]
        bounds.append(elbo(X, shares, update_parameters(X, shares, prior), prior))
    theorem = run.against(
        "Student's t, point after point", kind="theorem", rtol=1e-9, why="float64"
    )
    theorem("bound where z is known is ln p(X, z), all assignments", np.array(bounds), exact)
    alone = fit(X, prior, np.ones((len(X), 1)))
    whole = enumerate_joint(X, prior, 1)[1][0]
    theorem("bound with one component is ln p(X)", alone.bounds[-1], whole)
    shares, steps = random_shares(len(X), 2, run.rng), []
    q = update_parameters(X, shares, prior)
    for _ in range(30):
        shares = update_shares(X, q)
        steps.append(elbo(X, shares, q, prior))
        q = update_parameters(X, shares, prior)
        steps.append(elbo(X, shares, q, prior))
    falls = np.minimum(np.diff(steps), 0.0)
    rises = {"against": "coordinate ascent", "kind": "theorem", "why": "float64 rounding"}
    run.check("bound never falls, half sweeps", falls, np.zeros(len(falls)), atol=1e-9, **rises)
    gap = logsumexp(exact) - steps[-1]
    run.check("bound above the evidence", min(gap, 0.0), 0.0, **rises)
    zero = kl_from_prior(as_posterior(prior, 2), prior)
    run.check("KL of the prior from itself", zero, 0.0, atol=1e-12, **rises)
    run.metric("evidence minus bound, seven points", gap, "nats")
    run.metric("ln 2, of the two names of each clustering", np.log(2), "nats")
    with run.figure("bound", "How far does coordinate ascent come up to the evidence?") as axes:
        reference = {"ln p(X), by enumeration": logsumexp(exact)}
        reference["ln p(X) − ln 2: one of the two labelings"] = logsumexp(exact) - np.log(2)
        x, lines = np.arange(1, len(steps) + 1) / 2, {"bound": steps}
        labels = {"xlabel": "sweeps", "ylabel": "nats"}
        plots.curves(axes, x, lines, reference=reference, **labels)


# ---- claims


def best_of(X: np.ndarray, prior: Prior, k: int, rng: np.random.Generator, starts: int = 4) -> Fit:
    """The highest bound from several starts."""
    found = [fit(X, prior, random_shares(len(X), k, rng)) for _ in range(starts)]
    return max(found, key=lambda one: one.bounds[-1])


def entropy(p: np.ndarray) -> np.ndarray:
    """Of truth values with probabilities p, in nats."""
    p = np.clip(p, 0.0, 1.0)  # a sum of products may exceed 1 by rounding
    return -xlogy(p, p) - xlogy(1 - p, 1 - p)


def certainty_gained(X: np.ndarray, prior: Prior, rng: np.random.Generator) -> float:
    """Doubt about "these two points belong together", exact minus mean field, mean over pairs."""
    ways, joint = enumerate_joint(X, prior, 2)
    posterior = np.exp(joint - logsumexp(joint))
    together = np.array([np.equal.outer(z, z) for z in map(np.array, ways)])
    exact = np.tensordot(posterior, together, axes=1)
    shares = best_of(X, prior, 2, rng).shares
    pairs = np.triu_indices(len(X), 1)
    return float((entropy(exact) - entropy(shares @ shares.T))[pairs].mean())


def judge_certainty(run: Run, seeds: int) -> None:
    """Mean field against the exact posterior, clusters that overlap and clusters that do not."""
    prior = Prior(1.0, np.zeros(1), 0.1, 2.0, np.eye(1))
    found: dict[float, list] = {2.0: [], 30.0: []}
    for seed in range(seeds):
        rng = np.random.default_rng([run.seed, seed])
        noise = rng.normal(size=(7, 1))
        for gap, values in found.items():
            X = noise + gap * (np.arange(7) % 2 - 0.5)[:, None]
            values.append(certainty_gained(X, prior, rng))
    name = "mean field is surer than the posterior who belongs together"
    run.claim(name, found[2.0], at_least=0.02, unit="nats per pair")
    run.falsifier("clusters thirty deviations apart", found[30.0], breaks=name)


def clusters(rng: np.random.Generator, n: int = 300) -> np.ndarray:
    """Three of them, of other shapes and sizes."""
    centers, z = np.array([[0.0, 0.0], [6.0, 0.0], [3.0, 6.0]]), rng.choice(3, n, p=(0.5, 0.3, 0.2))
    shapes = np.array([[[1, 0], [0.8, 0.5]], [[1, 0], [-0.5, 0.6]], [[0.7, 0], [0, 0.7]]])
    return centers[z] + np.einsum("nij,nj->ni", shapes[z], rng.normal(size=(n, 2)))


def judge_empty(run: Run, seeds: int) -> None:
    """Six components for three clusters; of several starts the highest bound is kept."""
    n, k, sweeps = run.budget(quick=100, default=300), 6, run.budget(quick=60, default=300)
    used: dict[float, list] = {1e-3: [], 100.0: []}
    first = []
    for seed in range(seeds):
        rng = np.random.default_rng([run.seed, 100, seed])
        X = clusters(rng, n)
        starts = [np.eye(k)[KMeans(k, random_state=seed).fit(X).labels_]]
        starts += [random_shares(n, k, rng) for _ in range(3)]
        for concentration, counts in used.items():
            prior = Prior(concentration, X.mean(axis=0), 0.01, 2.0, np.eye(2))
            found = [fit(X, prior, shares, sweeps=sweeps, tol=1e-3) for shares in starts]
            q = max(found, key=lambda one: one.bounds[-1]).posterior
            counts.append(in_use(q))
            if concentration < 1:
                first.append(in_use(found[0].posterior))
            if seed == 0 and concentration < 1:
                draw_components(run, X, GaussianMixture(k, random_state=seed).fit(X), q)
    name = "components that are not needed become empty"
    three = {"at_least": 3, "at_most": 3, "each": True, "unit": "components", "quick": False}
    run.claim(name, used[1e-3], **three, seen_before="one start, from k-means: 3 to 5 are left")
    run.falsifier("a prior that wants all components", used[100.0], breaks=name)
    run.metric("components left from k-means alone", np.mean(first), rtol=0.2)


def in_use(q: Posterior) -> int:
    """Components with more than a hundredth of the weight."""
    return int((q.concentration / q.concentration.sum() > 0.01).sum())


def draw_components(run: Run, X: np.ndarray, em: GaussianMixture, q: Posterior) -> None:
    """Ellipses of two standard deviations, as dark as the component is heavy."""
    title = "Six components for three clusters: EM, and mean field"
    with run.figure("components", title, columns=2, sharex=True, sharey=True) as axes:
        covariances, weights = q.spreads / q.dof[:, None, None], q.concentration
        weights = weights / weights.sum()
        panels = {
            "EM": (em.weights_, em.means_, em.covariances_),
            "mean field": (weights, q.means, covariances),
        }
        for ax, (name, parts) in zip(axes, panels.items(), strict=True):
            ax.plot(*X.T, ".", ms=3, color=plots.GRAY)
            for weight, mean, covariance in zip(*parts, strict=True):
                values, vectors = np.linalg.eigh(covariance)
                angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
                width, height = 4 * np.sqrt(values[::-1])
                style = {"fill": False, "lw": 2, "color": plots.BLUE, "alpha": float(weight**0.3)}
                if weight > 0.01:
                    ax.add_patch(Ellipse(mean, width, height, angle=angle, **style))
            ax.set(title=name, xlabel="$x_1$")
        axes[0].set_ylabel("$x_2$")
