r"""Looking and checking: what is in a run, a checkpoint or prepared data, and whether it is intact.

`describe` says what a folder holds and what training it costs, `verify` reads every byte of it.

Training keeps weights, gradients, the optimizers' buffers, and what autograd saves for the backward
pass: along a block of width $d$ on $T$ tokens, the inputs of the two norms and the four matrices,
queries, keys, values and what attention made of them, and the MLP's activation function. The head
adds the logits, once for themselves and once as log-probabilities. Attention is counted as a fused
kernel keeps it, without the square of scores.

A weight of a matrix costs 2 operations a token, a key 4 for each dimension of each head; the
backward pass costs twice the forward pass (Kaplan et al., "Scaling laws for neural language
models", 2020, section 2.1; Korthikanti et al., "Reducing activation recomputation in large
transformer models", 2022, section 4.1).
"""

import json
import re
import tomllib
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text

from shared.artifacts import MANIFEST, ArtifactError
from shared.errors import UserError
from tiny_gpt.data.shards import MANIFEST as DATA_MANIFEST
from tiny_gpt.data.shards import open_data
from tiny_gpt.model.gpt import GPT, GPTConfig
from tiny_gpt.training import checkpoints
from week16.activation_checkpointing import peak_bytes
from week19.kv_cache import cache_bytes

__all__ = ["Finding", "describe", "show", "verify"]


# ---- what a folder is


def kind_of(path: Path) -> str:
    """`data`, `checkpoint` or `run`, found by looking.

    Raises
    ------
    UserError
        If it is none of them.
    """
    path = Path(path)
    if (path / DATA_MANIFEST).exists():
        return "data"
    if (path / MANIFEST).exists() or (path.is_dir() and checkpoints.STEP.fullmatch(path.name)):
        return "checkpoint"
    if any((path / name).exists() for name in ("settings.toml", "log.jsonl", "checkpoints")):
        return "run"
    raise UserError(f"{path} is neither a run, nor a checkpoint, nor prepared data")


def read_lines(path: Path, *, strict: bool = True) -> list[dict[str, Any]]:
    """The objects in a file of JSON lines; a last line that a crash tore is left out.

    Parameters
    ----------
    strict
        Refuse a damaged line before the last one. `timing.jsonl` may have some: a run that is
        resumed after a crash appends to what is there.

    Raises
    ------
    ArtifactError
        If there is such a line; the message says which.
    """
    good, torn = [], []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError
            good.append(value)
        except ValueError:
            torn.append(number)
    end = len(lines) - (not lines[-1])  # the last line, closed by a line end or not
    if strict and torn and torn[0] < end:
        raise ArtifactError(f"{path} is damaged: line {torn[0]} is no JSON object")
    return good


# ---- what a model costs


def parameters(config: GPTConfig) -> dict[str, int]:
    """Trained numbers by part of the model; a tied head counts as embedding."""
    parts: dict[str, int] = {}
    with torch.device("meta"):
        model = GPT(config)
    for name, p in model.named_parameters():
        *_, module, _ = name.split(".")
        part = {
            "embed": "embedding",
            "previous": "embedding of the token before",
            "positions": "positions",
            "qkv": "attention",
            "out": "attention",
            "up": "MLP",
            "down": "MLP",
            "head": "head",
        }.get(module, "norms")
        parts[part] = parts.get(part, 0) + p.numel()
    return parts


def flops_per_token(config: GPTConfig) -> int:
    """Operations in matrix products for one token of a full context, forward.

    Attention's whole square is counted, as in most reports of utilization.
    """
    entries = _block_weights(config) + config.vocab_size * config.d_model
    return 2 * entries + 4 * config.n_layers * config.d_model * config.context


def training_memory(
    config: GPTConfig,
    batch: int,
    *,
    optimizer: str = "muon",
    recompute: bool = False,
    bytes_each: int = 4,
) -> dict[str, int]:
    """Bytes that training in `batch` sequences at once keeps; weights are float32.

    Parameters
    ----------
    optimizer
        `adamw` keeps two numbers for each weight, `muon` one for the matrices of blocks.
    recompute
        Whether activation checkpointing keeps only the input of each block.
    bytes_each
        Of an activation.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    c = config
    total = sum(parameters(c).values())
    buffers = 2 * total - (_block_weights(c) if optimizer == "muon" else 0)
    d, kv = c.d_model, c.n_kv_heads * c.head_dim
    # Inputs of the norms and matrices, queries, keys and values, and what attention made of them.
    block = 6 * d + 2 * kv + {"gelu": 2, "relu2": 2, "swiglu": 4}[c.mlp] * c.d_ff
    if c.positions == "rotary":  # rotated queries and keys, and attention's result laid out anew
        block += 2 * d + kv
    block += 2 * d * (c.norm == "rms") + 2 * d * (c.dropout > 0)
    # Attention's log-sums, and the norms' statistics.
    block += c.n_heads + 2 * (1 if c.norm == "rms" else 2)
    block += (c.n_heads + c.n_kv_heads) * c.qk_norm
    ends = d * (2 + (c.norm == "rms") + (c.dropout > 0))
    tokens = batch * c.context
    # Whatever the blocks compute in, the loss is taken in float32.
    outside = tokens * (ends * bytes_each + 4 * c.vocab_size)
    block, boundary = tokens * block * bytes_each, tokens * d * bytes_each
    if recompute:  # the head's share is gone when the last block is computed again
        inside = peak_bytes(c.n_layers, 1, boundary, block)
        activations = max(inside, outside + c.n_layers * boundary)
    else:
        activations = outside + c.n_layers * block
    return {
        "weights": 4 * total,
        "gradients": 4 * total,
        "optimizer": 4 * buffers,
        "activations": activations,
        "logits": 4 * tokens * c.vocab_size,
    }


def _block_weights(config: GPTConfig) -> int:
    """Entries of the blocks' matrices."""
    c, d = config, config.d_model
    attention = (c.n_heads + 2 * c.n_kv_heads) * c.head_dim * d + d * d
    return c.n_layers * (attention + (3 if c.mlp == "swiglu" else 2) * d * c.d_ff)


def parameters_of_run(run: Path) -> int | None:
    """Trained numbers of a run's model; None before its first checkpoint."""
    folders = [run / "best", *(checkpoints.folder_of(run, s) for s in checkpoints.steps_saved(run))]
    for folder in folders:
        try:
            config = GPTConfig(**json.loads((folder / "config.json").read_bytes()))
        except (OSError, ValueError, TypeError):
            continue
        return sum(parameters(config).values())
    return None


# ---- describe


def describe(path: Path) -> dict[str, Any]:
    """What a run, a checkpoint or a prepared folder holds; sizes in bytes.

    Returns
    -------
    dict
        With `kind` and `path`, and for a checkpoint (a run's best) `step`, `architecture`,
        `config`, `parameters` by part, `tokenizer`, `dtype`, `flops_per_token`, `memory` and
        `files`; for a run also `checkpoints`, `steps` and `validation`; for data `splits`, `meta`,
        `report` and `begins`, the text of the first tokens.

    Raises
    ------
    UserError
        If it is none of these, or damaged.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "data":
        return {"kind": kind, "path": str(path), **_describe_data(path)}
    if kind == "checkpoint":
        run = path.parent.parent if checkpoints.STEP.fullmatch(path.name) else path.parent
        return {"kind": kind, "path": str(path), **_describe_checkpoint(path, run)}
    found: dict[str, Any] = {"kind": kind, "path": str(path)}
    log = read_lines(path / "log.jsonl") if (path / "log.jsonl").is_file() else []
    found["steps"] = max((r["step"] for r in log if "loss" in r), default=0)
    found["checkpoints"] = checkpoints.steps_saved(path)
    losses = [(float(r["val_loss"]), r["step"]) for r in log if "val_loss" in r]
    if losses:
        best, step = min(losses)
        found["validation"] = {"loss": best, "step": step, "evaluations": len(losses)}
    if found["checkpoints"] or (path / "best").exists():
        found |= _describe_checkpoint(checkpoints.find_checkpoint(path), path)
    return found


def _describe_checkpoint(folder: Path, run: Path) -> dict[str, Any]:
    checkpoint = checkpoints.load_checkpoint(folder)
    config, tokenizer = checkpoint.model.config, checkpoint.tokenizer
    settings = _settings(run)
    rows = settings.get("batch-size", 1)
    batch = min(settings.get("micro-batch-size", rows), rows)
    parts = parameters(config)
    forward = flops_per_token(config)
    return {
        "checkpoint": str(checkpoint.path),
        "step": checkpoint.step,
        "best_loss": _number(checkpoint.state.get("best_loss")),
        "architecture": config.architecture,
        "config": asdict(config),
        "parameters": {**parts, "total": sum(parts.values())},
        "tokenizer": {
            "kind": tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "sha256": tokenizer.sha256,
        },
        "dtype": str(checkpoint.model.embed.weight.dtype).removeprefix("torch."),
        "flops_per_token": {"forward": forward, "training": 3 * forward},
        "batch": batch,
        "memory": training_memory(
            config,
            batch,
            optimizer=settings.get("optimizer", "muon"),
            recompute=settings.get("checkpoint-activations", False),
            bytes_each=4 if settings.get("dtype", "fp32") == "fp32" else 2,
        ),
        "cache": cache_bytes(
            n_layers=config.n_layers,
            n_kv_heads=config.n_kv_heads,
            head_dim=config.head_dim,
            n_tokens=config.context,
            bytes_per_number=4,
        ),
        "files": _sizes(checkpoint.path),
    }


def _describe_data(folder: Path) -> dict[str, Any]:
    data = open_data(folder)
    splits = {
        name: {
            "tokens": split.n_tokens,
            "documents": split.n_documents,
            "bytes": split.n_bytes,
            "bytes_per_token": split.n_bytes / max(1, split.n_tokens),
        }
        for name, split in data.splits.items()
    }
    report = folder / "report.json"
    first = data.splits.get("train") or next(iter(data.splits.values()), None)
    return {
        "splits": splits,
        "tokenizer": {
            "kind": data.tokenizer.kind,
            "vocab_size": data.tokenizer.vocab_size,
            "sha256": data.tokenizer.sha256,
        },
        "meta": data.meta,
        "report": json.loads(report.read_bytes()) if report.is_file() else {},
        "begins": data.tokenizer.decode(first.read(0, min(64, first.n_tokens))) if first else "",
        "files": _sizes(folder),
    }


def _settings(run: Path) -> dict[str, Any]:
    try:
        return tomllib.loads((run / "settings.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _sizes(folder: Path) -> dict[str, int]:
    return {p.name: p.stat().st_size for p in sorted(folder.iterdir()) if p.is_file()}


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


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
            suffix = {"memory": f", bytes, {d.get('batch')} sequences at once", "files": ", bytes"}
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


# ---- verify


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was written.

    Attributes
    ----------
    file
        The file, or the folder where no single file is to blame.
    what
        What is wrong with it, in one line.
    fatal
        Whether something is lost. If not, the program deals with it by itself.
    good
        The checkpoint to go back to, if there is one.
    """

    file: Path
    what: str
    fatal: bool
    good: Path | None = None

    def __str__(self) -> str:
        back = f"; go back to {self.good}" if self.good and self.fatal else ""
        return f"{'fatal' if self.fatal else 'note'}: {self.file}: {self.what}{back}"


def verify(path: Path) -> list[Finding]:
    """Read every byte of a run, a checkpoint or prepared data; an intact one gives no finding.

    Raises
    ------
    UserError
        If `path` is none of these.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "data":
        try:
            open_data(path, verify=True)
        except UserError as error:
            return [Finding(_file_named(error, path), str(error), True)]
        return []
    if kind == "checkpoint":
        found = _verify_checkpoint(path)
        return [_with_good(f, checkpoints.previous_good(path)) for f in found]
    return _verify_run(path)


def _verify_run(run: Path) -> list[Finding]:
    found: list[Finding] = []
    steps = checkpoints.steps_saved(run)
    folders = [checkpoints.folder_of(run, step) for step in steps]
    wrong = {folder: _verify_checkpoint(folder) for folder in folders}
    best = run / "best"
    if best.exists() or (run / ".best.previous").exists():
        wrong[best] = _verify_checkpoint(best)
    good = next((f for f in (*reversed(folders), best) if wrong.get(f) == []), None)
    found += [finding for findings in wrong.values() for finding in findings]
    for folder in (run, run / "checkpoints"):
        for left in sorted(folder.glob(".*.saving")) if folder.is_dir() else ():
            found.append(Finding(left, "left by a save that was interrupted", False))
    try:
        tomllib.loads((run / "settings.toml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        found.append(Finding(run / "settings.toml", "is missing", True))
    except (OSError, ValueError) as error:
        found.append(Finding(run / "settings.toml", f"cannot be read ({error})", True))
    for name in ("samples.json", "evaluation.json"):
        try:
            json.loads((run / name).read_bytes())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            found.append(Finding(run / name, f"cannot be read ({error})", True))
    last = steps[-1] if steps else 0
    known = 0 if good is None else _state(good).get("log_bytes", 0)
    found += _verify_log(run / "log.jsonl", last, known)
    return [_with_good(f, good) for f in found]


def _with_good(finding: Finding, good: Path | None) -> Finding:
    return Finding(finding.file, finding.what, finding.fatal, good)


def _verify_checkpoint(folder: Path) -> list[Finding]:
    try:
        checkpoint = checkpoints.load_checkpoint(folder)
    except UserError as error:
        # The loader's hint is left out: `good` says it.
        cause = error.__cause__ if isinstance(error.__cause__, ArtifactError) else error
        return [Finding(_file_named(cause, folder), str(cause), True)]
    except (KeyError, RuntimeError) as error:
        return [Finding(folder, f"weights do not fit config.json ({error})", True)]
    match = checkpoints.STEP.fullmatch(folder.name)
    if match and int(match[1]) != checkpoint.step:
        return [Finding(folder, f"holds step {checkpoint.step}, not what its name says", True)]
    said = checkpoint.state.get("tokenizer_sha256", checkpoint.tokenizer.sha256)
    if said != checkpoint.tokenizer.sha256:
        return [Finding(folder / "tokenizer.json", "is not the one of the training", True)]
    return []


def _verify_log(path: Path, last: int, known: int) -> list[Finding]:
    """Steps one by one, nothing torn but the end, and all that a checkpoint counts on.

    Parameters
    ----------
    last
        Step of the newest checkpoint.
    known
        Bytes that the log had when a good checkpoint was written.
    """
    if not path.is_file():
        return [Finding(path, "is missing", True)]
    found, steps = [], [0]
    *lines, tail = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            step = int(record["step"])
            trained = "loss" in record
        except (ValueError, TypeError, LookupError):
            is_end = number == len(lines) and not tail
            found.append(Finding(path, f"line {number} is torn or altered", not is_end))
            continue
        if trained:
            steps.append(step)
        elif step != steps[-1]:
            found.append(Finding(path, f"line {number} validates step {step} out of place", True))
    for before, after in pairwise(steps):
        if after != before + 1:
            found.append(Finding(path, f"step {before} is followed by step {after}", True))
    if tail:
        found.append(Finding(path, f"line {len(lines) + 1} is torn; resuming cuts it off", False))
    size = path.stat().st_size
    if size < known or steps[-1] < last:
        what = f"ends at step {steps[-1]} with {size} bytes, before the checkpoint of step {last}"
        found.append(Finding(path, what, True))
    return found


def _state(folder: Path) -> dict[str, Any]:
    return checkpoints.load_checkpoint(folder).state


def _file_named(error: BaseException, folder: Path) -> Path:
    """The file in `folder` that a message blames; the folder if it blames none."""
    inside = re.escape(str(folder.absolute())) + r"/([A-Za-z0-9_.-]*\w)"
    match = re.search(rf"cannot be trusted: ([A-Za-z0-9_.-]+) |{inside}", str(error))
    return folder / (match[1] or match[2]) if match else folder
