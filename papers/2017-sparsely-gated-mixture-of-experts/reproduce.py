r"""Do a few experts take all the load without a balancing loss, and is the model worse for it?

Gates choose the k best of $x W_g + \mathrm{noise} \cdot \mathrm{softplus}(x W_n)$. Two losses ask
for balance: of the experts' summed weights (importance) and of the tokens they may expect (load),

$$ L = w_i\, \mathrm{CV}(\mathrm{importance})^2 + w_l\, \mathrm{CV}(\mathrm{load})^2 . $$

Reduced: two layers of width 48 with 8 experts, two for each token, on the characters of Python's
manual (the paper: one layer of 256 experts, four for each word, between LSTM layers). With two of 8
the busiest expert can have 4 times the mean, and not the paper's 17.8. The rules stand in the front
matter of README.md.

    uv run papers/2017-sparsely-gated-mixture-of-experts/reproduce.py

Shazeer et al. (2017), sections 2.1 and 4, appendix A, table 6.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from shared import datasets, papers, plots
from shared.study import PositiveInt, Run, cli
from week14.ngram import encode_characters
from week18.experts import cv_squared, expected_load, noisy_logits
from week18.mixtral import Mixtral, MixtralConfig, mixtures, spread_out, train

CONTEXT, LAST = 48, 10
ARMS = {"none": (0.0, 0.0), "importance": (0.2, 0.0), "load": (0.0, 0.2), "both": (0.1, 0.1)}


def make(vocab_size: int, seed: int, *, frozen: bool = False) -> Mixtral:
    """Two layers of noisy experts; all arms of a seed start alike."""
    sizes = {"d_model": 48, "n_heads": 4, "n_kv_heads": 1, "d_ff": 64, "context": CONTEXT}
    config = MixtralConfig(vocab_size, n_experts=8, top_k=2, noisy=True, **sizes)
    model = Mixtral(config, torch.Generator().manual_seed(seed))
    if frozen:
        for m in mixtures(model):
            m.router.requires_grad_(False)
            m.spread.requires_grad_(False)
    return model


def fit(
    text: Int[Tensor, " n"], vocab_size: int, arm: str, *, steps: int, seed: int
) -> tuple[Mixtral, Float[Tensor, "step layer expert"]]:
    """A trained model and its experts' load in each batch; ``frozen`` never moves its gate."""
    model = make(vocab_size, seed, frozen=arm == "frozen")
    weights = ARMS.get(arm, (0.0, 0.0))
    penalty = (lambda m: spread_out(m, *weights)) if any(weights) else None
    generator = torch.Generator().manual_seed(100 + seed)
    options = {"batch_size": 16, "context": CONTEXT, "lr": 1e-2, "generator": generator}
    _, loads = train(model, text, steps=steps, penalty=penalty, **options)
    return model, loads


def busiest(loads: Float[Tensor, "step layer expert"]) -> float:
    """Largest over mean load of the last ten batches, mean of the layers."""
    late = loads[-LAST:].mean(0)
    return (late.max(-1).values / late.mean(-1)).mean().item()


@torch.no_grad()
def loss_on(model: Mixtral, text: Int[Tensor, " n"]) -> float:
    """Nats per character on windows that do not overlap, gates without noise."""
    n = (len(text) - 1) // CONTEXT
    x, y = (text[i : n * CONTEXT + i].view(n, CONTEXT) for i in (0, 1))
    return F.cross_entropy(model(x).transpose(1, 2), y).item()


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 100) -> None:
    """Train with no balancing loss, with either and with both; judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Seeds of the verdict.
    steps
        Batches of 16 windows that each model is trained on.
    """
    paper = papers.load(__file__)
    run.rounding(0.1, "choices of experts flip where sums are rounded in another order")
    torch.set_num_threads(1)
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps = run.budget(quick=3, default=steps, full=5 * steps)
    ids, alphabet = encode_characters(datasets.pydocs_text())
    tokens, split = torch.from_numpy(ids), int(0.9 * len(ids))
    other = tokens[split:][: run.budget(quick=2000, default=16_000)]
    ratios: dict[str, list] = {arm: [] for arm in (*ARMS, "frozen")}
    losses: dict[str, list] = {arm: [] for arm in (*ARMS, "frozen")}
    for seed in run.progress(range(run.seed, run.seed + seeds), "training"):
        for arm in ratios:
            model, loads = fit(tokens[:split], len(alphabet), arm, steps=steps, seed=seed)
            ratios[arm].append(busiest(loads))
            losses[arm].append(loss_on(model, other))
    judge(run, paper, *(as_tensors(table) for table in (ratios, losses)))
    n = 16 * CONTEXT * min(LAST, steps)
    run.metric("busiest of a fair draw", fair_draw(n, run.generator()), "times the mean", rtol=0.05)
    draw(run, ratios, paper.matter["paper_loads"])


def as_tensors(table: dict[str, list]) -> dict[str, Tensor]:
    """Lists by arm as float64 tensors."""
    return {arm: torch.tensor(values, dtype=torch.float64) for arm, values in table.items()}


def judge(run: Run, paper: papers.Paper, ratios: dict, losses: dict) -> None:
    """Loads and losses, paired by seed."""
    late = {"quick": False, "rtol": None}
    first = "without the losses a few experts take the load"
    paper.judge(run, first, ratios["none"] / ratios["both"], **late)
    run.falsifier("a frozen gate", ratios["frozen"] / ratios["both"], breaks=first)
    paper.judge(run, "with both losses the load is even", ratios["both"], **late)
    alone = torch.maximum(ratios["importance"], ratios["load"])
    paper.judge(run, "either loss alone is enough", alone, **late)
    gained = losses["none"] - losses["both"]
    paper.judge(run, "balance does not cost loss", -gained, **late)
    paper.judge(run, "balance lowers the loss", gained, **late)
    for arm in ratios:
        run.metric(f"busiest, {arm}", ratios[arm].mean(), "times the mean", rtol=0.3)
        run.metric(f"loss, {arm}", losses[arm].mean(), "nats/char", rtol=0.1)


def fair_draw(n: int, generator: torch.Generator) -> float:
    """The same ratio where each of n tokens picks two of 8 at random: the sampling floor."""
    ratios = []
    for _ in range(20):
        counts = torch.rand(n, 8, generator=generator).topk(2).indices.flatten().bincount()
        ratios.append(counts.max() / (n / 4))
    return torch.stack(ratios).mean().item()


def check(run: Run) -> None:
    """The load's formula against drawing the noise of one expert many times."""
    g, n = run.generator(7), 40_000
    clean, spread = torch.randn(3, 6, generator=g), 0.3 + torch.rand(3, 6, generator=g)
    noisy = noisy_logits(clean, spread, g)
    found, counted = expected_load(clean, noisy, spread, 2), torch.zeros(6)
    for expert in range(6):
        again = noisy.repeat(n, 1, 1)
        again[..., expert] = clean[:, expert] + spread[:, expert] * torch.randn(n, 3, generator=g)
        counted[expert] = (again.topk(2).indices == expert).float().sum((1, 2)).mean()
    why = "five standard errors of the mean of 40,000 draws of three coins"
    drawn = run.against("drawing each expert's noise anew", kind="theorem", atol=0.022, why=why)
    drawn("expected load", found, counted)
    x = torch.tensor([1.0, 2.0, 3.0, 6.0])
    by_hand = run.against("3.5 / 9", kind="theorem", atol=1e-6, why="float32 rounding")
    by_hand("squared coefficient of variation of 1, 2, 3, 6", cv_squared(x), 3.5 / 9)


def draw(run: Run, ratios: dict, paper_loads: dict) -> None:
    """The paper's loads and ours, on axes of their own."""
    title, size = "How much more than its share does the busiest expert do?", (9.6, 3.8)
    with run.figure("loads", title, columns=2, size=size) as (left, right):
        plots.bars(left, paper_loads, xlabel="largest over mean load\n(the paper, table 6)")
        level = {"most possible": 4.0}
        plots.bars(right, ratios, reference=level, xlabel="largest over mean load\n(ours)")


if __name__ == "__main__":
    cli(main)
