"""A task's documents: rows of files that the registry of data sets knows, or that lie beside it.

Files are read by suffix: jsonl, json (a list, or an object a line), csv, tsv, txt (a row a line),
each also as .gz, and zip of such. Everything is text that Python's own readers parse.

>>> take_turns([{"kind": "a"}, {"kind": "a"}, {"kind": "b"}], "kind")
[{'kind': 'a'}, {'kind': 'b'}, {'kind': 'a'}]
"""

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from llm_eval.tasks import shapes
from llm_eval.tasks.config import Config
from llm_eval.tasks.located import one_line, short
from shared import registry
from shared.errors import UserError

MAX_BYTES = 1 << 30
TABLES = {".csv": {"dialect": "excel"}, ".tsv": {"delimiter": "\t", "quoting": csv.QUOTE_NONE}}
Rows = list[dict[str, Any]]


def paths(config: Config, split: str) -> list[Path]:
    """The files of a split; those of the registry are verified, and fetched where that is possible.

    Raises
    ------
    UserError
        There is no such split, or a file is not here.
    """
    data = config.data
    if split not in data.files:
        known = ", ".join(data.files)
        raise UserError(f"task {config.name} has no split {split!r}; its data has {known}")
    if data.set:
        return [registry.path(data.set, file) for file in data.files[split]]
    return [config.path.parent / file for file in data.files[split]]


def documents(config: Config, split: str) -> Rows:
    """The documents of a split, in the order of their files."""
    key = tuple((path, path.stat().st_mtime_ns) for path in paths_here(config, split))
    return _documents(key, config.data.shape, config.data.columns, config.data.spread)


def paths_here(config: Config, split: str) -> list[Path]:
    """The files of a split, all of which exist."""
    found = paths(config, split)
    for path in found:
        if not path.is_file():
            raise UserError(f"data of task {config.name}: {path} is no file")
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"data of task {config.name}: {path} has more than {MAX_BYTES:,} bytes")
    return found


def take_turns(rows: Rows, field: str) -> Rows:
    """The rows, one of each value of a field after another, until all are there."""
    kinds: dict[str, Rows] = {}
    for row in rows:
        kinds.setdefault(str(row.get(field)), []).append(row)
    absent = object()
    turns = zip_longest(*kinds.values(), fillvalue=absent)
    return [row for turn in turns for row in turn if row is not absent]


def read_rows(path: Path, columns: Sequence[str] = ()) -> Rows:
    """The rows of a file.

    Raises
    ------
    UserError
        The file is not what its suffix says; one line with file and line.
    """
    try:
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                names = sorted(n for n in archive.namelist() if not _hidden(n))
                return [
                    row
                    for name in names
                    for row in _rows(f"{path}/{name}", _text(archive.read(name)), columns)
                ]
        name, content = str(path), path.read_bytes()
        if path.suffix == ".gz":
            name = name.removesuffix(".gz")
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(MAX_BYTES)
        return list(_rows(name, _text(content), columns))
    except (OSError, EOFError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)})") from error


@lru_cache(maxsize=8)
def _documents(key: tuple, shape: str, columns: tuple[str, ...], spread: str) -> Rows:
    files = [(path.name, read_rows(path, columns)) for path, _ in key]
    rows = shapes.SHAPES[shape](files) if shape else shapes.joined(files)
    if not rows:
        raise UserError(f"{key[0][0]} holds no documents")
    return take_turns(rows, spread) if spread else rows


def _text(content: bytes) -> str:
    return content.decode("utf-8-sig")


def _hidden(name: str) -> bool:
    return name.endswith("/") or any(p.startswith((".", "__MACOSX")) for p in name.split("/"))


def _rows(name: str, text: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    suffix = Path(name).suffix
    if suffix in TABLES:
        yield from _table(name, text, columns, TABLES[suffix])
    elif suffix == ".jsonl":
        yield from _lines(name, text)
    elif suffix == ".json":
        try:
            content = json.loads(text)
        except json.JSONDecodeError:
            yield from _lines(name, text)
            return
        yield from _objects(name, content if isinstance(content, list) else [content])
    elif suffix in (".txt", ".dev", ".test"):
        yield from ({"text": line} for line in text.splitlines())
    else:
        raise UserError(f"{name} must be jsonl, json, csv, tsv, txt, .gz of such, or zip")


def _lines(name: str, text: str) -> Iterator[dict[str, Any]]:
    # not splitlines: some characters that it splits at stand within JSON's texts
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                content = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{name}:{number}: is no JSON ({one_line(error)})") from error
            yield from _objects(f"{name}:{number}", [content])


def _objects(where: str, values: list[Any]) -> Iterator[dict[str, Any]]:
    for value in values:
        if not isinstance(value, dict):
            raise UserError(f"{where}: a document must be an object, got {short(value)}")
        yield value


def _table(name: str, text: str, columns: Sequence[str], options: dict) -> Iterator[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), columns or None, **options)
    try:
        for row in reader:
            if None in row or None in row.values():
                raise UserError(f"{name}:{reader.line_num}: has another number of columns")
            yield {key or "row": value for key, value in row.items()}
    except csv.Error as error:
        raise UserError(f"{name}:{reader.line_num}: is no table ({error})") from error
