r"""Bytes that come in pieces, as text: a piece may end in the middle of a character.

>>> list(decoded([b"K\xc3", b"\xa4se"]))
['K', 'äse']
"""

import codecs
from collections.abc import Iterable, Iterator


def decoded(pieces: Iterable[bytes]) -> Iterator[str]:
    """Bytes as text, whole characters only; together the same as decoding all at once."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for piece in pieces:
        if text := decoder.decode(piece):
            yield text
    if text := decoder.decode(b"", final=True):
        yield text
