r"""A model of Wikipedia, and where its loss curve is going.

    python -m tiny_gpt.benchmark.wikipedia --max-steps 1500 --threads 4
    python -m tiny_gpt.benchmark.wikipedia --max-steps 1500 --device cuda

Twenty megabytes of articles, split by document, in BPE tokens. The recipe's rate is constant for
four fifths of the run and then falls to zero (warm-up, stable, decay). On the stable part the
validation loss follows

$$L(t) = E + A\,t^{-\alpha},$$

which is fitted to it, with its asymptote: E is what this model would reach at this rate with steps
without end, not the entropy of English; the fall of the rate then goes below it. The interval of E
resamples seeds, where there are several, and blocks of the residuals, which are not independent
from one evaluation to the next.

Training is that of `tiny-gpt train` in a run's folder: interrupted, it goes on where it was.

Sources: Hestness et al., "Deep learning scaling is predictable, empirically" (2017), section 3;
Hägele et al., "Scaling laws and compute-optimal training beyond fixed training durations" (2024),
section 3, for the constant rate and its cooldown; Künsch, "The jackknife and the bootstrap for
general stationary observations" (1989), for blocks.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from shared import plots
from shared.errors import UserError
from shared.stats import Interval
from tiny_gpt.benchmark import recipes
from tiny_gpt.benchmark.measure import machine, merge, peak_bytes, read_record

__all__ = ["RECORD", "Curve", "asymptote", "fit_curve", "run"]

RECORD = Path(__file__).parents[1] / "results" / "wikipedia.json"
STABLE = 0.8  # share of the steps before a wsd schedule falls
SKIPPED = 0.1  # share of the steps at the beginning that no power law describes
LEAST_POINTS = 8


# ---- the curve


@dataclass(frozen=True)
class Curve:
    """L(t) = E + A t^-alpha, t in steps."""

    E: float
    A: float
    alpha: float

    def __call__(self, step: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The loss at some steps."""
        return self.E + self.A * step**-self.alpha


def fit_curve(step: Float[np.ndarray, " n"], loss: Float[np.ndarray, " n"]) -> Curve:
    """Least squares: for each exponent the other two are linear, so only it is searched for.

    Exponents are between 0.05 and 3, E and A at least 0.
    """
    from scipy.optimize import minimize_scalar

    if len(step) < 4 or len(step) != len(loss):
        raise ValueError(f"step and loss must be 4 pairs at least, got {len(step)}, {len(loss)}")
    if not ((step > 0).all() and np.isfinite(loss).all()):
        raise ValueError("step must be positive and loss finite")
    scale = float(step.max())  # so that t^-alpha is about 1 and the products well conditioned

    def solve(alpha: float) -> tuple[float, float, float]:
        x = (step / scale) ** -alpha
        centered = x - x.mean()
        A = max(0.0, float(centered @ loss / (centered @ centered)))
        E = float(loss.mean() - A * x.mean())
        if E < 0:
            E, A = 0.0, float(x @ loss / (x @ x))
        return float(((E + A * x - loss) ** 2).sum()), E, A

    grid = np.geomspace(0.05, 3, 60)
    best = int(np.argmin([solve(alpha)[0] for alpha in grid]))
    bounds = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    found = minimize_scalar(lambda a: solve(a)[0], bounds=bounds, method="bounded")
    alpha = float(found.x)
    _, E, A = solve(alpha)
    return Curve(E, A * scale**alpha, alpha)


def asymptote(
    step: Float[np.ndarray, " n"],
    losses: Float[np.ndarray, "seed n"],
    *,
    rng: np.random.Generator,
    n_resamples: int = 500,
    level: float = 0.95,
) -> tuple[Curve, Interval]:
    """The curve of the seeds' mean loss, and E with its bootstrap interval.

    A resample draws seeds, and blocks of n^(1/2) neighboring residuals, round the end.
    """
    n_seeds, n = losses.shape
    curve = fit_curve(step, losses.mean(0))
    fitted = curve(step)
    length = max(1, round(n**0.5))
    drawn = []
    for _ in range(n_resamples):
        residuals = losses[rng.integers(0, n_seeds, n_seeds)].mean(0) - fitted
        starts = rng.integers(0, n, -(-n // length))
        index = (starts[:, None] + np.arange(length)).ravel()[:n] % n
        drawn.append(fit_curve(step, fitted + residuals[index]).E)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    # Residuals of a least-squares fit have mean 0, seeds drawn do not: keep E within its interval.
    interval = Interval(curve.E, min(float(low), curve.E), max(float(high), curve.E), n)
    return curve, interval


def stable_part(
    evaluated: Sequence[tuple[int, float]], steps: int, warmup: int
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Steps and losses measured while the rate was constant, the beginning left out."""
    first, last = max(warmup, SKIPPED * steps), STABLE * steps
    kept = [(step, loss) for step, loss in evaluated if first <= step <= last]
    if len(kept) < LEAST_POINTS:
        raise UserError(
            f"a curve needs {LEAST_POINTS} evaluations at the constant rate, got {len(kept)}; "
            "evaluate more often"
        )
    step, loss = np.array(kept, dtype=float).T
    return step, loss


# ---- the run


def run(
    *,
    max_steps: int | None = None,
    seeds: int = 1,
    threads: int = 4,
    device: str = "auto",
    source: str | Path = "wikipedia",
    folder: Path = Path("runs/tiny_gpt/wikipedia"),
    out: Path = RECORD,
    evaluations: int = 40,
    say: Callable[[str], None] = lambda line: None,
    **changes: Any,
) -> dict[str, Any]:
    """Prepare, train, evaluate, fit, and put it all into the record.

    Parameters
    ----------
    max_steps
        Optimizer steps; the recipe's if not given.
    folder
        Where data and runs stay, so that an interrupted run goes on.
    evaluations
        How often the validation loss is measured on the way.
    changes
        Settings of the recipe to change.
    """
    import torch

    from tiny_gpt.training.checkpoints import find_checkpoint, load_checkpoint
    from tiny_gpt.training.evaluate import evaluate
    from tiny_gpt.training.train import train

    torch.set_num_threads(threads)
    steps = max_steps or recipes.settings_of("wikipedia").steps
    common = {"steps": steps, "eval_every": max(1, steps // evaluations), "device": device}
    common |= {"save_every": max(1, steps // 10), "resume": "auto", "threads": threads, **changes}
    seconds, losses, results = [], [], []
    data = None
    for seed in range(seeds):
        settings = recipes.settings_of(
            "wikipedia", data=str(folder / "data"), out=folder / f"seed-{seed}", seed=seed, **common
        )
        if data is None:
            data, prepare_seconds = _prepared(source, folder / "data", settings, threads)
        begin = time.perf_counter()
        outcome = train(data, settings)
        seconds.append(time.perf_counter() - begin)
        if not outcome.finished:
            raise UserError(f"interrupted at step {outcome.step}; the same command goes on")
        evaluated = _evaluated(outcome.run / "log.jsonl")
        step, loss = stable_part(evaluated, steps, settings.warmup_steps)
        losses.append(loss)
        # The last step, not the best: nothing is chosen by the text it is measured on.
        saved = load_checkpoint(find_checkpoint(outcome.run, last=True))
        on = (
            "cuda"
            if device == "cuda" or (device == "auto" and torch.cuda.is_available())
            else "cpu"
        )
        result = evaluate(saved.model.to(on), data.splits["val"], data.tokenizer)
        results.append(result)
        say(
            f"seed {seed}: {result.nats_per_token:.4f} nats/token, {result.bits_per_byte} bits/byte"
        )
    curve, interval = asymptote(step, np.array(losses), rng=np.random.default_rng(0))
    say(f"asymptote at the constant rate: {interval} nats/token")
    first = results[0]
    content = {
        "title": "Wikipedia, 20 MB",
        "settings": {k: v for k, v in _plain(settings).items() if k not in ("out", "seed")},
        "n_parameters": saved.model.n_parameters(),
        "prepare_seconds": prepare_seconds,
        "train_seconds": seconds,
        "peak_bytes": peak_bytes(),
        "tokens": {name: split.n_tokens for name, split in data.splits.items()},
        "bytes": {name: split.n_bytes for name, split in data.splits.items()},
        "nats_per_token": [r.nats_per_token for r in results],
        "word_perplexity": [r.word_perplexity for r in results],
        "bits_per_byte": dataclasses.asdict(first.bits_per_byte),
        "signature": first.signature,
        "evaluated": evaluated,
        "fit": {
            "of": "the validation loss at the constant rate, mean of the seeds",
            "steps": [float(step[0]), float(step[-1])],
            **dataclasses.asdict(curve),
            "E_interval": [interval.low, interval.high],
            "points": len(step),
        },
    }
    record = merge(out, "wikipedia", lambda row: {**content, "machine": machine(threads)})
    draw(record["rows"]["wikipedia"], out.with_name("wikipedia_curve.png"))
    return record


def _prepared(source: str | Path, folder: Path, settings: Any, threads: int):
    """The data, made if they are not there; and the seconds that took."""
    from tiny_gpt.data.prepare import prepare
    from tiny_gpt.data.shards import MANIFEST, open_data

    begin = time.perf_counter()
    if not (folder / MANIFEST).exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        prepare(
            source,
            folder,
            tokenizer=settings.tokenizer,
            vocab_size=settings.vocab_size,
            dedup=settings.dedup,
            workers=threads,
        )
    return open_data(folder), time.perf_counter() - begin


def _evaluated(log: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    return [(line["step"], line["val_loss"]) for line in lines if "val_loss" in line]


def _plain(settings: Any) -> dict[str, Any]:
    plain = dataclasses.asdict(settings)
    return plain | {"out": str(plain["out"]), "data": Path(plain["data"]).name}


def render(record: dict[str, Any]) -> str:
    """What came out, as a Markdown table."""
    row = record["rows"].get("wikipedia")
    if row is None:
        return ""
    bits, fit = row["bits_per_byte"], row["fit"]
    curve, end = Curve(fit["E"], fit["A"], fit["alpha"]), np.array([1.0, 2.0]) * fit["steps"][1]
    now, later = curve(end)
    passes = row["settings"]["steps"] * _tokens(row) / row["tokens"]["train"]
    lines = [
        ("parameters", f"{row['n_parameters']:,}"),
        ("steps of tokens", f"{row['settings']['steps']:,} of {_tokens(row):,}, {passes:.1f} "
         "passes through the text"),
        ("training", f"{_mean(row['train_seconds']) / 60:.1f} min"),
        ("loss (nats/token)", f"{_mean(row['nats_per_token']):.4f}"),
        ("perplexity per word", f"{_mean(row['word_perplexity']):,.1f}"),
        ("bits per byte", str(Interval(**bits))),
        ("asymptote at the constant rate", f"{fit['E']:.3f} [{fit['E_interval'][0]:.3f}, "
         f"{fit['E_interval'][1]:.3f}] nats/token, falling as t^-{fit['alpha']:.2f}"),
        ("twice as long at that rate, by the fit", f"{now - later:.3f} nats/token less"),
        ("protocol", f"`{row['signature'].replace('|', chr(92) + '|')}`"),
    ]  # fmt: skip
    return "\n".join(["| | |", "| --- | --- |", *(f"| {a} | {b} |" for a, b in lines)]) + "\n"


def _tokens(row: dict[str, Any]) -> int:
    return row["settings"]["batch_size"] * row["settings"]["context"]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def draw(row: dict[str, Any], path: Path) -> None:
    """Validation loss against steps, the fitted law and its asymptote."""
    step, loss = np.array(row["evaluated"]).T
    fit = row["fit"]
    curve = Curve(fit["E"], fit["A"], fit["alpha"])
    dense = np.linspace(fit["steps"][0], step[-1], 200)
    figure, axes = plots.subplots(size=(8.5, 4.8))
    axes.plot(step, loss, "o", ms=4, color=plots.BLUE, label="validation loss")
    axes.plot(dense, curve(dense), color=plots.ORANGE, label=f"E + A t^-{fit['alpha']:.2f}")
    floor, (low, high) = loss.min() - 0.1, fit["E_interval"]
    inside = fit["E"] > floor - 1  # else the curve would be a flat line at the top
    if inside:
        floor = min(floor, low - 0.1)
        axes.axhline(fit["E"], color=plots.REFERENCE, lw=1, ls="--")
        axes.axhspan(low, high, color=plots.REFERENCE, alpha=0.1, lw=0)
    told = "E, the asymptote at a constant rate"
    told += "" if inside else f", lies below: {fit['E']:.1f} [{low:.1f}, {high:.1f}]"
    axes.text(
        0.01, fit["E"] if inside else floor, told, va="bottom", fontsize=9,
        color=plots.REFERENCE, transform=axes.get_yaxis_transform(),
    )  # fmt: skip
    axes.axvspan(fit["steps"][1], step[-1], color=plots.SKY, alpha=0.15, lw=0)
    axes.text(
        fit["steps"][1], 0.97, " the rate falls", va="top", fontsize=9, color=plots.GRAY,
        transform=axes.get_xaxis_transform(),
    )  # fmt: skip
    axes.set(
        title="Where is the loss of the Wikipedia model going?",
        xlabel="optimizer steps",
        ylabel="validation loss (nats per token)",
        ylim=(floor, np.quantile(loss, 0.97)),
    )
    plots.label_lines(axes)
    plots.save(figure, path)


def main() -> None:
    """Run it, or go on."""
    parser = argparse.ArgumentParser(prog="python -m tiny_gpt.benchmark.wikipedia")
    parser.add_argument("--max-steps", type=int)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--evaluations", type=int, default=40)
    parser.add_argument("--folder", type=Path, default=Path("runs/tiny_gpt/wikipedia"))
    parser.add_argument("--out", type=Path, default=RECORD)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    options = vars(parser.parse_args())
    changes = recipes.parsed_changes(options.pop("set"))
    try:
        run(say=lambda line: print(line, flush=True), **options, **changes)  # noqa: T201
    except UserError as error:
        sys.exit(f"wikipedia: {error}")
    sys.stdout.write(render(read_record(options["out"])))


if __name__ == "__main__":
    main()
