"""A language model as the server sees it: weights, tokens, and how a conversation is written."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from llm_eval.models.tokens import Codec, prompt
from serving.errors import refused
from serving.types import Turns
from shared.errors import UserError


@runtime_checkable
class Network(Protocol):
    """What `week19.scheduler` computes with: a `Llama`, or what can be called like one.

    It has a `config` and an `embed` too. They are not members: from Python 3.12 on `isinstance`
    does not see the submodules of a torch module.
    """

    def __call__(self, tokens: Any, **options: Any) -> Any:
        """Logits, see `week18.llama3.Llama.forward`."""
        ...


@dataclass(frozen=True)
class LanguageModel:
    """A model and its tokenizer.

    Attributes
    ----------
    network
        Gives the logits after the last token.
    plain
        Gives those after each token.
    """

    name: str
    network: Network
    plain: Network
    codec: Codec

    @property
    def context(self) -> int:
        """Most tokens that it sees."""
        return self.network.config.context

    @property
    def vocab_size(self) -> int:
        """Tokens that it knows."""
        return self.network.config.vocab_size

    def tokens(self, asked: Turns | str | tuple[int, ...]) -> list[int]:
        """The tokens that an answer follows.

        Raises
        ------
        ApiError
            If the model has no template for conversations, or does not know a token.
        """
        if isinstance(asked, tuple) and asked and isinstance(asked[0], int):
            if not all(0 <= token < self.vocab_size for token in asked):
                most = self.vocab_size - 1
                raise refused(f"prompt must hold tokens from 0 to {most}", param="prompt")
            return list(asked)
        try:
            return prompt(self.codec, asked)
        except UserError as error:
            message = f"{self.name} knows no conversations; use /v1/completions"
            raise refused(message, param="messages") from error
        except Exception as error:  # a template of the model's refuses this order of roles
            message = f"messages or prompt cannot be written as tokens: {error}"
            raise refused(message) from error

    def spelled(self, token: int) -> bytes:
        """The bytes of a token; of a control token its name."""
        tokenizer = getattr(self.codec, "tokenizer", None)
        vocab = getattr(tokenizer, "vocab", None)
        if isinstance(vocab, list) and isinstance(vocab[token], bytes):
            return vocab[token]
        return self.codec.decode([token]).encode()

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens."""
        return self.codec.decode(tokens)
