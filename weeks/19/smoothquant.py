r"""SmoothQuant: weights are easy to round and activations are not, so share the difficulty.

Weights and activations of eight bits let integers be multiplied, one scale for each matrix. A few
inputs of a large model are much larger than all others, and the scale that holds them leaves the
others few levels. Dividing input $j$ by $s_j$ and multiplying the weights that read it,

$$ s_j = \frac{\max |x_j|^{\alpha}}{\max |w_j|^{1 - \alpha}} , $$

moves a part of that range into the weights. At $\alpha = 1/2$ both have the same largest values,
$\max |x_j| / s_j = \max |w_j|\, s_j = \sqrt{\max |x_j| \max |w_j|}$; $\alpha = 0$ leaves all the
spread to the activations, $\alpha = 1$ to the weights.

>>> x = torch.ones(5, 4) * torch.tensor([1.0, -1.0, 100.0, 1.0])
>>> w = torch.full((3, 4), 0.25)
>>> s = smoothing(x.abs().amax(0), w.abs().amax(0))
>>> s
tensor([ 2.,  2., 20.,  2.])
>>> (x / s).abs().amax(0), (w * s).amax(0)
(tensor([0.5000, 0.5000, 5.0000, 0.5000]), tensor([0.5000, 0.5000, 5.0000, 0.5000]))

    uv run weeks/19/smoothquant.py

Source: Xiao et al., "SmoothQuant" (2022), section 4, eq. 3 and 4.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer
from torch import Tensor, nn

from shared.arguments import checked
from shared.require import require
from week18.llama3 import Block
from week19.folding import LAYERS, READERS, fold_block, per_kv_head
from week19.layer_inputs import Inputs
from week19.quantization import grid, quantize


@checked
def smoothing(
    x_most: Float[Tensor, " in"], w_most: Float[Tensor, " in"], alpha: float = 0.5
) -> Float[Tensor, " in"]:
    """Factors from the largest magnitude of each input and of the weights that read it."""
    require(0 <= alpha <= 1, "alpha must be in [0, 1]", alpha)
    require((x_most >= 0).all() and (w_most >= 0).all(), "x_most and w_most must be magnitudes")
    x_most, w_most = x_most.clamp(min=1e-5), w_most.clamp(min=1e-5)  # an input that is always 0
    return x_most**alpha / w_most ** (1 - alpha)


def to_int8(x: Float[Tensor, "..."]) -> tuple[Integer[Tensor, "..."], Float[Tensor, ""]]:
    """Integers from -127 to 127 and their scale, one for the whole tensor."""
    most = x.abs().max()
    scale, zero = grid(-most, most, bits=8, symmetric=True, convention="narrow")
    return quantize(x, scale, zero, bits=8, symmetric=True), scale


class W8A8(nn.Module):
    """A linear layer of int8 weights that rounds each input it is given to int8 too."""

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.codes, self.scale = to_int8(linear.weight.detach())
        self.bias = linear.bias

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """The product of the integers, scaled once. What is added up in it is exact.

        It is computed in float64, where sums of integers below 2⁵³ are, as in a kernel of int32.
        """
        codes, scale = to_int8(x)
        product = F.linear(codes.double(), self.codes.double())
        out = (product * (scale * self.scale)).to(x.dtype)
        return out if self.bias is None else out + self.bias


@torch.no_grad()
def smooth_block(block: Block, inputs: dict[str, Inputs], alpha: float = 0.5) -> None:
    """Move the range of what each layer reads into its weights; the block computes the same."""
    n_kv = len(block.v_proj.weight) // block.head_dim
    # The last first: factors folded into a layer's rows change the largest of its columns.
    for reader, names in reversed(READERS.items()):
        x_most = inputs[reader].most
        w_most = torch.cat([getattr(block, name).weight for name in names]).abs().amax(0)
        if reader == "out_proj":  # heads that share values share their factors
            x_most, w_most = (per_kv_head(m, n_kv, block.head_dim, "max") for m in (x_most, w_most))
        fold_block(block, reader, smoothing(x_most, w_most, alpha))


def to_w8a8(block: Block) -> None:
    """Replace all linear layers of a block by `W8A8`, in place."""
    for name in LAYERS:
        setattr(block, name, W8A8(getattr(block, name)))


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
