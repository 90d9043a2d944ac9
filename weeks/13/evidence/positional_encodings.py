"""Checks, claims and figures of positional_encodings."""

import math

import torch
from torch import Tensor

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week13.attention import attention_weights
from week13.positional_encodings import (
    SCHEMES,
    alibi_bias,
    apply_rope,
    bits_by_position,
    relative_position_bucket,
    rope_frequencies,
    sinusoidal_encoding,
)


def main(run: Run, *, length: PositiveInt = 32, seeds: PositiveInt = 3) -> None:
    """Check the encodings, then train short and test long.

    Parameters
    ----------
    length
        Training length in characters; evaluated up to four times as far.
    seeds
        Models of each encoding.
    """
    _check_rope(run)
    _check_biases(run)
    steps, seeds = run.budget(quick=8, default=300), run.budget(quick=1, default=seeds)
    characters = datasets.pydocs_text()
    index = {c: i for i, c in enumerate(sorted(set(characters)))}
    text = torch.tensor([index[c] for c in characters])
    text = text[: run.budget(quick=20_000, default=len(text))]
    bits = {scheme: [] for scheme in SCHEMES}
    for scheme in run.progress(SCHEMES, "encodings"):
        for seed in range(run.seed, run.seed + seeds):
            bits[scheme].append(
                bits_by_position(scheme, text, length=length, steps=steps, seed=seed)
            )
    inside = {s: [b[length // 2 : length].mean().item() for b in bits[s]] for s in SCHEMES}
    outside = {s: [b[length:].mean().item() for b in bits[s]] for s in SCHEMES}
    excess = {s: [o - i for o, i in zip(outside[s], inside[s], strict=True)] for s in SCHEMES}
    for s in SCHEMES:
        run.metric(f"{s}: within the training length", sum(inside[s]) / seeds, "bits", rtol=0.1)
        run.metric(f"{s}: lost beyond it", sum(excess[s]) / seeds, "bits", rtol=None)

    def spread(values: list[float]) -> str:
        return f"{min(values):+.2f} to {max(values):+.2f} bits"

    run.claim(
        "ALiBi works beyond the training length",
        max(excess["ALiBi"]) <= 0.15,
        f"{spread(excess['ALiBi'])} a character, positions {length} to {4 * length}",
        quick=False,
    )
    run.claim(
        "sinusoidal encodings and RoPE do not, untreated",
        min(excess["sinusoidal"] + excess["RoPE"]) >= 0.5,
        f"sinusoidal {spread(excess['sinusoidal'])}, RoPE {spread(excess['RoPE'])}",
        quick=False,
    )
    gain = [n - r for n, r in zip(inside["none"], inside["RoPE"], strict=True)]
    run.claim(
        "within it, positions are worth having",
        min(gain) >= 0.2,
        f"RoPE is better than no positions by {spread(gain)} a character",
        quick=False,
    )
    _draw(run, bits, length)


def _check_rope(run: Run) -> None:
    """RoPE against the libraries' two layouts, complex numbers, and its own promise."""
    from transformers import LlamaConfig
    from transformers.models.gptj import modeling_gptj
    from transformers.models.llama import modeling_llama

    g = run.generator()
    x = torch.randn(2, 4, 9, 16, generator=g)
    positions = torch.arange(100, 109)
    rotary = modeling_llama.LlamaRotaryEmbedding(LlamaConfig(hidden_size=64, num_attention_heads=4))
    theirs = modeling_llama.apply_rotary_pos_emb(x, x, *rotary(x, positions[None]))[0]
    run.check("RoPE, halves", apply_rope(x, 100), theirs, against="transformers' LLaMA",
              atol=1e-5, why="float32 rounding of angles near 100")  # fmt: skip
    sin, cos = modeling_gptj.create_sinusoidal_positions(128, 16)[positions][None].chunk(2, dim=-1)
    theirs = modeling_gptj.apply_rotary_pos_emb(x.transpose(1, 2), sin, cos).transpose(1, 2)
    run.check("RoPE, interleaved", apply_rope(x, positions, pairing="interleaved"), theirs,
              against="transformers' GPT-J", atol=2e-5,
              why="float32 rounding of angles near 100")  # fmt: skip

    x = torch.randn(1, 2, 40, 16, generator=g, dtype=torch.float64)
    angle = torch.arange(40)[:, None] * 10000.0 ** (-torch.arange(8) / 8).double()
    turned = torch.view_as_complex(x.unflatten(-1, (8, 2))) * torch.polar(
        torch.ones(()).double(), angle
    )
    exact = rope_frequencies(16, dtype=torch.float64)
    run.check(
        "RoPE as multiplication by a phase",
        apply_rope(x, frequencies=exact, pairing="interleaved"),
        torch.view_as_real(turned).flatten(-2),
        against="complex arithmetic (Su et al., eq. 12)", atol=1e-12, why="float64 rounding",
    )  # fmt: skip
    near, far = (
        apply_rope(x, start, frequencies=exact) @ apply_rope(x, start, frequencies=exact).mT
        for start in (0, 5000)
    )
    run.check("scores depend on the distance alone", far, near,
              against="the scores 5000 positions earlier", atol=1e-9,
              why="float64 rounding of angles near 5000")  # fmt: skip
    cached = [apply_rope(x[:, :, t : t + 1], t, frequencies=exact) for t in range(40)]
    run.check("one token at a time", torch.cat(cached, dim=2), apply_rope(x, frequencies=exact),
              against="the whole sequence at once", atol=1e-12, why="float64 rounding")  # fmt: skip


def _check_biases(run: Run) -> None:
    """Sinusoids against their definition, ALiBi and T5 against transformers."""
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor
    from transformers.models.t5.modeling_t5 import T5Attention

    written_out = [
        [(math.sin, math.cos)[c % 2](p / 10000 ** (c // 2 * 2 / 12)) for c in range(12)]
        for p in range(50, 60)
    ]
    run.check("sinusoidal", sinusoidal_encoding(10, 12, offset=50), torch.tensor(written_out),
              against="section 3.5, entry by entry", atol=1e-6, why="float32 storage")  # fmt: skip
    for n_heads in (8, 12):
        q, k = (torch.randn(1, n_heads, 20, 8, generator=run.generator(i)) for i in (1, 2))
        theirs = build_alibi_tensor(torch.ones(1, 20), n_heads, torch.float32)
        run.check(
            f"ALiBi, {n_heads} heads",
            attention_weights(q, k, mask=alibi_bias(n_heads, 20, 20), is_causal=True),
            attention_weights(q, k, mask=theirs, is_causal=True),
            against="transformers' BLOOM, which adds slope × key position", atol=1e-5,
            why="float32; the two biases differ by a constant a row, which the softmax forgets",
        )  # fmt: skip
    distance = torch.arange(-300, 301)
    for bidirectional in (True, False):
        run.check(
            "T5 buckets, " + ("both sides" if bidirectional else "past only"),
            relative_position_bucket(distance, bidirectional=bidirectional),
            T5Attention._relative_position_bucket(distance, bidirectional),
            against="transformers' T5", why="integers",
        )  # fmt: skip


def _draw(run: Run, bits: dict[str, list[Tensor]], length: int) -> None:
    colors = (plots.GRAY, plots.YELLOW, plots.ORANGE, plots.BLUE, plots.GREEN, plots.PINK)
    with run.figure(
        "extrapolation", "Which encodings outlive the training length?", size=(8.4, 4.6)
    ) as ax:
        width = max(length // 4, 1)
        centers = torch.arange(4 * length // width) * width + width / 2
        for scheme, color in zip(SCHEMES, colors, strict=True):
            rows = [b[: len(centers) * width].view(-1, width).mean(dim=1) for b in bits[scheme]]
            plots.interval_band(ax, centers, torch.stack(rows), color=color, label=scheme)
        ax.axvline(length, color=plots.REFERENCE, linewidth=1, linestyle="--")
        ax.annotate("trained up to here", (length, ax.get_ylim()[1]), xytext=(-6, -4),
                    textcoords="offset points", color=plots.REFERENCE, fontsize=9, ha="right",
                    va="top")  # fmt: skip
        ax.set(xlabel="position in the text (characters)", ylabel="bits per character",
               xlim=(0, 4 * length), xticks=[length * i for i in range(5)])  # fmt: skip
        plots.label_lines(ax)
