"""Accumulated steps against one big batch; the mean of means; the noise scale as a model learns."""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week14.minimal_gpt import GPT, GPTConfig
from week14.ngram import encode_characters
from week16.evidence.gradient_accumulation_cut import what_still_notices
from week16.evidence.gradients import flat_grad
from week16.gradient_accumulation import (
    IGNORE,
    accumulate,
    accumulate_mean_of_means,
    in_micro_batches,
    noise_scale,
    pad,
    token_loss_sum,
    train_step,
)


def main(run: Run, *, micro_batch: PositiveInt = 2) -> None:
    """Take the big batch's steps in pieces, then take them wrongly and measure by how much.

    Parameters
    ----------
    micro_batch
        Sequences in a micro-batch.
    """
    text = Text(run)
    check_steps(run, text, micro_batch)
    what_still_notices(run)
    points = mean_of_means(run, text)
    draw_mean_of_means(run, points, *where_training_ends(run))
    learn(run, text, micro_batch)


class Text:
    """Python's manual as characters, pieces of it, and models for it."""

    def __init__(self, run: Run):
        ids, alphabet = encode_characters(datasets.pydocs_text()[:200_000])
        self.tokens, self.vocab_size = torch.from_numpy(ids), len(alphabet)

    def gpt(self, generator: torch.Generator) -> GPT:
        """One block of width 24."""
        sizes = {"context": 48, "n_layers": 1, "n_heads": 2, "d_model": 24}
        return GPT(GPTConfig(self.vocab_size, **sizes), generator)

    def ragged(
        self, n: int, sigma: float, generator: torch.Generator, tokens: Tensor | None = None
    ) -> list[Int[Tensor, "..."]]:
        """`n` pieces of log-normal lengths: 16 in the mean, spread by `sigma`, at most 48."""
        tokens = self.tokens if tokens is None else tokens
        z = torch.randn(n, generator=generator)
        lengths = (16 * torch.exp(sigma * z - sigma**2 / 2)).round().clamp(1, 48).long() + 1
        starts = torch.randint(len(tokens) - 49, (n,), generator=generator)
        return [tokens[s : s + m] for s, m in zip(starts, lengths, strict=True)]


# ---- checks


def one_big_batch(model: nn.Module, sequences: list) -> Float[Tensor, ""]:
    """The reference: torch's own mean over all tokens of one padded batch, one backward."""
    inputs, targets = pad(sequences)
    model.zero_grad()
    logits = model(inputs).flatten(0, 1)
    loss = F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE)
    loss.backward()
    return loss


def check_steps(run: Run, text: Text, micro_batch: int) -> None:
    """The gradient of ragged sequences in pieces, then ten clipped AdamW steps, against torch's."""
    ours, sequences = text.gpt(run.generator()).double(), text.ragged(13, 0.8, run.generator())
    theirs = copy.deepcopy(ours)
    result = accumulate(ours, in_micro_batches(sequences, micro_batch), token_loss_sum)
    loss = one_big_batch(theirs, sequences)
    equal = run.against("torch, one padded batch", atol=1e-12, why="float64 rounding")
    equal("gradient of 13 ragged sequences", flat_grad(ours), flat_grad(theirs))
    equal("loss of 13 ragged sequences", result.loss, loss, atol=4e-12)

    adam = [torch.optim.AdamW(m.parameters(), lr=1e-2, weight_decay=0.1) for m in (ours, theirs)]
    generator, norms = run.generator(1), []
    for _ in range(10):
        sequences = text.ragged(9, 0.8, generator)
        batches = in_micro_batches(sequences, micro_batch)
        train_step(ours, adam[0], batches, token_loss_sum, max_norm=0.5)
        one_big_batch(theirs, sequences)
        norms.append(nn.utils.clip_grad_norm_(theirs.parameters(), 0.5).item())
        adam[1].step()
    vector = nn.utils.parameters_to_vector
    why = "float64 rounding; AdamW divides by the root of tiny second moments"
    equal = run.against("torch.optim.AdamW on one padded batch", atol=1e-11, why=why)
    name = "weights after 10 clipped AdamW steps, float64"
    equal(name, vector(ours.parameters()), vector(theirs.parameters()))
    run.claim("clipping acts in each of those steps", norms, at_least=0.5, each=True)


# ---- failure on display: the mean of means


class Unigram(nn.Module):
    """Logits that do not depend on anything: its best loss is an entropy, known exactly."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(vocab_size, dtype=torch.float64))

    def forward(self, tokens):
        """The same logits everywhere."""
        return self.logits.expand(*tokens.shape, -1)


def gradient_error(
    model: nn.Module, sequences: list
) -> tuple[float, float, Float[Tensor, "error_and_theory parameter"]]:
    """Imbalance (spread of token counts over their mean), relative error; error and its theory."""
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
    covariance = ((counts - counts.mean())[:, None] * torch.stack(parts)).mean(dim=0)
    spread = (counts.std(correction=0) / counts.mean()).item()
    both = torch.stack([error, -covariance / counts.mean()])
    return spread, (error.norm() / right.norm()).item(), both


def mean_of_means(run: Run, text: Text) -> Float[np.ndarray, "batch spread_and_error"]:
    """The bias of the gradient against the imbalance, some steps into training."""
    model, generator = text.gpt(run.generator()).double(), run.generator(2)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(run.budget(quick=3, default=40)):
        batch = in_micro_batches(text.ragged(16, 0.5, generator), 16)
        train_step(model, adam, batch, token_loss_sum, max_norm=1.0)
    points = []
    for sigma in run.budget(quick=(0.0, 1.2), default=(0.0, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)):
        for _ in range(run.budget(quick=3, default=6)):
            *point, both = gradient_error(model, text.ragged(16, sigma, generator))
            points.append(point)
    theory = "- Cov(tokens, mean gradient) / mean tokens"
    equal = run.against(theory, kind="theorem", atol=1e-12, why="float64 rounding")
    equal("error of the mean of means, last batch", *both)
    points = np.array(points)
    even, uneven = (points[at, 1] for at in (points[:, 0] == 0, points[:, 0] > 0.5))
    hidden, shown = "equal lengths hide the mistake", "unequal lengths show the mistake"
    run.claim(hidden, even, at_most=1e-12, unit="of the gradient")
    run.falsifier("token counts that vary by more than half their mean", uneven, breaks=hidden)
    note = "where the counts vary by more than half their mean"
    run.claim(shown, uneven, at_least=0.1, unit="of the gradient", note=note)
    return points


def where_training_ends(run: Run) -> tuple[tuple[int, ...], Float[np.ndarray, "ratio 3"]]:
    """One sequence says mostly "a"; one mostly "b", and is r times longer.

    Returns
    -------
    ratios, excess
        Loss above the best possible: by theory for the mean of means, and where both arms end.
    """
    ratios, ends = run.budget(quick=(1, 4), default=(1, 2, 4, 8, 16)), []
    a, b = torch.tensor([0] * 7 + [1] * 2), torch.tensor([0] * 2 + [1] * 6)

    def share(*parts: Tensor) -> Float[Tensor, "2"]:
        return torch.bincount(torch.cat(parts), minlength=2).double() / sum(map(len, parts))

    first = torch.zeros(1, dtype=torch.long)  # an input only, never a target
    for r in ratios:
        pieces = in_micro_batches([torch.cat([first, a]), torch.cat([first, b.repeat(r)])], 1)
        p, q = share(a, b.repeat(r)), (share(a) + share(b)) / 2
        row = [float((p * (p / q).log()).sum())]  # KL(tokens ‖ mean of the sequences' shares)
        for average in (accumulate_mean_of_means, accumulate):
            model = Unigram(2)
            for _ in range(200):
                average(model, pieces, token_loss_sum)
                with torch.no_grad():
                    model.logits -= 2.0 * model.logits.grad
            loss = accumulate(model, pieces, token_loss_sum).loss
            row.append(loss + float((p * p.log()).sum()))
        ends.append(row)
    ends = np.array(ends)
    why = "200 steps of a convex problem in two numbers"
    law = {"kind": "theorem", "atol": 1e-10, "why": why}
    divergence = run.against("KL(token shares ‖ mean of sequence shares)", **law)
    divergence("excess loss that the mean of means ends with", ends[:, 1], ends[:, 0].copy())
    entropy = run.against("the entropy of the token shares", **law)
    entropy("excess loss of the token-weighted gradient", ends[:, 2], np.zeros(len(ends)))
    return ratios, ends


def draw_mean_of_means(run: Run, points, ratios, ends) -> None:
    """Error of the gradient, and excess loss."""
    title = "A mean of means is another gradient, and leads to another place"
    with run.figure("mean_of_means", title, 1, 2, size=(10.0, 4.2)) as (left, right):
        left.scatter(*(100 * points.T), s=22, color=plots.ORANGE, alpha=0.7, linewidth=0)
        left.set(xlabel="spread of token counts (% of their mean)")
        left.set(ylabel="error of the gradient (% of its length)")
        plots.reference_line(left, 0, "token-weighted: exact")
        lines = {"mean of means": ends[:, 1], "token-weighted": ends[:, 2]}
        labels = {"xlabel": "length of the long sequences / of the short ones"}
        labels["ylabel"] = "loss above the best (nats/token)"
        right.set_xscale("log", base=2)
        right.plot(ratios, ends[:, 0], "--", color=plots.REFERENCE, label="theory: KL", zorder=3)
        colors = (plots.ORANGE, plots.BLUE)
        plots.curves(right, ratios, lines, colors=colors, marker="o", ends=False, **labels)
        right.set_xticks(ratios, map(str, ratios))


# ---- it trains, and the noise scale grows


def learn(run: Run, text: Text, micro_batch: int) -> None:
    """Accumulated steps learn; from shuffled text they do not; noise takes over as they do."""
    steps, pieces = run.budget(quick=5, default=300), run.budget(quick=8, default=64)
    losses, noise = {"text": [], "shuffled": []}, []
    for seed in range(run.seed, run.seed + run.budget(quick=2, default=5)):
        for arm in losses:
            generator = torch.Generator().manual_seed(seed)
            order = torch.randperm(len(text.tokens), generator=generator)
            tokens = text.tokens[order] if arm == "shuffled" else text.tokens
            model = text.gpt(generator)
            adam = torch.optim.AdamW(model.parameters(), lr=1e-2)
            at_first, curve = measured_noise_scale(model, text, generator, pieces), []
            for _ in range(steps):
                sequences = text.ragged(8, 0.5, generator, tokens)
                batches = in_micro_batches(sequences, micro_batch)
                curve.append(train_step(model, adam, batches, token_loss_sum, max_norm=1.0).loss)
            losses[arm].append(np.mean(curve[-steps // 5 :]))
            if arm == "text":
                noise.append([at_first, measured_noise_scale(model, text, generator, pieces)])
    shares = torch.bincount(text.tokens) / len(text.tokens)
    entropy = -float(torch.special.xlogy(shares, shares).sum())
    learned, control = (entropy - np.array(losses[arm]) for arm in losses)
    rule = {"unit": "nats below the entropy of single characters", "quick": False}
    rule["seen_before"] = "0.4 ± 0.2 after half as many steps"
    name = "accumulated steps learn the order of characters"
    run.claim(name, learned, at_least=0.3, **rule)
    run.falsifier("characters without an order", control, breaks=name)
    first, last = np.array(noise).T
    before, after = np.median(first), np.median(last)
    run.metric("noise scale before training", before, "sequences", rtol=0.5)
    run.metric("noise scale after training", after, "sequences", rtol=0.5)
    name = "the noise scale grows as the model learns"
    run.claim(name, last / first, at_least=2, unit="times", quick=False)


def measured_noise_scale(model: GPT, text: Text, generator: torch.Generator, k: int) -> float:
    """B_simple from k micro-batches of 2 sequences of equal length, at one point of training."""
    rows = []
    for _ in range(k):
        accumulate(model, [pad(text.ragged(2, 0.0, generator))], token_loss_sum)
        rows.append(flat_grad(model))
    return noise_scale(torch.stack(rows), 2).samples
