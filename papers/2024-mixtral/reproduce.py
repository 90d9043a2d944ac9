r"""Do consecutive tokens go to the same expert more often than chance, and more so in later layers?

If experts were drawn independently with shares $p_e$, two neighbors would share one with
probability $\sum_e p_e^2$, which is 1/8 only where the load is even. So each layer is compared with
its own choices in a random order.

Reduced: 4 layers of width 48, 8 experts, trained for some hundred batches on the characters of
Python's manual (the paper: 32 layers, eight domains of text). The rules stand in the front matter
of README.md.

    uv run papers/2024-mixtral/reproduce.py

Jiang et al. (2024), section 5, table 5.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared import datasets, papers, plots
from shared.study import PositiveInt, Run, cli
from week14.ngram import encode_characters
from week18.mixtral import Mixtral, MixtralConfig, balance, mixtures, train

CONTEXT, LAYERS, EXPERTS = 48, 4, 8


def fit(text: Int[Tensor, " n"], vocab_size: int, *, steps: int, seed: int) -> Mixtral:
    """A trained mixture of four layers, balanced."""
    sizes = {"d_model": 48, "n_layers": LAYERS, "n_heads": 4, "n_kv_heads": 1, "d_ff": 64}
    config = MixtralConfig(vocab_size, n_experts=EXPERTS, top_k=2, context=CONTEXT, **sizes)
    generator = torch.Generator().manual_seed(seed)
    model = Mixtral(config, generator)
    options = {"batch_size": 16, "context": CONTEXT, "lr": 1e-2, "generator": generator}
    train(model, text, steps=steps, penalty=lambda m: 0.1 * balance(m), **options)
    return model


@torch.no_grad()
def first_choices(model: Mixtral, text: Int[Tensor, " n"]) -> list[Int[Tensor, "window place"]]:
    """Each layer's first expert for each token of windows that do not overlap."""
    model(text[: len(text) // CONTEXT * CONTEXT].view(-1, CONTEXT))
    return [m.chosen[:, 0].view(-1, CONTEXT) for m in mixtures(model)]


def repeats(chosen: Int[Tensor, "window place"]) -> float:
    """Share of tokens with the expert of the token before."""
    return (chosen[:, 1:] == chosen[:, :-1]).float().mean().item()


def permuted(
    chosen: Int[Tensor, "window place"], times: int, generator: torch.Generator
) -> Float[Tensor, " times"]:
    """`repeats` after putting all tokens in a random order, several times."""
    flat = chosen.flatten()
    orders = (torch.randperm(len(flat), generator=generator) for _ in range(times))
    return torch.tensor([repeats(flat[order].view_as(chosen)) for order in orders])


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 100) -> None:
    """Train, read which experts were chosen, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Models that are trained.
    steps
        Batches of 16 windows that each is trained on.
    """
    paper = papers.load(__file__)
    run.rounding(0.1, "choices of experts flip where sums are rounded in another order")
    torch.set_num_threads(1)
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps = run.budget(quick=2, default=steps, full=5 * steps)
    times = run.budget(quick=20, default=200)
    ids, alphabet = encode_characters(datasets.pydocs_text())
    tokens, split = torch.from_numpy(ids), int(0.9 * len(ids))
    other, generator = tokens[split:][: run.budget(quick=2000, default=16_000)], run.generator(9)
    found, chance, high, again = (torch.zeros(seeds, LAYERS) for _ in range(4))
    for i in run.progress(range(seeds), "training"):
        model = fit(tokens[:split], len(alphabet), steps=steps, seed=run.seed + i)
        for layer, chosen in enumerate(first_choices(model, other)):
            by_chance = permuted(chosen, times, generator)
            found[i, layer], chance[i, layer] = repeats(chosen), by_chance.mean()
            high[i, layer] = by_chance.quantile(0.99)
            again[i, layer] = permuted(chosen, 1, generator)[0]
    late = {"quick": False, "rtol": None}
    later, last = (
        "later layers repeat experts beyond chance",
        "the last layer repeats more than the first",
    )
    excess, none = found - chance, again - chance
    paper.judge(run, later, (found - high)[:, 1:].mean(1), **late)
    run.falsifier("permuted, later layers", (again - high)[:, 1:].mean(1), breaks=later)
    paper.judge(run, last, excess[:, -1] - excess[:, 0], **late)
    run.falsifier("permuted, last and first", none[:, -1] - none[:, 0], breaks=last)
    for layer in range(LAYERS):
        name = f"layer {layer + 1}"
        run.metric(f"repeats, {name}", 100 * found[:, layer].mean(), "%", rtol=0.3)
        run.metric(f"by chance, {name}", 100 * chance[:, layer].mean(), "%", rtol=0.3)
    draw(run, found, chance, paper.matter["paper_repeats"])


def check(run: Run) -> None:
    """Chance by permutation against the formula, and the paper's 46 % for either of two."""
    g = run.generator(5)
    chosen = torch.multinomial(torch.arange(1.0, 9.0), 48_000, True, generator=g).view(-1, CONTEXT)
    shares = chosen.flatten().bincount(minlength=8).double() / chosen.numel()
    formula = run.against("the sum of squared shares", kind="theorem", atol=2e-3, why="sampling")
    mean = permuted(chosen, 20, g).mean()
    formula("neighbors alike by chance", mean, shares.square().sum())
    pairs = torch.rand(2, 200_000, 8, generator=g).topk(2).indices
    share = (pairs[0][..., None] == pairs[1][:, None]).any((1, 2)).float().mean()
    counted = run.against("1 - (6/8)(5/7)", kind="theorem", atol=5e-3, why="sampling")
    counted("either of two experts shared", share, 1 - 6 / 8 * 5 / 7)


def draw(run: Run, found: Tensor, chance: Tensor, paper_repeats: dict) -> None:
    """Repeated experts by layer: the paper's, and ours with chance."""
    title, size = "How often do neighbors share their first expert?", (9.6, 3.8)
    with run.figure("repeats", title, columns=2, size=size) as (left, right):
        level = {"chance if balanced": 12.5}
        label = "repeated first expert, % (the paper, table 5;\nends of the range over domains)"
        plots.bars(left, paper_repeats, reference=level, xlabel=label)
        lines = {"found": 100 * found, "in random order": 100 * chance}
        labels = {"xlabel": "layer (ours)", "ylabel": "repeated first expert, %", "marker": "o"}
        plots.curves(right, range(1, LAYERS + 1), lines, **labels)
        right.set_xticks(range(1, LAYERS + 1))


if __name__ == "__main__":
    cli(main)
