"""A real model and texts to quantize it by: SmolLM2 and WikiText-2, or a small one trained here.

>>> windows(torch.arange(100), 2, 10, skip=30)[:, 0]  # spread over the text
tensor([30, 65])

`uv run weeks/19/gptq.py`, `awq.py`, `hqq.py` and `smoothquant.py` judge with them.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from shared import datasets
from shared.errors import UserError
from shared.require import require
from week18.llama3 import Llama
from week18.smollm2 import smollm2
from week19.characters import manual, trained_model
from week19.layer_inputs import Quantizer, quantized_losses

CHARACTERS = 100_000


class Judged(NamedTuple):
    """A model's name, the model, texts to learn from and texts to be judged by."""

    name: str
    model: Llama
    calibration: Int[Tensor, "text n"]
    texts: Int[Tensor, "window n"]


def windows(
    tokens: Int[Tensor, " n"], count: int, context: int, *, skip: int = 0
) -> Int[Tensor, "count context"]:
    """So many pieces of a text, evenly spread over what is left after `skip` tokens."""
    step = (len(tokens) - skip) // count
    require(step >= context, f"tokens must hold {count} windows of {context}", len(tokens))
    return torch.stack([tokens[skip + i * step :][:context] for i in range(count)])


def language_model(
    calibrating: int, judging: int, *, context: int, quick: bool = False, seed: int = 0
) -> Judged:
    """SmolLM2 with WikiText-2's validation part to learn from and its test part to be judged by.

    What is read of each part is its beginning.

    Parameters
    ----------
    calibrating, judging
        Windows of `context` tokens.
    quick
        Take a small character model that has hardly been trained, and Python's manual. A trained
        one also stands in where SmolLM2's package is missing; the name then says so.
    """
    name, missing = "a small model", ""
    if not quick:
        try:
            model, tokenizer = smollm2()
        except UserError as error:
            missing = f" ({error})"
        else:
            parts = []
            for part, n in (("valid", calibrating), ("test", judging)):
                text = datasets.wikitext2(part)[: max(CHARACTERS, 8 * n * context)]
                parts.append(windows(torch.tensor(tokenizer.encode(text)), n, context))
            return Judged("SmolLM2", model, *parts)
    text = manual()
    model = trained_model(text, 2 if quick else 200, seed)
    calibration = windows(text.training, calibrating, context)
    return Judged(name + missing, model, calibration, windows(text.held_out, judging, context))


def added_losses(
    seed: int, steps: int, texts: int, methods: Mapping[str, Quantizer]
) -> tuple[float, dict[str, float]]:
    """Loss of a model trained here, and what each method adds to it on the held-out text.

    Parameters
    ----------
    texts
        Windows of 64 tokens to learn from, and as many to be judged by.
    """
    text = manual()
    model = trained_model(text, steps, seed)
    calibration = windows(text.training, texts, 64, skip=1000 * seed)
    judged = windows(text.held_out, texts, 64)
    every = {"as it is": lambda block, inputs: None, **methods}
    losses = quantized_losses(model, calibration, judged, every)
    means = {name: values.mean().item() for name, values in losses.items()}
    start = means.pop("as it is")
    return start, {name: mean - start for name, mean in means.items()}
