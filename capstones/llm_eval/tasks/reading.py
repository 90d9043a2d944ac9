r"""Task files: the readable subset of lm-eval's format, and a block of our own, `llm_eval`.

    task: mini_sums                         # lm-eval's fields
    output_type: generate_until
    doc_to_text: "{{question}}\nAnswer:"
    doc_to_target: answer
    metric_list: [{metric: exact_match}]
    llm_eval:                               # ours
      data: {file: sums.jsonl}
      title: Sums
      templates: {bare: {doc_to_text: "{{question}}"}}

A mistake is told with file, line and field; code (`!function`) and what only the Hub has are
refused in one line. Format: lm-eval 0.4.13, docs/task_guide.md and config/task.py.

>>> text = "task: t\noutput_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_targt: a\n"
>>> config_of(parse(text, "t.yaml"), Path("t.yaml"))
Traceback (most recent call last):
shared.errors.UserError: t.yaml:4: unknown field doc_to_targt; did you mean doc_to_target?
"""

import re
from pathlib import Path
from typing import Any

from llm_eval.tasks import located
from llm_eval.tasks.config import OUTPUT_TYPES, Config, Data, Prompt
from llm_eval.tasks.located import Fields, parse
from llm_eval.tasks.parts import (
    PROMPT,
    count,
    fewshot_of,
    generation_of,
    known,
    metrics_of,
    needed,
    one_of,
    pipelines_of,
    prompt_of,
    template_of,
    templates_of,
)
from llm_eval.tasks.shapes import SHAPES
from llm_eval.tasks.summaries import SUMMARIES
from llm_eval.tasks.task import Task

# of lm-eval, without a meaning here
IGNORED = ("task_alias", "should_decontaminate", "doc_to_decontamination_query", "dataset_name")
CODE = ("process_docs", "process_results", "custom_dataset", "doc_to_image", "doc_to_audio")
UNREAD = (*CODE, "use_prompt", "gen_prefix", "unsafe_code")
READ = (
    *("task", "tag", "group", "include", "llm_eval", "metadata", "output_type", "repeats"),
    *("dataset_path", "dataset_kwargs", "training_split", "validation_split", "test_split"),
    *("fewshot_split", "fewshot_config", "num_fewshot", "generation_kwargs"),
    *("metric_list", "filter_list", *PROMPT),
)
MAX_INCLUDES = 10


def read_task(path: str | Path) -> Task:
    """The task of a file.

    Raises
    ------
    UserError
        In one line, what is wrong in which line; of data only when documents are asked for.
    """
    path = Path(path)
    return Task(config_of(_with_includes(path, 0), path))


def config_of(fields: Fields, path: Path) -> Config:
    """What a file's fields say; `path` is where its data lies beside."""
    fields.done(*READ, *IGNORED, *UNREAD)  # before what follows from a misspelled name
    for key in UNREAD:
        if fields.content.get(key):
            raise fields.error(key, "is not read here: it wants code, or what only lm-eval has")
    own = fields.block("llm_eval")
    name = fields.take("task", str)
    if not name or not re.fullmatch(r"[\w.+-]{1,100}", name):
        raise fields.error("task", f"must be a name of letters, digits and _.+-, got {name!r}")
    output_type = fields.take("output_type", str, default="generate_until")
    if output_type not in OUTPUT_TYPES:
        must = f"must be one of {', '.join(OUTPUT_TYPES)}"
        raise fields.error("output_type", f"{must}, got {output_type!r}")
    prompt = Prompt(**prompt_of(fields))
    for key in needed(output_type):
        if fields.content.get(key) is None:
            raise fields.error(key, f"is missing, which {output_type} needs")
    data, split = _data(fields, own)
    config = Config(
        name=name,
        path=path,
        output_type=output_type,
        prompt=prompt,
        data=data,
        split=split,
        fewshot=fewshot_of(fields, data, split),
        generation=generation_of(fields, prompt, output_type),
        metrics=metrics_of(fields, output_type),
        pipelines=pipelines_of(fields),
        tags=tuple(dict.fromkeys((*fields.texts("tag"), *fields.texts("group")))),
        version=str(fields.take("metadata", dict, default={}).get("version", 0)),
        templates=templates_of(own),
        summaries=known(own, "summaries", SUMMARIES),
        limit=count(own, "limit", 1, None),
        **{key: own.take(key, str, default="") for key in ("title", "about", "license", "source")},
        **{key: template_of(own, key) for key in ("group", "cluster", "counted")},
    )
    own.done()
    return config


# ---- files


def _with_includes(path: Path, depth: int) -> Fields:
    fields = parse(located.read(path), str(path))
    if depth > MAX_INCLUDES:
        raise fields.error("include", f"is deeper than {MAX_INCLUDES} files")
    merged, places = {}, {}
    for name in fields.texts("include"):
        inner = _with_includes(path.parent / name, depth + 1)
        merged |= inner.content
        places |= inner.places
    for key, value in fields.content.items():  # own fields replace included ones as a whole
        places = {p: at for p, at in places.items() if p[:1] != (key,)}
        merged[key] = value
    return Fields(merged, places | fields.places)


def _data(fields: Fields, own: Fields) -> tuple[Data, str]:
    kwargs = fields.block("dataset_kwargs")
    named = {key: fields.take(f"{key}_split", str) for key in ("training", "validation", "test")}
    split = named["test"] or named["validation"]
    kind = fields.take("dataset_path", str)
    given = kwargs.take("data_files", str, list, dict)
    kwargs.done("trust_remote_code")
    block = own.block("data")
    if block.content:
        file = block.take("file", str, list, dict)
        name = block.take("set", str, default="")
        data = Data(
            _by_split(block, "file", file, split or "test"),
            name,
            one_of(block, "shape", SHAPES),
            block.texts("columns"),
            block.take("spread", str, default=""),
        )
        block.done()
        split = split or "test"
        if split not in data.files:
            raise block.error("file", f"has no split {split}, which is evaluated")
        return data, split
    if kind not in ("json", "csv", "local"):
        where = "json or csv with dataset_kwargs.data_files, or llm_eval.data"
        raise fields.error("dataset_path", f"must be {where} (nothing is downloaded), got {kind!r}")
    files = _by_split(kwargs, "data_files", given, "train")
    if split is None:
        raise fields.error("test_split", "or validation_split must name what is evaluated")
    for key, value in named.items():
        if value is not None and value not in files:
            must = f"must be one of {', '.join(files)}"
            raise fields.error(f"{key}_split", f"{must}, got {value!r}")
    return Data(files), split


def _by_split(fields: Fields, name: str, given: Any, split: str) -> dict[str, tuple[str, ...]]:
    files = given if isinstance(given, dict) else {split: given}
    files = {key: [value] if isinstance(value, str) else value for key, value in files.items()}
    for value in files.values():
        whole = isinstance(value, list) and value and all(isinstance(x, str) and x for x in value)
        if not whole or any(":" in x or "\0" in x for x in value):
            raise fields.error(name, f"must be files that are here, got {located.short(given)}")
    if not files:
        raise fields.error(name, "must be a file, a list of files, or such by split, got nothing")
    return {key: tuple(value) for key, value in files.items()}
