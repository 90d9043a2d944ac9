"""NF4 against bitsandbytes and torchao, its error on normal weights, corrections trained on it."""

import copy
import warnings

import torch
from torch import Tensor, nn

from shared import datasets, plots
from shared.errors import UserError
from shared.measuring import pinned
from shared.study import PositiveInt, Run
from week14.minimal_gpt import next_token_loss, random_batch
from week18.llama3 import Llama
from week18.smollm2 import smollm2
from week19.characters import manual, trained_model
from week19.perplexity import gptq_nats
from week20.lora import LoRAConfig, LoRALinear, inject, merge, unload
from week20.qlora import (
    BLOCK,
    NF4Linear,
    bits_per_weight,
    dequantize_4bit,
    dequantize_base,
    dynamic_float,
    nearest,
    normal_float,
    quantize_4bit,
    quantize_base,
)

TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "gate_proj", "up_proj", "down_proj")
# Week 19's int4 (half steps to both ends), and FP4 with two bits of exponent and one of mantissa.
INT4 = torch.arange(-8, 8) / 7.5
FP4 = torch.tensor([-6.0, -4, -3, -2, -1.5, -1, -0.5, 0, 1e-9, 0.5, 1, 1.5, 2, 3, 4, 6]) / 6
PILOT = "a look at one matrix: 0.092 for NF4, 0.103 for int4, 0.122 for bitsandbytes' FP4"


def main(
    run: Run, *, steps: PositiveInt = 80, seeds: PositiveInt = 3, windows: PositiveInt = 6
) -> None:
    """Compare with bitsandbytes, torchao and peft, measure errors, train corrections.

    Parameters
    ----------
    steps
        Training steps of each correction of a small character model.
    seeds
        Small models, at least 2.
    windows
        Windows of WikiText-2 that SmolLM2 reads in each form.
    """
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    check_tables(run)
    check_codes(run)
    check_layer(run)
    judge_errors(run)
    seeds = run.budget(quick=2, default=max(2, seeds), full=max(seeds, 8))
    with pinned(1):
        judge_training(run, run.budget(quick=2, default=steps, full=4 * steps), seeds)
        if run.mode != "quick":  # four passes through 135 million weights
            judge_smollm2(run, windows)


# ---- checks


def check_tables(run: Run) -> None:
    """The levels, and the code of the second quantization."""
    import bitsandbytes.functional as bnb

    exact = run.against("bitsandbytes' tables", why="the same float32 numbers")
    exact("16 levels of NF4", normal_float(), bnb.get_4bit_type("nf4", device="cpu"))
    exact("256 levels of the second code", dynamic_float(), bnb.create_dynamic_map())
    theirs = in_torchao(torch.randn(256, 64, generator=run.generator())).nf4
    four = {"atol": 5.1e-5, "why": "torchao's table has four decimals"}
    run.check("16 levels of NF4, torchao", normal_float(), theirs, against="torchao", **four)


def in_torchao(w: Tensor):
    """A weight as torchao's NF4Tensor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization.quantize_.workflows.nf4.nf4_tensor import to_nf4
    return to_nf4(w)


def check_codes(run: Run) -> None:
    """Codes, scales, bytes and what comes back."""
    import bitsandbytes.functional as bnb

    exact = run.against("bitsandbytes.functional, nf4", why="the same float32 operations")
    for shape, dtype in (((96, 128), torch.float32), ((64, 192), torch.bfloat16)):
        w = torch.randn(*shape, generator=run.generator(1)).to(dtype)
        code, (packed, state) = quantize_4bit(w), bnb.quantize_4bit(w, quant_type="nf4")
        name = f"{shape[0]} × {shape[1]}, {dtype}".replace("torch.", "")
        exact(f"{name}: two codes per byte", code.packed, packed.flatten())
        exact(f"{name}: scales", code.scales, state.absmax)
        back = bnb.dequantize_4bit(packed, state)
        exact(f"{name}: the weight again", dequantize_4bit(code).to(dtype).float(), back.float())
    w = torch.randn(512, 512, generator=run.generator(2))
    code, (_, state) = (
        quantize_4bit(w, double=True),
        bnb.quantize_4bit(w, quant_type="nf4", compress_statistics=True),
    )
    exact("mean of the scales", code.mean, state.offset)
    exact("scales of the scales", code.second, state.state2.absmax)
    theirs = bnb.dequantize_blockwise(state.absmax, state.state2) + state.offset
    largest = w.reshape(-1, BLOCK).abs().amax(dim=1)
    why = "bitsandbytes takes the other level where two are equally near to 1e-5 of the scale"
    ours = (code.largest() - largest).abs()
    options = {"against": "bitsandbytes.functional", "atol": 3e-5, "why": why}
    run.check("error of the scales in eight bits", ours, (theirs - largest).abs(), **options)
    for double in (False, True):
        bits = 8 * quantize_4bit(w, double=double).nbytes() / w.numel()
        formula = {"kind": "theorem", "why": "32 bits of the one mean come on top"}
        name = f"bits per weight, {'double' if double else 'single'}"
        options = {"against": "4 + 8/64 + 32/16384", "atol": 33 / w.numel(), **formula}
        run.check(name, bits, bits_per_weight(double=double), **options)
        run.metric(name, bits, "bits")


def check_layer(run: Run) -> None:
    """Forward, backward and the first steps of a layer with its correction."""
    import bitsandbytes as bnb

    linear = nn.Linear(64, 32)
    linear.load_state_dict(
        {
            "weight": torch.randn(32, 64, generator=run.generator(3)),
            "bias": torch.randn(32, generator=run.generator(4)),
        }
    )
    theirs = bnb.nn.Linear4bit(64, 32, quant_type="nf4", compress_statistics=False)
    theirs.load_state_dict(linear.state_dict())
    theirs = theirs.to("cpu")
    x = torch.randn(5, 64, generator=run.generator(5))
    near = run.against("bitsandbytes.nn.Linear4bit", atol=1e-5, why="float32 sums of 64 products")
    a, b = (x.clone().requires_grad_() for _ in "ab")
    y, z = NF4Linear(linear, double=False)(a), theirs(b)
    near("layer forward", y, z, rtol=1e-5)
    for out in (y, z):
        out.square().sum().backward()
    near("layer backward", a.grad, b.grad, rtol=1e-5, atol=1e-4)
    ours, other = corrected_pair(linear, run)
    same = run.against("peft's LoRA on the dequantized weight", atol=1e-5, why="float32 rounding")
    for name, (mine, theirs) in first_steps(ours, other, x).items():
        same(name, mine, theirs)
    kept = {"NF4": kept_bytes(NF4Linear(linear), x), "dequantized": kept_bytes(linear, x)}
    run.metric("bytes of weights kept for the backward pass, NF4", kept["NF4"], "bytes")
    run.metric("bytes of weights kept for the backward pass, floats", kept["dequantized"], "bytes")


def corrected_pair(linear: nn.Linear, run: Run) -> tuple[LoRALinear, nn.Module]:
    """Our correction on NF4, and peft's with the same numbers on a plain layer of W4."""
    import peft

    ours = LoRALinear(NF4Linear(linear), LoRAConfig(r=4, alpha=8.0), run.generator(6))
    plain = dequantize_base(nn.Sequential(NF4Linear(linear)))
    config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=["0"])
    other = peft.get_peft_model(plain, config).base_model.model[0]
    other.lora_A["default"].weight.data = ours.A.detach().clone()
    other.lora_B["default"].weight.data = ours.B.detach().clone()
    return ours, other


def first_steps(ours: LoRALinear, other: nn.Module, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Outputs and matrices of both after three steps of Adam."""
    target = torch.linspace(-1, 1, ours.B.shape[0])
    pairs = [(ours, [ours.A, ours.B])]
    pairs += [(other, [other.lora_A["default"].weight, other.lora_B["default"].weight])]
    for model, matrices in pairs:
        optimizer = torch.optim.Adam(matrices, lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            (model(x) - target).square().mean().backward()
            optimizer.step()
    found = {"output after three steps": (ours(x), other(x))}
    found["A after three steps"] = tuple(matrices[0] for _, matrices in pairs)
    return found | {"B after three steps": tuple(matrices[1] for _, matrices in pairs)}


def kept_bytes(layer: nn.Module, x: Tensor) -> int:
    """Bytes of the weight's size that a layer keeps for the backward pass."""
    sizes, shape = [], {(64, 32), (32, 64)}

    def keep(tensor: Tensor) -> Tensor:
        sizes.append(tensor.nbytes if tuple(tensor.shape) in shape else 0)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        layer(x.clone().requires_grad_())
    return sum(sizes)


# ---- errors


def rms_error(w: Tensor, levels: Tensor) -> float:
    """Root mean square of what a code of these levels loses, in blocks of 64."""
    return (dequantize_4bit(quantize_4bit(w, levels=levels)) - w).square().mean().sqrt().item()


def judge_errors(run: Run) -> None:
    """NF4 against other four bits: on normal weights, on uniform ones, and level by level."""
    side, codes = run.budget(quick=128, default=512), {"int4": INT4, "FP4": FP4}
    ratios = {(name, kind): [] for name in codes for kind in ("normal", "uniform")}
    shares = []
    for seed in range(8):
        g = run.generator(100 + seed)
        normal = torch.randn(side, side, generator=g)
        uniform = 2 * torch.rand(side, side, generator=g) - 1
        for name, levels in codes.items():
            for kind, w in (("normal", normal), ("uniform", uniform)):
                ratios[name, kind].append(rms_error(w, levels) / rms_error(w, normal_float()))
        rows = normal.reshape(-1, BLOCK)
        used = nearest(rows / rows.abs().amax(dim=1, keepdim=True), normal_float())
        shares.append(torch.bincount(used.flatten(), minlength=16) / used.numel())
    for name in codes:
        claim = f"on normal weights {name} errs more than NF4"
        run.claim(claim, ratios[name, "normal"], at_least=1.05, unit="times", seen_before=PILOT)
    breaks = "on normal weights int4 errs more than NF4"
    run.falsifier("uniform weights", ratios["int4", "uniform"], breaks=breaks)
    spread = [(share.max() / share.min()).item() for share in shares]
    options = {"at_most": 1.5, "unit": "times", "note": "most used level over least used"}
    run.claim("NF4 uses its levels about equally often, in blocks of 64", spread, **options)
    with run.figure("levels", "Does NF4 use its sixteen levels equally often?") as axes:
        mean = torch.stack(shares).mean(dim=0)
        axes.bar(range(16), 100 * mean, color=plots.BLUE)
        plots.reference_line(axes, 100 / 16, "one sixteenth")
        axes.set_xticks(range(16), [f"{level:.2f}" for level in normal_float()], fontsize=8)
        axes.set(xlabel="level", ylabel=f"normal weights, % (blocks of {BLOCK})")


# ---- training


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
    run.claim(equal, behind, at_most=0.02, **late)
    frozen = difference(rows, "NF4, before", "floats")
    run.falsifier("frozen corrections", frozen, breaks=equal)
    cost = difference(rows, "NF4, moved", "NF4")
    run.claim("moved to the weights from before, corrections are worse", cost, at_least=0.0, **late)
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
