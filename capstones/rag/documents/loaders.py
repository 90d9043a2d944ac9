r"""From a file to its documents, by the suffix of its name.

>>> import tempfile
>>> file = Path(tempfile.mkdtemp(), "tea.md")
>>> _ = file.write_text("# Tea\n\nHot.")
>>> next(load_file(file, id="tea.md")).metadata
{'kind': 'markdown', 'path': 'tea.md'}
"""

import re
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from rag.documents import markdown
from rag.documents.decoding import UnreadableError, decode, read_bytes
from rag.documents.definitions import LANGUAGES
from rag.documents.docx_text import docx_text
from rag.documents.html_text import declared_encoding, html_text
from rag.documents.pdf_text import pdf_text
from rag.documents.records import records
from rag.types import Document, Skipped

__all__ = ["KINDS", "load_file"]

_SUFFIXES = {
    "text": "txt text log rst tex org adoc",
    "markdown": "md markdown mdx",
    "html": "html htm xhtml",
    "pdf": "pdf",
    "docx": "docx docm",
    "record": "jsonl ndjson csv tsv",
}
KINDS = {f".{suffix}": kind for kind, all_ in _SUFFIXES.items() for suffix in all_.split()}
KINDS |= dict.fromkeys(LANGUAGES, "code")
_FRONT_TITLE = re.compile(r"^title:[ \t]*[\"']?(.*?)[\"']?[ \t]*$", re.M)


def load_file(path: Path, *, id: str) -> Iterator[Document | Skipped]:
    """Stream the documents of a file: one, or as many as it has records.

    A file that cannot be read, and a record that is none, is a `Skipped` that says why. A file of
    an unknown suffix is read if it is text.

    Parameters
    ----------
    id
        The document's; those of records are id/RECORD.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for, a device never ends
            raise UnreadableError("is no file of bytes")
        kind = KINDS.get(path.suffix.lower(), "")
        if kind == "record":
            for found in records(path, id=id):
                if isinstance(found, Document):
                    found = replace(found, metadata={**found.metadata, "kind": kind, "path": id})
                yield found
        else:
            yield from _load(path, kind, id)
    except UnreadableError as error:
        yield Skipped(id, str(error))
    except OSError as error:
        yield Skipped(id, f"cannot be read ({error.strerror or error})")


def _load(path: Path, kind: str, id: str) -> Iterator[Document | Skipped]:
    data = read_bytes(path)
    if not data:
        raise UnreadableError("is empty")
    title, pages, encoding = "", (), "utf-8"
    if kind == "pdf":
        text, title, pages = pdf_text(data)
    elif kind == "docx":
        text, title = docx_text(data)
    else:
        declared = declared_encoding(data) if kind == "html" else ""
        text, encoding = decode(data, declared=declared, guess=bool(kind))
    if kind == "html":
        text, title = html_text(text)
    if not text.strip():
        raise UnreadableError("holds no text")
    if kind == "markdown" and (found := _FRONT_TITLE.search(text, 0, markdown.front_matter(text))):
        title = found[1]
    elif kind in ("markdown", "docx") and not title:
        title = next((names[0] for _, names in markdown.sections(text) if names), "")
    metadata: dict[str, str | int] = {"kind": kind or "text", "path": id}
    if kind == "code":
        metadata["lang"] = LANGUAGES[path.suffix.lower()]
    if not encoding.startswith("utf-8"):
        metadata["encoding"] = encoding
    yield Document(id, text, title, metadata, pages)
    ends = [*pages[1:], len(text)] if pages else []
    if blank := sum(not text[a:b].strip() for a, b in zip(pages, ends, strict=True)):
        yield Skipped(id, f"holds no text on {blank} of {len(pages)} pages")
