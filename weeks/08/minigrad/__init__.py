"""minigrad: tensors that differentiate themselves, layers, optimizers, loaders; over NumPy.

A small subset of torch under torch's names, checked against torch operation by operation.

    from week08.minigrad import DataLoader, Tensor, TensorDataset, functional as F, nn, optim
"""

from week08.minigrad import functional, nn, optim
from week08.minigrad.arithmetic import maximum, minimum, where
from week08.minigrad.autograd import grad, no_grad, set_grad_enabled
from week08.minigrad.data import DataLoader, TensorDataset
from week08.minigrad.tensor import Tensor, cat, stack

__all__ = [
    "DataLoader",
    "Tensor",
    "TensorDataset",
    "cat",
    "functional",
    "grad",
    "maximum",
    "minimum",
    "nn",
    "no_grad",
    "optim",
    "set_grad_enabled",
    "stack",
    "where",
]
