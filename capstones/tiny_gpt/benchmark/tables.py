"""Tables and figures of the benchmark's records: nothing in the README is typed by hand.

    python -m tiny_gpt.benchmark.tables

writes the tables and figures into `results/`, from where `study log` includes them.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from shared import plots
from shared.files import write_atomic
from shared.stats import mean_interval
from tiny_gpt.benchmark import ablation, duels, wikipedia
from tiny_gpt.benchmark.bench import RECORD
from tiny_gpt.benchmark.measure import read_record

__all__ = ["draw", "pages"]

WHAT = {"loss": "validation loss, worst seed", "parameters": "parameters"}
WHAT |= {"loop": "training loop, times faster", "whole": "whole process, times faster"}
# Headers, and what stands below them as a format of a line of the record and of `_derived`.
PEAK = {"peak memory (MB)": "{peak:,.0f}"}
THROUGHPUT = {"training": "{side}", "parameters": "{n_parameters:,}"}
THROUGHPUT |= {"tokens/s": "{tokens_per_second:,.0f}", "of the matmul peak": "{percent:.0f} %"}
PREPARE = {"dedup": "{dedup}", "MB": "{megabytes:.1f}", "s": "{seconds:.1f}"}
PREPARE |= {"MB/s": "{megabytes_per_second:.2f}"}
COST = {"ms/step": "{ms:.1f}", "tokens/s": "{tokens_per_second:,.0f}", **PEAK}
COST |= {"validation loss": "{val_loss:.4f}"}
MODEL = {"layers × width": "{n_layers} × {d_model}", "parameters": "{n_parameters:,}"}
DATA = {"training characters": "{characters:,}", "epochs": "{epochs:.2g}"}
SOURCE = {"source (MB)": "{megabytes:.1f}", "documents": "{documents:,}"}
SOURCE |= {"prepare (s)": "{seconds:.1f}", "MB/s": "{megabytes_per_second:.2f}"}
COSTS = {  # with the number of columns that are aligned left
    "costs-model": (MODEL | COST, 1),
    "costs-data": (DATA | COST, 0),
    "costs-prepare": (SOURCE | PEAK, 0),
}


def pages(folder: Path) -> dict[str, str]:
    """The tables that the README includes, by file, as the records in `folder` say."""
    rows = read_record(folder / "bench.json")["rows"]
    found = {
        "duels.md": render_duels(rows),
        "speed.md": _speed(rows),
        "windows.md": _windows(rows),
        "costs.md": "\n".join(filter(None, (_lines(rows, name, *c) for name, c in COSTS.items()))),
        "ablation.md": render_ablation(read_record(folder / "ablation.json")),
        "wikipedia.md": wikipedia.render(read_record(folder / "wikipedia.json")),
    }
    return {name: text.strip() + "\n" for name, text in found.items() if text.strip()}


def _table(header: Iterable[str], lines: Iterable[Sequence[str]], left: int = 1) -> str:
    """A Markdown table whose columns but the first `left` are aligned right; none without lines."""
    header, lines = tuple(header), list(lines)
    rule = ["---" if i < left else "---:" for i in range(len(header))]
    rows = [header, rule, *lines] if lines else []
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _lines(rows: dict[str, Any], name: str, columns: dict[str, str], left: int = 1) -> str:
    """A row's lines as a table of these columns."""
    lines = rows.get(name, {}).get("lines", [])
    return _table(
        columns, [[f.format(**_derived(line)) for f in columns.values()] for line in lines], left
    )


def _derived(line: dict[str, Any]) -> dict[str, Any]:
    """What a line of a record says, in the units of the tables too."""
    more = {"peak": line.get("peak_bytes", 0) / 1e6, "percent": 100 * line.get("utilization", 0)}
    if "loop_seconds" in line:
        more["ms"] = 1e3 * line["loop_seconds"] / line["steps"]
    return line | more


# ---- duels


def render_duels(rows: dict[str, Any]) -> str:
    """What was trained, and each target with what was measured and whether it was reached."""
    header = ("", "parameters", "context", "validation loss (nats)", "loop (s)", "whole (s)")
    sides, verdicts = _table(header, _sides(rows)), []
    if not sides and "decoding" not in rows:
        return ""
    for name, duel in duels.DUELS.items():
        row = rows.get(name, {})
        for v in duels.judge(name, row.get("pairs", [])):
            what, verdict = v["what"], "yes" if v["reached"] else "no"
            if v["stretch"] is not None:
                stretch = "reached" if v["stretch_reached"] else "missed"
                verdict += f" (stretch {_number(what, v['stretch'])} {stretch})"
            verdict = "a quick trial: none" if row["plan"]["quick"] else verdict
            goal = f"{'≤' if what == 'loss' else '≥'} {_number(what, v['goal'])}"
            verdicts.append((duel.title, WHAT[what], goal, _number(what, v["measured"]), verdict))
    for batch in rows.get("decoding", {}).get("batches", []):
        quick = rows["decoding"]["machine"]["quick"]
        verdict = "a quick trial: none" if quick else "yes" if batch["reached"] else "no"
        title = f"{batch['new_tokens']} tokens at batch {batch['batch']} ({batch['best']})"
        goal, ratio = f"≥ {batch['goal']:g}", f"{batch['ratio']:.1f}"
        verdicts.append((title, "times the uncached rival", goal, ratio, verdict))
    targets = _table(("", "", "target", "measured", "reached"), verdicts, left=2)
    targets = targets.replace("---: | ---: | ---: |", "---: | ---: | --- |")
    note = ""
    if (fine := duels.rival_is_one({"rows": rows})) is not None:
        low, high = duels.RIVAL_LOSS
        verb = "is" if fine else "is NOT"
        note = f"The stand-in {verb} within {low} to {high}, as nanoGPT's 1.8983 is.\n"
    return "\n".join(filter(None, (sides, targets, note, _measured_with(rows))))


def _sides(rows: dict[str, Any]) -> list[Sequence[str]]:
    """Parameters, losses and seconds of the rival, the n-grams and our recipes."""
    lines = []
    fought = {name: rows[name] for name in duels.DUELS if rows.get(name, {}).get("pairs")}
    rival = {p["seed"]: p["rival"] for row in fought.values() for p in row["pairs"]}
    if rival:
        lines.append(("nanoGPT's CPU command (stand-in)", "64", list(rival.values())))
    for name, row in fought.items():
        context = str(row["plan"]["recipe"]["context"])
        lines.append((f"ours, {name}", context, [pair["ours"] for pair in row["pairs"]]))
    table = []
    for title, context, runs in lines:
        loss = mean_interval([run["val_loss"] for run in runs]) if len(runs) > 1 else None
        seconds = [median(run[f"{part}_seconds"] for run in runs) for part in ("loop", "whole")]
        cells = (title, f"{runs[0]['n_parameters']:,}", context)
        cells += (str(loss or f"{runs[0]['val_loss']:.4f} (n = 1)"),)
        table.append((*cells, *(f"{s:.1f}" for s in seconds)))
    for line in rows.get("ngrams", {}).get("lines", []):
        name, loss = f"{line['order']}-gram, Witten–Bell", f"{line['val_loss']:.4f}"
        seconds = f"{line['count_seconds']:.1f}", f"{line['whole_seconds']:.1f}"
        table.append((name, "", str(line["order"] - 1), loss, *seconds))
    return table


def _number(what: str, value: float) -> str:
    return f"{value:{ {'parameters': ',.0f', 'loss': '.4g'}.get(what, '.3g') }}"


def _measured_with(rows: dict[str, Any]) -> str:
    """The machines of the rows, each once."""
    machines = {}
    for name, row in rows.items():
        if where := row.get("machine"):
            torch = where["versions"].get("torch", "")
            cpu = f"{where['cpu']}, {where['threads']} threads of {where['cores']} cores"
            cpu += f", torch {torch}" if torch else ""
            machines.setdefault((cpu, where["date"], where["commit"]), []).append(name)
    return "".join(
        f"Measured on {cpu}, {date}, commit {commit}: {', '.join(names)}.\n"
        for (cpu, date, commit), names in machines.items()
    )


# ---- speed, windows, costs, ingredients


def _speed(rows: dict[str, Any]) -> str:
    """Tokens per second in decoding and training, megabytes per second in preparing."""
    batches = rows.get("decoding", {}).get("batches", [])
    sides = dict.fromkeys(side for batch in batches for side in batch["seconds"])
    lines = [(side, *(_decoded(batch, side) for batch in batches)) for side in sides]
    decoding = _table(("tokens per second", *(f"batch {b['batch']}" for b in batches)), lines)
    title = rows.get("prepare", {}).get("title", "")
    training = _lines(rows, "throughput", THROUGHPUT | PEAK)
    preparing = _lines(rows, "prepare", {title: "{tokenizer}", **PREPARE}, left=2)
    return "\n".join(filter(None, (decoding, training, preparing)))


def _decoded(batch: dict[str, Any], side: str) -> str:
    if side not in batch["seconds"]:
        return ""
    ratio = batch["seconds"]["rival uncached"] / batch["seconds"][side]
    return f"{batch['tokens_per_second'][side]:,.0f} (×{ratio:.1f})"


def _windows(rows: dict[str, Any]) -> str:
    """Losses by share of the context that is read anew, and their differences to sliding."""
    by_kept: dict[int, list[dict[str, Any]]] = {}
    for run in rows.get("windows", {}).get("runs", []):
        for line in run["lines"]:
            by_kept.setdefault(line["kept"], []).append(line)
    sliding = by_kept[max(by_kept)] if by_kept else []  # the context: a window for every token
    lines = []
    for kept, found in sorted(by_kept.items(), reverse=True):
        losses = [line["val_loss"] for line in found]
        change = [line["val_loss"] - s["val_loss"] for line, s in zip(found, sliding, strict=True)]
        cell = "" if found is sliding else f"{fmean(change):+.4f}"
        cell += f" [{min(change):+.4f}, {max(change):+.4f}]" if cell and len(change) > 1 else ""
        read = f"{found[0]['read_per_token']:.1f}"
        lines.append((str(kept), read, f"{fmean(losses):.4f}", cell))
    header = ("tokens read anew", "read for each written", "loss (nats)", "minus sliding [range]")
    return _table(header, lines, left=0)


def render_ablation(record: dict[str, Any] | None) -> str:
    """What the loss gains when one ingredient goes; positive: the ingredient helps."""
    lines = []
    for effect in ablation.effects(record) if record else ():
        mean, low, high = effect.change.mean, effect.change.low, effect.change.high
        cells = (effect.name, f"{mean:+.3f}", f"[{low:+.3f}, {high:+.3f}]", str(effect.change.n))
        lines.append((*cells, f"{effect.n_parameters:,}"))
    header = ("changed", "change in loss (nats)", "95 % interval", "seeds", "parameters")
    return _table(header, lines)


# ---- figures


def draw(folder: Path) -> list[Path]:
    """Draw beside them what the records in `folder` can give; returns the files."""
    rows = read_record(folder / "bench.json")["rows"]
    drawn = []
    if "curves" in rows:
        drawn.append(folder / "bench_curves.png")
        _draw_curves(rows, drawn[-1])
    if found := ablation.effects(read_record(folder / "ablation.json")):
        drawn.append(folder / "ablation_effects.png")
        _draw_effects(found, drawn[-1])
    for name, row in read_record(folder / "wikipedia.json")["rows"].items():
        drawn.append(folder / f"{name.replace('-', '_')}_curve.png")
        wikipedia.draw(row, drawn[-1])
    return drawn


def _draw_curves(rows: dict[str, Any], path: Path) -> None:
    figure, axes = plots.subplots(size=(8.5, 4.8))
    colors = (plots.REFERENCE, plots.ORANGE, plots.GREEN, plots.BLUE, plots.PINK)
    color_of = dict(zip(("rival", *duels.DUELS), colors, strict=True))
    lines = rows["curves"]["lines"]
    names = {line["name"]: f"ours, {line['name']}" for line in lines}
    names["rival"] = "nanoGPT's CPU command"
    grams = rows.get("ngrams", {}).get("lines", [])
    plots.curves(
        axes,
        {names[line["name"]]: line["seconds"] for line in lines},
        {names[line["name"]]: line["val_loss"] for line in lines},
        colors=[color_of[line["name"]] for line in lines],
        marker="o",
        reference={f"{line['order']}-gram": line["val_loss"] for line in grams},
        xscale="log",
        title="How soon is the loss how low?",
        xlabel="seconds in the training loop",
        ylabel="validation loss (nats per character)",
    )
    plots.save(figure, path)


def _draw_effects(found: list[ablation.Effect], path: Path) -> None:
    figure, axes = plots.subplots(size=(8.5, 0.4 * len(found) + 1.6))
    for y, effect in enumerate(found[::-1]):
        low, mean, high = effect.change.low, effect.change.mean, effect.change.high
        color = plots.BLUE if low > 0 or high < 0 else plots.GRAY
        axes.barh(y, mean, color=color, alpha=0.35, height=0.7)
        axes.plot([low, high], [y, y], color=color, lw=2)
        axes.plot(mean, y, "o", color=color, ms=4)
    axes.axvline(0, color=plots.REFERENCE, lw=1)
    axes.set_yticks(range(len(found)), [effect.name for effect in found[::-1]], fontsize=9)
    unit = f"nats per character; {found[0].change.n} seeds, 95 % interval"
    axes.set(
        title="What does each ingredient give?",
        xlabel=f"loss without it minus loss with it ({unit})",
    )
    plots.save(figure, path)


def main() -> None:
    """Write the tables that the README includes, and the figures, beside their records."""
    folder = RECORD.parent
    for name, text in pages(folder).items():
        write_atomic(folder / name, text)
    draw(folder)
    sys.stdout.write("now `study log` puts the tables into the README\n")


if __name__ == "__main__":
    main()
