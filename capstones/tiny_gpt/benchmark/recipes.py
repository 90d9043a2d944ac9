"""The benchmark's own side: what is trained in each row, and the process that trains it.

    python -m tiny_gpt.benchmark.recipes --recipe speed --seed 0 --data runs/bench/data

trains with `tiny_gpt.training.train` and prints one line of JSON. Recipes were tuned on a part of
the training split only (`ablation.py`), and their schedules count steps: the loss does not depend
on the machine's load.
"""

import argparse
import ast
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tiny_gpt.benchmark.measure import peak_bytes, report_line

__all__ = ["RECIPES", "settings_of", "train_recipe"]

# One evaluation, at the end: the loss that is reported is never the best of several.
_ONCE = {"eval_every": 0, "save_every": 0, "samples": 0, "resume": "never", "device": "cpu"}
_CHARS = {**_ONCE, "tokenizer": "char", "split": "tail", "dtype": "fp32", "compile": "off"}

# Two heads and not four: attention costs by the head here, and the loss gains by it.
RECIPES: dict[str, dict[str, Any]] = {
    "speed": {
        **_CHARS, "context": 64, "n_layers": 2, "n_heads": 2, "d_model": 64,
        "batch_size": 16, "steps": 275, "ns_steps": 3,
    },
    "same-size": {
        **_CHARS, "context": 64, "n_layers": 4, "n_heads": 2, "d_model": 128,
        "batch_size": 16, "steps": 185, "dtype": "auto",
    },
    "quality-64": {
        **_CHARS, "context": 64, "n_layers": 4, "n_heads": 2, "d_model": 128,
        "batch_size": 32, "steps": 930, "weight_decay": 0.1, "dtype": "auto",
    },
    "quality-256": {
        **_CHARS, "context": 256, "n_layers": 4, "n_heads": 2, "d_model": 128,
        "batch_size": 8, "steps": 780, "weight_decay": 0.1, "dtype": "auto",
    },
    # What the ablation changes one thing of.
    "ablation": {
        **_CHARS, "context": 64, "n_layers": 2, "n_heads": 2, "d_model": 64,
        "batch_size": 16, "steps": 240,
    },
    # Throughput: the defaults' sizes; `equal` is the very model that a plain loop trains.
    "throughput": {**_CHARS, "steps": 100},
    "throughput-equal": {
        **_CHARS, "steps": 100, "arch": "gpt2", "optimizer": "adamw", "lr": 1e-3, "clip": 1.0,
    },
    "cost": {**_CHARS, "context": 128, "batch_size": 16, "steps": 120},
    "wikipedia": {
        **_ONCE, "tokenizer": "bpe", "vocab_size": 4096, "context": 256, "n_layers": 4,
        "n_heads": 4, "d_model": 192, "batch_size": 32, "steps": 3800, "schedule": "wsd",
        "weight_decay": 0.1,
    },
}  # fmt: skip


def settings_of(recipe: str, **changes: Any):
    """The `Settings` of a recipe, some of them changed."""
    from tiny_gpt.settings import Settings

    if recipe not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {recipe!r}")
    return Settings(**{**RECIPES[recipe], **changes})


def n_parameters(settings, vocab_size: int) -> int:
    """Trained numbers of the model that settings ask for."""
    from tiny_gpt.model.gpt import GPT

    # Not on the meta device, whose first use imports for seconds that a process would pay for.
    return GPT(settings.model_config(vocab_size)).n_parameters()


def train_recipe(recipe: str, data: Path, *, threads: int = 2, **changes: Any) -> dict[str, Any]:
    """Train a recipe on prepared data, in a folder that is removed afterwards.

    Parameters
    ----------
    data
        A prepared folder.
    changes
        Settings to change, the seed among them.

    Returns
    -------
    report
        Loop seconds (no imports, evaluation or saving among them), validation loss of the last
        step over the whole split in nats per token, tokens a second, parameters, peak memory, and
        the losses evaluated on the way (step, loss) where `eval_every` asks for them.
    """
    import json

    import torch

    from tiny_gpt.data.shards import open_data
    from tiny_gpt.training.train import train

    torch.set_num_threads(threads)
    prepared = open_data(data)
    with tempfile.TemporaryDirectory(prefix="tiny-gpt-bench-") as folder:
        settings = settings_of(
            recipe, data=str(data), out=Path(folder) / "run", threads=threads, **changes
        )
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
        "peak_bytes": peak_bytes(),
        "settings": {key: value for key, value in plain.items() if key not in ("out", "max_time")},
    }


def parsed_changes(pairs: Sequence[str]) -> dict[str, Any]:
    """Settings from NAME=VALUE; a value that is no Python literal is a word."""
    changes = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"set must be NAME=VALUE, got {pair!r}")
        try:
            changes[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            changes[name] = value
    return changes


def as_arguments(recipe: str, data: Path, threads: int, changes: dict[str, Any]) -> list[str]:
    """The command line of this module that trains a recipe."""
    pairs = [f"{name}={value}" for name, value in changes.items()]
    chosen = ["--recipe", recipe, "--data", str(data), "--threads", str(threads)]
    return chosen + [argument for pair in pairs for argument in ("--set", pair)]


def main() -> None:
    """Train one recipe and report."""
    began = time.perf_counter()
    parser = argparse.ArgumentParser(
        prog="python -m tiny_gpt.benchmark.recipes", description=__doc__
    )
    parser.add_argument("--recipe", choices=RECIPES, required=True)
    parser.add_argument("--data", type=Path, required=True, help="a prepared folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    changes = {"seed": options.seed} | parsed_changes(options.set)
    report = train_recipe(options.recipe, options.data, threads=options.threads, **changes)
    report_line(report | {"inside_seconds": time.perf_counter() - began})


if __name__ == "__main__":
    main()
