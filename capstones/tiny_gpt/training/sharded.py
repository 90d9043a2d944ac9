"""Checkpoints of models that no single process could hold: every process writes what it has.

`torch.distributed.checkpoint` writes one safetensors file a process, which says where in the whole
each of its slices lies, and reads them into any other number of processes. The folder is an
artifact (`shared.artifacts` can verify it), and appears under its name only when it is whole. All
processes must see the same file system.
"""

import hashlib
import json
import warnings
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from shared.artifacts import (
    MANIFEST,
    ArtifactError,
    absolute,
    beside,
    current,
    refuse_to_replace_others,
    remove,
    sealed,
    swap,
)
from shared.errors import UserError
from shared.files import sync_folder, write_synced
from tiny_gpt.data.tokenizers import Tokenizer
from tiny_gpt.model.gpt import GPT
from tiny_gpt.training.distributed import World, parameter_of
from tiny_gpt.training.optimizers import Optimizers

__all__ = ["load_sharded", "save_sharded"]


def save_sharded(
    folder: Path,
    model: GPT,
    tokenizer: Tokenizer,
    step: int,
    *,
    optimizers: Optimizers,
    world: World,
    state: dict[str, Any] | None = None,
) -> None:
    """Write a checkpoint from all processes; arguments as in `checkpoints.save_checkpoint`.

    Raises
    ------
    UserError
        In every process, if the first one cannot write the folder.
    """
    folder = absolute(Path(folder))
    saving = beside(folder, "saving")
    tensors, counters = optimizers.state()
    weights = {f"model.{name}": p.detach() for name, p in model.named_parameters()}
    content = {**(state or {}), "step": step, "optimizers": counters, "buffers": sorted(tensors)}

    def begin() -> None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        refuse_to_replace_others(folder)
        remove(saving)
        saving.mkdir()

    def finish() -> None:
        for name, value in (("config", asdict(model.config)), ("state", content)):
            write_synced(saving / f"{name}.json", json.dumps(value, indent=1).encode() + b"\n")
        write_synced(saving / "tokenizer.json", tokenizer.to_bytes())
        files = {path.name: _facts(path) for path in sorted(saving.iterdir())}
        write_synced(saving / MANIFEST, sealed({"metadata": {"step": step}, "files": files}))
        sync_folder(saving)
        swap(saving, folder, beside(folder, "previous"))

    with _told(folder, "saved"):
        world.first_only(begin)
        # Its default format is a pickle; this one is not. Files are synced to the disk.
        writer = dcp.HuggingFaceStorageWriter(str(saving), save_distributed=True)
        dcp.save(weights | tensors, storage_writer=writer)
        world.first_only(finish)


def load_sharded(
    folder: Path, model: GPT, *, optimizers: Optimizers, world: World
) -> tuple[int, dict[str, Any]]:
    """Read a checkpoint into a model and its optimizers, in however many processes.

    Returns
    -------
    step, state
        As they were saved.

    Raises
    ------
    ArtifactError
        If there is none, or a file is missing or altered; in every process, and the first one's
        names the file.
    ValueError
        If the model has another configuration.
    """
    target = absolute(Path(folder))
    found, _ = current(target)
    with _told(target, "read"):
        world.first_only(lambda: _verify(target, found))
        config = json.loads((found / "config.json").read_bytes())
        if config != asdict(model.config):
            raise ValueError(f"model must have the configuration of {target}, got {model.config}")
        state = json.loads((found / "state.json").read_bytes())
        counters = state.pop("optimizers")
        names = state.pop("buffers")
        buffers = {name: torch.zeros_like(parameter_of(optimizers, name)) for name in names}
        weights: dict[str, Tensor] = {
            f"model.{name}": p.detach() for name, p in model.named_parameters()
        }
        dcp.load(weights | buffers, storage_reader=dcp.HuggingFaceStorageReader(str(found)))
    optimizers.load_state(buffers, counters)
    return state.pop("step"), state


@contextmanager
def _told(folder: Path, what: str):
    """Errors of the system in one line; no word of torch's that this is only one process."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        try:
            yield
        except OSError as error:
            raise UserError(f"{folder} cannot be {what} ({error.strerror or error})") from error


def _verify(target: Path, found: Path) -> None:
    """Every file is there and as it was, none too many; read in pieces, for they are large."""
    if not (found / MANIFEST).exists():
        raise ArtifactError(f"there is no checkpoint at {target}")
    try:
        raw = (found / MANIFEST).read_bytes()
        body = json.loads(raw)
        del body["sha256"]
        files = body["files"] if sealed(body) == raw else None
    except (ValueError, TypeError, LookupError):
        files = None
    if files is None:
        raise ArtifactError(f"{target / MANIFEST} was altered or is torn")
    for name, facts in files.items():
        if not (found / name).is_file():
            raise ArtifactError(f"{target / name} is missing")
        if _facts(found / name) != facts:
            raise ArtifactError(f"{target / name} was altered or is torn")
    # The reader takes every safetensors file that lies there.
    if extra := {path.name for path in found.iterdir()} - files.keys() - {MANIFEST}:
        raise ArtifactError(f"{target / min(extra)} does not belong to the checkpoint")


def _facts(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}
