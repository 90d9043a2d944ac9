"""What the routes answer with: a model that is being loaded, is there, or is leaving."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from serving.engine.metrics import Metrics
from serving.errors import ApiError
from serving.models.embedding import Embedder
from serving.models.language_model import LanguageModel
from serving.safety.policy import Safety
from serving.types import Backend

WAIT = 5  # seconds after which a client may come again


class Service:
    """One model under one name, or several names.

    Parameters
    ----------
    load
        Gives the backend, which takes its time.
    names
        Under which the model is served; the first one is told.
    deadline
        Seconds after which an answer is broken off.
    safety
        What may not come in, or go out.

    Attributes
    ----------
    embed
        Vectors of texts.
    failure
        Why the model could not be loaded.
    leaving
        Whether new requests are refused, since the server is about to end.
    """

    def __init__(
        self,
        load: Callable[[], Backend],
        names: Sequence[str],
        metrics: Metrics,
        *,
        deadline: float = 120.0,
        safety: Safety | None = None,
    ):
        self._load, self.names, self.metrics, self.deadline = load, tuple(names), metrics, deadline
        self.safety = safety or Safety()
        self.created, self.leaving = int(time.time()), False
        self.failure: Exception | None = None
        self._backend: Backend | None = None
        self.embed = Embedder()

    @property
    def name(self) -> str:
        """Under which the model answers."""
        return self.names[0]

    @property
    def model(self) -> LanguageModel | None:
        """What has tokens, if that is what answers."""
        return getattr(self._backend, "model", None)

    @property
    def active(self) -> int:
        """Answers on their way."""
        return self._backend.active if self._backend else 0

    @property
    def alive(self) -> bool:
        """Whether it answers, or will."""
        return self.failure is None and not getattr(self._backend, "broken", False)

    @property
    def ready(self) -> bool:
        """Whether it answers now."""
        return self._backend is not None and self.alive and not self.leaving

    def load(self) -> None:
        """Load the model; what goes wrong is kept in `failure`."""
        try:
            self._backend = self._load()
        except Exception as error:
            self.failure = error

    def close(self) -> None:
        """End what answers."""
        if self._backend:
            self._backend.close()

    def known(self, name: str | None) -> None:
        """Refuse a model that is not here."""
        if name is not None and name not in self.names:
            message = f"model must be {' or '.join(self.names)}, got {name[:100]!r}"
            raise ApiError(404, message, code="model_not_found", param="model")

    def stays(self) -> None:
        """Refuse what is new when the server is about to end."""
        if self.leaving:
            raise ApiError(503, "the server is about to end", code="draining", wait=WAIT)

    def backend(self, name: str | None) -> Backend:
        """What answers, if it can now."""
        self.known(name)
        self.stays()
        if not self.alive:
            raise ApiError(500, "the model failed", code="engine_dead")
        if self._backend is None:
            raise ApiError(503, "the model is being loaded", code="loading", wait=WAIT)
        return self._backend

    def card(self, name: str) -> dict[str, Any]:
        """A model of the list."""
        longest = getattr(self._backend, "longest", None)
        about = {"id": name, "object": "model", "created": self.created, "owned_by": "ml-studies"}
        return about | {"root": self.name, "max_model_len": longest}
