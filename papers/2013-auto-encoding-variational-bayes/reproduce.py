r"""Does one objective for encoder and decoder beat two, and do spare latents overfit?

AEVB raises $\mathbb{E} \ln p(x \mid z) - \mathrm{KL}(q \| p)$ in both networks; wake-sleep raises
$\ln p(x \mid z)$ at samples of the encoder, and $\ln q(z \mid x)$ at samples of the model. Both are
judged by the same bound on held-out digits. The rules stand in README.md's front matter.

    uv run papers/2013-auto-encoding-variational-bayes/reproduce.py

Kingma & Welling (2013), "Auto-encoding variational Bayes", section 5 and figure 2.
"""

import numpy as np
import torch
from torch import Tensor

from shared import datasets, papers, plots
from shared.study import PositiveInt, Run, cli
from week22.vae import VAE, elbo, gaussian_kl, log_normal, reparameterize

EVERY = 100  # steps between two looks at the held-out bound


def load() -> tuple[Tensor, Tensor]:
    """Digits in black and white, 1,437 to train on and 360 held out."""
    images, _ = datasets.digits()
    x = torch.as_tensor(images.reshape(len(images), -1) >= 8).float()
    x = x[torch.as_tensor(np.random.default_rng(0).permutation(len(x)))]
    return x[:1437], x[1437:]


def wake_sleep(model: VAE, x: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
    """Both losses of a step, for one backward pass: each network gets the gradient of its own."""
    with torch.no_grad():
        z = reparameterize(*model.encode(x), noise)
    wake = -model.log_likelihood(x, z).mean()  # no gradient into the encoder
    with torch.no_grad():
        dreamed = torch.randn(len(x), model.n_latents, generator=generator, dtype=x.dtype)
        picture = torch.bernoulli(model.decoder(dreamed).sigmoid(), generator=generator)
    sleep = -log_normal(dreamed, *model.encode(picture)).mean()  # none into the decoder
    return wake + sleep


def aevb(
    model: VAE, x: Tensor, noise: Tensor, generator: torch.Generator, beta: float = 1.0
) -> Tensor:
    """Minus the bound, for both networks at once."""
    return -elbo(model, x, noise, beta).mean()


def without_kl(model: VAE, x: Tensor, noise: Tensor, generator: torch.Generator) -> Tensor:
    """The reconstruction alone: a plain autoencoder with noise."""
    return aevb(model, x, noise, generator, beta=0.0)


@torch.no_grad()
def held_out_bound(model: VAE, x: Tensor, seed: int) -> float:
    """The bound in nats per picture, 16 samples each, the same noise at every look."""
    g = torch.Generator().manual_seed(seed)
    return float(elbo(model, x, torch.randn(16, len(x), model.n_latents, generator=g)).mean())


def trained(loss_of, n_latents: int, train: Tensor, test: Tensor, steps: int, lr: float, seed: int):
    """Held-out bounds after 0, 100, 200, … steps of Adagrad."""
    g = torch.Generator().manual_seed(seed)
    model = VAE(train.shape[1], n_latents, g, width=100, likelihood="bernoulli")
    optimizer, bounds = torch.optim.Adagrad(model.parameters(), lr=lr), []
    for step in range(steps + 1):
        if step % EVERY == 0 or step == steps:
            bounds.append(held_out_bound(model, test, seed))
        x = train[torch.randint(len(train), (100,), generator=g)]
        loss = loss_of(model, x, torch.randn(1, 100, n_latents, generator=g), g)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return np.array(bounds)


def share_of_steps(fast: np.ndarray, goal: float) -> float:
    """After which share of the looks `fast` is past the goal; 2 if never."""
    past = np.flatnonzero(fast >= goal)
    return float(past[0] / (len(fast) - 1)) if past.size else 2.0


def check_wake_sleep(run: Run) -> None:
    """Each network's gradient is that of its own loss, and only of it."""
    from torch.distributions import Bernoulli, Normal

    g = run.generator(1)
    model = VAE(6, 2, g, width=5, likelihood="bernoulli").double()
    x = (torch.rand(4, 6, generator=g) < 0.5).double()
    noise = torch.randn(1, 4, 2, generator=g, dtype=torch.float64)
    model.zero_grad()
    wake_sleep(model, x, noise, torch.Generator().manual_seed(7)).backward()
    ours = torch.cat([p.grad.ravel() for p in model.parameters() if p.grad is not None])
    z = reparameterize(*(part.detach() for part in model.encode(x)), noise)
    wake = Bernoulli(logits=model.decoder(z)).log_prob(x).sum(-1).mean()
    h = torch.Generator().manual_seed(7)
    dreamed = torch.randn(4, 2, generator=h, dtype=x.dtype)
    picture = torch.bernoulli(model.decoder(dreamed).sigmoid().detach(), generator=h)
    mean, log_variance = model.encode(picture)
    sleep = Normal(mean, (0.5 * log_variance).exp()).log_prob(dreamed).sum(-1).mean()
    parts = (
        torch.autograd.grad(-sleep, list(model.encoder.parameters())),
        torch.autograd.grad(-wake, list(model.decoder.parameters())),
    )
    theirs = torch.cat([p.ravel() for part in parts for p in part])
    run.check(
        "gradients of wake and sleep",
        ours,
        theirs,
        against="torch.distributions",
        atol=1e-10,
        why="float64 rounding",
    )
    mean, log_variance = torch.randn(2, 3, 4, generator=g)
    theirs = torch.distributions.kl_divergence(
        Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)
    ).sum(-1)
    run.check(
        "KL in the bound",
        gaussian_kl(mean, log_variance),
        theirs,
        against="torch.distributions",
        atol=1e-5,
        why="float32 rounding",
    )


def main(run: Run, *, seeds: PositiveInt = 3) -> None:
    """Tune both methods alike, then train both with three numbers of latents.

    Parameters
    ----------
    seeds
        Trainings of each kind; 8 with --full.
    """
    paper = papers.load(__file__)
    check_wake_sleep(run)
    train, test = load()
    seeds = run.budget(quick=2, default=seeds, full=max(seeds, 8))
    steps = run.budget(quick=10, default=600, full=10_000)
    latents = run.budget(quick=[2, 10], default=paper.matter["latents"])
    methods, lr = {"AEVB": aevb, "wake-sleep": wake_sleep}, {}
    grid = run.budget(quick=[0.1], default=paper.matter["lrs"])
    for name, loss_of in methods.items():  # on a part of the training set, by another seed
        found = [
            trained(loss_of, 10, train[:1149], train[1149:], steps, rate, 100)[-1] for rate in grid
        ]
        lr[name] = grid[int(np.argmax(found))]
        run.metric(f"step size, {name}", lr[name], rtol=None)
    curves = {
        (name, k): np.array(
            [trained(loss_of, k, train, test, steps, lr[name], seed) for seed in range(seeds)]
        )
        for name, loss_of in methods.items()
        for k in latents
    }
    last = {key: found[:, -1] for key, found in curves.items()}
    gain = np.mean([last["AEVB", k] - last["wake-sleep", k] for k in latents], axis=0)
    late = {"quick": False, "rtol": None}
    paper.judge(run, "a better bound than wake-sleep", gain, **late)
    pairs = zip(curves["AEVB", 10], last["wake-sleep", 10], strict=True)
    paper.judge(
        run,
        "wake-sleep's last bound in half the steps",
        [share_of_steps(fast, goal) for fast, goal in pairs],
        **late,
    )
    best = np.max([last["AEVB", k] for k in latents], axis=0)
    most = latents[-1]
    paper.judge(run, "superfluous latents do not overfit", last["AEVB", most] - best, **late)
    free = [
        trained(without_kl, most, train, test, steps, lr["AEVB"], seed)[-1] for seed in range(seeds)
    ]
    run.falsifier("without the KL term", free - best, breaks="superfluous latents do not overfit")
    for (name, k), values in last.items():
        run.metric(f"held-out bound, {name}, {k} latents", values.mean(), "nats", rtol=0.2)
    draw(run, curves, latents, steps)


def draw(run: Run, curves: dict, latents: list[int], steps: int) -> None:
    """One panel per number of latents, both methods."""
    title = "Which method raises the held-out bound, and how soon?"
    size = (3.0 * len(latents), 3.3)
    with run.figure("bounds", title, 1, len(latents), size=size, sharey=True) as axes:
        for axis, k in zip(axes, latents, strict=True):
            for name, color in (("AEVB", plots.BLUE), ("wake-sleep", plots.ORANGE)):
                found = curves[name, k]
                x = np.linspace(0, steps, found.shape[1])
                plots.interval_band(axis, x, found, color=color, label=name)
            axis.set(title=f"{k} latents", xlabel="steps of 100 pictures")
        best = max(found.max() for found in curves.values())
        low = max(best - 40, min(found.min() for found in curves.values()))  # early dreams are off
        axes[0].set(ylabel="held-out bound (nats per picture)", ylim=(low - 1, best + 1))
        axes[-1].legend()


if __name__ == "__main__":
    cli(main)
