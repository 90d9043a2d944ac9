"""A `transformers` T5 with the weights of ours: for comparisons, never for results.

>>> from week14.t5 import T5, T5Config
>>> ours = randomize(T5(T5Config(vocab_size=31, d_model=24)))
>>> source, target = torch.arange(1, 31)[None], torch.arange(1, 11)[None]
>>> theirs = transformers_twin(ours)(input_ids=source, labels=target).logits
>>> torch.allclose(ours(source, target), theirs, atol=1e-5)
True

`uv run weeks/14/t5.py` makes the comparison.
"""

import torch
from torch import nn

from week14.t5 import T5, T5Config

TABLES = {
    "embed.weight": "shared.weight",
    "head.weight": "lm_head.weight",
    "norm.weight": "final_layer_norm.weight",
    "bias.table": "block.0.layer.0.SelfAttention.relative_attention_bias.weight",
}
PARTS = {"self_attention": "SelfAttention", "cross_attention": "EncDecAttention"}
PARTS |= {"feed_forward": "DenseReluDense"}
MATRICES = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "o"}


def hugging_face_name(name: str, version: str) -> str:
    """Where `T5ForConditionalGeneration` keeps one of our tensors."""
    stack, _, rest = name.partition(".")
    if name in TABLES:
        return TABLES[name]
    if rest in TABLES:
        return f"{stack}.{TABLES[rest]}"
    _, layer, part, *matrix, kind = rest.split(".")
    place = {"self": 0, "cross": 1, "ff": 1, "feed": 1}[part.split("_")[0]]
    place += stack == "decoder" and part.startswith(("ff", "feed"))
    matrices = MATRICES | {"down_proj": "wo", "gate_proj": "wi_0"}
    matrices["up_proj"] = "wi" if version == "1.0" else "wi_1"
    inner = [PARTS.get(part, "layer_norm"), *(matrices[m] for m in matrix), kind]
    return ".".join([stack, "block", layer, "layer", str(place), *inner])


def their_config(config: T5Config):
    """The same sizes as transformers' `T5Config`; there `tie_word_embeddings` scales the head."""
    from transformers import T5Config as TheirConfig

    return TheirConfig(
        vocab_size=config.vocab_size,
        d_model=config.d_model,
        d_kv=config.head_dim,
        d_ff=config.d_ff,
        num_layers=config.n_layers,
        num_heads=config.n_heads,
        relative_attention_num_buckets=config.n_buckets,
        relative_attention_max_distance=config.max_distance,
        layer_norm_epsilon=config.norm_eps,
        dropout_rate=0.0,
        feed_forward_proj="relu" if config.version == "1.0" else "gated-gelu",
        tie_word_embeddings=config.version == "1.0",
        decoder_start_token_id=0,
    )


def transformers_twin(model: T5) -> nn.Module:
    """The same weights in transformers' `T5ForConditionalGeneration`."""
    from transformers import T5ForConditionalGeneration

    theirs = T5ForConditionalGeneration(their_config(model.config)).eval()
    if model.config.version == "1.1":  # transformers 5 ties the head of both versions
        theirs.lm_head.weight = nn.Parameter(torch.zeros_like(theirs.lm_head.weight))
    weights = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, p in model.named_parameters():
            weights.pop(hugging_face_name(name, model.config.version)).copy_(p)
    assert not weights
    return theirs


def randomize(model: T5, *, std: float = 0.2, seed: int = 0) -> T5:
    """Draw every weight anew, gains too: ones would hide a gain that is forgotten."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(float(p.ndim == 1), std, generator=generator)
    return model
