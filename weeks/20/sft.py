r"""Supervised fine-tuning: a model that continues text learns to answer, and to stop.

A conversation is written as one text in a fixed form (here ChatML), and the loss is that of
pretraining, counted on the answers' tokens only:

$$L = -\frac{1}{\sum_t m_t} \sum_t m_t \ln p_\theta(x_t \mid x_{<t}), \qquad
  m_t = 1 \text{ where the assistant speaks, the end of its turn included.}$$

All of the craft is in $m$. The end of the turn must be counted, or the model never stops; padding
must not be, and is known by its *place*, as its id is often that of the end; and where several
conversations share a row, none may see another.

>>> tokenizer = Characters("2+=?4")
>>> example = chat_example(tokenizer, [("user", "2+2=?"), ("assistant", "4")])
>>> [i for i, label in enumerate(example.labels) if label != IGNORE]  # "4" and the turn's end
[24, 25]
>>> batch = collate([example, example._replace(ids=example.ids[:9], labels=example.labels[:9])])
>>> batch.tokens.shape, int(batch.mask.sum())
(torch.Size([2, 27]), 36)
>>> pack([example, example], context=64)[0].positions[25:29].tolist()  # of the second from 0 on
[25, 26, 0, 1]

    uv run weeks/20/sft.py

Sources: Ouyang et al., "Training language models to follow instructions with human feedback"
(2022), section 3.5; Taori et al., "Alpaca" (2023); Krell et al., "Efficient sequence packing
without cross-contamination" (2021).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared.arguments import checked
from shared.require import require
from week09.optimizers import AdamW
from week18.llama3 import Llama

IGNORE = -100  # what torch's cross entropy leaves out
START, END = "<|im_start|>", "<|im_end|>"
ROLES = ("system", "user", "assistant")


@runtime_checkable
class Tokenizer(Protocol):
    """What a conversation needs of a tokenizer; week 18's GGUFTokenizer has it."""

    special_tokens: dict[str, int]

    def encode(self, text: str) -> list[int]:
        """Ids of a text, in which special tokens are text like any other."""


class Example(NamedTuple):
    """Tokens, and as many labels: the token itself where it is learned, else -100."""

    ids: list[int]
    labels: list[int]


def chat_example(tokenizer: Tokenizer, turns: Sequence[tuple[str, str]]) -> Example:
    """Write a conversation in ChatML; the assistant's words and the ends of its turns are learned.

    An answer is encoded apart from the `assistant` and new line before it. Those are where a
    prompt ends when the model is used, so its tokens are the same in training and in use.

    Parameters
    ----------
    turns
        Role (system, user or assistant) and text of each. What a text says is never a special
        token.

    Raises
    ------
    ValueError
        If a role is unknown, or nobody answers.
    """
    start, end = tokenizer.special_tokens[START], tokenizer.special_tokens[END]
    ids, labels = [], []
    for role, text in turns:
        require(role in ROLES, f"role must be one of {', '.join(ROLES)}", repr(role))
        if role == "assistant":
            opening, answer = tokenizer.encode("assistant\n"), [*tokenizer.encode(text), end]
        else:
            opening, answer = [*tokenizer.encode(f"{role}\n{text}"), end], []
        closing = tokenizer.encode("\n")  # after the end, where nobody is listening any more
        ids += [start, *opening, *answer, *closing]
        labels += [IGNORE] * (1 + len(opening)) + answer + [IGNORE] * len(closing)
    require(any(label != IGNORE for label in labels), "turns must hold an assistant's")
    return Example(ids, labels)


def chat_prompt(tokenizer: Tokenizer, turns: Sequence[tuple[str, str]]) -> list[int]:
    """The tokens from which the model goes on with its answer."""
    example = chat_example(tokenizer, [*turns, ("assistant", "")])
    return example.ids[: -1 - len(tokenizer.encode("\n"))]


# ---- batches


class Batch(NamedTuple):
    """Conversations as rows; `mask` is False on padding."""

    tokens: Int[Tensor, "batch seq"]
    labels: Int[Tensor, "batch seq"]
    mask: Bool[Tensor, "batch seq"]


def collate(examples: Sequence[Example], *, pad: int = 0) -> Batch:
    """Pad on the right, by length: a `pad` that is the end of a turn too hides no end."""
    require(len(examples), "examples must be at least one, got none")
    longest = max(len(example.ids) for example in examples)
    tokens = torch.full((len(examples), longest), pad)
    labels, mask = torch.full_like(tokens, IGNORE), torch.zeros_like(tokens, dtype=torch.bool)
    for row, example in enumerate(examples):
        n = len(example.ids)
        must = "labels must be as many as ids"
        require(len(example.labels) == n, must, len(example.labels), n)
        tokens[row, :n], labels[row, :n] = torch.tensor(example.ids), torch.tensor(example.labels)
        mask[row, :n] = True
    return Batch(tokens, labels, mask)


class Packed(NamedTuple):
    """One row that holds several conversations, each with positions from 0; -1 is padding."""

    tokens: Int[Tensor, " seq"]
    labels: Int[Tensor, " seq"]
    positions: Int[Tensor, " seq"]
    documents: Int[Tensor, " seq"]


def pack(examples: Iterable[Example], context: int, *, pad: int = 0) -> list[Packed]:
    """Put conversations into rows of `context` tokens: the longest first, each where it fits.

    References
    ----------
    Krell et al. (2021), section 3: first-fit decreasing.
    """
    rows: list[list[Example]] = []
    room: list[int] = []
    for example in sorted(examples, key=lambda one: -len(one.ids)):
        n = len(example.ids)
        require(n <= context, f"examples must have at most context = {context} tokens", n)
        fits = next((i for i, left in enumerate(room) if left >= n), len(rows))
        if fits == len(rows):
            rows.append([])
            room.append(context)
        rows[fits].append(example)
        room[fits] -= n
    return [_packed(row, context, pad) for row in rows]


def _packed(row: Sequence[Example], context: int, pad: int) -> Packed:
    packed = Packed(*(torch.full((context,), x) for x in (pad, IGNORE, 0, -1)))
    at = 0
    for number, (ids, labels) in enumerate(row):
        place = slice(at, at + len(ids))
        packed.tokens[place], packed.labels[place] = torch.tensor(ids), torch.tensor(labels)
        packed.labels[at] = IGNORE  # its first token would be predicted from another conversation
        packed.positions[place] = torch.arange(len(ids))
        packed.documents[place] = number
        at += len(ids)
    return packed


@checked
def document_mask(documents: Int[Tensor, "batch seq"]) -> Bool[Tensor, "batch 1 seq seq"]:
    """Which keys each query sees: earlier ones of its own conversation, and itself."""
    same = documents[:, :, None] == documents[:, None, :]
    return same.tril()[:, None]


def packed_logits(
    model: Llama,
    tokens: Int[Tensor, "batch seq"],
    positions: Int[Tensor, "batch seq"],
    documents: Int[Tensor, "batch seq"],
) -> Float[Tensor, "batch seq vocab"]:
    """The model's logits with every conversation alone in the world."""
    x = model.embed(tokens)
    cos, sin = (wave.to(x.dtype) for wave in model.waves(positions, None))
    allowed = document_mask(documents)
    for block in model.blocks:
        x = block(x, cos, sin, None, allowed)
    return model.head(model.norm(x))


# ---- training


@checked
def response_loss(
    logits: Float[Tensor, "batch seq vocab"],
    labels: Int[Tensor, "batch seq"],
    n_tokens: int | None = None,
) -> Float[Tensor, ""]:
    """Surprise at the labeled tokens, each predicted from those before it, in nats per token.

    Parameters
    ----------
    n_tokens
        What to divide by: the labeled tokens of *all* pieces where a batch comes in several. The
        mean of the pieces' means would count a token in a short piece for more.
    """
    targets = labels[:, 1:]
    if n_tokens is None:
        n_tokens = count_labels(labels)
    require(n_tokens > 0, "labels must leave at least one token to learn", n_tokens)
    flat = logits[:, :-1].flatten(0, 1)
    return F.cross_entropy(flat, targets.flatten(), ignore_index=IGNORE, reduction="sum") / n_tokens


def count_labels(labels: Int[Tensor, "batch seq"]) -> int:
    """How many tokens are learned; the first of a row has nothing to be predicted from."""
    return int((labels[:, 1:] != IGNORE).sum())


def fine_tune(
    model: nn.Module,
    examples: Sequence[Example],
    *,
    steps: int,
    lr: float,
    generator: torch.Generator,
    batch_size: int = 8,
    pieces: int = 1,
    pad: int = 0,
) -> Iterator[float]:
    """Train what is not frozen, the rate falling to zero, and give the loss of each step.

    A step's `batch_size` conversations may come in several `pieces`, to save memory: their
    gradients add up to those of the whole.
    """
    require(len(examples), "examples must be at least one, got none")
    require(1 <= pieces <= batch_size, f"pieces must lie in [1, {batch_size}]", pieces)
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    for step in range(steps):
        drawn = torch.randint(len(examples), (batch_size,), generator=generator).tolist()
        parts = [collate([examples[i] for i in drawn[k::pieces]], pad=pad) for k in range(pieces)]
        n_tokens, total = sum(count_labels(part.labels) for part in parts), 0.0
        optimizer.zero_grad()
        for tokens, labels, _ in parts:  # padding stands on the right, where causality hides it
            loss = response_loss(model(tokens), labels, n_tokens)
            loss.backward()
            total += loss.item()
        optimizer.lr = lr * (1 - step / steps)
        optimizer.step()
        yield total


class Characters:
    """The smallest tokenizer with turns: a character is a token."""

    def __init__(self, alphabet: str):
        self.alphabet = "".join(sorted({*alphabet, *"".join(ROLES), "\n"}))
        self.special_tokens = {START: len(self.alphabet), END: len(self.alphabet) + 1}

    def __len__(self) -> int:
        return len(self.alphabet) + 2

    def encode(self, text: str) -> list[int]:
        """The place of each character."""
        return [self.alphabet.index(character) for character in text]

    def decode(self, ids: Iterable[int]) -> str:
        """The characters; special tokens are left out."""
        return "".join(self.alphabet[i] for i in ids if i < len(self.alphabet))


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
