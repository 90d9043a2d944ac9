"""What `--safety off|warn|block` means for what comes in and what goes out.

- *off*: everything passes.
- *warn*: everything passes at once; the reason is told (`Safety.check`, `Watched.warning`).
- *block*: a prompt with a reason is refused; an answer ends before its first blocked span.

>>> policy = Safety("block", toxic=lambda sentence: "fool" in sentence)
>>> policy.check("What is rain?"), policy.check("You fool!")
(None, 'toxic')
>>> stream = policy.stream()
>>> stream.feed("Rain is water. You fo").text, stream.feed("ol. Go away.")
('Rain is water. ', Released(text='', blocked='toxic'))
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

from serving.safety.stream import Released, StreamFilter
from shared.errors import UserError
from shared.require import require

MODES = ("off", "warn", "block")
THRESHOLD = 0.9  # of 0.5, 0.6 …, the first with under 2 % of harmless calibration tweets above


@dataclass(frozen=True)
class Safety:
    """A policy; `open_safety` makes one with the classifier of toxic sentences.

    Parameters
    ----------
    mode
        off, warn or block.
    redact
        Whether answers show a mark instead of personal data; it needs block.
    toxic
        Judges a sentence.
    """

    mode: str = "off"
    redact: bool = False
    toxic: Callable[[str], bool] | None = None

    def __post_init__(self):
        require(self.mode in MODES, "safety must be off, warn or block", self.mode, error=UserError)
        if self.redact and self.mode != "block":
            raise UserError(f"redact needs safety block, got {self.mode}")

    def check(self, text: str) -> str | None:
        """Why a prompt should not be answered, if so."""
        if self.mode == "off":
            return None
        guard = StreamFilter(toxic=self.toxic)
        return guard.feed(text).blocked or guard.end().blocked

    def stream(self) -> "StreamFilter | Watched":
        """A filter for one answer."""
        if self.mode == "block":
            return StreamFilter(toxic=self.toxic, redact=self.redact)
        return Watched(StreamFilter(toxic=self.toxic) if self.mode == "warn" else None)


class Watched:
    """Lets an answer pass at once; a filter beside it says what it would have done.

    Attributes
    ----------
    warning
        Why the answer would have been blocked, once that is known.
    """

    blocked = None

    def __init__(self, guard: StreamFilter | None = None):
        self._guard = guard
        self.warning: str | None = None

    def feed(self, text: str) -> Released:
        """Pass the next piece on."""
        if self._guard:
            self.warning = self._guard.feed(text).blocked
        return Released(text)

    def end(self) -> Released:
        """Nothing was held back."""
        if self._guard:
            self.warning = self._guard.end().blocked
        return Released("")


def open_safety(
    mode: str = "off", *, redact: bool = False, say: Callable[[str], None] = lambda line: None
) -> Safety:
    """The policy with the classifier of `llm_eval`, trained (and said so) when first needed.

    Raises
    ------
    UserError
        The data that it learns from is not there: a weaker filter would not say so.
    """
    if mode != "off":
        from llm_eval.safety.classifier import default_folder

        if not default_folder().exists():
            say("learning which sentences are toxic, once; this takes a minute")
        _classifier()
    return Safety(mode, redact, None if mode == "off" else is_toxic)


def is_toxic(sentence: str) -> bool:
    """Whether the classifier is sure enough; it needs the data set, or what it learned from it."""
    return bool(_classifier().probability([sentence])[0] >= THRESHOLD)


@functools.cache
def _classifier():
    from llm_eval.safety.classifier import open_classifier

    return open_classifier()
