r"""Project 1: a table with gaps and words in it, from the file to a model that can be trusted.

What a practitioner does with pandas and scikit-learn, in order: look, split, choose a model by
nested cross-validation, set the threshold by what mistakes cost, test once, explain, save. With
calibrated probabilities $p$ the cheapest rule is to act when

$$p\, c_\mathrm{FN} > (1 - p)\, c_\mathrm{FP} \quad\Longleftrightarrow\quad
  p > \frac{c_\mathrm{FP}}{c_\mathrm{FP} + c_\mathrm{FN}} .$$

Every step that learns anything (medians, categories, scales, threshold) learns it from training
rows. The model is saved by `saved_pipeline.py`. A report in Markdown lands in `runs/`.

>>> happened, p = np.array([1, 0, 1, 0, 0]), np.array([0.9, 0.6, 0.4, 0.2, 0.1])
>>> cheapest_threshold(happened, p, cost_fp=1, cost_fn=1)  # no false alarm, one missed
0.9
>>> cheapest_threshold(happened, p, cost_fp=1, cost_fn=5)  # a miss is dear: one false alarm
0.4

    uv run weeks/06/ml_pipeline.py

Source: Elkan, "The foundations of cost-sensitive learning" (2001), equation 2; Breiman, "Random
forests" (2001), section 10 (permutation importance); Kohavi (1996) for the Adult data.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from shared import datasets
from shared.arguments import checked
from shared.require import require

Prob = Float[np.ndarray, " n"]
Score = Callable[[np.ndarray, np.ndarray], float]
DatasetName = Literal["auto", "adult", "titanic", "bundled"]


# ---- the table


@dataclass(frozen=True, eq=False)
class Table:
    """A mixed-type table: features with gaps, a binary target, and a column to report by."""

    name: str
    features: pd.DataFrame
    target: Int[np.ndarray, " n"]
    question: str
    group: str

    @property
    def numeric(self) -> list[str]:
        """Columns of numbers."""
        return list(self.features.select_dtypes("number").columns)

    @property
    def categorical(self) -> list[str]:
        """All other columns."""
        return [name for name in self.features if name not in self.numeric]


def load_table(dataset: DatasetName, rng: np.random.Generator) -> tuple[Table, str]:
    """Return a data set and why it was chosen; `auto` never downloads.

    Parameters
    ----------
    rng
        Where the bundled table's gaps come from.
    """
    if dataset == "auto":
        for name in ("adult", "titanic"):
            files = datasets.registry()[name].files
            if all((datasets.cache_dir() / file.path).exists() for file in files):
                return load_table(name, rng)[0], f"{name}: it is in the data folder"
        return bundled_table(rng), "bundled: neither adult nor titanic is in the data folder"
    if dataset == "adult":
        features, target = datasets.adult()
        # fnlwgt counts whom a row stands for: a property of the survey, not of the person.
        features, target = features.drop(columns="fnlwgt"), target.astype(np.int64)
        table = Table("adult", features, target, "earns more than 50,000 dollars a year", "sex")
    elif dataset == "titanic":
        raw = datasets.titanic()
        features = raw.drop(columns=["PassengerId", "Name", "Ticket", "Cabin", "Survived"])
        features, target = features.assign(Deck=raw["Cabin"].str[0]), raw["Survived"]
        table = Table("titanic", features, target.to_numpy(np.int64), "survived", "Sex")
    else:
        table = bundled_table(rng)
    return table, f"{dataset}: asked for"


def bundled_table(rng: np.random.Generator) -> Table:
    """scikit-learn's breast cancer table, made as untidy as a real one.

    Two measurements are turned into words, and every eighth value of half the columns is removed
    at random.
    """
    data = datasets.bundled("breast_cancer")
    names = [name.replace(" ", "_") for name in data.feature_names[:10]]
    mean = pd.DataFrame(data.data[:, :10], columns=names)
    words = {
        "texture": pd.cut(
            mean.pop("mean_texture"),
            [0, 16, 19, 22, 99],
            labels=["fine", "medium", "coarse", "very coarse"],
        ),
        "outline": pd.cut(
            mean.pop("mean_concavity"), [-1, 0.03, 0.09, 9], labels=["smooth", "notched", "hollow"]
        ),
    }
    features = mean.assign(**{name: column.astype(object) for name, column in words.items()})
    for name in features.columns[::2]:
        features.loc[rng.random(len(features)) < 1 / 8, name] = np.nan
    target = 1 - data.target.astype(np.int64)
    return Table("bundled", features, target, "is malignant", "texture")


def redundant_columns(features: pd.DataFrame) -> list[tuple[str, str]]:
    """Pairs of columns, of few values each, that say the same in other words (one to one)."""
    few = [name for name in features if 1 < features[name].nunique() <= 100]
    return [
        (a, b)
        for i, a in enumerate(few)
        for b in few[:i]
        if features[a].nunique() == features[b].nunique() == len(features[[a, b]].value_counts())
    ]


# ---- models, in scikit-learn's words


MODELS: Mapping[str, Sequence[dict[str, Any]]] = {
    "logistic regression": ({"C": 0.1}, {"C": 1.0}),
    "random forest": ({"min_samples_leaf": 1}, {"min_samples_leaf": 5}),
    "gradient boosting": ({"max_depth": 3}, {"max_depth": 6}),
}


def build_pipeline(
    model: str, numeric: Sequence[str], categorical: Sequence[str], **parameters: Any
) -> Any:
    """Preprocessing and a model as one estimator, so that `fit` sees training rows only.

    Parameters
    ----------
    model
        A name among `MODELS`.
    parameters
        Of the model.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler
    from xgboost import XGBClassifier

    makers: dict[str, Callable[..., Any]] = {
        "logistic regression": lambda **p: LogisticRegression(solver="newton-cholesky", **p),
        "random forest": lambda **p: RandomForestClassifier(50, random_state=0, **p),
        "gradient boosting": lambda **p: XGBClassifier(
            n_estimators=120, learning_rate=0.1, subsample=0.8, n_jobs=1, random_state=0, **p
        ),
    }
    require(model in makers, f"model must be one of {', '.join(makers)}", repr(model))
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    # A gap is a category of its own; one that fit never saw becomes all zeros.
    fill = SimpleImputer(strategy="constant", fill_value="(missing)")
    words = make_pipeline(fill, OneHotEncoder(handle_unknown="ignore", sparse_output=False))
    parts = [("numeric", numbers, list(numeric)), ("categorical", words, list(categorical))]
    return make_pipeline(ColumnTransformer(parts), makers[model](**parameters))


# ---- decisions


@checked
def cost_curve(
    y: Int[np.ndarray, " n"], p: Prob, *, cost_fp: float, cost_fn: float
) -> tuple[Float[np.ndarray, " t"], Float[np.ndarray, " t"]]:
    """Mean cost a sample of acting when p >= threshold, for every threshold that matters.

    Returns
    -------
    thresholds, costs
        From infinity (never act) downwards.
    """
    require(len(y) > 0, "y must hold at least one sample", "none")
    require(np.isin(y, (0, 1)).all(), "y must hold 0 and 1", np.unique(y))
    require(np.isfinite(p).all(), "p must be finite", p)
    for name, cost in (("cost_fp", cost_fp), ("cost_fn", cost_fn)):
        require(0 <= cost < np.inf, f"{name} must be at least 0 and finite", cost)
    order = np.argsort(-p, kind="stable")
    last = np.append(np.flatnonzero(np.diff(p[order])), len(p) - 1)
    caught = np.append(0, np.cumsum(y[order])[last])
    false_alarms = np.append(0, last + 1) - caught
    cost = (cost_fp * false_alarms + cost_fn * (y.sum() - caught)) / len(y)
    return np.append(np.inf, p[order][last]), cost


@checked
def cheapest_threshold(
    y: Int[np.ndarray, " n"], p: Prob, *, cost_fp: float, cost_fn: float
) -> float:
    """Return the threshold of least cost on these samples; of equals, the highest."""
    thresholds, costs = cost_curve(y, p, cost_fp=cost_fp, cost_fn=cost_fn)
    return float(thresholds[costs.argmin()])


def permutation_importance(
    predict: Callable[[pd.DataFrame], np.ndarray],
    X: pd.DataFrame,
    y: Int[np.ndarray, " n"],
    score: Score,
    permutations: Int[np.ndarray, "repeats n"],
) -> Float[np.ndarray, "columns repeats"]:
    """How much the score falls when a column's values are dealt out anew.

    It says what the *model* uses, not what the world does: of two columns that tell the same,
    either may look unimportant.

    Parameters
    ----------
    permutations
        One order of the rows a repeat, the same for all columns.
    """
    whole = score(y, predict(X))
    drops = np.empty((X.shape[1], len(permutations)))
    for j, name in enumerate(X.columns):
        for r, order in enumerate(permutations):
            shuffled = X.assign(**{name: X[name].to_numpy()[order]})
            drops[j, r] = whole - score(y, predict(shuffled))
    return drops


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
