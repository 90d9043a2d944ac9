"""FSDP2 is one process's AdamW and our stage 3; what is gathered when is the formula's order."""

import pytest
import torch
from torch import nn

from week17.evidence import zero_worker as work
from week17.fsdp import expected_schedule, peak_parameters, shard
from week17.processes import launch
from week17.zero_measures import stack

SIZES, STEPS, SEED = range(1, 5), 4, 1
ARMS = ("fsdp", "fsdp, accumulated", "fsdp, kept", "ours")


@pytest.fixture(scope="module")
def answers():
    return launch(work.train, 4, STEPS, SEED, ("fsdp",), timeout=280)


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
@pytest.mark.parametrize("kept", [False, True])
def test_schedule(answers, n, kept):
    arm = "fsdp, kept" if kept else "fsdp"
    for answer in answers[:n]:
        events = "".join(map(chr, answer[f"{n} {arm} schedule"].tolist()))
        assert events == "".join(expected_schedule(3, keep_gathered=kept))


@pytest.mark.parametrize("n", [2, 3, 4])
def test_ours_frees_what_it_gathered(answers, n):
    sizes = [sum(p.numel() for p in layer.parameters()) for layer in stack(SEED)]
    for answer in answers[:n]:
        assert int(answer[f"{n} ours most"]) == 8 * peak_parameters(sizes, n)
        events = "".join(map(chr, answer[f"{n} ours schedule"].tolist()))
        assert events == "GGGGG|" + "GS" * 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: shard(nn.Linear(1, 1), []), "blocks must hold at least one module, got none"),
        (lambda: expected_schedule(0), "n_blocks must be at least 1, got 0"),
        (lambda: peak_parameters([], 2), "units must hold at least one size, got none"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_peak_is_all_for_one_process():
    assert peak_parameters([5, 7], 1) == 5 + 7 + 7
    assert torch.tensor(peak_parameters([5, 7], 2)) == 3 + 4 + 8
