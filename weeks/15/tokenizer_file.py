"""A byte-level BPE as the file `tokenizer.json` that Hugging Face's libraries read.

>>> from tokenizers import Tokenizer
>>> ours = ByteLevelBPE([(b"l", b"o"), (b"lo", b"w")], special_tokens=["<|endoftext|>"])
>>> theirs = Tokenizer.from_str(tokenizer_json(ours))
>>> theirs.encode("low<|endoftext|>").ids == ours.encode("low<|endoftext|>", allowed_special="all")
True

Source: the library `tokenizers`, its format for BPE.
"""

import json
from collections.abc import Callable
from pathlib import Path

from shared.artifacts import write_atomic
from shared.errors import UserError
from week15.bpe import GPT2_PATTERN, ByteLevelBPE
from week15.merges import printable_bytes


def save_tokenizer(tokenizer: ByteLevelBPE, path: Path) -> None:
    """Write `tokenizer` so that `tokenizers` and `transformers` make the same ids of every text."""
    write_atomic(Path(path), tokenizer_json(tokenizer))


def load_tokenizer(path: Path) -> ByteLevelBPE:
    """Read what `save_tokenizer` wrote, or another byte-level BPE with the same order of ids."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a byte-level BPE's tokenizer.json ({error})") from error
    return tokenizer_from_json(text, str(path))


def tokenizer_json(tokenizer: ByteLevelBPE) -> str:
    """The file's text."""
    visible = _speller()
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": False,
        "trim_offsets": True,
        "use_regex": tokenizer.pattern == GPT2_PATTERN,
    }
    cut = byte_level
    if tokenizer.pattern not in (None, GPT2_PATTERN):
        split = {
            "type": "Split",
            "pattern": {"Regex": tokenizer.pattern},
            "behavior": "Isolated",
            "invert": False,
        }
        cut = {"type": "Sequence", "pretokenizers": [split, byte_level]}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": name, **flags, "special": True}
            for name, i in tokenizer.special_tokens.items()
        ],
        "normalizer": None,
        "pre_tokenizer": cut,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": _vocabulary(tokenizer),
            "merges": [[visible(a), visible(b)] for a, b in tokenizer.merges],
        },
    }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def tokenizer_from_json(text: str, name: str) -> ByteLevelBPE:
    """The tokenizer of a file's text; `name` says in errors where the text is from."""
    byte_of = {char: byte for byte, char in printable_bytes().items()}
    try:
        content = json.loads(text)
        cut, model = content["pre_tokenizer"], content["model"]
        pattern = GPT2_PATTERN if cut.get("use_regex") else None
        if cut["type"] == "Sequence":
            pattern = cut["pretokenizers"][0]["pattern"]["Regex"]
            cut = cut["pretokenizers"][-1]
        if cut["type"] != "ByteLevel" or cut["add_prefix_space"]:
            raise ValueError("it cuts text in another way")
        merges = [
            tuple(bytes(byte_of[char] for char in half) for half in merge)
            for merge in model["merges"]
        ]
        special = sorted(content["added_tokens"], key=lambda token: token["id"])
        names = [token["content"] for token in special]
        found = ByteLevelBPE(merges, pattern=pattern, special_tokens=names)
        if model["vocab"] != _vocabulary(found):
            raise ValueError("its ids are not in the order of its merges")
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise UserError(f"{name} is not a byte-level BPE's tokenizer.json ({error})") from error
    return found


def _vocabulary(tokenizer: ByteLevelBPE) -> dict[str, int]:
    """Every token's id, special tokens by their names, the others by visible characters."""
    first = len(tokenizer.special_tokens)
    ordinary = map(_speller(), tokenizer.vocab[first:])
    return tokenizer.special_tokens | {token: i for i, token in enumerate(ordinary, first)}


def _speller() -> Callable[[bytes], str]:
    stand_in = printable_bytes()
    return lambda token: "".join(stand_in[byte] for byte in token)
