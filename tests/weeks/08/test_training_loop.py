"""The loop against what its helpers stand for, and against the usual bugs."""

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader

from shared.artifacts import ArtifactError
from week08.loop_by_hand import draw_order, train_by_hand
from week08.training_loop import (
    Scores,
    Table,
    evaluate,
    fit,
    make_loaders,
    make_model,
    prepare,
    split,
    train_epoch,
    warmup_cosine,
)

DEFAULTS = {"batch_size": 8, "lr": 1e-2, "epochs": 4, "classes": 3, "width": 8}


def table(n=40, features=5, classes=3, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, features, generator=generator, dtype=dtype)
    return Table(x, (x[:, :classes] * 2).argmax(dim=1))


def prepared(n=40, seed=0, **options):
    return prepare(table(n), table(16, seed=1), seed=seed, **{**DEFAULTS, **options})


def constant_rate(optimizer):
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)


# ---- the data


@settings(max_examples=8)
@given(n=st.integers(1, 30), batch=st.integers(1, 35), seed=st.integers(0, 9))
def test_loader_takes_the_rows_in_a_seeded_permutation(n, batch, seed):
    rows = Table(torch.arange(float(n))[:, None], torch.arange(n))
    loader, _ = make_loaders(rows, rows, batch_size=batch, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        expected = draw_order(n, generator).split(batch)
        found = [labels for _, labels in loader]
        assert [len(f) for f in found] == [len(e) for e in expected]
        torch.testing.assert_close(torch.cat(found), torch.cat(expected), rtol=0, atol=0)


def test_split_is_disjoint_and_complete():
    rows = table(20)
    parts = split(rows.x, rows.y, parts=(12, 5, 3), seed=3)
    assert [len(p) for p in parts] == [12, 5, 3]
    together = torch.cat([p.x for p in parts])
    assert {tuple(r) for r in together.tolist()} == {tuple(r) for r in rows.x.tolist()}
    assert all(torch.equal(p.y, (p.x[:, :3] * 2).argmax(dim=1)) for p in parts)
    again = split(rows.x, rows.y, parts=(12, 5, 3), seed=3)
    assert torch.equal(again[0].x, parts[0].x)
    assert not torch.equal(split(rows.x, rows.y, parts=(12, 5, 3), seed=4)[0].x, parts[0].x)


def test_loaders_leave_the_global_stream_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for loader in make_loaders(table(), table(), batch_size=8, seed=0):
        list(loader)
    assert torch.equal(torch.get_rng_state(), before)


# ---- evaluation


@settings(max_examples=8)
@given(n=st.integers(1, 23), batch=st.integers(1, 25))
def test_evaluation_does_not_depend_on_the_batches(n, batch):
    from sklearn.metrics import accuracy_score, log_loss

    rows = table(n)
    torch.manual_seed(1)
    model = make_model(5, 3, width=6, dropout=0.5).double()
    scores = evaluate(model, DataLoader(rows, batch_size=batch))
    with torch.no_grad():
        p = model.eval()(rows.x).softmax(dim=1).numpy()
    assert scores.loss == pytest.approx(log_loss(rows.y, p, labels=[0, 1, 2]), abs=1e-12)
    assert scores.accuracy == pytest.approx(accuracy_score(rows.y, p.argmax(1)), abs=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_evaluation_changes_nothing(training):
    model = make_model(5, 3).double().train(training)
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    graphs = []
    model.register_forward_hook(lambda module, inputs, output: graphs.append(output.requires_grad))
    evaluate(model, make_loaders(table(), table(), batch_size=8, seed=0)[1])
    assert model.training is training
    assert set(graphs) == {False}
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


# ---- the steps


def test_epoch_equals_softmax_regression_in_numpy():
    rows = table(20)
    torch.manual_seed(0)
    model = nn.Linear(5, 3).double()
    w, b = (p.detach().numpy().copy() for p in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    loader = DataLoader(rows, batch_size=8)
    losses = train_epoch(model, loader, optimizer, constant_rate(optimizer), clip=0.4)
    expected, lengths = [], []
    for start in (0, 8, 16):
        x, onehot = rows.x[start : start + 8].numpy(), np.eye(3)[rows.y[start : start + 8]]
        p = np.exp(x @ w.T + b)
        p /= p.sum(1, keepdims=True)
        expected.append(-np.log((p * onehot).sum(1)).mean())
        slope = (p - onehot) / len(x)
        dw, db = slope.T @ x, slope.sum(0)
        lengths.append(math.sqrt((dw**2).sum() + (db**2).sum()))
        factor = min(1.0, 0.4 / (lengths[-1] + 1e-6))
        w, b = w - 0.3 * factor * dw, b - 0.3 * factor * db
    assert max(lengths) > 0.4, "nothing was clipped"
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    np.testing.assert_allclose(model.weight.detach(), w, rtol=1e-12)
    np.testing.assert_allclose(model.bias.detach(), b, rtol=1e-12)


@settings(max_examples=8)
@given(
    n=st.sampled_from([16, 19, 33]),
    batch=st.sampled_from([5, 8, 40]),
    dropout=st.sampled_from([0.0, 0.4]),
    clip=st.sampled_from([0.1, 1e9]),
    weight_decay=st.sampled_from([0.0, 0.3]),
)
def test_helpers_take_the_same_steps_as_by_hand(n, batch, dropout, clip, weight_decay):
    if n % batch == 1:
        n += 1  # batch norm refuses a batch of one
    options = {"batch_size": batch, "lr": 1e-2, "weight_decay": weight_decay, "dropout": dropout}
    rows = table(n)
    training, _ = prepare(rows, rows, epochs=3, seed=2, classes=3, width=6, **options)
    weights = {k: t.clone() for k, t in training.model.state_dict().items() if t.ndim}
    torch.manual_seed(9)
    losses = []
    for _ in range(3):
        losses += train_epoch(
            training.model, training.loader, training.optimizer, training.scheduler, clip=clip
        )
    seeds = {k: torch.Generator().manual_seed(s) for k, s in (("order", 2), ("masks", 9))}
    by_hand = train_by_hand(weights, rows.x, rows.y, epochs=3, clip=clip, **options, **seeds)
    np.testing.assert_allclose(by_hand, losses, atol=1e-9)
    # the bias before a batch norm has no gradient but rounding, which Adam blows up to a step
    for name in weights.keys() - {"0.bias", "1.running_mean"}:
        torch.testing.assert_close(
            weights[name], training.model.state_dict()[name], atol=1e-7, rtol=0
        )


@pytest.mark.parametrize(("total", "warmup"), [(10, 0), (10, 3), (60, 7), (2, 1)])
def test_schedule_equals_torch(total, warmup):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = torch.optim.lr_scheduler
    ours = [warmup_cosine(i, total=total, warmup=warmup) for i in range(total)]
    rest = schedule.CosineAnnealingLR(optimizer, total - warmup)
    if warmup:
        start = schedule.LinearLR(optimizer, 1 / (warmup + 1), 1.0, total_iters=warmup)
        rest = schedule.SequentialLR(optimizer, [start, rest], milestones=[warmup])
    for factor in ours:
        assert factor == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        rest.step()
    assert max(ours) == 1
    assert min(ours) > 0
    assert warmup_cosine(total, total=total, warmup=warmup) == pytest.approx(0, abs=1e-15)


def test_every_rate_of_the_schedule_is_used_once():
    training, valid = prepared()
    rates = []
    training.optimizer.register_step_pre_hook(
        lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"])
    )
    fit(training, valid, epochs=4)
    expected = [1e-2 * warmup_cosine(i, total=20, warmup=5) for i in range(20)]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)


# ---- the loop


def test_best_weights_are_those_with_the_lowest_validation_loss():
    training, valid = prepared(epochs=30, lr=0.3)
    fit(training, valid, epochs=30)
    losses = [scores.loss for scores in training.valid]
    assert training.best_epoch == 1 + int(np.argmin(losses)) < 30
    assert evaluate(training.model, valid).loss == min(losses) == training.best_loss


@pytest.mark.parametrize("patience", [1, 3])
def test_early_stopping_waits_as_long_as_told(patience):
    training, valid = prepared(epochs=60, lr=0.3)
    fit(training, valid, epochs=60, patience=patience)
    assert training.epoch == training.best_epoch + patience < 60
    losses = [scores.loss for scores in training.valid]
    for epoch in range(1, training.epoch):  # and not earlier
        assert epoch - (1 + int(np.argmin(losses[:epoch]))) < patience


def test_same_seed_same_run_and_other_seed_another():
    runs = [fit(*prepared(seed=seed), epochs=4).losses for seed in (0, 0, 1)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


# ---- checkpoints


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resumed_run_equals_the_straight_one_bit_by_bit(tmp_path, stop):
    straight = fit(*prepared(), epochs=4)
    fit(*prepared(), epochs=stop, folder=tmp_path / "run")
    training, valid = prepared(seed=77)  # nothing of this seed may survive
    training.load(tmp_path / "run")
    assert training.epoch == stop
    fit(training, valid, epochs=4)
    assert training.losses == straight.losses
    assert training.valid == straight.valid
    assert all(isinstance(scores, Scores) for scores in training.valid)
    assert training.best_epoch == straight.best_epoch
    for name, t in straight.model.state_dict().items():
        assert torch.equal(t, training.model.state_dict()[name])


def test_checkpoint_is_safetensors_and_torn_ones_are_refused(tmp_path):
    training, valid = prepared()
    fit(training, valid, epochs=1, folder=tmp_path / "run")
    file = tmp_path / "run" / "tensors.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"tensors.safetensors was altered or is torn"):
        training.load(tmp_path / "run")


# ---- wrong input


def test_a_loss_that_is_not_finite_stops_the_run():
    training, valid = prepared()
    with torch.no_grad():
        training.model[4].bias[0] = math.nan
    with pytest.raises(FloatingPointError, match="the loss is nan after 0 steps"):
        fit(training, valid, epochs=1)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: fit(*prepared(), epochs=0), "epochs must be at least 1, got 0"),
        (lambda: fit(*prepared(), epochs=1, patience=0), "patience must be at least 1, got 0"),
        (lambda: prepared(batch_size=0), "batch_size must be at least 1, got 0"),
        (
            lambda: split(table().x, table().y, parts=(30,), seed=0),
            r"parts must be positive and sum to 40 rows, got \(30,\)",
        ),
        (lambda: table(n=0), "x must hold at least one row"),
        (
            lambda: warmup_cosine(0, total=5, warmup=5),
            "warmup must be between 0 and total - 1 = 4, got 5",
        ),
        (lambda: draw_order(0, torch.Generator()), "n must be at least 1, got 0"),
    ],
)
def test_wrong_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
