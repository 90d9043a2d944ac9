r"""Is one attention head worse, and are too many? A task that needs two look-ups, h = 1 to 64.

A sequence holds 16 random symbols. Every position asks for two places, each an offset away from
itself around the ring, and one attention layer must answer with both symbols in order. Its width
is d = 64 and a head's is d/h, so that every layer has the same number of parameters:

$$ \mathrm{MultiHead}(x, m) = \mathrm{Concat}(\mathrm{head}_1, …, \mathrm{head}_h) W^O, \qquad
   \mathrm{head}_i = \mathrm{softmax}\left(\frac{x W_i^Q (m W_i^K)^\top}{\sqrt{d/h}}\right)
   m W_i^V . $$

This is not translation: it is the mechanism that the paper names ("with a single attention head,
averaging inhibits this"), in isolation. What counts as reproduced was fixed beforehand in the
front matter of README.md and is read from there.

    uv run papers/2017-attention-is-all-you-need/reproduce.py

Vaswani et al. (2017), "Attention is all you need", sections 3.2.2 and 6.2, table 3 rows (A).
"""

import contextlib
import math
from pathlib import Path

import numpy as np
import torch
import yaml
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from shared import plots
from shared.stats import Interval, bootstrap_interval, paired_bootstrap
from shared.study import PositiveFloat, PositiveInt, Run, cli
from week13.attention import MultiHeadAttention

HEADS = (1, 2, 4, 8, 16, 64)
LENGTH, N_SYMBOLS, D_MODEL = 16, 32, 64
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # the grid of --full, the same for every h
README = Path(__file__).with_name("README.md")

# ---- the rule, fixed before the run


def front_matter(readme: str) -> dict:
    """The YAML between the first two lines of three dashes."""
    parts = readme.split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        raise ValueError("readme must start with front matter between two lines '---', got none")
    return yaml.safe_load(parts[1])


def judge(
    best: Float[np.ndarray, "seed"],
    other: Float[np.ndarray, "seed"],
    margin: float,
    rng: np.random.Generator,
) -> tuple[str, Interval]:
    """Verdict on "best beats other by `margin`", from accuracies paired by seed.

    Reproduced: the mean difference reaches the margin and every seed has its sign; from 8 seeds
    on, a 95% paired-bootstrap interval wholly past the margin does as well. Otherwise inconclusive
    if the interval covers the margin, else not reproduced. With fewer than 8 seeds "reproduced"
    speaks of the direction only: 3 of 3 happens by chance with probability 1/8.
    """
    if margin <= 0:
        raise ValueError(f"margin must be positive, got {margin}")
    interval = paired_bootstrap(best, other, rng=rng)
    same_sign = bool((best > other).all())
    past = len(best) >= 8 and interval.low >= margin
    if interval.mean >= margin and (same_sign or past):
        return "reproduced", interval
    covers = interval.low < margin < interval.high
    return ("inconclusive" if covers else "not reproduced"), interval


def penalty_vanishes(
    best: Float[np.ndarray, "seed"], one_head: Float[np.ndarray, "seed"], margin: float
) -> bool:
    """The falsifier: with one look-up, the mean difference must be smaller than the margin."""
    return bool(abs(np.mean(best - one_head)) < margin)


# ---- the task and the layer


def make_batch(
    n: int, n_lookups: int, generator: torch.Generator
) -> tuple[Int[Tensor, "n length"], Int[Tensor, "n length lookup"], Int[Tensor, "n length lookup"]]:
    """Random symbols, the places each position asks for, and the symbols found there.

    Position i asks for the places (i + o) mod length; the offsets o are uniform, and two of one
    position differ, so that no question can be answered with a single look-up.
    """
    if n_lookups not in (1, 2):
        raise ValueError(f"n_lookups must be 1 or 2, got {n_lookups}")
    symbols = torch.randint(N_SYMBOLS, (n, LENGTH), generator=generator)
    offsets = torch.randint(LENGTH, (n, LENGTH, 1), generator=generator)
    if n_lookups == 2:
        gap = torch.randint(1, LENGTH, (n, LENGTH, 1), generator=generator)
        offsets = torch.cat([offsets, offsets + gap], dim=-1)
    places = (torch.arange(LENGTH)[:, None] + offsets) % LENGTH
    return symbols, places, look_up(symbols, places)


def look_up(
    symbols: Int[Tensor, "n length"], places: Int[Tensor, "n length lookup"]
) -> Int[Tensor, "n length lookup"]:
    """What stands at each place: the right answer."""
    return symbols.gather(1, places.flatten(1)).view_as(places)


class Fetcher(nn.Module):
    """One attention layer between embeddings and a read-out, linear unless `hidden` is positive.

    The question comes as a sum of one learned vector for each look-up, (1st, place 7) + (2nd,
    place 3). The place is i + o already: a score that adds a code of i and a code of o cannot
    point to i + o for every i and o at once (README.md), and modular addition is not the subject.
    """

    def __init__(self, n_heads: int, n_lookups: int, hidden: int = 0):
        super().__init__()
        self.n_lookups = n_lookups
        self.symbol = nn.Embedding(N_SYMBOLS, D_MODEL)
        self.place = nn.Embedding(LENGTH, D_MODEL)
        self.question = nn.Embedding(n_lookups * LENGTH, D_MODEL)
        self.attention = MultiHeadAttention(D_MODEL, n_heads)
        layers = [nn.Linear(D_MODEL, hidden), nn.ReLU()] if hidden else []
        width = hidden or D_MODEL
        self.read_out = nn.Sequential(*layers, nn.Linear(width, n_lookups * N_SYMBOLS))

    def embed(self, symbols: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """The queries (n, length, d_model) and the memory that they look into, same shape."""
        which = LENGTH * torch.arange(self.n_lookups, device=places.device)
        return self.question(places + which).sum(2), self.symbol(symbols) + self.place.weight

    def forward(
        self, symbols: Int[Tensor, "n length"], places: Int[Tensor, "n length lookup"]
    ) -> Float[Tensor, "n length lookup symbol"]:
        """Scores of every symbol for each look-up."""
        x, memory = self.embed(symbols, places)
        return self.read_out(self.attention(x, memory)).unflatten(-1, (self.n_lookups, N_SYMBOLS))


def train(
    n_heads: int,
    *,
    n_lookups: int,
    seed: int,
    lr: float,
    steps: int,
    batch: int = 16,
    hidden: int = 0,
) -> Fetcher:
    """Train on fresh random batches by Adam; lr falls linearly to zero.

    A seed gives every number of heads the same initial parameters and the same batches, so that
    differences are paired.
    """
    torch.manual_seed(seed)
    model = Fetcher(n_heads, n_lookups, hidden)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        symbols, places, targets = make_batch(batch, n_lookups, generator)
        loss = F.cross_entropy(model(symbols, places).flatten(0, 2), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@torch.no_grad()
def accuracy(model: Fetcher, seed: int, n: int = 500) -> Float[np.ndarray, "n"]:
    """Share of positions of each held-out sequence whose symbols are all right."""
    generator = torch.Generator().manual_seed(seed)
    symbols, places, targets = make_batch(n, model.n_lookups, generator)
    right = (model(symbols, places).argmax(-1) == targets).all(-1)
    return right.double().mean(1).numpy()


@torch.no_grad()
def two_heads_by_hand() -> Fetcher:
    """Weights set with pencil and paper that answer every question: no learning involved.

    Head k matches the k-th place asked for, one-hot, with the memory's place and copies the symbol,
    one-hot: 2 · 16 numbers of question, 32 + 16 of memory, 2 · 32 of answer, all within d = 64.
    """
    model = Fetcher(n_heads=2, n_lookups=2)
    for parameter in model.parameters():
        parameter.zero_()
    one_hot_symbol, one_hot_place = torch.eye(N_SYMBOLS), torch.eye(LENGTH)
    model.symbol.weight[:, :N_SYMBOLS] = one_hot_symbol
    model.place.weight[:, N_SYMBOLS : N_SYMBOLS + LENGTH] = one_hot_place
    model.question.weight[:, : 2 * LENGTH] = torch.eye(2 * LENGTH)
    attention, half = model.attention, D_MODEL // 2
    for head in range(2):
        rows = slice(head * half, head * half + LENGTH)
        asked = slice(head * LENGTH, (head + 1) * LENGTH)
        attention.q_proj.weight[rows, asked] = 1000.0 * one_hot_place  # a very sharp softmax
        attention.k_proj.weight[rows, N_SYMBOLS : N_SYMBOLS + LENGTH] = one_hot_place
        attention.v_proj.weight[head * half : (head + 1) * half, :N_SYMBOLS] = one_hot_symbol
    attention.out_proj.weight.copy_(torch.eye(D_MODEL))
    model.read_out[0].weight.copy_(torch.eye(D_MODEL))
    return model


# ---- the experiment


@contextlib.contextmanager
def _one_thread():
    """Matrices this small only lose time to a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check_layer(run: Run) -> None:
    """Our layer against PyTorch's with the same weights, for every h: outputs and gradients."""
    outputs, gradients = [], []  # pairs of ours, theirs
    for h in HEADS:
        torch.manual_seed(run.seed)
        ours = MultiHeadAttention(D_MODEL, h).double()
        theirs = nn.MultiheadAttention(D_MODEL, h, batch_first=True).double()
        projections = (ours.q_proj, ours.k_proj, ours.v_proj)
        with torch.no_grad():
            theirs.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
            theirs.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
            theirs.out_proj.load_state_dict(ours.out_proj.state_dict())
        x, direction = torch.randn(2, 3, LENGTH, D_MODEL, dtype=torch.float64)
        x.requires_grad_()
        future = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1)  # theirs: True is hidden
        padding = torch.arange(LENGTH) >= torch.tensor([[LENGTH], [11], [5]])
        for causal, padded in ((False, False), (True, False), (False, True)):
            y = ours(x, mask=~padding[:, None, None, :] if padded else None, is_causal=causal)
            expected, _ = theirs(
                x, x, x, need_weights=False, attn_mask=future if causal else None,
                key_padding_mask=padding if padded else None,
            )  # fmt: skip
            outputs.append((y, expected))
            weights = [*(p.weight for p in projections), ours.out_proj.weight]
            dx, *d_in, d_out = torch.autograd.grad(y, [x, *weights], direction)
            weights = [theirs.in_proj_weight, theirs.out_proj.weight]
            reference = torch.autograd.grad(expected, [x, *weights], direction)
            gradients += zip((dx, torch.cat(d_in), d_out), reference, strict=True)
    for name, pairs in (("outputs", outputs), ("gradients", gradients)):
        mine, reference = (
            torch.cat([t.detach().flatten() for t in side]) for side in zip(*pairs, strict=True)
        )
        run.check(
            f"layer's {name}, h = {HEADS[0]} to {HEADS[-1]}, no mask, causal and padding",
            mine, reference, against="torch.nn.MultiheadAttention", atol=1e-11,
            why="float64 rounding of sums of about 100 terms; 1e-6 was asked for",
        )  # fmt: skip


def _check_task(run: Run) -> None:
    model = two_heads_by_hand()
    symbols, places, targets = make_batch(run.budget(quick=50, default=1000), 2, run.generator())
    with torch.no_grad():
        answers = model(symbols, places).argmax(-1)
    run.check(
        "two heads with hand-set weights answer every question", answers, targets,
        against="closed form", why="symbols are integers",
    )  # fmt: skip
    counts = [sum(p.numel() for p in Fetcher(h, 2).attention.parameters()) for h in HEADS]
    expected = 4 * (D_MODEL**2 + D_MODEL)
    run.check(
        "parameters of the attention layer, every h", counts, [expected] * len(HEADS),
        against="4(d² + d)", why="a count",
    )  # fmt: skip
    run.metric("parameters of the attention layer", counts[0], rtol=0.0)
    run.metric("parameters in all", sum(p.numel() for p in model.parameters()), rtol=0.0)


def _tune(run: Run, steps: int) -> dict[int, float]:
    """The best learning rate of the grid for every number of heads, on seeds used nowhere else."""
    best = {}
    for h in run.progress(HEADS, "learning rates"):
        scores = [
            _scores(h, 2, [900, 901, 902], held_out=800, lr=lr, steps=steps).mean() for lr in RATES
        ]
        # Several rates may solve the task; the middle one of those is the safest.
        good = np.flatnonzero(np.asarray(scores) >= max(scores) - 0.002)
        best[h] = RATES[int(good[len(good) // 2])]
        run.metric(f"best learning rate, h = {h}", best[h], rtol=None)
    inside = all(RATES[0] < lr < RATES[-1] for lr in best.values())
    run.claim("no best learning rate is at the edge of the grid", inside, f"{best} of {RATES}")
    return best


def _scores(h: int, n_lookups: int, seeds: list[int], held_out: int, **training) -> np.ndarray:
    """Held-out accuracy of one setting, for each seed."""
    models = (train(h, n_lookups=n_lookups, seed=s, **training) for s in seeds)
    return np.array([accuracy(model, held_out).mean() for model in models])


def main(run: Run, *, steps: PositiveInt = 800, lr: PositiveFloat = 3e-3) -> None:
    """Train every number of heads on the same seeds and judge both halves of the claim.

    Parameters
    ----------
    steps
        Training steps of 16 sequences each.
    lr
        Adam's first learning rate, for every h; --full tunes it for each on the same grid.
    """
    paper = front_matter(README.read_text(encoding="utf-8"))
    n_seeds = run.budget(quick=2, default=3, full=8)
    steps = run.budget(quick=15, default=steps)
    _check_layer(run)
    _check_task(run)
    with _one_thread():
        rates = _tune(run, steps) if run.mode == "full" else dict.fromkeys(HEADS, lr)
        seeds = [run.seed + s for s in range(n_seeds)]
        models = {
            h: [train(h, n_lookups=2, seed=s, lr=rates[h], steps=steps) for s in seeds]
            for h in run.progress(HEADS, "two look-ups")
        }
        # The best h is chosen on one held-out set and measured on another.
        chosen = {h: np.mean([accuracy(m, 801).mean() for m in models[h]]) for h in HEADS}
        best = max(HEADS, key=chosen.get)  # the fewest heads of those that tie
        by_sequence = {h: np.stack([accuracy(m, 802) for m in models[h]]) for h in HEADS}
        scores = {h: per.mean(1) for h, per in by_sequence.items()}
        single = {
            h: _scores(h, 1, seeds, held_out=802, lr=rates[h], steps=steps)
            for h in run.progress(sorted({1, best}), "one look-up")
        }
        # The loophole: a hidden layer behind the attention, as every Transformer block has one.
        rescued = [
            train(1, n_lookups=2, seed=s, lr=lr, steps=steps, hidden=4 * D_MODEL) for s in seeds
        ]
        hidden = np.array([accuracy(model, 802).mean() for model in rescued])

    run.metric("accuracy, h = 1 with a ReLU layer behind it", 100 * hidden.mean(), "%", rtol=None)
    _report(run, paper, best, scores, single)
    _noise(run, by_sequence)
    _figure_beside_paper(run, paper, scores, single, hidden)
    shown = {f"h = {h}": models[h][0] for h in (1, 2, HEADS[-1])}
    _figure_weights(run, {**shown, "h = 1, ReLU layer behind": rescued[0]})


def _report(run: Run, paper: dict, best: int, scores: dict, single: dict) -> None:
    for h in HEADS:
        mean = scores[h].mean()
        run.metric(f"accuracy, h = {h}", 100 * mean, "%", rtol=0.02 if mean > 0.95 else None)
    run.metric("best number of heads", best, rtol=None)
    n = len(scores[best])
    strength = "direction only" if n < 8 else "all the rule asks for"
    for rule in paper["rules"]:
        other = scores[rule["heads"]]
        verdict, gap = judge(scores[best], other, rule["margin"] / 100, run.rng)
        run.metric(f"gap of h = {rule['heads']}", 100 * gap.mean, "pp", rtol=None)
        run.verdict(
            rule["name"], verdict,
            f"h = {best} ahead of h = {rule['heads']} by {100 * gap.mean:.1f} pp "
            f"[{100 * gap.low:.1f}, {100 * gap.high:.1f}], margin {rule['margin']} pp, "
            f"right sign {int((scores[best] > other).sum())} of {n} seeds ({strength})",
        )  # fmt: skip
    margin = paper["falsifier"]["margin"]
    gap = 100 * float(np.mean(single[best] - single[1]))
    for h, values in single.items():
        run.metric(f"accuracy with one look-up, h = {h}", 100 * values.mean(), "%", rtol=None)
    run.claim(
        "one head is as good as any where one look-up is enough",
        penalty_vanishes(single[best], single[1], margin / 100),
        f"h = {best} minus h = 1: {gap:+.2f} pp, must stay within ±{margin} pp; {n} seeds",
        quick=False,
    )


def _noise(run: Run, by_sequence: dict) -> None:
    """What the accuracy would do without any effect: sampling, seeds, and guessing."""
    sampling = max((p.std(1, ddof=1) / math.sqrt(p.shape[1])).max() for p in by_sequence.values())
    run.metric("sampling error of an accuracy, largest", 100 * sampling, "pp", rtol=None)
    for h in HEADS:
        spread = by_sequence[h].mean(1).std(ddof=1)
        run.metric(f"SD between seeds, h = {h}", 100 * spread, "pp", rtol=None)
    run.metric("guessing both symbols", 100 / N_SYMBOLS**2, "%", rtol=1e-9)
    run.metric("one symbol right, the other guessed", 100 / N_SYMBOLS, "%", rtol=1e-9)


def _figure_beside_paper(
    run: Run, paper: dict, scores: dict, single: dict, hidden: np.ndarray
) -> None:
    bleu, rng = paper["paper_bleu"], np.random.default_rng(run.seed)
    with run.figure(
        "heads", "Is one head worse, and are too many?", columns=2, size=(9.0, 4.5)
    ) as (left, right):
        left.plot(list(bleu), list(bleu.values()), "o-", color=plots.REFERENCE, mfc="white", ms=7)
        low, high = bleu[1], max(bleu.values())
        left.annotate("", (1, low + 0.03), (1, high), arrowprops={"arrowstyle": "<->", "lw": 1.2})
        left.plot([1, 8], [high, high], ":", color=plots.GRAY, lw=1)
        left.text(1.12, high - 0.14, "0.9 BLEU,\nread in the text", va="top", fontsize=10)
        left.set(ylim=(24.6, 26.0), ylabel="BLEU, English to German, dev set")
        left.set_title("The paper, table 3 (A): translation", fontsize=11, weight="normal")
        left.text(
            0.98, 0.05, "open circles: from memory,\nnot checked against the PDF", ha="right",
            transform=left.transAxes, fontsize=9, color="#666666",
        )  # fmt: skip

        def draw(x, accuracies, style, color, label):
            gaps = [bootstrap_interval(100 * a, rng=rng) for a in accuracies]
            means = np.array([g.mean for g in gaps])
            bars = [[m - g.low for m, g in zip(means, gaps, strict=True)],
                    [g.high - m for m, g in zip(means, gaps, strict=True)]]  # fmt: skip
            right.errorbar(x, means, np.maximum(bars, 0), fmt=style, color=color, capsize=4,
                           mfc="white" if style != "o-" else color, ms=7, label=label)  # fmt: skip

        draw(list(scores), scores.values(), "o-", plots.BLUE, "two look-ups")
        draw(list(single), single.values(), "s--", plots.ORANGE, "one look-up")
        draw([1.13], [hidden], "D", plots.GREEN, "two, ReLU layer behind")
        guess = 100 / N_SYMBOLS
        right.axhline(guess, color=plots.GRAY, ls=":", lw=1.2)
        right.text(8, guess + 1.5, "one right, the other guessed", fontsize=9, color="#666666",
                   ha="center")  # fmt: skip
        right.legend(loc="center", bbox_to_anchor=(0.49, 0.5))
        right.set(ylim=(-2, 107), ylabel="all symbols right, %")
        right.set_title("Here: a task of two look-ups", fontsize=11, weight="normal")
        for axes, ticks in ((left, bleu), (right, HEADS)):
            axes.set_xscale("log", base=2)
            axes.set_xticks(list(ticks), [str(t) for t in ticks])
            axes.minorticks_off()
            axes.set_xlabel("heads h, at equal parameters")


@torch.no_grad()
def _figure_weights(run: Run, models: dict[str, Fetcher]) -> None:
    """How much weight each head puts on the two places asked for."""
    symbols, places, _ = make_batch(30, 2, run.generator(1))
    with run.figure(
        "weights", "Where do the heads look? Each dot is one head at one question",
        columns=len(models), size=(9.6, 3.3), sharex=True, sharey=True,
    ) as axes:  # fmt: skip
        for panel, (name, model) in zip(axes, models.items(), strict=True):
            weights = model.attention.weights(*model.embed(symbols, places))
            places_of = places[:, None].expand(-1, weights.shape[1], -1, -1)
            first, second = weights.gather(-1, places_of).unbind(-1)
            panel.plot([0, 1], [1, 0], ":", color=plots.GRAY, lw=1)
            pick = torch.randperm(first.numel(), generator=run.generator(2))[:900]
            panel.plot(first.flatten()[pick], second.flatten()[pick], "o", ms=3.5, alpha=0.3,
                       color=plots.GREEN if "ReLU" in name else plots.BLUE, mew=0,
                       clip_on=False)  # fmt: skip
            panel.set_title(name, fontsize=10.5, weight="normal")
            panel.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="weight on 1st place")
            panel.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            panel.set_yticks([0, 0.5, 1], ["0", "0.5", "1"])
        axes[0].set_ylabel("weight on 2nd place")


if __name__ == "__main__":
    cli(main)
