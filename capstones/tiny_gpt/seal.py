"""The seal of a run: what the files beside its checkpoints were when they were last written.

``RUN/seal.json`` holds each file's size and digest and says where the data lies; it is sealed by
its own digest. `log.jsonl` and `timing.jsonl` grow: what is sealed of them is what they began with
when something was saved, and what stands after that is not believed. What a seal says is on the
disk before it, and a file is taken out of it before another takes its place, so that a crash at any
instant leaves a seal that is true.
"""

import os
from pathlib import Path
from typing import Any

from shared import artifacts
from shared.artifacts import ArtifactError, absolute, inside
from shared.errors import UserError
from shared.files import write_atomic

__all__ = ["SEAL", "begin", "data_folders", "read", "refuse_inside", "sealed", "update"]

SEAL, FORMAT = "seal.json", "tiny-gpt run 1"
GROWING = ("log.jsonl", "timing.jsonl")
CHECKPOINTS = ("best", "checkpoints")


def begin(run: Path, data: Path) -> None:
    """Seal a new run's settings, and where its data lies."""
    _write(run, {"data": [], "files": {}})
    update(run, "settings.toml", data=data)


def update(
    run: Path,
    *names: str,
    n_bytes: int | None = None,
    without: tuple[str, ...] = (),
    data: Path | None = None,
) -> None:
    """Seal files as they are now (or their first `n_bytes`), take others out, say where data is."""
    body = _body(run)
    if data is not None:  # as seen from the run, and from the root
        body["data"] = [os.path.relpath(data, absolute(run)), str(data)]
    files = {name: facts for name, facts in body["files"].items() if name not in without}
    for name in names:
        files[name] = artifacts._facts(inside(run, name).read_bytes()[:n_bytes])
    _write(run, {**body, "files": files})


def read(run: Path, name: str) -> bytes:
    """What is sealed of a file, verified; ArtifactError if the file is not sealed."""
    facts, path = sealed(run).get(name), inside(run, name)
    if facts is None:
        raise ArtifactError(f"{path} is not sealed by {SEAL}")
    data, n = path.read_bytes(), facts["bytes"]
    if name in GROWING:
        if len(data) < n:
            raise ArtifactError(
                f"{path} has {len(data)} bytes, fewer than the {n} that {SEAL} knows of; "
                "it was cut by something else"
            )
        data = data[:n]
    if artifacts._facts(data) != facts:
        raise ArtifactError(f"{path} was altered or is torn: it is not the one that was sealed")
    return data


def sealed(run: Path) -> dict[str, dict[str, Any]]:
    """Size and digest of each file that is sealed."""
    return _body(run)["files"]


def data_folders(run: Path) -> list[Path]:
    """Where the data may lie: where it lay, as seen from the run's folder, and on this machine."""
    run = absolute(run)
    return list(dict.fromkeys(absolute(run / place) for place in _body(run)["data"]))


def refuse_inside(out: Path) -> None:
    """Nothing is written where a checkpoint of a run or a file of a sealed folder may lie."""
    out = absolute(out)
    for folder in (out, *out.parents):
        if folder.name in CHECKPOINTS and (folder.parent / SEAL).exists():
            raise UserError(f"out {out} is where the run {folder.parent} keeps its checkpoints")
        for name in (artifacts.MANIFEST, "data.json") if folder != out else ():
            path = folder / name
            if os.path.isfile(path) and artifacts.opened(path.read_bytes()):
                raise UserError(f"out {out} lies inside of {folder}, which is sealed")


def _body(run: Path) -> dict[str, Any]:
    path = inside(run, SEAL)
    body = artifacts.opened(path.read_bytes())
    if body and body.get("format") == FORMAT and _all(body.get("data"), list, str):
        files = list(body["files"].values())
        if _all(files, list, dict) and all(type(facts.get("bytes")) is int for facts in files):
            return body
    raise ArtifactError(f"{path} was altered or is torn")


def _all(values: Any, outer: type, inner: type) -> bool:
    return isinstance(values, outer) and all(isinstance(value, inner) for value in values)


def _write(run: Path, body: dict[str, Any]) -> None:
    body = {"format": FORMAT, "data": body["data"], "files": dict(sorted(body["files"].items()))}
    write_atomic(run / SEAL, artifacts.sealed(body))
