"""Checks, claims and figures of minimal_gpt."""

import math
import time
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from shared import datasets, plots
from shared.study import NonNegativeInt, PositiveFloat, PositiveInt, Run, UserError
from week13.attention import attention_weights
from week14.minimal_gpt import (
    GPT,
    GPTConfig,
    encode_prompt,
    evaluate,
    next_token_loss,
    random_batch,
    sample,
    train,
)
from week14.ngram import WittenBell, bits_per_character, encode_characters
from week14.transformers_layout import from_gpt2, from_gpt_neox

# ---- checks


def check_against_transformers(run: Run) -> None:
    """Same weights, same tokens: logits, gradients and steps as the models of `transformers`."""
    from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(run.seed)
    common = {"vocab_size": 31, "bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": False}
    gpt2 = GPT2LMHeadModel(
        GPT2Config(
            n_positions=16,
            n_embd=24,
            n_layer=2,
            n_head=4,
            resid_pdrop=0,
            embd_pdrop=0,
            attn_pdrop=0,
            **common,
        )
    )
    neox = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            max_position_embeddings=16,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=96,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 1.0,
            },
            hidden_act="gelu_new",
            use_parallel_residual=False,
            **common,
        )
    )
    tokens = torch.randint(31, (3, 17), generator=run.generator())
    for name, positions, theirs, layout in (
        ("GPT2LMHeadModel", "learned", gpt2, from_gpt2),
        ("GPTNeoXForCausalLM", "rotary", neox, lambda tensors: from_gpt_neox(tensors, 4)),
    ):
        theirs.eval()
        for p in theirs.parameters():  # biases and norms too: zeros and ones would hide mistakes
            nn.init.normal_(p, std=0.2)
        ours = GPT(GPTConfig(31, 16, 2, 4, 24, positions))
        ours.load_state_dict(layout(theirs.state_dict()))
        logits, reference = ours(tokens[:, :-1]), theirs(tokens[:, :-1]).logits
        run.check(
            f"logits, {positions} positions",
            logits,
            reference,
            against=f"transformers {name}",
            rtol=1e-5,
            atol=1e-5,
            why="float32 rounding through two layers",
        )
        next_token_loss(logits, tokens[:, 1:]).backward()
        F.cross_entropy(reference.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        gradients = layout({name: p.grad for name, p in theirs.named_parameters()})
        reference = torch.cat([gradients[name].flatten() for name, _ in ours.named_parameters()])
        ours_flat = torch.cat([p.grad.flatten() for p in ours.parameters()])
        size = reference.abs().max()
        run.check(
            f"gradients / largest, {positions} positions",
            ours_flat / size,
            reference / size,
            against=f"transformers {name}",
            atol=1e-5,
            why="float32 rounding through two layers and back",
        )
    steps_like_torch(run, gpt2.double())


def steps_like_torch(run: Run, theirs: nn.Module) -> None:
    """Ten steps of our training loop, and the same ten of transformers' model and torch's AdamW."""
    steps, tokens = 10, torch.randint(31, (200,), generator=run.generator())
    ours = GPT(GPTConfig(31, 16, 2, 4, 24, "learned")).double()
    ours.load_state_dict(from_gpt2(theirs.state_dict()))
    losses = train(
        ours, tokens, steps=steps, batch=3, optimizer="adamw", generator=run.generator(1)
    )
    torch_adamw = torch.optim.AdamW(
        theirs.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1
    )
    decay = torch.optim.lr_scheduler.LinearLR(torch_adamw, 1.0, 0.0, total_iters=steps)
    generator, reference = run.generator(1), []
    for _ in range(steps):
        x, y = random_batch(tokens, 3, 16, generator)
        loss = F.cross_entropy(theirs(x).logits.flatten(0, 1), y.flatten())
        torch_adamw.zero_grad()
        loss.backward()
        torch_adamw.step()
        decay.step()
        reference.append(loss.item())
    run.check(
        "losses of the first ten steps",
        np.array(losses),
        np.array(reference),
        against="transformers GPT2LMHeadModel + torch.optim.AdamW",
        rtol=1e-8,
        why="float64 rounding, amplified by ten steps",
    )


def check_first_loss(run: Run, loss: float, config: GPTConfig) -> None:
    """Before training, every character must be about equally likely."""
    variance = 0.02**2 * config.d_model  # of a logit: a normalized stream times the fresh head
    run.check(
        "loss before training",
        loss,
        math.log(config.vocab_size),
        against="ln(alphabet), guessing",
        rtol=0.01,
        atol=variance / 2,
        why="random logits cost half their variance, give or take 1 %",
    )


# ---- claims


def count_ngrams(train: np.ndarray, valid: np.ndarray, vocab_size: int) -> dict[int, float]:
    """Loss of Witten–Bell n-grams on `valid`, by order: 1 to 6, or as far as keys of 63 bits go."""
    orders = [n for n in range(1, 7) if n * math.log2(max(vocab_size, 2)) < 63]
    return {n: -float(WittenBell(n, vocab_size).fit(train).log_probs(valid).mean()) for n in orders}


def judge(
    run: Run,
    *,
    gpt: float,
    control: float,
    ngrams: dict[int, float],
    losses: list[float],
    control_losses: list[float],
    must_win: bool,
) -> None:
    """Metrics, claims and the two figures of the loss.

    Parameters
    ----------
    gpt, control
        Losses on the whole validation split, nats per character.
    must_win
        Whether beating the n-grams is a claim or only reported.
    """
    best = min(ngrams, key=ngrams.get)
    run.metric("GPT loss", gpt, "nats/char", rtol=0.05)
    run.metric("GPT bits", bits_per_character(gpt), "bits/char", rtol=0.05)
    for n, value in ngrams.items():
        run.metric(f"{n}-gram loss", value, "nats/char", rtol=0.1)
    run.metric("best n-gram loss", ngrams[best], "nats/char", rtol=0.1)
    run.metric("control loss", control, "nats/char", rtol=0.1)

    tenth = max(len(losses) // 10, 1)
    first, last = np.mean(losses[:tenth]), np.mean(losses[-tenth:])
    noise = np.std(losses[-tenth:])
    run.claim(
        "the loss falls by more than ten times its noise",
        first - last > 10 * noise,
        f"{first:.2f} in the first tenth of training, {last:.2f} ± {noise:.2f} in the last",
        quick=False,
    )
    run.claim(
        "with shuffled targets it learns the letters' frequencies at most",
        control > ngrams[1] - 0.1,
        f"control {control:.2f}, letter frequencies {ngrams[1]:.2f} nats/char",
    )
    measured = f"GPT {gpt:.3f}, best n-gram (n = {best}) {ngrams[best]:.3f} nats/char"
    if must_win:
        run.claim("the GPT beats counting", gpt < ngrams[best], measured, quick=False)
    else:
        run.say(measured)
    draw_loss(run, losses, control_losses, gpt, ngrams)
    draw_comparison(run, gpt, ngrams)


# ---- figures


def draw_loss(run: Run, losses, control_losses, loss: float, ngrams: dict[int, float]) -> None:
    """Loss curves, with the n-grams as the lines to cross."""

    def smooth(values):
        width = max(len(values) // 40, 1)
        mean = np.convolve(values, np.ones(width) / width, mode="valid")
        return np.arange(len(mean)) + (width - 1) / 2, mean

    last = len(losses) - 1
    with run.figure("loss", "A minute of training overtakes counting") as axes:
        axes.plot(losses, color=plots.BLUE, alpha=0.2, lw=0.8)
        axes.plot(*smooth(losses), color=plots.BLUE, label="GPT, training text")
        axes.plot(*smooth(control_losses), color=plots.GRAY, label="control: shuffled targets")
        axes.plot(last, loss, "o", color=plots.ORANGE, ms=8, clip_on=False)
        axes.annotate(
            f"GPT on the whole validation split: {loss:.2f}",
            (last, loss),
            xytext=(-14, 52),
            textcoords="offset points",
            ha="right",
            color=plots.ORANGE,
            arrowprops={"arrowstyle": "-", "color": plots.ORANGE},
        )
        for n, value in ngrams.items():
            if n in (2, 3) or value == min(ngrams.values()):
                axes.axhline(value, color=plots.REFERENCE, lw=1, ls="--")
                label = f"  {n}-gram {value:.2f}"
                axes.text(len(losses), value, label, va="bottom", color=plots.REFERENCE)
        axes.set(
            xlabel="training step",
            ylabel="loss (nats/character)",
            xlim=(0, len(losses)),
            ylim=(min(loss, *ngrams.values()) - 0.35, max(losses) + 0.1),
        )
        axes.legend(loc="upper right")


def draw_comparison(run: Run, loss: float, ngrams: dict[int, float]) -> None:
    """Bars: letter frequencies, n-grams, the GPT."""
    names = {n: f"{n}-gram" for n in ngrams} | {1: "letter frequencies"}
    rows = {names[n]: value for n, value in ngrams.items()} | {"GPT": loss}
    colors = [plots.BLUE if name == "GPT" else plots.SKY for name in rows]
    with run.figure("comparison", "Surprise per character of unseen text") as axes:
        axes.barh(list(rows), list(rows.values()), color=colors)
        for i, value in enumerate(rows.values()):
            axes.text(
                value,
                i,
                f" {value:.2f} nats = {bits_per_character(value):.2f} bits",
                va="center",
                fontsize=10,
            )
        axes.set(
            xlabel="loss on the whole validation split (nats/character)",
            xlim=(0, 1.28 * max(rows.values())),
        )
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)


@torch.no_grad()
def draw_attention(run: Run, model: GPT, tokens: Int[Tensor, " n"]) -> None:
    """One map a head: rows are queries, columns the characters they look at."""
    layers, heads = min(model.config.n_layers, 3), min(model.config.n_heads, 4)
    stream = model.residual_stream(tokens[None].to(run.device))
    distance = torch.arange(len(tokens))[:, None] - torch.arange(len(tokens))
    with run.figure(
        "attention",
        "Where each head looks (row: query, column: key)",
        layers,
        heads,
        size=(2.1 * heads, 2.35 * layers),
        squeeze=False,
    ) as axes:
        for layer in range(layers):
            q, k, _ = model.blocks[layer].qkv(stream[layer])
            weights = attention_weights(q, k, is_causal=True)[0].cpu()
            for head in range(heads):
                back = (weights[head] * distance).sum(-1).mean()
                panel = axes[layer, head]
                panel.imshow(weights[head].sqrt(), cmap="Blues", vmin=0, vmax=1)
                panel.set_title(
                    f"layer {layer + 1}, head {head + 1}\n{back:.1f} back on average",
                    fontsize=9,
                    weight="normal",
                )
                panel.set(xticks=[], yticks=[])
                panel.grid(visible=False)


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
        Windows a step.
    context
        Characters a window.
    layers
        Transformer blocks.
    heads
        Attention heads a block.
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
    steps = steps or run.budget(quick=20, default=900, full=3000)
    corpus = datasets.read_text_file(text) if text else datasets.load_text(dataset)
    ids, alphabet = encode_characters(corpus)
    if len(ids) < 20 * (context + 1):
        raise UserError(
            f"the text must hold at least {20 * (context + 1)} characters for --context"
            f" {context}, got {len(ids)}"
        )
    prompt_ids = encode_prompt(prompt, alphabet)
    tokens = torch.from_numpy(ids)
    split = int(0.9 * len(tokens))
    training, validation = tokens[:split], tokens[split:]

    config = GPTConfig(len(alphabet), context, layers, heads, width, positions)
    model, control = (GPT(config, run.generator()).to(run.device) for _ in range(2))
    run.say(
        f"{text or dataset}: {len(ids):,} characters, alphabet of {len(alphabet)}; "
        f"GPT of {sum(p.numel() for p in model.parameters()):,} parameters on {run.device}"
    )
    check_against_transformers(run)
    check_first_loss(run, evaluate(model, validation, window=context), config)

    start = time.perf_counter()

    def told(step: int, loss: float) -> None:
        rate = (step + 1) * batch * context / (time.perf_counter() - start)
        run.status(f"loss {loss:.2f}, {rate:,.0f} characters/s")

    options = {"batch": batch, "optimizer": optimizer}
    losses = train(
        model,
        training,
        steps=steps,
        generator=run.generator(1),
        told=told,
        steps_of=lambda n: run.progress(range(n), "training"),
        **options,
    )
    seconds = time.perf_counter() - start
    control_losses = train(
        control,
        training,
        steps=max(steps // 6, 10),
        generator=run.generator(1),
        shuffle_targets=True,
        steps_of=lambda n: run.progress(range(n), "control"),
        **options,
    )

    judge(
        run,
        gpt=evaluate(model, validation, window=context),
        control=evaluate(control, validation, window=context),
        ngrams=count_ngrams(ids[:split], ids[split:], len(alphabet)),
        losses=losses,
        control_losses=control_losses,
        must_win=text is None and (dataset, positions, optimizer) == ("pydocs", "rotary", "muon"),
    )
    run.metric("parameters", sum(p.numel() for p in model.parameters()), "", rtol=0.02)
    run.metric("training time", seconds, "s", rtol=None)
    draw_attention(run, model, validation[: min(context, 48)])
    written = sample(
        model,
        prompt_ids,
        sample_length,
        temperature=temperature,
        top_k=min(top_k, len(alphabet)),
        generator=run.generator(2),
    )
    run.say(f"\nIt writes (temperature {temperature}):\n")
    run.say("".join(alphabet[i] for i in written))
