r"""Do pixels and parameters help different tasks?

$$ \big(a^{32}_{\text{read}} - a^{16}_{\text{read}}\big)
   - \big(a^{32}_{\text{count}} - a^{16}_{\text{count}}\big) > 0 , $$

and the same with sizes for resolutions and the tasks exchanged. Reduced: tiny digits and four
squares for thirty tasks of transfer. The rules stand in the front matter of README.md.

    uv run papers/2024-paligemma2/reproduce.py

Steiner et al. (2024), "PaliGemma 2: A family of versatile VLMs for transfer", section 4.1.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week25.answering import Rows, learn, rows
from week25.paligemma2 import IGNORED, PaliGemma2, answer_targets
from week25.scenes import COLORS, NUMBERS, WORDS

FONT = (
    "111101101101111 010110010010111 111001111100111 111001111001111 101101111001001"
    " 111100111001111 111100111101111 111001001001001 111101111101111 111101111001111"
)
SIDES, TASKS = (16, 32), ("reading", "counting")
WIDTHS = {"small": 24, "large": 48}


def draw_digit(g: torch.Generator, zoom: int) -> tuple[Tensor, str, str]:
    """One digit at the corner of one of four quarters."""
    font = torch.tensor([[int(c) for c in bits] for bits in FONT.split()]).float().view(10, 5, 3)
    digit, quarter = (int(torch.randint(n, (), generator=g)) for n in (10, 4))
    glyph = font[digit].repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    y, x = 16 * (quarter // 2) + 1, 16 * (quarter % 2) + 2
    image = torch.zeros(3, 32, 32)
    image[:, y : y + 5 * zoom, x : x + 3 * zoom] = glyph
    return image, "what is there", NUMBERS[digit]


def draw_squares(g: torch.Generator) -> tuple[Tensor, str, str]:
    """Four squares of three colors, and a question about one color."""
    names, values = list(COLORS)[:3], torch.tensor(list(COLORS.values()))
    colors = torch.randint(3, (4,), generator=g).tolist()
    image = torch.zeros(3, 32, 32)
    for quarter, color in enumerate(colors):
        y, x = 16 * (quarter // 2) + 4, 16 * (quarter % 2) + 4
        image[:, y : y + 8, x : x + 8] = (2 * values[color] - 1)[:, None, None]
    asked = int(torch.randint(3, (), generator=g))
    return image, f"how many {names[asked]}", NUMBERS[colors.count(asked)]


def seen_at(
    images: Float[Tensor, "n 3 32 32"], side: int, g: torch.Generator
) -> Float[Tensor, "n 3 side side"]:
    """What a sensor of so many pixels sees, with noise of its own."""
    small = F.avg_pool2d(images, 32 // side)
    return small + 0.1 * torch.randn(small.shape, generator=g)


def new_data(seed: int, n: int, zoom: int) -> tuple[Tensor, Rows, Tensor]:
    """Pictures, rows, and whether each is to be read; half are."""
    g = torch.Generator().manual_seed(seed)
    drawn = [draw_squares(g) if i % 2 else draw_digit(g, zoom) for i in range(n)]
    images, asked, answers = zip(*drawn, strict=True)
    return torch.stack(images), rows(asked, answers), torch.arange(n) % 2 == 0


def new_model(size: str, side: int, seed: int) -> tuple[PaliGemma2, torch.Generator]:
    """The same encoder before a decoder of one of two widths."""
    g, width = torch.Generator().manual_seed(seed), WIDTHS[size]
    decoder = {"d_model": width, "d_ff": 2 * width, "head_dim": width // 2}
    decoder |= {"n_heads": 2, "n_kv_heads": 1, "n_layers": 2}
    vision = {"side": side, "patch": 8, "d_vision": 32, "vision_layers": 1}
    return PaliGemma2.small(len(WORDS), g, **vision, **decoder), g


@torch.no_grad()
def shares(model: PaliGemma2, images: Tensor, data: Rows, reads: Tensor) -> dict[str, float]:
    """Share of answers of which all words are the likeliest, after the right ones before them."""
    targets = answer_targets(*data)
    best = model(images, *data)[:, :-1].argmax(-1)
    good = ((best == targets) | (targets == IGNORED)).all(1).float()
    return {"reading": good[reads].mean().item(), "counting": good[~reads].mean().item()}


def cell(size: str, side: int, zoom: int, *, seed: int, n: int, steps: int, lr: float) -> dict:
    """Both accuracies of one model."""
    images, data, _ = new_data(seed, n, zoom)
    test, asked, reads = new_data(1000 + seed, n // 4, zoom)
    model, g = new_model(size, side, seed)
    learn(model, seen_at(images, side, g), data, steps=steps, generator=g, lr=lr)
    return shares(model, seen_at(test, side, g), asked, reads)


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 180) -> None:
    """Train all combinations, and judge the two interactions by the front matter's rules.

    Parameters
    ----------
    seeds
        Sets of pictures, each with six models.
    steps
        Of each training.
    """
    paper = papers.load(__file__)
    run.rounding(0.1, "some steps in float32")
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    n, steps = run.budget(quick=(40, 2), default=(2000, steps), full=(8000, 8 * steps))
    found = []
    for seed in run.progress(range(run.seed, run.seed + seeds), "sets"):
        options = {"seed": seed, "n": n, "steps": steps}
        lr = paper.matter["lr"]
        cells = {
            (size, side): cell(size, side, 1, lr=lr[size], **options)
            for size in WIDTHS
            for side in SIDES
        }
        for side in SIDES:
            cells["twice as large", side] = cell("large", side, 2, lr=lr["large"], **options)
        found.append(cells)
    judge(run, paper, found)
    draw(run, found)


def judge(run: Run, paper: papers.Paper, found: list[dict]) -> None:
    """Two interactions and the falsifier."""
    late = {"quick": False, "rtol": None}
    pixels, size = list(paper.rules)
    gains = [by_pixels(cells, tuple(WIDTHS)) for cells in found]
    paper.judge(run, pixels, [g["reading"] - g["counting"] for g in gains], **late)
    grown = [by_size(cells) for cells in found]
    paper.judge(run, size, [g["counting"] - g["reading"] for g in grown], **late)
    large = [by_pixels(cells, ("twice as large",)) for cells in found]
    values = [g["reading"] - g["counting"] for g in large]
    run.falsifier("digits twice as large", values, breaks=pixels)
    for name, side in found[0]:
        for task in TASKS:
            share = np.mean([cells[name, side][task] for cells in found])
            run.metric(f"{task}, {name}, {side}", share, rtol=None)


def by_pixels(cells: dict, sizes: tuple[str, ...]) -> dict[str, float]:
    """Gain of each task from 16 to 32 pixels, mean of the sizes."""
    low, high = SIDES
    return {
        task: float(np.mean([cells[s, high][task] - cells[s, low][task] for s in sizes]))
        for task in TASKS
    }


def by_size(cells: dict) -> dict[str, float]:
    """Gain of each task from the small decoder to the large one, mean of the resolutions."""
    return {
        task: float(np.mean([cells["large", s][task] - cells["small", s][task] for s in SIDES]))
        for task in TASKS
    }


def check(run: Run) -> None:
    """The paper's numbers of tokens, and what halving does to a picture."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    tokens = []
    with torch.device("meta"):  # shapes without memory
        for side in (224, 448, 896):
            sizes = {"hidden_size": 16, "num_attention_heads": 1, "num_hidden_layers": 1}
            config = SiglipVisionConfig(image_size=side, patch_size=14, **sizes)
            tokens.append(SiglipVisionModel(config).embeddings.num_patches)
    ours = [(side // 14) ** 2 for side in (224, 448, 896)]
    run.check("tokens of a picture", ours, tokens, against="SiglipVisionModel", why="a count")
    image = draw_digit(run.generator(), 1)[0]
    halved = F.avg_pool2d(image[None], 2)[0]
    by_hand = sum(image[:, i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4
    exact = {"against": "means of four pixels", "kind": "theorem", "why": "float32 rounding"}
    run.check("halved picture", halved, by_hand, atol=1e-6, **exact)


def draw(run: Run, found: list[dict]) -> None:
    """A panel for each task."""
    title = "What helps whom: pixels or parameters?"
    with run.figure("interplay", title, columns=2, size=(9, 3.8), sharey=True) as axes:
        for ax, task, chance in zip(axes, TASKS, (0.1, 0.4), strict=True):
            names = [*WIDTHS, *(["twice as large"] if task == "reading" else [])]
            for name, color in zip(names, plots.COLORS, strict=False):
                values = np.array([[cells[name, s][task] for s in SIDES] for cells in found])
                label = f"{name} decoder" if name in WIDTHS else f"large decoder, digits {name}"
                plots.interval_band(ax, np.array(SIDES), values, color=color, label=label)
            ax.axhline(chance, color=plots.REFERENCE, ls="--", lw=1)
            ax.set_xticks(SIDES)
            ax.set(xlabel="pixels per side (dashed: guessing)", ylim=(0, 1.02))
            ax.set_title(task, size=11)
            ax.legend(fontsize=8)
        axes[0].set_ylabel("answers wholly right")


if __name__ == "__main__":
    cli(main)
