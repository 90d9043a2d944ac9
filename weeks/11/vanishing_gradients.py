r"""Vanishing gradients: how much of a step's influence is left after many others.

The influence of the state at step 0 on the state at step $T$ is a product of Jacobians. For
$h_t = \tanh(U h_{t-1} + \ldots)$ and for an LSTM's cell alone (its gates held as they are)

$$ \frac{\partial h_T}{\partial h_0} = \prod_{t=1}^{T} \mathrm{diag}(1 - h_t^2)\, U, \qquad
   \frac{\partial c_T}{\partial c_0}\Big|_{\text{gates}} = \prod_{t=1}^{T} \mathrm{diag}(f_t) . $$

Both vanish, or explode, exponentially, unless their factors stay at 1: an orthogonal $U$ in the
linear range, or forget gates that are open. $f = 1$ is the 1997 cell, the constant error carousel.

>>> linear = torch.eye(3, dtype=torch.float64) * 0.9  # h <- 0.9 h, ten times
>>> left = influence(lambda h: h @ linear, torch.zeros(1, 3).double(), steps=10)[-1].item()
>>> round(left, 4), round(0.9**10, 4)
(0.3487, 0.3487)

    uv run weeks/11/vanishing_gradients.py

Hochreiter (1991); Bengio, Simard & Frasconi (1994); Hochreiter & Schmidhuber (1997); Pascanu,
Mikolov & Bengio (2013).
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from shared.require import require
from week11.lstm_gru import LSTM

Step = Callable[[Float[Tensor, "1 state"]], Float[Tensor, "1 state"]]


def influence(step: Step, state: Float[Tensor, "1 state"], steps: int) -> Float[Tensor, " steps"]:
    """Root mean square singular value of ∂ state_t / ∂ state_0 for t = 1 … steps.

    It is 1 where a random change at step 0 keeps its length on average. The Jacobians are
    multiplied in float64 and rescaled, so that a tiny product is not rounded to 0.

    Parameters
    ----------
    step
        One step of a network, input included.
    """
    require(steps >= 1, "steps must be at least 1", steps)
    width = state.shape[-1]
    product, log_scale, found = torch.eye(width, dtype=torch.float64), 0.0, []
    for _ in range(steps):
        jacobian = torch.autograd.functional.jacobian(step, state).reshape(width, width)
        state = step(state).detach()
        product = jacobian.double() @ product
        norm = product.norm()
        found.append(log_scale + (norm / width**0.5).log())
        if norm > 0:
            product, log_scale = product / norm, log_scale + norm.log()
    return torch.stack(found).exp()


def lstm_as_step(lstm: LSTM, x: Float[Tensor, "1 input"]) -> Step:
    """One step of a one-layer LSTM on the joint state (h, c), side by side in one row."""
    gates = torch.nn.functional.linear(x, lstm.weight_ih_l0, lstm.bias_ih_l0)

    def step(state):
        h, c = state.chunk(2, dim=-1)
        return torch.cat(lstm.step(gates, h, c, lstm.weight_hh_l0, lstm.bias_hh_l0), dim=-1)

    return step


def scaled_orthogonal(
    width: int, scale: float, generator: torch.Generator
) -> Float[Tensor, "width width"]:
    """A random rotation (float64) times `scale`: all its singular values are `scale`."""
    gaussian = torch.randn(width, width, generator=generator, dtype=torch.float64)
    q, r = torch.linalg.qr(gaussian)
    return scale * q * r.diagonal().sign()


class LSTM1997(LSTM):
    """The cell before it had a forget gate: c ← c + i ⊙ tanh(g), so ∂c_T / ∂c_0 is 1 along it.

    The weights of the absent gate are there, as `LSTM`'s, and do nothing.
    """

    def step(
        self, x: Float[Tensor, "batch gates"], *state_and_weights: Float[Tensor, "..."]
    ) -> tuple[Float[Tensor, "batch hidden"], ...]:
        """`lstm_step` with f = 1."""
        h, c, weight_hh, bias_hh = state_and_weights
        i, _, g, o = (x + torch.nn.functional.linear(h, weight_hh, bias_hh)).chunk(4, dim=-1)
        c = c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c


def adding_problem(
    n: int, length: int, generator: torch.Generator
) -> tuple[Float[Tensor, "n length 2"], Float[Tensor, " n"]]:
    """Random numbers, two of them marked: their sum is asked for at the end.

    One mark stands in the first half and one in the second. Always answering 1 has the mean
    squared error 1/6, the variance of a sum of two uniform numbers.

    References
    ----------
    Hochreiter & Schmidhuber (1997), experiment 4, in the form of Le, Jaitly & Hinton (2015).
    """
    require(length >= 2, "length must be at least 2", length)
    numbers = torch.rand(n, length, generator=generator)
    half = length // 2
    first = torch.randint(half, (n,), generator=generator)
    second = torch.randint(half, length, (n,), generator=generator)
    marks = torch.zeros(n, length)
    rows = torch.arange(n)
    marks[rows, first] = marks[rows, second] = 1.0
    return torch.stack([numbers, marks], dim=-1), (numbers * marks).sum(dim=1)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
