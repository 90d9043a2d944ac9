r"""Kahan's compensated sum: a second number of few bits keeps what the first one could not hold.

A sum stored in $M$ mantissa bits swallows whatever is below half of its spacing. Kahan measures
what was swallowed, $c$, and adds it to the next value $v$; with $\circ$ for rounding,

$$ w = \circ(v + c), \qquad t' = \circ(t + w), \qquad c' = \circ\big(w - \circ(t' - t)\big). $$

>>> import torch
>>> from week16.float_formats import BF16
>>> total, carry = torch.ones(1), torch.zeros(1)
>>> for _ in range(1024):  # bfloat16's spacing above one is eight times the value
...     total, carry = kahan_add(total, carry, torch.tensor([2.0**-10]), BF16)
>>> total.item(), round_to(torch.ones(1) + 2.0**-10, BF16).item()  # without: stays where it was
(2.0, 1.0)

Source: W. Kahan, *Further Remarks on Reducing Truncation Errors* (1965).
"""

from jaxtyping import Float
from torch import Tensor

from week16.float_formats import Format, round_to


def kahan_add(
    total: Float[Tensor, "*shape"],
    carry: Float[Tensor, "*shape"],
    value: Float[Tensor, "*shape"],
    fmt: Format,
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Add `value` to `total`, both stored in `fmt`; `carry` keeps what the total could not hold.

    Every intermediate result is rounded to `fmt`, as on hardware that has nothing better.
    """
    wanted = round_to(value + carry, fmt)
    new = round_to(total + wanted, fmt)
    return new, round_to(wanted - round_to(new - total, fmt), fmt)
