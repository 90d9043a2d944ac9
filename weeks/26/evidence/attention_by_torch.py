"""The same network with torch's attention: pairs one by one, rotation by complex numbers."""

import torch
import torch.nn.functional as F
from torch import Tensor

from week13.attention import MultiHeadAttention
from week26.temporal_attention import VideoTransformer, patches, pixels


def by_torch(
    attention: MultiHeadAttention, x: Tensor, kind: str, *, is_causal: bool = False
) -> Tensor:
    """Attention over all tokens of a clip: pairs one by one, rotation by complex numbers."""
    frames, places = x.shape[1:3]
    tokens = [(t, s) for t in range(frames) for s in range(places)]
    sees = {
        "spatial": lambda a, b: a[0] == b[0],
        "temporal": lambda a, b: a[1] == b[1],
        "joint": lambda a, b: True,
    }[kind]
    mask = torch.tensor(
        [[sees(a, b) and not (is_causal and b[0] > a[0]) for b in tokens] for a in tokens]
    )
    q, k, v = (
        F.linear(x.flatten(1, 2), p.weight, p.bias).unflatten(-1, (attention.n_heads, -1))
        for p in (attention.q_proj, attention.k_proj, attention.v_proj)
    )
    half = q.shape[-1] // 2
    angle = torch.tensor([t for t, _ in tokens])[:, None] * 10000 ** (-torch.arange(half) / half)
    turn = torch.polar(torch.ones_like(angle), angle).to(torch.complex128)[:, None]
    q, k = (torch.complex(y[..., :half], y[..., half:]) * turn for y in (q, k))
    q, k = (torch.cat([y.real, y.imag], dim=-1) for y in (q, k))
    heads = (y.transpose(1, 2) for y in (q, k, v))
    y = F.scaled_dot_product_attention(*heads, attn_mask=mask).transpose(1, 2).flatten(2)
    y = F.linear(y, attention.out_proj.weight, attention.out_proj.bias)
    return y.unflatten(1, (frames, places))


def forward_by_torch(net: VideoTransformer, video: Tensor) -> Tensor:
    """The network with torch's attention, norms and MLPs."""
    config = net.config
    x = F.linear(patches(video, config.patch), net.embed.weight, net.embed.bias) + net.places
    norm = lambda layer, x: F.layer_norm(x, x.shape[-1:], layer.weight, layer.bias)  # noqa: E731
    for block in net.blocks:
        for n, attention, kind in zip(block.norms, block.attentions, block.kinds, strict=False):
            x = x + by_torch(attention, norm(n, x), kind, is_causal=config.is_causal)
        x = x + block.down(F.gelu(block.up(norm(block.norms[2], x))))
    return pixels(net.head(norm(net.norm, x)), config.size)
