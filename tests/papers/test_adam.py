"""The switchable bias correction, the networks side by side and the rules of papers/2015-adam."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_scripts import load

from shared import records

paper = load(records.ROOT / "papers/2015-adam/reproduce.py")
Arm = paper.Arm


def steps(arms, gradients, eps=1e-8):
    """Changes of all arms for the same gradients, (step, arm, n, m)."""
    state, changes = {}, []
    for t, gradient in enumerate(gradients, start=1):
        each = paper.coefficients(arms, t, torch.float64)
        grads = gradient.expand(len(arms), -1, -1)
        changes.append(paper.adam_change(grads, state, each, eps=eps))
    return torch.stack(changes)


def noise(n=20, seed=0):
    return torch.randn(n, 3, 2, dtype=torch.float64, generator=torch.manual_seed(seed))


@given(st.floats(0, 0.99), st.floats(0.5, 0.9999), st.floats(1e-4, 1.0), st.integers(0, 1000))
def test_corrected_arm_is_torchs_adam(beta1, beta2, lr, seed):
    gradients = noise(seed=seed)
    weight = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    adam, path = torch.optim.Adam([weight], lr=lr, betas=(beta1, beta2)), []
    for gradient in gradients:
        weight.grad = gradient.clone()
        adam.step()
        path.append(-weight.detach().clone())
    ours = steps([Arm(lr, beta1, beta2, True)], gradients)[:, 0].cumsum(0)
    torch.testing.assert_close(ours, torch.stack(path), rtol=1e-9, atol=1e-9)


def test_arms_differ_by_the_missing_factor_and_rescaling_undoes_it():
    kinds = ((True, False), (False, False), (False, True))
    arms = [Arm(0.01, 0.9, 0.999, *kind) for kind in kinds]
    fair, plain, rescaled = steps(arms, noise(), eps=0.0).unbind(1)
    torch.testing.assert_close(rescaled, fair, rtol=1e-10, atol=0)
    for t in (1, 5, 20):
        ratio = paper.missing_factor(0.9, 0.999, t)
        torch.testing.assert_close(plain[t - 1] * ratio, fair[t - 1], rtol=1e-10, atol=0)


def test_networks_side_by_side_do_not_touch_each_other():
    x = torch.rand(64, 64, generator=torch.manual_seed(1))
    calm, wild = Arm(1e-3, 0.9, 0.999, True), Arm(1e4, 0.0, 0.9999, False)
    together = paper.train(x, [wild, calm], steps=8, seeds=2, seed=0)
    alone = paper.train(x, [calm], steps=8, seeds=2, seed=0)
    np.testing.assert_allclose(together[:, 1], alone[:, 0], rtol=1e-5)
    assert paper.diverged(together, 2.0)[0].all()


def test_training_lowers_the_loss_and_seeds_differ():
    x = torch.rand(1, 64, generator=torch.manual_seed(1)).repeat(64, 1)
    losses = paper.train(x, [Arm(0.01, 0.9, 0.999, True)], steps=60, seeds=2, seed=0)
    assert (losses[-1] < 0.97 * losses[0]).all()
    assert losses[0, 0, 0] != losses[0, 0, 1]


def test_divergence_is_seen_anywhere_and_in_nan():
    losses = np.array([[1.0, 1.0, 1.0, 1.0], [0.5, 2.1, np.nan, 2.0], [0.4, 0.4, 0.3, 0.1]])
    assert paper.diverged(losses, 2.0).tolist() == [False, True, True, False]
    assert paper.last_loss(np.array([[1.0, np.nan], [3.0, np.nan]]), 2).tolist() == [3.0, np.inf]
    curve = np.arange(100.0)[:, None]
    assert paper.last_loss(curve, 50).tolist() == [np.arange(45, 50).mean()]
