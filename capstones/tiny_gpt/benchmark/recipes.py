"""The benchmark's own side: what is trained in each row.

Recipes were tuned on a part of the training split only (`ablation.py`), and their schedules count
steps: the loss does not depend on the machine's load.
"""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

from shared.require import require

__all__ = ["RECIPES", "settings_of", "train_recipe"]

# One evaluation, at the end: the loss that is reported is never the best of several.
_ONCE = {"eval_every": 0, "save_every": 0, "samples": 0, "resume": "never", "device": "cpu"}
_CHARS = {**_ONCE, "tokenizer": "char", "split": "tail", "dtype": "fp32", "compile": "off"}
# Two heads and not four: attention costs by the head here, and the loss gains by it.
_SMALL = {**_CHARS, "context": 64, "n_layers": 2, "n_heads": 2, "d_model": 64}
_RIVALS_SIZE = {**_CHARS, "n_layers": 4, "n_heads": 2, "d_model": 128, "dtype": "auto"}

# Tuned on a slice of the training text.
_SHORT = {"momentum": 0.9, "lr": 0.024, "ns_steps": 4}

RECIPES: dict[str, dict[str, Any]] = {
    "speed": _SMALL | _SHORT | {"batch_size": 16, "steps": 250, "lr": 0.03, "matrix_lr": 0.025},
    "same-size": _RIVALS_SIZE | _SHORT | {"context": 64, "batch_size": 12, "steps": 172},
    "quality-64": _RIVALS_SIZE
    | _SHORT
    | {"context": 64, "batch_size": 32, "steps": 815, "weight_decay": 0.1},
    "quality-256": _RIVALS_SIZE
    | _SHORT
    | {"context": 256, "batch_size": 8, "steps": 660, "weight_decay": 0.1},
    # What the ablation changes one thing of.
    "ablation": _SMALL | {"batch_size": 16, "steps": 240},
    # Throughput: the defaults' sizes; `equal` is the very model that a plain loop trains.
    "throughput": _CHARS | {"steps": 100},
    "throughput-equal": _CHARS
    | {"steps": 100, "arch": "gpt2", "optimizer": "adamw", "lr": 1e-3, "clip": 1.0},
    "cost": _CHARS | {"context": 128, "batch_size": 16, "steps": 120},
    "wikipedia": _ONCE
    | {"tokenizer": "bpe", "vocab_size": 4096, "context": 256, "n_layers": 4, "n_heads": 4}
    | {"d_model": 192, "batch_size": 32, "steps": 3800, "schedule": "wsd", "weight_decay": 0.1},
    # As small as it must be to come near its asymptote in well under half an hour.
    "wikipedia-small": _ONCE
    | {"tokenizer": "byte", "val_fraction": 0.02, "context": 64, "n_layers": 2, "n_heads": 2}
    | {"d_model": 64, "batch_size": 32, "steps": 6_000, "schedule": "wsd"}
    | {"dtype": "fp32", "compile": "off"},
}


def settings_of(recipe: str, **changes: Any):
    """The `Settings` of a recipe, some of them changed."""
    from tiny_gpt.settings import Settings

    require(recipe in RECIPES, f"recipe must be one of {', '.join(RECIPES)}", repr(recipe))
    return Settings(**{**RECIPES[recipe], **changes})


def n_parameters(settings, vocab_size: int) -> int:
    """Trained numbers of the model that settings ask for."""
    from tiny_gpt.model.gpt import GPT

    # Not on the meta device, whose first use imports for seconds that a process would pay for.
    return GPT(settings.model_config(vocab_size)).n_parameters()


def train_recipe(
    recipe: str, data: str | Path, *, threads: int = 2, **changes: Any
) -> dict[str, Any]:
    """Train a recipe on a prepared folder, in a run's folder that is removed afterwards.

    The report has loop seconds (no imports, evaluation or saving among them), the validation loss
    of the last step over the whole split, and the losses evaluated on the way (step, loss) where
    `eval_every` asks for them.
    """
    import torch

    from tiny_gpt.data.shards import open_data
    from tiny_gpt.training.train import train

    torch.set_num_threads(threads)
    prepared = open_data(Path(data))
    with tempfile.TemporaryDirectory(prefix="tiny-gpt-bench-") as folder:
        run = {"data": str(data), "out": Path(folder) / "run", "threads": threads}
        settings = settings_of(recipe, **run, **changes)
        outcome = train(prepared, settings)
        log = (outcome.run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    lines = [json.loads(line) for line in log]
    evaluated = [(line["step"], line["val_loss"]) for line in lines if "val_loss" in line]
    tokens = settings.steps * settings.batch_size * settings.context
    plain = {**dataclasses.asdict(settings), "data": Path(data).name}
    return {
        "recipe": recipe,
        "seed": settings.seed,
        "steps": outcome.step,
        "n_parameters": n_parameters(settings, prepared.tokenizer.vocab_size),
        "loop_seconds": outcome.loop_seconds,
        "tokens_per_second": tokens / outcome.loop_seconds,
        "val_loss": evaluated[-1][1],
        "evaluated": evaluated,
        "training_loss": [line["loss"] for line in lines if "loss" in line],
        "settings": {key: value for key, value in plain.items() if key not in ("out", "max_time")},
    }
