"""A model without weights: every answer is a digest of the question, so it is random and the same.

>>> from llm_eval.types import Request
>>> model = Dummy()
>>> (response,) = model.answer([Request("loglikelihood", "Is water wet?", " yes")])
>>> round(response.logprob, 3), response.greedy, response.n_tokens
(-0.359, True, 1)
>>> model.answer([Request("generate", "Is water wet?", max_new_tokens=3)])[0].text
' two not'
"""

import hashlib
from collections.abc import Sequence

from llm_eval.models.until import cut
from llm_eval.types import Request, Response

WORDS = ("yes", "no", "one", "two", "the", "sea", "is", "was", "not", "A", "B", "C", "D", "\n")
BATCH = 64


class Dummy:
    """Answers at once and without reason; a task scores what chance scores.

    Parameters
    ----------
    seed
        Another seed is another model.
    """

    def __init__(self, seed: int = 0):
        self.seed, self.name = seed, "dummy"
        self.identity = {"dummy": str(seed)}

    def plan(self, requests: Sequence[Request]) -> list[list[int]]:
        """Batches of 64, in the order in which contexts first come."""
        groups: dict[tuple, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault((request.kind, request.context), []).append(i)
        batches: list[list[int]] = []
        for group in groups.values():
            if not batches or len(batches[-1]) + len(group) > BATCH:
                batches.append([])
            batches[-1] += group
        return batches

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """A number between -2 and 0 per word, or some words."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Response:
        draws = self._draws(request)
        if request.kind != "generate":
            n = len(request.continuation.split()) or int(bool(request.continuation))
            logprobs = tuple(-2 * next(draws) for _ in range(n))
            greedy = all(logprob > -0.5 for logprob in logprobs)
            return Response(sum(logprobs, 0.0), greedy, logprobs, n_tokens=n)
        most = min(request.max_new_tokens, 1 + int(12 * next(draws)))
        words = [WORDS[int(next(draws) * len(WORDS))] for _ in range(most)]
        text, stopped = cut("".join(f" {word}" for word in words), request.until)
        ended = "stop" if stopped or most < request.max_new_tokens else "length"
        return Response(text=text, ended=ended, n_tokens=most)

    def _draws(self, request: Request):
        """Numbers in [0, 1) that the request and the seed decide."""
        n = 0
        while True:
            found = hashlib.sha256(f"{self.seed} {request.key} {n}".encode()).digest()
            yield from (int.from_bytes(found[i : i + 4]) / 2**32 for i in range(0, 32, 4))
            n += 1
