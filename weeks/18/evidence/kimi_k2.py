"""QK-clip against its closed form and DeepSeek's attention, and a training run that needs it."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared import plots
from shared.study import PositiveInt, Run
from week18.evidence.learning import manual
from week18.kimi_k2 import QKClip, clip_factors, clip_latent
from week18.llama3 import Llama, LlamaConfig
from week18.training import loss_by_position, train
from week18.transformers_twin import randomize

CONTEXT, RATE, TAU = 32, 10.0, 20.0


def main(run: Run, *, steps: PositiveInt | None = None, seeds: PositiveInt | None = None) -> None:
    """Check the clip on random weights, then train at a rate where scores run away.

    Parameters
    ----------
    steps
        Training steps of each model.
    seeds
        Pairs of models, at least 2.
    """
    run.rounding(0.1, "Muon at a high rate amplifies how processors round")
    for name, n_kv_heads in (("a key per head", 4), ("one key for all heads", 1)):
        check_clip(run, name, n_kv_heads)
    check_against_deepseek(run)
    steps = steps or run.budget(quick=4, default=120, full=600)
    seeds = max(2, seeds or run.budget(quick=2, default=3, full=8))
    run.chose(steps=steps, seeds=seeds, tau=TAU, rate=RATE)
    train_both(run, steps, seeds)


# ---- checks


def scores_seen(model: Llama, tokens: Int[Tensor, "batch seq"], tau: float | None) -> Tensor:
    """Largest score of each layer and head in one pass; clipped to `tau` after it."""
    clip = QKClip(model, tau)
    model(tokens)
    clip.step()
    clip.close()
    return clip.history[0]


@torch.no_grad()
def check_clip(run: Run, name: str, n_kv_heads: int) -> None:
    """On the same input no score is above tau afterwards, and those below have not moved."""
    config = LlamaConfig(31, 24, 1, 4, n_kv_heads, head_dim=6, context=64, rope_base=100.0)
    model = randomize(Llama(config).double(), std=1.0, seed=run.seed)
    values = model.blocks[0].v_proj.weight.clone()
    tokens = torch.randint(31, (4, 64), generator=run.generator())
    before = scores_seen(model, tokens, None)
    tau = before.median().item()
    scores_seen(model, tokens, tau)
    after = scores_seen(model, tokens, None)
    equal = run.against("min(S, tau)", kind="theorem", atol=1e-10, why="float64 rounding")
    equal(f"largest scores after one clip, {name}", after, before.clamp(max=tau))
    equal(f"values after it, {name}", model.blocks[0].v_proj.weight, values, atol=0)


@torch.no_grad()
def check_against_deepseek(run: Run) -> None:
    """Clipped weights in transformers' latent attention: each head's scores times its factor.

    Attention gives weights, not scores; logarithms of weights minus that of the first key are
    differences of scores.
    """
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
        DeepseekV3Attention,
        DeepseekV3RotaryEmbedding,
    )

    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4}
    sizes |= {"q_lora_rank": 12, "kv_lora_rank": 10, "v_head_dim": 5, "max_position_embeddings": 64}
    sizes |= {"qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "head_dim": 4, "hidden_act": "silu"}
    config = DeepseekV3Config(**sizes, attn_implementation="eager")
    attention = DeepseekV3Attention(config, layer_idx=0).double().eval()
    for p in attention.parameters():
        p.normal_(0, 0.5, generator=run.generator(1))
    x = torch.randn(2, 20, 32, dtype=torch.float64, generator=run.generator(2))
    waves = DeepseekV3RotaryEmbedding(config).double()(x, torch.arange(20)[None])
    mask = torch.full((20, 20), -torch.inf, dtype=torch.float64).triu(1)[None, None]

    def differences() -> Float[Tensor, "batch head seq"]:
        weights = attention(x, position_embeddings=waves, attention_mask=mask)[1]
        return (weights[:, :, -1] / weights[:, :, -1, :1]).log()

    before = differences()
    factors = clip_factors(torch.tensor([150.0, -3.0, 100.0, 400.0], dtype=torch.float64), 100.0)
    values = attention.kv_b_proj.weight.unflatten(0, (4, -1))[:, 6:].clone()
    clip_latent(attention.q_b_proj.weight, attention.kv_b_proj.weight, factors, nope_dim=6)
    why = "its softmax is taken in float32"
    equal = run.against("transformers DeepseekV3Attention", atol=1e-4, why=why)
    equal("scores of each head times its factor", differences(), before * factors[:, None])
    kept = attention.kv_b_proj.weight.unflatten(0, (4, -1))[:, 6:]
    run.check("rows of the values", kept, values, against="before", kind="consistency", why="kept")


# ---- training


def train_both(run: Run, steps: int, seeds: int) -> None:
    """Muon at a high rate, with the clip and without it, on one key for all heads."""
    text = manual(run, run.budget(quick=2000, default=12_000))
    arms = {"Muon": (RATE, None), "MuonClip": (RATE, TAU), "usual rate": (1.0, None)}
    scores: dict[str, list] = {arm: [] for arm in arms}
    losses: dict[str, list] = {arm: [] for arm in arms}
    for seed in run.progress(range(seeds), "training"):
        for arm, (rate, tau) in arms.items():
            config = LlamaConfig(text.n_letters, 32, 2, 4, 1, context=CONTEXT, rope_base=10_000.0)
            model = Llama(config, run.generator(seed))
            clip = QKClip(model, tau)
            options = {"steps": steps, "batch_size": 8, "context": CONTEXT, "lr_scale": rate}
            generator = run.generator(100 + seed)
            train(model, text.training, generator=generator, after_step=clip.step, **options)
            scores[arm].append(torch.stack(clip.history).amax((1, 2)).numpy())
            losses[arm].append(loss_by_position(model.eval(), text.valid, CONTEXT).mean().item())
    judge(run, {arm: np.array(rows) for arm, rows in scores.items()}, losses)


def judge(run: Run, scores: dict[str, Float[np.ndarray, "seed step"]], losses: dict) -> None:
    """Largest scores over tau, with the clip and without."""
    top = {arm: rows.max(axis=1) / TAU for arm, rows in scores.items()}
    settled = scores["MuonClip"][:, scores["MuonClip"].shape[1] // 2 :].max(axis=1) / TAU
    common = {"unit": "times tau", "quick": False}
    name = "without the clip scores run away"
    seen = "one other seed: 9 times tau, 1.4 with the clip"
    run.claim(name, top["Muon"], at_least=2, seen_before=seen, **common)
    run.falsifier("at the usual rate", top["usual rate"], breaks=name)
    name = "with the clip a step's scores stay near tau"
    run.claim(name, settled, at_most=1.6, each=True, note="second half", seen_before=seen, **common)
    run.falsifier("without the clip", top["Muon"], breaks=name)
    worse = np.array(losses["MuonClip"]) - np.array(losses["Muon"])
    seen = "one other seed: -0.05"
    loss = {"unit": "nats/char", "quick": False, "seen_before": seen}
    run.claim("the clip costs no loss", worse, at_most=0.02, **loss)
    for arm in scores:
        run.metric(f"largest score, {arm}", TAU * top[arm].mean(), rtol=0.5)
        run.metric(f"loss, {arm}", np.mean(losses[arm]), "nats/char", rtol=0.1)
    with run.figure("scores", "Muon at a high rate: how large do attention scores get?") as axes:
        labels = {
            "xlabel": "training step",
            "ylabel": "largest score of the batch",
            "yscale": "log",
        }
        x, colors = range(1, scores["Muon"].shape[1] + 1), (plots.ORANGE, plots.BLUE, plots.GRAY)
        plots.curves(axes, x, scores, colors=colors, reference={"tau": TAU}, **labels)
