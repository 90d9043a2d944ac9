"""Four orders of the same windows, on clean and on spoilt text, paired by seed."""

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr

from shared import datasets, plots
from shared.study import PositiveFloat, PositiveInt, Run
from week09.optimizers import AdamW
from week14.minimal_gpt import GPT, GPTConfig
from week14.ngram import encode_characters, exact_probability
from week16.curriculum import arrange, batches, difficulty, mean_loss, train

LENGTH = 33  # 32 inputs and the targets one character later
ARMS = ("all at once", "easy first", "hard first", "random pool")
COLORS = (plots.GRAY, plots.BLUE, plots.ORANGE, plots.GREEN)
MARGIN = 0.01  # nats per character: a smaller difference would not be worth sorting for
SPOILT = "40 % of the windows spoilt"
UNIT = {"unit": "nats/char", "quick": False}


def main(
    run: Run,
    *,
    steps: PositiveInt | None = None,
    batch_size: PositiveInt = 16,
    lr: PositiveFloat = 1e-2,
) -> None:
    """Train the same model on the same windows in four orders, on clean and on spoilt text.

    Parameters
    ----------
    steps
        Steps of the long runs; the short ones take a quarter.
    batch_size
        Windows per step.
    lr
        Highest learning rate of AdamW.
    """
    steps = steps or run.budget(quick=10, default=120, full=1200)
    run.chose(steps=steps)
    text = datasets.pydocs_text()[: run.budget(quick=60_000, default=None)]
    check_scores(run, text)
    check_pace(run)
    check_training(run)
    conditions = {  # steps, share of windows spoilt, rate, validations on the way
        "clean": (steps, 0.0, lr, 10),
        "clean, a quarter of the steps": (max(2, steps // 4), 0.0, lr, 1),
        SPOILT: (steps, 0.4, lr, 1),
        "clean, a third of the rate": (steps, 0.0, lr / 3, 1),
        "clean, three times the rate": (steps, 0.0, lr * 3, 1),
    }
    seeds = range(run.seed, run.seed + run.budget(quick=2, default=5, full=8))
    sizes = run.budget(quick=(400, 100), default=(4000, 600))
    worlds = [World(text, seed, *sizes, batch_size) for seed in run.progress(seeds, "seeds")]
    arms = [(name, arm) for name in conditions for arm in ARMS[: 2 if "rate" in name else 4]]
    runs = {(c, arm): [w.train(arm, *conditions[c]) for w in worlds] for c, arm in arms}
    losses = {key: np.array([curve[-1] for curve, _ in found]) for key, found in runs.items()}
    learns(run, worlds, losses["clean", "all at once"], steps, lr)
    compare(run, losses, list(conditions))
    deceived(run, {arm: runs["clean", arm] for arm in ARMS}, steps)


# ---- checks


def check_scores(run: Run, text: str) -> None:
    """Difficulty by exact arithmetic."""
    small = text[:300]
    tokens, alphabet = encode_characters(small)
    windows = np.stack([tokens[i : i + 12] for i in (5, 90, 200)])

    def exact(piece: str) -> float:
        pairs = ((piece[i - 2 : i], piece[i]) for i in range(2, len(piece)))
        return -np.mean([math.log(exact_probability(small, *p, alphabet)) for p in pairs])

    ours = difficulty(windows, tokens, order=3, vocab_size=len(alphabet))
    theirs = [exact("".join(alphabet[t] for t in w)) for w in windows]
    fractions, why = "the definition in exact fractions", "float64 rounding of a sum"
    equal = run.against(fractions, kind="theorem", atol=1e-12, why=why)
    equal("difficulty of three windows, order 3", ours, theirs)


def check_pace(run: Run) -> None:
    """How often the easiest fifth is drawn, against the sum of the pacing function's inverse."""
    n, steps = 1000, 200
    drawn = np.concatenate(list(batches(np.arange(n), steps=steps, batch_size=32, rng=run.rng)))
    share = np.mean([0.2 / min(1.0, 0.2 + 0.8 * t / 120) for t in range(steps)])
    error = 4 * math.sqrt(share * (1 - share) / len(drawn)) + 1 / n
    why = "4 standard errors of a share, and the pool's rounding to whole windows"
    equal = run.against("mean of g0 / g(t)", kind="theorem", atol=error, why=why)
    equal("share of draws from the easiest fifth", (drawn < n // 5).mean(), share)


def check_training(run: Run) -> None:
    """Ten steps against another loss function and another AdamW."""
    windows = torch.randint(11, (20, 9), generator=run.generator())
    models = [GPT(GPTConfig(11, 8, 1, 2, 8), run.generator()).double() for _ in range(2)]
    rows = [run.rng.integers(0, 20, 4) for _ in range(10)]
    losses = list(train(models[0], windows, iter(rows), steps=10, lr=1e-2))
    options = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}
    adam, reference = AdamW(models[1].parameters(), **options), []
    for step, chosen in enumerate(rows):
        x = windows[torch.from_numpy(chosen)]
        loss = F.cross_entropy(models[1](x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
        adam.zero_grad()
        loss.backward()
        adam.lr = 1e-2 * (1 - step / 10)
        adam.step()
        reference.append(loss.item())
    why = "float64 rounding; AdamW divides by the root of tiny second moments"
    other = "F.cross_entropy and week 09's AdamW"
    equal = run.against(other, kind="consistency", atol=1e-9, why=why)
    equal("losses of the first 10 steps, float64", losses, reference)


# ---- the comparison


class World:
    """The windows of one seed, and models that train on them from the same start."""

    def __init__(self, text: str, seed: int, n: int, judged: int, batch_size: int):
        tokens, alphabet = encode_characters(text)
        pieces = tokens[: len(tokens) // LENGTH * LENGTH].reshape(-1, LENGTH)
        pieces = pieces[np.random.default_rng(seed).permutation(len(pieces))]
        # disjoint pieces, dealt at random: no window is counted or trained on and judged too
        self.counted = pieces[n + judged :].ravel()
        self.valid = torch.from_numpy(pieces[n : n + judged])
        self.seed, self.vocab_size, self.batch_size = seed, len(alphabet), batch_size
        self.windows, self.scores = {}, {}
        for share in (0.0, 0.4):
            rng, self.windows[share] = np.random.default_rng(seed), pieces[:n].copy()
            chosen = rng.permutation(n)[: round(share * n)]
            self.windows[share][chosen] = rng.permuted(pieces[chosen], axis=1)
            options = {"order": 3, "vocab_size": self.vocab_size}
            self.scores[share] = difficulty(self.windows[share], self.counted, **options)

    def train(
        self, arm: str, steps: int, spoilt: float, lr: float, points: int = 1
    ) -> tuple[list[float], list[float]]:
        """Validation loss at `points` even steps, the last included; training loss at every one."""
        rng = np.random.default_rng(self.seed + 1)
        arranged = arrange(self.scores[spoilt], arm, rng)
        options = {"rng": rng, "steps": steps, "lr": lr, "points": points}
        return self.fit(self.windows[spoilt], arranged, whole=arm == "all at once", **options)

    def fit(self, windows, arranged, *, rng, steps: int, lr: float, points: int = 1, whole=True):
        """As `train`, on windows that are given; leaves the model in `self.model`."""
        options = {"steps": steps, "batch_size": self.batch_size, "rng": rng, "whole": whole}
        config = GPTConfig(self.vocab_size, LENGTH - 1, 1, 2, 32)
        self.model = GPT(config, torch.Generator().manual_seed(self.seed))
        order, curve, losses = batches(arranged, **options), [], []
        for loss in train(self.model, torch.from_numpy(windows), order, steps=steps, lr=lr):
            losses.append(loss)
            if len(losses) * points // steps > (len(losses) - 1) * points // steps:
                curve.append(mean_loss(self.model, self.valid).mean().item())
        return curve, losses


def learns(run: Run, worlds: Sequence[World], plain, steps: int, lr: float) -> None:
    """The score is difficulty to the GPT too, and it learns from the characters' order."""
    agreement, mixed, garbled = [], [], []
    for world in worlds:
        world.train("all at once", steps, 0.0, lr)
        rng = np.random.default_rng(world.seed)
        windows, scores = world.windows[0.0], world.scores[0.0]
        own = mean_loss(world.model, torch.from_numpy(windows)).numpy()
        agreement.append(spearmanr(scores, own).statistic)
        mixed.append(spearmanr(rng.permutation(scores), own).statistic)
        windows = rng.permutation(windows.ravel()).reshape(windows.shape)  # across windows too
        curve, _ = world.fit(windows, np.arange(len(windows)), rng=rng, steps=steps, lr=lr)
        garbled.append(curve[-1])
    name, unit = "the 3-gram's difficulty is difficulty for the GPT too", "rank correlation"
    run.claim(name, agreement, at_least=0.5, unit=unit, quick=False)
    run.falsifier("scores of other windows", mixed, breaks=name)
    tokens = np.concatenate([worlds[0].counted, worlds[0].windows[0.0].ravel()])
    shares = np.bincount(tokens) / len(tokens)
    entropy = -float(np.sum(shares * np.log(shares, where=shares > 0, out=np.zeros_like(shares))))
    name, note = "the GPT learns from text", "below the entropy of single characters"
    run.claim(name, entropy - plain, at_least=0.4, note=note, **UNIT)
    run.falsifier("characters shuffled", entropy - np.array(garbled), breaks=name)


def compare(run: Run, losses: dict, conditions: list[str]) -> None:
    """What each order gains over drawing from everything at once, under all conditions."""
    gains = {
        (condition, arm): losses[condition, "all at once"] - losses[condition, arm]
        for condition, arm in losses
        if arm != "all at once"
    }
    beats = f"easy first beats all at once by more than {MARGIN} nats/char"
    for condition in conditions:
        run.claim(f"{condition}: {beats}", gains[condition, "easy first"], at_least=MARGIN, **UNIT)
    run.falsifier("hard first", gains[SPOILT, "hard first"], breaks=f"{SPOILT}: {beats}")
    seen = "0.1 ± 0.2 on clean text, 0.18 ± 0.05 on spoilt text"
    for condition in ("clean", SPOILT):
        lead = gains[condition, "easy first"] - gains[condition, "random pool"]
        name = f"{condition}: easy first beats a pool that grows at random"
        run.claim(name, lead, at_least=MARGIN, seen_before=seen, **UNIT)
    seen = "-0.03 ± 0.04, -0.04 ± 0.07 and -0.2 ± 0.1"
    for condition in conditions[:3]:
        name = f"{condition}: hard first gains nothing"
        found = gains[condition, "hard first"]
        run.claim(name, found, at_most=MARGIN, seen_before=seen, **UNIT)
    run.falsifier("easy first", gains[SPOILT, "easy first"], breaks=name)
    title = "Gain over drawing from everything at once"
    with run.figure("gains", title, size=(10.0, 4.6)) as axes:
        found = {f"{c}: {arm}": gains[c, arm] for c in conditions[:3] for arm in ARMS[1:]}
        xlabel = "validation loss saved (nats/character)"
        plots.bars(axes, found, colors=COLORS[1:], xlabel=xlabel)


# ---- failure on display: judged by its training loss


def deceived(run: Run, runs: dict, steps: int) -> None:
    """Training loss of the first third, where the pools differ most, beside the validation loss."""
    third = max(1, steps // 3)
    truth = {arm: np.array([curve for curve, _ in found]) for arm, found in runs.items()}
    drawn = {arm: np.array([losses for _, losses in found]) for arm, found in runs.items()}
    seen = {arm: losses[:, third // 2 : third].mean(axis=1) for arm, losses in drawn.items()}
    flattery = {arm: seen["all at once"] - seen[arm] for arm in ARMS[1:]}
    real = (truth["all at once"] - truth["easy first"])[:, 2]  # after three tenths
    name, note = "in the first third its training loss flatters easy first", "training loss lower"
    run.claim(name, flattery["easy first"], at_least=0.1, note=note, **UNIT)
    run.falsifier("hard windows first", flattery["hard first"], breaks=name)
    name, note = "that is more than unseen text confirms", "training gain minus validation gain"
    run.claim(name, flattery["easy first"] - real, at_least=0.1, note=note, **UNIT)
    title, width = "Easy windows flatter the training loss", max(1, steps // 20)
    with run.figure("curves", title, columns=2, size=(10.0, 4.2), sharey=True) as (left, right):
        n = steps // width
        means = {a: v[:, : n * width].reshape(-1, n, width).mean((0, 2)) for a, v in drawn.items()}
        labels = {"ylabel": "loss (nats/character)", "ylim": (2.4, 3.6)}
        left.set_title("windows it draws", fontsize=11)
        right.set_title("unseen windows (band: all seeds)", fontsize=11)
        at = (np.arange(n) + 1) * width
        plots.curves(left, at, means, colors=COLORS, xlabel="steps", **labels)
        at = np.arange(1, 11) * steps / 10
        plots.curves(right, at, truth, colors=COLORS, xlabel="steps")
