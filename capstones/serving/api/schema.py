"""What a request may hold: OpenAI's names, and vLLM's for what OpenAI does not have.

What is not known, or not done here, is refused by name and never silently left out.

>>> ask = Chat.model_validate({"messages": [{"role": "user", "content": "Hi"}], "stop": "\\n"})
>>> ask.asked().stops, ask.asked().prompt
(('\\n',), (('user', 'Hi'),))
"""

import secrets
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from serving.errors import refused
from serving.types import Asked, Sampling, Turns

Finite = {"allow_inf_nan": False}
Token = Annotated[int, Field(ge=0, le=2**31 - 1)]


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("text must not hold half a surrogate pair") from error
    return text


Text = Annotated[str, AfterValidator(_whole)]
Stop = Annotated[Text, Field(min_length=1, max_length=256)]
PLAIN = {"response_format": {"type": "text"}, "tools": [], "tool_choice": "none", "suffix": ""}


class StreamOptions(BaseModel):
    """What a stream tells besides the text."""

    model_config = ConfigDict(extra="forbid")
    include_usage: bool = False


class Writing(BaseModel):
    """What completions and conversations have in common."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    n: Annotated[int, Field(ge=1, le=128)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, **Finite)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, **Finite)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2, **Finite)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2, **Finite)] | None = None
    logit_bias: (
        Annotated[
            dict[Token, Annotated[float, Field(ge=-100, le=100, **Finite)]], Field(max_length=300)
        ]
        | None
    ) = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, **Finite)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0.01, le=100, **Finite)] | None = None
    ignore_eos: bool = False
    # Accepted and not used: what is said about the caller.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    # Only their plain values are done here.
    response_format: Any = None
    tools: Any = None
    tool_choice: Any = None

    @model_validator(mode="after")
    def _is_done_here(self) -> "Writing":
        for name, plain in PLAIN.items():
            if getattr(self, name, None) not in (None, plain):
                raise ValueError(f"{name} is not supported here")
        return self

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the numbers of tokens."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def _asked(self, prompt: Turns | str | tuple[int, ...], **more: Any) -> Asked:
        chosen = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": None if self.top_k is None else max(0, self.top_k),
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "bias": self.logit_bias,
        }
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        given = {name: value for name, value in chosen.items() if value is not None}
        return Asked(
            prompt,
            n=self.n,
            stops=tuple(stops),
            seed=secrets.randbits(62) if self.seed is None else self.seed,
            sampling=Sampling(**given),
            ignore_end=self.ignore_eos,
            **more,
        )


class Part(BaseModel):
    """A part of a message; only text is done here."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """A message of a conversation."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part]
    name: str | None = None

    def turn(self) -> tuple[str, str]:
        """Who says what."""
        role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, str):
            return role, self.content
        return role, "".join(part.text for part in self.content)


class Chat(Writing):
    """`/v1/chat/completions`."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=1000)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    def asked(self) -> Asked:
        """For a backend."""
        if self.top_logprobs is not None and not self.logprobs:
            raise refused("top_logprobs needs logprobs", param="top_logprobs")
        turns = tuple(message.turn() for message in self.messages)
        top = (self.top_logprobs or 0) if self.logprobs else None
        most = self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens
        return self._asked(turns, max_tokens=most, top=top)


class Completion(Writing):
    """`/v1/completions`."""

    prompt: (
        Text
        | Annotated[list[Token], Field(min_length=1)]
        | Annotated[list[Text], Field(min_length=1, max_length=1)]
        | Annotated[
            list[Annotated[list[Token], Field(min_length=1)]], Field(min_length=1, max_length=1)
        ]
    )
    max_tokens: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = 16
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    suffix: Any = None
    best_of: Annotated[int, Field(ge=1, le=1)] | None = None

    def asked(self) -> Asked:
        """For a backend."""
        if self.max_tokens == 0 and not self.echo:
            raise refused("max_tokens must be at least 1 without echo", param="max_tokens")
        return self._asked(self.text_or_tokens, max_tokens=self.max_tokens, top=self.logprobs)

    @property
    def text_or_tokens(self) -> str | tuple[int, ...]:
        """The prompt, out of the list that it may stand in."""
        one = self.prompt
        if isinstance(one, list) and not isinstance(one[0], int):
            one = one[0]
        return one if isinstance(one, str) else tuple(one)


class Embedding(BaseModel):
    """`/v1/embeddings`."""

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=256)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None
