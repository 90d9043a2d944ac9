"""minigrad's training step by step, and what must hold of any training."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from week08.evidence.train_minigrad import as_float64, naive_gradients, torch_twin
from week08.minigrad import DataLoader, Tensor, TensorDataset, nn, optim
from week08.minigrad import functional as F
from week08.train_minigrad import as_images, learn, make_cnn, make_mlp, predict, train


def images(n=60, side=6, dtype=np.float32):
    rng = np.random.default_rng(0)
    return as_images(
        rng.integers(0, 256, (n, side, side)).astype(np.uint8), rng.integers(0, 3, n), dtype
    )


def small_mlp():
    return make_mlp(6, width=8, classes=3, generator=np.random.default_rng(0))


@settings(max_examples=8)
@given(side=st.integers(4, 13), channels=st.integers(1, 3), n=st.integers(1, 4))
def test_networks_equal_torch_at_any_size(side, channels, n):
    rng = np.random.default_rng(side)
    model = as_float64(make_cnn(side, channels=channels, generator=rng))
    x = rng.normal(size=(n, 1, side, side))
    theirs = torch_twin(model)(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(model(Tensor(x)).detach().numpy(), theirs, atol=1e-12)


def test_first_steps_of_softmax_regression_by_hand():
    data = images(20, dtype=np.float64)
    layer = nn.Linear(36, 3, generator=np.random.default_rng(0))
    model = as_float64(nn.Sequential(nn.Flatten(), layer))
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


def test_same_seed_same_run():
    options = {"epochs": 2, "batch_size": 16, "lr": 1e-2}
    runs = [learn(make_cnn, images(), **options, seed=seed)[1] for seed in (3, 3, 4)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@settings(max_examples=8)
@given(n=st.integers(1, 12), batch=st.integers(1, 14), training=st.booleans())
def test_prediction_does_not_depend_on_the_batches_and_changes_nothing(n, batch, training):
    layers = nn.Flatten(), nn.Linear(36, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 3)
    model, data = nn.Sequential(*layers).train(training), images(n)
    before = {name: t.numpy().copy() for name, t in model.state_dict().items()}
    p = predict(model, data.x, batch_size=batch)
    assert model.training is training
    for name, t in model.state_dict().items():
        np.testing.assert_array_equal(t.numpy(), before[name])
    expected = F.softmax(model.eval()(data.x), dim=1).detach().numpy()
    np.testing.assert_allclose(p, expected, atol=1e-6)


def test_images_are_scaled_and_get_a_channel():
    pixels = np.array([[[0, 255], [51, 102]]], np.uint8)
    found = as_images(pixels, np.array([7], np.uint8))
    np.testing.assert_allclose(found.x.numpy(), [[[[0, 1], [0.2, 0.4]]]], rtol=1e-6)
    assert found.x.dtype == np.float32
    assert found.y.numpy().tolist() == [7]


def test_naive_order_fails_where_paths_of_different_length_meet():
    a = Tensor(3.0, requires_grad=True)
    b = a * 2
    c = b + b * b  # dc/da = 2 + 8a = 26; the path over b * b arrives after b has passed on its 1
    c.backward(retain_graph=True)
    assert a.grad.item() == 26
    assert naive_gradients(c)[id(a)].item() != 26


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda m: train(m, optim.SGD(m.parameters()), DataLoader([]), epochs=0),
            "epochs must be at least 1, got 0",
        ),
        (lambda m: make_cnn(3, generator=np.random.default_rng()), "side must be at least 4, got"),
        (
            lambda m: as_images(np.zeros((2, 4, 4), np.uint8), np.zeros(1, np.int64)),
            "labels must be as many as images, 2, got 1",
        ),
    ],
)
def test_wrong_input(call, match):
    with pytest.raises(ValueError, match=match):
        call(small_mlp())
