"""How long does a convolution take beside torch's? Forward and backward, on one thread, in turns.

uv run study bench 10
"""

import statistics
import time

import numpy as np
from threadpoolctl import threadpool_limits

from week10.convolution import conv2d, conv2d_backward

BATCH, CHANNELS, SIZE = 16, 32, 32


def bench(repeats: int = 20) -> dict:
    """Convolve 32 channels to 32 with 3 × 3 kernels, forward and backward; medians of seconds.

    The reference is `F.conv2d` and its autograd on a batch of 16 pictures of 32 × 32 in float32.

    Parameters
    ----------
    repeats
        How many are timed of each, in turns; three more warm up.
    """
    import torch
    from torch.nn import functional as F

    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(BATCH, CHANNELS, SIZE, SIZE)).astype(np.float32)
    w = rng.normal(size=(CHANNELS, CHANNELS, 3, 3)).astype(np.float32) / 17  # √(9 · 32)
    g = rng.normal(size=x.shape).astype(np.float32)
    tensors = [torch.from_numpy(a).requires_grad_() for a in (x, w)]
    upstream = torch.from_numpy(g)

    def ours():
        return conv2d(x, w, padding=1), *conv2d_backward(g, x, w, padding=1)[:2]

    def theirs():
        y = F.conv2d(*tensors, padding=1)
        return y.detach(), *torch.autograd.grad(y, tensors, upstream)

    seconds, results = {ours: [], theirs: []}, {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            for _ in range(repeats + 3):
                for side, times in seconds.items():
                    start = time.perf_counter()
                    results[side] = side()
                    times.append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    pairs = zip(results[ours], results[theirs], strict=True)
    apart = max(np.abs(a - b.numpy()).max() / np.abs(a).max() for a, b in pairs)
    if not apart < 1e-4:
        raise RuntimeError(f"the two do not compute the same: {apart:.1e} apart")
    medians = {side: statistics.median(times[3:]) for side, times in seconds.items()}
    return {
        "name": f"3 × 3 convolution, {CHANNELS} channels, forward and backward, against torch, "
        "one thread",
        "ours_seconds": medians[ours],
        "reference_seconds": medians[theirs],
        "ratio": medians[ours] / medians[theirs],
        "limit": 10.0,
        "equal_work": f"outputs and gradients at most {apart:.0e} apart, relatively",
    }
