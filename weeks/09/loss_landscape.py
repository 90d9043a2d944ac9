r"""The loss as a landscape: slices through a minimum that may be compared, and its curvature.

A loss has thousands of directions; a picture has two. Through the minimum $\theta^*$ lay a plane,

$$ f(\alpha, \beta) = L(\theta^* + \alpha\,\delta + \beta\,\eta), \qquad
   \delta_{i,j} \leftarrow \frac{\delta_{i,j}}{\lVert \delta_{i,j} \rVert}
   \lVert \theta^*_{i,j} \rVert , $$

where $\delta, \eta$ are random and every filter $j$ of every layer $i$ (in a dense layer: the
weights into one unit) is stretched to the length of the filter that it disturbs. Without that the
picture shows how the weights happen to be scaled: a ReLU network with one layer times 10 and the
next divided by 10 is the same function and draws another plane.

Reduced: small dense networks on scikit-learn's 8×8 digits; "56 layers" are dense layers of 16
units without normalization, not a ResNet of convolutions.

    uv run weeks/09/loss_landscape.py

Sources: H. Li et al., *Visualizing the Loss Landscape of Neural Nets* (NeurIPS 2018), sections 3
to 7; N. Keskar et al., *On Large-Batch Training for Deep Learning* (ICLR 2017), section 2;
I. Goodfellow, O. Vinyals and A. Saxe (ICLR 2015) for the line between two minima.
"""

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

Params = dict[str, Tensor]  # as of `dict(model.named_parameters())`
Normalization = Literal["filter", "layer", "none"]


# ---- networks as functions of one long vector


class DeepNet(nn.Module):
    """A dense ReLU network in blocks of two layers, with shortcuts around the blocks or without.

    Parameters
    ----------
    depth
        Layers with weights: the first, the last, and an even number between.
    skip
        Whether a block adds its input to its output. The blocks then start small, so that the sum
        of many neither explodes nor needs batch normalization.
    """

    def __init__(
        self, depth: int, width: int = 16, *, skip: bool, n_inputs: int = 64, n_classes: int = 10
    ):
        super().__init__()
        if depth < 2 or depth % 2:
            raise ValueError(f"depth must be even and at least 2, got {depth}")
        self.skip, self.n_blocks = skip, (depth - 2) // 2
        self.first = nn.Linear(n_inputs, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(2 * self.n_blocks))
        self.last = nn.Linear(width, n_classes)

    def initialize(self, generator: torch.Generator) -> Float[Tensor, " p"]:
        """Draw orthogonal matrices and zero biases, and return them as a vector."""
        for layer in (self.first, *self.hidden, self.last):
            nn.init.orthogonal_(layer.weight, math.sqrt(2), generator=generator)
            nn.init.zeros_(layer.bias)
        if self.skip:
            for layer in self.hidden[1::2]:
                layer.weight.data *= 0.7 / math.sqrt(self.n_blocks)
        return flatten(parameters(self))

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch classes"]:
        """Scores of the classes."""
        h = F.relu(self.first(x))
        for inner, outer in zip(self.hidden[::2], self.hidden[1::2], strict=True):
            z = outer(F.relu(inner(h)))
            h = F.relu(z + h) if self.skip else F.relu(z)
        return self.last(h)


def parameters(model: nn.Module) -> Params:
    """A model's parameters by name, detached copies."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def flatten(params: Params) -> Float[Tensor, " p"]:
    """All parameters one behind the other."""
    return torch.cat([p.reshape(-1) for p in params.values()])


def unflatten(vector: Float[Tensor, " p"], like: Params) -> Params:
    """Parameters with the names and shapes of `like`."""
    sizes = [p.numel() for p in like.values()]
    if len(vector) != sum(sizes):
        raise ValueError(f"vector must have {sum(sizes)} numbers as like has, got {len(vector)}")
    parts = zip(like.items(), vector.split(sizes), strict=True)
    return {name: part.view(p.shape) for (name, p), part in parts}


def cross_entropy_of(
    model: nn.Module, x: Float[Tensor, "n inputs"], y: Int[Tensor, " n"]
) -> Callable[[Tensor], Tensor]:
    """The mean loss over these data as a function of the vector of weights."""
    like = parameters(model)
    return lambda vector: F.cross_entropy(
        torch.func.functional_call(model, unflatten(vector, like), (x,)), y
    )


def descend(
    model: nn.Module,
    starts: Float[Tensor, "net p"],
    x: Float[Tensor, "n inputs"],
    y: Int[Tensor, " n"],
    *,
    lr: float | list[float],
    batch: int,
    steps: int,
    generator: torch.Generator,
    optimizer: Literal["sgd", "adam"] = "sgd",
    schedule: Literal["constant", "cosine"] = "constant",
) -> Iterator[Float[Tensor, "net p"]]:
    """Train several networks side by side, each on random batches of its own; yield every step.

    Parameters
    ----------
    starts
        The first weights of each network.
    lr
        One learning rate, or one for each network.
    schedule
        ``cosine`` warms up over 50 steps and falls to zero.

    Yields
    ------
    weights
        After each step; the same memory every time, so copy what you keep.
    """
    rates = lr if isinstance(lr, list) else [lr] * len(starts)
    if len(rates) != len(starts):
        raise ValueError(f"lr must be one or {len(starts)} numbers, got {len(rates)}")
    if not 1 <= batch <= len(x):
        raise ValueError(f"batch must be between 1 and n = {len(x)}, got {batch}")
    nets = [start.clone().requires_grad_() for start in starts]
    groups = [{"params": [net], "lr": rate} for net, rate in zip(nets, rates, strict=True)]
    sgd = optimizer == "sgd"
    optim = torch.optim.SGD(groups) if sgd else torch.optim.Adam(groups, betas=(0.9, 0.99))
    like = parameters(model)

    def loss(vector: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, unflatten(vector, like), (x,)), y)

    for step in range(steps):
        if schedule == "cosine":
            factor = min(1.0, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
            for group, rate in zip(optim.param_groups, rates, strict=True):
                group["lr"] = factor * rate
        rows = torch.rand(len(nets), len(x), generator=generator).argsort(1)[:, :batch]
        optim.zero_grad()
        # The sum, not the mean: no network's step may depend on how many train beside it.
        torch.func.vmap(loss)(torch.stack(nets), x[rows], y[rows]).sum().backward()
        optim.step()
        yield torch.stack([net.detach() for net in nets])


# ---- directions


def normalize(direction: Params, weights: Params, how: Normalization = "filter") -> Params:
    r"""Stretch a direction to the scale of the weights that it will be added to.

    Parameters
    ----------
    how
        ``filter``: every filter (row of a matrix, output channel of a kernel) to the length of its
        own weights; ``layer``: every matrix as a whole. Vectors (biases, normalization) get zero in
        both. ``none``: the whole direction to length 1, as if all weights were of one kind.

    References
    ----------
    Li et al. (2018), section 4.
    """
    if how not in ("filter", "layer", "none"):
        raise ValueError(f"how must be filter, layer or none, got {how!r}")
    if {k: v.shape for k, v in direction.items()} != {k: v.shape for k, v in weights.items()}:
        raise ValueError("direction must have the names and shapes of weights, got others")
    if how == "none":
        length = flatten(direction).norm()
        return {name: d / length for name, d in direction.items()}
    result = {}
    for name, d in direction.items():
        if d.ndim < 2:
            result[name] = torch.zeros_like(d)
            continue
        dims = tuple(range(1, d.ndim)) if how == "filter" else tuple(range(d.ndim))
        lengths = torch.linalg.vector_norm(d, dim=dims, keepdim=True)
        wanted = torch.linalg.vector_norm(weights[name], dim=dims, keepdim=True)
        result[name] = d / lengths.clamp_min(torch.finfo(d.dtype).tiny) * wanted
    return result


def random_direction(
    weights: Params, generator: torch.Generator, how: Normalization = "filter"
) -> Float[Tensor, " p"]:
    """A normal random direction, normalized."""
    direction = {
        name: torch.randn(w.shape, generator=generator, dtype=w.dtype)
        for name, w in weights.items()
    }
    return flatten(normalize(direction, weights, how))


def rescale(weights: Params, first: str, second: str, factor: float) -> Params:
    """The same function of a ReLU network: layer `first` times the factor, `second` divided by it.

    Between the two there must be nothing but a ReLU: max(0, c z) = c max(0, z) for c > 0.
    """
    if not factor > 0:
        raise ValueError(f"factor must be positive, got {factor}")
    twin = dict(weights)
    for name in (f"{first}.weight", f"{first}.bias"):
        twin[name] = factor * weights[name]
    twin[f"{second}.weight"] = weights[f"{second}.weight"] / factor
    return twin


def principal_directions(
    path: Float[Tensor, "step p"], center: Float[Tensor, " p"], k: int = 2
) -> tuple[Float[Tensor, "k p"], Float[Tensor, " k"]]:
    """Orthonormal directions in which a path moves most, as seen from `center`, and their shares.

    References
    ----------
    Li et al. (2018), section 7.2: PCA of the differences to the last iterate.
    """
    if not 1 <= k <= min(path.shape):
        raise ValueError(f"k must be between 1 and {min(path.shape)}, got {k}")
    _, s, vt = torch.linalg.svd(path - center, full_matrices=False)
    return vt[:k], s[:k] ** 2 / (s**2).sum()


# ---- slices


@torch.no_grad()
def losses_at(
    loss: Callable[[Tensor], Tensor], points: Float[Tensor, "point p"], chunk: int = 64
) -> Float[Tensor, " point"]:
    """The loss at many points, `chunk` networks at a time in one batch of matrix products."""
    return torch.func.vmap(loss, chunk_size=chunk)(points)


def plane(
    loss: Callable[[Tensor], Tensor],
    center: Float[Tensor, " p"],
    directions: Float[Tensor, "2 p"],
    alphas: Float[Tensor, " a"],
    betas: Float[Tensor, " b"],
) -> Float[Tensor, "a b"]:
    """f(α, β) = L(center + α δ + β η) on a grid; row i belongs to alphas[i]."""
    grid = torch.cartesian_prod(alphas, betas)
    values = [losses_at(loss, center + part @ directions) for part in grid.split(1024)]
    return torch.cat(values).view(len(alphas), len(betas))


def line(
    loss: Callable[[Tensor], Tensor],
    center: Float[Tensor, " p"],
    direction: Float[Tensor, " p"],
    alphas: Float[Tensor, " a"],
) -> Float[Tensor, " a"]:
    """L(center + α δ); with direction = other minimum - center, the line between two minima."""
    return losses_at(loss, center + alphas[:, None] * direction)


def mean_rise(
    loss: Callable[[Tensor], Tensor],
    weights: Params,
    generator: torch.Generator,
    *,
    radius: float,
    n: int,
    how: Normalization = "filter",
) -> float:
    """How much the loss rises on average at this radius, over n random directions and both signs.

    To second order it is radius² / 2 times the mean curvature along such directions.
    """
    center = flatten(weights)
    steps = torch.stack([random_direction(weights, generator, how) for _ in range(n)])
    around = losses_at(loss, torch.cat([center + radius * steps, center - radius * steps]))
    return float(around.mean() - loss(center))


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
