"""SQuAD's two metrics as a module of `evaluate`: `evaluate.load(".../adapters/squad.py")`."""

from collections.abc import Sequence

import evaluate

from llm_eval.adapters.modules import described, nested
from llm_eval.metrics.answers import squad_exact_match, token_f1
from llm_eval.metrics.texts import References, given


class SquadModule(evaluate.Metric):
    """Exact match and F1 of words in percent, as SQuAD normalizes them; answers are plain texts."""

    def _info(self) -> evaluate.MetricInfo:
        return described(SquadModule.__doc__)

    def _compute(
        self, predictions: list[str], references: Sequence[str | References]
    ) -> dict[str, float]:
        pairs = [
            (text, given(texts))
            for text, texts in zip(predictions, nested(references), strict=True)
        ]
        measures = {"exact_match": squad_exact_match, "f1": token_f1}
        return {
            name: 100 * sum(measure(*pair) for pair in pairs) / len(pairs)
            for name, measure in measures.items()
        }
