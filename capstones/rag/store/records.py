"""Documents and chunks as rows of SQLite, each with a digest of what it must be.

A chunk's text is not stored: it is a span of its document's, and its digest says that the span
still reads as it did when it was embedded.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from rag.embeddings.cache import key_of
from rag.types import Chunk, Document
from shared.errors import UserError

CUTTING = ("splitter", "size", "overlap")


def packed(value: object) -> str:
    """JSON, the same for the same value."""
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UserError(f"metadata must be what JSON can hold: {error}") from error


def digest_of(document: Document, settings: Mapping[str, Any]) -> bytes:
    """Of everything that is stored of a document, and of how it is cut."""
    facts = [document.id, document.title, dict(document.metadata), list(document.pages)]
    whole = hashlib.sha256(packed([*facts, *(settings[name] for name in CUTTING)]).encode())
    try:
        whole.update(b"\0" + document.text.encode())
    except UnicodeEncodeError as error:
        raise UserError(f"document {document.id!r} holds half a character ({error})") from error
    return whole.digest()


def embedded(chunk: Chunk) -> str:
    """The text that stands for a chunk in the index: what it says, below its headings."""
    return f"{chunk.heading}\n{chunk.text}" if chunk.heading else chunk.text


def cut(document: Document, settings: Mapping[str, Any]) -> list[Chunk]:
    """A document's chunks; blank ones are left out."""
    if settings["splitter"] == "whole":
        chunks = [Chunk.of(document, 0, len(document.text))] if document.text else []
    else:
        from rag.documents.chunkers import chunk

        chunks = chunk(document, **{name: settings[name] for name in CUTTING})
    return [chunk for chunk in chunks if chunk.text.strip()]


def digest_of_chunk(chunk: Chunk) -> bytes:
    """Of the text that was embedded: also its key in the cache of vectors."""
    return key_of(embedded(chunk))
