r"""Does a denoiser that is factorized over space and time know motion, and at which cost?

$$ (TS)^2 \quad\text{against}\quad T S^2 + S T^2 . $$

Reduced: moving digits of 8×8 pixels for videos, and a Transformer of one block for a U-Net. The
rules stand in the front matter of README.md.

    uv run papers/2022-video-diffusion/reproduce.py

Ho, Salimans, Gritsenko, Chan, Norouzi and Fleet (2022), "Video diffusion models", section 3.
"""

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week23.flow_matching import line
from week26.moving_digits import FRAMES, SIZE, clips, locate, path_error, split
from week26.temporal_attention import ARMS, VideoConfig, VideoTransformer, flops

SHUFFLED = "shuffled frames"
LEVELS = (0.2, 0.3, 0.4, 0.5)  # t, the clip's weight; that of the noise is 1 - t


def trained(name: str, seed: int, steps: int) -> VideoTransformer:
    """A denoiser; all start alike and see the same clips, noise and levels."""
    data, g = split(seed), torch.Generator().manual_seed(seed)
    arm = "factorized" if name == SHUFFLED else name
    net = VideoTransformer(VideoConfig(arm, n_layers=1), g)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1, (step + 1) / 20) * (1 - step / steps)
        video = clips(data.x, data.y, 16, g).video
        order = torch.rand(video.shape[:2], generator=g).argsort(1)
        if name == SHUFFLED:
            video = video.take_along_dim(order[:, :, None, None], dim=1)
        t = 0.2 + 0.4 * torch.rand(len(video), generator=g)
        loss = (net(noised(video, t, g), t) - video).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net


def noised(video: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
    """A clip on its way from noise."""
    noise = torch.randn(video.shape, generator=generator)
    return line(noise.flatten(1), video.flatten(1), t[:, None]).view_as(video)


@torch.no_grad()
def motion_errors(net: VideoTransformer, seed: int, n: int) -> list[float]:
    """In pixels, at each level of noise, on digits that were not learned from."""
    data, g = split(seed), torch.Generator().manual_seed(5000 + seed)
    test = clips(data.x_test, data.y_test, n, g)
    found = []
    for level in LEVELS:
        t = torch.full((n,), level)
        denoised = net(noised(test.video, t, g), t)
        found.append(float(path_error(locate(denoised, test.sprite), test.path).mean()))
    return found


def at_random() -> float:
    """Mean distance of two places on the torus: over all of them."""
    away = torch.cartesian_prod(torch.arange(SIZE), torch.arange(SIZE))[:, None]
    return float(path_error(away, torch.zeros_like(away)).mean())


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 400) -> None:
    """Train each arm, denoise, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Networks of each arm, each with its own split of the digits.
    steps
        Updates of each network.
    """
    paper = papers.load(__file__)
    run.rounding(0.1, "some hundred steps in float32")
    torch.set_num_threads(1)  # products this small are slower on several threads
    counted = check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps = run.budget(quick=4, default=steps, full=5 * steps)
    names, n = (*ARMS, SHUFFLED), run.budget(quick=20, default=100, full=400)
    found: dict[str, list] = {name: [] for name in names}
    for seed in run.progress(range(run.seed, run.seed + seeds), "seeds"):
        for name in names:
            found[name].append(motion_errors(trained(name, seed, steps), seed, n))
    errors = {name: np.array(values) for name, values in found.items()}
    at = LEVELS.index(paper.matter["level"])
    spatial, factorized, joint, shuffled = (errors[name][:, at] for name in names)
    lost, near, cheap = list(paper.rules)
    late = {"quick": False, "rtol": None}
    paper.judge(run, lost, spatial / factorized, **late)
    paper.judge(run, near, factorized / joint, **late)
    paper.judge(run, cheap, counted["factorized"] / counted["joint"])
    run.falsifier("trained on shuffled frames", spatial / shuffled, breaks=lost)
    for name in names:
        run.metric(f"motion error, {name}", errors[name][:, at].mean(), "pixels", rtol=None)
    run.metric("motion error, at random", at_random(), "pixels")
    with run.figure("motion", "How far off is the digit in a denoised clip?") as axes:
        labels = {"xlabel": "t, the clip's weight; noise has 1 - t", "ylabel": "pixels"}
        labels |= {"marker": "o", "reference": {"a place at random": at_random()}, "ends": False}
        plots.curves(axes, LEVELS, errors, ylim=(0, 5.2), **labels)


def check(run: Run) -> dict[str, int]:
    """Operations by torch's counter against the formula; attention's own, by arm."""
    attention = {}
    for arm in ARMS:
        config = VideoConfig(arm, n_layers=1)
        net = VideoTransformer(config)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(torch.zeros(1, FRAMES, SIZE, SIZE))
        counts = counter.get_flop_counts()["Global"]
        exact = {"against": "torch's FlopCounterMode", "atol": 0.5, "why": "whole numbers"}
        run.check(f"operations, {arm}", flops(config, FRAMES), sum(counts.values()), **exact)
        attention[arm] = counts[torch.ops.aten.bmm]  # batched products: scores and averages
    return attention


if __name__ == "__main__":
    cli(main)
