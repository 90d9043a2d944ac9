"""The encodings against transformers and closed forms; then train short, test long."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week13.attention import MultiHeadAttention, attention_weights
from week13.positional_encodings import (
    LearnedPositions,
    RelativePositionBias,
    alibi_bias,
    apply_rope,
    relative_position_bucket,
    rope_frequencies,
    sinusoidal_encoding,
)

SCHEMES = ("none", "learned", "sinusoidal", "RoPE", "ALiBi", "T5 bias")


def main(run: Run, *, length: PositiveInt = 32, seeds: PositiveInt = 3) -> None:
    """Check the encodings, then train short and test long.

    Parameters
    ----------
    length
        Training length in characters; evaluated up to four times as far.
    seeds
        Models of each encoding.
    """
    check_rope(run)
    check_sinusoids(run)
    check_biases(run)
    steps, seeds = run.budget(quick=3, default=300), run.budget(quick=2, default=seeds)
    characters = datasets.pydocs_text()[: run.budget(quick=20_000, default=None)]
    index = {c: i for i, c in enumerate(sorted(set(characters)))}
    text = torch.tensor([index[c] for c in characters])
    options = {"length": length, "steps": steps}
    bits = {}
    for scheme in run.progress(SCHEMES, "encodings"):
        found = [bits_by_position(scheme, text, seed=run.seed + s, **options) for s in range(seeds)]
        bits[scheme] = torch.stack(found)
    inside = {s: b[:, length // 2 : length].mean(dim=1) for s, b in bits.items()}
    lost = {s: b[:, length:].mean(dim=1) - inside[s] for s, b in bits.items()}
    for s in ("none", "RoPE"):
        run.metric(f"{s}: within the training length", inside[s].mean(), "bits", rtol=0.1)
    for s in ("RoPE", "ALiBi", "sinusoidal"):
        run.metric(f"{s}: lost beyond it", lost[s].mean(), "bits", rtol=0.1)
    unit = {"unit": "bits per character", "quick": False}
    beyond = "ALiBi works beyond the training length"
    run.claim(beyond, lost["ALiBi"], at_most=0.15, **unit)
    run.falsifier("RoPE, untreated", lost["RoPE"], breaks=beyond)
    run.falsifier("sinusoidal", lost["sinusoidal"], breaks=beyond)
    gain = inside["none"] - inside["RoPE"]
    run.claim("within it, RoPE is worth having", gain, at_least=0.2, **unit)
    draw(run, bits, length)


# ---- checks


def check_rope(run: Run) -> None:
    """RoPE against the libraries' two layouts, complex numbers, and its own promise."""
    from transformers import LlamaConfig
    from transformers.models.gptj import modeling_gptj
    from transformers.models.llama import modeling_llama

    g = run.generator()
    x, positions = torch.randn(2, 4, 9, 16, generator=g), torch.arange(100, 109)
    rotary = modeling_llama.LlamaRotaryEmbedding(LlamaConfig(hidden_size=64, num_attention_heads=4))
    theirs = modeling_llama.apply_rotary_pos_emb(x, x, *rotary(x, positions[None]))[0]
    why = {"atol": 2e-5, "why": "float32 rounding of angles near 100"}
    run.check("RoPE, halves", apply_rope(x, 100), theirs, against="transformers' LLaMA", **why)
    sin, cos = modeling_gptj.create_sinusoidal_positions(128, 16)[positions][None].chunk(2, dim=-1)
    theirs = modeling_gptj.apply_rotary_pos_emb(x.transpose(1, 2), sin, cos).transpose(1, 2)
    ours = apply_rope(x, positions, pairing="interleaved")
    run.check("RoPE, interleaved", ours, theirs, against="transformers' GPT-J", **why)

    x = torch.randn(1, 2, 40, 16, generator=g, dtype=torch.float64)
    exact = {"frequencies": rope_frequencies(16, dtype=torch.float64)}
    angle = torch.arange(40)[:, None] * 10000.0 ** (-torch.arange(8) / 8).double()
    phase = torch.polar(torch.ones((), dtype=torch.float64), angle)
    turned = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (8, 2))) * phase)
    ours, why = apply_rope(x, **exact, pairing="interleaved"), "float64 rounding"
    theory = run.against("Su et al. (2021), section 3.2", kind="theorem", atol=1e-9, why=why)
    theory("RoPE is multiplication by a phase", ours, turned.flatten(-2), atol=1e-12)
    near, far = (apply_rope(x, s, **exact) @ apply_rope(x, s, **exact).mT for s in (0, 5000))
    theory("scores depend on the distance alone", far, near)  # angles near 5000
    cached = torch.cat([apply_rope(x[:, :, t : t + 1], t, **exact) for t in range(40)], dim=2)
    same = {"against": "the whole sequence at once", "kind": "consistency", "atol": 1e-12}
    run.check("one token at a time", cached, apply_rope(x, **exact), why=why, **same)


def check_sinusoids(run: Run) -> None:
    """Sinusoids against their definition, entry by entry."""
    written_out = [
        [(math.sin, math.cos)[c % 2](p / 10000 ** (c // 2 * 2 / 12)) for c in range(12)]
        for p in range(50, 60)
    ]
    definition = {"against": "section 3.5, entry by entry", "kind": "theorem", "atol": 1e-6}
    ours, theirs = sinusoidal_encoding(10, 12, offset=50), torch.tensor(written_out)
    run.check("sinusoidal", ours, theirs, why="float32 storage", **definition)


def check_biases(run: Run) -> None:
    """ALiBi and T5's buckets against transformers."""
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor
    from transformers.models.t5.modeling_t5 import T5Attention

    why = "float32; the two biases differ by a constant per row, which the softmax forgets"
    bloom = run.against("transformers' BLOOM, slope × key position", atol=1e-5, why=why)
    for n_heads in (8, 12):
        q, k = (torch.randn(1, n_heads, 20, 8, generator=run.generator(i)) for i in (1, 2))
        masks = alibi_bias(n_heads, 20, 20), build_alibi_tensor(torch.ones(1, 20), n_heads, q.dtype)
        ours, theirs = (attention_weights(q, k, mask=mask, is_causal=True) for mask in masks)
        bloom(f"ALiBi, {n_heads} heads", ours, theirs)
    distance, t5 = torch.arange(-300, 301), run.against("transformers' T5", why="integers")
    for bidirectional, name in ((True, "both sides"), (False, "past only")):
        ours = relative_position_bucket(distance, bidirectional=bidirectional)
        theirs = T5Attention._relative_position_bucket(distance, bidirectional)
        t5(f"T5 buckets, {name}", ours, theirs)


# ---- train short, test long


class Block(nn.Module):
    """Pre-norm decoder block, as far as positions need one."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = MultiHeadAttention(width, n_heads)
        up, down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(up, nn.GELU(), down)

    def forward(
        self,
        x: Float[Tensor, "batch seq width"],
        bias: Float[Tensor, "head seq seq"] | None,
        rope: Callable[[Tensor], Tensor] | None,
    ) -> Float[Tensor, "batch seq width"]:
        """The stream after this block; `bias` is added to the scores, `rope` turns q and k."""
        x = x + self.attention(self.norms[0](x), mask=bias, is_causal=True, rope=rope)
        return x + self.mlp(self.norms[1](x))


class CharacterModel(nn.Module):
    """Two-layer character model with one of `SCHEMES`; all else is equal, down to the seeds."""

    def __init__(self, n_symbols: int, scheme: str, context: int, *, width: int = 64):
        super().__init__()
        self.scheme, self.width, self.n_heads = scheme, width, 4
        self.embedding, self.out = nn.Embedding(n_symbols, width), nn.Linear(width, n_symbols)
        self.blocks = nn.ModuleList(Block(width, self.n_heads) for _ in range(2))
        self.norm = nn.LayerNorm(width)
        if scheme == "learned":
            self.positions = LearnedPositions(context, width)
        elif scheme == "T5 bias":
            self.positions = RelativePositionBias(self.n_heads, bidirectional=False)

    def forward(self, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq symbol"]:
        """Logits of the next character."""
        n, x, bias = tokens.shape[1], self.embedding(tokens), None
        if self.scheme == "learned":
            x = x + self.positions(n)
        elif self.scheme == "sinusoidal":
            x = x + sinusoidal_encoding(n, self.width)
        elif self.scheme == "ALiBi":
            bias = alibi_bias(self.n_heads, n, n)
        elif self.scheme == "T5 bias":
            bias = self.positions(n, n)
        for block in self.blocks:
            x = block(x, bias, apply_rope if self.scheme == "RoPE" else None)
        return self.out(self.norm(x))


def bits_by_position(
    scheme: str, text: Int[Tensor, "n"], *, length: int, steps: int, seed: int
) -> Float[Tensor, "long"]:
    """Train on windows of `length`; bits per character at each position of windows 4 times as long.

    The last tenth of `text` is held out for that. Position t is predicted from t + 1 characters.
    """
    train, held_out = text.tensor_split([9 * len(text) // 10])
    torch.manual_seed(seed)
    generator, long = torch.Generator().manual_seed(seed), 4 * length
    model = CharacterModel(int(text.max()) + 1, scheme, long)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps, pct_start=0.1)
    for _ in range(steps):
        starts = torch.randint(len(train) - length, (16, 1), generator=generator)
        window = train[starts + torch.arange(length + 1)]
        loss = nn.functional.cross_entropy(model(window[:, :-1]).transpose(1, 2), window[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    windows = held_out[: (len(held_out) - 1) // long * long + 1].unfold(0, long + 1, long)[:200]
    x, y = windows[:, :-1], windows[:, 1:]
    with torch.no_grad():
        nats = nn.functional.cross_entropy(model(x).transpose(1, 2), y, reduction="none")
    return nats.mean(dim=0) / math.log(2)


def draw(run: Run, bits: dict[str, Float[Tensor, "seed position"]], length: int) -> None:
    """Bits per character by position, averaged over stretches of a quarter of the length."""
    colors = (plots.GRAY, plots.YELLOW, plots.ORANGE, plots.BLUE, plots.GREEN, plots.PINK)
    width = max(length // 4, 1)
    n = 4 * length // width
    lines = {s: b[:, : n * width].unflatten(1, (n, width)).mean(dim=2) for s, b in bits.items()}
    centers = (torch.arange(n) + 0.5) * width
    title = "Which encodings outlive the training length?"
    with run.figure("extrapolation", title, size=(8.4, 4.6)) as ax:
        labels = {"xlabel": "position in the text (characters)", "ylabel": "bits per character"}
        labels |= {"xlim": (0, 4 * length), "xticks": [length * i for i in range(5)]}
        plots.curves(ax, centers, lines, colors=colors, **labels)
        ax.axvline(length, color=plots.REFERENCE, lw=1, ls="--")
        style = {"color": plots.REFERENCE, "fontsize": 9, "ha": "right", "va": "top"}
        ax.text(0.97 * length, ax.get_ylim()[1], "trained up to here", **style)
