"""A small GPT that has read prose, and a domain that is new to it: source code.

>>> Domains("abc", *(torch.tensor([0, 1, 2]),) * 4).alphabet
'abc'
>>> config = GPTConfig(5, context=8, n_layers=1, n_heads=1, d_model=8)
>>> model, text = GPT(config, torch.Generator().manual_seed(0)), torch.arange(400) % 5
>>> losses = adapt(model, text, steps=60, lr=0.02, batch=4, generator=torch.Generator())
>>> losses[-1] < 0.5 * losses[0]
True

`uv run weeks/20/lora.py` adapts it with a low rank. The model is week 14's, after Radford et al.
(2019).
"""

from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from shared import datasets
from week09.optimizers import AdamW
from week14.minimal_gpt import GPT, GPTConfig, next_token_loss, random_batch, train
from week14.ngram import encode_characters

# Files of the standard library, each long and written by people; the last two judge.
MODULES = ("argparse", "ast", "configparser", "csv", "dataclasses", "doctest", "inspect")
MODULES = (*MODULES, "optparse", "pdb", "shutil", "tarfile", "textwrap", "fractions", "statistics")


class Domains(NamedTuple):
    """Prose and code as tokens of one alphabet, parts of both held out."""

    alphabet: str
    prose: Int[Tensor, " n"]
    prose_held_out: Int[Tensor, " n_held"]
    code: Int[Tensor, " m"]
    code_held_out: Int[Tensor, " m_held"]


def domains() -> Domains:
    """Python's manual, and files of its standard library."""
    import importlib

    files = [Path(importlib.import_module(name).__file__) for name in MODULES]
    sources = [file.read_text(encoding="utf-8") for file in files]
    datasets.note("source files of the standard library", "".join(sources).encode())
    prose, code = datasets.load_text("pydocs"), "".join(sources[:-2])
    parts = [prose, code, "".join(sources[-2:])]
    ids, alphabet = encode_characters("".join(parts))
    texts = torch.from_numpy(ids).split([len(part) for part in parts])
    tenth = len(prose) // 10
    return Domains(alphabet, texts[0][:-tenth], texts[0][-tenth:], texts[1], texts[2])


def reader_of_prose(text: Domains, steps: int, seed: int) -> GPT:
    """A GPT of two layers that has seen no code."""
    config = GPTConfig(len(text.alphabet), context=64, n_layers=2, n_heads=4, d_model=64)
    generator = torch.Generator().manual_seed(seed)
    model = GPT(config, generator)
    train(model, text.prose, steps=steps, batch=16, optimizer="muon", generator=generator)
    return model


def adapt(
    model: nn.Module,
    tokens: Int[Tensor, " n"],
    *,
    steps: int,
    lr: float,
    generator: torch.Generator,
    batch: int = 16,
) -> list[float]:
    """Train what is not frozen by AdamW, the rate falling to zero; the loss of each step."""
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    losses = []
    for step in range(steps):
        x, y = random_batch(tokens, batch, model.config.context, generator)
        loss = next_token_loss(model(x), y)
        optimizer.zero_grad()
        optimizer.lr = lr * (1 - step / steps)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
