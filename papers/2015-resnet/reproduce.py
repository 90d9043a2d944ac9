r"""Does depth hurt a plain network's training loss, and do shortcuts mend it?

A residual block adds what it computes to what came in,

$$ y = \mathrm{relu}\bigl(F(x) + s(x)\bigr), $$

so that a deeper network can do at least what a shallower one does, by $F = 0$. Both kinds have
batch normalization everywhere and the same number of weights.

Reduced: 20 and 44 layers of width 8 (the paper: 20 and 56 of width 16) on the 8 × 8 digits, for 80
batches. Rates are tuned for each arm. The rules stand in the front matter of README.md.

    uv run papers/2015-resnet/reproduce.py

He, Zhang, Ren and Sun (2015), "Deep residual learning for image recognition", section 4.2, figures
1 and 6, table 6.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared import papers, plots
from shared.datasets import digits
from shared.require import require
from shared.study import PositiveInt, Run, cli
from week10.cnn_ablations import accuracy, train
from week10.resnet import BasicBlock, Block, Images, Maps, ResNet, cifar_resnet

WIDTH, BATCH, LAST, N_TRAIN = 8, 64, 10, 1297


class Erased(nn.Module):
    """A shortcut whose output is multiplied by zero."""

    def __init__(self, shortcut: nn.Module):
        super().__init__()
        self.shortcut = shortcut

    def forward(self, x: Images) -> Maps:
        """Zeros of the shortcut's shape."""
        return 0 * self.shortcut(x)


def make(depth: int, kind: str, seed: int, *, width: int = WIDTH) -> ResNet:
    """A network of one channel: ``plain``, ``residual`` (option A) or ``erased``.

    The three kinds have the same weights: shortcuts of option A have none.
    """
    kinds = {"plain": "none", "residual": "A", "erased": "A"}
    require(kind in kinds, f"kind must be one of {', '.join(kinds)}", kind)
    torch.manual_seed(seed)
    model = cifar_resnet(depth, width=width, shortcut=kinds[kind], channels=1)
    if kind == "erased":
        for block in model.modules():
            if isinstance(block, Block):
                block.downsample = Erased(block.downsample)
    return model


def pictures(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Digits to train on and to test on, split by the seed."""
    data = digits()
    order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(seed))
    x = torch.tensor(data.images, dtype=torch.float32)[order, None] / 8 - 1
    y = torch.tensor(data.labels).long()[order]
    return x[:N_TRAIN], y[:N_TRAIN], x[N_TRAIN:], y[N_TRAIN:]


def fit(
    depth: int, kind: str, *, lr: float, steps: int, seed: int
) -> tuple[Float[Tensor, " steps"], float]:
    """Losses of all batches and the test error in percent; nets of one seed see the same rows."""
    model, (x, y, test_x, test_y) = make(depth, kind, seed), pictures(seed)
    generator = torch.Generator().manual_seed(seed)
    losses = train(model, x, y, lr=lr, steps=steps, generator=generator, batch_size=BATCH)
    return losses, 100 - accuracy(model, test_x, test_y)


def gradient_share(depth: int, kind: str, x: Images, y: Int[Tensor, " batch"], seed: int) -> float:
    """Length of the first convolution's gradient over the last one's, before any training."""
    model = make(depth, kind, seed)
    first, last = model.conv1.weight, model.layer3[-1].conv2.weight
    loss = nn.functional.cross_entropy(model(x), y)
    a, b = torch.autograd.grad(loss, (first, last))
    return (a.norm() / b.norm()).item()


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 80) -> None:
    """Train plain and residual networks of two depths, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Seeds of the verdict; rates are chosen with another.
    steps
        Batches of 64 that each net is trained on.
    """
    paper = papers.load(__file__)
    run.rounding(2e-2, "float32 convolutions, summed in another order, over a few steps")
    torch.set_num_threads(1)  # pictures of 8 × 8 pixels are too small to share
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps = run.budget(quick=2, default=steps, full=5 * steps)
    shallow, deep = run.budget(quick=(8, 14), default=(20, 44), full=(20, 56))
    arms = [(d, k) for d in (shallow, deep) for k in ("plain", "residual")] + [(deep, "erased")]
    losses: dict[tuple, list[Tensor]] = {arm: [] for arm in arms}
    errors: dict[tuple, list[float]] = {arm: [] for arm in arms}
    for seed in run.progress(range(run.seed, run.seed + seeds), "training"):
        for depth, kind in arms:
            rate = paper.matter["lrs"]["plain" if kind == "erased" else kind]
            rate = rate["deep" if depth == deep else "shallow"]
            along, error = fit(depth, kind, lr=rate, steps=steps, seed=seed)
            losses[depth, kind].append(along)
            errors[depth, kind].append(error)
    judge(run, paper, losses, errors)
    x, y, *_ = pictures(run.seed)
    for kind in ("plain", "residual"):
        share = gradient_share(deep, kind, x[:BATCH], y[:BATCH], run.seed)
        run.metric(f"first layer's gradient over the last one's, {kind}", share, rtol=0.5)
    draw(run, losses, paper.matter["paper_errors"])


def judge(run: Run, paper: papers.Paper, losses: dict, errors: dict) -> None:
    """Differences of the final training loss, paired by seed."""
    shallow, deep = sorted({depth for depth, _ in losses})
    final = {arm: torch.stack(runs)[:, -LAST:].mean(1) for arm, runs in losses.items()}
    late = {"quick": False, "rtol": None}
    hurt = {k: final[deep, k] - final[shallow, k] for k in ("plain", "residual")}
    paper.judge(run, "depth hurts the plain net", hurt["plain"], **late)
    run.falsifier("with shortcuts", hurt["residual"], breaks="depth hurts the plain net")
    mended = final[deep, "plain"] - final[deep, "residual"]
    paper.judge(run, "shortcuts mend it", mended, **late)
    left = final[deep, "plain"] - final[deep, "erased"]
    run.falsifier("shortcuts times zero", left, breaks="shortcuts mend it")
    paper.judge(run, "depth does not hurt with shortcuts", hurt["residual"], **late)
    for (depth, kind), values in final.items():
        where = "deep" if depth == deep else "shallow"
        run.metric(f"training loss, {where} {kind}", values.mean(), "nats", rtol=0.2)
        mean = sum(errors[depth, kind]) / len(values)
        run.metric(f"test error, {where} {kind}", mean, "%", rtol=0.3)


def check(run: Run) -> None:
    """A block against torchvision's, and the counts of the paper's networks."""
    from torchvision.models.resnet import BasicBlock as Theirs

    torch.manual_seed(run.seed)
    ours, theirs = BasicBlock(6, 6).double(), Theirs(6, 6).double()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(4, 6, 5, 5, dtype=torch.float64)
    equal = run.against("torchvision's BasicBlock", atol=1e-12, why="float64 rounding")
    equal("a residual block", ours(x), theirs(x))
    with torch.device("meta"):
        counts = [sum(p.numel() for p in cifar_resnet(d).parameters()) for d in (20, 56)]
    given = run.against("table 6", kind="theorem", rtol=0.02, why="the table has two digits")
    given("millions of parameters, 20 and 56 layers", [c / 1e6 for c in counts], [0.27, 0.85])


def draw(run: Run, losses: dict, paper_errors: dict) -> None:
    """The paper's errors, and our losses along the way."""
    with run.figure(
        "steps",
        "What does depth do to a network without shortcuts, and with them?",
        columns=2,
        size=(9.6, 4.2),
        width_ratios=[1, 2.2],
    ) as (left, right):
        names = {f"ResNet-{depth}": error for depth, error in paper_errors.items()}
        plots.bars(left, names, xlabel="CIFAR-10 test error, %\n(the paper, table 6)")
        lines = {}
        for (depth, kind), runs in losses.items():
            if kind != "erased":
                smooth = torch.stack(runs).unfold(1, min(LAST, len(runs[0])), 1).mean(2)
                lines[f"{kind} {depth}"] = smooth
        x = range(len(runs[0]) - smooth.shape[1] + 1, len(runs[0]) + 1)
        colors = (plots.YELLOW, plots.SKY, plots.ORANGE, plots.BLUE)
        labels = {"xlabel": "batches", "ylabel": "training loss (nats), mean of 10"}
        plots.curves(right, x, lines, colors=colors, ylim=(0, None), **labels)


if __name__ == "__main__":
    cli(main)
