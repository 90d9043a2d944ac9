"""Checks, claims and figures of `gradient_accumulation.py`, apart so that it reads alone."""

import copy
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from shared import datasets, plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week13.transformer import Encoder
from week14.minimal_gpt import GPT, GPTConfig
from week14.ngram import encode_characters
from week16.gradient_accumulation import (
    IGNORE,
    accumulate,
    accumulate_mean_of_means,
    dropout_by_sample,
    in_micro_batches,
    noise_scale,
    pad,
    token_loss_sum,
    train_step,
)


def flat_grad(model: nn.Module) -> torch.Tensor:
    """All gradients in one row."""
    return torch.cat([p.grad.flatten() for p in model.parameters()]).clone()


def text_tokens() -> tuple[torch.Tensor, int]:
    """Python's manual as characters, and the size of the alphabet."""
    ids, alphabet = encode_characters(datasets.pydocs_text()[:200_000])
    return torch.from_numpy(ids), len(alphabet)


def small_gpt(vocab: int, generator) -> GPT:
    """One block of width 24."""
    return GPT(GPTConfig(vocab, 48, 1, 2, 24), generator)


def ragged(tokens, n: int, sigma: float, generator, *, mean: int = 16, longest: int = 48) -> list:
    """`n` pieces of text whose lengths are log-normal: mean about `mean`, spread by `sigma`."""
    z = torch.randn(n, generator=generator)
    lengths = (mean * torch.exp(sigma * z - sigma**2 / 2)).round().clamp(1, longest).long() + 1
    starts = torch.randint(len(tokens) - longest - 1, (n,), generator=generator)
    return [tokens[s : s + m] for s, m in zip(starts.tolist(), lengths.tolist(), strict=True)]


# ---- checks


def one_big_batch(model: nn.Module, sequences: list) -> torch.Tensor:
    """The reference: torch's own mean over all tokens of one padded batch, one backward."""
    inputs, targets = pad(sequences)
    model.zero_grad()
    logits = model(inputs).flatten(0, 1)
    loss = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE)
    loss.backward()
    return loss


class Tagger(nn.Module):
    """A model that looks both ways, so that padding has to be masked inside it too."""

    def __init__(self, vocab: int, d_model: int = 16):
        super().__init__()
        self.embed = nn.Embedding(vocab + 1, d_model, padding_idx=vocab)
        self.encoder = Encoder(2, d_model, 2, 32)
        self.head = nn.Linear(d_model, vocab)

    def forward(self, inputs, mask):
        """Logits."""
        return self.head(self.encoder(self.embed(inputs), mask[:, None, None, :]))


def check_gradients(run: Run, micro_batch: int) -> None:
    """Any cut gives the gradient of the big batch, padding masks included."""
    tokens, vocab = text_tokens()
    sequences = ragged(tokens, 13, 0.8, run.generator())
    for dtype, atol in ((torch.float32, 1e-6), (torch.float64, 1e-12)):
        model = small_gpt(vocab, run.generator()).to(dtype)
        result = accumulate(model, in_micro_batches(sequences, micro_batch), token_loss_sum)
        ours = flat_grad(model)
        loss = one_big_batch(model, sequences)
        name = str(dtype).removeprefix("torch.")
        run.check(
            f"gradient of 13 ragged sequences, {name}",
            ours,
            flat_grad(model),
            against="torch, one padded batch",
            atol=atol,
            why=f"{name} rounding: sums in another order",
        )
        run.check(
            f"loss of 13 ragged sequences, {name}",
            result.loss,
            loss,
            against="torch, one padded batch",
            atol=4 * atol,
            why=f"{name} rounding of a loss of about 4 nats",
        )

    model = Tagger(vocab).double()

    def tagging_loss(model, batch):
        mask = batch.targets != IGNORE
        logits = model(torch.where(mask, batch.inputs, vocab), mask)
        targets = batch.targets.flatten()
        return F.cross_entropy(logits.flatten(0, 1), targets, reduction="sum"), mask.sum()

    accumulate(model, in_micro_batches(sequences, micro_batch), tagging_loss)
    ours = flat_grad(model)
    model.zero_grad()
    for s in sequences:  # the reference never pads: one sequence at a time, weighed by hand
        full = torch.ones(1, len(s) - 1, dtype=torch.bool)
        loss = F.cross_entropy(model(s[None, :-1], full)[0], s[1:], reduction="sum")
        (loss / sum(len(s) - 1 for s in sequences)).backward()
    run.check(
        "gradient of an encoder with padding masks, float64",
        ours,
        flat_grad(model),
        against="torch, every sequence alone and unpadded",
        atol=1e-12,
        why="float64 rounding",
    )


def check_steps(run: Run, micro_batch: int) -> None:
    """Ten clipped AdamW steps, accumulated and not."""
    tokens, vocab = text_tokens()
    ours = small_gpt(vocab, run.generator()).double()
    theirs = copy.deepcopy(ours)
    adam = [torch.optim.AdamW(m.parameters(), lr=1e-2, weight_decay=0.1) for m in (ours, theirs)]
    generator, norms, moved = run.generator(1), [], copy.deepcopy(ours)
    for _ in range(10):
        sequences = ragged(tokens, 9, 0.8, generator)
        batches = in_micro_batches(sequences, micro_batch)
        train_step(ours, adam[0], batches, token_loss_sum, max_norm=0.5)
        one_big_batch(theirs, sequences)
        norms.append(nn.utils.clip_grad_norm_(theirs.parameters(), 0.5).item())
        adam[1].step()
    vector = nn.utils.parameters_to_vector
    run.check(
        "weights after 10 clipped AdamW steps, float64",
        vector(ours.parameters()),
        vector(theirs.parameters()),
        against="torch.optim.AdamW on one padded batch",
        atol=1e-11,
        why="float64 rounding; AdamW divides by the root of tiny second moments",
    )
    start = vector(moved.parameters())
    run.claim(
        "those steps are steps: clipping acts, and the weights move",
        min(norms) > 0.5 and (vector(ours.parameters()) - start).abs().max().item() > 0.05,
        f"gradient norms {min(norms):.2f} to {max(norms):.2f} are cut to 0.5",
    )


def check_noise_scale(run: Run) -> None:
    """The estimator against the exact |G|² and tr Σ of a regression whose gradients are a table."""
    rng = np.random.default_rng(run.seed)
    x = torch.from_numpy(rng.normal(size=(500, 6)))
    y = x @ torch.linspace(-1, 1, 6, dtype=torch.float64) + torch.from_numpy(rng.normal(size=500))
    per_sample = -y[:, None] * x  # at weights of zero
    exact_signal = per_sample.mean(0).square().sum().item()
    exact_noise = (per_sample - per_sample.mean(0)).square().sum(1).mean().item()
    k, size, generator = 8, 4, run.generator()
    draws = []
    for _ in range(run.budget(quick=500, default=4000)):
        rows = torch.randint(500, (k, size), generator=generator)
        draws.append(noise_scale(per_sample[rows].mean(dim=1), size)[:2])
    draws = np.array(draws)
    for i, (name, exact) in enumerate((("|G|²", exact_signal), ("tr Σ", exact_noise))):
        error = draws[:, i].std(ddof=1) / math.sqrt(len(draws))
        run.check(
            f"mean estimate of {name}",
            draws[:, i].mean(),
            exact,
            against="all 500 gradients, exactly",
            atol=4 * error,
            why="4 standard errors of the mean of the draws",
        )


# ---- what still notices that the batch was cut


def what_still_notices(run: Run) -> None:
    """Batch norm, dropout and clipping: what depends on the cut."""
    seeds = range(run.seed, run.seed + run.budget(quick=3, default=8))
    norm, dropped, clipped, angle = [], [], [], []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(32, 10, generator=generator, dtype=torch.float64)
        y = torch.randint(3, (32,), generator=generator)
        torch.manual_seed(seed)
        norm.append(
            difference(
                nn.Sequential(
                    nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)
                ).double(),
                x,
                y,
            )
        )
        dropped.append([dropout_difference(x, y, seed, own) for own in (True, False)])
        ratio, cosine = clip_in_pieces(x, y)
        clipped.append(ratio)
        angle.append(cosine)
    dropped = np.array(dropped)
    run.metric("batch norm: relative error of the gradient", np.mean(norm), rtol=0.2)
    run.claim(
        "batch norm sees the cut: its gradient is another, in every seed",
        min(norm) > 0.05,
        f"relative error {mean_interval(norm)} with 8 micro-batches of 4",
    )
    run.claim(
        "dropout agrees if every sample has its generator, and only then",
        bool(dropped[:, 0].max() < 1e-12 and dropped[:, 1].min() > 0.05),
        f"relative error {dropped[:, 0].max():.0e} at most; with one generator for all "
        f"{mean_interval(dropped[:, 1])}",
    )
    run.metric("clipped in pieces: length of the step", np.mean(clipped), "of the limit", rtol=0.1)
    run.claim(
        "clipping every micro-batch is another step, in every seed",
        max(clipped) < 0.95 and max(angle) < 0.999,
        f"the clipped pieces' mean is {mean_interval(clipped)} of the limit long, with a cosine of "
        f"{mean_interval(angle)} to the gradient clipped whole",
    )


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    """Length of a - b in units of b."""
    return ((a - b).norm() / b.norm()).item()


def classify(model, batch):
    """Summed cross-entropy and the number of samples."""
    return F.cross_entropy(model(batch[0]), batch[1], reduction="sum"), len(batch[1])


def difference(model: nn.Module, x, y, pieces: int = 4) -> float:
    """Relative error of the gradient when the samples come in pieces."""
    parts = list(zip(x.split(pieces), y.split(pieces), strict=True))
    accumulate(model, parts, classify)
    ours = flat_grad(model)
    accumulate(model, [(x, y)], classify)
    return relative(ours, flat_grad(model))


def dropout_difference(x, y, seed: int, own: bool) -> float:
    """Relative error of two layers with dropout, the masks drawn by sample or from one stream."""
    torch.manual_seed(seed)
    layers = nn.ModuleList([nn.Linear(10, 16), nn.Linear(16, 16), nn.Linear(16, 3)]).double()

    def gradient(cut: int) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(1000 * seed + i) for i in range(len(x))]
        shared = torch.Generator().manual_seed(seed)

        def loss_sum(model, rows):
            h = x[rows]
            mine = [generators[i] if own else shared for i in rows.tolist()]
            for layer in model[:2]:
                h = dropout_by_sample(layer(h).relu(), 0.3, mine)
            return F.cross_entropy(model[2](h), y[rows], reduction="sum"), len(rows)

        accumulate(layers, torch.arange(len(x)).split(cut), loss_sum)
        return flat_grad(layers)

    return relative(gradient(4), gradient(len(x)))


def clip_in_pieces(x, y, max_norm: float = 0.1) -> tuple[float, float]:
    """Length, in units of the limit, of the mean of clipped pieces, and its cosine to the truth."""
    model = nn.Linear(10, 3).double()
    total = 0.0
    for part in zip(x.split(4), y.split(4), strict=True):
        accumulate(model, [part], classify)
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        total = total + flat_grad(model) * len(part[0]) / len(x)
    accumulate(model, [(x, y)], classify)
    right = flat_grad(model)
    return (total.norm() / max_norm).item(), F.cosine_similarity(total, right, dim=0).item()


# ---- failure on display: the mean of means


class Unigram(nn.Module):
    """Logits that do not depend on anything: its best loss is an entropy, known exactly."""

    def __init__(self, vocab: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(vocab, dtype=torch.float64))

    def forward(self, tokens):
        """The same logits everywhere."""
        return self.logits.expand(*tokens.shape, -1)


def gradient_error(run: Run, model, sequences: list) -> tuple[float, float, torch.Tensor]:
    """Imbalance (cv of the token counts), relative error, and the error minus its theory."""
    batches = in_micro_batches(sequences, 1)
    accumulate(model, batches, token_loss_sum)
    right = flat_grad(model)
    accumulate_mean_of_means(model, batches, token_loss_sum)
    error = flat_grad(model) - right
    parts, counts = [], []
    for batch in batches:
        counts.append(accumulate(model, [batch], token_loss_sum).weight)
        parts.append(flat_grad(model))
    counts = torch.tensor(counts, dtype=error.dtype)
    by_count = (counts - counts.mean())[:, None] * torch.stack(parts)
    theory = -by_count.mean(dim=0) / counts.mean()
    cv = (counts.std(correction=0) / counts.mean()).item()
    return cv, (error.norm() / right.norm()).item(), torch.stack([error, theory])


def show_mean_of_means(run: Run) -> None:
    """The bias against the imbalance, and where training ends."""
    tokens, vocab = text_tokens()
    model = small_gpt(vocab, run.generator()).double()
    adam = torch.optim.AdamW(model.parameters(), lr=1e-2)
    generator = run.generator(2)
    for _ in range(run.budget(quick=5, default=40)):  # a few steps in, as most of training is
        batch = in_micro_batches(ragged(tokens, 16, 0.5, generator), 16)
        train_step(model, adam, batch, token_loss_sum, max_norm=1.0)
    points = []
    for sigma in run.budget(quick=(0.0, 0.8), default=(0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)):
        for _ in range(run.budget(quick=2, default=6)):
            cv, error, both = gradient_error(run, model, ragged(tokens, 16, sigma, generator))
            points.append((cv, error))
    run.check(
        "error of the mean of means, last batch",
        both[0],
        both[1].numpy().copy(),
        against="- Cov(tokens, mean gradient) / mean tokens",
        atol=1e-12,
        why="float64 rounding",
    )
    points = np.array(points)
    uneven = points[points[:, 0] > 0.5]
    run.metric("gradient error at an imbalance above 0.5", uneven[:, 1].mean(), rtol=0.3)
    run.claim(
        "equal lengths hide the mistake, unequal lengths show it",
        bool(points[points[:, 0] == 0, 1].max() < 1e-12 and uneven[:, 1].min() > 0.1),
        f"relative error {points[points[:, 0] == 0, 1].max():.0e} with equal lengths; "
        f"{uneven[:, 1].min():.2f} to {uneven[:, 1].max():.2f} where the counts vary by more than "
        f"half their mean ({len(uneven)} batches)",
    )

    # Where training ends. One sequence says mostly "a"; one mostly "b", and is r times longer.
    ratios, ends = run.budget(quick=(1, 4), default=(1, 2, 4, 8, 16)), []
    a = torch.tensor([0] * 7 + [1] * 2)
    b = torch.tensor([0] * 2 + [1] * 6)
    for r in ratios:
        # the first token is input only: every sequence begins with one that is never a target
        start = torch.zeros(1, dtype=torch.long)
        sequences = [torch.cat([start, a]), torch.cat([start, b.repeat(r)])]
        p, q = token_share(a, b, r), (token_share(a, b, 0) + token_share(b, a, 0)) / 2
        excess = float((p * (p / q).log()).sum())  # KL(tokens ‖ mean of the sequences' means)
        got = []
        for function in (accumulate, accumulate_mean_of_means):
            unigram = Unigram(2)
            for _ in range(200):
                function(unigram, in_micro_batches(sequences, 1), token_loss_sum)
                with torch.no_grad():
                    unigram.logits -= 2.0 * unigram.logits.grad
            loss = accumulate(unigram, in_micro_batches(sequences, 1), token_loss_sum).loss
            got.append(loss + float((p * p.log()).sum()))
        ends.append((excess, *got))
    ends = np.array(ends)
    run.check(
        "excess loss that the mean of means ends with",
        ends[:, 2],
        ends[:, 0].copy(),
        against="KL(token shares ‖ mean of sequence shares)",
        atol=1e-10,
        why="200 steps of a convex problem in two numbers",
    )
    run.check(
        "excess loss of the token-weighted gradient",
        ends[:, 1],
        np.zeros(len(ends)),
        against="the entropy of the token shares",
        atol=1e-10,
        why="200 steps of a convex problem in two numbers",
    )
    draw_mean_of_means(run, points, ratios, ends)


def token_share(a, b, r: int) -> torch.Tensor:
    """Shares of the two tokens in a and r times b."""
    counts = torch.bincount(torch.cat([a, b.repeat(r)]), minlength=2).double()
    return counts / counts.sum()


def draw_mean_of_means(run: Run, points, ratios, ends) -> None:
    """Error of the gradient, and excess loss."""
    title = "A mean of means is another gradient, and leads to another place"
    with run.figure("mean_of_means", title, 1, 2, size=(9.0, 4.2)) as axes:
        axes[0].scatter(*(100 * points.T), s=22, color=plots.ORANGE, alpha=0.7, linewidth=0)
        axes[0].axhline(0, color=plots.BLUE)
        top = 100 * points[:, 1].max()
        axes[0].text(
            points[:, 0].max() * 100,
            -0.03 * top,
            "token-weighted: exact",
            ha="right",
            va="top",
            color=plots.BLUE,
        )
        axes[0].text(0.03, 0.93, "mean of means", transform=axes[0].transAxes, color=plots.ORANGE)
        axes[0].set(
            xlabel="imbalance: spread of token counts (% of their mean)",
            ylabel="error of the gradient (% of its length)",
            ylim=(-0.12 * top, 1.12 * top),
        )
        axes[1].plot(ratios, ends[:, 0], color=plots.REFERENCE, lw=1, ls="--")
        axes[1].plot(ratios, ends[:, 2], "o", color=plots.ORANGE)
        axes[1].plot(ratios, ends[:, 1], "o-", color=plots.BLUE)
        axes[1].set_xscale("log", base=2)
        axes[1].set_xticks(ratios, [str(r) for r in ratios])
        high = ends[:, 0].max()
        axes[1].set(
            xlabel="length of the long sequences / of the short ones",
            ylabel="loss above the best possible (nats/token)",
            ylim=(-0.12 * high, 1.12 * high),
        )
        axes[1].text(
            0.03,
            0.93,
            "mean of means\n(dashed: theory, KL divergence)",
            va="center",
            transform=axes[1].transAxes,
            color=plots.ORANGE,
        )
        axes[1].text(
            ratios[-1], -0.03 * high, "token-weighted", ha="right", va="top", color=plots.BLUE
        )


# ---- it trains, and the noise scale grows


def learn(run: Run, micro_batch: int) -> None:
    """Accumulated steps learn; with shuffled targets they do not; noise takes over as they do."""
    tokens, vocab = text_tokens()
    steps = run.budget(quick=20, default=150)
    losses, first, last = {"text": [], "shuffled": []}, [], []
    for seed in range(run.seed, run.seed + run.budget(quick=2, default=5)):
        for arm in losses:
            text = tokens
            if arm == "shuffled":  # the same characters, no order to learn
                order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
                text = tokens[order]
            generator = torch.Generator().manual_seed(seed)
            model = small_gpt(vocab, generator)
            adam = torch.optim.AdamW(model.parameters(), lr=1e-2)
            curve = []
            if arm == "text":
                first.append(measured_noise_scale(model, tokens, generator))
            for _ in range(steps):
                batches = in_micro_batches(ragged(text, 8, 0.5, generator), micro_batch)
                curve.append(train_step(model, adam, batches, token_loss_sum, max_norm=1.0).loss)
            losses[arm].append(np.mean(curve[-steps // 5 :]))
            if arm == "text":
                last.append(measured_noise_scale(model, tokens, generator))
    counts = np.bincount(tokens.numpy())
    shares = counts[counts > 0] / counts.sum()
    entropy = float(-(shares * np.log(shares)).sum())
    run.claim(
        "accumulated steps learn the order of characters; without an order they do not",
        bool(max(losses["text"]) < entropy - 0.3 and min(losses["shuffled"]) > entropy - 0.1),
        f"loss of the last fifth {mean_interval(losses['text'])}, on shuffled text "
        f"{mean_interval(losses['shuffled'])}, entropy of the characters {entropy:.2f} nats",
        quick=False,
    )
    growth = [b / a for a, b in zip(first, last, strict=True)]
    run.metric("noise scale before training", np.median(first), "sequences", rtol=0.5)
    run.metric("noise scale after training", np.median(last), "sequences", rtol=0.5)
    run.claim(
        "the noise scale grows as the model learns, in every seed",
        min(growth) > 2,
        f"from {np.median(first):.2g} to {np.median(last):.2g} sequences of 16 characters "
        f"(medians), at least {min(growth):.1f} times, n = {len(growth)} seeds",
        quick=False,
    )


def measured_noise_scale(model: GPT, tokens, generator, k: int = 64, size: int = 2) -> float:
    """B_simple from k micro-batches of sequences of equal length, at one point of training."""
    rows = []
    for _ in range(k):
        accumulate(model, [pad(ragged(tokens, size, 0.0, generator))], token_loss_sum)
        rows.append(flat_grad(model))
    return noise_scale(torch.stack(rows), size).samples


def main(run: Run, *, micro_batch: PositiveInt = 2) -> None:
    """Take the big batch's steps in pieces, then take them wrongly and measure by how much.

    Parameters
    ----------
    micro_batch
        Sequences in a micro-batch.
    """
    check_gradients(run, micro_batch)
    check_steps(run, micro_batch)
    check_noise_scale(run)
    what_still_notices(run)
    show_mean_of_means(run)
    learn(run, micro_batch)
