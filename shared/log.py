"""The log: which weeks, papers and capstones there are, and the tables that tell of them.

Markdown files hold two kinds of generated text, both rewritten by `study log` from the committed
records and never by hand: a table between markers,

    <!-- study:scripts -->
    <!-- /study -->

and a measured value inside a sentence, named by script, metric (or check, claim, verdict) and
format:

    <!--= weeks/14/ngram "5-gram loss" .2f -->1.32<!--/=-->
"""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import yaml

from shared import records
from shared.artifacts import write_atomic
from shared.errors import UserError

ROOT = records.ROOT
BLOCK = re.compile(r"(<!-- study:(\w+) -->\n).*?(<!-- /study -->)", re.DOTALL)
VALUE = re.compile(r'(<!--= (\S+) "([^"]+)" (\S+) -->)(.*?)(<!--/=-->)')


# ---- what there is


def curriculum() -> dict:
    """The map of the log, done and planned: `curriculum.toml`."""
    return tomllib.loads((ROOT / "curriculum.toml").read_text(encoding="utf-8"))


def scripts_in(folder: Path) -> list[Path]:
    """The runnable scripts of a week or paper: the files that end in `cli(main)`."""
    return [
        path
        for path in sorted(folder.glob("*.py"))
        if path.read_text(encoding="utf-8").rstrip().endswith("cli(main)")
    ]


def all_scripts() -> list[Path]:
    """Every script of every week and paper, in reading order."""
    folders = [ROOT / "weeks" / week["number"] for week in curriculum()["week"]]
    folders += sorted(path for path in (ROOT / "papers").glob("*") if path.is_dir())
    planned = [name for week in curriculum()["week"] for name in week["scripts"]]
    order = {name: i for i, name in enumerate(planned)}
    return [
        script
        for folder in folders
        for script in sorted(scripts_in(folder), key=lambda s: (order.get(s.name, -1), s.name))
    ]


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
        wanted = {target, f"weeks/{target}", f"papers/{target}", f"weeks/{target.zfill(2)}"}
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
        If there is none.
    """
    parts = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        raise UserError(f"papers/{folder.name}/README.md has no front matter")
    return yaml.safe_load(parts[1])


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

    def block(match: re.Match) -> str:
        if match[2] not in tables:
            raise UserError(f"{_key(path)}: unknown table study:{match[2]}")
        table = tables[match[2]]
        made = table(path.parent) if match[2] in ("weeks", "papers", "capstones") else table()
        return f"{match[1]}{made}\n{match[3]}"

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
    done = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard", "*.md"],
        capture_output=True,
        text=True,
        check=False,
    )
    names = done.stdout.splitlines() if done.returncode == 0 else []
    found = [ROOT / name for name in names] or [
        p for p in ROOT.rglob("*.md") if not any(part.startswith(".") for part in p.parts)
    ]
    return sorted(path for path in found if path.exists())


def _value(key: str, name: str, spec: str) -> str:
    record = records.load(records.record_of(records.script_of(key)))
    rows = {row["name"]: row for kind in ("claims", "verdicts") for row in record[kind]}
    if spec in ("detail", "verdict"):
        if spec not in rows.get(name, {}):
            raise UserError(f"{key} recorded no claim or verdict {name!r}")
        return rows[name][spec]
    numbers = {c["name"]: c["error"] for c in record["checks"]}
    numbers |= {m["name"]: m["value"] for m in record["metrics"]} | {"seconds": record["seconds"]}
    if name not in numbers:
        raise UserError(f"{key} recorded no metric or check {name!r}")
    return format(numbers[name], spec)


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
    folder = ROOT / "weeks" / week["number"]
    if "date" not in week:
        names = ", ".join(name.removesuffix(".py") for name in week["scripts"])
        return f"| {week['number']} | *planned* | {week['title']} | *{names}* | | |"
    scripts = {s.name: s for s in scripts_in(folder)}
    found = [records.load(records.record_of(s)) for s in scripts.values()]
    names = [
        f"[{n.removesuffix('.py')}]({_link(scripts[n], here)})"
        if n in scripts
        else f"*{n.removesuffix('.py')}*"
        for n in [*week["scripts"], *(n for n in scripts if n not in week["scripts"])]
    ]
    checks = [c["passed"] for r in found for c in r["checks"]]
    title = f"[{week['title']}]({_link(folder / 'README.md', here)})"
    seconds = sum(r["seconds"] for r in found)
    return (
        f"| {week['number']} | {week['date']} | {title} | {', '.join(names)} | "
        f"{sum(checks)}/{len(checks)} | {seconds:.0f} |"
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
        errors = max(c["error"] for c in checks)
        mode = "" if record["mode"] == "default" else f" `--{record['mode']}`"
        figures = " ".join(
            f'[{i}](results/{f["file"]} "{f["title"]}")' for i, f in enumerate(record["figures"], 1)
        )
        lines.append(
            f"| [{script.stem}]({script.name}){mode} | {title_of(script)} | {against} | "
            f"{sum(c['passed'] for c in checks)}/{len(checks)} | {errors:.1e} | "
            f"{record['seconds']:.0f} | {figures} |"
        )
    week = next((w for w in curriculum()["week"] if w["number"] == folder.name), {"scripts": []})
    planned = [n.removesuffix(".py") for n in week["scripts"] if not (folder / n).exists()]
    if planned:
        lines.append(f"\nPlanned: {', '.join(planned)}.")
    return "\n".join(lines)


def _papers(here: Path) -> str:
    lines = ["| Year | Paper | Claim | Verdict |", "|---|---|---|---|"]
    for paper in sorted(curriculum()["paper"], key=lambda p: (p["year"], p["title"])):
        folder = ROOT / "papers" / paper["folder"]
        if not folder.is_dir():
            lines.append(f"| {paper['year']} | {paper['title']} | {paper['claim']} | *planned* |")
            continue
        record = records.load(records.record_of(folder / "reproduce.py"))
        verdict = "; ".join(f"{v['name']}: **{v['verdict']}**" for v in record["verdicts"])
        title = f"[{paper['title']}]({_link(folder / 'README.md', here)})"
        lines.append(f"| {paper['year']} | {title} | {paper['claim']} | {verdict} |")
    return "\n".join(lines)


def _verdicts(folder: Path) -> str:
    record = records.load(records.record_of(folder / "reproduce.py"))
    lines = ["| Sub-claim | Verdict | Measured |", "|---|---|---|"]
    lines += [f"| {v['name']} | **{v['verdict']}** | {v['detail']} |" for v in record["verdicts"]]
    lines += [
        f"| {c['name']} | {'holds' if c['holds'] else 'fails'} | {c['detail']} |"
        for c in record["claims"]
    ]
    return "\n".join(lines)


def _capstones(here: Path) -> str:
    lines = ["| Capstone | What it does |", "|---|---|"]
    for capstone in curriculum()["capstone"]:
        folder = ROOT / "capstones" / capstone["name"]
        there = (folder / "README.md").exists()
        title = f"[{capstone['title']}]({_link(folder / 'README.md', here)})"
        name = title if there else f"{capstone['title']} (*planned*)"
        lines.append(f"| {name} | {capstone['about']} |")
    return "\n".join(lines)


def title_of(script: Path) -> str:
    """First line of a script's docstring, without its final period."""
    match = re.match(r'r?"""(.+?)(?:\.?"""|\.?\n)', script.read_text(encoding="utf-8"))
    if match is None:
        raise UserError(f"{_key(script)} does not begin with a docstring")
    return match[1]


def _link(path: Path, here: Path) -> str:
    return Path(os.path.relpath(path, here)).as_posix()


def _key(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()
