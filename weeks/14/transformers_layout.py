"""Where our GPT's tensors sit in the `transformers` models that compute the same function.

The functions map a dictionary of the reference's tensors (weights or gradients, by name) to ours,
so weights can be copied and gradients compared with one description of the layout.

>>> from transformers import GPT2Config, GPT2LMHeadModel
>>> theirs = GPT2LMHeadModel(GPT2Config(vocab_size=5, n_embd=8, n_layer=1, n_head=2))
>>> [name for name in from_gpt2(theirs.state_dict()) if "k_proj" in name]
['blocks.0.k_proj.weight', 'blocks.0.k_proj.bias']

Source: the modules `modeling_gpt2`, `modeling_gpt_neox` and `modeling_bert` of transformers (2024).
"""

from torch import Tensor


def from_gpt2(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """`GPT2LMHeadModel` (learned positions) to our names and shapes.

    GPT-2 stores its linear layers transposed, input first, with q, k and v side by side.
    """
    ours = {
        "embed.weight": theirs["transformer.wte.weight"],
        "positions.weight": theirs["transformer.wpe.weight"],
        "norm.weight": theirs["transformer.ln_f.weight"],
        "norm.bias": theirs["transformer.ln_f.bias"],
        "head.weight": theirs["lm_head.weight"],
    }
    for i in _layers(theirs, "transformer.h."):
        layer = f"transformer.h.{i}."
        names = {
            "attention_norm": "ln_1",
            "mlp_norm": "ln_2",
            "out_proj": "attn.c_proj",
            "up": "mlp.c_fc",
            "down": "mlp.c_proj",
        }
        for our_name, their_name in names.items():
            for kind in ("weight", "bias"):
                tensor = theirs[f"{layer}{their_name}.{kind}"]
                ours[f"blocks.{i}.{our_name}.{kind}"] = tensor.T if tensor.ndim == 2 else tensor
        for kind in ("weight", "bias"):
            fused = theirs[f"{layer}attn.c_attn.{kind}"]
            fused = fused.T if fused.ndim == 2 else fused
            for our_name, part in zip(("q_proj", "k_proj", "v_proj"), fused.chunk(3), strict=True):
                ours[f"blocks.{i}.{our_name}.{kind}"] = part
    return ours


def from_gpt_neox(theirs: dict[str, Tensor], n_heads: int) -> dict[str, Tensor]:
    """`GPTNeoXForCausalLM` (rotary positions, sequential residual) to our names and shapes.

    Its fused projection holds q, k and v of head 0, then of head 1, and so on.
    """
    ours = {
        "embed.weight": theirs["gpt_neox.embed_in.weight"],
        "norm.weight": theirs["gpt_neox.final_layer_norm.weight"],
        "norm.bias": theirs["gpt_neox.final_layer_norm.bias"],
        "head.weight": next(
            theirs[n] for n in ("embed_out.weight", "lm_head.weight") if n in theirs
        ),
    }
    for i in _layers(theirs, "gpt_neox.layers."):
        layer = f"gpt_neox.layers.{i}."
        names = {
            "attention_norm": "input_layernorm",
            "mlp_norm": "post_attention_layernorm",
            "out_proj": "attention.dense",
            "up": "mlp.dense_h_to_4h",
            "down": "mlp.dense_4h_to_h",
        }
        for our_name, their_name in names.items():
            for kind in ("weight", "bias"):
                ours[f"blocks.{i}.{our_name}.{kind}"] = theirs[f"{layer}{their_name}.{kind}"]
        for kind in ("weight", "bias"):
            fused = theirs[f"{layer}attention.query_key_value.{kind}"]
            heads = fused.unflatten(0, (n_heads, 3, -1))
            for part, our_name in enumerate(("q_proj", "k_proj", "v_proj")):
                ours[f"blocks.{i}.{our_name}.{kind}"] = heads[:, part].flatten(0, 1)
    return ours


def from_bert(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """`BertModel` or `BertForPreTraining` to `Bert` or `BertForPretraining`.

    Checkpoints of the encoder alone have no prefix, and their pooler belongs to no head of ours.
    """
    heads = {
        "transform": "cls.predictions.transform.dense",
        "norm": "cls.predictions.transform.LayerNorm",
        "pooler": "bert.pooler.dense",
        "follows": "cls.seq_relationship",
    }
    whole = "cls.predictions.bias" in theirs
    there, here = ("bert.", "encoder.") if whole else ("", "")
    ours = {
        f"{here}{our_name}.weight": theirs[f"{there}embeddings.{their_name}_embeddings.weight"]
        for our_name, their_name in zip(
            ("embed", "positions", "types"), ("word", "position", "token_type"), strict=True
        )
    }
    names = {f"{here}norm": f"{there}embeddings.LayerNorm"} | (heads if whole else {})
    parts = {
        **{f"self_attention.{x[0]}_proj": f"attention.self.{x}" for x in ("query", "key", "value")},
        "self_attention.out_proj": "attention.output.dense",
        "residuals.0.norm": "attention.output.LayerNorm",
        "feed_forward.0": "intermediate.dense",
        "feed_forward.3": "output.dense",
        "residuals.1.norm": "output.LayerNorm",
    }
    for i in _layers(theirs, f"{there}encoder.layer."):
        layer = f"{there}encoder.layer.{i}."
        names |= {f"{here}layers.{i}.{our}": layer + their for our, their in parts.items()}
    for our_name, their_name in names.items():
        for kind in ("weight", "bias"):
            ours[f"{our_name}.{kind}"] = theirs[f"{their_name}.{kind}"]
    return ours | ({"bias": theirs["cls.predictions.bias"]} if whole else {})


def _layers(theirs: dict[str, Tensor], prefix: str) -> range:
    numbers = {int(n.removeprefix(prefix).split(".")[0]) for n in theirs if n.startswith(prefix)}
    return range(len(numbers))
