"""Prove that a refactoring changed no number: the quick run of two versions, side by side.

Where every number of the two agrees, the record's digest is renewed without a new long run.
"""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from shared import records
from shared.bug_runner import environment_of, link_packages
from shared.errors import UserError

RTOL = 1e-9  # the same machine and libraries: rounding of sums that moved, at most

__all__ = ["restamp"]


def restamp(
    scripts: list[Path], against: str, *, show: Callable[[Path, list[str]], None]
) -> list[Path]:
    """Run each script quick as it is and as it was at a commit; renew the digests that hold.

    Parameters
    ----------
    against
        The commit whose code made the records.
    show
        Called with each script and how its two versions differ (nothing: renewed).

    Returns
    -------
    differing
        The scripts that must be recorded anew.

    Raises
    ------
    UserError
        If git does not know the commit.
    """
    with tempfile.TemporaryDirectory(prefix="study-restamp-") as scratch:
        old = link_packages(_checkout(against, Path(scratch) / "old"))
        differing = []
        for script in scripts:
            key = records.key_of(script)
            before = _quick(old / f"{key}.py", environment_of(old), Path(scratch) / "before")
            after = _quick(script, dict(os.environ), Path(scratch) / "after")
            found = _differences(before, after)
            if found:
                differing.append(script)
            else:
                path = records.record_of(script)
                record = records.load(path)
                record |= {"code": records.digest_of(script), "fingerprint": after["fingerprint"]}
                records.save(record, path)
            show(script, found)
    return differing


def _checkout(commit: str, target: Path) -> Path:
    command = [
        "git",
        "-C",
        str(records.ROOT),
        "archive",
        "--format=tar",
        "--end-of-options",
        commit,
    ]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise UserError(f"git does not know the commit {commit!r}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(target, filter="data")
    return target


def _quick(script: Path, environment: dict[str, str], runs: Path) -> dict | str:
    """The record of a quick run, or why there is none."""
    if not script.exists():
        return "there is no such script"
    done = subprocess.run(
        [sys.executable, script, "--quick", "--threads", "1"],
        env=environment | {"STUDY_RUNS": str(runs)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = sorted(runs.rglob(f"{script.parent.name}/{script.stem}/record.json"))
    if not found:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        return f"did not finish: {lines[-1]}"
    return json.loads(found[0].read_text(encoding="utf-8"))


def _differences(before: dict | str, after: dict | str) -> list[str]:
    """Metrics, means of claims and errors of checks that are not the same in both."""
    if isinstance(before, str) or isinstance(after, str):
        sides = {"then": before, "now": after}
        return [f"{side}: {value}" for side, value in sides.items() if isinstance(value, str)]
    found = []
    for kind, field in (("metrics", "value"), ("claims", "mean"), ("checks", "passed")):
        old, new = ({row["name"]: row.get(field) for row in r[kind]} for r in (before, after))
        timed = {row["name"] for row in after[kind] if row.get("rtol", 0.0) is None}
        found += [f"{kind}: {name!r} is gone" for name in old if name not in new]
        found += [f"{kind}: {name!r} is new" for name in new if name not in old]
        for name in old.keys() & new.keys() - timed:
            a, b = old[name], new[name]
            same = a == b or (a is not None and b is not None and math.isclose(a, b, rel_tol=RTOL))
            if not same:
                found.append(f"{kind}: {name!r}: then {a}, now {b}")
    return found
