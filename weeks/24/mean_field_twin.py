"""Mean-field posteriors by numpyro's AutoNormal: what bayes_by_backprop.py is compared with.

JAX runs in a process of its own (jax_child.py).

>>> sorted(LIKELIHOODS)
['categorical', 'gaussian']

Source: Phan, Pradhan & Jankowiak, "Composable effects for flexible and accelerated probabilistic
programming in NumPyro" (2019).
"""

from week24 import jax_child
from week24.net_posterior import Gaussian, Posterior

LIKELIHOODS = {"gaussian": 1, "categorical": 2}  # least numbers of outputs


def auto_normal(posteriors: list[Posterior], *, steps: int, seed: int) -> list[dict]:
    """Means and standard deviations that numpyro finds for nets without a hidden layer.

    Parameters
    ----------
    posteriors
        Of linear models.
    steps
        Of Adam, its rate falling to zero, sixteen draws each.

    Returns
    -------
    found
        `mean` and `sd` for each, in the order of our weights.
    """
    requests = [
        {
            "likelihood": "gaussian" if isinstance(p.likelihood, Gaussian) else "categorical",
            "noise_sd": getattr(p.likelihood, "sd", 1.0),
            "shape": p.net.shapes[0],
            "x": p.x.tolist(),
            "y": p.y.tolist(),
            "prior_sd": p.prior_sd,
            "steps": steps,
            "seed": seed,
        }
        for p in posteriors
    ]
    return jax_child.ask("week24.mean_field_twin", requests)


def _found(request: dict) -> dict:
    """In the child: the model in numpyro's words, its guide, and what SVI makes of it."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    import optax
    from numpyro.infer import SVI, Trace_ELBO
    from numpyro.infer.autoguide import AutoNormal

    d_out, d_in = request["shape"]
    x, y = jnp.array(request["x"]), jnp.array(request["y"])

    def model():
        prior = dist.Normal(0, request["prior_sd"]).expand([d_out, d_in]).to_event(2)
        w = numpyro.sample("w", prior)
        outputs = x @ w[:, :-1].T + w[:, -1]
        if request["likelihood"] == "gaussian":
            numpyro.sample("y", dist.Normal(outputs[:, 0], request["noise_sd"]), obs=y)
        else:
            numpyro.sample("y", dist.Categorical(logits=outputs), obs=y)

    guide, steps = AutoNormal(model), request["steps"]
    adam = optax.adam(optax.linear_schedule(0.05, 0.0, steps))
    svi = SVI(model, guide, numpyro.optim.optax_to_numpyro(adam), Trace_ELBO(num_particles=16))
    end = svi.run(jax.random.key(request["seed"]), steps, progress_bar=False).params
    found = {"mean": end["w_auto_loc"], "sd": end["w_auto_scale"]}
    return {name: value.ravel().tolist() for name, value in found.items()}


if __name__ == "__main__":
    jax_child.answer(lambda requests: [_found(request) for request in requests])
