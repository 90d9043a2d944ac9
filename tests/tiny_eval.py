"""A model, tasks and judges without weights or data, and a run's outcome as bytes."""

import hashlib
import json
import math
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass

from llm_eval.statistics.estimates import mean_estimate
from llm_eval.types import Number, Request, Response, Sample


class TinyModel:
    """Answers from digests; what a batch holds shows in an answer's last digits, as in life."""

    name = "tiny"

    def __init__(self, seed: int = 0, *, batch: int = 3, pause: float = 0.0, fails=()):
        self.identity = {"seed": str(seed)}
        self.batch, self.pause, self.fails = batch, pause, set(fails)
        self.asked: list[list[str]] = []

    def plan(self, requests: Sequence[Request]) -> list[list[int]]:
        order = sorted(range(len(requests)), key=lambda i: (-len(requests[i].context), i))
        return [order[i : i + self.batch] for i in range(0, len(order), self.batch)]

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        time.sleep(self.pause)
        self.asked.append([request.key for request in requests])
        beside = hashlib.sha256("".join(r.key for r in requests).encode()).digest()[0]
        return [self._answer(request, beside) for request in requests]

    def _answer(self, request: Request, beside: int) -> Response:
        if request.continuation in self.fails:
            return Response(error="no answer to this")
        seed = f"{self.identity['seed']}{request.key}".encode()
        (number,) = struct.unpack("<Q", hashlib.sha256(seed).digest()[:8])
        logprob = -10 * number / 2**64 - beside * 1e-9
        return Response(logprob=logprob, greedy=number % 2 == 0, logprobs=(logprob,), n_tokens=1)


@dataclass
class TinyJudge:
    """Which of three continuations is the likeliest."""

    task: str
    template: str
    signature: str

    def requests(self, document):
        if "refuse" in document:
            raise KeyError("question")
        context = f"{self.template}{document['question']}"
        return tuple(Request("loglikelihood", context, choice) for choice in document["choices"])

    def sample(self, id, document, responses):
        if "odd" in document:
            raise ZeroDivisionError("nothing\nto divide")
        scores = [-math.inf if r.logprob is None else r.logprob for r in responses]
        likeliest = scores.index(max(scores))
        return Sample(
            *(self.task, id, document, self.requests(document), tuple(responses)),
            target=document["answer"],
            prediction=likeliest,
            values={"acc": float(likeliest == document["answer"])},
            cluster=document.get("cluster", ""),
            template=self.template,
        )

    def numbers(self, samples):
        good = [sample for sample in samples if not sample.error]
        failed = len(samples) - len(good)
        common = {"higher_is_better": True, "signature": self.signature, "template": self.template}
        if not good:
            none = (None, None, None, None, 0, failed)
            return [Number(self.task, "acc", *none, **common)]
        of = mean_estimate([sample.values["acc"] for sample in good])
        found = (of.value, of.stderr, of.low, of.high, of.n, failed)
        return [Number(self.task, "acc", *found, **common)]


class TinyTask:
    """Questions with three choices."""

    title, license, source, version = "Tiny", "CC0", "none", 1
    tags, summaries = ("mini",), ()

    def __init__(self, name="tiny", n=10, templates=("", "terse "), extra=()):
        self.name = self.reference = name
        self.templates, self.size = templates, n + len(extra)
        self.rows = [
            (
                f"{i}",
                {
                    "question": f"{name} {'?' * (i % 5)} {i}",
                    "choices": list("abc"),
                    "answer": i % 3,
                },
            )
            for i in range(n)
        ]
        self.rows += [(f"x{i}", {**self.rows[0][1], **row}) for i, row in enumerate(extra)]

    def judge(self, template="", *, num_fewshot=None, chat=False, seed=0):
        return TinyJudge(self.name, template, f"acc|shots:{num_fewshot}|chat:{chat}|seed:{seed}")

    def documents(self, limit=None):
        return self.rows[:limit]


def as_bytes(outcome) -> bytes:
    """All of an outcome that does not say how it came about."""
    content = {
        "numbers": [number.as_json() for number in outcome.numbers],
        "samples": [sample.as_json() for sample in outcome.samples],
        "about": [outcome.settings, outcome.model, outcome.tasks, outcome.missing],
    }
    return json.dumps(content, sort_keys=True).encode()
