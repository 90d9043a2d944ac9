r"""From bytes to text: by the mark at the beginning, else UTF-8, else a guess, which is told.

>>> decode("Käse".encode("utf-16"))
('Käse', 'utf-16')
>>> decode(b"K\xe4se\r\n")
('Käse\n', 'cp1252')
"""

import codecs
import contextlib
import re
from pathlib import Path

from shared.errors import UserError

__all__ = ["LIMIT", "UnreadableError", "clean", "decode", "encoding_of", "read_bytes"]

LIMIT = 50_000_000  # bytes of a file that is read whole, and characters of its text

# Longer marks first: that of UTF-32 begins with that of UTF-16.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# No text, in any encoding, holds these; tab, line ends, form feed and escape are left.
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_UNFIT = re.compile(r"[\x00\ud800-\udfff]")  # what no database and no file of UTF-8 can hold


class UnreadableError(UserError):
    """A file that cannot be read as what it claims to be; the message is for a user."""


def encoding_of(head: bytes) -> str:
    """The encoding that a file's first bytes tell; UTF-8 if they tell none."""
    return next((name for mark, name in _MARKS.items() if head.startswith(mark)), "utf-8")


def decode(data: bytes, *, declared: str = "", guess: bool = True) -> tuple[str, str]:
    """Return a text and its encoding: that of the mark, UTF-8, the declared one or a guess.

    Parameters
    ----------
    declared
        What the file itself says, as a page may.
    guess
        Take what is nothing of these for Windows' Latin-1, or for Latin-1, which fits all bytes.

    Raises
    ------
    UnreadableError
        The bytes are no text.
    """
    encoding = encoding_of(data[:4])
    if encoding in ("utf-8", "utf-8-sig") and (found := _CONTROL.search(data)):
        raise UnreadableError(f"is binary: byte {found.start()} is 0x{found[0].hex()}")
    others = [declared, *(("cp1252", "latin-1") if guess else ())]
    for name in [encoding, *(others if encoding == "utf-8" else ())]:
        with contextlib.suppress(UnicodeError, LookupError):
            return clean(data.decode(name)), name
    raise UnreadableError(f"is not {encoding} text")


def clean(text: str) -> str:
    r"""Line ends become "\n"; NUL and halves of surrogate pairs become U+FFFD."""
    return _UNFIT.sub("\ufffd", text.replace("\r\n", "\n").replace("\r", "\n"))


def read_bytes(path: Path) -> bytes:
    """A whole file that is not larger than `LIMIT`.

    Raises
    ------
    UnreadableError
        It is larger.
    """
    with path.open("rb") as stream:
        data = stream.read(LIMIT + 1)
    if len(data) > LIMIT:
        size = path.stat().st_size
        raise UnreadableError(f"is too large: {size:,} bytes, and at most {LIMIT:,} are read")
    return data
