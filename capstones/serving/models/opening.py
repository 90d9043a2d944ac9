"""Models by name.

>>> open_model("dummy").context
512
>>> open_model("gpt-9")
Traceback (most recent call last):
shared.errors.UserError: model must be smollm2, tiny_gpt:RUN, hf:FOLDER, gguf:FILE, compress:DIR, \
rag:STORE, week28:NAME or dummy, got 'gpt-9'
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serving.models.language_model import LanguageModel
from shared.errors import UserError
from shared.require import require

NAMES = "smollm2, tiny_gpt:RUN, hf:FOLDER, gguf:FILE, compress:DIR, rag:STORE, week28:NAME or dummy"


def open_model(ref: str = "smollm2", *, batch: int = 8) -> LanguageModel:
    """Open a model; nothing is fetched, and no code or pickle of a folder is run.

    Parameters
    ----------
    ref
        `smollm2`; `tiny_gpt:RUN`, a run's folder; `hf:FOLDER`, a LLaMA of Transformers;
        `gguf:FILE`, a LLaMA; `compress:DIR`, what `compress` wrote; `dummy`, a small one with
        random weights, to try the server.
    batch
        Rows that are computed together as a rule.

    Raises
    ------
    UserError
        There is no such model, or it cannot be read.
    """
    kind, _, rest = ref.partition(":")
    if ref == "dummy":
        return _dummy(batch)
    if ref == "smollm2":
        from shared import pretrained

        return _gguf(Path(pretrained.smollm2()), ref, batch)
    openers = {"gguf": _gguf, "hf": _hugging_face, "tiny_gpt": _tiny_gpt, "compress": _compressed}
    require(kind in openers and rest, f"model must be {NAMES}", repr(ref), error=UserError)
    return openers[kind](Path(rest), ref, batch)


def _llama(ref: str, model, codec, batch: int) -> LanguageModel:
    from week19.fused_llama import FusedLlama

    model = model.eval().requires_grad_(False)
    scaling = model.config.rope_scaling
    fused = model if scaling and scaling.by_length else FusedLlama(model, batch=batch)
    return LanguageModel(ref, fused, model, codec)


def _gguf(path: Path, ref: str, batch: int) -> LanguageModel:
    from llm_eval.models.tokens import GGUFCodec
    from week18.gguf_file import GGUF
    from week18.pretrained import load_pretrained

    require(path.suffix == ".gguf", "gguf:FILE must end in .gguf", path, error=UserError)
    codec = GGUFCodec(GGUF.open(path))
    return _llama(ref, load_pretrained(path), codec, batch)


def _hugging_face(folder: Path, ref: str, batch: int) -> LanguageModel:
    from week18.pretrained import load_pretrained

    require(folder.is_dir(), "hf:FOLDER must be a folder on this machine", folder, error=UserError)
    return _llama(ref, load_pretrained(folder), hugging_face_codec(folder), batch)


def hugging_face_codec(folder: Path):
    """The tokenizer of a folder.

    Raises
    ------
    UserError
        It has none that can be read.
    """
    from transformers import AutoTokenizer

    from llm_eval.models.tokens import HuggingFaceCodec

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"{folder} holds no readable tokenizer: {reason}") from error
    return HuggingFaceCodec(tokenizer, f"hf:{folder}")


def _tiny_gpt(run: Path, ref: str, batch: int) -> LanguageModel:
    from llm_eval.models.tokens import TinyCodec
    from tiny_gpt.training.checkpoints import load_checkpoint

    checkpoint = load_checkpoint(run)
    model = checkpoint.model.eval().requires_grad_(False)
    return LanguageModel(ref, model, model, TinyCodec(checkpoint.tokenizer, ref))


def _compressed(folder: Path, ref: str, batch: int) -> LanguageModel:
    from compress.artifact.folder import load
    from llm_eval.models.tokens import TinyCodec

    opened = load(folder)
    kind, files = opened.tokenizer.kind, opened.tokenizer.files
    if kind == "tiny_gpt":
        codec = TinyCodec(opened.tokenizer.inner, ref)
    else:
        codec = hugging_face_codec(folder) if kind == "hf" else _gguf_codec(files, ref)
    return _llama(ref, opened.model, codec, batch)


def _gguf_codec(files: Mapping[str, bytes], ref: str):
    """The tokenizer of a GGUF file, from the `tokenizer.json` that it was written as."""
    content, words = (
        json.loads(files[name]) for name in ("tokenizer.json", "tokenizer_config.json")
    )
    vocab, special = content["model"]["vocab"], {t["id"] for t in content["added_tokens"]}
    fields = {
        "model": "gpt2",
        "tokens": sorted(vocab, key=vocab.__getitem__),
        "token_type": [3 if i in special else 1 for i in range(len(vocab))],
        "merges": content["model"]["merges"],
        "pre": "smollm" if "Digits" in str(content["pre_tokenizer"]) else "gpt-2",
        "eos_token_id": vocab[words["eos_token"]],
    }
    return _chatml(ref, fields, words.get("chat_template", ""))


def _chatml(name: str, fields: Mapping[str, Any], template: str = ""):
    """A tokenizer from the fields that a GGUF file would have."""
    import numpy as np

    from llm_eval.models.tokens import GGUFCodec
    from week18.gguf_file import GGUF

    named = {f"tokenizer.ggml.{field}": value for field, value in fields.items()}
    named["tokenizer.chat_template"] = template
    return GGUFCodec(GGUF(name, named, {}, np.empty(0, np.uint8)))


def _dummy(batch: int) -> LanguageModel:
    """A LLaMA of bytes with random weights; it speaks ChatML and says nothing."""
    import torch

    from week15.merges import printable_bytes
    from week18.llama3 import Llama, LlamaConfig

    names = [printable_bytes()[byte] for byte in range(256)] + ["<|im_start|>", "<|im_end|>"]
    fields = {"model": "gpt2", "tokens": names, "token_type": [1] * 256 + [3] * 2, "merges": []}
    fields |= {"pre": "smollm", "eos_token_id": 257}
    config = LlamaConfig(vocab_size=258, d_model=32, n_kv_heads=2, context=512)
    model = Llama(config, torch.Generator().manual_seed(0))
    return _llama("dummy", model, _chatml("dummy", fields), batch)
