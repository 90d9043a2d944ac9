"""The verdict on a claim: values and a rule in, interval and outcome out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from shared.compare import as_array
from shared.stats import Interval, mean_interval

OF_PAPER = {"holds": "reproduced", "fails": "not reproduced"}


def rule_text(claim: dict) -> str:
    """``at least 0.1``, ``between 0 and 1 for each``: the rule of a recorded claim in words."""
    low, high = claim["at_least"], claim["at_most"]
    bounds = f"at least {low:g}" if high is None else f"at most {high:g}"
    if low is not None and high is not None:
        bounds = f"{low:g}" if low == high else f"between {low:g} and {high:g}"
    return bounds + (" for each" if claim["each"] else "")


def value_text(row: dict) -> str:
    """The value of a claim or falsifier with its interval, unit and note."""
    if row["low"] is None:
        text = f"{row['mean']:.4g}" + (f" (n = {row['n']})" if row["n"] > 1 else "")
    elif row.get("each"):
        text = f"{row['mean']:.4g}, from {row['low']:.4g} to {row['high']:.4g} (n = {row['n']})"
    else:
        text = str(Interval(row["mean"], row["low"], row["high"], row["n"]))
    unit = f" {row['unit']}" if row["unit"] else ""
    return text + unit + (f"; {row['note']}" if row["note"] else "")


def judge(what: str, values: Any, rule: dict, *, alone: bool) -> dict:
    """Mean, interval, n and verdict of values under a rule; `alone` allows one value."""
    low, high = rule["at_least"], rule["at_most"]
    least, most = -math.inf if low is None else low, math.inf if high is None else high
    if least > most:
        raise ValueError(f"{what}: at_least must not exceed at_most, got {least} and {most}")
    if isinstance(values, Interval):
        found, ends = values, (values.low, values.high)
        numbers = np.array([values.low, values.mean, values.high])
    else:
        numbers = np.atleast_1d(as_array(what, values)).astype(float)
        if numbers.ndim != 1 or not numbers.size:
            raise ValueError(f"{what}: values must be numbers in one row, got {numbers.shape}")
        found, ends = None, (float(numbers.min()), float(numbers.max()))
    if not np.isfinite(numbers).all():
        raise ValueError(f"{what}: values must be finite, got {numbers}")
    mean, n = (found.mean, found.n) if found else (float(numbers.mean()), len(numbers))
    if rule["deterministic"]:
        if n > 1:
            raise ValueError(f"{what}: one deterministic value expected, got {n}")
        verdict = "holds" if least <= mean <= most else "fails"
        return {"mean": mean, "low": None, "high": None, "n": 1, "verdict": verdict}
    if n == 1:
        if not alone:
            raise ValueError(f"{what}: one value has no interval; give several or deterministic")
        return {"mean": mean, "low": None, "high": None, "n": 1, "verdict": "not judged"}
    if found is None and not rule["each"]:
        interval = mean_interval(numbers)
        ends = (interval.low, interval.high)
    if least <= ends[0] and ends[1] <= most:
        verdict = "holds"
    elif rule["each"] or ends[1] < least or ends[0] > most:
        verdict = "fails"
    else:
        verdict = "inconclusive"
    return {"mean": mean, "low": ends[0], "high": ends[1], "n": n, "verdict": verdict}
