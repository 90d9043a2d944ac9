"""What is read by SQL, the same from SQLite and from PostgreSQL."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from rag.store.filters import parse
from rag.store.records import digest_of, digest_of_chunk
from rag.types import Chunk, Document, Metadata
from shared.artifacts import ArtifactError
from shared.errors import UserError
from shared.require import require
from week12.preprocessing import terms

Rows = Int[np.ndarray, " m"]


class DocumentInfo(NamedTuple):
    """What is known of a document without reading it."""

    id: str
    title: str
    chars: int
    chunks: int
    metadata: Metadata


class Reading(ABC):
    """A store that answers queries; `database` is what errors call it."""

    database: Any
    settings: dict[str, Any]

    @abstractmethod
    def query(self, statement: str, values: tuple = ()) -> list[tuple]:
        """All rows that a statement gives; ? stands for a value."""

    @abstractmethod
    def _rows_with(self, metadata: list[int]) -> list[tuple]:
        """Rows of chunks whose metadata are one of these, rising."""

    def documents(self) -> list[DocumentInfo]:
        """Every document, by id."""
        rows = self.query(
            "SELECT id, title, length(text), (SELECT count(*) FROM chunks WHERE document = id),"
            " metadata FROM documents ORDER BY id"
        )
        return [DocumentInfo(*row[:4], json.loads(row[4])) for row in rows]

    def __contains__(self, document_id: str) -> bool:
        return bool(self.query("SELECT 1 FROM documents WHERE id = ?", (document_id,)))

    def document(self, id: str) -> Document:
        """A document, as it was given."""
        rows = self.query(
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

    def chunks(self, rows: Iterable[int | np.integer] | Rows) -> list[Chunk]:
        """The chunks with these rows, in their order."""
        texts: dict[str, str] = {}
        found = []
        for row in map(int, rows):
            facts = self.query(
                'SELECT c.document, c.start, c."end", c.heading, m.content, c.digest FROM chunks c'
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

    def terms(self, text: str) -> list[str]:
        """What the index of words counts of a text: stems without stop words."""
        return terms(text)

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
        return np.array([row for (row,) in self._rows_with(passed)], np.int64)
