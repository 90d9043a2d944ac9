r"""Six optimizers, from gradient descent to Muon, each step for step with torch's own.

A gradient says which way is down, not how far to go. Momentum averages it, $b_t = \mu b_{t-1} +
g_t$. Adam divides each coordinate's running mean by its running root mean square, both corrected
for having started at zero:

$$m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2,$$

$$\theta_t = (1 - \eta \lambda)\,\theta_{t-1}
             - \eta \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}.$$

Muon treats a weight matrix as a matrix: it replaces the momentum $B = U S V^\top$ by (nearly)
$U V^\top$, the same step in every direction the gradient uses, with a few steps of a polynomial
iteration instead of an SVD.

    uv run weeks/09/optimizers.py

Sources: Sutskever et al. (2013), section 2; Tieleman & Hinton, RMSProp (2012), lecture 6.5; Kingma
& Ba, "Adam" (2015), algorithm 1; Reddi et al., AMSGrad (2018), algorithm 2; Loshchilov & Hutter,
AdamW (2019), algorithm 2; Jordan et al., "Muon: an optimizer for hidden layers" (2024).
"""

import math
from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. (2024): steep at 0, no convergence to 1


class Optimizer:
    """Parameters with one state dictionary each; subclasses say what one step does.

    What torch calls parameter groups are several optimizers here, one for each set of options.

    Parameters
    ----------
    params
        Tensors that require gradients; those without a gradient are skipped by `step`.
    lr
        Step size; may be reassigned between steps (that is all a schedule does).
    weight_decay
        Decoupled: weights shrink by the factor 1 - lr * weight_decay before each step. Coupled:
        weight_decay times the weight is added to the gradient, as an L2 penalty would.
    """

    decoupled = True
    buffers: tuple[str, ...] = ()  # names of a state's tensors, each shaped like its parameter

    def __init__(self, params: Iterable[Tensor], *, lr: float, weight_decay: float):
        self.params = list(params)
        if not self.params:
            raise ValueError("params must hold at least one tensor, got none")
        if len({id(p) for p in self.params}) < len(self.params):
            raise ValueError("params must hold each tensor once, got one of them twice")
        if not lr >= 0:
            raise ValueError(f"lr must be at least 0, got {lr}")
        if not weight_decay >= 0:
            raise ValueError(f"weight_decay must be at least 0, got {weight_decay}")
        self.lr, self.weight_decay = lr, weight_decay
        self.state: list[dict] = [{} for _ in self.params]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.params:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        pairs = zip(self.params, self.state, strict=True)
        used = [(p, state) for p, state in pairs if p.grad is not None]
        grads = [p.grad for p, _ in used]
        if self.weight_decay and not self.decoupled:
            grads = [
                grad.add(p, alpha=self.weight_decay)
                for grad, (p, _) in zip(grads, used, strict=True)
            ]
        changes = self.updates(grads, [state for _, state in used])
        for (p, _), change in zip(used, changes, strict=True):
            if self.weight_decay and self.decoupled:
                p.mul_(1 - self.lr * self.weight_decay)
            p.sub_(change)

    def updates(self, grads: list[Tensor], states: list[dict]) -> Iterator[Tensor]:
        """Yield what to subtract from each parameter; here one by one."""
        for grad, state in zip(grads, states, strict=True):
            yield self.update(grad, state)

    def update(self, grad: Float[Tensor, "*shape"], state: dict) -> Float[Tensor, "*shape"]:
        """What to subtract from a parameter whose gradient is `grad`; `state` moves on."""
        raise NotImplementedError

    def begin(self, state: dict, grad: Float[Tensor, "*shape"]) -> None:
        """Zeros for all buffers, at the first gradient, and one step more on the counter."""
        if not state:
            state.update(t=0, **{name: torch.zeros_like(grad) for name in self.buffers})
        state["t"] += 1

    def state_dict(self) -> dict[str, Tensor | int]:
        """Copies of all states under names like "3.mean" (fourth parameter), and "3.t" for steps.

        Options and learning rate are not in it: build the optimizer as before, then load.
        """
        return {
            f"{index}.{name}": value.clone() if isinstance(value, Tensor) else value
            for index, state in enumerate(self.state)
            for name, value in state.items()
        }

    def load_state_dict(self, saved: dict[str, Tensor | int]) -> None:
        """Go on from what `state_dict` gave; a ValueError names what does not fit."""
        states: list[dict] = [{} for _ in self.state]
        for key, value in saved.items():
            index, _, name = key.partition(".")
            if index not in map(str, range(len(states))) or name not in ("t", *self.buffers):
                raise ValueError(
                    f"saved must hold t, {', '.join(self.buffers)} of parameters 0 to "
                    f"{len(states) - 1}, as {type(self).__name__} keeps them here; got {key!r}"
                )
            p = self.params[int(index)]
            kinds = int if name == "t" else (tuple(p.shape), p.dtype)
            found = (tuple(value.shape), value.dtype) if torch.is_tensor(value) else type(value)
            if found != kinds or (name == "t" and value < 1):
                raise ValueError(f"saved[{key!r}] must be {kinds}, got {found}: {value}")
            states[int(index)][name] = value if name == "t" else value.to(p.device, copy=True)
        for index, state in enumerate(states):
            if state and (missing := {"t", *self.buffers} - set(state)):
                raise ValueError(f"saved lacks {index}.{min(missing)}; it has {sorted(saved)}")
        self.state = states  # only now: a bad file changes nothing


def _decay_rate(name: str, value: float) -> float:
    if not 0 <= value < 1:
        raise ValueError(f"{name} must lie in [0, 1), got {value}")
    return value


class SGD(Optimizer):
    """Gradient descent with (Nesterov) momentum and coupled weight decay.

    Parameters
    ----------
    momentum
        How much of the last step's direction is kept; 0 is plain gradient descent.
    dampening
        The gradient enters the momentum with weight 1 - dampening (the first with weight 1).
    nesterov
        Step along the momentum as it will be one step later.

    References
    ----------
    Sutskever et al. (2013), equations 1 to 4, with lr taken out of the momentum as torch does.
    """

    decoupled = False

    def __init__(
        self, params, *, lr=1e-3, momentum=0.0, dampening=0.0, nesterov=False, weight_decay=0.0
    ):
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        self.momentum = _decay_rate("momentum", momentum)
        if nesterov and (momentum == 0 or dampening != 0):
            raise ValueError(
                "nesterov needs momentum above 0 and dampening 0, "
                f"got momentum {momentum} and dampening {dampening}"
            )
        self.dampening, self.nesterov = dampening, nesterov
        self.buffers = ("momentum",) if momentum else ()

    def update(self, grad: Float[Tensor, "*shape"], state: dict) -> Float[Tensor, "*shape"]:
        """The gradient or the momentum, times lr."""
        if not self.momentum:
            return self.lr * grad
        first = not state  # the first gradient counts in full, whatever the dampening
        self.begin(state, grad)
        state["momentum"].mul_(self.momentum).add_(grad, alpha=1 if first else 1 - self.dampening)
        if self.nesterov:
            return grad.add(state["momentum"], alpha=self.momentum).mul_(self.lr)
        return self.lr * state["momentum"]


class RMSProp(Optimizer):
    """The gradient over its running root mean square, with coupled weight decay.

    Parameters
    ----------
    alpha
        Decay rate of the running mean of squares, which starts at zero and is not corrected.
    momentum
        Applied to the divided gradient, not to the gradient.
    centered
        Divide by the standard deviation: the squared running mean is taken off the mean square.

    References
    ----------
    Tieleman & Hinton (2012), lecture 6.5; centered: Graves (2013), equations 38 to 41.
    """

    decoupled = False

    def __init__(
        self, params, *, lr=1e-2, alpha=0.99, eps=1e-8, momentum=0.0, centered=False, **options
    ):
        super().__init__(params, lr=lr, **{"weight_decay": 0.0, **options})
        self.alpha = _decay_rate("alpha", alpha)
        self.momentum = _decay_rate("momentum", momentum)
        self.eps, self.centered = eps, centered
        self.buffers = ("square", *["mean"] * centered, *["momentum"] * (momentum > 0))

    def update(self, grad: Float[Tensor, "*shape"], state: dict) -> Float[Tensor, "*shape"]:
        """The gradient over its root mean square, or the momentum of that, times lr."""
        self.begin(state, grad)
        state["square"].mul_(self.alpha).addcmul_(grad, grad, value=1 - self.alpha)
        variance = state["square"]
        if self.centered:
            state["mean"].lerp_(grad, 1 - self.alpha)
            variance = variance.addcmul(state["mean"], state["mean"], value=-1)
        ratio = grad / variance.sqrt().add_(self.eps)
        if not self.momentum:
            return ratio.mul_(self.lr)
        return self.lr * state["momentum"].mul_(self.momentum).add_(ratio)


class Adam(Optimizer):
    """Running mean over running root mean square, both bias-corrected; coupled weight decay.

    Parameters
    ----------
    betas
        Decay rates of the running mean of the gradient and of its square.
    eps
        Added to the denominator.
    amsgrad
        Divide by the largest mean square so far, so that no rare large gradient is forgotten.

    References
    ----------
    Kingma & Ba (2015), algorithm 1; Reddi et al. (2018), algorithm 2.
    """

    decoupled = False

    def __init__(
        self, params, *, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False
    ):
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must lie in [0, 1), got {betas}")
        if not eps >= 0:
            raise ValueError(f"eps must be at least 0, got {eps}")
        self.betas, self.eps, self.amsgrad = betas, eps, amsgrad
        self.buffers = ("mean", "square", *["largest"] * amsgrad)

    def update(self, grad: Float[Tensor, "*shape"], state: dict) -> Float[Tensor, "*shape"]:
        """Bias-corrected mean over bias-corrected root mean square, times lr."""
        self.begin(state, grad)
        beta1, beta2 = self.betas
        state["mean"].lerp_(grad, 1 - beta1)
        square = state["square"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        if self.amsgrad:
            square = torch.maximum(state["largest"], square, out=state["largest"])
        mean_correction = 1 - beta1 ** state["t"]
        square_correction = 1 - beta2 ** state["t"]
        rms = (square / square_correction).sqrt_().add_(self.eps)
        return torch.div(state["mean"], rms, out=rms).mul_(self.lr / mean_correction)


class AdamW(Adam):
    """Adam with decoupled weight decay, which the division by the mean square cannot touch.

    References
    ----------
    Loshchilov & Hutter (2019), algorithm 2.
    """

    decoupled = True

    def __init__(self, params, *, weight_decay=0.01, **options):
        super().__init__(params, weight_decay=weight_decay, **options)


def orthogonalize(
    matrix: Float[Tensor, "*batch m n"],
    *,
    steps: int = 5,
    dtype: torch.dtype = torch.float32,
    coefficients: tuple[float, float, float] = NEWTON_SCHULZ,
    eps: float = 1e-7,
) -> Float[Tensor, "*batch m n"]:
    r"""Push the singular values of each matrix towards 1, keeping its singular vectors.

    Iterates $X \leftarrow aX + b\,(XX^\top)X + c\,(XX^\top)^2X$, which acts on each singular value
    alone as $s \leftarrow as + bs^3 + cs^5$. With the usual coefficients the values end around 1
    rather than at 1 (between the two values that the script measures): lifting small ones fast
    matters more.

    Parameters
    ----------
    steps
        Iterations; five are enough for singular values down to about 1e-2 of the norm.
    dtype
        Precision of the products: torch's Muon takes bfloat16.
    coefficients
        a, b, c.
    eps
        Least norm to divide by, so that a zero matrix stays zero.

    References
    ----------
    Jordan et al. (2024).
    """
    a, b, c = coefficients
    m, n = matrix.shape[-2:]
    x = matrix.to(dtype)
    x = x.reshape(-1, m, n) if x.ndim > 2 else x
    multiply = torch.baddbmm if x.ndim > 2 else torch.addmm  # at bfloat16 they round differently
    x = x.mT if m > n else x  # the shorter side makes the smaller Gram matrix
    # Frobenius >= spectral norm, so all singular values start at 1 or below
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        polynomial = multiply(gram, gram, gram, beta=b, alpha=c)  # b (XXᵀ) + c (XXᵀ)²
        x = multiply(x, polynomial, x, beta=a)
    return (x.mT if m > n else x).reshape(matrix.shape).to(matrix.dtype)


class Muon(Optimizer):
    """Momentum orthogonalized, for the weight matrices of hidden layers (not embeddings, heads).

    Matrices of one shape are orthogonalized together, in one batched product.

    Parameters
    ----------
    params
        Matrices of shape (fan_out, fan_in).
    momentum
        Decay rate of the running mean of the gradient.
    nesterov
        Mix the new gradient in once more, as if the mean were one step ahead.
    ns_steps, ns_coefficients, eps, dtype
        As in `orthogonalize`.
    adjust_lr_fn
        Scale of the step for an m by n matrix. "original": √max(1, m/n); "match_rms_adamw":
        0.2 √max(m, n), for AdamW's learning rates; "spectral_unclamped": √(m/n).

    References
    ----------
    Jordan et al. (2024); "match_rms_adamw": Liu et al., "Muon is scalable" (2025), section 2.2.
    """

    def __init__(
        self,
        params,
        *,
        lr=0.02,
        momentum=0.95,
        weight_decay=0.0,
        dtype=torch.float32,
        nesterov=True,
        ns_steps=5,
        ns_coefficients=NEWTON_SCHULZ,
        eps=1e-7,
        adjust_lr_fn="original",
    ):
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        self.momentum = _decay_rate("momentum", momentum)
        for p in self.params:
            if p.ndim != 2:
                raise ValueError(f"params must be matrices, got a tensor of shape {tuple(p.shape)}")
        known = ("original", "match_rms_adamw", "spectral_unclamped")
        if adjust_lr_fn not in known:
            raise ValueError(f"adjust_lr_fn must be one of {known}, got {adjust_lr_fn!r}")
        if len(ns_coefficients) != 3 or ns_steps < 0:
            raise ValueError(
                "ns_coefficients must be 3 numbers and ns_steps at least 0, "
                f"got {ns_coefficients} and {ns_steps}"
            )
        self.nesterov, self.adjust_lr_fn, self.buffers = nesterov, adjust_lr_fn, ("mean",)
        self.iteration = {"steps": ns_steps, "coefficients": ns_coefficients, "eps": eps}
        self.iteration["dtype"] = dtype

    def scale(self, m: int, n: int) -> float:
        """How much longer than lr the step of an m by n matrix is, in the spectral norm."""
        if self.adjust_lr_fn == "match_rms_adamw":
            return 0.2 * math.sqrt(max(m, n))
        least = 1 if self.adjust_lr_fn == "original" else 0
        return math.sqrt(max(least, m / n))

    def ahead(self, grad: Float[Tensor, "m n"], state: dict) -> Float[Tensor, "m n"]:
        """Take the gradient into the running mean; give the (Nesterov) momentum."""
        self.begin(state, grad)
        state["mean"].lerp_(grad, 1 - self.momentum)
        ahead = grad.lerp(state["mean"], self.momentum)
        return ahead if self.nesterov else state["mean"]

    def update(self, grad: Float[Tensor, "m n"], state: dict) -> Float[Tensor, "m n"]:
        """Orthogonalized momentum, scaled so that tall matrices move as far as square ones."""
        return next(self.updates([grad], [state]))

    def updates(self, grads: list[Tensor], states: list[dict]) -> Iterator[Tensor]:
        """As `update`, with one orthogonalization for all matrices of a shape."""
        ahead = [self.ahead(grad, state) for grad, state in zip(grads, states, strict=True)]
        alike: dict[tuple, list[int]] = {}
        for index, x in enumerate(ahead):
            alike.setdefault((x.shape, x.dtype, x.device), []).append(index)
        changes = {}
        for (shape, _, _), members in alike.items():
            batch = torch.stack([ahead[i] for i in members]) if members[1:] else ahead[members[0]]
            result = orthogonalize(batch, **self.iteration) * (self.lr * self.scale(*shape))
            changes.update(zip(members, result.reshape(-1, *shape), strict=True))
        yield from (changes[index] for index in range(len(grads)))


def trajectory(
    optimizer: Optimizer | torch.optim.Optimizer,
    weight: Float[Tensor, "*shape"],
    loss_of: Callable[[Tensor], Tensor],
    steps: int,
) -> Float[Tensor, "step *shape"]:
    """Positions of `weight` while `optimizer` lowers `loss_of(weight)`, the start included."""
    path = [weight.detach().clone()]
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(weight).backward()
        optimizer.step()
        path.append(weight.detach().clone())
    return torch.stack(path)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
