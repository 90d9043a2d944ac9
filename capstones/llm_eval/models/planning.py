"""Which requests are answered together: as many as fit, longest first, questions never torn.

Requests with one context form a group. Groups whose contexts begin alike (the same examples, the
same system's turn) stand together, since their beginning is then read once per batch; longest
first, so that padding is short, and a batch that does not fit in memory is among the first.

>>> groups = [Group((1, 2, 3), 2, (0, 1)), Group((4,), 1, (2,)), Group((5, 6), 1, (3,))]
>>> [[group.members for group in batch] for batch in pack(groups, 12)]
[[(0, 1), (3,)], [(2,)]]
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from llm_eval.models.scoring import KEYS, common

BEGINNINGS = (1024, 512, 256, 128, 64, 32)  # tokens that contexts of one family begin with
FAMILY = 16  # groups, at least


@dataclass(frozen=True)
class Group:
    """A context, the most tokens after it, and which rows go on from it."""

    context: tuple[int, ...]
    longest: int
    members: tuple[int, ...]

    @property
    def size(self) -> tuple[int, int]:
        """What groups are sorted by."""
        return len(self.context) + self.longest, len(self.members)


def pack(groups: Sequence[Group], batch_tokens: int, *, shared: bool = True) -> list[list[Group]]:
    """Batches of groups, the largest first.

    Parameters
    ----------
    batch_tokens
        Most tokens that a batch reads, padding included; one group may be more.
    shared
        Whether a context is read once for all that goes on from it.
    """
    batches: list[list[Group]] = []
    for family in _families(groups):
        batch: list[Group] = []
        for group in sorted(family, key=lambda group: group.size, reverse=True):
            if batch and cost([*batch, group], shared=shared) > batch_tokens:
                batches.append(batch)
                batch = []
            batch.append(group)
        batches.append(batch)
    return sorted(batches, key=lambda batch: cost(batch, shared=shared), reverse=True)


def cost(batch: Sequence[Group], *, shared: bool = True) -> int:
    """Tokens that a batch reads, or what the memory of their keys counts for."""
    widest = max(len(group.context) for group in batch)
    longest = max(group.longest for group in batch)
    rows = sum(len(group.members) for group in batch)
    if not shared:
        return rows * (widest + longest)
    beginning = common([group.context for group in batch])
    read = beginning + len(batch) * (widest - beginning) + rows * longest
    return max(read, rows * (widest + longest) // KEYS)


def _families(groups: Sequence[Group]) -> list[list[Group]]:
    found, alone = [], list(groups)
    for n in BEGINNINGS:
        alike: dict[tuple[int, ...], list[Group]] = defaultdict(list)
        for group in alone:
            alike[group.context[:n]].append(group)
        families = {start for start, own in alike.items() if len(start) == n and len(own) >= FAMILY}
        found += [alike[start] for start in alike if start in families]
        alone = [group for group in alone if group.context[:n] not in families]
    return [*found, alone] if alone else found
