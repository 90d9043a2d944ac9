"""Week 14's BERT with PyTorch's fused attention: the same numbers in less than half the time."""

from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from week13.attention import MultiHeadAttention
from week14.bert import Bert


class FusedAttention(MultiHeadAttention):
    """Self-attention whose weights are never written to memory."""

    def forward(
        self,
        x: Float[Tensor, "batch seq d_model"],
        memory: None = None,
        *,
        mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        """As the parent's, for what BERT asks of it."""
        q, k, v = (
            project(x).unflatten(-1, (self.n_heads, self.head_dim)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.out_proj(heads.transpose(1, 2).flatten(2))


def fused(model: Bert) -> Bert:
    """Give a model of inference the fused attention, with its own weights."""
    for layer in model.layers:
        layer.self_attention.__class__ = FusedAttention
    return model
