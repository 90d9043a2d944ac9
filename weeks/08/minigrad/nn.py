"""Layers with parameters, under the names of torch.nn; so are their state_dict's keys and shapes.

Initial values are torch's in distribution. A layer that draws any takes a NumPy Generator;
without one it draws from a fresh generator that nobody can repeat.

>>> layer = Linear(2, 1, generator=np.random.default_rng(0))
>>> [(name, p.shape) for name, p in layer.named_parameters()]
[('weight', (1, 2)), ('bias', (1,))]
>>> layer(Tensor([[1.0, 2.0]])).shape
(1, 1)
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Num

from week08.minigrad import functional as F
from week08.minigrad.autograd import no_grad
from week08.minigrad.functional import Generator, Pair
from week08.minigrad.tensor import Tensor


class Parameter(Tensor):
    """A leaf that a module trains."""

    __slots__ = ()

    def __init__(self, data: Any, requires_grad: bool = True):
        super().__init__(data, requires_grad=requires_grad)


class Buffer(Tensor):
    """A part of a module's state that is saved and loaded but not trained."""

    __slots__ = ()


def _uniform(generator: Generator, bound: float, *shape: int) -> Parameter:
    values = np.random.default_rng(generator).uniform(-bound, bound, shape)
    return Parameter(values.astype(np.float32))


class Module:
    """A function with parameters, buffers and parts, found by the attributes they are set to."""

    training = True

    def forward(self, *inputs: Any) -> Any:
        """Compute the output; a subclass says how."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return self.forward(*inputs, **options)

    def named_children(self) -> Iterator[tuple[str, "Module"]]:
        """(name, part) of each direct part, in the order they were set."""
        return ((name, m) for name, m in vars(self).items() if isinstance(m, Module))

    def _named(self, kind: Any, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of a kind: this module's, then its parts'."""
        for name, value in vars(self).items():
            if isinstance(value, kind):
                yield prefix + name, value
        for name, child in self.named_children():
            yield from child._named(kind, f"{prefix}{name}.")

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(name, parameter) of this module, then of its parts; a shared one comes once."""
        seen = set()
        for name, parameter in self._named(Parameter):
            if parameter not in seen:
                seen.add(parameter)
                yield name, parameter

    def parameters(self) -> Iterator[Parameter]:
        """What an optimizer takes."""
        return (parameter for _, parameter in self.named_parameters())

    def named_buffers(self) -> Iterator[tuple[str, Buffer]]:
        """(name, buffer) of this module, then of its parts."""
        return self._named(Buffer)

    def state_dict(self) -> dict[str, Tensor]:
        """Name: value of all parameters and buffers, memory shared."""
        return {name: tensor.detach() for name, tensor in self._named(Parameter | Buffer)}

    @no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Copy values in from tensors or arrays.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a shape differs; then nothing was loaded.
        """
        own = self.state_dict()
        if own.keys() != state_dict.keys():
            raise ValueError(f"missing or unknown names: {sorted(own.keys() ^ state_dict.keys())}")
        new = {name: Tensor(np.asarray(value)) for name, value in state_dict.items()}
        for name, tensor in own.items():
            if new[name].shape != tensor.shape:
                raise ValueError(f"{name} must have shape {tensor.shape}, got {new[name].shape}")
        for name, tensor in own.items():
            tensor.copy_(new[name])

    def train(self, mode: bool = True) -> "Module":
        """Switch dropout and batch statistics on (or off) in all parts."""
        self.training = mode
        for _, child in self.named_children():
            child.train(mode)
        return self

    def eval(self) -> "Module":
        """Switch dropout and batch statistics off."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None


class Sequential(Module):
    """Modules one after the other, named 0, 1, 2 …"""

    def __init__(self, *modules: Module):
        for i, module in enumerate(modules):
            setattr(self, str(i), module)

    def __iter__(self):
        return (module for _, module in self.named_children())

    def __getitem__(self, index: int):
        return list(self)[index]

    def forward(self, x: Num[Tensor, "..."]) -> Num[Tensor, "..."]:
        """Each module's output is the next one's input."""
        for module in self:
            x = module(x)
        return x


class Linear(Module):
    """x Wᵀ + b, with W and b uniform within ± 1/√in_features at first."""

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, generator: Generator = None
    ):
        bound = 1 / math.sqrt(in_features)
        self.weight = _uniform(generator, bound, out_features, in_features)
        self.bias = _uniform(generator, bound, out_features) if bias else None

    def forward(self, x: Float[Tensor, "*batch _"]) -> Float[Tensor, "*batch _"]:
        """The affine map of each row."""
        return F.linear(x, self.weight, self.bias)


class Conv2d(Module):
    """Kernels slid over an image, uniform within ± 1/√(inputs of a kernel) at first."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        bias: bool = True,
        *,
        generator: Generator = None,
    ):
        kernel = F._pair(kernel_size, "kernel_size", 1)
        bound = 1 / math.sqrt(in_channels * math.prod(kernel))
        self.stride, self.padding = stride, padding
        self.weight = _uniform(generator, bound, out_channels, in_channels, *kernel)
        self.bias = _uniform(generator, bound, out_channels) if bias else None

    def forward(self, x: Float[Tensor, "batch _ _ _"]) -> Float[Tensor, "batch _ _ _"]:
        """One image of `out_channels` channels for each."""
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


class MaxPool2d(Module):
    """The largest of each window."""

    def __init__(self, kernel_size: Pair, stride: Pair | None = None):
        self.kernel_size, self.stride = kernel_size, stride

    def forward(self, x: Float[Tensor, "batch c _ _"]) -> Float[Tensor, "batch c _ _"]:
        """The pooled images."""
        return F.max_pool2d(x, self.kernel_size, self.stride)


class Flatten(Module):
    """All dimensions but the first in one."""

    def forward(self, x: Num[Tensor, "batch ..."]) -> Num[Tensor, "batch _"]:
        """One row per example."""
        return x.flatten(1)


class ReLU(Module):
    """max(x, 0)."""

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Negative numbers become 0."""
        return x.relu()


class Dropout(Module):
    """In training each number is 0 with probability p; in evaluation nothing happens."""

    def __init__(self, p: float = 0.5, *, generator: Generator = None):
        self.p, self.generator = p, np.random.default_rng(generator)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Thinned out, with the expectation unchanged."""
        return F.dropout(x, self.p, self.training, generator=self.generator)


class Embedding(Module):
    """A table of vectors, one for each number; normal at first."""

    def __init__(self, num_embeddings: int, embedding_dim: int, *, generator: Generator = None):
        values = np.random.default_rng(generator).normal(size=(num_embeddings, embedding_dim))
        self.weight = Parameter(values.astype(np.float32))

    def forward(self, index: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        """The rows."""
        return F.embedding(index, self.weight)


class LayerNorm(Module):
    """Mean 0 and variance 1 over the last dimensions, then a learned scale and shift."""

    def __init__(self, normalized_shape: int | tuple[int, ...], eps: float = 1e-5):
        self.weight = Parameter(np.ones(normalized_shape, np.float32))
        self.bias = Parameter(np.zeros(normalized_shape, np.float32))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Normalized."""
        dims = tuple(range(-self.weight.ndim, 0))
        if x.shape[dims[0] :] != self.weight.shape:
            raise ValueError(f"x must end in {self.weight.shape}, got shape {x.shape}")
        mean, variance = x.mean(dims, True), x.var(dims, correction=0, keepdim=True)
        return (x - mean) / (variance + self.eps).sqrt() * self.weight + self.bias


class BatchNorm1d(Module):
    """Each feature normalized over the batch; in evaluation, by the running statistics.

    In training the running statistics move towards the batch's by `momentum`. The batch is
    normalized with the biased variance, while the running variance is the unbiased one.
    """

    ndims = (2, 3)

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1):
        self.eps, self.momentum = eps, momentum
        self.weight = Parameter(np.ones(num_features, np.float32))
        self.bias = Parameter(np.zeros(num_features, np.float32))
        self.running_mean = Buffer(np.zeros(num_features, np.float32))
        self.running_var = Buffer(np.ones(num_features, np.float32))
        self.num_batches_tracked = Buffer(0)

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Normalized; in training the running statistics take a step too."""
        n = len(self.weight)
        if x.ndim not in self.ndims or x.shape[1] != n:
            raise ValueError(f"x must have {self.ndims} dimensions, {n} features, got {x.shape}")
        over, shape = (0, *range(2, x.ndim)), (1, -1, *[1] * (x.ndim - 2))
        mean, variance = self.running_mean, self.running_var
        if self.training:
            mean, variance = x.mean(over), x.var(over, correction=0)
            self._track(mean.detach(), variance.detach(), x.numel() // x.shape[1])
        out = (x - mean.reshape(shape)) / (variance + self.eps).sqrt().reshape(shape)
        return out * self.weight.reshape(shape) + self.bias.reshape(shape)

    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if count < 2:
            raise ValueError("Expected more than 1 value per channel when training")
        momentum, unbiased = self.momentum, variance * (count / (count - 1))
        self.running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
        self.running_var.mul_(1 - momentum).add_(unbiased, alpha=momentum)
        self.num_batches_tracked.add_(1)


class BatchNorm2d(BatchNorm1d):
    """Each channel normalized over the batch and all pixels."""

    ndims = (4,)
