"""How long does a convolution take beside torch's, forward and backward? One thread, in turns.

uv run study bench 08
"""

import numpy as np

from week08.bench_minigrad import in_turns
from week08.minigrad import Tensor
from week08.minigrad import functional as F

IMAGES, KERNELS = (32, 16, 28, 28), (16, 16, 3, 3)


def bench(repeats: int = 60) -> dict:
    """Convolve the same images with both and go back; medians of the seconds.

    Of ours about half are matrix products, a fifth copies the windows out, and a third adds them
    up again; torch's kernels go without the copies.

    Parameters
    ----------
    repeats
        How many times are taken of each, in turns; ten more warm up.
    """
    import torch

    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=s).astype(np.float32) for s in (IMAGES, KERNELS, KERNELS[:1])]
    start = np.ones((32, 16, 26, 26), np.float32)
    ours = [Tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]

    def stepper(conv2d, leaves, gradient):
        def step(_):
            for leaf in leaves:
                leaf.grad = None
            conv2d(*leaves).backward(gradient)

        return step

    sides = {
        "ours": stepper(F.conv2d, ours, Tensor(start)),
        "theirs": stepper(torch.nn.functional.conv2d, theirs, torch.tensor(start)),
    }
    medians = in_turns(sides, repeats)
    found, expected = (
        np.concatenate([np.asarray(leaf.grad).ravel() for leaf in leaves])
        for leaves in (ours, theirs)
    )
    apart = np.abs(found - expected).max() / np.abs(expected).max()
    if not apart < 1e-5:
        raise RuntimeError(f"the two do not compute the same: gradients are {apart:.1e} apart")
    return {
        "name": f"convolution of {' × '.join(map(str, IMAGES))} with 16 kernels of 3 × 3, "
        "forward and backward, against torch, one thread",
        "ours_seconds": medians["ours"],
        "reference_seconds": medians["theirs"],
        "ratio": medians["ours"] / medians["theirs"],
        "limit": 4.0,
        "equal_work": f"gradients at most {apart:.0e} of the largest apart",
    }
