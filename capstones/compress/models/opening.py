"""Models by reference, each as week 18's LLaMA: one family, so that each method knows its layers.

>>> open_model("bert")
Traceback (most recent call last):
shared.errors.UserError: MODEL must be smollm2, hf:FOLDER, tiny_gpt:RUN, compress:DIR or \
gguf:FILE, got 'bert'
"""

import hashlib
from pathlib import Path

import torch

from compress.artifact.folder import load
from compress.models.opened import OpenedModel
from compress.models.tokenizers import of_folder, of_gguf, of_tiny_gpt
from shared import pretrained
from shared.errors import UserError
from shared.model_refs import LOCAL, ModelRef, parse
from shared.require import require
from tiny_gpt.export.hugging_face import content_of, layout_of, tensors_of
from tiny_gpt.training.checkpoints import load_checkpoint
from week18.gguf_file import GGUF
from week18.llama3 import Llama
from week18.pretrained import config_from_hugging_face, hugging_face_name, load_pretrained

REFUSES = {"openai": "openai:URL has no weights here to compress"}


def reference(text: str) -> ModelRef:
    """A model's reference, of a kind that has weights here."""
    return parse(text, accepts=LOCAL, refuses=REFUSES, what="MODEL")


def open_model(ref: str, *, kernels: bool = False) -> OpenedModel:
    """Open a model; nothing is fetched, and no code or pickle of a folder is run.

    Parameters
    ----------
    ref
        `smollm2`; `hf:FOLDER`, a LLaMA of Transformers; `tiny_gpt:RUN`, a run whose architecture
        is `llama`; `compress:DIR`, what `compress` wrote; `gguf:FILE`, a LLaMA; or what a folder
        or a file is, if it is one of these.
    kernels
        Of a compressed model: keep its codes and multiply by them where torch has a kernel for
        that, instead of making floats of them once.

    Raises
    ------
    UserError
        If there is no such model, it cannot be read or it is not a LLaMA.
    """
    asked = reference(ref)
    if asked.kind == "compress":
        return load(asked.path, kernels=kernels)
    path = pretrained.smollm2() if asked.kind == "smollm2" else asked.path
    found = {"hf": _hugging_face, "tiny_gpt": _tiny_gpt}.get(asked.kind, _gguf)(path, asked.text)
    found.model.float().eval().requires_grad_(False)
    return found


def _gguf(path: Path, ref: str) -> OpenedModel:
    tokenizer = of_gguf(GGUF.open(path))
    return OpenedModel(load_pretrained(path), tokenizer, ref, _digest([path]))


def _hugging_face(folder: Path, ref: str) -> OpenedModel:
    model, tokenizer = load_pretrained(folder), of_folder(folder)
    weights = [*folder.glob("*.safetensors"), folder / "config.json"]
    return OpenedModel(model, tokenizer, ref, _digest(weights), folder)


def _tiny_gpt(run: Path, ref: str) -> OpenedModel:
    checkpoint = load_checkpoint(run)
    ours, layout = checkpoint.model, layout_of(checkpoint.model.config)
    must = f"{ref} must have the architecture of a LLaMA (rms, rotary, swiglu, no bias)"
    require(layout == "llama", must, layout, error=UserError)
    model = Llama(config_from_hugging_face(content_of(ours.config)))
    theirs = tensors_of(ours)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(theirs[hugging_face_name(name)])
    weights = sorted(checkpoint.path.glob("*.safetensors"))
    tokenizer = of_tiny_gpt(checkpoint.tokenizer)
    return OpenedModel(model, tokenizer, ref, _digest(weights), run)


def _digest(paths: list[Path]) -> str:
    """SHA-256 of files, whatever folder they lie in."""
    found = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        try:
            with path.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
        found.update(f"{content}\n".encode())
    return found.hexdigest()
