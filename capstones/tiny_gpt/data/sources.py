"""Where documents come from: named texts, files, folders, or a data set on the disk.

A source is read once, as a stream: no more than one file of text, or a few records, are in memory
at a time. The order is that of the file, of the sorted paths, or of the data set, so that the same
source always gives the same stream.

    pydocs  tinyshakespeare  wikipedia  wikitext2  names      texts of `shared.datasets`
    book.txt  book.txt.gz                                     one document
    articles.jsonl  articles.jsonl.gz                         one document a line, under "text"
    folder/                                                   all such files below it
    hf:folder                                                 Hugging Face `datasets`, saved there
"""

import gzip
import json
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path

from shared import datasets
from shared.errors import UserError
from shared.registry import unknown_name
from shared.require import require
from shared.texts import Document

__all__ = ["SourceDocument", "documents", "shown"]

SourceDocument = Document  # a name, which examples and reports show, and a text
TEXT_FILES = (".txt", ".text", ".md", ".rst", ".tex", ".org", ".adoc", ".py", ".jsonl")


def documents(source: str | Path) -> Iterator[SourceDocument]:
    """Stream a source's documents; a file or folder with a data set's name is written ``./name``.

    Text is UTF-8, plain or gzip. Of a folder, all files with a suffix of `TEXT_FILES` are read, but
    none whose name begins with a dot.
    """
    name = str(source)
    require(name.strip(), "source must be a text's name, a file or a folder", repr(name))
    if name.startswith("hf:"):
        return _huggingface(Path(name.removeprefix("hf:")))
    if name in datasets.TEXTS and not isinstance(source, Path):
        return _named(name)
    path = Path(source)
    if path.is_dir():
        return _folder(path)
    if os.path.lexists(path):  # opening a link says where it leads
        return _file(path, shown(path.name))
    if path.suffix or path.name != name:
        raise UserError(f"{name} does not exist")
    raise unknown_name("text", name, datasets.TEXTS)


def shown(path: Path | str) -> str:
    """A path as text that can be written: bytes of a name that are no UTF-8 become U+FFFD."""
    return os.fsencode(path).decode("utf-8", "replace")


def _named(name: str) -> Iterator[SourceDocument]:
    if name == "pydocs":
        yield from datasets.pydocs()
    elif name == "wikipedia":
        yield from datasets.wikipedia()
    elif name == "wikitext2":  # an article begins with the line " = Title = "
        articles = re.split(r"(?m)^(?= = (?!= ).*(?<! =) = $)", datasets.wikitext2())
        for article in filter(str.strip, articles):
            yield SourceDocument(article.strip().split("\n", 1)[0].strip(" ="), article)
    else:
        yield SourceDocument(name, datasets.TEXTS[name]())


def _folder(folder: Path) -> Iterator[SourceDocument]:
    found = False
    for path in _walk(folder):
        if path.name.removesuffix(".gz").endswith(TEXT_FILES):
            found = True
            yield from _file(path, shown(path.relative_to(folder).as_posix()))
    if not found:
        raise UserError(f"{folder} holds no text files ({' '.join(TEXT_FILES)}, or .gz of them)")


def _walk(folder: Path) -> Iterator[Path]:
    """Files below a folder in the order of their paths' parts; only one level's names are held."""
    try:
        # A linked folder may lead back here; a link that leads to itself is an error.
        found = [(e.name, e.is_dir(follow_symlinks=False), e.is_file()) for e in os.scandir(folder)]
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be read ({error.strerror})") from error
    for name, is_folder, is_file in sorted(found):
        if name.startswith("."):
            continue
        if is_folder:
            yield from _walk(folder / name)
        elif is_file:
            yield folder / name


def _file(path: Path, name: str) -> Iterator[SourceDocument]:
    open_ = gzip.open if path.suffix == ".gz" else open
    try:
        with open_(path, "rb") as stream:
            if path.name.removesuffix(".gz").endswith(".jsonl"):
                yield from _records(stream, path, name)
            else:
                yield SourceDocument(name, _decode(stream.read(), path).removeprefix("\ufeff"))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{path} is not a whole gzip file ({error})") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error


def _records(lines: Iterator[bytes], path: Path, name: str) -> Iterator[SourceDocument]:
    offset = 0
    for number, line in enumerate(lines, 1):
        text = _decode(line, path, offset).removeprefix("\ufeff" if number == 1 else "")
        offset += len(line)
        if not text.strip():
            continue
        try:
            record = json.loads(text)
            content = record["text"]
            content.encode()  # an escape may spell half of a pair, which no file can hold
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(
                f'{path}, line {number}: expected a JSON object with a text under "text", '
                f"got {text.strip()[:40]!r}"
            ) from None
        yield SourceDocument(f"{name}:{number}", content)


def _decode(data: bytes, path: Path, offset: int = 0) -> str:
    if (nul := data.find(b"\0")) >= 0:
        raise UserError(f"{path} is not a text file: byte {offset + nul} is NUL")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        at = f"byte {offset + error.start} is 0x{data[error.start]:02x}"
        raise UserError(f"{path} is not UTF-8 text: {at}") from None


def _huggingface(path: Path) -> Iterator[SourceDocument]:
    try:
        from datasets import DatasetDict, load_from_disk
    except ImportError as error:
        raise UserError(f"hf:{path} needs the package datasets, which is missing") from error
    try:
        data = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        reason = str(error).split("\n", 1)[0]
        raise UserError(f"hf:{path} is no data set that was saved to disk ({reason})") from error
    if isinstance(data, DatasetDict):
        splits = " or ".join(f"hf:{path / split}" for split in data)
        raise UserError(f"hf:{path} holds {len(data)} splits; give one of them: {splits}")
    if getattr(data.features.get("text"), "dtype", None) not in ("string", "large_string"):
        columns = ", ".join(data.column_names)
        raise UserError(f'hf:{path} has no column "text" of strings; its columns are {columns}')
    return _rows(data.select_columns("text"), shown(path.name))


def _rows(data, name: str) -> Iterator[SourceDocument]:
    row = 0
    for batch in data.iter(256):
        for text in batch["text"]:
            yield SourceDocument(f"{name}:{row}", text or "")  # a row without a text is blank
            row += 1
