r"""The folder that vLLM and Transformers load as *compressed-tensors*: codes in 32-bit words.

Of a layer `NAME` the file holds

    NAME.weight_packed       codes of b bits, 32 neighbors of a row in b words, the first lowest
    NAME.weight_scale        one number for a row and a group of inputs
    NAME.weight_shape        rows and inputs
    NAME.weight_zero_point   whole numbers, packed along the *rows*; only where a grid has one

and `config.json` says in `quantization_config` which layers have which grid. What is packed counts
from 0: a code of $-2^{b-1}$ is stored as 0, which is how `Weight` has its codes anyway.

>>> words = pack(torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8, 9]]), 4)
>>> words.shape, hex(words[0, 0].item() & 0xFFFFFFFF)
(torch.Size([1, 2]), '0x87654321')

The tests read the folder with the package `compressed-tensors` and with Transformers. Version 5.23
of the latter loads zero points only with `CompressedTensorsConfig(dequantize=True)`.

Source: the project compressed-tensors, `compressors/pack_quantized` (2026) [read].
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Integer
from torch import Tensor

from compress.weights import Weight
from shared import artifacts
from shared.errors import UserError
from shared.require import require
from shared.tensors import pack as stored
from week18.llama3 import Llama
from week18.pretrained import hugging_face_config, hugging_face_name
from week19.folding import LAYERS
from week19.packing import pack as words_of

WORD = 32
OUTER = ("embed", "head")  # stay floats: readers take no codes for them


def pack(codes: Integer[Tensor, "rows n"], bits: int) -> Integer[Tensor, "rows words"]:
    """Words of 32 bits that hold the codes of a row, which are padded to a multiple of 32."""
    n = codes.shape[1]
    padded = F.pad(codes.int(), (0, -n % WORD))
    return words_of(padded.T, bits=bits).T[:, : -(-n * bits // WORD)].contiguous()


def tensors_of(name: str, weight: Weight) -> dict[str, Tensor]:
    """What the file holds of one quantized layer.

    Raises
    ------
    UserError
        If the format has no place for the layer's grid.
    """
    codes, bits = weight.values, weight.bits
    size = group_size(name, weight)
    whole = not weight.zero.is_floating_point()
    require(whole, f"{name} must have whole zero points", "floats (HQQ)", error=UserError)
    if weight.mask is not None:  # what was pruned has the code of zero
        zeros = weight.zero.to(codes.dtype)[:, weight.group_of]
        codes = torch.where(weight.mask, codes, zeros)
    found = {"weight_packed": pack(codes, bits), "weight_scale": weight.scale.contiguous()}
    found["weight_shape"] = torch.tensor(codes.shape)
    if not weight.symmetric:
        found["weight_zero_point"] = pack(weight.zero.T, bits).T.contiguous()
    require(size == -1 or codes.shape[1] % size == 0, _must(name), size, error=UserError)
    return {f"{name}.{part}": tensor for part, tensor in found.items()}


def group_size(name: str, weight: Weight) -> int:
    """Inputs that share a grid; -1 for all of a row."""
    n_groups, n_in = weight.scale.shape[1], weight.values.shape[1]
    if n_groups == 1:
        return -1
    size = int((weight.group_of == 0).sum())
    in_order = torch.equal(weight.group_of.long(), torch.arange(n_in) // size)
    require(in_order, _must(name), "groups in another order (act-order)", error=UserError)
    return size


def _must(name: str) -> str:
    return f"{name} must have groups of neighbors that divide its inputs, for compressed-tensors"


def scheme(weight: Weight, size: int) -> dict[str, Any]:
    """How `config.json` describes a grid."""
    args = {"num_bits": weight.bits, "type": "int", "symmetric": weight.symmetric}
    args |= {"dynamic": False, "observer": "minmax"}
    args |= {"strategy": "channel"} if size == -1 else {"strategy": "group", "group_size": size}
    inputs = None
    if weight.int8_inputs:
        inputs = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "token"}
        inputs["dynamic"] = True
    return {"weights": args, "input_activations": inputs, "output_activations": None}


def quantization_config(schemes: Mapping[str, dict[str, Any]], n_linear: int) -> dict[str, Any]:
    """The entry of `config.json`: layers with the same scheme are one group.

    Parameters
    ----------
    n_linear
        Linear layers but the head; if all are of one scheme, the group is called by their class.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, found in schemes.items():
        key = json.dumps(found, sort_keys=True)
        groups.setdefault(key, {**found, "targets": []})["targets"].append(name)
    if len(groups) == 1 and len(schemes) == n_linear and "lm_head" not in schemes:
        next(iter(groups.values()))["targets"] = ["Linear"]
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {f"group_{i}": group for i, group in enumerate(groups.values())},
        "ignore": ["lm_head"] if "lm_head" not in schemes else [],
    }


def narrow(tensor: Tensor) -> Tensor:
    """Float32 in 16 bits where that is the same numbers, as after a cast."""
    half = tensor.half() if tensor.dtype == torch.float32 else tensor
    same = tensor.ndim == 2 and torch.equal(half.to(tensor.dtype), tensor)
    return (half if same else tensor).contiguous()


def save_compressed_tensors(
    model: Llama, weights: Mapping[str, Weight], folder: Path, files: Mapping[str, bytes]
) -> None:
    """Write the folder, atomically.

    Parameters
    ----------
    model
        What is not in `weights` is taken from it, as floats.
    weights
        By our names, such as `blocks.0.q_proj`; those without codes are written as floats.
    files
        More files, such as those of a tokenizer.

    Raises
    ------
    UserError
        If no layer is quantized, or one is so in a way that the format does not have.
    """
    tensors, schemes = {}, {}
    for name, p in model.named_parameters():  # a tied head once, as its embedding
        if name.removesuffix(".weight") not in weights:
            tensors[hugging_face_name(name)] = p.detach()
    for name, weight in weights.items():
        theirs = hugging_face_name(f"{name}.weight")
        if weight.bits is None or name in OUTER:
            tensors[theirs] = weight.dense()
            continue
        layer = theirs.removesuffix(".weight")
        tensors |= tensors_of(layer, weight)
        schemes[layer] = scheme(weight, group_size(layer, weight))
    require(schemes, "MODEL must have layers with codes to export them", "none", error=UserError)
    config = hugging_face_config(model.config) | {"dtype": "float32"}
    n_linear = len(LAYERS) * len(model.blocks)
    config["quantization_config"] = quantization_config(schemes, n_linear)
    content = {"config.json": (json.dumps(config, indent=2) + "\n").encode()}
    content["model.safetensors"] = stored({k: narrow(t) for k, t in tensors.items()})
    artifacts.save(folder, {**files, **content})
