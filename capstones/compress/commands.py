"""What measures, chooses and hands over: `bench`, `sensitivity`, `tune`, `export`, `serve`."""

import shlex
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from compress.options import Flag, Json, Making, Out, Scanning
from compress.terminal import console, errors, progress, put
from shared.errors import UserError

Names = Annotated[tuple[str, ...], Parameter(negative="")]


def bench(
    model: str = "smollm2",
    /,
    *outs: str,
    grid: Literal["default", "full"] = "default",
    quick: Flag = False,
    metrics: str = "ppl,acc,memory,speed",
    rows: Names = (),
    rivals: Flag = False,
    html: Path | None = None,
    record: Flag = False,
    json_: Json = False,
) -> None:
    """Measure methods beside each other: quality, bytes, memory, speed; print the table.

    What was measured before is kept; the same command goes on where it was broken off. Speed is
    to be measured on a quiet machine.

    Parameters
    ----------
    model
        What is compressed. Of smollm2 it is a copy that computes the same with weights off the
        4-bit grid that they are packaged on.
    outs
        Artifacts of yours that are rows too.
    grid
        default or full, which has rows of 2 bits and more patterns.
    quick
        A few rows and little of everything: minutes.
    metrics
        Of ppl, acc, memory and speed, separated by commas.
    rows
        Only this row of the grid; may be given several times.
    rivals
        Also what torchao, optimum-quanto and onnxruntime make of the same model.
    html
        Write the table as a page too.
    record
        Write into the project's record and tables instead of below runs/.
    """
    from rich.markdown import Markdown

    from compress.benchmark import bench as benchmark
    from compress.benchmark import rivals as others
    from compress.benchmark import tables
    from compress.report.page import write_page

    if record and quick:
        raise UserError("a quick trial measures nothing; it is not recorded")
    name = "quick" if quick else "bench"
    out = benchmark.record_of(model) if record else benchmark.RUNS / f"{name}.json"
    options = {"grid": "quick" if quick else grid, "names": rows or None, "say": errors.print}
    options["home"] = benchmark.RUNS / f"{name}-rows"
    chosen = [metric.strip() for metric in metrics.split(",") if metric.strip()]
    found = benchmark.bench(model, outs, metrics=chosen, out=out, **options)
    if rivals:
        found = others.measure(found, metrics=chosen, out=out, quick=quick, say=errors.print)
    if record:
        tables.main(out)
    if html:
        write_page(found, html)
        errors.print(f"page: {html}")
    if json_:
        put(found)
        return
    for text in tables.pages(found).values():
        console.print(Markdown(text))


def export(
    model: str,
    /,
    *,
    out: Annotated[Out, Parameter(help="The folder, or the file for onnx and gguf.")],
    format: Literal["hf", "compressed-tensors", "onnx", "gguf"] = "hf",
    kind: Literal["Q8_0", "Q4_0", "Q4_1"] = "Q8_0",
    json_: Json = False,
) -> None:
    """Write a model so that other programs load it.

    Parameters
    ----------
    model
        An artifact, compress:DIR, or any other model.
    format
        hf: floats, for Transformers; compressed-tensors: the artifact's own codes, for vLLM and
        Transformers; onnx: a graph of floats with a cache; gguf: rounded to nearest once more in
        llama.cpp's blocks.
    kind
        Of gguf: the blocks of the matrices; the embedding is Q8_0.
    """
    from compress.export.writing import write

    found = write(model, out, format, kind=kind)
    if json_:
        put(found)
    else:
        console.print(f"{found['out']}: {found['bytes']:,} bytes")


def sensitivity(
    model: str,
    /,
    *,
    scanning: Scanning | None = None,
    json_: Json = False,
) -> None:
    """Say how much the loss rises when one part alone has fewer bits.

    Parameters
    ----------
    model
        What is scanned.
    """
    from compress.tuning.tune import scanned, show_scan

    with progress("parts") as told:
        found = scanned(model, scanning or Scanning(), told)[1]
    if json_:
        put({part.name: {"rises": part.rises, "bytes": part.n_bytes} for part in found})
    else:
        show_scan(console, found)


def tune(
    model: str,
    /,
    *,
    out: Path | None = None,
    max_drop: str = "1%",
    objective: Literal["size", "latency"] = "size",
    budget: str | None = None,
    scanning: Scanning | None = None,
    method: Literal["rtn", "gptq"] = "gptq",
    making: Making | None = None,
    json_: Json = False,
) -> None:
    """Choose bits for each part: the smallest or fastest model that loses little, then make it.

    Parameters
    ----------
    model
        What is compressed.
    out
        The folder to write; without it the choice is only said.
    max_drop
        How much the perplexity of a text that was not scanned may rise. Measured on the model that
        was chosen; if it is more, the next larger choice is tried.
    objective
        What is to be low: bytes, or seconds per token by the kernels that this machine has.
    budget
        Instead of max_drop: share of the blocks' bytes in 16 bits, such as 40%; the choice is then
        the best within it.
    method
        How the choice is made real.
    """
    from compress.tuning.tune import show_tuned, tuned

    how = {"scanning": scanning or Scanning(), "making": making or Making()}
    rules = {"max_drop": max_drop, "objective": objective, "budget": budget, "method": method}
    with progress("parts") as told:
        found = tuned(model, out, **how, **rules, progress=told)
    if json_:
        put(found)
    else:
        show_tuned(console, found)


def serve(model: str, /) -> None:
    """Check an artifact and say how it is served: the program `serve` does that.

    Parameters
    ----------
    model
        An artifact, compress:DIR, or its folder.
    """
    from compress.inspecting import verify
    from compress.models.opening import reference

    ref = reference(f"compress:{model.strip().removeprefix('compress:')}")
    verify(ref.path)
    console.print(f"uv run serve {shlex.quote(ref.text)}", soft_wrap=True)


COMMANDS = (bench, sensitivity, tune, export, serve)
