"""Other people's samplers are given our posteriors: same density, same gradient."""

import numpy as np

from week24.evidence.other_samplers import targets
from week24.jax_twins import MODELS, ask


def test_densities_are_numpyros():
    rng = np.random.default_rng(0)
    models = targets(rng)
    assert set(models) == set(MODELS)  # the others are compared in each default run
    models = {name: models[name] for name in ("schools", "funnel")}
    points = {name: rng.normal(size=(3, dim)) for name, (_, dim, _) in models.items()}
    requests = [
        {"job": "density", "model": name, "data": data, "points": points[name].tolist()}
        for name, (_, _, data) in models.items()
    ]
    for name, answer in zip(models, ask(requests), strict=True):
        density, gradient = models[name][0](points[name])
        np.testing.assert_allclose(gradient, answer["gradient"], rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(np.diff(density), np.diff(answer["log_density"]), rtol=1e-9)
