"""Attention by torch's own, costs by its counter, and which arm foresees the next frame."""

import copy

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from shared import plots
from shared.study import PositiveInt, Run
from week13.attention import MultiHeadAttention
from week26.evidence.attention_by_torch import by_torch, forward_by_torch
from week26.moving_digits import DIRECTIONS, Clips, clips, split, strip
from week26.temporal_attention import (
    ARMS,
    VideoConfig,
    VideoTransformer,
    attend,
    attention_flops,
    flops,
)

Nets = dict[str, VideoTransformer]
RUNS = (*ARMS, "shuffled frames")


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 300) -> None:
    """Check attention, costs and causality, then predict frames.

    Parameters
    ----------
    seeds
        Networks of each arm, each with its own split of the digits.
    steps
        Of each training.
    """
    run.rounding(0.1, "some hundred steps in float32")
    torch.set_num_threads(1)  # products this small are slower on several threads
    check_attention(run)
    check_networks(run)
    check_costs(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    foresee(run, seeds, run.budget(quick=4, default=steps, full=5 * steps))


# ---- checks


def random_net(config: VideoConfig, generator: torch.Generator) -> VideoTransformer:
    """As after some training: nothing is zero any more; float64."""
    net = VideoTransformer(config, generator).double()
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.3, generator=generator)
    return net


def check_attention(run: Run) -> None:
    """Each kind, with and without causality: outputs and gradients."""
    g = run.generator(1)
    attention = MultiHeadAttention(8, 2).double()
    x = torch.randn(2, 4, 3, 8, generator=g, dtype=torch.double)
    equal = run.against("F.scaled_dot_product_attention", atol=1e-6, why="angles in float32")
    for kind in ("spatial", "temporal", "joint"):
        for causal in (False, True):
            found = []
            for function in (attend, by_torch):
                inputs = x.clone().requires_grad_()
                y = function(attention, inputs, kind, is_causal=causal)
                weights = (inputs, *attention.parameters())
                found.append((y, *torch.autograd.grad(y.square().sum(), weights)))
            name = f"{kind}{', causal' if causal else ''}"
            equal(name, found[0][0], found[1][0])
            flat = [torch.cat([p.flatten() for p in part[1:]]) for part in found]
            equal(f"{name}, gradients", *flat, atol=1e-5)


def check_networks(run: Run) -> None:
    """Three optimizer steps beside torch's; images among videos; the future is not seen."""
    g = run.generator(2)
    video = torch.randn(2, 5, 12, 12, generator=g, dtype=torch.double)
    steps = {}
    first = random_net(VideoConfig(d_model=8, n_layers=1, is_causal=True), g)
    for name, forward in (("ours", VideoTransformer.__call__), ("torch", forward_by_torch)):
        net = copy.deepcopy(first)
        optimizer, losses = torch.optim.Adam(net.parameters(), lr=1e-2), []
        for _ in range(3):
            loss = (forward(net, video[:, :-1]) - video[:, 1:]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        weights = torch.cat([p.detach().flatten() for p in net.parameters()])
        steps[name] = torch.stack(losses), weights
    close = {"atol": 1e-6, "why": "angles in float32"}
    equal = run.against("the network by F.scaled_dot_product_attention", **close)
    equal("losses of three steps", steps["ours"][0], steps["torch"][0])
    equal("weights after them", steps["ours"][1], steps["torch"][1])
    moved = video.clone()
    moved[:, 3:] += 1.0
    with torch.no_grad():
        for arm in ("factorized", "joint"):
            net = random_net(VideoConfig(arm, d_model=8, is_causal=True), g)
            seen, changed = net(video), net(moved)
            name = f"{arm}: frames before the third, when the third changes"
            exact = {"kind": "theorem", "atol": 1e-12, "why": "float64 rounding"}
            run.check(name, changed[:, :3], seen[:, :3], against="themselves before", **exact)
        net = random_net(VideoConfig(d_model=8), g)
        alone = torch.cat([net(frame) for frame in video.split(1, dim=1)], dim=1)
        same = {"against": "each frame as a clip of one", "why": "float64 rounding", "atol": 1e-11}
        together = net(video, apart=True)
        run.check("images in a row, kept apart", together, alone, kind="consistency", **same)
        video_net, image_net = (
            random_net(VideoConfig(arm, d_model=8), run.generator(3))
            for arm in ("factorized", "spatial")
        )
        for net in (video_net, image_net):
            for block in net.blocks:  # as they start; in the image model's place nothing is added
                torch.nn.init.zeros_(block.attentions[1].out_proj.weight)
                torch.nn.init.zeros_(block.attentions[1].out_proj.bias)
        ours, theirs = video_net(video), forward_by_torch(image_net, video)
        against = {"against": "the image model, by torch"} | close
        run.check("temporal layers that start at zero", ours, theirs, **against)


def check_costs(run: Run) -> None:
    """The formula against torch's counter, and the picture of both."""
    counted, predicted, lengths = {}, {}, (2, 4, 8, 16, 32)
    for arm in ARMS:
        config = VideoConfig(arm, d_model=16, n_layers=1)
        net = VideoTransformer(config)
        counts = []
        for frames in lengths:
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                net(torch.zeros(1, frames, 12, 12))
            counts.append(counter.get_total_flops())
        rest = [flops(config, t) - attention_flops(arm, t, 9, d_model=16) for t in lengths]
        predicted[arm] = [flops(config, t) for t in lengths]
        counted[arm] = [c - r for c, r in zip(counts, rest, strict=True)]
        exact = {"against": "torch's FlopCounterMode", "atol": 0.5, "why": "whole numbers"}
        run.check(f"operations, {arm}", predicted[arm], counts, **exact)
    ratio = counted["factorized"][2] / counted["joint"][2]
    half = "at eight frames factorized attention costs less than half of joint"
    run.claim(half, ratio, at_most=0.5, deterministic=True, unit="of the operations")
    with run.figure("costs", "What does attention over a longer clip cost?") as axes:
        plots.curves(
            axes,
            lengths,
            {arm: [n / 1e3 for n in counts] for arm, counts in counted.items()},
            marker="o",
            xlabel="frames of nine patches",
            ylabel="thousand operations of attention, counted",
            xscale="log",
            yscale="log",
        )
        axes.set_xticks(lengths, map(str, lengths))
        axes.minorticks_off()


# ---- which arm knows motion


def predict(net: VideoTransformer, video: Tensor) -> Tensor:
    """Each next frame, as the last one and a change."""
    return video + net(video)


def learn(
    config: VideoConfig, seed: int, steps: int, *, shuffled: bool = False
) -> tuple[VideoTransformer, list[float]]:
    """A network that has seen fresh clips; shuffled, with their frames in any order."""
    data, g = split(seed), torch.Generator().manual_seed(seed)
    net, losses = VideoTransformer(config, g), []
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    draws = torch.Generator().manual_seed(1000 + seed)  # the same clips for all
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * min(1, (step + 1) / 20) * (1 - step / steps)
        video = clips(data.x, data.y, 16, draws).video
        if shuffled:
            order = torch.rand(video.shape[:2], generator=g).argsort(1)
            video = video.take_along_dim(order[:, :, None, None], dim=1)
        loss = errors(predict(net, video[:, :-1]), video)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return net, losses


def errors(found: Tensor, video: Tensor) -> Tensor:
    """Mean squared error of the frames from the third on: before, nobody can know the motion."""
    return (found - video[:, 1:])[:, 1:].square().mean()


def floor(video: Tensor) -> float:
    """Least error of whoever sees one frame: the four frames that may follow, averaged."""
    ways = [video[:, :-1].roll(step, dims=(2, 3)) for step in DIRECTIONS.values()]
    return float(errors(torch.stack(ways).mean(0), video))


def held_out_clips(seed: int, n: int) -> Clips:
    """Of digits that were not learned from."""
    data = split(seed)
    return clips(data.x_test, data.y_test, n, torch.Generator().manual_seed(2000 + seed))


@torch.no_grad()
def one_by_one(net: VideoTransformer, video: Tensor) -> Tensor:
    """Predictions as they are made when the future is not there yet."""
    ends = range(1, video.shape[1])
    return torch.stack([predict(net, video[:, :t])[:, -1] for t in ends], dim=1)


def foresee(run: Run, seeds: int, steps: int) -> None:
    """Each arm, and the factorized one on shuffled frames, told to foresee the next frame."""
    share, curves = {name: [] for name in RUNS}, {name: [] for name in RUNS}
    for seed in run.progress(range(run.seed, run.seed + seeds), "seeds"):
        video = held_out_clips(seed, run.budget(quick=40, default=200)).video
        least, nets = floor(video), {}
        for name in RUNS:
            arm = name if name in ARMS else "factorized"
            config = VideoConfig(arm, n_layers=1, is_causal=True)
            net, losses = learn(config, seed, steps, shuffled=name not in ARMS)
            with torch.no_grad():
                share[name].append(float(errors(predict(net, video[:, :-1]), video)) / least)
            curves[name].append(losses)
            nets[name] = net
    late = {"quick": False, "rtol": None, "unit": "of the least error from one frame"}
    late["seen_before"] = "seed 100: 0.48, spatial 1.07, joint 0.59"
    motion = "factorized attention foresees motion"
    run.claim(motion, share["factorized"], at_most=0.7, **late)
    run.falsifier("spatial attention", share["spatial"], breaks=motion)
    run.falsifier("trained on shuffled frames", share["shuffled frames"], breaks=motion)
    run.claim("so does joint attention", share["joint"], at_most=0.7, **late)
    run.claim("who sees one frame is not below its least", share["spatial"], at_least=1.0, **late)
    sooner = [j - f for j, f in zip(share["joint"], share["factorized"], strict=True)]
    run.claim("factorized attention has learned more by then", sooner, at_least=0.0, **late)
    for name, values in share.items():
        run.metric(f"error, {name}", sum(values) / len(values), rtol=None)
    title = "Whose error falls below the least that one frame allows?"
    with run.figure("learning", title) as axes:
        every = max(steps // 30, 1)
        smooth = {
            name: [
                [sum(line[i : i + every]) / every for i in range(0, steps - every + 1, every)]
                for line in lines
            ]
            for name, lines in curves.items()
        }
        x = [(i + 0.5) * every for i in range(len(smooth["joint"][0]))]
        labels = {"xlabel": "step", "ylabel": "squared error of the next frame", "ylim": (0, 0.35)}
        plots.curves(axes, x, smooth, **labels)
        axes.axhline(least, color=plots.REFERENCE, linestyle="--", linewidth=1)
        below = {"va": "top", "color": plots.REFERENCE, "fontsize": 9}
        axes.text(0, 0.99 * least, "least from one frame", **below)
    draw(run, nets, video)
    leak(run, steps, nets["factorized"])


def leak(run: Run, steps: int, causal: VideoTransformer) -> None:
    """Failure on display: without the causal mask the next frame is an input."""
    seed = run.seed + run.budget(quick=2, default=3) - 1
    net, _ = learn(VideoConfig("factorized", n_layers=1), seed, steps)
    video = held_out_clips(seed, run.budget(quick=20, default=200)).video
    least, found = floor(video), {}
    for name, model in (("causal", causal), ("mask forgotten", net)):
        with torch.no_grad():
            there = float(errors(predict(model, video[:, :-1]), video)) / least
        hidden = float(errors(one_by_one(model, video), video)) / least
        found |= {f"{name}, the whole clip at once": there, f"{name}, frame by frame": hidden}
    for name, value in found.items():
        run.metric(name, value, "of the least from one frame", rtol=None)
    title = "What does a forgotten causal mask look like?"
    with run.figure("leak", title, size=(8, 3.2)) as axes:
        colors = (plots.BLUE, plots.BLUE, plots.ORANGE, plots.ORANGE)
        label = "error, as a share of the least from one frame"
        plots.bars(axes, found, colors=colors, reference={"one frame": 1.0}, xlabel=label)


def draw(run: Run, nets: Nets, video: Tensor) -> None:
    """One clip: what came, and what each arm said would come."""
    with torch.no_grad():
        rows = {"what came": video[:1, 1:]}
        rows |= {name: predict(net, video[:1, :-1]) for name, net in nets.items()}
    title = "What does each arm say comes next? Frames 2 to 8"
    with run.figure("frames", title, rows=len(rows)) as column:
        for axes, (name, frames) in zip(column, rows.items(), strict=True):
            axes.imshow(strip(frames[0]), cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            label = {"rotation": 0, "ha": "right", "va": "center", "fontsize": 9}
            axes.set_ylabel(name.replace(" ", "\n"), **label)
