r"""Mixed precision: number formats of 8 to 32 bits by hand, and what training needs to live on 16.

A float of $E$ exponent and $M$ mantissa bits with bias $b$ stands for

$$ (-1)^s \, 2^{\max(e, 1) - b} \, \big([e > 0] + m / 2^M\big), \qquad 0 \le e < 2^E,\; m < 2^M , $$

so neighbors are $2^{-M}$ apart relative to their size, until subnormals end at $2^{1-b-M}$. Of it
two accidents follow in training: a gradient below half of the smallest number becomes zero, and an
update below half of its weight's spacing is swallowed. *Loss scaling* cures the first, a *master
copy* in float32 (or stochastic rounding, or Kahan's sum) the second. Reduced: a network of two
layers on 8 × 8 digits; 16 bits are emulated: tensors are stored in 16 bits, sums run in float32.

    uv run weeks/16/mixed_precision.py

Sources: P. Micikevicius et al., *Mixed Precision Training* (ICLR 2018), section 3 and figure 2;
P. Micikevicius et al., *FP8 Formats for Deep Learning* (2022), table 1; IEEE 754-2019, section 3.4;
W. Kahan, *Further Remarks on Reducing Truncation Errors* (1965).
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

# ---- formats


@dataclass(frozen=True)
class Format:
    """A binary floating-point format.

    Parameters
    ----------
    name
        How it is called.
    exponent_bits, mantissa_bits, bias
        Width of the fields, and what is taken off the exponent field.
    infinities
        True: the largest exponent field holds infinity and NaN only (IEEE 754). False: only the
        pattern of all ones is NaN, there is no infinity (the "fn" of e4m3fn: finite).
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    infinities: bool = True

    def __post_init__(self):
        for field, least, most in (("exponent_bits", 2, 8), ("mantissa_bits", 1, 23)):
            if not least <= getattr(self, field) <= most:
                raise ValueError(
                    f"{field} must be between {least} and {most}, got {getattr(self, field)}"
                )

    @property
    def width(self) -> int:
        """Bits in all, the sign included."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal number; subnormals share its spacing."""
        return 1 - self.bias

    @property
    def inf_code(self) -> int:
        """The pattern that a positive overflow becomes: infinity, or NaN where there is none."""
        ones = (1 << (self.width - 1)) - 1
        return ones - (1 << self.mantissa_bits) + 1 if self.infinities else ones

    @property
    def max(self) -> float:
        """The largest finite number, one pattern below."""
        return float(decode(torch.tensor(self.inf_code - 1), self))

    @property
    def smallest(self) -> float:
        """The smallest positive (subnormal) number; half of it and less becomes zero."""
        return math.ldexp(1.0, self.min_exponent - self.mantissa_bits)


FP32 = Format("fp32", 8, 23, 127)
BF16 = Format("bf16", 8, 7, 127)
FP16 = Format("fp16", 5, 10, 15)
E5M2 = Format("fp8 e5m2", 5, 2, 15)
E4M3FN = Format("fp8 e4m3fn", 4, 3, 7, infinities=False)
FORMATS = {
    torch.float32: FP32,
    torch.bfloat16: BF16,
    torch.float16: FP16,
    torch.float8_e5m2: E5M2,
    torch.float8_e4m3fn: E4M3FN,
}


def decode(codes: Int64[Tensor, "*shape"], fmt: Format) -> Float64[Tensor, "*shape"]:
    """Bit patterns to the numbers they stand for; every format here fits into float64 exactly."""
    if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < 1 << fmt.width:
        raise ValueError(
            f"codes must lie between 0 and 2**{fmt.width} - 1, got {int(codes.min())} to "
            f"{int(codes.max())}"
        )
    magnitude = codes & ((1 << (fmt.width - 1)) - 1)
    exponent = magnitude >> fmt.mantissa_bits
    mantissa = magnitude & ((1 << fmt.mantissa_bits) - 1)
    steps = mantissa + ((exponent > 0).long() << fmt.mantissa_bits)  # the hidden bit
    power = exponent.clamp(min=1) - fmt.bias - fmt.mantissa_bits
    value = torch.ldexp(steps.double(), power)
    value = torch.where(magnitude > fmt.inf_code, math.nan, value)
    value = torch.where(magnitude == fmt.inf_code, math.inf if fmt.infinities else math.nan, value)
    return torch.where(codes >> (fmt.width - 1) == 1, -value, value)


def encode(
    x: Float[Tensor, "*shape"],
    fmt: Format,
    *,
    saturate: bool = False,
    generator: torch.Generator | None = None,
) -> Int64[Tensor, "*shape"]:
    """Numbers to bit patterns, to the nearest one and on a tie to the even one.

    Parameters
    ----------
    x
        Any shape and float type.
    saturate
        An overflow gives the largest finite number instead of infinity (or NaN).
    generator
        Round up or down at random instead, up with the probability of the remainder, so that the
        expectation is x: stochastic rounding.
    """
    x = x.double()  # frexp, the scaling and floor are exact for every float32
    magnitude = x.abs()
    ordinary = torch.isfinite(x)
    safe = torch.where(ordinary, magnitude, 0.0)
    exponent = (torch.frexp(safe).exponent.long() - 1).clamp(min=fmt.min_exponent)
    exponent = torch.where(safe == 0, fmt.min_exponent, exponent)
    exact = torch.ldexp(safe, fmt.mantissa_bits - exponent)  # in units of the spacing
    if generator is None:
        steps = exact.round().long()  # torch rounds halves to even
    else:
        steps = (exact + torch.rand(x.shape, generator=generator, dtype=torch.float64)).floor()
        steps = steps.long()
    # The hidden bit in `steps` adds one to the exponent field; so does a mantissa that rounds up
    # to the next power of two. Patterns are in the order of their values, hence one comparison:
    code = ((exponent - fmt.min_exponent) << fmt.mantissa_bits) + steps
    top = fmt.inf_code - 1 if saturate else fmt.inf_code
    code = torch.where(torch.isinf(x), top, code.clamp(max=top))
    nan = (1 << (fmt.width - 1)) - 1
    code = torch.where(torch.isnan(x), nan, code)
    return code + (torch.signbit(x).long() << (fmt.width - 1))


def round_to(
    x: Float[Tensor, "*shape"],
    fmt: Format,
    *,
    saturate: bool = False,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*shape"]:
    """The numbers of `fmt` that x becomes when stored, in x's own type; options as `encode`."""
    return decode(encode(x, fmt, saturate=saturate, generator=generator), fmt).to(x.dtype)


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


# ---- loss scaling


@runtime_checkable
class Optimizer(Protocol):
    """What `LossScaler` asks of an optimizer; torch's have it."""

    param_groups: Iterable[dict[str, Any]]

    def step(self) -> Any:
        """Change the parameters by their gradients."""


class LossScaler:
    """Multiply the loss so that small gradients survive 16 bits; find the factor by trial.

    A step whose gradients hold an infinity or NaN is skipped and the scale backs off; after
    `growth_interval` good steps in a row it grows. `state_dict` has the keys of
    `torch.amp.GradScaler`'s, so that either may continue what the other began.

    Parameters
    ----------
    scale
        Where it starts.
    growth_factor, backoff_factor, growth_interval
        See above.
    dynamic
        False keeps the scale; bad steps are still skipped.

    References
    ----------
    Micikevicius et al. (2018), section 3.2; `torch.amp.GradScaler`.
    """

    def __init__(
        self,
        scale: float = 2.0**16,
        *,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        dynamic: bool = True,
    ):
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be positive and finite, got {scale}")
        if not growth_factor > 1:
            raise ValueError(f"growth_factor must be above 1, got {growth_factor}")
        if not 0 < backoff_factor < 1:
            raise ValueError(f"backoff_factor must be between 0 and 1, got {backoff_factor}")
        if growth_interval < 1:
            raise ValueError(f"growth_interval must be at least 1, got {growth_interval}")
        self.scale, self.dynamic = float(scale), dynamic
        self.growth_factor, self.backoff_factor = growth_factor, backoff_factor
        self.growth_interval, self.good_steps = growth_interval, 0
        self._found_inf: bool | None = None  # of the gradients unscaled last, until they are used

    def scale_loss(self, loss: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The loss to call backward on."""
        return loss * self.scale

    def unscale(self, optimizer: Optimizer) -> bool:
        """Divide the gradients in place, once; call it before clipping. True if one is not finite.

        Raises
        ------
        ValueError
            If a gradient is of 16 bits, where the division would lose what the scaling saved, or
            if it was done already.
        """
        if self._found_inf is not None:
            raise ValueError("optimizer must be unscaled once a step, got a second call")
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        grads = [grad for grad in grads if grad is not None]
        for grad in grads:
            if grad.element_size() < 4:
                raise ValueError(f"optimizer must have float32 gradients, got {grad.dtype}")
        for grad in grads:
            grad.mul_(1 / self.scale)
        self._found_inf = not all(bool(torch.isfinite(grad).all()) for grad in grads)
        return self._found_inf

    def step(self, optimizer: Optimizer) -> bool:
        """Unscale if need be, take the optimizer's step unless it would poison the weights.

        Returns whether the step was taken. Adapts the scale.
        """
        found_inf = self.unscale(optimizer) if self._found_inf is None else self._found_inf
        if not found_inf:
            optimizer.step()
        self._found_inf = None
        self.update(found_inf)
        return not found_inf

    def update(self, found_inf: bool) -> None:
        """Adapt the scale to what one step's gradients showed."""
        self.good_steps = 0 if found_inf else self.good_steps + 1
        if not self.dynamic:
            return
        if found_inf:
            self.scale *= self.backoff_factor
        elif self.good_steps == self.growth_interval:
            grown, self.good_steps = self.scale * self.growth_factor, 0
            if grown <= FP32.max:  # a loss in float32 must be able to bear it
                self.scale = grown

    def state_dict(self) -> dict:
        """What a resumed run needs."""
        return {
            "scale": self.scale,
            "growth_factor": self.growth_factor,
            "backoff_factor": self.backoff_factor,
            "growth_interval": self.growth_interval,
            "_growth_tracker": self.good_steps,
        }

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state_dict`, ours or torch's."""
        if missing := sorted(self.state_dict().keys() - state.keys()):
            raise ValueError(f"state must be a loss scaler's, got none of {', '.join(missing)}")
        fresh = LossScaler(
            state["scale"],
            growth_factor=state["growth_factor"],
            backoff_factor=state["backoff_factor"],
            growth_interval=state["growth_interval"],
            dynamic=self.dynamic,
        )
        fresh.good_steps = int(state["_growth_tracker"])
        self.__dict__.update(fresh.__dict__)


# ---- training with 16-bit storage


class _Stored(torch.autograd.Function):
    """Keep a tensor in `dtype` on the way forward, and its gradient on the way back."""

    @staticmethod
    def forward(ctx, x, dtype):
        ctx.dtype = dtype
        return x.to(dtype).to(x.dtype) if dtype != x.dtype else x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad.to(ctx.dtype).to(grad.dtype), None


def stored(x: Float[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """`x` after a visit to memory in `dtype`; its gradient will pass there too."""
    return _Stored.apply(x, dtype)


def mlp_loss(
    weights: list[Float32[Tensor, "seed _ _"]],
    batch: tuple[Float32[Tensor, "seed batch _"], Int64[Tensor, "seed batch"]],
    dtype: torch.dtype,
) -> Float32[Tensor, " seed"]:
    """Cross-entropy of linear, ReLU, linear for a stack of networks, one per seed, in nats.

    Weights and biases alternate; activations live in `dtype`, the softmax in float32.
    """
    h, y = stored(batch[0], dtype), batch[1]
    for i in range(0, len(weights), 2):
        h = h.relu() if i else h
        h = stored(torch.baddbmm(weights[i + 1], h, weights[i]), dtype)
    return F.cross_entropy(h.transpose(1, 2), y, reduction="none").mean(dim=1)


class Policy(NamedTuple):
    """What is kept in 16 bits, how weights are updated, and what the loss is multiplied by.

    `weights`: ``plain`` keeps them in `dtype` and rounds after each update; ``stochastic`` rounds
    at random; ``kahan`` adds a compensation in `dtype`; ``master`` keeps a float32 copy.
    """

    dtype: torch.dtype
    weights: Literal["plain", "master", "stochastic", "kahan"] = "master"
    scale: float = 1.0
    dynamic: bool = False


class Trace(NamedTuple):
    """Of each step and seed: loss, loss scale, whether it was skipped; shares; final weights.

    swallowed: of the updates that were not zero, those after which the weight was the same.
    """

    loss: Float32[Tensor, "step seed"]
    scale: Float64[Tensor, "step seed"]
    skipped: Bool[Tensor, "step seed"]
    swallowed: Float32[Tensor, "step seed"]
    weights: list[Float32[Tensor, "seed _ _"]]


def gradients(
    loss_of: Callable,
    weights: list[Float32[Tensor, "seed _ _"]],
    batch: tuple,
    dtype: torch.dtype,
    scale: Float64[Tensor, " seed"],
) -> tuple[Float32[Tensor, " seed"], list[Float32[Tensor, "seed _ _"]]]:
    """Losses, and gradients that passed through `dtype` scaled and are unscaled in float32."""
    leaves = [w.to(dtype).float().requires_grad_() for w in weights]
    losses = loss_of(leaves, batch, dtype)
    grads = torch.autograd.grad((losses * scale).sum(), leaves)
    factor = (1 / scale).float().reshape(-1, 1, 1)
    return losses.detach(), [g.to(dtype).float() * factor for g in grads]


def train(
    loss_of: Callable,
    start: list[Float32[Tensor, "seed _ _"]],
    batches: Iterable[tuple],
    policy: Policy,
    *,
    lr: float,
    growth_interval: int = 100,
    generator: torch.Generator | None = None,
) -> Trace:
    """Gradient descent of a stack of networks, each with a loss scale of its own.

    Parameters
    ----------
    loss_of
        Called with weights, a batch and the dtype of storage; gives a loss per seed.
    start
        Initial weights; not changed.
    batches
        One a step.
    policy, lr
        What is stored how, and the learning rate.
    growth_interval
        Of the dynamic loss scale.
    generator
        For stochastic rounding.
    """
    if not lr > 0:
        raise ValueError(f"lr must be positive, got {lr}")
    fmt, seeds = FORMATS[policy.dtype], len(start[0])
    if policy.weights == "stochastic" and generator is None:
        raise ValueError("generator must be given for stochastic rounding, got None")
    master = policy.weights == "master"
    weights = [w.clone() if master else w.to(policy.dtype).float() for w in start]
    carry = [torch.zeros_like(w) for w in weights]
    scalers = [
        LossScaler(policy.scale, growth_interval=growth_interval, dynamic=policy.dynamic)
        for _ in range(seeds)
    ]
    rows = []
    for batch in batches:
        scale = torch.tensor([s.scale for s in scalers], dtype=torch.float64)
        losses, grads = gradients(loss_of, weights, batch, policy.dtype, scale)
        good = torch.stack([torch.isfinite(g).flatten(1).all(1) for g in grads]).all(0)
        for scaler, fine in zip(scalers, good.tolist(), strict=True):
            scaler.update(not fine)
        same, moved = torch.zeros(seeds), torch.zeros(seeds)
        for i, (w, g) in enumerate(zip(weights, grads, strict=True)):
            update = torch.where(good.reshape(-1, 1, 1), -lr * g, 0.0)
            if policy.weights == "plain":
                new = (w + update.to(policy.dtype).float()).to(policy.dtype).float()
            elif policy.weights == "stochastic":
                new = round_to(w + update, fmt, generator=generator)
            elif policy.weights == "kahan":
                new, carry[i] = kahan_add(w, carry[i], update, fmt)
            else:
                new = w + update
            same += ((update != 0) & (new == w)).flatten(1).sum(1)
            moved += (update != 0).flatten(1).sum(1)
            weights[i] = new
        rows.append((losses, scale, ~good, same / moved.clamp(min=1)))
    if not rows:
        raise ValueError("batches must hold at least one batch, got none")
    return Trace(*(torch.stack(column) for column in zip(*rows, strict=True)), weights)


# ---- which precision to use here


class Precision(NamedTuple):
    """A type to compute in, whether it needs loss scaling, and why it was chosen."""

    dtype: torch.dtype
    loss_scaling: bool
    reason: str


def matmul_seconds(device: torch.device, dtype: torch.dtype, *, size: int = 512) -> float:
    """The quickest of five products of two square matrices, after one to warm up."""
    a = torch.ones(size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(6):
        begin = time.perf_counter()
        float((a @ a)[0, 0])  # reading a number waits for the device
        seconds.append(time.perf_counter() - begin)
    return min(seconds[1:])


def choose_precision(
    device: torch.device,
    *,
    measure: Callable[[torch.device, torch.dtype], float] = matmul_seconds,
    least_gain: float = 1.2,
) -> Precision:
    """Measure instead of guess: bfloat16 where its products are quicker, float32 elsewhere.

    A device that cannot multiply in bfloat16 but can in float16 gets float16 with loss scaling.

    Parameters
    ----------
    device
        Where the training will run.
    measure
        Seconds of a product on a device in a type; a RuntimeError means that it cannot.
    least_gain
        float32's time over the other's from which fewer bits are worth their trouble.
    """
    if not least_gain > 0:
        raise ValueError(f"least_gain must be positive, got {least_gain}")
    wide = measure(device, torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        try:
            gain = wide / measure(device, dtype)
        except RuntimeError:
            continue
        told = f"on {device.type} a product takes {1 / gain:.2f} of float32's time in {name}"
        if gain >= least_gain:
            return Precision(dtype, dtype == torch.float16, f"{name}: {told}")
        return Precision(torch.float32, False, f"float32: {told}")
    return Precision(torch.float32, False, f"float32: {device.type} multiplies in nothing smaller")


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
