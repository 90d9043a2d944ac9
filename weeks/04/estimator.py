"""What every estimator of the log shares: parameters, validation, scores.

The conventions are scikit-learn's, so that its tools (`clone`, `Pipeline`, `GridSearchCV`) work
with ours: the constructor only stores its arguments, `fit` sets attributes that end in an
underscore, wrong input raises a `ValueError` that says what came and what was expected.

>>> class Mean(Regressor):
...     def fit(self, X, y):
...         self.mean_ = np.mean(y)
...         return self
...
...     def predict(self, X):
...         return np.full(len(X), self.mean_)
>>> Mean().fit(np.ones((2, 1)), [1.0, 3.0]).score(np.ones((2, 1)), [1.0, 3.0])
0.0

Source: Buitinck et al., "API design for machine learning software", ECML PKDD workshop (2013).
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy.typing import ArrayLike

from shared.require import require


class NotFittedError(ValueError, AttributeError):
    """An estimator was used before `fit`; like scikit-learn's, both kinds of error."""


def _all_or_nothing(fit: Callable[..., Any]) -> Callable[..., Any]:
    """A `fit` that fails leaves the estimator as it was before."""

    @functools.wraps(fit)
    def fit_or_restore(self, *args: Any, **options: Any) -> Any:
        before = dict(vars(self))
        try:
            return fit(self, *args, **options)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    return fit_or_restore


class Estimator:
    """Parameters from the constructor's signature; `fit` succeeds or changes nothing.

    `allow_nan` if NaN in X means missing; `precision` is what X is compared in.
    """

    kind: str | None = None  # "classifier", "regressor", "clusterer" or None
    allow_nan: bool = False
    precision: type = np.float64

    def __init_subclass__(cls) -> None:
        """Guard the `fit` of every estimator."""
        if "fit" in vars(cls):
            cls.fit = _all_or_nothing(cls.fit)

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
            require(name in valid, f"parameter must be one of {sorted(valid)}", repr(name))
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
        X = check_X(X, allow_nan=self.allow_nan, precision=self.precision)
        # scikit-learn's tools look for these very words, here and below
        expecting = f"{type(self).__name__} is expecting {self.n_features_in_} features as input"
        same = X.shape[1] == self.n_features_in_
        require(same, f"X has {X.shape[1]} features, but {expecting}")
        return X


class Regressor(Estimator):
    """An estimator whose `predict` returns numbers."""

    kind = "regressor"

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """R² = 1 - residual / total sum of squares: 1 is perfect, 0 is predicting the mean."""
        y, predicted = _same_shape(_numbers("y", y), self.predict(X))
        residual, total = ((y - predicted) ** 2).sum(), ((y - y.mean()) ** 2).sum()
        return float(1 - residual / total) if total > 0 else float(residual == 0)


class Classifier(Estimator):
    """An estimator whose `predict` returns labels among `classes_`."""

    kind = "classifier"

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """Accuracy, the share of labels that are right."""
        y, predicted = _same_shape(_labels(y), self.predict(X))
        text = [labels.dtype.kind in "OSU" for labels in (y, predicted)]
        require(text[0] == text[1], "y must hold labels like those of fit", y.dtype)
        return float(np.mean(y == predicted))


def check_is_fitted(estimator: Estimator) -> None:
    """Raise `NotFittedError` unless `fit` has set an attribute that ends in an underscore."""
    if not any(k.endswith("_") and not k.startswith("__") for k in vars(estimator)):
        raise NotFittedError(f"{type(estimator).__name__} must be fitted before use: call fit")


def check_X(
    X: Any, *, min_samples: int = 1, allow_nan: bool = False, precision: type = np.float64
) -> Float[np.ndarray, "n p"]:
    """Return X as a float64 matrix, finite also in `precision`, not without rows or columns."""
    X = _numbers("X", X, allow_nan, precision)
    require(X.ndim == 2, "X must be a 2D array", f"shape {X.shape}. Reshape your data")
    must = f"X must have at least {min_samples} samples"
    require(len(X) >= min_samples, must, f"n_samples = {len(X)}")
    must = f"X has 0 feature(s) (shape={X.shape}) while a minimum of 1 is required."
    require(X.shape[1] > 0, must)
    return X


def check_X_y(
    X: Any, y: Any, *, classes: bool = False, **options: Any
) -> tuple[Float[np.ndarray, "n p"], Shaped[np.ndarray, " n"]]:
    """Return X as `check_X` does, and y: labels if `classes`, else finite float64 numbers."""
    X = check_X(X, **options)
    require(y is not None, "fit requires y to be passed, but the target y is None")
    y = _labels(y) if classes else _numbers("y", y)
    must = f"y should be a 1d array of n_samples = {len(X)}"
    require(y.shape == (len(X),), must, f"shape {y.shape}")
    return X, y


def check_classes(
    y: Shaped[np.ndarray, " n"],
) -> tuple[Shaped[np.ndarray, " k"], Int[np.ndarray, " n"]]:
    """Return the sorted labels and each sample's index among them; at least two are needed."""
    continuous = y.dtype.kind == "f" and (y != np.floor(y)).any()
    require(not continuous, "Unknown label type: y must hold classes", "continuous numbers")
    try:
        classes, indices = np.unique(y, return_inverse=True)
        known = all(label == label for label in classes.tolist())
    except TypeError:  # None and NA have no place in any order
        known = False
    require(known, "y must hold labels of one kind, none of them missing", y[:5])
    require(len(classes) >= 2, "y must have at least 2 classes", f"1 class: {classes[:1]}")
    return classes, indices


def check_sample_weight(weight: ArrayLike | None, n: int) -> Float[np.ndarray, " n"]:
    """One weight per row, at least 0 and not all 0; ones by default."""
    weight = np.ones(n) if weight is None else _numbers("sample_weight", weight)
    right = weight.shape == (n,) and (weight >= 0).all() and 0 < weight.sum() < np.inf
    must = f"sample_weight must hold {n} numbers >= 0, not all of them zero"
    require(right, must, f"shape {weight.shape}")
    return weight


def _labels(y: Any) -> Shaped[np.ndarray, "..."]:
    return _numbers("y", y) if np.asarray(y).dtype.kind == "f" else np.asarray(y)


def _same_shape(y: Shaped[np.ndarray, "..."], predicted: Shaped[np.ndarray, " n"]):
    require(
        y.shape == predicted.shape, f"y must have shape {predicted.shape}, as X has rows", y.shape
    )
    return y, predicted


def _numbers(
    name: str, values: Any, allow_nan: bool = False, precision: type = np.float64
) -> Float[np.ndarray, "..."]:
    dense = not (hasattr(values, "toarray") or isinstance(values, np.ma.MaskedArray))
    kind = f"sparse or masked {type(values).__name__}"
    require(dense, f"{name} must be a dense array", kind, error=TypeError)
    array = np.asarray(values)
    must = f"Complex data not supported: {name} must be real"
    require(array.dtype.kind != "c", must, array.dtype)
    array = array.astype(np.float64)
    bad = np.abs(array) > np.finfo(precision).max  # infinite, or once it is narrowed
    bad = bad if allow_nan else bad | np.isnan(array)
    expected = f"finite {np.dtype(precision)} numbers{' or NaN' if allow_nan else ''}"
    found = f"Input {name} contains NaN or infinity in {bad.sum()} places"
    require(not bad.any(), f"{found}, expected {expected}")
    return array
