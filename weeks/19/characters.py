"""A small LLaMA that has read Python's manual, character by character.

>>> torch.equal(*(small_model(97, torch.Generator().manual_seed(0)).embed.weight for _ in "ab"))
True
>>> small_model(97).config.context  # prompts and what follows them
512

Its evidence is that of `uv run weeks/19/sampling.py`. The architecture: Grattafiori et al., "The
Llama 3 herd of models" (2024).
"""

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from shared import datasets
from week14.ngram import encode_characters
from week18.llama3 import Llama, LlamaConfig
from week18.training import train

WINDOW = 256  # characters of a training window


class Text(NamedTuple):
    """Python's manual as tokens, a tenth of it held out."""

    training: Int[Tensor, " n"]
    held_out: Int[Tensor, " m"]
    alphabet: str


def manual() -> Text:
    """The manual's characters, numbered."""
    ids, alphabet = encode_characters(datasets.load_text("pydocs"))
    tokens = torch.from_numpy(ids)
    tenth = len(tokens) // 10
    return Text(tokens[:-tenth], tokens[-tenth:], alphabet)


def small_model(vocab_size: int, generator: torch.Generator | None = None) -> Llama:
    """Two layers of width 96, four heads that share two of keys and values."""
    sizes = {"d_model": 96, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2}
    config = LlamaConfig(vocab_size, **sizes, context=2 * WINDOW, rope_base=10_000.0)
    return Llama(config, generator)


def trained_model(text: Text, steps: int, seed: int = 0, *, shuffled: bool = False) -> Llama:
    """The small model after so many steps; on the manual's characters in random order if asked."""
    generator, tokens = torch.Generator().manual_seed(seed), text.training
    model = small_model(len(text.alphabet), generator)
    if shuffled:
        tokens = tokens[torch.randperm(len(tokens), generator=generator)]
    train(model, tokens, steps=steps, batch_size=4, context=WINDOW, generator=generator)
    return model.eval().requires_grad_(False)
