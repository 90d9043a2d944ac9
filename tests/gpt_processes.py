"""What processes do in the tests of tiny_gpt: functions that a new process can import."""

import contextlib
import json
import math
import multiprocessing
import os
import random
import signal
import socket
import sys
import time
import traceback
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
import torch.distributed.fsdp
import torch.nn.functional as F

from shared.errors import UserError
from shared.tensors import pack
from tiny_gpt.data.batches import Batch, Batches
from tiny_gpt.data.shards import open_data
from tiny_gpt.model.gpt import GPT
from tiny_gpt.settings import Settings
from tiny_gpt.training import train
from tiny_gpt.training.distributed import Copies, Slices, join, optimizers_for
from week16.gradient_accumulation import accumulate
from week16.loss_scaling import LossScaler

VOCABULARY = 19


SIZES = {"n_layers": 2, "n_heads": 2, "d_model": 16, "context": 8, "batch_size": 4, "steps": 10}


SMALL = Settings(**SIZES, device="cpu", dtype="fp32", compile="off", resume="never")


def in_processes(action, folder, *args, size=2, timeout=150.0):
    """Run `action(folder, *args)` in processes as torchrun starts them; what each one returned.

    They are not forked from the caller: after a deep backward pass autograd has threads, and
    refuses to work in a fork.
    """
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    if sys.platform == "linux":  # what they import: once, in a process that never computes
        context.set_forkserver_preload(["torch._dynamo", "torch.distributed.fsdp", __name__])
    folder.mkdir(exist_ok=True)
    port = free_port()
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


def free_port():
    """One that no outgoing connection and no server of another test is given meanwhile."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as free:
            port = random.SystemRandom().randrange(12_000, 32_000)
            free.bind(("127.0.0.1", port))
            return port


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


def joined(settings, seconds=120):
    return join(settings, timeout=timedelta(seconds=seconds))


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


KINDS = {"copies": (Copies, None, 4), "copies-5-by-1": (Copies, 1, 5)}


KINDS |= {"slices": (Slices, None, 4), "slices-by-1": (Slices, 1, 4)}


KINDS |= {"slices-recomputed": (Slices, None, 4)}


def ten_steps(folder, settings):
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


def against_torch(folder):
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


def agreements(folder):
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


def overflow(folder):
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


def one_dies(folder, how, seconds):
    """How long the first waits for the second; None where they were too slow to meet."""
    try:
        world = joined(SMALL, seconds)
        world.any(False)
    except RuntimeError:
        return None
    began = time.monotonic()
    if world.rank == 1:
        while how == "hangs" and not list(folder.glob("*-0*")):  # what the first leaves
            time.sleep(0.05)
        return 0.0
    with pytest.raises(RuntimeError):
        world.any(False)
    return time.monotonic() - began


def train_run(folder, data, settings, listener=None):
    outcome = train.train(open_data(data), settings, listener)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return [outcome.step, outcome.finished]


def one_share_empty(folder, data, settings):
    """Rows of the second process never have a target; every third step nobody's have."""
    whole = Batches.__call__

    def some(self, step):
        targets = (batch := whole(self, step)).targets.clone()
        targets[2 if step % 3 else 0 :] = -100
        return batch._replace(targets=targets)

    Batches.__call__ = some  # in a process of its own, or taken back below
    try:
        return train_run(folder, data, settings)
    finally:
        Batches.__call__ = whole


def interrupted(folder, data, settings):
    def kill(step, loss, speed):
        if step == 3 and os.environ["RANK"] == "1":  # only the second process hears of it
            os.kill(os.getpid(), signal.SIGTERM)

    return train_run(folder, data, settings, train.Listener(step=kill))
