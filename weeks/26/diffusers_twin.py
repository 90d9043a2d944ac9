"""Mochi's network as diffusers has it, with our weights: which of their names are which of ours.

>>> config = MochiConfig(3, 2, 16, 8, 2, 1, 8, 8, 8)
>>> theirs = twin_of(AsymmDiT(config, torch.Generator().manual_seed(0)))
>>> theirs.config.num_layers, theirs.config.pooled_projection_dim
(1, 8)

Used by `uv run weeks/26/mochi.py`. Source: diffusers 0.35 (2025), `transformer_mochi.py`.
"""

from typing import Any

import torch
from torch import Tensor

from week26.mochi import AsymmDiT, MochiConfig

__all__ = ["MochiConfig", "gradients_of", "named", "twin_of"]

TOP = {
    "embed": "patch_embed.proj",
    "caption_proj": "time_embed.caption_proj",
    "time_mlp.0": "time_embed.timestep_embedder.linear_1",
    "time_mlp.2": "time_embed.timestep_embedder.linear_2",
    "pool.q_proj": "time_embed.pooler.to_q",
    "pool.kv_proj": "time_embed.pooler.to_kv",
    "pool.out_proj": "time_embed.pooler.to_out",
    "frequencies": "pos_frequencies",
    "modulation": "norm_out.linear",
    "head": "proj_out",
}
IN_BLOCK = {
    "attention.video_qkv.0": "attn1.to_q",
    "attention.video_qkv.1": "attn1.to_k",
    "attention.video_qkv.2": "attn1.to_v",
    "attention.text_qkv.0": "attn1.add_q_proj",
    "attention.text_qkv.1": "attn1.add_k_proj",
    "attention.text_qkv.2": "attn1.add_v_proj",
    "attention.video_norms.0": "attn1.norm_q",
    "attention.video_norms.1": "attn1.norm_k",
    "attention.text_norms.0": "attn1.norm_added_q",
    "attention.text_norms.1": "attn1.norm_added_k",
    "attention.out_proj": "attn1.to_out.0",
    "attention.text_out_proj": "attn1.to_add_out",
    "video.modulation": "norm1.linear",
    "text.modulation": "norm1_context.linear",
    "text": "norm1_context.linear_1",
    "video.mlp.down_proj": "ff.net.2",
    "text.mlp.down_proj": "ff_context.net.2",
}
# Theirs in one matrix: what is let through, then its gate.
GATED = {"video.mlp": "ff.net.0.proj.weight", "text.mlp": "ff_context.net.0.proj.weight"}


def named(values: dict[str, Tensor], prefix: str = "transformer_blocks.") -> dict[str, Tensor]:
    """Values by our names (weights, or gradients) by diffusers' names."""
    found = {}
    for name, value in values.items():
        if not name.startswith("blocks."):
            layer, _, kind = name.rpartition(".")
            found[f"{TOP[layer]}.{kind}" if layer else TOP[name]] = value
            continue
        _, block, rest = name.split(".", 2)
        layer, _, kind = rest.rpartition(".")
        mlp, _, part = layer.rpartition(".")
        if part == "up_proj":
            gate = values[f"blocks.{block}.{mlp}.gate_proj.weight"]
            found[f"{prefix}{block}.{GATED[mlp]}"] = torch.cat([value, gate])
        elif part != "gate_proj":
            found[f"{prefix}{block}.{IN_BLOCK[layer]}.{kind}"] = value
    return found


def twin_of(model: AsymmDiT) -> Any:
    """A `MochiTransformer3DModel` that holds a copy of the model's weights."""
    from diffusers import MochiTransformer3DModel

    c = model.config
    theirs = MochiTransformer3DModel(
        patch_size=c.patch,
        num_attention_heads=c.n_heads,
        attention_head_dim=c.d_model // c.n_heads,
        num_layers=c.n_layers,
        pooled_projection_dim=c.d_text,
        in_channels=c.channels,
        text_embed_dim=c.d_caption,
        time_embed_dim=c.d_time,
    )
    weights = named(model.state_dict())
    like = theirs.state_dict()
    theirs.load_state_dict({name: w.view_as(like[name]).clone() for name, w in weights.items()})
    return theirs


def gradients_of(theirs: Any, model: AsymmDiT) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Ours and theirs by diffusers' names, of what has a gradient; zeros where only one has."""
    ours = {
        n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()
    }
    ours = named(ours)
    other = dict(theirs.named_parameters())
    zero = lambda p: torch.zeros_like(p) if p.grad is None else p.grad  # noqa: E731
    return ours, {name: zero(other[name]).view_as(ours[name]) for name in ours}
