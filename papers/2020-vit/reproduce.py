r"""Is a vision transformer behind where data are few, and does the gap close?

$$ z_0 = [x_\mathrm{class};\ x^1 E;\ \ldots;\ x^N E] + E_\mathrm{pos} . $$

Reduced: MNIST at 16×16 pixels and networks of 18,000 weights for ImageNet and ViT-B, six
convolutions for a ResNet. The rules stand in the front matter of README.md.

    uv run papers/2020-vit/reproduce.py

Dosovitskiy et al. (2020), "An image is worth 16x16 words", section 1 and figures 3 and 4.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week10.cnn_ablations import Recipe, SmallCNN, accuracy
from week25.shrunk_mnist import Split, split
from week25.vit import ViT, ViTConfig, train

CONFIG = ViTConfig(16, 4, d_model=32, n_layers=2, n_heads=4, d_ff=64)
NETS = ("CNN", "ViT")


def new_net(name: str, seed: int) -> nn.Module:
    """A network with weights drawn by the seed."""
    g = torch.Generator().manual_seed(seed)
    return SmallCNN(Recipe(), generator=g) if name == "CNN" else ViT(CONFIG, g)


def permuted(x: Tensor, seed: int) -> Tensor:
    """The pixels of all pictures in one new order."""
    order = torch.randperm(x[0].numel(), generator=torch.Generator().manual_seed(seed))
    return x.flatten(1)[:, order].view(x.shape)


def measure(data: Split, seed: int, steps: int, rates: dict[str, float]) -> dict[str, float]:
    """Percent of test digits right, by network; both see the same batches."""
    found = {}
    for name in NETS:
        net, g = new_net(name, seed), torch.Generator().manual_seed(1000 + seed)
        train(net, data.x, data.y, lr=rates[name], steps=steps, generator=g)
        found[name] = accuracy(net, data.x_test, data.y_test)
    return found


def one_split(seed: int, sizes: list[int], n_test: int, steps: int, rates: dict) -> dict:
    """Of one split: by number of pictures, and with few of them and their pixels permuted."""
    whole = split(seed, max(sizes), n_test, rim=1)
    parts = {n: whole._replace(x=whole.x[:n], y=whole.y[:n]) for n in sizes}
    few = parts[min(sizes)]
    mixed = few._replace(x=permuted(few.x, seed), x_test=permuted(few.x_test, seed))
    return {n: measure(part, seed, steps, rates) for n, part in parts.items()} | {
        "permuted": measure(mixed, seed, steps, rates)
    }


def ranks_agree(sizes: list[int], gaps: np.ndarray) -> float:
    """Spearman's correlation of the gaps (split, size) with the size of each."""
    from scipy.stats import spearmanr

    return float(spearmanr(np.tile(sizes, len(gaps)), gaps.ravel()).statistic)


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 300) -> None:
    """Train both networks on growing parts of MNIST, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Splits, each with networks of its own.
    steps
        Updates of each network, on batches of 32.
    """
    paper = papers.load(__file__)
    run.rounding(0.05, "some hundred steps in float32")
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    sizes, rates = paper.matter["sizes"], paper.matter["rates"]
    sizes = run.budget(quick=[40, 80], default=sizes, full=[*sizes, 16_000])
    size = run.budget(quick=(50, 4), default=(1000, steps), full=(5000, 10 * steps))
    span = run.progress(range(run.seed, run.seed + seeds), "splits")
    found = [one_split(seed, sizes, *size, rates) for seed in span]
    right = {net: np.array([[f[n][net] for n in sizes] for f in found]) for net in NETS}
    mixed = {net: np.array([f["permuted"][net] for f in found]) for net in NETS}
    gaps = right["CNN"] - right["ViT"]
    late = {"quick": False, "rtol": None}
    behind, closes = list(paper.rules)
    paper.judge(run, behind, gaps[:, 0], **late)
    run.falsifier("pixels permuted", mixed["CNN"] - mixed["ViT"], breaks=behind)
    note = ", ".join(f"{g:.1f}" for g in gaps.mean(0)) + " points"
    paper.judge(run, closes, ranks_agree(sizes, gaps), note=note, **late)
    for net in NETS:
        for n, values in zip(sizes, right[net].T, strict=True):
            run.metric(f"right, {net}, {n}", values.mean(), "%", rtol=None)
        run.metric(f"right, {net}, permuted", mixed[net].mean(), "%", rtol=None)
    with run.figure("gap", "Does the gap close as data grow?", columns=2, size=(9, 4)) as axes:
        labels = {"xscale": "log", "xlabel": "training pictures"}
        plots.curves(axes[0], sizes, right, marker="o", ylabel="right, %", **labels)
        gap = {"gap": gaps}
        plots.curves(
            axes[1], sizes, gap, marker="o", ends=False, ylabel="CNN minus ViT, points", **labels
        )
        lead = float((mixed["CNN"] - mixed["ViT"]).mean())
        plots.reference_line(axes[1], lead, f"{min(sizes)}, pixels permuted")
        axes[1].axhline(0, color=plots.REFERENCE, linewidth=0.8)
        for ax in axes:
            ax.minorticks_off()
            ax.set_xticks(sizes, [f"{n:,}" for n in sizes])


# ---- checks


def check(run: Run) -> None:
    """Patches, one layer by torch's, and the count of weights by a formula."""
    g = run.generator()
    net = ViT(CONFIG, g).double()
    x = torch.randn(3, 1, 16, 16, generator=g, dtype=torch.double)
    patches = F.unfold(x, 4, stride=4).mT
    embedded = patches @ net.embed.weight.flatten(1).T + net.embed.bias
    close = {"atol": 1e-12, "why": "float64 rounding"}
    tokens = net.tokens(x)
    found = tokens[:, 1:] - net.positions[1:]
    run.check("patches as words", found, embedded, against="F.unfold and a matrix", **close)
    twin, block = torch_layer(net), net.blocks[0]
    name = "nn.TransformerEncoderLayer(norm_first=True)"
    run.check("one layer", block(tokens), twin(tokens), against=name, **close)
    d, ff, n = CONFIG.d_model, CONFIG.d_ff, CONFIG.side**2
    layer = 4 * d * (d + 1) + d * (ff + 1) + ff * (d + 1) + 4 * d
    weights = d * (16 + 1) + d * (n + 2) + CONFIG.n_layers * layer + 2 * d + 10 * (d + 1)
    counted = sum(p.numel() for p in net.parameters())
    exact = {"against": "a formula", "kind": "theorem", "why": "whole numbers"}
    run.check("weights of the transformer", counted, weights, **exact)
    others = sum(p.numel() for p in new_net("CNN", 0).parameters())
    fair = {"against": "as many", "kind": "consistency", "why": "within one percent", "rtol": 0.01}
    run.check("weights of the convolutional network", others, counted, **fair)


def torch_layer(net: ViT) -> nn.Module:
    """torch's own layer with the weights of our first."""
    options = {"activation": "gelu", "batch_first": True, "norm_first": True}
    options |= {"dropout": 0.0, "layer_norm_eps": CONFIG.norm_eps}
    theirs = nn.TransformerEncoderLayer(CONFIG.d_model, CONFIG.n_heads, CONFIG.d_ff, **options)
    block = net.blocks[0]
    attention, (up, _, _, down) = block.self_attention, block.feed_forward
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    pairs = [
        (theirs.self_attn.out_proj, attention.out_proj),
        (theirs.linear1, up),
        (theirs.linear2, down),
        (theirs.norm1, block.residuals[0].norm),
        (theirs.norm2, block.residuals[1].norm),
    ]
    theirs = theirs.double()
    for there, here in pairs:
        there.load_state_dict(here.state_dict())
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
    return theirs


if __name__ == "__main__":
    cli(main)
