"""NF4 against bitsandbytes and torchao, its error on normal weights, corrections trained on it."""

import warnings

import torch
from torch import Tensor, nn

from shared import plots
from shared.measuring import pinned
from shared.study import PositiveInt, Run
from week20.evidence.four_bit_models import FP4, INT4, judge_smollm2, judge_training
from week20.lora import LoRAConfig, LoRALinear
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
)

PILOT = "a look at one matrix: 0.092 for NF4, 0.103 for int4, 0.122 for bitsandbytes' FP4"


def main(
    run: Run, *, steps: PositiveInt = 40, seeds: PositiveInt = 3, windows: PositiveInt = 6
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
    seeds = run.budget(quick=2, default=max(2, seeds), full=max(seeds, 5))
    with pinned(1):
        judge_training(run, run.budget(quick=2, default=steps, full=2 * steps), seeds)
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
