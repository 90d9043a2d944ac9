r"""Gradient descent, momentum, RMSProp, Adam and AdamW, each step for step with torch's own.

A gradient says which way is down, not how far to go. Momentum averages it, $b_t = \mu b_{t-1} +
g_t$. Adam divides each coordinate's running mean by its running root mean square, both corrected
for having started at zero:

$$m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2,$$

$$\theta_t = (1 - \eta \lambda)\,\theta_{t-1}
             - \eta \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}.$$

>>> weight = torch.tensor([3.0, -400.0], requires_grad=True)
>>> optimizer = AdamW([weight], lr=0.5, weight_decay=0.0)
>>> weight.square().sum().backward()
>>> optimizer.step()  # the first step has length lr, whatever the gradient
>>> weight
tensor([   2.5000, -399.5000], requires_grad=True)

Muon, which treats a weight matrix as a matrix, is the next file: `muon.py`.

    uv run weeks/09/optimizers.py

Sources: Sutskever et al. (2013), section 2; Tieleman & Hinton, RMSProp (2012), lecture 6.5; Kingma
& Ba, "Adam" (2015), algorithm 1; Reddi et al., AMSGrad (2018), algorithm 2; Loshchilov & Hutter,
AdamW (2019), algorithm 2.
"""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from shared.require import require


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
        bare = isinstance(params, Tensor)  # a list of it would hold rows, which nothing moves
        self.params = [params] if bare else list(params)
        require(self.params, "params must hold at least one tensor", "none")
        strange = [type(p).__name__ for p in self.params if not isinstance(p, Tensor)]
        must = "params must be an iterable of tensors, one optimizer for each set of options"
        require(not bare and not strange, must, *(strange[:1] or ["a tensor"]))
        leaves = all(p.is_leaf and p.is_floating_point() for p in self.params)
        require(
            leaves, "params must be leaves of the graph, of floats: the results of no operation"
        )
        twice = len(self.params) - len({id(p) for p in self.params})
        require(not twice, "params must hold each tensor once", f"{twice} of them again")
        require(lr >= 0, "lr must be at least 0", lr)
        require(weight_decay >= 0, "weight_decay must be at least 0", weight_decay)
        self.lr, self.weight_decay = lr, weight_decay
        self.state: list[dict] = [{} for _ in self.params]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.params:
            p.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        used = [i for i, p in enumerate(self.params) if p.grad is not None]
        params, states = [self.params[i] for i in used], [self.state[i] for i in used]
        grads = [p.grad for p in params]
        if self.weight_decay and not self.decoupled:
            grads = [p.grad.add(p, alpha=self.weight_decay) for p in params]
        for p, change in zip(params, self.updates(grads, states), strict=True):
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
        names = ("t", *self.buffers)
        expected = (
            f"saved must hold {', '.join(names)} of parameters 0 to {len(states) - 1}, "
            f"as {type(self).__name__} keeps them here"
        )
        for key, value in saved.items():
            index, _, name = key.partition(".")
            known = index in map(str, range(len(states))) and name in names
            require(known, expected, repr(key))
            p = self.params[int(index)]
            kind = int if name == "t" else (tuple(p.shape), p.dtype)
            found = (tuple(value.shape), value.dtype) if torch.is_tensor(value) else type(value)
            fits = found == kind and (name != "t" or value >= 1)
            require(fits, f"saved[{key!r}] must be {kind}", f"{found}: {value}")
            states[int(index)][name] = value if name == "t" else value.to(p.device, copy=True)
        for index, state in enumerate(states):
            missing = sorted(set(names) - set(state)) if state else []
            require(not missing, f"saved lacks {index}.{''.join(missing[:1])}", sorted(saved))
        self.state = states  # only now: a bad file changes nothing


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
        require(0 <= momentum < 1, "momentum must lie in [0, 1)", momentum)
        possible = not nesterov or (momentum > 0 and dampening == 0)
        given = f"momentum {momentum}", f"dampening {dampening}"
        require(possible, "nesterov needs momentum above 0 and dampening 0", *given)
        self.momentum, self.dampening, self.nesterov = momentum, dampening, nesterov
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
        require(0 <= alpha < 1, "alpha must lie in [0, 1)", alpha)
        require(eps >= 0, "eps must be at least 0", eps)
        require(0 <= momentum < 1, "momentum must lie in [0, 1)", momentum)
        self.alpha, self.momentum, self.eps, self.centered = alpha, momentum, eps, centered
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
        two = len(betas) == 2 and all(0 <= beta < 1 for beta in betas)
        require(two, "betas must be two numbers in [0, 1)", betas)
        require(eps >= 0, "eps must be at least 0", eps)
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
    """Adam with decoupled weight decay, which the division by the mean square cannot touch."""

    decoupled = True

    def __init__(self, params, *, weight_decay=0.01, **options):
        super().__init__(params, weight_decay=weight_decay, **options)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
