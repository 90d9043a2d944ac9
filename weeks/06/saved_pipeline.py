"""A fitted pipeline as numbers and JSON, never a pickle, read back without scikit-learn.

>>> prepare = Preprocessor(
...     ["age"], [40.0], [30.0], [10.0], ["town"], [["(missing)", "Ulm"]], "(missing)"
... )
>>> rows = pd.DataFrame({"age": [50.0, np.nan, 30.0], "town": ["Ulm", None, "Jena"]})
>>> prepare.transform(rows)  # a gap becomes the median or a word; a word never seen, zeros
array([[2., 0., 1.],
       [1., 1., 0.],
       [0., 0., 0.]])
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from shared import artifacts

Prob = Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Preprocessor:
    """What the fitted ColumnTransformer does, as plain numbers and words."""

    numeric: list[str]
    medians: list[float]
    means: list[float]
    scales: list[float]
    categorical: list[str]
    categories: list[list[str]]
    missing: str

    @classmethod
    def of(cls, fitted: Any) -> "Preprocessor":
        """Read the numbers out of a pipeline that `build_pipeline` made and `fit` filled in."""
        steps = {name: (step, list(columns)) for name, step, columns in fitted[0].transformers_}
        (impute, scale), numeric = steps["numeric"]
        (fill, encode), categorical = steps["categorical"]
        return cls(
            numeric,
            impute.statistics_.tolist(),
            scale.mean_.tolist(),
            scale.scale_.tolist(),
            categorical,
            [list(map(str, words)) for words in encode.categories_],
            fill.fill_value,
        )

    def transform(self, X: pd.DataFrame) -> Float[np.ndarray, "n features"]:
        """Fill in, scale and encode."""
        if missing := [name for name in [*self.numeric, *self.categorical] if name not in X]:
            raise ValueError(f"X lacks the columns {', '.join(missing)}")
        values = X[self.numeric].to_numpy(np.float64)
        values = np.where(np.isnan(values), self.medians, values)
        blocks = [(values - self.means) / self.scales]
        for name, words in zip(self.categorical, self.categories, strict=True):
            column = X[name].astype(object).where(X[name].notna(), self.missing).to_numpy()
            blocks.append((column[:, None] == np.array(words, dtype=object)).astype(np.float64))
        return np.concatenate(blocks, axis=1)


def save_model(target: Path, fitted: Any, metadata: Mapping[str, Any]) -> None:
    """Save a fitted pipeline with a linear or a boosted model as an artifact of plain files."""
    model = fitted[-1]
    config = json.dumps(asdict(Preprocessor.of(fitted)), ensure_ascii=False, indent=1).encode()
    if hasattr(model, "coef_"):
        tensors = {"coef": model.coef_[0], "intercept": model.intercept_}
        artifacts.save_tensors(
            target,
            tensors,
            metadata={**metadata, "kind": "linear"},
            files={"preprocessor.json": config},
        )
    elif hasattr(model, "get_booster"):
        booster = bytes(model.get_booster().save_raw("json"))
        artifacts.save(
            target,
            {"preprocessor.json": config, "booster.json": booster},
            metadata={**metadata, "kind": "boosted"},
        )
    else:
        raise ValueError(
            f"fitted must end in a linear or an xgboost model, got {type(model).__name__}"
        )


def load_model(target: Path) -> Callable[[pd.DataFrame], Prob]:
    """Read back what `save_model` wrote: a function from rows to probabilities.

    Every byte is verified; a linear model needs NumPy only.
    """
    kind = artifacts.load(target).metadata.get("kind")
    if kind == "linear":
        tensors, artifact = artifacts.load_tensors(target)
        prepare = Preprocessor(**json.loads(artifact.files["preprocessor.json"]))

        def linear(X: pd.DataFrame) -> Prob:
            z = prepare.transform(X) @ tensors["coef"] + tensors["intercept"]
            return np.exp(-np.logaddexp(0, -z))  # 1 / (1 + e^-z) without overflow

        return linear
    if kind != "boosted":
        raise artifacts.ArtifactError(f"{target} holds no model of this program: kind is {kind!r}")
    import xgboost

    artifact = artifacts.load(target)
    prepare = Preprocessor(**json.loads(artifact.files["preprocessor.json"]))
    booster = xgboost.Booster(model_file=bytearray(artifact.files["booster.json"]))

    def boosted(X: pd.DataFrame) -> Prob:
        return booster.predict(xgboost.DMatrix(prepare.transform(X))).astype(np.float64)

    return boosted
