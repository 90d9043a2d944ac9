"""Mixtral against transformers, its counts against the published, and collapse by training."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shared import plots
from shared.study import PositiveInt, Run
from week18.evidence.learning import (
    Manual,
    check_ten_steps,
    judge_control,
    judge_learning,
    manual,
)
from week18.experts import Experts, balancing_loss, capacity_of, dispatch, mix, route
from week18.llama3 import Llama, LlamaConfig
from week18.mixtral import (
    MIXTRAL_8X7B,
    Mixtral,
    MixtralConfig,
    balance,
    mixtures,
    n_parameters,
    router_z,
    train,
)
from week18.pretrained import hugging_face_config, hugging_face_name
from week18.training import loss_by_position
from week18.transformers_twin import randomize

SIZES = {"d_model": 48, "n_layers": 2, "n_heads": 4, "n_kv_heads": 1, "context": 48}
SIZES |= {"rope_base": 10_000.0}
D_FF, LR, COEFFICIENT, Z = 64, 1e-2, 0.1, 1e-3
SMALL = MixtralConfig(31, 24, 2, 6, 2, d_ff=16, n_experts=5, top_k=2, context=96)


def main(run: Run, *, steps: PositiveInt | None = None, seeds: PositiveInt = 3) -> None:
    """Compare with transformers, then train with and without the balancing loss.

    Parameters
    ----------
    steps
        Training steps of each model.
    seeds
        Models of each kind, at least 2.
    """
    run.rounding(0.1, "choices of experts flip where sums are rounded in another order")
    torch.set_num_threads(1)  # slices of some hundred rows are too small to share
    check_against_transformers(run)
    check_sums(run)
    check_counts(run)
    steps = steps or run.budget(quick=4, default=100, full=600)
    seeds = run.budget(quick=2, default=max(2, seeds), full=max(8, seeds))
    run.chose(steps=steps, seeds=seeds)
    compare(run, steps, seeds)


# ---- checks


def mixtral_twin(model: Mixtral) -> nn.Module:
    """The same weights in transformers' `MixtralForCausalLM`."""
    theirs = _theirs(model.config).eval()
    weights = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".moe." in name:
                layer = weights_of_layer(name)
                part = name.rsplit("moe.", 1)[1]
                if part == "experts.up_proj":  # theirs is one matrix: rows of gate, then of up
                    weights.pop(layer + "experts.gate_up_proj")[:, model.config.d_ff :] = p
                elif part == "experts.gate_proj":
                    weights[layer + "experts.gate_up_proj"][:, : model.config.d_ff] = p
                else:
                    weights.pop(layer + part.replace("router", "gate")).copy_(p)
            else:
                weights.pop(hugging_face_name(name)).copy_(p)
    assert not weights
    return theirs


def weights_of_layer(name: str) -> str:
    """Transformers' prefix for a mixture of ours."""
    return f"model.layers.{name.split('.')[1]}.mlp."


def _theirs(config: MixtralConfig) -> nn.Module:
    from transformers import MixtralConfig as TheirConfig
    from transformers import MixtralForCausalLM

    other = ("architectures", "model_type", "attention_bias", "mlp_bias")
    sizes = {k: v for k, v in hugging_face_config(config).items() if k not in other}
    experts = {"num_local_experts": config.n_experts, "num_experts_per_tok": config.top_k}
    return MixtralForCausalLM(TheirConfig(**sizes, **experts, output_router_logits=True))


def their_gradients(ours: Mixtral, theirs: nn.Module) -> list[Tensor]:
    """Gradients of the twin in the order and shapes of our parameters."""
    by_name, out = {name: p.grad for name, p in theirs.named_parameters()}, []
    for name, _ in ours.named_parameters():
        part = name.rsplit("moe.", 1)[-1]
        if part in ("experts.gate_proj", "experts.up_proj"):
            both = by_name[weights_of_layer(name) + "experts.gate_up_proj"]
            out.append(both.chunk(2, dim=1)[part == "experts.up_proj"])
        elif ".moe." in name:
            out.append(by_name[weights_of_layer(name) + part.replace("router", "gate")])
        else:
            out.append(by_name[hugging_face_name(name)])
    return out


def pooled(model: Mixtral, real: Tensor | None = None) -> Tensor:
    """The balancing loss as transformers takes it: once, over the tokens of all layers together."""
    layers = mixtures(model)
    logits, chosen = (torch.cat([getattr(m, n) for m in layers]) for n in ("logits", "chosen"))
    return balancing_loss(logits, chosen, None if real is None else real.repeat(len(layers)))


def check_against_transformers(run: Run) -> None:
    """Same weights, same tokens: logits, auxiliary loss, gradients, steps."""
    ours = randomize(Mixtral(SMALL), seed=run.seed)
    theirs = mixtral_twin(ours)
    tokens = torch.randint(31, (3, 40), generator=run.generator())
    why = "float32 rounding through two layers and back"
    equal = run.against("transformers MixtralForCausalLM", atol=1e-5, rtol=1e-5, why=why)
    logits, reference = ours(tokens[:, :-1]), theirs(tokens[:, :-1])
    equal("logits", logits, reference.logits)
    equal("balancing loss, layers pooled", pooled(ours), reference.aux_loss)
    for out, aux in ((logits, pooled(ours)), (reference.logits, reference.aux_loss)):
        (F.cross_entropy(out.flatten(0, 1), tokens[:, 1:].flatten()) + aux).backward()
    found = [[p.grad for p in ours.parameters()], their_gradients(ours, theirs)]
    flat = [torch.cat([g.flatten() for g in gradients]) for gradients in found]
    equal("gradients / largest", *(g / flat[1].abs().max() for g in flat))

    def auxiliary(out: Any) -> Tensor:
        return 0.1 * (pooled(ours) if torch.is_tensor(out) else out.aux_loss)

    check_ten_steps(run, ours, theirs, "MixtralForCausalLM", rtol=1e-4, added=auxiliary)

    mask = torch.arange(39) >= torch.tensor([0, 9, 20])[:, None]
    ours(tokens[:, :-1], mask=mask)
    reference = theirs(tokens[:, :-1], attention_mask=mask.long())
    equal("balancing loss, padding not counted", pooled(ours, mask.flatten()), reference.aux_loss)


def check_sums(run: Run) -> None:
    """All experts chosen: the softmax-weighted sum of all."""
    g = run.generator()
    x, logits = (torch.randn(50, n, dtype=torch.float64, generator=g) for n in (8, 5))
    experts = Experts(5, 8, 6).double()
    with torch.no_grad():
        for p in experts.parameters():
            p.normal_(generator=g)
    every = torch.stack([experts.one(i, x) for i in range(5)], dim=1)
    expected = (logits.softmax(-1)[..., None] * every).sum(1)
    theorem = run.against("softmax-weighted sum of all experts", kind="theorem", why="rounding")
    theorem("k = E", mix(x, *route(logits, 5), experts, 5), expected, atol=1e-12)


def check_counts(run: Run) -> None:
    """Parameters of Mixtral 8x7B, all and active."""
    with torch.device("meta"):  # shapes without memory
        theirs = _theirs(MIXTRAL_8X7B)
    total, active = n_parameters(MIXTRAL_8X7B)
    count = run.against("transformers MixtralForCausalLM", why="a count")
    count("parameters of 8x7B", total, sum(p.numel() for p in theirs.parameters()))
    said = {"against": "the paper's 47 and 13 billion", "kind": "theorem", "atol": 0.5}
    run.check("billions", [total / 1e9, active / 1e9], [47, 13], why="whole billions", **said)
    run.metric("parameters of 8x7B", total / 1e9, "billions", rtol=1e-6)
    run.metric("active parameters of 8x7B", active / 1e9, "billions", rtol=1e-6)


# ---- training


def compare(run: Run, steps: int, seeds: int) -> None:
    """A dense model of equal active weights, and mixtures with and without balancing."""
    text = manual(run, run.budget(quick=2000, default=16_000))
    sparse = MixtralConfig(text.n_letters, d_ff=D_FF, **SIZES)
    dense = LlamaConfig(text.n_letters, d_ff=2 * D_FF, **SIZES)

    def penalty(model):
        return COEFFICIENT * balance(model) + Z * router_z(model)

    arms = {"dense": (dense, None), "none": (sparse, None), "balanced": (sparse, penalty)}
    final, curves, loads, imbalances, dropped = ({arm: [] for arm in arms} for _ in range(5))
    final["shuffled"] = []
    options = {"batch_size": 16, "context": SIZES["context"], "lr": LR}

    def judged(model: nn.Module) -> float:
        return loss_by_position(model, text.valid, SIZES["context"]).mean().item()

    for seed in run.progress(range(seeds), "training"):
        for arm, (config, extra) in arms.items():
            kind = Llama if arm == "dense" else Mixtral
            model = kind(config, run.generator(seed))
            rest = options | {"generator": run.generator(100 + seed), "penalty": extra}
            curve, load = train(model, text.training, steps=steps, **rest)
            curves[arm].append(curve)
            final[arm].append(judged(model))
            if arm != "dense":
                loads[arm].append(load)
                imbalances[arm].append(imbalance(model))
                dropped[arm].append(dropped_share(model, 1.25))
        model = Mixtral(sparse, run.generator(seed))
        rest = options | {"generator": run.generator(100 + seed), "penalty": penalty}
        train(model, text.shuffled, steps=max(steps // 2, 3), **rest)
        final["shuffled"].append(judged(model))
    final = {arm: np.array(values) for arm, values in final.items()}
    judge(run, final, imbalances, np.array(curves["balanced"]), text)
    for arm in ("none", "balanced"):
        run.metric(f"dropped at capacity 1.25, {arm}", 100 * np.mean(dropped[arm]), "%", rtol=0.3)
        run.metric(f"loss, {arm}", final[arm].mean(), "nats/char", rtol=0.1)
    run.metric("loss, dense", final["dense"].mean(), "nats/char", rtol=0.1)
    run.metric("training steps", steps, rtol=0)
    run.metric("active parameters", n_parameters(sparse)[1], rtol=0)
    run.metric("all parameters", n_parameters(sparse)[0], rtol=0)
    draw(run, loads, final)


def imbalance(model: Mixtral) -> float:
    """Load of the busiest expert over the mean, averaged over layers, in the last batch."""
    loads = [m.load() for m in mixtures(model)]
    return float(np.mean([(load.max() / load.mean()).item() for load in loads]))


def dropped_share(model: Mixtral, factor: float) -> float:
    """Share of assignments of the last batch that a capacity would have dropped."""
    shares = []
    for m in mixtures(model):
        capacity = capacity_of(len(m.chosen), m.config.top_k, m.config.n_experts, factor)
        order, _ = dispatch(m.chosen, m.config.n_experts, capacity)
        shares.append(1 - len(order) / m.chosen.numel())
    return float(np.mean(shares))


def judge(
    run: Run, final: dict, imbalances: dict, curves: Float[np.ndarray, "seed step"], text: Manual
) -> None:
    """Collapse, what a mixture gains, and that it learns at all."""
    seen = "seed 100, in the two layers: 3.2 and 3.8 without balancing, 1.9 and 2.1 with"
    name = "without balancing one expert has twice its share, or more"
    common = {"unit": "times the mean", "quick": False, "seen_before": seen}
    run.claim(name, imbalances["none"], at_least=2, each=True, **common)
    run.falsifier("balanced", imbalances["balanced"], breaks=name)
    seen = "seed 100: dense 2.71, no balancing 2.74, balanced 2.97"
    nats = {"unit": "nats/char", "quick": False, "seen_before": seen}
    gain = "balancing lowers the loss of the next token"
    run.claim(gain, final["none"] - final["balanced"], at_least=0, **nats)
    more = "a mixture learns more than a dense model of equal active weights"
    run.claim(more, final["dense"] - final["balanced"], at_least=0, **nats)
    run.falsifier("on shuffled text", final["dense"] - final["shuffled"], breaks=more)
    judge_learning(run, curves, at_least=5)
    judge_control(run, text, final["shuffled"], final["balanced"], seen_before=seen)


def draw(run: Run, loads: dict, final: dict) -> None:
    """Loads while training, and the losses after."""
    title = "Who works? Share of tokens at each of eight experts, second layer, first seed"
    with run.figure("collapse", title, columns=2, size=(9.6, 3.8)) as axes:
        for ax, (arm, name) in zip(
            axes, {"none": "no balancing", "balanced": "balanced"}.items(), strict=True
        ):
            labels = {"title": name, "xlabel": "training step", "ylabel": "expert"}
            plots.heat_map(
                ax, loads[arm][0][:, 1].T, label="share of tokens", limits=(0, 1), **labels
            )
            ax.set_aspect("auto")
    title = "Does a mixture learn more at the same active weights?"
    with run.figure("losses", title) as ax:
        names = {
            "dense": "dense",
            "none": "mixture,\nno balancing",
            "balanced": "mixture,\nbalanced",
        }
        values = {names[arm]: final[arm] for arm in names}
        plots.bars(ax, values, xlabel="loss on other text (nats/character), a dot per seed")
        low = min(v.min() for v in values.values())
        ax.set_xlim(low - 0.2, None)
