"""References to models, the same in every program: a kind, and where the model lies.

>>> ref = parse("tiny_gpt:~/runs/mine", accepts=SHARED)
>>> ref.kind, ref.rest
('tiny_gpt', '~/runs/mine')
>>> parse("http://127.0.0.1:8000/v1", accepts=SHARED).text
'openai:http://127.0.0.1:8000/v1'
>>> parse("gpt-9", accepts=LOCAL)
Traceback (most recent call last):
shared.errors.UserError: model must be smollm2, hf:FOLDER, tiny_gpt:RUN, compress:DIR or \
gguf:FILE, got 'gpt-9'

What has no kind before a colon is a path, and told by what lies there, or an address.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared import artifacts
from shared.artifacts import ArtifactError
from shared.errors import UserError
from shared.require import require

__all__ = ["KINDS", "LOCAL", "SHARED", "ModelRef", "address", "kind_of", "listed", "parse"]

# What follows a kind; nothing where the kind is all there is to say.
KINDS = {
    "smollm2": "",
    "hf": "FOLDER",
    "tiny_gpt": "RUN",
    "compress": "DIR",
    "gguf": "FILE",
    "openai": "URL[#MODEL]",
    "onnx": "DIR",
    "rag": "STORE",
    "week28": "NAME",
    "extractive": "",
    "dummy": "",
}
LOCAL = ("smollm2", "hf", "tiny_gpt", "compress", "gguf")  # whose weights are on this machine
SHARED = (*LOCAL, "openai")


@dataclass(frozen=True)
class ModelRef:
    """A model's kind, and the rest as it was written.

    Examples
    --------
    >>> ModelRef("gguf", "a.gguf").text, ModelRef("smollm2").text
    ('gguf:a.gguf', 'smollm2')
    """

    kind: str
    rest: str = ""

    @property
    def text(self) -> str:
        """The reference in full."""
        return f"{self.kind}:{self.rest}" if self.rest else self.kind

    @property
    def path(self) -> Path:
        """The rest as a path, a leading `~` being the user's home."""
        return Path(os.path.expanduser(self.rest))


def parse(
    text: str,
    *,
    accepts: Sequence[str],
    refuses: Mapping[str, str] | None = None,
    what: str = "model",
) -> ModelRef:
    """Read a reference.

    Parameters
    ----------
    accepts
        Kinds, in the order in which an error lists them.
    refuses
        Why other kinds do not fit, a sentence for each.
    what
        The argument's name.

    Raises
    ------
    UserError
        It is none, or not one of these kinds. A line about an address does not repeat it, since a
        password may stand in it.
    """
    text = text.strip()
    ref, must = _read(text), f"{what} must be {listed(accepts)}"
    if ref is not None and ref.kind not in accepts and ref.kind in (refuses or {}):
        raise UserError(f"{must}; {refuses[ref.kind]}")
    got = "an address" if "://" in text else repr(text)
    require(ref is not None and ref.kind in accepts, must, got, error=UserError)
    if ref.kind == "hf":
        must = "hf:FOLDER must be a folder that holds a config.json"
        there = os.path.isfile(ref.path / "config.json")
        require(there, must, repr(ref.rest), error=UserError)
    if ref.kind == "gguf":
        must = "gguf:FILE must end in .gguf"
        require(ref.path.suffix == ".gguf", must, repr(ref.rest), error=UserError)
        must = "gguf:FILE must be a file on this machine"  # to open a pipe is to wait for ever
        require(os.path.isfile(ref.path), must, repr(ref.rest), error=UserError)
    if ref.kind == "openai":
        address(ref.rest)
    return ref


def _read(text: str) -> ModelRef | None:
    kind, colon, rest = text.partition(":")
    if colon and KINDS.get(kind):
        return ModelRef(kind, rest.strip()) if rest.strip() else None
    if KINDS.get(text) == "":
        return ModelRef(text)
    if text.startswith(("http://", "https://")):
        return ModelRef("openai", text)
    found = kind_of(Path(os.path.expanduser(text))) if text else None
    return ModelRef(found, text) if found else None


def listed(accepts: Sequence[str]) -> str:
    """Kinds and what follows them, as a sentence has them.

    >>> listed(["smollm2", "hf", "dummy"])
    'smollm2, hf:FOLDER or dummy'
    """
    *most, last = (ModelRef(kind, KINDS[kind]).text for kind in accepts)
    return f"{', '.join(most)} or {last}" if most else last


def kind_of(path: Path) -> str | None:
    """What lies at a path: a GGUF file, a run of tiny-gpt or one of its checkpoints, what
    `compress` wrote, or a folder of Hugging Face.

    Raises
    ------
    ArtifactError
        It is one of our own folders, and its manifest was altered or is torn.
    """
    if not os.path.isdir(path):
        return "gguf" if path.suffix == ".gguf" and os.path.isfile(path) else None
    try:
        names = {entry.name for entry in os.scandir(path)}
        if {artifacts.MANIFEST, artifacts.TENSORS} <= names:
            return _own_kind(path / artifacts.MANIFEST)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror})") from error
    weights = any(name.endswith(".safetensors") for name in names - {artifacts.TENSORS})
    if "config.json" in names and weights:
        return "hf"
    run = (path / "best" / "state.json").exists() or any(path.glob("checkpoints/step-*"))
    return "tiny_gpt" if run else None


def _own_kind(manifest: Path) -> str | None:
    match artifacts.opened(manifest.read_bytes()):
        case None:
            raise ArtifactError(f"{manifest} was altered or is torn")
        case {"metadata": {"format": str(said)}} if said.startswith("compression "):
            return "compress"
        case {"files": {"state.json": _}}:
            return "tiny_gpt"
    return None


def address(text: str) -> tuple[str, str]:
    """The URL of `URL` or `URL#MODEL`, and the model's name, which is `default` if there is none.

    >>> address("http://127.0.0.1:8000/v1/#small")
    ('http://127.0.0.1:8000/v1', 'small')

    Raises
    ------
    UserError
        It is no address of the web, or holds a password, or a query, to which no path can be added
        and in which a key may stand; the line does not repeat it.
    """
    url, _, model = text.partition("#")
    must = "model must be openai:http://… or openai:https://… without a query or a password"
    good = re.fullmatch(r"https?://[^@\s/?][^@\s?]*", url)
    require(good, must, "another", error=UserError)
    return url.rstrip("/"), model or "default"
