"""Weeks 01 to 05: what arrays their functions take, and how they refuse the others."""

import dataclasses
import inspect
import itertools
import typing

import numpy as np
import pandas as pd
import pytest

from week01 import conditioning, matrix_decompositions, pca, word_geometry
from week02 import calculus_of_variations as variations
from week02 import finite_differences, gradients_and_jacobians
from week02 import matrix_calculus as layers
from week03 import bayesian_updating as beliefs
from week03 import distributions, information, special_functions
from week04 import bayesian_regression, bias_variance, linear_regression
from week04 import logistic_regression as logistic
from week05 import clustering_scores, gaussian_mixture, histogram_splits, kmeans, losses, smo


def rng():
    return np.random.default_rng(0)


def parabola(v):
    return sum(x * x for x in v)


R = rng()
A, B, S, P = R.normal(size=(5, 3)), R.normal(size=(5, 2)), np.diag([1.0, 2.0, 3.0]), np.eye(3)
x, y, w, labels = R.normal(size=5), R.normal(size=5), R.normal(size=3), np.array([0, 1, 2, 1, 0])
p, q, steps = np.array([0.5, 0.2, 0.3]), np.array([0.1, 0.6, 0.3]), np.arange(1.0, 6.0)
signs, shares, one_hot = np.where(x > 0, 1.0, -1.0), np.full((5, 2), 0.5), np.eye(3)[labels]
mixture = gaussian_mixture.m_step(A, shares)
segment = variations.midpoint(lambda x, y, slope: slope * slope + y * y)

CALLS = [
    (conditioning, "least_squares_qr least_squares_normal exact_least_squares", [A, x]),
    (conditioning, "exact_singular_values", [S]),
    (matrix_decompositions, "householder_qr svd_jacobi classical_gram_schmidt", [A]),
    (matrix_decompositions, "project least_squares", [A, B]),
    (matrix_decompositions, "solve_triangular", [S, P]),
    (matrix_decompositions, "eigh_jacobi", [S]),
    (pca, "low_rank", [A, 2]),
    (pca.PCA().fit(A), "transform inverse_transform fit_transform", [A]),
    (word_geometry, "ppmi cosine_similarity", [abs(A)]),
    (word_geometry, "truncated_svd", [A, 2, rng]),
    (word_geometry, "nearest_neighbors", [A, 0, 2]),
    (finite_differences, "finite_difference", [parabola, x]),
    (gradients_and_jacobians, "jacobian_forward jacobian_reverse gradient hessian", [parabola, x]),
    (variations, "functional first_variation second_variation minimize_path", [segment, steps, y]),
    (variations, "free_energy", [p, q, w]),
    (variations, "maximize_free_energy", [q, w, np.ones((1, 3)), np.ones(1)]),
    (layers, "linear", [A, P, w]),
    (layers, "linear_backward", [A, A, P]),
    (layers, "softmax", [A]),
    (layers, "softmax_jacobian", [w]),
    (layers, "softmax_backward", [A, one_hot]),
    (layers, "cross_entropy cross_entropy_backward", [A, labels]),
    (layers, "layer_norm batch_norm", [A, w, p]),
    (layers, "layer_norm_backward batch_norm_backward", [A, A, p]),
    (layers, "attention", [A, P, S, np.tri(5, 3) > 0]),
    (layers, "attention_backward", [A, A, P, S, one_hot]),
    (beliefs.BetaBinomial(), "predictive_log_pmf", [labels, 3]),
    (beliefs.GammaPoisson(1.0, 1.0), "update predictive_log_pmf", [labels]),
    (beliefs.NormalKnownVariance(0, 1, 1), "update", [x]),
    (beliefs.NormalInverseGamma(0, 1, 1, 1), "update", [x]),
    (beliefs, "t_interval", [x]),
    (beliefs, "bootstrap_statistics", [x, np.mean, rng]),
    (beliefs, "binomial_coverage", [beliefs.wald_interval, p, 5]),
    (distributions, "normal_log_pdf exponential_log_pdf", [x]),
    (distributions, "gamma_log_pdf student_t_log_pdf", [x, 2.0]),
    (distributions, "beta_log_pdf", [p, 2.0, 3.0]),
    (distributions, "poisson_log_pmf", [labels, 2.0]),
    (special_functions, "gamma_cdf", [steps, steps]),
    (special_functions, "beta_cdf", [p, q, p]),
    (special_functions, "student_t_cdf", [x, 3]),
    (information, "log_sum_exp log_softmax", [A]),
    (information, "softmax_cross_entropy", [A, labels]),
    (information, "entropy", [p]),
    (information, "cross_entropy kl_divergence", [p, q]),
    (information, "mutual_information", [np.diag(p)]),
    (information, "normal_entropy", [S]),
    (information, "normal_kl", [w, S, p, P]),
    (information, "kl_terms mutual_information_ksg", [x, y]),
    (information, "mutual_information_binned", [x, y, 2]),
    (bayesian_regression, "posterior_mean", [p, w, 1.0, 1.0]),
    (bias_variance, "decompose", [A, w, 1.0]),
    (bias_variance, "polynomial", [x, 2]),
    (bias_variance, "relu_features", [A, 2, rng]),
    (linear_regression, "centered", [A, x]),
    (logistic, "softmax", [A]),
    (logistic, "probabilities", [A, P]),
    (logistic, "loss_and_gradient newton_step gradient_descent", [P, A, one_hot, p]),
    (logistic, "hessian", [P, A, p]),
    (logistic, "irls_step", [w, A, (x > 0).astype(float)]),
    (clustering_scores, "silhouette", [A, labels]),
    (clustering_scores, "adjusted_rand_index", [labels, signs]),
    (gaussian_mixture, "log_sum_exp", [A]),
    (gaussian_mixture, "log_joint e_step", [A, mixture]),
    (gaussian_mixture, "m_step", [A, shares]),
    (histogram_splits, "split_gain", [x, steps, x > 0]),
    (kmeans, "squared_distances lloyd_step", [A, P]),
    (kmeans, "kmeans_plus_plus", [A, 2, rng]),
    (kmeans, "inertia", [A, P, labels]),
    (losses, "softmax sigmoid", [A]),
    (losses, "derivatives loss", ["softmax", A, one_hot]),
    (losses, "best_constant", ["softmax", one_hot, steps]),
    (smo, "kernel_matrix", [A, P]),
    (smo, "smo", [A @ A.T, signs, 1.0]),
    (smo, "bias_of objectives", [steps, x, signs, 5.0]),
]
CALLS = [(getattr(home, name), given) for home, names, given in CALLS for name in names.split()]
ANY_LABELS = {clustering_scores.silhouette, clustering_scores.adjusted_rand_index}


def result(function, arguments):
    """All numbers that come out, one after the other."""
    found = function(*(a() if a is rng else a for a in arguments))
    if dataclasses.is_dataclass(found):
        found = dataclasses.astuple(found)
    if not isinstance(found, tuple | list):
        found = [found]
    return np.concatenate([np.ravel(part) for part in found])


def as_pandas(a):
    return (pd.Series if a.ndim == 1 else pd.DataFrame)(a, index=R.permutation(len(a)))


def sizes_of(parameter):
    """What a parameter's annotation calls its axes."""
    kinds = typing.get_args(parameter.annotation) or [parameter.annotation]
    return next((kind.dim_str.split() for kind in kinds if hasattr(kind, "dim_str")), [])


@pytest.mark.parametrize(("function", "arguments"), CALLS, ids=lambda v: getattr(v, "__name__", ""))
def test_arrays_at_every_door(function, arguments):
    """Lists and pandas give the same numbers, by position; what does not fit is named."""
    expected = result(function, arguments)
    parameters = inspect.signature(function).parameters.values()
    for convert in (np.ndarray.tolist, as_pandas):
        given = [convert(a) if isinstance(a, np.ndarray) else a for a in arguments]
        np.testing.assert_allclose(result(function, given), expected, atol=1e-12)
    sizes = [sizes_of(parameter) for parameter in parameters][: len(arguments)]
    for i, a in enumerate(arguments):
        if not sizes[i]:
            continue
        wrong = [np.ma.masked_equal(a, 0)]
        if function not in ANY_LABELS:
            wrong += [a * 1j, np.full(a.shape, "a")]
        if not any(size.startswith("*") for size in sizes[i]):
            wrong.append(a[..., None])
        for axis, size in enumerate(sizes[i]):
            if list(itertools.chain(*sizes)).count(size) > 1 and a.ndim == len(sizes[i]):
                wrong.append(np.concatenate([a, a], axis=axis))
        for bad in wrong:
            with pytest.raises(ValueError, match=r"^\w+ must be [^\n]*$"):
                result(function, [*arguments[:i], bad, *arguments[i + 1 :]])
