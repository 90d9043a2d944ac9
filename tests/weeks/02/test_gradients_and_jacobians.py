"""Derivatives against torch and on paper, and what the classic mistakes of autodiff break."""

import operator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from week02.finite_differences import finite_difference
from week02.gradients_and_jacobians import (
    cos,
    exp,
    gradient,
    hessian,
    jacobian_forward,
    jacobian_reverse,
    jvp,
    log,
    sin,
    sqrt,
    tanh,
    vjp,
)

WAYS = {"forward": jacobian_forward, "reverse": jacobian_reverse}
ways = pytest.mark.parametrize("jacobian", WAYS.values(), ids=WAYS)
ONE = {
    "exp": (exp, torch.exp),
    "log": (log, torch.log),
    "sin": (sin, torch.sin),
    "cos": (cos, torch.cos),
    "tanh": (tanh, torch.tanh),
    "sqrt": (sqrt, torch.sqrt),
}
PLAIN = {  # the same code on our numbers and on torch's
    "neg": lambda x: -x,
    "cube": lambda x: x**3,
    "root": lambda x: x**-0.5,
    "base": lambda x: 2.0**x,
    "1 - x": lambda x: 1.0 - x,
    "1 / x": lambda x: 1.0 / x,
    "3 + x": lambda x: 3.0 + x,
    "x - 3": lambda x: x - 3.0,
    "x / 3": lambda x: x / 3.0,
    "3 x": lambda x: 3.0 * x,
}
ONE |= {name: (f, f) for name, f in PLAIN.items()}
TWO = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
TWO["**"] = operator.pow
INDEX = st.integers(0, 9)
LINES = st.lists(st.tuples(st.sampled_from([*ONE, *TWO]), INDEX, INDEX), max_size=8)


@given(program=LINES, x=st.lists(st.floats(0.4, 1.6), min_size=1, max_size=4))
def test_random_programs_equal_torch(program, x):
    def evaluate(v, which):
        done, squash = list(v), (tanh, torch.tanh)[which]
        for name, i, j in program:
            a, b = done[i % len(done)], done[j % len(done)]
            out = ONE[name][which](a) if name in ONE else TWO[name](a, b)
            done.append(1.0 + 0.5 * squash(out))  # stays in (0.5, 1.5): every function is smooth
        return done

    at = torch.tensor(x, dtype=torch.float64)
    expected = torch.autograd.functional.jacobian(lambda v: torch.stack(evaluate(v, 1)), at)
    for jacobian in WAYS.values():
        ours = jacobian(lambda v: evaluate(v, 0), np.array(x))
        np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-12)


@ways
def test_a_value_that_is_used_twice_is_reached_by_two_paths(jacobian):
    def f(v):
        b = v[0] + v[0]
        return b + b

    assert jacobian(f, np.array([3.0])) == 4.0


@ways
def test_plain_outputs_and_unused_inputs_have_derivative_zero(jacobian):
    J = jacobian(lambda v: [v[0], 7.0, v[0] * v[0]], np.array([2.0, 5.0]))
    np.testing.assert_array_equal(J, [[1.0, 0.0], [0.0, 0.0], [4.0, 0.0]])


def test_the_same_output_twice_adds_its_weights():
    _, pull_back = vjp(lambda v: [v[0] * v[0]] * 2, [3.0])
    assert pull_back([1.0, 10.0]) == [66.0]


@ways
def test_control_flow_follows_the_value(jacobian):
    def newton(v):
        root = 1.0
        while abs_(root * root - v[0]) > 1e-12:
            root = 0.5 * (root + v[0] / root)
        return root

    def abs_(n):
        return n if n > 0.0 else -n

    np.testing.assert_allclose(jacobian(newton, np.array([9.0])), 1.0 / 6.0, rtol=1e-9)


def test_perturbation_confusion():
    # Siskind and Pearlmutter (2005): d/dx (x · d/dy (x + y)) = 1, not 2
    outer = jvp(lambda v: v[0] * jvp(lambda w: v[0] + w[0], [1.0], [1.0])[1][0], [1.0], [1.0])
    assert outer[1] == [1.0]
    reverse = vjp(lambda v: v[0] * vjp(lambda w: v[0] + w[0], [1.0])[1]([1.0])[0], [1.0])
    assert reverse[1]([1.0]) == [1.0]


def test_hessian_where_the_gradient_vanishes():
    # an adjoint of value 0 may still have a derivative: it must not be skipped
    H = hessian(lambda v: v[0] * (3.0 * v[1]), np.array([0.0, 0.0]))
    np.testing.assert_array_equal(H, [[0.0, 3.0], [3.0, 0.0]])
    H = hessian(lambda v: (v[0] * v[1]) ** 2 + v[0] * v[1], np.array([0.0, 0.0]))
    np.testing.assert_array_equal(H, [[0.0, 1.0], [1.0, 0.0]])


def test_power_at_zero():
    for n, slope in ((0, 0.0), (1, 1.0), (2, 0.0), (3, 0.0)):
        assert gradient(lambda v, n=n: v[0] ** n, np.array([0.0])) == slope


def test_deep_graphs_need_no_recursion():
    def f(v):
        total = v[0]
        for _ in range(10_000):
            total = total * 1.0001
        return total

    assert gradient(f, np.array([1.0]))[0] == pytest.approx(1.0001**10_000)


def test_arrays_of_independent_numbers():
    x = np.linspace(0.0, 1.0, 7)
    values, slopes = jvp(lambda v: x * exp(v[0]) - v[0] / (1.0 + x), [x], [1.0])
    np.testing.assert_allclose(values[0], x * np.exp(x) - x / (1.0 + x))
    np.testing.assert_allclose(slopes[0], x * np.exp(x) - 1.0 / (1.0 + x))


@pytest.mark.parametrize(
    ("scheme", "rtol"), [("forward", 1e-6), ("central", 1e-8), ("complex", 1e-14)]
)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_finite_differences(scheme, rtol, scale):
    x = scale * np.array([0.5, -1.2, 2.0])
    J = finite_difference(lambda v: [v[0] * v[1], v[2] ** 3 / scale], x, scheme=scheme)
    expected = [[x[1], x[0], 0.0], [0.0, 0.0, 3.0 * x[2] ** 2 / scale]]
    np.testing.assert_allclose(J, expected, rtol=rtol, atol=30 * rtol * max(scale, 1.0))


def test_a_step_below_rounding_sees_a_constant():
    J = finite_difference(lambda v: v[0] * v[0], np.array([1.0]), scheme="forward", step=1e-17)
    assert J[0, 0] == 0.0


def test_central_differences_are_exact_for_a_parabola():
    J = finite_difference(lambda v: v[0] * v[0], np.array([3.0]), step=2.0**-10)
    assert J[0, 0] == 6.0


def text(v):
    return "x"


ONES = np.ones(2)
POINTED = (finite_difference, jacobian_forward, jacobian_reverse, gradient, hessian)


@pytest.mark.parametrize(
    ("message", "call"),
    [
        (
            "scheme must be one of forward, central, complex",
            lambda: finite_difference(sum, ONES, scheme="backward"),
        ),
        (
            "step must be positive and finite, got -1",
            lambda: finite_difference(sum, ONES, step=-1.0),
        ),
        (r"f must give one number .*, got 2", lambda: gradient(lambda v: v, ONES)),
        ("f must give a number or a sequence of numbers", lambda: jacobian_reverse(text, ONES)),
    ],
)
def test_bad_input_is_named(message, call):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("function", POINTED)
@pytest.mark.parametrize("x", [np.array([np.nan]), np.zeros(0)])
def test_points_must_be_finite_vectors(function, x):
    with pytest.raises(ValueError, match="x must be a vector of at least one finite number"):
        function(sum, x)
