"""What can be chosen on the command line of several commands."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter, validators

from compress.calibration import Calibration, calibrate
from compress.models.opened import OpenedModel
from compress.models.opening import open_model
from compress.pipeline.recipe import Recipe
from shared.errors import UserError
from shared.study import Cores, PositiveInt, whole

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object.")]
Out = Annotated[Path, Parameter(name=["--out", "-o"], help="The folder to write.")]
Seed = Annotated[int, whole(0)]
Flag = Annotated[bool, Parameter(negative="")]
Few = Annotated[int, Parameter(validator=validators.Number(gte=1, lte=16384))]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Making:
    """How it is made, whatever the method.

    Attributes
    ----------
    calib
        builtin (WikiText-2's validation part, or Python's manual where that is missing), wikitext2,
        pydocs, or a text file.
    n_calib
        Windows of that text.
    seqlen
        Tokens of a window.
    seed
        What draws their places.
    strict
        End with status 1 where a layer's Hessian needs more damping than was asked for.
    threads
        Of torch. The same bits come out for the same number.
    """

    calib: str = "builtin"
    n_calib: PositiveInt = 32
    seqlen: Annotated[int, whole(2)] = 256
    seed: Seed = 0
    strict: Flag = False
    threads: Cores = 2

    def open(self, ref: str, recipe: Recipe) -> tuple[OpenedModel, Calibration | None]:
        """The model, and the text if a step of the recipe reads one."""
        opened = open_model(ref)
        most = opened.model.config.context
        if not recipe.needs_text:
            return opened, None
        if self.seqlen > most:
            raise UserError(f"seqlen must be at most the model's context {most}, got {self.seqlen}")
        sizes = {"n": self.n_calib, "seqlen": self.seqlen, "seed": self.seed}
        return opened, calibrate(opened.tokenizer, self.calib, **sizes)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Scanning:
    """How the loss of each part with fewer bits is measured.

    Attributes
    ----------
    bits
        Of 8, 4, 3 and 2, separated by commas.
    group_size
        Inputs that share a grid.
    unit
        block, or layer for each matrix by itself (seven times as long).
    texts
        Windows of the calibration text.
    seqlen
        Tokens of a window.
    """

    bits: str = "8,4,3"
    group_size: PositiveInt = 64
    unit: Literal["block", "layer"] = "block"
    texts: PositiveInt = 4
    seqlen: Few = 128
