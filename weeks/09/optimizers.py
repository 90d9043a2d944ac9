r"""AdamW and Muon: two answers to "how far along each direction?", against torch's own.

Adam divides each coordinate's running mean gradient by its running root mean square, both corrected
for having started at zero:

$$m_t = \beta_1 m_{t-1} + (1 - \beta_1) g_t, \quad v_t = \beta_2 v_{t-1} + (1 - \beta_2) g_t^2,$$

$$\theta_t = (1 - \eta \lambda)\,\theta_{t-1}
             - \eta \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}.$$

Muon treats a weight matrix as a matrix: it replaces the momentum $B = U S V^\top$ by (nearly)
$U V^\top$, the same step in every direction the gradient uses, with a few steps of a polynomial
iteration instead of an SVD.

    uv run weeks/09/optimizers.py

Sources: Kingma & Ba, "Adam" (2015), algorithm 1; Loshchilov & Hutter, "Decoupled weight decay
regularization" (2019), algorithm 2; Jordan et al., "Muon: an optimizer for hidden layers" (2024).
"""

import math
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from shared import plots
from shared.study import PositiveInt, Run, cli

NEWTON_SCHULZ = (
    3.4445,
    -4.7750,
    2.0315,
)  # Jordan et al. (2024): steepest at 0, not convergent to 1


class Optimizer:
    """Parameters with one state dictionary each; subclasses say what one step does.

    Parameters
    ----------
    params
        Tensors that require gradients; those without a gradient are skipped by `step`.
    lr
        Step size; may be reassigned between steps (that is all a schedule does).
    weight_decay
        Decoupled: weights shrink by the factor 1 - lr * weight_decay before each step.
    """

    def __init__(self, params: Iterable[Tensor], *, lr: float, weight_decay: float):
        self.params = list(params)
        if not self.params:
            raise ValueError("params must hold at least one tensor, got none")
        if lr < 0:
            raise ValueError(f"lr must be at least 0, got {lr}")
        if weight_decay < 0:
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
        for p, state in zip(self.params, self.state, strict=True):
            if p.grad is not None:
                p.mul_(1 - self.lr * self.weight_decay)
                p.sub_(self.update(p.grad, state))

    def update(self, grad: Float[Tensor, "..."], state: dict) -> Float[Tensor, "..."]:
        """What to subtract from a parameter whose gradient is `grad`."""
        raise NotImplementedError


class AdamW(Optimizer):
    """Adam with decoupled weight decay.

    Parameters
    ----------
    betas
        Decay rates of the running mean of the gradient and of its square.
    eps
        Added to the denominator.

    References
    ----------
    Kingma & Ba (2015), algorithm 1; Loshchilov & Hutter (2019), algorithm 2.
    """

    def __init__(self, params, *, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01):
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must lie in [0, 1), got {betas}")
        self.betas, self.eps = betas, eps

    def update(self, grad: Float[Tensor, "..."], state: dict) -> Float[Tensor, "..."]:
        """Bias-corrected mean over bias-corrected root mean square, times lr."""
        if not state:
            state.update(t=0, mean=torch.zeros_like(grad), square=torch.zeros_like(grad))
        state["t"] += 1
        beta1, beta2 = self.betas
        state["mean"].mul_(beta1).add_(grad, alpha=1 - beta1)
        state["square"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        mean_correction = 1 - beta1 ** state["t"]
        square_correction = 1 - beta2 ** state["t"]
        rms = (state["square"] / square_correction).sqrt_().add_(self.eps)
        return self.lr / mean_correction * state["mean"] / rms


def orthogonalize(
    matrix: Float[Tensor, "m n"], *, steps: int = 5, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "m n"]:
    r"""Push the singular values of `matrix` towards 1, keeping its singular vectors.

    Iterates $X \leftarrow aX + b\,(XX^\top)X + c\,(XX^\top)^2X$, which acts on each singular value
    alone as $s \leftarrow as + bs^3 + cs^5$. With these coefficients the values end between about
    0.7 and 1.2 rather than at 1: reaching small ones fast matters more.

    Parameters
    ----------
    steps
        Iterations; five are enough for singular values down to about 1e-3 of the norm.
    dtype
        Precision of the products: torch's Muon takes bfloat16.

    References
    ----------
    Jordan et al. (2024).
    """
    a, b, c = NEWTON_SCHULZ
    x = matrix.to(dtype)
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T  # the shorter side makes the smaller Gram matrix
    x = x / x.norm().clamp(min=1e-7)  # Frobenius >= spectral norm, so all singular values <= 1
    for _ in range(steps):
        gram = x @ x.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)  # b (XXᵀ) + c (XXᵀ)²
        x = torch.addmm(x, polynomial, x, beta=a)
    return (x if wide else x.T).to(matrix.dtype)


class Muon(Optimizer):
    """Momentum orthogonalised, for the weight matrices of hidden layers (not embeddings, heads).

    Parameters
    ----------
    params
        Matrices of shape (fan_out, fan_in).
    momentum
        Decay rate of the running mean of the gradient; applied Nesterov's way.
    dtype
        Precision of the orthogonalisation.

    References
    ----------
    Jordan et al. (2024).
    """

    def __init__(self, params, *, lr=0.02, momentum=0.95, weight_decay=0.0, dtype=torch.float32):
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
        for p in self.params:
            if p.ndim != 2:
                raise ValueError(f"params must be matrices, got a tensor of shape {tuple(p.shape)}")
        self.momentum, self.dtype = momentum, dtype

    def update(self, grad: Float[Tensor, "m n"], state: dict) -> Float[Tensor, "m n"]:
        """Orthogonalised Nesterov momentum, scaled so that tall matrices move as far as square."""
        if not state:
            state["mean"] = torch.zeros_like(grad)
        state["mean"].lerp_(grad, 1 - self.momentum)
        ahead = grad.lerp(state["mean"], self.momentum)
        scale = math.sqrt(max(1, grad.shape[0] / grad.shape[1]))
        return self.lr * scale * orthogonalize(ahead, dtype=self.dtype)


def trajectory(
    optimizer: Optimizer | torch.optim.Optimizer,
    weight: Float[Tensor, "m n"],
    loss_of: Callable[[Tensor], Tensor],
    steps: int,
) -> Float[Tensor, "step m n"]:
    """Positions of `weight` while `optimizer` lowers `loss_of(weight)`, the start included."""
    path = [weight.detach().clone()]
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(weight).backward()
        optimizer.step()
        path.append(weight.detach().clone())
    return torch.stack(path)


def main(run: Run, *, steps: PositiveInt = 50) -> None:
    """Follow torch's optimisers step by step, then see what orthogonalising does.

    Parameters
    ----------
    steps
        Steps of each trajectory.
    """
    generator = run.generator()
    x = torch.randn(64, 12, generator=generator, dtype=torch.float64)
    x = x * torch.logspace(0, -2, 12, dtype=torch.float64)  # ill-conditioned on purpose
    y = x @ torch.randn(12, 8, generator=generator, dtype=torch.float64)
    start = torch.randn(8, 12, generator=generator, dtype=torch.float64)

    def loss_of(weight):
        return ((x @ weight.T - y) ** 2).mean()

    def both(ours, theirs, options, **only_ours):
        paths = []
        for make, extra in ((ours, only_ours), (theirs, {})):
            weight = start.clone().requires_grad_()
            paths.append(trajectory(make([weight], **options, **extra), weight, loss_of, steps))
        return paths

    for decay in (0.0, 0.1):
        options = {"lr": 0.05, "betas": (0.9, 0.95), "weight_decay": decay}
        ours, theirs = both(AdamW, torch.optim.AdamW, options)
        run.check(
            f"AdamW trajectory, weight decay {decay}",
            ours,
            theirs,
            against="torch.optim.AdamW",
            atol=1e-12,
            why=f"float64 rounding over {steps} steps",
        )
        options = {"lr": 0.05, "momentum": 0.9, "weight_decay": decay}
        ours, theirs = both(Muon, torch.optim.Muon, options, dtype=torch.bfloat16)
        run.check(
            f"Muon trajectory, weight decay {decay}",
            ours,
            theirs,
            against="torch.optim.Muon",
            atol=1e-12,
            why="equal bfloat16 products, then float64 rounding",
        )

    matrix = torch.randn(32, 32, generator=generator, dtype=torch.float64)
    u, _, vt = torch.linalg.svd(matrix)
    before = torch.linalg.svdvals(matrix / matrix.norm())
    result = orthogonalize(matrix, dtype=torch.float64)
    a, b, c = NEWTON_SCHULZ
    mapped = before.clone()
    for _ in range(5):
        mapped = a * mapped + b * mapped**3 + c * mapped**5
    run.check(
        "orthogonalise: every singular value follows the scalar polynomial",
        result,
        u @ torch.diag(mapped) @ vt,
        against="torch.linalg.svd",
        atol=1e-10,
        why="float64 rounding through five products",
    )

    corrected, uncorrected = (
        AdamW([start.clone().requires_grad_()], lr=0.05, weight_decay=0) for _ in range(2)
    )
    gradient = torch.randn(8, 12, generator=generator, dtype=torch.float64)
    first = corrected.update(gradient, {})
    bug = uncorrected.update(gradient, _as_if_warm(gradient))
    ratio = float((bug / first).mean())
    expected = (1 - 0.9) / math.sqrt(1 - 0.999)
    run.claim(
        "without bias correction the first Adam step is (1 - β1)/√(1 - β2) times as long",
        abs(ratio - expected) < 1e-3 and float((first.abs() / 0.05 - 1).abs().max()) < 1e-3,
        f"measured {ratio:.3f}, theory {expected:.3f}; corrected, every coordinate moves by lr",
    )

    s = torch.logspace(-4, 0, 400, dtype=torch.float64)
    lifted = s[s > 0.01]
    for _ in range(5):
        lifted = a * lifted + b * lifted**3 + c * lifted**5
    run.metric("least singular value after five products", float(lifted.min()), rtol=0.01)
    run.metric("largest singular value after five products", float(lifted.max()), rtol=0.01)
    title = "Five products lift all but tiny singular values to about one"
    with run.figure("newton_schulz", title) as axes:
        mapped = s.clone()
        for step in range(1, 6):
            mapped = a * mapped + b * mapped**3 + c * mapped**5
            if step in (1, 3, 5):
                color = {1: plots.GREY, 3: plots.SKY, 5: plots.BLUE}[step]
                name = f"{step} iteration{'s' if step > 1 else ''}"
                axes.semilogx(s, mapped, color=color, lw=0.8 + step / 3, label=name)
        axes.axhline(1.0, color=plots.REFERENCE, ls="--", lw=1)
        axes.text(1.1e-4, 1.03, "$UV^\\top$ by SVD", color=plots.REFERENCE)
        axes.set(xlabel="singular value of the normalised momentum", ylabel="after the iteration")
        axes.legend()


def _as_if_warm(grad: Tensor) -> dict:
    """The classic bug, on display: a state whose averages pretend not to have started at zero."""
    return {"t": 10**6, "mean": torch.zeros_like(grad), "square": torch.zeros_like(grad)}


if __name__ == "__main__":
    cli(main)
