"""The text of a PDF, page by page. A scan has none, and that is said.

Ligatures are written as letters here, before anything points into the text.
"""

import io
import logging
from itertools import accumulate

from rag.documents.decoding import LIMIT, UnreadableError, clean

__all__ = ["pdf_text"]

LIGATURES = str.maketrans(
    {"ﬀ": "ff", "ﬁ": "fi", "ﬂ": "fl", "ﬃ": "ffi", "ﬄ": "ffl", "ﬅ": "st", "ﬆ": "st", "\u00ad": ""}
)
_BETWEEN = "\n\n"


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
    if not pages:
        raise UnreadableError("holds no pages")
    if not any(pages):
        raise UnreadableError(f"holds no text on its {len(pages)} pages: a scan, which needs OCR")
    if sum(map(len, pages)) > LIMIT:
        raise UnreadableError(f"holds more than {LIMIT:,} characters")
    starts = accumulate((len(page) + len(_BETWEEN) for page in pages[:-1]), initial=0)
    return _BETWEEN.join(pages), clean(str(title or "")).strip(), tuple(starts)


def _page(text: str) -> str:
    return "\n".join(map(str.rstrip, clean(text).translate(LIGATURES).strip().split("\n")))
