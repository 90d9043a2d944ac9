"""What the parts hand to each other: a request, its response, a judged sample, a number.

A task's documents become requests, a model answers them, a judge gives each document its values,
and values become numbers:

    document -> Request -> Response -> Sample -> Number

>>> request = Request("loglikelihood", "The capital of France is", " Paris")
>>> Request.of(request.as_json()) == request
True
>>> Request("generate", (("user", "Hello"),), until=("\\n",)).as_json()["context"]
[['user', 'Hello']]
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

Kind = Literal["loglikelihood", "rolling", "generate"]
Document = Mapping[str, Any]
Turns = tuple[tuple[str, str], ...]  # (role, content) each


@dataclass(frozen=True)
class Request:
    """One question to a model; equal requests are asked once.

    Attributes
    ----------
    kind
        loglikelihood: of `continuation` after `context`. rolling: of all of `continuation`, nothing
        before it. generate: text after `context`.
    context
        Text, or the turns of a conversation that the model's own template makes text of.
    until
        The text ends before the first of these; they are not part of it.
    temperature
        0 takes the likeliest token. Otherwise tokens are drawn, from `seed`.
    """

    kind: Kind
    context: str | Turns = ""
    continuation: str = ""
    until: tuple[str, ...] = ()
    max_new_tokens: int = 256
    temperature: float = 0.0
    seed: int = 0

    def as_json(self) -> dict[str, Any]:
        """Only what this kind of request depends on."""
        turns = [list(turn) for turn in self.context] if isinstance(self.context, tuple) else None
        content = {"kind": self.kind, "context": self.context if turns is None else turns}
        if self.kind != "generate":
            return content | {"continuation": self.continuation}
        content |= {"until": list(self.until), "max_new_tokens": self.max_new_tokens}
        drawn = {"temperature": self.temperature, "seed": self.seed} if self.temperature else {}
        return content | drawn

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Request":
        """The request that `as_json` wrote."""
        given = dict(content)
        if not isinstance(given["context"], str):
            given["context"] = tuple((role, text) for role, text in given["context"])
        if "until" in given:
            given["until"] = tuple(given["until"])
        return cls(**given)

    @property
    def key(self) -> str:
        """Digest of what is asked."""
        return digest(self.as_json())


@dataclass(frozen=True)
class Response:
    """What a model answered.

    Attributes
    ----------
    logprob, greedy, logprobs, ids
        Of loglikelihood and rolling: the sum in nats, whether each token was the likeliest, and
        both by token, with the tokens' ids where the model tells.
    text, ended
        Of generate: what was written, without what it stopped at, and why it ended.
    n_tokens
        Tokens that were scored or written.
    truncated
        The context did not fit and lost its beginning.
    error
        Why there is no answer; everything else is then empty. Numbers count such samples apart.
    """

    logprob: float | None = None
    greedy: bool | None = None
    logprobs: tuple[float, ...] = ()
    ids: tuple[int, ...] = ()
    text: str | None = None
    ended: Literal["stop", "length", ""] = ""
    n_tokens: int = 0
    truncated: bool = False
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        """Without what is as by default."""
        default = Response()
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        content = {k: v for k, v in content.items() if v != getattr(default, k)}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in content.items()}

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Response":
        """The response that `as_json` wrote."""
        lists = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
        return cls(**lists)


@runtime_checkable
class Model(Protocol):
    """Answers requests.

    Attributes
    ----------
    name
        As a user writes it: `smollm2`, `hf:FOLDER`, …
    identity
        What makes answers of this model its own: digests of weights and tokenizer, dtype, version
        of the code that computes. Two models with equal identities give equal answers.
    """

    name: str
    identity: Mapping[str, str]

    def plan(self, requests: Sequence[Request]) -> list[list[int]]:
        """Which of them are answered together, batch by batch; it depends on nothing but them."""
        ...

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """The answers to one batch of a plan. The same batch gives the same bits."""
        ...


@dataclass(frozen=True)
class Sample:
    """A document with what was asked, answered and made of it.

    Attributes
    ----------
    id
        The document's, the same whatever the limit.
    target, prediction
        The right answer and the model's, as a reader would like to see them: a choice's index or
        text.
    values
        What each metric aggregates; empty if there was an error.
    group
        What a report splits by, such as a category.
    cluster
        Documents of one cluster are not independent: the same passage, the same template.
    template
        Which of the task's prompts it was asked with; "" is the standard one.
    """

    task: str
    id: str
    document: Document
    requests: tuple[Request, ...]
    responses: tuple[Response, ...]
    target: Any = None
    prediction: Any = None
    values: Mapping[str, Any] = field(default_factory=dict)
    group: str = ""
    cluster: str = ""
    template: str = ""
    error: str = ""

    def as_json(self) -> dict[str, Any]:
        """A line of samples.jsonl."""
        content = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        content["requests"] = [request.as_json() for request in self.requests]
        content["responses"] = [response.as_json() for response in self.responses]
        return content

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Sample":
        """The sample that `as_json` wrote."""
        given = dict(content)
        given["requests"] = tuple(Request.of(request) for request in given["requests"])
        given["responses"] = tuple(Response.of(response) for response in given["responses"])
        return cls(**given)


@dataclass(frozen=True)
class Number:
    """A measured number with what is needed to defend it.

    Attributes
    ----------
    stderr, low, high
        Standard error and 95 % interval; None where nothing is known of them.
    n, failed
        Documents it rests on, and those that got no answer and are not in it.
    higher_is_better
        None where neither is, as for a gap that should be 0.
    signature
        The protocol in one line, as sacreBLEU's: equal signatures may be compared.
    group, template
        Which part of the documents, which prompt; "" is all of them, and the standard one.
    detectable
        The smallest difference from the neutral value that n documents show with power 0.8.
    note
        A sentence that must stand beside it.
    """

    task: str
    metric: str
    value: float | None
    stderr: float | None
    low: float | None
    high: float | None
    n: int
    failed: int
    higher_is_better: bool | None
    signature: str
    group: str = ""
    template: str = ""
    detectable: float | None = None
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """A row of results.json."""
        return dataclasses.asdict(self)


@runtime_checkable
class Judge(Protocol):
    """How a task's documents become requests, and responses become values and numbers."""

    def requests(self, document: Document) -> tuple[Request, ...]:
        """What a model is asked about a document."""
        ...

    def sample(self, id: str, document: Document, responses: Sequence[Response]) -> Sample:
        """What the answers are worth."""
        ...

    def numbers(self, samples: Sequence[Sample]) -> list[Number]:
        """What the samples say together."""
        ...


def digest(content: Any) -> str:
    """SHA-256 of anything that JSON holds, in one spelling."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
