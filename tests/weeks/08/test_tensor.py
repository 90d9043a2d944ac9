"""Week 08: the tensor of minigrad, operation by operation and in random graphs, against torch.

Both have the same names, so most expressions here are written once and computed by both.
"""

import gc
import math
import operator
import subprocess
import sys
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from minigrad_twins import both, close, gradients_agree

from week08 import minigrad
from week08.minigrad import Tensor, grad, no_grad, set_grad_enabled

RNG = np.random.default_rng(0)
INDEX = np.array([[0, 2, 2], [1, 2, 0]])
ARRAY = np.array([0.5, 2.0, 3.0])
MASK = RNG.random((3, 4)) < 0.5
OPERATIONS = {
    "add": (lambda m, a, b: a + b, (3, 4), (4,)),
    "sub": (lambda m, a, b: a - b, (3, 1), (2, 1, 4)),
    "mul": (lambda m, a, b: a * b, (3, 4), (3, 1)),
    "div": (lambda m, a, b: a / (b * b + 1), (3, 4), ()),
    "numbers": (lambda m, a: (1 - 2 * a) / 3 + 2 / (a * a + 1) + True, (3,)),
    "used twice": (lambda m, a: a * a + a, (3,)),
    "neg": (lambda m, a: -a, (3,)),
    "pow number": (lambda m, a: a**3 + a**2 + a**1 + a**0 + (a * a + 1) ** -0.5, (3, 2)),
    "log": (lambda m, a: (a * a + 0.1).log(), (3,)),
    "sqrt": (lambda m, a: (a * a + 0.1).sqrt(), (3,)),
    "sin cos": (lambda m, a: a.sin() * a.cos(), (3,)),
    "power": (lambda m, a, b: (a * a + 0.5) ** b + 2**b + (a * a) ** (b * 0 + 2), (3, 4), (4,)),
    "arrays": (lambda m, a: (a + raw(m)) * a - raw(m) / (a * a + 1) + a.exp() ** raw(m), (3,)),
    "where": (lambda m, a, b: m.where(a > b, a * b, 0.0), (3, 4), (4,)),
    "masked_fill": (lambda m, a: a.masked_fill(a.detach() > 0, 2.0) * a, (3, 4)),
    "clamp": (lambda m, a: a.clamp(-0.5, 0.7) * a.clamp(min=0) + a.clamp(max=0.1), (3, 4)),
    "maximum": (lambda m, a, b: m.maximum(a, b) * m.minimum(b, a * a), (3, 4), (4,)),
    "split": (lambda m, a: a.split(2)[1] * a.split([1, 3], dim=1)[0][0] + a.split(3)[0][1], (3, 4)),
    "cumsum": (lambda m, a: a.cumsum(0) * a.cumsum(-1), (3, 4)),
    "prod": (lambda m, a: a.prod() * a.prod(1, keepdim=True) + a.prod(0), (5, 3)),
    "std": (lambda m, a: a.std(1) + a.std() + a.std((0, 1), correction=0), (3, 4)),
    "sum": (lambda m, a: a.sum() * a.sum(1), (3, 4)),
    "sum keepdim": (lambda m, a: a.sum((0, -1), keepdim=True) * a, (3, 4, 2)),
    "mean": (lambda m, a: a.mean(-1) + a.mean(), (3, 4)),
    "var": (lambda m, a: a.var(1) + a.var(0, correction=0, keepdim=True).sum(), (3, 4)),
    "amax": (lambda m, a: a.amax(1) * a.amax((0, 1), keepdim=True), (3, 4)),
    "max": (lambda m, a: a.max() * a.min(), (3, 4)),
    "max dim": (lambda m, a: a.max(1).values * a.min(-1, keepdim=True)[0], (3, 4)),
    "logsumexp": (lambda m, a: a.logsumexp(1, keepdim=True) + a.logsumexp((0, 1)), (3, 4)),
    "softmax": (lambda m, a: a.softmax(0) * a.softmax(-1), (3, 4)),
    "log_softmax": (lambda m, a: a.log_softmax(0) * a.log_softmax(-1), (3, 4)),
    "reshape": (lambda m, a: a.reshape(2, -1) * a.view((2, 2, 3)).flatten(1), (3, 4)),
    "permute": (lambda m, a: a.permute(2, 0, 1) @ a.permute((2, 1, 0)), (3, 4, 2)),
    "transpose": (lambda m, a: a.transpose(-1, 0) + a.T, (3, 4)),
    "expand": (lambda m, a: a.expand(2, -1, 4) * a, (3, 1)),
    "squeeze": (lambda m, a: a.squeeze() + a.squeeze(-1).unsqueeze(0).unsqueeze(-1), (1, 3, 1)),
    "slice": (lambda m, a: a[1:, ::2] * a[0, None, 1::2] + a[..., -1:][:2], (3, 4)),
    "int index": (lambda m, a: a[1] * a[-1, 2], (3, 4)),
    "integer array": (lambda m, a: a[INDEX] * a[INDEX[:, :1], INDEX.T[0]].sum(), (3, 4)),
    "boolean": (lambda m, a: a[MASK] ** 2, (3, 4)),
    "gather": (lambda m, a: a.gather(1, lift(m, INDEX)), (2, 4)),
    "cat": (lambda m, a, b: m.cat([a, b * a[:1], a], 0), (3, 4), (2, 4)),
    "stack": (lambda m, a, b: m.stack([a, b, a * b], 1), (3, 4), (3, 4)),
    "dot": (lambda m, a, b: a @ b, (4,), (4,)),
    "matrix vector": (lambda m, a, b: (a @ b) @ a, (3, 4), (4,)),
    "matmul": (lambda m, a, b: a @ b, (3, 4), (4, 2)),
    "batched matmul": (lambda m, a, b: a @ b, (2, 1, 3, 4), (5, 4, 2)),
    "rows by matrix": (lambda m, a, b: a @ b, (2, 5, 3, 4), (4, 2)),
    "matrix by batch": (lambda m, a, b: a @ b @ b[0, :, 0], (3, 4), (2, 4, 4)),
    "clone and cast": (lambda m, a: a.clone() + there_and_back(m, a), (3,)),
}
for name in ("abs", "exp", "tanh", "sigmoid", "erf", "relu"):
    OPERATIONS[name] = lambda m, a, name=name: getattr(a, name)(), (5,)


def lift(module, array):
    return Tensor(array) if module is minigrad else torch.tensor(array)


def raw(module):
    """An array as it is for minigrad; torch takes none beside a leaf that requires a gradient."""
    return ARRAY if module is minigrad else torch.tensor(ARRAY)


def types(module):
    return np if module is minigrad else torch


def there_and_back(module, x):
    return x.to(types(module).float32).to(types(module).float64)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_equals_torch_twice_differentiated(name):
    expression, *shapes = OPERATIONS[name]
    tol = 1e-6 if name == "clone and cast" else 1e-10  # float32 on the way
    gradients_agree(expression, *both(*shapes), tol)


@pytest.mark.parametrize("shapes", [((0,), (0,)), ((0, 3), (3,)), ((2, 0), (1, 1)), ((), ())])
def test_empty_and_scalar_shapes(shapes):
    gradients_agree(lambda m, a, b: ((a * b).sin() + b).sum() + a.sum(), *both(*shapes))


@pytest.mark.parametrize("shapes", [((0, 3), (3, 2)), ((2, 0), (0, 3)), ((4, 0, 3), (3, 2))])
def test_empty_matmul(shapes):
    gradients_agree(lambda m, a, b: a @ b, *both(*shapes))


# ---- random expression graphs

UNARY = [
    lambda m, x: x.tanh(),
    lambda m, x: x.sin(),
    lambda m, x: x.relu(),
    lambda m, x: (x * x + 1).log(),
    lambda m, x: x.sum(),
    lambda m, x: x.mean(-1, keepdim=True) if x.ndim else x,
    lambda m, x: x.sum(0) if x.ndim else x,
    lambda m, x: x.reshape(-1)[None],
    lambda m, x: x.T if x.ndim == 2 else x.unsqueeze(-1).squeeze(0) if x.ndim < 2 else x,
    lambda m, x: x[::2] if x.ndim else x,
    lambda m, x: x[[0, 0, -1]] if x.ndim and x.shape[0] else x,
    lambda m, x: x.logsumexp(-1) if x.ndim and x.shape[-1] else x,
    lambda m, x: x.max(0).values if x.ndim and x.shape[0] else x,
    lambda m, x: x.softmax(-1) if x.ndim else x,
    lambda m, x: x.cumsum(-1) if x.ndim else x.prod(),
    lambda m, x: x.tanh().prod(0) if x.ndim else x.masked_fill(x > 0, 0.5),
    lambda m, x: x.split(2)[-1] if x.ndim and x.shape[0] else x,
]
BINARY = [
    lambda m, x, y: x + y,
    lambda m, x, y: x - y,
    lambda m, x, y: x * y,
    lambda m, x, y: x / (y * y + 1),
    lambda m, x, y: m.where(x > y, x.sin(), y),
    lambda m, x, y: m.maximum(x.clamp(-1), y) * 2 ** m.minimum(y, x).tanh(),
    lambda m, x, y: x.reshape(-1, 1) @ y.reshape(1, -1),
    lambda m, x, y: m.cat([x.reshape(-1), y.reshape(-1)]),
]


@st.composite
def programs(draw):
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    leaves = [shape] + [
        tuple(n if draw(st.booleans()) else 1 for n in shape[draw(st.integers(0, len(shape))) :])
        for _ in range(2)
    ]
    step = st.tuples(st.integers(0, 99), st.integers(0, 20), st.integers(0, 20))
    steps = draw(st.lists(step, min_size=1, max_size=12))
    return leaves, steps, draw(st.integers(0, 2**32 - 1))


def execute(module, steps, leaves):
    """Compute step after step; operands are any earlier values, so reuse is the rule."""
    pool = list(leaves)
    for code, i, j in steps:
        x, y = pool[i % len(pool)], pool[-1 - j % len(pool)]
        if code % 2:
            pool.append(UNARY[code // 2 % len(UNARY)](module, x))
        else:
            try:
                np.broadcast_shapes(tuple(x.shape), tuple(y.shape))
            except ValueError:
                y = y.sum()
            if max(math.prod(x.shape), math.prod(y.shape)) <= 300:
                pool.append(BINARY[code // 2 % len(BINARY)](module, x, y))
    total = 0.0
    for value in pool:
        total = total + value.sin().sum()
    return total


@given(programs())
@settings(max_examples=60)
def test_random_graphs_equal_torch(program):
    leaves, steps, seed = program
    ours, theirs = both(*leaves, seed=seed)
    value, expected = (execute(*a) for a in ((minigrad, steps, ours), (torch, steps, theirs)))
    close(value, expected)
    value.backward()
    expected.backward()
    for a, b in zip(ours, theirs, strict=True):
        close(a.grad, b.grad)


# ---- the order of the way back


def test_a_value_used_near_and_far():
    gradients_agree(lambda m, a: (a.sin() * a.sin().exp() + a).tanh() * a.sin(), *both((3,)))


def test_shared_diamonds_take_linear_time():
    a = x = Tensor(1.0, requires_grad=True)
    for _ in range(80):  # 2**80 paths
        x = (x + x) * 0.5
    x.backward()
    assert a.grad.item() == 1


DEEP = """
from week08.minigrad import Tensor
a = x = Tensor(1.0, requires_grad=True)
for _ in range(20_000):
    x = x * 1
x.backward()
assert a.grad.item() == 1
for _ in range(20_000):
    x = x * a
del x  # a graph that nobody differentiated goes without recursion too
"""


def test_deep_graph_without_recursion():
    done = subprocess.run([sys.executable, "-c", DEEP], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_several_outputs_of_which_one_depends_on_the_other():
    (a,), (t,) = both((3,))
    y, u = a * a, t * t
    found = grad([y.sum(), (y * a).sum()], a)
    expected = torch.autograd.grad([u.sum(), (u * t).sum()], t)
    close(found[0], expected[0])


def test_gradient_with_respect_to_an_intermediate_value():
    a = Tensor([1.0, 2.0], requires_grad=True)
    y = a * 3
    z = (y * y).sum()
    found = grad(z, [y, a, z])
    assert [g.tolist() for g in found] == [[6, 12], [18, 36], 1]
    assert a.grad is None


def test_memory_is_freed_without_the_garbage_collector():
    gc.disable()
    try:
        x = Tensor(np.ones(3), requires_grad=True)
        y = x.exp()
        array = weakref.ref(y.data)
        z = y.sigmoid().sum()
        del y, z
        assert array() is None
    finally:
        gc.enable()


# ---- accumulation, leaves, modes


def test_gradients_accumulate_and_leaves_own_them():
    a, b = (Tensor([1.0, 2.0], requires_grad=True) for _ in range(2))
    for _ in range(2):
        ((a + b) * 3).sum().backward()
    assert a.grad.tolist() == [6, 6]
    a.grad.zero_()  # the sum hands both the same array
    assert b.grad.tolist() == [6, 6]


def test_freed_graph():
    a = Tensor([1.0], requires_grad=True)
    y = (a * a).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="Trying to backward through the graph a second time"):
        y.backward()
    z = (a * a).sum()
    z.backward(retain_graph=True)
    z.backward()
    assert a.grad.item() == 6
    s = (a + 1).sum()  # as in torch: what saved nothing has nothing to lose
    s.backward()
    s.backward()


def leaf():
    return Tensor([1.0, 2.0], requires_grad=True)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda a: (a * 2).backward(), RuntimeError, "only for scalar outputs"),
        (lambda a: Tensor([1.0]).backward(), RuntimeError, "does not require grad"),
        (
            lambda a: (a * 2).backward(Tensor(np.ones(3, np.float32))),
            ValueError,
            r"must have shape \(2,\), got \(3,\)",
        ),
        (lambda a: grad(a.sum(), leaf()), RuntimeError, "allow_unused"),
        (lambda a: grad(a.sum(), Tensor([1.0])), RuntimeError, "not used to compute outputs"),
        (lambda a: grad(a.sum(), a, [None] * 2), ValueError, "must have 1 entries, got 2"),
        (lambda a: Tensor([1], requires_grad=True), RuntimeError, "floating point"),
        (lambda a: (a * 2).numpy(), RuntimeError, "detach"),
    ],
)
def test_what_cannot_be_differentiated(call, error, match):
    with pytest.raises(error, match=match):
        call(leaf())


def test_modes():
    a = Tensor([1.0], requires_grad=True)
    with no_grad():
        assert not (a * 2).requires_grad
        with set_grad_enabled(True):
            assert (a * 2).requires_grad
        assert not (a * 2).requires_grad
    assert (a * 2).requires_grad
    assert not no_grad()(lambda: a * 2)().requires_grad
    with pytest.raises(ZeroDivisionError), no_grad():
        _ = 1 / 0
    assert (a * 2).requires_grad
    a.sum().backward()
    assert not a.grad.requires_grad


def test_leaf_rules():
    a = Tensor([1.0], requires_grad=True)
    b = a * 2
    assert a.is_leaf
    assert not b.is_leaf
    assert not b.detach().requires_grad
    assert np.shares_memory(b.detach().numpy(), b.data)


# ---- in place


def test_a_saved_value_that_was_overwritten_is_found_out():
    a = Tensor([1.0, 2.0], requires_grad=True)
    y = a.exp()
    y.detach().add_(1)
    text = (
        r"modified by an inplace operation: a float32 tensor of shape \(2,\), kept for "
        r"<ExpBackward>, is at version 1; expected version 0"
    )
    with pytest.raises(RuntimeError, match=text):
        y.sum().backward()


@pytest.mark.parametrize("through", [lambda w: w[0], lambda w: w.detach(), lambda w: w.T])
def test_views_share_the_version(through):
    w, a = Tensor([[1.0, 2.0]]), Tensor([[3.0, 4.0]], requires_grad=True)
    y = (a * w).sum()
    through(w).mul_(2)
    with pytest.raises(RuntimeError, match="is at version 1; expected version 0"):
        y.backward()


def test_a_value_that_no_rule_needs_may_be_overwritten():
    (a,), (t,) = both((3,))
    y, u = a + 1, t + 1
    z, v = y * 2, u * 2
    y.detach().mul_(3)
    u.detach().mul_(3)
    (z + y).sum().backward()
    (v + u).sum().backward()
    close(a.grad, t.grad)


IN_PLACE = {
    "add": lambda m, x, y: x.add_(y, alpha=3),
    "sub": lambda m, x, y: x.sub_(y, alpha=2),
    "mul": lambda m, x, y: x.mul_(y),
    "div": lambda m, x, y: x.div_(y * y + 1),
    "iadd": lambda m, x, y: operator.iadd(x, y),
    "imul": lambda m, x, y: operator.imul(x, y),
    "itruediv": lambda m, x, y: operator.itruediv(x, 2),
    "slice": lambda m, x, y: operator.setitem(x, (slice(1, None), slice(0, 2)), y[:2]),
    "number": lambda m, x, y: operator.setitem(x, 0, 2.5),
    "array": lambda m, x, y: operator.setitem(x, lift(m, np.array([2, 0])), y),
    "mask": lambda m, x, y: operator.setitem(x, lift(m, MASK[:, :2]), 0.0),
    "copy": lambda m, x, y: x.copy_(y),
    "zero": lambda m, x, y: x.zero_(),
}


SETTING = [IN_PLACE[name] for name in ("slice", "number", "array", "mask")]


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_operation_is_torchs(name):
    arrays = RNG.normal(size=(3, 2)), RNG.normal(size=2)
    x, y = map(Tensor, arrays)
    t, u = map(torch.tensor, arrays)
    seen = x[1:]
    returned = IN_PLACE[name](minigrad, x, y)
    IN_PLACE[name](torch, t, u)
    assert returned is (None if IN_PLACE[name] in SETTING else x)
    close(x, t)
    close(seen, t[1:])
    assert x.version == seen.version == 1


NOT_RECORDED = "an in-place operation is not recorded"


@pytest.mark.parametrize(
    ("write", "error", "match"),
    [
        (lambda a: a.add_(1), RuntimeError, NOT_RECORDED),
        (lambda a: a[:1].add_(1), RuntimeError, NOT_RECORDED),
        (lambda a: operator.setitem(a * 2, 0, 0.0), RuntimeError, NOT_RECORDED),
        (lambda a: Tensor([1.0, 2.0]).mul_(a), RuntimeError, NOT_RECORDED),
        (lambda a: Tensor([1, 2]).add_(0.5), TypeError, "Cannot cast"),
        (
            lambda a: a.detach().add_(Tensor(np.ones((3, 2), np.float32))),
            ValueError,
            r"output operand with shape \(2,\)",
        ),
    ],
)
def test_in_place_refusals(write, error, match):
    a = leaf()
    with pytest.raises(error, match=match):
        write(a)
    assert a.tolist() == [1, 2]
    with no_grad():
        assert a.add_(1).tolist() == [2, 3]
    assert a.version == 1


# ---- dtypes, ties, numbers at the edge


SAMPLES = {
    "bool": np.array([True, False]),
    "uint8": np.array([1, 2], np.uint8),
    "int32": np.array([1, 2], np.int32),
    "int64": np.array([1, 2]),
    "float16": np.array([1, 2], np.float16),
    "float32": np.array([1, 2], np.float32),
    "float64": np.array([1.0, 2.0]),
    "int64 0-d": np.array(2),
    "float32 0-d": np.array(2, np.float32),
    "float64 0-d": np.array(2.0),
}


@pytest.mark.parametrize("op", [operator.add, operator.mul, operator.truediv, operator.lt])
def test_promotion_is_torchs(op):
    numbers = [True, 2, 2.5, np.float64(2.5)]
    for a in SAMPLES.values():
        for b in [*SAMPLES.values(), *numbers]:
            x, t = Tensor(a), torch.tensor(a)
            if isinstance(b, np.ndarray):
                close(op(x, Tensor(b)), op(t, torch.tensor(b)), 1e-3)
            else:
                close(op(x, b), op(t, b), 1e-3)
                close(op(b, x), op(float(b) if isinstance(b, float) else b, t), 1e-3)


@pytest.mark.parametrize("name", ["exp", "sqrt", "sum", "relu", "tanh", "abs"])
def test_dtype_of_functions_is_torchs(name):
    for array in SAMPLES.values():
        if name in ("abs", "relu") and array.dtype == bool:
            continue
        close(getattr(Tensor(array), name)(), getattr(torch.tensor(array), name)(), 1e-2)


@pytest.mark.parametrize("data", [1, 1.0, True, [1.0, 2], [1, 2], [[True]], [], np.float64(1)])
def test_construction_is_torchs(data):
    close(Tensor(data), torch.tensor(data))


def test_construction_copies():
    array = np.ones(2)
    Tensor(array).add_(1)
    assert array.tolist() == [1, 1]


def test_gradients_keep_their_leafs_dtype():
    a = Tensor([1.0, 2.0], requires_grad=True)
    b = Tensor(np.ones(2), requires_grad=True)
    (a * b).sum().backward()
    assert a.grad.dtype == np.float32
    assert b.grad.dtype == np.float64


EDGES = [math.nan, math.inf, -math.inf, 0.0, 1.0, -1.0, 0.5]
AT_EDGES = {
    "where": lambda m, x: m.where(x > 0, x, 0.0).sqrt(),
    "masked_fill": lambda m, x: x.log().masked_fill(x <= 0, 0.0),
    "maximum": lambda m, x: m.maximum(x, x * 0 + 0.5) + m.minimum(x, x * 0 + 0.5),
    "clamp": lambda m, x: x.clamp(0, 1) + x.clamp(min=0.5) + x.clamp(max=1),
    "power": lambda m, x: 2**x + 0**x + x**x + x**0 + x**2,
    "max": lambda m, x: x.max() + x.min(),
    "max dim": lambda m, x: x.max(0).values,
    "cumsum": lambda m, x: x.cumsum(0),
    "no spread": lambda m, x: (x * 0 + 1).std() + (x * 0 + 1).std(0, correction=0),
    "empty": lambda m, x: x[:0].sum() + x[:0].prod() + x[:0].mean(),
    "empty spread": lambda m, x: x[:0].var() + x[:1].std() + x[:0].logsumexp(0),
    **{
        name: lambda m, x, name=name: getattr(x, name)()
        for name in ("relu", "abs", "sqrt", "exp", "log", "tanh", "sigmoid", "erf")
    },
}


@pytest.mark.filterwarnings("ignore:.*degrees of freedom:UserWarning")  # torch's
@pytest.mark.parametrize("name", AT_EDGES)
@given(st.lists(st.sampled_from(EDGES), min_size=1, max_size=3), st.sampled_from([0, 1, math.inf]))
def test_what_is_masked_reaches_no_gradient(name, row, start):
    x = Tensor(np.array(row), requires_grad=True)
    t = torch.tensor(row, dtype=torch.float64, requires_grad=True)
    y, u = AT_EDGES[name](minigrad, x), AT_EDGES[name](torch, t)
    close(y, u)
    y.backward(Tensor(np.full(y.shape, float(start))))
    u.backward(torch.full_like(u, start))
    close(x.grad, t.grad)


HALF = {
    "sum": lambda m, x: x.sum(0),
    "mean": lambda m, x: x.mean() + (x * 100).mean(0),
    "var": lambda m, x: x.var(0) + x.std(0),
    "cumsum": lambda m, x: x.cumsum(0)[-1] + x.cumsum(1)[:3].sum(),
    "prod": lambda m, x: x[:40].prod(0),
    "logsumexp": lambda m, x: x.logsumexp(0),
    "softmax": lambda m, x: x.softmax(0)[:9] * 1000 + x.log_softmax(0)[:9],
    "matmul": lambda m, x: x.T @ x,
    "bias": lambda m, x: (x.detach() + x[0]).sum(1),
    "gather": lambda m, x: x.gather(0, lift(m, np.zeros((5000, 2), int))),
    "erf": lambda m, x: x.erf() + x.sigmoid(),
}


@pytest.mark.parametrize("name", HALF)
def test_half_precision_adds_up_in_float32(name):
    array = (1 + 0.1 * RNG.normal(size=(5000, 2))).astype(np.float16)
    x, t = Tensor(array, requires_grad=True), torch.tensor(array, requires_grad=True)
    y, u = HALF[name](minigrad, x), HALF[name](torch, t)
    close(y, u, 2e-3)
    y.sum().backward()
    u.sum().backward()
    close(x.grad, t.grad, 4e-3)


def test_a_row_read_5000_times_gets_all_of_its_gradient():  # torch's gets 2048
    x = Tensor(np.zeros(2, np.float16), requires_grad=True)
    x[np.zeros(5000, int)].sum().backward()
    assert x.grad.tolist() == [5000, 0]


WHOLE = {
    "and": lambda x, y: (x & y, x & 6, True & x),
    "or": lambda x, y: (x | y, x | 6, True | x),
    "xor": lambda x, y: (x ^ y, x ^ 6, True ^ x),
    "invert": lambda x, y: (~x, ~y, ~(x > y)),
    "power": lambda x, y: (2 ** abs_(y), 2.0**y, x ** abs_(y), x**0.5),
    "sums": lambda x, y: (x.cumsum(0), x.prod(), y.prod(0, keepdim=True), x.sum()),
    "places": lambda x, y: (y.argmin(), y.argmin(0, keepdim=True), y.min(0).indices),
    "clamp": lambda x, y: (y.clamp(0, 1), y.clamp(0.5), y.masked_fill(y > 1, 7)),
    "split": lambda x, y: (*y.split(2), *y.split([0, 3])),
}


ENDS = {
    "split": lambda m, x: (*x.split(1), *x.split(3, -1), *x[:0].split(2), *x[:0].split([])),
    "flatten": lambda m, x: (x.flatten(), x[:0].flatten(1), x.flatten(-1), x[0, 0, 0].unsqueeze(0)),
    "squeeze": lambda m, x: (x.squeeze(-2), x.squeeze(0), x.unsqueeze(3), x.unsqueeze(-4)),
    "gather": lambda m, x: [x[..., :n].gather(2, lift(m, INDEX[:1, None, :0])) for n in (0, 4)],
    "keepdim": lambda m, x: (*x.max(0, keepdim=True), *x.min(0, True), x.std(0, keepdim=True)),
    "no keepdim": lambda m, x: (*x.max(1), *x.min(2), x.std(-1), x.amax(0), x.logsumexp(2)),
    "argmax": lambda m, x: (x.argmax(0), x.argmax(0, keepdim=True), x.argmax(1, True), x.argmax()),
    "argmin": lambda m, x: (x.argmin(0), x.argmin(0, keepdim=True), x.argmin(1, True), x.argmin()),
    "empty": lambda m, x: (x[:0].log_softmax(0), x[:0].softmax(0)),
    "whole": lambda m, x: [(x * 9).to(types(m).int64).logsumexp(2)],
}


@pytest.mark.parametrize("name", ENDS)
def test_ends_of_the_legal_are_torchs(name):
    array = RNG.normal(size=(3, 1, 4))
    for a, b in zip(
        ENDS[name](minigrad, Tensor(array)), ENDS[name](torch, torch.tensor(array)), strict=True
    ):
        close(a, b, 1e-6)


def test_an_index_is_copied():
    x, index = leaf(), np.array([0, 1])
    y = x[index].sum()
    index[:] = 0
    y.backward()
    assert x.grad.tolist() == [1, 1]


def abs_(x):
    return x if "bool" in str(x.dtype) else x.abs()


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64, bool])
@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers_are_torchs(name, kind):
    if kind is bool and name in ("clamp", "power"):
        pytest.skip("torch has no such operation on truth values")
    arrays = np.array([5, 3, 0]).astype(kind), np.array([3, 1, 2])
    ours, theirs = WHOLE[name](*map(Tensor, arrays)), WHOLE[name](*map(torch.tensor, arrays))
    for a, b in zip(ours, theirs, strict=True):
        close(a, b, 1e-6)


@pytest.mark.parametrize(
    "op", [operator.add, operator.sub, operator.mul, operator.truediv, operator.pow, operator.lt]
)
def test_an_array_is_as_good_as_a_tensor(op):
    a, b = np.array([1.0, 2.0], np.float32), np.array([[3.0], [2.0]])
    close(op(Tensor(a), b), op(torch.tensor(a), torch.tensor(b)))
    close(op(b, Tensor(a)), op(torch.tensor(b), torch.tensor(a)))
    matrix = a * np.float32(b)
    assert type(matrix @ Tensor(a)) is type(Tensor(matrix) @ a) is Tensor
    assert (matrix @ Tensor(a)).tolist() == (matrix @ a).tolist()
    x = Tensor(a, requires_grad=True)
    y = x * b
    b[:] = 0  # the way back has its own copy
    y.sum().backward()
    assert x.grad.tolist() == [5, 5]


TIED = np.array([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])


@pytest.mark.parametrize(
    "expression",
    [
        lambda m, x: x.amax(1),
        lambda m, x: x.max() + x.min(),
        lambda m, x: x.max(1).values,
        lambda m, x: x.min(0).values,
        lambda m, x: x.max(1).indices + x.argmax() + x.min(1).indices,
        lambda m, x: (x - 2).relu(),
        lambda m, x: (x - 2).abs(),
        lambda m, x: x.clamp(2, 3) + m.maximum(x, x * 0 + 2) + m.minimum(x, x.detach()),
        lambda m, x: (x - 2).prod() + (x - 2).prod(1).sum(),
        lambda m, x: (x - 2) ** 2 + (x - 2) ** 1 + (x - 2) ** 0,
    ],
)
def test_ties_and_kinks_are_torchs(expression):
    x, t = Tensor(TIED, requires_grad=True), torch.tensor(TIED, requires_grad=True)
    y, u = expression(minigrad, x), expression(torch, t)
    close(y, u)
    if y.requires_grad:
        y.sum().backward()
        u.sum().backward()
        close(x.grad, t.grad)


@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])
@pytest.mark.parametrize("row", [[1000.0, 0.0], [-1000.0, -1001.0], [-math.inf, 0.0], [5e8, 5e8]])
def test_large_numbers_do_not_overflow(name, row):
    x = Tensor(np.array(row), requires_grad=True)
    t = torch.tensor(row, dtype=torch.float64, requires_grad=True)
    y, u = getattr(x, name)(0), getattr(t, name)(0)
    close(y, u)
    weights = np.arange(1, 1 + y.numel()).reshape(y.shape)
    (y * Tensor(weights))[..., -1:].sum().backward() if y.ndim else y.backward()
    (u * torch.tensor(weights))[..., -1:].sum().backward() if u.ndim else u.backward()
    close(x.grad, t.grad, 1e-8)  # ours is the exacter one


def test_no_warning_where_torch_has_none():
    x = Tensor([-1.0, 0.0, 1e38])
    for y in (x.log(), x.sqrt(), 1 / x, x / 0, x * 1e10, (x * 10).exp(), (x * x).sum()):
        assert y.shape in ((3,), ())


# ---- errors and small things


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda x: x.sum(2), IndexError, "dim: axis 2 is out of bounds for array of dimension 2"),
        (lambda x: x.transpose(0, 5), IndexError, "out of range"),
        (lambda x: x.sum((0, -2)), ValueError, "repeated axis in `dim` argument"),
        (lambda x: x.reshape(4, 2), ValueError, "reshape"),
        (lambda x: x @ x.to(np.float32).T, RuntimeError, "of one dtype, got float64 and float32"),
        (
            lambda x: x @ Tensor(np.float64(1)),
            ValueError,
            r"matmul needs .*, got \(2, 3\) and \(\)",
        ),
        (
            lambda x: x @ x,
            ValueError,
            r"\(…, k, m\), or vectors of length k, got \(2, 3\) and \(2, 3",
        ),
        (lambda x: x @ x[0, :2], ValueError, r"got \(2, 3\) and \(2,\)"),
        (lambda x: "a" @ x, TypeError, "a tensor, an array or a number is needed, got str"),
        (lambda x: x & x, TypeError, "bitwise_and needs integers or truth values, got float64"),
        (lambda x: ~x, TypeError, "~ needs integers or truth values, got float64"),
        (
            lambda x: minigrad.where(Tensor([1]), x, 0),
            TypeError,
            "must hold truth values, got int64",
        ),
        (lambda x: x.clamp(), TypeError, "min or max must be a number, got None and None"),
        (lambda x: x.split([1, 2]), ValueError, r"sizes must add up to 2, got \[1, 2\]"),
        (lambda x: x.split([3, -1]), ValueError, r"sizes must add up to 2, got \[3, -1\]"),
        (lambda x: x.split([]), ValueError, r"sizes must add up to 2, got \[\]"),
        (lambda x: x.expand(-2, 3), ValueError, "must be non-negative"),
        (lambda x: x.squeeze(2), IndexError, "axis 2 is out of bounds"),
        (lambda x: x.flatten(3), IndexError, "axis 3 is out of bounds"),
        (lambda x: x.unsqueeze(3), IndexError, "axis 3 is out of bounds"),
        (lambda x: x.split(0), ValueError, "sizes must be at least 1, got 0"),
        (lambda x: x.gather(1, Tensor([[-1]])), IndexError, r"in \[0, 3\), got -1 to -1"),
        (lambda x: x.gather(1, Tensor([[0, 3]])), IndexError, r"in \[0, 3\), got 0 to 3"),
        (lambda x: operator.setitem(x, 0, [1, 2, 3]), TypeError, "number is needed, got list"),
        *[
            (
                lambda x, name=name, dim=dim: getattr(x[:0], name)(dim),
                ValueError,
                rf"dim must have at least one number .*, got dim = {dim} of shape \(0, 3\)",
            )
            for name in ("max", "min", "argmax", "argmin", "amax")
            for dim in (0, None)
        ],
        (lambda x: minigrad.cat([]), ValueError, "tensors must not be empty"),
        (lambda x: len(Tensor(1.0)), TypeError, "unsized"),
        (lambda x: x + "1", TypeError, "a tensor, an array or a number is needed, got str"),
        (lambda x: Tensor(["a"]), TypeError, "data must be numbers"),
    ],
)
def test_wrong_input(call, error, match):
    with pytest.raises(error, match=match):
        call(Tensor(np.ones((2, 3))))


def test_small_things():
    x = Tensor([[1.0, 2.0]], requires_grad=True)
    assert repr(x) == "tensor([[1., 2.]], requires_grad=True)"
    assert repr(x * 2) == "tensor([[2., 4.]], grad_fn=<MulBackward>)"
    assert repr(Tensor(np.float64(1))) == "tensor(1., dtype=float64)"
    assert [v.item() for v in x[0]] == [1, 2]
    assert (x > 1).tolist() == [[False, True]]
    assert (~(x > 1) & (x == 1) | (x >= 2)).tolist() == [[True, True]]
    assert bool(Tensor(0)) is False
    assert x.to(np.int64).dtype == np.int64
    assert np.asarray(x.detach()).tolist() == [[1, 2]]
    assert len({x, x, x.detach()}) == 2
    assert (np.float64(2) * x).dtype == (x ** np.float64(2)).dtype == np.float32
