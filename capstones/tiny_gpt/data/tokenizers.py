"""Three tokenizers behind one interface, each stored as the tokenizer.json others can read.

- ``char``: one id for each character that the text holds; another character is an error.
- ``byte``: the 256 bytes of UTF-8, which is byte-level BPE without merges.
- ``bpe``: byte-level BPE (week 15), text cut into words by GPT-2's pattern.

An end-of-text token, where there is one, has id 0. No text encodes to it, so whoever writes its
name into a document or prompt gets those thirteen characters; a program that joins documents
appends the id. Decoding gives its name. (Hugging Face's `tokenizers` makes the same ids of every
text, except that it takes the written-out name for the token.)

Sources: Radford et al., "Language models are unsupervised multitask learners" (2019), section 2.2;
Xue et al., "ByT5: towards a token-free future with pre-trained byte-to-byte models" (2022), for
bytes.
"""

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from typing import Literal, SupportsInt

import numpy as np
from jaxtyping import Int64, UInt32

from shared.artifacts import ArtifactError
from shared.errors import UserError
from shared.require import require
from week15.bpe import ByteLevelBPE
from week15.merges import printable_bytes
from week15.tokenizer_file import tokenizer_from_json, tokenizer_json

__all__ = ["END_OF_TEXT", "Kind", "Tokenizer", "tokenizer_from_bytes", "train_tokenizer"]

Kind = Literal["char", "byte", "bpe"]

END_OF_TEXT = "<|endoftext|>"


class Tokenizer:
    """What turns text into ids from 0 to `vocab_size` - 1, and back.

    `end_of_text` is the id that stands between documents, None if there is none.
    """

    kind: Kind
    vocab_size: int
    end_of_text: int | None

    @cached_property
    def sha256(self) -> str:
        """Of `to_bytes`, in hexadecimal: what distinguishes one tokenizer from another."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def encode(self, text: str) -> Int64[np.ndarray, " n"]:
        """Ids of a text, `end_of_text` never among them; ValueError if it has none."""
        raise NotImplementedError

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD; ValueError for a wrong id."""
        raise NotImplementedError

    def byte_lengths(self) -> Int64[np.ndarray, " vocab"]:
        """UTF-8 bytes that each id stands for, 0 for `end_of_text`."""
        raise NotImplementedError

    def to_bytes(self) -> bytes:
        """The content of tokenizer.json."""
        raise NotImplementedError


def train_tokenizer(
    kind: Kind, documents: Iterable[str], *, vocab_size: int = 4096, end_of_text: bool = True
) -> Tokenizer:
    """Learn a tokenizer from documents, which are read once and not kept.

    A BPE has `vocab_size` ids in all, the 256 bytes and `end_of_text` included; fewer where the
    text has no more pairs to merge. The other kinds have as many ids as they need.
    """
    special = [END_OF_TEXT] if end_of_text else []
    if kind == "char":
        alphabet: set[str] = set()
        for document in documents:
            alphabet.update(document)
        return CharTokenizer(sorted(alphabet), end_of_text=end_of_text)
    if kind == "byte":
        return ByteTokenizer(ByteLevelBPE([], pattern=None, special_tokens=special))
    if kind == "bpe":
        return ByteTokenizer(ByteLevelBPE.train(documents, vocab_size, special_tokens=special))
    raise ValueError(f"kind must be 'char', 'byte' or 'bpe', got {kind!r}")


def tokenizer_from_bytes(data: bytes) -> Tokenizer:
    """The tokenizer whose `to_bytes` (or whose tokenizer.json, saved again by others) `data` is."""
    try:
        text = data.decode("utf-8")
        content = json.loads(text)
        if content["model"]["type"] == "WordLevel":
            return _char_tokenizer(content)
        found = tokenizer_from_json(text, "tokenizer.json")
        special = list(found.special_tokens)
        require(special in ([], [END_OF_TEXT]), f"its special tokens are {special}")
        return ByteTokenizer(found)
    except UserError as error:
        raise ArtifactError(str(error)) from error
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ArtifactError(f"tokenizer.json is not one of tiny-gpt's ({error!r})") from error


class ByteTokenizer(Tokenizer):
    """A byte-level BPE as `Tokenizer`; without merges and without words it is a byte tokenizer."""

    def __init__(self, bpe: ByteLevelBPE):
        self.bpe = bpe
        self.kind: Kind = "bpe" if bpe.merges or bpe.pattern else "byte"
        self.vocab_size = len(bpe)
        self.end_of_text = bpe.special_tokens.get(END_OF_TEXT)
        order = np.array(list(printable_bytes()))
        self._id_of_byte = np.argsort(order) + len(bpe.special_tokens)

    def encode(self, text: str) -> Int64[np.ndarray, " n"]:
        """Ids of a text."""
        data = text.encode("utf-8")  # a lone surrogate is refused here
        if self.kind == "byte":
            return self._id_of_byte[np.frombuffer(data, dtype=np.uint8)]
        return np.array(self.bpe.encode(text), dtype=np.int64)

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """The text of ids."""
        return self.bpe.decode(map(int, ids))

    def byte_lengths(self) -> Int64[np.ndarray, " vocab"]:
        """As `Tokenizer` says."""
        lengths = np.array([len(token) for token in self.bpe.vocab], dtype=np.int64)
        lengths[: len(self.bpe.special_tokens)] = 0
        return lengths

    def to_bytes(self) -> bytes:
        """The content of tokenizer.json."""
        return tokenizer_json(self.bpe).encode("utf-8")


class CharTokenizer(Tokenizer):
    """One id for each character of an alphabet; id 0 may be the end of a text."""

    kind: Kind = "char"

    def __init__(self, alphabet: Iterable[str], *, end_of_text: bool):
        self.tokens = [END_OF_TEXT] * end_of_text + list(alphabet)
        self.vocab_size = len(self.tokens)
        self.end_of_text = 0 if end_of_text else None
        characters = self.tokens[end_of_text:]
        different = len(set(characters)) == len(characters)
        single = different and all(len(c) == 1 for c in characters)
        require(single, "alphabet must be different single characters")
        self._id = np.full(0x110000, -1, dtype=np.int32)  # of every code point there is
        self._id[_code_points("".join(characters))] = np.arange(end_of_text, self.vocab_size)

    def encode(self, text: str) -> Int64[np.ndarray, " n"]:
        """Ids of a text."""
        ids = self._id[_code_points(text)]
        if len(ids) and ids.min() < 0:
            at = int(np.argmax(ids < 0))
            must = "text must hold only characters that the tokenizer has learned"
            require(False, must, f"{text[at]!r} at position {at}")
        return ids.astype(np.int64)

    def decode(self, ids: Iterable[SupportsInt]) -> str:
        """The text of ids."""
        ids = list(map(int, ids))
        low, high = min(ids, default=0), max(ids, default=0)
        must = f"ids must lie between 0 and {self.vocab_size - 1}"
        require(0 <= low <= high < max(1, self.vocab_size), must, low, high)
        return "".join([self.tokens[i] for i in ids])

    def byte_lengths(self) -> Int64[np.ndarray, " vocab"]:
        """As `Tokenizer` says."""
        lengths = np.array([len(token.encode("utf-8")) for token in self.tokens], dtype=np.int64)
        lengths[: self.end_of_text == 0] = 0
        return lengths

    def to_bytes(self) -> bytes:
        """The content of tokenizer.json."""
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        special = [{"id": 0, "content": END_OF_TEXT, **flags, "special": True}]
        content = {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": special if self.end_of_text is not None else [],
            "normalizer": None,
            "pre_tokenizer": SINGLE_CHARACTERS,
            "post_processor": None,
            "decoder": {"type": "Fuse"},
            "model": {
                "type": "WordLevel",
                "vocab": {token: i for i, token in enumerate(self.tokens)},
                # In no vocabulary, so that an unknown character is an error there as well.
                "unk_token": "<|unknown|>",
            },
        }
        return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode("utf-8")


SINGLE_CHARACTERS = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}}
SINGLE_CHARACTERS |= {"behavior": "Isolated", "invert": False}


def _char_tokenizer(content: dict) -> CharTokenizer:
    vocab = content["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.__getitem__)
    end_of_text = tokens[:1] == [END_OF_TEXT]
    found = CharTokenizer(tokens[end_of_text:], end_of_text=end_of_text)
    counted = sorted(vocab.values()) == list(range(len(vocab)))
    require(counted, "its ids do not count from 0")
    written = json.loads(found.to_bytes())
    odd = [key for key in written | content if content.get(key) != written.get(key)]
    require(not odd, "it must be as tiny-gpt writes it, but is not in", ", ".join(odd))
    return found


def _code_points(text: str) -> UInt32[np.ndarray, " n"]:
    return np.frombuffer(text.encode("utf-32-le"), dtype="<u4")  # refuses a lone surrogate
