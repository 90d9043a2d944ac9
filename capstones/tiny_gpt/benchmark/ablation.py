"""What each ingredient gives: one of them removed or swapped at a time, three seeds each.

    tiny-gpt bench ablation

Everything is tuned and compared on the training split alone: its last tenth is held out here, the
validation split of the benchmark is never seen. An ingredient's worth is the loss without it minus
the loss with it, seed by seed (the same first weights, the same batches), with Student's interval.
Where a replacement has a learning rate of its own to be fair to, the best of several stands for it.

Jobs run one after the other; each goes into `results/ablation.json` when it is done and is not run
again unless its settings were changed.
"""

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from shared.stats import Interval, mean_interval
from tiny_gpt.benchmark import recipes
from tiny_gpt.benchmark.measure import machine, merge, read_record
from tiny_gpt.data.batches import Batches
from tiny_gpt.training import state

__all__ = ["INGREDIENTS", "RECORD", "Effect", "Ingredient", "ablate", "effects"]

RECORD = Path(__file__).parents[1] / "results" / "ablation.json"
BASE = "base"
ADAMW_RATES = (0.001, 0.002, 0.003, 0.006)


@dataclass(frozen=True)
class Ingredient:
    """Something a recipe has, and changes of settings that stand in its place, by label.

    Of several, the best stands for all. One is no setting: `batches` (random).
    """

    name: str
    alternatives: dict[str, dict[str, Any]]


def ingredients(d_model: int) -> list[Ingredient]:
    """All that is tried, for a model of this width."""
    rates = {f"adamw-{lr}": {"optimizer": "adamw", "lr": lr} for lr in ADAMW_RATES}

    def one(name: str, key: str, **changes: Any) -> Ingredient:
        return Ingredient(name, {key: changes})

    return [
        one("rotary → learned positions", "learned", positions="learned"),
        one("decay to zero → constant rate", "constant", schedule="constant"),
        Ingredient("Muon → AdamW (best of 4 rates)", rates),
        one("previous token's embedding → none", "no-previous", mix_previous=False),
        one("zero untied head → normal tied head", "tied", tied=True),
        one("zero untied head → normal untied head", "normal-head", zero_head=False),
        one("permuted windows → random batches", "random", batches="random"),
        one("QK-norm → none", "no-qk-norm", qk_norm=False),
        one("plain layer norm → RMS norm", "rms", norm="rms"),
        one("ReLU² → GELU", "gelu", mlp="gelu"),
        # Three matrices of 8/3 d hold as many weights as two of 4 d.
        one("ReLU² → SwiGLU", "swiglu", mlp="swiglu", d_ff=round(8 * d_model / 3)),
        one("linear to zero → cosine to 10 %", "cosine", schedule="cosine", final_lr=0.1),
        one("5 → 3 Newton–Schulz steps", "ns-3", ns_steps=3),
        one("momentum 0.95 → 0.9", "momentum", momentum=0.9),
        one("AdamW's rate 0.012 → 0.024", "rate", lr=0.024),
    ]


INGREDIENTS = ingredients(recipes.RECIPES["ablation"]["d_model"])


class RandomBatches(Batches):
    """Windows that begin anywhere, drawn anew each step: some text is seen twice, some never."""

    def _starts(self, step: int) -> Int64[np.ndarray, " batch"]:
        rng = np.random.default_rng((self.seed, step))
        return rng.integers(0, self.split.n_tokens - self.context, self.batch_size)


@contextlib.contextmanager
def changed(batches: str = "permuted") -> Iterator[None]:
    """Inside, training takes another order of batches: no setting, for nobody should want it."""
    before = state.Batches
    state.Batches = RandomBatches if batches == "random" else before
    try:
        yield
    finally:
        state.Batches = before


def jobs(seeds: int) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Label, seed and changes of every run; whole rounds of one seed, so that some are complete."""
    for seed in range(seeds):
        yield BASE, seed, {}
        for ingredient in INGREDIENTS:
            for label, changes in ingredient.alternatives.items():
                yield label, seed, changes


def run_job(data: Path, seed: int, changes: dict[str, Any], *, threads: int) -> dict[str, Any]:
    """Train the base recipe with some changes."""
    settings = {key: value for key, value in changes.items() if key != "batches"}
    with changed(changes.get("batches", "permuted")):
        found = recipes.train_recipe("ablation", data, threads=threads, seed=seed, **settings)
    return {key: found[key] for key in ("val_loss", "n_parameters", "steps", "loop_seconds")}


def ablate(
    *,
    seeds: int = 3,
    threads: int = 2,
    out: Path = RECORD,
    source: str | Path = "tinyshakespeare",
    say: Callable[[str], None] = lambda line: None,
    **changes: Any,
) -> dict[str, Any]:
    """Run all jobs that the record does not hold yet; `changes` are for the base too."""
    where, rows = machine(threads), read_record(out)["rows"]
    with tempfile.TemporaryDirectory(prefix="tiny-gpt-ablation-") as folder:
        data = prepare_slice(source, Path(folder))
        for label, seed, own in jobs(seeds):
            # One of another plan is no job of this ablation.
            plan = {**recipes.RECIPES["ablation"], **changes, **own, "source": Path(source).name}
            name, plan = f"{label}/{seed}", json.loads(json.dumps(plan))
            if rows.get(name, {}).get("plan") == plan:
                continue
            found = run_job(data, seed, {**changes, **own}, threads=threads)
            say(f"{name}: {found['val_loss']:.4f}")
            job = {"label": label, "seed": seed, **found, "plan": plan, "machine": where}
            rows = merge(out, name, lambda row, job=job: job)["rows"]
    return read_record(out)


def prepare_slice(source: str | Path, folder: Path, *, val_fraction: float = 0.1) -> Path:
    """The training split of a text, prepared as if it were all there is."""
    from tiny_gpt.data.prepare import prepare
    from tiny_gpt.data.shards import open_data

    options = {"tokenizer": "char", "split": "tail", "dedup": "off", "workers": 1}
    prepare(source, folder / "whole", val_fraction=val_fraction, **options)
    whole = open_data(folder / "whole")
    train, part = whole.splits["train"], folder / "training.txt"
    text = whole.tokenizer.decode(train.read(0, train.n_tokens))
    part.write_text(text, encoding="utf-8", newline="")
    prepare(part, folder / "data", val_fraction=val_fraction, **options)
    return folder / "data"


# ---- what came out


@dataclass(frozen=True)
class Effect:
    """An ingredient's worth, by the alternative of this label.

    `change` is the loss without it minus the loss with it, nats per character, over the seeds;
    `n_parameters` are those of the model without it.
    """

    name: str
    label: str
    change: Interval
    n_parameters: int


def effects(record: dict[str, Any]) -> list[Effect]:
    """The ingredients' effects, the largest first; those with two seeds at least.

    Of several alternatives the one with the lowest mean loss counts, on the seeds all have.
    """
    runs: dict[str, dict[int, dict]] = {}
    for job in record["rows"].values():
        runs.setdefault(job["label"], {})[job["seed"]] = job
    found = []
    for ingredient in INGREDIENTS:
        known = {label: runs[label] for label in ingredient.alternatives if label in runs}
        seeds = set(runs.get(BASE, {})).intersection(*known.values())
        if not known or len(seeds) < 2:
            continue
        loss = {
            label: np.array([own[seed]["val_loss"] for seed in sorted(seeds)])
            for label, own in {**known, BASE: runs[BASE]}.items()
        }
        best = min(known, key=lambda label: loss[label].mean())
        change = mean_interval(loss[best] - loss[BASE])
        parameters = next(iter(known[best].values()))["n_parameters"]
        found.append(Effect(ingredient.name, best, change, parameters))
    return sorted(found, key=lambda effect: -effect.change.mean)
