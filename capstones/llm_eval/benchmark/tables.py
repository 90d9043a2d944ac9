"""Tables of `llm-eval bench`'s record: nothing in the README is typed by hand.

    python -m llm_eval.benchmark.tables

writes them into `results/`, from where `study log` includes them.
"""

import sys
from collections.abc import Mapping
from typing import Any

from llm_eval.benchmark.bench import RECORD
from llm_eval.benchmark.rows import GOALS
from llm_eval.report.labels import arrow
from shared.files import write_atomic
from shared.measuring import machines, read_record, table

Rows = Mapping[str, Any]
SPEED = ("choices", "generation", "rouge", "bleu", "chrf", "ter")
# What of the standard run the README shows; the page shows all.
SHOWN = (
    *("acc", "acc_norm", "exact_match", "perplexity", "token_f1", "rougeL", "mc1"),
    *("acc_ambig", "acc_disambig", "s_AMB", "s_DIS", "pct_stereotype", "pct_stereotype_shared"),
    *("acc_gap", "ece", "toxicity", "expected_max_toxicity", "toxicity_probability"),
    *("balanced_accuracy", "hallucination_rate", "answers_unanswerable", "selfcheck_average"),
)
UNIT = {"choices": "documents", "generation": "documents"}


def pages(record: Rows) -> dict[str, str]:
    """The tables that the README includes, by file; of the rows that are there."""
    makers = {"goals.md": _goals, "speed.md": _speed, "known.md": _known}
    makers["standard.md"] = _standard
    found = {name: make(record) for name, make in makers.items()}
    return {name: text + machines(record) for name, text in found.items() if text}


def _goals(record: Rows) -> str:
    """Each goal, what was measured, and whether it was reached."""
    lines = [
        (name, goal, f"{record[name]['times']:.2f} times", record[name]["times"] >= least)
        for name, (goal, least) in GOALS.items()
        if name in record
    ]
    if row := record.get("standard"):
        goal = "the standard suites on SmolLM2 in at most 5 minutes"
        lines.append(("standard", goal, f"{row['seconds']:.0f} s", row["seconds"] <= 300))
    if row := record.get("resume"):
        goal = f"{row['n']:,} answered documents found again in under 1 s"
        lines.append(("resume", goal, f"{row['seconds']:.2f} s", row["seconds"] < 1))
    if row := record.get("memory"):
        few, many = row["lines"]
        goal = f"memory of {many['n']:,} documents within 1.2 times that of {few['n']:,}"
        lines.append(("memory", goal, f"{row['growth']:.2f} times", row["growth"] <= 1.2))
    if row := record.get("kills"):
        goal = "the same bytes of results.json after SIGKILL at random moments"
        said = f"{row['differing']} of {row['n']} differ, {row['hit']} were hit"
        lines.append(("kills", goal, said, row["differing"] == 0))
    quick = {name: row["machine"]["quick"] for name, row in record.items()}
    verdict = {True: "reached", False: "missed"}
    shown = [
        [name, goal, said, "a quick trial: none" if quick[name] else verdict[bool(held)]]
        for name, goal, said, held in lines
    ]
    return table(["row", "goal", "measured", "verdict"], shown, left=4) if shown else ""


def _standard(record: Rows) -> str:
    """Numbers of the standard run, by suite."""
    if not (row := record.get("standard")):
        return ""
    lines = []
    for x in row["numbers"]:
        if x["metric"] in SHOWN and not x["group"] and not x["template"]:
            ends = "" if x["low"] is None else f" [{x['low']:.3f}, {x['high']:.3f}]"
            value = "none" if x["value"] is None else f"{x['value']:.3f}{ends}"
            least = "" if x["detectable"] is None else f"{x['detectable']:.3f}"
            way = f"{x['metric']} {arrow(x['higher_is_better'])}"
            lines.append([x["task"], way, value, f"{x['n']:,}", str(x["failed"] or ""), least])
    head = ["task", "metric", "value, 95 % interval", "n", "failed", "detectable"]
    return table(head, lines, left=2)


def _speed(record: Rows) -> str:
    """How many per second, of both sides."""
    lines = []
    for name in SPEED:
        if row := record.get(name):
            ours, theirs = row["lines"]
            rates = [f"{side['per_second']:,.1f}" for side in (ours, theirs)]
            rival = " ".join(filter(None, (theirs["side"], theirs.get("note", ""))))
            unit = UNIT.get(name, "pairs")
            lines.append([f"{name}, {row['n']:,} {unit}", *rates, f"{row['times']:.2f}", rival])
    head = ["per second", "llm-eval", "the other", "times", "which"]
    text = table(head, lines) if lines else ""
    if row := record.get("choices"):
        text += "\nBoth choose the same answer to each question; log-likelihoods differ by at most "
        text += f"{row['largest_difference']:.1e} nats."
    if row := record.get("generation"):
        text += f" Of the texts that were written {100 * row['same_texts']:.0f} % are the same.\n"
    return text


def _known(record: Rows) -> str:
    """Known figures of SmolLM2 beside ours."""
    if not (row := record.get("card")):
        return ""
    lines = [
        [
            f"{x['task']}, {x['metric']}",
            f"{100 * x['value']:.1f} [{100 * x['low']:.1f}, {100 * x['high']:.1f}]",
            f"{x['n']:,}",
            *("" if x[name] is None else f"{100 * x[name]:.1f}" for name in ("lm_eval", "card")),
        ]
        for x in row["lines"]
    ]
    head = ["%", "ours, 4-bit weights", "n", "lm-eval, unquantized", "the authors' card"]
    return table(head, lines)


def main() -> None:
    """Write the tables beside the record."""
    for name, text in pages(read_record(RECORD)).items():
        write_atomic(RECORD.with_name(name), text)
    sys.stdout.write("now `study log` puts the tables into the README\n")


if __name__ == "__main__":
    main()
