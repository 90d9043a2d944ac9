"""A `transformers` LLaMA with the weights of ours: for comparisons, never for results.

>>> from week18.llama3 import Llama, LlamaConfig
>>> ours = randomize(Llama(LlamaConfig(vocab_size=31, d_model=24)))
>>> tokens = torch.arange(31)[None]
>>> torch.allclose(ours(tokens), transformers_twin(ours)(tokens).logits, atol=1e-5)
True

The names are those of `week18.pretrained`; `uv run weeks/18/llama3.py` makes the comparison.
"""

import torch
from torch import nn

from week18.llama3 import Llama, LlamaConfig
from week18.pretrained import hugging_face_config, hugging_face_name


def their_config(config: LlamaConfig):
    """The same sizes as transformers' `LlamaConfig`."""
    from transformers import LlamaConfig as TheirConfig

    return TheirConfig(**hugging_face_config(config))


def transformers_twin(model: Llama) -> nn.Module:
    """The same weights in transformers' `LlamaForCausalLM`."""
    from transformers import LlamaForCausalLM

    theirs = LlamaForCausalLM(their_config(model.config)).eval()
    weights = dict(theirs.named_parameters())
    with torch.no_grad():
        for name, p in model.named_parameters():
            weights.pop(hugging_face_name(name)).copy_(p)
    assert not weights
    return theirs


def randomize(model: Llama, *, std: float = 0.2, seed: int = 0) -> Llama:
    """Draw every weight anew, gains too: ones would hide a gain that is forgotten."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(float(p.ndim == 1), std, generator=generator)
    return model
