"""A `transformers` DeepSeek-V3 with the weights of ours: for comparisons, never for results.

>>> from week18.latent_attention import LatentConfig
>>> sizes = LatentConfig(d_model=24, n_heads=2, kv_rank=10, nope_dim=6, rope_dim=4, v_dim=5)
>>> ours = randomize(DeepSeek(DeepSeekConfig(31, sizes)))
>>> tokens = torch.arange(31)[None]
>>> torch.allclose(ours(tokens), transformers_twin(ours)(tokens).logits, atol=1e-5)
True
>>> hugging_face_name("blocks.1.mlp.router.weight")
'model.layers.1.mlp.gate.weight'

`uv run weeks/18/deepseek_v3.py` makes the comparison.
"""

import torch
from torch import Tensor, nn

from week18.deepseek_v3 import DeepSeek, DeepSeekConfig
from week18.latent_attention import LatentAttention
from week18.multi_token import Predictor

PARTS = {
    "attention_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    "attention.q_proj": "self_attn.q_proj",
    "attention.q_down": "self_attn.q_a_proj",
    "attention.q_norm": "self_attn.q_a_layernorm",
    "attention.q_up": "self_attn.q_b_proj",
    "attention.kv_down": "self_attn.kv_a_proj_with_mqa",
    "attention.kv_norm": "self_attn.kv_a_layernorm",
    "attention.kv_up": "self_attn.kv_b_proj",
    "attention.out_proj": "self_attn.o_proj",
    "mlp.router": "mlp.gate",
    "mlp.shared": "mlp.shared_experts",
    "mlp.bias": "mlp.gate.e_score_correction_bias",
    "join": "eh_proj",
    "embedding_norm": "enorm",
    "hidden_norm": "hnorm",
    "norm": "post_norm",
}
ENDS = {"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}


def hugging_face_name(name: str) -> str:
    """What Hugging Face calls one of our parameters or buffers; names inside a block too."""
    if name.startswith("blocks."):
        _, layer, rest = name.split(".", 2)
        return f"model.layers.{layer}.{_part(rest)}"
    first, _, rest = name.partition(".")
    return f"{ENDS[first]}.{rest}"


def _part(name: str) -> str:
    if name.startswith("block."):
        return f"mtp_block.{_part(name.removeprefix('block.'))}"
    longest = max((p for p in PARTS if f"{name}.".startswith(f"{p}.")), key=len, default="")
    return PARTS.get(longest, "") + name[len(longest) :]


def their_config(config: DeepSeekConfig, **other):
    """The same sizes as transformers' `DeepseekV3Config`."""
    from transformers import DeepseekV3Config

    c, a = config, config.attention
    return DeepseekV3Config(
        vocab_size=c.vocab_size,
        hidden_size=a.d_model,
        intermediate_size=c.d_ff,
        moe_intermediate_size=c.expert_d_ff,
        num_hidden_layers=c.n_layers,
        num_attention_heads=a.n_heads,
        num_key_value_heads=a.n_heads,
        n_shared_experts=c.n_shared,
        n_routed_experts=c.n_experts,
        routed_scaling_factor=c.routed_scale,
        kv_lora_rank=a.kv_rank,
        q_lora_rank=a.q_rank,
        qk_rope_head_dim=a.rope_dim,
        v_head_dim=a.v_dim,
        qk_nope_head_dim=a.nope_dim,
        n_group=c.n_groups,
        topk_group=c.top_groups,
        num_experts_per_tok=c.top_k,
        first_k_dense_replace=c.n_dense,
        norm_topk_prob=True,
        rope_interleave=True,
        max_position_embeddings=c.context,
        rms_norm_eps=a.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_base},
        **other,
    )


def their_tensors(ours: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of one kind (weights, gradients) under Hugging Face's names; gate and up are one."""
    rename = hugging_face_name if isinstance(ours, DeepSeek) else _part
    theirs = {}
    for name, tensor in tensors.items():
        if name.endswith("experts.up_proj"):
            continue
        if name.endswith("experts.gate_proj"):
            up = tensors[name.replace("gate_proj", "up_proj")]
            name, tensor = name.replace("gate_proj", "gate_up_proj"), torch.cat([tensor, up], dim=1)
        theirs[rename(name)] = tensor
    return theirs


def transformers_twin(model: DeepSeek) -> nn.Module:
    """The same weights in transformers' `DeepseekV3ForCausalLM`."""
    from transformers import DeepseekV3ForCausalLM

    theirs = DeepseekV3ForCausalLM(their_config(model.config)).eval()
    theirs.load_state_dict(their_tensors(model, model.state_dict()))
    return theirs.to(model.embed.weight.dtype)


def attention_twin(layer: LatentAttention) -> nn.Module:
    """The same weights in transformers' `DeepseekV3Attention`."""
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention

    config = their_config(DeepSeekConfig(1, layer.config))
    config._attn_implementation = "sdpa"
    theirs = DeepseekV3Attention(config, layer.layer)
    names = {name: _part(f"attention.{name}").partition(".")[2] for name in layer.state_dict()}
    theirs.load_state_dict({names[name]: p for name, p in layer.state_dict().items()})
    return theirs


def predictor_twin(predictor: Predictor) -> nn.Module:
    """The same weights in transformers' layer for multi-token prediction."""
    from transformers.modeling_layers import MtpLayer
    from transformers.models.deepseek_v3 import modeling_deepseek_v3 as module

    config = their_config(predictor.config).get_mtp_config()
    config._attn_implementation = "sdpa"
    theirs = MtpLayer(config, module.DeepseekV3DecoderLayer, module.DeepseekV3RMSNorm, 0).eval()
    theirs.load_state_dict(their_tensors(predictor, predictor.state_dict()))
    return theirs


def randomize(model: nn.Module, *, std: float = 0.2, seed: int = 0) -> nn.Module:
    """Draw every weight anew, gains around 1 and biases around 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(float(p.ndim == 1), std, generator=generator)
        for name, b in model.named_buffers():
            if name.endswith("bias"):
                b.normal_(0, std, generator=generator)
    return model
