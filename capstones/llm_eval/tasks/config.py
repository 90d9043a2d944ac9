"""What a task's file says, once it is read.

>>> Prompt(text="{{question}}", target="answer").changed({"text": "Q: {{question}}"}).target
'answer'
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llm_eval.tasks.filters import Filter
from llm_eval.types import Document

OutputType = Literal["multiple_choice", "loglikelihood", "loglikelihood_rolling", "generate_until"]
OUTPUT_TYPES = OutputType.__args__


@dataclass(frozen=True)
class Prompt:
    """What makes a prompt of a document; each a field's name, a template or a constant.

    Attributes
    ----------
    text, target, choices
        doc_to_text, doc_to_target and doc_to_choice of lm-eval.
    target_delimiter
        Between text and answer, in examples and before a choice.
    fewshot_delimiter
        After an example.
    """

    text: str | int = ""
    target: str | int | tuple[Any, ...] = ""
    choices: str | tuple[str, ...] | None = None
    description: str = ""
    target_delimiter: str = " "
    fewshot_delimiter: str = "\n\n"

    def changed(self, changes: Mapping[str, Any]) -> "Prompt":
        """With some of it otherwise."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True)
class FewShot:
    """Where a prompt's examples come from.

    Attributes
    ----------
    number
        None where the file does not say, which is 0 unless the user asks for some. A 0 that the
        file says stays.
    sampler
        default draws anew for each document, first_n takes the first.
    apart
        One more is drawn than wanted, and the document itself dropped.
    changes
        How an example's prompt differs from the question's.
    """

    number: int | None = None
    sampler: Literal["default", "first_n"] = "default"
    split: str | None = None
    samples: tuple[Document, ...] | None = None
    indices: tuple[int, ...] | None = None
    apart: bool = False
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Generation:
    """How text is generated; `repeats` texts of each prompt, with seeds 0, 1, …"""

    until: tuple[str, ...] = ("\n\n",)
    max_new_tokens: int = 256
    temperature: float = 0.0
    repeats: int = 1


@dataclass(frozen=True)
class MetricSpec:
    """A metric's name and options; `higher_is_better` None leaves it to the metric."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    higher_is_better: bool | None = None


@dataclass(frozen=True)
class Data:
    """Where documents come from.

    Attributes
    ----------
    files
        By split, the files; of the registry's data set `set`, or paths if that is "".
    shape
        Which function of `shapes` makes documents of what the files hold.
    columns
        Names of columns where a table's file has none.
    spread
        A field; documents take turns by its values, so that the first n are of all kinds.
    """

    files: Mapping[str, tuple[str, ...]]
    set: str = ""
    shape: str = ""
    columns: tuple[str, ...] = ()
    spread: str = ""


@dataclass(frozen=True)
class Config:
    """A task's file.

    Attributes
    ----------
    pipelines
        Filters by name.
    split
        Which of the data is evaluated.
    group, cluster, counted
        Templates: what a report splits by; which documents are not independent; the text whose
        words and bytes a rolling task counts, where that is not the scored one.
    templates
        Other prompts, as changes of the standard one.
    """

    name: str
    path: Path
    output_type: OutputType
    prompt: Prompt
    data: Data
    split: str
    fewshot: FewShot = FewShot()
    generation: Generation = Generation()
    metrics: tuple[MetricSpec, ...] = ()
    pipelines: Mapping[str, tuple[Filter, ...]] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    version: str = "0"
    title: str = ""
    about: str = ""
    license: str = ""
    source: str = ""
    limit: int | None = None
    group: str = ""
    cluster: str = ""
    counted: str = ""
    templates: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    summaries: tuple[str, ...] = ()
