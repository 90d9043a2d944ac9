"""What the whole suite said under which versions, kept for CONTRIBUTING.md.

uv run pytest --record-run lock     # name: what the dependencies were resolved to
"""

import json
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path

RECORD = Path(__file__).with_name("runs.json")
PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "transformers")
OUTCOMES = ("passed", "failed", "error", "skipped")


def entry(stats: dict[str, list]) -> dict:
    """A row: versions, outcomes, the day."""
    found = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    found |= {outcome: len(stats.get(outcome, ())) for outcome in OUTCOMES}
    return found | {"date": date.today().isoformat()}


def record(name: str, stats: dict[str, list], path: Path = RECORD) -> None:
    """Add a row, in the place of an earlier one of this name and version of Python."""
    rows = json.loads(path.read_text()) if path.exists() else []
    new = {"dependencies": name} | entry(stats)

    def kind(row: dict) -> tuple[str, str]:
        return row["dependencies"], row["python"].rpartition(".")[0]

    rows = [row for row in rows if kind(row) != kind(new)]
    rows.append(new)
    rows.sort(key=lambda row: (row["dependencies"], [int(x) for x in row["python"].split(".")]))
    path.write_text(json.dumps(rows, indent=1) + "\n")
