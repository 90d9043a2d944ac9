"""DeepSeek-V3 against transformers, and what its experts do with and without the biases."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from shared import plots
from shared.study import PositiveInt, Run
from week18.balanced_experts import balanced, choose_experts, max_violation
from week18.balanced_training import Training, loss_and_load, train
from week18.deepseek_twin import randomize, their_config, their_tensors, transformers_twin
from week18.deepseek_v3 import DeepSeek, DeepSeekConfig
from week18.evidence.learning import (
    Manual,
    check_ten_steps,
    judge_control,
    judge_learning,
    manual,
)
from week18.latent_attention import V3, LatentCache, LatentConfig

# Odd sizes, groups, several shared experts: nothing can be taken for anything else.
SMALL = DeepSeekConfig(
    vocab_size=31,
    attention=LatentConfig(24, 3, 10, 6, 4, 5, q_rank=7),
    n_layers=3,
    d_ff=40,
    expert_d_ff=12,
    n_experts=12,
    top_k=3,
    n_shared=2,
    n_groups=4,
    top_groups=2,
    routed_scale=2.5,
    rope_base=1000.0,
)
PUBLISHED = {"layers": 61, "billions": 671.0, "active": 37.0}
LARGE = DeepSeekConfig(
    129_280, V3, 61, 3, 18_432, 2048, 256, 8, 1, n_groups=8, top_groups=4, routed_scale=2.5
)
CONTEXT, EXPERTS, RATE = 32, 8, 0.01


def main(run: Run, *, steps: PositiveInt | None = None, seeds: PositiveInt | None = None) -> None:
    """Compare with transformers, then train with and without the balancing biases.

    Parameters
    ----------
    steps
        Training steps of each model.
    seeds
        Models of each kind, at least 2.
    """
    run.rounding(0.1, "a token between two experts goes to the other on another processor")
    check_against_transformers(run)
    check_router(run)
    check_cache(run)
    check_sizes(run)
    steps = steps or run.budget(quick=4, default=120, full=1000)
    seeds = max(2, seeds or run.budget(quick=2, default=3, full=8))
    run.chose(steps=steps, seeds=seeds, experts=EXPERTS, rate=RATE)
    compare(run, steps, seeds)


# ---- checks


def check_against_transformers(run: Run) -> None:
    """Logits, gradients, and ten steps of AdamW."""
    ours = randomize(DeepSeek(SMALL), seed=run.seed)
    theirs = transformers_twin(ours)
    tokens = torch.randint(31, (3, 41), generator=run.generator())
    why = "float32 rounding through three layers and back"
    equal = run.against("transformers DeepseekV3ForCausalLM", atol=1e-5, why=why)
    logits, reference = ours(tokens[:, :-1]), theirs(tokens[:, :-1]).logits
    equal("logits", logits, reference, rtol=1e-5)
    for out in (logits, reference):
        F.cross_entropy(out.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    found = their_tensors(ours, {name: p.grad for name, p in ours.named_parameters()})
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    flat = [torch.cat([g[name].flatten() for name in expected]) for g in (found, expected)]
    equal("gradients / largest", *(g / flat[1].abs().max() for g in flat))

    check_ten_steps(run, ours, theirs, "DeepseekV3ForCausalLM")


@torch.no_grad()
def check_router(run: Run) -> None:
    """Choices and weights of 4,000 tokens in groups, biases far from 0; the biases' next value."""
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter

    theirs = DeepseekV3TopkRouter(their_config(SMALL))
    theirs.weight.normal_(generator=run.generator())
    theirs.e_score_correction_bias.normal_(0, 0.3, generator=run.generator(1))
    u = torch.randn(4000, 24, generator=run.generator(2))
    _, weights, experts = theirs(u)
    names = ("top_k", "n_groups", "top_groups", "routed_scale")
    routing = {name: getattr(SMALL, name) for name in names}
    scores = F.linear(u, theirs.weight).sigmoid()
    ours = choose_experts(scores, theirs.e_score_correction_bias, **routing)
    dense = [torch.zeros_like(scores).scatter_(1, i, w) for w, i in (ours, (weights, experts))]
    equal = run.against("transformers DeepseekV3TopkRouter", atol=1e-6, why="float32 rounding")
    equal("weights of all experts, mostly 0", *dense)
    bias, counts = torch.tensor([0.5, 0.0, -0.2]), torch.tensor([7, 4, 1])
    rule = {"against": "its rule, by hand", "kind": "theorem", "atol": 1e-7}
    expected = [0.49, 0.0, -0.19]
    run.check("next bias", balanced(bias, counts, rate=0.01), expected, why="rounding", **rule)


@torch.no_grad()
def check_cache(run: Run) -> None:
    """A prompt in pieces and then token by token, against one pass, in float64."""
    model = randomize(DeepSeek(SMALL), seed=run.seed).double()
    tokens, pieces = torch.randint(31, (2, 30), generator=run.generator()), (9, 7, *[1] * 14)
    sizes = {"n_layers": 3, "batch": 2, "max_length": 30, "dtype": torch.float64}
    cache = LatentCache(SMALL.attention, **sizes)
    parts = [model(part, cache=cache) for part in tokens.split(pieces, dim=1)]
    why = {"kind": "consistency", "atol": 1e-10, "why": "float64 rounding, forms mixed"}
    run.check("cached", torch.cat(parts, 1), model(tokens), against="uncached", **why)


def check_sizes(run: Run) -> None:
    """Parameters at DeepSeek-V3's sizes, without memory, against transformers and the report."""
    from transformers import DeepseekV3ForCausalLM

    with torch.device("meta"):
        ours, theirs = DeepSeek(LARGE), DeepseekV3ForCausalLM(their_config(LARGE))
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
    run.against("transformers DeepseekV3ForCausalLM", why="a count")("parameters", *counts)
    idle = sum(
        p.numel() * (1 - LARGE.top_k / LARGE.n_experts)
        for mixture in ours.mixtures()
        for p in mixture.experts.parameters()
    )
    billions = [counts[0] / 1e9, (counts[0] - idle) / 1e9]
    published = [PUBLISHED["billions"], PUBLISHED["active"]]
    given = run.against("the report's 671 and 37", kind="library", atol=1, why="whole billions")
    given("billions of parameters, all and active", billions, published)
    run.metric("parameters", billions[0], "billion", rtol=1e-6)
    run.metric("active parameters", billions[1], "billion", rtol=1e-6)


# ---- balance


def compare(run: Run, steps: int, seeds: int) -> None:
    """The same models with the biases moving, standing still, and moving on shuffled text."""
    text = manual(run, run.budget(quick=2000, default=12_000))
    attention = LatentConfig(48, 4, 20, 12, 8, 12, q_rank=24)
    sizes = {"d_ff": 96, "expert_d_ff": 24, "n_experts": EXPERTS, "context": CONTEXT}
    config = DeepSeekConfig(text.n_letters, attention, **sizes)
    arms = {"balanced": (text.training, RATE), "left alone": (text.training, 0.0)}
    arms["shuffled"] = text.shuffled, RATE
    final = {arm: [] for arm in arms}
    for seed in run.progress(range(seeds), "training"):
        for arm, (letters, rate) in arms.items():
            model = DeepSeek(config, run.generator(seed))
            options = {"steps": steps, "batch_size": 16, "context": CONTEXT, "lr": 8e-3}
            found = train(model, letters, rate=rate, generator=run.generator(100 + seed), **options)
            final[arm].append((found, *loss_and_load(model, text.valid, CONTEXT)))
    judge(run, final, text)
    draw(run, {arm: final[arm][0][0] for arm in ("balanced", "left alone")})


def starved(counts: Int[Tensor, "expert"]) -> int:
    """Experts with less than a tenth of the mean load."""
    return int((counts < counts.sum() / len(counts) / 10).sum())


def judge(run: Run, final: dict[str, list], text: Manual) -> None:
    """Loads and losses, paired by seed."""
    losses = {arm: np.array([loss for _, loss, _ in rows]) for arm, rows in final.items()}
    excess = {a: np.array([max_violation(c) for *_, c in rows]) for a, rows in final.items()}
    hungry = {a: np.array([starved(c) for *_, c in rows]) for a, rows in final.items()}
    note = f"{excess['balanced'].mean():.2f} with, {excess['left alone'].mean():.2f} without"
    seen = "seed 100, in tuning: 0.2 to 0.4 with, 2.8 after 30 steps without"
    common = {"quick": False, "rtol": None, "seen_before": seen}
    even = "biases keep the busiest expert nearer the mean"
    values, unit = excess["left alone"] / excess["balanced"], "times nearer"
    run.claim(even, values, at_least=2, unit=unit, note=note, **common)
    still = np.roll(excess["left alone"], 1) / excess["left alone"]  # another seed's in its place
    run.falsifier("biases that stand still", still, breaks=even)
    name = "left alone, experts starve"
    run.claim(name, hungry["left alone"], at_least=1, unit=f"of {EXPERTS} experts", **common)
    run.falsifier("with biases", hungry["balanced"], breaks=name)
    gained, name = losses["left alone"] - losses["balanced"], "keeping all busy costs no loss"
    run.claim(name, gained, at_least=-0.01, unit="nats/char", **common)

    curves = np.array([found.losses for found, *_ in final["balanced"]])
    judge_learning(run, curves, at_least=10)
    judge_control(run, text, losses["shuffled"], losses["balanced"])
    for arm in ("balanced", "left alone"):
        run.metric(f"loss, {arm}", losses[arm].mean(), "nats/char", rtol=0.1)
        run.metric(f"excess of the busiest expert, {arm}", excess[arm].mean(), rtol=None)
        run.metric(f"starved experts, {arm}", hungry[arm].mean(), rtol=None)


def draw(run: Run, runs: dict[str, Training]) -> None:
    """Each expert's share of the tokens along the training of one seed."""
    title = "Who gets the tokens? One layer's experts, one seed"
    with run.figure("loads", title, columns=2, size=(10.0, 4.2), sharey=True) as axes:
        for place, (arm, found) in zip(axes, runs.items(), strict=True):
            loads = found.counts[:, -1].double()
            shares: Float[Tensor, "step expert"] = loads / loads.sum(1, keepdim=True)
            width = max(len(shares) // 30, 1)
            smooth = shares.unfold(0, width, 1).mean(-1)
            place.plot(smooth, linewidth=1.5)
            names = {"balanced": f"biases move by {RATE}", "left alone": "biases stay 0"}
            place.set(title=names[arm], xlabel="training step")
            plots.reference_line(place, 1 / EXPERTS, "equal shares")
        axes[0].set(ylabel=f"share of the tokens (mean of {width} steps)")
