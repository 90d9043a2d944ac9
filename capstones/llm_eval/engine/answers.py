"""Answers to a run's requests: from the journal, or from the model and then in the journal."""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

from llm_eval.engine.distributed import World
from llm_eval.engine.journal import Journal, batch_key
from llm_eval.types import Model, Request, Response
from shared.require import require

Progress = Callable[[int, int], None]


class Answers:
    """Asks a model in batches, each at most once, and gives answers by request.

    Parameters
    ----------
    model
        The model.
    cache
        Folder of the journals; None is a folder that goes when this does.
    progress
        Told after each batch how many requests are answered, of how many.
    """

    def __init__(self, model: Model, cache: Path | None, progress: Progress | None = None):
        self.model, self._progress = model, progress
        if cache is None:
            cache = Path(tempfile.mkdtemp(prefix="llm-eval-"))
            weakref.finalize(self, shutil.rmtree, cache, ignore_errors=True)
        self.journal = Journal(cache, model.identity)
        self._errors: dict[str, Response] = {}
        self._batch: dict[str, str] = {}

    def __call__(self, request: Request) -> Response | None:
        """The answer, or the reason why there is none; None if it was not asked."""
        key = request.key
        return self.journal.get(key, self._batch.get(key, "")) or self._errors.get(key)

    def ask(self, requests: Sequence[Request], world: World) -> str:
        """Have all of them answered, this process's share by itself.

        Returns
        -------
        What a user should know of how it went, mostly nothing.
        """
        batches = plan(self.model, requests)
        keys = [[request.key for request in batch] for batch in batches]
        for batch in keys:
            self._batch |= dict.fromkeys(batch, batch_key(batch))
        numbers = range(len(batches))
        own = world.share(numbers)
        self._compute([batches[i] for i in own])
        if world.rank or world.size == 1:
            return ""
        others = sorted(set(numbers) - set(own))

        def left() -> list[int]:
            return [i for i in others if not self._known(keys[i])]

        world.wait(self.journal.folder, self.journal.refresh, lambda: not left())
        undone = left()
        self._compute([batches[i] for i in undone])
        said = f"other processes of {world.size} ended and left {len(undone)} batches unanswered"
        return f"{said}; process 0 asked them" if undone else ""

    def _known(self, keys: Sequence[str]) -> bool:
        return self.journal.holds(keys, self._batch[keys[0]])

    def _compute(self, batches: Sequence[Sequence[Request]]) -> None:
        """Ask what is not known; a batch of which anything is missing is computed whole."""
        total, done = sum(map(len, batches)), 0
        for batch in batches:
            keys = [request.key for request in batch]
            if not self._known(keys):
                responses = self.model.answer(batch)
                must = f"a model must give an answer to each of {len(batch)} requests"
                require(len(responses) == len(batch), must, len(responses))
                answers = dict(zip(keys, responses, strict=True))
                self.journal.add(self._batch[keys[0]], answers)
                self._errors |= {key: answer for key, answer in answers.items() if answer.error}
            done += len(batch)
            if self._progress:
                self._progress(done, total)


def plan(model: Model, requests: Sequence[Request]) -> list[list[Request]]:
    """The model's batches.

    Raises
    ------
    ValueError
        A request is in no batch or in two.
    """
    places = model.plan(requests)
    flat = sorted(i for batch in places for i in batch)
    must = "a model's plan must hold each request once"
    require(flat == list(range(len(requests))), must, f"{len(flat)} places for {len(requests)}")
    return [[requests[i] for i in batch] for batch in places if batch]
