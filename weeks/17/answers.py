"""Nested answers of processes: dicts, lists and numbers travel as named tensors.

>>> names = packed({"losses": [0.5, 0.25], "grads": {"w": torch.ones(2)}, "other": None})
>>> sorted(names)
['grads/w', 'losses/0', 'losses/1', 'other/none']
>>> unpacked(names)
{'losses': [0.5, 0.25], 'grads': {'w': tensor([1., 1.])}, 'other': None}
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from week17.processes import launch

EMPTY = {"none": lambda: None, "list": list, "dict": dict}


def ask(function: Callable[..., Any], n_processes: int, *arguments: Any, timeout: float) -> list:
    """What `function(rank, world, *arguments)` gives in each process, by rank."""
    answers = launch(_answer, n_processes, function, *arguments, timeout=timeout)
    return [unpacked(answer) for answer in answers]


def _answer(function: Callable[..., Any], *arguments: Any) -> dict[str, Tensor]:
    return packed(function(dist.get_rank(), dist.get_world_size(), *arguments))


def packed(value: Any, name: str = "") -> dict[str, Shaped[Tensor, "..."]]:
    """Each number and tensor under the path that leads to it."""
    if value is None or (isinstance(value, list | dict) and not value):
        kind = "none" if value is None else type(value).__name__
        return {f"{name}/{kind}": torch.zeros(0)}
    if isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        parts = [packed(item, f"{name}/{key}".lstrip("/")) for key, item in items]
        return {key: tensor for part in parts for key, tensor in part.items()}
    if isinstance(value, Tensor):
        return {name: value.detach().clone(memory_format=torch.contiguous_format)}
    dtype = torch.float64 if isinstance(value, float) else torch.int64
    return {name: torch.tensor(value, dtype=dtype)}


def unpacked(named: dict[str, Shaped[Tensor, "..."]]) -> Any:
    """The nested value again; tensors without a dimension are numbers."""
    tree: dict = {}
    for name, tensor in named.items():
        *path, last = name.split("/")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = tensor if tensor.ndim else tensor.item()
    return _shaped(tree)


def _shaped(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    (first, *others) = tree
    if not others and first in EMPTY:
        return EMPTY[first]()
    if all(key.isdigit() for key in tree):
        return [_shaped(tree[key]) for key in sorted(tree, key=int)]
    return {key: _shaped(item) for key, item in tree.items()}
