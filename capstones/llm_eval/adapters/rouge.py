"""ROUGE as a module of `evaluate`: `evaluate.load(".../adapters/rouge.py").compute(...)`."""

from collections.abc import Sequence
from typing import Any

import evaluate

from llm_eval.adapters.modules import described, nested
from llm_eval.metrics.rouge import KINDS, corpus_rouge, signature
from llm_eval.metrics.texts import References, count_references, given


class RougeModule(evaluate.Metric):
    """Mean F1 of each kind of ROUGE; options are `kinds` and `stem`."""

    def _info(self) -> evaluate.MetricInfo:
        return described(RougeModule.__doc__)

    def _compute(
        self,
        predictions: list[str],
        references: Sequence[str | References],
        kinds: Sequence[str] = (*KINDS, "rougeLsum"),
        stem: bool = False,
    ) -> dict[str, Any]:
        texts = nested(references)
        scores = corpus_rouge(predictions, [given(each) for each in texts], kinds, stem=stem)
        signed = signature(nrefs=count_references(texts), stem=stem)
        return {kind: score.f1 for kind, score in scores.items()} | {"signature": signed}
