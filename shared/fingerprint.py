"""What the quick run of a script shows: proof that a record still speaks for the code.

A record keeps the numbers of the quick run made with it. Every test run repeats the quick run;
while it gives the same numbers, changes in imported code are harmless and the record stands.
"""

from __future__ import annotations

import math
from typing import Any

__all__ = ["compare", "of"]


def of(run: Any) -> dict:
    """The fingerprint of a finished quick run: its numbers, outcomes and tolerance."""
    record = run.record()
    values, slack = {}, {}
    for kind, field in (("metric", "value"), ("claim", "mean"), ("falsifier", "mean")):
        for row in record[f"{kind}s"]:
            if row["rtol"] is not None:  # measured times are never compared
                values[f"{kind} {row['name']}"] = row[field]
                if kind != "metric" and row["rtol"] > run.tolerance:
                    slack[f"{kind} {row['name']}"] = row["rtol"]
    return {
        "tolerance": run.tolerance,
        "why": run.tolerance_why,
        "data": record["data"],
        "values": values,
        "slack": slack,
        "verdicts": {c["name"]: c["verdict"] for c in record["claims"] if c["rtol"] is not None},
    }


def compare(fresh: dict, recorded: dict, *, tolerance: float | None = None) -> list[str]:
    """How a fresh fingerprint departs from the recorded one, one line each.

    Parameters
    ----------
    tolerance
        Relative; the recorded one if not given. A hundredth of it is allowed absolutely.

    Returns
    -------
    lines
        Empty if they agree. Fingerprints of other data are not compared: one line says so.
    """
    if gone := recorded["data"].keys() - fresh["data"].keys():
        return [f"no data: {', '.join(sorted(gone))}"]
    common = fresh["data"].keys() & recorded["data"].keys()
    if other := [name for name in common if fresh["data"][name] != recorded["data"][name]]:
        return [f"other data: {', '.join(sorted(other))}"]
    found = []
    new, old = fresh["values"], recorded["values"]
    found += [f"{name} is new" for name in new if name not in old]
    found += [f"{name} is gone" for name in old if name not in new]
    for name in (name for name in new if name in old):
        allowed = max(recorded["tolerance"], recorded["slack"].get(name, 0.0))
        allowed = allowed if tolerance is None else tolerance
        if not math.isclose(new[name], old[name], rel_tol=allowed, abs_tol=allowed / 100):
            found.append(f"{name}: {new[name]:.6g}, recorded {old[name]:.6g} (± {allowed:g})")
    for name, verdict in fresh["verdicts"].items():
        if verdict != recorded["verdicts"].get(name, verdict):
            found.append(f"claim {name}: {verdict}, recorded {recorded['verdicts'][name]}")
    return found
