r"""DoRA: length and direction of a weight's rows are learned apart.

Write a matrix as row lengths times rows of length one. Full fine-tuning can turn a row without
stretching it, or stretch it without turning it; a plain low-rank sum can hardly do one without the
other. DoRA gives the lengths parameters of their own, and the low rank the directions,

$$W' = m \odot \frac{W_0 + \frac{\alpha}{r} B A}{\lVert W_0 + \frac{\alpha}{r} B A \rVert},
  \qquad m = \lVert W_0 \rVert \text{ at the start},$$

with one norm per output (the paper writes $W$ transposed and says per column). $B$ starts at zero,
so the fraction times $m$ is $W_0$ again. The norm below is treated as a constant when gradients are
taken, which saves memory and, the authors found, costs nothing.

>>> model, x = nn.Sequential(nn.Linear(6, 4)), torch.randn(3, 6)
>>> y = model(x)
>>> config = LoRAConfig(r=1, alpha=1, targets=("0",))
>>> torch.allclose(inject(model, config, layer=DoRALinear)(x), y, atol=1e-6)
True
>>> with torch.no_grad():
...     _ = model[0].magnitude.mul_(2)  # twice as long, the same directions
>>> torch.allclose(model(x), 2 * y - model[0].base.bias, atol=1e-5)
True

    uv run weeks/20/dora.py

Source: Liu et al., "DoRA: Weight-decomposed low-rank adaptation" (2024), equation 5 and
section 4.3.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shared.require import require
from week20.lora import LoRAConfig, LoRALinear, inject

__all__ = ["DoRALinear", "decompose", "inject", "row_norms"]


def row_norms(weight: Float[Tensor, "d_out d_in"]) -> Float[Tensor, " d_out"]:
    """Length of each row: of what one output computes."""
    return torch.linalg.vector_norm(weight, dim=1)


def decompose(
    before: Float[Tensor, "d_out d_in"], after: Float[Tensor, "d_out d_in"]
) -> tuple[Float[Tensor, " d_out"], Float[Tensor, " d_out"]]:
    """How far training moved each row: its length, and its direction.

    Returns
    -------
    magnitude, direction
        The change of the length, without its sign; and one minus the cosine of the angle.

    References
    ----------
    Liu et al. (2024), equations 3 and 4, which average them over the rows.
    """
    shorter, longer = row_norms(before), row_norms(after)
    return (longer - shorter).abs(), 1 - F.cosine_similarity(before, after, dim=1)


class DoRALinear(LoRALinear):
    """A linear layer whose rows learn their lengths, and in a low rank their directions.

    Parameters
    ----------
    base
        An `nn.Linear`: the norm needs its weight.
    config, generator
        As in `LoRALinear`.

    References
    ----------
    Liu et al. (2024), equation 5.
    """

    def __init__(
        self, base: nn.Module, config: LoRAConfig, generator: torch.Generator | None = None
    ):
        linear = isinstance(base, nn.Linear)
        require(linear, "base must be an nn.Linear", type(base).__name__, error=TypeError)
        super().__init__(base, config, generator)
        lengths = row_norms(base.weight.detach())
        smallest = float(lengths.min())
        require(smallest > 0, "base must have no row of zeros: it has no direction", smallest)
        self.magnitude = nn.Parameter(lengths)

    def stretch(self) -> Float[Tensor, " d_out"]:
        """What each row of the sum is multiplied by, m over its length; 1 at the start.

        References
        ----------
        Liu et al. (2024), equation 11: no gradient flows through the length.
        """
        lengths = row_norms(self.base.weight + self.delta().detach())
        return self.magnitude / lengths

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """The layer's output; what dropout hides is hidden from the change, not from the base."""
        y = self.base(x)
        if self.merged:
            return y
        x, stretch = self.dropout(x), self.stretch()
        low = F.linear(F.linear(x, self.A), self.B)
        change = (stretch - 1) * F.linear(x, self.base.weight) + stretch * self.scaling * low
        return y + change.to(y.dtype)

    def merged_weight(self) -> Float[Tensor, "d_out d_in"]:
        """The weight of the one layer that gives the same outputs."""
        weight = self.stretch()[:, None] * (self.base.weight + self.delta())
        return weight.to(self.base.weight.dtype)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
