"""NT-Xent by its definition, by cross-entropy and over ranks; views; and its judge."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms.functional import InterpolationMode, affine

from shared import records
from shared.run import Run
from week25.evidence import simclr as judge
from week25.shrunk_mnist import Split
from week25.simclr import (
    Augmentation,
    SimCLR,
    alignment,
    linear_probe,
    nt_xent,
    nt_xent_loops,
    row_losses,
    train,
    transform,
    uniformity,
)

seeds = st.integers(0, 9999)


def chance(seed):
    return torch.Generator().manual_seed(seed)


def pairs(seed, n, dim):
    both = torch.randn(2, n, dim, generator=chance(seed), dtype=torch.double)
    return both.requires_grad_().unbind()


# ---- losses


@given(seeds, st.integers(1, 6), st.integers(1, 5), st.floats(0.05, 5))
def test_nt_xent_is_a_masked_cross_entropy(seed, n, dim, temperature):
    a, b = pairs(seed, n, dim)
    z = F.normalize(torch.cat([a, b]), dim=1)
    scores = (z @ z.T / temperature).fill_diagonal_(-math.inf)
    reference = F.cross_entropy(scores, torch.arange(2 * n).roll(n))
    found = nt_xent(a, b, temperature=temperature)
    slow = nt_xent_loops(a, b, temperature=temperature)
    torch.testing.assert_close(found, reference)
    torch.testing.assert_close(slow, reference)
    grads = [torch.cat(torch.autograd.grad(loss, (a, b))) for loss in (found, reference)]
    torch.testing.assert_close(*grads, atol=1e-10, rtol=1e-7)


def test_known_values():
    e = torch.eye(2)  # two orthogonal pairs
    assert nt_xent(e, e, temperature=0.5).item() == pytest.approx(
        0.2395, abs=1e-4
    )  # .8201 with the diagonal
    for n in (1, 2, 9):
        same = torch.ones(n, 3)
        assert nt_xent(same, same).item() == pytest.approx(math.log(2 * n - 1), abs=1e-6)


@given(seeds, st.integers(2, 6))
def test_order_and_length_change_nothing(seed, n):
    a, b = pairs(seed, n, 4)
    order = torch.randperm(n, generator=chance(seed))
    whole = nt_xent(a, b)
    torch.testing.assert_close(nt_xent(a[order], b[order]), whole)
    torch.testing.assert_close(nt_xent(b, a), whole)
    torch.testing.assert_close(nt_xent(3 * a, 0.1 * b), whole)
    assert not torch.isclose(nt_xent(a, b.roll(1, 0)), whole)


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_are_one_process(ranks):
    a, b = pairs(1, 6, 3)
    n, own = 6 // ranks, torch.arange(6)
    everything, total = torch.cat([a, b]), 0
    for rank in range(ranks):
        rows = own[rank * n : (rank + 1) * n]
        mine, partner = torch.cat([rows, rows + 6]), torch.cat([rows + 6, rows])
        losses = row_losses(everything[mine], everything, mine, partner, temperature=0.5)
        total = total + losses.mean() / ranks
    torch.testing.assert_close(total, nt_xent(a, b))
    grads = [torch.cat(torch.autograd.grad(loss, (a, b))) for loss in (total, nt_xent(a, b))]
    torch.testing.assert_close(*grads)


def test_the_judges_ranks_lose_gradient_only_where_it_is_not_carried():
    a, b = pairs(2, 8, 3)
    whole = torch.cat(torch.autograd.grad(nt_xent(a, b), (a, b)))
    torch.testing.assert_close(judge.rank_gradients(a, b, carried=True), whole)
    lost = judge.rank_gradients(a, b, carried=False)
    assert (lost - whole).norm() > 0.02 * whole.norm()


@given(seeds, st.integers(2, 6), st.floats(0.1, 4))
def test_alignment_and_uniformity_by_loops(seed, n, t):
    a, b = (x.detach() for x in pairs(seed, n, 3))
    u, v = F.normalize(a, dim=1), F.normalize(b, dim=1)
    apart = sum((u[i] - v[i]).square().sum() for i in range(n)) / n
    torch.testing.assert_close(alignment(a, b), apart)
    kernel = [(-t * (u[i] - u[j]).square().sum()).exp() for i in range(n) for j in range(i)]
    torch.testing.assert_close(uniformity(a, t=t), torch.stack(kernel).mean().log())


# ---- views


@settings(max_examples=20)
@given(seeds, st.floats(-180, 180), st.floats(0.5, 1.0))
def test_turned_windows_are_torchvisions(seed, degrees, side):
    x = torch.rand(2, 1, 14, 14, generator=chance(seed))
    one = torch.ones(2)
    found = transform(x, side * one, torch.zeros(2, 2), degrees * one, one)
    options = {"translate": [0, 0], "shear": [0.0], "interpolation": InterpolationMode.BILINEAR}
    theirs = affine(x, angle=-degrees, scale=1 / side, **options)
    torch.testing.assert_close(found, theirs, atol=2e-3, rtol=0)


def test_quarter_turns_and_gains():
    x = torch.rand(4, 2, 5, 5, generator=chance(0))
    gain = torch.tensor([1.0, 2.0, 0.5, 1.0])
    found = transform(x, torch.ones(4), torch.zeros(4, 2), torch.arange(4) * 90.0, gain)
    reference = torch.stack([gain[i] * x[i].rot90(i, (1, 2)) for i in range(4)])
    torch.testing.assert_close(found, reference, atol=1e-5, rtol=1e-5)


def test_windows_move_right_and_down():
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 3, 2] = 1  # of the lower right quarter, the lower left pixel
    half, center = torch.tensor([0.5]), torch.tensor([[0.5, 0.5]])
    found = transform(x, half, center, torch.zeros(1), torch.ones(1))[0, 0]
    assert found.argmax() in (8, 12)
    assert found[2:, :2].sum() > 2 * found[:2].sum()
    assert found[2:, 2:].sum() < found[2:, :2].sum()


@given(seeds, st.floats(0.3, 1.0), st.floats(0, 0.9))
def test_views_stay_inside_the_picture(seed, smallest, contrast):
    x = torch.ones(50, 1, 8, 8)
    views = Augmentation(smallest, turns=1, contrast=contrast)(x, chance(seed))
    assert torch.allclose(views, views[:, :, 4:5, 4:5].expand_as(views), atol=0.6)
    inner = views[:, 0, 1:-1, 1:-1]
    gains = inner.mean((1, 2))
    torch.testing.assert_close(inner, gains[:, None, None].expand_as(inner), atol=1e-4, rtol=1e-4)
    assert 1 - contrast - 1e-4 <= gains.min()
    assert gains.max() <= 1 + contrast + 1e-4


def test_views_differ_and_are_decided_by_the_generator():
    x = torch.rand(40, 1, 14, 14, generator=chance(0))
    g, augment = chance(1), Augmentation()
    first, second = augment(x, g), augment(x, g)
    assert not torch.allclose(first, second)
    assert torch.equal(first, augment(x, chance(1)))
    assert torch.allclose(Augmentation(1.0, 1, 0.0)(x, g), x, atol=1e-5)


def test_all_quarters_are_drawn_and_no_others():
    x = torch.rand(1, 1, 6, 6, generator=chance(0)).expand(60, 1, 6, 6)
    views = Augmentation(1.0, 4, 0.0)(x, chance(0))
    turns = torch.stack([x[0].rot90(k, (1, 2)) for k in range(4)])
    apart = (views[:, None] - turns[None]).abs().amax((2, 3, 4))
    assert apart.min(1).values.max() < 1e-4
    assert len(apart.argmin(1).unique()) == 4


# ---- networks and training


@pytest.mark.parametrize(("head", "layers"), [("none", 0), ("linear", 1), ("mlp", 2)])
def test_heads(head, layers):
    model = SimCLR(head, generator=chance(0))
    assert sum(isinstance(m, torch.nn.Linear) for m in model.modules()) == layers
    h, z = model.frozen(torch.rand(3, 1, 14, 14))
    assert torch.equal(h, z) == (head == "none")
    assert not h.requires_grad
    assert not model.training


def test_one_picture_in_use_is_as_in_a_batch():
    model, x = SimCLR(generator=chance(0)), torch.rand(5, 1, 14, 14, generator=chance(1))
    model(x)  # a step of its batch statistics
    whole, alone = model.frozen(x)[1], torch.cat([model.frozen(x[[i]])[1] for i in range(5)])
    torch.testing.assert_close(whole, alone)


def test_training_pairs_views_of_one_picture_and_steps_as_torch(monkeypatch):
    x = torch.rand(9, 1, 8, 8, generator=chance(0))
    seen = []

    def loss_of(a, b):
        seen.append((a.detach(), b.detach()))
        return nt_xent(a, b)

    model = SimCLR(generator=chance(1))
    same = lambda batch, g: batch  # noqa: E731
    options = {"lr": 0.01, "steps": 3, "generator": chance(2), "batch_size": 5}
    losses = train(model, x, same, loss_of=loss_of, **options)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in seen)  # equal views have equal z
    assert losses.shape == (3,)
    assert model.training


def test_without_negatives_all_becomes_one_point():
    x = torch.rand(64, 1, 8, 8, generator=chance(0))
    options = {"lr": 0.01, "steps": 40, "batch_size": 32}
    spread = []
    for loss_of in (alignment, nt_xent):
        model = SimCLR(generator=chance(1))
        train(model, x, Augmentation(), loss_of=loss_of, generator=chance(2), **options)
        spread.append(float(uniformity(model(x)[1].detach())))
    assert spread[0] > -0.05
    assert spread[1] < -0.5


def test_the_probe_is_scikit_learns():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    g = chance(3)
    y = torch.arange(120) % 3
    h = torch.randn(120, 4, generator=g) * torch.tensor([1.0, 10.0, 0.1, 1.0])
    h[:, 0] += y
    scaler = StandardScaler().fit(h[:80])
    theirs = LogisticRegression(C=0.1, tol=1e-8).fit(scaler.transform(h[:80]), y[:80])
    expected = 100 * theirs.score(scaler.transform(h[80:]), y[80:])
    assert linear_probe(h[:80], y[:80], h[80:], y[80:]) == pytest.approx(expected, abs=2.6)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: nt_xent(torch.ones(2, 3), torch.ones(3, 3)), r"b must be floats of shape \(n = 2"),
        (lambda: nt_xent(torch.ones(2, 3), torch.ones(2, 3), temperature=0), "must be positive"),
        (lambda: nt_xent(torch.ones(0, 3), torch.ones(0, 3)), "a must have at least 1 row, got 0"),
        (lambda: uniformity(torch.ones(1, 3)), "z must have at least 2 rows, got 1"),
        (lambda: Augmentation(smallest=0), r"smallest must be in \(0, 1\], got 0"),
        (lambda: Augmentation(turns=0), "turns must be at least 1, got 0"),
        (lambda: Augmentation(contrast=1), r"contrast must be in \[0, 1\), got 1"),
        (lambda: SimCLR("deep", generator=chance(0)), 'head must be "none", "linear" or "mlp"'),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


# ---- the judge


def test_the_judges_losses():
    a, b = (x.detach() for x in pairs(5, 4, 3))
    assert judge.loss_of("no negatives")(a, b) == alignment(a, b)
    assert judge.loss_of("SimCLR")(a, b) == nt_xent(a, b)
    assert judge.loss_of("partners shuffled")(a, b) == nt_xent(a, b.roll(1, 0))
    torch.testing.assert_close(
        judge.masked_cross_entropy(a, b, 0.3), nt_xent(a, b, temperature=0.3)
    )


def test_judging_by_made_up_features(tmp_path, monkeypatch):
    x, y = torch.zeros(40, 1, 14, 14), torch.arange(40) % 10
    right = {"untrained": 50.0, "SimCLR": 60.0, "partners shuffled": 50.0, "no negatives": 45.0}
    spread = {"untrained": -0.3, "SimCLR": -2.0, "partners shuffled": -0.1, "no negatives": 0.0}
    order = [arm for _ in range(3) for arm in right]
    kinds, jitter = iter(order), iter(range(99))
    spreads = iter([spread[arm] for arm in order])

    def fake_train(model, x, augment, *, steps, loss_of, **options):
        falling = loss_of in (nt_xent, alignment)
        return torch.linspace(4, 3, steps) if falling else torch.full((steps,), 4.0)

    monkeypatch.setattr(judge, "split", lambda *sizes: Split(x, y, x, y))
    monkeypatch.setattr(judge, "train", fake_train)
    probed = lambda *parts: right[next(kinds)] + next(jitter) / 100  # noqa: E731
    monkeypatch.setattr(judge, "linear_probe", probed)
    monkeypatch.setattr(judge, "uniformity", lambda z: torch.tensor(next(spreads)))
    monkeypatch.setattr(judge, "draw", lambda *found: None)
    monkeypatch.setattr(judge, "show_views", lambda *found: None)
    run = Run(records.ROOT / "weeks" / "25" / "simclr.py", out=tmp_path, quiet=True)
    judge.learn(run, 3, 20, 10)
    assert [c["verdict"] for c in run.claims] == ["holds", "holds", "holds"]
    assert run.claims[0]["mean"] == pytest.approx(0.895, abs=0.01)
    assert run.claims[1]["mean"] == pytest.approx(10, abs=0.1)
    assert all(f["broken"] for f in run.falsifiers)
