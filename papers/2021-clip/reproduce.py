r"""Is recognizing a caption cheaper to learn than predicting its words?

$$ L = -\frac{1}{2n} \sum_i \Big[\log \frac{e^{s_{ii}}}{\sum_j e^{s_{ij}}}
   + \log \frac{e^{s_{ii}}}{\sum_j e^{s_{ji}}}\Big] \quad \text{against} \quad
   -\frac{1}{n} \sum_i \frac{1}{|w_i|} \sum_{k \in w_i} \log p_k(x_i) . $$

Reduced: rendered scenes of 16×16 pixels for four hundred million pictures of the web. The rules
stand in the front matter of README.md.

    uv run papers/2021-clip/reproduce.py

Radford et al. (2021), "Learning transferable visual models from natural language supervision",
section 2.3, figure 2.
"""

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week25.clip import Clip, ImageTower, TextTower, contrastive_loss, initialize, zero_shot
from week25.scenes import (
    COLORS,
    KINDS,
    PAD,
    WORDS,
    Glyphs,
    Thing,
    draw_neighbors,
    draw_scene,
    encoded,
    glyphs,
    render,
    split,
)

PAIRS = list(itertools.product(range(len(COLORS)), range(len(KINDS))))
PROMPTS = encoded([str(Thing(*pair, 0)) for pair in PAIRS])
D_MODEL, D_EMBED, BATCH, CONTEXT = 48, 32, 64, 16
GIVEN = ("no noise", "with noise")


class WordPredictor(nn.Module):
    """The image tower with one logit for each word of the vocabulary."""

    def __init__(self, generator: torch.Generator):
        super().__init__()
        self.image = ImageTower(16, 4, D_MODEL, 4, 2, D_EMBED)
        self.head = nn.Linear(D_EMBED, len(WORDS))
        initialize(self, generator)

    def forward(
        self, images: Float[Tensor, "n 3 16 16"], tokens: Int[Tensor, "m seq"]
    ) -> Float[Tensor, "n m"]:
        """Mean log-probability of the words of each text."""
        bags = bag(tokens)
        return self.head(self.image(images)).log_softmax(-1) @ bags.T


def bag(tokens: Int[Tensor, "m seq"]) -> Float[Tensor, "m words"]:
    """Each text's words, start and end among them, as equal parts of 1; order is lost."""
    counts = F.one_hot(tokens, len(WORDS)).float().masked_fill((tokens == PAD)[..., None], 0).sum(1)
    return counts / counts.sum(-1, keepdim=True)


def new_data(seed: int, n: int, noise: int, shown: Glyphs) -> tuple[Tensor, Tensor]:
    """Pictures of one thing or two by turns, and captions that end in words of noise."""
    g = torch.Generator().manual_seed(seed)
    seen, _ = split(g)
    scenes = [draw_neighbors(seen, g) if i % 2 else draw_scene(seen, 1, g) for i in range(n)]
    extra = torch.randint(3, len(WORDS), (n, noise), generator=g).tolist()
    captions = [
        " ".join([" and ".join(map(str, scene)), *(WORDS[i] for i in words)])
        for scene, words in zip(scenes, extra, strict=True)
    ]
    return render(scenes, shown, g), encoded(captions, context=CONTEXT)


def curve(
    arm: str, data: tuple, test: tuple, *, seed: int, steps: int, every: int, lr: float
) -> list[float]:
    """Zero-shot accuracy after each `every` steps, the start among them."""
    g = torch.Generator().manual_seed(seed)
    order = torch.Generator().manual_seed(seed)  # the same pictures in the same order for all arms
    if arm == "words":
        model: nn.Module = WordPredictor(g)
    else:
        text = TextTower(len(WORDS), CONTEXT, D_MODEL, 4, 2, D_EMBED)
        model = Clip(ImageTower(16, 4, D_MODEL, 4, 2, D_EMBED), text, g)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr, fused=True)
    accuracies = [accuracy(model, *test)]
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min((step + 1) / 20, 1)
        i = torch.randint(len(data[0]), (BATCH,), generator=order)
        j = i.roll(1) if arm == "strangers" else i
        optimizer.zero_grad()
        scores = model(data[0][i], data[1][j])
        loss = -scores.diagonal().mean() if arm == "words" else contrastive_loss(scores)
        loss.backward()
        optimizer.step()
        if arm != "words":
            model.clip_scale()
        if (step + 1) % every == 0:
            accuracies.append(accuracy(model, *test))
    return accuracies


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of single things that are named rightly among all pairs."""
    if isinstance(model, Clip):
        found = zero_shot(model, images, [PROMPTS])
    else:
        found = model(images, PROMPTS).argmax(-1)
    return (found == labels).float().mean().item()


def examples_to(target: float, accuracies: list[float], per_point: int) -> float:
    """Examples until the target, between two points on a straight line; all, if never."""
    for i, (low, high) in enumerate(itertools.pairwise(accuracies)):
        if high >= target:
            return per_point * (i + (target - low) / (high - low))
    return float(per_point * (len(accuracies) - 1))


def new_test(seed: int, per_pair: int, drawn: Glyphs) -> tuple[Tensor, Tensor]:
    """Pictures of single things, of all pairs."""
    g = torch.Generator().manual_seed(1000 + seed)
    scenes = [draw_scene(PAIRS, 1, g, pair) for pair in PAIRS for _ in range(per_pair)]
    return render(scenes, drawn, g), torch.arange(len(PAIRS)).repeat_interleave(per_pair)


def measure(seed: int, matter: dict, n: int, steps: int, every: int) -> dict[tuple, list[float]]:
    """Curves by arm and noise; strangers with noise only."""
    shown, drawn = glyphs(), glyphs(judge=True)
    test, found = new_test(seed, 8, drawn), {}
    for name, noise in zip(GIVEN, (0, matter["noise"]), strict=True):
        data = new_data(seed, n, noise, shown)
        arms = ("contrast", "words", "strangers") if noise else ("contrast", "words")
        for arm in arms:
            lr = matter["lr"]["words" if arm == "words" else "contrast"]
            length = steps // 2 if arm == "strangers" else steps
            size = {"seed": seed, "steps": length, "every": every, "lr": lr}
            found[arm, name] = curve(arm, data, test, **size)
            # Strangers stop early and count as if they stayed where they are.
            found[arm, name] += found[arm, name][-1:] * ((steps - length) // every)
    return found


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 160) -> None:
    """Train both arms, read off the examples they need, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Pairs of arms, each with scenes of its own.
    steps
        Of each training.
    """
    paper = papers.load(__file__)
    run.rounding(0.1, "some steps in float32")
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    n, steps, every = run.budget(quick=(40, 8, 2), default=(2000, steps, 10), full=(8000, 800, 20))
    span = run.progress(range(run.seed, run.seed + seeds), "seeds")
    found = [measure(seed, paper.matter, n, steps, every) for seed in span]
    late = {"quick": False, "rtol": None}
    saved = {}
    for (rule, name), target in zip(
        zip(paper.rules, ("first", "second"), strict=True), paper.matter["targets"], strict=True
    ):
        for given in GIVEN:
            values = doublings(found, "contrast", given, target, every * BATCH)
            saved[name, given] = values
            run.metric(f"doublings, {name} target, {given}", values.mean(), rtol=None)
        paper.judge(run, rule, saved[name, "with noise"], **late)
    other = doublings(found, "strangers", "with noise", paper.matter["targets"][0], every * BATCH)
    run.falsifier("captions of other pictures", other, breaks=next(iter(paper.rules)))
    run.metric("words of noise, judged", paper.matter["noise"])
    for arm, given in found[0]:
        end = np.mean([curves[arm, given][-1] for curves in found])
        run.metric(f"accuracy at the end, {arm}, {given}", end, rtol=None)
    draw(run, found, saved, every * BATCH, paper.matter)


def doublings(
    found: list[dict], arm: str, given: str, target: float, per_point: int
) -> Float[np.ndarray, " seeds"]:
    """log2 of the examples of word prediction over those of an arm, per seed."""
    pairs = [(curves["words", given], curves[arm, given]) for curves in found]
    needed = [[examples_to(target, curve, per_point) for curve in pair] for pair in pairs]
    return np.array([np.log2(words / ours) for words, ours in needed])


def check(run: Run) -> None:
    """Both losses, against torch's own cross-entropies."""
    g = run.generator(1)
    logits = torch.randn(7, 7, generator=g)
    labels = torch.arange(7)
    theirs = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    why = {"against": "torch's cross_entropy", "why": "float32 rounding", "atol": 1e-6}
    run.check("contrastive loss", contrastive_loss(logits), theirs, **why)
    model, images = WordPredictor(g), torch.randn(5, 3, 16, 16, generator=g)
    tokens = encoded(["a red disc", "a red red disc", "two", "a", "a blue plus and a red two"])
    theirs = F.cross_entropy(model.head(model.image(images)), bag(tokens), reduction="none")
    run.check("loss of word prediction", -model(images, tokens).diagonal(), theirs, **why)


def draw(run: Run, found: list[dict], saved: dict, per_point: int, matter: dict) -> None:
    """Curves, and the doublings beside the paper's two."""
    title = "How many examples does zero-shot accuracy cost?"
    with run.figure("examples", title, columns=2, size=(9, 3.8)) as axes:
        styles = {"contrast": plots.BLUE, "words": plots.ORANGE, "strangers": plots.GRAY}
        for arm, color in styles.items():
            values = np.array([curves[arm, "with noise"] for curves in found])
            at = per_point * np.arange(values.shape[1])
            plots.interval_band(axes[0], at, values, color=color, label=arm)
        for target in matter["targets"]:
            axes[0].axhline(target, color=plots.REFERENCE, ls=":")
        axes[0].set(xlabel="examples seen", ylabel="accuracy among 32 pairs")
        axes[0].legend(fontsize=8)
        for x, values in enumerate(saved.values()):
            axes[1].bar(x, values.mean(), 0.6, color=plots.COLORS[x % 2])
            axes[1].plot([x] * len(values), values, "o", color="0.2", ms=4)
        axes[1].axhline(
            matter["paper_doublings"], color=plots.REFERENCE, ls="--", label="the paper, ImageNet"
        )
        axes[1].axhline(0, color="0.2", lw=0.8)
        labels = [f"{name} target,\n{given}" for name, given in saved]
        axes[1].set_xticks(range(len(saved)), labels, size=8)
        axes[1].set(ylabel="doublings saved (dots: seeds)", ylim=(None, 2.4))
        axes[1].legend(fontsize=8, loc="upper left")


if __name__ == "__main__":
    cli(main)
