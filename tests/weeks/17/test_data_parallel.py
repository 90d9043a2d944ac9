"""Data parallel training is one process's: ragged texts, accumulation, branches, odd numbers."""

import pytest
import torch
from torch import nn

from week17.collectives import Ring, wire_bytes
from week17.data_parallel import DataParallel, buckets, train_step
from week17.evidence import data_parallel_worker as work
from week17.processes import launch

SIZES, STEPS, SEED = range(1, 5), 4, 3


@pytest.fixture(scope="module")
def answers():
    return launch(work.train, 4, STEPS, SEED, (12, 2), timeout=250)


@pytest.fixture(scope="module")
def forks():
    return launch(work.fork, 4, SEED, timeout=100)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("micro_batch", [12, 2])
def test_losses_and_weights_are_one_processs_and_ddps(answers, n, micro_batch):
    truth = work.alone(STEPS, SEED)
    for answer in answers[:n]:
        for key, expected in truth.items():
            for arm in ("ours", "torch"):
                got = answer[f"{n} {micro_batch} {arm} {key}"]
                torch.testing.assert_close(got, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("n", SIZES)
def test_one_all_reduce_a_step_however_many_micro_batches(answers, n):
    for answer in answers[:n]:
        many, one = (answer[f"{n} {size} ours sent"] for size in (2, 12))
        assert int(many) == int(one)
        padded = [8 * (b + -b % n) for b in answer[f"{n} 2 ours buckets"].tolist()]
        expected = sum(wire_bytes(n, b) for b in [*padded, 8 * (2 + -2 % n)])
        assert int(many) == expected


@pytest.mark.parametrize("n", SIZES)
def test_buckets_leave_early(answers, n):
    total = len(answers[0][f"{n} 2 ours buckets"])
    assert int(answers[0][f"{n} 2 ours early"]) == total - 1


@pytest.mark.parametrize("n", SIZES)
def test_processes_may_take_other_branches_or_have_nothing_to_do(forks, n):
    for answer in forks[:n]:
        ours, one = answer[f"{n} ours"], answer[f"{n} one process"]
        torch.testing.assert_close(ours, one, rtol=0, atol=1e-12)


def test_buckets():
    p = [nn.Parameter(torch.zeros(n)) for n in (3, 100, 2, 2)]
    found = [[len(q) for q in bucket] for bucket in buckets(p, most_bytes=20)]
    assert found == [[2, 2], [100], [3]]
    p.append(nn.Parameter(torch.zeros(1, dtype=torch.float64)))
    assert len(buckets(p, most_bytes=10**6)) == 2


def alone(model):
    return DataParallel(model, Ring(None, rank=0, size=1))


def no_tokens(model, batch):
    return model(batch).sum() * 0, 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: buckets([], most_bytes=0), "most_bytes must be at least 1, got 0"),
        (lambda: alone(nn.ReLU()), "model must have a parameter that is trained, got none"),
        (
            lambda: train_step(
                alone(model := nn.Linear(1, 1)),
                torch.optim.SGD(model.parameters()),
                [torch.ones(1, 1)],
                no_tokens,
            ),
            "micro_batches must hold at least one token that counts, got none",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
