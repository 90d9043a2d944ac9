"""Week 06: the project's own steps: costs, importance, saving without a pickle."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.artifacts import ArtifactError
from week06 import ml_pipeline as ours
from week06 import saved_pipeline
from week06.metrics import accuracy

seeds = st.integers(0, 2**32 - 1)


def table(n=80, seed=0):
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(
        {
            "age": rng.integers(18, 80, n).astype(float),
            "height": rng.normal(170, 10, n),
            "town": rng.choice(["Ulm", "Köln", "Jena"], n),
            "work": rng.choice(["a", "b"], n),
        }
    )
    y = ((X["age"] > 50) ^ (rng.random(n) < 0.1)).to_numpy(np.int64)
    X.loc[::7, "age"] = np.nan
    X.loc[::5, "town"] = np.nan
    return X, y


NUMERIC, CATEGORICAL = ["age", "height"], ["town", "work"]


@given(st.integers(1, 30), st.floats(0, 5), st.floats(0, 5), seeds)
def test_cost_curve_equals_counting(n, cost_fp, cost_fn, seed):
    rng = np.random.default_rng(seed)
    y, p = rng.integers(0, 2, n), rng.integers(0, 6, n) / 5
    costs = {"cost_fp": cost_fp, "cost_fn": cost_fn}
    thresholds, curve = ours.cost_curve(y, p, **costs)
    np.testing.assert_array_equal(thresholds, np.append(np.inf, np.unique(p)[::-1]))

    def cost(t):
        return np.mean(cost_fp * ((p >= t) & (y == 0)) + cost_fn * ((p < t) & (y == 1)))

    brute = [cost(t) for t in thresholds]
    np.testing.assert_allclose(curve, brute, atol=1e-12)
    best = ours.cheapest_threshold(y, p, **costs)
    assert cost(best) == pytest.approx(min(brute), abs=1e-12)


def fitted(model="logistic regression", n=80, **parameters):
    X, y = table(n)
    return ours.build_pipeline(model, NUMERIC, CATEGORICAL, **parameters).fit(X, y), X, y


def test_preprocessor_equals_sklearn_on_gaps_and_unseen_words():
    pipeline, X, _ = fitted()
    strange = X.copy()
    strange.loc[3, "town"], strange.loc[4, "work"], strange.loc[5, "height"] = "Bonn", None, np.nan
    mine = saved_pipeline.Preprocessor.of(pipeline).transform(strange)
    np.testing.assert_allclose(mine, pipeline[0].transform(strange), atol=1e-12)
    assert (mine[3, 2:-2] == 0).all()  # a word that fit never saw


@pytest.mark.parametrize("model", ["logistic regression", "gradient boosting"])
def test_saved_model_predicts_the_same(model, tmp_path):
    pipeline, _, _ = fitted(model)
    saved_pipeline.save_model(tmp_path / "model", pipeline, {"threshold": 0.5})
    predict = saved_pipeline.load_model(tmp_path / "model")
    new, _ = table(50, seed=1)
    np.testing.assert_allclose(predict(new), pipeline.predict_proba(new)[:, 1], atol=1e-6)
    np.testing.assert_array_equal(predict(new[::-1]), predict(new)[::-1])
    np.testing.assert_array_equal(predict(new[list(new)[::-1]]), predict(new))  # by name
    assert predict(new[:1]).shape == (1,)
    with pytest.raises(ValueError, match="X lacks the columns height, town"):
        predict(new.drop(columns=["town", "height"]))


def test_no_pickle_and_no_silent_damage(tmp_path):
    pipeline, _, _ = fitted()
    saved_pipeline.save_model(tmp_path / "model", pipeline, {})
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"MANIFEST.json", "preprocessor.json", "tensors.safetensors"}
    config = json.loads((tmp_path / "model" / "preprocessor.json").read_text(encoding="utf-8"))
    assert config["categories"][0] == ["(missing)", "Jena", "Köln", "Ulm"]
    (tmp_path / "model" / "preprocessor.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"preprocessor\.json was altered or is torn"):
        saved_pipeline.load_model(tmp_path / "model")


def test_a_forest_is_not_saved(tmp_path):
    pipeline, _, _ = fitted("random forest", min_samples_leaf=5)
    with pytest.raises(
        ValueError, match="a linear or an xgboost model, got RandomForestClassifier"
    ):
        saved_pipeline.save_model(tmp_path / "model", pipeline, {})


def test_permutation_importance_of_an_unused_column_is_zero():
    X, y = table(40)
    before = X.copy()
    drops = ours.permutation_importance(
        lambda rows: (rows["height"] > 170).to_numpy(np.int64),
        X,
        y,
        accuracy,
        np.array([np.roll(np.arange(40), 7)]),
    )
    used = X.columns == "height"
    assert (drops[~used] == 0).all()
    pd.testing.assert_frame_equal(X, before)


def test_redundant_columns():
    X = pd.DataFrame({"a": [1, 1, 2, 3], "b": list("xxyz"), "c": [1, 2, 2, 3], "d": [0.5] * 4})
    assert ours.redundant_columns(X) == [("b", "a")]


def test_bundled_table():
    one, two = (ours.bundled_table(np.random.default_rng(s)) for s in (0, 0))
    pd.testing.assert_frame_equal(one.features, two.features)
    assert len(one.features) == 569
    assert one.target.sum() == 212  # malignant
    assert one.categorical == ["texture", "outline"]
    assert 0.05 < one.features.isna().to_numpy().mean() < 0.1


def test_auto_never_downloads(monkeypatch, tmp_path):
    monkeypatch.setenv("ML_STUDIES_DATA", str(tmp_path))
    found, reason = ours.load_table("auto", np.random.default_rng(0))
    assert found.name == "bundled"
    assert reason == "bundled: neither adult nor titanic is in the data folder"


Y, P = np.array([0, 1]), np.array([0.2, 0.8])
WRONG = [
    ("cost_fp must be at least 0 and finite, got -1", lambda: ours.cost_curve(Y, P, **costs(-1.0))),
    ("y must hold at least one sample", lambda: ours.cost_curve(Y[:0], P[:0], **costs(1.0))),
    (r"p must be floats of shape \(n = 2\)", lambda: ours.cost_curve(Y, P[:1], **costs(1.0))),
    ("y must hold 0 and 1", lambda: ours.cost_curve(Y + 1, P, **costs(1.0))),
    ("model must be one of logistic", lambda: ours.build_pipeline("oracle", [], [])),
]


def costs(cost_fp):
    return {"cost_fp": cost_fp, "cost_fn": 1.0}


@pytest.mark.parametrize(("message", "call"), WRONG)
def test_wrong_arguments(message, call):
    with pytest.raises(ValueError, match=message):
        call()
