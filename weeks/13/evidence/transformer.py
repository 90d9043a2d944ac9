"""Checks, claims and figures of transformer."""

import math

import torch
from torch import Tensor, nn

from shared import plots
from shared.study import PositiveInt, Run
from week13.transformer import (
    BOS,
    EOS,
    FIRST_DIGIT,
    N_TOKENS,
    PAD,
    TorchTransformer,
    Transformer,
    WithoutPaddingMask,
    cross_attention_map,
    cross_entropy,
    exact_match,
    reversal_batch,
    torch_names,
    train_reversal,
)


def main(run: Run, *, seeds: PositiveInt = 3) -> None:
    """Check every block against torch, then learn to write backwards.

    Parameters
    ----------
    seeds
        Models in each setting.
    """
    for norm_first in (True, False):
        _check_blocks(run, norm_first)
    _check_training(run)
    steps, seeds = run.budget(quick=15, default=400), run.budget(quick=1, default=seeds)
    settings = {
        "reversal": {},
        "targets shuffled": {"shuffled": True},
        "no padding mask": {"kind": WithoutPaddingMask},
    }
    models = {
        name: [train_reversal(steps, run.seed + s, **setting) for s in range(seeds)]
        for name, setting in settings.items()
    }
    accuracy = {
        name: [exact_match(model, s) for s, (model, _) in enumerate(runs)]
        for name, runs in models.items()
    }
    for name, values in accuracy.items():
        run.metric(f"exact match, {name}", sum(values) / seeds, rtol=None)
    losses = {name: torch.tensor([x for _, x in runs]) for name, runs in models.items()}
    window = min(50, steps // 3)
    start, end = losses["reversal"][:, :window], losses["reversal"][:, -window:]
    fall, noise = (start.mean(1) - end.mean(1)).min().item(), end.std(1).max().item()
    run.claim(
        "it trains",
        fall > 10 * noise and min(accuracy["reversal"]) >= 0.95,
        f"the loss falls by {fall:.2f} nats (noise {noise:.3f}); exact match "
        f"{min(accuracy['reversal']):.3f} to {max(accuracy['reversal']):.3f}, {seeds} seeds",
        quick=False,
    )
    run.claim(
        "shuffled targets cannot be learned",
        max(accuracy["targets shuffled"]) <= 0.01,
        f"exact match {max(accuracy['targets shuffled']):.3f} at most",
    )
    padding = [0, 1, 2, 4, 8, 16]
    padded = {
        name: [
            [exact_match(m, s, extra_padding=p, n=200) for p in padding]
            for s, (m, _) in enumerate(models[name])
        ]
        for name in ("reversal", "no padding mask")
    }
    drop = {name: [row[0] - row[-1] for row in rows] for name, rows in padded.items()}
    run.claim(
        "without its mask, padding changes the answer",
        max(map(abs, drop["reversal"])) <= 0.02 and min(drop["no padding mask"]) >= 0.2,
        f"16 more columns of padding cost {max(drop['reversal']):.2f} with the mask, "
        f"{min(drop['no padding mask']):.2f} to {max(drop['no padding mask']):.2f} without",
        quick=False,
    )
    _draw_training(run, losses)
    _draw_padding(run, padding, padded)
    _draw_map(run, [model for model, _ in models["reversal"]])


def _pair(seed: int, norm_first: bool) -> tuple[Transformer, TorchTransformer]:
    torch.manual_seed(seed)
    sizes = {"n_heads": 4, "d_ff": 48, "norm_first": norm_first}
    ours = Transformer(N_TOKENS, N_TOKENS, d_model=32, n_layers=2, pad=PAD, **sizes)
    return ours, TorchTransformer(ours, **sizes)


def _check_blocks(run: Run, norm_first: bool) -> None:
    """Logits, loss and every gradient of a two-layer model on a padded batch."""
    norm = "pre-norm" if norm_first else "post-norm"
    ours, theirs = _pair(run.seed, norm_first)
    source, target = reversal_batch(6, run.generator())
    logits, expected = (model(source, target[:, :-1]) for model in (ours, theirs))
    run.check(f"logits, {norm}", logits, expected, against="nn.Transformer, copied weights",
              atol=2e-5, rtol=1e-5, why="float32 rounding through four layers")  # fmt: skip
    options = {"label_smoothing": 0.1}
    loss = cross_entropy(logits, target[:, 1:], pad=PAD, **options)
    reference = nn.functional.cross_entropy(
        expected.flatten(0, 1), target[:, 1:].flatten(), ignore_index=PAD, **options
    )
    run.check(f"smoothed loss, {norm}", loss, reference, against="F.cross_entropy",
              atol=1e-5, why="float32 rounding")  # fmt: skip
    for value in (loss, reference):
        value.backward()
    gradients = torch_names(ours, lambda p: p.grad)
    names = dict(theirs.stacks.named_parameters())
    run.check(
        f"gradients, {norm}", torch.cat([gradients[n].flatten() for n in names]),
        torch.cat([p.grad.flatten() for p in names.values()]),
        against="nn.Transformer, copied weights", atol=1e-5, rtol=1e-4, why="float32 rounding",
    )  # fmt: skip


def _check_training(run: Run) -> None:
    """The first ten Adam steps, batch invariance and the number of parameters."""
    ours, theirs = _pair(run.seed + 1, True)
    losses, batches = {}, [reversal_batch(16, run.generator(i)) for i in range(10)]
    for name, model in (("ours", ours), ("theirs", theirs)):
        optimizer, losses[name] = torch.optim.Adam(model.parameters(), lr=1e-3), []
        for source, target in batches:
            loss = nn.functional.cross_entropy(
                model(source, target[:, :-1]).transpose(1, 2), target[:, 1:], ignore_index=PAD
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[name].append(loss.item())
    run.check("losses of the first 10 Adam steps", losses["ours"], losses["theirs"],
              against="nn.Transformer, same weights and batches", atol=1e-4,
              why="float32 rounding, amplified by Adam's division by √v")  # fmt: skip

    source, target = reversal_batch(4, run.generator(2), extra_padding=3)
    together = ours(source, target[:, :-1])[0]
    n_source, n_target = (source[0] != PAD).sum(), (target[0, :-1] != PAD).sum()
    alone = ours(source[:1, :n_source], target[:1, :n_target])[0]
    run.check("one sequence alone", alone, together[:n_target],
              against="the same in a padded batch", atol=1e-5, why="float32 rounding")  # fmt: skip
    d, ff, n = 32, 48, 2
    attention, feed_forward, norm = 4 * d * d + 4 * d, 2 * d * ff + ff + d, 2 * d
    layers = n * (3 * attention + 2 * feed_forward + 5 * norm) + 2 * norm + 2 * N_TOKENS * d
    run.check("parameters", sum(p.numel() for p in theirs.parameters()), layers,
              against="the formula of the note", why="integers")  # fmt: skip


def _draw_training(run: Run, losses: dict[str, Tensor]) -> None:
    with run.figure("loss", "Does one layer learn to write digits backwards?") as ax:
        steps = range(1, losses["reversal"].shape[1] + 1)
        for name, color in (("reversal", plots.BLUE), ("targets shuffled", plots.GRAY)):
            plots.interval_band(ax, steps, losses[name], color=color, label=name)
        ax.axhline(math.log(10), color=plots.REFERENCE, linewidth=1, linestyle="--")
        ax.text(len(steps), math.log(10) * 1.08, "guessing a digit: ln 10", ha="right",
                va="bottom", color=plots.REFERENCE, fontsize=9)  # fmt: skip
        ax.set(xlabel="training step", ylabel="cross-entropy (nats a token)", yscale="log")
        plots.label_lines(ax)


def _draw_padding(run: Run, padding: list[int], padded: dict[str, list[list[float]]]) -> None:
    with run.figure("padding", "What does a forgotten padding mask cost?") as ax:
        styles = {
            "reversal": (plots.BLUE, "masked"), "no padding mask": (plots.ORANGE, "not masked")
        }  # fmt: skip
        for name, (color, label) in styles.items():
            rows = [[100 * value for value in row] for row in padded[name]]
            plots.interval_band(ax, padding, rows, color=color, label=label)
        ax.set(xlabel="extra columns of padding, beyond those of training",
               ylabel="sequences decoded exactly (%)", ylim=(-2, 104))  # fmt: skip
        plots.label_lines(ax)


def _draw_map(run: Run, models: list[Transformer]) -> None:
    digits = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    n = digits.shape[1]
    source = torch.cat([digits + FIRST_DIGIT, torch.tensor([[EOS]])], dim=1)
    target = torch.cat([torch.tensor([[BOS]]), digits.flip(1) + FIRST_DIGIT], dim=1)
    maps = [cross_attention_map(model, source, target) for model in models]
    on_it = [weights[range(n), range(n - 1, -1, -1)].mean().item() for weights in maps]
    run.metric("weight on the anti-diagonal", sum(on_it) / len(on_it), rtol=None)
    run.claim(
        "the decoder reads backwards",
        min(on_it) >= 0.6,
        f"weight on the anti-diagonal {min(on_it):.2f} to {max(on_it):.2f}; "
        f"evenly spread it would be {1 / (n + 1):.2f}",
        quick=False,
    )
    with run.figure("map", "Reading backwards: the cross-attention of one layer",
                    size=(6.6, 5.4)) as ax:  # fmt: skip
        image = ax.imshow(maps[0], vmin=0, vmax=1, cmap="Blues")
        written = [str(d.item()) for d in digits[0]]
        ax.set_xticks(range(n + 1), [*written, "end"])
        ax.set_yticks(range(n + 1), [*written[::-1], "end"])
        ax.set(xlabel="digit read by the encoder", ylabel="digit to be written next")
        ax.grid(False)
        ax.figure.colorbar(image, label="attention weight", shrink=0.85)
