r"""Which precision to train in on this device: measured, not guessed.

With $t$ the time of a matrix product, a type of 16 bits is taken where its gain is worth it,

$$ t_{\text{float32}} / t_{\text{16 bits}} \ge 1.2 . $$

>>> seconds = {torch.float32: 4.0, torch.bfloat16: 1.0}  # of a device that is quick in bfloat16
>>> choose_precision(torch.device("cpu"), measure=lambda device, dtype: seconds[dtype])[:2]
(torch.bfloat16, False)

Source: P. Micikevicius et al., *Mixed Precision Training* (ICLR 2018), section 3.2: float16 needs
loss scaling.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from shared.require import require


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
    `measure` gives the seconds of a product, a RuntimeError of it means that the device cannot.
    """
    require(least_gain > 0, "least_gain must be positive", least_gain)
    wide = measure(device, torch.float32)
    for dtype in (torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        try:
            gain = wide / measure(device, dtype)
        except RuntimeError:
            continue
        measured = f"on {device.type} a product takes {1 / gain:.2f} × float32's time in {name}"
        if gain >= least_gain:
            return Precision(dtype, dtype == torch.float16, f"{name}: {measured}")
        return Precision(torch.float32, False, f"float32: {measured}")
    return Precision(torch.float32, False, f"float32: {device.type} multiplies in nothing smaller")
