"""The same expressions in minigrad and in torch, for the tests of week 08."""

import numpy as np
import torch

from week08 import minigrad
from week08.minigrad import Tensor, grad


def both(*shapes, seed=0, scale=1.0, shift=0.0):
    """The same random leaves as tensors of minigrad and of torch, in float64."""
    rng = np.random.default_rng(seed)
    arrays = [scale * rng.normal(size=shape) + shift for shape in shapes]
    ours = [Tensor(a, requires_grad=True) for a in arrays]
    return ours, [torch.tensor(a, requires_grad=True) for a in arrays]


def close(ours, theirs, tol=1e-10):
    theirs = theirs.detach().numpy()
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours.data, theirs, rtol=tol, atol=tol)


def gradients_agree(expression, ours, theirs, tol=1e-10):
    """Values, gradients and the gradients of a function of the gradients, against torch."""
    a, b = expression(minigrad, *ours), expression(torch, *theirs)
    close(a, b, tol)
    start = np.random.default_rng(1).normal(size=a.shape)
    first = grad(a, ours, Tensor(start), create_graph=True, allow_unused=True)
    options = {"create_graph": True, "allow_unused": True}
    first_torch = torch.autograd.grad(b, theirs, torch.tensor(start), **options)
    assert [g is None for g in first] == [g is None for g in first_torch]
    pairs = [(g, t) for g, t in zip(first, first_torch, strict=True) if g is not None]
    for g, t in pairs:
        close(g, t, tol)
    pairs = [(g, t) for g, t in pairs if t.requires_grad]
    if not pairs:
        return
    total = sum((g * g * g.sin()).sum() for g, _ in pairs)
    total_torch = sum((t * t * t.sin()).sum() for _, t in pairs)
    options = {"allow_unused": True}
    second = grad(total, ours, **options) if total.requires_grad else [None] * len(ours)
    for g, t in zip(second, torch.autograd.grad(total_torch, theirs, **options), strict=True):
        if t is None or g is None:  # a derivative that is 0 everywhere may be absent
            assert g is None or not g.data.any()
            assert t is None or not t.numpy(force=True).any()
        else:
            close(g, t, 100 * tol)
