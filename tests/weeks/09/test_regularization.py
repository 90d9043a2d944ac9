"""Each ingredient against torch, forward and backward; stacked runs against runs alone."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from week09 import regularization as reg
from week09.stacked_mlp import Settings, StackedMLP, train_step

seeds = st.integers(0, 2**31)
sizes = st.integers(1, 6)


def normal(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=g, dtype=torch.float64)


def of(*values):
    return torch.tensor(values, dtype=torch.float64)


# ---- dropout


@given(runs=sizes, batch=sizes, width=sizes, p=st.floats(0, 0.95), seed=seeds)
def test_dropout_zeroes_or_scales(runs, batch, width, p, seed):
    x = normal(runs, batch, width, seed=seed)
    out = reg.dropout(x, of(*[p] * runs), torch.Generator().manual_seed(seed))
    kept = out != 0
    torch.testing.assert_close(out[kept], (x / (1 - p))[kept])
    if p == 0:
        assert kept.all()


def test_dropout_keeps_the_mean_and_drops_the_share_that_was_asked_for():
    x = torch.ones(2, 400, 500, dtype=torch.float64)
    out = reg.dropout(x, of(0.2, 0.5), torch.Generator().manual_seed(1))
    torch.testing.assert_close(out.mean((1, 2)), of(1.0, 1.0), atol=0.02, rtol=0)
    torch.testing.assert_close((out == 0).double().mean((1, 2)), of(0.2, 0.5), atol=0.01, rtol=0)
    theirs = F.dropout(x[1], 0.5)
    assert set(out[1].unique().tolist()) == set(theirs.unique().tolist()) == {0.0, 2.0}


# ---- normalization


@given(batch=st.integers(2, 8), width=sizes, momentum=st.floats(0.01, 1), seed=seeds)
def test_batch_norm_is_torchs(batch, width, momentum, seed):
    ours = reg.BatchNorm(1, width, momentum=momentum, dtype=torch.float64)
    theirs = nn.BatchNorm1d(width, momentum=momentum, dtype=torch.float64)
    for k in range(3):
        x = 3 * normal(batch, width, seed=seed + k) + 1
        torch.testing.assert_close(ours(x[None], training=True)[0], theirs(x))
    torch.testing.assert_close(ours.running_mean[0, 0], theirs.running_mean)
    torch.testing.assert_close(ours.running_var[0, 0], theirs.running_var)
    torch.testing.assert_close(ours(x[None], training=False)[0], theirs.eval()(x))


@given(batch=st.integers(2, 6), width=sizes, seed=seeds)
def test_batch_norm_gradients_are_torchs(batch, width, seed):
    x, probe = normal(1, batch, width, seed=seed), normal(1, batch, width, seed=seed + 1)
    z = x.clone().requires_grad_()
    ours = reg.BatchNorm(1, width, dtype=torch.float64)
    mine = torch.autograd.grad((ours(z, training=True) * probe).sum(), (z, ours.gain, ours.bias))
    theirs = nn.BatchNorm1d(width, dtype=torch.float64)
    out = theirs(z[0])
    reference = torch.autograd.grad((out * probe[0]).sum(), (z, theirs.weight, theirs.bias))
    for a, b in zip(mine, reference, strict=True):
        torch.testing.assert_close(a.flatten(), b.flatten(), atol=1e-7, rtol=1e-6)


@given(runs=sizes, batch=sizes, width=st.integers(2, 6), seed=seeds)
def test_layer_norm_is_torchs_forward_and_backward(runs, batch, width, seed):
    x, probe = normal(runs, batch, width, seed=seed), normal(runs, batch, width, seed=seed + 1)
    gain, bias = normal(1, 1, width, seed=seed + 2), normal(1, 1, width, seed=seed + 3)
    results = []
    for norm in (
        lambda x: reg.layer_norm(x, gain.expand(runs, 1, -1), bias.expand(runs, 1, -1)),
        lambda x: F.layer_norm(x, (width,), gain[0, 0], bias[0, 0]),
    ):
        z = x.clone().requires_grad_()
        out = norm(z)
        results.append((out, *torch.autograd.grad((out * probe).sum(), z)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("dim", [1, -1])
def test_normalize_gradcheck(dim):
    x = normal(2, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: reg._Normalize.apply(x, dim, 1e-5), x)


def test_runs_of_a_batch_norm_do_not_meet():
    x = normal(3, 5, 4)
    together, alone = (reg.BatchNorm(runs, 4, dtype=torch.float64) for runs in (3, 1))
    torch.testing.assert_close(together(x, training=True)[1:2], alone(x[1:2], training=True))
    torch.testing.assert_close(together.running_var[1:2], alone.running_var)


def test_batch_of_one_needs_running_statistics():
    norm = reg.BatchNorm(1, 3)
    x = torch.randn(1, 1, 3)
    with pytest.raises(ValueError, match=r"x must have at least 2 rows in training.*, got 1"):
        norm(x, training=True)
    before = norm.running_mean.clone(), norm.running_var.clone()
    assert not norm(x, training=True, update=False).any()  # whatever came in
    assert norm(x, training=False).any()
    assert torch.equal(before[0], norm.running_mean)
    assert torch.equal(before[1], norm.running_var)


# ---- labels, clipping, projection


@given(epsilon=st.floats(0, 1), n_classes=st.integers(2, 6), seed=seeds)
def test_smoothing_is_torchs(epsilon, n_classes, seed):
    y = torch.randint(n_classes, (1, 5), generator=torch.Generator().manual_seed(seed))
    logits = normal(5, n_classes, seed=seed)
    target = reg.smooth_labels(y, n_classes, of(epsilon))[0]
    torch.testing.assert_close(target.sum(-1), torch.ones(5, dtype=torch.float64))
    ours = -(target * logits.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(ours, F.cross_entropy(logits, y[0], label_smoothing=epsilon))


@given(limit=st.floats(1e-3, 50), seed=seeds)
def test_clipping_is_torchs(limit, seed):
    grads = [normal(1, 3, 4, seed=seed), 5 * normal(1, 6, seed=seed + 1)]
    pairs = {
        reg.clip_by_norm: nn.utils.clip_grad_norm_,
        reg.clip_by_value: nn.utils.clip_grad_value_,
    }
    for ours, theirs in pairs.items():
        params = [nn.Parameter(torch.zeros_like(g)) for g in grads]
        for param, grad in zip(params, grads, strict=True):
            param.grad = grad.clone()
        theirs(params, limit)
        for a, param in zip(ours(grads, of(limit)), params, strict=True):
            torch.testing.assert_close(a, param.grad)


def test_clipping_by_norm_is_joint_run_by_run_and_keeps_the_direction():
    grads = [of([3.0, 0.0], [0.3, 0.0]), of([[4.0]], [[0.4]])]  # norms 5 and 0.5
    clipped = reg.clip_by_norm(grads, of(1.0, 1.0))
    torch.testing.assert_close(clipped[0], of([0.6, 0.0], [0.3, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(clipped[1], of([[0.8]], [[0.4]]), atol=1e-5, rtol=0)
    turned = reg.clip_by_value(grads, of(1.0, 1.0))
    torch.testing.assert_close(turned[0][0], of(1.0, 0.0))
    torch.testing.assert_close(turned[1][0, 0], of(1.0))


@given(limit=st.floats(0.01, 5), fan_in=sizes, fan_out=sizes, seed=seeds)
def test_max_norm_is_torchs_renorm(limit, fan_in, fan_out, seed):
    weight = normal(2, fan_in, fan_out, seed=seed)
    ours = reg.max_norm(weight, of(limit, 100.0))
    theirs = torch.renorm(weight[0], 2, 1, limit)  # columns: each unit's incoming weights
    torch.testing.assert_close(ours[0], theirs, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ours[1], weight[1])


# ---- early stopping


@pytest.mark.parametrize(
    ("losses", "patience", "best"),
    [
        ([3.0, 2.0, 1.0], 1, 2),
        ([3.0, 2.0, 2.5, 1.0], 1, 1),  # stopped before the better one
        ([3.0, 2.0, 2.5, 1.0], 2, 3),
        ([1.0, 1.0, 1.0], 1, 0),  # a tie beats nothing
        ([1.0], 3, 0),
    ],
)
def test_early_stopping_by_hand(losses, patience, best):
    assert reg.early_stopping(np.array(losses), patience) == best


# ---- decay


@given(lr=st.floats(1e-4, 0.3), strength=st.floats(0, 1), decoupled=st.booleans())
def test_adam_step_is_torchs(lr, strength, decoupled):
    weight, state = normal(3, 4), {}
    param = nn.Parameter(weight.clone())
    make = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = make([param], lr=lr, weight_decay=strength)
    on, off = of(*[strength] * 3), of(0.0, 0.0, 0.0)
    for k in range(10):
        grad = normal(3, 4, seed=k + 1) + weight
        param.grad = grad.clone()
        optimizer.step()
        l2, decay = (off, on) if decoupled else (on, off)
        reg.adam_step(weight, grad, state, lr=of(*[lr] * 3), l2=l2, decay=decay)
        torch.testing.assert_close(weight, param.detach(), atol=1e-9, rtol=1e-9)


@given(lr=st.floats(1e-3, 0.5), strength=st.floats(0, 1), seed=seeds)
def test_penalty_is_decay_under_sgd_and_both_are_torchs(lr, strength, seed):
    weight, grad = normal(3, 4, seed=seed), normal(3, 4, seed=seed + 1)
    param = nn.Parameter(weight.clone())
    param.grad = grad.clone()
    torch.optim.SGD([param], lr=lr, weight_decay=strength).step()
    for kind in ("l2", "decay"):
        ours = reg.sgd_step(weight, grad, lr=lr, **{kind: strength})
        torch.testing.assert_close(ours, param.detach())


# ---- stacks


ALL = {"lr": 0.01, "l2": 0.01, "decay": 0.1, "smoothing": 0.1, "clip": 0.5, "max_norm": 1.0}


@pytest.mark.parametrize("norm", ["none", "batch", "layer"])
def test_a_run_in_a_stack_is_the_run_alone(norm):
    x, y = torch.randn(5, 3, 8, 6), torch.randint(4, (5, 3, 8))
    rows = [{"lr": 0.1}, ALL, {"lr": 0.03, "clip": 0.1}]
    stack, alone = StackedMLP((6, 7, 4), [0, 1, 2], norm), StackedMLP((6, 7, 4), [1], norm)
    states = [[{} for _ in model.parameters()] for model in (stack, alone)]
    g = torch.Generator()
    for k in range(5):
        a = train_step(stack, x[k], y[k], Settings.of(rows), states[0], g)[1:2]
        b = train_step(alone, x[k, 1:2], y[k, 1:2], Settings.of([ALL]), states[1], g)
        torch.testing.assert_close(a, b)
    for a, b in zip(stack.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(a[1:2], b, atol=1e-5, rtol=1e-4)


def test_only_weights_decay():
    model = StackedMLP((3, 4, 2), [0])
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(1.0)
    x, y = torch.zeros(1, 2, 3), torch.tensor([[0, 1]])  # no gradient reaches the hidden layer
    with torch.no_grad():
        model.biases[0].fill_(-1.0)
    settings = Settings.of([{"lr": 0.1, "decay": 1.0}])
    train_step(model, x, y, settings, [{} for _ in range(4)], torch.Generator())
    torch.testing.assert_close(model.weights[0], torch.full((1, 3, 4), 0.9))
    torch.testing.assert_close(model.biases[0], torch.full((1, 1, 4), -1.0))


def test_dropout_is_off_in_use_and_on_in_training():
    model = StackedMLP((5, 50, 3), [0, 1])
    x, p = torch.randn(2, 4, 5), torch.tensor([0.0, 0.5])
    used = model.forward(x, p=p)
    torch.testing.assert_close(used, model.forward(x))
    trained = model.forward(x, training=True, p=p, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(trained[0], used[0])
    assert not torch.allclose(trained[1], used[1])


def test_pick_copies_and_leaves_the_rest_alone():
    model = StackedMLP((5, 6, 3), [0, 1, 2], "batch")
    x = torch.randn(3, 8, 5)
    model.forward(x, training=True)
    picked = model.pick([2, 0])
    torch.testing.assert_close(picked.forward(x[[2, 0]]), model.forward(x)[[2, 0]])
    before = model.forward(x)
    picked.forward(x[[2, 0]] + 1, training=True)
    with torch.no_grad():
        picked.weights[0].zero_()
    assert torch.equal(before, model.forward(x))


# ---- wrong input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: reg.dropout(x, of(-0.1)), r"p must lie in \[0, 1\), got \[-0.1\]"),
        (lambda x: reg.dropout(x, of(1.0)), r"p must lie in \[0, 1\), got \[1.0\]"),
        (lambda x: reg.dropout(x, of(float("nan"))), r"p must lie in \[0, 1\), got \[nan\]"),
        (lambda x: reg.BatchNorm(1, 2, momentum=0), r"momentum must lie in \(0, 1\], got 0"),
        (lambda x: reg.clip_by_norm([x], of(0.0)), r"must be positive, got \[0\.0\]"),
        (lambda x: reg.clip_by_value([x], of(0.0)), r"must be positive, got \[0\.0\]"),
        (lambda x: reg.max_norm(x, of(0.0)), r"must be positive, got \[0\.0\]"),
        (
            lambda x: reg.smooth_labels(torch.zeros(1, 2).long(), 3, of(1.5)),
            r"epsilon must lie in \[0, 1\], got \[1\.5\]",
        ),
        (lambda x: reg.early_stopping(np.ones(3), 0), "patience must be at least 1, got 0"),
        (lambda x: reg.early_stopping(np.ones(0), 1), "losses must not be empty"),
        (lambda x: StackedMLP((3, 2), [0], "group"), "none, batch or layer, got 'group'"),
        (lambda x: StackedMLP((3,), [0]), "sizes must hold at least 2 widths"),
        (lambda x: Settings.of([{"drop": 0.5}]), r"rows must name only .*, got \['drop'\]"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(normal(1, 2, 3))
