"""GGUF, the one-file format of llama.cpp: Hugging Face's layout with other names and fields.

Two things are stored differently. llama.cpp rotates neighboring coordinates, (0, 1), (2, 3), …,
where LLaMA's class rotates coordinate i with i + head_dim / 2, so the rows of q and k are reordered
within each head; and GPT-2's matrices are not transposed.

Sources: ggml project, "GGUF specification" (2023), for the fields; llama.cpp, conversion script
(2023), for the order of the rows.
"""

import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shared.errors import UserError
from shared.require import require
from tiny_gpt.data.tokenizers import Tokenizer
from tiny_gpt.export.hugging_face import content_of, layout_of, model_from, tensors_of
from tiny_gpt.model.config import GPTConfig
from tiny_gpt.model.gpt import GPT

# Field of the file, after the architecture's name: entry of config.json.
FIELDS = {
    "gpt2": {"context_length": "n_positions", "embedding_length": "n_embd"}
    | {"block_count": "n_layer", "feed_forward_length": "n_inner", "vocab_size": "vocab_size"}
    | {"attention.head_count": "n_head", "attention.layer_norm_epsilon": "layer_norm_epsilon"},
    "llama": {"context_length": "max_position_embeddings", "embedding_length": "hidden_size"}
    | {"block_count": "num_hidden_layers", "feed_forward_length": "intermediate_size"}
    | {"attention.head_count": "num_attention_heads", "vocab_size": "vocab_size"}
    | {"attention.head_count_kv": "num_key_value_heads"}
    | {"attention.layer_norm_rms_epsilon": "rms_norm_eps"}
    | {"rope.dimension_count": "head_dim", "rope.freq_base": "rope_theta"},
}
ZERO_BIASES = "tiny_gpt.zero_biases"  # added because the class wants them


def gguf_file(model: GPT, tokenizer: Tokenizer) -> tuple[bytes, str]:
    """The bytes of a GGUF file in float32, and what became of the tokenizer, in a sentence."""
    import gguf

    architecture = layout_of(model.config)
    if architecture not in FIELDS:
        c = model.config
        extra = ", normalized queries and keys" * c.qk_norm + ", the token before" * c.mix_previous
        raise UserError(
            "format gguf needs the architecture gpt2 or llama: llama.cpp knows no decoder with "
            f"this model's parts (norm {c.norm}, positions {c.positions}, mlp {c.mlp}{extra}); "
            "export it as hf or onnx"
        )
    content = content_of(model.config)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        writer = _writer(path, architecture)
        writer.add_name("tiny_gpt")
        writer.add_file_type(gguf.LlamaFileType.ALL_F32)
        for field, name in FIELDS[architecture].items():
            add = writer.add_float32 if isinstance(content[name], float) else writer.add_uint32
            add(f"{architecture}.{field}", content[name])
        if content.get("bias") is False:
            writer.add_bool(ZERO_BIASES, True)
        note = _add_tokenizer(writer, tokenizer)
        names = _names(architecture, model.config.n_layers)
        for name, tensor in tensors_of(model).items():
            array = _reordered(name, tensor.float(), content).contiguous().cpu().numpy()
            writer.add_tensor(_renamed(name, names.get_name), array)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path.read_bytes(), note


def model_from_gguf(path: Path) -> GPT:
    """The model in a GGUF file of a LLaMA or GPT-2, in float32 or float16."""
    import gguf

    try:
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        arrays = {t.name: (t.tensor_type, np.array(t.data)) for t in reader.tensors}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    except (ValueError, LookupError, TypeError, ArithmeticError, struct.error) as error:
        raise UserError(f"{path} is torn or not a GGUF file ({error})") from error
    architecture = fields.get("general.architecture")
    must = f"{path} must hold the architecture gpt2 or llama"
    require(architecture in FIELDS, must, repr(architecture), error=UserError)
    kind = fields.get(f"{architecture}.rope.scaling.type", "none")
    must = f"{path}: rope.scaling.type must be none"
    require(kind == "none", must, repr(kind), error=UserError)
    for name, (kind, _) in arrays.items():
        must = f"{path}: {name} must be of F32 or F16"
        require(kind.name in ("F32", "F16"), must, kind.name, error=UserError)
    content: dict[str, Any] = {"model_type": architecture, "resid_pdrop": 0.0}
    for field, name in FIELDS[architecture].items():
        if (value := fields.get(f"{architecture}.{field}")) is not None:
            # 1e-5 was rounded to float32: its shortest decimal is what was meant.
            content[name] = float(str(np.float32(value))) if isinstance(value, float) else value
    if "token_embd.weight" in arrays:
        content.setdefault("vocab_size", len(arrays["token_embd.weight"][1]))
    content["tie_word_embeddings"] = "output.weight" not in arrays
    content["bias"] = not fields.get(ZERO_BIASES, False)
    # No more layers than tensors: a damaged number must not keep us busy.
    n_layers = max(1, min(content.get(FIELDS[architecture]["block_count"], 1), len(arrays)))
    to_theirs = _inverse(architecture, n_layers)
    theirs = {_renamed(name, to_theirs): array for name, (_, array) in arrays.items()}
    tensors = {
        name: _reordered(name, torch.from_numpy(array), content, back=True)
        for name, array in theirs.items()
    }
    return model_from(content, tensors, path)


def _reordered(
    name: str, tensor: Float[Tensor, "rows ..."], content: dict[str, Any], *, back: bool = False
) -> Float[Tensor, "..."]:
    """A tensor of Hugging Face's layout in llama.cpp's, or `back`."""
    if content["model_type"] == "gpt2":
        transposed = tensor.ndim == 2 and ".h." in name
        return tensor.T if transposed else tensor
    heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    n_heads = content.get(heads.get(name.rpartition(".")[0].rpartition(".")[2]))
    if not n_heads or tensor.shape[0] % (2 * n_heads):
        return tensor
    # Halves of a head, (half, pair), become pairs, (pair, half).
    shape = (n_heads, -1, 2) if back else (n_heads, 2, -1)
    return tensor.unflatten(0, shape).transpose(1, 2).reshape(tensor.shape)


def _names(architecture: str, n_layers: int):
    import gguf

    kind = {"gpt2": gguf.MODEL_ARCH.GPT2, "llama": gguf.MODEL_ARCH.LLAMA}[architecture]
    return gguf.get_tensor_name_map(kind, n_layers)


def _renamed(name: str, rename) -> str:
    stem, dot, kind = name.rpartition(".")
    return f"{rename(stem) or stem}{dot}{kind}"


def _inverse(architecture: str, n_layers: int):
    """From names in the file to Hugging Face's; a name of neither stays as it is."""
    config = GPTConfig.of(architecture, 2, n_layers=n_layers, n_heads=1, d_model=2)
    with torch.device("meta"):
        names = [*tensors_of(GPT(config)), "lm_head.weight"]
    to_file = _names(architecture, n_layers).get_name
    stems = {name.rpartition(".")[0] for name in names}
    return {to_file(stem): stem for stem in stems}.get


def _add_tokenizer(writer, tokenizer: Tokenizer) -> str:
    """Write the tokenizer's fields and say what they hold."""
    import gguf

    end, content = tokenizer.end_of_text, json.loads(tokenizer.to_bytes())
    if end is not None:
        writer.add_bos_token_id(end)
        writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)
    if tokenizer.kind == "char":
        writer.add_tokenizer_model("none")
        return (
            "llama.cpp has no tokenizer of single characters: the file says 'none' and takes ids, "
            "which tokenizer.json beside it makes from text"
        )
    ids = content["model"]["vocab"]
    kinds = {True: gguf.TokenType.CONTROL, False: gguf.TokenType.NORMAL}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")  # the pattern that cuts text into words
    writer.add_token_list(sorted(ids, key=ids.__getitem__))
    writer.add_token_types([kinds[i == end] for i in range(len(ids))])
    merges = [" ".join(merge) for merge in content["model"]["merges"]]
    writer.add_key_value("tokenizer.ggml.merges", merges, gguf.GGUFValueType.ARRAY)
    return f"byte-level BPE of {len(ids)} tokens and {len(merges)} merges"


def _writer(path: Path, architecture: str):
    import gguf

    class Writer(gguf.GGUFWriter):
        """A writer of empty arrays too: llama.cpp wants a list of merges, even of none."""

        def _pack_val(self, val, vtype, *args, **kwargs):
            if vtype == gguf.GGUFValueType.ARRAY and len(val) == 0:
                kinds = (gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.STRING)
                return bytearray(struct.pack("<IIQ", *kinds, 0))
            return super()._pack_val(val, vtype, *args, **kwargs)

    return Writer(path, architecture)
