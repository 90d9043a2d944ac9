r"""Stochastic variational inference: topics of documents, a batch at a time.

Latent Dirichlet allocation: each topic $k$ is a distribution of words $\beta_k \sim Dir(\eta)$,
each document $d$ mixes topics by $\theta_d \sim Dir(\alpha)$, and each of its words draws a topic
and then the word. Mean field gives $q(\beta_k) = Dir(\lambda_k)$ and $q(\theta_d) = Dir(\gamma_d)$;
for given topics, a document's own variables are found by a few updates. Batch VB does so for all
documents and then sets $\lambda = \eta + \sum_d s_d$, with $s_d$ the expected counts.

In the geometry of KL divergences the gradient of the bound is $\eta + \sum_d s_d - \lambda$: the
Fisher matrix of the Dirichlet cancels. A batch of $B$ of $N$ documents estimates it without bias,

$$\lambda \leftarrow (1 - \rho_t)\,\lambda + \rho_t \Big(\eta + \frac N B \sum_{d \in B} s_d\Big),
  \qquad \rho_t = (t + \tau)^{-\kappa}.$$

With $B = N$ and $\rho = 1$ it *is* batch VB.

>>> rng = np.random.default_rng(0)
>>> counts, topics = generate(300, 3, 30, rng)
>>> lam = fit(counts, 3, rng, passes=3, batch_size=30)
>>> apart = np.abs(topics[:, None] - lam / lam.sum(axis=1, keepdims=True)).sum(axis=2) / 2
>>> print((apart.min(axis=1) < 0.2).all())  # total variation
True

    uv run weeks/24/latent_dirichlet.py

Source: Hoffman, Blei, Wang & Paisley, "Stochastic variational inference" (2013), section 3.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import digamma, gammaln, xlogy

from shared.arguments import checked
from shared.require import require

__all__ = [
    "Priors",
    "bound",
    "expected_log",
    "fit",
    "generate",
    "heldout",
    "learning_rate",
    "local_step",
    "natural_gradient",
    "perplexity",
    "start",
    "step",
]

Counts = Float[np.ndarray, "n_documents n_words"]
Topics = Float[np.ndarray, "n_topics n_words"]
Weights = Float[np.ndarray, "n_documents n_topics"]
Rows = Float[np.ndarray, "rows columns"]  # parameters of a Dirichlet in each row


class Priors(NamedTuple):
    """Concentration of a document's topics (alpha) and of a topic's words (eta)."""

    alpha: float = 0.1
    eta: float = 0.1


SPARSE = Priors()  # few topics in a document, few words in a topic


def generate(
    n_documents: int,
    n_topics: int,
    n_words: int,
    rng: np.random.Generator,
    *,
    length: float = 60,
    priors: Priors = SPARSE,
) -> tuple[Counts, Topics]:
    """Documents by the model itself, as counts, and the topics that they came from."""
    topics = rng.dirichlet(np.full(n_words, priors.eta), n_topics)
    mixed = rng.dirichlet(np.full(n_topics, priors.alpha), n_documents) @ topics
    lengths = rng.poisson(length, n_documents)
    return rng.multinomial(lengths, mixed).astype(float), topics


def start(n_topics: int, n_words: int, rng: np.random.Generator) -> Topics:
    """Topics that are nearly even, and all different: equal ones would stay equal forever."""
    return rng.gamma(100.0, 0.01, (n_topics, n_words))


def expected_log(parameters: Rows) -> Rows:
    """E[ln x] for each row's x ~ Dir(row)."""
    return digamma(parameters) - digamma(parameters.sum(axis=1, keepdims=True))


def _mixed(theta: Weights, beta: Topics) -> Counts:
    """Σ_k θ_k β_kw, and never zero: for a word that is in no topic it underflows."""
    return np.maximum(theta @ beta, np.finfo(float).tiny)


@checked
def local_step(
    counts: Counts, lam: Topics, alpha: float, *, tol: float = 1e-3, most: int = 100
) -> tuple[Weights, Topics]:
    """The documents' own variables for given topics, and what they say about the topics.

    A word's topics have probabilities φ ∝ exp(E[ln θ_k] + E[ln β_kw]); γ is alpha plus the counts
    shared out by φ. Both take turns until a document's γ moves by less than `tol` in the mean.

    Returns
    -------
    gamma, statistics
        Of each document's topics; and how often each topic is expected to have made each word.
    """
    beta = np.exp(expected_log(lam))
    gamma, moving, rows = np.ones((len(counts), len(lam))), np.arange(len(counts)), counts
    for _ in range(most):
        before = gamma[moving]
        theta = np.exp(expected_log(before))
        gamma[moving] = alpha + theta * ((rows / _mixed(theta, beta)) @ beta.T)
        still = np.abs(gamma[moving] - before).mean(axis=1) >= tol
        moving, rows = moving[still], rows[still]
        if not moving.size:
            break
    theta = np.exp(expected_log(gamma))
    return gamma, beta * (theta.T @ (counts / _mixed(theta, beta)))


def learning_rate(t: int, tau: float, kappa: float) -> float:
    """ρ of step t = 1, 2, …: sums without bound, squares sum to a finite number if κ > 1/2."""
    require(t >= 1, "t must be at least 1", t)
    require(tau >= 0, "tau must be at least 0", tau)
    require(0 <= kappa <= 1, "kappa must be between 0 and 1", kappa)
    return (t + tau) ** -kappa


@checked
def natural_gradient(
    batch: Counts, lam: Topics, n_documents: int, priors: Priors, **local: float
) -> Topics:
    """Of the bound in λ, estimated from a batch that stands for `n_documents`.

    References
    ----------
    Hoffman et al. (2013), eqs. 33 to 35.
    """
    statistics = local_step(batch, lam, priors.alpha, **local)[1]
    return priors.eta + n_documents / len(batch) * statistics - lam


def step(
    lam: Topics, batch: Counts, n_documents: int, rho: float, priors: Priors, **local: float
) -> Topics:
    """A part ρ of the way to the topics that the batch alone would give.

    It is written as an average and not as λ + ρ·gradient, so that ρ = 1 leaves nothing of λ.
    """
    statistics = local_step(batch, lam, priors.alpha, **local)[1]
    return (1 - rho) * lam + rho * (priors.eta + n_documents / len(batch) * statistics)


def fit(
    counts: Counts,
    n_topics: int,
    rng: np.random.Generator,
    *,
    passes: int = 1,
    batch_size: int = 64,
    tau: float = 1.0,
    kappa: float = 0.7,
    priors: Priors = SPARSE,
) -> Topics:
    """λ after some passes over the documents, each in a new random order."""
    n = len(counts)
    require(1 <= batch_size <= n, f"batch_size must be between 1 and n_documents = {n}", batch_size)
    lam, t = start(n_topics, counts.shape[1], rng), 0
    for _ in range(passes):
        order = rng.permutation(n)
        for i in range(0, n, batch_size):
            t += 1
            batch = counts[order[i : i + batch_size]]
            lam = step(lam, batch, n, learning_rate(t, tau, kappa), priors)
    return lam


def _negative_kl(parameters: Rows, prior: float) -> float:
    """−KL(Dir(row) ‖ Dir(prior, …, prior)), over all rows."""
    n = parameters.shape[1]
    cross = ((prior - parameters) * expected_log(parameters)).sum()
    own = (gammaln(parameters).sum(axis=1) - gammaln(parameters.sum(axis=1))).sum()
    return float(cross + own + len(parameters) * (gammaln(n * prior) - n * gammaln(prior)))


@checked
def bound(
    counts: Counts, gamma: Weights, lam: Topics, priors: Priors, *, scale: float = 1.0
) -> float:
    """ELBO with the best φ; `scale` = N/B for a batch: all that is local counts so often.

    Local means the words *and* the KL of the documents' weights. The topics' KL counts once.

    References
    ----------
    Hoffman et al. (2013), section 3.1; φ has been put in, which leaves a log-sum-exp per word.
    """
    theta, beta = np.exp(expected_log(gamma)), np.exp(expected_log(lam))
    words = float((counts * np.log(_mixed(theta, beta))).sum())
    local = words + _negative_kl(gamma, priors.alpha)
    return scale * local + _negative_kl(lam, priors.eta)


def perplexity(counts: Counts, lam: Topics, priors: Priors, **local: float) -> float:
    """exp(−bound per word), with the documents' own variables found anew."""
    gamma = local_step(counts, lam, priors.alpha, **local)[0]
    return float(np.exp(-bound(counts, gamma, lam, priors) / counts.sum()))


@checked
def heldout(seen: Counts, hidden: Counts, lam: Topics, alpha: float) -> float:
    """Mean log probability of documents' hidden words after reading their seen ones, in nats.

    References
    ----------
    Hoffman et al. (2013), section 4: E[θ] from the one half, E[β] from training.
    """
    gamma = local_step(seen, lam, alpha)[0]
    theta = gamma / gamma.sum(axis=1, keepdims=True)
    words = theta @ (lam / lam.sum(axis=1, keepdims=True))
    return float(xlogy(hidden, words).sum() / hidden.sum())


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
