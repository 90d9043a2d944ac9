"""Models that answer, by name: ours, a run of tiny-gpt, a folder, an address, or none at all.

>>> open_model("extractive").name
'extractive'
>>> open_model("gpt-9")
Traceback (most recent call last):
shared.errors.UserError: model must be smollm2, extractive, tiny_gpt:RUN, hf:FOLDER or openai:URL, \
got 'gpt-9'
"""

from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Protocol, runtime_checkable

from rag.answering.prompt import Message
from shared.errors import UserError

NAMES = "smollm2, extractive, tiny_gpt:RUN, hf:FOLDER or openai:URL"


@runtime_checkable
class Model(Protocol):
    """Continues a conversation.

    Attributes
    ----------
    note
        What a user should know of it, such as that it stands in for another; may be empty.
    """

    name: str
    note: str

    def fits(self, messages: list[Message], max_new_tokens: int) -> bool:
        """Whether prompt and answer fit into what the model can see."""
        ...

    def stream(
        self,
        messages: list[Message],
        *,
        max_new_tokens: int = 160,
        seed: int = 0,
        temperature: float = 0.0,
        stop: Event | None = None,
    ) -> Iterator[str]:
        """The answer in pieces, until it ends, `stop` is set or the iterator is closed."""
        ...


class Extractive:
    """No model: answers are quotes of the documents, chosen by `extractive.quote`."""

    def __init__(self, note: str = ""):
        self.name, self.note = "extractive", note

    def fits(self, messages: list[Message], max_new_tokens: int) -> bool:
        """Quotes are as long as they are."""
        return True

    def stream(self, messages: list[Message], **options: object) -> Iterator[str]:
        """Quotes need chunks, not a conversation."""
        raise UserError("the extractive model quotes documents; ask through rag.answering.Answerer")


def open_model(name: str = "smollm2") -> Model:
    """Open a model.

    Parameters
    ----------
    name
        `smollm2`; `extractive`; `tiny_gpt:RUN`, a run's folder; `hf:FOLDER`, a causal language
        model of Transformers; `openai:URL` or `openai:URL#MODEL`, a server that speaks OpenAI's
        chat completions, the key in the environment (RAG_API_KEY or OPENAI_API_KEY).

    Raises
    ------
    UserError
        There is no such model, or it cannot be read.
    """
    kind, _, rest = name.partition(":")
    if name == "smollm2":
        return _smollm2()
    if name == "extractive":
        return Extractive()
    if kind == "tiny_gpt" and rest:
        from rag.answering.local import TinyGPT

        return TinyGPT(Path(rest))
    if kind == "hf" and rest:
        from rag.answering.local import HuggingFace

        return HuggingFace(Path(rest))
    if kind == "openai" and rest:
        from rag.answering.remote import OpenAI

        return OpenAI(rest)
    raise UserError(f"model must be {NAMES}, got {name!r}")


def _smollm2() -> Model:
    from rag.answering.smollm2 import SmolLM2

    try:
        return SmolLM2()
    except UserError as error:  # its package is missing
        return Extractive(f"{error}; until then answers are quotes")
