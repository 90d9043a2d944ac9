"""`tiny-gpt bench`: the benchmark, row by row, against what a user would otherwise run.

    tiny-gpt bench --rows speed same-size
    python -m tiny_gpt.bench --rows decoding --threads 2

Four rows are duels with a stand-in for nanoGPT's documented CPU command (`rival.py`), on the
characters of tinyshakespeare, the last tenth of which nobody trains on: for each seed the rival
and our recipes (`recipes.py`) are trained in turns, each in a fresh process whose whole time
counts (byte code and libraries are cached, as after a first use), and evaluated by the same code
on the same windows of the whole validation split. Ratios are the medians, over the seeds, of the
rival's seconds over ours in the same turn. A row that was interrupted goes on with the turns that
are missing; one whose recipe was changed begins anew.

Every row has a plan (what is measured), the turns or numbers, and the machine; `results/bench.json`
holds them all, and `tables.py` makes tables and figures of it.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from shared.errors import UserError
from tiny_gpt import recipes
from tiny_gpt.measure import child, machine, matmul_peak, merge, read_record

__all__ = ["DUELS", "RECORD", "ROWS", "Bench", "bench", "judge"]

RECORD = Path(__file__).parent / "results" / "bench.json"
QUICK_STEPS = 6

# ---- the duels and their targets


@dataclass(frozen=True)
class Target:
    """A promise about a duel.

    Attributes
    ----------
    what
        loss (every seed's validation loss, nats per character), loop or whole (the rival's seconds
        over ours), parameters.
    goal, stretch
        What it must be: at most for the loss, else at least.
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
        "In the rival's whole time, context 64",
        (Target("loss", 1.60, 1.55), Target("whole", 1.0)),
    ),
    "quality-256": Duel(
        "In the rival's whole time, context 256",
        (Target("loss", 1.57), Target("whole", 1.0)),
    ),
}
DECODING_TARGETS = {1: 5.0, 16: 15.0}
RIVAL_LOSS = (1.89, 1.91)  # nanoGPT's own is 1.8983; outside, the stand-in is not one


def judge(name: str, pairs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a duel's turns say about each of its targets."""
    if not pairs:
        return []
    verdicts = []
    for target in DUELS[name].targets:
        if target.what == "loss":
            value = max(pair["ours"]["val_loss"] for pair in pairs)  # every seed must hold
        elif target.what == "parameters":
            value = min(pair["ours"]["n_parameters"] for pair in pairs)
        else:
            seconds = f"{target.what}_seconds"
            value = statistics.median(p["rival"][seconds] / p["ours"][seconds] for p in pairs)
        verdicts.append(
            {
                "what": target.what,
                "goal": target.goal,
                "stretch": target.stretch,
                "measured": value,
                "reached": target.reaches(value, target.goal),
                "stretch_reached": target.reaches(value, target.stretch),
            }
        )
    return verdicts


# ---- running rows


@dataclass
class Bench:
    """What all rows share.

    Attributes
    ----------
    out
        The record.
    data
        The source; the record of a quick trial need not be of tinyshakespeare.
    quick
        A few steps of everything, to see that it runs; no verdict means anything.
    say
        Told one line for each thing measured.
    """

    out: Path = RECORD
    data: str | Path = "tinyshakespeare"
    seeds: int = 3
    threads: int = 2
    quick: bool = False
    fresh: bool = False
    say: Callable[[str], None] = lambda line: None
    changes: dict[str, Any] = field(default_factory=dict)
    _folder: Path | None = None
    _prepare_seconds: float = 0.0

    def prepared(self) -> Path:
        """The characters, prepared once a call."""
        if self._folder is None:
            from tiny_gpt.prepare import prepare

            self._temporary = tempfile.TemporaryDirectory(prefix="tiny-gpt-bench-")
            self._folder, begin = Path(self._temporary.name) / "data", time.perf_counter()
            options = {"tokenizer": "char", "split": "tail", "dedup": "off"}
            prepare(self.data, self._folder, workers=1, **options)
            self._prepare_seconds = time.perf_counter() - begin
        return self._folder

    def steps(self, steps: int) -> int:
        """So many, or a few in a quick trial."""
        return min(steps, QUICK_STEPS) if self.quick else steps

    def ours(self, recipe: str, *, data: Path | None = None, **changes: Any) -> dict[str, Any]:
        """Train one of our recipes in a process of its own."""
        asked = {**self.changes, **changes}
        asked["steps"] = self.steps(asked.get("steps", recipes.settings_of(recipe).steps))
        data = data or self.prepared()
        arguments = recipes.as_arguments(recipe, data, self.threads, asked)
        return child("tiny_gpt.recipes", arguments, threads=self.threads)

    def rival(self, what: str, **options: int) -> dict[str, Any]:
        """Train a rival in a process of its own."""
        from tiny_gpt.rival import STEPS

        options["steps"] = self.steps(options.get("steps", STEPS))
        arguments = [what, "--data", self.prepared(), "--threads", self.threads]
        for name, value in options.items():
            arguments += [f"--{name.replace('_', '-')}", value]
        return child("tiny_gpt.rival", arguments, threads=self.threads)

    def warm_up(self, recipe: str) -> None:
        """Start both sides once before it counts: their byte code and libraries are cached then."""
        self.rival("train", steps=1)
        self.ours(recipe, steps=1)

    def row(self, name: str) -> dict[str, Any]:
        """What the record has of a row so far."""
        return read_record(self.out)["rows"].get(name) or {}

    def save(self, name: str, content: dict[str, Any]) -> None:
        """Put a row into the record; how it was measured goes with it."""
        where = {**machine(self.threads), "quick": self.quick, "source": Path(self.data).name}
        merge(self.out, name, lambda row: {**content, "machine": where})


def run_duels(b: Bench, names: Sequence[str]) -> None:
    """Train the rival and the chosen recipes in turns, seed by seed, as far as it is not done."""
    plans = {name: _plan(b, name) for name in names}
    pairs = {name: _kept(b, name, plans[name]) for name in names}
    due = {seed: _missing(pairs, seed) for seed in range(b.seeds)}
    if any(due.values()):
        b.warm_up(names[0])
    for seed in (seed for seed in due if due[seed]):
        rival = _slim(b.rival("train", seed=seed))
        b.say(_told("rival", rival))
        for name in due[seed]:
            ours = _slim(b.ours(name, seed=seed))
            b.say(_told(name, ours))
            pairs[name] = [*pairs[name], {"seed": seed, "rival": rival, "ours": ours}]
            pairs[name].sort(key=lambda pair: pair["seed"])
            content = {"title": DUELS[name].title, "plan": plans[name], "pairs": pairs[name]}
            content["prepare_seconds"] = b._prepare_seconds  # in nobody's time
            b.save(name, content | {"verdicts": judge(name, pairs[name])})


def _missing(pairs: dict[str, list[dict[str, Any]]], seed: int) -> list[str]:
    """Rows that have no turn of this seed yet."""
    return [name for name in pairs if seed not in {p["seed"] for p in pairs[name]}]


def _plan(b: Bench, name: str) -> dict[str, Any]:
    """All that two turns must have in common to stand in the same row."""
    from tiny_gpt import rival
    from tiny_gpt.measure import cpu_model

    steps = b.steps(recipes.settings_of(name).steps)
    return {
        "recipe": recipes.RECIPES[name] | {"steps": steps},
        "rival": {"steps": b.steps(rival.STEPS), "batch_size": rival.BATCH},
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


def _slim(report: dict[str, Any]) -> dict[str, Any]:
    long = ("training_loss", "evaluated", "settings")
    return {key: value for key, value in report.items() if key not in long}


def _told(name: str, report: dict[str, Any]) -> str:
    return (
        f"{name}, seed {report['seed']}: loss {report['val_loss']:.4f}, loop "
        f"{report['loop_seconds']:.2f} s, whole {report['whole_seconds']:.2f} s"
    )


def run_ngrams(b: Bench) -> None:
    """Count-based models of orders 4 and 5 on the same text: what matching the rival is worth."""
    from tiny_gpt.shards import open_data
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


def run_decoding(b: Bench, *, new_tokens: int = 256, repeats: int = 5) -> None:
    """256 new tokens at batch 1 and 16: the rival uncached; ours uncached, cached and compiled."""
    import torch

    from tiny_gpt.generate import generate
    from tiny_gpt.model import GPT
    from tiny_gpt.rival import RivalGPT, generate_uncached
    from week15.timing import in_turns
    from week19.sampling import Sampler

    torch.set_num_threads(b.threads)
    new_tokens, repeats = (8, 1) if b.quick else (new_tokens, repeats)
    rival = RivalGPT(65).eval()
    config = recipes.settings_of("same-size").model_config(65)
    model = GPT(config, torch.Generator().manual_seed(0)).eval()
    sampler = Sampler(temperature=0.8)
    batches = []
    for batch in DECODING_TARGETS:
        prompt = torch.zeros(batch, 1, dtype=torch.int64)

        def theirs(prompt=prompt):
            return list(generate_uncached(rival, prompt, new_tokens))

        def ours(prompt=prompt, **options):
            return list(generate(model, prompt, new_tokens, sampler=sampler, **options))

        sides: dict[str, Callable] = {
            "rival uncached": theirs,
            "uncached": lambda ours=ours: ours(cache=False),
            "cached": ours,
            "compiled": lambda ours=ours: ours(compile=True),
        }
        first = None
        if b.quick or (why := _why_not_compiled()):
            b.say("compiled: not measured" + ("" if b.quick else f", {why}"))
            del sides["compiled"]
        else:  # what the first text waits for, the compiler included
            begin = time.perf_counter()
            sides["compiled"]()
            first = time.perf_counter() - begin
        seconds = dict(zip(sides, in_turns(list(sides.values()), repeats), strict=True))
        best = min((side for side in sides if side != "rival uncached"), key=seconds.get)
        ratio, goal = seconds["rival uncached"] / seconds[best], DECODING_TARGETS[batch]
        batches.append(
            {
                "batch": batch,
                "new_tokens": new_tokens,
                "seconds": seconds,
                "tokens_per_second": {k: batch * new_tokens / s for k, s in seconds.items()},
                "first_compiled_seconds": first,
                "best": best,
                "ratio": ratio,
                "cached_ratio": seconds["rival uncached"] / seconds["cached"],
                "goal": goal,
                "reached": ratio >= goal,
            }
        )
        b.say(f"decoding, batch {batch}: {ratio:.1f} times the rival ({best})")
    content = {"title": "Decoding 256 tokens", "batches": batches, "repeats": repeats}
    b.save("decoding", content | {"n_parameters": model.n_parameters()})


def _why_not_compiled() -> str | None:
    from tiny_gpt.decoder import why_not_compiled

    return why_not_compiled()


def run_throughput(b: Bench, *, repeats: int = 3) -> None:
    """Training tokens a second beside the plain loop, a model of the same size, in turns."""
    repeats = 1 if b.quick else repeats
    steps = recipes.settings_of("throughput").steps
    sides = {
        "plain loop": lambda: b.rival("plain", steps=steps),
        "ours, the same model and optimizer": lambda: b.ours("throughput-equal"),
        "ours, as it comes": lambda: b.ours("throughput"),
    }
    runs: dict[str, list[dict]] = {side: [] for side in sides}
    peaks = []
    for _ in range(repeats):
        peaks.append(_peak(b))
        for side, run in sides.items():
            runs[side].append(run())
    peak = statistics.median(peaks)
    flops = flops_per_token(recipes.settings_of("throughput"), 65)
    lines = []
    for side, found in runs.items():
        speed = statistics.median(run["tokens_per_second"] for run in found)
        lines.append(
            {
                "side": side,
                "tokens_per_second": speed,
                "n_parameters": found[0]["n_parameters"],
                "utilization": speed * flops / peak,
                "peak_bytes": max(run["peak_bytes"] for run in found),
                "whole_seconds": statistics.median(run["whole_seconds"] for run in found),
            }
        )
        b.say(f"{side}: {speed:,.0f} tokens/s, {100 * speed * flops / peak:.0f} % of the peak")
    content = {"title": "Training throughput", "lines": lines, "repeats": repeats}
    b.save("throughput", content | {"matmul_peak_flops": peak, "flops_per_token": flops})


def _peak(b: Bench) -> float:
    import torch

    torch.set_num_threads(b.threads)
    return matmul_peak("fp32", size=256 if b.quick else 1536, repeats=1 if b.quick else 3)


def flops_per_token(settings: Any, vocab_size: int) -> float:
    """Model FLOPs of a training token: week 16's count, for plain heads and an MLP of 4 d_model."""
    from week14.minimal_gpt import GPTConfig
    from week16.scaling_laws import training_flops

    ours = settings.model_config(vocab_size)
    if ours.d_ff != 4 * ours.d_model or ours.n_kv_heads != ours.n_heads:
        raise ValueError("settings must have d_ff = 4 d_model and no grouped heads")
    config = GPTConfig(vocab_size, ours.context, ours.n_layers, ours.n_heads, ours.d_model)
    return training_flops(config, 1, attention=True)


def run_prepare(b: Bench, *, repeats: int = 3) -> None:
    """Megabytes of text a second from a source to token files."""
    from tiny_gpt.prepare import prepare
    from tiny_gpt.shards import open_data

    source = b.data if b.quick else _large_text()
    lines = []
    for tokenizer, dedup in (
        ("char", "off"), ("byte", "off"), ("bpe", "off"), ("bpe", "minhash"),
    ):  # fmt: skip
        seconds = []
        with tempfile.TemporaryDirectory(prefix="tiny-gpt-bench-") as folder:
            out = Path(folder) / "data"
            for _ in range(1 if b.quick else repeats):
                begin = time.perf_counter()
                report = prepare(source, out, tokenizer=tokenizer, dedup=dedup, workers=b.threads)
                seconds.append(time.perf_counter() - begin)
            splits = open_data(out).splits.values()
        megabytes = report["read"]["bytes"] / 1e6
        line = {"tokenizer": tokenizer, "dedup": dedup, "megabytes": megabytes}
        line |= {"seconds": statistics.median(seconds), "tokens": sum(s.n_tokens for s in splits)}
        line["megabytes_per_second"] = megabytes / line["seconds"]
        lines.append(line)
        b.say(f"prepare {tokenizer}, dedup {dedup}: {line['megabytes_per_second']:.2f} MB/s")
    b.save("prepare", {"title": f"Preparing {Path(source).name}", "lines": lines})


def _large_text() -> str:
    from shared import datasets

    try:
        datasets.wikipedia(20)
    except UserError:
        return "pydocs"
    return "wikipedia"


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


def _run_windows(b: Bench) -> None:
    from tiny_gpt.windows import run_windows  # which imports torch

    run_windows(b)


ROWS: dict[str, Callable[[Bench], None]] = {
    "ngrams": run_ngrams,
    "decoding": run_decoding,
    "windows": _run_windows,
    "throughput": run_throughput,
    "prepare": run_prepare,
    "curves": run_curves,
}


def bench(rows: Sequence[str] = (), **options: Any) -> dict[str, Any]:
    """Measure rows and put each into the record as soon as it is done.

    Parameters
    ----------
    rows
        Names of `DUELS` and `ROWS`, costs-model and costs-data; all if none is named.
    options
        As `Bench` takes them.

    Returns
    -------
    record
        With everything it held before.

    Raises
    ------
    UserError
        If a row is unknown, or a quick trial would go into the committed record.
    """
    from tiny_gpt import costs

    b = Bench(**options)
    if b.quick and Path(b.out).resolve() == RECORD.resolve():
        raise UserError("a quick trial measures nothing; give it a record of its own with --out")
    more = {**ROWS, **costs.ROWS}
    known = [*DUELS, *more]
    for name in rows:
        if name not in known:
            raise UserError(f"rows must be among {', '.join(known)}, got {name}")
    chosen = list(rows) or known
    b.out = Path(b.out)
    if duels := [name for name in DUELS if name in chosen]:
        run_duels(b, duels)
    for name, run in more.items():
        if name in chosen:
            run(b)
    return read_record(b.out)


def rival_is_one(record: dict[str, Any]) -> bool | None:
    """Whether the stand-in's mean loss is within .01 of 1.90; None before it was trained."""
    losses = {
        pair["seed"]: pair["rival"]["val_loss"]
        for name in DUELS
        for pair in record["rows"].get(name, {}).get("pairs", [])
    }
    if not losses:
        return None
    return RIVAL_LOSS[0] <= math.fsum(losses.values()) / len(losses) <= RIVAL_LOSS[1]


def main() -> None:
    """Measure the rows that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tiny_gpt.bench")
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RECORD)
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    options = vars(parser.parse_args())
    try:
        bench(options.pop("rows"), say=lambda line: print(line, flush=True), **options)  # noqa: T201
    except UserError as error:
        sys.exit(f"tiny-gpt bench: {error}")


if __name__ == "__main__":
    main()
