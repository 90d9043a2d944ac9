"""Operations, training steps and the fit of scaling_laws, each against a library."""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch.utils.flop_counter import FlopCounterMode

from shared.study import Run
from week14.minimal_gpt import GPT, GPTConfig, random_batch
from week16.parametric_fit import Law, Residuals, fit_law, grid_of_starts, lbfgs
from week16.scaling_laws import BATCH, CONTEXT, make_config, train_run, training_flops

CHINCHILLA = Law(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)  # Hoffmann et al., equation 10


def check_flops(run: Run) -> None:
    """6ND plus attention is what torch counts, operation by operation."""
    ours, counted = [], []
    tokens = torch.zeros(BATCH, CONTEXT, dtype=torch.long)
    for d_model, n_layers in ((8, 1), (48, 2), (32, 1)):
        config = make_config(d_model, 103, n_layers)
        with FlopCounterMode(display=False) as counter:
            F.cross_entropy(GPT(config)(tokens).flatten(0, 1), tokens.flatten()).backward()
        counted.append(counter.get_total_flops())
        ours.append(training_flops(config, BATCH * CONTEXT, attention=True))
    share = 100 * (1 - training_flops(config, BATCH * CONTEXT) / counted[-1])
    run.metric("FLOPs that 6ND leaves out, width 32", share, "%", rtol=0.01)
    same = run.against("torch.utils.flop_counter", why="integers: exact")
    same("FLOPs of a training step, three models", ours, np.array(counted, dtype=float))


def check_training(run: Run) -> None:
    """Ten steps on a schedule of seven with a floor, in torch's own parts."""
    tokens = torch.randint(31, (300,), generator=run.generator())
    ours = GPT(GPTConfig(31, 16, 2, 2, 16), run.generator(1)).double()
    theirs = copy.deepcopy(ours)
    options = {"steps": 10, "horizon": 7, "floor": 0.1, "batch_size": 3, "lr_scale": 0.5}
    options |= {"optimizer": "adamw", "generator": run.generator(2)}
    losses = list(train_run(ours, tokens, **options))
    adamw = torch.optim.AdamW(theirs.parameters(), lr=1.5e-3, betas=(0.9, 0.95), weight_decay=0.1)
    decay = torch.optim.lr_scheduler.LambdaLR(adamw, lambda t: 1 - t / 7 if t <= 6 else 0.1)
    generator, reference = run.generator(2), []
    for _ in range(10):
        x, y = random_batch(tokens, 3, 16, generator)
        loss = F.cross_entropy(theirs(x).flatten(0, 1), y.flatten())
        adamw.zero_grad()
        loss.backward()
        adamw.step()
        decay.step()
        reference.append(loss.item())
    why = "float64 rounding, amplified by ten steps"
    equal = run.against("torch.optim.AdamW + LambdaLR", rtol=1e-8, why=why)
    equal("losses of ten steps, schedule of seven", losses, reference)


def check_fit(run: Run) -> None:
    """A law that is known comes back, and SciPy's minimum is ours."""
    rng, n = np.random.default_rng(run.seed), run.budget(quick=60, default=240)
    law, _ = fit_law(*synthetic(rng, 0.0, n))
    ours, theirs = ([f.E, f.A, f.B, f.alpha, f.beta] for f in (law, CHINCHILLA))
    why = "the fit stops at a gradient of 1e-7"
    known = run.against("the law that made the runs", kind="theorem", rtol=1e-4, why=why)
    known("five parameters from runs without noise", ours, theirs)

    residuals, one = Residuals(*synthetic(rng, 0.02, 30)), np.ones((1, 30))
    starts = grid_of_starts()[10 :: run.budget(quick=60, default=25)]
    _, values = lbfgs(residuals, starts, np.ones((len(starts), 30)), max_iterations=500)

    def objective(theta):
        return tuple(np.squeeze(v) for v in residuals(theta[None], one))

    options = {"jac": True, "method": "L-BFGS-B", "options": {"maxiter": 500, "ftol": 1e-12}}
    scipys = min(minimize(objective, start, **options).fun for start in starts)
    why = "nearly |residual|: both stop close to a kink"
    low = run.against("scipy.optimize.minimize, L-BFGS-B", rtol=1e-4, why=why)
    low("best objective from the same starts", values.min(), scipys)


def synthetic(rng: np.random.Generator, noise: float, n: int) -> tuple[np.ndarray, ...]:
    """Runs of Chinchilla's own law, sizes log-uniform over the paper's range."""
    n_weights = np.exp(rng.uniform(np.log(7e7), np.log(1.6e10), n))
    n_tokens = np.exp(rng.uniform(np.log(5e9), np.log(5e11), n))
    loss = CHINCHILLA.loss(n_weights, n_tokens) * np.exp(noise * rng.normal(size=n))
    return n_weights, n_tokens, loss
