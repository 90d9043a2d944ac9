"""What every estimator of the log shares: parameters, validation, scores.

The conventions are scikit-learn's, so that its tools (`clone`, `Pipeline`, `GridSearchCV`) work
with ours: the constructor only stores its arguments, `fit` sets attributes that end in an
underscore, wrong input raises a `ValueError` that says what came and what was expected.
Source: Buitinck et al., "API design for machine learning software", ECML PKDD workshop (2013).
"""

import inspect
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy.typing import ArrayLike


class NotFittedError(ValueError, AttributeError):
    """An estimator was used before `fit`; like scikit-learn's, both kinds of error."""


class Estimator:
    """Parameters from the constructor's signature; `allow_nan` if NaN in X means missing."""

    kind: str | None = None  # "classifier", "regressor", "clusterer" or None
    allow_nan: bool = False

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments by name; with `deep`, those of estimators in them."""
        params = {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}
        for name, value in list(params.items()) if deep else []:
            if hasattr(value, "get_params") and not isinstance(value, type):
                params |= {f"{name}__{key}": inner for key, inner in value.get_params().items()}
        return params

    def set_params(self, **params: Any) -> "Estimator":
        """Set arguments of the constructor; ``inner__name`` reaches into an estimator in one."""
        valid = inspect.signature(type(self)).parameters
        for key, value in params.items():
            name, _, inner = key.partition("__")
            if name not in valid:
                raise ValueError(f"parameter must be one of {sorted(valid)}, got {name!r}")
            if inner:
                getattr(self, name).set_params(**{inner: value})
            else:
                setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        """Show the arguments that differ from their defaults, as scikit-learn does."""
        defaults = {k: p.default for k, p in inspect.signature(type(self)).parameters.items()}
        params = self.get_params(deep=False).items()
        changed = [f"{k}={v!r}" for k, v in params if repr(v) != repr(defaults[k])]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_tags__(self):
        """Tell scikit-learn what this estimator is; it is imported only if it asks."""
        from sklearn import utils

        return utils.Tags(
            estimator_type=self.kind,
            target_tags=utils.TargetTags(required=self.kind in ("classifier", "regressor")),
            classifier_tags=utils.ClassifierTags() if self.kind == "classifier" else None,
            regressor_tags=utils.RegressorTags() if self.kind == "regressor" else None,
            transformer_tags=utils.TransformerTags() if hasattr(self, "transform") else None,
            input_tags=utils.InputTags(allow_nan=self.allow_nan),
        )

    def _check_fitted_X(self, X: Any) -> Float[np.ndarray, "n n_features"]:
        """X for `predict` or `transform`: the estimator is fitted and X has as many columns."""
        check_is_fitted(self)
        X = check_X(X, allow_nan=self.allow_nan)
        ours, wanted = X.shape[1], self.n_features_in_
        if ours != wanted:
            raise ValueError(f"X has {ours} features, but {type(self).__name__} is expecting "
                             f"{wanted} features as input")  # fmt: skip
        return X


class Regressor(Estimator):
    """An estimator whose `predict` returns numbers."""

    kind = "regressor"

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """R² = 1 - residual / total sum of squares: 1 is perfect, 0 is predicting the mean."""
        y, predicted = _same_shape(y, self.predict(X))
        residual, total = ((y - predicted) ** 2).sum(), ((y - y.mean()) ** 2).sum()
        return float(1 - residual / total) if total > 0 else float(residual == 0)


class Classifier(Estimator):
    """An estimator whose `predict` returns labels among `classes_`."""

    kind = "classifier"

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """Accuracy, the share of labels that are right."""
        y, predicted = _same_shape(y, self.predict(X))
        return float(np.mean(y == predicted))


def check_is_fitted(estimator: Estimator) -> None:
    """Raise `NotFittedError` unless `fit` has set an attribute that ends in an underscore."""
    if not any(k.endswith("_") and not k.startswith("__") for k in vars(estimator)):
        raise NotFittedError(f"{type(estimator).__name__} must be fitted before use: call fit")


def check_X(X: Any, *, min_samples: int = 1, allow_nan: bool = False) -> Float[np.ndarray, "n p"]:
    """Return X as a float64 matrix, finite, with enough rows and at least one column."""
    X = _numbers("X", X, allow_nan)
    if X.ndim != 2:
        raise ValueError(f"X must be a 2D array, got shape {X.shape}. Reshape your data")
    if len(X) < min_samples:
        raise ValueError(f"X must have at least {min_samples} samples, got n_samples = {len(X)}")
    if X.shape[1] == 0:
        raise ValueError(f"X has 0 feature(s) (shape={X.shape}) while a minimum of 1 is required.")
    return X


def check_X_y(
    X: Any, y: Any, *, classes: bool = False, min_samples: int = 1, allow_nan: bool = False
) -> tuple[Float[np.ndarray, "n p"], Shaped[np.ndarray, " n"]]:
    """Return X as `check_X` does, and y: labels if `classes`, else finite float64 numbers."""
    X = check_X(X, min_samples=min_samples, allow_nan=allow_nan)
    if y is None:
        raise ValueError("fit requires y to be passed, but the target y is None")
    y = np.asarray(y) if classes and np.asarray(y).dtype.kind != "f" else _numbers("y", y)
    if y.shape != (len(X),):
        raise ValueError(f"y should be a 1d array of n_samples = {len(X)}, got shape {y.shape}")
    return X, y


def check_classes(y: Shaped[np.ndarray, " n"]) -> tuple[Shaped[np.ndarray, " k"],
                                                         Int[np.ndarray, " n"]]:  # fmt: skip
    """Return the sorted labels and each sample's index among them; at least two are needed."""
    if y.dtype.kind == "f" and (y != np.floor(y)).any():
        raise ValueError("Unknown label type: y must hold classes, got continuous numbers")
    classes, indices = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y must have at least 2 classes, got 1 class: {classes[:1]}")
    return classes, indices


def _same_shape(y: ArrayLike, predicted: Shaped[np.ndarray, " n"]):
    y = np.asarray(y)
    if y.shape != predicted.shape:
        raise ValueError(f"y must have shape {predicted.shape}, as X has rows, got {y.shape}")
    return y, predicted


def _numbers(name: str, values: Any, allow_nan: bool = False) -> Float[np.ndarray, "..."]:
    if hasattr(values, "toarray"):
        raise TypeError(f"{name} must be a dense array, got sparse {type(values).__name__}")
    array = np.asarray(values)
    if array.dtype.kind == "c":
        raise ValueError(f"Complex data not supported: {name} must be real, got {array.dtype}")
    array = array.astype(np.float64)
    bad = np.isinf(array) if allow_nan else ~np.isfinite(array)
    if bad.any():
        raise ValueError(f"Input {name} contains NaN or infinity in {bad.sum()} places, expected "
                         f"finite numbers{' or NaN' if allow_nan else ''}")  # fmt: skip
    return array
