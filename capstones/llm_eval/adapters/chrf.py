"""chrF as a module of `evaluate`: `evaluate.load(".../adapters/chrf.py").compute(...)`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import evaluate

from llm_eval.adapters.modules import described, nested
from llm_eval.metrics.chrf import corpus_chrf, signature
from llm_eval.metrics.texts import References, count_references


class Chrf(evaluate.Metric):
    """chrF of a corpus; options are those of `llm_eval.metrics.chrf.corpus_chrf`."""

    def _info(self) -> evaluate.MetricInfo:
        return described(Chrf.__doc__)

    def _compute(
        self, predictions: list[str], references: Sequence[str | References], **options: Any
    ) -> dict[str, Any]:
        texts = nested(references)
        signed = signature(nrefs=count_references(texts), **options)
        score = corpus_chrf(predictions, texts, **options)
        return dataclasses.asdict(score) | {"signature": signed}
