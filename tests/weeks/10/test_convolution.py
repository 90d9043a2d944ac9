"""Convolution and pooling against torch over all their options, in float64, with all gradients."""

import numpy as np
import pytest
import torch
from enforce import plain
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from week10.convolution import (
    conv2d,
    conv2d_backward,
    conv2d_fft,
    conv2d_loops,
    output_size,
    receptive_field,
)
from week10.pooling import avg_pool2d, avg_pool2d_backward, max_pool2d, max_pool2d_backward
from week10.transposed import conv_transpose2d, conv_transpose2d_backward

TIGHT = {"rtol": 1e-9, "atol": 1e-9}


def pairs(least, most):
    number = st.integers(least, most)
    return number | st.tuples(number, number)


def both(value):
    return (value, value) if isinstance(value, int) else value


def with_gradients(function, inputs, g, **options):
    """Torch's output and the gradients of its inputs."""
    tensors = [torch.tensor(a, requires_grad=True) for a in inputs]
    y = function(*tensors, **options)
    return y.detach().numpy(), [t.numpy() for t in torch.autograd.grad(y, tensors, g(y.shape))]


def upstream(rng, into):
    def draw(shape):
        into.append(rng.normal(size=tuple(shape)))
        return torch.tensor(into[-1])

    return draw


def same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, **TIGHT)


sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
kernels = st.tuples(st.integers(1, 4), st.integers(1, 3))
few = st.integers(1, 3)
seeds = st.integers(0, 99)


@settings(max_examples=120)
@given(
    n=few,
    some=few,
    per_group=few,
    groups=few,
    size=sizes,
    kernel=kernels,
    stride=pairs(1, 3),
    padding=pairs(0, 3),
    dilation=pairs(1, 3),
    seed=seeds,
)
def test_conv2d(n, some, per_group, groups, size, kernel, stride, padding, dilation, seed):
    axes = zip(size, kernel, both(padding), both(dilation), strict=True)
    assume(all(d * (k - 1) + 1 <= h + 2 * p for h, k, p, d in axes))
    rng, g = np.random.default_rng(seed), []
    x = rng.normal(size=(n, some * groups, *size))
    w, b = rng.normal(size=(per_group * groups, some, *kernel)), rng.normal(size=per_group * groups)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    y, gradients = with_gradients(F.conv2d, (x, w, b), upstream(rng, g), **options)
    same([conv2d(x, w, b, **options)], [y])
    same(conv2d_backward(g[0], x, w, **options), gradients)
    if seed % 10 == 0:  # the loops are slow
        same([conv2d_loops(x, w, b, **options)], [y])


@settings(max_examples=120)
@given(
    n=few,
    inputs=few,
    some=few,
    groups=few,
    size=sizes,
    kernel=kernels,
    stride=pairs(1, 3),
    padding=pairs(0, 2),
    more=pairs(0, 2),
    dilation=pairs(1, 3),
    seed=seeds,
)
def test_conv_transpose2d(
    n, inputs, some, groups, size, kernel, stride, padding, more, dilation, seed
):
    options = {name: both(v) for name, v in (("stride", stride), ("dilation", dilation))}
    axes = zip(size, kernel, *options.values(), both(padding), both(more), strict=True)
    for h, k, s, d, p, m in axes:
        assume(m < max(s, d) and (h - 1) * s - 2 * p + d * (k - 1) + 1 + m >= 1)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    rng, g = np.random.default_rng(seed), []
    x = rng.normal(size=(n, inputs * groups, *size))
    w, b = rng.normal(size=(inputs * groups, some, *kernel)), rng.normal(size=some * groups)
    all_options = options | {"output_padding": more}
    y, gradients = with_gradients(F.conv_transpose2d, (x, w, b), upstream(rng, g), **all_options)
    same([conv_transpose2d(x, w, b, **all_options)], [y])
    same(conv_transpose2d_backward(g[0], x, w, **options), gradients)


def pooled(size, kernel, padding, dilation):
    """Whether torch takes these sizes too."""
    axes = zip(both(size), both(kernel), both(padding), both(dilation), strict=True)
    return all(2 * p <= k and d * (k - 1) + 1 <= h + 2 * p for h, k, p, d in axes)


@settings(max_examples=120)
@given(
    size=sizes,
    kernel=pairs(1, 4),
    stride=st.none() | pairs(1, 3),
    padding=pairs(0, 2),
    dilation=pairs(1, 2),
    ceil_mode=st.booleans(),
    ties=st.booleans(),
    seed=seeds,
)
def test_max_pool2d(size, kernel, stride, padding, dilation, ceil_mode, ties, seed):
    assume(pooled(size, kernel, padding, dilation))
    rng, g = np.random.default_rng(seed), []
    x = rng.normal(size=(2, 3, *size))
    x = np.round(x) if ties else x
    options = {"stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
    assume(np.isfinite(max_pool2d(x, kernel, **options)).all())  # torch crashes without a pixel
    y, gradients = with_gradients(
        lambda t: F.max_pool2d(t, kernel, **options), (x,), upstream(rng, g)
    )
    same([max_pool2d(x, kernel, **options)], [y])
    same([max_pool2d_backward(g[0], x, kernel, **options)], gradients)


@settings(max_examples=120)
@given(
    size=sizes,
    kernel=pairs(1, 4),
    stride=st.none() | pairs(1, 3),
    padding=pairs(0, 2),
    ceil_mode=st.booleans(),
    count=st.booleans(),
    seed=seeds,
)
def test_avg_pool2d(size, kernel, stride, padding, ceil_mode, count, seed):
    assume(pooled(size, kernel, padding, 1))
    rng, g = np.random.default_rng(seed), []
    x = rng.normal(size=(2, 3, *size))
    options = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    options["count_include_pad"] = count
    y, gradients = with_gradients(
        lambda t: F.avg_pool2d(t, kernel, **options), (x,), upstream(rng, g)
    )
    same([avg_pool2d(x, kernel, **options)], [y])
    same([avg_pool2d_backward(g[0], x, kernel, **options)], gradients)


@given(size=sizes, kernel=kernels, seed=seeds)
def test_fft_equals_the_sum(size, kernel, seed):
    assume(all(k <= h for h, k in zip(size, kernel, strict=True)))
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=size), rng.normal(size=kernel)
    same([conv2d_fft(x, w)], [conv2d(x[None, None], w[None, None])[0, 0]])


def test_the_maximum_of_equals_keeps_the_sum_of_the_gradient():
    x, g = np.ones((1, 1, 5, 5)), np.arange(9.0).reshape(1, 1, 3, 3)
    back = max_pool2d_backward(g, x, 3, stride=1)
    assert back.sum() == g.sum()
    assert (back[0, 0, :3, :3] == g[0, 0]).all()  # the first of equals, and overlaps add up


def test_a_nan_is_not_lost():
    x = np.ones((1, 1, 2, 4))
    x[0, 0, 1, 1] = np.nan
    assert np.isnan(max_pool2d(x, 2)).tolist() == [[[[True, False]]]]


@given(layers=st.lists(st.tuples(st.integers(1, 4), few, few), min_size=1, max_size=4), seed=seeds)
def test_receptive_field_is_where_the_gradient_is_not_zero(layers, seed):
    rng, size = np.random.default_rng(seed), receptive_field(layers)
    sizes = [size + 3]
    for kernel, stride, dilation in layers:
        sizes.append(output_size(sizes[-1], kernel, stride=stride, dilation=dilation))
    g = np.zeros((1, 1, 1, sizes[-1]))
    g[..., 0] = 1
    for (kernel, stride, dilation), below in zip(layers[::-1], sizes[-2::-1], strict=True):
        x, w = np.zeros((1, 1, 1, below)), rng.uniform(1, 2, (1, 1, 1, kernel))
        g = conv2d_backward(g, x, w, stride=(1, stride), dilation=(1, dilation))[0]
    reached = np.flatnonzero(g)
    assert (reached[0], reached[-1]) == (0, size - 1)


def test_float32_stays_float32():
    x, w = np.ones((1, 2, 4, 4), np.float32), np.ones((2, 2, 3, 3), np.float32)
    y = conv2d(x, w, padding=1)
    arrays = [y, *conv2d_backward(y, x, w, padding=1), conv_transpose2d(y, w)]
    arrays += [max_pool2d(x, 2), avg_pool2d(x, 2), avg_pool2d_backward(x[..., :2, :2], x, 2)]
    assert {a.dtype for a in arrays} == {np.dtype(np.float32)}


ONES = np.ones((1, 2, 5, 5))
KERNEL = np.ones((2, 2, 3, 3))


@pytest.mark.parametrize(
    ("name", "arguments", "options", "match"),
    [
        ("conv2d", (ONES, np.ones((1, 2, 7, 7))), {}, "kernel must reach at most 5 .*, got 7"),
        ("conv2d", (ONES, KERNEL), {"dilation": 3}, "kernel must reach at most 5 .*, got 7"),
        ("conv2d", (ONES, KERNEL[:, :1]), {}, "w must have channels / groups = 2 / 1 .*, got 1"),
        ("conv2d", (ONES, KERNEL), {"groups": 3}, "groups must divide 2, got 3"),
        ("conv2d", (ONES, KERNEL), {"stride": 0}, "stride must be .* at least 1, got 0"),
        ("conv2d", (ONES, KERNEL), {"padding": (1, -1)}, r"padding must be .*, got \(1, -1\)"),
        ("conv2d", (ONES, KERNEL), {"stride": 1.5}, "stride must be .* whole .*, got 1.5"),
        ("conv2d", (ONES, KERNEL, np.ones(3)), {}, r"b must be floats of shape \(outputs = 2\)"),
        ("conv2d", (ONES[0], KERNEL), {}, r"x must be floats .*, got float64 of shape \(2, 5, 5\)"),
        ("conv2d_fft", (ONES[0, 0], np.ones((6, 1))), {}, "kernel must reach at most 5"),
        ("conv_transpose2d", (ONES, KERNEL), {"output_padding": 1}, "output_padding must be less"),
        ("conv_transpose2d", (ONES[..., :1], KERNEL), {"padding": 2}, "padding must leave"),
        ("conv_transpose2d", (ONES, KERNEL, np.ones(1)), {}, "b must have 2 numbers"),
        ("max_pool2d", (ONES, 6), {}, "kernel must reach at most 5 .*, got 6"),
        ("max_pool2d", (ONES, 3), {"padding": 2}, r"padding must be at most half of kernel"),
    ],
)
def test_wrong_input(name, arguments, options, match):
    modules = {"pool2d": "pooling", "transpose2d": "transposed"}
    module = plain("10", modules.get(name.split("_")[-1], "convolution"))
    with pytest.raises(ValueError, match=match):
        getattr(module, name)(*arguments, **options)
