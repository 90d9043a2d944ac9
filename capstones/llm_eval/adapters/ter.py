"""TER as a module of `evaluate`: `evaluate.load(".../adapters/ter.py").compute(...)`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import evaluate

from llm_eval.adapters.modules import described, nested
from llm_eval.metrics.ter import corpus_ter, signature
from llm_eval.metrics.texts import References, count_references


class Ter(evaluate.Metric):
    """TER of a corpus; options are those of `llm_eval.metrics.ter.corpus_ter`."""

    def _info(self) -> evaluate.MetricInfo:
        return described(Ter.__doc__)

    def _compute(
        self, predictions: list[str], references: Sequence[str | References], **options: Any
    ) -> dict[str, Any]:
        texts = nested(references)
        signed = signature(nrefs=count_references(texts), **options)
        score = corpus_ter(predictions, texts, **options)
        return dataclasses.asdict(score) | {"signature": signed}
