"""A corpus on disk that knows which of its documents are copies, within it and across a split.

Texts are appended to one file; what is known of each document stands in a database beside it, so
that memory holds neither. A document is a duplicate if an earlier one has the same normalized text
(SHA-256), or if its five-word shingles have a Jaccard similarity of at least the threshold with
those of an earlier document *that was kept*. MinHash bands only propose candidates, the texts
decide (week 15). Comparing with kept documents alone bounds the work where thousands of copies
agree on a band, and does not chain: the end of a chain of small edits may differ from its start.

Sources: Broder, "On the resemblance and containment of documents" (1997), sections 2-3; Lee et
al., "Deduplicating training data makes language models better" (2022), section 4.2.
"""

import hashlib
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tiny_gpt.data.sources import SourceDocument
from week15.corpus import split_of
from week15.deduplication import fingerprint, jaccard, normalize, shingles
from week15.minhash import MinHash, choose_bands

__all__ = ["Corpus", "Facts", "Measure", "Span", "texts_of"]

N_HASHES, RECALL = 128, 0.99  # as week15.deduplication.deduplicate has them

SCHEMA = """
PRAGMA journal_mode = OFF;   -- scrap: after a crash all of it is thrown away
PRAGMA synchronous = OFF;
PRAGMA temp_store = FILE;
PRAGMA cache_size = -32768;  -- 32 MB
CREATE TABLE documents (
    id INTEGER PRIMARY KEY, name TEXT, start INTEGER, bytes INTEGER, characters INTEGER,
    fingerprint BLOB, validation INTEGER,
    copy_of INTEGER, similarity REAL, kind TEXT  -- "exact" or "near", all three null if kept
);
CREATE INDEX by_fingerprint ON documents (fingerprint, id);
CREATE TABLE bands (key INTEGER, document INTEGER, PRIMARY KEY (key, document)) WITHOUT ROWID;
CREATE TABLE pieces (
    id INTEGER PRIMARY KEY, document INTEGER, split TEXT, start INTEGER, bytes INTEGER,
    characters INTEGER
);
CREATE INDEX by_document ON pieces (document);
BEGIN;
"""


class Span(NamedTuple):
    """Where a text stands in the file of texts, in bytes."""

    start: int
    n_bytes: int


class Facts(NamedTuple):
    """What decides about a document; its split if the split is by hash."""

    fingerprint: bytes
    keys: list[int]
    validation: bool


def texts_of(path: Path, spans: Iterable[Span]) -> Iterator[str]:
    """The staged texts of some spans."""
    with path.open("rb") as stream:
        for start, n_bytes in spans:
            stream.seek(start)
            yield stream.read(n_bytes).decode("utf-8")


def _chunks(spans: Iterable[Span], chunk_bytes: int) -> Iterator[list[Span]]:
    """In lists of at least so many bytes, but the last."""
    chunk, size = [], 0
    for span in spans:
        chunk.append(span)
        size += span.n_bytes
        if size >= chunk_bytes:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


@dataclass(frozen=True)
class Measure:
    """Computes `Facts`, in whatever process; `val_fraction` and `salt` are of the split by hash."""

    texts: Path
    near: float | None
    val_fraction: float
    salt: str

    def __call__(self, spans: Sequence[Span]) -> list[Facts]:
        fractions = {"val": self.val_fraction, "train": 1 - self.val_fraction}
        found = []
        for text in texts_of(self.texts, spans):
            validation = split_of(text, fractions, salt=self.salt) == "val"
            found.append(Facts(fingerprint(normalize(text)), self.keys(text), validation))
        return found

    def keys(self, text: str) -> list[int]:
        """A number for each band of the signature; documents without words have none."""
        if self.near is None or not len(runs := shingles(text)):
            return []
        signature = MinHash(N_HASHES).signature(runs).astype("<u8")
        bands, rows = choose_bands(N_HASHES, self.near, RECALL)
        keys = []
        for band in range(bands):
            part = signature[band * rows : (band + 1) * rows].tobytes()
            # The band is part of it: equal rows of different bands mean nothing.
            key = hashlib.blake2b(part, digest_size=8, key=band.to_bytes(2, "little")).digest()
            keys.append(int.from_bytes(key, "little", signed=True))
        return keys


class Corpus:
    """Staged documents in a file of texts and a database, both scrap; close it when done.

    `near` is the least Jaccard similarity of near-duplicates; None keeps them.
    """

    def __init__(self, folder: Path, *, exact: bool, near: float | None):
        self.texts, self.exact, self.near = folder / "texts", exact, near
        self.n_documents = self.n_blank = self.n_bytes = 0
        self._stream = self.texts.open("xb")
        self.database = sqlite3.connect(folder / "documents.sqlite", isolation_level=None)
        self.database.executescript(SCHEMA)

    def close(self) -> None:
        """Close the files."""
        self._stream.close()
        self.database.close()

    def one(self, query: str, *values: Any) -> Any:
        """The first column of a query's first row; None if it has none."""
        row = self.database.execute(query, values).fetchone()
        return None if row is None else row[0]

    def stage(self, documents: Iterable[SourceDocument], chunk_bytes: int) -> Iterator[list[Span]]:
        """Write documents to the disk, in chunks of at least so many bytes; blank ones are left."""
        for chunk in _chunks(self._written(documents), chunk_bytes):
            self._stream.flush()  # a worker reads it
            yield chunk
        self._stream.flush()

    def _written(self, documents: Iterable[SourceDocument]) -> Iterator[Span]:
        for document in documents:
            if not document.text.strip():
                self.n_blank += 1
                continue
            data = document.text.encode("utf-8")
            self._stream.write(data)
            span = Span(self.n_bytes, len(data))
            self.database.execute(
                "INSERT INTO documents (id, name, start, bytes, characters) VALUES (?, ?, ?, ?, ?)",
                (self.n_documents, document.name, *span, len(document.text)),
            )
            self.n_documents += 1
            self.n_bytes += len(data)
            yield span

    def decide(self, first: int, facts: Sequence[Facts]) -> None:
        """Record the facts of the documents from id `first` on, which must come in order."""
        for document, fact in enumerate(facts, first):
            copy_of = similarity = kind = None
            if self.exact:
                copy_of = self.one(
                    "SELECT id FROM documents WHERE fingerprint = ? ORDER BY id", fact.fingerprint
                )
            if copy_of is not None:
                similarity, kind = 1.0, "exact"
            elif fact.keys and (match := self._near(document, fact.keys)):
                (copy_of, similarity), kind = match, "near"
            else:
                self.database.executemany(
                    "INSERT OR IGNORE INTO bands VALUES (?, ?)",
                    ((key, document) for key in fact.keys),
                )
            self.database.execute(
                "UPDATE documents SET fingerprint = ?, validation = ?, copy_of = ?, "
                "similarity = ?, kind = ? WHERE id = ?",
                (fact.fingerprint, fact.validation, copy_of, similarity, kind, document),
            )

    def _near(self, document: int, keys: list[int]) -> tuple[int, float] | None:
        """The first kept document that is similar enough, and how similar."""
        marks = ", ".join("?" * len(keys))
        candidates = self.database.execute(
            f"SELECT DISTINCT document FROM bands WHERE key IN ({marks}) ORDER BY document", keys
        ).fetchall()
        ours = shingles(self.text(document)) if candidates else None
        for (candidate,) in candidates:
            similarity = jaccard(ours, shingles(self.text(candidate)))
            if similarity >= self.near:
                return candidate, similarity
        return None

    def text(self, document: int) -> str:
        """A document's text, read from the disk."""
        span = self.database.execute(
            "SELECT start, bytes FROM documents WHERE id = ?", (document,)
        ).fetchone()
        return next(texts_of(self.texts, [Span(*span)]))

    # ---- splits: pieces are what is kept of documents, each in one split

    def split_by_hash(self) -> None:
        """Give each kept document to the split that its hash says."""
        self.database.execute(
            "INSERT INTO pieces SELECT NULL, id, iif(validation, 'val', 'train'), start, bytes, "
            "characters FROM documents WHERE copy_of IS NULL ORDER BY id"
        )

    def split_at(self, character: int) -> str | None:
        """Cut the stream of kept documents; returns the name of one that was cut in two."""
        end, cut = 0, None
        kept = self.database.execute(
            "SELECT id, start, bytes, characters, name FROM documents WHERE copy_of IS NULL "
            "ORDER BY id"
        )
        insert = "INSERT INTO pieces VALUES (NULL, ?, ?, ?, ?, ?)"
        for document, start, n_bytes, n_characters, name in kept:
            begin, end = end, end + n_characters
            if begin < character < end:
                head = character - begin
                at = len(self.text(document)[:head].encode("utf-8"))
                rows = [("train", start, at, head)]
                rows += [("val", start + at, n_bytes - at, n_characters - head)]
                cut = name
            else:
                split = "train" if end <= character else "val"
                rows = [(split, start, n_bytes, n_characters)]
            self.database.executemany(insert, [(document, *row) for row in rows])
        return cut

    def pieces(self, split: str, columns: str = "start, bytes") -> Iterator[tuple]:
        """Columns of a split's pieces, in the order of the stream."""
        yield from self.database.execute(
            f"SELECT {columns} FROM pieces WHERE split = ? ORDER BY id", (split,)
        )

    def chunks(self, split: str, chunk_bytes: int) -> Iterator[list[Span]]:
        """A split's pieces, in chunks of at least so many bytes but the last."""
        yield from _chunks((Span(*row) for row in self.pieces(split)), chunk_bytes)

    # ---- what is reported

    def duplicates(self, kind: str, n_examples: int = 10) -> dict[str, Any]:
        """How many documents were removed for being copies, and some of them."""
        documents, characters = self.database.execute(
            "SELECT count(*), total(characters) FROM documents WHERE kind = ?", (kind,)
        ).fetchone()
        examples = self.database.execute(
            "SELECT a.name, b.name, a.similarity FROM documents a JOIN documents b "
            "ON a.copy_of = b.id WHERE a.kind = ? ORDER BY a.id LIMIT ?",
            (kind, n_examples),
        )
        keys = ("document", "copy_of", "similarity")
        return {
            "documents": documents,
            "characters": int(characters),
            "examples": [dict(zip(keys, row, strict=True)) for row in examples],
        }

    def exact_leaks(self) -> int:
        """Validation documents whose normalized text a training document has too."""
        return self.one(
            "SELECT count(*) FROM pieces v JOIN documents d ON d.id = v.document "
            "WHERE v.split = 'val' AND EXISTS (SELECT 1 FROM documents o JOIN pieces t "
            "ON t.document = o.id WHERE o.fingerprint = d.fingerprint AND o.id != d.id "
            "AND t.split = 'train')"
        )

    def near_leaks(self) -> int | None:
        """Validation documents similar to a training document; None if bands are not known.

        The two parts of a document that was cut are not compared with each other.
        """
        if self.near is None:
            return None
        pairs = self.database.execute(
            # CROSS JOIN keeps the order: one pass over the bands, equal keys side by side.
            "SELECT DISTINCT v.document, t.document FROM bands a "
            "CROSS JOIN bands b ON b.key = a.key AND b.document != a.document "
            "CROSS JOIN pieces v ON v.document = a.document AND v.split = 'val' "
            "CROSS JOIN pieces t ON t.document = b.document AND t.split = 'train'"
        )
        similar = set()
        for v, t in pairs:
            if jaccard(shingles(self.text(v)), shingles(self.text(t))) >= self.near:
                similar.add(v)
        return len(similar)
