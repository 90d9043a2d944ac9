"""Documents become requests, and answers become samples, one after another.

Documents are gone through twice, once to ask and once to judge, so that never more than one task's
samples are in memory; answers are read where the journal has them.

A document that a judge cannot ask about, that a model could not answer or that a judge cannot
value becomes a sample with the reason. It is in no average.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

from llm_eval.types import Document, Judge, Request, Response, Sample
from shared.errors import UserError

Answer = Callable[[Request], Response | None]


@runtime_checkable
class Task(Protocol):
    """Documents, and the judges that ask about them.

    Attributes
    ----------
    reference
        What it is opened by again: its name, or its file.
    size
        Documents that the task has, whatever the limit.
    templates
        Names of its prompts, the standard one, "", first.
    summaries
        Names of what else its samples tell.
    """

    name: str
    reference: str
    title: str
    license: str
    source: str
    version: Any
    tags: Sequence[str]
    size: int
    templates: Sequence[str]
    summaries: Sequence[str]

    def judge(self, template: str = "", *, num_fewshot: int | None, chat: bool, seed: int) -> Judge:
        """How it is asked and valued with one of its prompts."""
        ...

    def documents(self, limit: int | float | None = None) -> Sequence[tuple[str, Document]]:
        """Documents with their ids, the first `limit` of them."""
        ...


@dataclass(frozen=True)
class Part:
    """A task with one of its prompts."""

    task: Task
    template: str
    judge: Judge
    limit: int | float | None

    def asked(self) -> Iterator[tuple[str, Document, tuple[Request, ...], str]]:
        """Each document's id, itself, its requests, and why there are none."""
        for id, document in self.task.documents(self.limit):
            try:
                yield id, document, tuple(self.judge.requests(document)), ""
            except Exception as error:
                yield id, document, (), _reason(error)

    def samples(self, answer: Answer) -> Iterator[Sample]:
        """What the answers are worth; documents that are not yet answered are left out."""
        for id, document, requests, error in self.asked():
            responses = [answer(request) for request in requests]
            if any(response is None for response in responses):
                continue
            yield self._sample(id, document, requests, responses, error)

    def _sample(
        self,
        id: str,
        document: Document,
        requests: tuple[Request, ...],
        responses: Sequence[Response],
        error: str,
    ) -> Sample:
        failed = next((response.error for response in responses if response.error), error)
        bare = Sample(
            self.task.name, id, document, requests, tuple(responses), template=self.template
        )
        if not requests:
            return replace(bare, error=failed or "nothing was asked")
        try:
            sample = self.judge.sample(id, document, responses)
        except Exception as reason:
            return replace(bare, error=failed or _reason(reason))
        if failed or sample.error:
            return replace(sample, values={}, error=failed or sample.error)
        return sample


class Samples:
    """All samples of a run, made anew each time they are gone through.

    Parameters
    ----------
    parts
        In the order in which samples come.
    answer
        Gives the answer to a request, None where there is none yet.
    """

    def __init__(self, parts: Sequence[Part], answer: Answer):
        self.parts, self._answer = tuple(parts), answer

    def __iter__(self) -> Iterator[Sample]:
        for part in self.parts:
            yield from self.of(part)

    def of(self, part: Part) -> Iterator[Sample]:
        """Those of one task and prompt."""
        return part.samples(self._answer)


def parts_of(tasks: Sequence[Task], settings: Mapping[str, Any]) -> list[Part]:
    """Tasks with the prompts that settings ask for.

    Raises
    ------
    UserError
        Two tasks have one name.
    """
    names = [task.name for task in tasks]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"tasks must have different names, got {twice!r} twice")
    chosen = {name: settings[name] for name in ("num_fewshot", "chat", "seed")}
    return [
        Part(task, template, task.judge(template, **chosen), settings["limit"])
        for task in tasks
        for template in (task.templates if settings["templates"] else ("",))
    ]


def _reason(error: Exception) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
