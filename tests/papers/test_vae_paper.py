"""Wake-sleep trains each network by its own loss; the judge counts steps as it says."""

import numpy as np
import torch
from test_scripts import load

from shared import records
from week22.vae import VAE

paper = load(records.ROOT / "papers/2013-auto-encoding-variational-bayes/reproduce.py")


def parts(loss_of) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of encoder and decoder."""
    g = torch.Generator().manual_seed(0)
    model = VAE(6, 2, g, width=5, likelihood="bernoulli")
    x = (torch.rand(4, 6, generator=g) < 0.5).float()
    noise = torch.randn(1, 4, 2, generator=g)
    loss_of(model, x, noise, torch.Generator().manual_seed(1)).backward()
    sides = model.encoder, model.decoder
    return tuple(torch.cat([p.grad.ravel() for p in side.parameters()]) for side in sides)


def test_methods_share_the_decoders_gradient_only():
    """At the same noise the wake phase is the reconstruction; the sleep phase is something else."""
    aevb, wake_sleep = parts(paper.aevb), parts(paper.wake_sleep)
    torch.testing.assert_close(aevb[1], wake_sleep[1])
    assert not torch.allclose(aevb[0], wake_sleep[0], atol=1e-2)


def test_without_kl_only_the_encoder_differs():
    aevb, free = parts(paper.aevb), parts(paper.without_kl)
    torch.testing.assert_close(aevb[1], free[1])
    assert not torch.allclose(aevb[0], free[0], atol=1e-2)


def test_share_of_steps_is_the_first_look_past_the_goal():
    bounds = np.array([-9.0, -7.0, -5.0, -6.0, -4.0])
    assert paper.share_of_steps(bounds, -6.5) == 0.5
    assert paper.share_of_steps(bounds, -3.0) == 2.0
    assert paper.share_of_steps(bounds, -9.5) == 0.0


def test_held_out_pictures_are_not_trained_on():
    train, test = paper.load()
    assert train.shape == (1437, 64)
    assert test.shape == (360, 64)
    assert set(train.unique().tolist()) == {0.0, 1.0}
