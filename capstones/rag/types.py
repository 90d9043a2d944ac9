"""What the parts hand to one another.

>>> document = Document("notes/tea.md", "Tea needs hot water. Coffee too.")
>>> chunk = Chunk.of(document, 0, 20)
>>> chunk.text, chunk.id
('Tea needs hot water.', 'notes/tea.md:0-20')
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from shared.require import require

Scalar = str | int | float | bool
Metadata = Mapping[str, Scalar]


@dataclass(frozen=True)
class Document:
    """A text as it was read. All spans, in chunks and in citations, are characters of `text`.

    Attributes
    ----------
    id
        Its path as it was given to `ingest`, or NAME/TITLE of a data set; unique.
    metadata
        Facts to filter by; `lang`, `path`, `page` and the like.
    pages
        Where each page of a PDF begins in `text`, for citations by page; empty elsewhere.
    """

    id: str
    text: str
    title: str = ""
    metadata: Metadata = field(default_factory=dict)
    pages: tuple[int, ...] = ()


@dataclass(frozen=True)
class Chunk:
    """A piece of a document: `text` is exactly `document.text[start:end]`.

    Attributes
    ----------
    document
        The document's id.
    heading
        The headings above it, "Title > Section", for display and for the embedding; may be empty.
    """

    document: str
    start: int
    end: int
    text: str
    heading: str = ""
    metadata: Metadata = field(default_factory=dict)

    @classmethod
    def of(cls, document: Document, start: int, end: int, heading: str = "") -> "Chunk":
        """The piece of a document from `start` to `end`."""
        inside = 0 <= start < end <= len(document.text)
        require(inside, f"start and end must be in 0..{len(document.text)}", (start, end))
        text = document.text[start:end]
        return cls(document.id, start, end, text, heading, dict(document.metadata))

    @property
    def id(self) -> str:
        """Where it stands: DOCUMENT:START-END."""
        return f"{self.document}:{self.start}-{self.end}"


class Skipped(NamedTuple):
    """A source that could not be read, and why, in words for a user."""

    source: str
    reason: str


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors.

    Attributes
    ----------
    name
        What a user calls it: "minilm", "lsa", a folder.
    digest
        Sha256 of its weights and settings: vectors of another digest must not be mixed with these.
    """

    name: str
    digest: str
    dim: int

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "n dim"]:
        """Float32 vectors of length 1, each independent of the texts beside it."""
        ...


class Found(NamedTuple):
    """Rows of a store and their scores, the best first; of equals, the lower row first."""

    rows: Int[np.ndarray, " k"]
    scores: Float[np.ndarray, " k"]


@dataclass(frozen=True)
class Hit:
    """A chunk that was found.

    Attributes
    ----------
    row
        The chunk's number in the store.
    stages
        Its score in each stage that saw it, by the stage's name.
    """

    chunk: Chunk
    row: int
    score: float
    stages: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """A step of a search, for `--explain`."""

    name: str
    milliseconds: float
    n: int
    note: str = ""


@dataclass(frozen=True)
class Results:
    """What a search found, and how."""

    query: str
    hits: tuple[Hit, ...]
    stages: tuple[Stage, ...] = ()


@dataclass(frozen=True)
class Citation:
    """A numbered source of an answer, down to the characters.

    Attributes
    ----------
    quote
        Exactly `document.text[start:end]`.
    page
        Of a PDF, counted from 1; 0 elsewhere.
    """

    number: int
    document: str
    start: int
    end: int
    quote: str
    title: str = ""
    page: int = 0


@dataclass(frozen=True)
class Sentence:
    """A sentence of an answer, the citations it names, and whether one of them supports it."""

    text: str
    citations: tuple[int, ...] = ()
    supported: bool = True


@dataclass(frozen=True)
class Answer:
    """An answer, checked.

    Attributes
    ----------
    confidence
        From 0 to 1, of the evidence; under the threshold the answer is that it is not known.
    query
        What was searched for: the question, or what it was rewritten to.
    flagged
        Documents whose chunks look like instructions to a model.
    note
        What a reader should know of how it came about, such as that quotes stand in for a model.
    """

    question: str
    text: str
    sentences: tuple[Sentence, ...] = ()
    citations: tuple[Citation, ...] = ()
    abstained: bool = False
    confidence: float = 1.0
    query: str = ""
    hits: tuple[Hit, ...] = ()
    stages: tuple[Stage, ...] = ()
    flagged: tuple[str, ...] = ()
    note: str = ""


class Turn(NamedTuple):
    """What a user asked and what was answered."""

    question: str
    answer: str
