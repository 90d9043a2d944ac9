"""What a script is handed: sizes, seeds and a device in; checks, claims, metrics, figures out."""

from __future__ import annotations

import contextlib
import datetime
import errno
import math
import os
import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from shared import records, report
from shared.artifacts import write_atomic
from shared.errors import UserError

Device = Literal["auto", "cpu", "cuda", "mps"]
Mode = Literal["quick", "default", "full"]
VERDICTS = ("reproduced", "partly", "not reproduced", "inconclusive")
T = TypeVar("T")


class Run:
    """One execution of a script: what it may use, and what it shows.

    Parameters
    ----------
    script
        The script's file; names the record and the output folder.
    options
        The script's own options, for the record.
    arguments
        Those of them that were changed, as they stand on the command line.
    seed, device, mode, threads
        The common options.
    out
        Folder for figures and the record; `runs/…` in the project by default.
    """

    def __init__(
        self,
        script: Path,
        options: dict[str, Any] | None = None,
        *,
        arguments: Sequence[str] = (),
        seed: int = 0,
        device: Device = "auto",
        mode: Mode = "default",
        threads: int = 2,
        out: Path | None = None,
        quiet: bool = False,
    ):
        self.script, self.options, self.seed, self.mode = script, options or {}, seed, mode
        self.arguments, self.threads = arguments, threads
        self._device, self._device_used = device, "cpu"
        self.key = records.key_of(script)
        # as it was when the run began; only a script that is there can be recorded
        self.code = records.code_digest(script) if script.exists() else ""
        runs = Path(os.environ.get("STUDY_RUNS", records.ROOT / "runs"))
        self.out = out if out is not None else runs / self.key
        terminal = sys.stdout.isatty()
        self.console = Console(
            quiet=quiet,
            width=None if terminal else 110,
            soft_wrap=not terminal,
            highlight=False,
            markup=False,
            emoji=False,
        )
        self.checks: list[dict] = []
        self.claims: list[dict] = []
        self.metrics: list[dict] = []
        self.verdicts: list[dict] = []
        self.figures: list[dict] = []
        self.rng = np.random.default_rng(seed)
        self._progress: Progress | None = None
        self._start = time.perf_counter()

    # ---- what a script may use

    def budget(self, *, quick: T, default: T, full: T | None = None) -> T:
        """The size for this run; `full` falls back to `default`."""
        sizes = {"quick": quick, "default": default, "full": default if full is None else full}
        return sizes[self.mode]

    def prepare(self) -> None:
        """Find out what cannot be had (the device, the output folder) before the work is done.

        Raises
        ------
        UserError
            If the device is not there or the folder cannot be written.
        """
        if self._device not in ("auto", "cpu"):
            self._find_device()
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            if not os.access(self.out, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        except OSError as error:
            raise UserError(
                f"{self.out} cannot be written ({error.strerror}); set STUDY_RUNS to a folder that"
                " you can write to"
            ) from error

    @property
    def device(self):
        """The `torch.device` to compute on; `auto` takes CUDA, then MPS, then the CPU."""
        device = self._find_device()
        self._device_used = str(device)
        return device

    def _find_device(self):
        import torch

        found = {
            "cuda": torch.cuda.is_available(),
            "mps": torch.backends.mps.is_available(),
            "cpu": True,
        }
        if self._device == "auto":
            return torch.device(next(name for name, there in found.items() if there))
        if not found[self._device]:
            there = ", ".join(name for name, is_there in found.items() if is_there)
            raise UserError(f"--device {self._device} is not on this machine; it has {there}")
        return torch.device(self._device)

    def generator(self, offset: int = 0):
        """A fresh CPU `torch.Generator`, seeded with `seed + offset`."""
        import torch

        return torch.Generator().manual_seed(self.seed + offset)

    def say(self, text: str = "") -> None:
        """Print a line (plain text, no markup)."""
        self.console.print(text)

    def progress(self, steps: Iterable[T], description: str) -> Iterator[T]:
        """Iterate with a progress bar, on a terminal only; `status` adds text to it."""
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}"),
            console=self.console,
            transient=True,
            disable=not sys.stdout.isatty() or self.console.quiet,
        )
        with bar:
            outer, self._progress = self._progress, bar
            total = len(steps) if hasattr(steps, "__len__") else None
            task = bar.add_task(description, total=total, status="")
            try:
                for step in steps:
                    yield step
                    bar.advance(task)
            finally:
                self._progress = outer

    def status(self, text: str) -> None:
        """Show `text` beside the running progress bar."""
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[-1], status=text)

    # ---- what a script shows

    def check(
        self,
        name: str,
        ours,
        reference,
        *,
        against: str,
        why: str,
        rtol: float = 0.0,
        atol: float = 0.0,
    ) -> bool:
        """Numeric agreement with an independent reference: |ours - reference| <= atol + rtol |ref|.

        Parameters
        ----------
        against
            The library, theorem or closed form that gave `reference`.
        why
            The reason for the tolerance.

        Raises
        ------
        ValueError
            If the check could not fail (empty arrays, the same memory on both sides, a tolerance
            without bound), or has the name of another.
        """
        self._new(name, self.checks, "check")
        for kind, value in (("rtol", rtol), ("atol", atol)):
            if not 0 <= value < math.inf:
                raise ValueError(f"check {name!r}: {kind} must be finite and >= 0, got {value}")
        if ours is reference and not np.isscalar(ours):
            raise ValueError(f"check {name!r} compares an object with itself")
        ours, reference = _array(name, ours), _array(name, reference)
        if ours.size == 0:
            raise ValueError(f"check {name!r} compares nothing: ours has shape {ours.shape}")
        if ours.ndim and _place(ours) == _place(reference):
            raise ValueError(f"check {name!r} compares an object with itself")
        if ours.shape != reference.shape:
            error, passed = float("inf"), False
            why = f"shapes differ: ours {ours.shape}, reference {reference.shape}"
        else:
            error, passed = _compare(_wide(ours), _wide(reference), rtol, atol)
        self.checks.append(
            {
                "name": name,
                "against": against,
                "error": error if np.isfinite(error) else None,  # JSON knows no infinity
                "atol": atol,
                "rtol": rtol,
                "why": why,
                "passed": passed,
            }
        )
        return passed

    def claim(self, name: str, holds: bool, detail: str, *, quick: bool = True) -> bool:
        """A falsifiable statement and whether it held.

        Parameters
        ----------
        detail
            The numbers that decide it, with seeds and interval.
        quick
            False if the effect needs more than the quick size; it is then not judged there.
        """
        self._new(name, self.claims, "claim")
        holds = holds.item() if hasattr(holds, "item") else holds
        if not isinstance(holds, bool):
            raise ValueError(f"claim {name!r}: holds must be True or False, got {holds!r}")
        judged = quick or self.mode != "quick"
        self.claims.append({"name": name, "holds": holds, "detail": detail, "judged": judged})
        return holds

    def metric(
        self, name: str, value: float, unit: str = "", *, rtol: float | None = 0.02
    ) -> float:
        """Record a number; `rtol` is how far a later run may differ (None: never compared)."""
        self._new(name, self.metrics, "metric")
        value = float(value)
        if not math.isfinite(value):
            raise ValueError(f"metric {name!r} must be finite, got {value}")
        if rtol is not None and not 0 <= rtol < math.inf:
            raise ValueError(f"metric {name!r}: rtol must be finite and >= 0, got {rtol}")
        self.metrics.append({"name": name, "value": value, "unit": unit, "rtol": rtol})
        return value

    def verdict(self, name: str, verdict: str, detail: str) -> str:
        """The outcome of a paper's claim; not failing, whatever it is."""
        self._new(name, self.verdicts, "verdict")
        if verdict not in VERDICTS:
            raise ValueError(f"verdict must be one of {', '.join(VERDICTS)}; got {verdict!r}")
        self.verdicts.append({"name": name, "verdict": verdict, "detail": detail})
        return verdict

    @contextlib.contextmanager
    def figure(self, name: str, title: str = "", rows: int = 1, columns: int = 1, **options):
        """Yield axes in the house style; save them as `SCRIPT_NAME.png` when the block ends.

        `title` is the question that the figure answers, or its answer.
        """
        from shared import plots

        path = self.out / f"{self.script.stem}_{name}.png"
        if path.name in (made["file"] for made in self.figures):
            raise ValueError(f"there are two figures named {name!r}")
        figure, axes = plots.subplots(rows, columns, **options)
        try:
            with plots.style():
                yield axes
                if title and isinstance(axes, np.ndarray):
                    figure.suptitle(title, x=0.01, ha="left", weight="bold", size=13)
                elif title:
                    axes.set_title(title)
            self.out.mkdir(parents=True, exist_ok=True)
            plots.save(figure, path)
        finally:
            plots.plt.close(figure)
        self.figures.append({"file": path.name, "title": title or name.replace("_", " ")})

    # ---- the end

    @property
    def passed(self) -> bool:
        """Whether every check and every judged claim held."""
        claims = all(c["holds"] for c in self.claims if c["judged"])
        return claims and all(c["passed"] for c in self.checks)

    def record(self) -> dict:
        """Everything this run showed, ready for JSON."""
        arguments = [*self.arguments, *([] if self.mode == "default" else [f"--{self.mode}"])]
        arguments += ["--seed", str(self.seed)] if self.seed else []
        return {
            "script": self.key,
            "command": shlex.join(["uv", "run", f"{self.key}.py", *arguments]),
            "mode": self.mode,
            "options": {k: str(v) if isinstance(v, Path) else v for k, v in self.options.items()},
            "seed": self.seed,
            "threads": self.threads,
            "device": self._device_used,
            "seconds": round(time.perf_counter() - self._start, 1),
            "date": datetime.date.today().isoformat(),
            "commit": records.commit(),
            "code": self.code,
            "versions": records.versions(),
            "checks": self.checks,
            "claims": [{k: v for k, v in c.items() if k != "judged"} for c in self.claims],
            "metrics": self.metrics,
            "verdicts": self.verdicts,
            "figures": self.figures,
        }

    def finish(self, *, publish: bool = False) -> bool:
        """Print the table, write the record to `runs/`, and with `publish` to `results/`.

        A failed run is not published, and what an earlier one published stays.

        Raises
        ------
        UserError
            If a quick run is to be published.
        """
        record = self.record()
        self.out.mkdir(parents=True, exist_ok=True)
        records.save(record, self.out / "record.json")
        report.show(self, record)
        if publish:
            if self.mode == "quick":
                raise UserError("not recorded: --quick is for tests, not for results")
            if self.passed:
                self._publish(record)
            else:
                self.say("not recorded: a check or claim failed")
        return self.passed

    def _publish(self, record: dict) -> None:
        target = records.results_of(self.script)
        target.mkdir(exist_ok=True)
        for figure in self.figures:
            write_atomic(target / figure["file"], (self.out / figure["file"]).read_bytes())
        records.save(record, records.record_of(self.script))
        for old in records.figures_of(self.script) - {f["file"] for f in self.figures}:
            (target / old).unlink()
        self.say(f"recorded in {records.readable(target)}/")

    def _new(self, name: str, rows: list[dict], kind: str) -> None:
        if name in (row["name"] for row in rows):  # records are compared by name
            raise ValueError(f"there are two {kind}s named {name!r}")


def _compare(
    ours: np.ndarray, reference: np.ndarray, rtol: float, atol: float
) -> tuple[float, bool]:
    """Largest error (infinite if one is NaN), and whether all are within the tolerance."""
    with np.errstate(invalid="ignore", over="ignore"):
        if ours.dtype.kind in "iu" and reference.dtype.kind in "iu":  # exact beyond 2**53
            error = np.where(ours > reference, *_wrapped(ours, reference)).astype(float)
        else:
            error = np.where(ours == reference, 0.0, np.abs(ours - reference))
        size = np.abs(reference.astype(float) if reference.dtype.kind in "iu" else reference)
        allowed = np.where(np.isfinite(size), atol + rtol * size, 0.0)
    error = np.where(np.isnan(error), np.inf, error)
    return float(error.max()), bool((error <= allowed).all())


def _wrapped(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a - b and b - a modulo 2**64: the one that is not negative is exact."""
    a, b = a.astype(np.uint64), b.astype(np.uint64)
    return a - b, b - a


def _array(name: str, values) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu().resolve_conj().resolve_neg()
        values = values.double() if values.is_floating_point() else values
    array = np.asarray(values)
    if array.dtype.kind not in "biufc":
        raise ValueError(f"check {name!r} compares numbers, got {array.dtype}")
    return array


def _wide(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "iu":
        return array
    return array.astype(complex if array.dtype.kind == "c" else float)


def _place(array: np.ndarray) -> tuple:
    return array.__array_interface__["data"][0], array.shape, array.strides, array.dtype
