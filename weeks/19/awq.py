r"""AWQ: scale up the weights that meet large inputs, so that rounding hurts them less.

Rounding moves a weight by up to half a step $\Delta$, whatever its input. Multiply the weights of
input $j$ by $s_j$ and divide the input by it: nothing changes, but the rounding error of these
weights is divided by $s_j$, at the price of larger steps if $s_j w$ becomes the largest of its
group. AWQ takes $s$ from the mean magnitude of each input,

$$ s_j = \big(\overline{|x_j|}\big)^{\alpha}, \qquad \alpha = \arg\min_{0 \le \alpha < 1}
   \mathrm{tr}\big(E H E^T\big), \quad E = W - Q(W\,\mathrm{diag}(s))\,\mathrm{diag}(s)^{-1} , $$

and tries $\alpha$ on a grid. $\alpha = 0$ is rounding to nearest, so that on the calibration data
the error of a layer is never larger than that.

>>> x = torch.randn(99, 8, generator=torch.Generator().manual_seed(0)) * 3.0 ** torch.arange(-4, 4)
>>> w = torch.linspace(-2, 2, 32).sin().view(4, 8)
>>> found = search(w, x.T @ x / 99, x.abs().mean(0), bits=3, group_size=8)
>>> round(found.alpha, 2), round(found.error / found.errors[0], 2)
(0.2, 0.02)

    uv run weeks/19/awq.py

Source: Lin et al., "AWQ: Activation-aware weight quantization" (2023), section 3.2, eq. 4 and 5.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from shared.arguments import checked
from shared.require import require
from week18.llama3 import Block
from week19.folding import READERS, fold_block, per_kv_head, per_query_head
from week19.gptq import layer_error
from week19.layer_inputs import Inputs, round_block
from week19.quantization import fake_quantize


class Found(NamedTuple):
    """The best exponent, its factors and error, and the errors of all exponents tried."""

    alpha: float
    s: Float[Tensor, " in"]
    error: float
    errors: list[float]


@checked
def factors(mean: Float[Tensor, " in"], alpha: float) -> Float[Tensor, " in"]:
    """Mean magnitudes to the power alpha, around 1 (the geometric middle of the extremes)."""
    s = mean.pow(alpha).clamp(min=1e-4)
    return s / (s.max() * s.min()).sqrt()


@checked
def search(
    w: Float[Tensor, "out in"],
    h: Float[Tensor, "in in"],
    mean: Float[Tensor, " in"],
    *,
    bits: int,
    group_size: int,
    steps: int = 20,
) -> Found:
    """The exponent with the least error of the layer's outputs.

    Parameters
    ----------
    w
        The weights; those of several layers that read the same input, one below the other.
    h, mean
        Hessian and mean magnitudes of the inputs.
    steps
        Exponents tried: 0, 1/steps, …
    """
    require(steps >= 1, "steps must be at least 1", steps)
    require((mean >= 0).all(), "mean must be of magnitudes, not negative", mean.min().item())
    errors = []
    for i in range(steps):
        s = factors(mean, i / steps)
        rounded = fake_quantize(w * s, bits=bits, symmetric=False, granularity=group_size) / s
        errors.append(layer_error(w - rounded, h).sum().item())
    best = min(range(steps), key=errors.__getitem__)
    return Found(best / steps, factors(mean, best / steps), errors[best], errors)


@torch.no_grad()
def awq_block(
    block: Block,
    inputs: dict[str, Inputs],
    *,
    bits: int,
    group_size: int,
    steps: int = 20,
    every: int = 1,
) -> dict[str, float]:
    """Search factors for each group of layers, fold them in, round; the exponents found.

    The search looks at one row out of `every`: rows are alike, and the errors are sums over them.
    """
    found = {}
    n_kv = len(block.v_proj.weight) // block.head_dim
    for reader, names in READERS.items():
        mean, h = inputs[reader].mean, inputs[reader].h
        if reader == "out_proj":  # heads that share values share their factors
            kv = per_kv_head(mean, n_kv, block.head_dim)
            mean = per_query_head(kv, len(mean), block.head_dim)
        w = torch.cat([getattr(block, name).weight for name in names])
        best = search(w[::every], h, mean, bits=bits, group_size=group_size, steps=steps)
        s = best.s if reader != "out_proj" else factors(kv, best.alpha)
        fold_block(block, reader, s)
        found[reader] = best.alpha
    round_block(block, bits=bits, group_size=group_size)
    return found


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
