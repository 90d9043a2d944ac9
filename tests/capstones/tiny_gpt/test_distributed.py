"""Two processes compute what one does: gradients, steps, checkpoints, whole runs."""

import json
import math
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch._dynamo  # what several processes import: once, not in every fork
import torch.distributed.fsdp
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UserError
from shared.tensors import pack, unpack
from tiny_gpt.data.batches import Batch, Batches
from tiny_gpt.data.prepare import prepare
from tiny_gpt.data.shards import open_data
from tiny_gpt.model.gpt import GPT
from tiny_gpt.settings import Settings
from tiny_gpt.training import checkpoints, train
from tiny_gpt.training.checkpoints import load_checkpoint
from tiny_gpt.training.distributed import Copies, Slices, World, join, optimizers_for
from week16.gradient_accumulation import accumulate
from week16.loss_scaling import LossScaler

VOCABULARY = 19
SIZES = {"n_layers": 2, "n_heads": 2, "d_model": 16, "context": 8, "batch_size": 4, "steps": 10}
SMALL = Settings(**SIZES, device="cpu", dtype="fp32", compile="off", resume="never")
# A bias of the keys has no gradient but rounding, of which Adam would make steps: no biases.
GPT2_ADAMW = replace(SMALL, arch="gpt2", bias=False, optimizer="adamw", lr=3e-3, weight_decay=0.1)
CASES = {"modern-muon": SMALL, "gpt2-adamw": GPT2_ADAMW}


# ---- two processes


def in_processes(action, folder, *args, size=2, timeout=60.0):
    """Run `action(folder, *args)` in processes as torchrun starts them; what each one returned."""
    # A fork has everything imported already; a CUDA context does not survive it.
    fork = sys.platform == "linux" and not torch.cuda.is_initialized()
    context = multiprocessing.get_context("fork" if fork else "spawn")
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=_child, args=(rank, size, port, action, folder, args), daemon=True)
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + timeout
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
        if process.is_alive():
            process.kill()
            process.join()
    errors = [path.read_text() for path in sorted(folder.glob("error-*"))]
    assert not errors, "\n".join(errors)
    assert [process.exitcode for process in processes] == [0] * size
    return [json.loads((folder / f"result-{rank}.json").read_text()) for rank in range(size)]


def _child(rank, size, port, action, folder, args):
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    try:
        result = action(folder, *args)
        (folder / f"result-{rank}.json").write_text(json.dumps(result))
    except BaseException:
        (folder / f"error-{rank}").write_text(f"process {rank}:\n{traceback.format_exc()}")
        os._exit(1)


def joined(settings, seconds=30):
    return join(settings, timeout=timedelta(seconds=seconds))


# ---- a training step without files


def batch_of(step: int, n: int = 4, context: int = 8) -> Batch:
    """Rows with very unequal numbers of targets that count; the last rows have the fewest."""
    generator = torch.Generator().manual_seed(100 + step)
    rows = torch.randint(VOCABULARY, (n, context + 1), generator=generator)
    targets = rows[:, 1:].clone()
    for row in range(n):
        targets[row, context - (5 * row) % context - (row == 0) :] = -100
    targets[:, 0] = rows[:, 1]
    return Batch(rows[:, :-1], targets, None, None)


def loss_sum(model, batch):
    logits = model(batch.inputs).flatten(0, 1)
    n = (batch.targets != -100).sum()
    return F.cross_entropy(logits, batch.targets.flatten(), reduction="sum"), n


class Trainer:
    """What `train` does in a step, on batches made up here."""

    def __init__(self, settings, world, micro=None, rows=4):
        self.world, self.micro, self.rows = world, micro, rows
        self.model = GPT(settings.model_config(VOCABULARY), torch.Generator().manual_seed(1))
        self.model.checkpoint_blocks = settings.checkpoint_activations
        self.computed = world.wrap(self.model, settings)
        self.optimizers = optimizers_for(self.model, settings, world)
        self.step, self.losses = 0, []

    def gradients(self):
        own = self.world.rows(batch_of(self.step, self.rows))
        size = self.micro or len(own.inputs)
        loss, tokens = accumulate(self.computed, train.pieces(own, size), loss_sum)
        return self.world.mean_gradients(self.optimizers.params, loss, tokens)

    def run(self, steps, clip=0.5):
        for _ in range(steps):
            loss, tokens = self.gradients()
            norm = self.optimizers.gradient_norm()
            self.losses.append((loss, tokens, float(norm)))
            self.optimizers.clip(norm, clip)
            self.optimizers.step()
            self.step += 1
        return self

    def weights(self):
        whole = self.world.gathered(self.model)
        return {name: p.detach().clone() for name, p in whole.named_parameters()}


def alone(settings, **options):
    return Trainer(settings, World(torch.device("cpu")), **options)


def difference(a, b):
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


KINDS = {"copies": (Copies, None, 4), "copies-5-by-1": (Copies, 1, 5)}
KINDS |= {"slices": (Slices, None, 4), "slices-by-1": (Slices, 1, 4)}
KINDS |= {"slices-recomputed": (Slices, None, 4)}


def _ten_steps(folder, settings):
    device, curves = joined(settings).device, {}
    for kind, (world, micro, rows) in KINDS.items():
        chosen = replace(settings, checkpoint_activations=kind.endswith("recomputed"))
        trainer = Trainer(chosen, world(device), micro, rows).run(10)
        weights = trainer.weights()
        if trainer.world.rank == 0:
            (folder / kind).write_bytes(pack(weights))
        curves[kind] = trainer.losses
    trainer.world.leave()
    return curves


@pytest.fixture(scope="module", params=CASES)
def runs(request, tmp_path_factory):
    """Settings; of each kind of two processes the weights and the curve (loss, tokens, norm)."""
    folder, settings = tmp_path_factory.mktemp("runs"), CASES[request.param]
    first, second = in_processes(_ten_steps, folder, settings)
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


def _against_torch(folder):
    world = joined(SMALL)
    model = GPT(SMALL.model_config(VOCABULARY), torch.Generator().manual_seed(1))
    rows = torch.randint(VOCABULARY, (4, 9), generator=torch.Generator().manual_seed(0))
    own = world.rows(Batch(rows[:, :-1], rows[:, 1:], None, None))
    ddp = torch.nn.parallel.DistributedDataParallel(model)
    F.cross_entropy(ddp(own.inputs).flatten(0, 1), own.targets.flatten()).backward()
    theirs = [p.grad.clone() for p in model.parameters()]
    params = list(model.parameters())
    loss, tokens = world.mean_gradients(params, *accumulate(model, [own], loss_sum))
    assert tokens == 32
    world.leave()
    return max(float((p.grad - g).abs().max()) for p, g in zip(params, theirs, strict=True)), loss


def test_mean_of_equal_shares_is_what_torch_reduces(tmp_path):
    for error, loss in in_processes(_against_torch, tmp_path):
        assert error < 1e-7
        assert loss == pytest.approx(math.log(VOCABULARY), rel=1e-5)  # its head starts at zero


def _agreements(folder):
    world = joined(SMALL)
    rank, seen = world.rank, {}
    seen["any"] = [world.any(rank == 1), world.any(rank == 0), world.any(False), world.any(True)]
    seen["number"] = [world.broadcast(0.1 + rank), world.broadcast(math.pi if rank == 0 else -1)]
    dtype = (torch.bfloat16, torch.float32)[rank]
    seen["dtype"] = str(world.agreed(dtype))
    seen["infinite"] = str(world.broadcast(math.inf if rank == 0 else math.nan))

    def late():
        time.sleep(0.3)
        (folder / "written").write_text(str(rank))

    world.first_only(late)
    seen["waited"] = (folder / "written").read_text()

    def full():
        raise UserError("the disk is full")

    with pytest.raises(UserError) as caught:
        world.first_only(full)
    seen["failure"] = str(caught.value)
    model = GPT(SMALL.model_config(VOCABULARY), torch.Generator().manual_seed(rank))
    world.wrap(model, SMALL)
    seen["weights"] = float(sum(p.double().abs().sum() for p in model.parameters()))
    world.leave()
    assert not torch.distributed.is_initialized()
    return seen


def test_processes_agree(tmp_path):
    first, second = in_processes(_agreements, tmp_path)
    assert first.pop("failure") == "the disk is full"
    assert second.pop("failure") == "the first process failed, and says why"
    assert first == second
    assert first["any"] == [True, True, False, True]
    assert first["number"] == [0.1, math.pi]
    assert (first["dtype"], first["infinite"], first["waited"]) == ("torch.bfloat16", "inf", "0")
    assert first["weights"] > 0


def _overflow(folder):
    """An infinity in one process's slice must keep all from stepping."""
    world = joined(SMALL)
    trainer = Trainer(replace(SMALL, strategy="fsdp"), Slices(world.device))
    trainer.gradients()
    if world.rank == 1:
        trainer.optimizers.params[0].grad.to_local()[-1] = torch.inf
    before = trainer.model.embed.weight.to_local().detach().clone()
    scaler = LossScaler(8.0)
    sgd = torch.optim.SGD(trainer.optimizers.params, lr=1.0)
    scaler.unscale(sgd)
    norm = float(trainer.optimizers.gradient_norm())
    stepped = scaler.step(sgd)
    same = torch.equal(before, trainer.model.embed.weight.to_local())
    rows = [len(p.to_local()) for p in trainer.optimizers.params]
    world.leave()
    return [stepped, same, scaler.scale, math.isfinite(norm), sum(rows)]


def test_an_overflow_in_one_slice_stops_all(tmp_path):
    first, second = in_processes(_overflow, tmp_path)
    assert first[:4] == second[:4] == [False, True, 4.0, False]
    whole = alone(SMALL).optimizers.params
    assert first[4] + second[4] == sum(len(p) for p in whole)  # slices, not copies


def _one_dies(folder, how):
    world = joined(SMALL, seconds=1)
    world.any(False)
    began = time.monotonic()
    if world.rank == 1:
        if how == "hangs":
            time.sleep(2.5)
        return 0.0
    with pytest.raises(RuntimeError):
        world.any(False)
    return time.monotonic() - began


@pytest.mark.parametrize("how", ["ends", "hangs"])
def test_nobody_waits_longer_than_the_timeout(how, tmp_path):
    first, _ = in_processes(_one_dies, tmp_path, how)
    assert first < 2.4


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


def _train(folder, data, settings, listener=None):
    outcome = train.train(open_data(data), settings, listener)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return [outcome.step, outcome.finished]


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

    _train(tmp_path, text, one)
    expected, straight = curve(one.out), tmp_path / "straight"
    shutil.copytree(ends[one], straight)
    assert in_processes(_train, tmp_path, text, two) == [[12, True]] * 2
    follows(two)
    for end in ends.values():  # as if interrupted after step 8
        shutil.rmtree(end)
    _train(tmp_path, text, replace(two, strategy="auto", resume="must"))
    follows(two)
    again = replace(one, strategy=strategy, resume="must")
    assert in_processes(_train, tmp_path, text, again) == [[12, True]] * 2
    follows(one)


def _one_share_empty(folder, data, settings):
    """Rows of the second process never have a target; every third step nobody's have."""
    whole = Batches.__call__

    def some(self, step):
        targets = (batch := whole(self, step)).targets.clone()
        targets[2 if step % 3 else 0 :] = -100
        return batch._replace(targets=targets)

    Batches.__call__ = some  # in a process of its own, or taken back below
    try:
        return _train(folder, data, settings)
    finally:
        Batches.__call__ = whole


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_share_without_a_target_weighs_nothing(strategy, text, tmp_path):
    one = replace(SMALL, steps=6, eval_every=3, save_every=3, samples=0, out=tmp_path / "one")
    _one_share_empty(tmp_path, text, one)
    two = replace(one, strategy=strategy, out=tmp_path / "two")
    assert in_processes(_one_share_empty, tmp_path, text, two) == [[6, True]] * 2
    for ours, reference in zip(curve(two.out), curve(one.out), strict=True):
        assert ours == pytest.approx(reference, rel=0, abs=1e-5, nan_ok=True)


def _interrupted(folder, data, settings):
    def kill(step, loss, speed):
        if step == 3 and os.environ["RANK"] == "1":  # only the second process hears of it
            os.kill(os.getpid(), signal.SIGTERM)

    return _train(folder, data, settings, train.Listener(step=kill))


def test_an_interruption_of_one_stops_both(text, tmp_path):
    settings = replace(SMALL, steps=400, eval_every=0, save_every=0, out=tmp_path / "run")
    assert in_processes(_interrupted, tmp_path, text, settings) == [[3, False]] * 2
    assert load_checkpoint(tmp_path / "run").step == 3
