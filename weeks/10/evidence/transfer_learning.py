"""The probe against scikit-learn, and what features of digits 0 to 4 are worth on 5 to 9."""

import torch
from torch import Tensor

from shared import plots
from shared.study import PositiveInt, Run
from week10.cnn_ablations import Recipe, SmallCNN, accuracy, train
from week10.evidence.cnn_ablations import half_mnist
from week10.transfer_learning import features, few_labels, fine_tune, linear_probe

LABELS = (10, 50, 500)
PRETRAIN_LR = 0.2
# the best of three for each number of labels, on seeds 100 and 101 and other pictures, in 80 steps
SCRATCH_LR = {10: 0.05, 50: 0.1, 500: 0.2}  # of 0.05, 0.1, 0.2
TUNE_LR = {10: 0.05, 50: 0.01, 500: 0.01}  # of 0.002, 0.01, 0.05
PROBE, TUNED, SCRATCH = "linear probe", "fine-tuned", "from scratch"
UNTRAINED, WRONG = "probe of untrained features", "fine-tuned on shuffled labels"


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 60) -> None:
    """Pretrain on digits 0 to 4, then learn 5 to 9 from few labels in three ways.

    Parameters
    ----------
    seeds
        Pretrained networks, each with labels of its own.
    steps
        Steps of fine-tuning, and as many from scratch.
    """
    run.rounding(2e-2, "float32 convolutions, summed in another order, over a few steps")
    seeds, steps = run.budget(quick=2, default=seeds), run.budget(quick=4, default=steps)
    sizes = run.budget(quick=(2000, 300), default=(6000, 2000))
    old, new, new_test = split(*sizes)
    right = {name: {n: [] for n in LABELS} for name in (PROBE, TUNED, SCRATCH, UNTRAINED, WRONG)}
    for seed in run.progress(range(run.seed, run.seed + seeds), "pretraining"):
        body = pretrain(old, steps=run.budget(quick=4, default=120), seed=seed)
        if seed == run.seed:
            check_probe(run, body, new)
        for n in LABELS:
            for name, model in learn(body, new, n, steps=steps, seed=seed).items():
                right[name][n].append(accuracy(model, *new_test))
    judge(run, right)


def split(n_train: int, n_test: int) -> tuple[tuple[Tensor, Tensor], ...]:
    """Old digits, new ones and the test set's new ones: pictures, labels from 0 to 4."""
    x, y, test_x, test_y = half_mnist(n_train, n_test)
    old, new, test = y < 5, y >= 5, test_y >= 5
    return (x[old], y[old]), (x[new], y[new] - 5), (test_x[test], test_y[test] - 5)


def pretrain(old: tuple[Tensor, Tensor], *, steps: int, seed: int) -> SmallCNN:
    """A network that tells 0 to 4 apart."""
    g = torch.Generator().manual_seed(seed)
    model = SmallCNN(Recipe(), n_classes=5, generator=g)
    train(model, *old, lr=PRETRAIN_LR, steps=steps, generator=g)
    return model.eval()


def learn(
    body: SmallCNN, new: tuple[Tensor, Tensor], n: int, *, steps: int, seed: int
) -> dict[str, SmallCNN]:
    """All ways of learning from n labels, the same for each way."""
    x, y = new
    rows = few_labels(y, n, generator=torch.Generator().manual_seed(500 + seed))
    x, y = x[rows], y[rows]
    fresh = SmallCNN(Recipe(), n_classes=5, generator=torch.Generator().manual_seed(900 + seed))
    models = {PROBE: linear_probe(body, x, y), UNTRAINED: linear_probe(fresh, x, y)}
    g = torch.Generator().manual_seed(seed)
    models[TUNED] = fine_tune(body, x, y, lr=TUNE_LR[n], steps=steps, generator=g)
    if n == max(LABELS):
        mixed = y[torch.randperm(n, generator=g)]
        models[WRONG] = fine_tune(body, x, mixed, lr=TUNE_LR[n], steps=steps, generator=g)
    train(fresh, x, y, lr=SCRATCH_LR[n], steps=steps, generator=g)
    return models | {SCRATCH: fresh}


def check_probe(run: Run, body: SmallCNN, new: tuple[Tensor, Tensor]) -> None:
    """The last layer's scores against scikit-learn's, at 50 labels."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = new
    rows = few_labels(y, 50, generator=run.generator())
    ours = linear_probe(body, x[rows], y[rows]).double()
    h = features(body, x).double()
    theirs = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8, max_iter=10_000))
    theirs.fit(h[rows].numpy(), y[rows].numpy())
    expected = theirs.predict_proba(h.numpy())
    equal = run.against("sklearn's LogisticRegression", atol=2e-5, why="float32 features")
    equal("probabilities of the probe", ours(x.double()).softmax(1), expected)


def judge(run: Run, right: dict[str, dict[int, list]]) -> None:
    """Differences, paired by seed."""

    def gain(better: str, worse: str, n: int) -> list[float]:
        return [a - b for a, b in zip(right[better][n], right[worse][n], strict=True)]

    for name, by_labels in right.items():
        for n, values in by_labels.items():
            if values:
                mean = sum(values) / len(values)
                run.metric(f"accuracy, {name}, {n} labels", mean, "%", rtol=0.3)
    seen = "seeds 100 and 101, and five seeds by interval; margins are older, each seed is new"
    common = {"unit": "points", "quick": False, "rtol": None, "seen_before": seen}
    rule = "ten labels: the probe beats training from scratch"
    run.claim(rule, gain(PROBE, SCRATCH, 10), at_least=5, each=True, **common)
    run.falsifier(UNTRAINED, gain(UNTRAINED, SCRATCH, 10), breaks=rule)
    rule = "500 labels: fine-tuning beats the probe"
    run.claim(rule, gain(TUNED, PROBE, 500), at_least=2, each=True, **common)
    run.falsifier("on shuffled labels", gain(WRONG, PROBE, 500), breaks=rule)
    rule = "500 labels: fine-tuning beats training from scratch"
    run.claim(rule, gain(TUNED, SCRATCH, 500), at_least=0, **common)
    less = [a - b for a, b in zip(gain(TUNED, SCRATCH, 10), gain(TUNED, SCRATCH, 500), strict=True)]
    run.claim("with more labels the start matters less", less, at_least=2, **common)
    with run.figure("labels", "What are features of other digits worth?") as ax:
        lines = {
            name: torch.tensor(list(right[name].values())).T for name in right if name != WRONG
        }
        colors = (plots.BLUE, plots.GREEN, plots.ORANGE, plots.GRAY)
        labels = {"xlabel": "labels of the new digits", "ylabel": "test accuracy on 5 to 9 (%)"}
        common = {"xscale": "log", "xticks": LABELS, "xticklabels": LABELS, "colors": colors}
        reference = {"guessing": 20.0}
        plots.curves(ax, LABELS, lines, marker="o", reference=reference, **labels, **common)
