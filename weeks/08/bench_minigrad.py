"""How long does a training step take beside torch's? Both on one thread, in turns.

uv run study bench 08
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

from week08.minigrad import Tensor, nn, optim
from week08.minigrad import functional as F

BATCH, SIZES, LR = 128, (784, 256, 10), 0.1


def in_turns(sides: dict[str, Callable[[int], None]], repeats: int) -> dict[str, float]:
    """Median seconds of each side's `step(i)` on one thread, after ten to warm up."""
    import torch

    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            for i in range(repeats + 10):
                for name, step in sides.items():
                    start = time.perf_counter()
                    step(i)
                    seconds[name].append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return {name: statistics.median(times[10:]) for name, times in seconds.items()}


def bench(repeats: int = 60) -> dict:
    """Take the same steps with both; medians of a step's seconds, and the losses.

    A step is forward, cross-entropy, backward and SGD of a multilayer perceptron 784 × 256 × 10
    on a batch of 128 in float32. Both start from the same weights and see the same batches, so
    their losses must agree.

    Parameters
    ----------
    repeats
        How many steps are timed of each, in turns; ten more warm up.
    """
    import torch

    rng = np.random.default_rng(0)
    images = rng.normal(size=(8, BATCH, SIZES[0])).astype(np.float32)
    labels = rng.integers(0, SIZES[-1], (8, BATCH))

    def model(layers, **options):
        first, second = (layers.Linear(*pair, **options) for pair in zip(SIZES, SIZES[1:]))  # noqa: B905, RUF007
        return layers.Sequential(first, layers.ReLU(), second)

    ours, theirs = model(nn, generator=rng), model(torch.nn)
    weights = {name: value.numpy().copy() for name, value in ours.state_dict().items()}
    theirs.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})

    losses = {"ours": [], "theirs": []}

    def stepper(name, model, optimizer, cross_entropy, wrap):
        batches = [(wrap(x), wrap(y)) for x, y in zip(images, labels, strict=True)]

        def step(i):
            x, y = batches[i % len(images)]
            optimizer.zero_grad()
            loss = cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses[name].append(loss.item())

        return step

    sgd = optim.SGD(ours.parameters(), lr=LR), torch.optim.SGD(theirs.parameters(), lr=LR)
    entropy = F.cross_entropy, torch.nn.functional.cross_entropy
    sides = {
        "ours": stepper("ours", ours, sgd[0], entropy[0], Tensor),
        "theirs": stepper("theirs", theirs, sgd[1], entropy[1], torch.tensor),
    }
    medians = in_turns(sides, repeats)
    apart = np.max(np.abs(np.subtract(losses["ours"], losses["theirs"])))
    if not apart < 1e-3:
        raise RuntimeError(f"the two do not compute the same: losses are {apart:.1e} apart")
    return {
        "name": f"training step of an MLP {' × '.join(map(str, SIZES))}, batch {BATCH}, "
        "against torch, one thread",
        "ours_seconds": medians["ours"],
        "reference_seconds": medians["theirs"],
        "ratio": medians["ours"] / medians["theirs"],
        "limit": 3.0,
        "equal_work": f"losses of {repeats + 10} steps at most {apart:.0e} apart",
    }
