"""A store: one folder with documents, chunks, words and vectors, whole after any crash.

    STORE/store.sqlite         documents, chunks, settings: the only truth
          generations/000003/  vectors and words of the committed state
          embedder/            what an embedder learned from the first texts (LSA)
          embeddings.sqlite    a cache: texts that were embedded before
          sessions.sqlite      conversations, see `rag.conversation.sessions`

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
from typing import Any

import numpy as np
from jaxtyping import Float

from rag.store import upkeep, writing
from rag.store.database import OURS, Database
from rag.store.generation import Generation
from rag.store.index import KINDS
from rag.store.opening import create_in, embedder_of
from rag.store.reading import Reading, Rows
from rag.store.records import cut
from rag.store.writing import Report
from rag.types import Document, Embedder, Found
from shared.artifacts import ArtifactError
from shared.errors import UserError
from shared.require import require
from week12.bm25 import BM25
from week12.preprocessing import terms


class Store(Reading):
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
            self.embedder = embedder_of(self.folder, self.settings, embedder)
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
        cut(Document("check", "how documents are cut"), settings)  # or it says what is wrong
        create_in(Path(folder), settings)
        return cls(Path(folder), embedder)

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

    def refresh(self, *, cut_log: bool = False) -> bool:
        """Turn to the newest committed state; say whether it is another one."""
        with self._lock:
            before, files = self.files, None
            while files is None:
                if self._db.in_transaction:
                    self._db.query("COMMIT")
                if cut_log:
                    self._db.cut_log()
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

    # ---- search

    @property
    def bm25(self) -> BM25:
        """Week 12's index over headings and texts; its ids are rows."""
        return self.files.bm25

    def frequency(self, term: str) -> int:
        """In how many chunks a term occurs, one of those that `terms` gives."""
        return int(np.count_nonzero(self.bm25.scores([term])))

    def lexical(
        self, query: str | Mapping[str, float], k: int, allowed: Rows | None = None
    ) -> Found:
        """The best k chunks by BM25, of those with a word of the query.

        Parameters
        ----------
        query
            A text, or terms and how much each counts.
        """
        require(k >= 1, "k must be at least 1", k)
        asked = terms(query) if isinstance(query, str) else query
        return self.files.lexical(asked, k, allowed)

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

    def _rows_with(self, metadata: list[int]) -> list[tuple]:
        among = "metadata IN (SELECT value FROM json_each(?))"
        return self.query(
            f"SELECT row FROM chunks WHERE {among} ORDER BY row", (json.dumps(metadata),)
        )

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
            self._db.cut_log()
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
