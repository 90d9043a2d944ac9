"""What is told of the four arms: claims, metrics and the figure."""

import numpy as np

from shared import plots
from shared.study import Run
from week20.domain_lora import held_out_nats
from week20.domain_lora import row as circuit_row
from week28.evidence.assistant_judge import (
    Manuals,
    Written,
    gain,
    heading_quality,
    passes,
    share,
)
from week28.verilog_assistant import gap_row
from week28.verilog_bench import simulator

# What was known when the rules were set: runs on what is learned from, split once more.
SEEN_GAPS = "other pages: .1 as it is, .4 with the passage, .4 by LoRA, .9 by both"
SEEN_CIRCUITS = "other circuits: none of 30 passed, but 1 by both; .5 to .7 compiled"


def tell_search(run: Run, pages: Manuals, words: dict[str, float], search) -> None:
    """How well headings find their passages, by words, meaning and both."""
    found = {
        how: heading_quality(pages.passages, search, how) for how in ("meaning", "rrf", "minmax")
    }
    values = {"words": list(words.values())}
    for how, by_heading in found.items():
        values[how] = [by_heading[heading] for heading in words]
        run.metric(f"nDCG@10 of headings, {how}", np.mean(values[how]), rtol=0.05)
    run.metric("headings searched for", len(words))
    better = gain(values["rrf"], values["words"])
    run.claim("fused ranks find a heading's passages better than words do", better, at_least=0.0)


def tell_training(run: Run, base, model, tokenizer, circuits, asked) -> None:
    """What LoRA saves on held-out rows."""
    rows = [circuit_row(tokenizer, p) for p in circuits] + [
        gap_row(tokenizer, q, []) for q in asked
    ]
    before, after = held_out_nats(base, rows), held_out_nats(model, rows)
    saved = ((before[0] - after[0]) / before[1]).tolist()
    n = len(circuits)
    kinds = {"circuits": saved[:n], "gaps": saved[n:]}
    for kind, values in kinds.items():
        claim = f"LoRA finds held-out {kind} likelier"
        run.claim(claim, share(values), at_least=0.1, unit="nats/token")


def tell_gaps(run: Run, gaps: dict[str, list[float]]) -> None:
    """The quiz."""
    options = {"at_least": 0.1, "seen_before": SEEN_GAPS}
    claim = "with the manual open it fills more gaps"
    run.claim(claim, gain(gaps["retrieval"], gaps["as it is"]), **options)
    wrong = gain(gaps["others"], gaps["as it is"])
    run.falsifier("with passages of other questions", wrong, breaks=claim)
    claim = "with the manual closed LoRA fills more gaps than the model as it is"
    run.claim(claim, gain(gaps["LoRA"], gaps["as it is"]), **options)
    claim = "with the manual open LoRA fills more gaps than the model as it is"
    run.claim(claim, gain(gaps["both"], gaps["retrieval"]), **options)
    for arm, right in gaps.items():
        run.metric(f"gaps filled, {arm}", np.mean(right), rtol=None)


def tell_circuits(run: Run, circuits: dict[str, list[Written]]) -> None:
    """Compiled, passed, copied."""
    for arm, written in circuits.items():
        n = sum(w.n for w in written)
        run.metric(f"compile, {arm}", sum(w.compiled for w in written) / n, rtol=None)
        run.metric(f"copied, {arm}", sum(w.copied for w in written) / n, rtol=None)
    if not simulator():
        return
    first = {arm: passes(written, 1) for arm, written in circuits.items()}
    for arm, written in circuits.items():
        run.metric(f"pass@1, {arm}", np.mean(first[arm]), rtol=None)
        run.metric(f"pass@5, {arm}", np.mean(passes(written, 5)), rtol=None)
    pairs = {
        "LoRA's circuits pass more often than the model's as it is": ("LoRA", "as it is"),
        "with a solved circuit before the task more pass": ("retrieval", "as it is"),
        "both together pass more often than LoRA alone": ("both", "LoRA"),
    }
    for claim, (a, b) in pairs.items():
        values = gain(first[a], first[b])
        run.claim(claim, values, at_least=0.05, seen_before=SEEN_CIRCUITS)
    kept = [w.passed / w.compiled for w in circuits["both"] if w.compiled]
    if len(kept) > 1:
        claim = "a circuit that compiles does what was asked, nine times of ten"
        run.claim(claim, share(kept), at_least=0.9, seen_before=SEEN_CIRCUITS)


def draw(run: Run, gaps: dict[str, list[float]], circuits: dict[str, list[Written]]) -> None:
    """Both figures in one."""
    arms = ["as it is", "retrieval", "LoRA", "both"]
    with run.figure("arms", "What do looking up and adapting add?", 1, 2, size=(10, 4)) as axes:
        rows = {arm: share(gaps[arm]) for arm in [*arms, "others"]}
        rows["passage of another"] = rows.pop("others")
        mean = np.array([e.mean for e in rows.values()])
        error = [mean - [e.low for e in rows.values()], [e.high for e in rows.values()] - mean]
        values, label = dict(zip(rows, mean, strict=True)), "gaps filled (95 % interval)"
        plots.bars(axes[0], values, xlabel=label, xlim=(0, 1), reference={"a guess": 0.25})
        axes[0].errorbar(mean, range(len(rows)), xerr=error, fmt="none", ecolor="black")
        height = 0.26
        parts = {
            "compiles": lambda w: [x.compiled / x.n for x in w],
            "pass@5": lambda w: passes(w, 5),
            "pass@1": lambda w: passes(w, 1),
        }
        for j, (name, of) in enumerate(parts.items()):
            values = [of(circuits[arm]) for arm in arms]
            ends = [share(v) for v in values]
            mean = np.array([e.mean for e in ends])
            error = [mean - [e.low for e in ends], [e.high for e in ends] - mean]
            at = np.arange(len(arms)) + (j - 1) * height
            color = plots.COLORS[j]
            axes[1].barh(at, mean, height=height, color=color, label=name, xerr=error)
        axes[1].set_yticks(range(len(arms)), arms)
        axes[1].invert_yaxis()
        axes[1].set(xlabel="circuits (mean over problems, 95 % interval)", xlim=(0, 1))
        axes[1].legend()
