"""Text to tokens and back, for whatever model is compressed, and the files to keep beside it.

A GGUF file's tokenizer is written as the `tokenizer.json` that others read, and read from it again:
what stands in an artifact is a Hugging Face folder's tokenizer, wherever the model came from.

>>> from tiny_gpt.data.tokenizers import train_tokenizer
>>> tokenizer = of_tiny_gpt(train_tokenizer("byte", []))
>>> tokenizer.encode("hi"), tokenizer.decode(tokenizer.encode("hi"))
([72, 73], 'hi')
>>> of_files("tiny_gpt", tokenizer.files).encode("hi")
[72, 73]
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from shared.errors import UserError
from shared.require import require
from tiny_gpt.data.tokenizers import Tokenizer as TinyTokenizer
from tiny_gpt.data.tokenizers import tokenizer_from_bytes
from week18.gguf_file import GGUF
from week18.gguf_tokenizer import CONTROL, GGUFTokenizer

Kind = Literal["gguf", "tiny_gpt", "hf"]
FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
FILES += ("generation_config.json", "chat_template.jinja")
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
DIGITS = {"type": "Digits", "individual_digits": True}
CUTS = {"gpt-2": BYTES, "smollm": {"type": "Sequence", "pretokenizers": [DIGITS, BYTES]}}
FLAGS = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)


@dataclass(frozen=True)
class Tokenizer:
    """What turns text into a model's tokens.

    Attributes
    ----------
    kind
        Where it came from: a GGUF file, a run of tiny-gpt, or a Hugging Face folder.
    files
        What to store beside the model.
    inner
        `GGUFTokenizer` (which knows conversations), tiny-gpt's, or that of `tokenizers`.
    """

    kind: Kind
    files: Mapping[str, bytes] = field(repr=False)
    inner: Any = field(repr=False)

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without any token that begins or ends it.

        Raises
        ------
        ValueError
            If the tokenizer has no token for a character.
        """
        if self.kind == "gguf":
            return self.inner.encode(text)
        if self.kind == "tiny_gpt":
            return self.inner.encode(text).tolist()
        try:
            return self.inner.encode(text, add_special_tokens=False).ids
        except Exception as error:  # tokenizers raises nothing narrower
            raise ValueError(f"text must be of the tokenizer's characters: {error}") from error

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""
        if self.kind == "hf":
            return self.inner.decode(list(ids), skip_special_tokens=False)
        return self.inner.decode(ids)


# ---- each kind


def of_gguf(file: GGUF) -> Tokenizer:
    """The tokenizer inside a GGUF file."""
    inner = GGUFTokenizer.from_gguf(file)
    given = {name.removeprefix("tokenizer.ggml."): v for name, v in file.fields.items()}
    vocab = {token: i for i, token in enumerate(given["tokens"])}
    must = f"{file.name}: its tokens must all be different"
    require(len(vocab) == len(given["tokens"]), must, error=UserError)
    special = [
        {"id": i, "content": token, **FLAGS, "special": True}
        for i, token in enumerate(given["tokens"])
        if given["token_type"][i] == CONTROL
    ]
    content = {
        "version": "1.0",
        "added_tokens": special,
        "pre_tokenizer": CUTS[given.get("pre", "gpt-2")],
        "decoder": BYTES,
        "model": {"type": "BPE", "vocab": vocab, "merges": list(given["merges"])},
    }
    names = {"eos_token": given["eos_token_id"], "bos_token": given.get("bos_token_id")}
    words = {name: given["tokens"][i] for name, i in names.items() if i is not None}
    words |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if given.get("add_bos_token"):
        words["add_bos_token"] = True
    if template := file.fields.get("tokenizer.chat_template"):
        words["chat_template"] = str(template)
    files = {"tokenizer.json": _json(content), "tokenizer_config.json": _json(words)}
    return Tokenizer("gguf", files, inner)


def of_tiny_gpt(inner: TinyTokenizer) -> Tokenizer:
    """That of a run of tiny-gpt."""
    return Tokenizer("tiny_gpt", {"tokenizer.json": inner.to_bytes()}, inner)


def of_folder(folder: Path) -> Tokenizer:
    """That of a Hugging Face folder, read by `tokenizers`."""
    files = {name: (folder / name).read_bytes() for name in FILES if (folder / name).is_file()}
    if "tokenizer.json" not in files:
        raise UserError(f"{folder} holds no tokenizer.json")
    return of_files("hf", files)


def of_files(kind: Kind, files: Mapping[str, bytes]) -> Tokenizer:
    """A tokenizer from the files that were kept of it.

    Raises
    ------
    UserError
        If they are not those of such a tokenizer.
    """
    data = files.get("tokenizer.json", b"")
    if kind == "tiny_gpt":
        return Tokenizer(kind, files, tokenizer_from_bytes(data))
    try:
        if kind == "gguf":
            inner = _gguf_tokenizer(json.loads(data), json.loads(files["tokenizer_config.json"]))
        else:
            from tokenizers import Tokenizer as TheirTokenizer

            inner = TheirTokenizer.from_str(data.decode())
    except Exception as error:  # tokenizers raises nothing narrower
        raise UserError(f"tokenizer.json is not one that is known ({error})") from error
    return Tokenizer(kind, files, inner)


def _gguf_tokenizer(content: dict[str, Any], words: dict[str, Any]) -> GGUFTokenizer:
    vocab = content["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.__getitem__)
    special = {token["id"] for token in content["added_tokens"]}
    kinds = [CONTROL if i in special else 1 for i in range(len(tokens))]
    cut = next(name for name, each in CUTS.items() if each == content["pre_tokenizer"])
    end = vocab[words["eos_token"]]
    return GGUFTokenizer(tokens, kinds, content["model"]["merges"], cut=cut, end=end)


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()
