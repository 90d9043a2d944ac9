"""Our vision transformer and those of torch and transformers with the same weights."""

import torch
from torch import Tensor, nn

from week25.vit import ViT, ViTConfig

Tensors = dict[str, Tensor]
LAYER = {
    "self_attention.q_proj": "attention.q_proj",
    "self_attention.k_proj": "attention.k_proj",
    "self_attention.v_proj": "attention.v_proj",
    "self_attention.out_proj": "attention.o_proj",
    "residuals.0.norm": "layernorm_before",
    "residuals.1.norm": "layernorm_after",
    "feed_forward.0": "mlp.fc1",
    "feed_forward.3": "mlp.fc2",
}


def randomize(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """All weights from N(0, 0.09), gains around one."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            gain = "norm" in name and name.endswith("weight")
            p.normal_(float(gain), 0.3, generator=generator)
    return model


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """By name."""
    return dict(
        zip(
            (name for name, _ in model.named_parameters()),
            torch.autograd.grad(loss, list(model.parameters())),
            strict=True,
        )
    )


def flat(tensors: Tensors) -> Tensor:
    """One vector of all, in the order of their names."""
    return torch.cat([tensors[name].flatten() for name in sorted(tensors)])


def encoder_twin(model: ViT) -> nn.TransformerEncoder:
    """torch's encoder with our blocks' weights."""
    c = model.config
    layer = nn.TransformerEncoderLayer(
        c.d_model,
        c.n_heads,
        c.d_ff or 4 * c.d_model,
        0.0,
        "gelu",
        c.norm_eps,
        batch_first=True,
        norm_first=True,
    ).to(model.special.dtype)
    norm = nn.LayerNorm(c.d_model, c.norm_eps).to(model.special.dtype)
    theirs = nn.TransformerEncoder(layer, c.n_layers, norm, enable_nested_tensor=False)
    theirs.load_state_dict(torch_names(dict(model.named_parameters())))
    return theirs


def torch_names(ours: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our encoder's tensors under the names of `nn.TransformerEncoder`."""
    found = {f"norm.{kind}": ours[f"norm.{kind}"] for kind in ("weight", "bias")}
    names = {
        "self_attn.out_proj": "self_attention.out_proj",
        "linear1": "feed_forward.0",
        "linear2": "feed_forward.3",
        "norm1": "residuals.0.norm",
        "norm2": "residuals.1.norm",
    }
    for i in range(sum(name.endswith("q_proj.bias") for name in ours)):
        there, here = f"layers.{i}.", f"blocks.{i}."
        for kind in ("weight", "bias"):
            qkv = [ours[f"{here}self_attention.{x}_proj.{kind}"] for x in "qkv"]
            found[f"{there}self_attn.in_proj_{kind}"] = torch.cat(qkv)
            found |= {f"{there}{t}.{kind}": ours[f"{here}{o}.{kind}"] for t, o in names.items()}
    return found


def from_transformers(theirs: Tensors) -> Tensors:
    """`ViTForImageClassification` or DeiT's with a teacher, to our names and shapes."""
    distilled = "distillation_classifier.bias" in theirs
    body = "deit." if distilled else "vit."
    special = ["cls_token", "distillation_token"] if distilled else ["cls_token"]
    heads = ["cls_classifier", "distillation_classifier"] if distilled else ["classifier"]
    names = {"embed": f"{body}embeddings.patch_embeddings.projection", "norm": f"{body}layernorm"}
    names |= {f"heads.{i}": head for i, head in enumerate(heads)}
    for i in range(sum(name.endswith("fc1.bias") for name in theirs)):
        names |= {f"blocks.{i}.{o}": f"{body}layers.{i}.{t}" for o, t in LAYER.items()}
    ours = {f"{o}.{k}": theirs[f"{t}.{k}"] for o, t in names.items() for k in ("weight", "bias")}
    ours["special"] = torch.cat([theirs[f"{body}embeddings.{name}"][0] for name in special])
    return ours | {"positions": theirs[f"{body}embeddings.position_embeddings"][0]}


def library_twins(config: ViTConfig, seed: int) -> tuple[ViT, nn.Module]:
    """Ours and transformers' with the same random weights."""
    from transformers import (
        DeiTConfig,
        DeiTForImageClassificationWithTeacher,
        ViTForImageClassification,
    )
    from transformers import ViTConfig as TheirConfig

    sizes = {
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": config.channels,
        "num_labels": config.n_classes,
        "hidden_size": config.d_model,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "intermediate_size": config.d_ff or 4 * config.d_model,
        "layer_norm_eps": config.norm_eps,
    }
    if config.distilled:
        theirs = DeiTForImageClassificationWithTeacher(DeiTConfig(**sizes))
    else:
        theirs = ViTForImageClassification(TheirConfig(**sizes))
    randomize(theirs.eval(), torch.Generator().manual_seed(seed))
    ours = ViT(config)
    ours.load_state_dict(from_transformers(dict(theirs.named_parameters())))
    return ours, theirs
