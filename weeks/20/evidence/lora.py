"""LoRA against peft; a new domain for a small GPT; what it saves on SmolLM2."""

import copy
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from shared import plots, pretrained
from shared.study import PositiveFloat, PositiveInt, Run, UserError
from week09.optimizers import AdamW
from week14.minimal_gpt import evaluate, next_token_loss
from week18.llama3 import Llama, LlamaConfig
from week18.pretrained import save_pretrained
from week18.smollm2 import smollm2
from week20.adapter_folder import hugging_face_layer, load_adapter, save_adapter
from week20.lora import (
    LoRAConfig,
    adapter_state,
    adapters,
    inject,
    load_adapter_state,
    merge,
    trainable,
    unload,
    unmerge,
)
from week20.new_domain import Domains, adapt, domains, reader_of_prose
from week20.peft_twin import peft_name, with_peft

# Rates are the best of a few on seed 100 and on code that judges nothing.
LR = {"full": 3e-3, "lora": 3e-2}
LINEAR = ("q_proj", "k_proj", "v_proj", "out_proj", "up", "down")


def main(run: Run, *, r: PositiveInt = 8, alpha: PositiveFloat = 16.0) -> None:
    """Compare with peft, teach a GPT that read prose to read code, measure on SmolLM2.

    Parameters
    ----------
    r
        Rank of the corrections in the trained models.
    alpha
        What they are multiplied by, before the division by r.
    """
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    check_against_peft(run)
    check_files(run)
    config = LoRAConfig(r, alpha, targets=LINEAR)
    torch.set_num_threads(1)  # products this small are slower on several threads
    text, steps = domains(), run.budget(quick=(4, 3), default=(400, 80), full=(600, 120))
    base = reader_of_prose(text, steps[0], run.seed)
    learn_code(run, base, text, config, steps[1])
    torch.set_num_threads(run.threads)
    try:
        pretrained.smollm2()
    except UserError as error:
        run.say(f"{error}; without them nothing is measured on a real model")
        return
    if run.mode != "quick":
        measure_smollm2(run)


# ---- checks


def randomized(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """Corrections as after some training, B no longer zero."""
    state = adapter_state(model).items()
    new = {name: torch.randn(p.shape, generator=generator) / 2 for name, p in state}
    return load_adapter_state(model, new)


def check_against_peft(run: Run) -> None:
    """The same A and B: outputs, gradients, training steps."""
    options = {"atol": 1e-10, "rtol": 1e-10, "why": "float64 rounding"}
    equal = run.against("peft.LoraConfig", **options)
    draw = run.generator(1)
    base = nn.Sequential(nn.Linear(12, 16), nn.GELU(), nn.Linear(16, 5)).double()
    x = torch.randn(7, 12, generator=draw, dtype=torch.float64)
    for stabilized in (False, True):
        config = LoRAConfig(4, 6, rank_stabilized=stabilized, targets=("0", "2"))
        ours = randomized(inject(copy.deepcopy(base), config, draw), draw)
        theirs = with_peft(ours, base, config)
        what = "α/√r" if stabilized else "α/r"
        equal(f"outputs, {what}", ours(x), theirs(x))
        for model in (ours, theirs):
            model(x).square().mean().backward()
        their, own = dict(theirs.named_parameters()), dict(ours.named_parameters())
        for name in adapter_state(ours):
            equal(f"gradient of {name}, {what}", own[name].grad, their[peft_name(name)].grad)
        optimizers = [
            optimizer([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.1)
            for optimizer, model in ((AdamW, ours), (torch.optim.AdamW, theirs))
        ]
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            for _ in range(5):
                optimizer.zero_grad()
                model(x).square().mean().backward()
                optimizer.step()
        equal(f"outputs after 5 steps of AdamW, {what}", ours(x), theirs(x))
        merged = merge(copy.deepcopy(ours))
        equal(f"weight after merging, {what}", merged[0].base.weight, pefts_merged(theirs))


def pefts_merged(theirs) -> torch.Tensor:
    """The first layer's weight after peft has merged."""
    return theirs.merge_and_unload()[0].weight


def check_files(run: Run) -> None:
    """A folder of ours in peft around transformers' LLaMA, and back."""
    from peft import PeftModel
    from transformers import LlamaForCausalLM
    from transformers.utils import logging

    draw, tokens = run.generator(2), torch.arange(24)[None]
    base = Llama(LlamaConfig(29, 16, 2, 2, 1, d_ff=24, context=32), draw)
    config = LoRAConfig(4, 10, targets=("q_proj", "out_proj", "up_proj"))
    ours = randomized(inject(copy.deepcopy(base), config, draw), draw)
    name = "peft around transformers' LLaMA"
    equal = run.against(name, atol=1e-5, rtol=1e-5, why="float32 rounding")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        save_pretrained(base, place / "base")
        save_adapter(ours, place / "ours", config, rename=hugging_face_layer)
        logging.disable_progress_bar()
        theirs = LlamaForCausalLM.from_pretrained(place / "base")
        theirs = PeftModel.from_pretrained(theirs, place / "ours")
        with torch.no_grad():
            equal("logits from a folder of ours", ours(tokens), theirs(tokens).logits)
            theirs.save_pretrained(place / "theirs")
            again, _ = load_adapter(base, place / "theirs", rename=hugging_face_layer)
            equal("logits from a folder of peft's", again(tokens), theirs(tokens).logits)


# ---- a new domain


def learn_code(run: Run, base: nn.Module, text: Domains, config: LoRAConfig, steps: int) -> None:
    """Code after prose: all weights, corrections of all layers or two, shuffled code."""
    size = run.budget(quick=1500, default=12_000, full=30_000)
    held_out = {"code": text.code_held_out[:size], "prose": text.prose_held_out[:size]}
    seeds = run.budget(quick=2, default=3)

    def losses_of(model: nn.Module) -> dict[str, float]:
        return {name: evaluate(model, part, window=64) for name, part in held_out.items()}

    before = losses_of(base)
    two = LoRAConfig(config.r, config.alpha)
    arms = {"all weights": None, "LoRA, all layers": config, "LoRA, q and v": two}
    found, frozen = {name: [] for name in (*arms, "shuffled code")}, []
    for seed in range(seeds):
        order = torch.randperm(len(text.code), generator=run.generator(30 + seed))
        for name, arm in (*arms.items(), ("shuffled code", config)):
            model, draw = copy.deepcopy(base), run.generator(10 + seed)
            if arm is not None:
                inject(model, arm, draw)
            tokens = text.code[order] if name == "shuffled code" else text.code
            lr = LR["full" if arm is None else "lora"]
            adapt(model, tokens, steps=steps, lr=lr, generator=draw)
            found[name].append(losses_of(model))
        start = inject(copy.deepcopy(base), config, run.generator(10 + seed))
        frozen.append(before["code"] - losses_of(start)["code"])
    sizes = trainable(start)
    run.metric("share trained, small GPT", sizes[0] / sizes[1], rtol=0)
    gain = {n: [before["code"] - one["code"] for one in ones] for n, ones in found.items()}
    lost = {n: [one["prose"] - before["prose"] for one in ones] for n, ones in found.items()}
    unit, late = "nats/character", {"quick": False, "rtol": None}
    learns = "LoRA learns the new domain"
    run.claim(learns, gain["LoRA, all layers"], at_least=0.1, unit=unit, **late)
    run.falsifier("corrections frozen at the start", frozen, breaks=learns)
    shuffled = gain["shuffled code"]
    run.falsifier("shuffled code", shuffled, breaks=learns)
    full = gain["all weights"]
    shares = {name: shares_of(gain[name], full) for name in arms}
    recovers = "LoRA on all layers reaches three quarters of the gain of training all weights"
    seen = "one run on seed 100 and other text, where it was 0.87, and this very run"
    run.claim(recovers, shares["LoRA, all layers"], at_least=0.75, seen_before=seen, **late)
    run.falsifier("shuffled code, share of the gain", shares_of(shuffled, full), breaks=recovers)
    pairs = zip(lost["all weights"], lost["LoRA, all layers"], strict=True)
    seen = "the same two runs, where it forgot as much or more"
    kept = [full - low for full, low in pairs]
    run.claim("LoRA forgets less prose", kept, at_least=0.0, unit=unit, seen_before=seen, **late)
    for name in arms:
        run.metric(f"gain on code, {name}", statistics.mean(gain[name]), unit, rtol=None)
        run.metric(f"loss of prose, {name}", statistics.mean(lost[name]), unit, rtol=None)
    run.metric("share of the gain, q and v", statistics.mean(shares["LoRA, q and v"]), rtol=None)
    with run.figure("domain", "What does a low rank learn, and what is forgotten?") as axes:
        styles = zip(arms, ("o", "s", "D"), plots.COLORS, strict=False)
        for name, marker, color in styles:
            axes.plot(lost[name], gain[name], marker, color=color, label=name, ls="", ms=7)
        axes.plot(0, 0, "*", color=plots.REFERENCE, ms=11, label="before (frozen)")
        axes.axhline(0, color=plots.REFERENCE, lw=1, ls="--")
        axes.set(xlabel="loss added on prose (nats per character)")
        axes.set(ylabel="loss removed on code (nats per character)")
        axes.legend(loc="center left")


def shares_of(gains: list[float], full: list[float]) -> list[float]:
    """Of what training all weights gains, seed by seed."""
    return [gain / most for gain, most in zip(gains, full, strict=True)]


# ---- a real model


def step_of(model: nn.Module, tokens: torch.Tensor, steps: int) -> tuple[float, int]:
    """Seconds of a training step, and bytes of gradients and of the optimizer's state."""
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5)
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        loss = next_token_loss(model(tokens[:, :-1]), tokens[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    held = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    held += sum(t.nbytes for t in optimizer.state_dict().values() if torch.is_tensor(t))
    return statistics.median(seconds[1:]), held


def measure_smollm2(run: Run) -> None:
    """Numbers trained, bytes held and seconds per step; merging real weights."""
    model, tokenizer = smollm2()
    tokens = torch.tensor([tokenizer.encode("def add(a, b):\n    return a + b\n" * 5)[:64]])
    config, steps = LoRAConfig(8, 16), run.budget(quick=2, default=3, full=4)
    inject(model, config, run.generator(3))
    n_layers, d, kv = model.config.n_layers, 576, 192
    predicted = n_layers * config.r * ((d + d) + (d + kv))
    exact = run.against("r (d + k), added up", kind="theorem", why="a count")
    exact("numbers trained, SmolLM2", trainable(model)[0], predicted)
    run.metric("share trained, SmolLM2", trainable(model)[0] / trainable(model)[1], rtol=0)
    lora_seconds, lora_bytes = step_of(model, tokens, steps)
    exact("bytes of gradients and AdamW's state", lora_bytes, 12 * predicted)
    run.metric("bytes beside the weights, LoRA", lora_bytes / 1e6, "MB", rtol=0)
    with torch.no_grad():
        draw = run.generator(4)
        for _, layer in adapters(model):
            layer.B.copy_(torch.randn(layer.B.shape, generator=draw) / 100)
        logits = model(tokens)
        moved = (logits - model_without(model, tokens)).abs().max()
        run.metric("most that the corrections move a logit", moved, rtol=None)
        merged = merge(model)(tokens)
        unmerge(model)
    why = "float32 rounding through 30 layers; logits reach 30"
    same = {"against": "unmerged", "kind": "consistency", "atol": 2e-3, "why": why}
    run.check("logits of SmolLM2, merged", merged, logits, **same)
    for weight in unload(model).requires_grad_(True).parameters():
        weight.grad = None
    seconds, held = step_of(model, tokens, steps)
    run.metric("bytes beside the weights, all trained", held / 1e6, "MB", rtol=0)
    run.metric("time per step, all trained / LoRA", seconds / lora_seconds, rtol=None)


def model_without(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """The base's logits: corrections times zero."""
    scalings = [(layer, layer.scaling) for _, layer in adapters(model)]
    for layer, _ in scalings:
        layer.scaling = 0.0
    logits = model(tokens)
    for layer, scaling in scalings:
        layer.scaling = scaling
    return logits
