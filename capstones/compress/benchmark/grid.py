"""The rows of the table: what is done to the model, and in which form its speed is measured.

>>> [row.name for row in rows("quick")][:3]
['float32', 'int8 weight-only', 'int4 RTN g64 sym']
>>> recipe_of(BY_NAME["int3 GPTQ g64"]).as_json()[0]["quantize"]["bits"]
3
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from compress.pipeline.recipe import Recipe, recipe_from
from shared.require import require

Grid = Literal["quick", "default", "full"]
GRIDS = ("quick", "default", "full")
GROUP = 64  # divides SmolLM2's widths, 576 and 1536


@dataclass(frozen=True, eq=False)
class Row:
    """A line of the table.

    Attributes
    ----------
    recipe
        As a YAML file has it; empty for the model as it came.
    form
        In which its speed is measured, of `forms.FORMS`.
    like
        The row whose speed it has, since it computes with the same kernels; empty if it is timed.
    grid
        The smallest grid that it is in.
    calib
        The text that methods learn from.
    """

    name: str
    recipe: tuple[Mapping[str, Any], ...] = ()
    form: str = "float32"
    like: str = ""
    grid: Grid = "default"
    calib: str = "builtin"


def quantized(method: str, bits: int, group: int | None, **options: Any) -> dict[str, Any]:
    """A step that rounds all matrices of the blocks."""
    return {"quantize": {"method": method, "bits": bits, "group_size": group, **options}}


def pruned(method: str, **options: Any) -> dict[str, Any]:
    """A step that prunes half of all matrices of the blocks, if not told otherwise."""
    return {"prune": {"method": method, **options}}


def small(name: str, *steps: Mapping[str, Any], **options: Any) -> Row:
    """A row whose remaining floats are stored in 16 bits, so that its file is as small as it is."""
    return Row(name, (*steps, {"cast": {"dtype": "float16"}}), **options)


SYM, HALF = {"symmetric": True}, {"sparsity": 0.5}
RECOVER = {"recover": {"steps": 12, "lr": 1e-4, "batch_size": 2}}
FLOATS = "float32"
ROWS = (
    Row("float32", grid="quick"),
    Row("bfloat16", ({"cast": {"dtype": "bfloat16"}},), "bfloat16"),
    small("int8 weight-only", quantized("rtn", 8, None, **SYM), form="kernels", grid="quick"),
    small(
        "int8 weight-only, int8 embedding",
        quantized("rtn", 8, None, embedding_bits=8, **SYM),
        form="kernels",
    ),
    small("int8 dynamic", quantized("rtn", 8, None, int8_inputs=True, **SYM), form="fused"),
    small("int8 SmoothQuant", quantized("smoothquant", 8, None), like="int8 dynamic"),
    small("int4 RTN g64 sym", quantized("rtn", 4, GROUP, **SYM), form="kernels", grid="quick"),
    small("int4 GPTQ g64 sym", quantized("gptq", 4, GROUP, **SYM), like="int4 RTN g64 sym"),
    small(
        "int4 GPTQ g64 sym, by Python's manual",
        quantized("gptq", 4, GROUP, **SYM),
        like="int4 RTN g64 sym",
        calib="pydocs",
    ),
    small("int4 RTN g128", quantized("rtn", 4, 128), like=FLOATS),
    small("int4 GPTQ g128", quantized("gptq", 4, 128), like=FLOATS),
    small("int4 RTN g64", quantized("rtn", 4, GROUP), like=FLOATS),
    small("int4 GPTQ g64", quantized("gptq", 4, GROUP), like=FLOATS, grid="quick"),
    small(
        "int4 GPTQ g64, plain",
        quantized("gptq", 4, GROUP, weighted=False),
        like=FLOATS,
    ),
    small("int4 AWQ g64", quantized("awq", 4, GROUP), like=FLOATS),
    small("int4 HQQ g64", quantized("hqq", 4, GROUP), like=FLOATS),
    small("int3 RTN g64", quantized("rtn", 3, GROUP), like=FLOATS),
    small("int3 GPTQ g64", quantized("gptq", 3, GROUP), like=FLOATS),
    small("50 % magnitude", pruned("magnitude", **HALF), like=FLOATS),
    small("50 % Wanda", pruned("wanda", **HALF), like=FLOATS, grid="quick"),
    small("50 % SparseGPT", pruned("sparsegpt", **HALF)),
    small("2:4 SparseGPT", pruned("sparsegpt", pattern="2:4"), like=FLOATS),
    small(
        "2:4 SparseGPT, recovered",
        pruned("sparsegpt", pattern="2:4"),
        RECOVER,
        like=FLOATS,
    ),
    small(
        "50 % SparseGPT + int4 GPTQ g64",
        pruned("sparsegpt", **HALF) | quantized("gptq", 4, GROUP),
        like=FLOATS,
    ),
    small(
        "int4 GPTQ g64 sym, int8 embedding",
        quantized("gptq", 4, GROUP, embedding_bits=8, **SYM),
        form="kernels",
    ),
    small(
        "int4 GPTQ g64 sym, int4 embedding",
        quantized(
            "gptq",
            4,
            GROUP,
            embedding_bits=4,
            embedding_group_size=32,
            embedding_method="gptq",
            **SYM,
        ),
        form="kernels",
    ),
    small("4 blocks gone, recovered", {"structured": {"layers": 4}}, RECOVER),
    small("2:4 Wanda", pruned("wanda", pattern="2:4"), like=FLOATS, grid="full"),
    small("4:8 SparseGPT", pruned("sparsegpt", pattern="4:8"), like=FLOATS, grid="full"),
    small("int4 GPTQ row", quantized("gptq", 4, None), like=FLOATS, grid="full"),
    small("int2 GPTQ g64", quantized("gptq", 2, GROUP), like=FLOATS, grid="full"),
    small("int2 HQQ g64", quantized("hqq", 2, GROUP), like=FLOATS, grid="full"),
)
BY_NAME = {row.name: row for row in ROWS}


def rows(grid: Grid) -> list[Row]:
    """The rows of a grid and of those within it."""
    must = f"grid must be one of {', '.join(GRIDS)}"
    require(grid in GRIDS, must, repr(grid))
    return [row for row in ROWS if GRIDS.index(row.grid) <= GRIDS.index(grid)]


def recipe_of(row: Row) -> Recipe | None:
    """The row's recipe; None for the model as it came."""
    return recipe_from(list(row.recipe)) if row.recipe else None
