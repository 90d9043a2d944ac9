"""Checks, claims and figures of curriculum."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from shared import datasets, plots
from shared.stats import Interval, mean_interval
from shared.study import PositiveFloat, PositiveInt, Run
from week09.optimizers import AdamW
from week14.minimal_gpt import GPT, GPTConfig
from week14.ngram import encode_characters, exact_probability
from week16.curriculum import arrange, batches, difficulty, mean_loss, train

LENGTH = 33  # 32 inputs and the targets one character later
ARMS = ("all at once", "easy first", "hard first", "random pool")
COLORS = dict(zip(ARMS, (plots.GRAY, plots.BLUE, plots.ORANGE, plots.GREEN), strict=True))
MARGIN = 0.01  # nats per character: a smaller difference would not be worth sorting for


# ---- checks


def check_scores(run: Run, text: str) -> None:
    """Difficulty by exact arithmetic."""
    small = text[:300]
    tokens, alphabet = encode_characters(small)
    windows = np.stack([tokens[i : i + 12] for i in (5, 90, 200)])
    exact = [
        -np.mean(
            [
                math.log(exact_probability(small, piece[i - 2 : i], piece[i], alphabet))
                for i in range(2, 12)
            ]
        )
        for piece in ("".join(alphabet[t] for t in w) for w in windows)
    ]
    run.check(
        "difficulty of three windows, order 3",
        difficulty(windows, tokens, order=3, vocab=len(alphabet)),
        np.array(exact),
        against="the definition in exact fractions",
        atol=1e-12,
        why="float64 rounding of a sum",
    )


def check_pace(run: Run) -> None:
    """How often the easiest fifth is drawn, against the sum of the pacing function's inverse."""
    n, steps, batch = 1000, 200, 32
    drawn = np.concatenate(list(batches(np.arange(n), steps=steps, batch=batch, rng=run.rng)))
    share = np.mean([0.2 / min(1.0, 0.2 + 0.8 * t / 120) for t in range(steps)])
    error = math.sqrt(share * (1 - share) / len(drawn))
    run.check(
        "share of draws from the easiest fifth",
        (drawn < n // 5).mean(),
        share,
        against="mean of g0 / g(t)",
        atol=4 * error + 1 / n,
        why="4 standard errors of a share, and the pool's rounding to whole windows",
    )


def check_training(run: Run) -> None:
    """Ten steps against another loss function and another AdamW."""
    torch.manual_seed(run.seed)
    windows = torch.randint(11, (20, 9), generator=run.generator())
    models = [GPT(GPTConfig(11, 8, 1, 2, 8), run.generator()).double() for _ in range(2)]
    rows = [run.rng.integers(0, 20, 4) for _ in range(10)]
    losses = train(models[0], windows, iter(rows), steps=10, lr=1e-2)
    adam, reference = (
        AdamW(models[1].parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1),
        [],
    )
    for step, chosen in enumerate(rows):
        x = windows[torch.from_numpy(chosen)]
        loss = F.cross_entropy(models[1](x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())
        adam.zero_grad()
        loss.backward()
        adam.lr = 1e-2 * (1 - step / 10)
        adam.step()
        reference.append(loss.item())
    run.check(
        "losses of the first 10 steps, float64",
        np.array(losses),
        np.array(reference),
        against="F.cross_entropy and week 09's AdamW",
        atol=1e-9,
        why="float64 rounding; AdamW divides by the root of tiny second moments",
    )


# ---- the comparison


def prepare(text: str, seed: int, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Windows to train on and to validate on, and other text to count for the difficulty."""
    tokens, alphabet = encode_characters(text)
    rng = np.random.default_rng(seed)
    pieces = tokens[: len(tokens) // LENGTH * LENGTH].reshape(-1, LENGTH)
    pieces = pieces[rng.permutation(len(pieces))]
    # disjoint pieces, dealt at random: no window is counted or trained on and judged too
    return pieces[:n], pieces[n : n + 600], pieces[n + 600 :].ravel(), len(alphabet)


def spoil(windows: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Shuffle the characters within a random `share` of the windows."""
    spoilt = windows.copy()
    chosen = rng.permutation(len(windows))[: round(share * len(windows))]
    spoilt[chosen] = rng.permuted(spoilt[chosen], axis=1)
    return spoilt


def one_seed(run: Run, text: str, seed: int, conditions: dict, **options) -> dict:
    """Validation loss of every arm under every condition, with curves of the first condition."""
    train_windows, valid, counted, vocab = prepare(
        text, seed, n=run.budget(quick=400, default=4000)
    )
    valid = torch.from_numpy(valid)
    found: dict = {}
    for condition, (steps, share, factor, arms) in conditions.items():
        rng = np.random.default_rng(seed)
        windows = spoil(train_windows, share, rng)
        scores = difficulty(windows, counted, order=3, vocab=vocab)
        for arm in arms:
            rng = np.random.default_rng(seed + 1)
            arranged = arrange(scores, arm, rng)
            order = batches(
                arranged, steps=steps, batch=options["batch"], rng=rng, whole=arm == "all at once"
            )
            model = GPT(GPTConfig(vocab, LENGTH - 1, 1, 2, 32), torch.Generator().manual_seed(seed))
            curve: list[float] = []

            def told(step, loss, model=model, steps=steps, curve=curve, condition=condition):
                parts = min(10, steps) if condition == "clean" else 1
                if step * parts // steps > (step - 1) * parts // steps:
                    curve.append(mean_loss(model, valid).mean().item())

            losses = train(
                model,
                torch.from_numpy(windows),
                order,
                steps=steps,
                lr=factor * options["lr"],
                told=told,
            )
            found[condition, arm] = curve[-1], curve, losses
            if condition == "clean" and arm == "all at once":
                own = mean_loss(model, torch.from_numpy(windows)).numpy()
                found["agreement"] = rank_correlation(scores, own)
    return found


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's."""
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def judge(gain: Interval) -> str:
    """The rule: helps if the whole interval is above the margin, does not if it is below."""
    if gain.low > MARGIN:
        return "reproduced"
    return "not reproduced" if gain.high < MARGIN else "inconclusive"


def compare(run: Run, text: str, *, steps: int, **options) -> None:
    """All arms under all conditions, and the verdicts."""
    conditions = {
        "clean": (steps, 0.0, 1.0, ARMS),
        "clean, a quarter of the steps": (max(2, steps // 4), 0.0, 1.0, ARMS),
        "40 % of the windows spoilt": (steps, 0.4, 1.0, ARMS),
    }
    rates = {f"clean, rate times {f:g}": (steps, 0.0, f, ARMS[:2]) for f in (1 / 3, 3.0)}
    seeds = range(run.seed, run.seed + run.budget(quick=2, default=5, full=8))
    runs = [
        one_seed(run, text, seed, conditions | rates, **options)
        for seed in run.progress(seeds, "seeds")
    ]
    agreement = [r["agreement"] for r in runs]
    run.claim(
        "the 3-gram's difficulty is difficulty for the GPT too",
        min(agreement) > 0.5,
        f"rank correlation of their losses {mean_interval(agreement)}",
        quick=False,
    )
    tokens, _ = encode_characters(text)
    shares = np.bincount(tokens) / len(tokens)
    shares = shares[shares > 0]
    entropy = float(-(shares * np.log(shares)).sum())
    plain = [r["clean", "all at once"][0] for r in runs]
    garbled = [control(text, seed, steps=steps, **options) for seed in seeds[:3]]
    run.claim(
        "the GPT learns from text, not from its characters shuffled",
        bool(max(plain) < entropy - 0.4 and min(garbled) > entropy - 0.1),
        f"validation loss {mean_interval(plain)}, shuffled {mean_interval(garbled)}, entropy of "
        f"single characters {entropy:.2f} nats",
        quick=False,
    )
    gains = {}
    for condition in conditions:
        base = np.array([r[condition, "all at once"][0] for r in runs])
        run.metric(f"{condition}: all at once", base.mean(), "nats/char", rtol=0.05)
        for arm in ARMS[1:]:
            gains[condition, arm] = base - np.array([r[condition, arm][0] for r in runs])
            run.metric(
                f"{condition}: gain of {arm}", gains[condition, arm].mean(), "nats/char", rtol=None
            )
        gain = mean_interval(gains[condition, "easy first"])
        over_pool = mean_interval(gains[condition, "easy first"] - gains[condition, "random pool"])
        run.verdict(
            f"{condition}: easy first beats all at once by more than {MARGIN} nats/char",
            judge(gain),
            f"gain {gain}; over a pool that grows at random {over_pool} nats/char",
        )
    best = {
        arm: min((np.array([r[c, arm][0] for r in runs]) for c in ("clean", *rates)), key=np.mean)
        for arm in ARMS[:2]
    }
    tuned = mean_interval(best["all at once"] - best["easy first"])
    run.metric("clean, each at its best rate: gain", tuned.mean, "nats/char", rtol=None)
    run.verdict(
        f"clean, each order at its best of three rates: gain above {MARGIN} nats/char",
        judge(tuned),
        f"gain {tuned}; at a third of the rate "
        + ", at three times it ".join(
            str(mean_interval([r[c, ARMS[0]][0] - r[c, ARMS[1]][0] for r in runs])) for c in rates
        ),
    )
    run.claim(
        "the opposite order does not help: hard first gains nothing anywhere",
        all(mean_interval(gains[c, "hard first"]).low < MARGIN for c in conditions),
        "; ".join(f"{c}: {mean_interval(gains[c, 'hard first'])}" for c in conditions),
        quick=False,
    )
    deceived(run, runs, steps)
    draw_gains(run, gains, list(conditions))


def control(text: str, seed: int, *, steps: int, batch: int, lr: float) -> float:
    """Validation loss after training on shuffled characters."""
    windows, valid, _, vocab = prepare(text, seed, n=4000)
    rng = np.random.default_rng(seed)
    windows = rng.permutation(windows.ravel()).reshape(windows.shape)  # across windows too
    model = GPT(GPTConfig(vocab, LENGTH - 1, 1, 2, 32), torch.Generator().manual_seed(seed))
    order = batches(np.arange(len(windows)), steps=steps, batch=batch, rng=rng, whole=True)
    train(model, torch.from_numpy(windows), order, steps=steps, lr=lr)
    return mean_loss(model, torch.from_numpy(valid)).mean().item()


# ---- failure on display: judged by its training loss


def deceived(run: Run, runs: list, steps: int) -> None:
    """Training loss of the first third, where the pools differ most, beside the validation loss."""
    third = max(1, steps // 3)
    seen, truth = {}, {}
    for arm in ARMS:
        seen[arm] = np.array([np.mean(r["clean", arm][2][third // 2 : third]) for r in runs])
        truth[arm] = np.array([r["clean", arm][1] for r in runs])
    flattery = seen["all at once"] - seen["easy first"]
    at = min(2, steps - 1)  # after three tenths
    real = (truth["all at once"] - truth["easy first"])[:, at]
    run.metric(
        "what the training loss says in the first third", flattery.mean(), "nats/char", rtol=0.3
    )
    run.claim(
        "its training loss flatters easy first, in every seed",
        bool((flattery > 0.1).all() and (real < flattery - 0.1).all()),
        f"training loss lower by {mean_interval(flattery)}, validation loss after three tenths of "
        f"the steps lower by {mean_interval(real)} nats/char",
        quick=False,
    )
    title = "Easy windows flatter the training loss"
    with run.figure("curves", title, 1, 2, size=(9.0, 4.2), sharey=True) as axes:
        points = min(10, steps)
        tenths = np.arange(1, points + 1) * steps / points
        for arm in ARMS:
            losses = np.array([r["clean", arm][2] for r in runs])
            width = max(1, steps // 20)
            losses = losses[:, : losses.shape[1] // width * width]
            smooth = losses.reshape(len(runs), -1, width).mean(2)
            at = (np.arange(smooth.shape[1]) + 1) * width
            axes[0].plot(at, smooth.mean(0), color=COLORS[arm], label="_")
            plots.interval_band(axes[1], tenths, truth[arm], color=COLORS[arm], label=arm)
        axes[0].set(xlabel="steps", ylabel="loss (nats/character)", ylim=(2.0, 3.6))
        axes[1].set(xlabel="steps")
        axes[0].set_title("windows it draws", fontsize=11, weight="normal")
        axes[1].set_title("unseen windows (band: all seeds)", fontsize=11, weight="normal")
        plots.label_lines(axes[1])


def draw_gains(run: Run, gains: dict, conditions: list[str]) -> None:
    """Every arm's gain with its interval, seeds as ticks."""
    title = "Gain over drawing from everything at once (95 % intervals)"
    with run.figure("gains", title, size=(8.0, 4.2)) as axes:
        axes.axvline(0, color=plots.REFERENCE, lw=1)
        axes.axvspan(-MARGIN, MARGIN, color="#EEEEEE", linewidth=0)
        for i, condition in enumerate(conditions):
            for j, arm in enumerate(ARMS[1:]):
                gain = mean_interval(gains[condition, arm])
                y = -i + 0.22 * (1 - j)
                axes.plot([gain.low, gain.high], [y, y], color=COLORS[arm], lw=2.5)
                axes.plot([gain.mean], [y], "o", color=COLORS[arm], ms=7)
                axes.plot(gains[condition, arm], [y - 0.07] * gain.n, "|", color=COLORS[arm], ms=5)
                if i == 0:
                    right = max(gain.high, gains[condition, arm].max())
                    axes.annotate(
                        arm,
                        (right, y),
                        xytext=(8, 0),
                        textcoords="offset points",
                        va="center",
                        color=COLORS[arm],
                    )
        names = [c.replace(", ", ",\n").replace(" windows", "\nwindows") for c in conditions]
        axes.set_yticks([-i for i in range(len(conditions))], names)
        axes.set(xlabel="validation loss saved (nats/character); left: worse, right: better")
        axes.set_ylim(-len(conditions) + 0.5, 0.5)
        axes.grid(visible=False, axis="y")


def main(
    run: Run,
    *,
    steps: PositiveInt | None = None,
    batch: PositiveInt = 16,
    lr: PositiveFloat = 1e-2,
) -> None:
    """Train the same model on the same windows in four orders, on clean and on spoilt text.

    Parameters
    ----------
    steps
        Steps of the long runs; the short ones take a quarter.
    batch
        Windows a step.
    lr
        Highest learning rate of AdamW.
    """
    steps = steps or run.budget(quick=10, default=120, full=1200)
    text = datasets.pydocs_text()
    check_scores(run, text)
    check_pace(run)
    check_training(run)
    compare(run, text, steps=steps, batch=batch, lr=lr)
