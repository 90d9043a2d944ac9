r"""Documents out of records: a line of JSON, or a row of a table, is a document.

The text is what stands under "text" (or "contents", or "page_content"); a record without one is
written out, a line per field. What else is short and simple becomes metadata to filter by.

>>> make({"_id": "7", "title": "Tea", "text": "Hot.", "year": 1990, "tags": ["a"]}, "corpus", 1)
Document(id='corpus/7', text='Hot.', title='Tea', metadata={'record': '7', 'year': 1990}, pages=())
"""

import csv
import io
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rag.documents.decoding import LIMIT, UnreadableError, clean, decode, encoding_of, read_bytes
from rag.types import Document, Skipped

__all__ = ["make", "records"]

TEXTS, IDS = ("text", "contents", "page_content"), ("_id", "id", "docid")
SHORT = 200  # characters of a value that is metadata

_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_NUMBER = re.compile(r"-?(?:0|[1-9]\d{0,15})(\.\d+)?")


def records(path: Path, *, id: str) -> Iterator[Document | Skipped]:
    """Stream the documents of a .jsonl, .csv or .tsv file; a record that is none is skipped."""
    seen: set[str] = set()
    read = _json_lines if path.suffix.lower() in (".jsonl", ".ndjson") else _rows
    for number, record in read(path):
        try:
            if isinstance(record, str):
                raise UnreadableError(record)
            document = make(record, id, number)
            if document.id in seen:
                raise UnreadableError(f"has the id of an earlier record, {document.id}")
            seen.add(document.id)
            yield document
        except UnreadableError as error:
            yield Skipped(f"{id}, line {number}", str(error))


def make(record: Mapping[str, Any], id: str, number: int) -> Document:
    """The document of a record, which is the `number`-th of the file `id`.

    Raises
    ------
    UnreadableError
        It has no text.
    """
    name = next((str(record[key]) for key in IDS if isinstance(record.get(key), str | int)), "")
    key = next((key for key in TEXTS if key in record), None)
    text, title = record.get(key) if key else _written(record), record.get("title") or ""
    if not isinstance(text, str) or not isinstance(title, str):
        raise UnreadableError(f"is no text under {key if isinstance(title, str) else 'title'!r}")
    if not text.strip():  # as in some collections, whose title says it all
        text, title = title, ""
    if not text.strip():
        raise UnreadableError("holds no text")
    nested = record.get("metadata")
    facts = {**(nested if isinstance(nested, dict) else {}), **record}
    metadata = {
        clean(str(name)): clean(value) if isinstance(value, str) else value
        for name, value in facts.items()
        if name not in (*TEXTS, *IDS, "title") and _is_simple(value)
    }
    name = clean(name or str(number))
    return Document(f"{id}/{name}", clean(text), clean(title), {"record": name, **metadata})


def _is_simple(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= SHORT
    return (isinstance(value, int) and abs(value) < 2**63) or (
        isinstance(value, float) and math.isfinite(value)
    )


def _written(record: Mapping[str, Any]) -> str:
    fields = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in record.items()
        if value not in (None, "")
    }
    return "\n".join(f"{name}: {value}" for name, value in fields.items())


def _json_lines(path: Path) -> Iterator[tuple[int, dict | str]]:
    """Number and object of each line, or what is wrong with it."""
    with path.open("rb") as stream:
        encoding = encoding_of(stream.read(4))
    # A byte that is not of the encoding becomes half of a surrogate pair, which is found then.
    with path.open(encoding=encoding, errors="surrogateescape", newline="\n") as stream:
        for number in itertools.count(1):
            line = stream.readline(LIMIT + 1)
            if not line:
                return
            if len(line) > LIMIT:
                yield number, f"has over {LIMIT:,} characters; the rest of the file is not read"
                return
            if _NOT_UTF8.search(line):
                yield number, f"is not {encoding} text"
            elif line.strip():
                try:
                    record = json.loads(line)
                except (ValueError, RecursionError) as error:
                    yield number, f"is not JSON ({error})"
                else:
                    yield number, record if isinstance(record, dict) else "is no JSON object"


def _rows(path: Path) -> Iterator[tuple[int, dict]]:
    """Number and cells of each row under the first, by the names that the first gives."""
    text, _ = decode(read_bytes(path))
    head = text.partition("\n")[0]
    delimiter = max("\t" if path.suffix.lower() == ".tsv" else ",;\t|", key=head.count)
    csv.field_size_limit(LIMIT)  # a cell may hold a whole article
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    names = next(reader, [])
    for row in reader:
        cells = {
            (names[i] if i < len(names) else "") or f"column {i + 1}": _number(cell)
            for i, cell in enumerate(row)
        }
        if any(cells.values()):
            yield reader.line_num, cells


def _number(cell: str) -> str | int | float:
    found = _NUMBER.fullmatch(cell)
    return cell if not found else float(cell) if found[1] else int(cell)
