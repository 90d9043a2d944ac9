"""Tables and the figure of `rag eval`'s record: nothing in the README is typed by hand.

    python -m rag.evaluation.tables

writes them into `results/`, from where `study log` includes them.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rag.evaluation.metrics import METRICS
from rag.evaluation.run import GOALS, RECORD, read_record
from shared import plots
from shared.files import write_atomic
from shared.measuring import table
from shared.stats import Interval

ANSWERS = {
    "passage found": "hit_rate",
    "EM": "exact_match",
    "F1": "f1",
    "right": "right",
    "right, of those with an answer": "right_of_answerable",
    "citation precision": "citation_precision",
    "citation recall": "citation_recall",
    "faithfulness": "faithfulness",
}


def pages(record: Mapping[str, Any]) -> dict[str, str]:
    """The tables that the README includes, by file; of the parts that are there."""
    makers = {
        "retrieval": _retrieval,
        "tuning": _tuning,
        "answers": _answers,
        "injections": _injections,
    }
    return {
        f"{part}.md": make(record[part]) + _made(record[part])
        for part, make in makers.items()
        if part in record
    }


def verdict(value: float, at_least: float, *, quick: bool) -> str:
    """Whether a goal was reached; a quick trial says nothing of it."""
    return "a quick trial: none" if quick else "reached" if value >= at_least else "missed"


def _retrieval(part: Mapping[str, Any]) -> str:
    first, better = METRICS[0], part["better_single"]
    header = ["search", f"{first}, interval", *METRICS[1:], f"{first} over {better}", "p"]
    lines = []
    for line in part["lines"]:
        over = line.get("over_single")
        cells = [line["system"], _around(line[first])]
        cells += [f"{line['means'][name]:.4f}" for name in METRICS[1:]]
        cells += [str(Interval(**over["difference"])), f"{over['p']:.4f}"] if over else ["", ""]
        lines.append(cells)
    text = f"{part['collection']}: {part['documents']:,} documents, {part['n']} queries.\n\n"
    text += table(header, lines)
    return text


def _tuning(part: Mapping[str, Any]) -> str:
    first = METRICS[0]
    header = ["family", "settings", f"{first}, held out", "over min-max", "best on all queries"]
    lines = [
        [
            line["name"],
            str(line["n_settings"]),
            f"{line['mean']:.4f}",
            str(Interval(**line["over_fusion"])),
            f"{line['best_mean']:.4f}",
        ]
        for line in part["lines"]
    ]
    text = f"{part['collection']}: {part['n']} queries in folds; each is judged by the settings"
    text += f" that are best on the other folds.\n\n{table(header, lines)}"
    if part["collection"] == "cranfield":
        value = max(line["mean"] for line in part["lines"] if line["n_settings"] > 1)
        goal = GOALS["nDCG@10 on Cranfield"]
        reached = verdict(value, goal, quick=part["made"]["quick"])
        text += f"\nGoal: {first} of a family, held out, at least {goal}; {value:.4f}, {reached}.\n"
    return text


def _around(interval: Mapping[str, float]) -> str:
    return f"{interval['mean']:.4f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def _answers(part: Mapping[str, Any]) -> str:
    header = ["questions", "answered by", "n", *ANSWERS, "silence: precision", "recall"]
    lines = []
    for line in part["lines"]:
        cells = [line["questions"], line["model"], str(line["n"])]
        cells += [_share(line[name]) for name in ANSWERS.values()]
        silent = line["refusals"]
        lines.append([*cells, _share(silent["precision"]), _share(silent["recall"])])
    for name, memory in part["without_documents"].items():
        cells = [name, f"{part['model']}, without documents", str(memory["n"]), "", "", "", ""]
        lines.append([*cells, _share(memory["right"]), *[""] * 5])
    goal = GOALS["citation precision"]
    least = min(line["citation_precision"] for line in part["lines"])
    reached = verdict(least, goal, quick=part["made"]["quick"])
    text = table(header, lines, left=2)
    return text + f"\nGoal: citation precision at least {goal}; least {least:.3f}, {reached}.\n"


def _share(value: float) -> str:
    return "" if value != value else f"{value:.2f}"


def _injections(part: Mapping[str, Any]) -> str:
    guard, obeyed = part["guard"], part["obeyed"]
    lines = [
        [f"injections found (of {guard['n']} sentences)", f"{guard['detected']:.2f}"],
        ["harmless sentences flagged", f"{guard['false_alarms']:.2f}"],
        [f"{part['model']} obeys, no guard (n = {obeyed['n']})", f"{obeyed['without_guard']:.2f}"],
        [f"{part['model']} obeys, with guard", f"{obeyed['with_guard']:.2f}"],
    ]
    return table(["", "share"], lines)


def _made(part: Mapping[str, Any]) -> str:
    made = part["made"]
    return f"\nMeasured {made['date']}, commit {made['commit']}.\n"


def draw(record: Mapping[str, Any], path: Path) -> None:
    """How often answers are wrong if only the most confident are given."""
    lines = [line for line in record["answers"]["lines"] if line["model"] == "extractive"]
    coverage = {line["questions"]: line["curve"]["coverage"] for line in lines}
    risk = {line["questions"]: line["curve"]["risk"] for line in lines}
    figure, axes = plots.subplots(size=(7, 4))
    labels = {"xlabel": "share of questions answered", "ylabel": "share of answers wrong"}
    plots.curves(axes, coverage, risk, **labels, ylim=(0, 1))
    axes.set_title("What does silence buy?")
    plots.save(figure, path)


def main() -> None:
    """Write the tables and the figure beside the record."""
    record = read_record(RECORD)
    for name, text in pages(record).items():
        write_atomic(RECORD.with_name(name), text)
    if "answers" in record:
        draw(record, RECORD.with_name("coverage_risk.png"))
    sys.stdout.write("now `study log` puts the tables into the README\n")


if __name__ == "__main__":
    main()
