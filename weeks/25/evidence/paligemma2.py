"""PaliGemma 2 beside transformers', then small ones that count, name and place what they see."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from shared.study import PositiveInt, Run
from week25.answering import Rows, learn, right, rows
from week25.evidence.paligemma_pictures import show_answers, show_shares
from week25.evidence.paligemma_twins import (
    check_gemma,
    check_mask,
    check_paligemma,
    check_vision,
)
from week25.paligemma2 import PaliGemma2
from week25.scenes import (
    WORDS,
    Glyphs,
    Pair,
    Scene,
    caption,
    draw_scene,
    glyphs,
    questions,
    render,
    split,
)

KINDS = ("how many", "what color", "where", "what", "caption")  # of questions
JUDGED = KINDS[:3]
LR = 2e-3


class Data(NamedTuple):
    """Rows with their pictures, and pairs that none of them shows."""

    images: Float[Tensor, "n 3 16 16"]
    rows: Rows
    seen: list[Pair]
    held_out: list[Pair]


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 750) -> None:
    """Check all parts, then learn to answer.

    Parameters
    ----------
    seeds
        Models, each with pairs of its own held out.
    steps
        Of each training.
    """
    run.rounding(0.05, "some steps in float32")
    check_mask(run)
    check_vision(run)
    check_gemma(run)
    check_paligemma(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps = run.budget(quick=3, default=steps, full=10 * steps)
    n = run.budget(quick=60, default=2000)
    judge(run, seeds, steps, n)


def asked(scene: Scene) -> list[tuple[str, str]]:
    """What is asked about a scene: four questions, and a caption if it is a single thing."""
    return questions(scene) + ([("caption", caption(scene))] if len(scene) == 1 else [])


def new_data(seed: int, n: int, shown: Glyphs) -> Data:
    """Scenes of one to three things, with all that is asked about each."""
    g = torch.Generator().manual_seed(seed)
    seen, held_out = split(g)
    counts = torch.randint(1, 4, (n,), generator=g).tolist()
    scenes = [draw_scene(seen, count, g) for count in counts]
    images = render(scenes, shown, g)
    which = [i for i, scene in enumerate(scenes) for _ in asked(scene)]
    pairs = [pair for scene in scenes for pair in asked(scene)]
    return Data(images[which], rows(*zip(*pairs, strict=True)), seen, held_out)


def new_model(seed: int) -> tuple[PaliGemma2, torch.Generator]:
    """A model that has learned nothing; a patch is as large as a cell."""
    g = torch.Generator().manual_seed(seed)
    heads = {"n_heads": 2, "n_kv_heads": 1, "head_dim": 32}
    return PaliGemma2.small(len(WORDS), g, patch=8, vision_layers=1, d_model=64, **heads), g


def shares(
    model: PaliGemma2, data: Data, firsts: list[Pair], drawn: Glyphs, *, strangers: bool = False
) -> dict[str, float]:
    """Share of right answers by kind of question; `strangers` shows another scene's picture."""
    g = torch.Generator().manual_seed(9)
    scenes = [draw_scene(data.seen, 1 + i % 3, g, pair) for pair in firsts for i in range(18)]
    images = render(scenes, drawn, g)
    if strangers:
        images = images.roll(25, 0)
    found = {}
    for k, kind in enumerate(KINDS):
        at = [i for i, scene in enumerate(scenes) if k < len(asked(scene))]
        texts = [asked(scenes[i])[k] for i in at]
        good = right(model, images[at], *zip(*texts, strict=True))
        found[kind] = sum(good) / len(good)
    return found


def of_two(model: PaliGemma2, data: Data, drawn: Glyphs) -> list[float]:
    """Shares of colors and of places that are right where two things are to be seen."""
    g = torch.Generator().manual_seed(13)
    scenes = [draw_scene(data.seen, 2, g, pair) for pair in data.seen[::2] for _ in range(10)]
    images, good = render(scenes, drawn, g), []
    for k in (1, 2):
        texts = [asked(scene)[k] for scene in scenes]
        good.append(sum(right(model, images, *zip(*texts, strict=True))) / len(texts))
    return good


def mean(found: dict[str, float]) -> float:
    """Over the kinds of question that are judged."""
    return sum(found[kind] for kind in JUDGED) / len(JUDGED)


def judge(run: Run, seeds: int, steps: int, n: int) -> None:
    """Pairs seen and never seen, pictures of others, and a mask that lets the answer leak."""
    shown, drawn = glyphs(), glyphs(judge=True)
    by_kind: dict[str, list[dict[str, float]]] = {name: [] for name in ("seen", "new", "blind")}
    falls, leaks, leaked, pairs = [], [], [], []
    for seed in run.progress(range(run.seed, run.seed + seeds), "models"):
        data = new_data(seed, n, shown)
        model, g = new_model(seed)
        losses = learn(model, data.images, data.rows, steps=steps, generator=g, lr=LR)
        falls.append(sum(losses[-20:]) / sum(losses[:20]))
        by_kind["seen"].append(shares(model, data, data.seen[::4], drawn))
        pairs.append(of_two(model, data, drawn))
        by_kind["new"].append(shares(model, data, data.held_out, drawn))
        by_kind["blind"].append(shares(model, data, data.seen[::4], drawn, strangers=True))
        short = max(3, min(120, steps // 5))
        other, g = new_model(seed)
        leak = learn(other, data.images, data.rows, steps=short, generator=g, lr=LR, leak=True)
        leaks.append(sum(leak[-10:]) / sum(losses[short - 10 : short] or losses))
        leaked.append(mean(shares(other, data, data.seen[::4], drawn)))
    late = {"quick": False, "rtol": None}
    sees = "it counts, names colors and says where"
    run.claim(sees, [mean(f) for f in by_kind["seen"]], at_least=0.6, unit="of answers", **late)
    blind = [mean(f) for f in by_kind["blind"]]
    run.falsifier("asked about the pictures of other scenes", blind, breaks=sees)
    name = "it does so for pairs that it never saw"
    run.claim(name, [mean(f) for f in by_kind["new"]], at_least=0.5, unit="of answers", **late)
    colors, places = zip(*pairs, strict=True)
    either = {"each": True, "unit": "of answers, 0.5 for either"} | late
    run.claim("of two things it knows whose color is meant", colors, at_least=0.6, **either)
    run.claim("of two things it does not know whose place is meant", places, at_most=0.6, **either)
    gaps = [
        seen["what color"] - new["what color"]
        for seen, new in zip(by_kind["seen"], by_kind["new"], strict=True)
    ]
    name = "the color of such a pair it knows less often"
    run.claim(name, gaps, at_least=0.2, unit="of answers", **late)
    run.claim("the loss falls to a third", falls, at_most=0.33, unit="of the first", **late)
    name = "with a mask that leaks the loss is less than half"
    run.claim(name, leaks, at_most=0.5, unit="of the loss after as many steps", **late)
    run.metric("right answers, trained with a leak", sum(leaked) / seeds, rtol=None)
    run.metric("right answers, pictures of others", sum(blind) / seeds, rtol=None)
    for group, found in by_kind.items():
        for kind in KINDS:
            values = [f[kind] for f in found]
            run.metric(f"{kind}, {group}", sum(values) / seeds, rtol=None)
    show_shares(run, by_kind, KINDS, losses, leak)
    g = torch.Generator().manual_seed(12)
    scenes = [draw_scene(data.seen, 2, g, pair) for pair in data.seen[:2] + data.held_out[:2]]
    show_answers(run, model, render(scenes, drawn, g), [asked(scene)[1:] for scene in scenes])
