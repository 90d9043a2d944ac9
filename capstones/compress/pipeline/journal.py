"""What is done already, on the disk: a layer that was compressed is not compressed again.

A file for each entry, written beside its name and renamed, that begins with its own SHA-256. A
process that is killed leaves whole entries; one that was altered is not believed, and is made
again. The folder's name holds a digest of model, text, recipe and program, so that entries are
never those of another run. The journal is removed when the artifact stands.

>>> import tempfile
>>> import torch
>>> with tempfile.TemporaryDirectory() as folder:
...     journal = Journal(Path(folder) / "OUT", {"bits": 4})
...     journal.put("blocks.0.q_proj", {"w": torch.ones(2)}, {"damping": 0.01})
...     again = Journal(Path(folder) / "OUT", {"bits": 4}).get("blocks.0.q_proj")
...     Journal(Path(folder) / "OUT", {"bits": 3}).get("blocks.0.q_proj") is None
...     again
True
({'w': tensor([1., 1.])}, {'damping': 0.01})
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from shared.artifacts import absolute
from shared.errors import UserError
from shared.files import write_atomic
from shared.tensors import pack, unpack

Entry = tuple[dict[str, Tensor], dict[str, Any]]
DIGEST = 32


class Journal:
    """Entries of one run, beside the artifact that it will write.

    Parameters
    ----------
    out
        The artifact's folder.
    identity
        What the results depend on, as JSON.
    """

    def __init__(self, out: Path, identity: Mapping[str, Any]):
        text = json.dumps(identity, sort_keys=True)
        self.identity = hashlib.sha256(text.encode()).hexdigest()
        out = absolute(out)
        self.folder = out.with_name(f".{out.name}.{self.identity[:16]}.journal")

    def get(self, key: str) -> Entry | None:
        """What was put under a key; None if nothing was, or it was altered since."""
        try:
            data = self._path(key).read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data[DIGEST:]).digest() != data[:DIGEST]:
            return None
        size = DIGEST + 4 + int.from_bytes(data[DIGEST : DIGEST + 4], "little")
        return dict(unpack(data[size:])), json.loads(data[DIGEST + 4 : size])

    def put(self, key: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Keep tensors and what JSON says of them; they are on the disk when this returns."""
        said = json.dumps(meta).encode()
        body = len(said).to_bytes(4, "little") + said + pack(tensors)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise UserError(f"the journal {self.folder} cannot be made ({reason})") from error
        write_atomic(self._path(key), hashlib.sha256(body).digest() + body)

    def drop(self, key: str) -> None:
        """One entry, if it is there."""
        self._path(key).unlink(missing_ok=True)

    def remove(self) -> None:
        """All of it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.entry"


class NoJournal:
    """Nothing is kept: for models in memory."""

    def get(self, key: str) -> Entry | None:
        """Nothing."""
        return None

    def put(self, key: str, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Nowhere."""

    def drop(self, key: str) -> None:
        """There is nothing to drop."""

    def remove(self) -> None:
        """There is nothing to remove."""
