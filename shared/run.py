"""What a script is handed: sizes, seeds and a device in; evidence, figures and a record out."""

from __future__ import annotations

import contextlib
import datetime
import errno
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

from shared import calibration, records, registry, report
from shared.artifacts import write_atomic
from shared.errors import UserError
from shared.evidence import Evidence

Device = Literal["auto", "cpu", "cuda", "mps"]
Mode = Literal["quick", "default", "full"]
T = TypeVar("T")


class Run(Evidence):
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
        super().__init__()
        self.script, self.options, self.seed, self.mode = script, options or {}, seed, mode
        self.arguments, self.threads = arguments, threads
        self._device, self._device_used = device, "cpu"
        self.key = records.key_of(script)
        # as it was when the run began; only a script that is there can be recorded
        self.code = records.digest_of(script) if script.exists() else ""
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
        self.figures: list[dict] = []
        self.tolerance, self.tolerance_why = 1e-3, "float32 sums in another order"
        registry.used.clear()
        self.rng = np.random.default_rng(seed)
        self._progress: Progress | None = None
        self._start, self.seconds = time.perf_counter(), 0.0

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

    def chose(self, **options: Any) -> None:
        """Note (and print) what an option that was left open resolved to, for the record."""
        self.options |= options
        self.say(", ".join(f"{name}: {value}" for name, value in options.items()))

    def rounding(self, tolerance: float, why: str) -> None:
        """How far this script's quick run may differ between machines, relatively, and why."""
        self.tolerance, self.tolerance_why = tolerance, why

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

    @contextlib.contextmanager
    def figure(self, name: str, title: str = "", rows: int = 1, columns: int = 1, **options):
        """Yield axes in the house style; save them as `SCRIPT_NAME.png` when the block ends.

        `title` is the question that the figure answers, or its answer.
        """
        from shared import plots

        path = self._new_figure(name, "png")
        figure, axes = plots.subplots(rows, columns, **options)
        try:
            with plots.style():
                yield axes
                if title:  # over the whole figure: over the axes a long one would be cut
                    figure.suptitle(title, x=0.01, ha="left", weight="bold", size=13, wrap=True)
            self.out.mkdir(parents=True, exist_ok=True)
            plots.save(figure, path)
        finally:
            plots.plt.close(figure)
        self.figures.append({"file": path.name, "title": title or name.replace("_", " ")})

    def film(self, name: str, frames, title: str, **options) -> None:
        """Save pictures, one after the other, as `SCRIPT_NAME.gif`; see `plots.save_film`."""
        from shared import plots

        path = self._new_figure(name, "gif")
        self.out.mkdir(parents=True, exist_ok=True)
        plots.save_film(frames, path, **options)
        self.figures.append({"file": path.name, "title": title})

    def _new_figure(self, name: str, suffix: str) -> Path:
        path = self.out / f"{self.script.stem}_{name}.{suffix}"
        if path.name in (made["file"] for made in self.figures):
            raise ValueError(f"there are two figures named {name!r}")
        return path

    # ---- the end

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
            "data": registry.resolved(),
            "seconds": round(self.seconds, 1),
            "date": datetime.date.today().isoformat(),
            "commit": records.commit(),
            "code": self.code,
            "versions": records.versions(),
            "checks": self.checks,
            "claims": self.claims,
            "falsifiers": self.falsifiers,
            "metrics": self.metrics,
            "figures": self.figures,
        }

    def finish(self) -> bool:
        """Print the table and write the record to `runs/`; give whether every check passed."""
        self.seconds = time.perf_counter() - self._start
        record = self.record()
        if self.mode == "quick":
            from shared import fingerprint

            record["fingerprint"] = fingerprint.of(self)
        self.out.mkdir(parents=True, exist_ok=True)
        records.save(record, self.out / "record.json")
        report.show(self, record)
        return self.passed

    def publish(self, fingerprint: dict) -> None:
        """Write the record and the figures to `results/`.

        Parameters
        ----------
        fingerprint
            What the quick run of the same code showed, see `shared.fingerprint`.

        Raises
        ------
        UserError
            If the run was quick, or a check failed; what an earlier run published then stays.
        """
        if self.mode == "quick":
            raise UserError("not recorded: --quick is for tests, not for results")
        if not self.passed:
            raise UserError("not recorded: a check failed")
        seconds = calibration.reference_seconds(self.seconds)
        record = self.record() | {"reference_seconds": round(seconds, 1)}
        record["fingerprint"] = fingerprint
        target = records.results_of(self.script)
        target.mkdir(exist_ok=True)
        for figure in self.figures:
            write_atomic(target / figure["file"], (self.out / figure["file"]).read_bytes())
        records.save(record, records.record_of(self.script))
        for old in records.figures_of(self.script) - {f["file"] for f in self.figures}:
            (target / old).unlink()
        self.say(f"recorded in {records.readable(target)}/")
