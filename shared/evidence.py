"""What a run shows: checks against references, claims with their rule, falsifiers, metrics.

A *check* is numeric agreement within a tolerance that has a reason. A *claim* is values and a rule:
the interval and the verdict are computed here, and a claim that fails is published as failed.
A *falsifier* is the same rule applied to values measured without the mechanism: it must fail.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import numpy as np

from shared.compare import as_array, compare, place
from shared.judge import OF_PAPER, judge

Kind = Literal["library", "theorem", "consistency"]
KINDS = ("library", "theorem", "consistency")


class Evidence:
    """The evidence part of a run."""

    mode = "default"

    def __init__(self) -> None:
        self.checks: list[dict] = []
        self.claims: list[dict] = []
        self.falsifiers: list[dict] = []
        self.metrics: list[dict] = []

    # ---- checks

    def against(
        self,
        reference: str,
        *,
        why: str,
        kind: Kind = "library",
        rtol: float = 0.0,
        atol: float = 0.0,
    ) -> Callable[..., bool]:
        """One reference, tolerance and reason for several comparisons.

        Returns
        -------
        check
            Called with a name, our value and the reference's; rtol and atol can be replaced.

        Examples
        --------
        >>> check = Evidence().against("numpy.linalg.norm", atol=1e-12, why="float64 rounding")
        >>> check("length of (3, 4)", math.hypot(3, 4), np.linalg.norm([3, 4]))
        True
        """
        common = {"against": reference, "kind": kind, "why": why, "rtol": rtol, "atol": atol}

        def check(name: str, ours, theirs, **other: float) -> bool:
            return self.check(name, ours, theirs, **(common | other))

        return check

    def check(
        self,
        name: str,
        ours,
        reference,
        *,
        against: str,
        why: str,
        kind: Kind = "library",
        rtol: float = 0.0,
        atol: float = 0.0,
    ) -> bool:
        """Numeric agreement with a reference: |ours - reference| <= atol + rtol |reference|.

        Parameters
        ----------
        against
            The library, theorem or closed form that gave `reference`.
        why
            The reason for the tolerance.
        kind
            ``library`` (computed by independent code), ``theorem`` (closed form, enumeration) or
            ``consistency`` (our own code another way: cached and uncached).

        Raises
        ------
        ValueError
            If the check could not fail (empty arrays, the same memory on both sides, a tolerance
            without bound), or has the name of another.
        """
        _new(name, self.checks, "check")
        if kind not in KINDS:
            raise ValueError(f"check {name!r}: kind must be one of {', '.join(KINDS)}, got {kind}")
        for label, value in (("rtol", rtol), ("atol", atol)):
            if not 0 <= value < math.inf:
                raise ValueError(f"check {name!r}: {label} must be finite and >= 0, got {value}")
        if ours is reference and not np.isscalar(ours):
            raise ValueError(f"check {name!r} compares an object with itself")
        ours, reference = (as_array(f"check {name!r}", x) for x in (ours, reference))
        if ours.size == 0:
            raise ValueError(f"check {name!r} compares nothing: ours has shape {ours.shape}")
        if ours.ndim and place(ours) == place(reference):
            raise ValueError(f"check {name!r} compares an object with itself")
        if ours.shape != reference.shape:
            error, passed = float("inf"), False
            why = f"shapes differ: ours {ours.shape}, reference {reference.shape}"
        else:
            error, passed = compare(ours, reference, rtol, atol)
        row = {"name": name, "against": against, "kind": kind}
        row |= {"error": error if np.isfinite(error) else None}  # JSON knows no infinity
        self.checks.append(row | {"atol": atol, "rtol": rtol, "why": why, "passed": passed})
        return passed

    # ---- claims

    def claim(
        self,
        name: str,
        values,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        each: bool = False,
        deterministic: bool = False,
        unit: str = "",
        note: str = "",
        seen_before: str = "",
        quick: bool = True,
        paper: bool = False,
        rtol: float | None = 0.0,
    ) -> str:
        """Judge values by a rule; the verdict is holds, fails or inconclusive.

        Parameters
        ----------
        values
            One number per seed (or per item): Student's 95 % interval of their mean is judged. Or
            an `Interval` from `shared.stats`; or one number or truth value, if `deterministic`.
        at_least, at_most
            The rule: bounds, inclusive, one or both.
        each
            Every single value must keep the rule, instead of the interval.
        deterministic
            There is nothing random in the value: it is compared without an interval.
        note
            Further numbers, shown beside the outcome; the rule does not see them.
        seen_before
            What of the outcome was known when the rule was set; empty if nothing.
        quick
            False if the effect needs more than the quick size; it is then not judged there.
        paper
            The claim is one of the paper's; its verdict reads *reproduced*, *not reproduced*.
        rtol
            How far the mean of a quick run may depart from the recorded fingerprint beyond the
            run's own tolerance; None for measured times, which are never compared.

        Returns
        -------
        verdict
            With an interval: holds if all of it keeps the rule, fails if none of it does, else
            inconclusive.

        Raises
        ------
        ValueError
            If there is no rule, a value is not finite, or a single number is not said to be
            deterministic.
        """
        _new(name, self.claims, "claim")
        if at_least is None and at_most is None:
            raise ValueError(f"claim {name!r} has no rule: give at_least or at_most")
        rule = {
            "at_least": None if at_least is None else float(at_least),
            "at_most": None if at_most is None else float(at_most),
            "each": each,
            "deterministic": deterministic,
        }
        judged = quick or self.mode != "quick"
        row = {"name": name, **rule, "unit": unit, "note": note, "seen_before": seen_before}
        row |= judge(f"claim {name!r}", values, rule, alone=self.mode == "quick")
        row |= {"paper": paper, "rtol": rtol} | ({} if judged else {"verdict": "not judged"})
        if paper:
            row["verdict"] = OF_PAPER.get(row["verdict"], row["verdict"])
        self.claims.append(row)
        return row["verdict"]

    def falsifier(self, name: str, values, *, breaks: str, note: str = "") -> bool:
        """Apply a claim's rule to values measured without the mechanism: the rule must fail.

        Parameters
        ----------
        values
            As the claim's own.
        breaks
            The name of the claim, made before.

        Returns
        -------
        broken
            Whether the rule fails on these values (an inconclusive one is not broken).
        """
        _new(name, self.falsifiers, "falsifier")
        claim = next((c for c in self.claims if c["name"] == breaks), None)
        if claim is None:
            raise ValueError(f"falsifier {name!r} names no claim made before: {breaks!r}")
        outcome = judge(f"falsifier {name!r}", values, claim, alone=self.mode == "quick")
        broken = outcome.pop("verdict") == "fails"
        judged = claim["verdict"] != "not judged"
        row = {"name": name, "breaks": breaks, **outcome, "note": note}
        row |= {key: claim[key] for key in ("unit", "rtol", "each")}
        self.falsifiers.append(row | {"broken": broken if judged else None})
        return broken

    def metric(
        self, name: str, value: float, unit: str = "", *, rtol: float | None = 0.02
    ) -> float:
        """Record a number; `rtol` is how far a later run may differ (None: never compared)."""
        _new(name, self.metrics, "metric")
        value = float(value)
        if not math.isfinite(value):
            raise ValueError(f"metric {name!r} must be finite, got {value}")
        if rtol is not None and not 0 <= rtol < math.inf:
            raise ValueError(f"metric {name!r}: rtol must be finite and >= 0, got {rtol}")
        self.metrics.append({"name": name, "value": value, "unit": unit, "rtol": rtol})
        return value

    @property
    def passed(self) -> bool:
        """Whether every check passed; claims may fail and are published so."""
        return all(c["passed"] for c in self.checks)


def _new(name: str, rows: list[dict], kind: str) -> None:
    if name in (row["name"] for row in rows):  # records are compared by name
        raise ValueError(f"there are two {kind}s named {name!r}")
