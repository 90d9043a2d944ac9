"""Generated text: tables, links and measured values, written into Markdown from the records.

`study log` rewrites four kinds, never touched by hand: a block between markers, or what a capstone
rendered to its results,

    <!-- study:scripts -->
    <!-- /study -->
    <!-- study:include comparison.md -->
    <!-- /study -->

a measured value inside a sentence, named by script, metric (or check, claim, falsifier) and format
(a number's, or `detail`, `verdict`, `rule` of a claim),

    <!--= weeks/14/ngram "5-gram loss" .2f -->1.32<!--/=-->

and a mention of a week or paper, a link once it stands:

    <!--@ weeks/12 -->Classic language processing (week 12, planned)<!--/@-->
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from shared import log, records
from shared.artifacts import write_atomic
from shared.errors import UserError
from shared.judge import rule_text, value_text
from shared.practice import exercises

BLOCK = re.compile(r"(<!-- study:(\w+)(?: (\S+))? -->\n).*?(<!-- /study -->)", re.DOTALL)
VALUE = re.compile(r'(<!--= (\S+) "([^"]+)" (\S+) -->)(.*?)(<!--/=-->)')
MENTION = re.compile(r"(<!--@ (\S+) -->)(.*?)(<!--/@-->)")
CODE = re.compile(r"^```.*?^```|`[^`\n]*`", re.DOTALL | re.MULTILINE)  # may mention the markers
GOOD, BAD = ("holds", "reproduced"), ("fails", "not reproduced")


def render(text: str, path: Path) -> str:
    """`text` of the Markdown file `path` with all generated parts as the records say."""
    for kind, begin, pattern in (
        ("table", "<!-- study:", BLOCK),
        ("value", "<!--= ", VALUE),
        ("mention", "<!--@ ", MENTION),
    ):
        # One that is not closed would swallow all up to the next, or never be rewritten.
        swallowed = any(match[0].count(begin) > 1 for match in pattern.finditer(text))
        if swallowed or begin in CODE.sub("", pattern.sub("", text)):
            raise UserError(f"{log.key(path)}: a generated {kind} is not well formed or not closed")

    def block(match: re.Match) -> str:
        if match[2] == "include" and match[3]:
            return f"{match[1]}{_included(path, match[3])}\n{match[4]}"
        if match[2] not in TABLES or match[3]:
            raise UserError(f"{log.key(path)}: unknown table study:{match[2]}")
        return f"{match[1]}{TABLES[match[2]](path)}\n{match[4]}"

    def replaced(make, match: re.Match) -> str:
        try:
            return match[1] + make(*match.groups()[1:-2]) + match.groups()[-1]
        except UserError as error:
            raise UserError(f"{log.key(path)}: {error}") from None

    text = BLOCK.sub(block, text)
    text = MENTION.sub(partial(replaced, lambda target: mention(target, path.parent)), text)
    return VALUE.sub(partial(replaced, value), text)


def update(paths: list[Path] | None = None, *, check: bool = False) -> list[str]:
    """Rewrite the generated text of Markdown files (all by default); give those that were stale."""
    stale = []
    for path in paths or log.markdown_files():
        text = path.read_text(encoding="utf-8")
        fresh = render(text, path)
        if fresh != text:
            stale.append(log.key(path))
            if not check:
                write_atomic(path, fresh)
    return stale


# ---- inside sentences


def value(key: str, name: str, spec: str) -> str:
    """A recorded number, or a claim's outcome in words.

    Raises
    ------
    UserError
        If the record has no such row, or the format does not fit.
    """
    record = records.load(records.record_of(records.script_of(key)))
    claims = {row["name"]: row for row in record["claims"]}
    rows = claims | {row["name"]: row for row in record["falsifiers"]}
    words = {"detail": value_text, "rule": rule_text, "verdict": lambda row: row["verdict"]}
    if spec in words:
        if name not in (rows if spec == "detail" else claims):
            raise UserError(f"{key} recorded no claim {name!r}")
        return words[spec](rows[name])
    numbers = {c["name"]: math.inf if c["error"] is None else c["error"] for c in record["checks"]}
    numbers |= {name: row["mean"] for name, row in rows.items()}
    numbers |= {m["name"]: m["value"] for m in record["metrics"]} | {"seconds": record["seconds"]}
    numbers |= {"reference seconds": record.get("reference_seconds", record["seconds"])}
    if numbers.get(name) is None:
        raise UserError(f"{key} recorded no metric, check or claim {name!r}")
    try:
        return format(numbers[name], spec)
    except ValueError:
        raise UserError(f"{key} {name!r}: {spec!r} is no format of a number") from None


def mention(target: str, here: Path) -> str:
    """A week, note, paper or capstone: its title as a link if it stands, else with *planned*.

    Raises
    ------
    UserError
        If the curriculum knows no such thing.
    """
    kind, _, name = target.partition("/")
    plan, folder = log.curriculum(), records.ROOT / target
    if target.endswith(".md"):
        first = folder.read_text(encoding="utf-8").split("\n", 1)[0] if folder.exists() else ""
        if not first.startswith("# "):
            raise UserError(f"there is no note {target}")
        return f"[{first[2:]}]({_link(folder, here)})"
    field = {"weeks": "number", "papers": "folder", "capstones": "name"}.get(kind, "")
    found = [x for x in plan.get(kind.removesuffix("s"), []) if x.get(field) == name]
    if not found:
        raise UserError(f"the curriculum knows no {target}")
    if (folder / "README.md").exists():
        return f"[{found[0]['title']}]({_link(folder / 'README.md', here)})"
    return f"{found[0]['title']} ({f'week {name}, ' if kind == 'weeks' else ''}planned)"


# ---- tables


def _weeks(path: Path) -> str:
    lines, found = [], []
    for part, weeks in log.parts().items():
        lines += [f"\n### {part}\n", "| Week | Title | What it is about | Claims held |"]
        lines += ["|---|---|---|---|"]
        for week in weeks:
            own = recorded("weeks", week["number"])
            lines.append(_week_row(week, own, path.parent))
            found += own
    checks, claims, _ = (count.replace("/", " of ") for count in counts(found))
    done = sum("date" in week for week in log.curriculum()["week"])
    lines.append(f"\n{done} weeks: {checks} checks passed, {claims} claims held.")
    return "\n".join(lines).strip("\n") + "\n"


def _week_row(week: dict, found: list[dict], here: Path) -> str:
    about = week.get("about", "")
    if "date" not in week:
        return _row(week["number"], f"{week['title']} (*planned*)", about, "")
    readme = records.ROOT / "weeks" / week["number"] / "README.md"
    title = f"[{week['title']}]({_link(readme, here)})"
    held = [c["verdict"] in GOOD for r in found for c in r["claims"]]
    return _row(week["number"], title, about, f"{sum(held)} of {len(held)}")


def recorded(kind: str, name: str) -> list[dict]:
    """The records that a week's or paper's scripts have so far."""
    paths = map(records.record_of, log.scripts_in(records.ROOT / kind / name))
    return [records.load(path) for path in paths if path.exists()]


def tally(claims: Iterable[dict]) -> tuple[int, int, int]:
    """How many claims hold (or are reproduced), fail, and are inconclusive."""
    verdicts = [claim["verdict"] for claim in claims]
    good = sum(verdict in GOOD for verdict in verdicts)
    return good, sum(verdict in BAD for verdict in verdicts), verdicts.count("inconclusive")


def counts(found: list[dict]) -> tuple[str, str, str]:
    """Checks passed (library and theorem), claims that hold, reference seconds."""
    checks = [c["passed"] for r in found for c in r["checks"] if c["kind"] != "consistency"]
    claims = [c["verdict"] in GOOD for r in found for c in r["claims"]]
    seconds = sum(r.get("reference_seconds", r["seconds"]) for r in found)
    return f"{sum(checks)}/{len(checks)}", f"{sum(claims)}/{len(claims)}", f"{seconds:.0f}"


def _scripts(path: Path) -> str:
    folder = path.parent
    lines = ["| Script | What it shows | Checks | Claims | Seconds |", "|---|---|---|---|---|"]
    for script in log.scripts_in(folder):
        record = records.load(records.record_of(script))
        mode = "" if record["mode"] == "default" else f" `--{record['mode']}`"
        name = f"[{script.stem}]({script.name}){mode}"
        lines.append(_row(name, log.title_of(script), *counts([record])))
    planned = [n.removesuffix(".py") for n in log.planned_in(folder) if not (folder / n).exists()]
    return "\n".join(lines) + (f"\n\nPlanned: {', '.join(planned)}." if planned else "")


def _papers(path: Path, *, short: bool = False) -> str:
    lines = ["| Year | Paper | Claim | Verdict |", "|---|---|---|---|"]
    for paper in log.papers():
        folder = records.ROOT / "papers" / paper["folder"]
        name, verdict = short_title(paper) if short else paper["title"], "*planned*"
        if folder.is_dir():
            record = records.load(records.record_of(folder / "reproduce.py"))
            claims = [c for c in record["claims"] if c["paper"]]
            page = _link(folder / "README.md", path.parent)
            name = f"[{name}]({page})"
            verdict = "; ".join(f"{c['name']}: **{c['verdict']}**" for c in claims)
            if short:
                verdict = f"[{tally_text(claims)}]({page})"
        lines.append(_row(paper["year"], name, paper["claim"], verdict))
    return "\n".join(lines)


def short_title(paper: dict) -> str:
    """A paper's title up to its colon."""
    return paper["title"].partition(":")[0]


def tally_text(claims: list[dict]) -> str:
    """``4 of 6 reproduced, 1 inconclusive``."""
    good, _, open_ = tally(claims)
    text = f"{good} of {len(claims)} reproduced"
    return text + (f", {open_} inconclusive" if open_ else "")


def _verdicts(path: Path) -> str:
    record = records.load(records.record_of(path.parent / "reproduce.py"))
    lines = ["| Claim | Rule | Verdict | Measured |", "|---|---|---|---|"]
    for c in sorted(record["claims"], key=lambda c: not c["paper"]):
        verdict = f"**{c['verdict']}**" if c["paper"] else c["verdict"]
        seen = f" (set after seeing: {c['seen_before']})" if c["seen_before"] else ""
        lines.append(_row(c["name"], rule_text(c) + seen, verdict, value_text(c)))
    for f in record["falsifiers"]:
        broken = "breaks the rule" if f["broken"] else "does not break the rule"
        lines.append(
            _row(f"falsifier: {f['name']}", f"that of: {f['breaks']}", broken, value_text(f))
        )
    return "\n".join(lines)


def _capstones(path: Path) -> str:
    lines = ["| Program | What it does | Begin with |", "|---|---|---|"]
    for capstone in log.curriculum()["capstone"]:
        title = mention(f"capstones/{capstone['name']}", path.parent)
        lines.append(_row(title, capstone["about"], f"`{capstone['command']}`"))
    return "\n".join(lines)


def _versions(path: Path) -> str:
    """With what the records were made, by version of Python."""
    found: dict[str, list[dict]] = {}
    for script in log.all_scripts():
        record = records.load(records.record_of(script))
        found.setdefault(record["versions"]["python"], []).append(record)
    names = ("torch", "numpy", "scipy")
    lines = ["| Python | torch | NumPy | SciPy | Device | Records | Newest |"]
    lines.append("|---|---|---|---|---|---|---|")
    for python, own in sorted(found.items()):
        used = [sorted({r["versions"][n] for r in own if n in r["versions"]}) for n in names]
        devices = sorted({record["device"] for record in own})
        newest = max(record["date"] for record in own)[:10]
        cells = (", ".join(values) for values in (*used, devices))
        lines.append(_row(python, *cells, len(own), newest))
    return "\n".join(lines)


def _runs(path: Path) -> str:
    """What the whole suite said, by versions."""
    file = records.ROOT / "tests/runs.json"
    if not file.exists():
        return "*not yet*"
    rows = json.loads(file.read_text(encoding="utf-8"))
    names = [name for name in rows[0] if name != "error"]
    lines = [_row(*names), "|---" * len(names) + "|"]
    for row in rows:
        row = row | {"failed": row["failed"] + row["error"]}
        lines.append(_row(*(row[name] for name in names)))
    return "\n".join(lines)


def _practice(path: Path) -> str:
    week = path.parent.name
    found = exercises.counts(week)
    words = {"find": "mistakes to find", "write": "functions to write", "predict": "to predict"}
    text = ", ".join(f"{found[kind]} {words[kind]}" for kind in words if found[kind])
    return f"Practice: `uv run study practice --week {week}` ({text})."


def _nav(path: Path) -> str:
    note = next((n for n in log.curriculum()["note"] if n["file"] == log.key(path)), None)
    if note is None:
        raise UserError(f"{log.key(path)}: the curriculum has no [[note]] of it")
    lines = []
    for label, field in (("Before this", "before"), ("Next", "next")):
        if note.get(field):
            links = ", ".join(mention(target, path.parent) for target in note[field])
            lines.append(f"**{label}:** {links}")
    scripts = [f"[{Path(s).name}]({_link(records.ROOT / s, path.parent)})" for s in note["scripts"]]
    return " · ".join([*lines, f"**Run:** {', '.join(scripts)}"])


TABLES = {
    "weeks": _weeks,
    "papers": _papers,
    "papers_short": partial(_papers, short=True),
    "capstones": _capstones,
    "scripts": _scripts,
    "verdicts": _verdicts,
    "nav": _nav,
    "practice": _practice,
    "versions": _versions,
    "runs": _runs,
}


def _included(path: Path, name: str) -> str:
    """A file of `results/` that a capstone's own records were rendered to."""
    try:
        return (path.parent / "results" / name).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UserError(f"{log.key(path)}: results/{name} cannot be read") from error


def _row(*cells) -> str:
    """A row of a Markdown table; a bar in a cell would end it, unless escaped."""
    plain = (" ".join(str(cell).split()).replace("|", "\\|") for cell in cells)
    return f"| {' | '.join(plain)} |"


def _link(path: Path, here: Path) -> str:
    return Path(os.path.relpath(path, here)).as_posix()
