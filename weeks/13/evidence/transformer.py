"""The blocks against torch's; then one layer learns to write backwards."""

import math
import warnings
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared import plots
from shared.study import PositiveInt, Run
from week13.evidence.reversal import (
    BOS,
    EOS,
    FIRST_DIGIT,
    N_TOKENS,
    PAD,
    WithoutPaddingMask,
    cross_attention_map,
    exact_match,
    reversal_batch,
    train_reversal,
)
from week13.positional_encodings import sinusoidal_encoding
from week13.transformer import Transformer, cross_entropy

PADDING = [0, 1, 2, 4, 8, 16]  # extra columns


def main(run: Run, *, seeds: PositiveInt = 3) -> None:
    """Check every block against torch, then learn to write backwards.

    Parameters
    ----------
    seeds
        Models in each setting.
    """
    for norm_first in (True, False):
        check_blocks(run, norm_first)
    check_training(run)
    steps, seeds = run.budget(quick=4, default=400), run.budget(quick=2, default=seeds)
    settings = {
        "reversal": {},
        "targets shuffled": {"shuffled": True},
        "no padding mask": {"kind": WithoutPaddingMask},
    }
    models, losses, accuracy = {}, {}, {}
    for name, setting in settings.items():
        trained = [train_reversal(steps, run.seed + s, **setting) for s in range(seeds)]
        models[name] = [model for model, _ in trained]
        losses[name] = torch.tensor([curve for _, curve in trained])
        n = run.budget(quick=50, default=500)
        accuracy[name] = [exact_match(m, s, n=n) for s, m in enumerate(models[name])]
        run.metric(f"exact match, {name}", sum(accuracy[name]) / seeds, "%", rtol=0.05)
    window = max(min(50, steps // 3), 1)
    fall = losses["reversal"][:, :window].mean(1) - losses["reversal"][:, -window:].mean(1)
    run.claim("the loss falls", fall, at_least=1.0, unit="nats per token", quick=False)
    learned, percent = "one layer learns to write backwards", {"unit": "% exact", "quick": False}
    run.claim(learned, accuracy["reversal"], at_least=95, each=True, **percent)
    run.falsifier("targets shuffled", accuracy["targets shuffled"], breaks=learned)

    padded, n = {}, run.budget(quick=20, default=200)
    for name in ("reversal", "no padding mask"):
        padded[name] = [
            [exact_match(m, s, extra_padding=p, n=n) for p in PADDING]
            for s, m in enumerate(models[name])
        ]
    cost = {name: [row[0] - row[-1] for row in rows] for name, rows in padded.items()}
    harmless = f"{PADDING[-1]} more columns of padding cost nothing"
    points = {"unit": "points of exact match", "quick": False}
    run.claim(harmless, cost["reversal"], at_least=-2, at_most=2, each=True, **points)
    run.falsifier("without the padding mask", cost["no padding mask"], breaks=harmless)
    draw_training(run, losses)
    draw_padding(run, padded)
    read_backwards(run, models["reversal"])


# ---- against torch


def torch_names(model: Transformer, pick: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Encoder and decoder as a state dict of nn.Transformer; `pick` takes weight or gradient."""
    state = {}
    for stack in ("encoder", "decoder"):
        ours = getattr(model, stack)
        for i, layer in enumerate(ours.layers):
            name = f"{stack}.layers.{i}."
            attentions = {"self_attn": layer.self_attention}
            if stack == "decoder":
                attentions["multihead_attn"] = layer.cross_attention
            for kind in ("weight", "bias"):
                for key, a in attentions.items():
                    packed = [pick(getattr(p, kind)) for p in (a.q_proj, a.k_proj, a.v_proj)]
                    state[f"{name}{key}.in_proj_{kind}"] = torch.cat(packed)
                    state[f"{name}{key}.out_proj.{kind}"] = pick(getattr(a.out_proj, kind))
                for j, linear in ((1, layer.feed_forward[0]), (2, layer.feed_forward[3])):
                    state[f"{name}linear{j}.{kind}"] = pick(getattr(linear, kind))
                for j, residual in enumerate(layer.residuals, start=1):
                    state[f"{name}norm{j}.{kind}"] = pick(getattr(residual.norm, kind))
        for key, parameter in ours.norm.named_parameters():
            state[f"{stack}.norm.{key}"] = pick(parameter)
    return state


class TorchTransformer(nn.Module):
    """nn.Transformer with the weights, embeddings and positions of ours."""

    def __init__(self, ours: Transformer, n_heads: int, d_ff: int, norm_first: bool):
        super().__init__()
        n_layers = len(ours.encoder.layers)
        with warnings.catch_warnings():  # about a fast path that is not wanted here
            warnings.filterwarnings("ignore", message="enable_nested_tensor")
            sizes = (ours.d_model, n_heads, n_layers, n_layers, d_ff, 0.0)
            self.stacks = nn.Transformer(*sizes, batch_first=True, norm_first=norm_first)
        if not norm_first:  # torch ends post-norm stacks with a second norm; the paper does not
            self.stacks.encoder.norm = self.stacks.decoder.norm = None
        self.stacks.load_state_dict(torch_names(ours, lambda p: p.detach()))
        self.source = nn.Embedding.from_pretrained(ours.source_embedding.weight.clone(), False)
        self.target = nn.Embedding.from_pretrained(ours.target_embedding.weight.clone(), False)

    def forward(
        self, source: Int[Tensor, "batch source"], target: Int[Tensor, "batch target"]
    ) -> Float[Tensor, "batch target symbol"]:
        """Logits of the next target token."""
        d = self.target.weight.shape[1]
        causal = nn.Transformer.generate_square_subsequent_mask(target.shape[1]) < 0
        embedded = [
            d**0.5 * table(tokens) + sinusoidal_encoding(tokens.shape[1], d)
            for table, tokens in ((self.source, source), (self.target, target))
        ]
        hidden = {"src": source == PAD, "tgt": target == PAD, "memory": source == PAD}
        masks = {f"{part}_key_padding_mask": mask for part, mask in hidden.items()}
        x = self.stacks(*embedded, tgt_mask=causal, **masks)
        return x @ self.target.weight.T


def pair(seed: int, norm_first: bool) -> tuple[Transformer, TorchTransformer]:
    """Our model and its twin of torch's blocks."""
    torch.manual_seed(seed)
    sizes = {"n_heads": 4, "d_ff": 48, "norm_first": norm_first}
    ours = Transformer(N_TOKENS, N_TOKENS, d_model=32, n_layers=2, pad=PAD, **sizes)
    return ours, TorchTransformer(ours, **sizes)


def check_blocks(run: Run, norm_first: bool) -> None:
    """Logits, loss and every gradient of a two-layer model on a padded batch."""
    norm = "pre-norm" if norm_first else "post-norm"
    ours, theirs = pair(run.seed, norm_first)
    source, target = reversal_batch(6, run.generator())
    logits, expected = (model(source, target[:, :-1]) for model in (ours, theirs))
    why = "float32 rounding through four layers"
    equal = run.against("nn.Transformer, copied weights", atol=2e-5, rtol=1e-5, why=why)
    equal(f"logits, {norm}", logits, expected)
    loss = cross_entropy(logits, target[:, 1:], pad=PAD, label_smoothing=0.1)
    flat = expected.flatten(0, 1), target[:, 1:].flatten()
    reference = nn.functional.cross_entropy(*flat, ignore_index=PAD, label_smoothing=0.1)
    rounding = {"atol": 1e-5, "why": "float32 rounding"}
    run.check(f"smoothed loss, {norm}", loss, reference, against="F.cross_entropy", **rounding)
    for value in (loss, reference):
        value.backward()
    gradients, names = torch_names(ours, lambda p: p.grad), dict(theirs.stacks.named_parameters())
    mine = torch.cat([gradients[n].flatten() for n in names])
    reference = torch.cat([p.grad.flatten() for p in names.values()])
    equal(f"gradients, {norm}", mine, reference, rtol=1e-4)


def check_training(run: Run) -> None:
    """The first ten Adam steps, batch invariance and the number of parameters."""
    ours, theirs = pair(run.seed + 1, True)
    losses, batches = {}, [reversal_batch(16, run.generator(i)) for i in range(10)]
    for name, model in (("ours", ours), ("theirs", theirs)):
        optimizer, losses[name] = torch.optim.Adam(model.parameters(), lr=1e-3), []
        for source, target in batches:
            logits = model(source, target[:, :-1]).transpose(1, 2)
            loss = nn.functional.cross_entropy(logits, target[:, 1:], ignore_index=PAD)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[name].append(loss.item())
    why = "float32 rounding, amplified by Adam's division by √v"
    steps = {"against": "nn.Transformer, same weights and batches", "atol": 1e-4, "why": why}
    run.check("losses of the first 10 Adam steps", losses["ours"], losses["theirs"], **steps)

    source, target = reversal_batch(4, run.generator(2), extra_padding=3)
    together = ours(source, target[:, :-1])[0]
    n_source, n_target = (source[0] != PAD).sum(), (target[0, :-1] != PAD).sum()
    alone = ours(source[:1, :n_source], target[:1, :n_target])[0]
    same = {"against": "the same in a padded batch", "kind": "consistency", "atol": 1e-5}
    run.check("one sequence alone", alone, together[:n_target], why="float32 rounding", **same)
    d, ff, n = 32, 48, 2
    attention, feed_forward, norm = 4 * d * d + 4 * d, 2 * d * ff + ff + d, 2 * d
    layers = n * (3 * attention + 2 * feed_forward + 5 * norm) + 2 * norm + 2 * N_TOKENS * d
    formula = {"against": "the formula of the note", "kind": "theorem", "why": "integers"}
    run.check("parameters", sum(p.numel() for p in theirs.parameters()), layers, **formula)


# ---- pictures


def draw_training(run: Run, losses: dict[str, Float[Tensor, "seed step"]]) -> None:
    """Loss curves of the task and of its control."""
    shown = {name: losses[name] for name in ("reversal", "targets shuffled")}
    steps = range(1, losses["reversal"].shape[1] + 1)
    with run.figure("loss", "Does one layer learn to write digits backwards?") as ax:
        labels = {"xlabel": "training step", "ylabel": "nats per token", "yscale": "log"}
        guess = {"guessing a digit: ln 10": math.log(10)}
        plots.curves(ax, steps, shown, colors=(plots.BLUE, plots.GRAY), reference=guess, **labels)


def draw_padding(run: Run, padded: dict[str, list[list[float]]]) -> None:
    """Exact match against padding that training did not have."""
    names = {"reversal": "masked", "no padding mask": "not masked"}
    with run.figure("padding", "What does a forgotten padding mask cost?") as ax:
        lines = {names[name]: rows for name, rows in padded.items()}
        labels = {"xlabel": "extra columns of padding, beyond those of training"}
        labels |= {"ylabel": "sequences decoded exactly (%)", "ylim": (-2, 104)}
        plots.curves(ax, PADDING, lines, marker="o", **labels)


def read_backwards(run: Run, models: list[Transformer]) -> None:
    """Where the decoder looks while it writes."""
    digits = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])
    n = digits.shape[1]
    source = torch.cat([digits + FIRST_DIGIT, torch.tensor([[EOS]])], dim=1)
    target = torch.cat([torch.tensor([[BOS]]), digits.flip(1) + FIRST_DIGIT], dim=1)
    maps = [cross_attention_map(model, source, target) for model in models]
    on_it = [weights[range(n), range(n - 1, -1, -1)].mean() for weights in maps]
    run.metric("weight on the anti-diagonal", sum(on_it) / len(on_it), rtol=0.1)
    note = f"mean weight on the anti-diagonal; evenly spread it would be {1 / (n + 1):.2f}"
    run.claim("the decoder reads backwards", on_it, at_least=0.6, note=note, quick=False)
    written = [str(d.item()) for d in digits[0]]
    title = "Reading backwards: the cross-attention of one layer"
    with run.figure("map", title, size=(6.6, 5.4)) as ax:
        names = {"rows": [*written[::-1], "end"], "columns": [*written, "end"]}
        labels = {"xlabel": "digit read by the encoder", "ylabel": "digit to be written next"}
        plots.heat_map(ax, maps[0], label="attention weight", limits=(0, 1), **names, **labels)
