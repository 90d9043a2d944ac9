"""The log: which weeks, papers and capstones there are, and the tables that tell of them.

Markdown files hold two kinds of generated text, both rewritten by `study log` from the committed
records and never by hand: a table between markers, or what a capstone rendered to its results,

    <!-- study:scripts -->
    <!-- /study -->
    <!-- study:include comparison.md -->
    <!-- /study -->

and a measured value inside a sentence, named by script, metric (or check, claim, verdict) and
format:

    <!--= weeks/14/ngram "5-gram loss" .2f -->1.32<!--/=-->
"""

from __future__ import annotations

import math
import os
import re
import tomllib
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import yaml

from shared import records
from shared.artifacts import write_atomic
from shared.errors import UserError

BLOCK = re.compile(r"(<!-- study:(\w+)(?: (\S+))? -->\n).*?(<!-- /study -->)", re.DOTALL)
VALUE = re.compile(r'(<!--= (\S+) "([^"]+)" (\S+) -->)(.*?)(<!--/=-->)')
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)  # may mention the markers


# ---- what there is


def curriculum() -> dict:
    """The map of the log, done and planned: `curriculum.toml`."""
    return tomllib.loads((records.ROOT / "curriculum.toml").read_text(encoding="utf-8"))


def scripts_in(folder: Path) -> list[Path]:
    """The runnable scripts of a week or paper, those that end in `cli(main)`, in reading order.

    That is the curriculum's order; scripts that it does not plan come last, by name.
    """
    planned = _planned(folder)
    found = [
        path
        for path in sorted(folder.glob("*.py"))
        if path.read_text(encoding="utf-8").rstrip().endswith("cli(main)")
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
        found = [s for s in scripts if {records.key_of(s), _key(s.parent)} & wanted]
        if not found:
            known = sorted({s.parent.name for s in scripts})
            raise UserError(f"no script is named {target!r}; there are {', '.join(known)}")
        chosen += [s for s in found if s not in chosen]
    return chosen or scripts


def paper_front_matter(folder: Path) -> dict:
    """The front matter of a paper's README.

    Raises
    ------
    UserError
        If there is none, or it is not YAML.
    """
    parts = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        raise UserError(f"papers/{folder.name}/README.md has no front matter")
    try:
        return yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise UserError(f"papers/{folder.name}/README.md: front matter: {error}") from None


# ---- tables


def render(text: str, path: Path) -> str:
    """`text` of the Markdown file `path` with every table and value as the records say."""
    tables = {
        "weeks": _weeks,
        "papers": _papers,
        "capstones": _capstones,
        "scripts": partial(_scripts, path.parent),
        "verdicts": partial(_verdicts, path.parent),
    }

    for kind, begin, pattern in (("table", "<!-- study:", BLOCK), ("value", "<!--= ", VALUE)):
        # One that is not closed would swallow all up to the next, or never be rewritten.
        swallowed = any(match[0].count(begin) > 1 for match in pattern.finditer(text))
        if swallowed or begin in CODE.sub("", pattern.sub("", text)):
            raise UserError(f"{_key(path)}: a generated {kind} is not well formed or not closed")

    def block(match: re.Match) -> str:
        if match[2] == "include" and match[3]:
            return f"{match[1]}{_included(path, match[3])}\n{match[4]}"
        if match[2] not in tables or match[3]:
            raise UserError(f"{_key(path)}: unknown table study:{match[2]}")
        table = tables[match[2]]
        made = table(path.parent) if match[2] in ("weeks", "papers", "capstones") else table()
        return f"{match[1]}{made}\n{match[4]}"

    def value(match: re.Match) -> str:
        try:
            return match[1] + _value(match[2], match[3], match[4]) + match[6]
        except UserError as error:
            raise UserError(f"{_key(path)}: {error}") from None

    return VALUE.sub(value, BLOCK.sub(block, text))


def update(*, check: bool = False) -> list[str]:
    """Rewrite the generated text of every Markdown file; give the files that were stale."""
    stale = []
    for path in markdown_files():
        text = path.read_text(encoding="utf-8")
        fresh = render(text, path)
        if fresh != text:
            stale.append(_key(path))
            if not check:
                write_atomic(path, fresh)
    return stale


def markdown_files() -> list[Path]:
    """Every Markdown file that git tracks or would track."""
    root = records.ROOT
    found = [root / name for name in records.git_files("*.md")] or [
        path
        for path in root.rglob("*.md")
        if not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    return sorted(path for path in found if path.exists())


def _included(path: Path, name: str) -> str:
    """A file of `results/` that a capstone's own records were rendered to."""
    try:
        return (path.parent / "results" / name).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(f"{_key(path)}: results/{name} cannot be read") from error


def _value(key: str, name: str, spec: str) -> str:
    record = records.load(records.record_of(records.script_of(key)))
    rows = {row["name"]: row for kind in ("claims", "verdicts") for row in record[kind]}
    if spec in ("detail", "verdict"):
        if spec not in rows.get(name, {}):
            raise UserError(f"{key} recorded no claim or verdict {name!r}")
        return rows[name][spec]
    numbers = {c["name"]: math.inf if c["error"] is None else c["error"] for c in record["checks"]}
    numbers |= {m["name"]: m["value"] for m in record["metrics"]} | {"seconds": record["seconds"]}
    if name not in numbers:
        raise UserError(f"{key} recorded no metric or check {name!r}")
    try:
        return format(numbers[name], spec)
    except ValueError:
        raise UserError(f"{key} {name!r}: {spec!r} is no format of a number") from None


def _weeks(here: Path) -> str:
    parts: dict[str, list[dict]] = {}
    for week in curriculum()["week"]:
        parts.setdefault(week["part"], []).append(week)
    lines = []
    for part, weeks in parts.items():
        lines += [
            f"\n### {part}\n",
            "| Week | Date | Title | Scripts | Checks | Seconds |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_week_row(week, here) for week in weeks]
    return "\n".join(lines).strip("\n") + "\n"


def _week_row(week: dict, here: Path) -> str:
    folder = records.ROOT / "weeks" / week["number"]
    if "date" not in week:
        names = ", ".join(name.removesuffix(".py") for name in week["scripts"])
        return _row(week["number"], "*planned*", week["title"], f"*{names}*", "", "")
    scripts = {s.name: s for s in scripts_in(folder)}
    packages = {n: folder / n for n in week["scripts"] if (folder / n).is_dir()}
    found = [records.load(records.record_of(s)) for s in scripts.values()]
    names = [
        f"[{n.removesuffix('.py')}]({_link((scripts | packages)[n], here)})"
        if n in scripts | packages
        else f"*{n.removesuffix('.py')}*"
        for n in [*week["scripts"], *(n for n in scripts if n not in week["scripts"])]
    ]
    checks = [c["passed"] for r in found for c in r["checks"]]
    title = f"[{week['title']}]({_link(folder / 'README.md', here)})"
    seconds = sum(r["seconds"] for r in found)
    return _row(
        week["number"],
        week["date"],
        title,
        ", ".join(names),
        f"{sum(checks)}/{len(checks)}",
        f"{seconds:.0f}",
    )


def _scripts(folder: Path) -> str:
    lines = [
        "| Script | What it shows | Checked against | Checks | Largest error | Seconds | Figures |",
        "|---|---|---|---|---|---|---|",
    ]
    for script in scripts_in(folder):
        record = records.load(records.record_of(script))
        checks = record["checks"]
        against = ", ".join(dict.fromkeys(c["against"] for c in checks))
        errors = [math.inf if c["error"] is None else c["error"] for c in checks]
        mode = "" if record["mode"] == "default" else f" `--{record['mode']}`"
        figures = " ".join(
            f'[{i}](results/{f["file"]} "{f["title"]}")' for i, f in enumerate(record["figures"], 1)
        )
        lines.append(
            _row(
                f"[{script.stem}]({script.name}){mode}",
                title_of(script),
                against,
                f"{sum(c['passed'] for c in checks)}/{len(checks)}",
                f"{max(errors):.1e}" if errors else "",
                f"{record['seconds']:.0f}",
                figures,
            )
        )
    planned = [n.removesuffix(".py") for n in _planned(folder) if not (folder / n).exists()]
    if planned:
        lines.append(f"\nPlanned: {', '.join(planned)}.")
    return "\n".join(lines)


def _papers(here: Path) -> str:
    lines = ["| Year | Paper | Claim | Verdict |", "|---|---|---|---|"]
    for paper in sorted(curriculum()["paper"], key=lambda p: (p["year"], p["title"])):
        folder = records.ROOT / "papers" / paper["folder"]
        if not folder.is_dir():
            lines.append(_row(paper["year"], paper["title"], paper["claim"], "*planned*"))
            continue
        record = records.load(records.record_of(folder / "reproduce.py"))
        verdict = "; ".join(f"{v['name']}: **{v['verdict']}**" for v in record["verdicts"])
        title = f"[{paper['title']}]({_link(folder / 'README.md', here)})"
        lines.append(_row(paper["year"], title, paper["claim"], verdict))
    return "\n".join(lines)


def _verdicts(folder: Path) -> str:
    record = records.load(records.record_of(folder / "reproduce.py"))
    lines = ["| Sub-claim | Verdict | Measured |", "|---|---|---|"]
    lines += [_row(v["name"], f"**{v['verdict']}**", v["detail"]) for v in record["verdicts"]]
    lines += [
        _row(c["name"], "holds" if c["holds"] else "fails", c["detail"]) for c in record["claims"]
    ]
    return "\n".join(lines)


def _capstones(here: Path) -> str:
    lines = ["| Capstone | What it does |", "|---|---|"]
    for capstone in curriculum()["capstone"]:
        folder = records.ROOT / "capstones" / capstone["name"]
        there = (folder / "README.md").exists()
        title = f"[{capstone['title']}]({_link(folder / 'README.md', here)})"
        name = title if there else f"{capstone['title']} (*planned*)"
        lines.append(_row(name, capstone["about"]))
    return "\n".join(lines)


def title_of(script: Path) -> str:
    """First line of a script's docstring, without its final period."""
    match = re.match(r'r?"""(.+?)(?:\.?"""|\.?\n)', script.read_text(encoding="utf-8"))
    if match is None:
        raise UserError(f"{_key(script)} does not begin with a docstring")
    return match[1]


def _planned(folder: Path) -> list[str]:
    weeks = curriculum()["week"] if folder.parent == records.ROOT / "weeks" else []
    return next((week["scripts"] for week in weeks if week["number"] == folder.name), [])


def _row(*cells) -> str:
    """A row of a Markdown table; a bar in a cell would end it, unless escaped."""
    plain = (" ".join(str(cell).split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(plain)} |"


def _link(path: Path, here: Path) -> str:
    return Path(os.path.relpath(path, here)).as_posix()


def _key(path: Path) -> str:
    return path.relative_to(records.ROOT).as_posix()
