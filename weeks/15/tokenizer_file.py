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
from typing import Any

import regex

from shared.artifacts import write_atomic
from shared.errors import UserError
from shared.require import require
from week15.bpe import GPT2_PATTERN, ByteLevelBPE
from week15.cut import young_in
from week15.merges import printable_bytes


def save_tokenizer(tokenizer: ByteLevelBPE, path: Path) -> None:
    """Write `tokenizer` so that `tokenizers` and `transformers` make the same ids of every text."""
    write_atomic(Path(path), tokenizer_json(tokenizer))


def load_tokenizer(path: Path) -> ByteLevelBPE:
    """Read what `save_tokenizer` wrote, or another byte-level BPE with the same order of ids.

    Raises
    ------
    UserError
        If the file cannot be read, or would give other ids in `tokenizers` than here.
    """
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
    """The tokenizer of a file's text; `name` says in errors where the text is from.

    What would change the ids and is not honored is refused by name, as is what is not known.
    """
    byte_of = {char: byte for byte, char in printable_bytes().items()}
    try:
        content = json.loads(text)
        _only(content, "", **TOP)
        _only(model := content["model"], "model.", **MODEL)
        _only(content["decoder"], "decoder.", **BYTE_LEVEL)
        if content.get("post_processor") is not None:  # a ByteLevel one moves offsets, not ids
            _only(content["post_processor"], "post_processor.", **BYTE_LEVEL)
        halves = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
        merges = [(bytes(map(byte_of.__getitem__, part)) for part in pair) for pair in halves]
        special = sorted(content["added_tokens"], key=lambda token: token["id"])
        for token in special:
            _only(token, "added_tokens.", **ADDED)
        alike = len({token.get("normalized") for token in special}) < 2
        require(alike, "added_tokens.normalized must be the same for all")
        names = [token["content"] for token in special]
        pattern = _pattern(content["pre_tokenizer"])
        found = ByteLevelBPE(map(tuple, merges), pattern=pattern, special_tokens=names)
        same = model["vocab"] == _vocabulary(found)
        require(same, "model.vocab must be added_tokens, bytes and merges, in this order")
        if model.get("ignore_merges"):  # a word that is a token has its id, whatever merges say
            ordinary = enumerate(found.vocab[len(names) :], len(names))
            odd = [token for i, token in ordinary if found.encode_bytes(token) != [i]]
            require(not odd, "model.ignore_merges must not matter, but does for", odd[:1])
    except KeyError as error:
        what = f"it does not say {error.args[0]!r}"
        raise UserError(f"{name} is not a byte-level BPE's tokenizer.json ({what})") from error
    except (
        IndexError,
        TypeError,
        AttributeError,
        ValueError,
        RecursionError,
        regex.error,
    ) as error:
        raise UserError(f"{name} is not a byte-level BPE's tokenizer.json ({error})") from error
    return found


ANY = None  # what has no effect on ids
TOP = {"version": ("1.0",), "truncation": (None,), "padding": (None,), "normalizer": (None,)}
TOP |= dict.fromkeys(("added_tokens", "pre_tokenizer", "post_processor", "decoder", "model"), ANY)
ADDED = {"id": ANY, "content": ANY, "normalized": ANY, "special": ANY}
ADDED |= dict.fromkeys(("single_word", "lstrip", "rstrip"), (False,))
MODEL = {"type": ("BPE",), "dropout": (None, 0), "vocab": ANY, "merges": ANY}
MODEL |= dict.fromkeys(("continuing_subword_prefix", "end_of_word_suffix"), (None, ""))
# All bytes have ids, so nothing is unknown.
MODEL |= dict.fromkeys(("unk_token", "fuse_unk", "byte_fallback", "ignore_merges"), ANY)
BYTE_LEVEL = {"type": ("ByteLevel",), "add_prefix_space": ANY, "trim_offsets": ANY}
BYTE_LEVEL |= {"use_regex": ANY}
SPLIT = {"type": ("Split",), "pattern": ANY, "behavior": ("Isolated",), "invert": (False,)}
# Patterns of what Oniguruma, the library's engine, reads as ours does, over all of Unicode.
_NAMES = """L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs Zl Zp C
Alphabetic Arabic Cyrillic Greek Han Hangul Hiragana Katakana Latin Lowercase Thai Uppercase"""
_ONE = rf"\\[pP]{{(?:{'|'.join(_NAMES.split())})}}|\\[sSdDnrt]|\\[!-/:-@\[-^`{{-~]"
_CLASS = rf"\[\^?(?:{_ONE}|(?!--|&&|\|\||~~)[^\\\[\]])+\]"
_OTHER = (
    r"\((?:\?(?:[:=!>]|<[=!])|(?!\?))|\)|\||[*+?][+?]?|{\d+(?:,\d*)?}(?![+?*{])|[^\\\[\](){}*+?|^$]"
)
_ENGLISH = regex.escape("(?i:'s|'t|'re|'ve|'m|'ll|'d)")
SAME = regex.compile(f"(?:{_ENGLISH}|{_ONE}|{_CLASS}|{_OTHER})*+", regex.DOTALL)


def _only(part: Any, name: str, **accepted: tuple | None) -> None:
    """Refuse what is not among the accepted values, or has no accepted name."""
    require(isinstance(part, dict), f"{name.rstrip('.') or 'it'} must be an object", part)
    for key, value in part.items():
        require(key in accepted, f"{name}{key} must be absent", repr(value))
        if (values := accepted[key]) is not None:
            must = f"{name}{key} must be {' or '.join(map(json.dumps, values))}"
            require(value in values, must, json.dumps(value)[:80])


def _pattern(cut: Any) -> str | None:
    """The pattern of a pre-tokenizer: GPT-2's, that of a split before the bytes, or none."""
    require(isinstance(cut, dict), "pre_tokenizer must be an object", cut)
    steps = cut["pretokenizers"] if cut["type"] == "Sequence" else [cut]
    require(steps, "pre_tokenizer must cut text, but has no step")
    *splits, byte_level = steps
    spaces = {"add_prefix_space": (False,)}
    _only(byte_level, "pre_tokenizer.", **BYTE_LEVEL | spaces)
    require("add_prefix_space" in byte_level, "pre_tokenizer.add_prefix_space must be false")
    use_regex = byte_level.get("use_regex", True)  # as the library reads older files
    if not splits:
        return GPT2_PATTERN if use_regex else None
    require(len(splits) == 1 and not use_regex, "pre_tokenizer must cut text once", len(splits) + 1)
    _only(splits[0], "pre_tokenizer.", **SPLIT)
    pattern = splits[0]["pattern"]["Regex"]
    odd = pattern[SAME.match(pattern).end() :] or young_in(pattern)
    require(not odd, "pre_tokenizer.pattern must mean the same elsewhere, not hold", odd[:20])
    return pattern


def _vocabulary(tokenizer: ByteLevelBPE) -> dict[str, int]:
    """Every token's id, special tokens by their names, the others by visible characters."""
    first = len(tokenizer.special_tokens)
    ordinary = map(_speller(), tokenizer.vocab[first:])
    found = tokenizer.special_tokens | {token: i for i, token in enumerate(ordinary, first)}
    twice = [name for name, i in tokenizer.special_tokens.items() if found[name] != i]
    require(not twice, "special_tokens must not be spelled as other tokens are", twice)
    return found


def _speller() -> Callable[[bytes], str]:
    stand_in = printable_bytes()
    return lambda token: "".join(stand_in[byte] for byte in token)
