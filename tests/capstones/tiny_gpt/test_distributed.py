"""Two processes compute what one does: gradients, steps, checkpoints, whole runs."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gpt_processes import (
    KINDS,
    SMALL,
    VOCABULARY,
    Trainer,
    against_torch,
    agreements,
    in_processes,
    interrupted,
    one_dies,
    one_share_empty,
    overflow,
    ten_steps,
    train_run,
)
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UserError
from shared.tensors import unpack
from tiny_gpt.data.batches import Batch
from tiny_gpt.data.prepare import prepare
from tiny_gpt.training import checkpoints
from tiny_gpt.training.checkpoints import load_checkpoint
from tiny_gpt.training.distributed import Copies, World, join

# A bias of the keys has no gradient but rounding, of which Adam would make steps: no biases.
GPT2_ADAMW = replace(SMALL, arch="gpt2", bias=False, optimizer="adamw", lr=3e-3, weight_decay=0.1)
MODERN_MUON = replace(SMALL, momentum=0.8, ns_steps=3)
CASES = {"modern-muon": MODERN_MUON, "gpt2-adamw": GPT2_ADAMW}


def alone(settings, **options):
    return Trainer(settings, World(torch.device("cpu")), **options)


def difference(a, b):
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.fixture(scope="module", params=CASES)
def runs(request, tmp_path_factory):
    """Settings; of each kind of two processes the weights and the curve (loss, tokens, norm)."""
    folder, settings = tmp_path_factory.mktemp("runs"), CASES[request.param]
    first, second = in_processes(ten_steps, folder, settings)
    assert first == second
    return settings, {
        kind: (unpack((folder / kind).read_bytes()), torch.tensor(first[kind])) for kind in KINDS
    }


# ---- tests


@given(n=st.integers(0, 40), size=st.integers(1, 9))
def test_every_row_has_one_process(n, size):
    batch = Batch(torch.arange(n)[:, None], torch.arange(n)[:, None], None, None)
    shares = []
    for rank in range(size):
        world = object.__new__(Copies)
        world.rank, world.size = rank, size
        shares.append(world.rows(batch).inputs)
    assert torch.equal(torch.cat(shares), batch.inputs)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("kind", ["copies", "copies-5-by-1"])
def test_two_processes_equal_one(kind, runs):
    settings, of_kind = runs
    one = alone(settings, rows=KINDS[kind][2]).run(10)
    weights, curve = of_kind[kind]
    torch.testing.assert_close(curve, torch.tensor(one.losses), rtol=0, atol=1e-6)
    assert difference(weights, one.weights()) < 1e-6


@pytest.mark.parametrize("kind", ["slices", "slices-by-1", "slices-recomputed"])
def test_slices_equal_copies(kind, runs):
    weights, curve = runs[1][kind]
    expected, expected_curve = runs[1]["copies"]
    torch.testing.assert_close(curve, expected_curve, rtol=1e-5, atol=1e-5)
    assert difference(weights, expected) < 1e-5


def test_mean_of_equal_shares_is_what_torch_reduces(tmp_path):
    for error, loss in in_processes(against_torch, tmp_path):
        assert error < 1e-7
        assert loss == pytest.approx(math.log(VOCABULARY), rel=1e-5)  # its head starts at zero


def test_processes_agree(tmp_path):
    first, second = in_processes(agreements, tmp_path)
    assert first.pop("failure") == "the disk is full"
    assert second.pop("failure") == "the first process failed, and says why"
    assert first == second
    assert first["any"] == [True, True, False, True]
    assert first["number"] == [0.1, math.pi]
    assert (first["dtype"], first["infinite"], first["waited"]) == ("torch.bfloat16", "inf", "0")
    assert first["weights"] > 0


def test_an_overflow_in_one_slice_stops_all(tmp_path):
    first, second = in_processes(overflow, tmp_path)
    assert first[:4] == second[:4] == [False, True, 4.0, False]
    whole = alone(SMALL).optimizers.params
    assert first[4] + second[4] == sum(len(p) for p in whole)  # slices, not copies


@pytest.mark.parametrize("how", ["ends", "hangs"])
def test_nobody_waits_longer_than_the_timeout(how, tmp_path):
    for seconds in (1, 8, 64):
        found = in_processes(one_dies, tmp_path / str(seconds), how, seconds)
        if None not in found:
            break
    assert found[0] < 100


def test_joining_what_cannot_be_shared_out(monkeypatch):
    assert type(join(SMALL)) is World
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "3"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="batch_size must be at least 1 for each of 3 processes"):
        join(replace(SMALL, batch_size=2))
    with pytest.raises(UserError, match="batch_size must be a multiple of the 3 processes"):
        join(replace(SMALL, strategy="fsdp"))


# ---- whole runs


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    words = ["the", "cat", "saw", "a", "dog", "and", "it", "sat", "on", "mat", "while"]
    generator = torch.Generator().manual_seed(0)
    source = folder / "source.txt"
    picks = torch.randint(len(words), (1500,), generator=generator).tolist()
    source.write_text(" ".join(words[i] for i in picks))
    prepare(source, folder / "data", tokenizer="char", split="tail", workers=1)
    return folder / "data"


def curve(run: Path):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [
        [float(line[name]) for name in ("step", "loss", "grad_norm", "val_loss") if name in line]
        for line in lines
    ]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_run_of_two_equals_a_run_of_one_and_either_goes_on_with_the_other(
    strategy, text, tmp_path
):
    limit = 1e-5 if strategy == "fsdp" else 1e-6
    one = replace(SMALL, steps=12, eval_every=4, save_every=4, samples=0, clip=0.5)
    one = replace(one, out=tmp_path / "one")
    two = replace(one, strategy=strategy, out=tmp_path / "two")
    ends = {run: checkpoints.folder_of(run.out, 12) for run in (one, two)}

    def follows(run):
        for ours, reference in zip(curve(run.out), expected, strict=True):
            assert ours == pytest.approx(reference, rel=0, abs=limit)
        ours, reference = (load_checkpoint(path).model for path in (ends[run], straight))
        for p, q in zip(ours.parameters(), reference.parameters(), strict=True):
            assert float((p - q).detach().abs().max()) < limit

    train_run(tmp_path, text, one)
    expected, straight = curve(one.out), tmp_path / "straight"
    shutil.copytree(ends[one], straight)
    assert in_processes(train_run, tmp_path, text, two) == [[12, True]] * 2
    follows(two)
    for end in ends.values():  # as if interrupted after step 8
        shutil.rmtree(end)
    train_run(tmp_path, text, replace(two, strategy="auto", resume="must"))
    follows(two)
    again = replace(one, strategy=strategy, resume="must")
    assert in_processes(train_run, tmp_path, text, again) == [[12, True]] * 2
    follows(one)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_share_without_a_target_weighs_nothing(strategy, text, tmp_path):
    one = replace(SMALL, steps=6, eval_every=3, save_every=3, samples=0, out=tmp_path / "one")
    one_share_empty(tmp_path, text, one)
    two = replace(one, strategy=strategy, out=tmp_path / "two")
    assert in_processes(one_share_empty, tmp_path, text, two) == [[6, True]] * 2
    for ours, reference in zip(curve(two.out), curve(one.out), strict=True):
        assert ours == pytest.approx(reference, rel=0, abs=1e-5, nan_ok=True)


def test_an_interruption_of_one_stops_both(text, tmp_path):
    settings = replace(SMALL, steps=400, eval_every=0, save_every=0, out=tmp_path / "run")
    assert in_processes(interrupted, tmp_path, text, settings) == [[3, False]] * 2
    assert load_checkpoint(tmp_path / "run").step == 3
