"""Checks, claims and figures of attention."""

import math

import torch
from torch import Tensor, nn

from shared.study import PositiveInt, Run
from week13.attention import (
    LOOK_UP_PAIRS,
    LOOK_UP_SYMBOLS,
    LookUp,
    MultiHeadAttention,
    attention_weights,
    copy_from_torch,
    scaled_dot_product_attention,
    train_look_up,
)


def main(run: Run, *, dim: PositiveInt = 64, seeds: PositiveInt = 3) -> None:
    """Check attention, then show what the scale is for.

    Parameters
    ----------
    dim
        Dimension of queries and keys in the look-up.
    seeds
        Runs of the look-up in each setting.
    """
    _check_function(run)
    _check_layer(run)
    _show_scale(run)
    steps = run.budget(quick=60, default=200)
    settings = {
        "scaled by 1/√d": {"scale": None},
        "not scaled": {"scale": 1.0},
        "answers shuffled": {"shuffled": True},
    }
    curves, accuracy = {}, {}
    for name, setting in settings.items():
        runs = [train_look_up(steps, run.seed + s, dim=dim, **setting) for s in range(seeds)]
        curves[name] = [losses for _, losses, _ in runs]
        accuracy[name] = [a for _, _, a in runs]
        if name == "scaled by 1/√d":
            model = runs[0][0]
        run.metric(f"look-up accuracy, {name}", sum(accuracy[name]) / seeds, rtol=None)
    scaled, unscaled, control = accuracy.values()
    run.claim(
        "without 1/√d the look-up learns badly",
        min(scaled) >= 0.99 and max(unscaled) <= 0.95,
        f"accuracy after {steps} steps, {seeds} seeds: {min(scaled):.2f} to {max(scaled):.2f} "
        f"scaled, {min(unscaled):.2f} to {max(unscaled):.2f} not",
        quick=False,
    )
    run.claim(
        "shuffled answers cannot be learned",
        max(control) <= 0.15,
        f"accuracy {max(control):.2f} at most; chance is {1 / LOOK_UP_SYMBOLS:.2f}",
    )
    _show_look_up(run, curves, model)


def _check_function(run: Run) -> None:
    """Forward and backward against torch, mask by mask, in float64."""
    from torch.nn.functional import scaled_dot_product_attention as reference

    g = run.generator()

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, dtype=torch.float64, requires_grad=True)

    q, k, v = draw(2, 4, 5, 8), draw(2, 2, 7, 8), draw(2, 2, 7, 6)
    keep = torch.rand(2, 1, 5, 7, generator=g) < 0.6
    keep[0, 0, 2] = False  # one query with nothing to look at
    with torch.no_grad():
        bias = draw(4, 5, 7)
    square = draw(2, 4, 7, 8)
    cases = {
        "no mask": (q, {}, {}),
        "boolean mask with an empty row": (q, {"mask": keep}, {"attn_mask": keep}),
        "float mask": (q, {"mask": bias}, {"attn_mask": bias}),
        "causal": (square, {"is_causal": True}, {"is_causal": True}),
        "causal, queries last": (
            q, {"is_causal": True}, {"attn_mask": torch.ones(5, 7, dtype=torch.bool).tril(2)}
        ),
        "scale 0.3": (q, {"scale": 0.3}, {"scale": 0.3}),
    }  # fmt: skip
    for name, (query, our_options, their_options) in cases.items():
        ours = scaled_dot_product_attention(query, k, v, **our_options)
        theirs = reference(query, k, v, enable_gqa=True, **their_options)
        upstream = torch.randn(ours.shape, generator=g, dtype=torch.float64)
        gradients = [
            torch.cat([x.flatten() for x in torch.autograd.grad(out, (query, k, v), upstream)])
            for out in (ours, theirs)
        ]
        options = {
            "against": "F.scaled_dot_product_attention", "atol": 1e-12, "why": "float64 rounding"
        }  # fmt: skip
        run.check(f"output, {name}", ours, theirs, **options)
        run.check(f"gradients, {name}", *gradients, **options)


def _check_layer(run: Run) -> None:
    """The layer against torch's with the same weights, and against itself one token at a time."""
    g = run.generator(1)
    theirs = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    ours = copy_from_torch(MultiHeadAttention(32, 4), theirs).eval()
    x, context = (torch.randn(3, n, 32, generator=g) for n in (5, 9))
    hidden = torch.arange(9) >= torch.tensor([9, 4, 6])[:, None]  # padding of three lengths
    expected, maps = theirs(
        x, context, context, key_padding_mask=hidden, average_attn_weights=False
    )
    mask = ~hidden[:, None, None, :]
    output = ours(x, context, mask=mask)
    options = {"against": "nn.MultiheadAttention", "why": "float32 rounding", "atol": 1e-6}
    run.check("cross-attention with padding", output, expected, **options)
    run.check("attention maps", ours.weights(x, context, mask=mask), maps, **options)
    for out in (output, expected):
        out.square().sum().backward()
    gradient = torch.cat([m.weight.grad for m in (ours.q_proj, ours.k_proj, ours.v_proj)])
    options["atol"], options["rtol"] = 1e-5, 1e-5
    run.check("gradients of the projections", gradient, theirs.in_proj_weight.grad, **options)

    grouped = MultiHeadAttention(32, 4, n_kv_heads=2).double()
    x = x.double()
    whole = grouped(x, is_causal=True)
    cached = [grouped(x[:, : t + 1], is_causal=True)[:, -1:] for t in range(x.shape[1])]
    run.check(
        "causal: a prefix does not see what follows", torch.cat(cached, dim=1), whole,
        against="the layer on each prefix alone", why="float64 rounding", atol=1e-12,
    )  # fmt: skip


def _show_scale(run: Run) -> None:
    """Entropy and gradient of the softmax over n keys of independent standard normal entries."""
    from shared import plots

    g, n_keys, n_queries = run.generator(2), 1024, run.budget(quick=64, default=512)
    dims = [2**p for p in range(1, 11)]
    rows = {1: [], 0: []}
    for d in dims:
        q, k = (torch.randn(1, 1, n, d, generator=g) for n in (n_queries, n_keys))
        for scaled, row in rows.items():
            p = attention_weights(q, k, scale=d**-0.5 if scaled else 1.0)[0, 0]
            entropy = torch.special.entr(p).sum(dim=1)
            row.append([entropy.mean().item(), (1 - p.square().sum(dim=1)).mean().item()])
        if d == 64:
            run.check(
                "standard deviation of scores at d = 64", (q @ k.mT).std(), math.sqrt(d),
                against="theory: √d", rtol=0.05, why="Monte Carlo over the drawn queries and keys",
            )  # fmt: skip
            run.check(
                "entropy at d = 64, scaled", rows[1][-1][0], math.log(n_keys) - 0.5,
                against="theory: ln n - 1/2", atol=0.05, why="Monte Carlo and 1/n corrections",
            )  # fmt: skip
    measured = {name: torch.tensor(row).T for name, row in rows.items()}
    at = dims.index(256)
    shrunk = measured[1][1, at] / measured[0][1, at]
    run.metric("gradient lost at d = 256 without the scale", shrunk, "times", rtol=0.1)
    run.claim(
        "without the scale the softmax freezes as d grows",
        bool(measured[0][1, -1] < 0.25 and measured[1][1, -1] > 0.9),
        f"trace of the softmax's Jacobian at d = {dims[-1]}: {measured[1][1, -1]:.2f} scaled, "
        f"{measured[0][1, -1]:.2f} not",
    )

    frozen = 2 * math.log(n_keys)
    fine = torch.logspace(0.3, 3.01, 200)
    theory = {
        0: [(math.log(n_keys) - fine / 2).clamp(min=0), (frozen / fine).sqrt().clamp(max=1)],
        1: [torch.full_like(fine, math.log(n_keys) - 0.5), torch.ones_like(fine)],
    }
    labels = {1: "scaled by 1/√d", 0: "not scaled"}
    with run.figure(
        "scale", "Why 1/√d: without it the softmax freezes and its gradient dies",
        columns=2, size=(9.0, 4.0),
    ) as axes:  # fmt: skip
        for i, (ax, label) in enumerate(
            zip(axes, ("entropy of the weights (nats)", "trace of the Jacobian"), strict=True)
        ):
            for scaled, color in ((1, plots.BLUE), (0, plots.ORANGE)):
                ax.plot(fine, theory[scaled][i], color=plots.REFERENCE, linewidth=1, linestyle="--")
                ax.plot(dims, measured[scaled][i], "o", color=color, label=labels[scaled])
            ax.axvline(frozen, color=plots.GRAY, linewidth=0.8, linestyle=":")
            ax.set(xscale="log", xlabel="dimension d of queries and keys", ylabel=label)
        axes[0].set(ylim=(-0.2, 7.6), yticks=[0, 2, 4, 6, math.log(n_keys)])
        axes[0].set_yticklabels(["0", "2", "4", "6", "ln 1024"])
        axes[1].set(ylim=(0, 1.05))
        axes[0].text(frozen * 1.1, 4.2, "frozen from\nd = 2 ln n", color=plots.GRAY, fontsize=9)
        axes[0].legend(loc="center right", bbox_to_anchor=(1, 0.72))
        axes[1].text(
            150, 0.48, "dashed: theory\n(random energies)", color=plots.REFERENCE, fontsize=9
        )


def _show_look_up(run: Run, curves: dict[str, list[list[float]]], model: LookUp) -> None:
    from shared import plots

    steps = range(1, len(next(iter(curves.values()))[0]) + 1)
    with run.figure("look_up", "Can a look-up be learned without 1/√d?") as ax:
        colors = (plots.BLUE, plots.ORANGE, plots.GRAY)
        for (name, runs), color in zip(curves.items(), colors, strict=True):
            plots.interval_band(ax, steps, runs, color=color, label=name)
        chance = math.log(LOOK_UP_SYMBOLS)
        ax.axhline(chance, color=plots.REFERENCE, linewidth=1, linestyle="--")
        ax.text(len(steps), chance * 0.93, "guessing: ln 32", color=plots.REFERENCE, ha="right",
                va="top", fontsize=9)  # fmt: skip
        ax.set(xlabel="training step", ylabel="cross-entropy (nats)", ylim=(0, None))
        plots.label_lines(ax)

    stored = torch.randperm(LOOK_UP_SYMBOLS, generator=run.generator(3))[:LOOK_UP_PAIRS]
    asked = stored[torch.randperm(LOOK_UP_PAIRS, generator=run.generator(4))]
    weights = model.weights(asked[None], stored[None])[0, 0].detach()
    right = (asked[:, None] == stored).int().argmax(dim=1)
    run.metric("least weight on the right pair", weights[range(len(right)), right].min(), rtol=None)
    with run.figure("map", "Where does a trained query look?", size=(6.4, 5.2)) as ax:
        image = ax.imshow(weights, vmin=0, vmax=1, cmap="Blues")
        ax.scatter(right, range(len(right)), s=260, facecolors="none", edgecolors=plots.ORANGE,
                   linewidths=1.5, label="the right pair")  # fmt: skip
        names = [chr(ord("A") + i) if i < 26 else str(i - 25) for i in range(LOOK_UP_SYMBOLS)]
        ax.set_xticks(range(len(stored)), [names[i] for i in stored])
        ax.set_yticks(range(len(asked)), [names[i] for i in asked])
        ax.set(xlabel="stored key", ylabel="asked for")
        ax.grid(False)
        ax.figure.colorbar(image, label="attention weight", shrink=0.85)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13))
