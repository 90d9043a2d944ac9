"""How long does a training step take beside one with torch's optimizer? On one thread, in turns.

uv run study bench 10
"""

import copy
import statistics
import time

from week10.cifar10 import small_resnet, train

STEPS, BATCH = 4, 64


def bench(repeats: int = 5) -> dict:
    """Train a ResNet-8 of width 16 by SGD with weight decay; medians of seconds per step.

    The reference is torch's layers, autograd, `torch.optim.SGD` and `OneCycleLR`.

    Parameters
    ----------
    repeats
        How many trainings are timed of each, in turns; one more warms up.
    """
    import torch
    from torch.nn import functional as F

    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    torch.manual_seed(0)
    x, y, start = torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,)), small_resnet()

    def ours():
        options = {"lr": 0.01, "steps": STEPS, "batch_size": BATCH, "padding": 0}
        return train(copy.deepcopy(start), x, y, generator=torch.Generator(), **options)

    def theirs():
        model, losses = copy.deepcopy(start).train(), []
        weights, rest = (
            [p for p in model.parameters() if (p.ndim > 1) == w] for w in (True, False)
        )
        groups = [{"params": weights, "weight_decay": 5e-4}, {"params": rest}]
        optimizer = torch.optim.SGD(groups, lr=0.01, momentum=0.9, nesterov=True)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, 0.01, total_steps=STEPS, cycle_momentum=False
        )
        for _ in range(STEPS):
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        return torch.stack(losses)

    seconds, results = {ours: [], theirs: []}, {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(repeats + 1):
            for side, times in seconds.items():
                begin = time.perf_counter()
                results[side] = side()
                times.append(time.perf_counter() - begin)
    finally:
        torch.set_num_threads(threads)
    apart = (results[ours] - results[theirs]).abs().max().item()
    if not apart < 1e-3:
        raise RuntimeError(f"the two do not compute the same: losses {apart:.1e} apart")
    medians = {side: statistics.median(times[1:]) / STEPS for side, times in seconds.items()}
    return {
        "name": "training step, ResNet-8, 64 pictures of 32 × 32, against torch.optim, one thread",
        "ours_seconds": medians[ours],
        "reference_seconds": medians[theirs],
        "ratio": medians[ours] / medians[theirs],
        "limit": 1.5,
        "equal_work": f"losses of {STEPS} steps at most {apart:.0e} apart",
    }
