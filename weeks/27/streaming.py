r"""Text of tokens as they come: never half a character, and nothing of a stop string.

A server sends text while it is written, and two things cannot be sent as they come. A token is
bytes, and may end **within a character**: decoded by itself it gives U+FFFD. And a text ends
**before a stop string**, whose beginning may be all that is there yet. Both are held back, and no
more than that: of a text $x$ with stop strings $S$ exactly the longest suffix that may still become
one,

$$h(x) = \max\{\,|u| : u \text{ a suffix of } x \text{ and a proper prefix of an } s \in S\,\}.$$

So what is sent, all in all, does not depend on how the text was cut. The stop string that is
complete first ends the text; of two that are complete at the same character, the longer one.

>>> text = Detokenizer(lambda ids: bytes(ids).decode(errors="replace"))
>>> [text.feed(byte) for byte in "né".encode()]
['n', '', 'é']
>>> until = UntilStop(["\n\n", "END"])
>>> [until.feed(piece) for piece in ("one\n", "two E", "N", "Dless")], until.found
(['one', '\ntwo ', '', ''], 'END')

`uv run weeks/27/serve.py` measures the server that uses it. Source: the Unicode Standard, section
3.9 (a maximal subpart of a sequence becomes one U+FFFD).
"""

from collections.abc import Callable, Collection, Sequence

from shared.require import require

UNKNOWN = "\ufffd"


class Detokenizer:
    """Text of tokens that come one by one; the pieces join to `decode` of all of them.

    A last U+FFFD waits, since the next token may complete the character. Decoding starts at the
    last token before which everything was sent: not at the new one, for some tokenizers drop the
    space that begins a text.

    Parameters
    ----------
    decode
        Text of tokens, where bytes that are no UTF-8 become U+FFFD.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]):
        self._decode, self._tokens, self._sent = decode, [], 0

    def feed(self, token: int) -> str:
        """What the next token adds that is final."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        final = text.removesuffix(UNKNOWN)
        piece = final[self._sent :]
        self._sent += len(piece)
        if piece and final == text:
            self._tokens = [token]
            self._sent = len(self._decode(self._tokens))
        return piece

    def end(self) -> str:
        """What waits still, when no more tokens come."""
        return self._decode(self._tokens)[self._sent :] if self._tokens else ""


class UntilStop:
    """Passes text on up to the first stop string, however the text is cut.

    Attributes
    ----------
    found
        The stop string that ended the text; None as long as none did.
    """

    def __init__(self, stops: Collection[str] = ()):
        several = not isinstance(stops, str) and all(stops)
        require(several, "stops must be several texts, none of them empty", repr(stops))
        self.stops, self.found, self._held = tuple(stops), None, ""

    def feed(self, text: str) -> str:
        """What of the text so far can be sent; nothing, once a stop string was found."""
        if self.found is not None:
            return ""
        text = self._held + text
        ends = [(at + len(s), at, s) for s in self.stops if (at := text.find(s)) >= 0]
        if ends:
            _, at, self.found = min(ends)
            self._held = ""
            return text[:at]
        keep = len(text) - max((_overlap(text, s) for s in self.stops), default=0)
        self._held = text[keep:]
        return text[:keep]

    def end(self) -> str:
        """What waits still, when no more text comes: no stop string, as it turned out."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Characters of the longest suffix of the text that is a proper prefix of the stop string."""
    lengths = range(min(len(text), len(stop) - 1), 0, -1)
    return next((n for n in lengths if text.endswith(stop[:n])), 0)


class Writing:
    """The text of one answer: characters, stop strings and tokens that end it.

    Attributes
    ----------
    finished
        `"stop"` once a stop string or one of the `ends` came; None before.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        *,
        stops: Collection[str] = (),
        ends: Collection[int] = (),
    ):
        self._text, self._until, self.ends = Detokenizer(decode), UntilStop(stops), ends
        self.finished: str | None = None

    def feed(self, token: int) -> str:
        """What the next token adds to what may be sent."""
        if token in self.ends:
            piece = self.end()
            self.finished = "stop"
            return piece
        piece = self._until.feed(self._text.feed(token))
        if self._until.found is not None:
            self.finished = "stop"
        return piece

    def end(self) -> str:
        """What waits still, when no more tokens come; nothing after a stop string."""
        if self.finished:
            return ""
        piece = self._until.feed(self._text.end())
        return piece + self._until.end()
