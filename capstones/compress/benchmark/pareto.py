"""The rows of a table that no other row beats in both of two costs.

>>> front([(3, 1), (1, 3), (2, 2), (3, 3), (2, 2)])
[0, 1, 2, 4]
"""

from collections.abc import Sequence


def front(costs: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of pairs that no other pair undercuts: none is as low in both and lower in one."""
    return [
        i
        for i, (a, b) in enumerate(costs)
        if not any(x <= a and y <= b and (x < a or y < b) for x, y in costs)
    ]
