r"""Many tests at once: p-values corrected so that chance alone rarely makes a discovery.

Holm (1979) keeps the chance of any false discovery below α: of m sorted p-values the i-th is

$$\tilde p_{(i)} = \max_{j \le i} \min(1, (m - j + 1)\, p_{(j)}) .$$

Benjamini & Hochberg (1995) keep the expected share of false among all discoveries below α:

$$\tilde p_{(i)} = \min_{j \ge i} \min(1, m\, p_{(j)} / j) .$$

>>> holm([0.01, 0.04, 0.03])
[0.03, 0.06, 0.06]
>>> benjamini_hochberg([0.01, 0.04, 0.03])
[0.03, 0.04, 0.04]
"""

from collections.abc import Callable, Sequence

import numpy as np

from shared.require import require


def holm(p: Sequence[float]) -> list[float]:
    """Corrected p-values, in the order given; below α, they are significant at α."""
    given, order, m = _sorted(p)
    scaled = np.minimum(1.0, (m - np.arange(m)) * given)
    return _unsorted(np.maximum.accumulate(scaled), order)


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Corrected p-values (q-values), in the order given."""
    given, order, m = _sorted(p)
    scaled = np.minimum(1.0, m * given / np.arange(1, m + 1))
    return _unsorted(np.minimum.accumulate(scaled[::-1])[::-1], order)


CORRECTIONS: dict[str, Callable[[Sequence[float]], list[float]]] = {
    "holm": holm,
    "benjamini-hochberg": benjamini_hochberg,
}


def _sorted(p: Sequence[float]) -> tuple[np.ndarray, np.ndarray, int]:
    given = np.asarray(p, np.float64)
    require(((given >= 0) & (given <= 1)).all(), "p must be in [0, 1]", p)
    order = np.argsort(given, kind="stable")
    return given[order], order, len(given)


def _unsorted(values: np.ndarray, order: np.ndarray) -> list[float]:
    back = np.empty(len(order))
    back[order] = values
    return back.tolist()
