"""The week's posteriors again, stated in numpyro's language and sampled by numpyro and blackjax.

JAX runs in a process of its own (jax_child.py), which samples and sends back a summary.

>>> sorted(MODELS)
['centered schools', 'funnel', 'gaussian', 'logistic', 'schools']

Source: Phan, Pradhan & Jankowiak, "Composable effects for flexible and accelerated probabilistic
programming in NumPyro" (2019); Cabezas et al., "BlackJAX" (2024).
"""

import functools
import time
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from week24 import jax_child
from week24.diagnostics import ess_bulk, mcse_mean, mcse_sd
from week24.posteriors import EFFECTS, ERRORS


def ask(requests: list[dict]) -> list[dict]:
    """Answers of a child process, one per request.

    Parameters
    ----------
    requests
        Each with `job` (``numpyro``, ``blackjax`` or ``density``), `model` (a key of MODELS),
        `data` of that model, what the job takes, and `timed` if it is to be run twice.

    Returns
    -------
    answers
        Of a sampler mean, sd and their errors per coordinate, the smallest bulk ESS of x and x²,
        acceptance, gradients, divergences and seconds of the draws; of ``density`` the log density
        and its gradient at the `points`.
    """
    return jax_child.ask("week24.jax_twins", requests)


def summary(draws: Float[np.ndarray, "chains draws dim"]) -> dict:
    """Moments, their errors, and the smallest bulk ESS of any coordinate or its square."""
    columns = [draws[:, :, i] for i in range(draws.shape[-1])]
    return {
        "mean": [float(x.mean()) for x in columns],
        "mcse_mean": [mcse_mean(x) for x in columns],
        "sd": [float(x.std(ddof=1)) for x in columns],
        "mcse_sd": [mcse_sd(x) for x in columns],
        "ess": min(min(ess_bulk(x), ess_bulk((x - x.mean()) ** 2)) for x in columns),
    }


# ---- models; what they give is in the order of posteriors.py


def _schools(data: dict, *, centered: bool) -> None:
    import numpyro
    import numpyro.distributions as dist

    mu = numpyro.sample("mu", dist.Normal(0, 5))
    tau = numpyro.sample("tau", dist.HalfCauchy(5))
    if centered:
        theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([8]))
    else:
        theta = mu + tau * numpyro.sample("z", dist.Normal(0, 1).expand([8]))
    numpyro.sample("y", dist.Normal(theta, ERRORS), obs=EFFECTS)


def _gaussian(data: dict) -> None:
    import numpyro
    import numpyro.distributions as dist

    covariance = np.array(data["covariance"])
    numpyro.sample("q", dist.MultivariateNormal(np.zeros(len(covariance)), covariance))


def _logistic(data: dict) -> None:
    import numpyro
    import numpyro.distributions as dist

    X, y = np.array(data["X"]), np.array(data["y"])
    weights = numpyro.sample("w", dist.Normal(0, 1).expand([X.shape[1] + 1]).to_event(1))
    numpyro.sample("y", dist.Bernoulli(logits=weights[0] + X @ weights[1:]), obs=y)


def _funnel(data: dict) -> None:
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    v = numpyro.sample("v", dist.Normal(0, 3))
    numpyro.sample("x", dist.Normal(0, jnp.exp(v / 2)).expand([data["dim"] - 1]).to_event(1))


MODELS: dict[str, Callable] = {
    "schools": functools.partial(_schools, centered=False),
    "centered schools": functools.partial(_schools, centered=True),
    "gaussian": _gaussian,
    "logistic": _logistic,
    "funnel": _funnel,
}
SITES = {
    "schools": ("mu", "tau", "z"),
    "centered schools": ("mu", "tau", "theta"),
    "gaussian": ("q",),
    "logistic": ("w",),
    "funnel": ("v", "x"),
}


# ---- in the child


def _unpacked(model: str, flat):
    """One vector as the model's unconstrained sites; tau's is its logarithm."""
    sites, scalars = SITES[model], len(SITES[model]) - 1
    return dict(zip(sites, (*flat[:scalars], flat[scalars:]), strict=True))


def _potential(request: dict) -> Callable:
    from numpyro.infer.util import potential_energy

    name = request["model"]

    def potential(flat):
        data = (request.get("data", {}),)
        return potential_energy(MODELS[name], data, {}, _unpacked(name, flat))

    return potential


def _density(request: dict) -> dict:
    import jax
    import jax.numpy as jnp

    both = jax.jit(jax.vmap(jax.value_and_grad(_potential(request))))
    potential, slope = both(jnp.array(request["points"]))
    return {"log_density": (-potential).tolist(), "gradient": (-slope).tolist()}


def _numpyro(request: dict) -> dict:
    import jax
    from numpyro.infer import MCMC, NUTS

    name, chains, seconds = request["model"], request["chains"], 0.0
    kernel = NUTS(MODELS[name], target_accept_prob=request.get("target_accept", 0.8))
    size = {"num_warmup": request["n_warmup"], "num_samples": request["n_draws"]}
    mcmc = MCMC(kernel, **size, num_chains=chains, chain_method="vectorized", progress_bar=False)
    given = jax.random.key(request["seed"]), request.get("data", {})
    fields = ("num_steps", "accept_prob", "diverging")
    mcmc.run(*given, extra_fields=fields)
    for _ in range(request.get("timed", False) * 2):  # draws alone; the first run compiles them
        mcmc.post_warmup_state, start = mcmc.last_state, time.perf_counter()
        mcmc.run(*given, extra_fields=fields)
        jax.block_until_ready(mcmc.get_samples())
        seconds = time.perf_counter() - start
    found = {k: np.asarray(v) for k, v in mcmc.get_samples(group_by_chain=True).items()}
    if "tau" in found:
        mu, tau = found["mu"][..., None], found["tau"][..., None]
        theta = found["theta"] if "theta" in found else mu + tau * found["z"]
        draws = np.concatenate([mu, np.log(tau), theta], axis=-1)
    else:
        parts = [found[site] for site in SITES[name]]
        draws = np.concatenate([x[..., None] if x.ndim == 2 else x for x in parts], axis=-1)
    extra = {k: np.asarray(v) for k, v in mcmc.get_extra_fields(group_by_chain=True).items()}
    return summary(draws) | {
        "accept": float(extra["accept_prob"].mean()),
        "gradients": int(extra["num_steps"].sum()),
        "diverged": int(extra["diverging"].sum()),
        "seconds": seconds,
    }


def _blackjax(request: dict) -> dict:
    """With a step size and an inverse mass given: nothing is tuned."""
    import blackjax
    import jax
    import jax.numpy as jnp

    potential = _potential(request)
    inverse_mass = jnp.array(request["inverse_mass"])
    kernel = blackjax.nuts(lambda q: -potential(q), request["step"], inverse_mass)

    def chain(key, start):
        def step(state, key):
            state, info = kernel.step(key, state)
            kept = (state.position, info.num_integration_steps, info.acceptance_rate)
            return state, kept

        keys = jax.random.split(key, request["n_warmup"] + request["n_draws"])
        return jax.lax.scan(step, kernel.init(start), keys)[1]

    keys = jax.random.split(jax.random.key(request["seed"]), request["chains"])
    starts = jnp.zeros((request["chains"], len(request["inverse_mass"])))
    run = jax.jit(jax.vmap(chain))
    for _ in range(1 + request.get("timed", False)):
        start = time.perf_counter()
        found = jax.block_until_ready(run(keys, starts))
        seconds = time.perf_counter() - start
    draws, steps, accept = (np.asarray(x) for x in found)
    late = slice(request["n_warmup"], None)
    return summary(draws[:, late]) | {
        "accept": float(accept[:, late].mean()),
        "gradients": int(steps[:, late].sum()),
        "seconds": seconds * request["n_draws"] / draws.shape[1],
    }


JOBS = {"numpyro": _numpyro, "blackjax": _blackjax, "density": _density}

if __name__ == "__main__":
    jax_child.answer(lambda requests: [JOBS[request["job"]](request) for request in requests])
