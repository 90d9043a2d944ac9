"""What the modules of `evaluate` in this folder share."""

from collections.abc import Sequence

import datasets
import evaluate

from llm_eval.metrics.texts import References

# One reference each, or a list of them, in which None may stand.
TEXT = datasets.Value("string")
FEATURES = [
    datasets.Features({"predictions": TEXT, "references": datasets.Sequence(TEXT)}),
    datasets.Features({"predictions": TEXT, "references": TEXT}),
]


def described(text: str) -> evaluate.MetricInfo:
    """What `evaluate` wants to know of a metric of texts."""
    return evaluate.MetricInfo(
        description=text, citation="", inputs_description=text, features=FEATURES
    )


def nested(references: Sequence[str | References]) -> list[References]:
    """A list of references for each prediction."""
    return [[texts] if isinstance(texts, str) else texts for texts in references]
