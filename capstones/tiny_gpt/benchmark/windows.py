"""What a window costs in loss: where may a text longer than the context be read anew?

A window that slides by one token per step gives every token a whole context and can use no cache;
`generate` lets it grow and begins anew from its last quarter. Here each token of the validation
text is predicted as `generate` would predict it, for several such shares, by the model of the row
quality-64. Short windows make predictions worse; but a whole window's are not the best either, in
a model that has seen as many short contexts as long ones in training.

Source: Xiao et al., "Efficient streaming language models with attention sinks" (2024), section
3.1, "sliding window with re-computation".
"""

import tempfile
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared.require import require
from tiny_gpt.benchmark import recipes
from tiny_gpt.benchmark.bench import Bench
from tiny_gpt.data.shards import PreparedData, open_data
from tiny_gpt.generation.generate import window_start
from tiny_gpt.model.gpt import GPT

__all__ = ["run_windows", "windowed_losses"]

SHARES = (1.0, 0.5, 0.25, 0.125, 0.0625)  # of the context; 1 slides by one token per step
CONTEXTS = 16  # length of a text, in contexts
SKIPPED = 4  # contexts at its beginning, where windows are not yet what they will be


@torch.inference_mode()
def windowed_losses(
    model: GPT, texts: Int[Tensor, "text length"], kept: int
) -> Float[Tensor, "text predicted"]:
    """Nats of all tokens of a text but the first, from the windows that `window_start` sets."""
    context, length = model.config.context, texts.shape[1]
    losses = texts.new_empty((len(texts), length - 1), dtype=torch.float32)
    n = 1  # tokens read so far
    while n < length:
        begin = window_start(n, context, kept)
        end = n  # the longest text before the last token that the same window still serves
        while end + 1 < length and window_start(end + 1, context, kept) == begin:
            end += 1
        log_p = model(texts[:, begin:end])[:, n - 1 - begin :].log_softmax(-1)
        losses[:, n - 1 : end] = -log_p.gather(-1, texts[:, n : end + 1, None])[..., 0]
        n = end + 1
    return losses


def losses_by_share(model: GPT, data: PreparedData) -> list[dict[str, Any]]:
    """Validation loss for each of `SHARES`, and how many tokens are read to write one."""
    context = model.config.context
    split = data.splits["val"]
    length = CONTEXTS * context + 1
    n = split.n_tokens // length
    require(n > 0, f"data must hold {length} validation tokens", split.n_tokens)
    texts = torch.as_tensor(split.read(0, n * length).astype("int64")).view(n, length)
    lines = []
    for share in SHARES:
        kept = max(1, round(share * context))
        loss = windowed_losses(model, texts, kept)[:, SKIPPED * context :].double().mean()
        # From one new window to the next: `kept` tokens for the first, then one for each more.
        read = context / (context + 1 - kept)
        lines.append({"kept": kept, "val_loss": float(loss), "read_per_token": read})
    return lines


def run_windows(b: Bench) -> None:
    """Validation loss by the share of a window that is read anew, for each seed."""
    runs = []
    steps = b.steps(recipes.settings_of("quality-64").steps)
    for seed in range(b.seeds):
        options = {"data": b.prepared(), "seed": seed, "steps": steps}
        found = b.child("windows:train_and_measure", **options)
        runs.append({"seed": seed, "lines": found["lines"]})
        losses = ", ".join(f"{line['kept']}: {line['val_loss']:.4f}" for line in found["lines"])
        b.say(f"windows, seed {seed}: {losses}")
    b.save("windows", {"title": "Where a window is read anew", "runs": runs})


def train_and_measure(data: str, seed: int, steps: int, threads: int) -> dict[str, Any]:
    """Train the model of the row quality-64; its losses by share."""
    from tiny_gpt.training.checkpoints import load_checkpoint
    from tiny_gpt.training.train import train

    torch.set_num_threads(threads)
    prepared = open_data(Path(data))
    with tempfile.TemporaryDirectory(prefix="tiny-gpt-bench-") as folder:
        run = {"data": data, "out": Path(folder) / "run", "threads": threads}
        settings = recipes.settings_of("quality-64", seed=seed, steps=steps, **run)
        train(prepared, settings)
        model = load_checkpoint(settings.out).model
    return {"lines": losses_by_share(model, prepared)}
