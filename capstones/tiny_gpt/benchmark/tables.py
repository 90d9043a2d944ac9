"""Tables and figures of the benchmark's records: nothing in the README is typed by hand.

    python -m tiny_gpt.benchmark.tables

writes the tables and figures into `results/`, from where `study log` includes them.
"""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from shared import plots
from shared.files import write_atomic
from shared.stats import mean_interval
from tiny_gpt.benchmark import ablation, duels, wikipedia
from tiny_gpt.benchmark.bench import RECORD
from tiny_gpt.benchmark.measure import read_record

__all__ = ["draw", "pages", "render", "render_ablation", "render_costs", "render_duels"]

WHAT = {
    "loss": "validation loss, worst seed",
    "loop": "training loop, times faster",
    "whole": "whole process, times faster",
    "parameters": "parameters",
}


def render(record: dict[str, Any], ablated: dict[str, Any] | None = None) -> str:
    """All tables that the records can give, in Markdown."""
    rows = record["rows"]
    parts: list[str] = [render_duels(record)]
    for name, table in (
        ("decoding", _decoding),
        ("windows", _windows),
        ("throughput", _throughput),
        ("prepare", _prepare),
    ):
        if name in rows:
            parts.append(table(rows[name]))
    parts.append(render_costs(record))
    if ablated and ablated["rows"]:
        parts.append(render_ablation(ablated))
    return "\n".join(part for part in parts if part)


def _table(header: Sequence[str], lines: Iterable[Sequence[str]], right: str = "") -> str:
    """A Markdown table; `right` has an r for each column that is aligned right."""
    rule = ["---:" if i < len(right) and right[i] == "r" else "---" for i in range(len(header))]
    rows = [header, rule, *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def _losses(runs: Sequence[dict[str, Any]]) -> str:
    losses = [run["val_loss"] for run in runs]
    if len(losses) < 2:
        return f"{losses[0]:.4f} (n = 1)"
    return str(mean_interval(losses))


def _median(values: Iterable[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


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
    table = [
        (
            title,
            f"{runs[0]['n_parameters']:,}",
            context,
            _losses(runs),
            f"{_median(run['loop_seconds'] for run in runs):.1f}",
            f"{_median(run['whole_seconds'] for run in runs):.1f}",
        )
        for title, context, runs in lines
    ]
    for line in rows.get("ngrams", {}).get("lines", []):
        name, loss = f"{line['order']}-gram, Witten–Bell", f"{line['val_loss']:.4f}"
        seconds = f"{line['count_seconds']:.1f}", f"{line['whole_seconds']:.1f}"
        table.append((name, "", str(line["order"] - 1), loss, *seconds))
    return table


def render_duels(record: dict[str, Any]) -> str:
    """What was trained, and each target with what was measured and whether it was reached."""
    rows = record["rows"]
    sides = _sides(rows)
    if not sides and "decoding" not in rows:
        return ""
    header = ("", "parameters", "context", "validation loss (nats)", "loop (s)", "whole (s)")
    parts = [_table(header, sides, " rrrrr")] if sides else []
    verdicts = []
    for name, duel in duels.DUELS.items():
        row = rows.get(name, {})
        for v in duels.judge(name, row.get("pairs", [])):
            verdict = "yes" if v["reached"] else "no"
            if v["stretch"] is not None:
                stretch = "reached" if v["stretch_reached"] else "missed"
                verdict += f" (stretch {_number(v['what'], v['stretch'])} {stretch})"
            sign = "≤" if v["what"] == "loss" else "≥"
            goal, measured = (_number(v["what"], v[key]) for key in ("goal", "measured"))
            verdict = "a quick trial: none" if row["plan"]["quick"] else verdict
            verdicts.append((duel.title, WHAT[v["what"]], f"{sign} {goal}", measured, verdict))
    for batch in rows.get("decoding", {}).get("batches", []):
        quick = rows["decoding"]["machine"]["quick"]
        verdict = "a quick trial: none" if quick else "yes" if batch["reached"] else "no"
        title = f"{batch['new_tokens']} tokens at batch {batch['batch']} ({batch['best']})"
        goal, ratio = f"≥ {batch['goal']:g}", f"{batch['ratio']:.1f}"
        verdicts.append((title, "times the uncached rival", goal, ratio, verdict))
    if verdicts:
        parts.append(_table(("", "", "target", "measured", "reached"), verdicts, "  rr"))
    if (fine := duels.rival_is_one(record)) is not None:
        low, high = duels.RIVAL_LOSS
        told = "is" if fine else "is NOT"
        parts.append(f"The stand-in {told} within {low} to {high}, as nanoGPT's 1.8983 is.\n")
    parts.append(_measured_with(rows))
    return "\n".join(parts)


def _number(what: str, value: float) -> str:
    if what == "parameters":
        return f"{value:,.0f}"
    return f"{value:.4g}" if what == "loss" else f"{value:.3g}"


def _measured_with(rows: dict[str, Any]) -> str:
    """The machines of the rows, each once."""
    machines = {}
    for name, row in rows.items():
        if where := row.get("machine"):
            torch = where["versions"].get("torch", "")
            told = f"{where['cpu']}, {where['threads']} threads of {where['cores']} cores"
            told += f", torch {torch}" if torch else ""
            machines.setdefault((told, where["date"], where["commit"]), []).append(name)
    return "\n".join(
        f"Measured on {told}, {date}, commit {commit}: {', '.join(names)}."
        for (told, date, commit), names in machines.items()
    ) + "\n"  # fmt: skip


def _decoding(row: dict[str, Any]) -> str:
    sides = list(dict.fromkeys(side for batch in row["batches"] for side in batch["seconds"]))
    lines = [
        (side, *(_speed(batch, side) for batch in row["batches"]))
        for side in sides
    ]  # fmt: skip
    header = ("tokens a second", *(f"batch {batch['batch']}" for batch in row["batches"]))
    return _table(header, lines, " rr")


def _speed(batch: dict[str, Any], side: str) -> str:
    if side not in batch["seconds"]:
        return ""
    ratio = batch["seconds"]["rival uncached"] / batch["seconds"][side]
    return f"{batch['tokens_per_second'][side]:,.0f} (×{ratio:.1f})"


def _throughput(row: dict[str, Any]) -> str:
    lines = [
        (
            line["side"],
            f"{line['n_parameters']:,}",
            f"{line['tokens_per_second']:,.0f}",
            f"{100 * line['utilization']:.0f} %",
            f"{line['peak_bytes'] / 1e6:,.0f}",
        )
        for line in row["lines"]
    ]
    header = ("training", "parameters", "tokens/s", "of the matmul peak", "peak memory (MB)")
    return _table(header, lines, " rrrr")


def _prepare(row: dict[str, Any]) -> str:
    lines = [
        (
            line["tokenizer"],
            line["dedup"],
            f"{line['megabytes']:.1f}",
            f"{line['seconds']:.1f}",
            f"{line['megabytes_per_second']:.2f}",
        )
        for line in row["lines"]
    ]
    return _table((f"{row['title']}", "dedup", "MB", "s", "MB/s"), lines, "  rrr")


def _windows(row: dict[str, Any]) -> str:
    """Losses by share of the context that is read anew, and their differences to sliding."""
    by_kept: dict[int, list[dict[str, Any]]] = {}
    for run in row["runs"]:
        for line in run["lines"]:
            by_kept.setdefault(line["kept"], []).append(line)
    sliding = by_kept[max(by_kept)]  # the whole context: a window for every token
    lines = []
    for kept, found in sorted(by_kept.items(), reverse=True):
        losses = [line["val_loss"] for line in found]
        change = [line["val_loss"] - s["val_loss"] for line, s in zip(found, sliding, strict=True)]
        told = "" if found is sliding else f"{fmean(change):+.4f}"
        told += f" [{min(change):+.4f}, {max(change):+.4f}]" if told and len(change) > 1 else ""
        read = f"{found[0]['read_per_token']:.1f}"
        lines.append((str(kept), read, f"{fmean(losses):.4f}", told))
    header = ("tokens read anew", "read for each written", "loss (nats)", "less sliding [range]")
    return _table(header, lines, "rrrr")


def render_costs(record: dict[str, Any]) -> str:
    """Time, memory and loss as model, data and source grow."""
    rows, parts = record["rows"], []

    def cells(line: dict[str, Any]) -> tuple[str, ...]:
        return (
            f"{1e3 * line['loop_seconds'] / line['steps']:.1f}",
            f"{line['tokens_per_second']:,.0f}",
            f"{line['peak_bytes'] / 1e6:,.0f}",
            f"{line['val_loss']:.4f}",
        )

    measured = ("ms/step", "tokens/s", "peak memory (MB)", "validation loss")
    if "costs-model" in rows:
        lines = [
            (f"{line['n_layers']} × {line['d_model']}", f"{line['n_parameters']:,}", *cells(line))
            for line in rows["costs-model"]["lines"]
        ]
        parts.append(_table(("layers × width", "parameters", *measured), lines, " rrrrr"))
    if "costs-data" in rows:
        lines = [
            (f"{line['characters']:,}", f"{line['epochs']:.2g}", *cells(line))
            for line in rows["costs-data"]["lines"]
        ]
        parts.append(_table(("training characters", "epochs", *measured), lines, "rrrrrr"))
    if "costs-prepare" in rows:
        lines = [
            (
                f"{line['megabytes']:.1f}",
                f"{line['documents']:,}",
                f"{line['seconds']:.1f}",
                f"{line['megabytes_per_second']:.2f}",
                f"{line['peak_bytes'] / 1e6:,.0f}",
            )
            for line in rows["costs-prepare"]["lines"]
        ]
        header = ("source (MB)", "documents", "prepare (s)", "MB/s", "peak memory (MB)")
        parts.append(_table(header, lines, "rrrrr"))
    return "\n".join(parts)


def render_ablation(record: dict[str, Any]) -> str:
    """What the loss gains when one ingredient goes; positive: the ingredient helps."""
    lines = [
        (
            effect.name,
            f"{effect.change.mean:+.3f}",
            f"[{effect.change.low:+.3f}, {effect.change.high:+.3f}]",
            str(effect.change.n),
            f"{effect.n_parameters:,}",
        )
        for effect in ablation.effects(record)
    ]
    header = ("changed", "change in loss (nats)", "95 % interval", "seeds", "parameters")
    return _table(header, lines, " rrrr")


# ---- figures


def draw(record: dict[str, Any], ablated: dict[str, Any] | None, folder: Path) -> list[Path]:
    """Draw what the records can give; returns the files."""
    drawn = []
    todo: list[tuple[str, bool, Callable[[Path], None]]] = [
        ("bench_curves.png", "curves" in record["rows"], lambda p: _draw_curves(record, p)),
        (
            "ablation_effects.png",
            bool(ablated and ablation.effects(ablated)),
            lambda p: _draw_effects(ablated, p),
        ),
    ]
    folder.mkdir(parents=True, exist_ok=True)
    for name, possible, figure in todo:
        if possible:
            figure(folder / name)
            drawn.append(folder / name)
    return drawn


def _draw_curves(record: dict[str, Any], path: Path) -> None:
    figure, axes = plots.subplots(size=(8.5, 4.8))
    colors = dict(
        zip(duels.DUELS, (plots.ORANGE, plots.GREEN, plots.BLUE, plots.PINK), strict=True)
    )
    for line in record["rows"]["curves"]["lines"]:
        rival = line["name"] == "rival"
        color = plots.REFERENCE if rival else colors[line["name"]]
        label = "nanoGPT's CPU command" if rival else f"ours, {line['name']}"
        axes.plot(line["seconds"], line["val_loss"], "o-", ms=3, color=color, label=label)
    for line in record["rows"].get("ngrams", {}).get("lines", []):
        axes.axhline(line["val_loss"], color=plots.GRAY, lw=1, ls="--")
        axes.text(
            0.99, line["val_loss"], f"{line['order']}-gram", color=plots.GRAY, fontsize=9,
            ha="right", va="bottom", transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    axes.set(
        xscale="log",
        title="How soon is the loss how low?",
        xlabel="seconds in the training loop",
        ylabel="validation loss (nats per character)",
    )
    plots.label_lines(axes)
    plots.save(figure, path)


def _draw_effects(record: dict[str, Any], path: Path) -> None:
    found = ablation.effects(record)[::-1]
    figure, axes = plots.subplots(size=(8.5, 0.4 * len(found) + 1.6))
    for y, effect in enumerate(found):
        low, mean, high = effect.change.low, effect.change.mean, effect.change.high
        clear = low > 0 or high < 0
        color = plots.BLUE if clear else plots.GRAY
        axes.barh(y, mean, color=color, alpha=0.35, height=0.7)
        axes.plot([low, high], [y, y], color=color, lw=2)
        axes.plot(mean, y, "o", color=color, ms=4)
    axes.axvline(0, color=plots.REFERENCE, lw=1)
    axes.set_yticks(range(len(found)), [effect.name for effect in found], fontsize=9)
    n = found[0].change.n
    axes.set(
        title="What does each ingredient give?",
        xlabel=f"loss without it less loss with it (nats per character; {n} seeds, 95 % interval)",
    )
    plots.save(figure, path)


def pages(folder: Path) -> dict[str, str]:
    """The tables that the README includes, by file, as the records in `folder` say."""
    record, ablated = read_record(folder / "bench.json"), read_record(folder / "ablation.json")
    rows = record["rows"]
    speed = [
        table(rows[name])
        for name, table in (
            ("decoding", _decoding),
            ("throughput", _throughput),
            ("prepare", _prepare),
        )
        if name in rows
    ]
    found = {
        "duels.md": render_duels(record),
        "speed.md": "\n".join(speed),
        "windows.md": _windows(rows["windows"]) if "windows" in rows else "",
        "costs.md": render_costs(record),
        "ablation.md": render_ablation(ablated) if ablated["rows"] else "",
        "wikipedia.md": wikipedia.render(read_record(folder / "wikipedia.json")),
    }
    return {name: text.strip() + "\n" for name, text in found.items() if text.strip()}


def main() -> None:
    """Write the tables that the README includes, and the figures, beside their records."""
    folder = RECORD.parent
    for name, text in pages(folder).items():
        write_atomic(folder / name, text)
    draw(read_record(RECORD), read_record(ablation.RECORD), folder)
    sys.stdout.write("now `study log` puts the tables into the README\n")


if __name__ == "__main__":
    main()
