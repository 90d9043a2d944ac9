"""LLaMA's block, the same with one change undone, and GPT-2's: all of one size, all trained."""

import copy
import dataclasses
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared import plots
from shared.study import Run
from week14.minimal_gpt import GPT, GPTConfig
from week18.evidence.learning import Manual, judge_control, judge_learning, manual
from week18.llama3 import Block, Llama, LlamaConfig, initialize
from week18.training import loss_by_position, train

CONTEXT = 48
WITHOUT = {
    "layer norm": "layer norm for RMSNorm",
    "GELU": "GELU for SwiGLU",
    "learned positions": "learned positions for rotary",
    "all heads": "4 key-value heads for 1",
    "GPT-2": "all of it: GPT-2's block",
}
SEEN = "the means of four seeds: norm 0.03, GELU 0.08, positions 0.30, heads -0.02, all 0.29"
COLORS = (plots.SKY, plots.YELLOW, plots.PINK, plots.GREEN, plots.ORANGE)


def compare_blocks(run: Run, steps: int, seeds: int) -> None:
    """Train every kind of model, judge the differences of paired seeds, and pair wrongly."""
    text = manual(run, run.budget(quick=2000, default=16_000))
    gpt = GPTConfig(text.n_letters, CONTEXT, 2, 4, 48, "learned")
    llama = LlamaConfig(text.n_letters, 48, 2, 4, 1, context=CONTEXT, rope_base=10_000.0)
    target, arms = n_weights(GPT(gpt)), ("LLaMA", *WITHOUT)
    widths = {arm: equally_large(arm, llama, target) for arm in arms if arm != "GPT-2"}

    def fresh(arm: str, seed: int = 0) -> nn.Module:
        generator = run.generator(seed)
        if arm == "GPT-2":
            return GPT(gpt, generator)
        return initialize(build(arm, llama, widths[arm]), llama.n_layers, generator)

    def trained(arm: str, seed: int, letters: Tensor = text.training, **other) -> tuple:
        """A model, its losses in training, and its loss on other text."""
        # Twice the rates of week 14: in so few steps both blocks end lower with them.
        options = {"steps": steps, "batch_size": 16, "context": CONTEXT, "lr_scale": 2.0} | other
        model = fresh(arm, seed)
        curve = train(model, letters, generator=run.generator(100 + seed), **options)
        return model, curve, loss_by_position(model, text.valid, CONTEXT).mean().item()

    sizes = [n_weights(fresh(arm)) / target for arm in arms]
    why = {"why": "an MLP is widened by whole units", "kind": "consistency", "atol": 0.005}
    run.check("sizes of the six / GPT-2's", sizes, np.ones(6), against="equal parameters", **why)
    run.metric("parameters of the compared models", target, rtol=0)
    run.metric("training steps", steps, rtol=0)

    models, curves, final = [], {}, {}
    for seed in run.progress(range(seeds), "training"):
        for arm in (*arms, "shuffled"):
            if arm == "shuffled":
                model, curve, loss = trained("LLaMA", seed, text.shuffled, steps=max(steps // 3, 3))
            else:
                model, curve, loss = trained(arm, seed)
            curves.setdefault(arm, []).append(curve)
            final.setdefault(arm, []).append(loss)
            models += [model] if arm == "LLaMA" else []
    final = {arm: np.array(losses) for arm, losses in final.items()}
    judge_blocks(run, final, np.array(curves["LLaMA"]), text)
    judge_at_best_rates(run, trained, final)
    draw_blocks(run, curves, final, text.by_letters)
    show_wrong_pairing(run, models, text.valid)


# ---- the models


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


def build(arm: str, config: LlamaConfig, d_ff: int) -> Llama:
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
        model.embed = AddedPositions(config.vocab_size, config.d_model, config.context)
        model.frequencies.zero_()  # cos 1, sin 0: nothing turns
    return model


def n_weights(model: nn.Module) -> int:
    """Trained numbers."""
    return sum(p.numel() for p in model.parameters())


def equally_large(arm: str, config: LlamaConfig, target: int) -> int:
    """The width of the MLP that brings an arm nearest to `target` parameters."""
    two, four = (n_weights(build(arm, config, d)) for d in (2, 4))
    return max(2, 2 + round((target - two) / ((four - two) / 2)))


# ---- claims


def judge_blocks(
    run: Run, final: dict[str, np.ndarray], curves: Float[np.ndarray, "seed step"], text: Manual
) -> None:
    """What undoing each change adds to the loss, seed by seed."""
    common = {"unit": "nats/char", "quick": False}
    added = {arm: final[arm] - final["LLaMA"] for arm in WITHOUT}
    more = "LLaMA's block learns more than GPT-2's of the same size"
    run.claim(more, added.pop("GPT-2"), at_least=0, **common)
    shuffled = final["GPT-2"] - final["shuffled"]
    run.falsifier("LLaMA's block trained on shuffled text", shuffled, breaks=more)
    for arm, values in added.items():
        name = f"undoing costs loss: {WITHOUT[arm]}"
        run.claim(name, values, at_least=0, seen_before=SEEN, **common)
    lead = {a: v - np.max([added[b] for b in added if b != a], axis=0) for a, v in added.items()}
    most = "of the four changes, rotary positions matter most here"
    run.claim(most, lead["learned positions"], at_least=0, note="ahead of the next", **common)
    run.falsifier("the gate in its place", lead["GELU"], breaks=most)

    judge_learning(run, curves, at_least=10)
    judge_control(run, text, final["shuffled"], final["LLaMA"])


def judge_at_best_rates(run: Run, trained: Callable, final: dict[str, np.ndarray]) -> None:
    """Both blocks at the best of four rates: one more seed chooses them, the others judge."""
    chooser, factors, best, losses = 99, run.budget(quick=(2, 4), default=(1, 2, 4, 8)), {}, {}
    for arm in ("LLaMA", "GPT-2"):
        tried = {factor: trained(arm, chooser, lr_scale=float(factor))[-1] for factor in factors}
        best[arm], losses[arm] = min(tried, key=tried.get), final[arm]
        if best[arm] != 2:
            seeds = range(len(final[arm]))
            again = [trained(arm, seed, lr_scale=float(best[arm]))[-1] for seed in seeds]
            losses[arm] = np.array(again)
    note = ", ".join(f"{arm} {losses[arm].mean():.2f} at {best[arm]:g} times" for arm in best)
    name, ahead = "it does so too at the best of four rates", losses["GPT-2"] - losses["LLaMA"]
    seen = "0.23 on the seed that chose"
    common = {"unit": "nats/char", "note": note, "seen_before": seen, "quick": False}
    run.claim(name, ahead, at_least=0.05, **common)


def draw_blocks(run: Run, curves: dict, final: dict[str, np.ndarray], letters: float) -> None:
    """Learning curves, and what undoing each change costs."""
    steps = len(curves["LLaMA"][0])
    width = max(steps // 20, 1)
    window = np.ones(width) / width
    smooth = {
        arm: [np.convolve(curve, window, mode="valid") for curve in curves[arm]]
        for arm in ("GPT-2", "LLaMA", "shuffled")
    }
    added = {WITHOUT[arm].replace(": ", ":\n"): final[arm] - final["LLaMA"] for arm in WITHOUT}
    title = "Which of LLaMA's changes pays? The same size, data and optimizer"
    options = {"columns": 2, "size": (10.0, 4.4), "width_ratios": (1, 1.15)}
    with run.figure("blocks", title, **options) as (left, right):
        colors, labels = (plots.ORANGE, plots.BLUE, plots.GRAY), {"xlabel": "training step"}
        labels |= {"ylabel": "training loss (nats/character)", "ylim": (None, 4.2)}
        x = {arm: np.arange(len(runs[0])) + (width - 1) / 2 for arm, runs in smooth.items()}
        levels = {"letter frequencies": letters}
        plots.curves(left, x, smooth, colors=colors, reference=levels, **labels)
        xlabel = f"loss added when undone (nats/character)\n{len(curves['LLaMA'])} paired seeds"
        plots.bars(right, added, colors=COLORS, xlabel=xlabel)
        right.axvline(0, color=plots.REFERENCE, lw=1)


# ---- the failure on display


def wrongly_paired(model: Llama) -> Llama:
    """The same weights turned in pairs (2i, 2i + 1): rows of q and k reordered, even ones first."""
    wrong = copy.deepcopy(model)
    with torch.no_grad():
        for block in wrong.blocks:
            for projection in (block.q_proj, block.k_proj):
                heads = projection.weight.unflatten(0, (-1, block.head_dim))
                even_first = torch.cat([heads[:, 0::2], heads[:, 1::2]], dim=1)
                projection.weight.copy_(even_first.flatten(0, 1))
    return wrong


def show_wrong_pairing(run: Run, models: list[Llama], valid: Int[Tensor, " n"]) -> None:
    """Loss by place: right pairing, wrong pairing, and no turning at all."""
    still = copy.deepcopy(models)
    for model in still:
        model.frequencies.zero_()
    kinds = {"as trained": models, "not turned": still}
    kinds |= {"wrong pairs": [wrongly_paired(m) for m in models]}
    kinds |= {"not turned, wrong pairs": [wrongly_paired(m) for m in still]}
    losses = {
        kind: torch.stack([loss_by_position(m, valid, CONTEXT) for m in found]).double().numpy()
        for kind, found in kinds.items()
    }
    right, wrong, none = (losses[name] for name in ("as trained", "wrong pairs", "not turned"))
    means = f"{right.mean():.2f} as trained, {wrong.mean():.2f} wrongly paired"
    ruin, costs = "interleaved pairs ruin half-layout weights", (wrong - right)[:, 1:].mean(axis=1)
    run.claim(ruin, costs, at_least=0.1, unit="nats/char", note=means, quick=False)
    without = (losses.pop("not turned, wrong pairs") - none)[:, 1:].mean(axis=1)
    run.falsifier("where nothing is turned", without, breaks=ruin)
    why = {"kind": "theorem", "atol": 1e-4, "why": "float32 rounding of a loss"}
    first = run.against("position 0 has angle 0", **why)
    first("loss at the first token, wrong pairs", wrong[:, 0], right[:, 0])
    run.metric("loss not turned", none.mean(), "nats/char")
    with run.figure("pairing", "Turned in the wrong pairs, weights lose their way") as axes:
        labels = {"xlabel": "place in the window (tokens before it)"}
        labels |= {"ylabel": "loss (nats/character)", "marker": "."}
        labels["colors"] = (plots.BLUE, plots.GRAY, plots.ORANGE)
        plots.curves(axes, range(CONTEXT), losses, **labels)
