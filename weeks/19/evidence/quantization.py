"""Grids against torch's and torchao's, noise against theory, and what rounding costs in models."""

import copy
import warnings

import torch
from torch import Tensor, nn

from shared import plots
from shared.study import PositiveInt, Run
from week19.characters import WINDOW, Text, manual, trained_model
from week19.evidence.quantization_smollm2 import judge_smollm2
from week19.evidence.threads import one_thread
from week19.perplexity import gptq_nats
from week19.quantization import (
    Granularity,
    dequantize,
    fake_quantize,
    grid,
    levels,
    quantize,
    quantize_weight,
    straight_through,
)
from week19.quantized_linear import (
    ACTIVATION_BITS,
    DynamicInt8Linear,
    Int4Linear,
    Int8Linear,
    quantize_tokens,
)

KINDS: dict[str, Granularity] = {"tensor": "tensor", "channel": "channel", "group of 32": 32}


def main(
    run: Run, *, steps: PositiveInt = 100, seeds: PositiveInt = 3, windows: PositiveInt = 4
) -> None:
    """Compare with torch and torchao, measure the noise, and quantize models.

    Parameters
    ----------
    steps
        Training steps of each small character model.
    seeds
        Small models, at least 2.
    windows
        Windows of WikiText-2 that SmolLM2 reads in each form.
    """
    run.rounding(0.25, "Muon multiplies in bfloat16, which processors round differently")
    check_torchao(run)
    check_torch(run)
    check_fused(run)
    judge_noise(run)
    judge_outlier(run)
    seeds = run.budget(quick=2, default=max(2, seeds), full=max(seeds, 8))
    judge_small(run, manual(), run.budget(quick=3, default=steps, full=4 * steps), seeds)
    if run.mode != "quick":  # five passes through 135 million weights
        judge_smollm2(run, windows)


# ---- checks


def weight(run: Run, n_out: int, n_in: int) -> Tensor:
    """Normal numbers in rows of unequal size, one of them zero."""
    g = run.generator()
    rows = torch.randn(n_out, n_in, generator=g) * torch.rand(n_out, 1, generator=g)
    rows[3] = 0
    return rows


def check_torchao(run: Run) -> None:
    """Int8 weights and dynamic activations: integers and scales."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
        from torchao.quantization.granularity import PerGroup, PerRow, PerTensor
        from torchao.quantization.quantize_.workflows.int8.int8_tensor import Int8Tensor
    w, x = weight(run, 96, 128), torch.randn(5, 128, generator=run.generator(1))
    same = run.against("torchao", why="the same rounding: integers equal, scales to float32's")
    theirs = {"tensor": PerTensor(), "channel": PerRow(), "group of 32": PerGroup(32)}
    for name, granularity in KINDS.items():
        q, scale, _ = quantize_weight(w, bits=8, symmetric=True, granularity=granularity)
        other = Int8Tensor.from_hp(w, granularity=theirs[name])
        same(f"int8 weight per {name}: integers", q.flatten(), other.qdata.flatten())
        same(f"int8 weight per {name}: scales", scale.flatten(), other.scale.flatten(), rtol=1e-7)
    linear = nn.Linear(128, 96)
    linear.weight.data, linear.bias.data = w.clone(), torch.ones(96)
    quantize_(linear, Int8DynamicActivationInt8WeightConfig())
    p, scale = quantize_tokens(x)
    other = Int8Tensor.from_hp(x, granularity=PerRow())
    same("dynamic int8: the token's integers", p, other.qdata)
    same("dynamic int8: the token's scales", scale, other.scale, rtol=1e-7)
    ours = DynamicInt8Linear(w, torch.ones(96))
    same("dynamic int8: output", ours(x), linear(x).detach(), rtol=1e-6, atol=1e-6)


def check_torch(run: Run) -> None:
    """Fake quantization forward and backward, and what observers choose."""
    w = weight(run, 24, 40)
    equal = run.against("torch.fake_quantize_per_channel_affine", atol=1e-6, why="float32")
    for bits, symmetric in ((8, True), (4, True), (4, False), (3, False)):
        low, high = 0.7 * w.amin(-1, keepdim=True), 0.7 * w.amax(-1, keepdim=True)  # cuts some off
        scale, zero = grid(low, high, bits=bits, symmetric=symmetric)
        ours, theirs = (w.clone().requires_grad_() for _ in "ab")
        y = straight_through(ours, scale, zero, bits=bits, symmetric=symmetric)
        ends = levels(bits, symmetric=symmetric)
        fake = torch.fake_quantize_per_channel_affine
        z = fake(theirs, scale.flatten(), zero.flatten(), 0, *ends)
        for out in (y, z):
            out.square().sum().backward()
        name = f"{bits} bits, {'' if symmetric else 'a'}symmetric"
        equal(f"{name}: values", y, z)
        equal(f"{name}: gradients", ours.grad, theirs.grad)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchao is to take them over
        from torch.ao.quantization import observer as seen

        symmetric, affine = torch.per_channel_symmetric, torch.per_channel_affine
        by_channel = seen.PerChannelMinMaxObserver
        pairs = {
            "per tensor": (seen.MinMaxObserver(), "tensor", False),
            "per channel": (by_channel(qscheme=affine), "channel", False),
            "symmetric": (by_channel(dtype=torch.qint8, qscheme=symmetric), "channel", True),
        }
        exact = run.against("torch.ao.quantization's observers", why="the same float32 operations")
        for name, (observer, granularity, is_symmetric) in pairs.items():
            observer(w)
            their_scale, their_zero = observer.calculate_qparams()
            _, scale, zero = quantize_weight(
                w, bits=8, symmetric=is_symmetric, granularity=granularity
            )
            exact(
                f"MinMaxObserver {name}: scale", scale.flatten(), their_scale.flatten(), rtol=1e-7
            )
            exact(f"MinMaxObserver {name}: zero point", zero.flatten(), their_zero.flatten())


def check_fused(run: Run) -> None:
    """The CPU's kernels against the same integers written out in float64."""
    w, x = weight(run, 96, 128), torch.randn(5, 128, generator=run.generator(1))
    sizes = (x.abs().double() @ w.abs().double().T).max().item()
    definition = run.against("the sum in float64", kind="theorem", why="x and y in bfloat16")
    int8, int4 = Int8Linear(w), Int4Linear(w, group=64)
    definition("int8 kernel", int8(x), x.double() @ int8.dequantized().double().T, atol=sizes / 256)
    rounded = fake_quantize(w, bits=4, symmetric=True, granularity=64).double()
    definition("int4 kernel", int4(x), x.double() @ rounded.T, atol=sizes / 128)
    q, scale, _ = quantize_weight(w, bits=8, symmetric=True, granularity="channel")
    step, zero = grid(x.min(), x.max(), bits=ACTIVATION_BITS, symmetric=False)
    p = quantize(x, step, zero, bits=ACTIVATION_BITS, symmetric=False)
    exact = (p.double() - zero) @ q.double().T * step * scale.flatten()
    why = "integers are summed exactly and scaled in float32"
    fused = DynamicInt8Linear(w, shared_grid=True)(x)
    definition("dynamic int8 kernel", fused, exact, atol=1e-5, why=why)


# ---- noise


def snr_db(x: Tensor, rounded: Tensor) -> float:
    """Signal over noise: 10 log10 of the ratio of mean squares."""
    return 10 * torch.log10(x.square().mean() / (x - rounded).square().mean()).item()


def judge_noise(run: Run) -> None:
    """Is the noise Δ²/12 and each bit worth 6 dB? Normal numbers, by bits and granularity."""
    rows, bits = run.budget(quick=64, default=512), range(2, 9)
    x = torch.rand(4096, 512, generator=run.generator(2), dtype=torch.float64) * 2 - 1
    ends = torch.tensor(-1.0, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    for b in (3, 8):
        scale, zero = grid(*ends, bits=b, symmetric=True)
        noise = (x - dequantize(quantize(x, scale, zero, bits=b, symmetric=True), scale, zero)) ** 2
        theory = run.against("Δ²/12", kind="theorem", rtol=0.01, why="2 million draws")
        theory(f"noise of uniform numbers, {b} bits", noise.mean(), scale**2 / 12)
    found: dict[str, list[list[float]]] = {name: [] for name in KINDS}
    ratios = []
    for seed in range(3):
        w = torch.randn(rows, 1024, generator=run.generator(10 + seed))
        for name, g in KINDS.items():
            forms = [fake_quantize(w, bits=b, symmetric=True, granularity=g) for b in bits]
            found[name].append([snr_db(w, form) for form in forms])
        _, scale, _ = quantize_weight(w, bits=4, symmetric=True, granularity="channel")
        rounded = fake_quantize(w, bits=4, symmetric=True, granularity="channel")
        noise = (w - rounded).square().mean(-1, keepdim=True)
        ratios.append((noise / (scale**2 / 12)).mean().item())
    note = "4 bits per channel of 1024 normal numbers"
    twelfth = "the noise is a twelfth of the squared step"
    run.claim(twelfth, ratios, at_least=0.95, at_most=1.05, note=note)
    slopes = [(r[-1] - r[2]) / 4 for r in found["channel"]]
    run.claim("a bit is worth 6 dB", slopes, at_least=5.9, at_most=6.4, unit="dB per bit")
    for name, r in found.items():
        run.metric(f"signal over noise at 4 bits, {name}", sum(v[2] for v in r) / 3, "dB")
    with run.figure("noise", "What do a bit and a smaller group buy?") as axes:
        line = {"6.02 dB per bit": [6.02 * (b - 8) + found["channel"][0][-1] for b in bits]}
        colors = (plots.BLUE, plots.ORANGE, plots.GREEN, plots.REFERENCE)
        labels = {"xlabel": "bits per weight (without scales)", "marker": "o", "colors": colors}
        plots.curves(axes, list(bits), found | line, **labels)
        axes.set_ylabel("signal over noise, dB\n(normal weights, 1024 inputs)")


# ---- failure on display


def judge_outlier(run: Run) -> None:
    """One loud channel sets the step of the whole tensor, and the others round to zero."""
    loudness = [1, 3, 10, 30, 100]
    lost = {name: [] for name in KINDS}
    for seed in range(3):
        w = torch.randn(64, 256, generator=run.generator(20 + seed))
        rows = {name: [] for name in KINDS}
        for factor in loudness:
            loud = torch.cat([factor * w[:1], w[1:]])
            for name, g in KINDS.items():
                quiet = fake_quantize(loud, bits=4, symmetric=True, granularity=g)[1:]
                rows[name].append(100 * (quiet == 0).float().mean().item())
        for name in KINDS:
            lost[name].append(rows[name])
    at = loudness.index(30)
    erased, mended = ([r[at] for r in lost[name]] for name in ("tensor", "channel"))
    options = {"unit": "% of the others", "note": "int4 per tensor, one of 64 thirty times larger"}
    run.claim("an outlier channel erases the others", erased, at_least=90, **options)
    run.falsifier("a grid per channel", mended, breaks="an outlier channel erases the others")
    with run.figure("outlier", "How many weights does one loud channel of 64 erase?") as axes:
        labels = {"xlabel": "times that one channel is larger", "xscale": "log", "ylim": (0, 103)}
        labels["ylabel"] = "other weights rounded to 0, %\n(int4, symmetric)"
        plots.curves(axes, loudness, lost, marker="o", **labels)


# ---- a small model


def quantized_copy(model: nn.Module, bits: int, granularity: Granularity) -> nn.Module:
    """The model with the matrices of its blocks rounded; embedding and head stay."""
    copied = copy.deepcopy(model)
    for block in copied.blocks:
        for linear in block.children():
            if isinstance(linear, nn.Linear):
                options = {"bits": bits, "symmetric": True, "granularity": granularity}
                linear.weight = nn.Parameter(fake_quantize(linear.weight, **options), False)
    return copied


def judge_small(run: Run, text: Text, steps: int, seeds: int) -> None:
    """Character models: nats added by rounding, and a model that learned nothing for control."""
    tokens = text.held_out[: run.budget(quick=4, default=24) * WINDOW]
    bits, forms = (8, 4, 3, 2), {"tensor": "tensor", "channel": "channel", "group of 16": 16}
    added = {name: [] for name in forms}
    losses, controls = [], []
    with one_thread():
        for seed in range(run.seed, run.seed + seeds):
            model = trained_model(text, steps, seed)
            base = gptq_nats(model, tokens, context=WINDOW).mean().item()
            losses.append(base)
            for name, g in forms.items():
                rows = [quantized_copy(model, b, g) for b in bits]
                rows = [gptq_nats(m, tokens, context=WINDOW).mean().item() - base for m in rows]
                added[name].append(rows)
            if len(controls) < 2:
                control = trained_model(text, steps, seed, shuffled=True)
                controls.append(gptq_nats(control, tokens, context=WINDOW).mean().item())
    late = {"quick": False, "unit": "nats/char"}
    ignorance = torch.bincount(tokens, minlength=len(text.alphabet)).float()
    ignorance = torch.distributions.Categorical(ignorance).entropy().item()
    gains = [ignorance - loss for loss in losses]
    run.claim("the models have learned", gains, at_least=0.3, **late, note="below the unigrams")
    broken = [ignorance - loss for loss in controls]
    run.falsifier("trained on shuffled characters", broken, breaks="the models have learned")
    eight = [r[0] for r in added["channel"]]
    run.claim("int8 per channel costs a small model nothing", eight, at_most=0.005, **late)
    two = [r[3] for r in added["tensor"]]
    breaks = "int8 per channel costs a small model nothing"
    run.falsifier("2 bits per tensor", two, breaks=breaks)
    groups = [a[2] - b[2] for a, b in zip(added["tensor"], added["group of 16"], strict=True)]
    run.claim("groups lose less than one grid, at 3 bits", groups, at_least=0.0, **late)
    for name, rows in added.items():
        mean = sum(row[1] for row in rows) / seeds
        run.metric(f"nats added by 4 bits, {name}, small model", mean, "nats/char", rtol=0.5)
    with run.figure("small_model", "What does rounding add to a small model's loss?") as axes:
        axes.set_yscale("symlog", linthresh=1e-3)
        labels = {"xlabel": "bits per weight of the blocks", "marker": "o"}
        labels["ylabel"] = "loss added, nats per character\n(character LLaMA, 2 layers)"
        plots.curves(axes, bits, added, **labels)
        axes.set_xticks(bits)
