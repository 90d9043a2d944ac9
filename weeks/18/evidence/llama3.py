"""Checks, claims and figures of llama3."""

import copy
import dataclasses
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared import datasets, plots
from shared.stats import Interval, mean_interval
from shared.study import PositiveInt, Run
from week09.muon import Muon
from week09.optimizers import AdamW
from week14.minimal_gpt import GPT, GPTConfig
from week14.ngram import encode_characters
from week18.llama3 import (
    LLAMA_3_1,
    Block,
    Llama,
    LlamaConfig,
    RopeScaling,
    cache_bytes,
    flops_per_token,
    n_parameters,
    rope_frequencies,
    weight_bytes,
)
from week18.pretrained import hugging_face_config, hugging_face_name, load_pretrained

PUBLISHED = {"8B": 8.03, "70B": 70.55, "405B": 405.85}  # billions, from the models' cards

# Few layers and odd sizes: grouped heads, heads wider than d_model / n_heads, stretched positions.
SMALL = LlamaConfig(
    31, 24, 2, 6, 2, head_dim=6, d_ff=40, max_positions=96,
    rope_base=1000.0, rope_scaling=RopeScaling(4.0, 1.0, 4.0, 32),
)  # fmt: skip


class ListCache:
    """The plainest `Cache`: one growing tensor a layer."""

    def __init__(self):
        self.length, self.layers = 0, {}

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append along the sequence."""
        if layer in self.layers:
            k, v = (torch.cat(pair, dim=2) for pair in zip(self.layers[layer], (k, v), strict=True))
        self.layers[layer] = (k, v)
        return k, v

    def advance(self, n: int) -> None:
        """Count the tokens."""
        self.length += n


# ---- checks


def transformers_twin(config: LlamaConfig, *, std: float = 0.2, seed: int = 0) -> nn.Module:
    """A `LlamaForCausalLM` of the same sizes with random weights, gains included."""
    from transformers import LlamaConfig as TheirConfig
    from transformers import LlamaForCausalLM

    theirs = LlamaForCausalLM(TheirConfig(**hugging_face_config(config))).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in theirs.parameters():  # gains of one would hide a gain that is forgotten
            p.normal_(std=std, generator=generator)
            if p.ndim == 1:
                p.add_(1.0)
    return theirs


def copy_weights(ours: Llama, theirs: nn.Module) -> Llama:
    """The twin's weights in our model."""
    weights = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, p in ours.named_parameters():
            p.copy_(weights[hugging_face_name(name)])
    return ours


def check_against_transformers(run: Run) -> None:
    """Same weights, same tokens: logits, gradients and steps as `LlamaForCausalLM`."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    theirs = transformers_twin(SMALL, seed=run.seed)
    ours = copy_weights(Llama(SMALL), theirs)
    # twice as long as the context that the scaling was made for
    tokens = torch.randint(31, (3, 65), generator=run.generator())
    logits, reference = ours(tokens[:, :-1]), theirs(tokens[:, :-1]).logits
    why = "float32 rounding through two layers"
    against = "transformers LlamaForCausalLM"
    run.check("logits", logits, reference, against=against, atol=1e-5, rtol=1e-5, why=why)
    targets = tokens[:, 1:].flatten()
    for out in (logits, reference):
        F.cross_entropy(out.flatten(0, 1), targets).backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    reference = torch.cat(
        [gradients[hugging_face_name(name)].flatten() for name, _ in ours.named_parameters()]
    )
    flat = torch.cat([p.grad.flatten() for p in ours.parameters()])
    size = reference.abs().max()
    run.check(
        "gradients / largest", flat / size, reference / size,
        against=against, atol=1e-5, why=f"{why} and back",
    )  # fmt: skip

    options = {"lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.1}
    losses = []
    for model, optimizer in (
        (ours, AdamW(ours.parameters(), **options)),
        (theirs, torch.optim.AdamW(theirs.parameters(), **options)),
    ):
        generator, of_model = run.generator(1), []
        for _ in range(10):
            x = torch.randint(31, (4, 33), generator=generator)
            out = model(x[:, :-1])
            out = out if torch.is_tensor(out) else out.logits
            loss = F.cross_entropy(out.flatten(0, 1), x[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            of_model.append(loss.item())
        losses.append(np.array(of_model))
    run.check(
        "losses of the first ten steps", *losses, against=f"{against} + torch.optim.AdamW",
        rtol=1e-5, why="float32 rounding, amplified by ten steps",
    )  # fmt: skip

    config = LLAMA_3_1["8B"]
    published = transformers_config(config)
    reference, _ = ROPE_INIT_FUNCTIONS["llama3"](published, "cpu")
    ours = rope_frequencies(config.head_dim, base=config.rope_base, scaling=config.rope_scaling)
    run.check(
        "frequencies of LLaMA 3.1", ours / reference, torch.ones_like(ours),
        against="transformers' llama3 frequencies", atol=1e-6, why="float32 rounding",
    )  # fmt: skip


def transformers_config(config: LlamaConfig):
    """The same sizes as transformers' `LlamaConfig`."""
    from transformers import LlamaConfig as TheirConfig

    return TheirConfig(**hugging_face_config(config))


def check_round_trip(run: Run) -> None:
    """Transformers writes, we read, in the layout and names of its checkpoints."""
    theirs = transformers_twin(SMALL, seed=run.seed + 1)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = load_pretrained(Path(folder))
    tokens = torch.randint(31, (2, 40), generator=run.generator())
    with torch.no_grad():
        run.check(
            "logits of a loaded checkpoint", ours(tokens), theirs(tokens).logits,
            against="transformers, which wrote it", atol=1e-5, rtol=1e-5, why="float32 rounding",
        )  # fmt: skip


@torch.no_grad()
def check_equivalences(run: Run) -> None:
    """Padded rows are as rows alone; a prompt in pieces is as the whole."""
    model = copy_weights(Llama(SMALL), transformers_twin(SMALL, seed=run.seed + 2))
    lengths = torch.tensor([20, 13, 7])
    tokens = torch.randint(31, (3, 20), generator=run.generator())
    real = torch.arange(20) >= 20 - lengths[:, None]
    positions = (real.cumsum(1) - 1).clamp(min=0)
    alone = torch.cat(
        [model(row[20 - n :][None])[0] for row, n in zip(tokens, lengths, strict=True)]
    )
    options = {"atol": 2e-5, "rtol": 1e-5, "why": "float32 rounding in another order"}
    for name, given in (("", positions), (" without positions", None)):
        padded = model(tokens, mask=real, positions=given)[real]
        run.check(f"padded on the left{name}", padded, alone, against="each row alone", **options)
    no_mask = (model(tokens, positions=positions)[real] - alone).abs().max().item()
    run.claim(
        "a forgotten padding mask is no rounding error",
        no_mask > 0.1,
        f"largest error of a logit {no_mask:.1f}",
    )
    cache, pieces = ListCache(), []
    for part in tokens.split([9, 1, 6, 4], dim=1):
        pieces.append(model(part, cache=cache))
    run.check(
        "cached, in pieces of 9, 1, 6 and 4", torch.cat(pieces, dim=1), model(tokens),
        against="all 20 tokens at once", **options,
    )  # fmt: skip
    stored = sum(t.numel() * t.element_size() for pair in cache.layers.values() for t in pair)
    run.check(
        "bytes of a cache", stored, cache_bytes(SMALL, 3 * 20, bytes_per_value=4),
        against="formula", why="a count",
    )  # fmt: skip


def check_costs(run: Run) -> None:
    """Parameters and operations, counted, against the formulas and the published figures."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaForCausalLM

    formula = {name: n_parameters(config) for name, config in LLAMA_3_1.items()}
    with torch.device("meta"):  # shapes without memory: 405B would be 1.6 TB
        built = run.budget(quick=["8B"], default=list(LLAMA_3_1))
        ours = [sum(p.numel() for p in Llama(LLAMA_3_1[n]).parameters()) for n in built]
        theirs = LlamaForCausalLM(transformers_config(LLAMA_3_1["8B"]))
    run.check(
        "parameters, formula", [formula[n] for n in built], ours,
        against="numel of the models, on the meta device", why="a count",
    )  # fmt: skip
    run.check(
        "parameters of the 8B model", formula["8B"], sum(p.numel() for p in theirs.parameters()),
        against="transformers LlamaForCausalLM", why="a count",
    )  # fmt: skip
    run.check(
        "parameters in billions", [n / 1e9 for n in formula.values()], list(PUBLISHED.values()),
        against="the published 8.03, 70.55 and 405.85", atol=0.005, why="two published decimals",
    )  # fmt: skip

    n, model = 48, Llama(SMALL)
    counts = []
    for backward in (False, True):
        # The fused kernel recomputes the scores on the way back; the plain one does as the formula.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            loss = model(torch.zeros(1, n, dtype=torch.long)).sum()
            if backward:
                loss.backward()
        counts.append(counter.get_total_flops())
    run.check(
        "operations forward, and with backward",
        [n * flops_per_token(SMALL, n, backward=b) for b in (False, True)], counts,
        against="torch.utils.flop_counter", why="a count",
    )  # fmt: skip

    for name, config in LLAMA_3_1.items():
        run.metric(f"parameters of {name}", formula[name] / 1e9, "billion", rtol=1e-6)
        attention = 1 - flops_per_token(config, 0) / flops_per_token(config, 131_072)
        run.metric(f"share of attention at 128K, {name}", 100 * attention, "%", rtol=1e-6)
    config = LLAMA_3_1["8B"]
    run.metric("cache of one token, 8B", cache_bytes(config, 1) / 1024, "KiB", rtol=1e-6)
    full = dataclasses.replace(config, n_kv_heads=32)
    for name, c in (("8 heads", config), ("32 heads", full)):
        run.metric(f"cache of 128K tokens, {name}", cache_bytes(c, 131_072) / 2**30, "GiB", rtol=0)
        even = weight_bytes(c) / cache_bytes(c, 1)
        run.metric(f"tokens whose cache weighs as the weights, {name}", even, "tokens", rtol=1e-6)


# ---- figures that need no training


def draw_frequencies(run: Run) -> None:
    """Wavelengths of the 64 pairs of LLaMA 3.1, before and after the stretching."""
    config = LLAMA_3_1["8B"]
    scaling = config.rope_scaling
    before = rope_frequencies(config.head_dim, base=config.rope_base)
    after = rope_frequencies(config.head_dim, base=config.rope_base, scaling=scaling)
    before, after = (2 * math.pi / f.double() for f in (before, after))
    low, high = (
        scaling.original_max_positions / x
        for x in (scaling.low_freq_factor, scaling.high_freq_factor)
    )
    kept, stretched = before < high, before > low
    for name, n in (
        ("kept", kept.sum()),
        ("interpolated", (~kept & ~stretched).sum()),
        ("stretched", stretched.sum()),
    ):
        run.metric(f"pairs {name}", int(n), rtol=0)
    run.check(
        "stretching of the three regimes",
        torch.stack([(after / before)[kept].max(), (after / before)[stretched].min()]),
        [1.0, scaling.factor], against="its rule: 1 and the factor", rtol=1e-6,
        why="float32 rounding of the frequencies",
    )  # fmt: skip
    title = "Which waves does LLaMA 3.1 stretch to read 128K tokens?"
    with run.figure("frequencies", title) as axes:
        pair = range(len(before))
        bands = (
            (1, high, plots.GREEN, 63, 15, "kept: many turns within 8,192 tokens"),
            (high, low, plots.YELLOW, 63, 4000, "interpolated"),
            (low, 1e8, plots.PINK, 1, 1.2e6, "not one full turn: 8 times longer"),
        )
        for bottom, top, color, x, y, label in bands:
            axes.axhspan(bottom, top, color=color, alpha=0.12, lw=0)
            side = "left" if x < 32 else "right"
            axes.text(x, y, label, va="center", ha=side, fontsize=10, color=plots.REFERENCE)
        axes.plot(pair, before, "o", ms=3.5, color=plots.BLUE, label="trained (LLaMA 3)")
        axes.plot(pair, after, "o", ms=3.5, color=plots.ORANGE, label="stretched\n(LLaMA 3.1)")
        for context, name in ((8192, "8,192"), (131_072, "131,072")):
            axes.axhline(context, color=plots.REFERENCE, lw=1, ls="--")
            axes.text(0, context * 1.15, f"context {name}", fontsize=9, color=plots.REFERENCE)
        axes.set(
            yscale="log", xlabel="pair of dimensions (of 64)", ylabel="wavelength (tokens)",
            xlim=(-1, 64), ylim=(4, 6e7),
        )  # fmt: skip
        plots.label_lines(axes)


def draw_cache(run: Run) -> None:
    """Bytes of the cache against the context, for three numbers of key-value heads."""
    config = LLAMA_3_1["8B"]
    tokens = 2.0 ** np.arange(10, 18)
    with run.figure("cache", "When does the cache of an 8B model outweigh its weights?") as axes:
        for n, name, color in (
            (32, "32 heads\n(no grouping)", plots.ORANGE),
            (8, "8 heads\n(LLaMA 3)", plots.BLUE),
            (1, "1 head\n(multi-query)", plots.GREEN),
        ):
            one = cache_bytes(dataclasses.replace(config, n_kv_heads=n), 1)
            axes.plot(tokens, tokens * one / 2**30, "o-", ms=4, color=color, label=name)
        weights = weight_bytes(config) / 2**30
        axes.axhline(weights, color=plots.REFERENCE, lw=1, ls="--")
        axes.text(
            1024, weights * 1.1, f"weights, {weights:.1f} GiB", color=plots.REFERENCE, fontsize=10
        )
        axes.set(
            xscale="log", yscale="log", xlabel="context of one sequence (tokens)",
            ylabel="bfloat16 cache (GiB)",
        )  # fmt: skip
        axes.set_xticks(tokens, [f"{int(t / 1024)}K" for t in tokens])
        axes.set_yticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
        axes.minorticks_off()
        plots.label_lines(axes)


# ---- the blocks compared


class PlainMLPBlock(Block):
    """LLaMA's block with GPT-2's MLP: no gate."""

    def __init__(self, config: LlamaConfig, layer: int):
        super().__init__(config, layer)
        del self.gate_proj

    def mlp(self, u: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Widen, bend, narrow."""
        return self.down_proj(F.gelu(self.up_proj(u), approximate="tanh"))


class AddedPositions(nn.Embedding):
    """Token vectors with a learned vector for each place added."""

    def __init__(self, vocab_size: int, d_model: int, context: int):
        super().__init__(vocab_size, d_model)
        self.positions = nn.Parameter(torch.zeros(context, d_model))

    def forward(self, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq d_model"]:
        """Embed, add."""
        return super().forward(tokens) + self.positions[: tokens.shape[1]]


def initialize(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """GPT-2's initialization for every matrix, the same for all arms."""
    n_layers = len(model.blocks)
    for name, p in model.named_parameters():
        if p.ndim == 2:
            onto_stream = name.endswith(
                ("o_proj.weight", "out_proj.weight", "down_proj.weight", "down.weight")
            )
            std = 0.02 / math.sqrt(2 * n_layers) if onto_stream else 0.02
            nn.init.normal_(p, std=std, generator=generator)
    return model


def build(arm: str, config: LlamaConfig, d_ff: int) -> nn.Module:
    """One kind of model; `config.d_ff` is overridden so that all can be made equally large."""
    kv_heads = config.n_heads if arm == "all heads" else config.n_kv_heads
    config = dataclasses.replace(config, n_kv_heads=kv_heads, d_ff=d_ff)
    model = Llama(config)
    if arm == "layer norm":
        for block in model.blocks:
            block.attention_norm, block.mlp_norm = (nn.LayerNorm(config.d_model) for _ in range(2))
        model.norm = nn.LayerNorm(config.d_model)
    elif arm == "GELU":
        model.blocks = nn.ModuleList(PlainMLPBlock(config, i) for i in range(config.n_layers))
    elif arm == "learned positions":
        model.embed = AddedPositions(config.vocab_size, config.d_model, config.max_positions)
        model._exact_frequencies = lambda: torch.zeros(config.head_dim // 2)
        model.frequencies.zero_()  # cos 1, sin 0: nothing turns
    return model


def equally_large(arm: str, config: LlamaConfig, target: int) -> int:
    """The width of the MLP that brings an arm nearest to `target` parameters."""
    two, four = (sum(p.numel() for p in build(arm, config, d).parameters()) for d in (2, 4))
    return max(2, 2 + round((target - two) / ((four - two) / 2)))


def train(
    model: nn.Module,
    tokens: Int[Tensor, " n"],
    *,
    steps: int,
    context: int,
    generator: torch.Generator,
    lr_scale: float = 2.0,
    shuffled: bool = False,
    batch: int = 16,
) -> list[float]:
    """Week 14's training loop for any of the models; losses of all steps.

    Its learning rates are doubled: in so few steps both blocks end lower with them.
    """
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    of_blocks = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in of_blocks]
    optimizers = [
        Muon(matrices, lr=0.02 * lr_scale),
        AdamW(rest, lr=1.2e-2 * lr_scale, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    peak = [o.lr for o in optimizers]
    losses = []
    for step in range(steps):
        starts = torch.randint(len(tokens) - context, (batch, 1), generator=generator)
        index = starts + torch.arange(context)
        x, y = tokens[index], tokens[index + 1]
        if shuffled:
            y = y.flatten()[torch.randperm(y.numel(), generator=generator)].view_as(y)
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        for o, lr in zip(optimizers, peak, strict=True):
            o.zero_grad()
            o.lr = lr * (1 - step / steps)
        loss.backward()
        for o in optimizers:
            o.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def loss_by_position(
    model: Callable[[Tensor], Tensor], tokens: Int[Tensor, " n"], context: int
) -> Float[Tensor, "position"]:
    """Mean loss at each place of windows that do not overlap, nats per character."""
    n = (len(tokens) - 1) // context
    x, y = tokens[: n * context].view(n, context), tokens[1 : n * context + 1].view(n, context)
    total = torch.zeros(context)
    for i in range(0, n, 128):
        logits = model(x[i : i + 128]).transpose(1, 2)
        total += F.cross_entropy(logits, y[i : i + 128], reduction="none").sum(0)
    return total / n


ARMS = {
    "LLaMA": plots.BLUE,
    "layer norm": plots.SKY,
    "GELU": plots.YELLOW,
    "learned positions": plots.PINK,
    "all heads": plots.GREEN,
    "GPT-2": plots.ORANGE,
}
WITHOUT = {
    "layer norm": "layer norm for RMSNorm",
    "GELU": "GELU for SwiGLU",
    "learned positions": "learned positions for rotary",
    "all heads": "4 key-value heads for 1",
    "GPT-2": "all of it: GPT-2's block",
}


def compare_blocks(run: Run, *, steps: int, seeds: int) -> None:
    """LLaMA's block, the same with one change undone, and GPT-2's, all of one size."""
    context = 48
    ids, alphabet = encode_characters(datasets.pydocs_text())
    tokens = torch.from_numpy(ids)
    split = int(0.9 * len(tokens))
    training, valid = tokens[:split], tokens[split:][: run.budget(quick=4000, default=16_000)]
    gpt_config = GPTConfig(len(alphabet), context, 2, 4, 48, "learned")
    target = sum(p.numel() for p in GPT(gpt_config).parameters())
    config = LlamaConfig(len(alphabet), 48, 2, 4, 1, max_positions=context, rope_base=10_000.0)
    widths = {arm: equally_large(arm, config, target) for arm in ARMS if arm != "GPT-2"}
    run.say(
        f"six kinds of model on Python's manual, {steps} steps each, {seeds} seeds; MLP widths: "
        + ", ".join(f"{arm} {width}" for arm, width in widths.items())
    )

    def make(arm: str, seed: int) -> nn.Module:
        model = GPT(gpt_config) if arm == "GPT-2" else build(arm, config, widths[arm])
        return initialize(model, run.generator(seed))

    sizes = [sum(p.numel() for p in make(arm, 0).parameters()) for arm in ARMS]
    run.metric("parameters of the compared models", target, rtol=0)
    run.check(
        "sizes of the six models / GPT-2's", np.array(sizes) / target, np.ones(len(sizes)),
        against="equal parameters", atol=0.005, why="an MLP is widened by whole units",
    )  # fmt: skip
    options = {"steps": steps, "context": context}
    final, curves = {arm: [] for arm in ARMS}, {arm: [] for arm in ARMS}
    for seed in run.progress(range(seeds), "training"):
        for arm in ARMS:
            model = make(arm, seed)
            losses = train(model, training, generator=run.generator(100 + seed), **options)
            curves[arm].append(losses)
            final[arm].append(loss_by_position(model, valid, context).mean().item())
            if arm == "LLaMA" and seed == 0:
                trained = model
    control = make("LLaMA", 0)
    control_curve = train(control, training, generator=run.generator(100), shuffled=True, **options)
    control_loss = loss_by_position(control, valid, context).mean().item()

    counts = np.bincount(ids[:split], minlength=len(alphabet)) / split
    letters = -float(np.log(counts[valid[1:].numpy()]).mean())
    in_training = -float(np.log(counts[counts > 0]) @ counts[counts > 0])
    differences = judge_blocks(run, final, curves["LLaMA"], control_loss, letters)
    try_other_rates(run, make, final, training, valid, options)
    draw_blocks(run, curves, control_curve, in_training, differences)
    show_wrong_pairing(run, trained, tokens[split:], context)


def try_other_rates(
    run: Run, make: Callable, final: dict, training: Tensor, valid: Tensor, options: dict
) -> None:
    """Half, twice and four times the rates for both blocks, one seed: each at its best."""
    losses = {}
    for arm in ("LLaMA", "GPT-2"):
        losses[arm] = {2.0: final[arm][0]}
        for factor in (1.0, 4.0, 8.0):
            model = make(arm, 0)
            train(model, training, generator=run.generator(100), lr_scale=factor, **options)
            loss = loss_by_position(model, valid, options["context"]).mean().item()
            losses[arm][factor] = loss
            run.metric(
                f"loss at {factor:g} times the rates of week 14, {arm}",
                loss,
                "nats/char",
                rtol=None,
            )
    best = {arm: min(of_arm, key=of_arm.get) for arm, of_arm in losses.items()}
    run.claim(
        "it does so too where each block has the best of four learning rates",
        losses["LLaMA"][best["LLaMA"]] < losses["GPT-2"][best["GPT-2"]] - 0.05,
        ", ".join(f"{arm} {losses[arm][f]:.2f} at {f:g} times" for arm, f in best.items()),
        quick=False,
    )


def judge_blocks(
    run: Run, final: dict, curves: list[list[float]], control: float, letters: float
) -> dict[str, Interval]:
    """Metrics and claims; the paired differences to LLaMA."""
    for arm, values in final.items():
        run.metric(f"loss, {arm}", float(np.mean(values)), "nats/char", rtol=None)
    run.metric("loss, shuffled targets", control, "nats/char", rtol=None)
    run.metric("loss, letter frequencies", letters, "nats/char", rtol=0.02)
    llama = np.array(final["LLaMA"])
    differences = {arm: mean_interval(np.array(final[arm]) - llama) for arm in WITHOUT}
    for arm, interval in differences.items():
        run.metric(f"undone: {WITHOUT[arm]}", interval.mean, "nats/char", rtol=None)
    whole = differences["GPT-2"]
    run.claim(
        "LLaMA's block learns more than GPT-2's of the same size",
        whole.low > 0,
        f"GPT-2 ends {whole} nats/char higher",
        quick=False,
    )
    ranked = ", ".join(f"{WITHOUT[arm]} {interval}" for arm, interval in differences.items())
    largest = max((a for a in differences if a != "GPT-2"), key=lambda a: differences[a].mean)
    run.claim(
        "of the four changes, rotary positions matter most here",
        largest == "learned positions" and differences[largest].low > 0,
        f"loss added when undone: {ranked}",
        quick=False,
    )
    tenth = max(len(curves[0]) // 10, 1)
    first, last = np.mean([c[0] for c in curves]), np.mean([c[-tenth:] for c in curves])
    noise = np.std(curves[0][-tenth:])
    run.claim(
        "the loss falls by more than ten times its noise",
        first - last > 10 * noise,
        f"{first:.2f} at the first step, {last:.2f} ± {noise:.2f} in the last tenth",
        quick=False,
    )
    run.claim(
        "with shuffled targets it learns the letters' frequencies at most",
        control > letters - 0.1,
        f"control {control:.2f}, letter frequencies {letters:.2f} nats/char",
    )
    return differences


def draw_blocks(
    run: Run, curves: dict, control: list[float], letters: float, differences: dict[str, Interval]
) -> None:
    """Learning curves, and what undoing each change costs."""
    width = max(len(control) // 20, 1)

    def smooth(values) -> np.ndarray:
        return np.apply_along_axis(
            lambda v: np.convolve(v, np.ones(width) / width, mode="valid"), -1, np.array(values)
        )

    title = "Which of LLaMA's changes pays? The same size, data and optimizer"
    with run.figure(
        "blocks", title, columns=2, size=(10.0, 4.4), width_ratios=(1, 1.15)
    ) as (left, right):  # fmt: skip
        x = np.arange(len(control) - width + 1) + (width - 1) / 2
        for arm in ("GPT-2", "LLaMA"):
            plots.interval_band(left, x, smooth(curves[arm]), color=ARMS[arm], label=arm)
        left.plot(x, smooth(control), color=plots.GRAY, label="shuffled")
        left.axhline(letters, color=plots.REFERENCE, lw=1, ls="--")
        left.set(xlabel="training step", ylabel="training loss (nats/character)", ylim=(None, 4.2))
        left.text(len(control), letters + 0.15, "letter frequencies", ha="right", fontsize=9,
                  color=plots.REFERENCE)  # fmt: skip
        plots.label_lines(left)
        for i, (arm, interval) in enumerate(differences.items()):
            right.plot([interval.low, interval.high], [i, i], color=ARMS[arm], lw=3, alpha=0.5)
            right.plot(interval.mean, i, "o", color=ARMS[arm], ms=8)
            right.text(
                interval.mean, i - 0.24, f"{interval.mean:+.2f}", ha="center", va="center",
                fontsize=9.5, color=plots.REFERENCE,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )  # fmt: skip
        right.axvline(0, color=plots.REFERENCE, lw=1, ls="--")
        right.set_yticks(
            range(len(WITHOUT)), [WITHOUT[arm].replace(": ", ":\n") for arm in WITHOUT]
        )
        right.set(
            xlabel="loss added when undone (nats/character)\n"
            f"95 % intervals, {len(curves['LLaMA'])} paired seeds"
        )
        right.set_ylim(len(WITHOUT) - 0.5, -0.6)
        right.grid(axis="y", visible=False)


# ---- the failure on display


def wrongly_paired(model: Llama) -> Llama:
    """The same weights with queries and keys turned in the paper's pairs (2i, 2i + 1).

    Reordering the rows of both projections, even ones first, is the same as pairing neighbors:
    scores do not see a permutation that queries and keys share.
    """
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        for block in wrong.blocks:
            for projection in (block.q_proj, block.k_proj):
                heads = projection.weight.unflatten(0, (-1, block.head_dim))
                even_first = torch.cat([heads[:, 0::2], heads[:, 1::2]], dim=1)
                projection.weight.copy_(even_first.flatten(0, 1))
    return wrong


def show_wrong_pairing(run: Run, model: Llama, valid: Int[Tensor, " n"], context: int) -> None:
    """Loss by place: right pairing, wrong pairing, and no turning at all."""
    still = copy.deepcopy(model)
    still.frequencies.zero_()
    kinds = {"as trained": model, "wrong pairs": wrongly_paired(model), "not turned": still}
    losses = {name: loss_by_position(m, valid, context).numpy() for name, m in kinds.items()}
    right, wrong = losses["as trained"], losses["wrong pairs"]
    run.metric("loss of wrong pairs", wrong.mean(), "nats/char", rtol=None)
    run.metric("loss not turned", losses["not turned"].mean(), "nats/char", rtol=None)
    run.claim(
        "interleaved pairs ruin half-layout weights, and not at the first token",
        wrong[1:].mean() > right[1:].mean() + 0.1 and abs(wrong[0] - right[0]) < 1e-4,
        f"{right.mean():.2f} as trained, {wrong.mean():.2f} wrongly paired; at the first token "
        f"they differ by {abs(wrong[0] - right[0]):.2g}",
        quick=False,
    )
    with run.figure(
        "pairing", "Turned in the wrong pairs, the right weights lose their way"
    ) as axes:
        for (name, values), color in zip(
            losses.items(), (plots.BLUE, plots.ORANGE, plots.GRAY), strict=True
        ):
            axes.plot(range(context), values, "o-", ms=3, color=color, label=name)
        axes.set(xlabel="place in the window (tokens before it)", ylabel="loss (nats/character)")
        plots.label_lines(axes)


def main(run: Run, *, steps: PositiveInt | None = None, seeds: PositiveInt | None = None) -> None:
    """Compare with transformers, count the costs, and put each change to the test by training.

    Parameters
    ----------
    steps
        Training steps of each model in the comparison of blocks.
    seeds
        Models of each kind in that comparison, at least 2.
    """
    check_against_transformers(run)
    check_round_trip(run)
    check_equivalences(run)
    check_costs(run)
    draw_frequencies(run)
    draw_cache(run)
    steps = steps or run.budget(quick=5, default=120, full=600)
    seeds = max(2, seeds or run.budget(quick=2, default=4, full=8))
    compare_blocks(run, steps=steps, seeds=seeds)
