"""The tables at the end of a run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from shared.judge import rule_text, value_text

if TYPE_CHECKING:
    from shared.run import Run


def show(run: Run, record: dict) -> None:
    """Print what `run` showed: checks, claims, falsifiers, metrics, figures, data, cost."""
    mark = {True: Text("✓", "green"), False: Text("✗", "red")}

    def table(*columns: str) -> Table:
        grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in columns:
            grid.add_column(column, overflow="fold", no_wrap=column in ("error", "allowed", ""))
        return grid

    if run.checks:
        grid = table("", "check", "against", "error", "allowed")
        for c in run.checks:
            allowed = " + ".join(
                f"{c[kind]:.2g}{suffix}"
                for kind, suffix in (("atol", ""), ("rtol", "·|ref|"))
                if c[kind]
            )
            what = c["name"] if c["passed"] else f"{c['name']} ({c['why']})"
            error = error_text(c["error"])
            grid.add_row(mark[c["passed"]], what, c["against"], error, allowed or "exact")
        run.console.print("", grid)
    if run.claims:
        signs = {"holds": "✓", "reproduced": "✓", "fails": "✗", "not reproduced": "✗"}
        styles = {"✓": "green", "✗": "red"}
        grid = table("", "claim", "rule", "verdict", "measured")
        for c in run.claims:
            sign = signs.get(c["verdict"], "–")
            sign = Text(sign, styles.get(sign, "dim"))
            grid.add_row(sign, c["name"], rule_text(c), c["verdict"], value_text(c))
        run.console.print("", grid)
    if run.falsifiers:
        grid = table("", "falsifier", "breaks", "measured")
        for f in run.falsifiers:
            sign = Text("–", "dim") if f["broken"] is None else mark[f["broken"]]
            grid.add_row(sign, f["name"], f["breaks"], value_text(f))
        run.console.print("", grid)
    if run.metrics:
        grid = table("", "metric", "value", "unit")
        for m in run.metrics:
            grid.add_row("·", m["name"], f"{m['value']:.4g}", m["unit"])
        run.console.print("", grid)
    run.say()
    for figure in run.figures:
        run.say(f"figure {_readable(run.out / figure['file'])}")
    data = ", ".join(f"{name} ({digest[:15]}…)" for name, digest in record["data"].items())
    run.say(f"data: {data or 'generated'}")
    libraries = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    run.say(
        f"{record['seconds']:.1f} s, {run.mode} size, seed {run.seed}, {record['device']},"
        f" {run.threads} threads, {libraries}"
    )


def error_text(error: float | None, spec: str = ".1e") -> str:
    """The error of a check; a record holds None where it is not finite."""
    return "∞" if error is None else format(error, spec) if error else "0"


def _readable(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
