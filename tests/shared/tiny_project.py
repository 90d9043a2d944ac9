"""A project of its own for a test: a week with one fast script, its map, and a copy of `shared`."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from shared import records

CURRICULUM = """\
[[week]]
number = "01"
title = "Lengths"
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
"""

SCRIPT = '''\
"""The length of a vector.

    uv run weeks/01/norm.py

Source: Pythagoras.
"""

import numpy as np

from shared.study import PositiveInt, Run, cli


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
        np.sqrt((x * x).sum()) + wrong,
        np.linalg.norm(x),
        against="numpy.linalg.norm",
        atol=1e-12,
        why="rounding",
    )
    run.claim("it is positive", (x * x).sum() > 0, f"n = {n} | one seed")
    run.metric("length", np.linalg.norm(x), "m")
    with run.figure("line", "How long is it?") as axes:
        axes.plot(x)


if __name__ == "__main__":
    cli(main)
'''


def make_project(tmp_path: Path, monkeypatch, *, script: str = SCRIPT) -> Path:
    """A project in `tmp_path`, which this process and its children take for theirs."""
    root = tmp_path / "project"
    (root / "weeks" / "01").mkdir(parents=True)
    (root / "weeks" / "01" / "norm.py").write_text(script, encoding="utf-8")
    (root / "curriculum.toml").write_text(CURRICULUM, encoding="utf-8")
    shutil.copytree(
        records.ROOT / "shared", root / "shared", ignore=shutil.ignore_patterns("__pycache__")
    )
    monkeypatch.setattr(records, "ROOT", root)
    monkeypatch.setenv("PYTHONPATH", str(root))
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
    """The `main` of a script, loaded from its file."""
    name = f"tiny_{script.stem}"
    spec = importlib.util.spec_from_file_location(name, script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module.main


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file below `folder` and its content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
