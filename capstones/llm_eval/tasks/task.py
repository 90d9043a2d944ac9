"""A task: documents, and the judges that ask about them.

>>> from llm_eval.tasks.opening import open_tasks
>>> (task,) = open_tasks(["mini_arithmetic"])
>>> id, document = task.documents(1)[0]
>>> task.judge().requests(document)[0].context
'What is 7 + 5?\\nAnswer:'
"""

import hashlib
import math
from functools import cached_property
from pathlib import Path

from llm_eval.tasks import sources
from llm_eval.tasks.config import Config
from llm_eval.tasks.fewshot import Examples
from llm_eval.tasks.judges import JUDGES
from llm_eval.tasks.located import listed
from llm_eval.tasks.standard import StandardJudge, runs
from llm_eval.types import Document, digest
from shared import registry
from shared.errors import UserError

BUILTIN = Path(__file__).with_name("builtin")


class Task:
    """What a file of tasks says, with its data.

    Attributes
    ----------
    templates
        Names of its prompts; "" is the standard one.
    default_limit
        How many documents are evaluated unless the user says otherwise; None is all.
    """

    def __init__(self, config: Config, *, allow_code: bool = False):
        self.config, self.allow_code = config, allow_code
        known = registry.registry().get(config.data.set)
        self.name, self.tags, self.version = config.name, config.tags, config.version
        self.title, self.description = config.title or config.name, config.about
        self.license = config.license or (known.license if known else "")
        self.source = config.source or (known.description if known else "")
        self.default_limit, self.summaries = config.limit, config.summaries
        self.templates = ("", *config.templates)

    @property
    def reference(self) -> str:
        """What `open_tasks` opens it by."""
        return self.name if self.config.path.parent == BUILTIN else str(self.config.path)

    @property
    def size(self) -> int:
        """How many documents there are."""
        return len(self._rows)

    @property
    def here(self) -> bool:
        """Whether its data is on this machine; whether it is whole is seen when it is read."""
        data = self.config.data
        files = [file for names in data.files.values() for file in names]
        if not data.set:
            return all((self.config.path.parent / file).is_file() for file in files)
        known = {entry.path.split("/", 1)[1]: entry for entry in self._known_files}
        folder = registry.cache_dir()
        return all(file in known and (folder / known[file].path).is_file() for file in files)

    @property
    def runs_programs(self) -> bool:
        """Whether nothing of it can be scored without running what a model wrote."""
        return all(runs(metric.name) for metric in self.config.metrics)

    def documents(self, limit: int | float | None = None) -> list[tuple[str, Document]]:
        """The first documents with their ids.

        Parameters
        ----------
        limit
            How many; as a float, the share of all; None is `default_limit`.

        Returns
        -------
        list[tuple[str, Document]]
            Ids are those of a field `id`, where all have one of their own, else numbers of rows.
        """
        ids = [row.get("id") for row in self._rows]
        if None in ids or len(set(map(str, ids))) < len(ids):
            ids = list(range(len(ids)))
        stop = self.default_limit if limit is None else limit
        stop = math.ceil(stop * len(ids)) if isinstance(stop, float) else stop
        return [(str(id), row) for id, row in zip(ids[:stop], self._rows[:stop], strict=True)]

    def judge(
        self,
        template: str = "",
        *,
        num_fewshot: int | None = None,
        chat: bool = False,
        seed: int = 0,
    ) -> StandardJudge:
        """How documents are asked about and judged.

        Parameters
        ----------
        num_fewshot
            None is the file's number. A 0 that the file says stays, as in lm-eval.
        chat
            Prompts are turns for the model's own template.
        seed
            Draws the examples.

        Raises
        ------
        UserError
            There is no such template, or there are not as many examples.
        """
        config, shots = self.config, self.config.fewshot
        if template not in self.templates:
            known = listed(config.templates) or "no other"
            raise UserError(f"task {self.name} has no prompt {template!r}; it has {known}")
        if num_fewshot is not None and num_fewshot < 0:
            raise UserError(f"num_fewshot must be 0 or more, got {num_fewshot}")
        number = shots.number if num_fewshot is None or shots.number == 0 else num_fewshot
        number = 0 if config.output_type == "loglikelihood_rolling" else number or 0
        examples = Examples(
            self._pool if number else (),
            self._rows if number else (),
            number,
            sampler=shots.sampler,
            apart=shots.apart if number else False,
            seed=seed,
        )
        return JUDGES[config.output_type](
            config,
            config.prompt.changed(config.templates.get(template, {})),
            examples,
            template=template,
            chat=chat,
            seed=seed,
            allow_code=self.allow_code,
            data=self.data_digest,
        )

    @cached_property
    def data_digest(self) -> str:
        """What tells this data from any other, short."""
        data = self.config.data
        known = {entry.path.split("/", 1)[1]: entry.digest for entry in self._known_files}
        files = data.files[self.config.split]
        if data.set:
            content = [known.get(file, "") for file in files]
        else:
            here = sources.paths_here(self.config, self.config.split)
            content = [hashlib.sha256(path.read_bytes()).hexdigest() for path in here]
        return digest([content, data.shape, data.spread])[:8]

    @property
    def _known_files(self) -> tuple[registry.File, ...]:
        known = registry.registry().get(self.config.data.set)
        return known.files if known else ()

    @property
    def _rows(self) -> list[dict]:
        return sources.documents(self.config, self.config.split)

    @cached_property
    def _pool(self) -> list[Document]:
        shots = self.config.fewshot
        if shots.samples is not None:
            pool = list(shots.samples)
        else:
            pool = sources.documents(self.config, shots.split or self.config.split)
        if shots.indices is None:
            return pool
        if any(i >= len(pool) for i in shots.indices):
            must = f"fewshot_indices of {self.name} must be below {len(pool)}"
            raise UserError(f"{must}, got {max(shots.indices)}")
        return [pool[i] for i in shots.indices]
