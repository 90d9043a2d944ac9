"""What is in a run, a checkpoint or prepared data, and what training it costs."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from shared import artifacts
from shared.artifacts import MANIFEST, ArtifactError, inside
from shared.errors import UserError
from tiny_gpt import seal
from tiny_gpt.data.shards import is_prepared, open_data
from tiny_gpt.data.tokenizers import Tokenizer
from tiny_gpt.model.config import GPTConfig
from tiny_gpt.report.costs import flops_per_token, parameters, training_memory
from tiny_gpt.settings import Settings
from tiny_gpt.training import checkpoints
from week19.kv_cache import cache_bytes

__all__ = [
    "describe",
    "is_export",
    "json_lines",
    "kind_of",
    "parameters_of_run",
    "read_lines",
    "show",
]


def is_export(path: Path) -> bool:
    """Whether `export` wrote this folder; no checkpoint has a file of such a name."""
    names = ("model.safetensors", "model.onnx", "model.gguf")
    return (path / MANIFEST).exists() and any((path / name).exists() for name in names)


def kind_of(path: Path) -> str:
    """`data`, `export`, `checkpoint` or `run`, found by looking."""
    path = Path(path)
    if is_export(path):
        return "export"
    if is_prepared(path):
        return "data"
    if (path / MANIFEST).exists() or (path.is_dir() and checkpoints.STEP.fullmatch(path.name)):
        return "checkpoint"
    names = (seal.SEAL, "settings.toml", "log.jsonl", "checkpoints")
    if any((path / name).exists() for name in names):
        return "run"
    raise UserError(f"{path} is neither a run, nor a checkpoint, nor prepared data")


def read_lines(path: Path, *, strict: bool = True) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines; a last line that a crash tore is left out.

    A damaged line before the last one is refused if `strict`. `timing.jsonl` may have some: a run
    that is resumed after a crash appends to what is there.
    """
    return json_lines(inside(path.parent, path.name).read_bytes(), path, strict=strict)


def json_lines(data: bytes, path: Path, *, strict: bool = True) -> list[dict[str, Any]]:
    """As `read_lines`, of the content of `path`."""
    good, torn = [], []
    lines = data.split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError
            good.append(value)
        except (ValueError, RecursionError):
            torn.append(number)
    end = len(lines) - (not lines[-1])  # the last line, closed by a line end or not
    if strict and torn and torn[0] < end:
        raise ArtifactError(f"{path} is damaged: line {torn[0]} is no JSON object")
    return good


def parameters_of_run(run: Path) -> int | None:
    """Trained numbers of a run's model; None before its first checkpoint."""
    folders = [run / "best", *(checkpoints.folder_of(run, s) for s in checkpoints.steps_saved(run))]
    for folder in folders:
        try:
            config = GPTConfig(**json.loads(artifacts.load(folder).files["config.json"]))
        except (UserError, LookupError, ValueError, TypeError):
            continue
        return sum(parameters(config).values())
    return None


def describe(path: Path) -> dict[str, Any]:
    """What a run, a checkpoint or a prepared folder holds; sizes in bytes.

    Returns
    -------
    dict
        With `kind` and `path`, and for a checkpoint (a run's best) `step`, `architecture`,
        `config`, `parameters` by part, `tokenizer`, `dtype`, `flops_per_token`, `memory` and
        `files`; for a run also `checkpoints`, `steps` and `validation`; for data `splits`, `meta`,
        `report` and `begins`, the text of the first tokens.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "data":
        return {"kind": kind, "path": str(path), **_describe_data(path)}
    if kind == "export":
        written = artifacts.load(path)
        files = {name: len(data) for name, data in written.files.items()}
        return {"kind": kind, "path": str(path), **written.metadata, "files": files}
    if kind == "checkpoint":
        run = path.parent.parent if checkpoints.STEP.fullmatch(path.name) else path.parent
        return {"kind": kind, "path": str(path), **_describe_checkpoint(path, run)}
    found: dict[str, Any] = {"kind": kind, "path": str(path)}
    found["checkpoints"] = checkpoints.steps_saved(path)
    saved = bool(found["checkpoints"] or checkpoints.best_of(path))
    logged = saved or "log.jsonl" in seal.sealed(path)
    log = json_lines(seal.read(path, "log.jsonl"), path / "log.jsonl") if logged else []
    try:
        found["steps"] = max((int(r["step"]) for r in log if "loss" in r), default=0)
        losses = [(float(r["val_loss"]), int(r["step"])) for r in log if "val_loss" in r]
    except (LookupError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path / 'log.jsonl'} is damaged: {error!r} in a line") from error
    if losses:
        best, step = min(losses)
        found["validation"] = {"loss": best, "step": step, "evaluations": len(losses)}
    if saved:
        found |= _describe_checkpoint(checkpoints.find_checkpoint(path), path)
    return found


def _describe_checkpoint(folder: Path, run: Path) -> dict[str, Any]:
    checkpoint = checkpoints.load_checkpoint(folder)
    config, tokenizer = checkpoint.model.config, checkpoint.tokenizer
    known = any((run / name).exists() for name in (seal.SEAL, "settings.toml"))
    settings = Settings.of_run(run) if known else None  # a checkpoint may stand alone
    chosen = settings or Settings(batch_size=1, dtype="fp32")
    best_loss = checkpoint.state.get("best_loss")
    batch_size = min(chosen.micro_batch_size or chosen.batch_size, chosen.batch_size)
    parts = parameters(config)
    forward = flops_per_token(config)
    return {
        "checkpoint": str(checkpoint.path),
        "step": checkpoint.step,
        "best_loss": None if best_loss is None else float(best_loss),
        "architecture": settings and settings.arch,
        "config": asdict(config),
        "parameters": {**parts, "total": sum(parts.values())},
        "tokenizer": _tokenizer(tokenizer),
        "dtype": str(checkpoint.model.embed.weight.dtype).removeprefix("torch."),
        "flops_per_token": {"forward": forward, "training": 3 * forward},
        "batch_size": batch_size,
        "memory": training_memory(
            config,
            batch_size,
            optimizer=chosen.optimizer,
            recompute=chosen.checkpoint_activations,
            bytes_each=4 if chosen.dtype == "fp32" else 2,
        ),
        "cache": cache_bytes(
            **{name: getattr(config, name) for name in ("n_layers", "n_kv_heads", "head_dim")},
            n_tokens=config.context,
            bytes_per_number=4,
        ),
        "files": _sizes(checkpoint.path),
    }


def _describe_data(folder: Path) -> dict[str, Any]:
    data = open_data(folder)
    data.check_ids()
    splits = {
        name: {
            "tokens": split.n_tokens,
            "documents": split.n_documents,
            "bytes": split.n_bytes,
            "bytes_per_token": split.n_bytes / max(1, split.n_tokens),
        }
        for name, split in data.splits.items()
    }
    try:
        told = artifacts.current(data.path)[0] / "report.json"
        report = json.loads(told.read_bytes())
    except FileNotFoundError:
        report = {}
    except ValueError as error:
        raise ArtifactError(f"{folder / 'report.json'} holds no JSON ({error})") from error
    first = data.splits.get("train") or next(iter(data.splits.values()), None)
    return {
        "splits": splits,
        "tokenizer": _tokenizer(data.tokenizer),
        "meta": data.meta,
        "report": report,
        "begins": data.tokenizer.decode(first.read(0, min(64, first.n_tokens))) if first else "",
        "files": _sizes(folder),
    }


def _tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    return {name: getattr(tokenizer, name) for name in ("kind", "vocab_size", "sha256")}


def _sizes(folder: Path) -> dict[str, int]:
    folder, _ = artifacts.current(artifacts.absolute(folder))
    return {p.name: p.stat().st_size for p in sorted(folder.iterdir()) if p.is_file()}


def show(description: dict[str, Any]) -> Group:
    """A description as tables, for a terminal."""
    d = description
    parts: list[Any] = [Text.assemble((d["kind"], "bold"), f" {d['path']}")]
    plain = {k: v for k, v in d.items() if not isinstance(v, dict) and k not in ("kind", "path")}
    if plain:
        parts.append(_rows("", plain))
    if "splits" in d:
        table = _table("splits", "", "tokens", "documents", "bytes", "bytes/token")
        for name, s in d["splits"].items():
            sizes = (f"{s[k]:,}" for k in ("tokens", "documents", "bytes"))
            table.add_row(name, *sizes, f"{s['bytes_per_token']:.3f}")
        parts.append(table)
    for name, value in d.items():
        if isinstance(value, dict) and name != "splits" and value:
            suffix = {
                "memory": f", bytes, {d.get('batch_size')} sequences at once",
                "files": ", bytes",
            }
            parts.append(_rows(name.replace("_", " ") + suffix.get(name, ""), value))
    return Group(*parts)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title or None, box=None, pad_edge=False, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", overflow="fold")
    return table


def _rows(title: str, values: dict[str, Any]) -> Table:
    table = Table(title=title or None, box=None, title_justify="left", show_header=False)
    table.add_column(style="dim", overflow="fold")
    table.add_column(overflow="fold")
    for key, value in _flat(values).items():
        if isinstance(value, int) and not isinstance(value, bool):
            text = f"{value:,}"
        else:
            text = f"{value:.5g}" if isinstance(value, float) else str(value)
        # Text that was read must not be taken for rich's markup.
        table.add_row(Text(str(key).replace("_", " ")), Text(text))
    return table


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key} ") if inner else {f"{prefix}{key}": value}
    return flat
