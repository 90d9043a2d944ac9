r"""Does a layer cut among processes need four all-reduces, and is it still the layer?

The MLP's first matrix is cut by columns and its second by rows, attention by heads:

$$ \mathrm{gelu}(xA)\,B = \sum_i \mathrm{gelu}(xA_i)\,B_i . $$

Processes talk over gloo on one machine; torch counts what they send. The rules stand in the front
matter of README.md.

    uv run papers/2019-megatron-lm/reproduce.py

Shoeybi, Patwary, Puri, LeGresley, Casper and Catanzaro (2019), "Megatron-LM", section 3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week17.answers import ask
from week17.sharded_runs import flat, joined, sharded_runs, small_gpt, whole_run
from week17.tensor_parallel import ring_bytes

SIZES = {"n_heads": 4, "d_model": 16, "vocab_size": 12}


def case_of(seed: int, world: int, steps: int, **other) -> dict:
    """A small GPT, trained by SGD."""
    sizes = SIZES | other.pop("sizes", {})
    return {"seed": seed, "world": world, "steps": steps, "optimizer": "sgd", "sizes": sizes}


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, over the largest absolute value."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def error(parts: list[dict], case: dict) -> float:
    """The worst of outputs, gradients, and weights at the end."""
    whole = whole_run(case)
    logits = torch.cat([part["logits"] for part in parts], -1)
    pairs = [(logits, whole["logits"])]
    pairs += [(flat(joined(parts, what)), flat(whole[what])) for what in ("grads", "weights")]
    return max(distance(*pair) for pair in pairs)


def cut_by_rows(seed: int, world: int = 2) -> float:
    """Error of an MLP whose first matrix is cut by rows too, without a sum before the gelu."""
    block = small_gpt(case_of(seed, world, 0)).blocks[0]
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 11, SIZES["d_model"], generator=g, dtype=torch.float64)
    parts = zip(x.chunk(world, -1), block.up.weight.chunk(world, 1), strict=True)
    each = [F.gelu(some @ w.T + block.up.bias / world, approximate="tanh") for some, w in parts]
    right = F.gelu(block.up(x), approximate="tanh")
    return distance(block.down(sum(each)), block.down(right))


def counts(parts: list[dict]) -> dict[str, int]:
    """Collectives of a step, forward and backward, by kind."""
    found: dict[str, int] = {}
    for way in ("forward", "backward"):
        for kind, n in parts[0]["collectives"][way].items():
            found[kind] = found.get(kind, 0) + n
    return found


def main(run: Run, *, seeds: PositiveInt = 4) -> None:
    """Train in parts and as a whole; count collectives, bytes and parameters.

    Parameters
    ----------
    seeds
        Draws of weights and texts.
    """
    paper = papers.load(__file__)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=8)
    world = run.budget(quick=2, default=2, full=4)
    steps = run.budget(quick=2, default=10)
    cases = [case_of(run.seed + s, world, steps) for s in range(seeds)]
    deeper = case_of(run.seed, world, 1, sizes={"n_layers": 3})
    results = ask(sharded_runs, world, [*cases, deeper], timeout=300)
    parts = [[result[i] for result in results] for i in range(len(cases) + 1)]

    errors = [error(some, case) for some, case in zip(parts, cases, strict=False)]
    whole = whole_run(cases[0])
    equal = run.against("torch, one process", atol=1e-10, why="float64 rounding")
    equal("gradients, first seed", flat(joined(parts[0], "grads")), flat(whole["grads"]))
    name = f"weights after {steps} steps, first seed"
    equal(name, flat(joined(parts[0], "weights")), flat(whole["weights"]))
    rule = "a layer in parts is the layer"
    paper.judge(run, rule, errors, rtol=None)
    rows = [cut_by_rows(run.seed + s) for s in range(seeds)]
    run.falsifier("the first matrix cut by rows, no third sum", rows, breaks=rule)

    two, three = counts(parts[0]), counts(parts[-1])
    more = {kind: n - two.get(kind, 0) for kind, n in three.items()}
    paper.judge(run, "four all-reduces per layer", more["allreduce"] if len(more) == 1 else -1)
    whole_matrices = sum(p.numel() for p in small_gpt(cases[0]).parameters() if p.ndim == 2)
    cuts = parts[0][0]["cuts"]
    mine = sum(p.numel() for n, p in parts[0][0]["weights"].items() if cuts[n] >= 0 and p.ndim == 2)
    paper.judge(run, "a part holds its share", mine * world / whole_matrices)
    run.metric("all parameters of a part, over its equal share", held(parts[0][0], cases[0], world))
    _draw(run)


def held(part: dict, case: dict, world: int) -> float:
    """With norms and biases, which every process has."""
    whole = sum(p.numel() for p in small_gpt(case).parameters())
    return part["n_parameters"] * world / whole


def _draw(run: Run) -> None:
    """What a process sends per layer and step, by the accounting of a ring."""
    worlds = [1, 2, 4, 8, 16]
    tokens = 8 * 1024  # b · s
    widths = {"width 1536 (1.2 B in the paper)": 1536, "width 3072 (8.3 B)": 3072}
    lines = {
        name: [4 * ring_bytes(tokens * width * 2, t) / 1e6 for t in worlds]
        for name, width in widths.items()
    }
    t = 8
    run.metric("MB per layer and process, width 3072, 8 processes", lines[list(lines)[1]][3], "MB")
    run.metric("tokens of that count", tokens)
    run.metric("processes of that count", t)
    with run.figure("bytes", "What does a process send per layer, both ways?") as axes:
        labels = {"xlabel": "processes that share a layer", "ylabel": "MB sent by each (2 bytes)"}
        axes.set_xscale("log", base=2)
        plots.curves(axes, worlds, lines, marker="o", **labels)
        axes.set_xticks(worlds, map(str, worlds))


if __name__ == "__main__":
    cli(main)
