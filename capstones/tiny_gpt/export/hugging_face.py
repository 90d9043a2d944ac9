"""Models in Hugging Face's layout: which class computes the same function, and its tensors.

GPT-2 and LLaMA have classes of their own in `transformers`. Every other combination of parts goes
out with its code (`modeling_tiny_gpt`). One table says where each of our matrices lies, and is
read in both directions: rows of ours are stacked from theirs, GPT-2's are transposed.
"""

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import torch
from torch import Tensor

from shared.errors import UserError
from shared.require import require
from shared.tensors import pack
from tiny_gpt.data.tokenizers import Tokenizer
from tiny_gpt.export.custom_code import custom_code
from tiny_gpt.model.config import ARCHITECTURES, GPTConfig
from tiny_gpt.model.gpt import GPT
from week18.llama3 import LlamaConfig
from week18.pretrained import (
    DTYPES,
    config_from_hugging_face,
    hugging_face_config,
    hugging_face_name,
)

Layout = Literal["gpt2", "llama", "tiny_gpt"]

GPT2_SIZES = {"vocab_size": "vocab_size", "context": "n_positions", "n_layers": "n_layer"}
GPT2_SIZES |= {"n_heads": "n_head", "d_model": "n_embd", "d_ff": "n_inner"}
GPT2_SIZES |= {"norm_eps": "layer_norm_epsilon", "dropout": "resid_pdrop"}
GPT2_SIZES |= {"tied": "tie_word_embeddings"}
# What GPT-2's class can be asked for and ours cannot; the first value is what we write.
GPT2_FIXED = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
GPT2_PARTS = {"embed": "transformer.wte", "positions": "transformer.wpe"}
GPT2_PARTS |= {"norm": "transformer.ln_f", "head": "lm_head", "attention_norm": "ln_1"}
GPT2_PARTS |= {"qkv": "attn.c_attn", "out_proj": "attn.c_proj", "mlp_norm": "ln_2"}
GPT2_PARTS |= {"up": "mlp.c_fc", "down": "mlp.c_proj"}
LLAMA_PARTS = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "up": ("gate_proj", "up_proj"),
    "down": ("down_proj",),
}
# What LLaMA's configuration calls as ours does.
LLAMA_SAME = ("vocab_size", "context", "n_layers", "n_heads", "d_model", "n_kv_heads", "d_ff")
LLAMA_SAME += ("tied", "rope_base", "norm_eps")
# Buffers that old writers stored with the weights.
NOT_WEIGHTS = (".attn.bias", ".attn.masked_bias", "rotary_emb.inv_freq")


def layout_of(config: GPTConfig) -> Layout:
    """The class of `transformers` that computes this function; `tiny_gpt` is our own."""
    c = config
    plain = not c.qk_norm and not c.mix_previous
    if plain and (c.norm, c.positions, c.mlp) == ("layer", "learned", "gelu"):
        return "gpt2" if c.n_kv_heads == c.n_heads else "tiny_gpt"
    if plain and not c.bias and (c.norm, c.positions, c.mlp) == ("rms", "rotary", "swiglu"):
        return "llama"
    return "tiny_gpt"


# ---- tensors


@dataclass(frozen=True)
class Place:
    """Where one of our parameters lies: under `names`, stacked by `rows`, perhaps transposed."""

    names: tuple[str, ...]
    rows: tuple[int, ...]
    transposed: bool = False


def place_of(name: str, n_rows: int, config: GPTConfig) -> Place:
    """Where the parameter `name` of `n_rows` rows lies in the layout of `config`."""
    layout = layout_of(config)
    if layout == "tiny_gpt":
        return Place((f"model.{name}",), (n_rows,))
    *block, part, kind = name.split(".")
    if layout == "gpt2":
        prefix = f"transformer.h.{block[1]}." if block else ""
        # Its linear layers are stored input first; q, k and v lie side by side as ours do.
        transposed = kind == "weight" and part in ("qkv", "out_proj", "up", "down")
        return Place((f"{prefix}{GPT2_PARTS[part]}.{kind}",), (n_rows,), transposed)
    if part not in LLAMA_PARTS:
        return Place((hugging_face_name(name),), (n_rows,))
    names = tuple(hugging_face_name(".".join([*block, p, kind])) for p in LLAMA_PARTS[part])
    kv = config.n_kv_heads * config.head_dim
    rows = {"qkv": (n_rows - 2 * kv, kv, kv), "up": (config.d_ff, config.d_ff)}
    return Place(names, rows.get(part, (n_rows,)))


def tensors_of(model: GPT) -> dict[str, Tensor]:
    """A model's weights under their names and in their shapes."""
    config, ours = model.config, dict(model.named_parameters())
    if layout_of(config) == "gpt2" and not config.bias:
        # That class always has biases.
        with torch.device("meta"):
            like = GPT(replace(config, bias=True)).named_parameters()
        ours = {n: ours[n] if n in ours else torch.zeros(p.shape) for n, p in like}
    theirs = {}
    for name, p in ours.items():
        place = place_of(name, p.shape[0], config)
        for their_name, piece in zip(place.names, p.detach().split(place.rows), strict=True):
            theirs[their_name] = piece.T if place.transposed else piece
    return theirs


def model_from(content: dict[str, Any], theirs: dict[str, Tensor], where: Path) -> GPT:
    """The model that a configuration and weights in Hugging Face's layout describe."""
    config = config_from(content, where)
    theirs = {name: t for name, t in theirs.items() if not name.endswith(NOT_WEIGHTS)}
    if content["model_type"] == "tiny_gpt":  # as earlier exports have it
        theirs = {name.replace(".out.", ".out_proj."): t for name, t in theirs.items()}
    if content["model_type"] == "gpt2":
        # Checkpoints of the bare model lack the prefix.
        theirs = {
            n if n.startswith(("transformer.", "lm_head.")) else f"transformer.{n}": t
            for n, t in theirs.items()
        }
        biases = [t for name, t in theirs.items() if name.endswith("bias")]
        if not config.bias and any(t.any() for t in biases):
            config = replace(config, bias=True)  # trained on since it was exported
    if config.tied:
        theirs.pop(tensor_name("head.weight", config), None)  # some writers keep the copy
    with torch.device("meta"):
        expected = {n: t.shape for n, t in tensors_of(GPT(config)).items()}
    for what, names in (
        ("misses", expected.keys() - theirs.keys()),
        ("has unknown", theirs.keys() - expected.keys()),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(f"{where} {what} weight {min(names)}{more}")
    for name, shape in expected.items():
        must, got = f"{where}: {name} must have shape {tuple(shape)}", tuple(theirs[name].shape)
        require(got == tuple(shape), must, got, error=UserError)
    dtype = theirs[tensor_name("embed.weight", config)].dtype
    must = f"{where}: weights must be floating-point numbers"
    require(dtype in DTYPES, must, dtype, error=UserError)
    model = GPT(config, torch.Generator()).to(dtype).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            place = place_of(name, p.shape[0], config)
            pieces = [theirs[n].T if place.transposed else theirs[n] for n in place.names]
            p.copy_(torch.cat(pieces))
    return model


def tensor_name(name: str, config: GPTConfig) -> str:
    """Their name of a parameter that lies in one piece."""
    return place_of(name, config.vocab_size, config).names[0]


# ---- configurations


def content_of(config: GPTConfig) -> dict[str, Any]:
    """The contents of `config.json`."""
    layout = layout_of(config)
    if layout == "gpt2":
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            **{theirs: getattr(config, ours) for ours, theirs in GPT2_SIZES.items()},
            "embd_pdrop": config.dropout,
            "attn_pdrop": 0.0,
            **{name: values[0] for name, values in GPT2_FIXED.items()},
            "bias": config.bias,  # not theirs: whether zero biases were added
        }
    if layout == "llama":
        same = {name: getattr(config, name) for name in LLAMA_SAME}
        return hugging_face_config(LlamaConfig(**same))
    return {
        "architectures": ["TinyGPTForCausalLM"],
        "model_type": "tiny_gpt",
        "auto_map": {
            "AutoConfig": "modeling_tiny_gpt.TinyGPTConfig",
            "AutoModelForCausalLM": "modeling_tiny_gpt.TinyGPTForCausalLM",
        },
        "tie_word_embeddings": config.tied,
        "gpt": asdict(config),
    }


def config_from(content: dict[str, Any], where: Path) -> GPTConfig:
    """Our configuration for the contents of a `config.json`.

    Dropout in the attention weights, which only training sees, is ignored.
    """
    readers = {"gpt2": _from_gpt2, "llama": _from_llama, "tiny_gpt": _from_tiny_gpt}
    try:
        kind = content.get("model_type")
        require(kind in readers, f"model_type must be one of {', '.join(readers)}", repr(kind))
        return readers[kind](content)
    except KeyError as error:
        raise UserError(f"{where} does not say {error.args[0]}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{where} asks for a model that tiny-gpt has not: {error}") from error


def _from_gpt2(content: dict[str, Any]) -> GPTConfig:
    for name, allowed in GPT2_FIXED.items():
        got = content.get(name, allowed[0])
        require(got in allowed, f"{name} must be {allowed[0]!r}", repr(got))
    optional = {"d_ff": None, "norm_eps": 1e-5, "tied": True, "dropout": 0.1}
    sizes = {
        ours: content.get(theirs, optional[ours]) if ours in optional else content[theirs]
        for ours, theirs in GPT2_SIZES.items()
    }
    return _config({**ARCHITECTURES["gpt2"], **sizes, "bias": content.get("bias", True)})


def _from_llama(content: dict[str, Any]) -> GPTConfig:
    c = config_from_hugging_face(content)
    require(c.rope_scaling is None, "rope_type must be 'default'", "'llama3'")
    must = f"head_dim must be hidden_size / num_attention_heads = {c.d_model / c.n_heads:g}"
    require(c.head_dim * c.n_heads == c.d_model, must, c.head_dim)
    same = {name: getattr(c, name) for name in LLAMA_SAME}
    return GPTConfig.of("llama", **same)


def _from_tiny_gpt(content: dict[str, Any]) -> GPTConfig:
    require(isinstance(content["gpt"], dict), "gpt must be an object", repr(content["gpt"]))
    return _config(content["gpt"])


def _config(values: dict[str, Any]) -> GPTConfig:
    """A configuration from a file, which may hold other names and kinds than Python's types say."""
    kinds = {f.name: f.type for f in fields(GPTConfig)}
    for name, value in values.items():
        kind = kinds.get(name)
        require(kind is not None, f"there is no {name}")
        if get_origin(kind) is Literal:
            must, right = f"one of {', '.join(get_args(kind))}", value in get_args(kind)
        else:
            allowed = {float: (float, int)}.get(kind, get_args(kind) or (kind,))
            must, right = "a number of its kind", type(value) in allowed
        require(right, f"{name} must be {must}", repr(value))
    return GPTConfig(**values)


# ---- a folder


def folder_files(model: GPT, tokenizer: Tokenizer) -> dict[str, bytes]:
    """Each file's bytes of a folder that `transformers` loads, tokenizer included."""
    content, end = content_of(model.config), tokenizer.end_of_text
    content |= {"bos_token_id": end, "eos_token_id": end}
    content["dtype"] = str(model.embed.weight.dtype).removeprefix("torch.")
    words = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model.config.context,
        "clean_up_tokenization_spaces": False,
    }
    if end is not None:
        added = {t["id"]: t["content"] for t in json.loads(tokenizer.to_bytes())["added_tokens"]}
        words |= dict.fromkeys(("bos_token", "eos_token", "pad_token"), added[end])
    files = {
        "config.json": _json(content),
        "generation_config.json": _json(
            {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
        ),
        "tokenizer_config.json": _json(words),
        "tokenizer.json": tokenizer.to_bytes(),
        "model.safetensors": pack(tensors_of(model)),
    }
    if content["model_type"] == "tiny_gpt":
        files["modeling_tiny_gpt.py"] = custom_code().encode()
    return files


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()
