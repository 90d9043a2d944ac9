"""The GPT against transformers, against counting, and against itself on shuffled text."""

import math
import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared import datasets, plots
from shared.study import NonNegativeInt, PositiveFloat, PositiveInt, Run, UserError
from week13.attention import attention_weights
from week14.minimal_gpt import (
    GPT,
    GPTConfig,
    evaluate,
    next_token_loss,
    random_batch,
    sample,
    train,
    training_losses,
)
from week14.ngram import WittenBell, bits_per_character, encode_characters
from week14.transformers_layout import from_gpt2, from_gpt_neox


def main(
    run: Run,
    *,
    dataset: str = "pydocs",
    text: Path | None = None,
    steps: PositiveInt | None = None,
    batch: PositiveInt = 16,
    context: PositiveInt = 64,
    layers: PositiveInt = 3,
    heads: PositiveInt = 4,
    width: PositiveInt = 96,
    positions: Literal["rotary", "learned"] = "rotary",
    optimizer: Literal["muon", "adamw"] = "muon",
    temperature: PositiveFloat = 0.8,
    top_k: NonNegativeInt = 0,
    prompt: str | None = None,
    sample_length: NonNegativeInt = 600,
) -> None:
    """Train a GPT on text and see whether it beats counting.

    Parameters
    ----------
    dataset
        pydocs, tinyshakespeare, wikitext2 or wikipedia.
    text
        A text file of your own (UTF-8) instead of a dataset.
    steps
        Training steps; about a minute's worth if not given.
    batch
        Windows per step.
    context
        Characters per window.
    layers
        Transformer blocks.
    heads
        Attention heads per block.
    width
        Dimensions of the residual stream.
    positions
        How the model knows the order of characters.
    optimizer
        muon is Muon for the blocks' matrices and AdamW for the rest; adamw is AdamW for all.
    temperature
        Of the samples: lower is safer, higher is wilder.
    top_k
        Draw among the k likeliest characters only; 0 for all.
    prompt
        How the sample begins; "The " if not given.
    sample_length
        Characters to write.
    """
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    steps = steps or run.budget(quick=6, default=900, full=3000)
    corpus = datasets.read_text_file(text) if text else datasets.load_text(dataset)
    ids, alphabet = encode_characters(corpus)
    if len(ids) < (least := 40 * (context + 1)):
        need = f"at least {least} characters for --context {context}"
        raise UserError(f"the text must hold {need}, got {len(ids)}")
    begin = encode_prompt(prompt, alphabet)
    tokens, split = torch.from_numpy(ids), int(0.9 * len(ids))
    training, validation = tokens[:split], tokens[split:]
    validation = validation[: run.budget(quick=max(4000, 8 * context), default=len(validation))]

    config = GPTConfig(len(alphabet), context, layers, heads, width, positions)
    model, control = (GPT(config, run.generator()).to(run.device) for _ in range(2))
    size = sum(p.numel() for p in model.parameters())
    run.chose(steps=steps)
    run.say(
        f"{text or dataset}: {len(ids):,} characters, alphabet of {len(alphabet)}; "
        f"GPT of {size:,} parameters on {run.device}"
    )
    check_against_transformers(run)
    first, guess = evaluate(model, validation, window=context), math.log(len(alphabet))
    spread = 0.02**2 * width / 2  # half a logit's variance: a normalized stream times a fresh head
    why = "random logits cost half their variance, give or take 1 %"
    tolerance = {"rtol": 0.01, "atol": spread, "why": why, "kind": "theorem"}
    run.check("loss before training", first, guess, against="ln(alphabet), guessing", **tolerance)

    start, losses = time.perf_counter(), []
    options = {"batch": batch, "optimizer": optimizer}
    going = training_losses(model, training, steps=steps, generator=run.generator(1), **options)
    for step, loss in zip(run.progress(range(1, steps + 1), "training"), going, strict=True):
        losses.append(loss)
        rate = step * batch * context / (time.perf_counter() - start)
        run.status(f"loss {loss:.2f}, {rate:,.0f} characters/s")
    mixed = training[torch.randperm(len(training), generator=run.generator(3))]
    short = max(steps // 6, 3)
    shuffled = train(control, mixed, steps=short, generator=run.generator(1), **options)

    ngrams = count_ngrams(ids[:split], validation.numpy(), len(alphabet))
    parts = validation.tensor_split(max(2, min(STRETCHES, len(validation) // (4 * context))))
    found = [[evaluate(m, part, window=context) for part in parts] for m in (model, control)]
    gpt, mixed_up = np.array(found)
    wins = text is None and (dataset, positions, optimizer) == ("pydocs", "rotary", "muon")
    judge(run, gpt, mixed_up, ngrams, losses, must_win=wins)
    run.metric("parameters", size)
    means = {n: float(v.mean()) for n, v in ngrams.items()}
    draw_loss(run, losses, shuffled, float(gpt.mean()), means)
    draw_attention(run, model, validation[: min(context, 48)])
    style = {"temperature": temperature, "top_k": min(top_k, len(alphabet))}
    length = run.budget(quick=min(sample_length, 20), default=sample_length)
    written = sample(model, begin, length, generator=run.generator(2), **style)
    run.say(f"\nIt writes (temperature {temperature}):\n")
    run.say("".join(alphabet[i] for i in written))


def encode_prompt(prompt: str | None, alphabet: str) -> Int[Tensor, " n"]:
    """Tokens of the prompt; without one, of "The " or else of the alphabet's last character."""
    if prompt is None:
        prompt = "The " if set("The ") <= set(alphabet) else alphabet[-1]
    if not prompt:
        raise UserError("--prompt must hold at least one character, got none")
    if missing := sorted(set(prompt) - set(alphabet)):
        raise UserError(f"--prompt has characters that the text has not: {''.join(missing)!r}")
    return torch.tensor([alphabet.index(c) for c in prompt])


STRETCHES = 20  # of the validation text, for intervals


# ---- checks


def twins(positions: str, *, vocab_size: int, context: int, layers: int, heads: int, width: int):
    """A model of `transformers` with random weights, how its tensors map to ours, and our twin."""
    from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

    common = {"vocab_size": vocab_size, "bos_token_id": 0, "eos_token_id": 0}
    common["tie_word_embeddings"] = False
    if positions == "learned":
        off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0)
        sizes = {"n_positions": context, "n_embd": width, "n_layer": layers, "n_head": heads}
        theirs, layout = GPT2LMHeadModel(GPT2Config(**sizes, **off, **common)), from_gpt2
    else:
        rope = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0}
        sizes = {"max_position_embeddings": context, "hidden_size": width}
        sizes |= {"num_hidden_layers": layers, "num_attention_heads": heads}
        kind = {"rope_parameters": rope, "hidden_act": "gelu_new", "use_parallel_residual": False}
        config = GPTNeoXConfig(intermediate_size=4 * width, **sizes, **kind, **common)
        theirs = GPTNeoXForCausalLM(config)

        def layout(tensors):
            return from_gpt_neox(tensors, heads)

    for p in theirs.parameters():  # biases and norms too: zeros and ones would hide mistakes
        nn.init.normal_(p, std=0.2)
    ours = GPT(GPTConfig(vocab_size, context, layers, heads, width, positions))
    ours.load_state_dict(layout(theirs.state_dict()))
    return ours, theirs.eval(), layout


def check_against_transformers(run: Run) -> None:
    """Same weights, same tokens: logits, gradients and steps as the models of `transformers`."""
    torch.manual_seed(run.seed)
    tokens = torch.randint(31, (3, 17), generator=run.generator())
    sizes = {"vocab_size": 31, "context": 16, "layers": 2, "heads": 4, "width": 24}
    for positions in ("rotary", "learned"):
        ours, theirs, layout = twins(positions, **sizes)
        why = "float32 rounding through two layers and back"
        check = run.against(f"transformers {type(theirs).__name__}", atol=1e-5, why=why)
        logits, reference = ours(tokens[:, :-1]), theirs(tokens[:, :-1]).logits
        check(f"logits, {positions} positions", logits, reference, rtol=1e-5)
        next_token_loss(logits, tokens[:, 1:]).backward()
        F.cross_entropy(reference.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        gradients = layout({name: p.grad for name, p in theirs.named_parameters()})
        reference = torch.cat([gradients[name].flatten() for name, _ in ours.named_parameters()])
        mine = torch.cat([p.grad.flatten() for p in ours.parameters()])
        size = reference.abs().max()
        check(f"gradients / largest, {positions} positions", mine / size, reference / size)
    steps_like_torch(run, ours.double(), theirs.double())


def steps_like_torch(run: Run, ours: GPT, theirs: nn.Module) -> None:
    """Ten steps of our training loop, and the same ten of transformers' model and torch's AdamW."""
    steps, tokens = 10, torch.randint(31, (200,), generator=run.generator())
    options = {"steps": steps, "batch": 3, "optimizer": "adamw"}
    losses = train(ours, tokens, generator=run.generator(1), **options)
    weights = theirs.parameters()
    adamw = torch.optim.AdamW(weights, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)
    decay = torch.optim.lr_scheduler.LinearLR(adamw, 1.0, 0.0, total_iters=steps)
    generator, reference = run.generator(1), []
    for _ in range(steps):
        x, y = random_batch(tokens, 3, 16, generator)
        loss = F.cross_entropy(theirs(x).logits.flatten(0, 1), y.flatten())
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        decay.step()
        reference.append(loss)
    against = "transformers GPT2LMHeadModel + torch.optim.AdamW"
    why = "float64 rounding, amplified by ten steps"
    found = torch.stack(reference)
    run.check("losses of the first ten steps", losses, found, against=against, rtol=1e-8, why=why)


# ---- claims


def count_ngrams(
    train: np.ndarray, valid: np.ndarray, vocab_size: int
) -> dict[int, Float[np.ndarray, " n"]]:
    """Surprise of each character of `valid`, by order: 1 to 6, or as far as keys of 63 bits go."""
    orders = [n for n in range(1, 7) if n * math.log2(max(vocab_size, 2)) < 63]
    return {n: -WittenBell(n, vocab_size).fit(train).log_probs(valid) for n in orders}


def judge(run: Run, gpt, shuffled, ngrams, losses: list[float], *, must_win: bool) -> None:
    """Metrics and claims; intervals are over stretches of the held-out text (one training seed)."""
    best = min(ngrams, key=lambda n: ngrams[n].mean())
    counted = {}
    for n, v in ngrams.items():
        counted[n] = np.array([x.mean() for x in np.array_split(v, len(gpt))])
    run.metric("GPT loss", gpt.mean(), "nats/char", rtol=0.05)
    run.metric("GPT bits", bits_per_character(gpt.mean()), "bits/char", rtol=0.05)
    run.metric("1-gram loss", ngrams[1].mean(), "nats/char")
    run.metric("best n-gram loss", ngrams[best].mean(), "nats/char")
    run.metric("control loss", shuffled.mean(), "nats/char", rtol=0.1)

    tenth, unit = max(len(losses) // 10, 2), {"unit": "nats/char"}
    fall = np.array(losses[:tenth]) - losses[-tenth:]
    run.claim("the loss falls, first tenth of training minus last", fall, at_least=0.5, **unit)
    beyond = "it learns more than the letters' frequencies"
    run.claim(beyond, counted[1] - gpt, at_least=0.1, quick=False, **unit)
    run.falsifier("trained on shuffled text", counted[1] - shuffled, breaks=beyond)
    ahead, note = counted[best] - gpt, f"best n-gram: n = {best}, {ngrams[best].mean():.3f}"
    if must_win:
        run.claim("the GPT beats counting", ahead, at_least=0, quick=False, note=note, **unit)
    else:
        run.say(f"ahead of counting by {ahead.mean():.3f} nats/char; {note}")


# ---- figures


def draw_loss(run: Run, losses, shuffled, loss: float, ngrams: dict[int, float]) -> None:
    """Smoothed loss curves, with bigrams and the best n-gram as the lines to cross."""
    lines, x = {}, {}
    for name, values in (("GPT, training text", losses), ("control: shuffled text", shuffled)):
        width = max(len(values) // 40, 1)
        lines[name] = np.convolve(values, np.ones(width) / width, mode="valid")
        x[name] = np.arange(len(lines[name])) + (width - 1) / 2
    best = min(ngrams, key=ngrams.get)
    levels = {f"{n}-gram {ngrams[n]:.2f}": ngrams[n] for n in {2, best} if n in ngrams}
    with run.figure("loss", "A minute of training overtakes counting") as axes:
        labels = {"xlabel": "training step", "ylabel": "loss (nats/character)"}
        style = {"colors": (plots.BLUE, plots.GRAY), "ends": False}
        end = f"GPT, whole validation split: {loss:.2f}"
        axes.plot(len(losses) - 1, loss, "o", color=plots.ORANGE, ms=8, zorder=3, label=end)
        plots.curves(axes, x, lines, reference=levels, **style, **labels)


@torch.no_grad()
def draw_attention(run: Run, model: GPT, tokens: Int[Tensor, " n"]) -> None:
    """One map per head: rows are queries, columns the characters they look at."""
    layers, heads = min(model.config.n_layers, 3), min(model.config.n_heads, 4)
    stream = model.residual_stream(tokens[None].to(run.device))
    distance = torch.arange(len(tokens))[:, None] - torch.arange(len(tokens))
    title, size = "Where each head looks (row: query, column: key)", (2.1 * heads, 2.35 * layers)
    with run.figure("attention", title, layers, heads, size=size, squeeze=False) as axes:
        for (layer, head), panel in np.ndenumerate(axes):
            q, k, _ = model.blocks[layer].qkv(stream[layer])
            weights = attention_weights(q, k, is_causal=True)[0, head].cpu()
            back = (weights * distance).sum(-1).mean()
            panel.imshow(weights.sqrt(), cmap="Blues", vmin=0, vmax=1)
            title = f"layer {layer + 1}, head {head + 1}\n{back:.1f} back on average"
            panel.set_title(title, fontsize=9, weight="normal")
            panel.set(xticks=[], yticks=[])
            panel.grid(visible=False)
