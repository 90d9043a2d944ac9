"""What makes a run's numbers that are no means, such as BLEU, of its samples' values again."""

import math
from collections.abc import Iterable, Sequence

from llm_eval.metrics.registry import RECIPES, metric
from llm_eval.statistics.paired import Aggregate
from llm_eval.types import Number, Sample

OUTPUT_TYPES = {"generate": "generate_until", "rolling": "loglikelihood_rolling"}


def aggregates_of(
    numbers: Sequence[Number], samples: Iterable[Sample]
) -> dict[tuple[str, str], Aggregate]:
    """By task and metric, a function of values; only those that give the run's own number again.

    Parameters
    ----------
    numbers
        Of a run; those of groups and of other prompts are passed over.
    samples
        The run's.
    """
    wanted = {(x.task, x.metric): x for x in numbers if not x.group and not x.template}
    values: dict[tuple[str, str], list] = {}
    kinds: dict[str, str] = {}
    for sample in samples:
        if sample.error or sample.template:
            continue
        kinds[sample.task] = _output_type(sample)
        for name, value in sample.values.items():
            if (sample.task, name) in wanted:
                values.setdefault((sample.task, name), []).append(value)
    found = {}
    for (task, name), of in values.items():
        if name in RECIPES[kinds[task]] and not (one := metric(kinds[task], name)).linear:
            given = wanted[task, name].value
            if given is not None and math.isclose(one.aggregate(of), given, rel_tol=1e-9):
                found[task, name] = one.aggregate
    return found


def _output_type(sample: Sample) -> str:
    kind = sample.requests[0].kind
    likely = "multiple_choice" if len(sample.requests) > 1 else "loglikelihood"
    return OUTPUT_TYPES.get(kind, likely)
