"""Week 08: optimizers of minigrad take torch's steps; loaders deal every example once."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from week08.minigrad import DataLoader, Tensor, TensorDataset, optim

SETTINGS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("Adam", {}),
    ("Adam", {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.1, "weight_decay": 0.5}),
    ("AdamW", {"lr": 0.1, "betas": (0.0, 0.0)}),
]


def valley(xs):
    """A narrow valley with a bend, on two parameters; the second is left out now and then."""
    a, b = xs
    return 0.1 * ((a - b.sum()) ** 2).sum() + (b * b - a[:1]).tanh().sum()


@pytest.mark.parametrize(("name", "options"), SETTINGS)
def test_trajectory_is_torchs(name, options):
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=3), rng.normal(size=(2, 3))
    ours = [Tensor(a, requires_grad=True) for a in arrays]
    theirs = [torch.tensor(a, requires_grad=True) for a in arrays]
    a, b = getattr(optim, name)(ours, **options), getattr(torch.optim, name)(theirs, **options)
    for step in range(12):
        for optimizer, xs in ((a, ours), (b, theirs)):
            optimizer.zero_grad()
            loss = valley(xs)
            loss.backward()
            if step % 7 == 3:
                xs[1].grad = None  # a parameter without a gradient stays, and so does its state
            optimizer.param_groups[0]["lr"] *= 0.98
            optimizer.step()
        for x, t in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(x.data, t.detach().numpy(), rtol=1e-12, atol=1e-12)
    assert all(x.is_leaf and x.requires_grad for x in ours)


def test_groups_have_their_own_options():
    a, b = (Tensor(np.ones(2), requires_grad=True) for _ in range(2))
    optimizer = optim.SGD([{"params": [a]}, {"params": [b], "lr": 0.5}], lr=0.1)
    (a * b).sum().backward()
    optimizer.step()
    assert (a.tolist(), b.tolist()) == ([0.9] * 2, [0.5] * 2)


def test_step_keeps_float32_and_is_noticed_by_the_graph():
    w = Tensor([1.0, 2.0], requires_grad=True)
    loss = (w * w).sum()
    w.grad = Tensor([1.0, 1.0])
    optim.Adam([w]).step()
    assert w.dtype == np.float32
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


ROWS = TensorDataset(Tensor(np.zeros(4)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: optim.SGD([]), "at least one tensor"),
        (lambda p: optim.SGD([p * 2]), "must be leaf tensors"),
        (lambda p: optim.SGD([p], lr=-1.0), "lr must not be negative, got -1"),
        (lambda p: optim.SGD([p], nesterov=True), "nesterov needs momentum"),
        (lambda p: optim.Adam([p], betas=(0.9, 1.0)), r"betas must be in \[0, 1\)"),
        (lambda p: optim.AdamW([p], eps=float("nan")), "eps must not be negative"),
        (lambda p: TensorDataset(p, Tensor(np.zeros(3))), "equal length"),
        (lambda p: DataLoader(ROWS, 0), "batch_size must be at least 1, got 0"),
        (lambda p: DataLoader(ROWS, 2, shuffle=True), "generator must be given to shuffle"),
    ],
)
def test_wrong_options(make, message):
    with pytest.raises(ValueError, match=message):
        make(Tensor([1.0], requires_grad=True))


# ---- loaders


@given(
    n=st.integers(0, 30),
    batch_size=st.integers(1, 12),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_an_epoch_deals_every_example_once(n, batch_size, shuffle, drop_last, seed):
    data = TensorDataset(Tensor(np.arange(n)), Tensor(np.arange(n) * 2.0))
    loader = DataLoader(data, batch_size, shuffle, drop_last, generator=np.random.default_rng(seed))
    reference = torch.utils.data.DataLoader(range(n), batch_size, drop_last=drop_last)
    batches = list(loader)
    assert len(batches) == len(loader) == len(reference)
    assert [len(x) for x, _ in batches] == [len(x) for x in reference]
    dealt = [i for x, _ in batches for i in x.tolist()]
    assert len(set(dealt)) == len(dealt)
    if not drop_last:
        assert sorted(dealt) == list(range(n))
    if not shuffle:
        assert dealt == list(range(len(dealt)))
    assert all((x * 2).tolist() == y.tolist() for x, y in batches)


def test_orders_are_new_each_epoch_and_repeat_with_the_seed():
    def epochs(seed):
        generator = np.random.default_rng(seed)
        loader = DataLoader(TensorDataset(Tensor(np.arange(50))), 7, True, generator=generator)
        return [[x.tolist() for (x,) in loader] for _ in range(2)]

    first, second = epochs(3)
    assert first != second
    assert epochs(3) == [first, second]
    assert epochs(4) != [first, second]


def test_batches_are_copies():
    data = TensorDataset(Tensor(np.zeros(4)))
    for (x,) in DataLoader(data, 2):
        x.add_(1)
    assert data.tensors[0].tolist() == [0, 0, 0, 0]
