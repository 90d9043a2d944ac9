r"""Models of Wikipedia, and where their loss curves are going.

    tiny-gpt bench wikipedia --threads 4
    tiny-gpt bench wikipedia-small

Twenty megabytes of articles, split by document. The recipes' rate is constant for four fifths of
the run and then falls to zero (warm-up, stable, decay). On the stable part the validation loss
follows

$$L(t) = E + A\,t^{-\alpha},$$

which is fitted to it, with its asymptote: E is what this model would reach at this rate with steps
without end, not the entropy of English; the fall of the rate then goes below it. The interval of E
resamples seeds, where there are several, and blocks of the residuals, which are not independent
from one evaluation to the next.

In half an hour the large model (BPE) is far from its asymptote, and the fit says that it does not
know it. The small one (bytes) is as small as it must be to come near its own in that time.

Training is that of `tiny-gpt train` in a run's folder: interrupted, it goes on where it was.

Sources: Hestness et al., "Deep learning scaling is predictable, empirically" (2017), section 3;
Hägele et al., "Scaling laws and compute-optimal training beyond fixed training durations" (2024),
section 3, for the constant rate and its cooldown; Künsch, "The jackknife and the bootstrap for
general stationary observations" (1989), for blocks.
"""

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from shared import plots
from shared.errors import UserError
from shared.require import require
from shared.stats import Interval
from tiny_gpt.benchmark import recipes
from tiny_gpt.benchmark.bench import Bench
from tiny_gpt.benchmark.measure import machine, merge, peak_bytes

__all__ = ["RECORD", "ROWS", "Curve", "asymptote", "draw", "fit_curve", "render", "run_wikipedia"]

RECORD = Path(__file__).parents[1] / "results" / "wikipedia.json"
ROWS = {"wikipedia": "20 MB, BPE", "wikipedia-small": "20 MB, bytes"}
STABLE = 0.8  # share of the steps before a wsd schedule falls
SKIPPED = 0.1  # share of the steps at the beginning that no power law describes
LEAST_POINTS = 8
EVALUATIONS = 40


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

    enough = 4 <= len(step) == len(loss)
    require(enough, "step and loss must be 4 pairs at least", len(step), len(loss))
    require((step > 0).all() and np.isfinite(loss).all(), "step must be positive and loss finite")
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
) -> tuple[Curve, Interval]:
    """The curve of the seeds' mean loss, and E with its 95 % bootstrap interval.

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
    low, high = np.quantile(drawn, [0.025, 0.975])
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


def run_wikipedia(
    b: Bench,
    name: str,
    *,
    seeds: int = 1,
    source: str | Path = "wikipedia",
    evaluations: int = EVALUATIONS,
    **changes: Any,
) -> None:
    """Prepare, train, evaluate, fit, and put it all into `wikipedia.json` beside `b.out`.

    Data and runs stay below runs/, by the recipe's name and number of steps, so that an interrupted
    run goes on. `changes` are settings of the recipe.
    """
    import torch

    from tiny_gpt.training.checkpoints import find_checkpoint, load_checkpoint
    from tiny_gpt.training.evaluate import evaluate
    from tiny_gpt.training.train import train

    torch.set_num_threads(b.threads)
    steps = b.steps(recipes.settings_of(name).steps)
    folder = Path("runs/tiny_gpt") / f"{name}-{steps}"
    common = {"steps": steps, "eval_every": max(1, steps // evaluations), "threads": b.threads}
    common |= {"save_every": max(1, steps // 10), "resume": "auto", "device": "auto", **changes}
    common["data"] = str(folder / "data")
    data, prepare_seconds = _prepared(source, recipes.settings_of(name, **common))
    seconds, losses, results = [], [], []
    for seed in range(seeds):
        settings = recipes.settings_of(name, out=folder / f"seed-{seed}", seed=seed, **common)
        begin = time.perf_counter()
        outcome = train(data, settings)
        seconds.append(time.perf_counter() - begin)
        if not outcome.finished:
            raise UserError(f"interrupted at step {outcome.step}; the same command goes on")
        log = (outcome.run / "log.jsonl").read_text(encoding="utf-8").splitlines()
        lines = [line for line in map(json.loads, log) if "val_loss" in line]
        evaluated = [(line["step"], line["val_loss"]) for line in lines]
        step, loss = stable_part(evaluated, steps, settings.warmup_steps)
        losses.append(loss)
        # The last step, not the best: nothing is chosen by the text it is measured on.
        saved = load_checkpoint(find_checkpoint(outcome.run, last=True))
        model = saved.model.to("cuda" if torch.cuda.is_available() else "cpu")
        results.append(evaluate(model, data.splits["val"], data.tokenizer))
        b.say(f"seed {seed}: {results[-1]}")
    curve, interval = asymptote(step, np.array(losses), rng=np.random.default_rng(0))
    b.say(f"asymptote at the constant rate: {interval} nats/token")
    plain = dataclasses.asdict(settings) | {"data": Path(settings.data).name}
    content = {
        "title": f"Wikipedia, {ROWS[name]}",
        "settings": {k: v for k, v in plain.items() if k not in ("out", "seed")},
        "n_parameters": saved.model.n_parameters(),
        "prepare_seconds": prepare_seconds,
        "train_seconds": seconds,
        "peak_bytes": peak_bytes(),
        "tokens": {split: data.splits[split].n_tokens for split in data.splits},
        "bytes": {split: data.splits[split].n_bytes for split in data.splits},
        "nats_per_token": [r.nats_per_token for r in results],
        "word_perplexity": [r.word_perplexity for r in results],
        "bits_per_byte": dataclasses.asdict(results[0].bits_per_byte),
        "signature": results[0].signature,
        "evaluated": evaluated,
        "fit": {
            "of": "the validation loss at the constant rate, mean of the seeds",
            "steps": [float(step[0]), float(step[-1])],
            **dataclasses.asdict(curve),
            "E_interval": [interval.low, interval.high],
            "points": len(step),
        },
        "machine": machine(b.threads),
    }
    merge(b.out.with_name("wikipedia.json"), name, lambda row: content)


def _prepared(source: str | Path, settings: Any):
    """The data, made if they are not there; and the seconds that took."""
    from tiny_gpt.data.prepare import prepare
    from tiny_gpt.data.shards import MANIFEST, open_data

    begin, folder = time.perf_counter(), Path(settings.data)
    if not (folder / MANIFEST).exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        names = ("tokenizer", "vocab_size", "dedup", "val_fraction")
        options = {name: getattr(settings, name) for name in names}
        prepare(source, folder, workers=settings.threads, **options)
    return open_data(folder), time.perf_counter() - begin


# ---- what came out


def render(record: dict[str, Any]) -> str:
    """What came out, as a Markdown table with a column for each model."""
    rows = [record["rows"][name] for name in ROWS if name in record["rows"]]
    if not rows:
        return ""
    columns = [_facts(row) for row in rows]
    head = "| | |" if len(rows) == 1 else f"| | {' | '.join(row['title'] for row in rows)} |"
    lines = [head, "| --- |" + " --- |" * len(rows)]
    for fact in columns[0]:
        lines.append(f"| {fact} | {' | '.join(column[fact] for column in columns)} |")
    return "\n".join(lines) + "\n"


def _facts(row: dict[str, Any]) -> dict[str, str]:
    fit, settings = row["fit"], row["settings"]
    curve, end = Curve(fit["E"], fit["A"], fit["alpha"]), np.array([1.0, 2.0]) * fit["steps"][1]
    now, later = curve(end)
    tokens = settings["batch_size"] * settings["context"]
    passes = settings["steps"] * tokens / row["tokens"]["train"]
    low, high = fit["E_interval"]
    means = {name: np.mean(row[name]) for name in ("nats_per_token", "word_perplexity")}
    return {
        "parameters": f"{row['n_parameters']:,}",
        "steps of tokens": f"{settings['steps']:,} of {tokens:,}, {passes:.1f} passes through the "
        "text",
        "training": f"{np.mean(row['train_seconds']) / 60:.1f} min",
        "loss (nats/token)": f"{means['nats_per_token']:.4f}",
        "perplexity per word": f"{means['word_perplexity']:,.1f}",
        "bits per byte": str(Interval(**row["bits_per_byte"])),
        "asymptote at the constant rate": f"{fit['E']:.3f} [{low:.3f}, {high:.3f}] nats/token, "
        f"falling as t^-{fit['alpha']:.2f}",
        "twice as long at that rate, by the fit": f"{now - later:.3f} nats/token lower",
        "protocol": f"`{row['signature'].replace('|', chr(92) + '|')}`",
    }


def draw(row: dict[str, Any], path: Path) -> None:
    """Validation loss against steps, the fitted law and its asymptote."""
    step, loss = np.array(row["evaluated"]).T
    fit = row["fit"]
    dense = np.linspace(fit["steps"][0], step[-1], 200)
    law = Curve(fit["E"], fit["A"], fit["alpha"])(dense)
    figure, axes = plots.subplots(size=(8.5, 4.8))
    axes.plot(step, loss, "o", ms=4, color=plots.BLUE, label="validation loss")
    axes.plot(dense, law, color=plots.ORANGE, label=f"E + A t^-{fit['alpha']:.2f}")
    floor, (low, high) = loss.min() - 0.1, fit["E_interval"]
    where = f"{fit['E']:.2f} [{low:.2f}, {high:.2f}]"
    if fit["E"] > floor - 1:  # else the curve would be a flat line at the top
        floor = min(floor, low - 0.1)
        axes.axhspan(low, high, color=plots.REFERENCE, alpha=0.1, lw=0)
        axes.axhline(fit["E"], color=plots.REFERENCE, lw=1, ls="--")
    axes.axvspan(fit["steps"][1], step[-1], color=plots.SKY, alpha=0.15, lw=0)
    axes.set(
        title=f"Where is the loss of the model of {row['title']} going?",
        xlabel=f"optimizer steps (shaded: the rate falls); asymptote E at a constant rate: {where}",
        ylabel="validation loss (nats per token)",
        ylim=(floor, np.quantile(loss, 0.97)),
    )
    plots.label_lines(axes)
    plots.save(figure, path)
