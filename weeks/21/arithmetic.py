"""A language of sums: problems whose answers a program can check, as tokens and back.

Digits, a few signs, four tags and `<end>` are one token each. A problem is a prompt such as
`8+5+9=`; its right answer is a number. One problem in five is held out, the same ones always.

>>> decode(encode("8+5=<think>13</think><answer>13</answer><end>"))
'8+5=<think>13</think><answer>13</answer><end>'
>>> problems = Problems(terms=3, digits=1)
>>> problems.prompt((8, 5, 9)), problems.worked((8, 5, 9))
('8+5+9=', '13,22')

`uv run weeks/21/grpo.py` and `uv run weeks/21/r1.py` train on it.
"""

import itertools
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from shared.require import require
from week09.muon import Muon
from week09.optimizers import AdamW
from week18.llama3 import Llama, LlamaConfig

END = "<end>"
TAGS = ("<think>", "</think>", "<answer>", "</answer>")
TOKENS = (END, *"0123456789+,=", *TAGS)
IDS = {token: i for i, token in enumerate(TOKENS)}
END_ID = IDS[END]
PIECE = re.compile("|".join(map(re.escape, sorted(TOKENS, key=len, reverse=True))))


def encode(text: str) -> list[int]:
    """Tokens of a text.

    Raises
    ------
    ValueError
        If the text holds anything that the language has not.
    """
    pieces = PIECE.findall(text)
    require("".join(pieces) == text, f"text must be made of {' '.join(TOKENS)}", repr(text))
    return [IDS[piece] for piece in pieces]


def decode(tokens: Sequence[int] | Int[Tensor, " n"]) -> str:
    """Text of tokens."""
    return "".join(TOKENS[int(token)] for token in tokens)


def response_text(tokens: Sequence[int] | Int[Tensor, " n"]) -> str:
    """What was written before the first `<end>`."""
    return decode(list(itertools.takewhile(lambda token: token != END_ID, map(int, tokens))))


@dataclass(frozen=True)
class Problems:
    """Sums of `terms` numbers of `digits` digits; every prompt has the same length."""

    terms: int = 2
    digits: int = 2

    def __post_init__(self):
        require(self.terms >= 2, "terms must be at least 2", self.terms)
        require(1 <= self.digits <= 2, "digits must be 1 or 2", self.digits)

    def prompt(self, numbers: Sequence[int]) -> str:
        """The problem as text, numbers filled up with zeros."""
        return "+".join(f"{number:0{self.digits}d}" for number in numbers) + "="

    def worked(self, numbers: Sequence[int]) -> str:
        """The running sums from the second number on, the last of which is the answer."""
        return ",".join(map(str, list(itertools.accumulate(numbers))[1:]))

    def draw(
        self, n: int, generator: torch.Generator, *, held_out: bool = False
    ) -> list[tuple[int, ...]]:
        """Random problems, out of those for training or of those held out."""
        found: list[tuple[int, ...]] = []
        while len(found) < n:
            size = (2 * n + 10, self.terms)
            rows = torch.randint(10**self.digits, size, generator=generator).tolist()
            parts = (zlib.crc32(bytes(row)) % 5 == 0 for row in rows)
            found += [tuple(row) for row, part in zip(rows, parts, strict=True) if part == held_out]
        return found[:n]

    def prompts(self, problems: Sequence[Sequence[int]]) -> Int[Tensor, "n seq"]:
        """Tokens of several problems."""
        return torch.tensor([encode(self.prompt(numbers)) for numbers in problems])


# ---- a model, and learning from examples


def small_llama(generator: torch.Generator, *, d_model: int = 64, n_layers: int = 2) -> Llama:
    """Week 18's LLaMA over this language, about a hundred thousand weights."""
    config = LlamaConfig(len(TOKENS), d_model, n_layers, 4, context=96, rope_base=1000.0)
    return Llama(config, generator)


def imitate(
    model: Llama,
    examples: Callable[[], list[tuple[str, str]]],
    *,
    steps: int,
    lr_scale: float = 1.0,
) -> Iterator[float]:
    """Supervised fine-tuning: the loss of each step, in nats per token of the responses.

    Parameters
    ----------
    examples
        Gives a batch of (prompt, response); every prompt has the same length.
    lr_scale
        Factor of the learning rates, which fall to zero linearly.
    """
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    of_blocks = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in of_blocks]
    adamw = {"lr": 1.2e-2 * lr_scale, "betas": (0.9, 0.95), "weight_decay": 0.0}
    optimizers = [Muon(matrices, lr=0.02 * lr_scale), AdamW(rest, **adamw)]
    peaks = [o.lr for o in optimizers]
    for step in range(steps):
        loss = response_loss(model, examples())
        for o, lr in zip(optimizers, peaks, strict=True):
            o.zero_grad()
            o.lr = lr * (1 - step / steps)
        loss.backward()
        for o in optimizers:
            o.step()
        yield loss.item()


def response_loss(model: Llama, batch: Sequence[tuple[str, str]]) -> Float[Tensor, ""]:
    """Mean surprise of the responses' tokens and of their `<end>`; prompts are only read."""
    rows = [torch.tensor(encode(prompt + response + END)) for prompt, response in batch]
    tokens = pad_sequence(rows, batch_first=True, padding_value=-1)
    start = len(encode(batch[0][0]))
    logits = model(tokens.clamp(min=0)[:, :-1])[:, start - 1 :]
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, start:].flatten(), ignore_index=-1)
