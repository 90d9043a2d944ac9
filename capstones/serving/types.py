"""What the parts of the server say to each other: a request, and the pieces of its answer."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

Turns = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes
    ----------
    temperature, top_p, top_k, min_p, repetition_penalty
        As in `week19.sampling.Sampler`.
    presence_penalty, frequency_penalty
        Taken from the logit of a token that the answer has, once, and for each time.
    bias
        Added to the logits of tokens.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes
    ----------
    prompt
        A conversation, a text, or tokens.
    max_tokens
        Most tokens of each answer; as many as fit if None. With 0 there is only the prompt.
    n
        Answers to the same prompt.
    seed
        Of the first answer, the next has the next.
    top
        How many of the likeliest tokens are told at each place; None tells nothing of tokens.
    ignore_end
        Whether to go on after the token that ends an answer.
    """

    prompt: Turns | str | tuple[int, ...]
    max_tokens: int | None = None
    n: int = 1
    stops: tuple[str, ...] = ()
    seed: int = 0
    top: int | None = None
    sampling: Sampling = Sampling()
    ignore_end: bool = False


@dataclass(frozen=True)
class Said:
    """A token: its number and how likely it was (None for a text's first), and the likeliest."""

    token: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """A piece of an answer.

    Attributes
    ----------
    tokens
        Those that were chosen since the last piece, where they are asked for.
    finish
        Why the answer ends with this piece: `stop`, `length` or `content_filter`.
    extra
        More that a model has to say, such as citations.
    """

    text: str
    tokens: tuple[Said, ...] = ()
    finish: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Answer(Protocol):
    """One answer on its way.

    Attributes
    ----------
    n_prompt, n_written
        Tokens so far.
    """

    n_prompt: int
    n_written: int

    def __aiter__(self) -> AsyncIterator[Piece]:
        """Its pieces; the last one says why it ends."""
        ...

    def cancel(self) -> None:
        """Nobody reads on."""
        ...


@runtime_checkable
class Backend(Protocol):
    """What answers."""

    @property
    def active(self) -> int:
        """How many answers are not at their ends."""
        ...

    def begin(self, asked: Asked) -> list[Answer]:
        """Let a request in; an `ApiError` says why not."""
        ...

    def close(self) -> None:
        """Nothing more is asked."""
        ...
