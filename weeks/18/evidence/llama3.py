"""LLaMA against transformers, its costs against counting, and each of its changes by training."""

import dataclasses
import math
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from shared import plots
from shared.study import PositiveInt, Run
from week18.costs import LLAMA_3_1, cache_bytes, flops_per_token, n_parameters, weight_bytes
from week18.evidence.learning import check_ten_steps
from week18.evidence.llama3_blocks import compare_blocks
from week18.llama3 import Llama, LlamaConfig
from week18.pretrained import hugging_face_name, load_pretrained
from week18.rotary import RopeScaling, rope_frequencies
from week18.transformers_twin import randomize, their_config, transformers_twin

PUBLISHED = {"8B": 8.03, "70B": 70.55, "405B": 405.85}  # billions, from the models' cards

# Few layers and odd sizes: grouped heads, heads wider than d_model / n_heads, stretched positions.
_ROTARY = {"context": 96, "rope_base": 1000.0, "rope_scaling": RopeScaling(4.0, 1.0, 4.0, 32)}
SMALL = LlamaConfig(31, 24, 2, 6, 2, head_dim=6, d_ff=40, **_ROTARY)


def main(run: Run, *, steps: PositiveInt | None = None, seeds: PositiveInt | None = None) -> None:
    """Compare with transformers, count the costs, and put each change to the test by training.

    Parameters
    ----------
    steps
        Training steps of each model in the comparison of blocks.
    seeds
        Models of each kind in that comparison, at least 2.
    """
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    check_against_transformers(run)
    check_round_trip(run)
    judge_padding(run)
    check_costs(run)
    draw_frequencies(run)
    draw_cache(run)
    steps = steps or run.budget(quick=3, default=100, full=600)
    seeds = max(2, seeds or run.budget(quick=2, default=4, full=8))
    run.chose(steps=steps, seeds=seeds)
    compare_blocks(run, steps, seeds)


# ---- checks


def check_against_transformers(run: Run) -> None:
    """Same weights, same tokens: logits, gradients and steps as `LlamaForCausalLM`."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    ours = randomize(Llama(SMALL), seed=run.seed)
    theirs = transformers_twin(ours)
    # twice as long as the context that the scaling was made for
    tokens = torch.randint(31, (3, 65), generator=run.generator())
    why = "float32 rounding through two layers and back"
    equal = run.against("transformers LlamaForCausalLM", atol=1e-5, why=why)
    logits, reference = ours(tokens[:, :-1]), theirs(tokens[:, :-1]).logits
    equal("logits", logits, reference, rtol=1e-5)
    for out in (logits, reference):
        F.cross_entropy(out.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    by_name = {name: p.grad for name, p in theirs.named_parameters()}
    gradients = [
        torch.cat([g.flatten() for g in found])
        for found in (
            [p.grad for p in ours.parameters()],
            [by_name[hugging_face_name(name)] for name, _ in ours.named_parameters()],
        )
    ]
    equal("gradients / largest", *(g / gradients[1].abs().max() for g in gradients))

    check_ten_steps(run, ours, theirs, "LlamaForCausalLM")

    config = LLAMA_3_1["8B"]
    reference, _ = ROPE_INIT_FUNCTIONS["llama3"](their_config(config), "cpu")
    found = rope_frequencies(config.head_dim, base=config.rope_base, scaling=config.rope_scaling)
    rotary = run.against("transformers' llama3 frequencies", atol=1e-6, why="float32 rounding")
    rotary("frequencies of LLaMA 3.1", found / reference, torch.ones_like(found))


def check_round_trip(run: Run) -> None:
    """Transformers writes, we read, in the layout and names of its checkpoints."""
    theirs = transformers_twin(randomize(Llama(SMALL), seed=run.seed + 1))
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = load_pretrained(Path(folder))
    tokens = torch.randint(31, (2, 40), generator=run.generator())
    options = {"atol": 1e-5, "rtol": 1e-5, "why": "float32 rounding"}
    equal = run.against("transformers, which wrote it", **options)
    equal("logits of a loaded checkpoint", ours(tokens), theirs(tokens).logits)


@torch.no_grad()
def judge_padding(run: Run) -> None:
    """Rows padded on the left are as rows alone, but for a mask that is forgotten."""
    lengths = torch.tensor([20, 13, 7])
    tokens = torch.randint(31, (3, 20), generator=run.generator())
    real = torch.arange(20) >= 20 - lengths[:, None]
    positions = (real.cumsum(1) - 1).clamp(min=0)
    errors = {"remembered": [], "forgotten": []}
    for seed in range(5):
        model = randomize(Llama(SMALL), seed=run.seed + 2 + seed)
        expected = each_alone(model, tokens, lengths)
        for name, mask in (("remembered", real), ("forgotten", None)):
            out = model(tokens, mask=mask, positions=positions)[real]
            errors[name].append((out - expected).abs().max().item())
    matters, unit = "a forgotten padding mask is no rounding error", "largest error of a logit"
    run.claim(matters, errors["forgotten"], at_least=0.1, unit=unit)
    run.falsifier("the mask remembered", errors["remembered"], breaks=matters)


def each_alone(model: Llama, tokens: Int[Tensor, "row n"], lengths: Int[Tensor, " row"]) -> Tensor:
    """Logits of every real token, its row computed without padding."""
    n = tokens.shape[1]
    rows = zip(tokens, lengths, strict=True)
    return torch.cat([model(row[None, n - length :])[0] for row, length in rows])


# ---- costs


def check_costs(run: Run) -> None:
    """Parameters and operations, counted, against the formulas and the published figures."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaForCausalLM

    formula = {name: n_parameters(config) for name, config in LLAMA_3_1.items()}
    with torch.device("meta"):  # shapes without memory
        theirs = LlamaForCausalLM(their_config(LLAMA_3_1["8B"]))
    count = run.against("transformers LlamaForCausalLM", why="a count")
    count("parameters of the 8B model", formula["8B"], sum(p.numel() for p in theirs.parameters()))
    billions, cards = [n / 1e9 for n in formula.values()], list(PUBLISHED.values())
    rounded = {"against": "the published 8.03, 70.55 and 405.85", "atol": 0.005}
    run.check("parameters in billions", billions, cards, why="two published decimals", **rounded)

    n, model, counts = 48, Llama(SMALL), []
    for backward in (False, True):
        # The fused kernel recomputes the scores on the way back; the plain one does as the formula.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            loss = model(torch.zeros(1, n, dtype=torch.long)).sum()
            if backward:
                loss.backward()
        counts.append(counter.get_total_flops())
    operations = [n * flops_per_token(SMALL, n, backward=b) for b in (False, True)]
    counted = run.against("torch.utils.flop_counter", why="a count")
    counted("operations forward, and with backward", operations, counts)

    for name in ("8B", "405B"):
        scores = 1 - flops_per_token(LLAMA_3_1[name], 0) / flops_per_token(LLAMA_3_1[name], 131_072)
        run.metric(f"share of attention at 128K, {name}", 100 * scores, "%", rtol=1e-6)
    config = LLAMA_3_1["8B"]
    run.metric("cache of one token, 8B", cache_bytes(config, 1) / 1024, "KiB", rtol=1e-6)
    for name, heads in (("8 heads", 8), ("32 heads", 32)):
        c = dataclasses.replace(config, n_kv_heads=heads)
        run.metric(f"cache of 128K tokens, {name}", cache_bytes(c, 131_072) / 2**30, "GiB", rtol=0)
        even = weight_bytes(c) / cache_bytes(c, 1)
        run.metric(f"tokens whose cache weighs as the weights, {name}", even, "tokens", rtol=1e-6)


def draw_frequencies(run: Run) -> None:
    """Wavelengths of the 64 pairs of LLaMA 3.1, before and after the stretching."""
    config = LLAMA_3_1["8B"]
    scaling, d, base = config.rope_scaling, config.head_dim, config.rope_base
    frequencies = rope_frequencies(d, base=base), rope_frequencies(d, base=base, scaling=scaling)
    before, after = (2 * math.pi / f.double() for f in frequencies)
    short = scaling.original_context / scaling.high_freq_factor
    long = scaling.original_context / scaling.low_freq_factor
    kept, stretched, ratio = before < short, before > long, after / before
    between = len(before) - int(kept.sum()) - int(stretched.sum())
    run.metric("pairs kept", int(kept.sum()), rtol=0)
    run.metric("pairs interpolated", between, rtol=0)
    run.metric("pairs stretched", int(stretched.sum()), rtol=0)
    ends = torch.stack([ratio[kept].max(), ratio[stretched].min()])
    rule = {"against": "its rule: 1 and the factor", "kind": "theorem", "rtol": 1e-6}
    name, why = "stretching of the kept and the stretched", "float32 rounding of the frequencies"
    run.check(name, ends, [1.0, scaling.factor], why=why, **rule)
    waves = {"trained (LLaMA 3)": before, "stretched\n(LLaMA 3.1)": after}
    with run.figure("frequencies", "Which waves does LLaMA 3.1 stretch to read 128K?") as axes:
        axes.axhspan(short, long, color=plots.YELLOW, alpha=0.15, lw=0)
        levels = {"context 8,192": 8192, "context 131,072": 131_072}
        labels = {"xlabel": "pair of dimensions (of 64)", "ylabel": "wavelength (tokens)"}
        labels |= {"yscale": "log", "xlim": (-1, 64), "ylim": (4, 6e7)}
        plots.curves(axes, range(64), waves, marker="o", reference=levels, **labels)
        for place, what in ((2.5, "kept"), (0.8, "interpolated"), (0.2, "stretched")):
            axes.text(1, short / place, what, fontsize=9)


def draw_cache(run: Run) -> None:
    """Bytes of the cache against the context, for three numbers of key-value heads."""
    config, tokens = LLAMA_3_1["8B"], 2.0 ** np.arange(10, 18)
    heads = {"32 heads\n(no grouping)": 32, "8 heads\n(LLaMA 3)": 8, "1 head\n(multi-query)": 1}
    sizes = {
        name: tokens * cache_bytes(dataclasses.replace(config, n_kv_heads=n), 1) / 2**30
        for name, n in heads.items()
    }
    weights = weight_bytes(config) / 2**30
    with run.figure("cache", "When does the cache of an 8B model outweigh its weights?") as axes:
        labels = {"xscale": "log", "yscale": "log", "xlabel": "context of one sequence (tokens)"}
        labels |= {"ylabel": "bfloat16 cache (GiB)", "marker": "o"}
        labels["reference"] = {f"weights, {weights:.1f} GiB": weights}
        colors = (plots.ORANGE, plots.BLUE, plots.GREEN)
        plots.curves(axes, tokens, sizes, colors=colors, **labels)
        axes.set_xticks(tokens, [f"{int(t / 1024)}K" for t in tokens])
        axes.minorticks_off()
