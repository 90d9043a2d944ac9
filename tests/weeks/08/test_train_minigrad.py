"""minigrad's training against torch's, and what must hold of any training."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from week08.evidence.train_minigrad import (
    as_dtype,
    make_deep,
    naive_gradients,
    torch_twin,
    train_twins,
)
from week08.minigrad import DataLoader, Tensor, TensorDataset, nn, optim
from week08.minigrad import functional as F
from week08.train_minigrad import (
    Images,
    accuracy,
    as_images,
    learn,
    make_cnn,
    make_mlp,
    predict,
    train,
)


def images(n=60, side=6, seed=0, dtype=np.float32):
    """Bright left or right halves, or neither: three classes that can be told apart."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    pixels = rng.integers(0, 100, (n, side, side))
    pixels[labels == 1, :, : side // 2] += 150
    pixels[labels == 2, :, side // 2 :] += 150
    return as_images(pixels.astype(np.uint8), labels, dtype)


def small_mlp(side=6, seed=0):
    return make_mlp(side, width=8, classes=3, generator=np.random.default_rng(seed))


# ---- beside torch


@pytest.mark.parametrize("optimizer", ["SGD", "Adam"])
@pytest.mark.parametrize("make", [make_mlp, make_cnn])
def test_same_losses_gradients_and_weights_as_torch(make, optimizer):
    twins = train_twins(images(130, 8), make, optimizer, steps=9, dtype=np.float64, seed=1)
    assert len(twins.losses) == 9
    np.testing.assert_allclose(twins.losses, twins.losses_torch, atol=1e-10)
    np.testing.assert_allclose(twins.gradients, twins.gradients_torch, atol=1e-10)
    np.testing.assert_allclose(twins.weights, twins.weights_torch, atol=1e-9)
    assert np.ptp(twins.losses) > 0.01


@settings(max_examples=8)
@given(side=st.integers(4, 13), channels=st.integers(1, 3), n=st.integers(1, 4))
def test_networks_equal_torch_at_any_size(side, channels, n):
    rng = np.random.default_rng(side)
    model = as_dtype(make_cnn(side, channels=channels, generator=rng), np.float64)
    x = rng.normal(size=(n, 1, side, side))
    theirs = torch_twin(model)(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(model(Tensor(x)).detach().numpy(), theirs, atol=1e-12)


def test_first_steps_of_softmax_regression_by_hand():
    data = images(20, dtype=np.float64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3, generator=np.random.default_rng(0)))
    as_dtype(model, np.float64)
    w, b = (p.data.copy() for p in model.parameters())
    loader = DataLoader(TensorDataset(*data), batch_size=8)
    losses = train(model, optim.SGD(model.parameters(), lr=0.4), loader, epochs=2)
    x, onehot = data.x.numpy().reshape(20, -1), np.eye(3)[data.y.numpy()]
    expected = []
    for step in range(6):
        rows = slice(step % 3 * 8, step % 3 * 8 + 8)
        p = np.exp(x[rows] @ w.T + b)
        p /= p.sum(1, keepdims=True)
        expected.append(-np.log((p * onehot[rows]).sum(1)).mean())
        slope, lr = (p - onehot[rows]) / len(p), 0.4 * (1 - step / 6)
        w, b = w - lr * slope.T @ x[rows], b - lr * slope.sum(0)
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    np.testing.assert_allclose(model[1].weight.data, w, rtol=1e-12)


# ---- training


def test_it_trains_and_shuffled_labels_do_not():
    data, test = images(300), images(100, seed=1)
    options = {"epochs": 8, "batch_size": 20, "lr": 1e-2, "seed": 0}

    def make(side, *, generator):
        return make_mlp(side, width=8, classes=3, generator=generator)

    trained = learn(make, data, test, **options)
    assert trained.accuracies[-1] > 0.9
    assert np.mean(trained.losses[-15:]) < 0.3 * trained.losses[0]
    rng = np.random.default_rng(5)
    shuffled = Images(data.x, data.y[rng.permutation(300)])
    control = learn(make, shuffled, test, **options)
    assert control.accuracies[-1] < 0.6
    assert np.mean(control.losses[-15:]) > 0.8 * math.log(3)


def test_same_seed_same_run():
    runs = [
        learn(make_cnn, images(), images(), epochs=2, batch_size=16, lr=1e-2, seed=seed).losses
        for seed in (3, 3, 4)
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_learning_rate_falls_linearly_to_zero():
    model, data = small_mlp(), images(40)
    optimizer = optim.SGD(model.parameters(), lr=0.5)
    rates, update = [], optimizer.step

    def step():
        rates.append(optimizer.param_groups[0]["lr"])
        update()

    optimizer.step = step
    train(model, optimizer, DataLoader(TensorDataset(*data), batch_size=16), epochs=2)
    np.testing.assert_allclose(rates, 0.5 * (1 - np.arange(6) / 6))


def test_after_epoch_is_called_once_an_epoch_with_the_model_trained_so_far():
    model, data, seen = small_mlp(), images(40), []
    train(
        model,
        optim.SGD(model.parameters(), lr=0.5),
        DataLoader(TensorDataset(*data), batch_size=16),
        epochs=3,
        after_epoch=lambda epoch: seen.append((epoch, model[1].weight.data.copy())),
    )
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    assert not np.array_equal(seen[0][1], seen[1][1])


# ---- evaluation


@settings(max_examples=8)
@given(n=st.integers(1, 12), batch=st.integers(1, 14))
def test_prediction_does_not_depend_on_the_batches(n, batch):
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(36, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3)
    )
    data = images(n)
    p = predict(model, data.x, batch_size=batch)
    model.eval()
    np.testing.assert_allclose(p, F.softmax(model(data.x), dim=1).detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("training", [True, False])
def test_prediction_changes_nothing(training):
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3), nn.BatchNorm1d(3)).train(training)
    before = {name: t.numpy().copy() for name, t in model.state_dict().items()}
    predict(model, images(9).x)
    assert model.training is training
    for name, t in model.state_dict().items():
        np.testing.assert_array_equal(t.numpy(), before[name])


def test_accuracy_counts():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    model[1].weight.data[:] = [[0, 0, 0, 0], [1, 0, 0, 0]]
    model[1].bias.data[:] = [0.5, 0]
    x = np.zeros((3, 1, 2, 2), np.float32)
    x[1:, 0, 0, 0] = 1
    assert accuracy(model, Images(Tensor(x), Tensor(np.array([0, 1, 0])))) == pytest.approx(2 / 3)


def test_images_are_scaled_and_get_a_channel():
    pixels = np.array([[[0, 255], [51, 102]]], np.uint8)
    found = as_images(pixels, np.array([7], np.uint8))
    np.testing.assert_allclose(found.x.numpy(), [[[[0, 1], [0.2, 0.4]]]], rtol=1e-6)
    assert found.x.dtype == np.float32
    assert found.y.numpy().tolist() == [7]


# ---- the order of the backward pass


def test_naive_order_fails_where_paths_of_different_length_meet():
    a = Tensor(3.0, requires_grad=True)
    b = a * 2
    c = b + b * b  # dc/da = 2 + 8a = 26; the path over b * b arrives after b has passed on its 1
    c.backward(retain_graph=True)
    assert a.grad.item() == 26
    assert naive_gradients(c)[id(a)].item() != 26


def test_naive_order_is_right_in_a_chain():
    rng = np.random.default_rng(0)
    x, y = Tensor(rng.normal(size=(5, 64)).astype(np.float32)), Tensor(np.arange(5))
    for residual in (False, True):
        model = make_deep(8, residual=residual, rng=np.random.default_rng(1))
        naive = naive_gradients(F.cross_entropy(model(x), y))
        F.cross_entropy(model(x), y).backward()
        same = [np.allclose(naive[id(p)].data, p.grad.data, atol=1e-7) for p in model.parameters()]
        assert all(same) is not residual


# ---- wrong input


def test_wrong_input():
    model, data = small_mlp(), images(9)
    loader = DataLoader(TensorDataset(*data), batch_size=4)
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        train(model, optim.SGD(model.parameters(), lr=0.1), loader, epochs=0)
    with pytest.raises(ValueError, match="side must be at least 4, got 3"):
        make_cnn(3, generator=np.random.default_rng(0))
    with pytest.raises(ValueError, match="labels must be as many as images, 2, got 1"):
        as_images(np.zeros((2, 4, 4), np.uint8), np.zeros(1, np.int64))
    with pytest.raises(TypeError):
        predict(model, data.x[0])
    with pytest.raises(TypeError):
        as_images(np.zeros((2, 4, 5), np.uint8), np.zeros(2, np.int64))
