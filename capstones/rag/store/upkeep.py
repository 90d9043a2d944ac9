"""What keeps a store well: is it whole, what is in it, less of it, and out of it again."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rag.embeddings.cache import EmbeddingCache
from rag.store.writing import writing
from rag.types import Document
from shared.errors import UserError
from shared.files import write_atomic

if TYPE_CHECKING:
    from rag.store.store import Store


def verify(store: "Store") -> list[str]:
    """See `Store.verify`."""
    problems = store.files.verify()
    try:
        problems += [line for (line,) in store.query("PRAGMA integrity_check") if line != "ok"]
        rows = [row for (row,) in store.query("SELECT row FROM chunks ORDER BY row")]
        if rows != store.files.rows.tolist():
            problems.append(f"{store.database}: chunks and vectors are not of the same rows")
        if not problems and [str(row) for row in rows] != store.bm25.ids:
            problems.append(f"{store.database}: chunks and words are not of the same rows")
        ids = [id for (id,) in store.query("SELECT id FROM documents ORDER BY id")]
        for id in ids:
            problems += told(lambda id=id: store.document(id))
            problems += told(lambda id=id: store.chunks(store.rows_of(id)))
        held = {id for (id,) in store.query("SELECT DISTINCT document FROM chunks")}
        problems += [f"{store.database}: chunks of no document {id!r}" for id in held - set(ids)]
    except UserError as error:
        problems.append(str(error))
    return problems


def told(read) -> list[str]:
    """What is wrong with something that is read."""
    try:
        read()
    except UserError as error:
        return [str(error)]
    return []


def stats(store: "Store") -> dict[str, Any]:
    """See `Store.stats`."""
    ((documents, chars),) = store.query(
        "SELECT count(*), coalesce(sum(length(text)), 0) FROM documents"
    )
    files = [path for path in store.folder.rglob("*") if path.is_file()]
    sizes = [p.stat().st_size for p in files if not p.name.endswith(("-wal", "-shm"))]
    cutting = {name: store.settings[name] for name in ("splitter", "size", "overlap")}
    return {
        "folder": str(store.folder),
        "generation": store.generation,
        "documents": documents,
        "characters": chars,
        "chunks": len(store),
        **cutting,
        "embedder": store.settings["embedder"],
        "dim": store.settings["dim"],
        "index": store.files.kind,
        "why": store.files.why,
        "bytes": sum(sizes),
    }


def export(store: "Store", folder: Path) -> None:
    """See `Store.export`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror})") from error
    if any(folder.iterdir()):
        raise UserError(f"{folder} is not empty: nothing is exported there")
    rows = store.files.rows
    documents = (as_dict(store.document(info.id)) for info in store.documents())
    write_lines(folder / "documents.jsonl", documents)
    chunks = zip(rows.tolist(), store.chunks(rows), strict=True)
    write_lines(folder / "chunks.jsonl", ({"row": row, **vars(chunk)} for row, chunk in chunks))
    np.save(folder / "vectors.npy", store.vectors(rows))


def as_dict(document: Document) -> dict[str, Any]:
    """A document, for JSON."""
    return {**vars(document), "metadata": dict(document.metadata), "pages": list(document.pages)}


def write_lines(path: Path, values: Iterable[dict[str, Any]]) -> None:
    """A file with one JSON object a line."""
    lines = (json.dumps(value, ensure_ascii=False) + "\n" for value in values)
    write_atomic(path, "".join(lines))


def compact(store: "Store") -> int:
    """See `Store.compact`."""
    before = stats(store)["bytes"]
    with writing(store):
        used = [digest for (digest,) in store.query("SELECT digest FROM chunks")]
        EmbeddingCache(store.folder / "embeddings.sqlite").keep(store.embedder, used)
        with store.transaction() as database:
            unused = "id NOT IN (SELECT metadata FROM chunks)"
            database.query(f"DELETE FROM metadata WHERE {unused}")
        store.refresh()
        store.vacuum()
    return before - stats(store)["bytes"]
