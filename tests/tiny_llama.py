"""A tiny LLaMA in a plain Hugging Face folder, with a tokenizer of bytes, as a user would have."""

import json
from pathlib import Path

from compress.models.testing import tiny_model
from shared.tensors import pack
from week18.pretrained import hugging_face_config, hugging_face_name


def tiny_folder(folder: Path, seed: int = 0, **sizes: int) -> Path:
    """Write it and return the folder."""
    opened, _ = tiny_model(seed, **sizes)
    folder.mkdir(parents=True)
    tensors = {hugging_face_name(name): p for name, p in opened.model.named_parameters()}
    (folder / "model.safetensors").write_bytes(pack(tensors))
    (folder / "config.json").write_text(json.dumps(hugging_face_config(opened.model.config)))
    for name, data in opened.tokenizer.files.items():
        (folder / name).write_bytes(data)
    return folder
