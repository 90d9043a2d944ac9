r"""A filter of texts that come in pieces: what may still become a blocked span is held back.

A token at a time nothing is forbidden: `AKIA`, `4111`, `you` are harmless, and what they become is
seen when they have long left the server. So the filter releases text only up to a *quiet* place,
which no secret can cross (a blank after a lower-case letter, a new line); and, where sentences are
judged, up to the end of a judged sentence. What was found decides then:

- a secret, or a sentence that is judged toxic, ends the stream before its first character;
- personal data is replaced by a mark, if that is asked for.

Places, sentences and spans depend on the text alone, so that a reader sees the same however the
text was cut.

>>> guard = StreamFilter(redact=True)
>>> [guard.feed(piece).text for piece in ("Write to a", "da@exam", "ple.org now", ". Key: ")]
['Write to ', '', '[EMAIL] ', 'now. Key: ']
>>> guard.feed("AKIAIOSFODNN7EXAMPLE is"), guard.end()
(Released(text='', blocked=None), Released(text='', blocked='token'))

What a secret looks like is `rag.documents.redaction`'s; who judges sentences is given.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from rag.documents.redaction import find

SECRETS = frozenset({"PRIVATE_KEY", "TOKEN", "PASSWORD"})
LONGEST = 300  # characters of a sentence; what goes on is judged in parts
CONTEXT = 32  # characters that a rule may look back
# Cards, numbers of accounts and telephones, and headers of keys go on after such a blank.
_QUIET = re.compile(r"\s(?<![\dA-Z) ][ ])")
_SENTENCE = re.compile(
    rf"""(?s:.{{1,{LONGEST - 1}}}?)(?:[.!?]["')\]]{{0,3}}\s|\n)|(?s:.{{{LONGEST}}})"""
)


@dataclass(frozen=True)
class Released:
    """What may be sent now; and why nothing will follow, if so."""

    text: str
    blocked: str | None = None


class StreamFilter:
    """Give it pieces of one text; send what it releases.

    Parameters
    ----------
    toxic
        Judges a sentence; without it sentences are not waited for.
    redact
        Whether personal data is replaced by a mark such as [EMAIL].
    """

    def __init__(self, *, toxic: Callable[[str], bool] | None = None, redact: bool = False):
        self.toxic, self.redact = toxic, redact
        self.blocked: str | None = None
        self._text = ""  # what is held back, after some that was released
        self._done = self._judged = 0

    def feed(self, text: str) -> Released:
        """Take the next piece."""
        self._text += text
        quiet = [place.end() for place in _QUIET.finditer(self._text, self._done)]
        return self._release(quiet[-1] if quiet else self._done)

    def end(self) -> Released:
        """Release the rest: nothing comes any more."""
        return self._release(len(self._text), last=True)

    def _release(self, limit: int, *, last: bool = False) -> Released:
        if self.blocked:
            return Released("", self.blocked)
        text, reason = self._text, None
        if self.toxic and limit > self._judged:
            limit, reason = self._judge(limit, last)
        parts = []
        for start, end, kind in find(text) if limit > self._done else ():
            if self._done <= start < limit:
                if kind in SECRETS:
                    limit, reason = start, kind.lower().replace("_", " ")
                    break
                if self.redact:
                    parts += [text[self._done : start], f"[{kind}]"]
                    self._done = end
        parts.append(text[self._done : limit])
        self._done, self.blocked = max(self._done, limit), reason
        self._forget()
        return Released("".join(parts), reason)

    def _judge(self, limit: int, last: bool) -> tuple[int, str | None]:
        """Where the sentences end that may pass, and why no more may."""
        while sentence := _SENTENCE.match(self._text, self._judged):
            if sentence.end() > limit:
                break
            if self.toxic(sentence[0]):
                return self._judged, "toxic"
            self._judged = sentence.end()
        rest = self._text[self._judged :]
        if last and rest.strip() and self.toxic(rest):
            return self._judged, "toxic"
        return (limit if last else self._judged), None

    def _forget(self) -> None:
        """Drop what no rule looks at again."""
        kept = min(self._done, self._judged if self.toxic else self._done) - CONTEXT
        quiet = [place.end() for place in _QUIET.finditer(self._text, 0, max(kept, 0))]
        if quiet:
            self._text = self._text[quiet[-1] :]
            self._done -= quiet[-1]
            self._judged = max(self._judged - quiet[-1], 0)
