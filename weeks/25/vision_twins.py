"""Models of transformers with our weights: for comparisons, never for results.

>>> ours = randomize(Gemma2(Gemma2Config(vocab_size=31), torch.Generator()))
>>> tokens = torch.arange(31)[None]
>>> theirs = gemma_twin(ours)(tokens).logits
>>> torch.allclose(ours(ours.embed(tokens)), theirs, atol=1e-4)
True

`uv run weeks/25/clip.py` and `uv run weeks/25/paligemma2.py` make the comparisons; transformers is
described in Wolf et al. (2020).
"""

import re

import torch
from torch import nn

from week25.clip import Clip
from week25.gemma2 import Gemma2, Gemma2Config
from week25.paligemma2 import PaliGemma2
from week25.siglip import VisionTower

# Patterns of our names and what stands there in theirs, applied in order.
ENCODER = [
    (r"blocks\.", "encoder.layers."),
    (r"\.attention_norm", ".layer_norm1"),
    (r"\.mlp_norm", ".layer_norm2"),
    (r"(layers\.\d+)\.attention\.", r"\1.self_attn."),
    (r"(layers\.\d+)\.fc", r"\1.mlp.fc"),
    (r"\bpositions", "embeddings.position_embedding"),
    (r"\bpatch\.", "embeddings.patch_embedding."),
    (r"\bembed\.", "embeddings.token_embedding."),
    (r"\bcls", "embeddings.class_embedding"),
    (r"\bpre_norm", "pre_layrnorm"),
]
BOTH = [
    (r"^log_scale", "logit_scale"),
    (r"^bias", "logit_bias"),
    (r"^image\.projection", "visual_projection"),
    (r"^text\.projection", "text_projection"),
    (r"^image\.1\.norm", "vision_model.head.layernorm"),
    (r"^image\.1\.fc", "vision_model.head.mlp.fc"),
    (r"^image\.1\.attention\.[qkv]_proj\.", "vision_model.head.attention.in_proj_"),
    (r"^image\.1\.", "vision_model.head."),
    (r"^image\.(0\.)?norm", "vision_model.post_layernorm"),
    (r"^image\.(0\.)?", "vision_model."),
    (r"^text\.norm", "text_model.final_layer_norm"),
    (r"^text\.", "text_model."),
]
VISION = [(r"^norm", "post_layernorm"), *ENCODER]
DECODER = [
    (r"^embedding", "embed_tokens"),
    (r"^blocks", "layers"),
    (r"\.attention_norm", ".input_layernorm"),
    (r"\.attention_post_norm", ".post_attention_layernorm"),
    (r"\.mlp_norm", ".pre_feedforward_layernorm"),
    (r"\.mlp_post_norm", ".post_feedforward_layernorm"),
    (r"\.out_proj", ".self_attn.o_proj"),
    (r"\.([qkv]_proj)", r".self_attn.\1"),
    (r"\.(gate|up|down)_proj", r".mlp.\1_proj"),
]


def randomize(model: nn.Module, *, std: float = 0.2, seed: int = 0) -> nn.Module:
    """Draw every weight anew: ones and zeros would hide a gain or bias that is forgotten."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, std, generator=generator)
    return model


def their_name(name: str, ours: nn.Module) -> str:
    """Where transformers keeps a parameter of ours."""
    if isinstance(ours, PaliGemma2):
        part, rest = name.split(".", 1)
        places = {"vision": "vision_tower.", "projector": "multi_modal_projector.linear."}
        inner = {"vision": VISION, "decoder": DECODER}.get(part, [])
        return "model." + places.get(part, "language_model.") + _translated(rest, inner)
    if isinstance(ours, Gemma2):
        return "model." + _translated(name, DECODER)
    return _translated(name, VISION if isinstance(ours, VisionTower) else BOTH + ENCODER)


def _translated(name: str, words: list[tuple[str, str]]) -> str:
    for pattern, theirs in words:
        name = re.sub(pattern, theirs, name)
    return name


def matched(ours: nn.Module, theirs: nn.Module) -> list[tuple[list[nn.Parameter], nn.Parameter]]:
    """Each parameter of theirs with ours, which are several where queries, keys, values are one.

    Raises
    ------
    ValueError
        If one of theirs has none of ours.
    """
    found: dict[str, list[nn.Parameter]] = {}
    for name, p in ours.named_parameters():
        found.setdefault(their_name(name, ours), []).append(p)
    known = dict(theirs.named_parameters())
    if known.keys() != found.keys():
        raise ValueError(f"names differ: {sorted(known.keys() ^ found.keys())}")
    return [(found[name], p) for name, p in known.items()]


def copied(ours: nn.Module, theirs: nn.Module) -> nn.Module:
    """Theirs, with the weights of ours."""
    with torch.no_grad():
        for parts, p in matched(ours, theirs):
            p.copy_(torch.cat([q.reshape(-1) for q in parts]).view_as(p))
    return theirs.eval()


def _encoder(tower: nn.Module) -> dict[str, int]:
    block = tower.blocks[0]
    return {
        "hidden_size": block.fc1.in_features,
        "intermediate_size": block.fc1.out_features,
        "num_hidden_layers": len(tower.blocks),
        "num_attention_heads": block.attention.n_heads,
    }


def _text(tower: nn.Module) -> dict[str, int]:
    sizes = {"vocab_size": tower.embed, "max_position_embeddings": tower.positions}
    return _encoder(tower) | {name: table.num_embeddings for name, table in sizes.items()}


def _vision(tower: nn.Module, side: int) -> dict[str, int]:
    return _encoder(tower) | {"image_size": side, "patch_size": tower.patch.stride[0]}


def clip_twin(ours: Clip, side: int) -> nn.Module:
    """Transformers' `CLIPModel`."""
    from transformers import CLIPConfig, CLIPModel

    config = CLIPConfig(
        text_config=_text(ours.text) | {"eos_token_id": ours.text.end},
        vision_config=_vision(ours.image, side),
        projection_dim=ours.text.projection.out_features,
    )
    return copied(ours, CLIPModel(config))


def siglip_twin(ours: Clip) -> nn.Module:
    """Transformers' `SiglipModel`."""
    from transformers import SiglipConfig, SiglipModel

    tower = ours.image[0]
    config = SiglipConfig(text_config=_text(ours.text), vision_config=_vision(tower, tower.side))
    return copied(ours, SiglipModel(config))


def vision_twin(ours: VisionTower) -> nn.Module:
    """Transformers' `SiglipVisionModel`, without its pool."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(**_vision(ours, ours.side), vision_use_head=False)
    return copied(ours, SiglipVisionModel(config))


def gemma_sizes(config: Gemma2Config) -> dict[str, float]:
    """The same sizes in the words of transformers' `Gemma2Config`."""
    c = config
    return {
        "vocab_size": c.vocab_size,
        "hidden_size": c.d_model,
        "intermediate_size": c.d_ff,
        "num_hidden_layers": c.n_layers,
        "num_attention_heads": c.n_heads,
        "num_key_value_heads": c.n_kv_heads,
        "head_dim": c.head_dim,
        "query_pre_attn_scalar": c.head_dim if c.query_scalar is None else c.query_scalar,
        "sliding_window": c.window,
        "attn_logit_softcapping": c.attention_cap,
        "final_logit_softcapping": c.final_cap,
        "rms_norm_eps": c.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_base},
    }


def gemma_twin(ours: Gemma2) -> nn.Module:
    """Transformers' `Gemma2ForCausalLM`."""
    from transformers import Gemma2Config as TheirConfig
    from transformers import Gemma2ForCausalLM

    config = TheirConfig(**gemma_sizes(ours.config), attn_implementation="eager")
    return copied(ours, Gemma2ForCausalLM(config))


def paligemma_twin(ours: PaliGemma2) -> nn.Module:
    """Transformers' `PaliGemmaForConditionalGeneration`; its id for a patch is the last word's."""
    from transformers import PaliGemmaConfig, PaliGemmaForConditionalGeneration

    sizes, tower = gemma_sizes(ours.decoder.config), ours.vision
    vision = {"model_type": "siglip_vision_model", "vision_use_head": False}
    config = PaliGemmaConfig(
        vision_config=_vision(tower, tower.side) | vision,
        text_config=sizes | {"model_type": "gemma2"},
        projection_dim=sizes["hidden_size"],
        image_token_index=sizes["vocab_size"] - 1,
        attn_implementation="eager",
    )
    return copied(ours, PaliGemmaForConditionalGeneration(config))
