"""The week's posteriors again, stated in numpyro's language and sampled by numpyro and blackjax.

JAX starts threads that a forked process would inherit broken, so it never enters this process: a
child is started, samples, and sends back a summary.

>>> sorted(MODELS)
['centered schools', 'gaussian', 'logistic', 'schools']

Source: Phan, Pradhan & Jankowiak, "Composable effects for flexible and accelerated probabilistic
programming in NumPyro" (2019); Cabezas et al., "BlackJAX" (2024).
"""

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from week24.diagnostics import ess_bulk, mcse_mean, mcse_sd
from week24.posteriors import EFFECTS, ERRORS


def ask(requests: list[dict]) -> list[dict]:
    """Answers of a child process, one per request.

    Parameters
    ----------
    requests
        Each with `job` (``numpyro``, ``blackjax`` or ``density``), `model` (a key of MODELS),
        `data` of that model, and what the job takes.

    Returns
    -------
    answers
        Of a sampler mean, sd and their errors per coordinate, the smallest bulk ESS of x and x²,
        acceptance, gradients and divergences; of ``density`` the log density and its gradient at
        the `points`.
    """
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    done = subprocess.run(
        [sys.executable, "-m", "week24.jax_twins"],
        input=json.dumps(requests),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
    )
    if done.returncode:
        raise RuntimeError(f"the child process failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


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


MODELS: dict[str, Callable] = {
    "schools": functools.partial(_schools, centered=False),
    "centered schools": functools.partial(_schools, centered=True),
    "gaussian": _gaussian,
    "logistic": _logistic,
}
SITES = {
    "schools": ("mu", "tau", "z"),
    "centered schools": ("mu", "tau", "theta"),
    "gaussian": ("q",),
    "logistic": ("w",),
}


# ---- in the child


def _unpacked(model: str, flat):
    """One vector as the model's unconstrained sites; tau's is its logarithm."""
    sites = SITES[model]
    if len(sites) == 1:
        return {sites[0]: flat}
    return dict(zip(sites, (flat[0], flat[1], flat[2:]), strict=True))


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

    name, chains = request["model"], request["chains"]
    kernel = NUTS(MODELS[name], target_accept_prob=request.get("target_accept", 0.8))
    size = {"num_warmup": request["n_warmup"], "num_samples": request["n_draws"]}
    mcmc = MCMC(kernel, **size, num_chains=chains, chain_method="sequential", progress_bar=False)
    fields = ("num_steps", "accept_prob", "diverging")
    mcmc.run(jax.random.key(request["seed"]), request.get("data", {}), extra_fields=fields)
    found = {k: np.asarray(v) for k, v in mcmc.get_samples(group_by_chain=True).items()}
    if "tau" in found:
        mu, tau = found["mu"][..., None], found["tau"][..., None]
        theta = found["theta"] if "theta" in found else mu + tau * found["z"]
        draws = np.concatenate([mu, np.log(tau), theta], axis=-1)
    else:
        (draws,) = found.values()
    extra = {k: np.asarray(v) for k, v in mcmc.get_extra_fields(group_by_chain=True).items()}
    return summary(draws) | {
        "accept": float(extra["accept_prob"].mean()),
        "gradients": int(extra["num_steps"].sum()),
        "diverged": int(extra["diverging"].sum()),
    }


def _speed(request: dict) -> dict:
    """Seconds per gradient of a second run, when all is compiled; warm-up included."""
    import jax
    from numpyro.infer import MCMC, NUTS

    size = {"num_warmup": request["n_warmup"], "num_samples": request["n_draws"]}
    mcmc = MCMC(NUTS(MODELS[request["model"]]), **size, progress_bar=False)
    data, steps = request["data"], 0
    key, fields = jax.random.key(request["seed"]), ("num_steps",)
    for _ in range(2):
        start = time.perf_counter()
        mcmc.warmup(key, data, extra_fields=fields, collect_warmup=True)
        steps = int(np.asarray(mcmc.get_extra_fields()["num_steps"]).sum())
        mcmc.run(key, data, extra_fields=fields)
        steps += int(np.asarray(mcmc.get_extra_fields()["num_steps"]).sum())
        seconds = time.perf_counter() - start
    return {"seconds_per_gradient": seconds / steps}


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
    run = jax.jit(chain)
    found = [run(key, start) for key, start in zip(keys, starts, strict=True)]
    draws, steps, accept = (np.stack([np.asarray(one[i]) for one in found]) for i in range(3))
    late = slice(request["n_warmup"], None)
    return summary(draws[:, late]) | {
        "accept": float(accept[:, late].mean()),
        "gradients": int(steps[:, late].sum()),
    }


def _main() -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    jobs = {"numpyro": _numpyro, "blackjax": _blackjax, "density": _density, "speed": _speed}
    answers = [jobs[request["job"]](request) for request in json.load(sys.stdin)]
    sys.stdout.write(json.dumps(answers) + "\n")


if __name__ == "__main__":
    _main()
