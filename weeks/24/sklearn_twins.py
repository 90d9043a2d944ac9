"""scikit-learn's variational models, made to start where ours start.

They draw their own start, and the documents' variables of each step as well. With both given, and
the same number of updates, each result is a number to compare.

>>> lam = np.array([[1.0, 2.0, 3.0], [3.0, 1.0, 1.0]])
>>> options = {"learning_method": "batch", "max_iter": 1, "topic_word_prior": 0.1}
>>> model = topics_from(lam, updates=20, **options)
>>> print(model.fit(np.array([[4, 0, 1], [0, 3, 2]])).components_.sum().round(6))  # 10 words
10.6

Source: scikit-learn 1.7, `sklearn.decomposition` and `sklearn.mixture` (2025).
"""

import numpy as np
from jaxtyping import Float
from sklearn.decomposition import LatentDirichletAllocation
from sklearn.mixture import BayesianGaussianMixture

from week24.latent_dirichlet import expected_log
from week24.variational_inference import Prior


def topics_from(
    lam: Float[np.ndarray, "k v"], *, updates: int, **options
) -> LatentDirichletAllocation:
    """Their topic model from given topics; each document starts at γ = 1 and has so many updates.

    `local_step` does the same with `tol=0` and `most=updates`.
    """

    class SameStart(LatentDirichletAllocation):
        def _init_latent_vars(self, n_features, dtype):
            super()._init_latent_vars(n_features, dtype)
            self.components_ = lam.copy()
            self.exp_dirichlet_component_ = np.exp(expected_log(lam))

        def _e_step(self, X, cal_sstats, random_init, parallel=None):
            return super()._e_step(X, cal_sstats, False, parallel)

    options |= {"mean_change_tol": 0.0, "max_doc_update_iter": updates}
    return SameStart(n_components=len(lam), **options)


def mixture_from(
    shares: Float[np.ndarray, "n k"], prior: Prior, *, sweeps: int
) -> BayesianGaussianMixture:
    """Their mixture from given shares, with our prior and nothing added to covariances."""

    class SameStart(BayesianGaussianMixture):
        def _initialize_parameters(self, X, random_state, xp=None):
            self._initialize(X, shares)

    return SameStart(
        n_components=shares.shape[1],
        weight_concentration_prior_type="dirichlet_distribution",
        weight_concentration_prior=prior.concentration,
        mean_prior=prior.mean,
        mean_precision_prior=prior.mean_precision,
        covariance_prior=prior.spread,
        degrees_of_freedom_prior=prior.dof,
        reg_covar=0.0,
        max_iter=sweeps,
        tol=0.0,
    )
