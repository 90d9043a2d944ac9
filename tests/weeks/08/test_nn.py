"""Week 08: functions and layers of minigrad against torch, with the same weights."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from enforce import plain
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from minigrad_twins import both, close, gradients_agree

from week08.minigrad import Tensor, nn
from week08.minigrad import functional as F

PLAIN = plain("08", "minigrad/functional")


def twice(function, *shapes, **options):
    """A function of both libraries, first and second derivatives compared in float64."""

    def expression(module, *tensors):
        return function(TF if module is torch else F, *tensors)

    gradients_agree(expression, *both(*shapes), **options)


def load_from(ours, theirs):
    """Give our module torch's weights, in torch's precision."""
    for name, parameter in ours.named_parameters():
        parameter.data = parameter.data.astype(np.float64)
        assert parameter.shape == tuple(theirs.state_dict()[name].shape)
    for _, buffer in ours.named_buffers():
        if buffer.dtype.kind == "f":
            buffer.data = buffer.data.astype(np.float64)
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())


def layers_agree(ours, theirs, shape, passes=2):
    """Outputs, all gradients, and afterwards the whole state, in training and in evaluation."""
    theirs = theirs.double()
    load_from(ours, theirs)
    for training in (True, False):
        ours.train(training)
        theirs.train(training)
        for seed in range(passes):
            (x,), (t,) = both(shape, seed=seed, shift=0.5)
            y, u = ours(x), theirs(t)
            close(y, u)
            start = np.random.default_rng(1).normal(size=y.shape)
            ours.zero_grad()
            theirs.zero_grad()
            y.backward(Tensor(start))
            u.backward(torch.tensor(start))
            close(x.grad, t.grad)
            for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
                assert p.grad is not None, name
                close(p.grad, q.grad)
    for name, value in theirs.state_dict().items():
        close(ours.state_dict()[name], value)


# ---- functions


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: m.relu(x) + m.tanh(x) * m.sigmoid(x),
        lambda m, x: m.gelu(x),
        lambda m, x: m.softmax(x, 1) * m.log_softmax(x, 0),
    ],
)
def test_function_equals_torch(function):
    twice(function, (4, 5))


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4), (0, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_equals_torch(shape, bias):
    twice(lambda m, x, w, *b: m.linear(x, w, *b), shape, (5, 4), *[(5,)] * bias)


def test_losses_equal_torch():
    twice(lambda m, x, y: m.mse_loss(x, y), (3, 4), (3, 4))
    image = [[[0, 1], [2, 2]], [[1, 1], [0, 2]]]
    for labels, shape in (([2, 3, 0, 4], (4, 5)), (image, (2, 3, 2, 2))):
        ours, theirs = Tensor(labels), torch.tensor(labels)
        twice(lambda m, x, y=ours, t=theirs: m.cross_entropy(x, y if m is F else t), shape)


@given(
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    bias=st.booleans(),
)
@settings(max_examples=25)
def test_conv2d_equals_torch(size, kernel, stride, padding, channels, bias):
    assume(all(n + 2 * p >= k for n, p, k in zip(size, padding, kernel, strict=True)))
    twice(
        lambda m, x, w, *b: m.conv2d(x, w, *b, stride=stride, padding=padding),
        (2, channels[0], *size),
        (channels[1], channels[0], *kernel),
        *[(channels[1],)] * bias,
    )


@given(
    size=st.tuples(st.integers(2, 7), st.integers(2, 7)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.none() | st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_pooling_equals_torch(size, kernel, stride):
    if all(n >= k for n, k in zip(size, kernel, strict=True)):
        twice(lambda m, x: m.max_pool2d(x, kernel, stride), (2, 3, *size))


def test_many_images_and_none():
    for n in (0, 40):  # 40: several parts
        twice(lambda m, x, w, b: m.conv2d(x, w, b), (n, 8, 12, 12), (4, 8, 3, 3), (4,), tol=1e-9)


def test_max_pool_of_equal_numbers():
    x, t = Tensor(np.ones((1, 1, 4, 4)), requires_grad=True), torch.ones(1, 1, 4, 4).double()
    t.requires_grad_()
    F.max_pool2d(x, 2, 1).sum().backward()
    TF.max_pool2d(t, 2, 1).sum().backward()
    close(x.grad, t.grad)


def test_embedding_collects_repeated_rows():
    index = np.array([[3, 0, 3], [3, 1, 1]])
    ours, theirs = nn.Embedding(5, 4), torch.nn.Embedding(5, 4).double()
    load_from(ours, theirs)
    y, u = ours(Tensor(index)), theirs(torch.tensor(index))
    close(y, u)
    (y**3).sum().backward()
    (u**3).sum().backward()
    close(ours.weight.grad, theirs.weight.grad)


def test_dropout():
    x = Tensor(np.ones((400, 50)), requires_grad=True)
    y = F.dropout(x, 0.2, generator=np.random.default_rng(0))
    y.sum().backward()
    assert set(np.unique(y.data)) == {0.0, 1.25}
    assert abs(y.mean().item() - 1) < 5 * math.sqrt(0.25 / 20_000)
    np.testing.assert_array_equal(x.grad.data, y.data)
    again = F.dropout(x, 0.2, generator=np.random.default_rng(0))
    np.testing.assert_array_equal(again.data, y.data)
    assert F.dropout(x, 0.2, training=False) is x


# ---- layers


def test_convolution_layers():
    options = {"stride": 2, "padding": (1, 0)}
    layers_agree(
        nn.Conv2d(2, 3, (3, 2), **options), torch.nn.Conv2d(2, 3, (3, 2), **options), (4, 2, 7, 6)
    )
    layers_agree(nn.MaxPool2d(3, 2), torch.nn.MaxPool2d(3, 2), (4, 2, 7, 6))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("BatchNorm1d", (6, 4)), ("BatchNorm1d", (3, 4, 5)), ("BatchNorm2d", (3, 4, 2, 5))],
)
@pytest.mark.parametrize("momentum", [0.1, 0.5])
def test_batch_norm_layer(name, shape, momentum):
    ours, theirs = (getattr(m, name)(4, momentum=momentum) for m in (nn, torch.nn))
    layers_agree(ours, theirs, shape, passes=3)


@pytest.mark.parametrize("shape", [4, (3, 4)])
def test_layer_norm_layer(shape):
    layers_agree(nn.LayerNorm(shape), torch.nn.LayerNorm(shape), (2, 3, 4))


def network(layers, **options):
    return layers.Sequential(
        layers.Conv2d(1, 4, 3, padding=1, **options),
        layers.BatchNorm2d(4),
        layers.ReLU(),
        layers.MaxPool2d(2),
        layers.Sequential(layers.Flatten(), layers.Linear(36, 8, **options), layers.ReLU()),
        layers.Linear(8, 3, **options),
    )


def test_network():
    layers_agree(network(nn), network(torch.nn), (5, 1, 6, 6))


def test_dropout_layer_and_modes():
    model = nn.Sequential(nn.Dropout(0.5, generator=np.random.default_rng(0)), nn.ReLU())
    x = Tensor(np.ones((10, 10)))
    assert 0 in model(x).data
    assert model.eval() is model
    assert not model[0].training
    np.testing.assert_array_equal(model(x).data, x.data)
    assert model.train()[0].training


# ---- initial values


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda: nn.Linear(64, 300), lambda: torch.nn.Linear(64, 300)),
        (lambda: nn.Conv2d(4, 150, (3, 5)), lambda: torch.nn.Conv2d(4, 150, (3, 5))),
        (lambda: nn.Embedding(100, 100), lambda: torch.nn.Embedding(100, 100)),
    ],
)
def test_initial_values_are_torchs_in_distribution(ours, theirs):
    torch.manual_seed(0)
    theirs = theirs()
    for name, value in ours().state_dict().items():
        reference = theirs.state_dict()[name].numpy()
        assert value.dtype == np.float32
        quantiles = np.linspace(0.1, 0.9, 9)
        difference = np.quantile(value.data, quantiles) - np.quantile(reference, quantiles)
        tolerance = 4.5 * 2 * reference.std() / math.sqrt(reference.size) * 1.5
        assert np.abs(difference).max() < tolerance
        if reference.min() > -0.5:  # uniform: the ends tell the bound
            assert abs(np.abs(value.data).max() / np.abs(reference).max() - 1) < 0.05


def test_the_same_generator_gives_the_same_values():
    a, b = (nn.Linear(3, 2, generator=np.random.default_rng(5)) for _ in range(2))
    assert a.weight.tolist() == b.weight.tolist()
    assert nn.Linear(3, 2).weight.tolist() != nn.Linear(3, 2).weight.tolist()


# ---- modules


def test_weights_go_to_torch_and_back():
    ours, theirs = network(nn), network(torch.nn)
    state = {name: torch.tensor(value.numpy()) for name, value in ours.state_dict().items()}
    theirs.load_state_dict(state)
    other = network(nn)
    other.load_state_dict(theirs.state_dict())
    for name, value in other.state_dict().items():
        assert value.tolist() == ours.state_dict()[name].tolist()
        assert value.dtype == ours.state_dict()[name].dtype


def test_load_state_dict_refuses_and_loads_nothing():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    before = model[0].weight.tolist()
    good = {"0.weight": np.ones((3, 2)), "0.bias": np.ones(3)}
    with pytest.raises(ValueError, match=r"0.bias must have shape \(3,\), got \(4,\)"):
        model.load_state_dict({"0.weight": np.ones((3, 2)), "0.bias": np.ones(4)})
    with pytest.raises(ValueError, match=r"missing or unknown names: \['0.bias', '1.scale'\]"):
        model.load_state_dict({"0.weight": good["0.weight"], "1.scale": np.ones(1)})
    assert model[0].weight.tolist() == before
    model.load_state_dict(good)
    assert model[0].weight.requires_grad
    assert model[0].weight.is_leaf


def test_parameters_shared_and_frozen():
    class Tied(nn.Module):
        def __init__(self):
            self.a = nn.Linear(3, 3, bias=False)
            self.b = nn.Linear(3, 3)
            self.b.weight = self.a.weight
            self.scale = nn.Parameter(1.0)
            self.mask = nn.Buffer([True, False])
            self.constant = Tensor([1.0])

    model = Tied()
    assert [n for n, _ in model.named_parameters()] == ["scale", "a.weight", "b.bias"]
    assert list(model.state_dict()) == ["scale", "mask", "a.weight", "b.weight", "b.bias"]
    assert [n for n, _ in model.named_buffers()] == ["mask"]
    with pytest.raises(NotImplementedError, match="Tied defines no forward"):
        model(1)


def x(*shape):
    return Tensor(np.ones(shape, np.float32))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        *[
            (lambda a=a: F.linear(*a), ValueError, match)
            for a, match in (
                ((x(2, 3), x(2, 4)), r"weight must be .* in_features = 3\), got float32 of shape"),
                ((x(2, 3), x(2, 3), x(2, 1)), r"bias must be floats of shape \(out_features = 2\)"),
                ((x(2, 3), x(2, 3), x(1)), r"bias must be floats of shape \(out_features = 2\)"),
            )
        ],
        (lambda: nn.Embedding(3, 2)(Tensor([-1, 0])), IndexError, r"in \[0, 3\), got -1 to 0"),
        (lambda: F.embedding(Tensor([3]), x(3, 2)), IndexError, r"in \[0, 3\), got 3 to 3"),
        (lambda: PLAIN.mse_loss(x(3, 1), x(3)), ValueError, r"shape \(3, 1\), got \(3,\)"),
        (
            lambda: F.conv2d(x(1, 1, 2, 2), Tensor(np.ones((1, 1, 2, 2)))),
            RuntimeError,
            "x and weight must have one dtype, got float32 and float64",
        ),
        (
            lambda: PLAIN.cross_entropy(x(2, 3), Tensor([0, 1, 2])),
            ValueError,
            r"target of shape \(2,\), got \(2, 3\) and \(3,\)",
        ),
        (lambda: F.cross_entropy(x(2, 3), Tensor([0, 3])), IndexError, r"must be in \[0, 3\)"),
        (lambda: F.cross_entropy(x(2, 3), Tensor([0, -1])), IndexError, r"must be in \[0, 3\)"),
        (lambda: F.conv2d(x(1, 2, 4, 4), x(1, 3, 2, 2)), ValueError, "channels = 2, kernel_height"),
        (lambda: F.conv2d(x(2, 4), x(1, 3, 2, 2)), ValueError, r"x must be .*\(batch, channels, h"),
        (
            lambda: PLAIN.mse_loss(x(2, 3), x(3, 2)),
            ValueError,
            "target must have the input's shape",
        ),
        (
            lambda: F.conv2d(x(1, 2, 4, 4), x(1, 2, 2, 2), stride=0),
            ValueError,
            "stride must be an int or a pair, at least 1, got 0",
        ),
        (lambda: F.max_pool2d(x(1, 2, 4, 4), 5), ValueError, "must fit into the padded input"),
        (lambda: nn.LayerNorm(4)(x(2, 3)), ValueError, "x must end in"),
        (lambda: nn.Dropout(-0.1)(x(2)), ValueError, "p must be at least 0 and less than 1, got"),
        (lambda: F.dropout(x(2)), ValueError, "generator must be given"),
        (lambda: nn.BatchNorm1d(3)(x(1, 3)), ValueError, "more than 1 value per channel"),
        (lambda: nn.BatchNorm1d(3)(x(2, 4)), ValueError, "dimensions, 3 features, got"),
    ],
)
def test_wrong_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
