"""What a reader has done: one JSON file beside the exercises, always whole."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from shared.errors import UserError
from shared.files import write_atomic

FILE = "progress.json"


@dataclass
class Progress:
    """The current exercise, those begun and solved, hints taken, answers seen, and predictions.

    What is begun has the digest of the file as it was laid out. A prediction is, by claim, the
    probability that the reader gave to "holds".
    """

    current: str = ""
    begun: dict[str, str] = field(default_factory=dict)
    solved: list[str] = field(default_factory=list)
    hints: dict[str, int] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    predicted: dict[str, dict[str, float]] = field(default_factory=dict)

    def save(self, home: Path) -> None:
        """Write it in one step."""
        home.mkdir(parents=True, exist_ok=True)
        write_atomic(home / FILE, json.dumps(asdict(self), indent=1) + "\n")


def load(home: Path) -> tuple[Progress, str]:
    """A reader's progress, and one line to show if it could not be read.

    A file that is not whole is put aside, never overwritten; the reader's code is elsewhere.
    """
    path = home / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        progress = Progress(**found)
        right = all(type(getattr(progress, n)) is type(v) for n, v in asdict(Progress()).items())
    except FileNotFoundError:
        return Progress(), ""
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    except (ValueError, TypeError):
        right = False
    if right:
        return progress, ""
    aside = free_name(path)
    os.replace(path, aside)
    return Progress(), f"{path.name} was damaged and is now {aside.name}; your code is untouched"


def free_name(path: Path) -> Path:
    """The first of NAME.1, NAME.2 … that is not taken."""
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return aside
