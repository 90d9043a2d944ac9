"""AWQ: errors by outputs, folding in float64, planted outliers, a small model and SmolLM2."""

import copy
import functools

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from shared import plots
from shared.study import Run
from week18.llama3 import Llama, LlamaConfig
from week19.awq import awq_block, factors, search
from week19.characters import manual, trained_model
from week19.evidence.real_text import judge_on_text
from week19.folding import READERS, fold_block, per_kv_head
from week19.gptq import hessian
from week19.layer_inputs import Inputs, Quantizer, block_inputs, quantized_losses, round_block
from week19.quantization import fake_quantize
from week19.wikitext import windows

GROUP = 64


def main(run: Run) -> None:
    """Check errors and folding, then judge by planted outliers and by the loss of models."""
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    check_errors(run)
    check_folding(run)
    judge_outliers(run)
    judge_small_models(run)
    judge_language_model(run)


def layer(run: Run, offset: int, outliers: float = 20.0) -> tuple[Tensor, Tensor]:
    """Random weights; inputs of which one in 32 is so many times larger."""
    g = run.generator(offset)
    w = torch.randn(64, 128, generator=g, dtype=torch.double)
    x = torch.randn(256, 128, generator=g, dtype=torch.double)
    x[:, torch.randperm(128, generator=g)[:4]] *= outliers
    return w, x


def check_errors(run: Run) -> None:
    """The search's errors against the outputs themselves; the factors' rule against torchao's."""
    w, x = layer(run, 0)
    mean = x.abs().mean(0)
    found = search(w, hessian(x), mean, bits=3, group_size=GROUP, steps=5)
    direct = []
    for i in range(5):
        s = factors(mean, i / 5)
        new = fake_quantize(w * s, bits=3, symmetric=False, granularity=GROUP)
        direct.append(((x @ w.T - (x / s) @ new.T) ** 2).mean(0).sum().item())
    why = {"kind": "theorem", "rtol": 1e-9, "why": "float64 rounding"}
    run.check("errors by α", found.errors, direct, against="the layer's outputs", **why)

    from torchao.prototype.awq.core import AWQObserver
    from torchao.quantization import Int8WeightOnlyConfig

    observer = AWQObserver(w.float(), None, Int8WeightOnlyConfig(), scale_search_space_size=5)
    observer(x.float(), None)
    theirs = observer.calculate_qparams()
    every = torch.stack([factors(mean.float(), i / 5) for i in range(5)])
    nearest = (every / theirs - 1).abs().amax(1).min()
    library = {"against": "torchao's AWQObserver", "atol": 1e-5, "why": "float32 rounding"}
    run.check("its factors are ours for one α", nearest, 0.0, **library)


@torch.no_grad()
def check_folding(run: Run) -> None:
    """A block in float64 computes the same with random factors folded in everywhere."""
    model = Llama(LlamaConfig(11, 24, 1, 6, 2), run.generator()).double()
    block, n = model.blocks[0], 9
    x = torch.randn(2, n, 24, generator=run.generator(1), dtype=torch.double)
    rotary = model.waves(torch.arange(n), None)
    before = block(x, *rotary)
    folded = copy.deepcopy(block)
    for reader, names in READERS.items():
        s = torch.rand(getattr(block, names[0]).in_features, generator=run.generator(2)) + 0.1
        fold_block(folded, reader, per_kv_head(s, 2, 4) if reader == "out_proj" else s)
    why = {"kind": "consistency", "atol": 1e-12, "why": "float64 rounding"}
    same = run.against("the block before folding", **why)
    same("a block with factors folded in", folded(x, *rotary), before)


def judge_outliers(run: Run) -> None:
    """Layers with planted outliers, and by α."""
    ratio, level, by_alpha = [], [], []
    for offset in range(run.budget(quick=4, default=20)):
        for outliers, into in ((20.0, ratio), (1.0, level)):
            w, x = layer(run, 10 + offset, outliers)
            found = search(w, hessian(x), x.abs().mean(0), bits=3, group_size=GROUP)
            into.append(found.error / found.errors[0])
            if outliers > 1:
                by_alpha.append(np.array(found.errors) / found.errors[0])
    halves, unit = "AWQ halves the error where inputs are outliers", "AWQ / nearest"
    note = "one input in 32 is 20 times larger"
    run.claim(halves, ratio, at_most=0.5, each=True, unit=unit, note=note)
    run.falsifier("all inputs alike", level, breaks=halves)
    with run.figure("alpha", "How much should the weights of large inputs be scaled up?") as axes:
        labels = {"xlabel": "α", "ylabel": "error of the outputs, AWQ / nearest, 3 bits"}
        levels = {"rounded to nearest": 1.0}
        alphas = np.arange(20) / 20
        lines = {"planted\noutliers": by_alpha}
        plots.curves(axes, alphas, lines, reference=levels, **labels)


def spread(inputs: dict[str, Inputs]) -> float:
    """The largest mean magnitude of an input over the median one, the most of all layers."""
    return max((part.mean.max() / part.mean.median()).item() for part in inputs.values())


def by_bits(widths: tuple[int, ...], group: int) -> dict[str, Quantizer]:
    """Rounding to nearest and AWQ."""
    methods: dict[str, Quantizer] = {}
    for bits in widths:
        options = {"bits": bits, "group_size": group}
        methods[f"nearest, {bits} bits"] = functools.partial(round_block, **options)
        options |= {"steps": 10, "every": 4}
        methods[f"AWQ, {bits} bits"] = functools.partial(awq_block, **options)
    return methods


def judge_small_models(run: Run) -> None:
    """Character models trained here, whose inputs are alike: presumably little to gain."""
    text, steps = manual(), run.budget(quick=2, default=80)
    many = windows(text.training, 32, 64)
    held_out = windows(text.held_out, run.budget(quick=4, default=64), 64)
    shares, spreads = [], []
    for seed in range(run.budget(quick=2, default=3)):
        model = trained_model(text, steps, run.seed + seed)
        methods = {"as it is": lambda block, inputs: None, **by_bits((3,), 32)}
        losses = quantized_losses(model, many, held_out, methods)
        mean = {name: values.numpy().mean() for name, values in losses.items()}
        added = mean["nearest, 3 bits"] - mean["as it is"]
        shares.append((mean["AWQ, 3 bits"] - mean["as it is"]) / added)
        spreads.append(input_spread(model, many))
    run.metric("largest input over the median one, small model", float(np.mean(spreads)), rtol=0.3)
    less, unit = "on a small model AWQ adds less loss than nearest", "share of what nearest adds"
    run.claim(less, shares, at_most=1.0, unit=unit, quick=False)


@torch.no_grad()
def input_spread(model: Llama, texts: Int[Tensor, "text n"]) -> float:
    """`spread` of the block where it is largest."""
    rotary = model.waves(torch.arange(texts.shape[1]), None)
    x, most = model.embed(texts), 0.0
    for block in model.blocks:
        x, inputs = block_inputs(block, x, *rotary)
        most = max(most, spread(inputs))
    return most


def judge_language_model(run: Run) -> None:
    """Loss on WikiText-2 of a real model, 3 and 4 bits, paired by window."""
    n = run.budget(quick=(2, 4), default=(20, 12), full=(64, 64))
    methods = by_bits((3, 4), run.budget(quick=32, default=GROUP))
    gains = {
        f"AWQ loses less than nearest, {bits} bits": (f"nearest, {bits} bits", f"AWQ, {bits} bits")
        for bits in (3, 4)
    }
    found = judge_on_text(run, n, methods, gains)
    most = input_spread(found.model, found.calibration[:2])
    run.metric("largest input over the median one, SmolLM2", most, rtol=0.3)
