r"""A LLaMA in a GGUF file becomes a Hugging Face folder, once, in the user's cache.

Two things are stored otherwise. llama.cpp rotates neighboring coordinates, (0, 1), (2, 3), …, where
LLaMA's class (and ours) rotates coordinate i with i + head_dim / 2, so the rows of q and k come
reordered within each head; and weights are blocks of small integers. Both are undone here, the
result is stored as `config.json` and `model.safetensors`, and from then on it is only mapped.

>>> rows = np.arange(8)[:, None]  # two heads of four
>>> interleaved(rows, 2).ravel()
array([0, 2, 1, 3, 4, 6, 5, 7])
>>> half_split(interleaved(rows, 2), 2).ravel()
array([0, 1, 2, 3, 4, 5, 6, 7])
>>> hugging_face_name("blk.3.attn_output.weight")
'model.layers.3.self_attn.o_proj.weight'

`uv run weeks/18/smollm2.py` compares with what `transformers` reads. Source: llama.cpp's conversion
script (2023), for the names and the order of the rows.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from shared import artifacts
from shared.errors import UserError
from shared.require import require
from week18.gguf_file import GGUF

FIELDS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
OPTIONAL = {
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "rope.freq_base": "rope_theta",
}
TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
PARTS = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    **{f"attn_{part}": f"self_attn.{part}_proj" for part in "qkv"},
    "attn_output": "self_attn.o_proj",
    **{f"ffn_{part}": f"mlp.{part}_proj" for part in ("gate", "up", "down")},
}
VERSION = "1"  # of this conversion: another one does not find what the last has cached


def hugging_face_name(name: str) -> str:
    """What Hugging Face calls one of llama.cpp's tensors; unknown names stay."""
    if layer := re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name):
        return f"model.layers.{layer[1]}.{PARTS.get(layer[2], layer[2])}.weight"
    top = name.removesuffix(".weight")
    return f"{TOP[top]}.weight" if top in TOP else name


def interleaved(rows: Shaped[np.ndarray, "rows d"], n_heads: int) -> Shaped[np.ndarray, "rows d"]:
    """Rows of q or k as llama.cpp has them: a pair that is rotated together stands together."""
    heads = rows.reshape(n_heads, 2, -1, rows.shape[1])
    return heads.swapaxes(1, 2).reshape(rows.shape)


def half_split(rows: Shaped[np.ndarray, "rows d"], n_heads: int) -> Shaped[np.ndarray, "rows d"]:
    """Rows of q or k as LLaMA's class has them: row i is rotated with row i + head_dim / 2."""
    heads = rows.reshape(n_heads, -1, 2, rows.shape[1])
    return heads.swapaxes(1, 2).reshape(rows.shape)


def config_of(file: GGUF) -> dict[str, Any]:
    """The contents of `config.json`.

    Raises
    ------
    UserError
        If the file is not that of a LLaMA, or asks for something that `Llama` does not have.
    """

    def must(holds: bool, what: str, got: Any) -> None:
        require(holds, f"{file.name}: {what}", repr(got), error=UserError)

    kind = file.fields.get("general.architecture")
    must(kind == "llama", "general.architecture must be 'llama'", kind)
    given = {k.removeprefix("llama."): v for k, v in file.fields.items() if k.startswith("llama.")}
    content: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    for name, theirs in (FIELDS | OPTIONAL).items():
        if name in given:
            value, whole = (
                given[name],
                name not in ("rope.freq_base", "attention.layer_norm_rms_epsilon"),
            )
            must(type(value) is (int if whole else float), f"llama.{name} must be a number", value)
            content[theirs] = value
        else:
            must(name in OPTIONAL, f"llama.{name} must be given", None)
    heads = content["num_attention_heads"]
    must(heads >= 1, "llama.attention.head_count must be at least 1", heads)
    head_dim = content.setdefault("head_dim", content["hidden_size"] // heads)
    for name, plain in (("rope.dimension_count", head_dim), ("attention.value_length", head_dim)):
        must(given.get(name, plain) == plain, f"llama.{name} must be {plain}", given.get(name))
    scaling = given.get("rope.scaling.type", "none")
    must(scaling == "none", "llama.rope.scaling.type must be 'none'", scaling)
    must("token_embd.weight" in file.tensors, "token_embd.weight must be there", None)
    content["vocab_size"] = file.tensors["token_embd.weight"].shape[0]
    content["tie_word_embeddings"] = "output.weight" not in file.tensors
    return content


def tensors_of(file: GGUF, config: dict[str, Any]) -> Iterator[Float32[np.ndarray, "..."]]:
    """One weight after the other in float32, in Hugging Face's order of rows."""
    for name in file.tensors:
        array = file.array(name)
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            kv = name.endswith("k.weight") and "num_key_value_heads" in config
            heads = config["num_key_value_heads" if kv else "num_attention_heads"]
            whole = array.ndim == 2 and heads >= 1 and array.shape[0] % (2 * heads) == 0
            must = f"{file.name}: {name} must be of {heads} heads of even size"
            require(whole, must, array.shape, error=UserError)
            array = half_split(array, heads)
        yield array


def safetensors_of(file: GGUF, config: dict[str, Any]) -> bytearray:
    """All weights as a safetensors file, by Hugging Face's names.

    They are written where they will stay, so that no more than one of them is in memory twice.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "np"}}
    end = 0
    for name, entry in file.tensors.items():
        start, end, theirs = end, end + 4 * prod(entry.shape), hugging_face_name(name)
        must = f"{file.name}: there must be one weight {theirs}"
        require(theirs not in header, must, "two", error=UserError)
        facts = {"dtype": "F32", "shape": entry.shape, "data_offsets": [start, end]}
        header[theirs] = facts
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of 8
    data = bytearray(8 + len(text) + end)
    data[: 8 + len(text)] = len(text).to_bytes(8, "little") + text
    numbers, at = np.frombuffer(data, "<f4", offset=8 + len(text)), 0
    for array in tensors_of(file, config):
        numbers[at : at + array.size] = array.ravel()
        at += array.size
    return data


def cache_dir() -> Path:
    """Where unpacked models are kept: the user's cache folder, as for the data sets."""
    import pooch

    return Path(pooch.os_cache("ml-studies")) / "models"


def hugging_face_folder(path: Path) -> Path:
    """The folder that holds this GGUF file's model, unpacked now if it is not there yet.

    It is found by the file's digest, and its every byte is verified.

    Raises
    ------
    UserError
        If the file is not a LLaMA's or is broken, or the folder cannot be written.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    folder = cache_dir() / f"{path.stem}-{digest[:16]}-{VERSION}"
    try:
        artifacts.verify(folder)
    except artifacts.ArtifactError:  # not there, or damaged: it can be made again
        file = GGUF.open(path)
        config = config_of(file)
        content = (json.dumps(config, indent=2) + "\n").encode()
        weights = safetensors_of(file, config)
        artifacts.save(folder, {"config.json": content, "model.safetensors": weights})
    return folder
