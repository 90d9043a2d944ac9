r"""Where documents come from: a file, a folder, a pattern, or a data set by its name.

    notes.md  report.pdf  corpus.jsonl      one document, or one a record
    folder/                                 all files below it, but hidden ones
    "docs/**/*.md"                          all files that fit
    pydocs  cranfield  xquad  wikipedia     texts of `shared.datasets`

The order is that of the sorted paths or of the data set, so that the same source always gives the
same documents. A document's id is its path as the source was written (`docs/a.md` of `docs`), of
an absolute path what begins with its last part, of a data set NAME/TITLE.

>>> next(read("pydocs")).id
'pydocs/assert'
"""

import itertools
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rag.documents.loaders import load_file
from rag.documents.redaction import redacted
from rag.types import Document, Skipped
from shared import datasets
from shared.errors import UserError
from shared.registry import unknown_name
from shared.require import require

__all__ = ["NAMES", "read"]

_MAGIC = frozenset("*?[")
# Folders that hold other people's files, or copies. Hidden ones are never read.
_PASSED_OVER = frozenset(("CVS", "__pycache__", "node_modules"))


def read(
    source: str | Path, *, redact: bool = False, roots: Sequence[Path] | None = None
) -> Iterator[Document | Skipped]:
    """Stream a source's documents, and what was skipped with the reason.

    Parameters
    ----------
    source
        A file or folder with a data set's name is written ``./name``.
    redact
        Replace secrets and personal data by marks such as ``[EMAIL]``; `redacted` in a document's
        metadata counts them.
    roots
        Folders outside which nothing is read, wherever links lead. If not given, links of a folder
        must not lead out of it.

    Raises
    ------
    UserError
        The source does not exist or is outside the roots.
    """
    found = _found(source, roots)
    return map(_redacted, found) if redact else found


def _redacted(found: Document | Skipped) -> Document | Skipped:
    return redacted(found) if isinstance(found, Document) else found


def _found(source: str | Path, roots: Sequence[Path] | None) -> Iterator[Document | Skipped]:
    name = str(source)
    require(name.strip(), "source must be a file, a folder, a pattern or a name", repr(name))
    path = Path(source).expanduser()
    if not isinstance(source, Path):
        if name in NAMES:
            return NAMES[name]()
        if name in datasets.registry():
            return _registered(name)
    if os.path.lexists(path):
        folder = path.is_dir()
        own = [path] if folder and roots is None else roots
        return _read(path, _walk(path) if folder else [path], own)
    if set(name) & _MAGIC:
        parts = itertools.takewhile(lambda part: not set(part) & _MAGIC, path.parts)
        base = Path(*parts)
        files = _matching(base, str(path.relative_to(base)))
        return _read(base, files, [base] if roots is None else roots)
    if path.suffix or path.name != name:
        raise UserError(f"{name} does not exist")
    raise unknown_name("source", name, [*NAMES, *datasets.registry()])


def _read(
    top: Path, files: Iterable[Path], roots: Sequence[Path] | None
) -> Iterator[Document | Skipped]:
    """Read files at or below `top`."""
    allowed = None if roots is None else [os.path.realpath(root) for root in roots]
    if not _is_inside(top, allowed):
        allowed_ones = ", ".join(map(str, roots or ())) or "none"
        raise UserError(f"{top} is outside of the roots that are allowed: {allowed_ones}")
    written = os.path.normpath(top)
    outside = os.path.isabs(written) or written.startswith("..")
    above = os.path.dirname(os.path.abspath(top)) if outside else os.curdir

    def each() -> Iterator[Document | Skipped]:
        for path in files:
            # Bytes of a name that are no UTF-8 are written as \\xff.
            id = os.fsencode(os.path.relpath(path, above)).decode("utf-8", "backslashreplace")
            id = id.replace(os.sep, "/")
            if not _is_inside(path, allowed):
                yield Skipped(id, "is a link that leads out of the folder")
            elif not path.is_dir():
                yield from load_file(path, id=id)
            elif path.is_symlink():
                yield Skipped(id, "is a link to a folder")
            else:
                yield Skipped(id, "is a folder that cannot be read")

    return each()


def _is_inside(path: Path, allowed: Sequence[str] | None) -> bool:
    real = Path(os.path.realpath(path))
    return allowed is None or any(real.is_relative_to(root) for root in allowed)


def _is_passed_over(name: str) -> bool:
    return name.startswith(".") or name in _PASSED_OVER


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder, links, and folders that cannot be read, by their paths' parts."""
    try:
        entries = sorted((e.name, e.is_dir(follow_symlinks=False)) for e in os.scandir(folder))
    except OSError:
        yield folder
        return
    for name, is_folder in entries:
        if _is_passed_over(name):
            continue
        if is_folder:
            yield from _walk(folder / name)
        else:
            yield folder / name


def _matching(base: Path, pattern: str) -> list[Path]:
    pattern += "/*" if pattern.endswith("**") else ""  # "docs/**" means its files
    try:
        found = sorted(base.glob(pattern))
    except ValueError as error:
        raise UserError(f"{pattern} is no pattern: {error}") from None
    files = [
        path
        for path in found
        if not path.is_dir() and not any(map(_is_passed_over, path.relative_to(base).parts))
    ]
    if not files:
        raise UserError(f"no file fits {base / pattern}")
    return files


# ---- data sets


def _named(name: str, texts: Iterable[tuple[str, str, str]]) -> Iterator[Document | Skipped]:
    """Documents of (name, title, text); a name that comes again is numbered."""
    seen = Counter[str]()
    for own, title, text in texts:
        seen[own] += 1
        id = f"{name}/{own}" + (f" ({seen[own]})" if seen[own] > 1 else "")
        if text.strip():
            yield Document(id, text, title, {"kind": "text", "path": id})
        else:
            yield Skipped(id, "holds no text")


def _pydocs() -> Iterator[Document | Skipped]:
    return _named("pydocs", ((d.name, d.name, d.text) for d in datasets.pydocs()))


def _wikipedia() -> Iterator[Document | Skipped]:
    return _named("wikipedia", ((d.name, d.name, d.text) for d in datasets.wikipedia()))


def _cranfield() -> Iterator[Document | Skipped]:
    return _named("cranfield", ((d.name, "", d.text) for d in datasets.cranfield().documents))


def _xquad() -> Iterator[Document | Skipped]:
    """The English paragraphs, named by their article and number."""
    articles = json.loads(datasets.path("xquad", "xquad.en.json").read_text("utf-8"))["data"]
    return _named(
        "xquad",
        (
            (f"{article['title']}/{i}", article["title"].replace("_", " "), paragraph["context"])
            for article in articles
            for i, paragraph in enumerate(article["paragraphs"], 1)
        ),
    )


def _registered(name: str) -> Iterator[Document | Skipped]:
    for file in datasets.registry()[name].files:
        path = file.path.split("/", 1)[1]
        yield from load_file(datasets.path(name, path), id=f"{name}/{path}")


NAMES = {"pydocs": _pydocs, "cranfield": _cranfield, "xquad": _xquad, "wikipedia": _wikipedia}
