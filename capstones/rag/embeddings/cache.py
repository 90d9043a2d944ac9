"""Vectors of texts that were embedded before, so that nothing is computed twice.

The key is the embedder's digest with the sha256 of the text: other weights or another text never
get a stale vector. What was computed is kept after every few hundred texts, so that an ingest
which was killed goes on where it was. It is only a cache: a file that cannot be read is begun anew.
"""

import hashlib
import sqlite3
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from jaxtyping import Float

from rag.types import Embedder
from shared.errors import UserError

AT_ONCE = 256  # texts between two commits
TABLE = """CREATE TABLE IF NOT EXISTS vectors (
    embedder TEXT, text BLOB, vector BLOB, crc INTEGER, PRIMARY KEY (embedder, text)
) WITHOUT ROWID"""


def key_of(text: str) -> bytes:
    """What a text is remembered by."""
    return hashlib.sha256(text.encode()).digest()


class EmbeddingCache:
    """Vectors in a SQLite file.

    Parameters
    ----------
    path
        The file; made when it is first needed.
    """

    def __init__(self, path: Path):
        self.path = Path(path)

    def encode(
        self,
        embedder: Embedder,
        texts: Sequence[str],
        progress: Callable[[int, int], None] | None = None,
    ) -> Float[np.ndarray, "n dim"]:
        """`embedder.encode(texts)`, of which only new texts are computed.

        Parameters
        ----------
        progress
            Is told how many texts are done, and of how many.
        """
        try:
            return self._encode(embedder, texts, progress)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):  # in use, or the disk is full
                raise UserError(f"{self.path} cannot be used now ({error})") from error
            self.path.unlink()
            return self._encode(embedder, texts, progress)

    def _encode(
        self,
        embedder: Embedder,
        texts: Sequence[str],
        progress: Callable[[int, int], None] | None,
    ) -> Float[np.ndarray, "n dim"]:
        vectors = np.empty((len(texts), embedder.dim), np.float32)
        with closing(_connect(self.path)) as database:
            for start in range(0, len(texts), AT_ONCE):
                some = texts[start : start + AT_ONCE]
                vectors[start : start + len(some)] = _encode(database, embedder, some)
                if progress:
                    progress(start + len(some), len(texts))
        return vectors

    def keep(self, embedder: Embedder, keys: Sequence[bytes]) -> None:
        """Forget every vector but those of these texts, and give the space back."""
        with closing(_connect(self.path)) as database:
            database.execute("CREATE TEMP TABLE used (text BLOB PRIMARY KEY)")
            database.executemany("INSERT OR IGNORE INTO used VALUES (?)", ((k,) for k in keys))
            unused = "embedder != ? OR text NOT IN (SELECT text FROM used)"
            database.execute(f"DELETE FROM vectors WHERE {unused}", (embedder.digest,))
            database.execute("VACUUM")


def _connect(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=60, isolation_level=None)
    try:
        # A vector that is lost in a power cut is computed again, so no write is waited for.
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute(TABLE)
    except BaseException:
        database.close()
        raise
    return database


def _encode(database: sqlite3.Connection, embedder: Embedder, texts: Sequence[str]) -> np.ndarray:
    by_key = {key_of(text): text for text in texts}
    places = ", ".join("?" * len(by_key))
    rows = database.execute(
        f"SELECT text, vector, crc FROM vectors WHERE embedder = ? AND text IN ({places})",
        (embedder.digest, *by_key),
    )
    known = {
        key: np.frombuffer(vector, np.float32)
        for key, vector, crc in rows
        if len(vector) == 4 * embedder.dim and zlib.crc32(vector) == crc
    }
    if new := [key for key in by_key if key not in known]:
        computed = embedder.encode([by_key[key] for key in new])
        known |= dict(zip(new, computed, strict=True))
        rows = [
            (embedder.digest, key, v := known[key].astype(np.float32).tobytes(), zlib.crc32(v))
            for key in new
        ]
        database.execute("BEGIN IMMEDIATE")
        database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)", rows)
        database.execute("COMMIT")
    return np.stack([known[key_of(text)] for text in texts])
