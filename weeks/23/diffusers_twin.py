"""The same networks in diffusers and transformers, for comparison.

>>> config = UNetConfig(1, (8,), (True,), n_heads=2, memory_dim=6, n_groups=4)
>>> type(unet_twin(UNet(config))).__name__
'UNet2DConditionModel'

Diffusers calls `attention_head_dim` what is the number of heads, and knows no attention without
cross-attention: where ours has no memory, it is taken out of theirs.
"""

import re

from jaxtyping import Float, Int
from torch import Tensor, nn

from week23.autoencoder import Autoencoder
from week23.stable_diffusion import LatentDiffusion
from week23.text_encoder import TextEncoder
from week23.unet import UNet, UNetConfig

__all__ = ["UNet", "UNetConfig", "autoencoder_twin", "run_pipeline", "text_twin", "unet_twin"]

UNET = {
    r"^mid_out\.": "mid_block.resnets.1.",
    r"^(down|up|mid)\.": r"\1_block.",
    r"^(down|up)_block\.": r"\1_blocks.",
    r"^(down_blocks\.\d+\.)resample": r"\1downsamplers.0.conv",
    r"^(up_blocks\.\d+\.)resample": r"\1upsamplers.0.conv",
    r"^norm_out": "conv_norm_out",
    r"^time_mlp\.0": "time_embedding.linear_1",
    r"^time_mlp\.2": "time_embedding.linear_2",
    r"time_proj": "time_emb_proj",
    r"\.skip\.": ".conv_shortcut.",
    r"self_norm": "transformer_blocks.0.norm1",
    r"self_attention": "transformer_blocks.0.attn1",
    r"cross_norm": "transformer_blocks.0.norm2",
    r"cross_attention": "transformer_blocks.0.attn2",
    r"mlp_norm": "transformer_blocks.0.norm3",
    r"mlp\.up": "transformer_blocks.0.ff.net.0.proj",
    r"mlp\.down": "transformer_blocks.0.ff.net.2",
    r"(attn\d\.)out_proj": r"\1to_out.0",
    r"(attn\d\.)(q|k|v)_proj": r"\1to_\2",
}

RESNET = {r"\.skip\.": ".conv_shortcut."}
PIXELS = {
    r"\.norm\.": ".group_norm.",
    r"\.attention\.out_proj": ".to_out.0",
    r"\.attention\.(q|k|v)_proj": r".to_\1",
}
TEXT = {
    r"^tokens": "embeddings.token_embedding",
    r"^positions": "embeddings.position_embedding",
    r"^norm": "final_layer_norm",
    r"^blocks": "encoder.layers",
    r"attention_norm": "layer_norm1",
    r"mlp_norm": "layer_norm2",
    r"\.attention\.": ".self_attn.",
    r"\.up\.": ".mlp.fc1.",
    r"\.down\.": ".mlp.fc2.",
}


def renamed(name: str, table: dict[str, str]) -> str:
    """What a parameter of ours is called there."""
    for pattern, theirs in table.items():
        name = re.sub(pattern, theirs, name)
    return name


def with_weights(theirs: nn.Module, ours: nn.Module, table: dict[str, str]) -> nn.Module:
    """Their network with our weights; every parameter must have its place."""
    state = {renamed(name, table): p.clone() for name, p in ours.state_dict().items()}
    theirs.load_state_dict(state, assign=True)  # in our dtype
    return theirs.eval()


def unet_twin(ours: UNet) -> nn.Module:
    """`UNet2DConditionModel` with our weights."""
    from diffusers import UNet2DConditionModel

    config = ours.config
    kinds = [("CrossAttn" if a else "") for a in config.attention]
    theirs = UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.in_channels,
        block_out_channels=config.widths,
        down_block_types=tuple(f"{kind}DownBlock2D" for kind in kinds),
        up_block_types=tuple(f"{kind}UpBlock2D" for kind in reversed(kinds)),
        layers_per_block=config.n_layers,
        attention_head_dim=config.n_heads,
        cross_attention_dim=config.memory_dim or 1,
        norm_num_groups=config.n_groups,
    )
    if config.memory_dim is None:
        for module in theirs.modules():
            if hasattr(module, "attn2"):
                module.attn2 = module.norm2 = None
    return with_weights(theirs, ours, UNET)


def _autoencoder_names(ours: Autoencoder) -> dict[str, str]:
    """Where the layers of our two sequences stand in theirs."""
    n, last = ours.config.n_layers, len(ours.config.widths) - 1
    middle = ["resnets.0", "attentions.0", "resnets.1"]
    middle = [f"mid_block.{name}" for name in middle] + ["conv_norm_out", "", "conv_out"]
    encoder, decoder = ["conv_in"], ["", "conv_in", *middle[:3]]
    for i in range(last + 1):
        encoder += [f"down_blocks.{i}.resnets.{j}" for j in range(n)]
        encoder += [f"down_blocks.{i}.downsamplers.0.conv"] * (i < last)
        decoder += [f"up_blocks.{i}.resnets.{j}" for j in range(n + 1)]
        decoder += ["", f"up_blocks.{i}.upsamplers.0.conv"] if i < last else []
    names = {f"^encoder\\.{i}\\.": f"encoder.{name}." for i, name in enumerate(encoder + middle)}
    decoder += middle[3:]
    names |= {f"^decoder\\.{i}\\.": f"decoder.{name}." for i, name in enumerate(decoder)}
    names[f"^encoder\\.{len(encoder + middle)}\\."] = "quant_conv."
    names["^decoder\\.0\\."] = "post_quant_conv."
    return names | RESNET | PIXELS


def autoencoder_twin(ours: Autoencoder) -> nn.Module:
    """`AutoencoderKL` with our weights and our scale."""
    from diffusers import AutoencoderKL

    config, n = ours.config, len(ours.config.widths)
    theirs = AutoencoderKL(
        in_channels=config.channels,
        out_channels=config.channels,
        latent_channels=config.latent_channels,
        block_out_channels=config.widths,
        down_block_types=("DownEncoderBlock2D",) * n,
        up_block_types=("UpDecoderBlock2D",) * n,
        layers_per_block=config.n_layers,
        norm_num_groups=config.n_groups,
        scaling_factor=ours.scale,
    )
    return with_weights(theirs, ours, _autoencoder_names(ours))


def text_twin(ours: TextEncoder, end: int) -> nn.Module:
    """`CLIPTextModel` with our weights; `end` is the id that its pooling looks for."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = ours.config
    theirs = CLIPTextConfig(
        vocab_size=config.vocab_size,
        max_position_embeddings=config.context,
        hidden_size=config.d_model,
        num_attention_heads=config.n_heads,
        num_hidden_layers=config.n_layers,
        intermediate_size=config.d_ff,
        bos_token_id=0,
        eos_token_id=end,
    )
    return with_weights(CLIPTextModel(theirs), ours, TEXT)


def run_pipeline(
    ours: LatentDiffusion,
    ids: Int[Tensor, "batch seq"],
    noise: Float[Tensor, "batch latent h w"],
    *,
    guidance: float,
    steps: int,
) -> tuple[list[Tensor], Tensor]:
    """`StableDiffusionPipeline` with our networks: latents after each step; images in [0, 1]."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    scheduler = DDIMScheduler(
        num_train_timesteps=len(ours.schedule),
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type={"epsilon": "epsilon", "v": "v_prediction"}[ours.kind],
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )
    networks = unet_twin(ours.unet), autoencoder_twin(ours.autoencoder)
    networks[0].register_to_config(sample_size=noise.shape[-1])
    text = text_twin(ours.text_encoder, end=int(ours.empty[0, -1]))
    pipeline = StableDiffusionPipeline(
        unet=networks[0],
        vae=networks[1],
        text_encoder=text,
        scheduler=scheduler,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    found = []

    def keep(pipeline, step: int, t: Tensor, state: dict) -> dict:
        found.append(state["latents"])
        return {}

    memory, empty = (text(rows).last_hidden_state for rows in (ids, ours.empty.expand_as(ids)))
    images = pipeline(
        prompt_embeds=memory,
        negative_prompt_embeds=empty,
        latents=noise,
        guidance_scale=guidance,
        num_inference_steps=steps,
        output_type="pt",
        callback_on_step_end=keep,
    ).images
    return found, images
