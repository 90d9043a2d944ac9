"""A small random LLaMA, and what transformers' own decoding makes of it.

>>> from week18.transformers_twin import transformers_twin
>>> theirs = transformers_twin(small_llama(0))
>>> transformers_greedy(theirs, [[5, 9, 2], [7]], 4).sequences.shape  # the shorter is padded
torch.Size([2, 7])

`uv run weeks/19/kv_cache.py` compares. Sources: `transformers`' documentation of `generate` (2024).
"""

from typing import Any

import torch
from torch import nn

from week18.llama3 import Llama, LlamaConfig


def small_llama(seed: int, *, std: float = 0.25, **sizes) -> Llama:
    """A model with weights large enough that a wrong key or position shows in its logits."""
    defaults = {"vocab_size": 61, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2}
    model = Llama(LlamaConfig(**defaults | sizes))
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        if p.ndim == 2:
            nn.init.normal_(p, std=std, generator=generator)
    return model.eval().requires_grad_(False)


def transformers_greedy(theirs: nn.Module, prompts: list[list[int]], n: int, **options: Any) -> Any:
    """What transformers' cached `generate` returns for prompts padded on the left."""
    longest = max(map(len, prompts))
    padded = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    options |= {"max_new_tokens": n, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        return theirs.generate(padded, attention_mask=mask, return_dict_in_generate=True, **options)


def transformers_beams(
    theirs: nn.Module, prompt: list[int], n: int, stop: list[int], **options: Any
) -> tuple[float, list[int]]:
    """Score and tokens of the best text of transformers' beam search."""
    options |= {"max_new_tokens": n, "do_sample": False, "output_scores": True}
    options |= {"eos_token_id": stop, "pad_token_id": stop[0], "return_dict_in_generate": True}
    tokens = torch.tensor([prompt])
    out = theirs.generate(tokens, attention_mask=torch.ones_like(tokens), **options)
    return out.sequences_scores.item(), out.sequences[0, len(prompt) :].tolist()
