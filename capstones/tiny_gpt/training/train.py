"""Training: the loop, what it writes down, and how it goes on after any interruption.

Nothing in a step depends on what came before but the weights, the optimizers' buffers and the few
numbers in a checkpoint: batch, learning rate and dropout masks are functions of (seed, step). So a
run that was stopped anywhere continues to the same bytes, whatever number of processes read the
data.
"""

import hashlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from shared.artifacts import ArtifactError
from shared.errors import UserError
from shared.files import write_atomic
from tiny_gpt.data.batches import Batch, Batches
from tiny_gpt.data.shards import PreparedData
from tiny_gpt.model.gpt import GPT
from tiny_gpt.settings import Settings, seconds_of
from tiny_gpt.training import checkpoints, distributed
from tiny_gpt.training.evaluate import evaluate
from tiny_gpt.training.optimizers import Guard, Optimizers, learning_rate
from tiny_gpt.training.precision import NAMES, loss_sum, precision_for
from week16.gradient_accumulation import accumulate
from week16.mixed_precision import LossScaler

__all__ = ["Diverged", "Outcome", "Told", "train", "training_losses"]

# Settings that do not change what is computed, only for how long, by whom, or where it is written
# (other threads and devices round differently).
FREE = {"out", "max_time", "resume", "samples", "keep", "save_every", "tensorboard"}
FREE |= {"strategy", "threads", "device"}


class Diverged(UserError):
    """So many steps in a row were refused that going on makes no sense."""

    status = 1


@dataclass
class Told:
    """What the loop reports while it runs; the command line draws it.

    Attributes
    ----------
    say
        One line for the reader.
    step
        After each step: step, loss, tokens a second so far.
    """

    say: Callable[[str], None] = lambda line: None
    step: Callable[[int, float, float], None] = lambda step, loss, speed: None


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    run
        Its folder.
    step
        Optimizer steps taken in all.
    finished
        False where it was interrupted: saved, and to be resumed.
    best_loss
        Lowest validation loss, nats per token.
    loop_seconds
        Time in training steps, of this process's share of the run; no evaluation, no saving.
    """

    run: Path
    step: int
    finished: bool
    best_loss: float
    loop_seconds: float


def train(data: PreparedData, settings: Settings, told: Told | None = None) -> Outcome:
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
    told = told or Told()
    world = distributed.join(settings)
    if world.rank:
        told = Told(step=told.step)
    run = Path(settings.out)
    try:
        with _one_writer(run, world), Interruption(settings.max_time) as interruption:
            state = _begin(data, settings, world, told)
            try:
                seconds = _loop(state, interruption, told)
            finally:
                state.log.close()
    finally:
        world.leave()
    finished = state.step == settings.steps
    return Outcome(run, state.step, finished, state.best_loss, seconds)


def training_losses(
    data: PreparedData, settings: Settings, told: Told | None = None
) -> list[float]:
    """Train without evaluating, saving or resuming; the loss of each step, in nats per token.

    Raises
    ------
    Diverged
        If many steps in a row were refused.
    """
    told = told or Told()
    losses: list[float] = []

    def noted(step: int, loss: float, speed: float) -> None:
        losses.append(loss)
        told.step(step, loss, speed)

    with TemporaryDirectory(prefix="tiny-gpt-") as folder:
        alone = replace(settings, out=Path(folder), resume="never", tensorboard=False)
        state = _begin(data, alone, distributed.join(alone), told)
        try:
            while state.step < alone.steps:
                _step(state, replace(told, step=noted))
        finally:
            state.log.close()
            state.world.leave()
    return losses


def _loop(state: "_State", interruption: "Interruption", told: Told) -> float:
    """Steps to the end or to an interruption, then a last checkpoint; the steps' seconds."""
    settings = state.settings
    while state.step < settings.steps and not interruption.asked(state.world):
        _step(state, told)
        # The last step's evaluation is in the last checkpoint's log: a finished run stays as it is.
        last = state.step == settings.steps
        if last or _due(settings.eval_every, state.step):
            _validate(state, told)
        # What is refused may be so because the weights are poisoned already.
        if last or (_due(settings.save_every, state.step) and not state.guard.refused):
            _save(state)
    if state.saved != state.step:
        _save(state)
    return state.stepping


def _due(every: int, step: int) -> bool:
    return every > 0 and step % every == 0


@dataclass
class _State:
    """Everything a step reads and changes."""

    data: PreparedData
    settings: Settings
    world: "distributed.World"
    model: GPT
    computed: nn.Module  # the model as it is called: compiled, wrapped for several processes
    optimizers: Optimizers
    batches: Batches
    dtype: torch.dtype
    scaler: LossScaler | None
    guard: Guard
    log: "Log"
    data_sha256: str
    step: int = 0
    saved: int = -1
    best_loss: float = math.inf
    micro_batch_size: int | None = None  # what memory allows; the setting is an upper bound
    stepped: int = 0  # by this process, in so many seconds
    stepping: float = 0.0


# ---- one step


def _step(state: _State, told: Told) -> None:
    """Accumulate gradients over micro-batches, judge them, clip, step, write down."""
    settings, world, begin = state.settings, state.world, time.perf_counter()
    own = world.rows(state.batches(state.step))
    scale = state.scaler.scale if state.scaler else 1.0

    def scaled_loss(model: nn.Module, batch: Batch):
        total, n = loss_sum(model, batch, world.device, state.dtype)
        return total * scale, n

    state.computed.train()
    loss, tokens = _accumulated(state, own, scaled_loss, told)
    loss, tokens = world.mean_gradients(state.optimizers.params, loss / scale, tokens)
    if state.scaler:
        state.scaler.unscale(state.optimizers)
    norm = state.optimizers.gradient_norm()
    length = float(norm)
    refused = state.guard.judge(loss, length)
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
    state.stepping += time.perf_counter() - begin
    speed = state.stepped * settings.batch_size * settings.context / state.stepping
    line = {"step": state.step, "loss": _finite(loss), "lr": settings.lr * factor}
    line |= {"grad_norm": _finite(length), "tokens": int(tokens)}
    line |= {"skipped": refused} if refused else {}
    line |= {"scale": scale} if state.scaler else {}
    state.log.write(line, speed)
    told.step(state.step, loss, speed)
    if state.guard.exhausted:
        raise Diverged(
            f"{state.guard.refused} steps in a row gave no usable gradient ({refused}), the last "
            f"one step {state.step}; none of them was applied, and {_last_saved(state)}. "
            f"{_remedy(settings)}"
        )


def _last_saved(state: _State) -> str:
    steps = checkpoints.steps_saved(Path(state.settings.out))
    return f"the checkpoint of step {steps[-1]} stays" if steps else "no checkpoint was written yet"


def _remedy(settings: Settings) -> str:
    rates = f"lr = {settings.lr:g}"
    if settings.optimizer == "muon":
        rates += f" and matrix_lr = {settings.matrix_lr:g}"
    return f"Begin again in another --out with less than {rates}, or with --clip 1"


class _Refused:
    """An optimizer whose step changes nothing: the loss scaler must hear of every step."""

    param_groups = ()

    def step(self) -> None:
        pass


def _accumulated(state: _State, own: Batch, scaled_loss, told: Told) -> tuple[float, float]:
    """Gradients of the mean loss over this process's sequences, smaller pieces if memory ends."""
    settings, world = state.settings, state.world
    while True:
        size = min(state.micro_batch_size or len(own.inputs), len(own.inputs))
        if settings.dropout:  # masks are a function of (seed, step, process), as batches are
            torch.manual_seed(_mixed(settings.seed, state.step, world.rank))
        try:
            with world.synchronized_by_hand(state.computed):
                return accumulate(state.computed, _pieces(own, size), scaled_loss)
        except torch.OutOfMemoryError:
            if size == 1 or not world.independent:
                raise
        # Out here, where the error no longer holds on to the tensors of the attempt.
        state.micro_batch_size = size // 2
        told.say(f"memory ran out: micro-batches of {size // 2} sequences from now on")
        torch.cuda.empty_cache()


def _pieces(batch: Batch, size: int) -> Iterator[Batch]:
    for begin in range(0, len(batch.inputs), size):
        yield Batch(*(None if x is None else x[begin : begin + size] for x in batch))


def _mixed(seed: int, step: int, rank: int) -> int:
    """A seed of its own for each (seed, step, process): SplitMix64's constant apart."""
    return ((seed * 1_000_003 + rank) * 0x9E3779B97F4A7C15 + step) % 2**63


def _finite(value: float) -> float | str:
    """JSON has no NaN; a log line that says so is better than none."""
    return value if math.isfinite(value) else str(value)


# ---- beginning, and going on


def _begin(data: PreparedData, settings: Settings, world: "distributed.World", told: Told):
    run = Path(settings.out)
    last = _resumable(run, settings)
    if last is not None:
        settings = _same_run(run, settings)
    _check_splits(data, settings)
    generator = torch.Generator().manual_seed(settings.seed)
    model = GPT(settings.model_config(data.tokenizer.vocab_size), generator).to(world.device)
    model.checkpoint_blocks = settings.checkpoint_activations
    batches = Batches(
        data.splits["train"],
        context=settings.context,
        batch_size=settings.batch_size,
        seed=settings.seed,
        packing=settings.packing,
        document_mask=settings.document_mask,
    )
    chosen = precision_for(settings.dtype, model, world.rows(batches(0)), world.device)
    dtype = world.agreed(chosen.dtype)
    if settings.dtype == "auto":
        told.say(f"precision {chosen.reason}")
    settings = replace(settings, dtype=NAMES[dtype], compile=_compile(settings, world, told))
    if last is None:
        world.first_only(lambda: _write_new(run, settings))
    epochs = settings.steps / batches.n_windows * settings.batch_size
    told.say(
        f"model {settings.arch}, {model.n_parameters():,} parameters; {settings.steps} steps of "
        f"{settings.batch_size} x {settings.context} tokens, {epochs:.2g} epochs"
    )
    computed = world.wrap(model, settings)
    if settings.compile == "on":
        computed = torch.compile(computed)
    state = _State(
        data=data,
        settings=settings,
        world=world,
        model=model,
        computed=computed,
        optimizers=distributed.optimizers_for(model, settings, world, dtype),
        batches=batches,
        dtype=dtype,
        scaler=LossScaler() if dtype == torch.float16 else None,
        guard=Guard(settings.spike_factor),
        log=Log(run, world.rank == 0, tensorboard=settings.tensorboard),
        data_sha256=_digest(data),
        micro_batch_size=settings.micro_batch_size,
    )
    if last is not None:
        try:
            _load(state, last)
        except BaseException:
            state.log.close()
            raise
        done = state.step == settings.steps
        end = "it was finished" if done else f"resumed at step {state.step} of {settings.steps}"
        told.say(f"{run}: {end}")
    return state


def _check_splits(data: PreparedData, settings: Settings) -> None:
    """Complain now about what the first evaluation would stumble over after many steps."""
    for name in ("train", "val"):
        if name not in data.splits or data.splits[name].n_tokens < 2:
            n = data.splits[name].n_tokens if name in data.splits else 0
            raise UserError(f"data {settings.data} must have 2 tokens of {name} or more, got {n}")


def _digest(data: PreparedData) -> str:
    """Of everything that was prepared but the report, which holds times."""
    files = json.loads((data.path / "data.json").read_bytes())["files"]
    files.pop("report.json", None)
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _resumable(run: Path, settings: Settings) -> Path | None:
    """The checkpoint to go on from; None for a new run."""
    if settings.resume == "never" and (run / "settings.toml").exists():
        raise UserError(f"out {run} holds a run already; choose another folder or --resume auto")
    # The best one only if no other was saved before the run ended.
    last = checkpoints.last_of(run) or checkpoints.best_of(run)
    if settings.resume == "must" and last is None:
        raise UserError(f"resume must go on from a checkpoint, but {run} holds none")
    return last


def _same_run(run: Path, settings: Settings) -> Settings:
    """The settings of the run that is resumed; a changed one that matters is refused by name."""
    before = Settings.of_run(run)
    for name in vars(settings):
        asked, had = getattr(settings, name), getattr(before, name)
        probed = name in ("dtype", "compile") and asked == "auto"
        if asked != had and name not in FREE and not probed:
            raise UserError(
                f"{name} = {asked} does not fit the run in {run}, which has {name} = {had}; "
                "choose another --out to begin a new run"
            )
    kept = {name: getattr(settings, name) for name in FREE}
    return replace(before, **kept)


def _compile(settings: Settings, world: "distributed.World", told: Told) -> str:
    """Whether compiling pays: it costs about a minute, and halves a step at best."""
    if settings.compile != "auto":
        return settings.compile
    sequences = settings.steps * settings.batch_size
    long = sequences >= (50_000 if world.device.type == "cuda" else 1_000_000)
    if long:
        told.say(f"compile on: {sequences:,} sequences repay it")
    return "on" if long else "off"


def _write_new(run: Path, settings: Settings) -> None:
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out {run} cannot be made ({error.strerror})") from error
    for leftover in ("log.jsonl", "timing.jsonl"):  # of a run that ended before its first save
        (run / leftover).unlink(missing_ok=True)
    write_atomic(run / "settings.toml", settings.to_toml())


# ---- validation and checkpoints


def _validate(state: _State, told: Told) -> None:
    """The whole validation split; a best so far gets a checkpoint that nothing replaces but it."""
    plain = state.world.gathered(state.model)
    result = None
    if state.world.rank == 0:
        result = evaluate(
            plain,
            state.data.splits["val"],
            state.data.tokenizer,
            dtype=state.dtype,
            interval=False,
        )
    loss = state.world.broadcast(result.nats_per_token if result else 0.0)
    if state.world.rank == 0:
        bits = result.bits_per_byte.mean
        line = {"step": state.step, "val_loss": _finite(loss), "val_bits_per_byte": _finite(bits)}
        state.log.validation(line)
    at = f"step {state.step}/{state.settings.steps}"
    best = loss < state.best_loss
    told.say(f"{at} validation loss {loss:.4f}" + (" (best)" if best else ""))
    if best:
        state.best_loss = loss
        _write(state, Path(state.settings.out) / "best", plain)


def _save(state: _State) -> None:
    """A checkpoint of this step; older ones than the last `keep` go once it is safe."""
    run = Path(state.settings.out)
    _write(state, checkpoints.folder_of(run, state.step), state.world.gathered(state.model))
    state.saved = state.step
    if not state.guard.refused:
        state.world.first_only(lambda: checkpoints.prune(run, state.settings.keep))


def _write(state: _State, folder: Path, plain: GPT) -> None:
    state.log.flush()  # a resumed run cuts the log to the length that the checkpoint says
    tensors, counters = state.world.gathered_state(state.optimizers)
    content: dict[str, Any] = {
        "optimizers": counters,
        "guard": state.guard.state(),
        "scaler": state.scaler.state_dict() if state.scaler else None,
        "best_loss": _finite(state.best_loss),
        "log_bytes": state.log.bytes_written,
        "tokenizer_sha256": state.data.tokenizer.sha256,
        "data_sha256": state.data_sha256,
    }

    def write() -> None:
        if not all(bool(torch.isfinite(p).all()) for p in plain.parameters()):
            raise Diverged(
                f"the weights of step {state.step} are not finite and are not saved; "
                f"{_last_saved(state)}. {_remedy(state.settings)}"
            )
        checkpoints.save_checkpoint(
            folder, plain, state.data.tokenizer, state.step, tensors=tensors, state=content
        )

    state.world.first_only(write)


def _load(state: _State, folder: Path) -> None:
    """Everything a checkpoint holds, back where it was."""
    try:
        saved = checkpoints.load_checkpoint(folder)
    except ArtifactError as error:
        back = checkpoints.previous_good(folder)
        remedy = f"; remove {folder} to go on from there" if back else ""
        raise ArtifactError(f"{error}{remedy}") from error
    for name, now in (
        ("tokenizer", state.data.tokenizer.sha256),
        ("data", state.data_sha256),
    ):
        if saved.state[f"{name}_sha256"] != now:
            raise UserError(
                f"data {state.settings.data} is not what {state.settings.out} was trained on: the "
                f"{name} differs; prepare it as it was, or begin a new run in another --out"
            )
    state.world.load(state.model, state.optimizers, saved)
    state.guard.load_state(saved.state["guard"])
    if state.scaler:
        state.scaler.load_state_dict(saved.state["scaler"])
    state.best_loss = float(saved.state["best_loss"])
    state.step = state.saved = saved.step
    state.log.truncate(saved.state["log_bytes"])


# ---- what is written down, and when to stop


class Log:
    """`log.jsonl`, the same bytes however often a run was interrupted, and `timing.jsonl`.

    Attributes
    ----------
    bytes_written
        Length of `log.jsonl`, what a resumed run cuts it back to.
    """

    def __init__(self, run: Path, writes: bool, *, tensorboard: bool = False):
        self.path, self.writes, self.began = run / "log.jsonl", writes, time.perf_counter()
        self.bytes_written, self._pending = 0, 0
        self.board = None
        if not writes:
            return
        self._log = self.path.open("ab")
        self._timing = (run / "timing.jsonl").open("a", encoding="utf-8")
        self.bytes_written = self._log.tell()
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise UserError("tensorboard must be installed to write its event files") from None

            self.board = SummaryWriter(str(run / "tensorboard"))

    def write(self, line: dict[str, Any], speed: float) -> None:
        """One step."""
        if not self.writes:
            return
        self._append(line)
        seconds = round(time.perf_counter() - self.began, 4)
        timing = {"step": line["step"], "seconds": seconds, "tokens_per_second": round(speed, 1)}
        self._timing.write(json.dumps(timing) + "\n")
        self._scalars(line)

    def validation(self, line: dict[str, Any]) -> None:
        """One evaluation."""
        self._append(line)
        self._scalars(line)

    def _append(self, line: dict[str, Any]) -> None:
        data = (json.dumps(line) + "\n").encode()
        self._log.write(data)
        self.bytes_written += len(data)

    def _scalars(self, line: dict[str, Any]) -> None:
        if self.board:
            for name, value in line.items():
                if name != "step" and isinstance(value, int | float):
                    self.board.add_scalar(name, value, line["step"])

    def truncate(self, n_bytes: int) -> None:
        """Forget what was written after the checkpoint that is resumed."""
        if not self.writes:
            return
        if self.path.stat().st_size < n_bytes:
            raise ArtifactError(
                f"{self.path} has {self.path.stat().st_size} bytes, fewer than the {n_bytes} that "
                "the checkpoint knows of; it was cut by something else"
            )
        self._log.truncate(n_bytes)
        self._log.seek(0, os.SEEK_END)
        self.bytes_written = n_bytes

    def flush(self) -> None:
        """What a checkpoint counts on is on the disk before it."""
        if self.writes:
            self._log.flush()
            os.fsync(self._log.fileno())
            self._timing.flush()

    def close(self) -> None:
        """Flush and close all files."""
        if self.writes and not self._log.closed:
            self.flush()
            self._log.close()
            self._timing.close()
            if self.board:
                self.board.close()


class Interruption:
    """SIGTERM, Ctrl-C or the time limit: asked for, the run ends after the step it is in.

    A second Ctrl-C does not wait.
    """

    def __init__(self, max_time: str | None):
        self.deadline = time.monotonic() + seconds_of(max_time) if max_time else math.inf
        self.signaled = False
        self._before: dict[int, Any] = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._notice)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _notice(self, number, frame):
        if self.signaled and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signaled = True

    def asked(self, world: "distributed.World") -> bool:
        """Whether to stop now; all processes answer alike."""
        return world.any(self.signaled or time.monotonic() >= self.deadline)


@contextmanager
def _one_writer(run: Path, world: "distributed.World"):
    """Two runs in one folder would destroy each other; the lock ends with the process."""
    if world.rank != 0:
        yield
        return
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    try:
        run.mkdir(parents=True, exist_ok=True)
        lock = (run / ".lock").open("w")
    except OSError as error:
        raise UserError(f"out {run} cannot be written ({error.strerror})") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"out {run} is being trained by another process") from None
        yield
