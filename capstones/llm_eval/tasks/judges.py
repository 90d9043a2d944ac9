"""The four standard judges: how documents become requests, and responses become values.

    multiple_choice        log-likelihood of each choice; the likeliest is the answer
    loglikelihood          log-likelihood of one continuation
    loglikelihood_rolling  log-likelihood of a whole text
    generate_until         a text, which filters and metrics look at

Values are those of `metrics.registry`. Behavior: lm-eval 0.4.13, api/task.py.

>>> from llm_eval.tasks.opening import open_tasks
>>> (task,) = open_tasks(["mini_facts"])
>>> (id, document), judge = task.documents(1)[0], task.judge()
>>> [request.continuation for request in judge.requests(document)]
[' false', ' true']
>>> sample = judge.sample(id, document, [Response(logprob=-2.0), Response(logprob=-1.0)])
>>> sample.prediction, sample.target, sample.values["acc"]
(1, 1, 1.0)
"""

from collections.abc import Sequence
from typing import Any

from llm_eval.tasks.filters import apply
from llm_eval.tasks.prompts import choices_of, pick, target_of, text_of
from llm_eval.tasks.standard import StandardJudge, runs
from llm_eval.tasks.templates import render
from llm_eval.types import Document, Request, Response
from shared.errors import UserError


class MultipleChoice(StandardJudge):
    """Choices after one context, or one continuation after several contexts (Winogrande)."""

    def requests(self, document: Document) -> tuple[Request, ...]:
        """A log-likelihood per choice."""
        choices, question = choices_of(self.prompt, document), text_of(self.prompt, document)
        delimiter = "" if self.chat else self.prompt.target_delimiter
        if isinstance(question, int):
            continuation = f"{delimiter}{target_of(self.prompt, document)}"
            contexts = [self.context(document, choice) for choice in choices]
            return tuple(Request("loglikelihood", c, continuation) for c in contexts)
        context = self.context(document)
        return tuple(Request("loglikelihood", context, f"{delimiter}{c}") for c in choices)

    def judged(
        self, document: Document, responses: Sequence[Response]
    ) -> tuple[Any, Any, dict[str, Any]]:
        """The likeliest choice, of equals the first."""
        choices = choices_of(self.prompt, document)
        logprobs = [response.logprob for response in responses]
        gold = self._gold(document, choices)
        values = {
            name: metric.value(logprobs, choices, gold)
            for name, (_, metric) in self.metrics.items()
        }
        return gold, max(range(len(choices)), key=logprobs.__getitem__), values

    def _gold(self, document: Document, choices: list[str]) -> int | list[int]:
        question = text_of(self.prompt, document)
        target = question if isinstance(question, int) else target_of(self.prompt, document)
        if isinstance(target, list):
            return [_index(choices, one) for one in target]
        return _index(choices, target)


class LogLikelihood(StandardJudge):
    """How likely the target is after the context."""

    def requests(self, document: Document) -> tuple[Request, ...]:
        """One log-likelihood."""
        target = str(target_of(self.prompt, document))
        return (Request("loglikelihood", self.context(document), target),)

    def judged(
        self, document: Document, responses: Sequence[Response]
    ) -> tuple[Any, Any, dict[str, Any]]:
        """By the sum of log-probabilities, and whether each token was the likeliest."""
        (response,) = responses
        values = {
            name: metric.value(response.logprob, response.greedy)
            for name, (_, metric) in self.metrics.items()
        }
        return target_of(self.prompt, document), response.greedy, values


class Rolling(StandardJudge):
    """How likely a whole text is."""

    def requests(self, document: Document) -> tuple[Request, ...]:
        """One log-likelihood without context."""
        return (Request("rolling", "", str(target_of(self.prompt, document))),)

    def judged(
        self, document: Document, responses: Sequence[Response]
    ) -> tuple[Any, Any, dict[str, Any]]:
        """By words or bytes of the text, or of the text that the task says is counted."""
        (response,) = responses
        text = str(target_of(self.prompt, document))
        counted = render(self.config.counted, document) if self.config.counted else text
        values = {
            name: metric.value(response.logprob, counted)
            for name, (_, metric) in self.metrics.items()
        }
        return None, response.logprob, values


class Generate(StandardJudge):
    """What a model writes after the context."""

    def requests(self, document: Document) -> tuple[Request, ...]:
        """As many texts as the task repeats."""
        how, context = self.config.generation, self.context(document)
        return tuple(
            Request(
                "generate",
                context,
                until=how.until,
                max_new_tokens=how.max_new_tokens,
                temperature=how.temperature,
                seed=seed,
            )
            for seed in range(how.repeats)
        )

    def judged(
        self, document: Document, responses: Sequence[Response]
    ) -> tuple[Any, Any, dict[str, Any]]:
        """The first text that filters leave, against the target or the best of several."""
        texts = [response.text or "" for response in responses]
        target = target_of(self.prompt, document)
        if self.prompt.choices is not None and isinstance(target, int):
            target = pick(choices_of(self.prompt, document), target)
        references = [str(one) for one in target] if isinstance(target, list) else [str(target)]
        values, first = {}, None
        for name, (pipeline, metric) in self.metrics.items():
            if runs(metric.name):
                if self.allow_code:
                    programs = [f"{text_of(self.prompt, document)}{text}" for text in texts]
                    values[name] = metric.value(programs, references)
                continue
            prediction = self._filtered(pipeline, texts)
            first = prediction if first is None else first
            values[name] = metric.value(prediction, references)
        return target, texts[0] if first is None else first, values

    def _filtered(self, pipeline: str, texts: list[str]) -> str:
        left = apply(self.config.pipelines.get(pipeline, ()), texts)
        return left[0] if left else ""


JUDGES: dict[str, type[StandardJudge]] = {
    "multiple_choice": MultipleChoice,
    "loglikelihood": LogLikelihood,
    "loglikelihood_rolling": Rolling,
    "generate_until": Generate,
}


def _index(choices: list[str], target: Any) -> int:
    if isinstance(target, str):
        if target not in choices:
            raise UserError(f"the target must be one of the choices {choices}, got {target!r}")
        return choices.index(target)
    pick(choices, target)
    return int(target)
