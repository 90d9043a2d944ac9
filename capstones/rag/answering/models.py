"""Models that answer, by reference: on this machine, at an address, or none at all.

>>> open_model("extractive").name
'extractive'
>>> open_model("gpt-9")
Traceback (most recent call last):
shared.errors.UserError: model must be smollm2, hf:FOLDER, tiny_gpt:RUN, compress:DIR, gguf:FILE, \
openai:URL[#MODEL] or extractive, got 'gpt-9'
"""

from collections.abc import Iterator
from threading import Event
from typing import Protocol, runtime_checkable

from rag.answering.prompt import Message
from shared.errors import UserError
from shared.model_refs import SHARED, ModelRef, parse

ACCEPTS = (*SHARED, "extractive")


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
        `smollm2`; `hf:FOLDER`, a causal language model of Transformers; `tiny_gpt:RUN`, a run's
        folder; `compress:DIR`, what `compress` wrote; `gguf:FILE`, a LLaMA; `openai:URL` or
        `openai:URL#MODEL`, a server that speaks OpenAI's chat completions, the key in the
        environment (RAG_API_KEY or OPENAI_API_KEY); `extractive`, quotes; or what a folder or a
        file is, if it is one of these.

    Raises
    ------
    UserError
        There is no such model, or it cannot be read.
    """
    ref = parse(name, accepts=ACCEPTS)
    if ref.kind == "extractive":
        return Extractive()
    if ref.kind == "openai":
        from rag.answering.remote import OpenAI

        return OpenAI(ref.rest)
    return _network(ref) if ref.kind in ("hf", "tiny_gpt") else _llama(ref)


def _network(ref: ModelRef) -> Model:
    from llm_eval.models.opening import open_hugging_face
    from rag.answering.local import NetworkModel

    if ref.kind == "hf":
        return NetworkModel(ref.text, *open_hugging_face(ref))
    from llm_eval.models.networks import TinyNetwork
    from llm_eval.models.tokens import TinyCodec
    from tiny_gpt.training.checkpoints import load_checkpoint

    checkpoint = load_checkpoint(ref.path)
    codec = TinyCodec(checkpoint.tokenizer, ref.text)
    return NetworkModel(ref.text, TinyNetwork(checkpoint.model), codec)


def _llama(ref: ModelRef) -> Model:
    from llm_eval.models.llamas import open_llama
    from rag.answering.llama import LlamaModel

    try:
        model, codec = open_llama(ref)
    except UserError as error:
        if ref.kind != "smollm2":
            raise
        return Extractive(f"{error}; until then answers are quotes")  # its package is missing
    return LlamaModel(ref.text, model, codec)
