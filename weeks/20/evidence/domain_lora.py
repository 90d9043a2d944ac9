"""SmolLM2 on Verilog: held-out circuits, a quiz, a compiler, and what was forgotten."""

import copy
import random
import tempfile
from pathlib import Path

import numpy as np
import torch

from shared import datasets, plots
from shared.errors import UserError
from shared.measuring import pinned
from shared.study import PositiveFloat, PositiveInt, Run
from week18.gguf_tokenizer import GGUFTokenizer
from week18.llama3 import Llama, LlamaConfig
from week18.smollm2 import smollm2
from week20.domain_lora import (
    ADAPTER,
    MERGED,
    TARGETS,
    fit,
    held_out_nats,
    load_domain_model,
    row,
    save_domain_model,
    split,
    with_lora,
)
from week20.evidence.verilog_judge import (
    Judged,
    errors,
    gain,
    judge,
    material,
    mean_nats,
    shuffled,
)
from week20.lora import LoRAConfig, trainable
from week20.verilog_quiz import body_question

HELD_OUT, SPLIT = 43, 0
SEEN = "20 training problems of another split: 1.87 as it is, 1.43 after two examples, 1.07 by LoRA"


def main(
    run: Run,
    *,
    rank: PositiveInt = 8,
    steps: PositiveInt = 30,
    lr: PositiveFloat = 1e-3,
    longest: PositiveInt = 160,
    save: Path | None = None,
) -> None:
    """Train SmolLM2 on circuits in Verilog; judge it on others.

    Parameters
    ----------
    rank
        Of the corrections; --full tries three, with three seeds each.
    steps
        Training steps, of two problems each.
    lr
        Learning rate at the first step.
    longest
        Problems with more tokens than this are left out.
    save
        A folder for what was learned, and for the model merged with it.
    """
    check_save_and_load(run)
    check_compiler(run)
    if run.mode == "quick":
        rehearse(run)
        return
    try:
        with pinned(1):  # more threads are slower on a busy machine
            study_smollm2(run, rank, steps, lr, longest, save)
    except UserError as error:  # a package or a file is missing
        run.say(f"SmolLM2 is left out: {error}")


# ---- checks


def tiny(run: Run) -> tuple[Llama, GGUFTokenizer]:
    """A random LLaMA of two layers that reads bytes, and its tokenizer."""
    from week15.merges import printable_bytes

    tokens = [*printable_bytes().values(), "<|im_start|>", "<|im_end|>"]
    tokenizer = GGUFTokenizer(tokens, [1] * 256 + [3, 3], [], cut="smollm", end=257)
    sizes = {"d_model": 32, "n_layers": 2, "n_heads": 2, "context": 1024}
    return Llama(LlamaConfig(258, **sizes), run.generator()), tokenizer


def check_save_and_load(run: Run) -> None:
    """What was trained, read back by us and by peft, answers as before."""
    import peft
    from transformers import LlamaForCausalLM

    from week18.pretrained import load_pretrained, save_pretrained
    from week20.adapter_folder import hugging_face_layer, load_adapter

    model, tokenizer = tiny(run)
    base = copy.deepcopy(model)
    rows = [row(tokenizer, p) for p in CIRCUITS]
    config = LoRAConfig(r=2, alpha=4.0, targets=TARGETS)
    fit(with_lora(model, config, 0), rows, steps=2, batch_size=2, lr=1e-2, seed=0)
    tokens = torch.tensor([rows[0].ids])
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder, learned = Path(name), model(tokens)
        save_pretrained(base, folder / "base")
        save_domain_model(model, config, folder / "domain")
        merged = load_pretrained(folder / "domain" / MERGED)(tokens)
        ours, _ = load_adapter(base, folder / "domain" / ADAPTER, rename=hugging_face_layer)
        theirs = LlamaForCausalLM.from_pretrained(folder / "base", attn_implementation="eager")
        theirs = peft.PeftModel.from_pretrained(theirs, folder / "domain" / ADAPTER).eval()
        near = run.against("the model that was saved", kind="consistency", atol=1e-5, why="float32")
        near("the merged model, read back", merged, learned)
        near("the corrections, read back", ours(tokens), learned)
        near = run.against("peft and transformers, from the folder", atol=1e-5, why="float32")
        near("what peft makes of the folder", learned, theirs(tokens).logits)


CIRCUITS = [
    datasets.HardwareProblem(
        name,
        f"This module computes {name}.",
        "module top_module (\n\tinput [3:0] a,\n\tinput [3:0] b,\n\toutput [3:0] y\n);",
        f"assign y = a {sign} b;\nendmodule",
    )
    for name, sign in (("and", "&"), ("or", "|"), ("sum", "+"), ("difference", "-"))
]


def check_compiler(run: Run) -> None:
    """The compiler passes what people wrote, and nothing that the quiz calls wrong."""
    problems = datasets.verilog_eval()
    good = [errors(f"{p.header}\n{p.body}") == 0 for p in problems]
    run.claim("VerilogEval's solutions compile", np.mean(good), at_least=0.99, deterministic=True)
    wrong = []
    for p in problems[:: run.budget(quick=5, default=1)]:
        options, answer = body_question(p.body, random.Random(0)) or ([], 0)
        wrong += [errors(f"{p.header}\n{o}") > 0 for i, o in enumerate(options) if i != answer]
    claim = "what the quiz calls wrong does not compile"
    run.claim(claim, np.mean(wrong), at_least=1, deterministic=True)


def rehearse(run: Run) -> None:
    """The quick run: all steps on a tiny random model."""
    model, tokenizer = tiny(run)
    rows = [row(tokenizer, p, ports_given=False) for p in CIRCUITS]
    before = mean_nats(held_out_nats(model, rows))
    with_lora(model, LoRAConfig(r=4, alpha=8.0, targets=TARGETS), 0)
    fit(model, rows, steps=8, batch_size=2, lr=3e-2, seed=0)
    after = mean_nats(held_out_nats(model, rows))
    run.metric("nats per byte that a tiny model gains on its own four circuits", before - after)


# ---- SmolLM2


def study_smollm2(
    run: Run, rank: int, steps: int, lr: float, longest: int, save: Path | None
) -> None:
    """Base, few-shot, corrections and control, by everything in `judge`."""
    base, tokenizer = smollm2()
    base = base.bfloat16()
    problems = [p for p in datasets.verilog_eval() if len(row(tokenizer, p).ids) <= longest]
    examples = split(problems, min(HELD_OUT, len(problems) // 3), SPLIT)
    sizes = {"windows": 6, "pairs": 67, "ports": 16, "bodies": 12}
    by = material(tokenizer, examples.training, examples.held_out, sizes)
    written = run.budget(quick=1, default=5, full=10)
    rows = [row(tokenizer, p, ports_given=False) for p in examples.training]
    run.metric("training problems", len(rows))
    run.metric("held-out problems", len(by.held_out))
    found = {"as it is": judge(base, tokenizer, by, written)}
    found["two examples"] = judge(base, tokenizer, by, written, shots=True)
    ranks = run.budget(quick=(rank,), default=(rank,), full=(1, rank, 64))
    seeds = run.budget(quick=1, default=1, full=3)
    trained, held_out = {}, [row(tokenizer, p) for p in by.held_out]
    for r, seed in [(r, seed) for r in ranks for seed in range(seeds)]:
        config = LoRAConfig(r=r, alpha=2.0 * r, targets=TARGETS)
        model = with_lora(copy.deepcopy(base), config, seed)
        options = {"steps": steps, "batch_size": 2, "lr": lr, "seed": seed}
        losses = fit(model, rows, **options, progress=lambda x: run.progress(x, "training"))
        trained[r, seed] = mean_nats(held_out_nats(model, held_out))
        if (r, seed) == (rank, 0):
            found["LoRA"] = judge(model, tokenizer, by, written)
            run.metric("numbers trained", trainable(model)[0])
            run.metric("loss of the first five steps", np.mean(losses[:5]), "nats/token", rtol=0.1)
            run.metric("loss of the last five steps", np.mean(losses[-5:]), "nats/token", rtol=0.1)
            if save is not None:
                save_domain_model(model, config, save)
                load_domain_model(save)
    control = with_lora(
        copy.deepcopy(base), LoRAConfig(r=rank, alpha=2.0 * rank, targets=TARGETS), 0
    )
    fit(control, shuffled(rows, 0), steps=steps, batch_size=2, lr=lr, seed=0)
    found["shuffled"] = judge(control, tokenizer, by, written=1)
    tell(run, found, trained, rank)


def tell(run: Run, found: dict[str, Judged], trained: dict, rank: int) -> None:
    """Claims, metrics and the figure."""
    base, shot, lora = found["as it is"], found["two examples"], found["LoRA"]
    run.metric("saved by two examples", gain(base, shot).mean, "nats/token", rtol=0.1)
    options = {"unit": "nats/token", "seen_before": SEEN}
    learned = "LoRA writes held-out circuits better than the model as it is"
    run.claim(learned, gain(base, lora), at_least=0.3, **options)
    run.falsifier("trained on shuffled tokens", gain(base, found["shuffled"]), breaks=learned)
    better = "LoRA writes held-out circuits better than two examples do"
    run.claim(better, gain(shot, lora), at_least=0.0, **options)
    knows = np.array(lora.bodies) - np.array(base.bodies)
    run.claim("LoRA tells Verilog from other habits more often", knows.tolist(), at_least=0.1)
    counts = np.array(lora.ports) - np.array(base.ports)
    seen = "a first run: no question answered by either"
    options = {"at_least": 0.1, "seen_before": seen}
    run.claim("LoRA declares ports of the right width more often", counts.tolist(), **options)
    forgot = (lora.wikitext - base.wikitext).tolist()
    run.claim(
        "LoRA forgets less than 0.1 nats of WikiText-2", forgot, at_most=0.1, unit="nats/token"
    )
    lost = np.array(base.blimp) - np.array(lora.blimp)
    run.claim("LoRA loses less than 5 points of BLiMP", lost.tolist(), at_most=0.05)
    for name, judged in found.items():
        run.metric(f"nats per token, {name}", mean_nats(judged.nats), "nats/token", rtol=0.1)
        run.metric(f"quiz on ports, {name}", np.mean(judged.ports), rtol=None)
        run.metric(f"width taken as it is said, {name}", np.mean(judged.too_wide), rtol=None)
        run.metric(f"quiz on bodies, {name}", np.mean(judged.bodies), rtol=None)
        if name != "shuffled":
            written = f"of {len(judged.compiles)}"
            run.metric(f"compile, {name}", sum(judged.compiles), written, rtol=None)
            run.metric(f"end by themselves, {name}", sum(judged.ends), written, rtol=None)
        if name != "two examples":  # texts and sentences are read without examples
            run.metric(f"WikiText-2, {name}", judged.wikitext.mean(), "nats/token", rtol=0.1)
            run.metric(f"BLiMP, {name}", np.mean(judged.blimp), rtol=None)
    if len(trained) > 1:
        for r in sorted({r for r, _ in trained}):
            values = [value for (q, _), value in trained.items() if q == r]
            run.metric(f"nats per token at rank {r}", np.mean(values), "nats/token", rtol=0.1)
            run.metric(f"spread of the seeds at rank {r}", np.ptp(values), "nats/token", rtol=None)
    with run.figure("held_out", "What do two examples and LoRA save on held-out circuits?") as axes:
        rows = {name: (j.nats[0] / j.nats[1]).tolist() for name, j in found.items()}
        plots.bars(
            axes, rows, xlabel="nats per token of the body (bars: mean; dots: a circuit each)"
        )
