"""Topics against scikit-learn, the theorems of the natural gradient, and two collections."""

import itertools
from collections import Counter

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.special import gammaln, logsumexp, polygamma

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week24.latent_dirichlet import (
    Priors,
    bound,
    fit,
    generate,
    heldout,
    learning_rate,
    local_step,
    natural_gradient,
    perplexity,
    start,
    step,
)
from week24.sklearn_twins import topics_from

CLOSE = {"tol": 1e-12, "most": 2000}  # local variables found to the last digit
SAME = {"tol": 0.0, "most": 30}  # as many updates as scikit-learn is told to make


def main(run: Run, *, seeds: PositiveInt = 5) -> None:
    """Check both algorithms, then find topics that are known, and topics of abstracts.

    Parameters
    ----------
    seeds
        Generated collections.
    """
    run.rounding(0.02, "sums in another order, over some hundred updates")
    check_sklearn(run)
    check_gradient(run)
    check_enumeration(run)
    judge_recovery(run, run.budget(quick=2, default=max(seeds, 2)))
    if run.mode != "quick":
        read_abstracts(run)


# ---- checks


def check_sklearn(run: Run) -> None:
    """Batch VB and stochastic VI, three passes each; perplexity of other documents."""
    priors, k = Priors(0.3, 0.2), 3
    counts, _ = generate(60, k, 25, run.rng, length=30, priors=priors)
    counts, other = counts[:40], counts[40:]
    lam = start(k, 25, run.rng)
    same = {"rtol": 1e-6, "why": "their digamma is a series with an error of some 1e-9"}
    same = run.against("sklearn's LatentDirichletAllocation", **same)
    options = {"doc_topic_prior": priors.alpha, "topic_word_prior": priors.eta, "max_iter": 3}
    theirs = topics_from(lam, updates=30, learning_method="batch", **options).fit(counts)
    ours = lam
    for _ in range(3):
        ours = step(ours, counts, 40, 1.0, priors, **SAME)
    same("topics, batch", ours, theirs.components_)
    gamma = local_step(counts, ours, priors.alpha, **SAME)[0]
    same("bound, batch", bound(counts, gamma, ours, priors), theirs.score(counts))
    same("perplexity, batch", perplexity(other, ours, priors, **SAME), theirs.perplexity(other))
    options |= {"learning_decay": 0.6, "learning_offset": 2.0, "batch_size": 16}
    theirs = topics_from(lam, updates=30, learning_method="online", **options).fit(counts)
    ours = lam
    for t, i in enumerate([*range(0, 40, 16)] * 3, 1):
        rho = learning_rate(t, 2.0, 0.6)
        ours = step(ours, counts[i : i + 16], 40, rho, priors, **SAME)
    same("topics, online", ours, theirs.components_)
    same("perplexity, online", perplexity(other, ours, priors, **SAME), theirs.perplexity(other))
    once, batch = step(lam, counts, 40, 1.0, priors), local_step(counts, lam, priors.alpha)[1]
    exact = {"against": "batch VB", "kind": "consistency", "why": "the same sums"}
    run.check("ρ = 1 with all documents", once, priors.eta + batch, **exact)


def check_gradient(run: Run) -> None:
    """Fisher's matrix times the natural gradient is the gradient; batches estimate it."""
    priors, n, k, v = Priors(0.4, 0.3), 24, 3, 8
    counts, _ = generate(n, k, v, run.rng, length=20, priors=priors)
    lam = start(k, v, run.rng) + run.rng.random((k, v))
    gamma = local_step(counts, lam, priors.alpha, **SAME)[0]
    slope = torch_gradient(counts, gamma, lam, priors)
    natural = natural_gradient(counts, lam, n, priors, **SAME)
    ours = np.stack([fisher(row) @ step_of for row, step_of in zip(lam, natural, strict=True)])
    exact = {"kind": "theorem", "atol": 1e-6, "why": "torch's trigamma is a short series"}
    run.check("Fisher matrix times natural gradient", ours, slope, against="autograd", **exact)
    parts = [natural_gradient(counts[i : i + 6], lam, n, priors, **SAME) for i in range(0, n, 6)]
    mean = np.mean(parts, axis=0)
    exact |= {"atol": 1e-8, "why": "float64 rounding"}
    run.check("mean over the batches of one pass", mean, natural, against="all documents", **exact)
    bounds = []
    for _ in range(15):
        lam = step(lam, counts, n, 1.0, priors, **CLOSE)
        gamma = local_step(counts, lam, priors.alpha, **CLOSE)[0]
        bounds.append(bound(counts, gamma, lam, priors))
    falls = np.minimum(np.diff(bounds), 0)
    run.check("batch VB never falls", falls, 0 * falls, against="coordinate ascent", **exact)


def fisher(parameters: np.ndarray) -> np.ndarray:
    """Of a Dirichlet: the covariance of ln x."""
    return np.diag(polygamma(1, parameters)) - polygamma(1, parameters.sum())


def torch_gradient(counts, gamma, lam, priors: Priors) -> np.ndarray:
    """Of the bound in λ for fixed γ, from torch's own Dirichlet."""
    lam = torch.tensor(lam, requires_grad=True)
    gamma, counts = torch.tensor(gamma), torch.tensor(counts)
    theta = torch.digamma(gamma) - torch.digamma(gamma.sum(1, keepdim=True))
    beta = torch.digamma(lam) - torch.digamma(lam.sum(1, keepdim=True))
    words = torch.logsumexp(theta[:, :, None] + beta, dim=1)
    prior = torch.distributions.Dirichlet(torch.full_like(lam, priors.eta))
    kl = torch.distributions.kl_divergence(torch.distributions.Dirichlet(lam), prior).sum()
    return torch.autograd.grad((counts * words).sum() - kl, lam)[0].numpy()


def check_enumeration(run: Run) -> None:
    """Nine words in three documents: the evidence is a sum over all topics of all words."""
    priors, docs = Priors(0.7, 0.5), ((0, 0, 1), (1, 2, 2), (0, 2, 1))
    counts = np.array([np.bincount(words, minlength=3) for words in docs], dtype=float)
    words, owner = np.concatenate(docs), np.repeat(np.arange(3), 3)
    logs = []
    for z in itertools.product(range(2), repeat=9):
        by_document, by_topic = np.zeros((3, 2)), np.zeros((2, 3))
        np.add.at(by_document, (owner, z), 1)
        np.add.at(by_topic, (z, words), 1)
        logs.append(urns(by_document, priors.alpha) + urns(by_topic, priors.eta))
    best = []
    for _ in range(5):
        lam = start(2, 3, run.rng)
        for _ in range(60):
            lam = step(lam, counts, 3, 1.0, priors, **CLOSE)
        gamma = local_step(counts, lam, priors.alpha, **CLOSE)[0]
        best.append(bound(counts, gamma, lam, priors))
    gap = logsumexp(logs) - max(best)
    exact = {"against": "512 assignments", "kind": "theorem", "why": "a bound"}
    run.check("bound above the evidence", min(gap, 0.0), 0.0, **exact)
    run.metric("evidence minus bound, nine words", gap, "nats")


def urns(counts: np.ndarray, prior: float) -> float:
    """ln p of draws with these counts per row, each row's probabilities integrated out."""
    k = counts.shape[1]
    own = gammaln(counts + prior).sum() - gammaln(counts.sum(axis=1) + k * prior).sum()
    return float(own + len(counts) * (gammaln(k * prior) - k * gammaln(prior)))


# ---- topics that are known


def apart(lam: np.ndarray, topics: np.ndarray) -> float:
    """Total variation between topics and the truth, in the best order; mean over topics."""
    found = lam / lam.sum(axis=1, keepdims=True)
    distances = np.abs(found[:, None] - topics).sum(axis=2) / 2
    return float(distances[linear_sum_assignment(distances)].mean())


def shuffled(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each word moved to a random document: as often in all, together with nothing."""
    words = np.repeat(np.arange(counts.shape[1]), counts.sum(axis=0).astype(int))
    owner = np.repeat(np.arange(len(counts)), counts.sum(axis=1).astype(int))
    mixed = np.zeros_like(counts)
    np.add.at(mixed, (owner, rng.permutation(words)), 1)
    return mixed


def judge_recovery(run: Run, seeds: int) -> None:
    """One stochastic pass finds the topics that made the documents."""
    n, k, v = run.budget(quick=(400, 3, 30), default=(2000, 8, 120))
    found: dict[str, list] = {"documents": [], "shuffled": []}
    for seed in run.progress(range(seeds), "collections"):
        rng = np.random.default_rng([run.seed, seed])
        counts, topics = generate(n, k, v, rng)
        for name, data in {"documents": counts, "shuffled": shuffled(counts, rng)}.items():
            found[name].append(apart(fit(data, k, rng, passes=2), topics))
    name = "two stochastic passes find the topics"
    late = {"quick": False, "seen_before": "0.2 ± 0.1, inconclusive under a rule of 0.2"}
    run.claim(name, found["documents"], at_most=0.35, unit="total variation", **late)
    run.falsifier("words in random documents", found["shuffled"], breaks=name)


# ---- abstracts


def read_abstracts(run: Run) -> None:
    """Topics of Cranfield's abstracts, and what they know about the other half of an abstract."""
    from sklearn.feature_extraction.text import CountVectorizer

    words_of = CountVectorizer(stop_words="english", token_pattern="[a-z]{3,}").build_analyzer()
    texts = [words_of(document.text) for document in datasets.cranfield().documents]
    seen = Counter(word for text in texts for word in set(text))
    words = sorted(word for word, n in seen.items() if n >= 30)
    index = {word: i for i, word in enumerate(words)}
    rows = [[index[w] for w in text if w in index] for text in texts]
    halves = [np.zeros((len(rows), len(words))) for _ in range(2)]
    for d, row in enumerate(rows):
        for half in range(2):
            np.add.at(halves[half][d], row[half::2], 1)
    order, priors, k = run.rng.permutation(len(rows)), Priors(0.1, 0.1), 12
    train, test = order[200:], order[:200]
    counts = halves[0][train] + halves[1][train]
    lam = fit(counts, k, np.random.default_rng(run.seed), passes=6, priors=priors)
    value = heldout(halves[0][test], halves[1][test], lam, priors.alpha)
    frequent = counts.sum(axis=0, keepdims=True) + priors.eta
    alone = heldout(halves[0][test], halves[1][test], frequent, priors.alpha)
    run.metric("words of Cranfield", len(words), rtol=0)
    run.metric("nats saved per word of an abstract, topics", value - alone, "nats", rtol=None)
    title = "Six of twelve topics of abstracts on aerodynamics, by their likeliest words"
    heaviest = np.argsort(-lam.sum(axis=1))[:6]
    with run.figure("abstracts", title, rows=2, columns=3, size=(9, 5)) as axes:
        for ax, topic in zip(axes.flat, heaviest, strict=True):
            share = lam[topic] / lam[topic].sum()
            top = np.argsort(-share)[:7]
            plots.bars(ax, {words[i]: share[i] for i in top})
            ax.tick_params(labelsize=9)
