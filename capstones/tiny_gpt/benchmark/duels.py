"""Our recipes beside a stand-in for nanoGPT's documented CPU command (`rival.py`).

Four rows are duels on the characters of tinyshakespeare, the last tenth of which nobody trains on:
for each seed the rival and our recipes (`recipes.py`) are trained in turns, each in a fresh process
whose whole time counts (byte code and libraries are cached, as after a first use), and evaluated by
the same code on the same windows of the whole validation split. Ratios are the medians, over the
seeds, of the rival's seconds over ours in the same turn. A row that was interrupted goes on with
the turns that are missing; one whose recipe was changed begins anew.
"""

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import UserError
from tiny_gpt.benchmark import recipes
from tiny_gpt.benchmark.bench import Bench

__all__ = ["DUELS", "judge", "rival_is_one", "run_curves", "run_duels", "run_ngrams"]


@dataclass(frozen=True)
class Target:
    """What a duel must reach: at most `goal` for the loss, else at least.

    The loss is every seed's, in nats per character; loop and whole are the rival's seconds over
    ours.
    """

    what: str
    goal: float
    stretch: float | None = None

    def reaches(self, value: float, goal: float | None) -> bool | None:
        """Whether a measured value is at least as good as a goal."""
        if goal is None:
            return None
        return value <= goal if self.what == "loss" else value >= goal


@dataclass(frozen=True)
class Duel:
    """One of our recipes against the rival."""

    title: str
    targets: tuple[Target, ...]


DUELS = {
    "speed": Duel(
        "The rival's loss, as soon as possible",
        (Target("loss", 1.898), Target("loop", 20), Target("whole", 12, 25)),
    ),
    "same-size": Duel(
        "The rival's loss with a model of its size",
        (Target("loss", 1.898), Target("parameters", 790_000), Target("loop", 5, 10)),
    ),
    "quality-64": Duel(
        "In the rival's whole time, context 64", (Target("loss", 1.60, 1.55), Target("whole", 1.0))
    ),
    "quality-256": Duel(
        "In the rival's whole time, context 256", (Target("loss", 1.57), Target("whole", 1.0))
    ),
}
RIVAL_LOSS = (1.89, 1.91)  # nanoGPT's own is 1.8983; outside, the stand-in is not one


def judge(name: str, pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a duel's turns say about each of its targets."""
    verdicts = []
    for target in DUELS[name].targets if pairs else ():
        if target.what == "loss":
            value = max(pair["ours"]["val_loss"] for pair in pairs)  # every seed must hold
        elif target.what == "parameters":
            value = min(pair["ours"]["n_parameters"] for pair in pairs)
        else:
            seconds = f"{target.what}_seconds"
            value = statistics.median(p["rival"][seconds] / p["ours"][seconds] for p in pairs)
        reached = target.reaches(value, target.goal)
        verdict = {"what": target.what, "goal": target.goal, "stretch": target.stretch}
        verdict |= {"measured": value, "reached": reached}
        verdicts.append(verdict | {"stretch_reached": target.reaches(value, target.stretch)})
    return verdicts


def rival_is_one(record: dict[str, Any]) -> bool | None:
    """Whether the stand-in's mean loss is within .01 of 1.90; None before it was trained."""
    losses = {
        pair["seed"]: pair["rival"]["val_loss"]
        for name in DUELS
        for pair in record["rows"].get(name, {}).get("pairs", [])
    }
    if not losses:
        return None
    return RIVAL_LOSS[0] <= statistics.fmean(losses.values()) <= RIVAL_LOSS[1]


# ---- running rows


def run_duels(b: Bench, names: Sequence[str]) -> None:
    """Train the rival and the chosen recipes in turns, seed by seed, as far as it is not done."""
    plans = {name: _plan(b, name) for name in names}
    pairs = {name: _kept(b, name, plans[name]) for name in names}
    due = {
        seed: [name for name in names if seed not in {pair["seed"] for pair in pairs[name]}]
        for seed in range(b.seeds)
    }
    if any(due.values()):
        b.warm_up(names[0])
    for seed in (seed for seed in due if due[seed]):
        rival = _noted(b, "rival", b.rival("train", seed=seed))
        for name in due[seed]:
            ours = _noted(b, name, b.ours(name, seed=seed))
            pairs[name] = [*pairs[name], {"seed": seed, "rival": rival, "ours": ours}]
            pairs[name].sort(key=lambda pair: pair["seed"])
            content = {"title": DUELS[name].title, "plan": plans[name], "pairs": pairs[name]}
            content["prepare_seconds"] = b._prepare_seconds  # in nobody's time
            b.save(name, content | {"verdicts": judge(name, pairs[name])})


def _plan(b: Bench, name: str) -> dict[str, Any]:
    """All that two turns must have in common to stand in the same row."""
    from shared.measuring import cpu_model
    from tiny_gpt.benchmark import rival

    steps = b.steps(recipes.settings_of(name).steps)
    return {
        "recipe": recipes.RECIPES[name] | {"steps": steps},
        "rival": {"steps": b.steps(rival.STEPS), "batch_size": rival.BATCH_SIZE},
        "threads": b.threads,
        "cpu": cpu_model(),
        "source": Path(b.data).name,
        "quick": b.quick,
    }


def _kept(b: Bench, name: str, plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Turns of the record that belong to this plan; of another plan none do."""
    row = b.row(name)
    same = row.get("plan") == json.loads(json.dumps(plan))
    return list(row["pairs"]) if same and not b.fresh else []


def _noted(b: Bench, name: str, report: dict[str, Any]) -> dict[str, Any]:
    """What the record keeps of a training."""
    loop, whole = report["loop_seconds"], report["whole_seconds"]
    loss = f"loss {report['val_loss']:.4f}"
    b.say(f"{name}, seed {report['seed']}: {loss}, loop {loop:.2f} s, whole {whole:.2f} s")
    long = ("training_loss", "evaluated", "settings")
    return {key: value for key, value in report.items() if key not in long}


def run_ngrams(b: Bench) -> None:
    """Count-based models of orders 4 and 5 on the same text: what matching the rival is worth."""
    from tiny_gpt.data.shards import open_data
    from week14.ngram import WittenBell

    data = open_data(b.prepared())
    train, val = (s.read(0, s.n_tokens) for s in (data.splits["train"], data.splits["val"]))
    lines = []
    for order in (4, 5):
        begin = time.perf_counter()
        model = WittenBell(order, data.tokenizer.vocab_size).fit(train)
        counted = time.perf_counter() - begin
        # The last order - 1 characters before the split are context: every one of it is predicted.
        loss = -model.log_probs(np.concatenate([train[1 - order :], val])).mean()
        seconds = time.perf_counter() - begin
        line = {"order": order, "val_loss": loss, "count_seconds": counted}
        lines.append(line | {"whole_seconds": seconds})
        b.say(f"{order}-gram: loss {loss:.4f}, {seconds:.1f} s")
    b.save("ngrams", {"title": "Witten–Bell n-grams", "lines": lines})


def run_curves(b: Bench, *, points: int = 12) -> None:
    """Loss against seconds: one seed more, evaluated on the way; the seconds are the duels' own.

    Evaluations cost time that a duel does not spend, so a step here counts as long as one there.
    """
    lines, steps = [], b.steps(2000)
    duels = {name: b.row(name).get("pairs", []) for name in DUELS}
    if not any(duels.values()):
        raise UserError("the row curves needs a duel's timings; measure the row speed first")
    pairs = next(pairs for pairs in duels.values() if pairs)
    curve = b.rival("train", seed=0, eval_every=max(1, steps // points))["evaluated"]
    lines.append(_curve("rival", curve, [pair["rival"] for pair in pairs]))
    for name, found in duels.items():
        if found:
            every = max(1, b.steps(recipes.settings_of(name).steps) // points)
            curve = b.ours(name, seed=0, eval_every=every)["evaluated"]
            lines.append(_curve(name, curve, [pair["ours"] for pair in found]))
    b.save("curves", {"title": "Loss against seconds", "lines": lines})


def _curve(name: str, evaluated: list, timed: list[dict[str, Any]]) -> dict[str, Any]:
    step = statistics.median(run["loop_seconds"] / run["steps"] for run in timed)
    seconds = [step * at for at, _ in evaluated]
    steps, losses = map(list, zip(*evaluated, strict=True))
    return {"name": name, "steps": steps, "seconds": seconds, "val_loss": losses}
