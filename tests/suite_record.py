"""What the whole suite said under which versions, kept for CONTRIBUTING.md.

uv run pytest --record-run lock     # name: what the dependencies were resolved to
"""

import json
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pytest

PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "transformers")
OUTCOMES = ("passed", "failed", "error", "skipped")
# Options by which only some tests run, none does, or a failure is the end.
PARTS = ("keyword", "markexpr", "deselect", "ignore", "ignore_glob", "lf", "stepwise", "maxfail")
PARTS += ("collectonly", "setuponly", "setupplan")


def pytest_addoption(parser):
    """The name under which a run of the whole suite is recorded."""
    parser.addoption("--record-run", metavar="NAME", help="note outcome and versions in runs.json")


def pytest_terminal_summary(terminalreporter, exitstatus, config):
    """Record a run, if it was asked for and nothing was left out."""
    name = config.getoption("--record-run")
    if name is None or hasattr(config, "workerinput"):
        return
    whole = config.args_source == config.ArgsSource.TESTPATHS
    if not whole or any(getattr(config.option, part, None) for part in PARTS):
        terminalreporter.write_line("not recorded: only some tests were chosen")
    elif exitstatus not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        terminalreporter.write_line("not recorded: the run did not come to its end")
    else:
        record(name, terminalreporter.stats, config.rootpath / "tests" / "runs.json")


def entry(stats: dict[str, list]) -> dict:
    """A row: versions, outcomes, the day."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    found |= {name: version(name) for name in PACKAGES}
    found |= {outcome: len(stats.get(outcome, ())) for outcome in OUTCOMES}
    return found | {"date": date.today().isoformat()}


def record(name: str, stats: dict[str, list], path: Path) -> None:
    """Add a row, in the place of an earlier one of this name and version of Python."""
    rows = json.loads(path.read_text()) if path.exists() else []
    new = {"dependencies": name} | entry(stats)

    def kind(row: dict) -> tuple[str, str]:
        return row["dependencies"], row["python"].rpartition(".")[0]

    rows = [row for row in rows if kind(row) != kind(new)]
    rows.append(new)
    rows.sort(key=lambda row: (row["dependencies"], [int(x) for x in row["python"].split(".")]))
    path.write_text(json.dumps(rows, indent=1) + "\n")
