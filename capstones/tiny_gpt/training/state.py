"""Where a run stands: how it begins or goes on, and what a checkpoint keeps of it."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from shared.artifacts import ArtifactError
from shared.errors import UserError
from shared.files import write_atomic
from shared.require import require
from tiny_gpt import seal
from tiny_gpt.data.batches import Batches
from tiny_gpt.data.shards import PreparedData
from tiny_gpt.model.gpt import GPT
from tiny_gpt.settings import Settings
from tiny_gpt.training import checkpoints
from tiny_gpt.training.distributed import World, optimizers_for
from tiny_gpt.training.log import Log, finite
from tiny_gpt.training.optimizers import Guard, Optimizers
from tiny_gpt.training.precision import NAMES, precision_for
from week16.loss_scaling import LossScaler

__all__ = ["Diverged", "State", "begin"]

# Settings that do not change what is computed, only for how long, by whom, or where it is written
# (other threads and devices round differently). Data is known by its content.
FREE = {"data", "out", "max_time", "resume", "samples", "keep", "save_every", "tensorboard"}
FREE |= {"strategy", "threads", "device"}


class Diverged(UserError):
    """So many steps in a row were refused that going on makes no sense."""

    status = 1


@dataclass
class State:
    """Everything a step reads and changes.

    `computed` is the model as it is called: compiled, wrapped for several processes. Memory allows
    `micro_batch_size`, of which the setting is an upper bound. This process has `stepped` so often,
    in `stepping` seconds.
    """

    data: PreparedData
    settings: Settings
    world: World
    model: GPT
    computed: nn.Module
    optimizers: Optimizers
    batches: Batches
    dtype: torch.dtype
    scaler: LossScaler | None
    guard: Guard
    log: Log
    step: int = 0
    saved: int = -1
    best_loss: float = math.inf
    micro_batch_size: int | None = None
    stepped: int = 0
    stepping: float = 0.0

    @property
    def run(self) -> Path:
        """The run's folder."""
        return Path(self.settings.out)

    def save(self) -> None:
        """A checkpoint of this step; older ones than the last `keep` go once it is safe."""
        plain = self.world.gathered(self.model)
        self.write(checkpoints.folder_of(self.run, self.step), plain)
        self.saved = self.step
        if not self.guard.refused:
            self.world.first_only(lambda: checkpoints.prune(self.run, self.settings.keep))

    def write(self, folder: Path, plain: GPT) -> None:
        """All that the run needs to go on, in one folder; `plain` is the whole model."""
        self.log.flush()  # a resumed run cuts the log to the length that the checkpoint says
        tensors, counters = self.world.gathered_state(self.optimizers)
        content: dict[str, Any] = {
            "optimizers": counters,
            "guard": self.guard.state(),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "best_loss": finite(self.best_loss),
            "log_bytes": self.log.bytes_written,
            "tokenizer_sha256": self.data.tokenizer.sha256,
            "data_sha256": self.data.sha256,
        }
        options = {"tensors": tensors, "state": content}

        def write() -> None:
            seal.update(self.run, "log.jsonl", "timing.jsonl")
            if not all(bool(torch.isfinite(p).all()) for p in plain.parameters()):
                raise Diverged(
                    f"the weights of step {self.step} are not finite and are not saved; "
                    f"{self.remedy()}"
                )
            checkpoints.save_checkpoint(folder, plain, self.data.tokenizer, self.step, **options)

        self.world.first_only(write)

    def load(self, folder: Path) -> None:
        """Everything a checkpoint holds, back where it was."""
        try:
            saved = checkpoints.load_checkpoint(folder)
        except ArtifactError as error:
            back = checkpoints.previous_good(folder)
            remedy = f"; remove {folder} to go on from there" if back else ""
            raise ArtifactError(f"{error}{remedy}") from error
        now = {"tokenizer": self.data.tokenizer.sha256, "data": self.data.sha256}
        for name, digest in now.items():
            if saved.state.get(f"{name}_sha256") != digest:
                raise UserError(
                    f"data {self.settings.data} is not what {self.run} was trained on: the {name} "
                    "differs; prepare it as it was, or begin a new run in another --out"
                )
        try:
            same = saved.model.config == self.model.config
            require(same, "config.json must be that of the settings", saved.model.config)
            self.guard.load_state(saved.state["guard"])
            members = self.optimizers.members.values()
            expected = sum(len(m.params) * (1 + len(m.buffers)) for m in members)
            expected *= saved.step > self.guard.refused  # nothing before the first step is taken
            found = len(saved.tensors) + len(saved.state["optimizers"])
            require(found == expected, f"optimizers must have {expected} buffers", found)
            self.world.load(self.model, self.optimizers, saved)
            if self.scaler:
                self.scaler.load_state_dict(saved.state["scaler"])
            self.best_loss = float(saved.state["best_loss"])
            self.step = self.saved = saved.step
            n = saved.state["log_bytes"]
            require(type(n) is int and n >= 0, "log_bytes must count from 0", repr(n))
        except checkpoints.CONTENT as error:
            raise ArtifactError(f"{folder} cannot be resumed: {error!r} in its state") from error
        # Its seal first: what that says stands in the log at every instant.
        self.world.first_only(lambda: self._keep(n))
        self.log.truncate(n)

    def _keep(self, n_bytes: int) -> None:
        """Seal the log as it was with so many bytes, if it is what it was, and where data lies."""
        seal.read(self.run, "timing.jsonl")
        sealed = seal.read(self.run, "log.jsonl")
        *_, last, end = [b'{"step": 0}', *sealed[:n_bytes].split(b"\n")]
        whole = n_bytes <= len(sealed) and not end and json.loads(last)["step"] == self.step
        must = f"{self.run / 'log.jsonl'} must have {n_bytes} bytes to step {self.step}"
        require(whole, must, f"{len(sealed)}, or other lines", error=ArtifactError)
        seal.update(self.run, "log.jsonl", n_bytes=n_bytes, data=self.data.path)

    def remedy(self) -> str:
        """What stays of a run that diverged, and what to do."""
        settings, steps = self.settings, checkpoints.steps_saved(self.run)
        stays = f"the checkpoint of step {steps[-1]} stays" if steps else "nothing was saved yet"
        rates = f"lr = {settings.lr:g}"
        if settings.optimizer == "muon":
            rates += f" and matrix_lr = {settings.matrix_lr:g}"
        return f"{stays}. Begin again in another --out with less than {rates}, or with --clip 1"


def begin(
    data: PreparedData, settings: Settings, world: World, say: Callable[[str], None]
) -> State:
    """The state of a new run, or of the last checkpoint in its folder."""
    run = Path(settings.out)
    last = resumable(run, settings)
    if last is not None:
        settings = same_run(run, settings)
    # Now, not what the first evaluation would stumble over after many steps.
    for name in ("train", "val"):
        n = data.splits[name].n_tokens if name in data.splits else 0
        must = f"data {settings.data} must have 2 tokens of {name} or more"
        require(n >= 2, must, n, error=UserError)
    data.check_ids()
    generator = torch.Generator().manual_seed(settings.seed)
    model = GPT(settings.model_config(data.tokenizer.vocab_size), generator).to(world.device)
    model.checkpoint_blocks = settings.checkpoint_activations
    names = ("context", "batch_size", "seed", "packing", "document_mask")
    batches = Batches(data.splits["train"], **{name: getattr(settings, name) for name in names})
    settings, dtype = _chosen(settings, model, batches, world, say)
    if last is None:
        world.first_only(lambda: _write_new(run, settings, data))
    epochs = settings.steps / batches.n_windows * settings.batch_size
    say(
        f"model {settings.arch}, {model.n_parameters():,} parameters; {settings.steps} steps of "
        f"{settings.batch_size} x {settings.context} tokens, {epochs:.2g} epochs"
    )
    computed = world.wrap(model, settings)
    state = State(
        data=data,
        settings=settings,
        world=world,
        model=model,
        computed=torch.compile(computed) if settings.compile == "on" else computed,
        optimizers=optimizers_for(model, settings, world, dtype),
        batches=batches,
        dtype=dtype,
        scaler=LossScaler() if dtype == torch.float16 else None,
        guard=Guard(settings.spike_factor),
        log=Log(run, world.rank == 0, tensorboard=settings.tensorboard),
        micro_batch_size=settings.micro_batch_size,
    )
    if last is not None:
        try:
            state.load(last)
        except BaseException:
            state.log.close()
            raise
        finished = state.step == settings.steps
        resumed = f"resumed at step {state.step} of {settings.steps}"
        say(f"{run}: {'it was finished' if finished else resumed}")
    return state


def _chosen(
    settings: Settings, model: GPT, batches: Batches, world: World, say: Callable[[str], None]
) -> tuple[Settings, torch.dtype]:
    """Settings without an auto: which precision, and whether to compile."""
    chosen = precision_for(settings.dtype, model, world.rows(batches(0)), world.device)
    dtype, compiled = world.agreed(chosen.dtype), settings.compile
    if settings.dtype == "auto":
        say(f"precision {chosen.reason}")
    if compiled == "auto":  # it costs about a minute, and halves a step at best
        sequences = settings.steps * settings.batch_size
        long = sequences >= (50_000 if world.device.type == "cuda" else 1_000_000)
        compiled = "on" if long else "off"
        if long:
            say(f"compile on: {sequences:,} sequences repay it")
    return replace(settings, dtype=NAMES[dtype], compile=compiled), dtype


def resumable(run: Path, settings: Settings) -> Path | None:
    """The checkpoint to go on from; None for a new run."""
    if settings.resume == "never" and (run / "settings.toml").exists():
        raise UserError(f"out {run} holds a run already; choose another folder or --resume auto")
    # The best one only if no other was saved before the run ended.
    last = checkpoints.last_of(run) or checkpoints.best_of(run)
    if settings.resume == "must" and last is None:
        raise UserError(f"resume must go on from a checkpoint, but {run} holds none")
    return last


def same_run(run: Path, settings: Settings) -> Settings:
    """The settings of the run that is resumed; a changed one that matters is refused by name."""
    before = Settings.of_run(run)
    for name, asked in vars(settings).items():
        had = getattr(before, name)
        probed = name in ("dtype", "compile") and asked == "auto"
        if asked != had and name not in FREE and not probed:
            raise UserError(
                f"{name} = {asked} does not fit the run in {run}, which has {name} = {had}; "
                "choose another --out to begin a new run"
            )
    return replace(before, **{name: getattr(settings, name) for name in FREE})


def _write_new(run: Path, settings: Settings, data: PreparedData) -> None:
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out {run} cannot be made ({error.strerror})") from error
    # Of a run that ended before its first save.
    for leftover in (seal.SEAL, "log.jsonl", "timing.jsonl"):
        (run / leftover).unlink(missing_ok=True)
    write_atomic(run / "settings.toml", settings.to_toml())
    seal.begin(run, data.path)
