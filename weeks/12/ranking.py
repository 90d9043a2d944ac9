r"""How good a ranking is: nDCG and average precision, by the definitions of trec_eval.

Documents are named, judgments are grades by name, and what is not judged counts 0:

$$ \mathrm{AP} = \frac{1}{R} \sum_{i:\ d_i \text{ relevant}} \frac{r_i}{i}, \qquad
   \mathrm{nDCG}@k = \sum_{i \le k} \frac{g_i}{\log_2(i + 1)} \Big/
   \sum_{i \le k} \frac{g^*_i}{\log_2(i + 1)}, $$

with $r_i$ of the first $i$ documents relevant, $R$ relevant ones in all, found or not, and $g^*$
the grades of all judged documents in falling order.

    >>> ranking = trec_order({"a": 2.0, "b": 1.0, "c": 1.0})  # of equals, the later name first
    >>> ranking, average_precision(ranking, {"b": 1, "z": 1})  # b is third, z was not found
    (['a', 'c', 'b'], 0.16666666666666666)
    >>> round(ndcg(ranking, {"a": 1, "b": 2}, k=3), 4)
    0.7602

Source: K. Järvelin and J. Kekäläinen, "Cumulated gain-based evaluation" (2002), with the gain and
discount of trec_eval 9; C. Buckley and E. Voorhees, "Retrieval system evaluation" (2005).
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

from shared.require import require


def trec_order(scores: Mapping[str, float]) -> list[str]:
    """Names by falling score, and those of equal score in falling order of the name."""
    return sorted(scores, key=lambda name: (scores[name], name), reverse=True)


def average_precision(ranking: Sequence[str], grades: Mapping[str, int]) -> float:
    """Mean, over all relevant documents, of the precision where each is found, 0 where it is not.

    Parameters
    ----------
    ranking
        Names, the best first, each once.
    grades
        Judgments of one question; a document is relevant if its grade is above 0.
    """
    relevant = _relevant(ranking, grades)
    found, total = 0, 0.0
    for place, name in enumerate(ranking, 1):
        if name in relevant:
            found += 1
            total += found / place
    return total / len(relevant)


def ndcg(ranking: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """Discounted gain of the first k, as a share of the best that any ranking could have."""
    require(k >= 1, "k must be at least 1", k)
    relevant = _relevant(ranking, grades)

    def gain(values: list[int]) -> float:
        return sum(grade / math.log2(place + 1) for place, grade in enumerate(values[:k], 1))

    best = sorted(relevant.values(), reverse=True)
    return gain([relevant.get(name, 0) for name in ranking]) / gain(best)


def _relevant(ranking: Sequence[str], grades: Mapping[str, int]) -> dict[str, int]:
    twice = next((a for a, b in pairwise(sorted(ranking)) if a == b), None)
    require(twice is None, "ranking must name each document once", f"{twice!r} twice")
    relevant = {name: grade for name, grade in grades.items() if grade > 0}
    require(relevant, "grades must hold a relevant document", "none")
    return relevant
