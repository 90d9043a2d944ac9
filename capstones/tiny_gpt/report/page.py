r"""The report: what a run folder says about the run, as one quiet page.

``RUN/report.html`` is a single static file: no script, nothing fetched, light or dark as the reader
has it, under 400 kB however long the run was. A curve of many steps is thinned to the least and the
greatest value in each strip one unit wide, so that no spike is lost and the picture stays the same.
The curves stretch with the page while all writing stays HTML beside them, and keeps its size on a
phone.

Everything written by a model or found in a file is escaped before it goes into the page.
"""

import json
import math
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from shared.artifacts import ArtifactError
from shared.errors import UserError
from shared.files import write_atomic
from tiny_gpt.report.inspection import parameters_of_run, read_lines

__all__ = ["write_report"]

# A panel's own units. The page stretches the width: strokes and dots do not scale with it.
WIDTH, HEIGHT = 720, 220
SAMPLE_BYTES = 100_000  # of all samples together; the newest are shown first


Curve = tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]


def write_report(run: Path) -> Path:
    """Write `report.html` into a run's folder; return its path.

    Raises
    ------
    UserError
        If `run` is no run folder, or a file in it is damaged; the message names the file. A last
        line of a log that a crash tore is left out.
    """
    run = Path(run)
    for name in ("settings.toml", "log.jsonl"):
        if not (run / name).is_file():
            raise UserError(f"{run} is not a run of tiny-gpt: {name} is missing")
    try:
        settings = tomllib.loads((run / "settings.toml").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{run / 'settings.toml'} cannot be read ({error})") from error
    log = read_lines(run / "log.jsonl")
    timing = (
        read_lines(run / "timing.jsonl", strict=False) if (run / "timing.jsonl").is_file() else []
    )
    evaluation = _json(run / "evaluation.json", dict)
    samples = _json(run / "samples.json", list)
    settings = _flat(settings)
    nested = (v for v in evaluation.values() if isinstance(v, dict) and "longest" in v)
    probe = next(nested, evaluation)
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


# ---- curves


def series(records: list[dict[str, Any]], key: str) -> Curve:
    """Steps and values of the records that have `key`; of a step done twice, the later one."""
    found = {r["step"]: r[key] for r in records if key in r and "step" in r}
    steps = sorted(found)
    values = [math.nan if found[s] is None else float(found[s]) for s in steps]
    return np.array(steps, dtype=np.float64), np.array(values, dtype=np.float64)


def running_mean(
    y: Float64[np.ndarray, " n"], half: int, valid: Bool[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Mean of the valid values up to `half` places before and after each one.

    Where the run began the window is as short after a value as before it, for a curve that falls
    steeply must not be averaged with what comes later only.
    """
    n = len(y)
    i = np.arange(n)
    first, stop = np.maximum(i - half, 0), np.minimum(i + np.minimum(half, i) + 1, n)
    sums, counts = (
        np.concatenate([[0.0], np.cumsum(np.where(valid, v, 0.0))]) for v in (y, np.ones(n))
    )
    with np.errstate(invalid="ignore"):
        return (sums[stop] - sums[first]) / (counts[stop] - counts[first])


def thin(
    x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"], columns: int = WIDTH
) -> Int64[np.ndarray, " kept"]:
    """Indices, in order, of the least and greatest finite y in each of `columns` strips of x.

    The first and last finite points stay too, so that a curve ends where it ended.
    """
    finite = np.flatnonzero(np.isfinite(y))
    if not finite.size:
        return finite
    span = x[-1] - x[0] or 1.0
    column = ((x[finite] - x[0]) / span * columns).astype(np.int64)
    order = np.lexsort((y[finite], column))
    edge = np.flatnonzero(np.diff(column[order]))  # the greatest of a strip, then the next's least
    kept = order[np.concatenate([[0], edge, edge + 1, [len(order) - 1]])]
    return finite[np.unique(np.concatenate([kept, [0, len(finite) - 1]]))]


@dataclass(frozen=True)
class Scale:
    """From values to fractions of an axis, on which values outside lie at the ends."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def around(cls, *values: Float64[np.ndarray, " _"], log: bool = False) -> "Scale | None":
        """The scale that holds all finite values and some air; None without any."""
        v = np.concatenate(values)
        v = v[np.isfinite(v) & ((v > 0) | (not log))]
        if not v.size:
            return None
        low, high = (np.log10(v) if log else v)[[v.argmin(), v.argmax()]]
        air = 0.06 * (high - low) or (0.5 if log else abs(high) / 2 or 1.0)
        return cls(low - air, high + air, log)

    def __call__(self, v: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        if self.log:
            v = np.log10(np.maximum(v, 1e-300))
        return np.clip((v - self.low) / (self.high - self.low), 0.0, 1.0)

    def ticks(self, about: int = 4) -> Float64[np.ndarray, " ticks"]:
        """Round numbers within: steps of 1, 2 or 5 times a power of ten; of a long log, powers."""
        if self.log and self.high - self.low > 1.5:
            every = math.ceil((self.high - self.low) / 5)
            return 10.0 ** np.arange(math.ceil(self.low), math.floor(self.high) + 1, every)
        low, high = (10.0**self.low, 10.0**self.high) if self.log else (self.low, self.high)
        rough = (high - low) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = power * next(m for m in (1, 2, 5, 10) if m * power >= rough)
        return np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step


class Panel:
    """One plot: layers of SVG paths, and writing in HTML around them."""

    def __init__(self, title: str, note: str, x: Scale, y: Scale | None):
        self.title, self.note, self.x, self.y = title, note, x, y
        self.paths: list[str] = []
        self.labels: list[tuple[float, str, str]] = []

    def draw(self, curve: Curve, kind: str, *, dots: bool = False) -> None:
        """Add a line, broken where values are not finite, or its points as dots."""
        x, y = curve
        if self.y is None or not (kept := thin(x, y)).size:
            return
        gaps = np.cumsum(~np.isfinite(y))[kept]
        starts = np.concatenate([[True], np.diff(gaps) > 0]) | dots
        points = zip(self.x(x[kept]) * WIDTH, (1 - self.y(y[kept])) * HEIGHT, starts, strict=True)
        # A line of no length with round ends is a dot, however the page is stretched.
        d = "".join(f"M{a:.1f} {b:.1f}h0" if m else f"L{a:.1f} {b:.1f}" for a, b, m in points)
        self.paths.append(f'<path class="{kind}{" dots" if dots else ""}" d="{d}"/>')

    def rug(self, x: Float64[np.ndarray, " n"], kind: str, row: int) -> None:
        """Mark steps by ticks at the bottom edge, one at most for each unit of width."""
        at = np.unique(np.round(self.x(x) * WIDTH))
        d = "".join(f"M{a:.0f} {HEIGHT - 9 * row}v-7" for a in at)
        self.paths.append(f'<path class="{kind} rug" d="{d}"/>')

    def level(self, value: float, kind: str, label: str) -> None:
        """Draw a horizontal line with its label."""
        if self.y is not None:
            self.paths.append(
                f'<path class="{kind}" d="M0 {self._top(value) * HEIGHT:.1f}h{WIDTH}"/>'
            )
            self.label(value, kind, label)

    def label(self, value: float, kind: str, text: str) -> None:
        """Write beside the right edge, at the height of `value`."""
        if self.y is not None and math.isfinite(value):
            self.labels.append((self._top(value), kind, text))

    def _top(self, value: float) -> float:
        return 1 - float(self.y(np.array([value], dtype=np.float64))[0])

    def html(self) -> str:
        """The panel as a figure."""
        head = f"<figcaption><h2>{escape(self.title)}</h2> {escape(self.note)}</figcaption>"
        if self.y is None:
            return f'<figure>{head}<p class="none">nothing finite to draw</p></figure>'
        ys, xs = self.y.ticks(), self.x.ticks(5)
        rows = list(zip(ys, 1 - self.y(ys), strict=True))
        columns = zip(xs, self.x(xs), strict=True)
        grid = "".join(f"M0 {t * HEIGHT:.1f}h{WIDTH}" for _, t in rows)
        words = [
            *(f'<i class="y" style="top:{t:.2%}">{short(v)}</i>' for v, t in rows),
            *(f'<i class="x" style="left:{p:.2%}">{short(v)}</i>' for v, p in columns),
        ]
        floor, gap = -1.0, 17 / HEIGHT  # no two labels on one another
        for top, kind, text in sorted(self.labels):
            floor = max(top, floor + gap)
            words.append(f'<b class="{kind}" style="top:{floor:.2%}">{escape(text)}</b>')
        return (
            f'<figure>{head}<div class="plot"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
            f' preserveAspectRatio="none" aria-label="{escape(self.title)}, {escape(self.note)}">'
            f'<path class="grid" d="{grid}"/>{"".join(self.paths)}</svg>{"".join(words)}</div>'
            "</figure>"
        )


def _panels(log: list[dict], timing: list[dict], settings: dict[str, Any]) -> list[str]:
    steps, loss = series(log, "loss")
    if not steps.size:
        return ["<p>No step has been logged yet.</p>"]
    x = Scale(steps[0], max(steps[-1], steps[0] + 1))
    skipped = {r["step"]: r["skipped"] for r in log if r.get("skipped")}
    counted = np.isfinite(loss) & ~np.isin(steps, list(skipped))

    half = len(steps) // 50
    mean, val = running_mean(loss, half, counted), series(log, "val_loss")
    # Neither the first fall nor a spike may flatten the rest: they come from above the frame.
    framed = loss[len(steps) // 50 :][counted[len(steps) // 50 :]]
    if framed.size:
        framed = framed[framed <= np.percentile(framed, 99.5, method="higher")]
    y = Scale.around(framed, val[1])
    note = f"nats per token; each step, and the mean of {2 * half + 1}"
    if y and (above := counted & (loss > y.high)).any():
        note += f"; {above.sum():,} steps lie above the frame, up to {loss[above].max():.3g}"
    p = Panel("Loss", note, x, y)
    p.draw((steps, loss), "train faint")
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
    panels = [p]

    rate = series(log, "lr")
    zero = np.zeros(1)
    p = Panel("Learning rate", "per step", x, Scale.around(rate[1], zero))
    p.draw(rate, "other")
    panels.append(p)

    norm = series(log, "grad_norm")
    clip = settings.get("clip", 0)
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
    panels.append(p)

    if timing:
        speed = series(timing, "tokens_per_second")
        typical = float(np.nanmedian(speed[1])) if np.isfinite(speed[1]).any() else math.nan
        starts = len(_stretches(timing))
        note = "tokens per second" + (f"; the run was started {starts} times" * (starts > 1))
        p = Panel("Speed", note, x, Scale.around(speed[1], zero))
        p.draw(speed, "other faint")
        p.draw((speed[0], running_mean(speed[1], half, np.isfinite(speed[1]))), "other")
        p.label(typical, "other", f"median {short(typical)}")
        panels.append(p)
    return [p.html() for p in panels]


# ---- words


def _header(run: Path, log: list[dict], timing: list[dict], evaluation: dict) -> str:
    facts: list[tuple[str, str]] = []
    steps, val = series(log, "val_loss")
    if np.isfinite(val).any():
        best = int(np.nanargmin(val))
        facts.append((f"{val[best]:.4f}", f"best validation loss, step {steps[best]:,.0f}"))
    if bits := evaluation.get("bits_per_byte"):
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
        "word_perplexity": "perplexity per word",
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


def short(value: float) -> str:
    """A number in few characters: 0.001, 1.5, 107k, 2.4M."""
    for power, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * power:
            return f"{value / power:.3g}{unit}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """A time in its two largest units."""
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    hours, minutes = divmod(round(seconds) // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {round(seconds) % 60} s"


def _stretches(timing: list[dict]) -> list[float]:
    """Seconds of each start of the run: the clock falls where it was started again."""
    clock = [float(r["seconds"]) for r in timing if "seconds" in r]
    return [a for a, b in zip(clock, [*clock[1:], -1.0], strict=True) if b < a]


def _last(y: Float64[np.ndarray, " n"]) -> float:
    finite = y[np.isfinite(y)]
    return float(finite[-1]) if finite.size else math.nan


def _name(run: Path) -> str:
    return run.resolve().name


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


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


STYLE = """
:root { color-scheme: light dark; --paper: #fdfcfa; --ink: #22252a; --soft: #6d727a;
  --line: #e4e1db; --blue: #0072b2; --orange: #d55e00; --green: #00805d; --red: #c2255c; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181b; --ink: #e2e0dc; --soft: #969aa1;
  --line: #2e3237; --blue: #63b7ec; --orange: #f39b57; --green: #4cc7a0; --red: #f57ba3; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { max-width: 46rem; margin: 0 auto; padding: 2.5rem 1.1rem 5rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", sans-serif;
  font-variant-numeric: tabular-nums; }
h1 { font: 600 1.9rem/1.2 Charter, "Iowan Old Style", Georgia, serif; margin: 0 0 1.2rem;
  overflow-wrap: anywhere; }
h2 { font-size: 1rem; font-weight: 600; margin: 0; }
dl { display: flex; flex-wrap: wrap; gap: 1rem 2rem; margin: 0; }
dl div { display: flex; flex-direction: column-reverse; justify-content: flex-end; }
dd { margin: 0; font-size: 1.45rem; line-height: 1.3; }
dt, figcaption, .step, .none, .signature { color: var(--soft); font-size: .82rem; }
.signature { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: .74rem;
  overflow-wrap: anywhere; margin: 1rem 0 0; }
figure { margin: 2.6rem 0 0; }
figcaption h2 { color: var(--ink); margin-bottom: .1rem; }
.plot { position: relative; height: 220px; margin: 1rem 5.4rem 1.9rem 2.7rem; }
svg { position: absolute; width: 100%; height: 100%; overflow: visible; }
path { fill: none; stroke-width: 1.6; stroke-linejoin: round; stroke-linecap: round;
  vector-effect: non-scaling-stroke; }
.plot i, .plot b { position: absolute; font: normal .75rem/1 inherit; font-size: .75rem;
  line-height: 1; white-space: nowrap; }
.plot i { color: var(--soft); font-style: normal; }
.plot b { left: 100%; padding-left: .6rem; font-weight: 600; transform: translateY(-50%); }
.y { right: 100%; padding-right: .55rem; transform: translateY(-50%); }
.x { top: 100%; padding-top: .6rem; transform: translateX(-50%); }
.grid { stroke: var(--line); stroke-width: 1; }
.train { stroke: var(--blue); } b.train { color: var(--blue); }
.val { stroke: var(--orange); } b.val { color: var(--orange); }
.other { stroke: var(--green); stroke-width: 1.3; } b.other { color: var(--green); }
.limit { stroke: var(--soft); stroke-width: 1; } b.limit { color: var(--soft); }
path.limit:not(.rug) { stroke-dasharray: 4 4; }
.bad { stroke: var(--red); }
.rug { stroke-width: 1; stroke-linecap: butt; } .bad.rug { stroke-width: 2; }
.faint { stroke-width: 1; opacity: .32; }
.dots { stroke-width: 6; }
.best { stroke: var(--orange); } .best.dots { stroke-width: 12; opacity: .45; }
section, details { margin-top: 2.6rem; }
details details, section details { margin-top: 1.2rem; }
summary { cursor: pointer; font-weight: 600; }
blockquote { margin: .3rem 0 1.6rem; padding-left: 1rem; border-left: 2px solid var(--line);
  font: 1.08rem/1.6 Charter, "Iowan Old Style", Georgia, serif; white-space: pre-wrap;
  overflow-wrap: anywhere; }
.step { margin: 1rem 0 0; }
table { border-collapse: collapse; margin-top: .8rem; font-size: .88rem; width: 100%; }
th, td { text-align: left; font-weight: 400; padding: .3rem 0; overflow-wrap: anywhere;
  border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); padding-right: 1.5rem; width: 45%; }
"""

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
<body>
{body}
</body>
</html>
"""
