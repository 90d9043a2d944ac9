"""Models that write characters: a GPT, a smaller one that guesses for it, a table of bigrams.

>>> logits = bigram_logits(torch.tensor([0, 1, 0, 1, 0, 2]), 3)
>>> logits(torch.tensor([[0]])).argmax().item()  # what most often followed 0
1

`uv run weeks/19/speculative_decoding.py` lets them write. Leviathan, Kalman & Matias (2023).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared import datasets
from week14.minimal_gpt import GPT, GPTConfig, train
from week14.ngram import encode_characters
from week19.speculative_decoding import acceptance_rate, speculative_generate, with_temperature

CONTEXT = 128
Logits = Callable[[Tensor], Tensor]


class Speakers(NamedTuple):
    """A trained target, its drafts, and held-out text to begin from."""

    target: Logits
    drafts: dict[str, Logits]
    held_out: Int[Tensor, " n"]
    alphabet: str


def bigram_logits(tokens: Int[Tensor, " n"], vocab_size: int) -> Logits:
    """The cheapest draft there is: how often each character followed this one."""
    pairs = tokens[:-1] * vocab_size + tokens[1:]
    counts = torch.bincount(pairs, minlength=vocab_size**2).double()
    table = (counts.view(vocab_size, vocab_size) + 0.1).log().float()
    return lambda text: table[text]


def train_speakers(seed: int = 0, *, steps: tuple[int, int] = (300, 250)) -> Speakers:
    """A GPT, a smaller one, and a table of bigrams, all from the same characters.

    Parameters
    ----------
    steps
        Training steps of the target and of the smaller GPT.
    """
    ids, alphabet = encode_characters(datasets.pydocs_text())
    tokens, split = torch.from_numpy(ids), int(0.9 * len(ids))
    models = []
    for i, (n_layers, d_model) in enumerate(((3, 96), (1, 32))):
        config = GPTConfig(len(alphabet), CONTEXT, n_layers, 4, d_model)
        model = GPT(config, torch.Generator().manual_seed(seed + 30 + i))
        options = {"steps": steps[i], "batch": 8, "optimizer": "muon"}
        generator = torch.Generator().manual_seed(seed + 40 + i)
        train(model, tokens[:split], generator=generator, **options)
        models.append(model.eval())
    drafts = {"small GPT": models[1], "bigrams": bigram_logits(tokens[:split], len(alphabet))}
    return Speakers(models[0], drafts, tokens[split:], alphabet)


def prompts_from(held_out: Int[Tensor, " n"], n: int, length: int = 24) -> list[Tensor]:
    """Beginnings at equal distances through the held-out text."""
    starts = np.linspace(0, len(held_out) - CONTEXT - 1, n).astype(int)
    return [held_out[start : start + length] for start in starts]


@torch.no_grad()
def rates_on(
    target: Logits, draft: Logits, text: Int[Tensor, " n"], skip: int
) -> Float[Tensor, " m"]:
    """Overlap of the two models' distributions at each token after the first `skip`."""
    p = target(text[None])[0, skip - 1 : -1].softmax(-1)
    q = draft(text[None])[0, skip - 1 : -1].softmax(-1)
    return acceptance_rate(p, q)


def rate_on(target: Logits, draft: Logits, texts: Sequence[Tensor], skip: int) -> float:
    """Mean overlap along texts that the target wrote."""
    return float(torch.cat([rates_on(target, draft, text, skip) for text in texts]).mean())


def assisted_greedy(seed: int) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Our greedy text with a draft, and transformers' with an assistant, on the same weights."""
    from transformers import GPT2Config, GPT2LMHeadModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    sizes = {"vocab_size": 40, "n_positions": 64, "n_embd": 16, "n_head": 2}
    rest = {"initializer_range": 0.5, "bos_token_id": None, "eos_token_id": None}
    models = []
    for i, n_layers in enumerate((2, 1)):
        torch.manual_seed(seed + i)
        models.append(GPT2LMHeadModel(GPT2Config(n_layer=n_layers, **sizes, **rest)).eval())
    prompt = torch.arange(1, 6)
    options = {"assistant_model": models[1], "max_new_tokens": 40, "do_sample": False}
    theirs = models[0].generate(
        prompt[None], attention_mask=torch.ones_like(prompt[None]), **options
    )
    greedy = [with_temperature(lambda t, m=model: m(t).logits, 0) for model in models]
    return speculative_generate(*greedy, prompt, 40, gamma=3).tokens, theirs[0]
