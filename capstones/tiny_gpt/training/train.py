"""Training: the loop, and that it goes on after any interruption.

Nothing in a step depends on what came before but the weights, the optimizers' buffers and the few
numbers in a checkpoint: batch, learning rate and dropout masks are functions of (seed, step). So a
run that was stopped anywhere continues to the same bytes, whatever number of processes read the
data.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from tiny_gpt.data.batches import IGNORED, Batch
from tiny_gpt.data.shards import PreparedData
from tiny_gpt.settings import Settings
from tiny_gpt.training import distributed
from tiny_gpt.training.evaluate import evaluate
from tiny_gpt.training.log import finite
from tiny_gpt.training.optimizers import learning_rate
from tiny_gpt.training.precision import loss_sum
from tiny_gpt.training.state import Diverged, State, begin
from tiny_gpt.training.stopping import Interruption, one_writer, refuse_to_mix
from week16.gradient_accumulation import accumulate

__all__ = ["Diverged", "Listener", "Outcome", "train", "training_losses"]


@dataclass
class Listener:
    """What the loop reports: lines for the reader, and each step's loss and tokens per second."""

    say: Callable[[str], None] = lambda line: None
    step: Callable[[int, float, float], None] = lambda step, loss, speed: None


@dataclass(frozen=True)
class Outcome:
    """How a run ended, after how many steps in all.

    `finished` is False where it was interrupted: saved, and to be resumed. `loop_seconds` is this
    process's time in steps: no evaluation, no saving.
    """

    run: Path
    step: int
    finished: bool
    best_loss: float
    loop_seconds: float


def train(data: PreparedData, settings: Settings, listener: Listener | None = None) -> Outcome:
    """Train, or go on training, in the folder `settings.out`.

    Raises
    ------
    UserError
        If the folder holds another run, or cannot be written.
    ArtifactError
        If the checkpoint to go on from is torn.
    Diverged
        If many steps in a row were refused.
    """
    listener = listener or Listener()
    world = distributed.join(settings)
    if world.rank:
        listener = Listener(step=listener.step)
    run = Path(settings.out)
    try:
        refuse_to_mix(run)
        with one_writer(run, world), Interruption(settings.max_time) as interruption:
            state = begin(data, settings, world, listener.say)
            try:
                _loop(state, interruption, listener)
            finally:
                state.log.close()
    finally:
        world.leave()
    finished = state.step == settings.steps
    return Outcome(run, state.step, finished, state.best_loss, state.stepping)


def training_losses(data: PreparedData, settings: Settings) -> list[float]:
    """Train without evaluating, saving or resuming; the loss of each step, in nats per token.

    Steps that had no token to predict have none.
    """
    listener, losses = Listener(), []
    with TemporaryDirectory(prefix="tiny-gpt-") as folder:
        alone = replace(settings, out=Path(folder), resume="never", tensorboard=False)
        state = begin(data, alone, distributed.join(alone), listener.say)
        try:
            while state.step < alone.steps:
                loss, tokens = _step(state, listener)
                losses += [loss] if tokens else []
        finally:
            state.log.close()
            state.world.leave()
    return losses


def _loop(state: State, interruption: Interruption, listener: Listener) -> None:
    """Steps to the end or to an interruption, then a last checkpoint."""
    settings = state.settings
    while state.step < settings.steps and not interruption.asked(state.world):
        _step(state, listener)
        # The last step's evaluation is in the last checkpoint's log: a finished run stays as it is.
        last = state.step == settings.steps
        if last or _due(settings.eval_every, state.step):
            _validate(state, listener)
        # What is refused may be so because the weights are poisoned already.
        if last or (_due(settings.save_every, state.step) and not state.guard.refused):
            state.save()
    if state.saved != state.step:
        state.save()


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


def _step(state: State, listener: Listener) -> tuple[float, float]:
    """Accumulate gradients over micro-batches, judge them, clip, step, write down.

    Returns the loss and how many tokens it is a mean over; over none it is NaN, and no step is
    taken.
    """
    settings, world, began = state.settings, state.world, time.perf_counter()
    own = world.rows(state.batches(state.step))
    scale = state.scaler.scale if state.scaler else 1.0

    def scaled_loss(model: nn.Module, batch: Batch):
        total, n = loss_sum(model, batch, world.device, state.dtype)
        return total * scale, n

    state.computed.train()
    loss, tokens = _accumulated(state, own, scaled_loss, listener)
    loss, tokens = world.mean_gradients(state.optimizers.params, loss / scale, tokens)
    if state.scaler:
        state.scaler.unscale(state.optimizers)
    norm = state.optimizers.gradient_norm()
    length = float(norm)
    refused = state.guard.judge(loss, length) if tokens else "no target"
    factor = learning_rate(settings, state.step)
    state.optimizers.factor = factor
    if refused is None and settings.clip:
        state.optimizers.clip(norm, settings.clip)
    stepper = state.optimizers if refused is None else _Refused()
    if state.scaler:
        state.scaler.step(stepper)  # adapts the scale, too
    else:
        stepper.step()
    state.step += 1
    state.stepped += 1
    state.stepping += time.perf_counter() - began
    speed = state.stepped * settings.batch_size * settings.context / state.stepping
    line = {"step": state.step, "loss": finite(loss), "lr": settings.lr * factor}
    line |= {"grad_norm": finite(length), "tokens": int(tokens)}
    line |= {"skipped": refused} if refused else {}
    line |= {"scale": scale} if state.scaler else {}
    state.log.write(line, speed)
    listener.step(state.step, loss, speed)
    if state.guard.exhausted:
        raise Diverged(
            f"{state.guard.refused} steps in a row gave no usable gradient ({refused}), the last "
            f"one step {state.step}; none of them was applied, and {state.remedy()}"
        )
    return loss, tokens


class _Refused:
    """An optimizer whose step changes nothing: the loss scaler must hear of every step."""

    param_groups = ()

    def step(self) -> None:
        pass


def _accumulated(
    state: State, own: Batch, scaled_loss: Callable, listener: Listener
) -> tuple[float, float]:
    """Gradients of the mean loss over this process's sequences, smaller pieces if memory ends."""
    settings, world = state.settings, state.world
    # A share without a target weighs nothing; yet all processes compute, or others wait for them.
    counts = bool((own.targets != IGNORED).any())
    while True:
        divisor = iter([1])  # of such a share's gradients

        def loss_of(model: nn.Module, batch: Batch, divisor=divisor):
            total, n = scaled_loss(model, batch)
            return total, n if counts else next(divisor, 0)

        size = min(state.micro_batch_size or len(own.inputs), len(own.inputs))
        if settings.dropout:  # masks are a function of (seed, step, process), as batches are
            torch.manual_seed(_mixed(settings.seed, state.step, world.rank))
        try:
            loss, tokens = accumulate(state.computed, pieces(own, size), loss_of)
            return loss, tokens * counts
        except torch.OutOfMemoryError:
            if size == 1 or not world.independent:
                raise
        # Out here, where the error no longer holds on to the tensors of the attempt.
        state.micro_batch_size = size // 2
        listener.say(f"memory ran out: micro-batches of {size // 2} sequences from now on")
        torch.cuda.empty_cache()


def pieces(batch: Batch, size: int) -> Iterator[Batch]:
    """A batch as micro-batches of `size` sequences; the last may have fewer."""
    for at in range(0, len(batch.inputs), size):
        yield Batch(*(None if x is None else x[at : at + size] for x in batch))


def _mixed(seed: int, step: int, rank: int) -> int:
    """Another seed for each (seed, step, process), spread by SplitMix64's constant."""
    return ((seed * 1_000_003 + rank) * 0x9E3779B97F4A7C15 + step) % 2**63


def _validate(state: State, listener: Listener) -> None:
    """The whole validation split; a best so far gets a checkpoint that nothing replaces but it."""
    plain, result = state.world.gathered(state.model), None
    if state.world.rank == 0:
        options = {"dtype": state.dtype, "interval": False}
        result = evaluate(plain, state.data.splits["val"], state.data.tokenizer, **options)
    loss = state.world.broadcast(result.nats_per_token if result else 0.0)
    if state.world.rank == 0:
        bits = result.bits_per_byte.mean
        line = {"step": state.step, "val_loss": finite(loss), "val_bits_per_byte": finite(bits)}
        state.log.write(line)
    at = f"step {state.step}/{state.settings.steps}"
    best = loss < state.best_loss
    listener.say(f"{at} validation loss {loss:.4f}" + (" (best)" if best else ""))
    if best:
        state.best_loss = loss
        state.write(state.run / "best", plain)
