"""Small models and SmolLM2 on four bits: corrections that learn, one moved, what it costs."""

import copy

import torch
from torch import Tensor, nn

from shared import datasets, plots
from shared.errors import UserError
from shared.study import Run
from week14.minimal_gpt import next_token_loss, random_batch
from week18.llama3 import Llama
from week18.smollm2 import smollm2
from week19.characters import manual, trained_model
from week19.perplexity import gptq_nats
from week20.lora import LoRAConfig, LoRALinear, inject, merge, unload
from week20.qlora import (
    NF4Linear,
    dequantize_4bit,
    dequantize_base,
    normal_float,
    quantize_4bit,
    quantize_base,
)

TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "gate_proj", "up_proj", "down_proj")
# Week 19's int4 (half steps to both ends), and FP4 with two bits of exponent and one of mantissa.
INT4 = torch.arange(-8, 8) / 7.5
FP4 = torch.tensor([-6.0, -4, -3, -2, -1.5, -1, -0.5, 0, 1e-9, 0.5, 1, 1.5, 2, 3, 4, 6]) / 6


def on_nf4(model: Llama) -> Llama:
    """A frozen copy of the model in NF4, its head in floats."""
    return quantize_base(copy.deepcopy(model))


def corrected(model: Llama, seed: int, kinds: type) -> Llama:
    """The model with corrections beside the matrices of its blocks."""
    config = LoRAConfig(r=4, alpha=8.0, targets=TARGETS)
    return inject(model, config, torch.Generator().manual_seed(seed), kinds=kinds)


def fit(model: Llama, tokens: Tensor, steps: int, seed: int) -> Llama:
    """Train the corrections."""
    generator = torch.Generator().manual_seed(seed)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / steps)
        x, y = random_batch(tokens, 4, 128, generator)
        optimizer.zero_grad()
        next_token_loss(model(x), y).backward()
        optimizer.step()
    return model


def judge_training(run: Run, steps: int, seeds: int) -> None:
    """A model of Python's manual learns to read it in capitals, on four bits and on 32."""
    text = manual()
    big = {c: text.alphabet.find(c.upper()) for c in text.alphabet}
    capital = torch.tensor([big[c] if big[c] >= 0 else i for i, c in enumerate(text.alphabet)])
    new, held = capital[text.training], capital[text.held_out]
    held = held[: run.budget(quick=2, default=16) * 256]
    rows: dict[str, list[float]] = {}
    for seed in range(run.seed, run.seed + seeds):
        base = trained_model(text, run.budget(quick=2, default=150), seed)
        shuffled = new[torch.randperm(len(new), generator=run.generator(seed))]
        on_floats = fit(corrected(copy.deepcopy(base), seed, nn.Linear), new, steps, seed)
        on_code = fit(corrected(on_nf4(base), seed, NF4Linear), new, steps, seed)
        control = fit(corrected(on_nf4(base), seed, NF4Linear), shuffled, steps, seed)
        found = {"NF4, before": on_nf4(base), "NF4": on_code, "shuffled": control}
        found |= {"floats, before": base, "floats": on_floats}
        found["NF4, merged"] = unload(merge(dequantize_base(copy.deepcopy(on_code))))
        found["NF4, moved"] = moved(on_code, base)
        for name, model in found.items():
            nats = gptq_nats(model, held, context=256).mean().item()
            rows.setdefault(name, []).append(nats)
    why = {"kind": "consistency", "atol": 1e-4, "why": "float32 rounding, another order"}
    against = "the correction beside NF4"
    run.check("merged with W4", rows["NF4, merged"], rows["NF4"], against=against, **why)
    late = {"quick": False, "unit": "nats/char"}
    counts = torch.bincount(held, minlength=len(text.alphabet)).float()
    ignorance = torch.distributions.Categorical(counts).entropy().item()
    below = {name: [ignorance - nats for nats in row] for name, row in rows.items()}
    learned = "corrections on NF4 learn more than which characters are frequent"
    seen = "these seeds had given 0.25, and the first rule, 0.3, had failed"
    run.claim(learned, below["NF4"], at_least=0.1, **late, seen_before=seen)
    run.falsifier("shuffled characters", below["shuffled"], breaks=learned)
    run.falsifier("corrections frozen", below["NF4, before"], breaks=learned)
    behind = difference(rows, "NF4", "floats")
    equal = "corrections on NF4 end within 0.02 nats of those on floats"
    seen = "three of these seeds: -0.002 ± 0.009"
    run.claim(equal, behind, at_most=0.02, **late, seen_before=seen)
    frozen = difference(rows, "NF4, before", "floats")
    run.falsifier("frozen corrections", frozen, breaks=equal)
    cost = difference(rows, "NF4, moved", "NF4")
    worse, seen = "moved to the weights from before, corrections are worse", "three of these seeds"
    run.claim(worse, cost, at_least=0.0, **late, seen_before=seen)
    for name, row in rows.items():
        run.metric(f"nats per character, {name}", sum(row) / seeds, "nats/char", rtol=0.2)


def difference(rows: dict[str, list[float]], a: str, b: str) -> list[float]:
    """A minus b, seed by seed."""
    return [x - y for x, y in zip(rows[a], rows[b], strict=True)]


@torch.no_grad()
def moved(on_code: nn.Module, base: nn.Module) -> nn.Module:
    """The mistake: what was learned beside W4, merged with the weights from before."""
    model = dequantize_base(copy.deepcopy(on_code))
    for name, layer in model.named_modules():
        if isinstance(layer, LoRALinear):
            layer.base.weight.copy_(base.get_submodule(name).weight)
    return unload(merge(model))


# ---- a real model


def judge_smollm2(run: Run, windows: int) -> None:
    """What four bits cost SmolLM2, whose weights come from another grid of four bits."""
    try:
        model, tokenizer = smollm2()
        text = datasets.wikitext2("test")
    except UserError as error:
        run.say(f"SmolLM2 is left out: {error}")
        return
    tokens = torch.tensor(tokenizer.encode(text[: 8 * 128 * windows]))[: 128 * windows]
    plain = gptq_nats(model, tokens, context=128)
    lost = {}
    for name, levels in {"NF4": normal_float(), "int4": INT4, "FP4": FP4}.items():
        rounded = copy.deepcopy(model)
        for block in rounded.blocks:
            for linear in (m for m in block.children() if isinstance(m, nn.Linear)):
                code = quantize_4bit(linear.weight, levels=levels)
                linear.weight = nn.Parameter(dequantize_4bit(code), requires_grad=False)
        lost[name] = gptq_nats(rounded, tokens, context=128) - plain
        run.metric(f"nats per token that {name} costs SmolLM2", lost[name].mean(), rtol=0.2)
    run.metric("nats per token of SmolLM2", plain.mean(), "nats/token")
    for name in ("int4", "FP4"):
        gain = (lost[name] - lost["NF4"]).tolist()
        run.claim(f"NF4 costs SmolLM2 less than {name}", gain, at_least=0.0, unit="nats/token")
    with run.figure("smollm2", "What do four bits cost SmolLM2?") as axes:
        label = f"nats per token lost, WikiText-2, {windows} windows of 128 tokens (dots)"
        plots.bars(axes, lost, xlabel=label)
