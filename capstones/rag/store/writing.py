"""How a store changes: everything is prepared beside, and one transaction makes it true.

A new generation is written next to the old one, and waited for until it is on the disk. One SQLite
transaction then changes documents, chunks and the generation's number together. Killed before it,
the old state stands and the new folder is rubbish; killed after it, the new state stands and the
old folder is. The next writer sweeps. Conversations write into the same file meanwhile, which is
locked only for that transaction; writers wait for one another at the folder's lock.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rag.embeddings.cache import EmbeddingCache
from rag.store import generation
from rag.store.records import cut, digest_of, digest_of_chunk, embedded, packed
from rag.types import Chunk, Document
from shared.errors import UserError
from shared.files import locked
from shared.require import require
from week12.preprocessing import terms

if TYPE_CHECKING:
    from rag.store.store import Store


class Report(NamedTuple):
    """What an ingest did: documents by what became of them, and chunks that were written."""

    added: int
    updated: int
    unchanged: int
    deleted: int
    chunks: int


class Fresh(NamedTuple):
    """A document that is new or has changed."""

    document: Document
    digest: bytes
    chunks: list[Chunk]


@contextlib.contextmanager
def writing(store: "Store") -> Iterator[None]:
    """Be the only writer, of the newest state, with nothing left of a crash."""
    generations = store.folder / "generations"
    generations.mkdir(exist_ok=True)
    with locked(generations):  # not the store's folder: saving an artifact there locks that
        store.refresh()
        sweep(store)
        yield


def sweep(store: "Store") -> None:
    """Remove the generations that are not the current one, unless somebody still reads them."""
    for folder in (store.folder / "generations").glob("*"):
        # What is not named as a generation is somebody else's, such as .DS_Store.
        ours = folder.name.isdecimal() and folder.is_dir()
        if not ours or folder.name == f"{store.generation:06}":
            continue
        held = generation.hold(folder, alone=True)
        if held is not None:
            shutil.rmtree(folder)
            generation.let_go(held)


def tidy(store: "Store") -> None:
    """Sweep, unless somebody writes, who sweeps himself."""
    held = generation.hold(store.folder / "generations", alone=True)
    if held is not None:
        store.refresh()
        sweep(store)
        generation.let_go(held)


def ingest(
    store: "Store",
    documents: Iterable[Document],
    *,
    prune: bool,
    progress: Callable[[int, int], None] | None,
) -> Report:
    """See `Store.ingest`."""
    with writing(store):
        known = dict(store.query("SELECT id, digest FROM documents"))
        fresh, seen = changed(documents, known, store.settings)
        gone = known.keys() - seen if prune else set()
        if fresh or gone:
            commit(store, fresh, gone, progress)
    updated = sum(f.document.id in known for f in fresh)
    unchanged, chunks = len(seen) - len(fresh), sum(len(f.chunks) for f in fresh)
    return Report(len(fresh) - updated, updated, unchanged, len(gone), chunks)


def changed(
    documents: Iterable[Document], known: Mapping[str, bytes], settings: Mapping[str, Any]
) -> tuple[list[Fresh], set[str]]:
    """Documents that are not known by their digests, cut; and the ids of all of them."""
    seen, fresh = set(), []
    for document in documents:
        must = "documents must have ids of their own"
        require(document.id not in seen, must, repr(document.id), error=UserError)
        seen.add(document.id)
        digest = digest_of(document, settings)
        if known.get(document.id) != digest:
            fresh.append(Fresh(document, digest, cut(document, settings)))
    return fresh, seen


def delete(store: "Store", ids: Iterable[str]) -> int:
    """See `Store.delete`."""
    require(not isinstance(ids, str), "document_ids must be several ids, not one string", ids)
    with writing(store):
        gone = {id for (id,) in store.query("SELECT id FROM documents")} & set(ids)
        if gone:
            commit(store, [], gone, None)
    return len(gone)


def commit(
    store: "Store",
    fresh: list[Fresh],
    gone: set[str],
    progress: Callable[[int, int], None] | None,
) -> None:
    """Make the next generation, and make it the current one."""
    chunks = [chunk for f in fresh for chunk in f.chunks]
    texts = [embedded(chunk) for chunk in chunks]
    changes = learn(store, texts)
    cache = EmbeddingCache(store.folder / "embeddings.sqlite")
    vectors = cache.encode(store.embedder, texts, progress)
    first = store.settings["next_row"]
    rows = np.arange(first, first + len(chunks), dtype=np.int64)
    out = [*gone, *(f.document.id for f in fresh)]
    dead = [row for id in out for row in store.rows_of(id)]

    files = store.files
    keep = ~np.isin(files.rows, dead)
    if keep.any():
        vectors = np.concatenate([files.all_vectors()[keep], vectors])
    words = files.copy_of_words()
    words.delete([str(row) for row in dead])
    words.add([str(row) for row in rows], map(terms, texts))
    number = store.generation + 1
    folder = store.folder / "generations" / f"{number:06}"
    every = np.concatenate([files.rows[keep], rows])
    generation.write(folder, every, vectors, words, store.settings["index"])
    changes |= {"generation": number, "next_row": first + len(chunks)}
    record(store, fresh, out, rows, changes)
    store.refresh(cut_log=True)
    sweep(store)


def learn(store: "Store", texts: list[str]) -> dict[str, Any]:
    """Let an embedder that learns see the first texts; what the settings then say of it."""
    if store.settings["digest"] or not texts:
        return {}
    embedder = store.embedder
    if embedder.name != store.settings["embedder"]:
        raise UserError(f"{store.folder} was made anew meanwhile: try again")
    if not embedder.digest:
        embedder.fit(texts)
        embedder.save(store.folder / "embedder")
    return {"digest": embedder.digest, "dim": embedder.dim}


def record(
    store: "Store", fresh: list[Fresh], out: list[str], rows: np.ndarray, changes: dict[str, Any]
) -> None:
    """The transaction."""
    number = iter(rows.tolist())
    lines = [(next(number), chunk) for f in fresh for chunk in f.chunks]
    with store.transaction() as database:
        for table, column in (("chunks", "document"), ("documents", "id")):
            database.many(f"DELETE FROM {table} WHERE {column} = ?", ((id,) for id in out))
        database.many(
            "INSERT INTO documents VALUES (?, ?, ?, ?, ?, ?)",
            (
                (d.id, digest, d.title, d.text, packed(dict(d.metadata)), packed(d.pages))
                for d, digest, _ in fresh
            ),
        )
        database.many(
            "INSERT OR IGNORE INTO metadata (content) VALUES (?)",
            ((packed(dict(chunk.metadata)),) for _, chunk in lines),
        )
        database.many(
            "INSERT INTO chunks SELECT ?, ?, ?, ?, ?, id, ? FROM metadata WHERE content = ?",
            (
                (
                    row,
                    c.document,
                    c.start,
                    c.end,
                    c.heading,
                    digest_of_chunk(c),
                    packed(dict(c.metadata)),
                )
                for row, c in lines
            ),
        )
        database.many(
            "INSERT OR REPLACE INTO settings VALUES (?, ?)",
            ((name, json.dumps(value)) for name, value in changes.items()),
        )
