r"""Derivatives by differences, where the step decides how many digits are left.

$$f'(x) \approx \frac{f(x+h) - f(x)}{h}, \qquad \frac{f(x+h) - f(x-h)}{2h}, \qquad
  \frac{\operatorname{Im} f(x + ih)}{h}$$

with errors of order $h$, $h^2$ and $h^2$. The first two subtract nearly equal numbers, which costs
$\varepsilon/h$; the third, for analytic $f$, subtracts nothing.

    >>> finite_difference(lambda v: [v[0] * v[1], v[0] ** 2], np.array([3.0, 5.0])).round(6)
    array([[5., 3.],
           [6., 0.]])

Source: Griewank and Walther, *Evaluating Derivatives*, 2nd ed. (SIAM, 2008), section 1.1; Squire
and Trapp, "Using complex variables to estimate derivatives" (SIAM Review, 1998).
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from shared.arguments import checked
from shared.require import require

EPS = float(np.finfo(np.float64).eps)
STEPS = {"forward": EPS ** (1 / 2), "central": EPS ** (1 / 3), "complex": 1e-100}


@checked
def finite_difference(
    f: Callable, x: Float[np.ndarray, "n"], *, scheme: str = "central", step: float | None = None
) -> Float[np.ndarray, "m n"]:
    """Jacobian by differences, one column for each input.

    Parameters
    ----------
    f
        Takes a list of n numbers, gives a number or a sequence of m.
    scheme
        "forward", "central", or "complex" for f made of functions that know complex numbers.
    step
        h, relative to max(1, |x|). By default where truncation and rounding balance:
        √ε (1.5e-8), ∛ε (6e-6), and for "complex", which has no rounding to fear, 1e-100.
    """
    require(scheme in STEPS, f"scheme must be one of {', '.join(STEPS)}", repr(scheme))
    step = STEPS[scheme] if step is None else step
    require(0 < step < math.inf, "step must be positive and finite", step)
    finite = len(x) > 0 and np.isfinite(x).all()
    require(finite, "x must be a vector of at least one finite number", x)

    def at(j: int, point: float | complex) -> np.ndarray:
        moved = list(x.astype(type(point)))
        moved[j] = point
        return np.atleast_1d(f(moved))

    columns = []
    for j, here in enumerate(x.tolist()):
        h = step * max(1.0, abs(here))
        right, left = here + h, (here - h if scheme == "central" else here)
        if scheme == "complex":
            columns.append(at(j, complex(here, h)).imag / h)
        elif right == left:  # a step below rounding: f looks constant
            columns.append(np.zeros_like(at(j, here)))
        else:  # the step that was really taken, which is not 2h or h: x + h was rounded
            columns.append((at(j, right) - at(j, left)) / (right - left))
    return np.array(columns).T
