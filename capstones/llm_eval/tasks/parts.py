"""Parts of a task's file: prompts, examples, generation, metrics and filters.

>>> fields = located.parse("doc_to_text: '{{q}'", "t.yaml")
>>> prompt_of(fields)
Traceback (most recent call last):
shared.errors.UserError: t.yaml:1: doc_to_text must be a template: unexpected '}'
"""

import re
from collections.abc import Iterable
from typing import Any

from llm_eval.tasks import filters, located
from llm_eval.tasks.config import Data, FewShot, Generation, MetricSpec, Prompt
from llm_eval.tasks.filters import Filter
from llm_eval.tasks.located import Fields, listed
from llm_eval.tasks.templates import compiled
from shared.errors import UserError

PROMPT = {  # lm-eval's names, ours, and what they may be
    "doc_to_text": ("text", (str, int)),
    "doc_to_target": ("target", (str, int, list)),
    "doc_to_choice": ("choices", (str, list, dict)),
    "description": ("description", (str,)),
    "target_delimiter": ("target_delimiter", (str,)),
    "fewshot_delimiter": ("fewshot_delimiter", (str,)),
}
AGGREGATIONS = {
    "perplexity": "perplexity",
    "word_perplexity": "weighted_perplexity",
    "byte_perplexity": "weighted_perplexity",
    "bits_per_byte": "bits_per_byte",
    "f1": "f1",
    "mcc": "matthews_corrcoef",
    "brier_score": "brier_score",
    "bleu": "bleu",
    "chrf": "chrf",
    "ter": "ter",
}
MAX_TOKENS = 1 << 20
DEFAULTS = {
    "multiple_choice": ("acc", "acc_norm"),
    "loglikelihood": ("perplexity", "acc"),
    "loglikelihood_rolling": ("word_perplexity", "byte_perplexity", "bits_per_byte"),
    "generate_until": ("exact_match",),
}


def prompt_of(fields: Fields) -> dict[str, Any]:
    """What of a prompt a mapping gives, by our names."""
    found = {}
    for name, (ours, kinds) in PROMPT.items():
        value = fields.take(name, *kinds)
        if value is None:
            continue
        value = list(value.values()) if isinstance(value, dict) else value
        if isinstance(value, str):
            _check_template(fields, name, value)
        if isinstance(value, list):
            texts = name == "doc_to_choice"
            if not value or not all(isinstance(x, str if texts else str | int) for x in value):
                raise fields.error(name, f"must be a list of texts, got {located.short(value)}")
            value = tuple(value)
        found[ours] = value
    return found


def needed(output_type: str) -> tuple[str, ...]:
    """The fields that a task of this type cannot do without."""
    if output_type == "loglikelihood_rolling":
        return ("doc_to_target",)
    more = ("doc_to_choice",) if output_type == "multiple_choice" else ()
    return ("doc_to_text", "doc_to_target", *more)


def fewshot_of(fields: Fields, data: Data, evaluated: str) -> FewShot:
    """Where examples come from.

    As in lm-eval, without a fewshot_split they are of the training, else the validation split, else
    of what is evaluated. Unlike there, a document is then never its own example.
    """
    block = fields.block("fewshot_config")
    samples = block.blocks("samples")
    indices = block.take("fewshot_indices", list)
    if indices is not None and not all(type(i) is int and i >= 0 for i in indices):
        raise block.error("fewshot_indices", "must be rows, counted from 0")
    split = said = block.take("split", str) or fields.take("fewshot_split", str)
    if split is not None and split not in data.files:
        raise fields.error("fewshot_split", f"must be one of {listed(data.files)}, got {split!r}")
    if split is None and samples is None:
        named = [fields.take(f"{name}_split", str) for name in ("training", "validation")]
        split = next((name for name in named if name in data.files), evaluated)
    found = FewShot(
        count(fields, "num_fewshot", 0, None),
        one_of(block, "sampler", ("default", "first_n")) or "default",
        split,
        None if samples is None else tuple(sample.content for sample in samples),
        None if indices is None else tuple(indices),
        split == evaluated or said == fields.take("test_split", str),
        prompt_of(block),
    )
    block.done()
    return found


def templates_of(own: Fields) -> dict[str, dict[str, Any]]:
    """Other prompts, as changes of the standard one."""
    block, found = own.block("templates"), {}
    for name in block.content:
        changes = block.block(name)
        found[name] = prompt_of(changes)
        changes.done()
    return found


def template_of(fields: Fields, name: str) -> str:
    """A field that holds a template."""
    text = fields.take(name, str, default="")
    _check_template(fields, name, text)
    return text


def _check_template(fields: Fields, name: str, text: str) -> None:
    try:
        compiled(text)
    except UserError as error:
        raise fields.error(name, str(error)) from error


def generation_of(fields: Fields, prompt: Prompt, output_type: str) -> Generation:
    """How text is generated; greedily unless the file asks for a temperature."""
    block = fields.block("generation_kwargs")
    temperature = block.take("temperature", float, default=0.0)
    sample = block.take("do_sample", bool)
    if sample and not temperature:
        temperature = 1.0
    if not 0 <= temperature <= 100:
        raise block.error("temperature", f"must be between 0 and 100, got {temperature}")
    found = Generation(
        block.texts("until", (prompt.fewshot_delimiter,)),
        count(block, "max_gen_toks", 1, 256),
        0.0 if sample is False else temperature,
        count(fields, "repeats", 1, 1),
    )
    if "" in found.until and prompt.fewshot_delimiter:
        raise block.error("until", "must be texts that are not empty")
    block.done()
    if found.repeats > 1 and output_type != "generate_until":
        raise fields.error("repeats", f"must be 1 for {output_type}, got {found.repeats}")
    return found


def metrics_of(fields: Fields, output_type: str) -> tuple[MetricSpec, ...]:
    """The metrics, each tried with its options; lm-eval's defaults where the file has none."""
    from llm_eval.metrics.registry import metric

    blocks = fields.blocks("metric_list")
    if blocks is None:
        return tuple(MetricSpec(name) for name in DEFAULTS[output_type])
    found = []
    for block in blocks:
        name = block.take("metric", str, default="")
        aggregation = block.take("aggregation", str)
        better = block.take("higher_is_better", bool)
        named = ("metric", "aggregation", "higher_is_better", "hf_evaluate")
        options = {key: value for key, value in block.content.items() if key not in named}
        try:
            metric(output_type, name, **options)
        except (UserError, ValueError, TypeError) as error:
            raise block.error("metric", f"is wrong: {error}") from error
        expected = AGGREGATIONS.get(name, "mean")
        if aggregation not in (None, expected):
            must = f"of {name} must be {expected}"
            raise block.error("aggregation", f"{must}, got {aggregation!r}")
        found.append(MetricSpec(name, options, better))
    return tuple(found)


def pipelines_of(fields: Fields) -> dict[str, tuple[Filter, ...]]:
    """Filters by name."""
    found = {}
    for block in fields.blocks("filter_list") or []:
        name = block.take("name", str, default="none")
        steps = block.blocks("filter") or []
        found[name] = tuple(_filter(step) for step in steps)
        block.done()
    return found


def _filter(step: Fields) -> Filter:
    name = one_of(step, "function", filters.NAMES)
    if not name:
        raise step.error("function", f"must be one of {', '.join(filters.NAMES)}")
    found = Filter(
        name,
        step.take("regex_pattern", str, default=Filter.pattern),
        step.take("group_select", int, default=0),
        step.take("fallback", str, default=Filter.fallback),
        count(step, "k", 1, 1),
    )
    try:
        re.compile(found.pattern)
    except (re.error, RecursionError, OverflowError) as error:
        must = f"must be a regular expression ({error})"
        raise step.error("regex_pattern", f"{must}, got {located.short(found.pattern)}") from error
    step.asked = {"function", *filters.NAMES[name]}
    step.done()
    return found


def count(fields: Fields, name: str, least: int, default: int | None) -> Any:
    """A whole number that is not too small and not absurd."""
    value = fields.take(name, int, default=default)
    if value is not None and not least <= value <= MAX_TOKENS:
        raise fields.error(name, f"must be between {least} and {MAX_TOKENS:,}, got {value}")
    return value


def one_of(fields: Fields, name: str, known: Iterable[str]) -> str:
    """One of the known names, "" if there is none."""
    value = fields.take(name, str, default="")
    if value and value not in known:
        raise fields.error(name, f"must be one of {', '.join(known)}, got {value!r}")
    return value


def known(fields: Fields, name: str, known: Iterable[str]) -> tuple[str, ...]:
    """Names, each of them known."""
    values = fields.texts(name)
    for value in values:
        if value not in known:
            raise fields.error(name, f"must be of {', '.join(known)}, got {value!r}")
    return values
