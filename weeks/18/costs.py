"""What a LLaMA costs: parameters, operations per token, bytes of weights and cache.

A weight costs two operations per token, a key two for each dimension of each query head and as many
for its share of the average. Grouping the heads saves bytes, not operations.

>>> config = LLAMA_3_1["8B"]
>>> round(n_parameters(config) / 1e9, 2)  # as published
8.03
>>> cache_bytes(config, 1) // 1024  # KiB per token: two tensors, 32 layers, 8 heads of 128, 2 bytes
128
>>> round(flops_per_token(config, 0) / n_parameters(config), 2)
1.87

The model and its evidence: `uv run weeks/18/llama3.py`. Sizes: Grattafiori et al., "The Llama 3
herd of models" (2024), table 3.
"""

from week18.llama3 import LlamaConfig
from week18.rotary import RopeScaling

_LONG = {"context": 131_072, "rope_scaling": RopeScaling()}
LLAMA_3_1 = {
    "8B": LlamaConfig(128_256, 4096, 32, 32, 8, d_ff=14_336, **_LONG),
    "70B": LlamaConfig(128_256, 8192, 80, 64, 8, d_ff=28_672, **_LONG),
    "405B": LlamaConfig(128_256, 16_384, 126, 128, 8, d_ff=53_248, **_LONG),
}


def _matrix_entries(config: LlamaConfig) -> int:
    """Weights that every token is multiplied by: all but the norms and the look-up table."""
    attention = 2 * (config.n_heads + config.n_kv_heads) * config.head_dim * config.d_model
    mlp = 3 * config.d_model * config.d_ff
    return config.n_layers * (attention + mlp) + config.vocab_size * config.d_model


def n_parameters(config: LlamaConfig) -> int:
    """Trained numbers of a model; a tied head counts once."""
    gains = (2 * config.n_layers + 1) * config.d_model
    table = 0 if config.tied else config.vocab_size * config.d_model
    return _matrix_entries(config) + gains + table


def flops_per_token(config: LlamaConfig, context: float, *, backward: bool = False) -> float:
    """Floating-point operations in matrix products for one token that attends to `context` keys.

    Parameters
    ----------
    context
        Keys attended to, on average. For a sequence of n tokens, n if the kernel computes the whole
        square, (n + 1) / 2 if it skips the masked half.
    backward
        Add the backward pass: each product gives two, one for each factor's gradient.
    """
    attention = 4 * config.n_layers * config.n_heads * config.head_dim * context
    return (3 if backward else 1) * (2 * _matrix_entries(config) + attention)


def cache_bytes(config: LlamaConfig, tokens: int, *, bytes_per_value: int = 2) -> int:
    """Bytes of the keys and values of `tokens` tokens in all layers (bfloat16 if not said)."""
    per_layer = 2 * config.n_kv_heads * config.head_dim
    return tokens * config.n_layers * per_layer * bytes_per_value


def weight_bytes(config: LlamaConfig, *, bytes_per_value: int = 2) -> int:
    """Bytes of all weights, nearly all of which are read for each token that is generated alone."""
    return n_parameters(config) * bytes_per_value
