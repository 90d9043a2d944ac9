r"""Does YaRN read four training lengths at once, and with a tenth of the tuning?

A rotary wave of frequency $\theta_i$ turns $L\theta_i/2\pi$ times in the training context. YaRN
keeps those of many turns, slows those without a whole turn by the factor $s$, mixes in between,

$$ \theta_i' = (1 - \rho_i)\,\theta_i + \rho_i\,\theta_i / s, \qquad 1/\sqrt t = 0.1 \ln s + 1, $$

and multiplies turned queries and keys by $1/\sqrt t$. Position interpolation slows all by $s$.

Reduced: two layers of width 48 that read 64 characters of Python's manual (the paper: LLaMA 2 of 7
and 13 billion weights with 4,096 tokens), and 40 steps of tuning. The rules stand in the front
matter of README.md.

    uv run papers/2023-yarn/reproduce.py

Peng, Quesnelle, Fan and Shippole (2023), "YaRN", sections 3.2 to 3.4; Chen et al. (2023),
"Extending context window of large language models via positional interpolation"; Su et al. (2021),
"RoFormer".
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared import datasets, papers, plots
from shared.require import require
from shared.study import PositiveInt, Run, cli
from week14.ngram import encode_characters
from week18.llama3 import Llama, LlamaConfig
from week18.long_context import NTK, Interpolation, YaRN, with_scaling
from week18.rotary import Scaling, rotate
from week18.training import loss_by_position, train

CONTEXT, FACTOR, TUNED = 64, 4, ("interpolation", "YaRN")
LONG = CONTEXT * FACTOR


def scaling(name: str, factor: float = FACTOR) -> Scaling | None:
    """The way called so; None leaves the frequencies as trained."""
    ways = {
        "as trained": None,
        "interpolation": Interpolation(factor),
        "NTK": NTK(factor),
        "YaRN": YaRN(factor, CONTEXT),
    }
    require(name in ways, f"name must be one of {', '.join(ways)}", name)
    return ways[name]


def trained(training: Int[Tensor, " n"], vocab_size: int, seed: int, steps: int) -> Llama:
    """A model that has seen no more than 64 characters at once."""
    generator = torch.Generator().manual_seed(seed)
    config = LlamaConfig(vocab_size, 48, 2, 4, context=CONTEXT, rope_base=10_000.0)
    model = Llama(config, generator)
    options = {"batch_size": 16, "context": CONTEXT, "generator": generator, "lr_scale": 2.0}
    train(model, training, steps=steps, **options)
    return model


def late_loss(model: Llama, valid: Int[Tensor, " n"]) -> float:
    """Mean loss of the last quarter of windows of four training lengths."""
    return loss_by_position(model, valid, LONG)[-CONTEXT:].mean().item()


def tuned(model: Llama, name: str, steps: int, training: Int[Tensor, " n"], seed: int) -> Llama:
    """The model after `steps` on windows of four training lengths; both ways see the same."""
    model = with_scaling(model, scaling(name), LONG)
    generator = torch.Generator().manual_seed(500 + seed)
    options = {"batch_size": 4, "context": LONG, "generator": generator, "lr_scale": 0.5}
    train(model, training, steps=steps, **options)
    return model


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 150) -> None:
    """Train, read on in four ways, tune two of them, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Models, at least 2.
    steps
        Steps of training on 64 characters.
    """
    paper = papers.load(__file__)
    run.rounding(0.05, "Muon's products amplify how processors round")
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps = run.budget(quick=2, default=steps, full=4 * steps)
    budgets = run.budget(quick=(1, 2), default=(4, 12, 40), full=(20, 60, 200))
    ids, alphabet = encode_characters(datasets.pydocs_text())
    tokens, split = torch.from_numpy(ids), int(0.9 * len(ids))
    training, valid = tokens[:split], tokens[split:][: run.budget(quick=2000, default=16_000)]
    untuned: dict[str, list[float]] = {}
    after: dict[str, list[list[float]]] = {name: [] for name in TUNED}
    for seed in run.progress(range(run.seed, run.seed + seeds), "training"):
        model = trained(training, len(alphabet), seed, steps)
        for name in ("as trained", "interpolation", "NTK", "YaRN", "factor 1"):
            way = YaRN(1.0, CONTEXT) if name == "factor 1" else scaling(name)
            loss = late_loss(with_scaling(model, way, LONG), valid)
            untuned.setdefault(name, []).append(loss)
        for name in TUNED:
            losses = [late_loss(tuned(model, name, n, training, seed), valid) for n in budgets]
            after[name].append(losses)
    rows = {name: np.array(losses) for name, losses in after.items()}
    judge(run, paper, {name: np.array(losses) for name, losses in untuned.items()}, rows)
    draw(run, paper.matter["paper_ratio"], budgets, untuned, rows)


def judge(
    run: Run, paper: papers.Paper, untuned: dict, after: dict[str, Float[np.ndarray, "seed budget"]]
) -> None:
    """Differences of the late loss, paired by seed."""
    late = {"quick": False}
    names = list(paper.rules)
    paper.judge(run, names[0], untuned["as trained"] - untuned["YaRN"], **late)
    run.falsifier("factor 1", untuned["as trained"] - untuned["factor 1"], breaks=names[0])
    paper.judge(run, names[1], untuned["interpolation"] - untuned["YaRN"], **late)
    plain, yarn = after["interpolation"], after["YaRN"]
    paper.judge(run, names[2], plain[:, -1] - yarn[:, 0], **late)
    run.falsifier("interpolation's own first tenth", plain[:, -1] - plain[:, 0], breaks=names[2])
    paper.judge(run, names[3], plain[:, -1] - yarn[:, -1], **late)
    for name, losses in untuned.items():
        run.metric(f"late loss untuned, {name}", losses.mean(), "nats/char", rtol=0.05)
    for name, rows in after.items():
        for when, losses in (("a tenth", rows[:, 0]), ("all", rows[:, -1])):
            run.metric(f"late loss after {when}, {name}", losses.mean(), "nats/char", rtol=0.05)


def check(run: Run) -> None:
    """Scores depend on distances only; YaRN's frequencies are those of transformers."""
    from transformers import LlamaConfig as TheirConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    q, k = torch.randn(2, 1, 1, 1, 12, dtype=torch.float64, generator=run.generator(1))
    frequencies = torch.rand(6, dtype=torch.float64, generator=run.generator(2))
    scores = []
    for m, n in ((7, 3), (1007, 1003)):
        turned = [
            rotate(
                x,
                (place * frequencies).cos()[None, None, None],
                (place * frequencies).sin()[None, None, None],
            )
            for x, place in ((q, m), (k, n))
        ]
        scores.append((turned[0] * turned[1]).sum())
    rounding = "float64 rounding of angles near a thousand"
    same = run.against("RoFormer, eq. 16", kind="theorem", atol=1e-11, why=rounding)
    same("scores at distance 4", scores[1], scores[0])
    rope = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0}
    rope |= {"original_max_position_embeddings": CONTEXT}
    theirs = TheirConfig(
        hidden_size=48, num_attention_heads=4, rope_parameters=rope, max_position_embeddings=LONG
    )
    reference, gain = ROPE_INIT_FUNCTIONS["yarn"](theirs, "cpu")
    model = Llama(LlamaConfig(5, 48, 1, 4, rope_base=10_000.0, rope_scaling=scaling("YaRN")))
    equal = run.against("transformers' yarn", rtol=1e-6, why="float32 rounding")
    equal("frequencies of our size", model.frequencies, reference)
    equal("their gain", YaRN(FACTOR, CONTEXT).gain, gain)


def draw(run: Run, ratio: float, budgets: tuple, untuned: dict, after: dict) -> None:
    """The paper's ratio, and our late losses before and in tuning."""
    title = "What does it cost to read four times as far?"
    size = {"columns": 2, "size": (9.6, 4.2), "width_ratios": [1, 2.2]}
    with run.figure("tuning", title, **size) as (left, right):
        tokens = {"earlier methods": ratio, "YaRN": 1}
        plots.bars(left, tokens, xlabel="tokens of tuning, YaRN's = 1\n(the paper, abstract)")
        lines = {name: np.column_stack([untuned[name], losses]) for name, losses in after.items()}
        labels = {"xlabel": "steps of tuning", "ylabel": "loss of the last quarter (nats/char)"}
        labels["reference"] = {"as trained": float(np.mean(untuned["as trained"]))}
        colors = (plots.ORANGE, plots.BLUE)
        plots.curves(right, (0, *budgets), lines, colors=colors, marker="o", **labels)


if __name__ == "__main__":
    cli(main)
