"""`compress bench`: every row of a grid measured, each number as soon as it is there.

    compress bench smollm2 --quick           # minutes
    compress bench smollm2 --metrics speed   # on a quiet machine; the rest is not measured again

What was measured of a row stays in the record with what it was measured on. The same command goes
on where it was broken off; a number is measured again only if its protocol or its model changed.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from compress.artifact.folder import checked
from compress.benchmark import quality
from compress.benchmark.forms import opened
from compress.benchmark.grid import BY_NAME, FLOATS, Grid, Row, rows
from compress.benchmark.making import (
    described,
    float16_bytes,
    learned_from,
    made,
    stored,
    unpacked,
)
from compress.benchmark.off_grid import BLOCK, distance_from_grid, off_grid_copy
from compress.benchmark.probe import probe
from compress.benchmark.speed import MEMORY, memory, signature, speeds
from compress.models.opening import open_model, reference
from compress.options import Making
from shared import artifacts
from shared.errors import UserError
from shared.measuring import read_record, save
from shared.require import require

RECORD = Path(__file__).parents[1] / "results" / "bench.json"
RUNS = Path("runs/compress")
METRICS = ("ppl", "acc", "memory", "speed")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes
    ----------
    windows, context, pages
        Of perplexity.
    documents, tasks
        Of accuracy: so many documents of each task.
    n_calib, seqlen
        What methods learn from.
    prefill, decode, repeats, threads
        Of speed.
    """

    windows: int = 8
    context: int = 256
    pages: int = 1
    documents: int = 24
    tasks: tuple[str, ...] = quality.TASKS
    n_calib: int = 32
    seqlen: int = 256
    prefill: int = 64
    decode: int = 12
    repeats: int = 10
    threads: tuple[int, ...] = (1, 2)


QUICK = Size(3, 64, 0, 4, ("mini_mcqa",), 4, 64, 16, 4, 2, (1,))


def bench(
    ref: str = "smollm2",
    outs: Sequence[str] = (),
    *,
    grid: Grid = "default",
    metrics: Sequence[str] = METRICS,
    size: Size | None = None,
    names: Sequence[str] | None = None,
    out: Path = RUNS / "bench.json",
    home: Path = RUNS / "rows",
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Measure what is not in the record yet; return the record.

    Parameters
    ----------
    outs
        Artifacts that are rows too.
    names
        Rows instead of those of a grid.

    Raises
    ------
    UserError
        If a metric or row is unknown, or something cannot be opened.
    """
    quick = grid == "quick"
    size = size or (QUICK if quick else Size())
    for metric in metrics:
        must = f"metrics must be among {', '.join(METRICS)}"
        require(metric in METRICS, must, repr(metric), error=UserError)
    for name in names or ():
        must = f"row must be among {'; '.join(BY_NAME)}"
        require(name in BY_NAME, must, repr(name), error=UserError)
    chosen = rows(grid) if names is None else [BY_NAME[FLOATS], *(BY_NAME[n] for n in names)]
    chosen = list(dict.fromkeys(chosen))
    base = source(ref, say=say)
    making = Making(n_calib=size.n_calib, seqlen=size.seqlen, threads=torch.get_num_threads())
    places: dict[str, tuple[Row, str]] = {}
    for row in chosen:
        try:
            place, seconds = made(base, row, home, making, say)
        except UserError as error:
            if names:
                raise
            say(f"{row.name} is left out: {error}")
            continue
        places[row.name] = row, place
        _note(out, row.name, place, seconds, quick)
    for ref_out in outs:
        row = Row(Path(ref_out).name, form="kernels")
        place = reference(ref_out).text
        places[row.name] = row, place
        _note(out, row.name, place, None, quick)
    before = read_record(out).get("about", {})
    about = {"model": ref, "grid": grid, "size": asdict(size), "probe": probe()}
    about["digest"] = read_record(out)[FLOATS]["digest"]
    if before.get("digest") == about["digest"]:
        about |= {name: before[name] for name in ("float16", "off_grid")}
    else:
        about |= {"float16": float16_bytes(base), "off_grid": off_grid(base)}
    about["rows"] = list(dict.fromkeys([*before.get("rows", []), *places]))
    save(out, "about", about, quick=quick)
    if {"ppl", "acc"} & {*metrics}:
        measure_quality(places, metrics, size, out, quick, say)
    if "memory" in metrics:
        measure_memory(places, out, quick, say)
    if "speed" in metrics:
        measure_speed(places, size, out, quick, say)
    return read_record(out)


def record_of(ref: str) -> Path:
    """Where the project keeps what it measured of a model: of smollm2, and of other kinds.

    >>> record_of("tiny_gpt:runs/wiki").relative_to(RECORD.parent).as_posix()
    'tiny_gpt/bench.json'
    """
    kind = reference(ref).kind
    return RECORD if kind == "smollm2" else RECORD.parent / kind / RECORD.name


def source(ref: str, *, say: Say) -> str:
    """The model that rows are made of: of SmolLM2 the copy that left the package's grid."""
    return f"hf:{off_grid_copy(say=say)}" if ref == "smollm2" else ref


def off_grid(base: str) -> float | None:
    """How far the blocks' weights are from a 4-bit grid; None where groups do not fit."""
    layers = [block.down_proj for block in open_model(base).model.blocks]
    if layers[0].in_features % BLOCK:
        return None
    return sum(distance_from_grid(layer.weight) for layer in layers) / len(layers)


def facts(place: str) -> dict[str, Any]:
    """What is known of a row's model without running it."""
    ref = reference(place)
    if ref.kind == "compress":
        folder = ref.path
        metadata = checked(folder, artifacts.load(folder).metadata)
        # Of the files and how they compute, not of the manifest, which names the command: of a row
        # that is made again with the same bytes, what was measured still holds.
        content = [artifacts.manifest_of(folder)["files"], metadata["recipe"]]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        text = learned_from(metadata["calibration"])
        what = {"what": described(metadata), "learned": text}
        return {"digest": digest, "bytes": stored(folder), **what}
    found = open_model(place)
    size = stored(found.folder) if ref.kind == "hf" else unpacked(found.model)
    return {"digest": found.digest, "bytes": size, "what": "as it came"}


def _note(out: Path, name: str, place: str, seconds: float | None, quick: bool) -> None:
    """Put a row into the record, if it is not there with this very model."""
    found = facts(place)
    if read_record(out).get(name, {}).get("digest") != found["digest"]:
        save(out, name, found | {"seconds": seconds}, quick=quick)


def kept(out: Path, name: str, part: str, key: str) -> Any:
    """A part of a row's record, if it was measured by this protocol on this model."""
    row = read_record(out).get(name, {})
    found = row.get(part)
    return found if found and found.get("key") == key else None


def put(out: Path, name: str, part: str, content: dict[str, Any], key: str, quick: bool) -> None:
    """Add a part to a row's record."""
    row = read_record(out)[name] | {part: {**content, "key": key}}
    save(out, name, row, quick=quick, threads=torch.get_num_threads())


def measure_quality(places, metrics, size: Size, out: Path, quick: bool, say: Say) -> None:
    """Perplexities and answers of each row."""
    tokenizer = open_model(next(iter(places.values()))[1]).tokenizer
    counts = {"windows": size.windows, "context": size.context, "pages": size.pages}
    text = quality.wikitext(tokenizer.encode, **counts)
    for name, (_, place) in places.items():
        digest, model = read_record(out)[name]["digest"], None
        key = _key(digest, text.signature, text.page_signature)
        if "ppl" in metrics and not kept(out, name, "ppl", key):
            say(f"reading with {name}")
            model = opened(place, "judged").model
            found = {"signature": text.signature, "nats": quality.window_nats(model, text)}
            found |= {"page_signature": text.page_signature}
            found |= {"word_perplexity": quality.word_perplexity(model, text)}
            put(out, name, "ppl", found, key, quick)
        key = _key(digest, *size.tasks, size.documents)
        if "acc" in metrics and not kept(out, name, "acc", key):
            say(f"asking {name}")
            model = model or opened(place, "judged").model
            found = quality.answers(model, tokenizer, size.tasks, size.documents)
            put(out, name, "acc", {"answers": found}, key, quick)


def measure_memory(places, out: Path, quick: bool, say: Say) -> None:
    """Memory of the rows that are timed; other work on the machine does not matter to it."""
    for name, (row, place) in places.items():
        key = _key(read_record(out)[name]["digest"], row.form, MEMORY)
        if not row.like and not kept(out, name, "memory", key):
            say(f"weighing {name}")
            put(out, name, "memory", memory(place, row.form), key, quick)


def measure_speed(places, size: Size, out: Path, quick: bool, say: Say) -> None:
    """Tokens per second of the rows that are timed, in turns."""
    counts = {"prefill": size.prefill, "decode": size.decode, "repeats": size.repeats}
    timed = {name: pair for name, pair in places.items() if not pair[0].like}
    forms = [(place, row.form) for row, place in timed.values()]
    found = speeds(forms, threads=size.threads, say=say, **counts)
    key = _key(*forms, *(signature(threads=count, **counts) for count in size.threads))
    for (name, (row, _)), speed in zip(timed.items(), found, strict=True):
        put(out, name, "speed", {"form": row.form, **speed}, key, quick)


def _key(*parts: Any) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
