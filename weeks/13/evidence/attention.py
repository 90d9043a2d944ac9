"""Attention against torch's, and what the scale is for."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared import plots
from shared.study import PositiveInt, Run
from week13.attention import MultiHeadAttention, attention_weights, scaled_dot_product_attention

SYMBOLS, PAIRS = 32, 8  # of the look-up


def main(run: Run, *, dim: PositiveInt = 64, seeds: PositiveInt = 5) -> None:
    """Check attention, then show what the scale is for.

    Parameters
    ----------
    dim
        Dimension of queries and keys in the look-up.
    seeds
        Runs of the look-up in each setting.
    """
    check_function(run)
    check_layer(run)
    freezing(run)
    steps, seeds = run.budget(quick=12, default=200), run.budget(quick=2, default=seeds)
    settings = {"scaled by 1/√d": {}, "not scaled": {"scale": 1.0}, "shuffled": {"shuffled": True}}
    curves, accuracy, models = {}, {}, {}
    for name, setting in settings.items():
        runs = [train_look_up(steps, run.seed + s, dim=dim, **setting) for s in range(seeds)]
        models[name], curves[name] = runs[0][0], [losses for _, losses, _ in runs]
        accuracy[name] = [100 * a for _, _, a in runs]
    common = {"unit": "% right", "note": f"after {steps} steps; chance is {100 / SYMBOLS:.0f} %"}
    learned = "with 1/√d the look-up is learned"
    run.claim(learned, accuracy["scaled by 1/√d"], at_least=99, quick=False, **common)
    run.falsifier("without 1/√d", accuracy["not scaled"], breaks=learned)
    run.claim("shuffled answers cannot be learned", accuracy["shuffled"], at_most=15, **common)
    draw_look_up(run, curves, models["scaled by 1/√d"])


# ---- checks


def check_function(run: Run) -> None:
    """Forward and backward against torch, mask by mask, in float64."""
    from torch.nn.functional import scaled_dot_product_attention as reference

    g = run.generator()

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64, requires_grad=True)

    q, k, v = draw(2, 4, 5, 8), draw(2, 2, 7, 8), draw(2, 2, 7, 6)
    keep = torch.rand(2, 1, 5, 7, generator=g) < 0.6
    keep[0, 0, 2] = False  # one query with nothing to look at
    bias, square = draw(4, 5, 7).detach(), draw(2, 4, 7, 8)
    last = torch.ones(5, 7, dtype=torch.bool).tril(2)
    cases = {
        "no mask": (q, {}, {}),
        "boolean mask with an empty row": (q, {"mask": keep}, {"attn_mask": keep}),
        "float mask": (q, {"mask": bias}, {"attn_mask": bias}),
        "causal": (square, {"is_causal": True}, {"is_causal": True}),
        "causal, queries last": (q, {"is_causal": True}, {"attn_mask": last}),
        "scale 0.3": (q, {"scale": 0.3}, {"scale": 0.3}),
    }
    equal = run.against("F.scaled_dot_product_attention", atol=1e-12, why="float64 rounding")
    for name, (query, our_options, their_options) in cases.items():
        ours = scaled_dot_product_attention(query, k, v, **our_options)
        theirs = reference(query, k, v, enable_gqa=True, **their_options)
        upstream = torch.randn(ours.shape, generator=g, dtype=torch.float64)
        gradients = [
            torch.cat([x.flatten() for x in torch.autograd.grad(out, (query, k, v), upstream)])
            for out in (ours, theirs)
        ]
        equal(f"output, {name}", ours, theirs)
        equal(f"gradients, {name}", *gradients)


def copy_from_torch(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> MultiHeadAttention:
    """Load the packed weights of torch's layer into ours (self- or cross-attention)."""
    weights, biases = theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3)
    with torch.no_grad():
        for i, layer in enumerate((ours.q_proj, ours.k_proj, ours.v_proj)):
            layer.weight.copy_(weights[i])
            layer.bias.copy_(biases[i])
    ours.out_proj.load_state_dict(theirs.out_proj.state_dict())
    return ours


def check_layer(run: Run) -> None:
    """The layer against torch's with the same weights."""
    g = run.generator(1)
    theirs = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    ours = copy_from_torch(MultiHeadAttention(32, 4), theirs).eval()
    x, memory = (torch.randn(3, n, 32, generator=g) for n in (5, 9))
    hidden = torch.arange(9) >= torch.tensor([9, 4, 6])[:, None]  # padding of three lengths
    expected, maps = theirs(x, memory, memory, hidden, average_attn_weights=False)
    mask = ~hidden[:, None, None, :]
    output = ours(x, memory, mask=mask)
    equal = run.against("nn.MultiheadAttention", atol=1e-6, why="float32 rounding")
    equal("cross-attention with padding", output, expected)
    equal("attention maps", ours.weights(x, memory, mask=mask), maps)
    for out in (output, expected):
        out.square().sum().backward()
    gradient = torch.cat([m.weight.grad for m in (ours.q_proj, ours.k_proj, ours.v_proj)])
    reference = theirs.in_proj_weight.grad
    equal("gradients of the projections", gradient, reference, atol=1e-5, rtol=1e-5)


# ---- the scale


def freezing(run: Run) -> None:
    """Entropy and gradient of the softmax over n keys of independent standard normal entries."""
    g, n_keys, n_queries = run.generator(2), 1024, run.budget(quick=64, default=512)
    dims = [2**p for p in range(1, 11)]
    rows = {1: [], 0: []}  # scaled or not: entropy and trace of the Jacobian, by dimension
    for d in dims:
        q, k = (torch.randn(1, 1, n, d, generator=g) for n in (n_queries, n_keys))
        for scaled, row in rows.items():
            p = attention_weights(q, k, scale=d**-0.5 if scaled else 1.0)[0, 0]
            entropy, trace = torch.special.entr(p).sum(dim=1), 1 - p.square().sum(dim=1)
            row.append(torch.stack([entropy, trace]))
        if d == 64:
            expected, spread = math.log(n_keys) - 0.5, (q @ k.mT).std()
            theory = {"kind": "theorem", "why": "Monte Carlo over the drawn queries and keys"}
            run.check("spread of scores at d = 64", spread, 8.0, against="√d", rtol=0.05, **theory)
            found, name = rows[1][-1][0].mean(), "entropy at d = 64, scaled"
            run.check(name, found, expected, against="ln n - 1/2", atol=0.05, **theory)
    traces = {scaled: torch.stack(row)[:, 1] for scaled, row in rows.items()}
    at = dims.index(256)
    lost = traces[1][at].mean() / traces[0][at].mean()
    run.metric("gradient lost at d = 256 without the scale", lost, "times")
    kept, note = "at d = 1024 the softmax still has a gradient", "trace of its Jacobian, per query"
    run.claim(kept, traces[1][-1], at_least=0.9, note=note)
    run.falsifier("not scaled", traces[0][-1], breaks=kept)

    measured = {scaled: torch.stack(row).mean(dim=2).T for scaled, row in rows.items()}
    frozen, fine = 2 * math.log(n_keys), torch.logspace(0.3, 3.01, 200)
    theory = {
        0: [(math.log(n_keys) - fine / 2).clamp(min=0), (frozen / fine).sqrt().clamp(max=1)],
        1: [torch.full_like(fine, math.log(n_keys) - 0.5), torch.ones_like(fine)],
    }
    title = "Why 1/√d: without it the softmax freezes and its gradient dies"
    names = ("entropy of the weights (nats)", "trace of the Jacobian")
    with run.figure("scale", title, columns=2, size=(9.0, 4.0)) as axes:
        for i, (ax, name) in enumerate(zip(axes, names, strict=True)):
            for scaled, color in ((1, plots.BLUE), (0, plots.ORANGE)):
                label = "scaled by 1/√d" if scaled else "not scaled"
                ax.plot(fine, theory[scaled][i], "--", color=plots.REFERENCE, lw=1)
                ax.plot(dims, measured[scaled][i], "o", color=color, label=label)
            ax.set(xscale="log", xlabel="dimension d of queries and keys", ylabel=name)
        axes[0].legend()
        theory_is = {"color": plots.REFERENCE, "fontsize": 9}
        axes[1].text(150, 0.48, "dashed: theory\n(random energies)", **theory_is)


# ---- the look-up


class LookUp(nn.Module):
    """One attention over a small dictionary: asked for a key, answer with its value."""

    def __init__(self, n_symbols: int, dim: int, scale: float | None):
        super().__init__()
        self.query, self.key, self.value = (nn.Embedding(n_symbols, dim) for _ in range(3))
        self.out, self.scale = nn.Linear(dim, n_symbols), scale

    def weights(
        self, asked: Int[Tensor, "batch asked"], keys: Int[Tensor, "batch pair"]
    ) -> Float[Tensor, "batch 1 asked pair"]:
        """Attention of each asked symbol over the stored keys, in one head."""
        q, k = self.query(asked)[:, None], self.key(keys)[:, None]
        return attention_weights(q, k, scale=self.scale)

    def forward(
        self,
        asked: Int[Tensor, "batch asked"],
        keys: Int[Tensor, "batch pair"],
        values: Int[Tensor, "batch pair"],
    ) -> Float[Tensor, "batch asked symbol"]:
        """Logits of the answers."""
        return self.out(self.weights(asked, keys)[:, 0] @ self.value(values))


def dictionaries(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Keys without repetition and their values, (n, pair) each; the first key is asked for."""
    keys = torch.rand((n, SYMBOLS), generator=generator).argsort(dim=1)[:, :PAIRS]
    return keys, torch.randint(SYMBOLS, keys.shape, generator=generator)


def train_look_up(
    steps: int, seed: int, *, dim: int, scale: float | None = None, shuffled: bool = False
) -> tuple[LookUp, list[float], float]:
    """Train on random dictionaries; return the model, its losses and its accuracy on new ones."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = LookUp(SYMBOLS, dim, scale)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    for _ in range(steps):
        keys, values = dictionaries(128, generator)
        answers = values[:, 0]
        if shuffled:
            answers = answers[torch.randperm(len(answers), generator=generator)]
        loss = nn.functional.cross_entropy(model(keys[:, :1], keys, values)[:, 0], answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    keys, values = dictionaries(1000, generator)
    right = model(keys[:, :1], keys, values)[:, 0].argmax(dim=-1) == values[:, 0]
    return model, losses, right.float().mean().item()


def draw_look_up(run: Run, curves: dict[str, list[list[float]]], model: LookUp) -> None:
    """Loss curves, and where the trained model looks."""
    steps = range(1, len(next(iter(curves.values()))[0]) + 1)
    with run.figure("look_up", "Can a look-up be learned without 1/√d?") as ax:
        labels = {"xlabel": "training step", "ylabel": "cross-entropy (nats)", "ylim": (0, None)}
        colors, guess = (plots.BLUE, plots.ORANGE, plots.GRAY), {"guessing: ln 32": math.log(32)}
        plots.curves(ax, steps, curves, colors=colors, reference=guess, **labels)

    stored = torch.randperm(SYMBOLS, generator=run.generator(3))[:PAIRS]
    asked = stored[torch.randperm(PAIRS, generator=run.generator(4))]
    weights = model.weights(asked[None], stored[None])[0, 0].detach()
    right = (asked[:, None] == stored).int().argmax(dim=1)
    run.metric("least weight on the right pair", weights[range(PAIRS), right].min(), rtol=0.1)
    names = [chr(ord("A") + i) if i < 26 else str(i - 25) for i in range(SYMBOLS)]
    rows, columns = ([names[i] for i in symbols] for symbols in (asked, stored))
    with run.figure("map", "Where does a trained query look?", size=(6.4, 5.2)) as ax:
        labels = {"xlabel": "stored key", "ylabel": "asked for", "limits": (0, 1)}
        plots.heat_map(ax, weights, label="weight", rows=rows, columns=columns, **labels)
        ring = {"facecolors": "none", "edgecolors": plots.ORANGE, "linewidths": 1.5}
        ax.scatter(right, range(PAIRS), s=260, label="the right pair", **ring)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13))
