"""What can be chosen on the command line: who is asked what, and where it goes."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from shared.errors import UserError
from shared.study import PositiveInt, whole

if TYPE_CHECKING:
    from llm_eval.tasks.task import Task
    from llm_eval.types import Model

Json = Annotated[bool, Parameter(name="--json", negative="")]
SUITES = "core,bias,toxicity,hallucination"
RUNS = Path("runs/llm_eval")
# lm-eval's names for what we call otherwise.
ALIASES = {"pretrained": "path", "base_url": "path", "tokenizer": None}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Asking:
    """Who is asked what.

    Attributes
    ----------
    model
        smollm2, hf:FOLDER, tiny_gpt:RUN, compress:DIR, gguf:FILE, openai:URL[#MODEL], onnx:DIR or
        dummy.
    model_args
        As lm-eval's: `--model hf --model-args pretrained=PATH,dtype=float32`.
    tasks
        Names, tags or files, separated by commas: core, bias, toxicity, hallucination, mini, all,
        arc_easy, mine.yaml. `llm-eval ls` lists them.
    num_fewshot
        Solved examples before each question, instead of the task's own number.
    limit
        Documents per task: a number, a share such as 0.1, or all. Without it each task has its
        own, so that the standard suites take minutes.
    templates
        Ask with each of a task's prompts, and say how much that matters.
    chat
        Ask in the model's own chat format.
    seed
        For examples, drawn texts and intervals.
    dtype
        What the model computes in.
    device
        Where it computes; auto takes a GPU if there is one.
    batch_tokens
        Tokens that are read at a time; the results do not depend on it.
    allow_code
        Run programs that a model wrote, in a limited process, where a task is about that.
    """

    model: str = "smollm2"
    model_args: str = ""
    tasks: str = SUITES
    num_fewshot: Annotated[int | None, whole(0)] = None
    limit: str | None = None
    templates: bool = False
    chat: bool = False
    seed: Annotated[int, whole(0)] = 0
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    batch_tokens: PositiveInt | None = None
    allow_code: bool = False

    def tasks_and_model(self) -> "tuple[list[Task], Model]":
        """Both, opened; tasks first, since a mistake there costs nothing.

        Without `allow_code` a tag does not mean tasks that only programs can score.
        """
        from llm_eval.models.opening import open_model
        from llm_eval.tasks.opening import open_tasks, tagged

        names = self.names()
        if not names:
            raise UserError("tasks must name at least one task, tag or file")
        name, given = self.named_model()
        if given["device"] == "auto":
            given["device"] = best_device()
        tasks = open_tasks(names, allow_code=self.allow_code)
        barred = {task.name for task in tasks if task.runs_programs and not self.allow_code}
        meant = {task.name for name in names for task in tagged().get(name, ())}
        if asked := sorted(barred - meant) or (len(barred) == len(tasks) and sorted(barred)):
            told = f"{', '.join(asked)} would run programs that the model wrote"
            raise UserError(f"{told}: --allow-code allows it, in a sandbox")
        return [t for t in tasks if t.name not in barred], open_model(name, **given)

    def names(self) -> list[str]:
        """Tasks, tags and files."""
        return [name.strip() for name in self.tasks.split(",") if name.strip()]

    def named_model(self) -> tuple[str, dict[str, Any]]:
        """The model's name with lm-eval's arguments folded in, and how to open it."""
        name, given = self.model, {"dtype": self.dtype, "device": self.device}
        if self.batch_tokens is not None:
            given["batch_tokens"] = self.batch_tokens
        for part in filter(None, self.model_args.split(",")):
            key, equals, value = part.partition("=")
            key = ALIASES.get(key.strip(), key.strip())
            if not equals or key not in ("path", "dtype", "device", "model"):
                known = "pretrained, base_url, model, dtype or device"
                raise UserError(f"model_args must be {known}=VALUE, got {part!r}")
            if key == "path":
                name = f"{name}:{value}"
            elif key == "model":
                name = f"{name}#{value}"
            else:
                given[key] = value
        return name, given

    def settings(self) -> dict[str, Any]:
        """What the engine is told."""
        chosen = {"limit": limit_of(self.limit), "num_fewshot": self.num_fewshot}
        return chosen | {"templates": self.templates, "chat": self.chat, "seed": self.seed}


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Output:
    """Where it goes.

    Attributes
    ----------
    out
        The folder for results.json, samples.jsonl and index.html.
    cache
        The folder in which answers are kept, each under its model's digest.
    """

    out: Path | None = None
    cache: Path = RUNS / "cache"

    def folder(self, model: str, tasks: str) -> Path:
        """`out`, or a folder named after model and tasks."""
        plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{model}-{tasks}").strip("-.")
        return self.out or RUNS / plain[:80]


def best_device() -> str:
    """A GPU if there is one."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def limit_of(text: str | None) -> int | float | None:
    """A limit as it is given: nothing, a whole number, or a share, which of all is 1.0.

    >>> limit_of("200"), limit_of("0.1"), limit_of(None), limit_of("all")
    (200, 0.1, None, 1.0)
    >>> limit_of("-3")
    Traceback (most recent call last):
    shared.errors.UserError: limit must be a whole number, a share below 1 such as 0.1, or all, \
got '-3'
    """
    if text is None:
        return None
    if text == "all":
        return 1.0
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if 0 < share < 1:
        return share
    must = "limit must be a whole number, a share below 1 such as 0.1, or all"
    raise UserError(f"{must}, got {text!r}")
