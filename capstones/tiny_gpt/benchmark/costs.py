"""What growth costs: time, memory and loss over sizes of the model, of its data, and of a source.

Each line is a process of its own, so that its peak memory is its own. The validation text is the
same for all sizes of the data: the training text is shortened from its beginning.
"""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

from shared import datasets
from shared.errors import UserError
from shared.require import require
from tiny_gpt.benchmark import recipes
from tiny_gpt.benchmark.bench import Bench
from tiny_gpt.data.prepare import prepare
from tiny_gpt.data.shards import open_data
from tiny_gpt.report.costs import flops_per_token

__all__ = ["MODELS", "SHARES", "run_data", "run_models", "run_sources"]

MODELS = ((1, 32), (2, 64), (4, 128), (6, 192))  # layers, width
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # of the training text
FILES = (1, 2, 5, 10, 20)  # of Wikipedia, about a megabyte each
KEPT = ("n_parameters", "steps", "val_loss", "peak_bytes")
KEPT += ("loop_seconds", "whole_seconds", "tokens_per_second")


def run_models(b: Bench) -> None:
    """Time, memory and loss of growing models, all trained on as many tokens."""
    lines = []
    for n_layers, d_model in MODELS:
        size = {"n_layers": n_layers, "d_model": d_model}
        found = b.ours("cost", **size)
        line = size | {key: found[key] for key in KEPT}
        config = recipes.settings_of("cost", **size).model_config(65)
        line["flops_per_token"] = 3 * flops_per_token(config)
        lines.append(line)
        b.say(f"{found['n_parameters']:,} parameters: {found['tokens_per_second']:,.0f} tokens/s")
    b.save("costs-model", {"title": "As the model grows", "recipe": _recipe(b), "lines": lines})


def run_data(b: Bench) -> None:
    """Time and loss of one model on growing training texts, validated on the same text."""
    data, settings = open_data(b.prepared()), recipes.settings_of("cost")
    texts = {
        name: data.tokenizer.decode(data.splits[name].read(0, data.splits[name].n_tokens))
        for name in ("train", "val")
    }
    lines = []
    for share in SHARES:
        train = texts["train"][-round(share * len(texts["train"])) :]
        with tempfile.TemporaryDirectory(prefix="tiny-gpt-bench-") as name:
            folder = Path(name)
            (folder / "text.txt").write_text(train + texts["val"], encoding="utf-8", newline="")
            begin = time.perf_counter()
            # Half a character less: rounding must not move the cut.
            fraction = (len(texts["val"]) - 0.5) / (len(train) + len(texts["val"]))
            options = {"tokenizer": "char", "split": "tail", "dedup": "off", "workers": 1}
            prepare(folder / "text.txt", folder / "data", val_fraction=fraction, **options)
            seconds = time.perf_counter() - begin
            held_out = open_data(folder / "data").splits["val"]
            same = held_out.n_bytes == data.splits["val"].n_bytes
            require(same, "the validation text must stay", held_out.n_bytes)
            found = b.ours("cost", data=folder / "data")
        line = {"characters": len(train), "prepare_seconds": seconds}
        line |= {key: found[key] for key in KEPT}
        line["epochs"] = found["steps"] * settings.batch_size * settings.context / len(train)
        lines.append(line)
        b.say(f"{len(train):,} characters: loss {found['val_loss']:.4f}")
    b.save("costs-data", {"title": "As the data grow", "recipe": _recipe(b), "lines": lines})


def run_sources(b: Bench) -> None:
    """Time and memory of `prepare` as its source grows."""
    lines = []
    for n in FILES[:2] if b.quick else FILES:
        try:
            documents = datasets.wikipedia(n)
        except UserError as error:
            b.say(f"costs-prepare: not measured, {error}")
            return
        with tempfile.TemporaryDirectory(prefix="tiny-gpt-bench-") as folder:
            source = Path(folder) / "wikipedia.jsonl"
            with source.open("w", encoding="utf-8") as stream:
                for document in documents[:20] if b.quick else documents:
                    stream.write(json.dumps({"text": document.text}) + "\n")
            options = {"source": source, "out": Path(folder) / "data"}
            lines.append(b.child("costs:prepare_source", **options))
        b.say(f"prepare {lines[-1]['megabytes']:.1f} MB: {lines[-1]['seconds']:.1f} s")
    b.save("costs-prepare", {"title": "As the source grows", "lines": lines})


def _recipe(b: Bench) -> dict[str, Any]:
    return recipes.RECIPES["cost"] | {"steps": b.steps(recipes.settings_of("cost").steps)}


def prepare_source(source: str, out: str, threads: int) -> dict[str, Any]:
    """Prepare a source in so many processes; how long it took."""
    begin = time.perf_counter()
    report = prepare(source, out, tokenizer="bpe", vocab_size=4096, workers=threads)
    seconds, megabytes = time.perf_counter() - begin, report["read"]["bytes"] / 1e6
    sizes = {"documents": report["read"]["documents"], "megabytes": megabytes}
    return {**sizes, "seconds": seconds, "megabytes_per_second": megabytes / seconds}
