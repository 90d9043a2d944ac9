r"""A context and its continuation as tokens, as lm-eval cuts them.

Text is encoded as a whole, since `" Paris"` after `"is"` is one token and `"Paris"` after `"is "`
another: spaces at a context's end move to the continuation, the whole is encoded, and the
continuation is what comes after as many tokens as the context has by itself.

>>> from tiny_gpt.data.tokenizers import train_tokenizer
>>> text = "The capital is Paris. " * 9
>>> codec = TinyCodec(train_tokenizer("bpe", [text], vocab_size=300), "tiny")
>>> pair(codec, "The capital is ", "Paris")  # " Paris" is one token
([268, 271, 265], [270])
>>> pair(codec, "", "Paris")  # nothing before: the token that begins or ends a text
([0], [258, 264])

Source: lm-eval 0.4.13, `lm_eval/api/model.py`, `TemplateLM._encode_pair`.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from llm_eval.types import Turns
from shared.errors import UserError
from shared.require import require
from week18.gguf_file import GGUF
from week18.gguf_tokenizer import GGUFTokenizer
from week18.smollm2 import SYSTEM


@runtime_checkable
class Codec(Protocol):
    """A model's tokenizer.

    Attributes
    ----------
    prefix
        The token that stands before a text without context.
    ends
        Tokens that end an answer.
    """

    prefix: int
    ends: frozenset[int]

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Ids of a text, behind the token that begins it if there is one and `special`."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text that ids stand for, control tokens left out."""
        ...

    def chat(self, turns: Turns) -> list[int] | str:
        """A conversation in the model's template, the assistant's turn opened."""
        ...


def prompt(codec: Codec, context: str | Turns) -> list[int]:
    """The tokens that an answer follows."""
    if isinstance(context, tuple):
        opened = codec.chat(context)
        return codec.encode(opened, special=False) if isinstance(opened, str) else opened
    return codec.encode(context) or [codec.prefix]


def pair(codec: Codec, context: str | Turns, continuation: str) -> tuple[list[int], list[int]]:
    """Tokens of the context, at least one, and of its continuation.

    Raises
    ------
    ValueError
        The continuation makes no token of its own.
    """
    found = _pair(codec, context, continuation)
    require(found[1], "continuation must make a token of its own", repr(continuation))
    return found


def _pair(codec: Codec, context: str | Turns, continuation: str) -> tuple[list[int], list[int]]:
    special = isinstance(context, str)
    if not special:
        context = codec.chat(context)
        if not isinstance(context, str):
            return context, codec.encode(continuation, special=False)
    cut = len(context.rstrip())
    context, continuation = context[:cut], context[cut:] + continuation
    if not context:
        ids = codec.encode(continuation, special=False)
        return (ids[:1], ids[1:]) if ids[:1] == [codec.prefix] else ([codec.prefix], ids)
    before = codec.encode(context, special=special)
    return before, codec.encode(context + continuation, special=special)[len(before) :]


# ---- the tokenizers


class GGUFCodec:
    """The tokenizer inside a GGUF file. What a text says is text: `<|im_end|>` in it ends nothing.

    Parameters
    ----------
    prefix
        The token that stands before a text without context; the one that ends a turn if None.
    begins
        Whether that token stands before every text.
    template
        For conversations; of SmolLM2's the system's message is known.
    """

    def __init__(
        self,
        tokenizer: GGUFTokenizer,
        name: str,
        *,
        prefix: int | None = None,
        begins: bool = False,
        template: str = "",
    ):
        self.tokenizer, self.name, self.ends = tokenizer, name, frozenset([tokenizer.end])
        self.prefix = tokenizer.end if prefix is None else prefix
        self._begins = [self.prefix] if begins else []
        self._control = frozenset(tokenizer.special_tokens.values())
        self._system = SYSTEM if SYSTEM in template else None

    @classmethod
    def of(cls, file: GGUF) -> "GGUFCodec":
        """That of a file.

        Raises
        ------
        UserError
            The file has none that is known.
        """
        said = file.fields.get
        return cls(
            GGUFTokenizer.from_gguf(file),
            file.name,
            prefix=said("tokenizer.ggml.bos_token_id"),
            begins=bool(said("tokenizer.ggml.add_bos_token")),
            template=str(said("tokenizer.chat_template", "")),
        )

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """See `Codec.encode`."""
        return (self._begins if special else []) + self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """See `Codec.decode`."""
        return self.tokenizer.decode([i for i in ids if i not in self._control])

    def chat(self, turns: Turns) -> list[int]:
        """See `Codec.chat`; the template must be ChatML."""
        if "<|im_start|>" not in self.tokenizer.special_tokens:
            raise UserError(f"{self.name} knows no conversations in ChatML; ask without --chat")
        messages = [{"role": role, "content": content} for role, content in turns]
        return self.tokenizer.chat(messages, system=self._system)


class TinyCodec:
    """A tokenizer of tiny-gpt; characters that it never saw are a ValueError."""

    def __init__(self, tokenizer: Any, name: str):
        from tiny_gpt.generation.writing import prompt_tokens

        self.tokenizer, self.name = tokenizer, name
        self.prefix = int(prompt_tokens(tokenizer, "")[0])
        end = tokenizer.end_of_text
        self.ends = frozenset() if end is None else frozenset([end])

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """See `Codec.encode`."""
        return self.tokenizer.encode(text).tolist()

    def decode(self, ids: Sequence[int]) -> str:
        """See `Codec.decode`."""
        return self.tokenizer.decode([i for i in ids if i not in self.ends])

    def chat(self, turns: Turns) -> str:
        """It was never taught to."""
        raise UserError(f"{self.name} knows no conversations; ask without --chat")


class HuggingFaceCodec:
    """A tokenizer of Transformers; names of control tokens in a text become these tokens."""

    def __init__(self, tokenizer: Any, name: str, ends: Sequence[int] = ()):
        begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
        self.tokenizer, self.name = tokenizer, name
        self.ends = frozenset(i for i in (*ends, end) if i is not None)
        if begin is None and end is None:
            raise UserError(f"{name}: its tokenizer must have a token that begins or ends a text")
        self.prefix = end if begin is None else begin

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """See `Codec.encode`; a text that brings its first token gets no second one."""
        begun = text.startswith(self.tokenizer.decode([self.prefix]))
        return self.tokenizer.encode(text, add_special_tokens=special and not begun)

    def decode(self, ids: Sequence[int]) -> str:
        """See `Codec.decode`."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def chat(self, turns: Turns) -> str:
        """See `Codec.chat`."""
        if not self.tokenizer.chat_template:
            raise UserError(f"{self.name} has no template for conversations; ask without --chat")
        messages = [{"role": role, "content": content} for role, content in turns]
        options = {"tokenize": False, "add_generation_prompt": True}
        return self.tokenizer.apply_chat_template(messages, **options)
