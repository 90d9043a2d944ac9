"""Adapters in peft's format: `adapter_config.json` and `adapter_model.safetensors`.

A folder holds what was learned and how it is to be added, never the base model. What peft writes is
read here and the other way round; `weeks/20/lora.py` compares both.

>>> from tempfile import TemporaryDirectory
>>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
>>> config = LoRAConfig(r=1, targets=("0",))
>>> learned = inject(model, config)[0].A
>>> with TemporaryDirectory() as folder:
...     save_adapter(model, Path(folder) / "mine", config)
...     again, read = load_adapter(unload(model), Path(folder) / "mine")
>>> again[0].A.equal(learned), read == config
(True, True)
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from shared import artifacts
from shared.errors import UserError
from shared.require import require
from shared.tensors import pack
from week18.pretrained import hugging_face_name, read_text
from week20.lora import (
    LoRAConfig,
    LoRALinear,
    adapter_state,
    adapters,
    check_names,
    inject,
    load_adapter_state,
    unload,
)

PREFIX = "base_model.model."
SUFFIX = {"A": "lora_A.weight", "B": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
# What peft can ask for and `LoRALinear` does not have; anything but these would be another model.
PLAIN = {"bias": ("none",), "fan_in_fan_out": (False,), "lora_bias": (False,)}
EMPTY = ("modules_to_save", "rank_pattern", "alpha_pattern", "layers_to_transform")
EMPTY = (*EMPTY, "exclude_modules", "target_parameters", "layer_replication")
PLAIN |= dict.fromkeys((*EMPTY, "trainable_token_indices"), (None, {}, []))


def hugging_face_layer(name: str) -> str:
    """What Hugging Face calls a layer of week 18's LLaMA: `blocks.0.out_proj`, for example."""
    return hugging_face_name(f"{name}.weight").removesuffix(".weight")


def save_adapter(
    model: nn.Module,
    folder: Path,
    config: LoRAConfig,
    *,
    rename: Callable[[str], str] = str,
    base: str | None = None,
) -> None:
    """Write a folder that `peft.PeftModel.from_pretrained` loads, atomically.

    Parameters
    ----------
    config
        That with which the model was injected.
    rename
        What the files call a layer of ours, such as `hugging_face_layer`.
    base
        Name of the base model, for the reader.

    Raises
    ------
    ValueError
        If the model has no adapters, or they are not those of the config.
    UserError
        If the folder cannot be written.
    """
    layers = dict(adapters(model))
    require(layers, "model must have adapters, got none")
    for name, layer in layers.items():
        own = len(layer.A), layer.scaling
        must = f"config must be that of {name}, with r and scaling {own[0]} and {own[1]}"
        require(own == (config.r, config.scaling), must, config.r, config.scaling)
    content = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": config.r,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rank_stabilized,
        "use_dora": any(name.endswith(".magnitude") for name in adapter_state(model)),
        "target_modules": sorted(rename(name) for name in layers),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "task_type": None,
    }
    tensors = {_key(name, rename): p for name, p in adapter_state(model).items()}
    file = (json.dumps(content, indent=2) + "\n").encode()
    contents = {"adapter_config.json": file, "adapter_model.safetensors": pack(tensors)}
    artifacts.save(folder, contents)


def load_adapter(
    model: nn.Module,
    folder: Path,
    *,
    rename: Callable[[str], str] = str,
    layers: dict[bool, Callable[..., LoRALinear]] | None = None,
) -> tuple[nn.Module, LoRAConfig]:
    """Inject a folder's adapters into a model, in place.

    Parameters
    ----------
    rename
        What the files call a layer of ours.
    layers
        What a target becomes without and with DoRA, by truth value; LoRA only if not given.

    Raises
    ------
    UserError
        If a file is missing or torn, the config says nothing of r, alpha or the targets or asks
        for more than is there, or a tensor is missing, unknown or of another shape. peft would
        take its own alpha where none is given, and leave B at zero where it is missing.
    """
    folder = Path(folder)
    if (folder / artifacts.MANIFEST).exists():
        artifacts.verify(folder)  # ours: every byte is verified
    place = folder / "adapter_config.json"
    try:
        content = json.loads(read_text(place))
        require(isinstance(content, dict), "it must hold an object", repr(content))
        linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
        config = _config(content, {name: rename(name) for name in linear})
        layer = (layers or {False: LoRALinear}).get(content.get("use_dora", False))
        require(layer, "use_dora must be one of the kinds asked for", content.get("use_dora"))
    except KeyError as error:
        raise UserError(f"{place} does not say {error.args[0]}") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{place} cannot be used: {error}") from error
    tensors = _read(folder / "adapter_model.safetensors")
    inject(model, config, layer=layer)
    names = {name: _key(name, rename) for name in adapter_state(model)}
    try:
        check_names(str(folder), tensors, names.values())
        load_adapter_state(model, {name: tensors[key] for name, key in names.items()})
    except ValueError as error:
        unload(model)
        raise UserError(str(error)) from error
    return model, config


def _config(content: dict[str, Any], names: dict[str, str]) -> LoRAConfig:
    """Ours, with the layers of ours (keys of `names`) that the file's targets match."""
    kind = content.get("peft_type")
    require(kind == "LORA", "peft_type must be 'LORA'", repr(kind))
    for name, plain in PLAIN.items():
        got = content.get(name, plain[0])
        require(got in plain, f"{name} must be {plain[0]!r}", repr(got))
    targets, alpha, r = (content[name] for name in ("target_modules", "lora_alpha", "r"))
    listed = isinstance(targets, list) and all(isinstance(target, str) for target in targets)
    require(listed, "target_modules must be a list of names", repr(targets))
    number = type(alpha) in (int, float) and type(r) is int
    require(number, "lora_alpha and r must be numbers", repr(alpha), repr(r))
    theirs = LoRAConfig(targets=tuple(targets))
    found = tuple(ours for ours, name in names.items() if theirs.matches(name))
    require(found, "target_modules must name layers of the model", repr(targets))
    options = {"rank_stabilized": content.get("use_rslora", False), "targets": found}
    return LoRAConfig(r, alpha, content.get("lora_dropout", 0.0), **options)


def _key(name: str, rename: Callable[[str], str]) -> str:
    layer, _, own = name.rpartition(".")
    return f"{PREFIX}{rename(layer)}.{SUFFIX[own]}"


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read ({error})") from error
