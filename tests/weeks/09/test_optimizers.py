"""All optimizers against torch.optim, option by option, and resumed to the last bit."""

import math

import pytest
import torch
from enforce import plain
from hypothesis import given
from hypothesis import strategies as st

from week09.muon import Muon, nearest_orthogonal, orthogonalize
from week09.optimizers import SGD, Adam, AdamW, RMSProp

SHAPES = ((4, 6), (3,), (), (6, 4), (2, 3, 2))


def noisy_run(make, shapes=SHAPES, *, steps=25):
    """Ends of several tensors that follow noisy gradients; one has none at some steps."""
    generator = torch.manual_seed(5)
    weights = [
        torch.randn(s, dtype=torch.float64, generator=generator).requires_grad_() for s in shapes
    ]
    optimizer = make(weights)
    for step in range(steps):
        optimizer.zero_grad()
        for index, weight in enumerate(weights):
            noise = torch.randn(weight.shape, dtype=torch.float64, generator=generator)
            if index == 3 and step % 5 == 2:
                weight.grad = torch.zeros_like(noise)
            elif index != 1 or step % 3:
                weight.grad = noise + weight.detach()
        optimizer.step()
    return torch.cat([w.detach().flatten() for w in weights])


def assert_same_path(ours, theirs, options, shapes=SHAPES, **extra):
    ends = [
        noisy_run(lambda p: ours(p, **options, **extra), shapes),
        noisy_run(lambda p: theirs(p, **options), shapes),
    ]
    torch.testing.assert_close(*ends, rtol=1e-9, atol=1e-9)


DECAY = st.sampled_from([0.0, 0.1])


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize(
    ("momentum", "dampening", "nesterov"),
    [(0.0, 0.0, False), (0.9, 0.0, False), (0.9, 0.4, False), (0.9, 0.0, True), (0.0, 0.5, False)],
)
def test_sgd_follows_torch(momentum, dampening, nesterov, weight_decay):
    options = {"momentum": momentum, "dampening": dampening, "nesterov": nesterov}
    assert_same_path(SGD, torch.optim.SGD, {"lr": 0.03, "weight_decay": weight_decay, **options})


@given(
    alpha=st.floats(0.5, 0.99),
    momentum=st.sampled_from([0.0, 0.7]),
    centered=st.booleans(),
    weight_decay=DECAY,
    eps=st.sampled_from([1e-8, 1e-2]),
)
def test_rmsprop_follows_torch(alpha, momentum, centered, weight_decay, eps):
    options = {"lr": 0.01, "alpha": alpha, "momentum": momentum, "centered": centered}
    options |= {"weight_decay": weight_decay, "eps": eps}
    assert_same_path(RMSProp, torch.optim.RMSprop, options)


@given(
    decoupled=st.booleans(),
    amsgrad=st.booleans(),
    lr=st.floats(1e-4, 0.3),
    beta1=st.floats(0, 0.99),
    beta2=st.floats(0.5, 0.9999),
    eps=st.sampled_from([1e-8, 1e-3]),
    weight_decay=DECAY,
)
def test_adam_follows_torch(decoupled, amsgrad, lr, beta1, beta2, eps, weight_decay):
    ours, theirs = (AdamW, torch.optim.AdamW) if decoupled else (Adam, torch.optim.Adam)
    options = {"lr": lr, "betas": (beta1, beta2), "eps": eps}
    options |= {"amsgrad": amsgrad, "weight_decay": weight_decay}
    assert_same_path(ours, theirs, options)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SGD, torch.optim.SGD),
        (RMSProp, torch.optim.RMSprop),
        (Adam, torch.optim.Adam),
        (AdamW, torch.optim.AdamW),
    ],
)
def test_default_options_are_torchs(ours, theirs):
    assert_same_path(ours, theirs, {})


def test_first_adam_step_has_length_lr_whatever_the_gradient():
    optimizer = AdamW([torch.zeros(3, requires_grad=True)], lr=0.1)
    step = optimizer.update(torch.tensor([1e-3, -1.0, 1e3]), {})
    torch.testing.assert_close(step, torch.tensor([0.1, -0.1, 0.1]), rtol=1e-4, atol=0)


def test_amsgrad_remembers_the_largest_gradient():
    plain, careful = (
        Adam([torch.zeros(1)], lr=1.0, betas=(0.0, 0.5), amsgrad=amsgrad) for amsgrad in (0, 1)
    )
    states = {}, {}
    for gradient in (100.0, *[1.0] * 30):
        steps = [
            float(optimizer.update(torch.tensor([gradient]), state))
            for optimizer, state in zip((plain, careful), states, strict=True)
        ]
    assert steps[0] == pytest.approx(1.0, rel=1e-3)
    assert steps[1] == pytest.approx(1 / math.sqrt(5000), rel=1e-3)  # v was (1 - β2) 100²


def test_centered_rmsprop_divides_by_the_standard_deviation():
    optimizer, state = RMSProp([torch.zeros(1)], lr=1.0, alpha=0.9, centered=True, eps=1e-4), {}
    for step in range(200):
        change = optimizer.update(torch.tensor([10.0 + (-1) ** step]), state)
    assert float(change) == pytest.approx(9.0, rel=0.02)  # the gradients' deviation is 1


class Several:
    """Optimizers that step together."""

    def __init__(self, *each):
        self.each = each

    def zero_grad(self):
        for optimizer in self.each:
            optimizer.zero_grad()

    def step(self):
        for optimizer in self.each:
            optimizer.step()


def test_parameters_without_gradient_are_left_alone():
    used, unused = torch.ones(2, 2, requires_grad=True), torch.ones(2, 2, requires_grad=True)
    optimizer = AdamW([used, unused], weight_decay=0.5)
    used.sum().backward()
    optimizer.step()
    assert (unused == 1).all()
    assert (used != 1).all()
    optimizer.zero_grad()
    assert used.grad is None


# ---- Muon


@given(
    momentum=st.floats(0, 0.99),
    nesterov=st.booleans(),
    adjust_lr_fn=st.sampled_from(["original", "match_rms_adamw", "spectral_unclamped"]),
    ns_steps=st.integers(0, 6),
    ns_coefficients=st.sampled_from([(3.4445, -4.7750, 2.0315), (2.0, -1.5, 0.5)]),
    eps=st.sampled_from([1e-7, 1.0]),
    weight_decay=st.sampled_from([0.0, 0.1]),
)
def test_muon_follows_torch(**options):
    shapes = ((4, 6), (3, 3), (1, 5), (6, 4), (5, 1))  # all different: none shares a product
    options["lr"] = 0.02
    assert_same_path(Muon, torch.optim.Muon, options, shapes, dtype=torch.bfloat16)


@given(rows=st.integers(1, 20), columns=st.integers(1, 20), scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_orthogonalize_keeps_singular_vectors_and_evens_values(rows, columns, scale):
    matrix = torch.randn(rows, columns, dtype=torch.float64, generator=torch.manual_seed(rows))
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonalize(scale * matrix, dtype=torch.float64)
    mapped = u.T @ result @ vt.T
    torch.testing.assert_close(mapped, torch.diag(mapped.diag()), rtol=0, atol=1e-9)
    large = s / s.norm() > 0.05
    assert ((mapped.diag()[large] > 0.6) & (mapped.diag()[large] < 1.3)).all()


@given(
    batch=st.sampled_from([(1,), (3,), (2, 3)]),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    steps=st.integers(0, 6),
)
def test_orthogonalize_of_a_batch_is_one_by_one(batch, rows, columns, steps):
    matrices = torch.randn(*batch, rows, columns, dtype=torch.float64).mul_(
        torch.logspace(-3, 3, math.prod(batch), dtype=torch.float64).view(*batch, 1, 1)
    )
    together = orthogonalize(matrices, steps=steps, dtype=torch.float64)
    alone = [orthogonalize(m, steps=steps, dtype=torch.float64) for m in matrices.flatten(0, -3)]
    expected = torch.stack(alone).view_as(matrices)
    torch.testing.assert_close(together, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (2, 8, 3)])
def test_with_coefficients_that_converge_it_is_the_nearest_orthogonal(shape):
    matrix = torch.randn(shape, dtype=torch.float64, generator=torch.manual_seed(0))
    options = {"steps": 40, "coefficients": (1.875, -1.25, 0.375), "dtype": torch.float64}
    found = orthogonalize(matrix, **options)
    torch.testing.assert_close(found, nearest_orthogonal(matrix), rtol=0, atol=1e-10)


def test_orthogonalize_of_zero_is_zero():
    assert (orthogonalize(torch.zeros(3, 4)) == 0).all()


def test_tall_matrices_move_further():
    gradient = torch.randn(32, 8, generator=torch.manual_seed(0))
    step = Muon([torch.zeros(32, 8, requires_grad=True)], lr=1.0).update(gradient, {})
    assert math.isclose(float(step.norm()), 2 * float(orthogonalize(gradient).norm()), rel_tol=1e-5)


def test_muon_batched_is_one_by_one():
    shapes = ((4, 6), (6, 4), (4, 6), (6, 4), (4, 6), (3, 3))

    def muon(params):
        return Muon(params, weight_decay=0.1, dtype=torch.float64)

    alone = noisy_run(lambda params: Several(*(muon([p]) for p in params)), shapes)
    torch.testing.assert_close(noisy_run(muon, shapes), alone, rtol=1e-10, atol=1e-10)


# ---- state

EVERY = {
    "SGD": lambda p: SGD(p, lr=0.05, momentum=0.9, dampening=0.3),
    "SGD without momentum": lambda p: SGD(p, lr=0.05),
    "RMSProp": lambda p: RMSProp(p, momentum=0.5, centered=True),
    "Adam": lambda p: Adam(p, amsgrad=True),
    "AdamW": AdamW,
    "Muon": Muon,
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("interrupted", [1, 6])
def test_resumed_is_straight_to_the_last_bit(name, interrupted):
    gradients = torch.randn(12, 2, 3, 3, generator=torch.manual_seed(2))

    def go(weights, optimizer, steps):
        for step in steps:
            for index, weight in enumerate(weights):
                weight.grad = None if index and step < 8 else gradients[step, index].clone()
            optimizer.step()

    straight = [torch.ones(3, 3), torch.ones(3, 3)]
    optimizer = EVERY[name](straight)
    go(straight, optimizer, range(interrupted))
    saved, resumed = optimizer.state_dict(), [w.clone() for w in straight]
    go(straight, optimizer, range(interrupted, 12))  # must not change what was saved
    later = EVERY[name](resumed)
    later.load_state_dict(saved)
    go(resumed, later, range(interrupted, 12))
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))
    a, b = optimizer.state_dict(), later.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(torch.as_tensor(a[k]), torch.as_tensor(b[k])) for k in a)


@pytest.fixture
def stepped():
    optimizer = AdamW([torch.ones(2, 3)])
    optimizer.params[0].grad = torch.ones(2, 3)
    optimizer.step()
    return optimizer


def test_loading_copies(stepped):
    saved, other = stepped.state_dict(), AdamW([torch.ones(2, 3)])
    other.load_state_dict(saved)
    other.params[0].grad = torch.ones(2, 3)
    other.step()
    assert torch.equal(saved["0.mean"], stepped.state_dict()["0.mean"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"0.largest": torch.zeros(2, 3)}, "t, mean, square of parameters 0 to 0.*'0.largest'"),
        ({"1.mean": torch.zeros(2, 3)}, "of parameters 0 to 0, as AdamW keeps them.*'1.mean'"),
        ({"0.mean": torch.zeros(3, 2)}, r"saved\['0.mean'\] must be \(\(2, 3\), torch.float32\)"),
        ({"0.mean": torch.zeros(2, 3).double()}, "got .*float64"),
        ({"0.t": 0}, r"saved\['0.t'\] must be .*int.*: 0"),
        ({"0.t": None}, "saved lacks 0.t"),
    ],
)
def test_a_state_that_does_not_fit_is_named_and_changes_nothing(stepped, change, message):
    before = stepped.state_dict()
    saved = {k: v for k, v in {**before, **change}.items() if v is not None}
    with pytest.raises(ValueError, match=message):
        stepped.load_state_dict(saved)
    after = stepped.state_dict()
    assert before.keys() == after.keys()
    assert torch.equal(before["0.mean"], after["0.mean"])


# ---- bad options

PLAIN = plain("09", "optimizers")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: AdamW([]), "params must hold at least one tensor"),
        (lambda p: SGD([*p, *p]), "params must hold each tensor once"),
        (lambda p: AdamW(p, lr=-1.0), "lr must be at least 0, got -1.0"),
        (lambda p: SGD(p, lr=math.nan), "lr must be at least 0, got nan"),
        (lambda p: AdamW(p, weight_decay=-0.1), "weight_decay must be at least 0, got -0.1"),
        (lambda p: AdamW(p, betas=(0.9, 1.0)), r"betas must be two numbers in \[0, 1\)"),
        (lambda p: Adam(p, betas=(0.9,)), r"betas must be two numbers in \[0, 1\), got \(0.9,\)"),
        (lambda p: RMSProp(p, eps=-1.0), "eps must be at least 0, got -1.0"),
        (lambda p: SGD(p[0]), "params must be an iterable of tensors, one .* got a tensor"),
        (lambda p: PLAIN.SGD([{"params": p}]), "one optimizer for each set of options, got dict"),
        (lambda p: AdamW([2 * p[0]]), "params must be leaves of the graph"),
        (lambda p: AdamW([torch.ones(2, dtype=torch.int64)]), "params must be .* of floats"),
        (lambda p: Adam(p, eps=-1e-8), "eps must be at least 0, got -1e-08"),
        (lambda p: SGD(p, momentum=1.0), r"momentum must lie in \[0, 1\), got 1.0"),
        (lambda p: SGD(p, nesterov=True), "nesterov needs momentum above 0 .* got momentum 0.0"),
        (lambda p: SGD(p, momentum=0.9, dampening=0.1, nesterov=True), "and dampening 0.1"),
        (lambda p: RMSProp(p, alpha=1.0), r"alpha must lie in \[0, 1\), got 1.0"),
        (lambda p: Muon(p, momentum=1.0), r"momentum must lie in \[0, 1\), got 1.0"),
        (lambda p: Muon([torch.zeros(3)]), r"params must be matrices, got .* \(3,\)"),
        (lambda p: Muon(p, adjust_lr_fn="none"), "adjust_lr_fn must be one of .* got 'none'"),
        (lambda p: Muon(p, ns_coefficients=(1.0, 2.0)), "ns_coefficients must be 3 numbers"),
        (lambda p: Muon(p, ns_steps=-1), "ns_steps must be at least 0, got -1"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make([torch.zeros(2, 2, requires_grad=True)])
