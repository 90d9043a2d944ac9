r"""Regularization: nine ways to keep a network from learning its training set by heart, compared.

A network that can fit anything fits the noise too. Each ingredient takes something away from it:
its weights shrink (decay, max-norm), its units are dropped at random, its layers are normalized,
its labels are softened, its gradients are cut, or it is stopped early. Two of them in formulas,
inverted dropout and the backward pass that batch norm and layer norm share:

$$ \tilde x = \frac{m \odot x}{1 - p}, \; m_i \sim \mathrm{Bernoulli}(1 - p); \qquad
   \frac{\partial L}{\partial x} = \frac{1}{\sigma}\big(g - \overline{g}
   - \hat x\, \overline{g \hat x}\big), \; \hat x = \frac{x - \mu}{\sigma} . $$

>>> p = torch.tensor([0.5])
>>> dropout(torch.ones(1, 2, 4), p, torch.Generator().manual_seed(0)).unique()
tensor([0., 2.])
>>> layer_norm(torch.tensor([[[1.0, 3.0]]]), torch.ones(1, 1, 2), torch.zeros(1, 1, 2))
tensor([[[-1.0000,  1.0000]]])

Every tensor has a leading `run` axis of independent networks: all seeds and settings of the
ablation train at once (stacked_mlp.py), and runs never meet.
Reduced: scikit-learn's 8 by 8 digits, 200 of them to learn from, a fifth of the labels wrong.

    uv run weeks/09/regularization.py

Sources: Srivastava et al., "Dropout" (2014), section 4; Ioffe & Szegedy, "Batch normalization"
(2015), algorithms 1 and 2; Ba et al., "Layer normalization" (2016); Loshchilov & Hutter, "Decoupled
weight decay" (2019), algorithms 1 and 2; Pascanu et al. (2013), algorithm 1.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from shared.require import require

# ---- the ingredients; a leading `run` axis holds independent networks


def dropout(
    x: Float[Tensor, "run batch features"],
    p: Float[Tensor, " run"],
    generator: torch.Generator | None = None,
) -> Float[Tensor, "run batch features"]:
    """Set each entry to 0 with probability p and scale the rest by 1 / (1 - p); training only.

    The scaling is what lets the network be used unchanged at test time.

    References
    ----------
    Srivastava et al. (2014), section 4; the scaling during training, section 10.
    """
    require(((p >= 0) & (p < 1)).all(), "p must lie in [0, 1)", p.tolist())
    p = p[:, None, None]
    keep = torch.rand(x.shape, generator=generator, dtype=x.dtype) >= p
    return x * (keep / (1 - p))


def normalize_forward(
    x: Float[Tensor, "*shape"], dim: int, eps: float = 1e-5
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*reduced"]]:
    """x̂ = (x - mean) / sqrt(variance + eps) along dim, and 1 / sqrt(...), kept for the way back."""
    centered = x - x.mean(dim, keepdim=True)
    inverse_std = (centered.square().mean(dim, keepdim=True) + eps).rsqrt()
    return centered * inverse_std, inverse_std


def normalize_backward(
    grad: Float[Tensor, "*shape"],
    x_hat: Float[Tensor, "*shape"],
    inverse_std: Float[Tensor, "*reduced"],
    dim: int,
) -> Float[Tensor, "*shape"]:
    """Gradient by x: mean and variance depend on x too, and each takes a direction out of grad."""
    shift = grad.mean(dim, keepdim=True)
    stretch = (grad * x_hat).mean(dim, keepdim=True)
    return inverse_std * (grad - shift - x_hat * stretch)


class _Normalize(torch.autograd.Function):
    """The two functions above as one node of torch's graph."""

    @staticmethod
    def forward(ctx, x, dim, eps):
        x_hat, inverse_std = normalize_forward(x, dim, eps)
        ctx.save_for_backward(x_hat, inverse_std)
        ctx.dim = dim
        return x_hat

    @staticmethod
    def backward(ctx, grad):
        return normalize_backward(grad, *ctx.saved_tensors, ctx.dim), None, None


def layer_norm(
    x: Float[Tensor, "run batch features"],
    gain: Float[Tensor, "run 1 features"],
    bias: Float[Tensor, "run 1 features"],
    eps: float = 1e-5,
) -> Float[Tensor, "run batch features"]:
    """Normalize each row by itself: no batch, no state, the same in training and in use."""
    return _Normalize.apply(x, -1, eps) * gain + bias


class BatchNorm:
    """Normalize each feature over the batch; in use, by running statistics of training.

    Parameters
    ----------
    momentum
        Weight of the newest batch in the running statistics.

    Attributes
    ----------
    gain, bias : (run, 1, features), learned
    running_mean, running_var : (run, 1, features)

    References
    ----------
    Ioffe & Szegedy (2015), algorithms 1 and 2.
    """

    def __init__(
        self,
        runs: int,
        features: int,
        *,
        momentum: float = 0.1,
        eps: float = 1e-5,
        dtype: torch.dtype = torch.float32,
    ):
        require(0 < momentum <= 1, "momentum must lie in (0, 1]", momentum)
        self.momentum, self.eps = momentum, eps
        shape = (runs, 1, features)
        self.gain = torch.ones(shape, dtype=dtype, requires_grad=True)
        self.bias = torch.zeros(shape, dtype=dtype, requires_grad=True)
        self.running_mean = torch.zeros(shape, dtype=dtype)
        self.running_var = torch.ones(shape, dtype=dtype)

    def __call__(
        self, x: Float[Tensor, "run batch features"], *, training: bool, update: bool = True
    ) -> Float[Tensor, "run batch features"]:
        """Batch statistics if training (and remember them, if update), running ones otherwise."""
        if not training:
            x_hat = (x - self.running_mean) * (self.running_var + self.eps).rsqrt()
            return x_hat * self.gain + self.bias
        if update:
            why = "a batch of one has no variance"
            require(x.shape[1] > 1, f"x must have at least 2 rows in training: {why}", len(x[0]))
            with torch.no_grad():
                self.running_mean.lerp_(x.mean(1, keepdim=True), self.momentum)
                # the trap: x̂ divides by the biased variance, what is remembered is unbiased
                self.running_var.lerp_(x.var(1, keepdim=True, correction=1), self.momentum)
        return _Normalize.apply(x, 1, self.eps) * self.gain + self.bias


def smooth_labels(
    labels: Int[Tensor, "run batch"], n_classes: int, epsilon: Float[Tensor, " run"]
) -> Float[Tensor, "run batch classes"]:
    """One-hot rows mixed with the uniform distribution: 1 - ε + ε/k for the label, else ε/k."""
    inside = ((epsilon >= 0) & (epsilon <= 1)).all()
    require(inside, "epsilon must lie in [0, 1]", epsilon.tolist())
    epsilon = epsilon[:, None, None]
    return (1 - epsilon) * F.one_hot(labels, n_classes).to(epsilon.dtype) + epsilon / n_classes


def clip_by_norm(
    grads: list[Float[Tensor, "run *_"]], max_norm: Float[Tensor, " run"]
) -> list[Float[Tensor, "run *_"]]:
    """Scale all gradients of a run by one factor, so that their joint norm is at most max_norm.

    References
    ----------
    Pascanu et al. (2013), algorithm 1.
    """
    require((max_norm > 0).all(), "max_norm must be positive", max_norm.tolist())
    norm = torch.stack([g.flatten(1).square().sum(1) for g in grads]).sum(0).sqrt()
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    return [g * factor.view(-1, *[1] * (g.ndim - 1)) for g in grads]


def clip_by_value(
    grads: list[Float[Tensor, "run *_"]], limit: Float[Tensor, " run"]
) -> list[Float[Tensor, "run *_"]]:
    """Cut every entry to [-limit, limit] by itself: this turns the direction, scaling does not."""
    require((limit > 0).all(), "limit must be positive", limit.tolist())
    limits = [limit.view(-1, *[1] * (g.ndim - 1)) for g in grads]
    return [g.clamp(-c, c) for g, c in zip(grads, limits, strict=True)]


def max_norm(
    weight: Float[Tensor, "run fan_in fan_out"], limit: Float[Tensor, " run"]
) -> Float[Tensor, "run fan_in fan_out"]:
    """Project each unit's incoming weights, a column, onto the ball of radius limit."""
    require((limit > 0).all(), "limit must be positive", limit.tolist())
    norm = weight.norm(dim=1, keepdim=True).clamp(min=1e-12)
    return weight * (limit[:, None, None] / norm).clamp(max=1.0)


def early_stopping(losses: Float[np.ndarray, " evaluation"], patience: int) -> int:
    """Index of the best loss seen when `patience` evaluations in a row have not beaten it."""
    require(patience >= 1, "patience must be at least 1", patience)
    require(len(losses), "losses must not be empty")
    best = 0
    for i, loss in enumerate(losses):
        if loss < losses[best]:
            best = i
        if i - best >= patience:
            break
    return best


def sgd_step(
    weight: Float[Tensor, "*shape"],
    grad: Float[Tensor, "*shape"],
    *,
    lr: float,
    l2: float = 0.0,
    decay: float = 0.0,
) -> Float[Tensor, "*shape"]:
    """The next weight: with `l2` the penalty is in the gradient, with `decay` beside it."""
    return (1 - lr * decay) * weight - lr * (grad + l2 * weight)


@torch.no_grad()
def adam_step(
    weight: Float[Tensor, "run *_"],
    grad: Float[Tensor, "run *_"],
    state: dict,
    *,
    lr: Float[Tensor, " run"],
    l2: Float[Tensor, " run"],
    decay: Float[Tensor, " run"],
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> None:
    """One step in place: `l2` goes through Adam's division by sqrt(v), `decay` does not.

    References
    ----------
    Loshchilov & Hutter (2019), algorithm 2, pink and green lines.
    """
    lr, l2, decay = (s.view(-1, *[1] * (weight.ndim - 1)) for s in (lr, l2, decay))
    if not state:
        state.update(t=0, mean=torch.zeros_like(weight), square=torch.zeros_like(weight))
    state["t"] += 1
    grad = torch.addcmul(grad, l2, weight)
    state["mean"].lerp_(grad, 1 - betas[0])
    state["square"].mul_(betas[1]).addcmul_(grad, grad, value=1 - betas[1])
    rms = (state["square"] / (1 - betas[1] ** state["t"])).sqrt_().add_(eps)
    weight.mul_(1 - lr * decay).sub_(lr / (1 - betas[0] ** state["t"]) * state["mean"] / rms)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
