r"""The text of a PDF, page by page. A scan has none, and that is said.

Ligatures are written as letters here, and words that were broken at the end of a line joined,
before anything points into the text. The hyphen goes if the document has the word without it
elsewhere, and stays if it has it with the hyphen; of a word that is not there again nobody knows.

>>> unbroken(["retrie-\nval and well-\nknown", "Retrieval is well-known. Any-\none"])
['retrieval and well-known', 'Retrieval is well-known. Any-\none']
"""

import io
import logging
import re
from itertools import accumulate

from rag.documents.decoding import LIMIT, UnreadableError, clean

__all__ = ["pdf_text", "unbroken"]

LIGATURES = str.maketrans(
    {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st", "\u00ad": ""}
)
_BETWEEN = "\n\n"
_WORD = re.compile(r"\w+(?:-\w+)*")
_BROKEN = re.compile(r"\b([^\W\d_]++)-\n([^\W\d_]++(?:-\w++)*+)")


def pdf_text(data: bytes) -> tuple[str, str, tuple[int, ...]]:
    """Return the text, the title, and where each page begins; pages without text have a place too.

    Raises
    ------
    UnreadableError
        It needs a password, is damaged, or holds no text.
    """
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what is wrong is told once, by us
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise UnreadableError("is encrypted: it needs a password")
        pages = [_page(page.extract_text()) for page in reader.pages]
        title = reader.metadata.title if reader.metadata else None
    except UnreadableError:
        raise
    except Exception as error:  # a damaged file can break a parser in any way
        if "cryptography" in str(error):
            raise UnreadableError(
                "is encrypted with AES, which needs the package cryptography"
            ) from None
        raise UnreadableError(f"is not a whole PDF ({error or type(error).__name__})") from None
    pages = unbroken(pages)
    if not pages:
        raise UnreadableError("holds no pages")
    if not any(pages):
        raise UnreadableError(f"holds no text on its {len(pages)} pages: a scan, which needs OCR")
    if sum(map(len, pages)) > LIMIT:
        raise UnreadableError(f"holds more than {LIMIT:,} characters")
    starts = accumulate((len(page) + len(_BETWEEN) for page in pages[:-1]), initial=0)
    return _BETWEEN.join(pages), clean(str(title or "")).strip(), tuple(starts)


def unbroken(pages: list[str]) -> list[str]:
    """Pages with the words joined that are broken at the end of a line."""
    known = {word.lower() for page in pages for word in _WORD.findall(page)}

    def join(found: re.Match) -> str:
        whole = (found[1] + found[2], f"{found[1]}-{found[2]}")
        return next((word for word in whole if word.lower() in known), found[0])

    return [_BROKEN.sub(join, page) for page in pages]


def _page(text: str) -> str:
    return "\n".join(map(str.rstrip, clean(text).translate(LIGATURES).strip().split("\n")))
