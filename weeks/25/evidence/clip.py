"""Both losses against transformers, pairs never shown, and what a caption's order is worth."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from shared import plots
from shared.study import PositiveInt, Run
from week25.clip import (
    Clip,
    ImageTower,
    TextTower,
    contrastive_loss,
    recall,
    sigmoid_loss,
    train_step,
    zero_shot,
)
from week25.evidence.clip_twins import check_clip, check_losses, check_siglip
from week25.scenes import (
    COLORS,
    WORDS,
    Glyphs,
    Pair,
    Scene,
    Thing,
    draw_neighbors,
    draw_scene,
    encoded,
    glyphs,
    relation,
    render,
    split,
    swap_cells,
    swap_colors,
)

TEMPLATES = ("{}", "there is {}", "a picture of {}")
CONTEXT, BATCH, LR = 12, 64, 2e-3


class Data(NamedTuple):
    """Pictures with captions, and pairs of a color and a kind that none of them shows."""

    images: Float[Tensor, "n 3 16 16"]
    tokens: Int[Tensor, "n context"]
    seen: list[Pair]
    held_out: list[Pair]


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 220) -> None:
    """Check both losses, then learn from scenes with captions.

    Parameters
    ----------
    seeds
        Models, each with pairs of its own held out.
    steps
        Of each training.
    """
    run.rounding(0.05, "some steps in float32")
    check_clip(run)
    check_siglip(run)
    check_losses(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps = run.budget(quick=3, default=steps, full=10 * steps)
    learn(run, seeds, steps)


# ---- learning


def new_data(seed: int, n: int, shown: Glyphs) -> Data:
    """Single things in one of three templates, and neighbors with their relation."""
    g = torch.Generator().manual_seed(seed)
    seen, held_out = split(g)
    scenes, captions = [], []
    for i in range(n):
        scene = draw_scene(seen, 1, g) if i % 2 else draw_neighbors(seen, g)
        scenes.append(scene)
        single = TEMPLATES[i // 2 % 3].format(scene[0])
        captions.append(single if i % 2 else relation(scene))
    return Data(render(scenes, shown, g), encoded(captions, context=CONTEXT), seen, held_out)


def trained(
    data: Data, seed: int, steps: int, *, strangers: bool = False, sigmoid: bool = False
) -> tuple[Clip, list[float]]:
    """A model and its losses; among `strangers` each picture has the caption of another."""
    g = torch.Generator().manual_seed(seed)
    towers = ImageTower(16, 4, 64, 4, 2, 32), TextTower(len(WORDS), CONTEXT, 64, 4, 2, 32)
    start = {"scale": 10.0, "bias": -10.0} if sigmoid else {}
    model = Clip(*towers, g, **start)
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    loss, losses = sigmoid_loss if sigmoid else contrastive_loss, []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = LR * min((step + 1) / 20, 1) * (1 - step / steps)
        i = torch.randint(len(data.images), (BATCH,), generator=g)
        j = i[torch.randperm(BATCH, generator=g)] if strangers else i
        losses.append(train_step(model, optimizer, data.images[i], data.tokens[j], loss))
    return model, losses


def named(
    model: Clip, data: Data, pairs: list[Pair], among: list[Pair], drawn: Glyphs, n_templates: int
) -> float:
    """Share of single things that zero-shot names rightly, among the pairs given."""
    g = torch.Generator().manual_seed(9)
    targets = [pair for pair in pairs for _ in range(20)]
    images = render([draw_scene(data.seen, 1, g, pair) for pair in targets], drawn, g)
    prompts = [
        encoded([template.format(Thing(*pair, 0)) for pair in among])
        for template in TEMPLATES[:n_templates]
    ]
    found = zero_shot(model, images, prompts).tolist()
    return sum(among[i] == pair for i, pair in zip(found, targets, strict=True)) / len(targets)


def other_color(scene: Scene) -> Scene:
    """The first thing in a color that the scene does not have."""
    used = {thing.color for thing in scene}
    color = min(set(range(len(COLORS))) - used)
    return scene[0]._replace(color=color), scene[1]


CHANGES = {"another color": other_color, "exchanged colors": swap_colors}
CHANGES |= {"exchanged places": swap_cells}


@torch.no_grad()
def preferred(model: Clip, data: Data, drawn: Glyphs) -> tuple[dict[str, float], list[float]]:
    """How often the true caption beats a changed one, and recall of both directions."""
    g = torch.Generator().manual_seed(10)
    scenes = [draw_neighbors(data.seen, g) for _ in range(300)]
    u = model.image(render(scenes, drawn, g))
    v = model.text(encoded([relation(scene) for scene in scenes]))
    shares = {}
    for name, change in CHANGES.items():
        other = model.text(encoded([relation(change(scene)) for scene in scenes]))
        better = F.cosine_similarity(u, v) > F.cosine_similarity(u, other)
        shares[name] = better.float().mean().item()
    logits = model.logits(u[:100], v[:100])
    return shares, [recall(part, k) for part in (logits, logits.T) for k in (1, 5)]


def learn(run: Run, seeds: int, steps: int) -> None:
    """Zero-shot on pairs never shown, retrieval, and captions that say something else."""
    shown, drawn = glyphs(), glyphs(judge=True)
    n = run.budget(quick=100, default=2000)
    found: dict[str, list[float]] = {name: [] for name in ("six", "one", "all", "strangers")}
    shares: dict[str, list[float]] = {name: [] for name in CHANGES}
    recalls, falls, stranger_falls = [], [], []
    for seed in run.progress(range(run.seed, run.seed + seeds), "models"):
        data = new_data(seed, n, shown)
        model, losses = trained(data, seed, steps)
        held_out = data.held_out
        found["six"].append(named(model, data, held_out, held_out, drawn, 3))
        found["one"].append(named(model, data, held_out, held_out, drawn, 1))
        found["all"].append(named(model, data, held_out, data.seen + held_out, drawn, 3))
        for name, share in (result := preferred(model, data, drawn))[0].items():
            shares[name].append(share)
        recalls.append(result[1])
        control, stranger_losses = trained(data, seed, max(3, steps // 3), strangers=True)
        found["strangers"].append(named(control, data, held_out, held_out, drawn, 3))
        falls.append(sum(losses[-10:]) / len(losses[-10:]) / math.log(BATCH))
        stranger_falls.append(sum(stranger_losses[-10:]) / len(losses[-10:]) / math.log(BATCH))
    late = {"quick": False, "rtol": None}
    falls_name = "the loss falls below half of ln n"
    run.claim(falls_name, falls, at_most=0.5, each=True, unit="of ln n", **late)
    run.falsifier("its loss, captions of other rows", stranger_falls, breaks=falls_name)
    zero = "it names pairs of color and kind that it never saw"
    run.claim(zero, found["six"], at_least=0.4, unit="of six held-out pairs", **late)
    run.falsifier("captions of other rows", found["strangers"], breaks=zero)
    run.claim("it hears another color", shares["another color"], at_least=0.9, **late)
    deaf = "it does not hear who is left of whom"
    options = {"at_most": 0.6, "each": True, "unit": "of pairs, 0.5 is chance"}
    run.claim(deaf, shares["exchanged places"], **options, **late)
    late = {"rtol": None}
    run.metric("pairs never shown, by one template", sum(found["one"]) / seeds, **late)
    run.metric("pairs never shown, among all", sum(found["all"]) / seeds, **late)
    for name, values in shares.items():
        run.metric(f"true caption preferred to {name}", sum(values) / seeds, **late)
    names = [f"recall at {k}, {way}" for way in ("captions", "pictures") for k in (1, 5)]
    for name, values in zip(names, zip(*recalls, strict=True), strict=True):
        run.metric(name, sum(values) / seeds, **late)
    run.metric("scale of the logits", model.log_scale.exp().item(), **late)
    other, _ = trained(data, run.seed, steps, sigmoid=True)
    share = named(other, data, data.held_out, data.held_out, drawn, 3)
    run.metric("pairs never shown, sigmoid loss", share, **late)
    show(run, shares, model, data, drawn)


def show(run: Run, shares: dict[str, list[float]], model: Clip, data: Data, drawn: Glyphs) -> None:
    """Pictures with the captions that they prefer, and how often."""
    title = "Does the picture prefer its caption to a changed one?"
    with run.figure("order", title, columns=2, size=(9, 3.6)) as axes:
        names, values = list(shares), [torch.tensor(v) for v in shares.values()]
        at = range(len(names))
        axes[0].barh(at, [float(v.mean()) for v in values], color=plots.BLUE, height=0.6)
        for y, v in zip(at, values, strict=True):
            axes[0].plot(v, [y] * len(v), "o", color="0.2", ms=4)
        axes[0].axvline(0.5, color=plots.REFERENCE, ls="--")
        axes[0].set(xlabel="true caption preferred (dots: models)", xlim=(0, 1))
        axes[0].set_yticks(list(at), names)
        axes[0].invert_yaxis()
        g = torch.Generator().manual_seed(11)
        scenes = [draw_neighbors(data.seen, g) for _ in range(4)]
        images = render(scenes, drawn, g)
        logits = []
        for i, scene in enumerate(scenes):
            pair = encoded([relation(scene), relation(swap_cells(scene))])
            with torch.no_grad():
                logits.append(model(images[i : i + 1], pair)[0].tolist())
        axes[1].imshow(
            torch.cat([F.pad((x + 1) / 2, (1, 1, 1, 1), value=1) for x in images], 1)
            .permute(1, 2, 0)
            .numpy()
        )
        axes[1].set_axis_off()
        for i, (scene, (true, false)) in enumerate(zip(scenes, logits, strict=True)):
            for line, (text, value) in enumerate(
                ((relation(scene), true), (relation(swap_cells(scene)), false))
            ):
                where = (20, 18 * i + 6 + 6 * line)
                axes[1].text(
                    *where, f"{value:.1f}  {text}", size=8, color="k" if not line else "0.4"
                )
        axes[1].set_xlim(0, 75)
