"""A byte-level BPE as the file `tokenizer.json` that Hugging Face's libraries read."""

import json
from pathlib import Path

from shared.artifacts import write_atomic
from shared.study import UserError
from week15.bpe import GPT2_PATTERN, ByteLevelBPE, printable_bytes


def save_tokenizer(tokenizer: ByteLevelBPE, path: Path) -> None:
    """Write `tokenizer` so that `tokenizers` and `transformers` make the same ids of every text.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    stand_in = printable_bytes()

    def visible(token: bytes) -> str:
        return "".join(stand_in[byte] for byte in token)

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
    special = tokenizer.special_tokens
    ordinary = {visible(t): i for i, t in enumerate(tokenizer.vocab) if i >= len(special)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": name, **flags, "special": True} for name, i in special.items()
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
            "vocab": special | ordinary,
            "merges": [[visible(a), visible(b)] for a, b in tokenizer.merges],
        },
    }
    write_atomic(Path(path), json.dumps(content, ensure_ascii=False, indent=1) + "\n")


def load_tokenizer(path: Path) -> ByteLevelBPE:
    """Read what `save_tokenizer` wrote, or another byte-level BPE with the same order of ids.

    Raises
    ------
    UserError
        If the file cannot be read, or is no byte-level BPE of this form.
    """
    byte_of = {char: byte for byte, char in printable_bytes().items()}
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        cut, model = content["pre_tokenizer"], content["model"]
        pattern = GPT2_PATTERN if cut.get("use_regex") else None
        if cut["type"] == "Sequence":
            pattern = cut["pretokenizers"][0]["pattern"]["Regex"]
        merges = [
            tuple(bytes(byte_of[char] for char in half) for half in merge)
            for merge in model["merges"]
        ]
        special = sorted(content["added_tokens"], key=lambda token: token["id"])
        names = [token["content"] for token in special]
        found = ByteLevelBPE(merges, pattern=pattern, special_tokens=names)
        named = "".join(map(printable_bytes().get, found.vocab[-1]))
        if len(found) != len(model["vocab"]) or model["vocab"][named] != len(found) - 1:
            raise ValueError("its ids are not in the order of its merges")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path} is not a byte-level BPE's tokenizer.json ({error})") from error
    return found
