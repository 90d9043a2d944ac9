"""What is to be done to a model, in order: a list of steps, as a YAML file has them.

    - structured: {layers: 4}                             # smaller matrices
    - prune: {method: wanda, pattern: "2:4"}              # a pass over the model
      quantize: {method: gptq, bits: 4, group_size: 64}   # in the same pass: done jointly
    - recover: {steps: 100, lr: 1.0e-4}
    - cast: {dtype: bfloat16}

A pass goes block by block; what stands in one list entry is done to a matrix at one time, so that
GPTQ makes up for what was pruned and what was rounded together.

>>> recipe = recipe_from([{"quantize": {"method": "rtn", "bits": 8}}])
>>> recipe.steps[0].quantize.bits
8
>>> recipe_from([{"quantize": {"bits": 9}}])
Traceback (most recent call last):
shared.errors.UserError: bits must be 2, 3, 4 or 8, got 9
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from compress.pipeline.options import made, must_hold, plain
from compress.pipeline.steps import PARTS, Cast, Pass, Recover, Step, Structured
from shared.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """Steps in order.

    Raises
    ------
    UserError
        If a step could not follow those before it.
    """

    steps: tuple[Step, ...]

    def __post_init__(self):
        seen: list[Step] = []
        for step in self.steps:
            passes = [s for s in seen if isinstance(s, Pass)]
            fresh = not (passes and isinstance(step, Structured))
            must_hold(fresh, "structured must come before prune and quantize", "after them")
            again = isinstance(step, Pass) and step.quantize is not None
            again = again and any(p.quantize is not None for p in passes)
            must_hold(not again, "quantize must be in one step only", "a second one")
            quantized = isinstance(step, Pass) and any(p.quantize for p in passes)
            moves = quantized and step.prune.method == "sparsegpt"
            must = "prune after quantize must leave the codes alone: magnitude or wanda"
            must_hold(not moves, must, "sparsegpt")
            rounds = any(p.quantize is not None and p.quantize.int8_inputs for p in passes)
            flat = rounds and isinstance(step, Recover)
            must_hold(not flat, "recover must come before inputs are rounded to int8", "after it")
            last = isinstance(step, Cast) and step is not self.steps[-1]
            must_hold(not last, "cast must be the last step", "another after it")
            seen.append(step)

    @property
    def needs_text(self) -> bool:
        """Whether any step reads calibration text."""
        passes = [s for s in self.steps if isinstance(s, Pass)]
        others = any(
            isinstance(s, Recover) or (isinstance(s, Structured) and s.layers) for s in self.steps
        )
        return others or any(step.needs_inputs for step in passes)

    def as_json(self) -> list[dict[str, Any]]:
        """As a YAML file would have it, every choice said.

        What could not be chosen at first is left out where it is as it was then: so a recipe is
        the same one in artifacts of any age.
        """
        found = []
        for step in self.steps:
            parts = {"structured": step, "recover": step, "cast": step}
            if isinstance(step, Pass):
                parts = {"prune": step.prune, "quantize": step.quantize}
            kinds = {name: part for name, part in parts.items() if isinstance(part, PARTS[name])}
            found.append({name: _said(part) for name, part in kinds.items()})
        return found


def _said(part: Any) -> dict[str, Any]:
    later = {"embedding_group_size": None, "embedding_method": "rtn"}
    return {k: v for k, v in plain(part).items() if k not in later or v != later[k]}


def read_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file.

    Raises
    ------
    UserError
        If it cannot be read or asks for something that there is not.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read ({reason})") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{path} is not YAML ({' '.join(str(error).split())})") from error
    try:
        return recipe_from(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def recipe_from(content: Any) -> Recipe:
    """A recipe from what YAML or JSON holds."""
    listed = isinstance(content, Sequence) and not isinstance(content, str) and len(content) > 0
    must_hold(listed, "a recipe must be a list of steps", repr(content))
    steps: list[Step] = []
    for number, entry in enumerate(content, 1):
        known = isinstance(entry, Mapping) and len(entry) > 0 and entry.keys() <= PARTS.keys()
        must_hold(known, f"step {number} must be one of {', '.join(PARTS)}", repr(entry))
        parts = {name: made(PARTS[name], options) for name, options in entry.items()}
        if parts.keys() <= {"prune", "quantize"}:
            steps.append(Pass(**parts))
        else:
            must = f"step {number} must hold one part, or prune and quantize"
            must_hold(len(parts) == 1, must, ", ".join(parts))
            steps += parts.values()
    return Recipe(tuple(steps))
