"""Closed forms for the linear model, quadrature for a small one, then handwritten digits."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week22.dequantization import bits_per_dim, dequantize
from week22.vae import (
    VAE,
    LinearVAE,
    gaussian_kl,
    iwae_bound,
    log_normal,
    log_weights,
    pathwise_gradients,
    score_gradients,
    train,
)


class Data(NamedTuple):
    """Pictures as levels 0 … levels - 1, one row each."""

    train: Tensor
    test: Tensor
    test_labels: np.ndarray
    levels: int


def main(run: Run, *, seeds: PositiveInt = 3) -> None:
    """Check the bound and its gradients, the linear model against PCA, then train on digits.

    Parameters
    ----------
    seeds
        Models trained on the digits, and as many on digits with their pixels shuffled.
    """
    check_terms(run)
    check_by_quadrature(run)
    check_first_steps(run)
    check_linear(run)
    compare_gradients(run)
    collapse(run)
    seeds = run.budget(quick=1, default=max(seeds, 2))
    train_on_digits(run, load(run), seeds)


# ---- checks


def check_terms(run: Run) -> None:
    """The KL and its gradient."""
    from torch.distributions import Normal, kl_divergence

    equal = run.against("torch.distributions", atol=1e-12, why="float64 rounding")
    g = run.generator(1)
    mean, log_variance = (torch.randn(5, 7, generator=g, dtype=torch.float64) for _ in range(2))
    inputs = [mean.requires_grad_(), log_variance.requires_grad_()]
    ours = gaussian_kl(*inputs)
    theirs = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(-1)
    equal("KL of q from the prior", ours.detach(), theirs.detach())
    both = (torch.cat(torch.autograd.grad(kl.sum(), inputs)) for kl in (ours, theirs))
    equal("gradient of the KL", *both)


def check_by_quadrature(run: Run) -> None:
    """One latent: the expectation over the noise, and ln p(x), by Gauss-Hermite quadrature."""
    g = run.generator(2)
    model = VAE(6, 1, g, width=5, likelihood="bernoulli").double()
    x = (torch.rand(4, 6, generator=g) < 0.5).double()
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = torch.as_tensor(weights / weights.sum())
    noise = torch.as_tensor(nodes)[:, None, None].expand(-1, len(x), 1)
    with torch.no_grad():
        both = (weights[:, None] * log_weights(model, x, noise)).sum(0)  # the mean log weight
        mean, log_variance = model.encode(x)
        z = mean + (0.5 * log_variance).exp() * noise
        fit = (weights[:, None] * model.log_likelihood(x, z)).sum(0)
        theory = {"kind": "theorem", "atol": 1e-9, "why": "60 nodes on a smooth function"}
        equal = run.against("Gauss-Hermite quadrature", **theory)
        equal("two decompositions of the ELBO", both, fit - gaussian_kl(mean, log_variance))
        evidence = (weights[:, None] * model.log_likelihood(x, noise).exp()).sum(0).log()
        n = run.budget(quick=20_000, default=100_000)
        log_w = log_weights(model, x, torch.randn(n, len(x), 1, generator=g, dtype=x.dtype))
        error = 4 * float((log_w.exp().std(0) / log_w.exp().mean(0)).max()) / n**0.5
        equal = run.against("quadrature over the prior", kind="theorem", why="four standard errors")
        equal("the log of the mean weight is ln p(x)", iwae_bound(log_w), evidence, atol=error)
        error = 4 * float(log_w.std(0).max()) / n**0.5
        equal("the mean log weight is the ELBO", log_w.mean(0), both, atol=error)


def check_first_steps(run: Run) -> None:
    """Four steps of Adam on the same noise, with a loss put together from torch's densities."""
    from torch.distributions import Independent, Normal, kl_divergence

    x = torch.rand(4, 9, 5, generator=run.generator(3))
    models = [VAE(5, 2, run.generator(4), width=6) for _ in range(2)]
    train(models[0], x, lr=0.01, n_samples=3, generator=run.generator(5))
    optimizer, g = torch.optim.Adam(models[1].parameters(), lr=0.01), run.generator(5)
    for batch in x:
        mean, log_variance = models[1].encoder(batch).chunk(2, dim=-1)
        q = Independent(Normal(mean, (0.5 * log_variance).exp()), 1)
        z = mean + q.base_dist.scale * torch.randn(3, 9, 2, generator=g)
        scale = (0.5 * models[1].log_variance).exp()
        fit = Independent(Normal(models[1].decoder(z), scale), 1).log_prob(batch)
        prior = Independent(Normal(torch.zeros(2), torch.ones(2)), 1)
        optimizer.zero_grad()
        (kl_divergence(q, prior) - fit.mean(0)).mean().backward()
        optimizer.step()
    both = (torch.cat([p.detach().ravel() for p in model.parameters()]) for model in models)
    rounding = {"atol": 1e-4, "why": "float32; a step is lr = 0.01 whatever the gradient's size"}
    run.check("weights after four steps of Adam", *both, against="torch.distributions", **rounding)


# ---- the linear model


def fit_exactly(model: LinearVAE, x: Tensor, beta: float = 1.0) -> LinearVAE:
    """L-BFGS on the ELBO in closed form: no noise is left in the optimum."""
    free = [p for p in model.parameters() if p.requires_grad]
    options = {"tolerance_grad": 1e-9, "tolerance_change": 1e-13, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS(free, max_iter=400, history_size=20, **options)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -model.exact_elbo(x, beta).mean()
        loss.backward()
        return loss

    for _ in range(6):  # a latent that leaves the saddle at 0 does so slowly
        optimizer.step(closure)
        if all(float(p.grad.abs().max()) < 1e-7 for p in free):
            break
    return model


def check_linear(run: Run) -> None:
    """The best linear VAE is probabilistic PCA, and its bound is tight."""
    from scipy.stats import multivariate_normal
    from sklearn.decomposition import PCA

    g = run.generator(6)
    z = torch.randn(300, 3, generator=g, dtype=torch.float64) * torch.tensor([3.0, 2.0, 1.2])
    axes = torch.linalg.qr(torch.randn(8, 3, generator=g, dtype=torch.float64))[0]
    x = z @ axes.T + 0.5 * torch.randn(300, 8, generator=g, dtype=torch.float64) + 1
    model = fit_exactly(LinearVAE(8, 3, g).double(), x)
    pca = PCA(3).fit(x.numpy())
    likeliest = pca.get_covariance() * (len(x) - 1) / len(x)  # scikit-learn divides by n - 1
    reached = float(model.log_evidence(x).detach().mean())
    w = model.decoder.weight.detach()
    ours = w @ w.T + model.log_variance.exp().item() * torch.eye(8)
    equal = run.against(
        "sklearn.decomposition.PCA", why="the likelihood is flat at its optimum", rtol=1e-5
    )
    equal("covariance of the model", ours, likeliest, atol=1e-3)
    best = multivariate_normal(pca.mean_, likeliest).logpdf(x.numpy()).mean()
    equal("mean log-likelihood at its optimum", reached, best, rtol=1e-7)
    near = f"PCA.score; it divides by n - 1 = {len(x) - 1}, which costs terms of 1/n²"
    run.check(
        "likelihood beside PCA.score",
        reached,
        pca.score(x.numpy()),
        against="PCA.score",
        atol=8 * 9 / 4 / len(x) ** 2,
        why=near,
    )
    bound = float(model.exact_elbo(x).detach().mean())
    tight = {"kind": "theorem", "rtol": 1e-7, "why": "a linear q reaches the posterior"}
    run.check(
        "the ELBO is ln p(x) there", bound, reached, against="KL to the posterior = 0", **tight
    )

    # an encoder that is off: the bounds rise with K toward ln p(x) and stay below
    with torch.no_grad():
        model.encoder.bias += 0.3
        model.posterior_log_variance += 0.3
        samples = run.budget(quick=20, default=200)
        gaps = {}
        for k in (1, 8, 64):
            noise = (torch.randn(k, len(x), 3, generator=g, dtype=x.dtype) for _ in range(samples))
            bounds = torch.stack([iwae_bound(log_weights(model, x, e)).mean() for e in noise])
            gaps[k] = (reached - bounds).numpy()
        exact = reached - float(model.exact_elbo(x).detach().mean())
    why = {"kind": "theorem", "why": "four standard errors"}
    error = 4 * float(gaps[1].std()) / samples**0.5
    one = run.against("ELBO in closed form", atol=error, **why)
    one("one weight: the ELBO", float(gaps[1].mean()), exact)
    for k, gap in gaps.items():
        run.metric(f"gap to ln p(x), {k} weights", gap.mean(), "nats", rtol=0.1)
    order = min(gaps[1].mean() - gaps[8].mean(), gaps[8].mean() - gaps[64].mean(), gaps[64].mean())
    run.claim(
        "more weights, a smaller gap that stays positive",
        order,
        at_least=0,
        deterministic=True,
        unit="nats",
        rtol=None,
        note="least of two gains and the last gap; 1, 8 and 64 weights",
    )


def collapse(run: Run) -> None:
    """A linear model with its noise fixed: which latents stay at each β?"""
    variances, noise = np.array([12.0, 6.0, 3.0, 1.5] + [0.25] * 4), 0.25
    g = run.generator(7)
    x = torch.randn(200, 8, generator=g, dtype=torch.float64)
    u, _, v = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    x = 200**0.5 * u * torch.as_tensor(variances).sqrt() @ v  # a covariance of those variances
    betas = run.budget(quick=[16], default=[1, 2, 4, 8, 16, 32, 64])
    found = []
    for beta in betas:
        model = LinearVAE(8, 4, g).double()
        model.log_variance.data.fill_(math.log(noise))
        model.log_variance.requires_grad_(False)
        mean, log_variance = fit_exactly(model, x, beta).encode(x)
        kl = 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance).mean(0)
        found.append(kl.detach().sort(descending=True).values.numpy())
    theory = [np.maximum(0.5 * np.log(variances[:4] / (beta * noise)), 0) for beta in betas]
    closed = {"kind": "theorem", "atol": 2e-3, "why": "L-BFGS stops; a latent near 0 is flat"}
    run.check(
        "KL of each latent at each β",
        np.array(found),
        np.array(theory),
        against="half the log of variance over β times noise",
        **closed,
    )
    grid = np.geomspace(1, 64, 200)
    title = "When does a latent collapse? Below β times the noise"
    with run.figure("collapse", title, size=(7.5, 4.2)) as axes:
        for i, color in zip(range(4), plots.COLORS, strict=False):
            line = np.maximum(0.5 * np.log(variances[i] / (grid * noise)), 0)
            axes.plot(grid, line, "--", color=plots.REFERENCE, lw=1)
            label = f"variance {variances[i]:g}"
            axes.plot(betas, np.array(found)[:, i], "o", color=color, label=label)
        axes.set(xscale="log", xlabel="β", ylabel="KL of the latent at the optimum (nats)")
        axes.set_xticks(betas, [f"{beta:g}" for beta in betas])
        axes.legend(title="linear VAE, noise 0.25 (dashes: theory)")


# ---- gradients


def compare_gradients(run: Run) -> None:
    """Two estimators of one gradient: the same mean, and variances that part with dimension."""
    n = run.budget(quick=20_000, default=200_000)
    g, double = run.generator(8), {"dtype": torch.float64}
    a, mean, log_variance = (torch.randn(3, generator=g, **double) for _ in range(3))
    noise = torch.randn(n, 3, generator=g, **double)
    exact = torch.stack([2 * (mean - a), log_variance.exp()])  # of E|z - a|² = |μ - a|² + Σσ²
    for name, estimate in {"pathwise": pathwise_gradients, "score": score_gradients}.items():
        rows = estimate(lambda z: ((z - a) ** 2).sum(-1), mean, log_variance, noise)
        error = 4 * float(rows.std(0).max()) / n**0.5
        theory = {"kind": "theorem", "why": "four standard errors", "atol": error}
        run.check(f"mean of {name} gradients", rows.mean(0), exact, against="closed form", **theory)
    sizes, ratios = [1, 2, 5, 10, 20, 50], {"score function": [], "minus its mean": []}
    for d in sizes:
        zero, noise = torch.zeros(d), torch.randn(n // 10, d, generator=g)
        path = pathwise_gradients(lambda z: (z**2).sum(-1), zero, zero, noise)[:, 0].var(0).mean()
        for name, shift in zip(ratios, (0, d), strict=True):
            rows = score_gradients(lambda z, c=shift: (z**2).sum(-1) - c, zero, zero, noise)
            ratios[name].append(float(rows[:, 0].var(0).mean() / path))
    d = np.array(sizes)
    theory = {"score function": (d + 2) * (d + 4) / 4, "minus its mean": (2 * d + 8) / 4}
    for name, ratio in ratios.items():
        run.check(
            f"variance over pathwise, {name}",
            ratio,
            theory[name],
            rtol=0.3,
            kind="theorem",
            against="moments of χ²",
            why=f"{n // 10:,} heavy-tailed samples",
        )
    run.metric("variance ratio in 50 dimensions", ratios["score function"][-1], rtol=0.3)
    run.metric("variance ratio with a baseline", ratios["minus its mean"][-1], rtol=0.3)
    title = "How many samples does a score-function gradient need for one pathwise sample?"
    with run.figure("gradients", title, size=(7.5, 4.2)) as axes:
        for (name, ratio), color in zip(ratios.items(), plots.COLORS, strict=False):
            axes.plot(d, theory[name], "--", color=plots.REFERENCE, lw=1)
            axes.plot(d, ratio, "o", color=color, label=name)
        plots.reference_line(axes, 1, "pathwise")
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="dimensions of z",
            ylabel="variance / variance of pathwise",
        )
        axes.legend(title="gradient of E|z|² (dashes: theory)")


# ---- digits


def load(run: Run) -> Data:
    """The 8 × 8 digits of 17 levels; MNIST with --full."""
    if run.mode == "full":
        found = datasets.mnist()
        pictures = [
            torch.as_tensor(x.reshape(len(x), -1)).long()
            for x in (found.train_images, found.test_images)
        ]
        return Data(*pictures, found.test_labels, 256)
    images, labels = datasets.digits()
    pictures = torch.as_tensor(images.reshape(len(images), -1)).long()
    order = np.random.default_rng(0).permutation(len(images))
    cut = 1437
    return Data(pictures[order[:cut]], pictures[order[cut:]], labels[order[cut:]], 17)


def batches(levels: Tensor, n: int, steps: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows drawn with replacement, with fresh noise in every pixel."""
    for _ in range(steps):
        rows = torch.randint(len(levels), (128,), generator=generator)
        yield dequantize(levels[rows], n, generator)


def started(n_latents: int, levels: Tensor, n: int, width: int, generator: torch.Generator) -> VAE:
    """A model that starts at every pixel's own mean and variance: its latents say nothing yet."""
    x = dequantize(levels, n, generator)
    model = VAE(x.shape[1], n_latents, generator, width=width)
    with torch.no_grad():
        model.log_variance.copy_(x.var(0).log())
        model.decoder[-1].bias.copy_(x.mean(0))
        model.decoder[-1].weight.mul_(0.1)
    return model


def shuffled(levels: Tensor, generator: torch.Generator) -> Tensor:
    """Every pixel permuted among the pictures: its own distribution stays, all relations go."""
    return levels.gather(0, torch.rand(levels.shape, generator=generator).argsort(0))


def independent_pixels(train_x: Tensor, test_x: Tensor) -> Tensor:
    """Log density of the test rows by one Gaussian per pixel."""
    return log_normal(test_x, train_x.mean(0), train_x.var(0).log())


@torch.no_grad()
def bound_on(model: VAE, x: Tensor, k: int, generator: torch.Generator) -> tuple[float, float]:
    """The ELBO and the bound of k weights, in nats per row, from the same samples."""
    log_w = log_weights(model, x, torch.randn(k, len(x), model.n_latents, generator=generator))
    return float(log_w.mean()), float(iwae_bound(log_w).mean())


def train_on_digits(run: Run, data: Data, seeds: int) -> None:
    """Bits per dimension on held-out digits, with relations between pixels and without."""
    steps = run.budget(quick=20, default=1000, full=20_000)
    width = run.budget(quick=128, default=128, full=500)
    d, gains, tighter = data.train.shape[1], {"digits": [], "pixels shuffled": []}, []
    models, bits, active = [], [], {name: [] for name in gains}
    for seed in range(seeds):
        for name in gains:
            g = run.generator(20 + seed)
            parts = data.train, data.test
            if name != "digits":
                parts = [shuffled(part, g) for part in parts]
            model = started(8, parts[0], data.levels, width, g)
            train(model, batches(parts[0], data.levels, steps, g), generator=g)
            train_x, test_x = (dequantize(part, data.levels, g) for part in parts)
            plain = float(independent_pixels(train_x, test_x).mean())
            bound, iwae = bound_on(model, test_x, run.budget(quick=4, default=64), g)
            gains[name].append(bound - plain)
            with torch.no_grad():
                mean, log_variance = model.encode(test_x)
            kl = 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance).mean(0)
            active[name].append(float((kl > 0.05).sum()))
            if name == "digits":
                models.append(model)
                tighter.append(iwae - bound)
                bits.append(
                    [
                        float(bits_per_dim(torch.tensor(v), n_dims=d, levels=data.levels))
                        for v in (plain, bound, iwae)
                    ]
                )
    kind = {"unit": "nats per picture", "quick": False, "rtol": None}
    learns = "the bound beats independent pixels on held-out digits"
    run.claim(learns, gains["digits"], at_least=10, **kind, seen_before="one other seed")
    run.falsifier("pixels shuffled among pictures", gains["pixels shuffled"], breaks=learns)
    run.claim("64 weights bound more tightly than one", tighter, at_least=0.1, **kind)
    for name, values in zip(
        ("independent pixels", "ELBO", "64 weights"), zip(*bits, strict=True), strict=True
    ):
        run.metric(f"bits per dimension, {name}", np.mean(values), "bits", rtol=0.05)
    for name, values in active.items():
        run.metric(f"latents in use, {name}", np.mean(values), "of 8", rtol=None)
    draw_pictures(run, models[0], data)
    draw_map(run, data, steps, width)


@torch.no_grad()
def draw_pictures(run: Run, model: VAE, data: Data) -> None:
    """Held-out digits, what eight numbers keep of them, and digits that nobody wrote."""
    g, side = run.generator(50), math.isqrt(data.test.shape[1])
    x = dequantize(data.test[:12], data.levels, g)
    rows = {
        "held out": x,
        "through 8 numbers": model.decoder(model.encode(x)[0]),
        "from the prior": model.decoder(torch.randn(12, 8, generator=g)),
    }
    title = "What do eight numbers keep of a digit, and what does the prior draw?"
    with run.figure("digits", title, size=(8.3, 2.6)) as axes:
        sheet = torch.cat(
            [
                torch.cat([nn_pad(p.reshape(side, side)) for p in row], dim=1)
                for row in rows.values()
            ]
        )
        axes.imshow(sheet, cmap="gray_r", vmin=0, vmax=1)
        axes.set_xticks([])
        axes.set_yticks([(i + 0.5) * (side + 1) for i in range(3)], list(rows))
        axes.grid(False)


def nn_pad(picture: Tensor) -> Tensor:
    """A white line at the right and below."""
    return torch.nn.functional.pad(picture, (0, 1, 0, 1))


def draw_map(run: Run, data: Data, steps: int, width: int) -> None:
    """Two latents: where the encoder puts held-out digits that it knows no labels of."""
    g = run.generator(60)
    model = started(2, data.train, data.levels, width, g)
    train(model, batches(data.train, data.levels, steps, g), generator=g)
    with torch.no_grad():
        mean = model.encode(dequantize(data.test, data.levels, g))[0].numpy()
    title = "Where do two latents put held-out digits? No label was seen"
    with run.figure("map", title, size=(6.6, 5.4)) as axes:
        for digit in range(10):
            at = mean[data.test_labels == digit][:200]
            ink = {"ha": "center", "va": "center", "fontsize": 8}
            for x, y in at:
                axes.text(x, y, str(digit), color=f"C{digit % 7}", clip_on=True, **ink)
        reach = 1.05 * np.abs(mean).max()
        axes.set(xlim=(-reach, reach), ylim=(-reach, reach), xlabel="mean of latent 1")
        axes.set(ylabel="mean of latent 2", aspect="equal")
