"""ZeRO is one process's AdamW at all stages, clipped, with decay groups; bytes are exact."""

import pytest
import torch
from torch import nn

from week17.collectives import Ring, wire_bytes
from week17.evidence import zero_worker as work
from week17.processes import launch
from week17.zero import Zero, formula, traffic
from week17.zero_measures import measure

SIZES, STEPS, SEED = range(1, 5), 5, 2
ARMS = ("stage 0", "stage 1", "stage 2", "stage 3", "stage 3, accumulated", "torch's stage 1")


@pytest.fixture(scope="module")
def answers():
    return launch(work.train, 4, STEPS, SEED, ("zero",), timeout=280)


@pytest.fixture(scope="module")
def half():
    return launch(measure, 4, 2, SEED, 20, timeout=200)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("arm", ARMS)
def test_losses_and_weights_are_one_processs(answers, n, arm):
    truth = work.alone(STEPS, SEED)
    assert truth["norms"].max() > work.MAX_NORM, "clipping must bite"
    for answer in answers[:n]:
        for key in ("losses", "weights"):
            got = answer[f"{n} {arm} {key}"]
            torch.testing.assert_close(got, truth[key], rtol=0, atol=1e-10)


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("stage", range(4))
def test_bytes_are_the_formulas(half, n, stage):
    for answer in half[:n]:
        name = f"{n} stage {stage}"
        padded, own = (int(answer[f"{name} {key}"]) for key in ("parameters", "unpadded"))
        parameters, gradients, states = answer[f"{name} bytes"].tolist()
        assert parameters == 2 * padded / (n if stage == 3 else 1)
        assert gradients == (2 * padded / n if stage >= 2 else 2 * own)
        assert states == 12 * padded / (n if stage else 1)
        assert formula(padded, n, stage) == pytest.approx(
            parameters + states + (gradients if stage >= 2 else 2 * padded)
        )
        assert int(answer[f"{name} sent"]) == traffic(stage) * wire_bytes(n, 2 * padded)


@pytest.mark.parametrize("n", [2, 3, 4])
def test_sixteen_bits_are_the_same_bits_at_all_stages(half, n):
    for answer in half[:n]:
        for stage in (1, 2, 3):
            for key in ("losses", "norm"):
                own, zero = (answer[f"{n} stage {s} {key}"] for s in (stage, 0))
                torch.testing.assert_close(own, zero, rtol=1e-12, atol=0)


def test_formula_of_the_papers_figure():
    gigabytes = [formula(7.5e9, 64, stage) / 1e9 for stage in range(4)]
    assert gigabytes == pytest.approx([120, 31.4, 16.6, 1.9], rel=0.02)


def one(units, **options):
    return Zero(units, Ring(None, rank=0, size=1), **({"stage": 1, "lr": 0.1} | options))


def half_used():
    units = [nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])]
    zero = one(units)
    units[0][0](torch.ones(1, 2)).sum().backward()
    zero.step()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: formula(1.0, 2, 4), "stage must be 0, 1, 2 or 3, got 4"),
        (lambda: traffic(-1), "stage must be 0, 1, 2 or 3, got -1"),
        (lambda: one([nn.Linear(1, 1)], stage=5), "stage must be 0, 1, 2 or 3, got 5"),
        (lambda: one([layer := nn.Linear(1, 1), layer]), "units must not share parameters"),
        (half_used, "all parameters must take part in a backward pass"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
