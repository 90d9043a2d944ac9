"""The log: which weeks, papers, notes and capstones there are, done and planned."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

from shared import records
from shared.errors import UserError


def curriculum() -> dict:
    """The map of the log, done and planned: `curriculum.toml`."""
    return tomllib.loads((records.ROOT / "curriculum.toml").read_text(encoding="utf-8"))


def parts() -> dict[str, list[dict]]:
    """The weeks by the part of the log that they belong to."""
    found: dict[str, list[dict]] = {}
    for week in curriculum()["week"]:
        found.setdefault(week["part"], []).append(week)
    return found


def papers() -> list[dict]:
    """The papers by year and title."""
    return sorted(curriculum()["paper"], key=lambda paper: (paper["year"], paper["title"]))


def scripts_in(folder: Path) -> list[Path]:
    """The scripts of a week (ideas that have evidence) or paper, in reading order.

    That is the curriculum's order; scripts that it does not plan come last, by name.
    """
    planned = planned_in(folder)
    found = [
        path
        for path in sorted(folder.glob("*.py"))
        if path.name == "reproduce.py"
        or (path.name != "__init__.py" and (folder / "evidence" / path.name).exists())
    ]
    return sorted(found, key=lambda s: planned.index(s.name) if s.name in planned else len(planned))


def all_scripts() -> list[Path]:
    """Every script of every week and paper, in reading order."""
    folders = [records.ROOT / "weeks" / week["number"] for week in curriculum()["week"]]
    folders += sorted(path for path in (records.ROOT / "papers").glob("*") if path.is_dir())
    return [script for folder in folders for script in scripts_in(folder)]


def select(targets: Iterable[str]) -> list[Path]:
    """Scripts named by targets: a week (`13`), a script (`13/attention`), a paper's folder.

    Raises
    ------
    UserError
        If a target names no script.
    """
    chosen, scripts = [], all_scripts()
    for target in targets:
        target = target.removesuffix(".py").strip("/")
        padded = re.sub(r"^(\d)(?=/|$)", r"0\1", target)
        wanted = {target, f"weeks/{padded}", f"papers/{target}"}
        found = [s for s in scripts if {records.key_of(s), key(s.parent)} & wanted]
        if not found:
            known = sorted({s.parent.name for s in scripts})
            raise UserError(f"no script is named {target!r}; there are {', '.join(known)}")
        chosen += [s for s in found if s not in chosen]
    return chosen or scripts


def markdown_files() -> list[Path]:
    """Every Markdown file that git tracks or would track."""
    root = records.ROOT
    found = [root / name for name in records.git_files("*.md")] or [
        path
        for path in root.rglob("*.md")
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    return sorted(path for path in found if path.exists())


def title_of(script: Path) -> str:
    """First line of a script's docstring, without its final period."""
    match = re.match(r'r?"""(.+?)(?:\.?"""|\.?\n)', script.read_text(encoding="utf-8"))
    if match is None:
        raise UserError(f"{key(script)} does not begin with a docstring")
    return match[1]


def planned_in(folder: Path) -> list[str]:
    """Names of a week's scripts as the curriculum lists them."""
    weeks = curriculum()["week"] if folder.parent == records.ROOT / "weeks" else []
    return next((week["scripts"] for week in weeks if week["number"] == folder.name), [])


def key(path: Path) -> str:
    """The path from the project's root."""
    return path.relative_to(records.ROOT).as_posix()
