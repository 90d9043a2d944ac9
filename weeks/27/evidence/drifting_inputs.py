"""What three tests see of inputs that drift: digits that turn, sentences of another kind."""

import numpy as np
import torch
from scipy import ndimage

from shared import datasets, plots
from shared.study import Run
from week14.minilm import load_bert, minilm, sentence_embeddings
from week27.monitoring import distances, energy_test, ks_gap, ks_p_value

LEVEL = 0.05


def rng_of(run: Run, *key: int) -> np.random.Generator:
    """A stream of its own for each seed of each part."""
    return np.random.default_rng([run.seed, *key])


def power(rng, pool: np.ndarray, change, sizes: tuple[int, int], windows: int) -> np.ndarray:
    """Alarm rates of KS on the mean, KS per feature (Bonferroni) and energy, for one change."""
    n, m = sizes
    found = []
    for _ in range(windows):
        rows = rng.permutation(len(pool))[: n + m]
        a, b = pool[rows[:n]], change(pool[rows[n:]], rng)
        least = min(ks_p_value(ks_gap(u, v), n, m) for u, v in zip(a.T, b.T, strict=True))
        mean = ks_p_value(ks_gap(a.mean(1), b.mean(1)), n, m)
        energy = energy_test(distances(np.concatenate([a, b])), n, rng=rng, n_permutations=99)[1]
        found.append((mean <= LEVEL, least <= LEVEL / a.shape[1], energy <= LEVEL))
    return np.mean(found, axis=0)


TESTS = ("KS, mean", "KS, each feature", "energy distance")


def judge_digits(run: Run) -> None:
    """Scanned digits, turned: what sees it?"""
    images = datasets.digits().images.reshape(-1, 8, 8).astype(float)
    pool = images.reshape(-1, 64) + rng_of(run, 10).uniform(0, 1e-6, (len(images), 64))  # no ties

    def turned(angle: float):
        def change(x, rng):
            grid = x.reshape(-1, 8, 8)
            return ndimage.rotate(grid, angle, (1, 2), reshape=False, order=1).reshape(-1, 64)

        return change

    seeds, windows = run.budget(quick=2, default=4), run.budget(quick=3, default=25)
    angles = run.budget(quick=(0, 15), default=(0, 5, 10, 15, 20, 30))
    rates = np.array(
        [
            [power(rng_of(run, 11, i, a), pool, turned(a), (200, 60), windows) for a in angles]
            for i in range(seeds)
        ]
    )
    gained = rates[:, angles.index(15), 2] - rates[:, angles.index(15), 0]
    name = "turned by 15 degrees, the energy distance sees more than the brightness"
    run.claim(name, gained, at_least=0.3, unit="of windows", quick=False)
    with run.figure("digits", "Who sees that digits are turned?") as axes:
        lines = {test: rates[:, :, i] for i, test in enumerate(TESTS)}
        labels = {"xlabel": "degrees (windows of 60 digits)", "ylim": (-0.03, 1.03)}
        labels["ylabel"] = "share of windows with an alarm"
        level = {"level 0.05": LEVEL}
        plots.curves(axes, angles, lines, marker="o", reference=level, ends=False, **labels)


def embeddings(texts: list[str]) -> np.ndarray:
    """MiniLM's vectors of sentences."""
    from tokenizers import Tokenizer

    folder = minilm()
    tokenizer, model = Tokenizer.from_file(str(folder / "tokenizer.json")), load_bert(folder)
    tokenizer.enable_truncation(48)
    tokenizer.enable_padding()
    found = []
    with torch.inference_mode():
        for start in range(0, len(texts), 64):
            batch = tokenizer.encode_batch(texts[start : start + 64])
            tokens, keep = (
                torch.tensor([getattr(each, part) for each in batch])
                for part in ("ids", "attention_mask")
            )
            found.append(sentence_embeddings(model, tokens, keep.bool()))
    return torch.cat(found).double().numpy()


def judge_sentences(run: Run) -> None:
    """Film reviews with a share of encyclopedia in them, as MiniLM sees them."""
    reviews = [row.sentence for row in datasets.sst2()["train"]]
    lines = [line.strip() for line in datasets.wikitext2("valid").split("\n")]
    others = [line.split(" . ")[0] for line in lines if len(line) > 200]
    chosen = [
        rng_of(run, 12, i).permutation(len(t))[:n]
        for i, (t, n) in enumerate([(reviews, 400), (others, 100)])
    ]
    texts = [t[i] for t, rows in zip((reviews, others), chosen, strict=True) for i in rows]
    vectors = embeddings(texts)
    pool, foreign = vectors[: len(chosen[0])], vectors[len(chosen[0]) :]

    def mixed(share: float):
        def change(x, rng):
            n = round(share * len(x))
            return np.concatenate([x[n:], foreign[rng.permutation(len(foreign))[:n]]])

        return change

    shares = (0.0, 0.1, 0.2, 0.3, 0.5)
    rates = np.array(
        [
            [
                power(rng_of(run, 13, i, k), pool, mixed(s), (200, 40), 15)
                for k, s in enumerate(shares)
            ]
            for i in range(4)
        ]
    )
    name = "with a fifth of other sentences, the energy distance sees most windows"
    run.claim(name, rates[:, 2, 2], at_least=0.5, unit="of windows")
    with run.figure("sentences", "Who sees encyclopedia among film reviews?") as axes:
        lines = {test: rates[:, :, i] for i, test in enumerate(TESTS)}
        labels = {"xlabel": "share of other sentences (windows of 40)", "ylim": (-0.03, 1.03)}
        labels["ylabel"] = "share of windows with an alarm\n(MiniLM's vectors)"
        level = {"level 0.05": LEVEL}
        plots.curves(axes, shares, lines, marker="o", reference=level, ends=False, **labels)
