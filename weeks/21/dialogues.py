r"""Pairs of dialogues from Anthropic's HH-RLHF, and words as features of an answer.

A pair is the same conversation with two different last answers, of which a person preferred the
first.

>>> dialogue = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHuman: Why?\n\nAssistant: A habit."
>>> last_answer(dialogue)
'A habit.'
>>> vocabulary = common_words(["a cat, a dog", "a cat"], at_least=2)
>>> vocabulary
['a', 'cat']
>>> word_features(["A cat or a cat"], vocabulary)
array([[1., 1.]])

`uv run weeks/21/reward_model.py` learns from them. Source: Bai et al., "Training a helpful and
harmless assistant with reinforcement learning from human feedback" (2022).
"""

import gzip
import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from shared import datasets


class Pair(NamedTuple):
    """Two dialogues that differ in the last answer."""

    chosen: str
    rejected: str


def harmless_pairs() -> list[Pair]:
    """The 2,312 test pairs of harmless-base.

    Raises
    ------
    UserError
        If the file is neither in the cache nor to be had.
    """
    file = datasets.path("hh_rlhf", "harmless-base/test.jsonl.gz")
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        return [Pair(**json.loads(line)) for line in lines]


def last_answer(dialogue: str) -> str:
    """What the assistant says last."""
    return dialogue.rpartition("\n\nAssistant:")[2].strip()


def words_of(text: str) -> list[str]:
    """Lower-case words."""
    return re.findall(r"[a-z']+", text.lower().replace("’", "'"))


def common_words(texts: Sequence[str], *, at_least: int) -> list[str]:
    """Words that stand in so many of the texts, in alphabetical order."""
    counts = Counter(word for text in texts for word in set(words_of(text)))
    return sorted(word for word, n in counts.items() if n >= at_least)


def word_features(texts: Sequence[str], vocabulary: Sequence[str]) -> Float[np.ndarray, "n words"]:
    """1 where a text holds a word, 0 where it does not."""
    column = {word: i for i, word in enumerate(vocabulary)}
    found = np.zeros((len(texts), len(vocabulary)))
    for row, text in enumerate(texts):
        found[row, [column[word] for word in words_of(text) if word in column]] = 1
    return found
