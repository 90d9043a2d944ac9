"""What all rows of the benchmark share: where they measure, and where they write it down.

What is timed runs in a process of its own (`measure.child`); every row goes into
`results/bench.json` by itself, with the machine it was measured on, and `tables.py` makes tables
and figures of them.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_gpt.benchmark import recipes
from tiny_gpt.benchmark.measure import child, machine, merge, read_record

__all__ = ["RECORD", "Bench"]

RECORD = Path(__file__).parents[1] / "results" / "bench.json"


@dataclass
class Bench:
    """What all rows share.

    Attributes
    ----------
    data
        The source; the record of a quick trial need not be of tinyshakespeare.
    quick
        A few steps of everything (`quick_steps`), to see that it runs; no verdict means anything.
    fresh
        Measure again what is in the record.
    """

    out: Path = RECORD
    data: str | Path = "tinyshakespeare"
    seeds: int = 3
    threads: int = 2
    quick: bool = False
    quick_steps: int = 6
    fresh: bool = False
    say: Callable[[str], None] = lambda line: None
    _folder: Path | None = None
    _prepare_seconds: float = 0.0

    def prepared(self) -> Path:
        """The characters, prepared once a call."""
        if self._folder is None:
            from tiny_gpt.data.prepare import prepare

            self._temporary = tempfile.TemporaryDirectory(prefix="tiny-gpt-bench-")
            self._folder, begin = Path(self._temporary.name) / "data", time.perf_counter()
            options = {"tokenizer": "char", "split": "tail", "dedup": "off"}
            prepare(self.data, self._folder, workers=1, **options)
            self._prepare_seconds = time.perf_counter() - begin
        return self._folder

    def steps(self, steps: int) -> int:
        """So many, or a few in a quick trial."""
        return min(steps, self.quick_steps) if self.quick else steps

    def ours(self, recipe: str, *, data: Path | None = None, **changes: Any) -> dict[str, Any]:
        """Train one of our recipes in a process of its own."""
        changes["steps"] = self.steps(changes.get("steps", recipes.settings_of(recipe).steps))
        options = {"recipe": recipe, "data": data or self.prepared(), **changes}
        return self.child("recipes:train_recipe", **options)

    def rival(self, what: str, **options: int) -> dict[str, Any]:
        """Train a rival ("train" or "plain") in a process of its own."""
        from tiny_gpt.benchmark.rival import STEPS

        options["steps"] = self.steps(options.get("steps", STEPS))
        function = {"train": "rival:train_rival", "plain": "rival:train_plain"}[what]
        return self.child(function, data=self.prepared(), **options)

    def child(self, function: str, **arguments: Any) -> dict[str, Any]:
        """Call a function of this package in a process of its own, with our number of threads."""
        return child(f"tiny_gpt.benchmark.{function}", threads=self.threads, **arguments)

    def warm_up(self, recipe: str) -> None:
        """Start both sides once before it counts: their byte code and libraries are cached then."""
        self.rival("train", steps=1)
        self.ours(recipe, steps=1)

    def row(self, name: str) -> dict[str, Any]:
        """What the record has of a row so far."""
        return read_record(self.out)["rows"].get(name) or {}

    def save(self, name: str, content: dict[str, Any]) -> None:
        """Put a row into the record; how it was measured goes with it."""
        where = {**machine(self.threads), "quick": self.quick, "source": Path(self.data).name}
        merge(self.out, name, lambda row: {**content, "machine": where})
