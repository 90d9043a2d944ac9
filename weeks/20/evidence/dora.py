"""DoRA against peft; beside LoRA on a new domain; what length and direction do in training."""

import copy
import statistics
import time

import torch
from torch import nn

from shared.study import PositiveInt, Run
from week09.optimizers import AdamW
from week14.minimal_gpt import evaluate
from week20.dora import DoRALinear, decompose, row_norms
from week20.lora import (
    LoRAConfig,
    LoRALinear,
    adapter_state,
    adapters,
    inject,
    merge,
    trainable,
)
from week20.new_domain import Domains, adapt, domains, reader_of_prose
from week20.peft_twin import peft_name, with_peft

LR = 3e-2  # the best of a few for LoRA on seed 100 and other code; DoRA takes the same
LINEAR = ("q_proj", "k_proj", "v_proj", "out_proj", "up", "down")
KINDS = {"LoRA": LoRALinear, "DoRA": DoRALinear}


def main(run: Run, *, r: PositiveInt = 2) -> None:
    """Compare with peft, then with LoRA where a GPT that read prose learns to read code.

    Parameters
    ----------
    r
        Rank of the corrections.
    """
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    check_against_peft(run)
    torch.set_num_threads(1)  # products this small are slower on several threads
    text, steps = domains(), run.budget(quick=(4, 3), default=(300, 60), full=(400, 80))
    base = reader_of_prose(text, steps[0], run.seed)
    learn_code(run, base, text, r, steps[1])


def check_against_peft(run: Run) -> None:
    """The same A, B and m: outputs, gradients, training steps, merged weight."""
    tolerance = {"atol": 1e-10, "rtol": 1e-10, "why": "float64 rounding"}
    equal = run.against("peft.LoraConfig(use_dora=True)", **tolerance)
    draw = run.generator(1)
    base = nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 5)).double()
    x = torch.randn(7, 12, generator=draw, dtype=torch.float64)
    config = LoRAConfig(4, 6, targets=("0", "2"))
    ours = inject(copy.deepcopy(base), config, draw, layer=DoRALinear)
    same = {"kind": "theorem", "atol": 1e-12, "why": "float64 rounding"}
    run.check("outputs at the start", ours(x), base(x), against="the base: m is ‖W₀‖", **same)
    with torch.no_grad():
        for _, layer in adapters(ours):
            layer.B.copy_(torch.randn(layer.B.shape, generator=draw) / 2)
            layer.magnitude.mul_(1.5)
    theirs = with_peft(ours, base, config, dora=True)
    equal("outputs", ours(x), theirs(x))
    for model in (ours, theirs):
        model(x).square().mean().backward()
    their, own = dict(theirs.named_parameters()), dict(ours.named_parameters())
    for name in adapter_state(ours):
        equal(f"gradient of {name}", own[name].grad, their[peft_name(name)].grad)
    for model, optimizer in ((ours, AdamW), (theirs, torch.optim.AdamW)):
        trained = [p for p in model.parameters() if p.requires_grad]
        steps = optimizer(trained, lr=0.01, weight_decay=0.1)
        for _ in range(5):
            steps.zero_grad()
            model(x).square().mean().backward()
            steps.step()
    equal("outputs after 5 steps of AdamW", ours(x), theirs(x))
    before = ours(x)
    merged = merge(ours)
    equal("weight after merging", merged[0].base.weight, theirs.merge_and_unload()[0].weight)
    run.check("outputs after merging", merged(x), before, against="unmerged", **same)
    lengths = row_norms(merged[0].base.weight)
    run.check("lengths of merged rows", lengths, merged[0].magnitude, against="m", **same)


def learn_code(run: Run, base: nn.Module, text: Domains, r: int, steps: int) -> None:
    """LoRA and DoRA of one rank, and the same with shuffled code; seeds in pairs."""
    size, seeds = run.budget(quick=1500, default=12_000), run.budget(quick=2, default=3)
    held_out, config = text.code_held_out[:size], LoRAConfig(r, 2 * r, targets=LINEAR)
    before, gain, seconds = evaluate(base, held_out, window=64), {}, {}
    moved, rows = {name: [] for name in KINDS}, {}
    for seed in range(seeds):
        order = torch.randperm(len(text.code), generator=run.generator(30 + seed))
        for name, tokens in (("LoRA", None), ("DoRA", None), ("shuffled code", text.code[order])):
            model, draw = copy.deepcopy(base), run.generator(10 + seed)
            inject(model, config, draw, layer=KINDS.get(name, DoRALinear))
            start = time.perf_counter()
            code = text.code if tokens is None else tokens
            adapt(model, code, steps=steps, lr=LR, generator=draw)
            seconds.setdefault(name, []).append(time.perf_counter() - start)
            gain.setdefault(name, []).append(before - evaluate(model, held_out, window=64))
            if name in moved:
                rows[name] = changes(model)
                moved[name].append(float(torch.corrcoef(torch.stack(rows[name]))[0, 1]))
            if seed == 0:
                run.metric(f"numbers trained, {name}", trainable(model)[0], rtol=0)
    late, unit = {"quick": False, "rtol": None}, "nats/character"
    learns = "DoRA learns the new domain"
    run.claim(learns, gain["DoRA"], at_least=0.1, unit=unit, **late)
    run.falsifier("shuffled code", gain["shuffled code"], breaks=learns)
    more = [d - low for d, low in zip(gain["DoRA"], gain["LoRA"], strict=True)]
    run.claim("DoRA learns more than LoRA of the same rank", more, at_least=0.0, unit=unit, **late)
    ratios = [d / low for d, low in zip(seconds["DoRA"], seconds["LoRA"], strict=True)]
    run.metric("time per step, DoRA / LoRA", statistics.median(ratios), rtol=None)
    for name in KINDS:
        run.metric(f"gain on code, {name}", statistics.mean(gain[name]), unit, rtol=None)
        run.metric(f"length and direction, {name}", statistics.mean(moved[name]), rtol=None)
    title = "Does a row that turns more also change its length more?"
    with run.figure("rows", title, columns=2, sharex=True, sharey=True) as axes:
        for ax, name in zip(axes, KINDS, strict=True):
            magnitude, direction = rows[name]
            ax.plot(direction, magnitude, ".", ms=3, alpha=0.5)
            ax.set(title=f"{name}, r = {r}", xlabel="direction, 1 − cosine")
        axes[0].set(ylabel="length, relative change")


@torch.no_grad()
def changes(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Of every adapted row: relative change of its length, and turn of its direction."""
    found = []
    for _, layer in adapters(model):
        lengths = row_norms(layer.base.weight)
        magnitude, direction = decompose(layer.base.weight, layer.merged_weight())
        found.append(torch.stack([magnitude / lengths, direction]))
    return tuple(torch.cat(found, dim=1))
