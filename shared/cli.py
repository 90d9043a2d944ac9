"""The `study` command: read the log, run and verify its scripts, keep its tables true."""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared import log, records, tables
from shared import search as searching
from shared.errors import UserError
from shared.judge import rule_text, value_text
from shared.practice.commands import app as practice
from shared.report import error_text
from shared.require import require
from shared.study import Cores, NonNegativeInt, PositiveInt, call

app = cyclopts.App(
    name="study",
    help=__doc__,
    help_format="plaintext",
    version_flags=[],
    result_action="return_value",
)
app.command(practice)
console = Console(
    width=None if sys.stdout.isatty() else 110, highlight=False, markup=False, emoji=False
)
MARK = {True: Text("✓", "green"), False: Text("✗", "red")}

Argument = Annotated[str, Parameter(allow_leading_hyphen=True)]
Jobs = Annotated[Cores, Parameter(name=["-j", "--jobs"])]


def main() -> None:
    """Entry point of the `study` command."""
    sys.exit(call(app, lost=""))


@app.default
def overview() -> None:
    """Show the log at a glance."""
    from shared.overview import overview as show

    show(console, app)


@app.command
def show(target: str, /) -> None:
    """Show what the scripts of a week or paper recorded.

    Parameters
    ----------
    target
        A week (13), a script (13/attention) or a paper's folder.
    """
    for script in log.select([target]):
        record = records.load(records.record_of(script))
        console.print(Text.assemble("\n", (record["script"], "bold"), " · ", log.title_of(script)))
        console.print(f"{record['command']}   {record['date']}, {record['seconds']} s", style="dim")
        grid = Table(box=None, pad_edge=False, show_header=False)
        for c in record["checks"]:
            grid.add_row("check", c["name"], error_text(c["error"]), f"against {c['against']}")
        for c in record["claims"]:
            grid.add_row("claim", c["name"], f"{c['verdict']} ({rule_text(c)})", value_text(c))
        for f in record["falsifiers"]:
            grid.add_row("falsifier", f["name"], f"breaks {f['breaks']}", value_text(f))
        for m in record["metrics"]:
            grid.add_row("metric", m["name"], f"{m['value']:.4g}", m["unit"])
        console.print(grid)
        for figure in record["figures"]:
            path = records.results_of(script) / figure["file"]
            console.print(f"figure {os.path.relpath(path)}")


@app.command
def search(
    *words: str,
    kind: searching.Kind | None = None,
    limit: PositiveInt = 10,
) -> None:
    """Find where the log speaks of something: notes, scripts, papers, programs.

    Parameters
    ----------
    words
        What to look for; kv_cache is found by cache too.
    kind
        Only these.
    limit
        How many places at most.
    """
    require(words, "WORD must be given: study search rotary", error=UserError)
    hits, absent = searching.search(list(words), kind, limit)
    if absent:
        console.print(absent, style="yellow")
    for hit in hits:
        head = Text.assemble((f"{hit.file}:{hit.line}", "cyan"), "  ", (hit.title, "bold"))
        console.print(head, no_wrap=True, overflow="ellipsis")
        text, marks = searching.cropped(hit, console.width - 4)
        line = Text(f"    {text}")
        for start, end in marks:
            line.stylize("bold yellow", start + 4, end + 4)
        console.print(line, no_wrap=True, overflow="ellipsis")


@app.command
def run(week: str, script: Argument = "", /, *arguments: Argument) -> bool:
    """Run the scripts of a week, or one of them; further arguments go to the scripts.

    Parameters
    ----------
    week
        A week (13) or a paper's folder.
    script
        One script of it (attention); all if not given.
    """
    if script.startswith("-"):
        script, arguments = "", (script, *arguments)
    failed = 0
    for path in log.select([f"{week}/{script}" if script else week]):
        console.print(f"\n{records.key_of(path)}", style="bold")
        failed += subprocess.run([sys.executable, path, *arguments], check=False).returncode != 0
    return failed == 0


@app.command
def verify(*targets: str, jobs: Jobs = 1) -> bool:
    """Run scripts as they were recorded and compare with their records; exit 1 on a difference.

    Parameters
    ----------
    targets
        Weeks, scripts or papers; everything if none is given.
    jobs
        Scripts run at the same time.
    """
    with tempfile.TemporaryDirectory() as runs, ThreadPoolExecutor(jobs) as pool:

        def one(script: Path) -> tuple[Path, list[str], float]:
            try:
                recorded = records.load(records.record_of(script))
            except UserError as error:
                return script, [str(error)], 0.0
            arguments = shlex.split(recorded["command"])[3:]  # after `uv run SCRIPT`
            done = subprocess.run(
                [sys.executable, script, *arguments],
                env=os.environ | {"STUDY_RUNS": runs},
                capture_output=True,
                text=True,
                check=False,
            )
            path = Path(runs) / records.key_of(script) / "record.json"
            if not path.exists():
                last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
                return script, [f"did not finish: {last}"], 0.0
            fresh = records.load(path)
            return script, records.differences(fresh, recorded), fresh["seconds"]

        found = 0
        for script, differences, seconds in pool.map(one, log.select(targets)):
            console.print(MARK[not differences], f"{records.key_of(script)} ({seconds:.0f} s)")
            for line in differences:
                console.print(f"    {line}", soft_wrap=True)
            found += len(differences)
    return found == 0


@app.command
def record(*targets: str) -> bool:
    """Run scripts with --record, then rewrite the tables.

    Parameters
    ----------
    targets
        Weeks, scripts or papers; everything if none is given.
        A script that was recorded with --full is recorded so again.
    """
    for script in log.select(targets):
        path, mode = records.record_of(script), []
        if path.exists() and records.load(path)["mode"] == "full":
            mode = ["--full"]
        console.print(f"\n{records.key_of(script)}", style="bold")
        if subprocess.run([sys.executable, script, "--record", *mode], check=False).returncode:
            return False
    return log_(check=False)


@app.command
def restamp(*targets: str, against: str) -> bool:
    """Prove that a refactoring changed no number, and renew the records' digests; exit 1 if not.

    Runs every script quick, as it is and as it was.

    Parameters
    ----------
    targets
        Weeks, scripts or papers; everything if none is given.
    against
        The commit whose code made the records.
    """
    from shared.restamp import restamp as compare

    def show(script: Path, found: list[str]) -> None:
        console.print(MARK[not found], records.key_of(script))
        for line in found:
            console.print(f"    {line}", soft_wrap=True)

    return not compare(log.select(targets), against, show=show)


@app.command(name="log")
def log_(*paths: Path, check: bool = False) -> bool:
    """Rewrite the generated tables and values of Markdown files.

    Parameters
    ----------
    paths
        The files; all if none is given.
    check
        Change nothing; exit 1 if a file is stale.
    """
    stale = tables.update([path.resolve() for path in paths], check=check)
    for name in stale:
        console.print(f"{'stale' if check else 'rewrote'} {name}", soft_wrap=True)
    return not (check and stale)


@app.command
def fetch(*names: str) -> None:
    """Download data sets into the cache folder (ML_STUDIES_DATA), with hashes checked.

    Parameters
    ----------
    names
        Data sets; without any, they are listed.
    """
    from shared import registry

    if names:
        for name in names:
            for path in registry.fetch(name, progress=sys.stdout.isatty()):
                console.print(str(path), soft_wrap=True)
        return
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "files", "MB", "license", "what"):
        grid.add_column(column, justify="right" if column in ("files", "MB") else "left")
    for name, dataset in sorted(registry.registry().items()):
        sizes = [file.bytes for file in dataset.files]
        size = f"{sum(filter(None, sizes)) / 1e6:.1f}" if any(sizes) else ""
        more = "?" * (None in sizes)  # of some files no size is known
        grid.add_row(name, str(len(sizes)), size + more, dataset.license, dataset.description)
    console.print(f"cache folder: {registry.cache_dir()}", soft_wrap=True)
    console.print(grid)


@app.command
def bugs(
    *ids: str,
    sample: NonNegativeInt = 0,
    everything: Annotated[bool, Parameter(name="--all", negative="")] = False,
    jobs: Jobs = 2,
) -> bool:
    """Make each classic mistake of the catalogue in a copy; exit 1 if its test stays green.

    Without names: those whose source, edit or test changed since they were last
    proved. What is caught is sealed in tests/bugs.lock.

    Parameters
    ----------
    ids
        Bugs to try, or the start of their names, or the folder of their tests (tests/weeks/13).
    sample
        How many of the sealed ones to try as well; which, the commit decides.
    everything
        Try all.
    jobs
        Copies worked on at the same time.
    """
    from shared import bug_runner
    from shared import bugs as catalogue

    known = catalogue.catalogue()
    if ids:
        names = tuple(filter(None, ids))  # with an empty one all names begin
        chosen = [b for b in known if b.id.startswith(names) or b.test.startswith(names)]
        if not chosen:
            raise UserError(f"no bug's name or test starts with {' or '.join(ids)}")
    elif everything:
        chosen = known
    else:
        chosen = catalogue.unproved(known, sample=sample, seed=records.commit())

    def show(bug, verdict: str) -> None:
        console.print(MARK[verdict == "caught"], f"{bug.id}: {verdict}", soft_wrap=True)

    alive = bug_runner.survivors(chosen, jobs=jobs, show=show) if chosen else []
    survived = {bug.id for bug, _ in alive}
    catalogue.seal([bug for bug in chosen if bug.id not in survived], known=known)
    console.print(f"{len(chosen) - len(alive)} of {len(chosen)} bugs caught, {len(known)} in all")
    return not alive


@app.command
def bench(*targets: str, repeats: PositiveInt = 5) -> bool:
    """Measure speed beside the library a user would pick: ratios of medians, in turns, one thread.

    Exits 1 if a ratio is above its limit. Nothing else should run on the machine meanwhile.

    Parameters
    ----------
    targets
        Weeks whose benchmarks (bench_*.py) to run; all if none is given.
    repeats
        Timings of each side.
    """
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("benchmark", "ours", "reference", "ratio", "limit", "equal work"):
        grid.add_column(
            column, justify="left" if column in ("benchmark", "equal work") else "right"
        )
    found = [
        path
        for path in sorted(records.ROOT.glob("weeks/*/bench_*.py"))
        if not targets or path.parent.name in {target.zfill(2) for target in targets}
    ]
    if not found:
        raise UserError(f"no benchmark in {' or '.join(targets) or 'any week'}")
    within = True
    for path in found:
        module = importlib.import_module(f"week{path.parent.name}.{path.stem}")
        result = module.bench(repeats)
        within &= result["ratio"] <= result["limit"]
        grid.add_row(
            result["name"],
            f"{result['ours_seconds']:.3g} s",
            f"{result['reference_seconds']:.3g} s",
            f"{result['ratio']:.2f}",
            f"{result['limit']:g}",
            result["equal_work"],
        )
    console.print(grid)
    return within


@app.command
def book(
    *,
    out: Path = Path("runs/book"),
    show_it: Annotated[bool, Parameter(name="--open", negative="")] = False,
) -> None:
    """Build a site of all notes, papers and scripts; it loads nothing from elsewhere.

    Parameters
    ----------
    out
        Its folder.
    show_it
        Serve it on this machine and open it in the browser.
    """
    from shared.book import site

    made = site.build(out)
    for file, target in made.dead:
        console.print(f"{file}: no page for the link {target}", soft_wrap=True)
    console.print(f"{len(made.pages)} pages in {os.path.relpath(out)}", soft_wrap=True)
    if show_it:
        site.serve(out)


@app.command
def demo(
    *,
    out: Path = Path("runs/demo"),
    quick: Annotated[bool, Parameter(negative="")] = False,
    start: Annotated[str, Parameter(name="--from")] = "",
) -> None:
    """Train, measure, compress, serve and ask: the programs as one chain, and a page of it.

    Offline, on two cores, in minutes. The same command goes on where it was broken off.

    Parameters
    ----------
    out
        The folder of all that is made.
    quick
        A minute: a model that learns next to nothing, few documents, no SmolLM2.
    start
        Do this step again, and what comes after it.
    """
    from shared.demo.command import demo as chain

    chain(out, quick=quick, start=start, console=console)


@app.command(name="setup-git")
def setup_git() -> None:
    """Install the clean filter that keeps download addresses out of the committed uv.lock."""
    python = Path(sys.executable).as_posix()
    filters = {"clean": f'"{python}" shared/portable_lock.py', "smudge": "cat", "required": "true"}
    # The last refreshes what git remembers of the file: a filled-in lock does not look changed.
    commands = [["config", f"filter.portable-lock.{key}", value] for key, value in filters.items()]
    for command in [*commands, ["add", "--renormalize", "uv.lock"]]:
        git = ["git", "-C", str(records.ROOT), *command]
        done = subprocess.run(git, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"git {command[0]} failed: {done.stderr.strip()}")
    console.print("git now strips download addresses from uv.lock when it is committed")


if __name__ == "__main__":
    main()
