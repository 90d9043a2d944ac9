"""Two of numpyro's guides on Bayesian logistic regression, fitted by numpyro itself.

JAX runs in a process of its own (jax_child.py), which fits and sends back numbers.

>>> GUIDES
('AutoNormal', 'AutoMultivariateNormal')

Source: Phan, Pradhan & Jankowiak, "Composable effects for flexible and accelerated probabilistic
programming in NumPyro" (2019).
"""

import numpy as np
from jaxtyping import Float

from week24 import jax_child

GUIDES = ("AutoNormal", "AutoMultivariateNormal")


def ask(X: Float[np.ndarray, "n d"], y: Float[np.ndarray, " n"], *, steps: int, seed: int) -> dict:
    """What each guide ends with: mean and sd of intercept and weights, and its ELBO in nats."""
    request = {"X": X.tolist(), "y": y.tolist(), "steps": steps, "seed": seed}
    return jax_child.ask("week24.guide_twins", request)


def _fit(name: str, request: dict) -> dict:
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from jax.example_libraries.optimizers import polynomial_decay
    from numpyro.infer import SVI, Trace_ELBO, autoguide

    X, y = jnp.array(request["X"]), jnp.array(request["y"])

    def model():
        weights = numpyro.sample("w", dist.Normal(0, 1).expand([X.shape[1] + 1]).to_event(1))
        numpyro.sample("y", dist.Bernoulli(logits=weights[0] + X @ weights[1:]), obs=y)

    steps = request["steps"]
    guide = getattr(autoguide, name)(model)
    rate = polynomial_decay(0.05, steps, 5e-5)
    svi = SVI(model, guide, numpyro.optim.Adam(rate), Trace_ELBO(num_particles=16))

    @jax.jit  # the start too: op by op it would compile for longer than it computes
    def run(key):
        state = svi.init(key)
        state, losses = jax.lax.scan(lambda state, _: svi.update(state), state, length=steps)
        return svi.get_params(state), losses

    params, losses = run(jax.random.key(request["seed"]))
    if name == "AutoNormal":
        mean, sd = params["w_auto_loc"], params["w_auto_scale"]
    else:
        factor = np.array(params["auto_scale_tril"])
        mean, sd = params["auto_loc"], np.sqrt(np.square(factor).sum(axis=1))
    bound = -np.array(losses)[-200:].mean()  # the rate has fallen to nearly nothing
    return {"mean": mean.tolist(), "sd": sd.tolist(), "elbo": float(bound)}


if __name__ == "__main__":
    jax_child.answer(lambda request: {name: _fit(name, request) for name in GUIDES})
