"""What the standard judges have in common: prompts, samples, numbers and their signatures.

A response that failed makes a sample with an error, which is in no average; numbers count it apart.
A signature names all that a number depends on beside the model: task and version, examples, prompt,
data, metric. Numbers of equal signatures may be compared.

>>> from llm_eval.tasks.opening import open_tasks
>>> (task,) = open_tasks(["mini_cloze"])
>>> judge = task.judge()
>>> judge.signature
'mini_cloze:1|shots:0|chat:no|prompt:0fdafb88|data:5c932e36'
>>> failed = judge.sample("0", task.documents(1)[0][1], [Response(error="timeout")])
>>> [(row.metric, row.value, row.n, row.failed) for row in judge.numbers([failed])]
[('perplexity', None, 0, 1), ('acc', None, 0, 1)]
"""

import dataclasses
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from llm_eval.statistics.estimates import bootstrap_estimate, mean_estimate, minimum_detectable
from llm_eval.tasks.config import Config, Prompt
from llm_eval.tasks.fewshot import Examples
from llm_eval.tasks.prompts import as_text, as_turns, conversation
from llm_eval.tasks.templates import render
from llm_eval.types import Document, Number, Request, Response, Sample, Turns, digest

NOT_RUN = "programs were not run; --allow-code runs them in a sandbox"


class StandardJudge:
    """What the four have in common.

    Parameters
    ----------
    prompt
        The task's, or one of its other ones.
    examples
        What stands before a document.
    data
        A digest of the documents' files, for the signature.
    """

    def __init__(
        self,
        config: Config,
        prompt: Prompt,
        examples: Examples,
        *,
        template: str = "",
        chat: bool = False,
        seed: int = 0,
        allow_code: bool = False,
        data: str = "",
    ):
        self.config, self.prompt, self.examples = config, prompt, examples
        self.template, self.chat, self.seed, self.allow_code = template, chat, seed, allow_code
        self.shown = prompt.changed(config.fewshot.changes)
        parts = ("fewshot", "generation", "pipelines", "counted")
        asked = [getattr(config, name) for name in parts]
        self.signature = "|".join(
            [
                f"{config.name}:{config.version}",
                f"shots:{examples.number}",
                f"chat:{'yes' if chat else 'no'}",
                f"prompt:{_short([prompt, *asked])}",
                f"data:{data}",
            ]
        )
        if examples.number and examples.sampler == "default":
            self.signature += f"|seed:{seed}"

    def requests(self, document: Document) -> tuple[Request, ...]:
        """What a model is asked about a document."""
        raise NotImplementedError

    def judged(
        self, document: Document, responses: Sequence[Response]
    ) -> tuple[Any, Any, dict[str, Any]]:
        """Target, prediction and values."""
        raise NotImplementedError

    def sample(self, id: str, document: Document, responses: Sequence[Response]) -> Sample:
        """What the answers are worth."""
        error = next((response.error for response in responses if response.error), "")
        judged = (None, None, {}) if error else self.judged(document, responses)
        return Sample(
            self.config.name,
            id,
            document,
            self.requests(document),
            tuple(responses),
            *judged,
            group=render(self.config.group, document),
            cluster=render(self.config.cluster, document),
            template=self.template,
            error=error,
        )

    def numbers(self, samples: Sequence[Sample]) -> list[Number]:
        """Each metric, of all samples and of each group."""
        groups: dict[str, list[Sample]] = {}
        for sample in samples:
            groups.setdefault(sample.group, []).append(sample)
        named = [("", list(samples))]
        if len(groups) > 1:
            named += [(name, groups[name]) for name in sorted(groups) if name]
        return [self._number(name, group, found) for name in self.metrics for group, found in named]

    @cached_property
    def metrics(self) -> dict[str, tuple[str, Any]]:
        """By a value's name, the filters before the metric, and the metric."""
        from llm_eval.metrics.registry import metric

        pipelines = list(self.config.pipelines) or [""]
        found = {}
        for spec in self.config.metrics:
            options = dict(spec.options) | ({"allow_code": True} if runs(spec.name) else {})
            for pipeline in pipelines:
                name = f"{spec.name},{pipeline}" if len(pipelines) > 1 else spec.name
                made = metric(self.config.output_type, spec.name, **options)
                if spec.higher_is_better is not None:
                    made = dataclasses.replace(made, higher_is_better=spec.higher_is_better)
                found[name] = (pipeline, made)
        return found

    def context(self, document: Document, question: str | None = None) -> str | Turns:
        """Everything before the answer."""
        shown = [(self.shown, example) for example in self.examples.of(document)]
        messages = conversation(self.prompt, document, shown, question)
        return as_turns(messages) if self.chat else as_text(messages)

    def _number(self, name: str, group: str, samples: Sequence[Sample]) -> Number:
        _, metric = self.metrics[name]
        good = [s for s in samples if not s.error and name in s.values]
        estimate, note = None, ""
        if runs(metric.name) and not self.allow_code:
            note = NOT_RUN
        elif good:
            values = [sample.values[name] for sample in good]
            clusters = [s.cluster or f"alone {s.id}" for s in good] if self.config.cluster else None
            estimate = (
                mean_estimate(values, clusters=clusters)
                if metric.linear
                else bootstrap_estimate(values, metric.aggregate, clusters=clusters, seed=self.seed)
            )
        return Number(
            self.config.name,
            name,
            estimate and estimate.value,
            estimate and estimate.stderr,
            estimate and estimate.low,
            estimate and estimate.high,
            n=len(good),
            failed=sum(bool(sample.error) for sample in samples),
            higher_is_better=metric.higher_is_better,
            signature=f"{self.signature}|{metric.signature}",
            group=group,
            template=self.template,
            detectable=minimum_detectable(estimate.stderr)
            if estimate and estimate.stderr
            else None,
            note=note,
        )


def runs(name: str) -> bool:
    """Whether a metric runs programs that a model wrote."""
    return name.startswith("pass@")


def _short(content: Any) -> str:
    return digest(json.loads(json.dumps(content, default=dataclasses.asdict)))[:8]
