r"""Does one grid per output channel keep what one grid per layer loses?

Weights of a trained network are rounded to integers, activations stay floats. With one grid per
layer the step follows the largest weight of all channels,

$$ \Delta_{\mathrm{layer}} = \max_c \Delta_c , $$

and after batch normalization is folded in, $w_c \to \gamma_c w_c / \sigma_c$, channels differ.

Reduced: two small networks on the 8 × 8 digits (the paper: MobileNet and ResNet on ImageNet), one
of depthwise and pointwise convolutions, one of plain ones. The rules stand in README.md.

    uv run papers/2018-quantizing-whitepaper/reproduce.py

Krishnamoorthi (2018), "Quantizing deep convolutional networks for efficient inference".
"""

import copy
import itertools
import warnings

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared import papers, plots
from shared.datasets import digits
from shared.require import require
from shared.study import PositiveInt, Run, cli
from week10.cnn_ablations import accuracy, train
from week19.quantization import Granularity, fake_quantize, quantize_weight

N_TRAIN, WIDTH, LR = 1297, 16, 0.1
SCHEMES = {
    "per layer, asymmetric": ("tensor", False),
    "per channel, asymmetric": ("channel", False),
    "per layer, symmetric": ("tensor", True),
    "per channel, symmetric": ("channel", True),
}


def unit(n_in: int, n_out: int, size: int = 3, *, groups: int = 1, stride: int = 1) -> list:
    """Convolution, batch normalization, ReLU."""
    shape = {"padding": size // 2, "groups": groups, "stride": stride, "bias": False}
    return [nn.Conv2d(n_in, n_out, size, **shape), nn.BatchNorm2d(n_out), nn.ReLU()]


def make(kind: str, seed: int, *, width: int = WIDTH) -> nn.Sequential:
    """A network of one channel: ``depthwise`` (as in MobileNet) or ``plain``."""
    require(kind in ("depthwise", "plain"), "kind must be depthwise or plain", kind)
    torch.manual_seed(seed)
    layers, n = unit(1, width), width
    for n_out, stride in ((2 * width, 2), (2 * width, 1), (4 * width, 2)):
        if kind == "depthwise":
            layers += unit(n, n, groups=n, stride=stride) + unit(n, n_out, 1)
        else:
            layers += unit(n, n_out, stride=stride)
        n = n_out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(n, 10))


def folded(model: nn.Sequential) -> nn.Sequential:
    """The same function without batch normalization: its factors and shifts go into the weights."""
    layers: list[nn.Module] = []
    for layer in copy.deepcopy(model).eval().requires_grad_(False):
        if isinstance(layer, nn.BatchNorm2d):
            conv, factor = layers[-1], layer.weight / (layer.running_var + layer.eps).sqrt()
            conv.weight.mul_(factor[:, None, None, None])
            conv.bias = nn.Parameter(layer.bias - layer.running_mean * factor, False)
        else:
            layers.append(layer)
    return nn.Sequential(*layers)


def unequal(model: nn.Sequential, seed: int, *, octaves: int = 6) -> nn.Sequential:
    """The same function with channels of unequal size before each depthwise convolution.

    ReLU lets positive factors pass: what a layer's channel is multiplied by, the next divides by.
    """
    model, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    convs = [layer for layer in model if isinstance(layer, nn.Conv2d)]
    for first, second in itertools.pairwise(convs):
        if second.groups > 1:
            power = torch.randint(-octaves, octaves + 1, (first.out_channels,), generator=generator)
            factor = 2.0**power
            first.weight.mul_(factor[:, None, None, None])
            first.bias.mul_(factor)
            second.weight.div_(factor[:, None, None, None])
    return model


def quantized(
    model: nn.Sequential, bits: int, granularity: Granularity, symmetric: bool
) -> nn.Sequential:
    """All weights rounded, biases and activations kept, as in the paper's table 2."""
    model = copy.deepcopy(model)
    for layer in model:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            options = {"bits": bits, "symmetric": symmetric, "granularity": granularity}
            layer.weight.copy_(fake_quantize(layer.weight, **options))
    return model


def pictures(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Digits to train on and to test on, split by the seed."""
    data = digits()
    order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(seed))
    x = torch.tensor(data.images, dtype=torch.float32)[order, None] / 8 - 1
    y = torch.tensor(data.labels).long()[order]
    return x[:N_TRAIN], y[:N_TRAIN], x[N_TRAIN:], y[N_TRAIN:]


def fit(kind: str, *, steps: int, seed: int, width: int = WIDTH) -> nn.Sequential:
    """A trained network, normalization folded in."""
    model, (x, y, *_) = make(kind, seed, width=width), pictures(seed)
    train(model, x, y, lr=LR, steps=steps, generator=torch.Generator().manual_seed(seed))
    return folded(model)


def drops(model: nn.Sequential, x: Tensor, y: Tensor, bits: list[int]) -> dict[str, list[float]]:
    """Points of accuracy lost, by scheme and number of bits."""
    best = accuracy(model, x, y)
    return {
        name: [best - accuracy(quantized(model, b, *scheme), x, y) for b in bits]
        for name, scheme in SCHEMES.items()
    }


@torch.no_grad()
def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 200) -> None:
    """Train both networks, round their weights, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Seeds of the verdict.
    steps
        Batches of 64 that each network is trained on.
    """
    paper = papers.load(__file__)
    run.rounding(2e-2, "float32 convolutions, summed in another order, over a few steps")
    torch.set_num_threads(1)  # pictures of 8 × 8 pixels are too small to share
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps = run.budget(quick=3, default=steps, full=4 * steps)
    bits = paper.matter["bits"]
    why = "powers of two change no digit"
    exact = run.against("ReLU passes positive factors", kind="theorem", why=why)
    lost = {kind: [] for kind in ("depthwise", "plain", "unequal", "equal")}
    best = {kind: [] for kind in ("depthwise", "plain")}
    for seed in run.progress(range(run.seed, run.seed + seeds), "training"):
        *_, x, y = pictures(seed)
        for kind in ("depthwise", "plain"):
            with torch.enable_grad():
                model = fit(kind, steps=steps, seed=seed)
            best[kind].append(accuracy(model, x, y))
            lost[kind].append(drops(model, x, y, bits))
            if kind == "depthwise":
                for name, octaves in (("unequal", 6), ("equal", 0)):
                    other = unequal(model, seed, octaves=octaves)
                    exact(f"{name} channels compute the same, seed {seed}", other(x), model(x))
                    lost[name].append(drops(other, x, y, bits))
    for kind, values in best.items():
        run.metric(f"accuracy in floats, {kind}", sum(values) / len(values), "%", rtol=0.3)
    judge(run, paper, lost, bits)
    draw(run, lost, bits, paper.matter["paper_accuracy"])


def series(lost: list[dict[str, list[float]]], name: str) -> Float[Tensor, "seeds bits"]:
    """Points lost by one scheme."""
    return torch.tensor([row[name] for row in lost], dtype=torch.float64)


def excess(lost: list[dict[str, list[float]]]) -> Float[Tensor, "seeds bits"]:
    """Points lost per layer minus per channel, asymmetric."""
    return series(lost, "per layer, asymmetric") - series(lost, "per channel, asymmetric")


def judge(run: Run, paper: papers.Paper, lost: dict, bits: list[int]) -> None:
    """By the rules of the front matter."""
    late = {"quick": False, "rtol": None}
    eight = bits.index(8)
    channel = [series(lost[k], "per channel, asymmetric")[:, eight] for k in ("depthwise", "plain")]
    paper.judge(run, "per channel, 8 bits are free", torch.maximum(*channel), **late)
    names = ("per layer, asymmetric", "per channel, asymmetric")
    means = torch.stack([series(lost["depthwise"], n).mean(0) for n in names]).amax(0)
    moved = (means > paper.matter["moved"]).nonzero().flatten().tolist()
    at = moved[0] if moved else len(bits) - 1  # bits fall
    note = f"at {bits[at]} bits"
    gap = {kind: excess(rows)[:, at] for kind, rows in lost.items()}
    worse = "per layer is worse in the depthwise net"
    paper.judge(run, worse, gap["depthwise"], note=note, **late)
    run.falsifier("the plain net", gap["plain"], breaks=worse, note=note)
    apart = gap["depthwise"] - gap["plain"]
    paper.judge(run, "more so than in the plain net", apart, note=note, **late)
    reason = "unequal channels are the reason"
    paper.judge(run, reason, excess(lost["unequal"])[:, eight], **late)
    run.falsifier("factors of 1", excess(lost["equal"])[:, eight], breaks=reason)
    moving = series(lost["unequal"], names[1]) - series(lost["depthwise"], names[1])
    run.metric("per channel moves by, unequal channels", moving.abs().max(), "points", rtol=None)
    for kind in ("depthwise", "plain"):
        for name in SCHEMES:
            value = series(lost[kind], name)[:, bits.index(4)].mean()
            run.metric(f"points lost at 4 bits, {kind}, {name}", value, "points", rtol=None)
    run.metric("bits at which the depthwise net moves", bits[at], rtol=None)


def check(run: Run) -> None:
    """Rounded weights against torch's, folding against the net, scales against observers."""
    model = make("depthwise", run.seed, width=4)
    x, *_ = pictures(run.seed)
    for layer in model:
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(generator=run.generator())
            layer.running_var.uniform_(0.5, 2, generator=run.generator())
    fold = run.against("the net before folding", kind="consistency", atol=1e-4, why="float32")
    fold("folded normalization", folded(model)(x[:64]), model.eval()(x[:64]))
    weight = model[3].weight.detach()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torch.ao.quantization.observer import MinMaxObserver, PerChannelMinMaxObserver

        affine = torch.per_channel_affine
        observers = {
            "tensor": MinMaxObserver(),
            "channel": PerChannelMinMaxObserver(qscheme=affine),
        }
        same = run.against("torch.ao.quantization's observers", why="the same float32 operations")
        for granularity, observer in observers.items():
            observer(weight)
            step, zero = observer.calculate_qparams()
            options = {"bits": 8, "symmetric": False, "granularity": granularity}
            _, scale, point = quantize_weight(weight, **options)
            same(f"scale per {granularity}", scale.flatten(), step.flatten(), rtol=1e-7)
            same(f"zero point per {granularity}", point.flatten(), zero.flatten())
    theirs = torch.fake_quantize_per_channel_affine(weight, step, zero, 0, 0, 255)
    equal = run.against("torch.fake_quantize_per_channel_affine", atol=1e-6, why="float32")
    equal("rounded weights", fake_quantize(weight, **options), theirs)


def draw(run: Run, lost: dict, bits: list[int], paper_accuracy: dict) -> None:
    """The paper's table beside ours."""
    with run.figure(
        "bits",
        "What does one grid per layer lose that one per channel keeps?",
        columns=3,
        size=(11.5, 4.8),
    ) as (left, middle, right):
        names = {
            f"{net},\n{scheme}": value
            for net, row in paper_accuracy.items()
            for scheme, value in row.items()
        }
        label = "ImageNet top-1, %, 8-bit weights\n(the paper, table 2)"
        plots.bars(left, names, xlabel=label, colors=[plots.ORANGE] * 4 + [plots.BLUE] * 4)
        left.tick_params(axis="y", labelsize=9)
        for axes, kinds in ((middle, ("depthwise", "plain")), (right, ("unequal",))):
            lines = {
                f"{kind}, {name.split(',')[0]}": series(lost[kind], name)
                for kind in kinds
                for name in ("per layer, asymmetric", "per channel, asymmetric")
            }
            labels = {"xlabel": "bits per weight", "ylabel": "points of accuracy lost (digits)"}
            plots.curves(axes, bits, lines, marker="o", ends=False, **labels)
            axes.legend(fontsize=9)


if __name__ == "__main__":
    cli(main)
