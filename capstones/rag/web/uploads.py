"""Files that came over the network, read by the loaders as if they lay in a folder `uploads`.

>>> file_name("../../etc/passwd"), file_name("C:\\\\tea\\\\How to: brew?.md"), file_name("..")
('passwd', 'How to_ brew_.md', 'document')
"""

import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from rag.documents import sources
from rag.types import Document, Skipped

LONGEST = 120


def file_name(given: str) -> str:
    """The last part of a path that somebody else named, harmless on every system."""
    name = re.split(r"[/\\]", given)[-1]
    path = Path(re.sub(r"[^\w .()+-]", "_", name).strip(" ."))
    name = f"{clipped(path.stem, LONGEST)}{clipped(path.suffix, 40)}"
    return name.strip(" .") or "document"


def clipped(text: str, most: int) -> str:
    """Its first characters, of at most so many bytes: systems count names in bytes."""
    return text.encode()[:most].decode(errors="ignore")


def read(files: Iterable[tuple[str, BinaryIO]]) -> tuple[list[Document], list[Skipped]]:
    """What the files hold, and which of them could not be read.

    Parameters
    ----------
    files
        Names as the sender gave them, and contents. Of equal names the last one counts.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder, "uploads")
        place.mkdir()
        for given, content in files:
            with (place / file_name(given)).open("wb") as stream:
                shutil.copyfileobj(content, stream)
        found = list(sources.read(place, roots=[place]))
    documents = [item for item in found if isinstance(item, Document)]
    return documents, [item for item in found if isinstance(item, Skipped)]
