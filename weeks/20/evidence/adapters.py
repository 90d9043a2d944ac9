"""Adapters against peft and closed forms; all of them on one task with about one budget."""

import copy
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from shared import plots
from shared.measuring import pinned
from shared.study import PositiveInt, Run
from week14.minimal_gpt import next_token_loss, random_batch
from week18.llama3 import Llama, LlamaConfig
from week18.pretrained import save_pretrained
from week19.characters import manual, trained_model
from week19.perplexity import gptq_nats
from week20.adapters import Bottleneck, Shifted, adapt, trainable
from week20.lora import LoRAConfig, inject

# Sizes that cost about 1,700 numbers in the small model ((IA)³ and BitFit have one size only).
SIZES = {"bottleneck": 2, "bitfit": 1, "ia3": 1, "prompt": 18, "prefix": 9, "LoRA": 3}
# The best of four to six rates, a factor of three apart, after 60 steps on seed 1000, which judges
# nothing.
LR = {"bottleneck": 3e-2, "bitfit": 3e-2, "ia3": 0.3, "prompt": 3e-2, "prefix": 0.3, "LoRA": 3e-2}
SEEN = "after 100 and 300 steps, on three of these seeds: gains from 0.4 (prompt) to 1.2"


def main(run: Run, *, steps: PositiveInt = 100, seeds: PositiveInt = 3) -> None:
    """Compare with peft, then adapt a character model in six ways.

    Parameters
    ----------
    steps
        Training steps of each.
    seeds
        Small models, at least 2.
    """
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    check_peft(run)
    check_closed_forms(run)
    seeds = run.budget(quick=2, default=max(2, seeds), full=max(seeds, 5))
    with pinned(1):
        judge(run, run.budget(quick=1, default=steps, full=3 * steps), seeds)


# ---- checks


def twin(model: Llama, config) -> nn.Module:
    """The same weights in transformers, with what peft adds."""
    import peft
    from transformers import LlamaForCausalLM

    with tempfile.TemporaryDirectory() as name:
        save_pretrained(model, Path(name) / "model")
        theirs = LlamaForCausalLM.from_pretrained(Path(name) / "model", attn_implementation="eager")
    return peft.get_peft_model(theirs, config)


def check_peft(run: Run) -> None:
    """Outputs and gradients of (IA)³, a prompt and a prefix, with the same numbers."""
    import peft

    sizes = {"d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2}
    base = Llama(LlamaConfig(50, **sizes), run.generator())
    for p in base.parameters():  # as it starts, gradients would be smaller than the tolerance
        p.data *= 10 if p.ndim == 2 else 1
    tokens = torch.randint(50, (3, 11), generator=run.generator(1))
    causal = {"task_type": "CAUSAL_LM"}
    same = run.against("peft", atol=1e-5, rtol=1e-4, why="float32 sums in another order")

    modules = ["k_proj", "v_proj", "down_proj"]
    config = peft.IA3Config(target_modules=modules, feedforward_modules=["down_proj"], **causal)
    ours, theirs = adapt(copy.deepcopy(base), "ia3", 1), twin(base, config)
    mine = {name: p for name, p in ours.named_parameters() if p.requires_grad}
    other = dict(theirs.named_parameters())
    matched = {}
    for name, p in mine.items():
        p.data = 1 + 0.3 * torch.randn(p.shape, generator=run.generator(2))
        _, layer, part, _ = name.split(".")
        kind = "mlp" if part == "down_proj" else "self_attn"
        key = f"base_model.model.model.layers.{layer}.{kind}.{part}.ia3_l.default"
        other[key].data = p.data.clone().reshape(other[key].shape)
        matched[f"{part}, block {layer}"] = (p, other[key])
    compare(same, "(IA)³", ours, theirs, tokens, matched)

    config = peft.PromptTuningConfig(num_virtual_tokens=4, **causal)
    ours, theirs = adapt(copy.deepcopy(base), "prompt", 4, run.generator(3)), twin(base, config)
    table = theirs.prompt_encoder["default"].embedding.weight
    table.data = ours.prompt.detach().clone()
    compare(same, "prompt", ours, theirs, tokens, {"embeddings": (ours.prompt, table)}, skip=4)

    config = peft.PrefixTuningConfig(num_virtual_tokens=4, **causal)
    ours, theirs = adapt(copy.deepcopy(base), "prefix", 4, run.generator(4)), twin(base, config)
    table = theirs.prompt_encoder["default"].embedding.weight
    both = torch.stack([ours.keys, ours.values], dim=1)  # layer, key or value, head, position, dim
    flat = both.detach().permute(3, 0, 1, 2, 4).reshape(4, -1)
    table.data = flat.clone()
    compare(same, "prefix", ours, theirs, tokens, {})
    grads = torch.stack([ours.keys.grad, ours.values.grad], dim=1)
    size = table.grad.abs().max().item()
    grads = grads.permute(3, 0, 1, 2, 4).reshape(4, -1)
    same("prefix: gradients", grads, table.grad, atol=1e-4 * size)


def compare(
    same, name: str, ours: nn.Module, theirs: nn.Module, tokens: Tensor, matched, *, skip: int = 0
) -> None:
    """Logits, and gradients of the pairs; what theirs says of its first `skip` positions is cut."""
    y, z = ours(tokens), theirs(tokens).logits[:, skip:]
    same(f"{name}: logits", y, z)
    for logits in (y, z):
        next_token_loss(logits[:, :-1], tokens[:, 1:]).backward()
    for part, (a, b) in matched.items():
        size = b.grad.abs().max().item()
        same(f"{name}: gradient of {part}", a.grad.flatten(), b.grad.flatten(), atol=1e-4 * size)


def check_closed_forms(run: Run) -> None:
    """A bottleneck's and a bias's derivatives; BitFit's first steps against a layer with a bias."""
    linear = nn.Linear(12, 8, bias=False).double().requires_grad_(False)
    x = torch.randn(20, 12, generator=run.generator(5), dtype=torch.float64)
    exact = run.against("the chain rule by hand", kind="theorem", atol=1e-10, why="float64")
    layer = Bottleneck(linear, 3, run.generator(6)).double()
    layer.up.data = torch.randn(8, 3, generator=run.generator(7), dtype=torch.float64)
    out = layer(x)
    out.square().sum().backward()
    y = x @ linear.weight.T
    inner = y @ layer.down.T
    cdf = 0.5 * (1 + torch.erf(inner / 2**0.5))
    slope = cdf + inner * torch.exp(-(inner**2) / 2) / (2 * torch.pi) ** 0.5
    exact("bottleneck: outputs", out, y + (inner * cdf) @ layer.up.T)
    exact("bottleneck: gradient of U", layer.up.grad, (2 * out).T @ (inner * cdf))
    exact("bottleneck: gradient of D", layer.down.grad, (2 * out @ layer.up * slope).T @ y)
    shifted, plain = Shifted(linear).double(), nn.Linear(12, 8).double()
    plain.weight.data, plain.bias.data = linear.weight.data.clone(), torch.zeros(8).double()
    plain.weight.requires_grad_(False)
    for model, bias in ((shifted, shifted.shift), (plain, plain.bias)):
        optimizer = torch.optim.Adam([bias], lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            (model(x) - 1).square().sum().backward()
            optimizer.step()
    same = {"against": "torch.nn.Linear's bias under Adam", "atol": 1e-12, "why": "float64"}
    run.check("BitFit: the bias after three steps", shifted.shift, plain.bias, **same)


# ---- one task


def adapted(base: Llama, name: str, seed: int) -> nn.Module:
    """A copy of the model with what a method learns."""
    generator, model = torch.Generator().manual_seed(seed), copy.deepcopy(base)
    if name == "LoRA":
        return inject(model, LoRAConfig(r=SIZES[name], alpha=6.0), generator)
    return adapt(model, name, SIZES[name], generator)


def fit(model: nn.Module, tokens: Tensor, steps: int, seed: int, lr: float) -> nn.Module:
    """Train what is not frozen; the learning rate falls to zero."""
    generator = torch.Generator().manual_seed(seed)
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=lr, weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        x, y = random_batch(tokens, 4, 128, generator)
        optimizer.zero_grad()
        next_token_loss(model(x), y).backward()
        optimizer.step()
    return model


def capitals() -> tuple[Tensor, Tensor]:
    """Python's manual in capitals, in the alphabet of the manual as it is."""
    text = manual()
    big = {c: text.alphabet.find(c.upper()) for c in text.alphabet}
    table = torch.tensor([big[c] if big[c] >= 0 else i for i, c in enumerate(text.alphabet)])
    return table[text.training], table[text.held_out]


def judge(run: Run, steps: int, seeds: int) -> None:
    """Nats per character of the manual in capitals, after each method's training."""
    text, (new, held) = manual(), capitals()
    held = held[: run.budget(quick=1, default=12) * 256]
    rows: dict[str, list[float]] = {name: [] for name in ("frozen", *SIZES, "shuffled")}
    counts = {}
    for seed in range(run.seed, run.seed + seeds):
        base = trained_model(text, run.budget(quick=1, default=300), seed)
        models = {"frozen": base}
        for name in SIZES:
            models[name] = fit(adapted(base, name, seed), new, steps, seed, LR[name])
            counts[name] = trainable(models[name])
        shuffled = new[torch.randperm(len(new), generator=run.generator(seed))]
        start = adapted(base, "bottleneck", seed)
        models["shuffled"] = fit(start, shuffled, steps, seed, LR["bottleneck"])
        for name, model in models.items():
            rows[name].append(gptq_nats(model, held, context=256).mean().item())
    counted = torch.bincount(held, minlength=len(text.alphabet)).float()
    ignorance = torch.distributions.Categorical(counted).entropy().item()
    late = {"quick": False, "unit": "nats/char"}
    for name in SIZES:
        gains = [a - b for a, b in zip(rows["frozen"], rows[name], strict=True)]
        claim = f"{name} learns"
        note = f"{counts[name]:,} numbers"
        run.claim(claim, gains, at_least=0.2, **late, note=note, seen_before=SEEN)
        run.metric(f"numbers trained, {name}", counts[name])
        run.metric(f"nats per character, {name}", sum(rows[name]) / seeds, "nats/char", rtol=0.2)
    run.falsifier("frozen", [0.0] * seeds, breaks="bottleneck learns")
    below = "a bottleneck learns more than which characters are frequent"
    gains = [ignorance - v for v in rows["bottleneck"]]
    seen = "after 300 steps, on three of these seeds: 0.4 ± 0.1"
    run.claim(below, gains, at_least=0.1, **late, seen_before=seen)
    broken = [ignorance - v for v in rows["shuffled"]]
    run.falsifier("bottleneck, shuffled characters", broken, breaks=below)
    for name in ("prompt", "prefix", "ia3"):
        ahead = [a - b for a, b in zip(rows[name], rows["LoRA"], strict=True)]
        run.claim(f"LoRA ends below {name}", ahead, at_least=0.0, **late, seen_before=SEEN)
    run.metric("nats per character, frozen", sum(rows["frozen"]) / seeds, "nats/char", rtol=0.2)
    with run.figure(
        "methods", "What does each way of adapting reach, at about one budget?"
    ) as axes:
        named = {f"{name}\n{counts[name]:,} numbers": rows[name] for name in SIZES}
        lines = {"frequencies alone": ignorance}
        label = f"nats per character, the manual in capitals, {steps} steps (dots: seeds)"
        plots.bars(axes, named, reference=lines, xlabel=label)
