"""Masks against torch's pruners, smaller layers against masked ones, and nets pruned on digits."""

import copy
import itertools

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from shared import plots
from shared.datasets import digits
from shared.study import PositiveInt, Run
from week18.llama3 import Llama, LlamaConfig
from week27.pruning import ScoredLinear, cubic_sparsity, keep_largest, masks, n_of_m, zeros
from week27.structured_pruning import (
    keep_heads,
    keep_layers,
    keep_neurons,
    neuron_scores,
)

Rows = tuple[Float[Tensor, "_ 64"], Int[Tensor, " _"]]
SPARSITIES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95)
CONFIG = LlamaConfig(50, d_model=48, n_layers=3, n_heads=6, n_kv_heads=3, d_ff=64)


def main(run: Run, *, seeds: PositiveInt = 6) -> None:
    """Check masks and smaller layers, then prune nets that have learned digits.

    Parameters
    ----------
    seeds
        Nets, each with its own split of the digits.
    """
    run.rounding(0.02, "float32 sums in another order, over some hundred steps")
    check_masks(run)
    check_gradients(run)
    check_smaller_layers(run)
    seeds = run.budget(quick=2, default=max(seeds, 2))
    with threadpool_limits(1):  # products this small are slower on several threads
        nets = judge_one_shot(run, seeds)
        judge_transfer(run, nets)


# ---- checks


def check_masks(run: Run) -> None:
    """By magnitude against `torch.nn.utils.prune`, n of m against torchao's ancestor."""
    from torch.ao.pruning import WeightNormSparsifier
    from torch.nn.utils import prune
    from torch.sparse import _semi_structured_conversions as conversions

    layers = {k: nn.Linear(96, n_out) for k, n_out in (("a", 40), ("b", 64))}
    for i, layer in enumerate(layers.values()):
        nn.init.normal_(layer.weight, generator=run.generator(i))
    scores = {k: layer.weight.detach().abs() for k, layer in layers.items()}
    same = run.against("torch.nn.utils.prune", why="booleans")
    for scope in ("layer", "model"):
        twins = copy.deepcopy(layers)
        pairs = [(layer, "weight") for layer in twins.values()]
        if scope == "model":
            prune.global_unstructured(pairs, prune.L1Unstructured, amount=0.37)
        else:
            for layer, name in pairs:
                prune.l1_unstructured(layer, name, amount=0.37)
        theirs = torch.cat([layer.weight_mask.flatten() for layer in twins.values()]).bool()
        ours = torch.cat([m.flatten() for m in masks(scores, 0.37, scope=scope).values()])
        same(f"mask, 37 % of the {scope}", ours, theirs)
    twin = prune.ln_structured(copy.deepcopy(layers["b"]), "weight", amount=0.5, n=2, dim=1)
    norms = layers["b"].weight.detach().norm(dim=0)
    same("half of the columns", keep_largest(norms, 48), twin.weight_mask[0].bool())
    ties = torch.tensor([1.0, 2.0, 2.0, 2.0, 2.0, 3.0])
    threshold = int((ties <= ties.sort().values[2]).sum())
    exact = zeros(masks({"": ties}, 0.5).values())
    run.metric("pruned of six by a threshold, four of them equal", threshold, rtol=0)
    run.check("pruned of six, four equal", exact, 3, against="half", kind="theorem", why="a count")
    for n, m in ((2, 4), (4, 8)):
        model = nn.Sequential(copy.deepcopy(layers["b"]))
        pruner = WeightNormSparsifier(1.0, (1, m), zeros_per_block=m - n)
        pruner.prepare(model, [{"tensor_fqn": "0.weight"}])
        pruner.step()
        theirs = model[0].parametrizations.weight[0].mask.bool()
        ours = n_of_m(scores["b"], n, m)
        run.check(f"{n}:{m}", ours, theirs, against="torch.ao.pruning", why="booleans")
        if m == 4:  # what torch's sparse kernels store: half of the numbers, and their places
            w = (layers["b"].weight.detach() * ours).half()
            packed = conversions.sparse_semi_structured_from_dense_cutlass(w)
            again = conversions.sparse_semi_structured_to_dense_cutlass(*packed)
            stored = "torch's semi-structured format"
            run.check("2:4 packed and unpacked", w, again, against=stored, why="the same numbers")


def check_gradients(run: Run) -> None:
    """Three steps of a scored layer against the closed form of linear regression, in NumPy."""
    g = run.generator(3)
    x, y = (torch.randn(20, n, generator=g, dtype=torch.double) for n in (6, 3))
    linear = nn.Linear(6, 3, bias=False, dtype=torch.double)
    nn.init.normal_(linear.weight, generator=g)
    layer = ScoredLinear(linear)
    layer.scores.data = torch.rand(3, 6, generator=g, dtype=torch.double) / 100
    layer.sparsity, lr = 0.5, 0.1
    w, s, X, Y = (t.detach().numpy().copy() for t in (layer.weight, layer.scores, x, y))
    optimizer = torch.optim.SGD(layer.parameters(), lr=lr)
    for _ in range(3):
        optimizer.zero_grad()
        ((layer(x) - y) ** 2).sum().div(20).backward()
        optimizer.step()
        m = (s > np.sort(s, axis=None)[8]).astype(float)  # 9 of 18 stay
        grad = 2 / 20 * (X @ (w * m).T - Y).T @ X
        w, s = w - lr * grad * m, s - lr * grad * w
    exact = run.against("closed form, NumPy", kind="theorem", atol=1e-12, why="float64 rounding")
    exact("weights after three steps", layer.weight, w)
    exact("scores after three steps: movement", layer.scores, s)


def check_smaller_layers(run: Run) -> None:
    """The logits of smaller models, and of whole ones whose weights are zero; and the sizes."""
    model = Llama(CONFIG, run.generator(4)).double().requires_grad_(False)
    tokens = torch.randint(50, (2, 9), generator=run.generator(5))
    neurons = keep_largest(neuron_scores(model.blocks[0]), 20).nonzero()[:, 0]
    heads = torch.tensor([0, 2, 5])  # one of each pair that shares keys and values
    smaller, zeroed = copy.deepcopy(model), copy.deepcopy(model)
    for i in range(2):
        smaller.blocks[i] = keep_heads(keep_neurons(model.blocks[i], neurons), heads)
        gone = torch.ones(64).scatter(0, neurons, 0).bool()
        zeroed.blocks[i].down_proj.weight[:, gone] = 0
        gone = torch.ones(6).scatter(0, heads, 0).bool().repeat_interleave(8)
        zeroed.blocks[i].out_proj.weight[:, gone] = 0
    for name in ("down_proj", "out_proj"):
        getattr(zeroed.blocks[2], name).weight.zero_()
    smaller = keep_layers(smaller, torch.arange(2))
    same = {"against": "the whole model, masked", "kind": "consistency", "atol": 1e-12}
    why = "float64 rounding"
    run.check("logits of a smaller model", smaller(tokens), zeroed(tokens), why=why, **same)
    d, size = CONFIG.d_model, CONFIG.head_dim
    block = d * size * (3 + 3 + 3 + 3) + 3 * d * 20 + 2 * d
    expected = 2 * block + 2 * 50 * d + d
    counted = sum(p.numel() for p in smaller.parameters())
    run.check("its weights", counted, expected, against="the formula", kind="theorem", why="counts")


# ---- digits


def rows_of(classes: range, seed: int, n_train: int) -> tuple[Rows, Rows]:
    """Rows of some of the digits to train on, and the others to judge by."""
    found = digits()
    x = torch.from_numpy(found.images).float().flatten(1) / 16
    y = torch.from_numpy(found.labels)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    order = order[(y[order] >= classes.start) & (y[order] < classes.stop)]
    x, y = x[order], y[order] - classes.start
    return (x[:n_train], y[:n_train]), (x[n_train:], y[n_train:])


def new_net(generator: torch.Generator) -> nn.Sequential:
    """Two hidden layers of 128 rectified units, five classes."""
    sizes = (64, 128, 128, 5)
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def train(net: nn.Module, rows: Rows, steps: int, generator: torch.Generator, before=None) -> None:
    """Adam for the weights, plain gradient descent for scores; `before` is told each step."""
    weights, scores = [], []
    for name, p in net.named_parameters():
        (scores if name.endswith("scores") else weights).append(p)
    optimizers = [torch.optim.Adam(weights, lr=1e-3, fused=True)]
    if scores:
        optimizers.append(torch.optim.SGD(scores, lr=1.0))
    for step in range(steps):
        if before is not None:
            before(step)
        i = torch.randint(len(rows[0]), (64,), generator=generator)
        loss = F.cross_entropy(net(rows[0][i]), rows[1][i])
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()


@torch.no_grad()
def accuracy(net: nn.Module, rows: Rows) -> float:
    """Share of rows that are classified right, in percent."""
    return 100 * (net(rows[0]).argmax(1) == rows[1]).double().mean().item()


def pruned(net: nn.Sequential, scores: dict[str, Tensor], sparsity: float, scope: str):
    """A copy with the weights of the lowest scores at zero."""
    found = copy.deepcopy(net)
    for name, mask in masks(scores, sparsity, scope=scope).items():
        found.get_parameter(name).data *= mask
    return found


def judge_one_shot(run: Run, seeds: int) -> list[nn.Sequential]:
    """Nets that know the digits from 0 to 4, pruned by magnitude, at random, and upside down."""
    steps = run.budget(quick=30, default=300)
    curves: dict[str, list] = {}
    nets, chance, at_80 = [], [], {}
    for seed in run.progress(range(seeds), "nets"):
        training, held_out = rows_of(range(5), run.seed + seed, 600)
        g = run.generator(100 + seed)
        net = new_net(g)
        train(net, training, steps, g)
        nets.append(net)
        shuffled = new_net(g)
        order = torch.randperm(600, generator=g)
        train(shuffled, (training[0], training[1][order]), steps, g)
        chance.append(accuracy(net, held_out) - accuracy(shuffled, held_out))
        weights = {k: p.detach() for k, p in net.named_parameters() if p.ndim == 2}
        magnitude = {k: w.abs() for k, w in weights.items()}
        noise = {k: torch.rand(w.shape, generator=g) for k, w in weights.items()}
        ways = {f"largest of the {s}": (magnitude, s) for s in ("model", "layer", "row")}
        ways |= {"random": (noise, "layer")}
        ways |= {"smallest of the layer": ({k: -s for k, s in magnitude.items()}, "layer")}
        for name, (scores, scope) in ways.items():
            found = [accuracy(pruned(net, scores, s, scope), held_out) for s in SPARSITIES]
            curves.setdefault(name, []).append(found)
            at_80.setdefault(name, []).append(found[0] - found[SPARSITIES.index(0.8)])
    learned = "a net learns what one with shuffled labels does not"
    run.claim(learned, chance, at_least=30, each=True, unit="points", quick=False)
    keeps = "without 80 % of its weights it loses at most 10 points"
    options = {"unit": "points", "quick": False, "seen_before": "other nets at 90 % and more"}
    run.claim(keeps, at_80["largest of the model"], at_most=10, **options)
    run.falsifier("80 % at random", at_80["random"], breaks=keeps)
    run.falsifier("the 80 % that are largest", at_80["smallest of the layer"], breaks=keeps)
    for name, found in at_80.items():
        run.metric(f"accuracy lost at 80 %: {name}", np.mean(found), "points", rtol=None)
    run.metric("accuracy of the nets", np.mean([row[0] for row in curves["random"]]), "%")
    title = "How many weights can go at once, with no training after it?"
    with run.figure("one_shot", title) as axes:
        x = 100 * np.array(SPARSITIES)
        labels = {"xlabel": "weights at zero (%)", "ylabel": "accuracy, digits 0 to 4 (%)"}
        plots.curves(axes, x, curves, marker="o", reference={"chance": 20.0}, **labels)
    return nets


def judge_transfer(run: Run, nets: list[nn.Sequential]) -> None:
    """The same nets learn the digits from 5 to 9 while almost all of their weights leave."""
    steps, sparsities = run.budget(quick=(10, (0.97,)), default=(400, (0.9, 0.97)))
    found = {kind: [] for kind in ("movement", "magnitude", "random")}
    for seed, net in enumerate(run.progress(nets, "transfer")):
        training, held_out = rows_of(range(5, 10), run.seed + seed, 500)
        for kind, rows in found.items():
            rows.append(
                [
                    accuracy(fine_tuned(net, kind, training, final, steps, seed), held_out)
                    for final in sparsities
                ]
            )
    last = {kind: np.array(rows)[:, -1] for kind, rows in found.items()}
    ahead = "at 97 % movement is ahead of magnitude"
    seen = "four nets of other seeds: ahead by 1 to 2 points"
    options = {"unit": "points", "seen_before": seen, "quick": False, "rtol": None}
    run.claim(ahead, last["movement"] - last["magnitude"], at_least=0, **options)
    run.falsifier("scores drawn at random", last["random"] - last["magnitude"], breaks=ahead)
    for kind, values in last.items():
        run.metric(f"accuracy at 97 %, {kind}", values.mean(), "%", rtol=None)
    title = "Which scores find the weights that a new task needs?"
    with run.figure("movement", title) as axes:
        labels = {"xlabel": "weights at zero after fine-tuning (%)"}
        labels |= {"ylabel": "accuracy, digits 5 to 9 (%)"}
        plots.curves(axes, 100 * np.array(sparsities), found, marker="o", **labels)


def fine_tuned(
    net: nn.Sequential, kind: str, rows: Rows, final: float, steps: int, seed: int
) -> nn.Sequential:
    """A copy that learns new classes while its hidden layers are pruned to sparsity `final`."""
    g = torch.Generator().manual_seed(seed)
    linears = [ScoredLinear(net[i]) for i in (0, 2)]
    found = nn.Sequential(linears[0], nn.ReLU(), linears[1], nn.ReLU(), copy.deepcopy(net[4]))
    draws = [torch.rand(linear.weight.shape, generator=g) for linear in linears]

    def before(step: int) -> None:
        for linear, draw in zip(linears, draws, strict=True):
            if kind != "movement":  # scores that gradient descent does not change
                fixed = linear.weight.detach().abs() if kind == "magnitude" else draw
                linear.scores.data = fixed.clone()
            until = max(1, 3 * steps // 4)
            linear.sparsity = cubic_sparsity(min(step, until), until, final)

    train(found, rows, steps, g, before)
    return found
