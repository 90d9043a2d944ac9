"""A model on this machine: requests become tokens, a network computes, tokens become answers.

>>> import torch
>>> from llm_eval.models.networks import LlamaNetwork
>>> from llm_eval.models.tokens import TinyCodec
>>> from tiny_gpt.data.tokenizers import train_tokenizer
>>> from week18.llama3 import Llama, LlamaConfig
>>> network = LlamaNetwork(Llama(LlamaConfig(vocab_size=257), torch.Generator().manual_seed(0)))
>>> codec = TinyCodec(train_tokenizer("byte", []), "tiny")
>>> model = LocalModel("tiny", network, codec, identity={})
>>> asked = [Request("loglikelihood", "The sea is", end) for end in (" blue", " red", "")]
>>> model.plan(asked)
[[0, 1, 2]]
>>> [(one.n_tokens, one.error) for one in model.answer(asked)]
[(5, ''), (4, ''), (0, "continuation must make a token of its own, got ''")]
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llm_eval.models.networks import Network, Prompt
from llm_eval.models.planning import Group, pack
from llm_eval.models.scoring import Row, Scores
from llm_eval.models.tokens import Codec, pair, prompt
from llm_eval.models.until import cut, stops
from llm_eval.types import Request, Response
from shared.require import require
from week19.perplexity import rolling_windows


@dataclass(frozen=True)
class Prepared:
    """A request in tokens: rows to score (a long text has several), or a prompt, or an error."""

    rows: tuple[Row, ...] = ()
    prompt: Prompt | None = None
    truncated: bool = False
    error: str = ""

    @property
    def context(self) -> tuple[int, ...]:
        """What requests of a group have in common."""
        if self.prompt is not None:
            return self.prompt.tokens
        return self.rows[0].context if self.rows else ()

    @property
    def longest(self) -> int:
        """Tokens after the context."""
        if self.prompt is not None:
            return self.prompt.max_new_tokens
        after = sum(len(row.context) + len(row.continuation) for row in self.rows)
        return after - len(self.context)


class LocalModel:
    """Answers by a network and its tokenizer; see `llm_eval.types.Model`.

    Parameters
    ----------
    batch_tokens
        Most tokens that are read together, padding included. It changes speed and memory, and
        answers by no more than rounding.
    """

    def __init__(
        self,
        name: str,
        network: Network,
        codec: Codec,
        identity: Mapping[str, str],
        *,
        batch_tokens: int = 4096,
    ):
        require(batch_tokens >= 1, "batch_tokens must be at least 1", batch_tokens)
        self.name, self.identity, self.batch_tokens = name, identity, batch_tokens
        self.network, self.codec = network, codec

    def plan(self, requests: Sequence[Request]) -> list[list[int]]:
        """Batches of one kind, the largest first; requests with one context stay together."""
        kinds: dict[str, dict] = defaultdict(lambda: defaultdict(list))
        sizes: dict[int, tuple[tuple[int, ...], int]] = {}
        for i, request in enumerate(requests):
            prepared = self._prepared(request)
            sizes[i] = prepared.context, prepared.longest
            # A question is what was asked, not its tokens: some of them may have moved.
            question = i if request.kind == "rolling" else request.context
            kinds[request.kind][question].append(i)
        batches = []
        for questions in kinds.values():
            groups = [
                Group(
                    max((sizes[i][0] for i in own), key=len),
                    max(sizes[i][1] for i in own),
                    tuple(own),
                )
                for own in questions.values()
            ]
            for batch in pack(groups, self.batch_tokens, shared=self.network.shared):
                batches.append([i for group in batch for i in group.members])
        return batches

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """See `llm_eval.types.Model.answer`."""
        prepared = [self._prepared(request) for request in requests]
        scores = iter(self._scores([row for one in prepared for row in one.rows]))
        texts = self._texts(requests, prepared)
        found = []
        for i, (request, one) in enumerate(zip(requests, prepared, strict=True)):
            if one.error:
                found.append(Response(error=one.error))
            elif request.kind == "generate":
                found.append(texts[i])
            else:
                found.append(_response(one, [next(scores) for _ in one.rows]))
        return found

    def _prepared(self, request: Request) -> Prepared:
        until = stops(request.until)
        try:
            if request.kind == "generate":
                return self._prompt(request)
            require(not until, "until must be empty where nothing is written", until)
            if request.kind == "rolling":
                return self._windows(request.continuation)
            return self._pair(request)
        except Unanswerable as error:
            return Prepared(error=str(error))

    def _pair(self, request: Request) -> Prepared:
        most = self.network.context
        context, continuation = _encoding(
            lambda: pair(self.codec, request.context, request.continuation)
        )
        must = f"continuation must have at most {most} tokens"
        require(len(continuation) <= most, must, len(continuation), error=Unanswerable)
        # The last token is never read, so context and continuation may be one more.
        room = most + 1 - len(continuation)
        row = Row(tuple(context[-room:]), tuple(continuation))
        return Prepared((row,), truncated=len(context) > room)

    def _windows(self, text: str) -> Prepared:
        tokens = _encoding(lambda: self.codec.encode(text))
        rows = (
            Row(tuple(given[: len(given) - len(said) + 1]), tuple(said))
            for given, said in rolling_windows(
                tokens, self.codec.prefix, context=self.network.context
            )
        )
        return Prepared(tuple(rows))

    def _prompt(self, request: Request) -> Prepared:
        new, most = request.max_new_tokens, self.network.context
        must = f"max_new_tokens must be from 1 to {most - 1}"
        require(1 <= new < most, must, new, error=Unanswerable)
        tokens = _encoding(lambda: prompt(self.codec, request.context))
        kept = tuple(tokens[new - most :])
        asked = Prompt(kept, new, request.temperature, request.seed)
        return Prepared(prompt=asked, truncated=len(tokens) > len(kept))

    def _scores(self, rows: list[Row]) -> list[Scores]:
        questions: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for i, row in enumerate(rows):
            questions[row.context].append(i)
        groups = [
            Group(context, max(len(rows[i].continuation) for i in own), tuple(own))
            for context, own in questions.items()
        ]
        found: dict[int, Scores] = {}
        for batch in pack(groups, self.batch_tokens, shared=self.network.shared) if rows else []:
            members = [i for group in batch for i in group.members]
            scores = self.network.score([rows[i] for i in members])
            found |= dict(zip(members, scores, strict=True))
        return [found[i] for i in range(len(rows))]

    def _texts(self, requests: Sequence[Request], prepared: list[Prepared]) -> dict[int, Response]:
        asked = [i for i, one in enumerate(prepared) if one.prompt is not None]
        written: dict[int, list[int]] = {i: [] for i in asked}
        ended = dict.fromkeys(asked, "length")

        def done(place: int, token: int) -> bool:
            i = asked[place]
            if token in self.codec.ends:
                ended[i] = "stop"
                return True
            written[i].append(token)
            # The whole text, for a stop may begin in any token and end in a later one.
            if requests[i].until and cut(self.codec.decode(written[i]), requests[i].until)[1]:
                ended[i] = "stop"
            return ended[i] == "stop"

        if asked:
            self.network.write([prepared[i].prompt for i in asked], self.codec.ends, done)
        return {
            i: Response(
                text=cut(self.codec.decode(written[i]), requests[i].until)[0],
                ended=ended[i],
                n_tokens=len(written[i]),
                truncated=prepared[i].truncated,
            )
            for i in asked
        }


class Unanswerable(Exception):
    """Why one request has no answer; the others have theirs."""


def _encoding(encode):
    try:
        return encode()
    except ValueError as error:
        raise Unanswerable(str(error)) from error


def _response(prepared: Prepared, scores: list[Scores]) -> Response:
    logprobs = tuple(logprob for one in scores for logprob in one.logprobs)
    return Response(
        logprob=sum(logprobs, 0.0),
        greedy=all(one.greedy for one in scores),
        logprobs=logprobs,
        ids=tuple(token for row in prepared.rows for token in row.continuation),
        n_tokens=len(logprobs),
        truncated=prepared.truncated,
    )
