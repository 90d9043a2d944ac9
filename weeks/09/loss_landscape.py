r"""The loss as a landscape: slices through a minimum that may be compared, and its curvature.

A loss has thousands of directions; a picture has two. Through the minimum $\theta^*$ lay a plane,

$$ f(\alpha, \beta) = L(\theta^* + \alpha\,\delta + \beta\,\eta), \qquad
   \delta_{i,j} \leftarrow \frac{\delta_{i,j}}{\lVert \delta_{i,j} \rVert}
   \lVert \theta^*_{i,j} \rVert , $$

where $\delta, \eta$ are random and every filter $j$ of every layer $i$ (in a dense layer: the
weights into one unit) is stretched to the length of the filter that it disturbs. Without that the
picture shows how the weights happen to be scaled: a ReLU network with one layer times 10 and the
next divided by 10 is the same function and draws another plane.

>>> weights = {"w": torch.tensor([[3.0, 4.0], [0.6, 0.8]])}  # filters of length 5 and 1
>>> normalize({"w": torch.tensor([[1.0, 0.0], [0.0, 2.0]])}, weights)["w"]
tensor([[5., 0.],
        [0., 1.]])

Reduced: small dense networks on scikit-learn's 8×8 digits; "56 layers" are dense layers of 16
units without normalization, not a ResNet of convolutions.

    uv run weeks/09/loss_landscape.py

Sources: H. Li et al., *Visualizing the Loss Landscape of Neural Nets* (NeurIPS 2018), sections 3
to 7; N. Keskar et al., *On Large-Batch Training for Deep Learning* (ICLR 2017), section 2;
I. Goodfellow, O. Vinyals and A. Saxe (ICLR 2015) for the line between two minima.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from shared.require import require
from week09.vector_networks import Params, flatten

Normalization = Literal["filter", "layer", "none"]


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
    require(how in ("filter", "layer", "none"), "how must be filter, layer or none", repr(how))
    shapes = [{name: tuple(t.shape) for name, t in ts.items()} for ts in (direction, weights)]
    alike = shapes[0] == shapes[1]
    require(alike, f"direction must have the names and shapes of weights, {shapes[1]}", shapes[0])
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
    require(factor > 0, "factor must be positive", factor)
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
    require(1 <= k <= min(path.shape), f"k must be between 1 and {min(path.shape)}", k)
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
