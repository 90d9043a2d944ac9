"""The report: what a run folder says about the run, as one quiet page.

``RUN/report.html`` is a single static file: no script, nothing fetched, light or dark as the reader
has it, under 400 kB however long the run was. The curves stretch with the page while all writing
stays HTML beside them, and keeps its size on a phone.

Everything written by a model or found in a file is escaped before it goes into the page.
"""

import json
import math
import tomllib
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from shared.artifacts import ArtifactError
from shared.errors import UserError
from shared.files import write_atomic
from tiny_gpt.report.describe import parameters_of_run, read_lines
from tiny_gpt.report.plot import Curve, Panel, Scale, duration, running_mean, short
from tiny_gpt.report.style import PAGE, STYLE

__all__ = ["write_report"]

SAMPLE_BYTES = 100_000  # of all samples together; the newest are shown first


def write_report(run: Path) -> Path:
    """Write `report.html` into a run's folder; return its path."""
    run = Path(run)
    for name in ("settings.toml", "log.jsonl"):
        if not (run / name).is_file():
            raise UserError(f"{run} is not a run of tiny-gpt: {name} is missing")
    try:
        settings = tomllib.loads((run / "settings.toml").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{run / 'settings.toml'} cannot be read ({error})") from error
    log = read_lines(run / "log.jsonl")
    clock = run / "timing.jsonl"
    timing = read_lines(clock, strict=False) if clock.is_file() else []
    evaluation = _json(run / "evaluation.json", dict)
    samples = _json(run / "samples.json", list)
    probe = evaluation.get("memorization", {})
    parts = [
        _header(run, log, timing, evaluation),
        *_panels(log, timing, settings),
        _samples(samples, probe),
        _evaluation(evaluation),
        _table("Settings", settings.items()),
    ]
    page = PAGE.format(title=escape(_name(run)), style=STYLE, body="\n".join(filter(None, parts)))
    # A sample may hold half of a surrogate pair, which is no character of UTF-8.
    write_atomic(run / "report.html", page.encode("utf-8", "replace"))
    return run / "report.html"


def series(records: list[dict[str, Any]], key: str) -> Curve:
    """Steps and values of the records that have `key`; of a step done twice, the later one."""
    found = {r["step"]: r[key] for r in records if key in r and "step" in r}
    steps = sorted(found)
    values = [math.nan if found[s] is None else float(found[s]) for s in steps]
    return np.array(steps, dtype=np.float64), np.array(values, dtype=np.float64)


def _panels(log: list[dict], timing: list[dict], settings: dict[str, Any]) -> list[str]:
    steps, loss = series(log, "loss")
    if not steps.size:
        return ["<p>No step has been logged yet.</p>"]
    x, half = Scale(steps[0], max(steps[-1], steps[0] + 1)), len(steps) // 50
    skipped = {r["step"]: r["skipped"] for r in log if r.get("skipped")}
    panels = [
        _loss_panel(x, half, (steps, loss), series(log, "val_loss"), skipped),
        _rate_panel(x, series(log, "lr")),
        _norm_panel(x, half, series(log, "grad_norm"), settings.get("clip", 0), skipped),
    ]
    if timing:
        speed = series(timing, "tokens_per_second")
        panels.append(_speed_panel(x, half, speed, len(_stretches(timing))))
    return [p.html() for p in panels]


def _loss_panel(x: Scale, half: int, curve: tuple, val: tuple, skipped: dict) -> Panel:
    steps, loss = curve
    counted = np.isfinite(loss) & ~np.isin(steps, list(skipped))
    mean = running_mean(loss, half, counted)
    # Neither the first fall nor a spike may flatten the rest: they come from above the frame.
    framed = loss[len(steps) // 50 :][counted[len(steps) // 50 :]]
    if framed.size:
        framed = framed[framed <= np.percentile(framed, 99.5, method="higher")]
    y = Scale.around(framed, val[1])
    note = f"nats per token; each step, and the mean of {2 * half + 1}"
    if y and (above := counted & (loss > y.high)).any():
        note += f"; {above.sum():,} steps lie above the frame, up to {loss[above].max():.3g}"
    p = Panel("Loss", note, x, y)
    p.draw(curve, "train faint")
    p.draw((steps, mean), "train")
    p.label(_last(mean), "train", f"train {_last(mean):.3f}")
    p.draw(val, "val")
    if val[0].size <= 40:
        p.draw(val, "val", dots=True)
    if np.isfinite(val[1]).any():
        best = int(np.nanargmin(val[1]))
        p.draw((val[0][[best]], val[1][[best]]), "best", dots=True)
        p.label(_last(val[1]), "val", f"val {_last(val[1]):.3f}")
        p.note += f"; validation in orange, best {val[1][best]:.4f} at step {val[0][best]:,.0f}"
    return p


def _rate_panel(x: Scale, rate: Curve) -> Panel:
    p = Panel("Learning rate", "per step", x, Scale.around(rate[1], np.zeros(1)))
    p.draw(rate, "other")
    return p


def _norm_panel(x: Scale, half: int, norm: Curve, clip: Any, skipped: dict) -> Panel:
    p = Panel("Gradient norm", "before clipping, log scale", x, Scale.around(norm[1], log=True))
    p.draw(norm, "other faint")
    with np.errstate(divide="ignore", invalid="ignore"):
        level = np.log(norm[1])
    taken = np.isfinite(level) & ~np.isin(norm[0], list(skipped))
    p.draw((norm[0], np.exp(running_mean(level, half, taken))), "other")
    if isinstance(clip, int | float) and clip > 0 and norm[0].size:
        p.level(float(clip), "limit", f"clip {clip:g}")
        cut = norm[1] > clip
        p.rug(norm[0][cut], "limit", 0)
        p.note += f"; gray marks: {cut.sum():,} clipped steps ({cut.mean():.1%})"
    if skipped:
        p.rug(np.array(list(skipped), dtype=np.float64), "bad", 1)
        kinds = sorted({str(v) for v in skipped.values()})
        p.note += f"; red marks: {len(skipped):,} skipped ({', '.join(kinds)})"
    return p


def _speed_panel(x: Scale, half: int, speed: Curve, starts: int) -> Panel:
    finite = np.isfinite(speed[1])
    typical = float(np.nanmedian(speed[1])) if finite.any() else math.nan
    note = "tokens per second" + (f"; the run was started {starts} times" * (starts > 1))
    p = Panel("Speed", note, x, Scale.around(speed[1], np.zeros(1)))
    p.draw(speed, "other faint")
    p.draw((speed[0], running_mean(speed[1], half, finite)), "other")
    p.label(typical, "other", f"median {short(typical)}")
    return p


# ---- words


def _header(run: Path, log: list[dict], timing: list[dict], evaluation: dict) -> str:
    facts: list[tuple[str, str]] = []
    steps, val = series(log, "val_loss")
    if np.isfinite(val).any():
        best = int(np.nanargmin(val))
        facts.append((f"{val[best]:.4f}", f"best validation loss, step {steps[best]:,.0f}"))
    if (bits := evaluation.get("bits_per_byte")) and bits["value"] is not None:
        known = bits["low"] is not None  # a short text has no interval
        ends = f" [{bits['low']:.4f}, {bits['high']:.4f}]" if known else ""
        facts.append((f"{bits['value']:.4f}", f"bits per byte{ends}"))
    if (n := parameters_of_run(run)) is not None:
        facts.append((short(n), "parameters"))
    _, tokens = series(log, "tokens")
    if tokens.size:
        facts.append((short(tokens.sum()), "tokens"))
    if timing:
        facts.append((duration(sum(_stretches(timing))), "time"))
    cells = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for v, k in facts)
    signature = evaluation.get("signature")
    line = f'<p class="signature">{escape(str(signature))}</p>' if signature else ""
    return f"<header><h1>{escape(_name(run))}</h1><dl>{cells}</dl>{line}</header>"


def _samples(samples: list[dict], memory: dict) -> str:
    shown, older, room, before = [], [], SAMPLE_BYTES, None
    newest = max((s.get("step", 0) for s in samples), default=0)
    for s in sorted(samples, key=lambda s: -s.get("step", 0)):
        prompt, text = str(s.get("prompt", "")), str(s.get("text", ""))
        text = text.removeprefix(prompt)
        if (room := room - 6 * len(prompt + text)) < 0:  # an escaped character is at most 6 long
            older.append('<p class="none">Earlier samples are in samples.json.</p>')
            break
        quote = f'<blockquote dir="auto"><b>{escape(prompt)}</b>{escape(text)}</blockquote>'
        step = s.get("step", 0)
        label = f'<p class="step">step {step:,}</p>' if step != before else ""
        before = step
        (shown if step == newest else older).append(label + quote)
    html = f"<section><h2>Samples</h2>{''.join(shown)}" if shown or older else ""
    if older:
        html += f"<details><summary>Earlier samples</summary>{''.join(older)}</details>"
    if "longest" in memory:
        html = html or "<section><h2>Samples</h2>"
        says = f"Longest passage shared with the training text: {memory['longest']} characters"
        if "median" in memory:
            says += f", in the median sample {memory['median']}"
        if memory.get("held_out_longest") is not None:
            says += f"; held-out text itself shares {memory['held_out_longest']}"
        html += f"<p>{escape(says)}.</p>"
        html += f"<blockquote>{escape(str(memory.get('text', '')))}</blockquote>"
    return html and html + "</section>"


def _evaluation(evaluation: dict) -> str:
    names = {
        "nats_per_token": "nats per token",
        "perplexity": "perplexity per token",
        "word_perplexity": "perplexity per word between white space",
        "n_tokens": "tokens",
        "n_bytes": "bytes",
    }
    rows = [(label, evaluation[k]) for k, label in names.items() if evaluation.get(k) is not None]
    rows = [(k, f"{v:,}" if isinstance(v, int) else f"{v:.5g}") for k, v in rows]
    return _table("Evaluation on the whole split", rows, unfolded=True) if rows else ""


def _table(title: str, rows: Iterable[tuple[str, Any]], *, unfolded: bool = False) -> str:
    cells = "".join(f"<tr><th>{escape(str(k))}</th><td>{escape(str(v))}</td></tr>" for k, v in rows)
    opened = " open" * unfolded
    return f"<details{opened}><summary>{escape(title)}</summary><table>{cells}</table></details>"


def _stretches(timing: list[dict]) -> list[float]:
    """Seconds of each start of the run: the clock falls where it was started again."""
    clock = [float(r["seconds"]) for r in timing if "seconds" in r]
    return [a for a, b in zip(clock, [*clock[1:], -1.0], strict=True) if b < a]


def _last(y: Float64[np.ndarray, " n"]) -> float:
    finite = y[np.isfinite(y)]
    return float(finite[-1]) if finite.size else math.nan


def _name(run: Path) -> str:
    return run.resolve().name


def _json(path: Path, kind: type) -> Any:
    """What a JSON file holds, `kind()` where there is no file."""
    if not path.is_file():
        return kind()
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise ArtifactError(f"{path} cannot be read ({error})") from error
    if not isinstance(value, kind):
        raise ArtifactError(f"{path} must hold a {kind.__name__}, got {type(value).__name__}")
    return value
