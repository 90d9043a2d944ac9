r"""One file in llama.cpp's format: weights in blocks of 32, the tokenizer beside them.

The format has grids of its own, so what comes here as floats is rounded to nearest in its blocks,
`Q8_0` (8.5 bits per weight), `Q4_0` (4.5) or `Q4_1` (5, with a minimum for each block). Where a
model's codes lie on other grids, its weights are rounded twice. The embedding is the largest matrix
of a small model and takes `Q8_0`; norms stay floats.

>>> kinds = kinds_of(Llama(LlamaConfig(vocab_size=50, d_model=32, n_layers=1, d_ff=64)), "Q4_0")
>>> kinds["blk.0.ffn_down.weight"], kinds["token_embd.weight"], "output_norm.weight" in kinds
('Q4_0', 'Q8_0', False)

The tests read the file with week 18's reader and with Transformers.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from shared.errors import UserError
from shared.require import require
from week18.gguf_llama import interleaved
from week18.gguf_twin import their_name
from week18.llama3 import Llama, LlamaConfig

__all__ = ["BLOCK", "KINDS", "Llama", "LlamaConfig", "kinds_of", "save_gguf"]
KINDS = ("Q8_0", "Q4_0", "Q4_1")
BLOCK = 32
CONTROL, NORMAL = 3, 1  # llama.cpp's kinds of tokens


def kinds_of(model: Llama, kind: str) -> dict[str, str]:
    """What each matrix is stored as, by llama.cpp's names.

    Raises
    ------
    UserError
        If a matrix cannot be cut into blocks.
    """
    require(kind in KINDS, f"kind must be one of {', '.join(KINDS)}", repr(kind), error=UserError)
    found = {}
    for name, p in model.named_parameters():
        if p.ndim == 2:
            must = f"{name} must have a multiple of {BLOCK} inputs for {kind}"
            require(p.shape[1] % BLOCK == 0, must, p.shape[1], error=UserError)
            outer = name in ("embed.weight", "head.weight")
            found[their_name(name)] = "Q8_0" if outer else kind
    return found


def save_gguf(
    model: Llama, path: Path, *, kind: str = "Q8_0", files: Mapping[str, bytes] | None = None
) -> None:
    """Write the file; `files` are those of a tokenizer, of which `tokenizer.json` is taken over.

    Raises
    ------
    UserError
        If the model's rotary frequencies are scaled, or a matrix cannot be cut into blocks.
    """
    import gguf

    c, kinds = model.config, kinds_of(model, kind)
    plain = c.rope_scaling is None
    require(plain, "MODEL must have unscaled rotary positions for gguf", error=UserError)
    temporary = path.with_name(f".{path.name}.saving")
    writer = gguf.GGUFWriter(temporary, "llama")
    writer.add_block_count(c.n_layers)
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.d_model)
    writer.add_feed_forward_length(c.d_ff)
    writer.add_head_count(c.n_heads)
    writer.add_head_count_kv(c.n_kv_heads)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    writer.add_vocab_size(c.vocab_size)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_base)
    writer.add_layer_norm_rms_eps(c.norm_eps)
    add_tokenizer(writer, files or {}, c.vocab_size)
    for name, p in model.named_parameters():
        array, theirs = p.detach().float().numpy(), their_name(name)
        if theirs.endswith(("attn_q.weight", "attn_k.weight")):
            array = interleaved(array, c.n_heads if "_q" in theirs else c.n_kv_heads)
        number = gguf.GGMLQuantizationType[kinds.get(theirs, "F32")]
        writer.add_tensor(theirs, gguf.quants.quantize(array, number), raw_dtype=number)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


def add_tokenizer(writer, files: Mapping[str, bytes], vocab_size: int) -> None:
    """The tokens and merges of a byte-level `tokenizer.json`; other tokenizers are left out."""
    try:
        content = json.loads(files["tokenizer.json"])
        vocabulary, merges = content["model"]["vocab"], content["model"]["merges"]
        added = {token["content"]: token["id"] for token in content["added_tokens"]}
    except (KeyError, ValueError, TypeError):
        return
    tokens = [""] * vocab_size
    for token, i in (vocabulary | added).items():
        tokens[i] = token
    tokens = [token or f"[unused{i}]" for i, token in enumerate(tokens)]
    single = "individual_digits" in json.dumps(content.get("pre_tokenizer"))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm" if single else "gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if token in added else NORMAL for token in tokens])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    settings = json.loads(files.get("tokenizer_config.json", b"{}"))
    for name in ("bos", "eos"):
        token = settings.get(f"{name}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if token in added:
            getattr(writer, f"add_{name}_token_id")(added[token])
    template = files.get("chat_template.jinja", b"").decode() or settings.get("chat_template")
    if template:
        writer.add_chat_template(template)
