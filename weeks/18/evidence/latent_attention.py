"""Latent attention against transformers and torch, its costs against counting, and by training."""

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from shared import plots
from shared.study import PositiveInt, Run
from week18.deepseek_twin import attention_twin, randomize, their_config
from week18.deepseek_v3 import DeepSeek, DeepSeekConfig
from week18.evidence.learning import Manual, judge_control, judge_learning, manual
from week18.latent_attention import V3, LatentAttention, LatentCache, LatentConfig, turns
from week18.llama3 import Llama, LlamaConfig
from week18.rotary import rope_frequencies
from week18.training import loss_by_position, train

# Two parts of different size everywhere, so that none can be taken for another.
SMALL = LatentConfig(24, 3, 10, 6, 4, 5, q_rank=7)
CONTEXT, D = 32, 48
LATENT = LatentConfig(D, 4, kv_rank=20, nope_dim=12, rope_dim=8, v_dim=12, q_rank=None)
LAYERS_V3, HEAD = 61, 128


def main(run: Run, *, steps: PositiveInt | None = None, seeds: PositiveInt | None = None) -> None:
    """Compare with transformers, count bytes and operations, train beside other attentions.

    Parameters
    ----------
    steps
        Training steps of each model.
    seeds
        Models of each kind, at least 2.
    """
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    check_against_transformers(run)
    check_forms(run)
    check_full_rank(run)
    check_costs(run)
    draw_costs(run)
    steps = steps or run.budget(quick=3, default=90, full=600)
    seeds = max(2, seeds or run.budget(quick=2, default=3, full=8))
    run.chose(steps=steps, seeds=seeds)
    compare_attentions(run, steps, seeds)


def inputs(run: Run, n: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """A stream of n tokens and the cosines and sines of their places."""
    x = torch.randn(2, n, SMALL.d_model, generator=run.generator(), dtype=dtype)
    frequencies = rope_frequencies(SMALL.rope_dim, base=10_000.0)
    return x, *(f.to(dtype) for f in turns(torch.arange(n), frequencies))


# ---- checks


def check_against_transformers(run: Run) -> None:
    """Outputs and gradients of a layer, with and without the queries' latent."""
    x, cos, sin = inputs(run, 33, torch.float32)
    theirs_turn = tuple(torch.cat([f[:, 0], f[:, 0]], dim=-1) for f in (cos, sin))
    why = "float32 rounding of a layer and its gradients"
    equal = run.against("transformers DeepseekV3Attention", atol=1e-5, why=why)
    for q_rank in (SMALL.q_rank, None):
        sizes = dataclasses.replace(SMALL, q_rank=q_rank)
        ours = randomize(LatentAttention(sizes), seed=run.seed)
        theirs, kind = attention_twin(ours), f"query latent {q_rank or 'none'}"
        a, b = (x.clone().requires_grad_() for _ in range(2))
        outputs = ours(a, cos, sin), theirs(b, theirs_turn, None)[0]
        upstream = torch.randn(x.shape, generator=run.generator(1))
        for out in outputs:
            out.backward(upstream)
        equal(f"output, {kind}", *outputs)
        pairs = {"input": (a.grad, b.grad)}
        pairs["unfolding"] = ours.kv_up.weight.grad, theirs.kv_b_proj.weight.grad
        for name, (found, expected) in pairs.items():
            largest = expected.abs().max()
            equal(f"gradient by {name}, {kind}", found / largest, expected / largest)


def check_forms(run: Run) -> None:
    """Absorbed and explicit attention, whole and in pieces, in float64."""
    layer = randomize(LatentAttention(SMALL), seed=run.seed).double()
    x, cos, sin = inputs(run, 33)
    why = {"kind": "consistency", "atol": 1e-10, "why": "float64 rounding"}
    equal = run.against("the explicit form", **why)
    outputs, gradients = {}, {}
    for form in ("explicit", "absorbed"):
        outputs[form] = layer(x, cos, sin, form=form)
        layer.zero_grad()
        outputs[form].square().sum().backward()
        gradients[form] = torch.cat([p.grad.flatten() for p in layer.parameters()])
    equal("absorbed form", outputs["absorbed"], outputs["explicit"])
    equal("its gradients", gradients["absorbed"], gradients["explicit"])
    for form in ("explicit", "absorbed"):
        cache, parts = LatentCache(SMALL, n_layers=1, batch=2, max_length=33, dtype=x.dtype), []
        for i in range(33):  # token by token, as when generating
            one = (t[..., i : i + 1, :] for t in (x, cos, sin))
            parts.append(layer(*one, cache, form=form))
            cache.advance(1)
        equal(f"token by token through the cache, {form}", torch.cat(parts, 1), outputs["explicit"])


@torch.no_grad()
def check_full_rank(run: Run) -> None:
    """With a latent that loses nothing and no turned part, this is multi-head attention."""
    d, heads, size = 12, 3, 4
    sizes = LatentConfig(d, heads, kv_rank=d, nope_dim=size, rope_dim=2, v_dim=size, norm_eps=0.0)
    layer = randomize(LatentAttention(sizes), seed=run.seed).double()
    layer.kv_norm.weight.fill_(1.0)
    layer.kv_down.weight.copy_(torch.eye(d + 2, d))  # the latent is x; nothing is turned
    x = torch.randn(2, 9, d, generator=run.generator(), dtype=torch.float64)
    x = x / x.square().mean(-1, keepdim=True).sqrt()  # so that the latent's norm changes nothing
    theirs = nn.MultiheadAttention(d, heads, bias=False, batch_first=True).double()
    unfold = layer.kv_up.weight.unflatten(0, (heads, -1))
    q = layer.q_proj.weight.unflatten(0, (heads, -1))[:, :size] * (size / (size + 2)) ** 0.5
    stacked = [q.flatten(0, 1), *(unfold[:, a : a + size].flatten(0, 1) for a in (0, size))]
    theirs.in_proj_weight.copy_(torch.cat(stacked))
    theirs.out_proj.weight.copy_(layer.out_proj.weight)
    ours = layer(x, *turns(torch.arange(9), torch.zeros(1).double()))
    mask = torch.ones(9, 9, dtype=torch.bool).triu(1)
    expected = theirs(x, x, x, attn_mask=mask, need_weights=False)[0]
    equal = run.against("torch.nn.MultiheadAttention", atol=1e-12, why="float64 rounding")
    equal("a latent of full rank", ours, expected)


# ---- costs


@torch.no_grad()
def check_costs(run: Run) -> None:
    """Bytes beside transformers' cache, operations beside torch's counter."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import DeepseekV3ForCausalLM

    config, n = DeepSeekConfig(31, SMALL), 19
    theirs = DeepseekV3ForCausalLM(their_config(config))
    filled = theirs(torch.zeros(2, n, dtype=torch.long), use_cache=True).past_key_values
    measured = sum(t.nbytes for layer in filled.layers for t in (layer.keys, layer.values))
    cache = LatentCache(SMALL, n_layers=config.n_layers, batch=2, max_length=n)
    formula = 4 * 2 * n * config.n_layers * SMALL.cached_numbers
    same = run.against("transformers' cache of latents, filled", why="a count")
    same("bytes of the cache, set aside and by formula", [cache.nbytes, formula], [measured] * 2)

    layer, counts, formula = LatentAttention(SMALL), [], []
    for new, keys in ((1, n), (n, n)):
        content, turned = (torch.zeros(1, SMALL.n_heads, new, d) for d in (6, 4))
        latents = torch.zeros(1, keys, SMALL.cached_numbers)
        for form in ("explicit", "absorbed"):
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                getattr(layer, form)(content, turned, latents, None)
            counts.append(counter.get_total_flops())
            formula.append(SMALL.operations(new, keys, form))
    counted = run.against("torch.utils.flop_counter", why="a count")
    counted("operations of both forms, one token and all", formula, counts)

    heads, tokens = 2 * V3.n_heads * HEAD, 131_072
    run.metric("numbers per token and layer, latent", V3.cached_numbers, rtol=0)
    run.metric("numbers per token and layer, all heads", heads, rtol=0)
    run.metric("all heads over latent", heads / V3.cached_numbers, "times", rtol=1e-6)
    for name, numbers in (("latent", V3.cached_numbers), ("all heads", heads)):
        size = 2 * LAYERS_V3 * tokens * numbers / 2**30
        run.metric(f"cache of 128K tokens, {name}", size, "GiB", rtol=1e-6)
    one = [V3.operations(1, tokens, form) for form in ("explicit", "absorbed")]
    run.metric("explicit over absorbed, one new token", one[0] / one[1], "times", rtol=1e-6)
    whole = [V3.operations(tokens, tokens, form) for form in ("explicit", "absorbed")]
    run.metric("absorbed over explicit, all tokens new", whole[1] / whole[0], "times", rtol=1e-6)
    even = next(n for n in range(1, tokens) if dearer(n, tokens))
    run.metric("new tokens from which explicit is cheaper", even, rtol=0)


def dearer(new: int, keys: int) -> bool:
    """Whether the absorbed form needs more operations at DeepSeek-V3's sizes."""
    return V3.operations(new, keys, "absorbed") > V3.operations(new, keys, "explicit")


def draw_costs(run: Run) -> None:
    """Operations of the two forms against the tokens read at once."""
    new, keys = 2.0 ** np.arange(13), 8192
    lines = {
        f: [V3.operations(int(n), keys, f) / n / 1e9 for n in new] for f in ("explicit", "absorbed")
    }
    title = "Which form is cheaper at DeepSeek-V3's sizes?"
    with run.figure("forms", title) as axes:
        labels = {"xscale": "log", "yscale": "log", "xlabel": "new tokens per call (of 8,192 keys)"}
        labels |= {"ylabel": "billion operations per new token and layer", "marker": "o"}
        plots.curves(axes, new, lines, colors=(plots.ORANGE, plots.BLUE), **labels)
        even = next(n for n in range(1, keys) if dearer(n, keys))
        axes.axvline(even, color=plots.REFERENCE, linestyle="--", linewidth=1)
        axes.text(even * 1.1, 15, f"{even} new tokens", color=plots.REFERENCE, fontsize=9)


# ---- by training


def compare_attentions(run: Run, steps: int, seeds: int) -> None:
    """Latents, all heads, one shared head; and latents whose turned part stands still."""
    text = manual(run, run.budget(quick=2000, default=12_000))
    arms = builders(text.n_letters)
    final, curves = {arm: [] for arm in (*arms, "shuffled")}, []
    for seed in run.progress(range(seeds), "training"):
        for arm in final:
            model = arms.get(arm, arms["latent"])(run.generator(seed))
            options = {"batch_size": 16, "context": CONTEXT, "lr_scale": 2.0}
            letters = text.shuffled if arm == "shuffled" else text.training
            options |= {"steps": steps, "generator": run.generator(100 + seed)}
            curve = train(model, letters, **options)
            curves += [curve] if arm == "latent" else []
            final[arm].append(loss_by_position(model, text.valid, CONTEXT).mean().item())
    final = {arm: np.array(losses) for arm, losses in final.items()}
    judge(run, final, np.array(curves), text)
    title = "What does a small cache cost? Equal weights, data and steps"
    with run.figure("losses", title, size=(8.0, 3.6)) as axes:
        names = {
            "latent": f"latent\n({LATENT.cached_numbers} numbers per token)",
            "one shared head": f"one shared head\n({2 * D // 4})",
            "still": f"latent, nothing turned\n({LATENT.cached_numbers})",
        }
        added = {name: final[arm] - final["all heads"] for arm, name in names.items()}
        label = (
            f"loss added to that of all heads with {2 * D} numbers\n(nats/character, {seeds} seeds)"
        )
        plots.bars(axes, added, colors=(plots.BLUE, plots.SKY, plots.ORANGE), xlabel=label)
        axes.axvline(0, color=plots.REFERENCE, lw=1)


def builders(vocab_size: int) -> dict[str, Callable[[torch.Generator], nn.Module]]:
    """Models of nearly equal size by their attention; all MLPs are dense."""

    def latent(generator: torch.Generator) -> DeepSeek:
        sizes = {"n_layers": 2, "n_dense": 2, "d_ff": 128, "context": CONTEXT}
        return DeepSeek(DeepSeekConfig(vocab_size, LATENT, **sizes), generator)

    def still(generator: torch.Generator) -> DeepSeek:
        model = latent(generator)
        for block in model.blocks:  # cos 1, sin 0
            block.attention.forward = standing_still(block.attention)
        return model

    def llama(n_kv_heads: int, d_ff: int) -> Callable[[torch.Generator], Llama]:
        sizes = {"d_ff": d_ff, "context": CONTEXT, "rope_base": 10_000.0}
        config = LlamaConfig(vocab_size, D, 2, 4, n_kv_heads, **sizes)
        return lambda generator: Llama(config, generator)

    # a shared head leaves 2 * 48 * 36 weights to the MLP: 24 units of three matrices
    return {
        "latent": latent,
        "all heads": llama(4, 128),
        "one shared head": llama(1, 152),
        "still": still,
    }


def standing_still(layer: LatentAttention) -> Callable:
    """A layer's forward pass at the angle 0, wherever a token stands."""
    forward = layer.forward
    return lambda x, cos, sin, *rest: forward(x, torch.ones_like(cos), torch.zeros_like(sin), *rest)


def judge(run: Run, final: dict[str, np.ndarray], curves: np.ndarray, text: Manual) -> None:
    """Differences paired by seed."""
    common = {"unit": "nats/char", "quick": False}
    latent = final["latent"]
    note = ", ".join(f"{arm} {values.mean():.2f}" for arm, values in final.items())
    seen = "seeds 100 to 103: latent 2.55, all heads 2.42, one shared head 2.44, still 2.66"
    cost, order = "a small cache costs loss here", "the turned part carries order"
    loss_added = latent - final["all heads"]
    run.claim(cost, loss_added, at_least=0, note=note, seen_before=seen, **common)
    shared = final["one shared head"] - latent
    run.falsifier("one shared head beside latents", shared, breaks=cost)
    run.claim(order, final["still"] - latent, at_least=0.05, seen_before=seen, **common)
    run.falsifier("all heads in its place", -loss_added, breaks=order)
    judge_learning(run, curves, at_least=10)
    judge_control(run, text, final["shuffled"], latent)
