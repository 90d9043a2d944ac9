r"""How much a number owes to its prompt: worst, mean, best and spread over k wordings.

All prompts ask about the same documents, so documents are resampled and each draw compares the
prompts on the same ones. The best of k is chosen after the fact and looks too good; by how much,
the bootstrap tells (Efron & Tibshirani, 1993, chapter 10):

$$\mathrm{bias} = \mathrm{E}^*\big[\max_k \bar x^*_k\big] - \max_k \bar x_k .$$

>>> found = sensitivity({"": {"a": 1, "b": 0, "c": 1}, "terse": {"a": 0, "b": 0, "c": 1}})
>>> found.worst.value, found.worst_prompt, found.best.value, round(found.spread.value, 2)
(0.333..., 'terse', 0.666..., 0.33)
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np

from llm_eval.statistics.estimates import Estimate, cluster_codes
from llm_eval.types import Number
from shared.require import require


@dataclass(frozen=True)
class Sensitivity:
    """A metric over prompts.

    Attributes
    ----------
    spread
        Best minus worst, never below 0.
    worst_prompt, best_prompt
        Their names; of equals the first.
    optimism
        By how much the best is expected to be too good, never below 0.
    """

    worst: Estimate
    mean: Estimate
    best: Estimate
    spread: Estimate
    worst_prompt: str
    best_prompt: str
    optimism: float


def sensitivity(
    values: Mapping[str, Mapping[str, float]],
    *,
    clusters: Mapping[str, Hashable] | None = None,
    higher_is_better: bool = True,
    seed: int = 0,
    level: float = 0.95,
    n_resamples: int = 1000,
) -> Sensitivity:
    """Compare prompts on the documents that all of them have.

    Parameters
    ----------
    values
        By prompt, a value by document; the metric is their mean.
    clusters
        By document; documents of one cluster are resampled together.
    higher_is_better
        Whether the best is the highest.

    Raises
    ------
    ValueError
        Fewer than two prompts, or no document that all have.
    """
    require(len(values) > 1, "values must be of at least two prompts", len(values))
    ids = [id for id in next(iter(values.values())) if all(id in of for of in values.values())]
    require(len(ids) > 0, "values must have a document that all prompts have", "none")
    names = list(values)
    table = np.array([[values[name][id] for name in names] for id in ids], np.float64)  # [n, k]
    groups = [id if clusters is None else clusters[id] for id in ids]
    codes = cluster_codes(groups, len(ids))
    draws = _resampled(table, codes, np.random.default_rng(seed), n_resamples)  # [resamples, k]
    sign = 1.0 if higher_is_better else -1.0
    means = table.mean(axis=0)

    def estimate(value: float, drawn: np.ndarray) -> Estimate:
        if codes.max() == 0:
            return Estimate(float(value), None, None, None, len(ids))
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        stderr = float(np.std(drawn, ddof=1))
        return Estimate(float(value), stderr, float(low), float(high), len(ids))

    best, worst = int(np.argmax(sign * means)), int(np.argmin(sign * means))
    best_drawn, worst_drawn = sign * (sign * draws).max(axis=1), sign * (sign * draws).min(axis=1)
    return Sensitivity(
        worst=estimate(means[worst], worst_drawn),
        mean=estimate(means.mean(), draws.mean(axis=1)),
        best=estimate(means[best], best_drawn),
        spread=estimate(means.max() - means.min(), draws.max(axis=1) - draws.min(axis=1)),
        worst_prompt=names[worst],
        best_prompt=names[best],
        optimism=max(0.0, float(sign * (best_drawn.mean() - means[best]))),
    )


def prompt_numbers(
    values: Mapping[str, Mapping[str, float]],
    standard: Number,
    *,
    clusters: Mapping[str, Hashable] | None = None,
    seed: int = 0,
) -> list[Number]:
    """A metric's worst, mean, best and spread over prompts, as numbers.

    Parameters
    ----------
    values, clusters
        As `sensitivity`.
    standard
        The metric's number with the standard prompt: task, metric, direction and signature.
    """
    higher = standard.higher_is_better is not False
    try:
        found = sensitivity(values, clusters=clusters, higher_is_better=higher, seed=seed)
    except ValueError:  # no document was answered with all prompts
        return []
    k, failed = len(values), standard.n + standard.failed - found.mean.n
    notes = {
        "worst": f"the worst of {k} prompts, {_named(found.worst_prompt)}",
        "mean": f"over {k} prompts",
        "best": f"the best of {k} prompts, {_named(found.best_prompt)}: chosen "
        f"after the fact and too good by about {found.optimism:.3g} (bootstrap)",
        "spread": f"best minus worst of {k} prompts; chance alone makes it greater than 0",
    }
    if standard.higher_is_better is None:
        notes = {name: notes[name] for name in ("mean", "spread")}
    numbers = []
    for name, note in notes.items():
        of: Estimate = getattr(found, name)
        better = False if name == "spread" else standard.higher_is_better
        numbers.append(
            Number(
                standard.task,
                f"{standard.metric}_{name}_prompt",
                *(of.value, of.stderr, of.low, of.high, of.n),
                failed=failed,
                higher_is_better=better,
                signature=f"{standard.signature}|prompts:{k}",
                note=note,
            )
        )
    return numbers


def _named(prompt: str) -> str:
    return repr(prompt) if prompt else "the standard one"


def _resampled(
    table: np.ndarray, codes: np.ndarray, rng: np.random.Generator, n_resamples: int
) -> np.ndarray:
    """Means of each prompt over documents whose clusters were drawn with replacement."""
    count = int(codes.max()) + 1
    sums = np.zeros((count, table.shape[1]))
    np.add.at(sums, codes, table)
    sizes = np.bincount(codes).astype(np.float64)
    draws = np.empty((n_resamples, table.shape[1]))
    for i in range(n_resamples):  # row by row: memory stays that of one draw
        times = np.bincount(rng.integers(0, count, count), minlength=count)
        draws[i] = times @ sums / (times @ sizes)
    return draws
