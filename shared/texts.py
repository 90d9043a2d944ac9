"""Texts to read, count and learn from; `shared.datasets` offers them all."""

import gzip
import html
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from shared.errors import UserError
from shared.registry import note, path, unknown_name

__all__ = [
    "TEXTS",
    "Document",
    "LabeledSentence",
    "SentencePair",
    "load_text",
    "multi30k",
    "names",
    "pydocs",
    "pydocs_text",
    "read_text_file",
    "sst2",
    "tinyshakespeare",
    "wikipedia",
    "wikitext2",
]

Multi30kSplit = Literal["train", "val", "test_2016_flickr", "test_2017_flickr", "test_2017_mscoco"]


@dataclass(frozen=True)
class Document:
    """A named text."""

    name: str
    text: str


class LabeledSentence(NamedTuple):
    """A sentence and its sentiment: 0 negative, 1 positive."""

    sentence: str
    label: int


class SentencePair(NamedTuple):
    """The same sentence in German and in English."""

    de: str
    en: str


def pydocs() -> list[Document]:
    """Return Python's language reference, one document a topic, sorted by name.

    It comes with every Python, so nothing is downloaded; names such as ``"with"`` or
    ``"operator-summary"`` serve as labels. **The content depends on the Python version** (about
    80 documents and 465,000 characters): a number measured on it belongs with that version.
    Texts are in Unicode's normal form NFC.
    """
    from pydoc_data.topics import topics

    found = [Document(name, unicodedata.normalize("NFC", topics[name])) for name in sorted(topics)]
    note("pydocs", "".join(document.text for document in found).encode())
    return found


def pydocs_text() -> str:
    """Return the texts of `pydocs`, joined with blank lines."""
    return "\n\n".join(document.text.strip("\n") for document in pydocs()) + "\n"


def tinyshakespeare() -> str:
    """Return Tiny Shakespeare: 1,115,394 characters of plays, 65 of them different."""
    return read_text_file(path("tinyshakespeare", "input.txt"))


def names() -> list[str]:
    """Return 32,033 first names in lower-case a to z, the most frequent first."""
    return read_text_file(path("names", "names.txt")).split()


def wikitext2(split: Literal["train", "valid", "test"] = "train") -> str:
    """Return WikiText-2: word tokens between blanks, ``<unk>`` for rare ones.

    Parameters
    ----------
    split
        ``"train"`` (2,088,628 tokens with line ends), ``"valid"`` (217,646) or ``"test"``
        (245,569).

    Raises
    ------
    ValueError
        The split is another.
    UserError
        The file cannot be had; see `shared.registry.fetch`.
    """
    check_split(split, ("train", "valid", "test"))
    return read_text_file(path("wikitext2", f"{split}.txt"))


def wikipedia(n_files: int = 20) -> list[Document]:
    """Return articles of the English Wikipedia of 2015 as plain text, named by title.

    Parameters
    ----------
    n_files
        1 to 20; each file is about 1 MB.

    Raises
    ------
    ValueError
        n_files is out of range.
    """
    if not 1 <= n_files <= 20:
        raise ValueError(f"n_files must be between 1 and 20, got {n_files}")
    documents = []
    for number in range(n_files):
        file = path("wikipedia", f"wiki_{number:02d}")
        documents += parse_documents(read_text_file(file), source=str(file))
    return documents


def parse_documents(text: str, *, source: str = "text") -> list[Document]:
    """Read ``<doc id="…" url="…" title="…">`` … ``</doc>`` blocks, as WikiExtractor writes them.

    Raises
    ------
    UserError
        A block is not closed or its first line has another form; it names the source.
    """
    blocks = re.findall(
        r'^<doc id="\d+" url="[^"\n]*" title="([^"\n]*)">\n(.*?)\n</doc>$', text, re.M | re.S
    )
    # A block that runs into the next one hides it, so counting the first lines finds both faults.
    if len(blocks) != len(re.findall(r"^<doc ", text, re.M)):
        raise UserError(f"{source} has a <doc …> block that is not well formed")
    return [Document(html.unescape(title), body.strip()) for title, body in blocks]


def sst2() -> dict[str, list[LabeledSentence]]:
    """Return the binary Stanford Sentiment Treebank: train 6,920, dev 872, test 1,821 sentences."""
    return {split: _sst2(split) for split in ("train", "dev", "test")}


def _sst2(split: str) -> list[LabeledSentence]:
    rows = (line.rsplit("\t", 1) for line in _lines(path("sst2", f"{split}.tsv").read_bytes()))
    return [LabeledSentence(sentence, int(label)) for sentence, label in rows]


def multi30k(split: Multi30kSplit = "train") -> list[SentencePair]:
    """Return Multi30k: image captions in German and English (train 29,000, val 1,014 pairs).

    Raises
    ------
    ValueError
        The split is not one of the five.
    """
    check_split(split, Multi30kSplit.__args__)
    de, en = (
        _lines(gzip.decompress(path("multi30k", f"{split}.{language}.gz").read_bytes()))
        for language in ("de", "en")
    )
    return [SentencePair(*pair) for pair in zip(de, en, strict=True)]


def _lines(data: bytes) -> list[str]:
    # Not splitlines(), which also breaks at a form feed or U+2028 inside a sentence.
    return [line.strip() for line in data.decode("utf-8").removesuffix("\n").split("\n")]


def check_split(split: str, known: tuple[str, ...], argument: str = "split") -> None:
    if split not in known:
        raise ValueError(f"{argument} must be one of {', '.join(known)}, got {split!r}")


TEXTS: dict[str, Callable[[], str]] = {
    "pydocs": pydocs_text,
    "tinyshakespeare": tinyshakespeare,
    "names": lambda: "\n".join(names()) + "\n",
    "wikitext2": wikitext2,
    "wikipedia": lambda: "\n\n".join(document.text for document in wikipedia()) + "\n",
}


def load_text(dataset: str | None = None, file: Path | None = None) -> str:
    """Return the text that a command line asked for: a data set's or a file's.

    Parameters
    ----------
    dataset
        A name of `TEXTS`.
    file
        A file of the user's. With neither, the text is ``pydocs``, which needs no download.

    Raises
    ------
    UserError
        Both are given, the name is not known, or the text cannot be had.
    """
    if file is not None:
        if dataset is not None:
            raise UserError(f"give either a data set or a file, not both ({dataset}, {file})")
        return read_text_file(file)
    dataset = dataset or "pydocs"
    if dataset not in TEXTS:
        raise unknown_name("text", dataset, TEXTS)
    return TEXTS[dataset]()


def read_text_file(file: Path) -> str:
    """Return a UTF-8 file's text as it stands, line ends and all, less a byte-order mark.

    Raises
    ------
    UserError
        The file is missing, a directory, unreadable, empty or blank, binary, or not UTF-8.
    """
    try:
        data = Path(file).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{file} does not exist") from None
    except IsADirectoryError:
        raise UserError(f"{file} is a directory, expected a text file") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})") from error
    if (offset := data.find(b"\0")) >= 0:
        raise UserError(f"{file} is not a text file: byte {offset} is NUL")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{file} is not UTF-8 text: byte {error.start} is 0x{data[error.start]:02x}"
        ) from None
    text = text.removeprefix("\ufeff")
    if not text.strip():
        raise UserError(f"{file} holds no text")
    return text
