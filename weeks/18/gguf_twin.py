"""A LLaMA written as GGUF by the package gguf: for comparisons, as llama.cpp's conversion does it.

>>> from tempfile import TemporaryDirectory
>>> from week18.llama3 import LlamaConfig
>>> ours = Llama(LlamaConfig(vocab_size=31, d_model=32, n_layers=1))
>>> with TemporaryDirectory() as folder:
...     write_gguf(ours, Path(folder) / "model.gguf", {"token_embd.weight": "Q8_0"})
...     GGUF.open(Path(folder) / "model.gguf").tensors["token_embd.weight"].kind
'Q8_0'

`uv run weeks/18/smollm2.py` lets transformers read such a file.
"""

from collections.abc import Mapping
from pathlib import Path

from week18.gguf_file import GGUF
from week18.gguf_llama import PARTS, TOP, interleaved
from week18.llama3 import Llama
from week18.pretrained import hugging_face_name

__all__ = ["GGUF", "their_name", "write_gguf"]
THEIRS = {value: key for key, value in (PARTS | TOP).items()}


def their_name(name: str) -> str:
    """What llama.cpp calls one of our parameters."""
    name = hugging_face_name(name).removesuffix(".weight")
    if name.startswith("model.layers."):
        _, _, layer, part = name.split(".", 3)
        return f"blk.{layer}.{THEIRS[part]}.weight"
    return f"{THEIRS[name]}.weight"


def write_gguf(model: Llama, path: Path, kinds: Mapping[str, str] | None = None) -> None:
    """Write a file; `kinds` names the quantization of some tensors, all others stay float32."""
    import gguf

    c, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_block_count(c.n_layers)
    writer.add_context_length(c.context)
    writer.add_embedding_length(c.d_model)
    writer.add_feed_forward_length(c.d_ff)
    writer.add_head_count(c.n_heads)
    writer.add_head_count_kv(c.n_kv_heads)
    writer.add_vocab_size(c.vocab_size)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_base)
    writer.add_layer_norm_rms_eps(c.norm_eps)
    for name, p in model.named_parameters():
        array, theirs = p.detach().numpy(), their_name(name)
        if theirs.endswith(("attn_q.weight", "attn_k.weight")):
            array = interleaved(array, c.n_heads if "_q" in theirs else c.n_kv_heads)
        kind = gguf.GGMLQuantizationType[(kinds or {}).get(theirs, "F32")]
        writer.add_tensor(theirs, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
