"""LLaMA checkpoints: Hugging Face's `config.json` and `model.safetensors`, or one GGUF file.

>>> from tempfile import TemporaryDirectory
>>> model = Llama(LlamaConfig(vocab_size=13, d_model=12, n_layers=1, n_heads=2))
>>> with TemporaryDirectory() as folder:
...     save_pretrained(model, Path(folder) / "model")
...     again = load_pretrained(Path(folder) / "model")
>>> torch.equal(again(torch.arange(13)[None]), model(torch.arange(13)[None]))
True
>>> hugging_face_name("blocks.0.out_proj.weight")
'model.layers.0.self_attn.o_proj.weight'

`uv run weeks/18/llama3.py` compares loaded models with those of `transformers`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from shared import artifacts
from shared.errors import UserError
from shared.require import require
from shared.tensors import pack
from week18.gguf_llama import hugging_face_folder
from week18.llama3 import Llama, LlamaConfig
from week18.rotary import RopeScaling

SIZES = {
    "vocab_size": "vocab_size",
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "d_ff": "intermediate_size",
    "context": "max_position_embeddings",
    "norm_eps": "rms_norm_eps",
    "tied": "tie_word_embeddings",
}
SCALING = {
    "factor": "factor",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "original_context": "original_max_position_embeddings",
}
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
PARTS = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    **{name: f"self_attn.{name}" for name in ("q_proj", "k_proj", "v_proj")},
    "out_proj": "self_attn.o_proj",
    **{name: f"mlp.{name}" for name in ("gate_proj", "up_proj", "down_proj")},
}


def hugging_face_name(name: str) -> str:
    """What Hugging Face calls one of our parameters."""
    if name.startswith("blocks."):
        _, layer, part, kind = name.split(".")
        return f"model.layers.{layer}.{PARTS[part]}.{kind}"
    return {
        "embed.weight": "model.embed_tokens.weight",
        "norm.weight": "model.norm.weight",
        "head.weight": "lm_head.weight",
    }[name]


def hugging_face_config(config: LlamaConfig) -> dict[str, Any]:
    """The contents of `config.json`."""
    rope = {"rope_type": "default", "rope_theta": config.rope_base}
    if config.rope_scaling is not None:
        rope |= {their: getattr(config.rope_scaling, our) for our, their in SCALING.items()}
        rope["rope_type"] = "llama3"
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        **{their: getattr(config, our) for our, their in SIZES.items()},
        "rope_theta": config.rope_base,  # where readers before transformers 5 look
        **({"rope_scaling": rope} if config.rope_scaling is not None else {}),
        "rope_parameters": rope,
    }


def config_from_hugging_face(content: dict[str, Any]) -> LlamaConfig:
    """Our configuration for a `config.json`, of transformers 4 or 5.

    Raises
    ------
    ValueError
        If it is not that of a LLaMA, or asks for something that `Llama` does not have.
    """
    kind = content.get("model_type")
    require(kind == "llama", "model_type must be 'llama'", repr(kind))
    for name, plain in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        got = content.get(name, plain)
        require(got == plain, f"{name} must be {plain!r}", repr(got))
    rope = content.get("rope_parameters") or content.get("rope_scaling") or {}
    for source in (content, rope):
        part = source.get("partial_rotary_factor")
        require(part in (None, 1), "partial_rotary_factor must be 1", repr(part))
    kind = rope.get("rope_type", rope.get("type", "default"))
    require(kind in ("default", "llama3"), "rope_type must be 'default' or 'llama3'", repr(kind))
    scaling = None
    if kind == "llama3":
        scaling = RopeScaling(**{our: rope[their] for our, their in SCALING.items()})
    optional = {"n_kv_heads", "head_dim", "context", "norm_eps", "tied"}
    sizes = {
        our: content[their]
        for our, their in SIZES.items()
        if our not in optional or content.get(their) is not None
    }
    kinds = {"norm_eps": (float, int), "tied": (bool,)}
    for name, value in sizes.items():
        fits = type(value) in kinds.get(name, (int,))
        require(fits, f"{SIZES[name]} must be a number of its kind", repr(value))
    given = (source.get("rope_theta") for source in (rope, content))
    base = next((theta for theta in given if theta is not None), 10_000.0)
    require(type(base) in (float, int) and base > 0, "rope_theta must be above 0", repr(base))
    return LlamaConfig(**{"norm_eps": 1e-6} | sizes, rope_base=base, rope_scaling=scaling)


def save_pretrained(model: Llama, folder: Path) -> None:
    """Write a folder that `transformers.LlamaForCausalLM.from_pretrained` loads, atomically.

    `transformers` wants `n_heads` to divide `d_model` even where `head_dim` is given; `Llama` and
    `load_pretrained` do not.

    Raises
    ------
    UserError
        If the folder cannot be written, or holds something else.
    """
    tensors = {hugging_face_name(name): p for name, p in model.named_parameters()}  # tied: once
    config = hugging_face_config(model.config)
    config["dtype"] = str(model.embed.weight.dtype).removeprefix("torch.")
    config_file = (json.dumps(config, indent=2) + "\n").encode()
    artifacts.save(folder, {"config.json": config_file, "model.safetensors": pack(tensors)})


def load_pretrained(path: Path) -> Llama:
    """Read a checkpoint into a model of the same dtype.

    Parameters
    ----------
    path
        A Hugging Face folder, with one file of weights or several and an index; or a GGUF file,
        which becomes float32. That is unpacked once into the user's cache and mapped from there:
        what is not looked at stays on the disk, and writing to a weight changes this model only.

    Raises
    ------
    UserError
        If a file is missing, torn or not a LLaMA's, or a weight is missing, unknown or of another
        shape.
    """
    path = Path(path)
    if path.suffix == ".gguf" and not path.is_dir():
        return _load(hugging_face_folder(path), str(path), mapped=True)
    if (path / artifacts.MANIFEST).exists():
        artifacts.verify(path)  # ours: every byte is verified
    return _load(path, str(path), mapped=False)


def _load(folder: Path, name: str, *, mapped: bool) -> Llama:
    try:
        content = json.loads(read_text(folder / "config.json"))
        require(isinstance(content, dict), "it must hold an object", repr(content))
        config = config_from_hugging_face(content)
    except KeyError as error:
        raise UserError(f"{folder / 'config.json'} does not say {error.args[0]}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / 'config.json'} is not that of a LLaMA: {error}") from error
    tensors = read_tensors(folder)
    # Before anything is built: no size of a config may be larger than the weights it came with.
    longest = max((size for tensor in tensors.values() for size in tensor.shape), default=0)
    limits = {"n_layers": len(tensors)} | dict.fromkeys(("vocab_size", "d_model", "d_ff"), longest)
    for size, most in (limits | dict.fromkeys(("n_heads", "head_dim"), longest)).items():
        must, got = f"{name}: its weights allow a {size} of at most {most}", getattr(config, size)
        require(got <= most, must, got, error=UserError)
    with Skeleton():
        model = Llama(config)
    expected = {hugging_face_name(name): p for name, p in model.named_parameters()}
    if config.tied:
        tensors.pop("lm_head.weight", None)  # some writers keep the copy
    missing, unknown = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    unknown = [name for name in unknown if not name.endswith("rotary_emb.inv_freq")]
    if missing or unknown:
        what, names = ("misses", missing) if missing else ("has unknown", unknown)
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise UserError(f"{name} {what} weight {names[0]}{more}")
    for weight, p in expected.items():
        shape, must = tuple(p.shape), f"{name}: {weight} must have shape"
        got = tuple(tensors[weight].shape)
        require(got == shape, f"{must} {shape}", got, error=UserError)
    dtype = tensors["model.embed_tokens.weight"].dtype
    must = f"{name}: weights must be of {_names(DTYPES)}"
    require(dtype in DTYPES, must, _names([dtype]), error=UserError)
    state = {our: tensors[hugging_face_name(our)].to(dtype) for our, _ in model.named_parameters()}
    if not mapped:  # somebody else's file may change under the model
        state = {our: tensor.clone() for our, tensor in state.items()}
    if config.tied:
        state["head.weight"] = state["embed.weight"]
    model.load_state_dict(state, assign=True)
    if config.tied:
        model.head.weight = model.embed.weight
    return model


class Skeleton(TorchFunctionMode):
    """Modules built in it have weights without memory, which wait to be replaced."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Send `torch.empty` to the meta device, and draw no numbers."""
        kwargs = kwargs or {}
        if func is torch.empty:
            return func(*args, **kwargs | {"device": "meta"})
        if getattr(func, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if kwargs else args[0]
        return func(*args, **kwargs)


def _names(dtypes) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def read_text(path: Path) -> str:
    """A file's text; a UserError names a file that cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({getattr(error, 'strerror', error)})") from error


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All weights of a folder by name, from one file or those that an index names.

    Raises
    ------
    UserError
        If a file is missing or torn.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.exists() and not (folder / names[0]).exists():  # as transformers chooses
        try:
            names = sorted(set(json.loads(read_text(index))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index} is not an index of weights ({error!r})") from error
    tensors: dict[str, Tensor] = {}
    for name in names:
        # An index may not point out of its folder.
        if not isinstance(name, str) or Path(name).name != name:
            raise UserError(f"{index} names {name!r}, which is not a file of its folder")
        try:
            tensors |= load_file(folder / name)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{folder / name} cannot be read ({error})") from error
    return tensors
