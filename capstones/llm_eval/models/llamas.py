"""Models that week 18's LLaMA computes, and their tokenizers: opened here for several programs.

>>> from shared.model_refs import ModelRef
>>> open_llama(ModelRef("gguf", "no-such.gguf"))
Traceback (most recent call last):
shared.errors.UserError: no-such.gguf cannot be read ([Errno 2] No such file or directory: \
'no-such.gguf')
"""

import json
from pathlib import Path

from compress.artifact.folder import load
from compress.models.tokenizers import Tokenizer
from llm_eval.models.tokens import Codec, GGUFCodec, HuggingFaceCodec, TinyCodec
from shared import pretrained
from shared.errors import UserError
from shared.model_refs import ModelRef
from week18.gguf_file import GGUF
from week18.llama3 import Llama
from week18.pretrained import load_pretrained


def open_llama(ref: ModelRef) -> tuple[Llama, Codec]:
    """A model and its tokenizer; nothing is fetched, and no code or pickle of a folder is run.

    Parameters
    ----------
    ref
        Of kind smollm2, hf, compress or gguf.

    Raises
    ------
    UserError
        It cannot be read, or is no LLaMA.
    """
    path = path_of(ref)
    if ref.kind == "compress":
        opened = load(path)
        model, codec = opened.model, compressed_codec(opened.tokenizer, path, ref.text)
    elif ref.kind == "hf":
        model, codec = load_pretrained(path), hugging_face_codec(path, ref.text)
    else:
        codec = GGUFCodec.of(GGUF.open(path))
        model = load_pretrained(path)
    return model.eval().requires_grad_(False), codec


def path_of(ref: ModelRef) -> Path:
    """Where a model lies; SmolLM2 comes as a package."""
    return pretrained.smollm2() if ref.kind == "smollm2" else ref.path


def hugging_face_codec(folder: Path, name: str) -> HuggingFaceCodec:
    """The tokenizer of a folder.

    Raises
    ------
    UserError
        It has none that can be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"{folder} holds no readable tokenizer: {reason}") from error
    return HuggingFaceCodec(tokenizer, name)


def compressed_codec(tokenizer: Tokenizer, folder: Path, name: str) -> Codec:
    """The tokenizer of a compressed model as that of the model it was made of."""
    if tokenizer.kind == "tiny_gpt":
        return TinyCodec(tokenizer.inner, name)
    if tokenizer.kind == "hf":
        return hugging_face_codec(folder, name)
    words, inner = json.loads(tokenizer.files["tokenizer_config.json"]), tokenizer.inner
    prefix = inner.special_tokens.get(words.get("bos_token"))
    begins, template = bool(words.get("add_bos_token")), words.get("chat_template", "")
    return GGUFCodec(inner, name, prefix=prefix, begins=begins, template=template)
