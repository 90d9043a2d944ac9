"""Texts from which methods learn what layers read: the same ones every time, with a digest.

Windows begin at places of the text that a seed draws, so that they come from all over it, and only
what they hold is encoded.

>>> from compress.models.tokenizers import of_tiny_gpt
>>> from tiny_gpt.data.tokenizers import train_tokenizer
>>> tokenizer = of_tiny_gpt(train_tokenizer("byte", []))
>>> found = calibrate(tokenizer, "pydocs", n=4, seqlen=16, seed=0)
>>> found.ids.shape, found.sha256 == calibrate(tokenizer, "pydocs", n=4, seqlen=16).sha256
(torch.Size([4, 16]), True)
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from compress.models.tokenizers import Tokenizer
from shared import datasets
from shared.errors import UserError
from shared.require import require

BUILTIN = ("builtin", "wikitext2", "pydocs")


@dataclass(frozen=True)
class Calibration:
    """Windows of tokens, and where they came from.

    Attributes
    ----------
    source
        `wikitext2` (its validation part), `pydocs` (Python's manual) or the name of a file.
    sha256
        Of the ids, as they lie in memory.
    """

    ids: Int64[Tensor, "window seqlen"]
    source: str
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """For a manifest: where the windows came from, how many there are, and their digest."""
        return {"source": self.source, "shape": list(self.ids.shape), "sha256": self.sha256}


def calibrate(
    tokenizer: Tokenizer, source: str = "builtin", *, n: int = 32, seqlen: int = 256, seed: int = 0
) -> Calibration:
    """Windows of a text.

    Parameters
    ----------
    source
        `builtin` takes the validation part of WikiText-2 where that can be had, else Python's
        manual; the names `wikitext2` and `pydocs` insist; anything else is a text file.
    n, seqlen, seed
        How many windows, of how many tokens, and what draws their places.

    Raises
    ------
    UserError
        If the text cannot be read or is too short.
    """
    require(n >= 1, "n_calib must be at least 1", n, error=UserError)
    require(seqlen >= 2, "seqlen must be at least 2", seqlen, error=UserError)
    source, text = _read(source)
    text = _known(tokenizer, text)
    rng, rows = np.random.default_rng(seed), []
    size = 8 * seqlen  # characters: more than a window's for nearly any tokenizer and text
    for start in rng.integers(0, max(1, len(text) - size), n).tolist():
        start = max(0, text.rfind(" ", 0, start + 1))  # at a word's beginning
        ids, take = [], size
        while len(ids) < seqlen and take < 2 * len(text) + size:
            ids = tokenizer.encode((text[start:] + text[:start])[:take])
            take *= 2
        must = f"calib {source} must hold {seqlen} tokens"
        require(len(ids) >= seqlen, must, len(ids), error=UserError)
        rows.append(ids[:seqlen])
    found = torch.tensor(rows, dtype=torch.int64)
    return Calibration(found, source, hashlib.sha256(found.numpy().tobytes()).hexdigest())


def _read(source: str) -> tuple[str, str]:
    if source in ("builtin", "wikitext2"):
        try:
            return "wikitext-2-raw valid", datasets.wikitext2("valid")
        except UserError:
            if source != "builtin":
                raise
    if source in BUILTIN:
        return "pydocs", datasets.load_text("pydocs")
    try:
        return Path(source).name, Path(source).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        names = ", ".join(BUILTIN)
        raise UserError(f"calib must be {names} or a text file: {source}: {reason}") from error


def _known(tokenizer: Tokenizer, text: str) -> str:
    """The text without characters that a tokenizer of characters has never seen."""
    if getattr(tokenizer.inner, "kind", None) != "char":
        return text
    known = set(tokenizer.inner.tokens)
    return "".join(character for character in text if character in known)
