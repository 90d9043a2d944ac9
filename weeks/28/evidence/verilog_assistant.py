"""Retrieval and LoRA, apart and together: held-out gaps, circuits under benches."""

import copy

import numpy as np

from shared import datasets
from shared.errors import UserError
from shared.measuring import pinned
from shared.study import PositiveFloat, PositiveInt, Run
from week18.gguf_tokenizer import GGUFTokenizer
from week18.llama3 import Llama
from week18.smollm2 import smollm2
from week20.adapter_folder import hugging_face_layer, save_adapter
from week20.domain_lora import TARGETS, Row, fit, held_out_nats, split, with_lora
from week20.domain_lora import row as circuit_row
from week20.lora import LoRAConfig, merge, unload
from week28 import chatting
from week28.evidence.assistant_checks import (
    check_bench,
    check_continuations,
    check_estimators,
    tiny,
)
from week28.evidence.assistant_judge import (
    Manuals,
    heading_quality,
    looked_up_for,
    manuals,
    quiz,
    sample,
    searching,
    slang_errors,
    write_and_run,
)
from week28.evidence.assistant_tables import (
    draw,
    tell_circuits,
    tell_gaps,
    tell_search,
    tell_training,
)
from week28.manual_search import sentence_encoder
from week28.verilog_assistant import gap_row, passage_text, reply
from week28.verilog_bench import simulator

HELD_OUT, SPLIT = 43, 0  # the split of week 20's Project 4


def main(
    run: Run,
    *,
    rank: PositiveInt = 8,
    steps: PositiveInt = 12,
    lr: PositiveFloat = 2e-3,
    longest: PositiveInt = 128,
    chat: bool = False,
) -> None:
    """Measure SmolLM2 with and without manuals, with and without LoRA.

    Parameters
    ----------
    rank
        Of the corrections.
    steps
        Training steps of two rows each; --full takes four times as many.
    lr
        Learning rate at the first step.
    longest
        Circuits with more tokens than this are left out.
    chat
        Talk with the assistant instead, until `exit`; it uses what the last run has learned.
    """
    if chat:
        chatting.chat(reply)
        raise SystemExit(0)
    check_estimators(run)
    pages = manuals(run.budget(quick=2, default=8, full=99))  # all of them
    run.metric("questions, pages to learn from", len(pages.learned))
    run.metric("questions, pages held out", len(pages.held_out))
    words = heading_quality(pages.passages, searching(pages.passages, None), "words")
    run.metric("nDCG@10 of headings, words", np.mean(list(words.values())))
    if run.mode == "quick":
        rehearse(run, pages)
        return
    check_continuations(run)
    if simulator():
        check_bench(run)
    else:
        run.say("Icarus Verilog is not on the path: circuits are compiled, and none is run")
    try:
        with pinned(1):  # more threads are slower on a busy machine
            study(run, pages, words, rank, steps, lr, longest)
    except UserError as error:  # a package or a file is missing
        run.say(f"SmolLM2 is left out: {error}")


def rehearse(run: Run, pages: Manuals) -> None:
    """The quick run: all steps on a tiny random model."""
    model, tokenizer = tiny(run)
    asked = sample(pages.held_out, 4, 0)
    search = searching(pages.passages, None)
    shown, right = looked_up_for(asked, search, pages.passages)
    run.claim("words find the passage of a gap", np.mean(right), at_least=0.5, deterministic=True)
    rows = [gap_row(tokenizer, q, []) for q in asked]
    before = total_nats(model, rows)
    with_lora(model, LoRAConfig(r=4, alpha=8.0, targets=TARGETS), 0)
    fit(model, rows, steps=8, batch_size=2, lr=3e-2, seed=0)
    run.metric(
        "nats per byte that a tiny model gains on four gaps", before - total_nats(model, rows)
    )
    quiz(model, tokenizer, asked[:2], shown[:2])
    problem = next(p for p in datasets.verilog_eval() if len(p.body) < 60)
    options = {"n": 2, "most": 4, "retrieve": True, "seed": 0}
    model = unload(merge(model))
    write_and_run(model, tokenizer, [problem], [problem], compiles=lambda text: False, **options)


def total_nats(model: Llama, rows: list[Row]) -> float:
    """Nats per token of all rows together."""
    sums, counts = held_out_nats(model, rows)
    return float(sums.sum() / counts.sum())


# ---- SmolLM2


def study(
    run: Run,
    pages: Manuals,
    words: dict[str, float],
    rank: int,
    steps: int,
    lr: float,
    longest: int,
) -> None:
    """Four arms: as it is, with the manual open, after LoRA, and both."""
    base, tokenizer = smollm2()
    base = base.bfloat16()
    search = searching(pages.passages, sentence_encoder())
    tell_search(run, pages, words, search)
    problems = [p for p in datasets.verilog_eval() if len(circuit_row(tokenizer, p).ids) <= longest]
    problems = split(problems, min(HELD_OUT, len(problems) // 3), SPLIT)
    n, most = run.budget(quick=(2, 4), default=(5, 24), full=(10, 96))
    fits = {p.name for p in problems.held_out if len(tokenizer.encode(p.body)) < most}
    judged = [p for p in problems.held_out if p.description and p.name in fits]
    judged = sample(judged, run.budget(quick=1, default=5, full=len(judged)), run.seed)
    asked = sample(pages.held_out, run.budget(quick=2, default=10, full=100), run.seed)
    run.metric("circuits to learn from", len(problems.training))
    run.metric("circuits judged", len(judged))
    run.metric("gaps judged", len(asked))
    rows = training_rows(tokenizer, problems.training, pages)
    steps *= run.budget(quick=1, default=1, full=4)
    config = LoRAConfig(r=rank, alpha=2.0 * rank, targets=TARGETS)
    model = with_lora(copy.deepcopy(base), config, run.seed)
    options = {"steps": steps, "batch_size": 2, "lr": lr, "seed": run.seed}
    losses = fit(model, rows, **options, progress=lambda x: run.progress(x, "training"))
    run.metric("loss of the first four steps", np.mean(losses[:4]), "nats/token", rtol=0.1)
    run.metric("loss of the last four steps", np.mean(losses[-4:]), "nats/token", rtol=0.1)
    place = run.out / "adapter"
    save_adapter(model, place, config, rename=hugging_face_layer)
    tell_training(run, base, model, tokenizer, judged, asked)
    models = {"as it is": base, "LoRA": unload(merge(model))}
    shown, right = looked_up_for(asked, search, pages.passages)
    run.metric("gaps whose passage is found first", np.mean(right), rtol=None)
    gaps, circuits = {}, {}
    for name, network in models.items():
        for opened in (False, True):
            arm = name if not opened else "retrieval" if name == "as it is" else "both"
            found = shown if opened else [[]] * len(asked)
            gaps[arm] = quiz(network, tokenizer, asked, found)
            arguments = {"n": n, "most": most, "retrieve": opened, "seed": run.seed}
            circuits[arm] = write_and_run(
                network,
                tokenizer,
                judged,
                problems.training,
                compiles=lambda text: slang_errors(text) == 0,
                **arguments,
            )
    others = shown[1:] + shown[:1]
    gaps["others"] = quiz(base, tokenizer, asked, others)
    tell_gaps(run, gaps)
    tell_circuits(run, circuits)
    draw(run, gaps, circuits)


def training_rows(tokenizer: GGUFTokenizer, circuits: list, pages: Manuals) -> list[Row]:
    """Half as many gaps of pages to learn from as circuits, half of them with their passage."""
    gaps = sample(pages.learned, len(circuits) // 2, 0)
    rows = [circuit_row(tokenizer, p, ports_given=False) for p in circuits]
    for i, asked in enumerate(gaps):
        rows.append(gap_row(tokenizer, asked, [passage_text(asked.passage)] if i % 2 else []))
    return rows
