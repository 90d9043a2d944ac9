"""The probe against scikit-learn's, and what may and may not move."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from shared.records import ROOT
from shared.run import Run
from week10.evidence.transfer_learning import LABELS, judge, split
from week10.transfer_learning import (
    Recipe,
    SmallCNN,
    features,
    few_labels,
    fine_tune,
    linear_probe,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def body(seed=0):
    model = SmallCNN(Recipe(), n_classes=5, generator=generator(seed))
    model(torch.rand(32, 1, 8, 8, generator=generator(seed + 1)))  # statistics to remember
    return model


def pictures(n, seed=2):
    return torch.rand(n, 1, 8, 8, generator=generator(seed))


def state(model):
    return {name: v.clone() for name, v in model.state_dict().items() if not name.startswith("fc")}


@settings(max_examples=8)
@given(
    n_classes=st.integers(2, 4),
    C=st.sampled_from([0.1, 1.0, 5.0]),
    training=st.booleans(),
    seed=st.integers(0, 99),
)
def test_probe_equals_scikit_learn(n_classes, C, training, seed):
    x, y = pictures(24, seed), torch.arange(24) % n_classes
    model = body(seed).train(training)
    probe = linear_probe(model, x, y, C=C)
    h = StandardScaler().fit_transform(features(model, x).double().numpy())
    theirs = LogisticRegression(C=C, tol=1e-9, max_iter=10_000).fit(h, y.numpy())
    with torch.no_grad():
        ours = probe(x).double().softmax(1).numpy()
    # a feature that hardly varies is standardized in float32 here, in float64 there
    np.testing.assert_allclose(ours, theirs.predict_proba(h), atol=5e-3)
    assert model.training == training


def test_probe_leaves_the_body_and_its_statistics_alone():
    model = body().train()
    before = state(model)
    probe = linear_probe(model, pictures(10), torch.arange(10) % 2)
    torch.testing.assert_close(state(model), before, rtol=0, atol=0)
    torch.testing.assert_close(state(probe), before, rtol=0, atol=0)
    assert not probe.training
    with torch.no_grad():
        probe.convs[0].weight.zero_()
    assert model.convs[0].weight.abs().sum() > 0


def test_features_do_not_see_their_batch():
    x = pictures(6)
    torch.testing.assert_close(features(body().train(), x)[:1], features(body(), x[:1]))


def test_fine_tuning_starts_at_the_probe_and_moves_all():
    model, x, y = body(), pictures(30), torch.arange(30) % 3
    before = state(model)
    options = {"steps": 4, "generator": generator()}
    still = fine_tune(model, x, y, lr=0.0, **options)
    probe = linear_probe(model, x, y)
    for (name, ours), theirs in zip(still.named_parameters(), probe.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    moved = fine_tune(model, x, y, lr=0.1, **options)
    for (name, ours), theirs in zip(moved.named_parameters(), probe.parameters(), strict=True):
        assert not torch.equal(ours, theirs), name
    assert not moved.training
    torch.testing.assert_close(state(model), before, rtol=0, atol=0)


@given(share=st.integers(1, 4), classes=st.integers(1, 4), seed=st.integers(0, 99))
def test_few_labels_are_balanced_and_distinct(share, classes, seed):
    y = torch.arange(40) % classes
    rows = few_labels(y, share * classes, generator=generator(seed))
    assert len(rows.unique()) == share * classes
    assert y[rows].bincount().tolist() == [share] * classes
    assert torch.equal(rows, few_labels(y, share * classes, generator=generator(seed)))


def test_judged_on_pictures_that_nothing_learned_from():
    (old, old_y), (new, new_y), (test, test_y) = split(300, 200)
    kept = {x.numpy().tobytes() for part in (old, new) for x in part}
    assert len(kept) == 300
    assert not kept & {x.numpy().tobytes() for x in test}
    for y in (old_y, new_y, test_y):
        assert y.unique().tolist() == [0, 1, 2, 3, 4]


def test_judging_by_a_made_up_table(tmp_path):
    script = ROOT / "weeks/10/transfer_learning.py"
    run = Run(script, out=tmp_path, quiet=True)
    levels = {
        "linear probe": (60, 80, 85),
        "fine-tuned": (60, 85, 95),
        "from scratch": (40, 60, 93),
        "probe of untrained features": (30, 50, 70),
        "fine-tuned on shuffled labels": (20, 20, 20),
    }
    right = {
        name: {n: [v - 0.1, v, v + 0.1] for n, v in zip(LABELS, row, strict=True)}
        for name, row in levels.items()
    }
    judge(run, right)
    assert [claim["verdict"] for claim in run.claims] == ["holds"] * 4
    assert all(row["broken"] for row in run.falsifiers)
    assert [claim["mean"] for claim in run.claims] == pytest.approx([20, 10, 2, 18], abs=1e-4)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: few_labels(torch.tensor([0, 0, 1]), 3, generator=generator()),
            "n must be a multiple of the 2 classes, got 3",
        ),
        (
            lambda: few_labels(torch.tensor([0, 0, 1]), 4, generator=generator()),
            "n must be at most 2 times the 1 rows of class 1, got 4",
        ),
        (
            lambda: linear_probe(body(), pictures(2), torch.tensor([1, 2])),
            r"y must have all classes from 0 to its largest, got \[1, 2\]",
        ),
    ],
)
def test_wrong_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
