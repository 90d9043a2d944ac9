"""Any model of sentence-transformers that lies in a folder, as an embedder."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Float

from shared.errors import UserError


class SentenceFolder:
    """A folder as `SentenceTransformer.save` writes it; nothing is fetched, no code of it is run.

    Parameters
    ----------
    folder
        Holds modules.json.
    """

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.name = str(self.folder)

    @cached_property
    def digest(self) -> str:
        """Of every file but the readable ones, by name."""
        whole = hashlib.sha256()
        for path in sorted(p for p in self.folder.rglob("*") if p.is_file()):
            if path.suffix != ".md":
                whole.update(path.relative_to(self.folder).as_posix().encode() + b"\0")
                whole.update(hashlib.sha256(path.read_bytes()).digest())
        return whole.hexdigest()

    @cached_property
    def _model(self):
        from sentence_transformers import SentenceTransformer

        try:
            return SentenceTransformer(str(self.folder), device="cpu", local_files_only=True)
        except Exception as error:  # whatever the libraries below say of a broken folder
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"{self.folder} is no readable sentence-transformer: {why}") from error

    @cached_property
    def dim(self) -> int:
        """Length of a vector."""
        return self.encode([""]).shape[1]

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "n dim"]:
        """The model's sentence embeddings, of length 1."""
        options = {"normalize_embeddings": True, "show_progress_bar": False}
        return np.asarray(self._model.encode(list(texts), **options), np.float32)
