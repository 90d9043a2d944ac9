"""A project of its own for a test: a week with one fast script, its map, and a copy of `shared`."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from shared import records
from shared.bug_runner import link_packages

CURRICULUM = """\
[[week]]
number = "01"
title = "Lengths"
about = "How long a thing is"
part = "Part I"
date = 2025-01-02
scripts = ["norm.py", "angle.py"]
notes = []

[[week]]
number = "02"
title = "Areas"
part = "Part I"
scripts = ["area.py"]
notes = []

[[paper]]
folder = "1637-geometry"
year = 1637
title = "La Géométrie"
claim = "Curves are equations"

[[capstone]]
name = "ruler"
title = "Ruler"
about = "Measures things"
command = "uv run ruler"
"""

IDEA = '''\
"""The length of a vector.

    uv run weeks/01/norm.py

Source: Pythagoras.
"""

import numpy as np


def norm(x):
    """Root of the sum of squares."""
    return np.sqrt((x * x).sum())


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
'''

SCRIPT = '''\
"""What norm is worth."""

import numpy as np

from shared.study import PositiveInt, Run
from week01.norm import norm


def main(run: Run, *, n: PositiveInt = 4, wrong: bool = False) -> None:
    """Measure.

    Parameters
    ----------
    n
        How many coordinates.
    """
    x = run.rng.normal(size=n)
    run.check(
        "norm of x[i]",
        norm(x) + wrong,
        np.linalg.norm(x),
        against="numpy.linalg.norm",
        atol=1e-12,
        why="rounding",
    )
    run.claim("it is positive", norm(x), at_least=0, deterministic=True, note=f"n = {n} | one seed")
    run.metric("length", norm(x), "m")
    with run.figure("line", "How long is it?") as axes:
        axes.plot(x)
'''


def make_project(tmp_path: Path, monkeypatch, *, script: str = SCRIPT) -> Path:
    """A project in `tmp_path`, which this process and its children take for theirs."""
    root = tmp_path / "project"
    week = root / "weeks" / "01"
    (week / "evidence").mkdir(parents=True)
    (week / "norm.py").write_text(IDEA, encoding="utf-8")
    (week / "evidence" / "norm.py").write_text(script, encoding="utf-8")
    for package in (week, week / "evidence"):
        (package / "__init__.py").touch()
    (root / "curriculum.toml").write_text(CURRICULUM, encoding="utf-8")
    shutil.copytree(
        records.ROOT / "shared", root / "shared", ignore=shutil.ignore_patterns("__pycache__")
    )
    monkeypatch.setattr(records, "ROOT", root)
    link_packages(root)
    monkeypatch.setenv("PYTHONPATH", f"{root / 'imports'}{os.pathsep}{root}")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.delenv("STUDY_RUNS", raising=False)
    monkeypatch.delenv("STUDY_TRACEBACK", raising=False)
    return root


def git(root: Path, *arguments: str) -> str:
    """Run git in `root`, which need not have a user."""
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    done = subprocess.run(
        ["git", "-C", str(root), *who, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


def main_of(script: Path):
    """The `main` of a script's evidence, loaded from its files, with `week01` being its week."""
    names = [f"week{script.parent.name}", f"week{script.parent.name}.{script.stem}"]
    before = {name: sys.modules.pop(name, None) for name in names}
    evidence = script.parent / "evidence" / script.name
    try:
        for name, path in zip(names, (script.parent / "__init__.py", script), strict=True):
            _load(name, path)
        return _load(f"tiny_{script.stem}", evidence).main
    finally:
        for name, module in before.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def _load(name: str, path: Path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` and its content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
