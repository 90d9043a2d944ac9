"""Frequencies against transformers; loss by position, needles and SmolLM2 beyond their training."""

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared import datasets, plots
from shared.errors import UserError
from shared.study import PositiveInt, Run
from week09.muon import Muon
from week09.optimizers import AdamW
from week18.evidence.learning import manual
from week18.llama3 import Llama, LlamaConfig
from week18.long_context import (
    NTK,
    DynamicNTK,
    Interpolation,
    Needles,
    YaRN,
    rope_frequencies,
    with_scaling,
)
from week18.rotary import Scaling
from week18.training import loss_by_position, train
from week18.transformers_twin import randomize, their_config, transformers_twin

CONTEXT, TIMES = 64, 4
LONG = CONTEXT * TIMES
WAYS: dict[str, Scaling | None] = {
    "as trained": None,
    "interpolation": Interpolation(TIMES),
    "NTK": NTK(TIMES),
    "YaRN": YaRN(TIMES, CONTEXT),
}
BLUNT = YaRN(TIMES, CONTEXT, attention_factor=1.0)  # YaRN's frequencies without its temperature
COLORS = (plots.GRAY, plots.ORANGE, plots.SKY, plots.BLUE)
SMALL = LlamaConfig(31, 24, 2, 6, 2, head_dim=12, d_ff=40, context=4096, rope_base=1000.0)


def main(run: Run, *, steps: PositiveInt | None = None, seeds: PositiveInt | None = None) -> None:
    """Compare with transformers, then read four times as far as three models were trained.

    Parameters
    ----------
    steps
        Training steps of each model, of text and of needles.
    seeds
        Models of each kind, at least 2.
    """
    run.rounding(0.05, "Muon's products amplify how processors round")
    check_frequencies(run)
    check_logits(run)
    steps = steps or run.budget(quick=4, default=150, full=600)
    seeds = max(2, seeds or run.budget(quick=2, default=3, full=8))
    run.chose(steps=steps, seeds=seeds)
    text = manual(run, run.budget(quick=4000, default=12_000))
    training, valid = text.training, text.valid
    read_text(run, training, valid, text.n_letters, steps, seeds)
    find_needles(run, training, valid, Needles(text.n_letters), steps, seeds)
    read_with_smollm2(run)


# ---- checks


def check_frequencies(run: Run) -> None:
    """Frequencies and gains of transformers, YaRN's variants among them."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    equal = run.against("transformers ROPE_INIT_FUNCTIONS", rtol=2e-6, why="float32 rounding")
    scalings = {
        "linear": Interpolation(4.0),
        "dynamic": DynamicNTK(2.0, 2048),
        "yarn, factor 16": YaRN(16.0, 2048),
        "yarn, factor 64, whole pairs not asked for": YaRN(64.0, 2048, 16.0, 2.0, truncate=False),
        "yarn, a given gain": YaRN(16.0, 2048, attention_factor=1.1),
        "yarn, DeepSeek's mscale": YaRN(40.0, 2048, mscale=1.0, mscale_all_dim=0.5),
    }
    for name, scaling in scalings.items():
        config = dataclasses.replace(SMALL, head_dim=64, rope_scaling=scaling)
        kind, n = name.split(",")[0], 5000
        theirs = their_config(config)
        reference, gain = ROPE_INIT_FUNCTIONS[kind](theirs, "cpu", seq_len=n)
        ours = rope_frequencies(64, base=1000.0, scaling=scaling, length=n)
        equal(
            name,
            torch.cat([ours / reference, torch.tensor([scaling.gain])]),
            torch.cat([torch.ones(32), torch.tensor([gain])]),
        )
    published = run.against("0.1 ln s + 1 in four decimals", kind="theorem", atol=5e-5, why="them")
    published(
        "gains of YaRN at 16 and 64", [YaRN(s, 64).gain for s in (16.0, 64.0)], [1.2773, 1.4159]
    )


@torch.no_grad()
def check_logits(run: Run) -> None:
    """Logits at position 0, and ten training contexts later."""
    equal = run.against(
        "transformers LlamaForCausalLM", atol=2e-5, rtol=1e-5, why="float32 rounding"
    )
    tokens = torch.randint(31, (2, 40), generator=run.generator())
    for name, scaling in {"yarn": YaRN(16.0, 32), "dynamic": DynamicNTK(128.0, 32)}.items():
        ours = randomize(Llama(dataclasses.replace(SMALL, rope_scaling=scaling)), seed=run.seed)
        theirs = transformers_twin(ours)
        for start in (0, 320):
            places = torch.arange(start, start + 40)
            found = ours(tokens, positions=places)
            equal(
                f"logits from position {start}, {name}",
                found,
                theirs(tokens, position_ids=places[None]).logits,
            )


# ---- text


def read_text(
    run: Run, training: Tensor, valid: Tensor, vocab: int, steps: int, seeds: int
) -> None:
    """Loss by position at four times the training length, without any training there."""
    losses: dict[str, list[np.ndarray]] = {}
    falls = []
    for seed in run.progress(range(seeds), "text"):
        config = LlamaConfig(vocab, 64, 2, 4, context=CONTEXT, rope_base=10_000.0)
        model = Llama(config, run.generator(seed))
        options = {"steps": steps, "batch_size": 16, "context": CONTEXT, "lr_scale": 2.0}
        curve = train(model, training, generator=run.generator(100 + seed), **options)
        falls.append((curve[0] - np.mean(curve[-20:])) / np.std(curve[-20:]))
        for name, scaling in (*WAYS.items(), ("YaRN, no temperature", BLUNT)):
            found = loss_by_position(with_scaling(model, scaling, LONG), valid, LONG)
            losses.setdefault(name, []).append(found.double().numpy())
    by_place = {name: np.array(rows) for name, rows in losses.items()}
    late = {name: rows[:, -CONTEXT:].mean(1) for name, rows in by_place.items()}
    early = by_place["as trained"][:, CONTEXT // 2 : CONTEXT].mean(1)
    common, seen = {"unit": "nats/char", "quick": False}, "one other seed: "
    run.claim(
        "the loss falls by more than its noise",
        falls,
        at_least=5,
        unit="times its noise",
        quick=False,
    )
    rises = "as trained, text gets harder past the training length"
    run.claim(rises, late["as trained"] - early, at_least=0.3, seen_before=seen + "1.3", **common)
    run.falsifier(
        "within the training length",
        by_place["as trained"][:, CONTEXT // 4 : CONTEXT // 2].mean(1) - early,
        breaks=rises,
    )
    helps = "YaRN reads four times as far with a lower loss"
    run.claim(
        helps, late["as trained"] - late["YaRN"], at_least=0.3, seen_before=seen + "1.1", **common
    )
    run.falsifier(
        "interpolation, untrained", late["as trained"] - late["interpolation"], breaks=helps
    )
    name = "YaRN's temperature helps where nothing was trained"
    run.claim(
        name,
        late["YaRN, no temperature"] - late["YaRN"],
        at_least=0,
        seen_before=seen + "0.08",
        **common,
    )
    run.claim(
        "YaRN stays below NTK",
        late["NTK"] - late["YaRN"],
        at_least=0,
        seen_before=seen + "0.2",
        **common,
    )
    for name, values in late.items():
        run.metric(f"loss of the last quarter, {name}", values.mean(), "nats/char", rtol=0.05)
    run.metric("loss within the training length", early.mean(), "nats/char", rtol=0.05)
    with run.figure("positions", "Trained on 64 characters: who can read 256?") as axes:
        smooth = {
            name: rows.reshape(seeds, -1, 8).mean(2)
            for name, rows in by_place.items()
            if name in WAYS
        }
        labels = {
            "xlabel": "place in the window (tokens before it)",
            "ylabel": "loss (nats/character)",
        }
        plots.curves(axes, np.arange(4, LONG, 8), smooth, colors=COLORS, **labels)
        axes.axvline(CONTEXT, color=plots.REFERENCE, linestyle="--", linewidth=1)


# ---- needles


def train_on_needles(
    model: nn.Module,
    text: Int[Tensor, " n"],
    needles: Needles,
    steps: int,
    generator: torch.Generator,
) -> None:
    """Learn to answer at the end of rows of the training length; the text itself is not learned."""
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    of_blocks = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in of_blocks]
    optimizers = [
        Muon(matrices, lr=0.02),
        AdamW(rest, lr=0.012, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    peaks = [o.lr for o in optimizers]
    for step in range(steps):
        rows, _ = needles.rows(text, 16, CONTEXT, generator)
        logits = model(rows[:, :-1])[:, needles.answers]
        loss = F.cross_entropy(logits.transpose(1, 2), rows[:, 1:][:, needles.answers])
        for o, lr in zip(optimizers, peaks, strict=True):
            o.zero_grad()
            o.lr = lr * (1 - step / steps)
        loss.backward()
        for o in optimizers:
            o.step()


@torch.no_grad()
def answered(
    model: nn.Module, rows: Int[Tensor, "row length"], needles: Needles
) -> Float[Tensor, "row n"]:
    """1 where the value asked for is the likeliest next token."""
    best = model(rows[:, :-1])[:, needles.answers].argmax(-1)
    return (best == rows[:, 1:][:, needles.answers]).float()


def find_needles(
    run: Run, training: Tensor, valid: Tensor, needles: Needles, steps: int, seeds: int
) -> None:
    """Share of needles found, by how long the text is and how far away they lie."""
    times, rows = (1, 2, 4, 8), run.budget(quick=8, default=64)
    found = {name: np.zeros((seeds, len(times))) for name in WAYS}
    by_depth = {name: np.zeros((seeds, 4, len(times))) for name in WAYS}
    torn = np.zeros(seeds)
    for seed in run.progress(range(seeds), "needles"):
        config = LlamaConfig(needles.vocab_size, 32, 2, 4, context=CONTEXT, rope_base=10_000.0)
        model, generator = Llama(config, run.generator(seed)), run.generator(200 + seed)
        train_on_needles(model, training, needles, steps, generator)
        for column, by in enumerate(times):
            length = by * CONTEXT
            data, distance = needles.rows(valid, rows, length, run.generator(300 + seed))
            for name, scaling in WAYS.items():
                hits = answered(with_scaling(model, scaling, length), data, needles)
                found[name][seed, column] = hits.mean()
                for depth in range(4):
                    there = (4 * distance / length).ceil() == 4 - depth
                    by_depth[name][seed, depth, column] = hits[there].mean() if there.any() else 0
            if by == 1:
                of_others = data.clone()
                of_others[:, : -2 * needles.n_keys] = data.roll(1, 0)[:, : -2 * needles.n_keys]
                torn[seed] = answered(model, of_others, needles).mean()
    common = {"unit": "of the needles", "quick": False}
    chance, seen = 1 / needles.n_values, "one other seed: all at once the length, 35 % more at four"
    finds = "needles are found at the training length"
    run.claim(
        finds, found["as trained"][:, 0] - chance, at_least=0.3, note="above chance", **common
    )
    run.falsifier("in another row's haystack", torn - chance, breaks=finds)
    more = "at four times the length YaRN finds more needles"
    run.claim(
        more,
        found["YaRN"][:, 2] - found["as trained"][:, 2],
        at_least=0.05,
        seen_before=seen,
        **common,
    )
    run.falsifier(
        "YaRN at the training length", found["YaRN"][:, 0] - found["as trained"][:, 0], breaks=more
    )
    for name, shares in found.items():
        for by, values in zip(times, shares.T, strict=True):
            run.metric(f"needles found at {by} times, {name}", 100 * values.mean(), "%", rtol=0.1)
    options = {"columns": len(WAYS), "size": (11.0, 3.2), "sharey": True}
    with run.figure("needles", "How far away is a needle still found? (%)", **options) as panels:
        for axes, (name, grid) in zip(panels, by_depth.items(), strict=True):
            labels = {
                "columns": [str(by * CONTEXT) for by in times],
                "limits": (0, 100),
                "label": "",
            }
            labels |= {"rows": ["start", "", "", "end"], "xlabel": f"characters\n{name}"}
            plots.heat_map(axes, 100 * grid.mean(0), **labels)
        panels[0].set_ylabel("place of the needle")


# ---- a real model


@torch.inference_mode()
def losses_of(model: Llama, tokens: Int[Tensor, " n"]) -> Float[Tensor, " m"]:
    """Loss of each next token; the output head sees 256 places at once, to save memory."""
    head, model.head = model.head, nn.Identity()
    hidden = model(tokens[None, :-1])[0]
    model.head = head
    pairs = zip(hidden.split(256), tokens[1:].split(256), strict=True)
    return torch.cat([F.cross_entropy(head(h), y, reduction="none") for h, y in pairs])


def read_with_smollm2(run: Run) -> None:
    """Loss of SmolLM2 along one text, past the 2,048 tokens of its first training.

    Its file allows 8,192; the long run reads further than that, as it is and with YaRN.
    """
    from week18.smollm2 import smollm2

    first, n = 2048, run.budget(quick=0, default=3072, full=12_288)
    if n == 0:
        return
    try:
        model, tokenizer = smollm2()
    except UserError as error:
        run.say(f"without SmolLM2: {error}")
        return
    most = model.config.context
    ids = torch.tensor(tokenizer.encode(datasets.pydocs_text()[: 8 * n]))[: n + 1]
    ways = {"as it is": None} | ({"YaRN": YaRN(n / most, most)} if n > most else {})
    losses = {name: losses_of(with_scaling(model, way, n), ids) for name, way in ways.items()}
    for name, values in losses.items():
        for part, places in (
            ("1,024 to 2,048", slice(1024, first)),
            ("beyond 2,048", slice(first, n)),
        ):
            run.metric(f"SmolLM2 {name}, {part}", values[places].mean(), "nats/token")
    run.metric("context in SmolLM2's file", most, "tokens", rtol=0)
    with run.figure("smollm2", "Does SmolLM2 read past its first 2,048 tokens?") as axes:
        labels = {"xlabel": "place in one text (tokens before it)", "marker": "o"}
        labels |= {"ylabel": "loss (nats/token), mean of 256", "ylim": (0, None)}
        means = {name: values.reshape(-1, 256).mean(1).numpy() for name, values in losses.items()}
        plots.curves(axes, np.arange(128, n, 256), means, **labels)
        axes.axvline(first, color=plots.REFERENCE, linestyle="--", linewidth=1)
