"""`compress`: a smaller language model, and what it cost, measured.

For example:

    compress inspect  smollm2                              # where its bytes are
    compress quantize smollm2 -o runs/int4 --bits 4 --group-size 64
    compress prune    smollm2 -o runs/half --method wanda --pattern 2:4
    compress recipe   smollm2 -o runs/both -r recipe.yaml
    compress verify   runs/int4
    compress bench    smollm2 runs/int4 --quick            # what steps cost
    compress tune     smollm2 -o runs/mixed --max-drop 1%  # bits that count
    compress export   compress:runs/int4 -o runs/folder --format hf

MODEL is smollm2, hf:FOLDER, tiny_gpt:RUN, compress:DIR or gguf:FILE.

Exit status:

    0    all went well
    1    it failed, or --strict forbade what a layer needed
    2    a mistake in the command
    3    a torn, altered or missing artifact
    130  interrupted (143: by SIGTERM); the same command goes on from there
    141  nobody reads what is printed
"""

from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter

from compress.commands import COMMANDS
from compress.options import Flag, Json, Making, Out
from compress.terminal import console, errors, put
from shared import study
from shared.study import NonNegativeInt, PositiveInt, whole

options = {"help_format": "plaintext", "version_flags": [], "result_action": "return_value"}
app = cyclopts.App(name="compress", help=__doc__, **options)
Share = Annotated[float, Parameter(validator=cyclopts.validators.Number(gte=0, lt=1))]


def main(argv: list[str] | None = None) -> int:
    """Run a command line; return its exit status."""
    study.silence_libraries()
    return study.call(app, argv, lost="; what is done is kept, the same command goes on")


@app.command
def inspect(model: str, /, *, json_: Json = False) -> None:
    """Say where a model's bytes are; of a compressed one, what was done to each layer.

    Parameters
    ----------
    model
        As above.
    """
    from compress import inspecting

    found = inspecting.inspect(model)
    if json_:
        put(found)
    else:
        inspecting.show(console, found)


@app.command
def quantize(
    model: str,
    /,
    *,
    out: Out,
    method: Literal["rtn", "gptq", "awq", "smoothquant", "hqq"] = "gptq",
    bits: Annotated[int | None, whole(2, 8)] = None,
    group_size: PositiveInt = 128,
    per_channel: Flag = False,
    sym: Flag = False,
    act_order: Flag = False,
    damping: float = 0.01,
    alpha: float = 0.5,
    int8_inputs: Flag = False,
    embedding_bits: Annotated[int | None, whole(2, 8)] = None,
    embedding_group_size: PositiveInt | None = None,
    embedding_method: Literal["rtn", "gptq"] = "rtn",
    making: Making | None = None,
    json_: Json = False,
) -> None:
    """Round the weights of all blocks to integers.

    Parameters
    ----------
    method
        rtn rounds to nearest; gptq makes up for errors in the weights that follow; awq scales up
        what meets large inputs; hqq moves zero points, without any text; smoothquant shares the
        range of inputs and weights, and rounds both to int8.
    bits
        8, 4, 3 or 2; 4 by default, 8 for smoothquant.
    group_size
        Inputs that share a grid.
    per_channel
        One grid per output instead.
    sym
        Zero in the middle of each grid.
    act_order
        Of gptq: inputs with the largest Hessian diagonal first.
    damping
        Of gptq: share of the Hessian's mean diagonal that is added to it.
    alpha
        Of smoothquant: how much of the range moves into the weights.
    int8_inputs
        Round what layers read too (int8 dynamic); with 8 bits, --sym and --per-channel.
    embedding_bits
        Bits of the embedding and the head, 8 or 4; by default they stay floats.
    embedding_group_size
        Their columns that share a grid; by default a grid per token.
    embedding_method
        rtn or gptq, for the head and an embedding that is tied to it.
    """
    from compress.pipeline.recipe import Recipe
    from compress.pipeline.steps import Pass, Quantize

    bits = bits if bits is not None else 8 if method == "smoothquant" else 4
    chosen = Quantize(
        method=method,
        bits=bits,
        group_size=None if per_channel else group_size,
        symmetric=sym,
        act_order=act_order,
        damping=damping,
        alpha=alpha,
        int8_inputs=int8_inputs,
        embedding_bits=embedding_bits,
        embedding_group_size=embedding_group_size,
        embedding_method=embedding_method,
    )
    _make(model, Recipe((Pass(quantize=chosen),)), out, making, json_)


@app.command
def prune(
    model: str,
    /,
    *,
    out: Out,
    method: Literal["magnitude", "wanda", "sparsegpt", "structured"] = "sparsegpt",
    sparsity: Share = 0.5,
    pattern: str | None = None,
    scope: Literal["row", "layer", "global"] | None = None,
    damping: float = 0.01,
    heads: Share = 0.0,
    neurons: Share = 0.0,
    layers: NonNegativeInt = 0,
    making: Making | None = None,
    json_: Json = False,
) -> None:
    """Set weights to zero, or take whole parts out.

    Parameters
    ----------
    method
        magnitude, wanda and sparsegpt make zeros; structured makes smaller matrices.
    sparsity
        Share of the weights that go.
    pattern
        Instead n:m, such as 2:4: of each m neighbors n stay.
    scope
        What weights are compared with: those of their row, their layer, or all (magnitude).
    damping
        Of sparsegpt: share of the Hessian's mean diagonal that is added to it.
    heads
        Of structured: share of the heads of keys and values that goes.
    neurons
        Of structured: share of the MLPs' neurons that goes.
    layers
        Of structured: blocks that go.
    """
    from compress.pipeline.recipe import Recipe
    from compress.pipeline.steps import Pass, Prune, Structured

    if method == "structured":
        step = Structured(heads=heads, neurons=neurons, layers=layers)
    else:
        how = {"sparsity": sparsity, "pattern": pattern, "scope": scope, "damping": damping}
        step = Pass(prune=Prune(method=method, **how))
    _make(model, Recipe((step,)), out, making, json_)


@app.command
def recipe(
    model: str,
    /,
    *,
    out: Out,
    recipe: Annotated[Path, Parameter(name=["--recipe", "-r"])],
    making: Making | None = None,
    json_: Json = False,
) -> None:
    """Do the steps of a YAML file one after another: prune, quantize, structured, recover, cast.

    Parameters
    ----------
    recipe
        The file; `compress/pipeline/recipe.py` shows one.
    """
    from compress.pipeline.recipe import read_recipe

    _make(model, read_recipe(recipe), out, making, json_)


@app.command
def verify(out: Path, /, *, json_: Json = False) -> None:
    """Check every byte of an artifact, its counts, and that its model computes.

    Parameters
    ----------
    out
        The artifact's folder.
    """
    from compress import inspecting

    found = inspecting.verify(out)
    if json_:
        put(found)
    else:
        console.print(f"{out} is whole: {found['layers']} layers, {found['files']} files")


def _make(model: str, recipe, out: Path, making: Making | None, json_: bool) -> None:
    from compress import inspecting
    from compress.making import make

    found = make(model, recipe, out, making or Making())
    if json_:
        put(found)
    else:
        inspecting.show_made(errors, found)


for command in COMMANDS:
    app.command(command)
