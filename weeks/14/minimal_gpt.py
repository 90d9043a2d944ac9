r"""A small GPT that learns English from nothing on a laptop, in one file.

Text is a sequence of characters; the model gives, after every character, a distribution over the
next one, and training lowers the average surprise

$$L(\theta) = -\frac{1}{T} \sum_{t=1}^{T} \ln p_\theta(x_t \mid x_1, \dots, x_{t-1})
  \quad \text{(nats per character)}.$$

    uv run weeks/14/minimal_gpt.py                                # Python's manual, about a minute
    uv run weeks/14/minimal_gpt.py --dataset tinyshakespeare
    uv run weeks/14/minimal_gpt.py --text my_diary.txt --steps 2000 --prompt "Dear"

Sources: Radford et al., "Language models are unsupervised multitask learners" (2019), section 2.3;
Su et al., "RoFormer" (2021) for the positions; Jordan et al., "Muon" (2024) for the optimiser.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from week09.optimizers import AdamW, Muon
from week13.attention import attention_weights, scaled_dot_product_attention
from week13.positional_encodings import apply_rope
from week14.ngram import WittenBell, bits_per_character, encode_characters
from week14.transformers_layout import from_gpt2, from_gpt_neox

from shared import datasets, plots
from shared.study import NonNegativeInt, PositiveFloat, PositiveInt, Run, UserError, cli

# ---- the model


@dataclass(frozen=True)
class GPTConfig:
    """Sizes of a GPT.

    Attributes
    ----------
    context
        Most characters the model sees at once.
    positions
        `rotary` turns queries and keys by their position; `learned` adds a vector per position.
    """

    vocab_size: int
    context: int = 64
    n_layers: int = 3
    n_heads: int = 4
    d_model: int = 96
    positions: Literal["rotary", "learned"] = "rotary"

    def __post_init__(self):
        for name in ("vocab_size", "context", "n_layers", "n_heads", "d_model"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.d_model % self.n_heads:
            raise ValueError(f"n_heads must divide d_model = {self.d_model}, got {self.n_heads}")
        if self.positions == "rotary" and self.d_model // self.n_heads % 2:
            raise ValueError(
                "rotary positions need an even head dimension, "
                f"got d_model / n_heads = {self.d_model // self.n_heads}"
            )


class Block(nn.Module):
    """One layer: attention moves information between positions, the MLP works on each alone.

    Both read a normalised copy of the residual stream and add to it (pre-norm).
    """

    def __init__(self, config: GPTConfig):
        super().__init__()
        d = config.d_model
        self.n_heads, self.rotary = config.n_heads, config.positions == "rotary"
        self.attention_norm, self.mlp_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(d, d) for _ in range(3))
        self.out_proj = nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def qkv(self, x: Float[Tensor, "batch seq d_model"]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (batch, head, seq, head_dim)."""
        x = self.attention_norm(x)
        q, k, v = (
            project(x).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        return (apply_rope(q), apply_rope(k), v) if self.rotary else (q, k, v)

    def forward(self, x: Float[Tensor, "batch seq d_model"]) -> Float[Tensor, "batch seq d_model"]:
        """The residual stream after this layer."""
        heads = scaled_dot_product_attention(*self.qkv(x), is_causal=True)
        x = x + self.out_proj(heads.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x)), approximate="tanh"))


class GPT(nn.Module):
    """Decoder-only transformer over a fixed alphabet, with an untied output head.

    References
    ----------
    Radford et al. (2019), section 2.3: pre-norm, final norm, residual projections scaled by
    1/sqrt(2 n_layers) at initialisation.
    """

    def __init__(self, config: GPTConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        if config.positions == "learned":
            self.positions = nn.Embedding(config.context, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model)
        self.head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                onto_stream = name.endswith(("out_proj.weight", "down.weight"))
                std = 0.02 / math.sqrt(2 * config.n_layers) if onto_stream else 0.02
                nn.init.normal_(p, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq vocab"]:
        """Logits of the next token after each one."""
        return self.head(self.norm(self.residual_stream(tokens)[-1]))

    def residual_stream(self, tokens: Int[Tensor, "batch seq"]) -> list[Tensor]:
        """The stream (batch, seq, d_model) before each block and after the last."""
        if tokens.shape[1] > self.config.context:
            raise ValueError(
                f"tokens must be at most context = {self.config.context} long, "
                f"got {tokens.shape[1]}"
            )
        x = self.embed(tokens)
        if self.config.positions == "learned":
            x = x + self.positions.weight[: tokens.shape[1]]
        stream = [x]
        for block in self.blocks:
            stream.append(block(stream[-1]))
        return stream


# ---- training


def next_token_loss(
    logits: Float[Tensor, "batch seq vocab"], targets: Int[Tensor, "batch seq"]
) -> Float[Tensor, ""]:
    """Mean surprise of the targets, in nats per token."""
    log_probs = logits.log_softmax(dim=-1)
    return -log_probs.gather(-1, targets[..., None]).mean()


def random_batch(
    tokens: Int[Tensor, " n"], batch: int, context: int, generator: torch.Generator
) -> tuple[Int[Tensor, "batch seq"], Int[Tensor, "batch seq"]]:
    """Windows from random places, and the same windows one character later."""
    starts = torch.randint(len(tokens) - context, (batch, 1), generator=generator)
    index = starts + torch.arange(context)
    return tokens[index], tokens[index + 1]


def make_optimizers(model: GPT, name: Literal["muon", "adamw"]) -> list[AdamW | Muon]:
    """Muon for the matrices of the blocks and AdamW for the rest, or AdamW for all."""
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    if name == "adamw":
        return [AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1)]
    of_blocks = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in of_blocks]
    return [
        Muon(matrices, lr=0.02),
        AdamW(rest, lr=1.2e-2, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def train(
    model: GPT,
    tokens: Int[Tensor, " n"],
    *,
    steps: int,
    batch: int,
    optimizer: Literal["muon", "adamw"],
    generator: torch.Generator,
    shuffle_targets: bool = False,
    steps_of: Callable = range,
    told: Callable[[int, float], None] = lambda step, loss: None,
) -> list[float]:
    """Train `model` in place, the learning rate falling linearly to zero.

    Parameters
    ----------
    tokens
        Training text.
    batch
        Windows a step, each of the model's context.
    shuffle_targets
        The control: every input is paired with the target of some other input.
    steps_of
        What to iterate over instead of `range(steps)`, such as a progress bar.
    told
        Called with every step and its loss.

    Returns
    -------
    losses
        Training loss at each step, nats per character.
    """
    device = next(model.parameters()).device
    optimizers = make_optimizers(model, optimizer)
    peak = [o.lr for o in optimizers]
    losses = []
    for step in steps_of(steps):
        x, y = random_batch(tokens, batch, model.config.context, generator)
        if shuffle_targets:
            y = y.flatten()[torch.randperm(y.numel(), generator=generator)].view_as(y)
        loss = next_token_loss(model(x.to(device)), y.to(device))
        for o, lr in zip(optimizers, peak, strict=True):
            o.zero_grad()
            o.lr = lr * (1 - step / steps)
        loss.backward()
        for o in optimizers:
            o.step()
        losses.append(loss.item())
        told(step, losses[-1])
    return losses


@torch.no_grad()
def evaluate(model: GPT, tokens: Int[Tensor, " n"], *, window: int) -> float:
    """Loss over the whole of `tokens`, cut into windows that do not overlap (nats per character).

    The first character of a window is predicted from one character only, so this is an upper bound
    on what the model would have with its full context everywhere. Characters that do not fill a
    last window are left out.
    """
    if len(tokens) <= window:
        raise ValueError(f"tokens must be longer than window = {window}, got {len(tokens)}")
    device = next(model.parameters()).device
    n = (len(tokens) - 1) // window
    x, y = tokens[: n * window].view(n, window), tokens[1 : n * window + 1].view(n, window)
    total = 0.0
    for i in range(0, n, 64):
        logits = model(x[i : i + 64].to(device))
        total += next_token_loss(logits, y[i : i + 64].to(device)).item() * len(x[i : i + 64])
    return total / n


@torch.no_grad()
def sample(
    model: GPT,
    prompt: Int[Tensor, " n"],
    length: int,
    *,
    temperature: float = 0.8,
    top_k: int = 0,
    generator: torch.Generator | None = None,
) -> Int[Tensor, " m"]:
    """Continue `prompt` by `length` tokens, one at a time.

    Parameters
    ----------
    temperature
        Divides the logits; towards 0 the likeliest token always wins.
    top_k
        Only the k likeliest tokens may be drawn; 0 allows all.
    """
    if len(prompt) == 0:
        raise ValueError("prompt must hold at least one token, got none")
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if not 0 <= top_k <= model.config.vocab_size:
        raise ValueError(
            f"top_k must be between 0 and vocab_size = {model.config.vocab_size}, got {top_k}"
        )
    tokens = prompt.to(next(model.parameters()).device)
    for _ in range(length):
        logits = model(tokens[None, -model.config.context :])[0, -1] / temperature
        if top_k:
            logits[logits < logits.topk(top_k).values[-1]] = -torch.inf
        token = torch.multinomial(logits.softmax(-1).cpu(), 1, generator=generator)
        tokens = torch.cat([tokens, token.to(tokens.device)])
    return tokens.cpu()


# ---- the experiment


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
    prompt: str = "The ",
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
        How the sample begins.
    sample_length
        Characters to write.
    """
    steps = steps or run.budget(quick=20, default=900, full=3000)
    corpus = datasets.read_text_file(text) if text else datasets.load_text(dataset)
    ids, alphabet = encode_characters(corpus)
    if len(ids) < 20 * (context + 1):
        raise UserError(f"the text must hold at least {20 * (context + 1)} characters for --context"
                        f" {context}, got {len(ids)}")  # fmt: skip
    if missing := sorted(set(prompt) - set(alphabet)):
        raise UserError(f"--prompt has characters that the text has not: {''.join(missing)!r}")
    if not prompt:
        raise UserError("--prompt must hold at least one character, got none")
    tokens = torch.from_numpy(ids)
    split = int(0.9 * len(tokens))
    training, validation = tokens[:split], tokens[split:]
    config = GPTConfig(len(alphabet), context, layers, heads, width, positions)
    model = GPT(config, run.generator()).to(run.device)
    n_parameters = sum(p.numel() for p in model.parameters())
    run.say(f"{text or dataset}: {len(ids):,} characters, alphabet of {len(alphabet)}; "
            f"GPT of {n_parameters:,} parameters on {run.device}")  # fmt: skip

    check_against_transformers(run)
    initial = evaluate(model, validation, window=context)
    run.check("loss before training", initial, math.log(len(alphabet)),
              against="ln(alphabet), guessing", rtol=0.02,
              why="logits of a fresh head have a standard deviation near 0.2")  # fmt: skip

    # Counting, the rival
    orders = [n for n in range(2, 7) if n * math.log2(len(alphabet)) < 62]
    ngrams = {
        n: -float(WittenBell(n, len(alphabet)).fit(ids[:split]).log_probs(ids[split:]).mean())
        for n in orders
    }
    best = min(ngrams, key=ngrams.get)

    # Training
    start = time.perf_counter()

    def told(step: int, loss: float) -> None:
        if step % 10 == 9:
            rate = (step + 1) * batch * context / (time.perf_counter() - start)
            run.status(f"loss {loss:.2f}, {rate:,.0f} characters/s")

    losses = train(
        model, training, steps=steps, batch=batch, optimizer=optimizer,
        generator=run.generator(1), told=told,
        steps_of=lambda n: run.progress(range(n), "training"),
    )  # fmt: skip
    seconds = time.perf_counter() - start
    loss = evaluate(model, validation, window=context)

    # The control: the same text, every target swapped with another's
    control = GPT(config, run.generator()).to(run.device)
    control_losses = train(
        control, training, steps=max(steps // 6, 10), batch=batch, optimizer=optimizer,
        generator=run.generator(1), shuffle_targets=True,
        steps_of=lambda n: run.progress(range(n), "control"),
    )  # fmt: skip
    control_loss = evaluate(control, validation, window=context)
    unigram = -float(WittenBell(1, len(alphabet)).fit(ids[:split]).log_probs(ids[split:]).mean())

    run.metric("GPT loss", loss, "nats/char", rtol=0.05)
    run.metric("GPT bits", bits_per_character(loss), "bits/char", rtol=0.05)
    for n, value in ngrams.items():
        run.metric(f"{n}-gram loss", value, "nats/char", rtol=0.1)
    run.metric("best n-gram loss", ngrams[best], "nats/char", rtol=0.1)
    run.metric("control loss", control_loss, "nats/char", rtol=0.1)
    run.metric("parameters", n_parameters, "", rtol=0)
    run.metric("training time", seconds, "s", rtol=None)
    tenth = max(steps // 10, 1)
    run.claim("the loss falls", np.mean(losses[-tenth:]) < np.mean(losses[:tenth]) - 0.5,
              f"{np.mean(losses[:tenth]):.2f} in the first tenth of training, "
              f"{np.mean(losses[-tenth:]):.2f} in the last", quick=False)  # fmt: skip
    run.claim("with shuffled targets it learns the letters' frequencies at most",
              control_loss > unigram - 0.1,
              f"control {control_loss:.2f}, letter frequencies {unigram:.2f} nats/char")  # fmt: skip
    verdict = f"GPT {loss:.3f}, best n-gram (n = {best}) {ngrams[best]:.3f} nats/char"
    if text is None and dataset == "pydocs" and (positions, optimizer) == ("rotary", "muon"):
        run.claim("the GPT beats counting", loss < ngrams[best], verdict, quick=False)
    else:
        run.say(verdict)

    draw_loss(run, losses, control_losses, loss, ngrams)
    draw_comparison(run, loss, ngrams, unigram, math.log(len(alphabet)))
    draw_attention(run, model, validation[: min(context, 48)], alphabet)
    start_ids = torch.tensor([alphabet.index(c) for c in prompt])
    written = sample(model, start_ids, sample_length, temperature=temperature,
                     top_k=min(top_k, len(alphabet)), generator=run.generator(2))  # fmt: skip
    run.say(f"\nIt writes (temperature {temperature}):\n")
    run.say("".join(alphabet[i] for i in written))


def check_against_transformers(run: Run) -> None:
    """Same weights, same tokens: logits, gradients and optimiser steps as `transformers`' models."""
    from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(run.seed)
    common = {"vocab_size": 31, "bos_token_id": 0, "eos_token_id": 0, "tie_word_embeddings": False}
    gpt2 = GPT2LMHeadModel(GPT2Config(
        n_positions=16, n_embd=24, n_layer=2, n_head=4, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        **common))  # fmt: skip
    neox = GPTNeoXForCausalLM(GPTNeoXConfig(
        max_position_embeddings=16, hidden_size=24, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=96, rope_parameters={"rope_type": "default", "rope_theta": 10000.0,
                                               "partial_rotary_factor": 1.0},
        hidden_act="gelu_new", use_parallel_residual=False, **common))  # fmt: skip
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
        run.check(f"logits, {positions} positions", logits, reference,
                  against=f"transformers {name}", rtol=1e-5, atol=1e-5,
                  why="float32 rounding through two layers")  # fmt: skip
        next_token_loss(logits, tokens[:, 1:]).backward()
        F.cross_entropy(reference.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        gradients = layout({name: p.grad for name, p in theirs.named_parameters()})
        reference = torch.cat([gradients[name].flatten() for name, _ in ours.named_parameters()])
        ours_flat = torch.cat([p.grad.flatten() for p in ours.parameters()])
        size = reference.abs().max()
        run.check(f"gradients / largest, {positions} positions", ours_flat / size, reference / size,
                  against=f"transformers {name}", atol=1e-5,
                  why="float32 rounding through two layers and back")  # fmt: skip
    steps_like_torch(run, gpt2.double())


def steps_like_torch(run: Run, theirs: nn.Module) -> None:
    """Ten steps of our training loop, and the same ten of transformers' model and torch's AdamW."""
    steps, tokens = 10, torch.randint(31, (200,), generator=run.generator())
    ours = GPT(GPTConfig(31, 16, 2, 4, 24, "learned")).double()
    ours.load_state_dict(from_gpt2(theirs.state_dict()))
    losses = train(ours, tokens, steps=steps, batch=3, optimizer="adamw",
                   generator=run.generator(1))  # fmt: skip
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
    run.check("losses of the first ten steps", np.array(losses), np.array(reference),
              against="transformers GPT2LMHeadModel + torch.optim.AdamW", rtol=1e-8,
              why="float64 rounding, amplified by ten steps")  # fmt: skip


# ---- figures


def draw_loss(run: Run, losses, control_losses, loss: float, ngrams: dict[int, float]) -> None:
    """Loss curves, with the n-grams as the lines to cross."""

    def smooth(values):
        width = max(len(values) // 40, 1)
        return np.convolve(values, np.ones(width) / width, mode="valid")

    with run.figure("loss", "A minute of training overtakes counting") as axes:
        axes.plot(losses, color=plots.BLUE, alpha=0.2, lw=0.8)
        axes.plot(smooth(losses), color=plots.BLUE, label="GPT, training text")
        axes.plot(smooth(control_losses), color=plots.GREY, label="control: shuffled targets")
        axes.plot(len(losses) - 1, loss, "o", color=plots.ORANGE, ms=8)
        axes.annotate(f"whole validation split: {loss:.3f}", (len(losses) - 1, loss),
                      xytext=(-8, -16), textcoords="offset points", ha="right",
                      color=plots.ORANGE)  # fmt: skip
        for n, value in ngrams.items():
            if n in (2, 3) or value == min(ngrams.values()):
                axes.axhline(value, color=plots.REFERENCE, lw=1, ls="--")
                axes.text(len(losses), value, f" {n}-gram {value:.2f}", va="center",
                          color=plots.REFERENCE, fontsize=10)  # fmt: skip
        axes.set(xlabel="training step", ylabel="loss (nats/character)", xlim=(0, len(losses)),
                 ylim=(min(loss, *ngrams.values()) - 0.3, max(losses) + 0.1))  # fmt: skip
        axes.legend(loc="upper right")


def draw_comparison(run: Run, loss, ngrams: dict[int, float], unigram, guessing) -> None:
    """Bars: guessing, letter frequencies, n-grams, the GPT."""
    rows = {"guessing": guessing, "letter frequencies": unigram}
    rows |= {f"{n}-gram": value for n, value in ngrams.items()} | {"GPT": loss}
    colors = [plots.BLUE if name == "GPT" else plots.SKY for name in rows]
    with run.figure("comparison", "Surprise per character of unseen text") as axes:
        axes.barh(list(rows), list(rows.values()), color=colors)
        for i, value in enumerate(rows.values()):
            axes.text(value, i, f" {value:.2f} nats = {bits_per_character(value):.2f} bits",
                      va="center", fontsize=10)  # fmt: skip
        axes.set(xlabel="loss on the whole validation split (nats/character)",
                 xlim=(0, 1.25 * guessing))  # fmt: skip
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)


@torch.no_grad()
def draw_attention(run: Run, model: GPT, tokens: Int[Tensor, " n"], alphabet: str) -> None:
    """One map a head: rows are queries, columns the characters they look at."""
    layers, heads = min(model.config.n_layers, 3), min(model.config.n_heads, 4)
    stream = model.residual_stream(tokens[None].to(run.device))
    distance = torch.arange(len(tokens))[:, None] - torch.arange(len(tokens))
    with run.figure("attention", "Where each head looks (row: query, column: key)", layers, heads,
                    size=(2.1 * heads, 2.35 * layers), squeeze=False) as axes:  # fmt: skip
        for layer in range(layers):
            q, k, _ = model.blocks[layer].qkv(stream[layer])
            weights = attention_weights(q, k, is_causal=True)[0].cpu()
            for head in range(heads):
                back = (weights[head] * distance).sum(-1).mean()
                panel = axes[layer, head]
                panel.imshow(weights[head].sqrt(), cmap="Blues", vmin=0, vmax=1)
                panel.set_title(f"layer {layer + 1}, head {head + 1}\n{back:.1f} back on average",
                                fontsize=9, weight="normal")  # fmt: skip
                panel.set(xticks=[], yticks=[])
                panel.grid(visible=False)


if __name__ == "__main__":
    cli(main)
