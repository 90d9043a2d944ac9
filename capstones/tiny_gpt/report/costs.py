r"""What a model costs: numbers by part, operations per token, and the memory of training.

Training keeps weights, gradients, the optimizers' buffers, and what autograd saves for the backward
pass: along a block of width $d$ on $T$ tokens, the inputs of the two norms and the four matrices,
queries, keys, values and what attention made of them, and the MLP's activation function. The head
adds the logits, once for themselves and once as log-probabilities. Attention is counted as a fused
kernel keeps it, without the square of scores.

A weight of a matrix costs 2 operations a token, a key 4 for each dimension of each head; the
backward pass costs twice the forward pass (Kaplan et al., "Scaling laws for neural language
models", 2020, section 2.1; Korthikanti et al., "Reducing activation recomputation in large
transformer models", 2022, section 4.1).
"""

import torch

from shared.require import require
from tiny_gpt.model.config import GPTConfig
from tiny_gpt.model.gpt import GPT
from week16.activation_checkpointing import peak_bytes

__all__ = ["flops_per_token", "parameters", "training_memory"]

PARTS = {"embed": "embedding", "previous": "embedding of the token before"}
PARTS |= {"positions": "positions", "qkv": "attention", "out_proj": "attention"}
PARTS |= {"up": "MLP", "down": "MLP", "head": "head"}


def parameters(config: GPTConfig) -> dict[str, int]:
    """Trained numbers by part of the model; a tied head counts as embedding."""
    parts: dict[str, int] = {}
    with torch.device("meta"):
        model = GPT(config)
    for name, p in model.named_parameters():
        part = PARTS.get(name.split(".")[-2], "norms")
        parts[part] = parts.get(part, 0) + p.numel()
    return parts


def flops_per_token(config: GPTConfig) -> int:
    """Operations in matrix products for one token of a full context, forward.

    Attention's whole square is counted, as in most reports of utilization.
    """
    entries = config.block_weights + config.vocab_size * config.d_model
    return 2 * entries + 4 * config.n_layers * config.d_model * config.context


def training_memory(
    config: GPTConfig,
    batch_size: int,
    *,
    optimizer: str = "muon",
    recompute: bool = False,
    bytes_each: int = 4,
) -> dict[str, int]:
    """Bytes that training in `batch_size` sequences at once keeps; weights are float32.

    `adamw` keeps two numbers for each weight, `muon` one for the matrices of blocks. To `recompute`
    is to keep only the input of each block. An activation has `bytes_each`.
    """
    require(batch_size >= 1, "batch_size must be at least 1", batch_size)
    c = config
    total = sum(parameters(c).values())
    buffers = 2 * total - (c.block_weights if optimizer == "muon" else 0)
    d, kv = c.d_model, c.n_kv_heads * c.head_dim
    # Inputs of the norms and matrices, queries, keys and values, and what attention made of them.
    block = 6 * d + 2 * kv + {"gelu": 2, "relu2": 2, "swiglu": 4}[c.mlp] * c.d_ff
    if c.positions == "rotary":  # rotated queries and keys, and attention's result laid out anew
        block += 2 * d + kv
    block += 2 * d * (c.norm == "rms") + 2 * d * (c.dropout > 0)
    # Attention's log-sums, and the norms' statistics.
    block += c.n_heads + 2 * (1 if c.norm == "rms" else 2)
    block += (c.n_heads + c.n_kv_heads) * c.qk_norm
    ends = d * (2 + (c.norm == "rms") + (c.dropout > 0))
    tokens = batch_size * c.context
    # Whatever the blocks compute in, the loss is taken in float32.
    outside = tokens * (ends * bytes_each + 4 * c.vocab_size)
    block, boundary = tokens * block * bytes_each, tokens * d * bytes_each
    if recompute:  # the head's share is gone when the last block is computed again
        inside = peak_bytes(c.n_layers, 1, boundary, block)
        activations = max(inside, outside + c.n_layers * boundary)
    else:
        activations = outside + c.n_layers * block
    return {
        "weights": 4 * total,
        "gradients": 4 * total,
        "optimizer": 4 * buffers,
        "activations": activations,
        "logits": 4 * tokens * c.vocab_size,
    }
