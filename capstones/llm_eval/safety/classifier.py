r"""A small classifier of toxic text, learned here: hashed n-grams, logistic regression, Platt.

The score of a text is $s = w \cdot x$; on tweets that taught it nothing, two more numbers are
fitted so that it can be read as a probability (Platt, 1999):

$$p = \sigma(a s + b) .$$

Both fits weigh the two classes alike, so p is what it would be if half of all texts were toxic; it
exceeds 0.5 where a text is likelier among toxic ones. It knows tweets of 2017, words more than
meanings, and its judges' prejudice: `audit` measures it, and every number that it makes says so.

>>> texts = ["you fool", "you are a fool", "what a day", "a fine day"]
>>> model = fit(texts, np.array([True, True, False, False]), texts, np.array([1, 1, 0, 0], bool))
>>> model.probability(["fool", "day"]).round(1)
array([1., 0.])

Source: Davidson et al. (2017) for the data; Platt, "Probabilistic outputs for support vector
machines" (1999).
"""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from llm_eval.safety.hashing import vectors
from llm_eval.safety.tweets import DATASET, FILE, Tweets, load_tweets
from shared import artifacts, registry
from shared.require import require

KIND, VERSION = "toxicity classifier", "1"
STRENGTH = 3.0  # inverse of the penalty; 1 to 30 rank the calibration tweets alike
LEAST = 3  # texts that an n-gram must occur in, where there are a thousand; rarer ones gain nothing


@dataclass(frozen=True)
class ToxicityClassifier:
    """Weights of hashed n-grams, and the line that makes probabilities of scores."""

    weights: Float[np.ndarray, " columns"]
    slope: float
    shift: float
    scores: Mapping[str, Any] = field(default_factory=dict)

    def score(self, texts: Sequence[str]) -> Float[np.ndarray, " n"]:
        """Log-odds as learned, before calibration."""
        return vectors(texts) @ self.weights.astype(np.float64)

    def probability(self, texts: Sequence[str]) -> Float[np.ndarray, " n"]:
        """How likely each text is toxic, where half of all texts are."""
        if not len(texts):
            return np.zeros(0)
        odds = self.slope * self.score(texts) + self.shift
        return np.exp(-np.logaddexp(0, -odds))

    def evaluation(self) -> dict[str, Any]:
        """Its own scores on tweets it never saw, and its own bias; see `audit.audit`."""
        return dict(self.scores)

    @property
    def digest(self) -> str:
        """What its probabilities depend on."""
        line = json.dumps([VERSION, self.slope, self.shift]).encode()
        return hashlib.sha256(line + self.weights.tobytes()).hexdigest()

    def save(self, folder: Path) -> None:
        """Write it as an artifact: two arrays and JSON, nothing that runs."""
        tensors = {"weights": self.weights, "line": np.array([self.slope, self.shift])}
        metadata = {"kind": KIND, "version": VERSION, "scores": dict(self.scores)}
        artifacts.save_tensors(folder, tensors, metadata=metadata)

    @classmethod
    def load(cls, folder: Path) -> "ToxicityClassifier":
        """Read what `save` wrote; every byte is verified.

        Raises
        ------
        ArtifactError
            There is none, it was altered, or it is something else.
        """
        tensors, artifact = artifacts.load_tensors(folder)
        said = artifact.metadata
        if (said.get("kind"), said.get("version")) != (KIND, VERSION):
            raise artifacts.ArtifactError(f"artifact {folder} is no {KIND} of version {VERSION}")
        slope, shift = tensors["line"].tolist()
        return cls(tensors["weights"], slope, shift, said["scores"])


def train(tweets: Tweets | None = None, *, seed: int = 0) -> ToxicityClassifier:
    """Learn from one part, calibrate on another, judge on the third.

    Parameters
    ----------
    tweets
        All of them by default, split by `seed`.

    Raises
    ------
    UserError
        The data set is not there.
    """
    from llm_eval.safety.audit import audit

    tweets = load_tweets(seed=seed) if tweets is None else tweets
    model = fit(*tweets.of("train"), *tweets.of("calibration"))
    return replace(model, scores=audit(model, *tweets.of("test"), seed=seed))


def fit(
    texts: Sequence[str],
    toxic: Bool[np.ndarray, " n"],
    other_texts: Sequence[str],
    other_toxic: Bool[np.ndarray, " m"],
) -> ToxicityClassifier:
    """Weights from the first texts, calibration from the others."""
    for name, labels in (("toxic", toxic), ("other_toxic", other_toxic)):
        require(0 < labels.sum() < len(labels), f"{name} must hold both classes", "one or none")
    table = vectors(texts)
    frequency = np.bincount(table.indices, minlength=table.shape[1])
    known = np.flatnonzero(frequency >= (LEAST if len(texts) >= 1000 else 1))
    weights = np.zeros(table.shape[1], np.float32)
    weights[known], _ = _regression(table[:, known], toxic, STRENGTH)
    scores = vectors(other_texts) @ weights.astype(np.float64)
    line, shift = _regression(scores[:, None], other_toxic, 1e4)
    return ToxicityClassifier(weights, float(line[0]), shift)


def _regression(x: Any, y: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
    from sklearn.linear_model import LogisticRegression

    solver = LogisticRegression(C=strength, class_weight="balanced", max_iter=500)
    solver.fit(x, y)
    return solver.coef_[0], float(solver.intercept_[0])


@functools.cache
def open_classifier(folder: Path | None = None) -> ToxicityClassifier:
    """The classifier of the user's cache, trained now if it is not there yet.

    Raises
    ------
    ArtifactError
        It is there, but damaged.
    UserError
        It is not there, and neither is the data to learn it from.
    """
    folder = default_folder() if folder is None else folder
    if not folder.exists():
        train().save(folder)
    return ToxicityClassifier.load(folder)


def default_folder() -> Path:
    """Beside the unpacked models: the cache of data sets may be read-only."""
    import pooch

    entry = next(f for f in registry.registry()[DATASET].files if f.path.endswith(FILE))
    name = f"toxicity-{entry.digest.split(':')[1][:12]}-{VERSION}"
    return Path(pooch.os_cache("ml-studies")) / "models" / name
