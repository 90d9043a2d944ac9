"""A store: one folder with documents, chunks, words and vectors, whole after any crash.

    STORE/store.sqlite         documents, chunks, settings, sessions: the only truth
          generations/000003/  vectors and words of the committed state
          embedder/            what an embedder learned from the first texts (LSA)
          embeddings.sqlite    a cache: texts that were embedded before

>>> from tempfile import mkdtemp
>>> folder = Path(mkdtemp()) / "notes"
>>> store = Store.create(folder, embedder=open_embedder("lsa"), splitter="whole")
>>> store.ingest([Document("tea.md", "Tea needs hot water."), Document("ice.md", "Ice is cold.")])
Report(added=2, updated=0, unchanged=0, deleted=0, chunks=2)
>>> found = store.lexical("is the water hot?", k=1)
>>> [chunk.text for chunk in store.chunks(found.rows)]
['Tea needs hot water.']
>>> store.close()

A reader keeps what it opened, whatever is written meanwhile, until it calls `refresh`.
"""

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from rag.embeddings.embedder import open_embedder
from rag.store import upkeep, writing
from rag.store.database import OURS, SCHEMA, Database
from rag.store.filters import parse
from rag.store.generation import Generation
from rag.store.index import KINDS
from rag.store.records import digest_of, digest_of_chunk
from rag.store.writing import Report
from rag.types import Chunk, Document, Embedder, Found, Metadata
from shared.artifacts import ArtifactError
from shared.errors import UserError
from shared.require import require
from week12.bm25 import BM25
from week12.preprocessing import terms

Rows = Int[np.ndarray, " m"]


class DocumentInfo(NamedTuple):
    """What is known of a document without reading it."""

    id: str
    title: str
    chars: int
    chunks: int
    metadata: Metadata


class Store:
    """An open store; made by `create` or `open`."""

    def __init__(self, folder: Path, embedder: Embedder | None):
        self.folder = Path(folder)
        self.database = self.folder / "store.sqlite"
        if not self.database.is_file():
            raise ArtifactError(f"{folder} is no store: {self.database.name} is missing")
        self._lock = threading.RLock()
        self._db, self.files = Database(self.database), Generation()
        try:
            if self._db.query("PRAGMA application_id") != [(OURS,)]:
                raise ArtifactError(f"{folder} is no store: {self.database.name} is something else")
            self.refresh()
            self.embedder = self._embedder(embedder)
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(
        cls,
        folder: Path | str,
        *,
        embedder: Embedder,
        index: str = "auto",
        splitter: str = "recursive",
        size: int = 800,
        overlap: int = 120,
    ) -> "Store":
        """A new, empty store.

        Parameters
        ----------
        folder
            Must not exist or be empty.
        index
            auto, flat, ivf, hnsw or sq8: see `rag.store.index`.
        splitter, size, overlap
            How documents are cut, see `rag.documents.chunkers`; `whole` leaves them uncut.
        """
        require(index in KINDS, f"index must be one of {', '.join(KINDS)}", index, error=UserError)
        settings = {
            "embedder": embedder.name,
            "digest": embedder.digest,
            "dim": embedder.dim,
            "index": index,
            "splitter": splitter,
            "size": size,
            "overlap": overlap,
            "generation": 0,
            "next_row": 0,
        }
        folder = Path(folder)
        path = folder / "store.sqlite"
        if folder.is_dir() and any(p != path for p in folder.iterdir() if p.suffix != ".lock"):
            raise UserError(f"{folder} is not empty: a store needs a folder of its own")
        folder.mkdir(parents=True, exist_ok=True)
        database = Database(path)
        try:
            if database.query("PRAGMA application_id") != [(0,)]:
                raise UserError(f"{folder} holds a store already")
            database.query("BEGIN IMMEDIATE")
            for statement in SCHEMA.split(";"):
                database.query(statement)
            database.query(f"PRAGMA application_id = {OURS}")
            rows = ((name, json.dumps(value)) for name, value in settings.items())
            database.many("INSERT INTO settings VALUES (?, ?)", rows)
            database.query("COMMIT")
        finally:
            database.close()
        return cls(folder, embedder)

    @classmethod
    def open(cls, folder: Path | str, *, embedder: Embedder | None = None) -> "Store":
        """The store in a folder.

        Parameters
        ----------
        embedder
            The one that the settings name, if not given; its digest must be the store's.

        Raises
        ------
        ArtifactError
            There is none, a file is torn or altered, or its vectors are another embedder's.
        """
        return cls(Path(folder), embedder)

    def _embedder(self, given: Embedder | None) -> Embedder:
        settings = self.settings
        saved = self.folder / "embedder" if settings["digest"] else None
        embedder = given or open_embedder(settings["embedder"], saved=saved)
        if given is not None and saved and not given.digest:  # LSA before it was fitted
            embedder = open_embedder(settings["embedder"], saved=saved)
        ours, theirs = (settings["digest"], settings["dim"]), (embedder.digest, embedder.dim)
        if settings["digest"] and ours != theirs:
            raise ArtifactError(
                f"{self.folder} holds vectors of {settings['embedder']} ({settings['dim']} numbers,"
                f" digest {ours[0][:8]}), not of {embedder.name} ({embedder.dim}, {theirs[0][:8]})"
            )
        return embedder

    def refresh(self) -> bool:
        """Turn to the newest committed state; say whether it is another one."""
        with self._lock:
            before, files = self.files, None
            while files is None:
                if self._db.in_transaction:
                    self._db.query("COMMIT")
                self._db.query("BEGIN")
                rows = self._db.query("SELECT name, value FROM settings")
                settings = {name: json.loads(value) for name, value in rows}
                number = settings["generation"]
                files = before if before.number == number else self._open(number)
            self.settings = settings
            if files is before:
                return False
            n = self._db.query("SELECT count(*) FROM chunks")[0][0]
            if n != len(files):
                files.close()
                raise ArtifactError(f"{self.folder} was altered: {n} chunks, {len(files)} vectors")
            self.files = files
            before.close()
            return True

    def _open(self, number: int) -> Generation | None:
        """A generation; None if a writer went on and removed it just now."""
        if number == 0:
            return Generation()
        try:
            return Generation(self.folder / "generations" / f"{number:06}")
        except (ArtifactError, OSError):
            self._db.query("COMMIT")
            newest = self._db.query("SELECT value FROM settings WHERE name = 'generation'")
            if newest == [(json.dumps(number),)]:
                raise
            return None

    @property
    def generation(self) -> int:
        """Number of the state that is read."""
        return self.files.number

    def __len__(self) -> int:
        """Number of chunks."""
        return len(self.files)

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Let the files go."""
        self.files.close()
        self._db.close()

    def is_outdated(self) -> bool:
        """Whether another state was committed since this one was opened."""
        database = Database(self.database)
        try:
            newest = database.query("SELECT value FROM settings WHERE name = 'generation'")
        finally:
            database.close()
        return json.loads(newest[0][0]) != self.generation

    # ---- what is written

    def ingest(
        self,
        documents: Iterable[Document],
        *,
        prune: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Report:
        """Add documents; those that changed replace what they were, the unchanged cost nothing.

        Parameters
        ----------
        prune
            Delete the documents that are not among them.
        progress
            Is told how many chunks are embedded, and of how many.
        """
        return writing.ingest(self, documents, prune=prune, progress=progress)

    def delete(self, document_ids: Iterable[str]) -> int:
        """Delete documents; say how many there were."""
        return writing.delete(self, document_ids)

    # ---- what is in it

    def documents(self) -> list[DocumentInfo]:
        """Every document, by id."""
        rows = self._db.query(
            "SELECT id, title, length(text), (SELECT count(*) FROM chunks WHERE document = id),"
            " metadata FROM documents ORDER BY id"
        )
        return [DocumentInfo(*row[:4], json.loads(row[4])) for row in rows]

    def document(self, id: str) -> Document:
        """A document, as it was given."""
        rows = self._db.query(
            "SELECT text, title, metadata, pages, digest FROM documents WHERE id = ?", (id,)
        )
        require(rows, "document must be in the store", repr(id), error=UserError)
        text, title, metadata, pages, digest = rows[0]
        document = Document(id, text, title, json.loads(metadata), tuple(json.loads(pages)))
        if digest_of(document, self.settings) != digest:
            raise ArtifactError(f"{self.database} was altered: document {id!r} is not as it was")
        return document

    def rows_of(self, document_id: str) -> list[int]:
        """The chunks of a document, in the order of its text."""
        found = self.query("SELECT row FROM chunks WHERE document = ? ORDER BY row", (document_id,))
        return [row for (row,) in found]

    def neighbors(self, row: int | np.integer) -> list[int]:
        """The chunks right before and right after one, of the same document."""
        (document,) = (chunk.document for chunk in self.chunks([row]))
        rows = self.rows_of(document)
        place = rows.index(int(row))
        return rows[max(0, place - 1) : place] + rows[place + 1 : place + 2]

    def chunks(self, rows: Iterable[int] | Rows) -> list[Chunk]:
        """The chunks with these rows, in their order."""
        texts: dict[str, str] = {}
        found = []
        for row in map(int, rows):
            facts = self.query(
                "SELECT c.document, c.start, c.end, c.heading, m.content, c.digest FROM chunks c"
                " JOIN metadata m ON m.id = c.metadata WHERE c.row = ?",
                (row,),
            )
            require(facts, "row must be in the store", row, error=UserError)
            id, start, end, heading, metadata, digest = facts[0]
            if id not in texts:
                held = self.query("SELECT text FROM documents WHERE id = ?", (id,))
                texts[id] = held[0][0] if held else ""
            chunk = Chunk(id, start, end, texts[id][start:end], heading, json.loads(metadata))
            if digest_of_chunk(chunk) != digest:
                raise ArtifactError(f"{self.database} was altered: chunk {chunk.id} is another one")
            found.append(chunk)
        return found

    # ---- search

    def terms(self, text: str) -> list[str]:
        """What the index of words counts of a text: stems without stop words."""
        return terms(text)

    @property
    def bm25(self) -> BM25:
        """Week 12's index over headings and texts; its ids are rows."""
        return self.files.bm25

    def lexical(self, query: str, k: int, allowed: Rows | None = None) -> Found:
        """The best k chunks by BM25, of those with a word of the query."""
        require(k >= 1, "k must be at least 1", k)
        return self.files.lexical(terms(query), k, allowed)

    def dense(
        self, vector: Float[np.ndarray, " dim"], k: int, allowed: Rows | None = None
    ) -> Found:
        """The best k chunks by inner product with a vector of length 1.

        Parameters
        ----------
        allowed
            Look only among these rows: k of them are found whenever there are k.
        """
        require(k >= 1, "k must be at least 1", k)
        dim = self.settings["dim"]
        require(vector.shape == (dim,), f"vector must have {dim} numbers", vector.shape)
        return self.files.dense(vector, k, allowed)

    def vectors(self, rows: Sequence[int] | Rows) -> Float[np.ndarray, "n dim"]:
        """Vectors of chunks."""
        return self.files.vectors(np.asarray(rows, np.int64))

    def select(self, where: str | Mapping[str, object] | None) -> Rows | None:
        """Rows whose metadata pass a filter, see `rag.store.filters`; None without a filter."""
        if where is None or where == "" or where == {}:
            return None
        test = parse(where)
        passed = [
            id
            for id, content in self.query("SELECT id, content FROM metadata")
            if test.matches(json.loads(content))
        ]
        among = "metadata IN (SELECT value FROM json_each(?))"
        found = self.query(
            f"SELECT row FROM chunks WHERE {among} ORDER BY row", (json.dumps(passed),)
        )
        return np.array([row for (row,) in found], np.int64)

    # ---- upkeep

    def verify(self) -> list[str]:
        """Read every byte; what is wrong, a line each."""
        return upkeep.verify(self)

    def stats(self) -> dict[str, Any]:
        """What is in it, and how."""
        return upkeep.stats(self)

    def export(self, folder: Path | str) -> None:
        """Write documents.jsonl, chunks.jsonl and vectors.npy (in the order of the chunks)."""
        upkeep.export(self, Path(folder))

    def compact(self) -> int:
        """Forget cached vectors that no chunk has; say how many bytes it gave back."""
        return upkeep.compact(self)

    # ---- its own

    def query(self, statement: str, values: tuple = ()) -> list[tuple]:
        """Rows of the SQLite file, as of the state that is read."""
        with self._lock:
            return self._db.query(statement, values)

    def vacuum(self) -> None:
        """Give the file's free pages back."""
        with self._lock:
            self._db.query("COMMIT")
            self._db.query("VACUUM")
            self._db.query("BEGIN")

    @contextmanager
    def transaction(self) -> Iterator[Database]:
        """A transaction on the SQLite file that is all or nothing."""
        database = Database(self.database)
        try:
            database.query("BEGIN IMMEDIATE")
            yield database
            database.query("COMMIT")
        finally:
            database.close()  # rolls back what was not committed
