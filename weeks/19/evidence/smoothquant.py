"""SmoothQuant: integer products, folding in float64, planted outliers, and SmolLM2 in W8A8."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared import plots
from shared.study import Run
from week18.llama3 import RMSNorm
from week19.evidence.real_text import judge_on_text
from week19.folding import fold, fold_values
from week19.smoothquant import W8A8, smooth_block, smoothing, to_int8, to_w8a8

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def main(run: Run) -> None:
    """Check products and folding, then judge by planted outliers and by a model's loss."""
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    check_integers(run)
    check_folding(run)
    judge_outliers(run)
    judge_language_model(run)


# ---- checks


def check_integers(run: Run) -> None:
    """The product against torch's int8 kernel, the factors against torchao's."""
    from torchao.prototype.smoothquant.core import SmoothQuantObserver

    x = torch.randn(40, 64, generator=run.generator()) * torch.linspace(0.1, 9, 64)
    linear = nn.utils.skip_init(nn.Linear, 64, 48)
    nn.init.normal_(linear.weight, generator=run.generator(1))
    nn.init.normal_(linear.bias, generator=run.generator(2))
    (a, a_scale), (b, b_scale) = to_int8(x), to_int8(linear.weight.detach())
    theirs = torch._int_mm(a, b.T.contiguous()) * (a_scale * b_scale) + linear.bias
    kernel = run.against("torch._int_mm", rtol=1e-6, atol=1e-6, why="float32 rounding at the end")
    kernel("a layer of int8 weights and inputs", W8A8(linear)(x), theirs)
    observer = SmoothQuantObserver(linear.weight.detach(), alpha=0.5)
    observer(x)
    factors, _, _ = observer.calculate_qparams()
    ours = smoothing(x.abs().amax(0), linear.weight.detach().abs().amax(0))
    library = {"against": "torchao's SmoothQuantObserver", "rtol": 1e-5}
    run.check("factors", ours, factors, why="float32 rounding, and an ε that they add", **library)


class Mixture(nn.Module):
    """Two experts weighted by a router, which reads what they read."""

    def __init__(self, d: int):
        super().__init__()
        self.norm, self.router = RMSNorm(d), nn.Linear(d, 2)
        self.experts = nn.ModuleList(nn.Linear(d, d) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """The experts' mean by the router's weights."""
        u = self.norm(x)
        return sum(
            p[..., None] * expert(u)
            for p, expert in zip(self.router(u).softmax(-1).unbind(-1), self.experts, strict=True)
        )


class Attention(nn.Module):
    """Six query heads that share two of values, all projections with a bias."""

    def __init__(self, d: int):
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.q, self.k, self.v = nn.Linear(d, 24), nn.Linear(d, 8), nn.Linear(d, 8)
        self.out = nn.Linear(24, d)

    def forward(self, x: Tensor) -> Tensor:
        """Attention over all positions."""
        u = self.norm(x)
        heads = [p(u).unflatten(-1, (-1, 4)).transpose(1, 2) for p in (self.q, self.k, self.v)]
        mixed = F.scaled_dot_product_attention(*heads, enable_gqa=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


@torch.no_grad()
def check_folding(run: Run) -> None:
    """Outputs in float64 before and after, of four kinds of layers."""
    torch.manual_seed(run.seed)
    d = 12
    mlp = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, 20), nn.ReLU(), nn.Linear(20, d)).double()
    gate, up, down = (nn.Linear(*s).double() for s in ((d, 20), (d, 20), (20, d)))
    attention, mixture = Attention(d).double(), Mixture(d).double()

    def gated(x: Tensor) -> Tensor:
        return down(F.silu(gate(x)) * up(x))

    models = {"MLP": mlp, "gated MLP": gated, "attention, biased": attention, "mixture": mixture}
    x = torch.randn(2, 7, d, dtype=torch.double)
    before = {name: model(x) for name, model in models.items()}
    factors = {n: torch.rand(n, dtype=torch.double) + 0.05 for n in (8, d, 20)}
    fold(mlp[0], [mlp[1]], factors[d])
    fold(mlp[1], [mlp[3]], factors[20])  # ReLU lets positive factors through
    fold(up, [down], factors[20])
    fold(attention.norm, [attention.q, attention.k, attention.v], factors[d])
    fold_values(attention.v, attention.out, factors[8], head_dim=4)
    fold(mixture.norm, [mixture.router, *mixture.experts], factors[d])
    why = {"kind": "consistency", "atol": 1e-12, "why": "float64 rounding"}
    same = run.against("the same before folding", **why)
    for name, model in models.items():
        same(name, model(x), before[name])


# ---- planted outliers


def relative_errors(run: Run, offset: int, outliers: float) -> list[float]:
    """Of a W8A8 layer's outputs: without smoothing, then by α."""
    g = run.generator(offset)
    w = torch.randn(64, 128, generator=g) / 128**0.5
    x = torch.randn(256, 128, generator=g)
    x[:, torch.randperm(128, generator=g)[:4]] *= outliers
    linear = nn.utils.skip_init(nn.Linear, 128, 64, bias=False)
    found = []
    for alpha in (None, *ALPHAS):
        s = torch.ones(128)
        if alpha is not None:
            s = smoothing(x.abs().amax(0), w.abs().amax(0), alpha)
        linear.weight.data.copy_(w * s)
        lost = W8A8(linear)(x / s) - x @ w.T
        found.append((lost.square().sum() / (x @ w.T).square().sum()).item())
    return found


def judge_outliers(run: Run) -> None:
    """One input in 32 is larger: error by α; and where none is."""
    seeds = range(run.budget(quick=4, default=20))
    errors = {size: [relative_errors(run, 10 + i, size) for i in seeds] for size in (20.0, 1.0)}
    ratio = {size: [row[3] / row[0] for row in rows] for size, rows in errors.items()}
    third, unit = "smoothing leaves a third of the error", "error at α = 1/2 / without"
    seen = "a tenth, in another trial of planted outliers"
    run.claim(third, ratio[20.0], at_most=1 / 3, each=True, unit=unit, seen_before=seen)
    run.falsifier("no outliers", ratio[1.0], breaks=third)
    with run.figure("alpha", "How much of the range should move into the weights?") as axes:
        labels = {"xlabel": "α", "ylabel": "squared error of the outputs, relative, W8A8"}
        level = float(np.mean([row[0] for row in errors[20.0]]))
        lines = {"one input in\n32 is 20 times\nas large": [row[1:] for row in errors[20.0]]}
        levels = {"not smoothed": level}
        axes.set_yscale("log")
        plots.curves(axes, ALPHAS, lines, reference=levels, marker="o", **labels)


# ---- a model


def judge_language_model(run: Run) -> None:
    """Loss of SmolLM2 with int8 weights and activations, smoothed or not."""
    n = run.budget(quick=(2, 4), default=(8, 12), full=(64, 64))
    most = {"norms' outputs": [], "down_proj's inputs": []}

    def plain(block, inputs) -> None:
        for kind, reader in zip(most, ("q_proj", "down_proj"), strict=True):
            largest = inputs[reader].most
            most[kind].append((largest.max() / largest.median()).item())
        to_w8a8(block)

    def smoothed(block, inputs, alpha: float = 0.5) -> None:
        smooth_block(block, inputs, alpha)
        to_w8a8(block)

    methods = {"W8A8": plain, "smoothed": smoothed}
    if run.mode == "full":
        for alpha in ALPHAS:
            methods[f"α = {alpha}"] = lambda b, i, a=alpha: smoothed(b, i, a)
    gains = {"smoothing lowers the loss of W8A8": ("W8A8", "smoothed")}
    judge_on_text(run, n, methods, gains)
    for kind, values in most.items():
        run.metric(f"largest over median of {kind}, the most of a block", max(values), rtol=0.3)
