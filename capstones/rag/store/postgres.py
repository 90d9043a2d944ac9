"""The same store in PostgreSQL with pgvector, for many processes and many machines.

It answers as `Store` does, so that the retriever, the answerer and the vector store of LangChain
work over it: vectors are exact unless an HNSW index is asked for, and words are scored by the
formula of week 12, in SQL. There are no generations: every document changes in one transaction of
the server, and writers of different documents do not wait for one another.

Needs the extra `postgres` (psycopg, pgvector) and, on the server, CREATE EXTENSION vector.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from rag.embeddings.embedder import open_embedder
from rag.store.postgres_sql import BM25_SCORES, NEAREST, SCHEMA, connect, told
from rag.store.reading import Reading, Rows
from rag.store.records import digest_of_chunk, embedded, packed
from rag.store.writing import Fresh, Report, changed
from rag.types import Embedder, Found
from shared.artifacts import ArtifactError
from shared.errors import UserError
from shared.require import require
from week12.preprocessing import terms

AT_ONCE = 64  # documents per transaction


class PostgresStore(Reading):
    """A store in a schema of a PostgreSQL database; made by `create` or `open`."""

    def __init__(self, url: str, schema: str = "rag", embedder: Embedder | None = None):
        self.database, self._connection = f"the schema {schema!r}", connect(url, schema)
        try:
            found = self.query("SELECT to_regclass('settings') IS NOT NULL")
            if found != [(True,)]:
                raise ArtifactError(f"{self.database} holds no store")
            rows = self.query("SELECT name, value FROM settings")
            self.settings = {name: json.loads(value) for name, value in rows}
            self.embedder = embedder or open_embedder(self.settings["embedder"])
            if self.settings["digest"] != self.embedder.digest:
                ours = self.settings["embedder"]
                what = f"{self.database} holds vectors of another {ours}"
                raise ArtifactError(f"{what} than {self.embedder.name} is")
            from pgvector.psycopg import register_vector

            register_vector(self._connection)
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(
        cls,
        url: str,
        schema: str = "rag",
        *,
        embedder: Embedder,
        index: str = "flat",
        splitter: str = "recursive",
        size: int = 800,
        overlap: int = 120,
    ) -> "PostgresStore":
        """A new, empty store; other arguments are those of `Store.create`.

        Parameters
        ----------
        url
            As psycopg takes it: postgresql://USER@HOST/DATABASE.
        schema
            The schema to make for it.
        index
            `flat` is exact; `hnsw` walks a graph, and is asked again until k rows pass a filter.
        """
        require(embedder.digest, "embedder must be fitted before", embedder.name, error=UserError)
        require(index in ("flat", "hnsw"), "index must be flat or hnsw", index, error=UserError)
        settings = {"embedder": embedder.name, "digest": embedder.digest, "dim": embedder.dim}
        settings |= {"index": index, "splitter": splitter, "size": size, "overlap": overlap}
        from psycopg.sql import SQL, Identifier, Literal

        connection = connect(url, schema)
        with (
            contextlib.closing(connection),
            told(f"the schema {schema!r}"),
            connection.transaction(),
        ):
            connection.execute("CREATE EXTENSION IF NOT EXISTS vector WITH SCHEMA public")
            connection.execute(SQL("CREATE SCHEMA {}").format(Identifier(schema)))
            connection.execute(SCHEMA)
            kind = SQL("ALTER TABLE chunks ALTER vector TYPE vector({})")
            connection.execute(kind.format(Literal(embedder.dim)))
            if index == "hnsw":
                connection.execute("CREATE INDEX ON chunks USING hnsw (vector vector_ip_ops)")
            rows = [(name, json.dumps(value)) for name, value in settings.items()]
            connection.cursor().executemany("INSERT INTO settings VALUES (%s, %s)", rows)
        return cls(url, schema, embedder)

    @classmethod
    def open(
        cls, url: str, schema: str = "rag", *, embedder: Embedder | None = None
    ) -> "PostgresStore":
        """The store in a schema."""
        return cls(url, schema, embedder)

    def __enter__(self) -> "PostgresStore":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the server."""
        self._connection.close()

    def __len__(self) -> int:
        """Number of chunks."""
        return self.query("SELECT count(*) FROM chunks")[0][0]

    def query(self, statement: str, values: tuple = ()) -> list[tuple]:
        """All rows that a statement gives; ? stands for a value."""
        with told(self.database):
            cursor = self._connection.execute(statement.replace("?", "%s"), values)
            return cursor.fetchall() if cursor.description else []

    def _rows_with(self, metadata: list[int]) -> list[tuple]:
        return self.query(
            "SELECT row FROM chunks WHERE metadata = ANY(?) ORDER BY row", (metadata,)
        )

    # ---- what is written

    def ingest(
        self,
        documents: Iterable[Any],
        *,
        prune: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Report:
        """As `Store.ingest`; what was written before an error stays, documents are always whole."""
        known = dict(self.query("SELECT id, digest FROM documents"))
        fresh, seen = changed(documents, known, self.settings)
        total, done = sum(len(f.chunks) for f in fresh), 0
        fresh.sort(key=lambda f: f.document.id)  # writers that lock in one order never deadlock
        for start in range(0, len(fresh), AT_ONCE):
            some = fresh[start : start + AT_ONCE]
            self._write(some)
            done += sum(len(f.chunks) for f in some)
            if progress:
                progress(done, total)
        gone = self.delete(known.keys() - seen) if prune else 0
        updated = sum(f.document.id in known for f in fresh)
        return Report(len(fresh) - updated, updated, len(seen) - len(fresh), gone, total)

    def delete(self, document_ids: Iterable[str]) -> int:
        """Delete documents; say how many there were."""
        ids = sorted(document_ids)
        return len(self.query("DELETE FROM documents WHERE id = ANY(?) RETURNING id", (ids,)))

    def _write(self, fresh: list[Fresh]) -> None:
        """Documents with their chunks, all or none."""
        chunks = [chunk for f in fresh for chunk in f.chunks]
        texts = [embedded(chunk) for chunk in chunks]
        vectors = self.embedder.encode(texts) if texts else []
        contents = sorted({(packed(dict(chunk.metadata)),) for chunk in chunks})
        ids = [(f.document.id,) for f in fresh]
        with told(self.database), self._connection.transaction():
            many = self._connection.cursor().executemany
            many(
                "INSERT INTO documents VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO UPDATE"
                " SET (digest, title, text, metadata, pages) = (EXCLUDED.digest, EXCLUDED.title,"
                " EXCLUDED.text, EXCLUDED.metadata, EXCLUDED.pages)",
                [
                    (d.id, digest, d.title, d.text, packed(dict(d.metadata)), packed(d.pages))
                    for d, digest, _ in fresh
                ],
            )
            many("DELETE FROM chunks WHERE document = %s", ids)
            known = {}
            if chunks:
                many("INSERT INTO metadata (content) VALUES (%s) ON CONFLICT DO NOTHING", contents)
                known = dict(self.query("SELECT content, id FROM metadata"))
            count = "SELECT nextval('rows') FROM generate_series(1, ?)"
            rows = [row for (row,) in self.query(count, (len(chunks),))]
            bags = [Counter(terms(text)) for text in texts]
            facts = [known[packed(dict(chunk.metadata))] for chunk in chunks]
            lengths = [bag.total() for bag in bags]
            lines = zip(rows, chunks, facts, lengths, vectors, strict=True)
            many(
                "INSERT INTO chunks VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    (
                        row,
                        c.document,
                        c.start,
                        c.end,
                        c.heading,
                        meta,
                        digest_of_chunk(c),
                        n,
                        vector,
                    )
                    for row, c, meta, n, vector in lines
                ],
            )
            pairs = zip(rows, bags, strict=True)
            postings = [(term, row, n) for row, bag in pairs for term, n in bag.items()]
            many("INSERT INTO postings VALUES (%s, %s, %s)", postings)

    # ---- search

    def frequency(self, term: str) -> int:
        """As `Store.frequency`."""
        return self.query("SELECT count(*) FROM postings WHERE term = ?", (term,))[0][0]

    def lexical(
        self, query: str | Mapping[str, float], k: int, allowed: Rows | None = None
    ) -> Found:
        """As `Store.lexical`: BM25 of week 12, with its settings."""
        require(k >= 1, "k must be at least 1", k)
        few = None if allowed is None else allowed.tolist()
        k1, b = 1.5, 0.75
        asked = Counter(terms(query) if isinstance(query, str) else query)
        counts = (list(asked), list(map(float, asked.values())))
        return found(self.query(BM25_SCORES, (*counts, k1, b, b, few, few, k)))

    def dense(
        self, vector: Float[np.ndarray, " dim"], k: int, allowed: Rows | None = None
    ) -> Found:
        """As `Store.dense`; with `allowed` always exact."""
        require(k >= 1, "k must be at least 1", k)
        few = None if allowed is None else allowed.tolist()
        graph = self.settings["index"] == "hnsw" and few is None
        # An index is only used for an order by nothing but the distance.
        nearest = NEAREST.replace(", row LIMIT", " LIMIT") if graph else NEAREST
        return found(self.query(nearest, (vector, few, few, vector, k)))

    def vectors(self, rows: Sequence[int] | Rows) -> Float[np.ndarray, "n dim"]:
        """Vectors of chunks."""
        rows = [int(row) for row in rows]
        known = dict(self.query("SELECT row, vector FROM chunks WHERE row = ANY(?)", (rows,)))
        missing = [row for row in rows if row not in known]
        require(not missing, "rows must be in the store", *missing[:3])
        empty = np.empty((0, self.settings["dim"]))
        return np.array([known[row].to_numpy() for row in rows] or empty, np.float32)

    def stats(self) -> dict[str, Any]:
        """What is in it, and how."""
        ((documents, chars),) = self.query(
            "SELECT count(*), coalesce(sum(length(text)), 0) FROM documents"
        )
        held = {"documents": documents, "characters": chars, "chunks": len(self)}
        return {"folder": self.database, **held, **self.settings}


def found(rows: list[tuple]) -> Found:
    """Rows and scores, as the server gave them."""
    rows_, scores = zip(*rows, strict=True) if rows else ((), ())
    return Found(np.array(rows_, np.int64), np.array(scores, np.float32))
