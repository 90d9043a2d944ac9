r"""The tokenizer inside a GGUF file: week 15's byte-level BPE under the file's ids, and its chats.

A file lists its tokens in visible characters, its merges in order, and by a name in
`tokenizer.ggml.pre` how text is cut into words before anything is merged. SmolLM's cut is GPT-2's
with **every digit alone**: `12 34` is `1`, `2`, ` `, `3`, `4`.

A chat is written in ChatML, `<|im_start|>role`, a new line, the text, `<|im_end|>`, a new line; the
model goes on after `<|im_start|>assistant` and a new line.

>>> low = ["l", "o", "w", "Ġ", "<|im_start|>", "<|im_end|>", "lo", "Ġlo", "Ċ"]
>>> kinds = [3 if token.startswith("<") else 1 for token in low]
>>> tokenizer = GGUFTokenizer(low, kinds, ["l o", "Ġ lo"], cut="smollm", end=5)
>>> tokenizer.encode("low low")
[6, 2, 7, 2]
>>> tokenizer.encode("<|im_end|>low", allowed_special="all"), tokenizer.decode([7, 2])
([5, 6, 2], ' low')

`uv run weeks/18/smollm2.py` compares with `transformers`. Source: ggml project, "GGUF
specification" (2023); llama.cpp's table of pre-tokenizers (2024).
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Literal

from shared.errors import UserError
from shared.require import require
from week15.bpe import GPT2_PATTERN, ByteLevelBPE
from week15.merges import printable_bytes
from week18.gguf_file import GGUF

# GPT-2's words with single digits; spaces before a digit stay together, as before nothing.
SMOLLM_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
CUTS = {"gpt-2": GPT2_PATTERN, "smollm": SMOLLM_PATTERN}
CONTROL = 3


class GGUFTokenizer:
    """A byte-level BPE whose ids are those of a GGUF file.

    Parameters
    ----------
    tokens, kinds, merges
        The file's lists: every id's token in visible characters, its kind (3: control, such as
        `<|im_end|>`), and pairs of tokens in the order in which they merge.
    cut
        The name of the way in which text is cut into words.
    end
        The id that ends a turn.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        kinds: Sequence[int],
        merges: Sequence[str],
        *,
        cut: str = "gpt-2",
        end: int = 0,
    ):
        require(cut in CUTS, f"cut must be among {', '.join(CUTS)}", repr(cut))
        require(len(tokens) == len(kinds), "tokens and kinds must be as many", len(kinds))
        require(0 <= end < len(tokens), f"end must be an id below {len(tokens)}", end)
        visible = {char: chr(byte) for byte, char in printable_bytes().items()}
        table = str.maketrans(visible)

        @cache  # a token is a part of merges, too
        def spelled(token: str) -> bytes:
            seen = visible.keys() >= set(token)
            require(seen, "tokens must be spelled in visible bytes", token)
            return token.translate(table).encode("latin-1")

        special = [t for t, kind in zip(tokens, kinds, strict=True) if kind == CONTROL]
        pairs = [merge.split(" ") for merge in merges]
        odd = next((merge for merge, pair in zip(merges, pairs, strict=True) if len(pair) != 2), "")
        require(not odd, "merges must be pairs of tokens", repr(odd))
        joined = [(spelled(a), spelled(b)) for a, b in pairs]
        self._bpe = ByteLevelBPE(joined, pattern=CUTS[cut], special_tokens=special)
        self.special_tokens = {t: i for i, t in enumerate(tokens) if kinds[i] == CONTROL}
        self.vocab = [
            token.encode() if kinds[i] == CONTROL else spelled(token)
            for i, token in enumerate(tokens)
        ]
        ids = {token: i for i, token in enumerate(self.vocab) if kinds[i] != CONTROL}
        ordinary = self._bpe.vocab[len(special) :]
        lost = [t for t in ordinary[256:] if t not in ids]  # a byte may be missing, a merge not
        require(not lost, "tokens must hold what merges make, but miss", lost[:1])
        self._ids = [self.special_tokens[name] for name in special]
        # SmolLM2's file lacks bytes that its training text never had. They are left out, as by
        # `tokenizers` and llama.cpp: the file's unknown token is the end of a text.
        self._ids += [ids.get(token) for token in ordinary]
        self.end = end

    @classmethod
    def from_gguf(cls, file: GGUF) -> "GGUFTokenizer":
        """The tokenizer of a file.

        Raises
        ------
        UserError
            If it has none, or one that is not a byte-level BPE with a known cut.
        """
        given = {name.removeprefix("tokenizer.ggml."): v for name, v in file.fields.items()}
        try:
            kind = given.get("model")
            require(kind == "gpt2", "tokenizer.ggml.model must be 'gpt2'", repr(kind))
            lists = (given["tokens"], given["token_type"], given["merges"])
            return cls(*lists, cut=given.get("pre", "gpt-2"), end=given["eos_token_id"])
        except KeyError as error:
            raise UserError(f"{file.name} does not say tokenizer.ggml.{error.args[0]}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{file.name} holds a tokenizer that is not known: {error}") from error

    def __len__(self) -> int:
        return len(self.vocab)

    def encode(
        self, text: str, *, allowed_special: Literal["all"] | Iterable[str] = ()
    ) -> list[int]:
        """Ids of a text; special tokens are text like any other unless they are allowed."""
        ids = (self._ids[i] for i in self._bpe.encode(text, allowed_special=allowed_special))
        return [i for i in ids if i is not None]

    def decode(self, ids: Iterable[int]) -> str:
        """The text that ids stand for; bytes that are no UTF-8 become U+FFFD."""
        ids, last = list(ids), len(self.vocab) - 1
        low, high = min(ids, default=0), max(ids, default=0)
        require(0 <= low <= high <= last, f"ids must lie between 0 and {last}", f"{low} to {high}")
        return b"".join(self.vocab[i] for i in ids).decode("utf-8", "replace")

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        system: str | None = None,
        reply: bool = True,
    ) -> list[int]:
        """Ids of a conversation in ChatML.

        What a message says is text, whatever it says: `<|im_end|>` in it ends nothing.

        Parameters
        ----------
        messages
            `{"role": …, "content": …}` each, the role being system, user or assistant.
        system
            What stands first where `messages` do not begin with a system's.
        reply
            Whether to open the assistant's turn, for the model to go on.
        """
        turns = [(m["role"], m["content"]) for m in messages]
        for role, _ in turns:
            known = role in ("system", "user", "assistant")
            require(known, "role must be system, user or assistant", repr(role))
        if system is not None and turns and turns[0][0] != "system":
            turns.insert(0, ("system", system))
        start, end = self.special_tokens["<|im_start|>"], self.special_tokens["<|im_end|>"]
        ids = []
        for role, content in turns:
            ids += [start, *self.encode(f"{role}\n{content}"), end, *self.encode("\n")]
        return ids + ([start, *self.encode("assistant\n")] if reply else [])
