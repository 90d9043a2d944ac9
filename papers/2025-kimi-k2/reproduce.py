r"""Do attention scores run away under Muon, and does QK-clip hold them at no cost?

After each step of Muon, a head whose largest score $S_h$ of the step's batch was above $\tau$ has
its query and key weights multiplied by $\sqrt{\gamma_h}$,

$$ \gamma_h = \tau / \max(S_h, \tau), \qquad (\sqrt\gamma W_q u)\cdot(\sqrt\gamma W_k u) = \gamma\,
   (W_q u) \cdot (W_k u). $$

Reduced: two layers of width 32 and four heads on Python's manual, 150 steps at fifteen times the
usual rates, since nothing runs away at those (the paper: a mixture of experts with 9 of 53 billion
weights active, then Kimi K2 itself). The rules stand in the front matter of README.md.

    uv run papers/2025-kimi-k2/reproduce.py

Kimi Team (2025), "Kimi K2: open agentic intelligence", section 2.1, algorithm 1 and figure 2.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared import datasets, papers, plots
from shared.require import require
from shared.study import PositiveInt, Run, cli
from week14.ngram import encode_characters
from week18.kimi_k2 import QKClip
from week18.llama3 import Llama, LlamaConfig
from week18.training import loss_by_position, train

CONTEXT, ARMS = 32, ("Muon", "MuonClip", "redrawn")


class Redrawn(QKClip):
    """Falsifier: heads above tau get new weights instead of smaller ones."""

    @torch.no_grad()
    def step(self) -> None:
        """Draw the rows of such heads' queries and keys anew."""
        for block in self.model.blocks:
            high = self.largest[block.layer] > self.tau
            for projection in (block.q_proj, block.k_proj):
                heads = projection.weight.unflatten(0, (-1, block.head_dim))
                heads[high] = 0.02 * torch.randn(heads.shape)[high]
        super().step()


def fit(
    arm: str,
    training: Int[Tensor, " n"],
    config: LlamaConfig,
    *,
    tau: float,
    lr_scale: float,
    steps: int,
    seed: int,
) -> tuple[Llama, Float[Tensor, "step layer head"], list[float]]:
    """The model, the largest scores of each step, the losses; arms of a seed see the same."""
    require(arm in ARMS, f"arm must be one of {', '.join(ARMS)}", arm)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Llama(config, generator)
    clip = (
        Redrawn(model, tau)
        if arm == "redrawn"
        else QKClip(model, tau if arm == "MuonClip" else None)
    )
    options = {"batch_size": 8, "context": CONTEXT, "generator": generator, "lr_scale": lr_scale}
    losses = train(model, training, steps=steps, after_step=clip.step, **options)
    clip.close()
    return model.eval(), torch.stack(clip.history), losses


def main(run: Run, *, seeds: PositiveInt = 4, steps: PositiveInt = 150) -> None:
    """Train with the clip and without, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Models of each kind, at least 2.
    steps
        Steps of training.
    """
    paper = papers.load(__file__)
    run.rounding(0.2, "Muon at a high rate amplifies how processors round")
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps = run.budget(quick=4, default=steps, full=4 * steps)
    ids, alphabet = encode_characters(datasets.pydocs_text())
    tokens, split = torch.from_numpy(ids), int(0.9 * len(ids))
    training, valid = tokens[:split], tokens[split:][: run.budget(quick=2000, default=16_000)]
    config = LlamaConfig(len(alphabet), 32, 2, 4, context=CONTEXT, rope_base=10_000.0)
    matter = {name: paper.matter[name] for name in ("tau", "lr_scale")}
    scores: dict[str, list] = {arm: [] for arm in ARMS}
    losses: dict[str, list] = {arm: [] for arm in ARMS}
    for seed in run.progress(range(run.seed, run.seed + seeds), "training"):
        for arm in ARMS:
            model, history, _ = fit(arm, training, config, steps=steps, seed=seed, **matter)
            scores[arm].append(history.numpy())
            losses[arm].append(loss_by_position(model, valid, CONTEXT).mean().item())
    found = {arm: np.array(rows) for arm, rows in scores.items()}
    judge(run, paper, found, {arm: np.array(rows) for arm, rows in losses.items()})
    draw(run, paper.matter, found)


def judge(
    run: Run,
    paper: papers.Paper,
    scores: dict[str, Float[np.ndarray, "seed step layer head"]],
    losses: dict,
) -> None:
    """Largest scores over tau, and losses paired by seed."""
    tau, late, names = paper.matter["tau"], {"quick": False}, list(paper.rules)
    top = {arm: rows.max(axis=(1, 2, 3)) / tau for arm, rows in scores.items()}
    half = scores["Muon"].shape[1] // 2
    settled = {arm: rows[:, half:].max(axis=(1, 2, 3)) / tau for arm, rows in scores.items()}
    paper.judge(run, names[0], top["Muon"], **late)
    run.falsifier("the clip", settled["MuonClip"], breaks=names[0])
    paper.judge(run, names[1], settled["MuonClip"], **late)
    run.falsifier("no clip", settled["Muon"], breaks=names[1])
    paper.judge(run, names[2], losses["MuonClip"] - losses["Muon"], **late)
    run.falsifier("heads drawn anew", losses["redrawn"] - losses["Muon"], breaks=names[2])
    for arm in ("Muon", "MuonClip"):
        run.metric(f"largest score, {arm}", tau * top[arm].mean(), rtol=0.5)
        run.metric(f"loss, {arm}", losses[arm].mean(), "nats/char", rtol=0.1)
    above = (scores["MuonClip"] > tau).any(axis=1).mean()
    run.metric("heads that were ever clipped", 100 * above, "%", rtol=0.5)


def check(run: Run) -> None:
    """A clip changes the scores of a head that is above tau by its factor, and no other."""
    config = LlamaConfig(7, 8, 1, 2, context=16)
    model = Llama(config, run.generator(1)).double()
    tokens = torch.randint(7, (3, 16), generator=run.generator(2))
    with torch.no_grad():
        model.blocks[0].q_proj.weight *= 1e4
    watch = QKClip(model, None)
    model(tokens)
    watch.step()
    before = watch.history[0][0]
    tau = before.mean().item()
    clip = QKClip(model, tau)
    for _ in range(2):
        model(tokens)
        clip.step()
    expected = torch.where(before > tau, tau, before)
    closed = run.against("gamma S", kind="theorem", rtol=1e-12, why="float64 rounding")
    closed("largest scores of two heads after a clip", clip.history[1][0], expected)


def draw(run: Run, matter: dict, scores: dict) -> None:
    """The paper's levels, and our largest scores along the way."""
    title = "How large do attention scores get under Muon?"
    size = {"columns": 2, "size": (9.6, 4.2), "width_ratios": [1, 2.2]}
    with run.figure("scores", title, **size) as (left, right):
        label = "largest score\n(the paper, figure 2)"
        plots.bars(left, matter["paper_scores"], xlabel=label, xscale="log")
        lines = {arm: scores[arm].max(axis=(2, 3)) for arm in ("Muon", "MuonClip")}
        labels = {"xlabel": "training step", "ylabel": "largest score of the batch"}
        labels |= {"yscale": "log", "reference": {"tau": matter["tau"]}}
        x, colors = range(1, lines["Muon"].shape[1] + 1), (plots.ORANGE, plots.BLUE)
        plots.curves(right, x, lines, colors=colors, **labels)


if __name__ == "__main__":
    cli(main)
