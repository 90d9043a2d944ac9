"""Checkpoints that survive: whole folders, checksummed, the last few kept, the best never lost.

A run is a folder::

    RUN/
      seal.json                  digests of the files beside it, and where the data lies
      settings.toml              everything that was chosen
      log.jsonl                  one line per step, a function of the settings alone: no clock in it
      timing.jsonl               seconds and tokens per second, which differ from run to run
      checkpoints/step-00000240  an artifact (`shared.artifacts`): weights, optimizer, tokenizer
      best/                      the checkpoint with the lowest validation loss
      report.html

A checkpoint is all that `eval`, `sample` and `export` need; the data folder is not.
"""

import json
import os
import re
import shutil
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shared import artifacts
from shared.artifacts import ArtifactError
from shared.errors import UserError
from shared.require import require
from tiny_gpt.data.tokenizers import Tokenizer, tokenizer_from_bytes
from tiny_gpt.model.config import GPTConfig
from tiny_gpt.model.gpt import GPT
from tiny_gpt.settings import of_kind

__all__ = ["Checkpoint", "find_checkpoint", "load_checkpoint", "save_checkpoint", "steps_saved"]

STEP = re.compile(r"step-(\d{8})")
# What a run goes on from, beside tensors.
STATE = ("optimizers", "guard", "scaler", "best_loss", "log_bytes")
STATE += ("tokenizer_sha256", "data_sha256")
# What content that is not as it was written may lead to, under whatever seal.
CONTENT = (ArithmeticError, LookupError, TypeError, AttributeError, ValueError, RuntimeError)


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint, its model on the CPU and in evaluation mode.

    `tensors` are the optimizers' buffers; `state` is all else: counters, loss scale, guard, losses.
    """

    path: Path
    model: GPT
    tokenizer: Tokenizer
    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(
    folder: Path,
    model: GPT,
    tokenizer: Tokenizer,
    step: int,
    *,
    tensors: dict[str, Tensor] | None = None,
    state: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint to `folder`, atomically; arguments as the attributes of `Checkpoint`."""
    weights = {f"model.{_stored(name)}": p for name, p in model.named_parameters()}  # tied: once
    files = {
        "config.json": json.dumps(asdict(model.config), indent=1).encode() + b"\n",
        "tokenizer.json": tokenizer.to_bytes(),
        "state.json": json.dumps({**(state or {}), "step": step}, indent=1).encode() + b"\n",
    }
    artifacts.save_tensors(folder, weights | (tensors or {}), files=files)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint: its folder, or a run's folder for the best, or else the last one.

    Raises
    ------
    ArtifactError
        If there is none, or a file is torn or altered; the message names it, and the previous
        good checkpoint where there is one.
    """
    folder = find_checkpoint(path)
    try:
        tensors, artifact = artifacts.load_tensors(folder)
        try:
            return _checkpoint(folder, tensors, artifact.files)
        except CONTENT as error:
            what = " ".join(str(error).split())
            raise ArtifactError(f"{folder} is not a checkpoint of tiny-gpt ({what})") from error
    except ArtifactError as error:
        good = previous_good(folder)
        hint = f"; the last good checkpoint before it is {good}" if good else ""
        raise ArtifactError(f"{error}{hint}") from error


def _checkpoint(folder: Path, tensors: dict[str, Tensor], files: dict[str, bytes]) -> Checkpoint:
    """A checkpoint of whole files, whose content is judged here."""
    said = json.loads(files["config.json"])
    missing = sorted({field.name for field in fields(GPTConfig)} - said.keys())
    require(not missing, "config.json must say all of a model", f"nothing on {', '.join(missing)}")
    config = of_kind(GPTConfig, said)
    tokenizer = tokenizer_from_bytes(files["tokenizer.json"])
    state = json.loads(files["state.json"])
    step, named = state.pop("step"), STEP.fullmatch(folder.name)
    counted = type(step) is int and step >= 0
    require(counted, "step in state.json must count from 0", repr(step))
    must = f"state.json must hold {', '.join(STATE)}, or nothing but the step"
    require(not state or state.keys() == set(STATE), must, ", ".join(state))
    float(state.get("best_loss", 0))
    if named and int(named[1]) != step:
        raise ArtifactError(f"{folder} holds step {step}, not what its name says")
    if state and state["tokenizer_sha256"] != tokenizer.sha256:
        raise ArtifactError(f"{folder / 'tokenizer.json'} is not the one of the training")
    model = _model(config, tensors)
    return Checkpoint(folder, model.eval(), tokenizer, step, tensors, state)


def _model(config: GPTConfig, tensors: dict[str, Tensor]) -> GPT:
    """The model whose weights are taken out of `tensors`."""
    must = f"n_layers must be what {len(tensors)} tensors can be"
    require(config.n_layers <= len(tensors), must, config.n_layers)
    with torch.device("meta"):
        model = GPT(config)
    for name, p in model.named_parameters():  # before there is memory for what it may ask for
        found = tensors[f"model.{_stored(name)}"]
        fits = found.shape == p.shape and found.is_floating_point()
        require(fits, f"{name} must be {tuple(p.shape)}", tuple(found.shape), found.dtype)
    model = model.to_empty(device="cpu")
    if config.tied:  # each module got an empty tensor of its own
        model.head.weight = model.embed.weight
    if config.positions == "rotary":
        model.frequencies = model.exact_frequencies()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(tensors.pop(f"model.{_stored(name)}"))
    strange = [name for name in tensors if name.startswith("model.")]
    require(not strange, "tensors must be the model's", *strange[:1])
    return model


def _stored(name: str) -> str:
    """A parameter's name on the disk, where older runs have it so."""
    return name.replace(".out_proj.", ".out.")


def find_checkpoint(path: Path, *, last: bool = False) -> Path:
    """The checkpoint that `path` means: itself, or of a run the best (or the last) there is."""
    path = Path(path)
    if (path / artifacts.MANIFEST).exists():
        return path
    # A crash between two renames left its stand-in alone.
    named = STEP.fullmatch(path.name) or path.name == "best"
    if named and path.with_name(f".{path.name}.previous").exists():
        return path
    found = [best_of(path), last_of(path)]
    for folder in reversed(found) if last else found:
        if folder is not None:
            return folder
    if named and path.exists():  # without its manifest: loading says what is wrong
        return path
    raise ArtifactError(f"there is no checkpoint in {path}")


def best_of(run: Path) -> Path | None:
    """The checkpoint with the lowest validation loss, if there is one."""
    best = _no_link(Path(run) / "best")
    return best if best.exists() or best.with_name(".best.previous").exists() else None


def last_of(run: Path) -> Path | None:
    """The checkpoint of the last step saved, if there is one."""
    steps = steps_saved(run)
    return folder_of(run, steps[-1]) if steps else None


def folder_of(run: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of a step."""
    return Path(run) / "checkpoints" / f"step-{step:08d}"


def steps_saved(run: Path) -> list[int]:
    """Steps of which a run has checkpoints, in order, whether they are intact or not."""
    folder = _no_link(Path(run) / "checkpoints")
    names = {p.name for p in folder.glob("step-*")} if folder.is_dir() else set()
    # What a crash between two renames left is found through its stand-in (shared.artifacts).
    names |= {p.name[1:].removesuffix(".previous") for p in folder.glob(".step-*.previous")}
    steps = sorted(int(match[1]) for name in names if (match := STEP.fullmatch(name)))
    return [step for step in steps if _no_link(folder_of(run, step))]


def _no_link(folder: Path) -> Path:
    if folder.is_symlink():
        raise ArtifactError(f"{folder} is a link, and leads out of the run")
    return folder


def previous_good(folder: Path) -> Path | None:
    """The last intact checkpoint of the same run before `folder`, if there is one."""
    match = STEP.fullmatch(folder.name)
    run = folder.parent.parent if match else folder.parent
    for step in reversed(steps_saved(run)):
        if match is None or step < int(match[1]):
            candidate = folder_of(run, step)
            try:
                artifacts.load(candidate)
            except UserError:
                continue
            return candidate
    return None


def prune(run: Path, keep: int) -> None:
    """Remove all but the last `keep` checkpoints, so that none is ever seen half removed."""
    for left in ("removing", "saving"):  # by a process that was killed
        for leftover in (Path(run) / "checkpoints").glob(f".step-*.{left}"):
            shutil.rmtree(leftover, ignore_errors=True)
    for step in steps_saved(run)[:-keep]:
        folder = folder_of(run, step)
        removing = folder.with_name(f".{folder.name}.removing")
        if folder.exists():
            os.rename(folder, removing)
            shutil.rmtree(removing, ignore_errors=True)
        shutil.rmtree(folder.with_name(f".{folder.name}.previous"), ignore_errors=True)
