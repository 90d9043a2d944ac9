"""A tiny model with a tokenizer and a text, for examples and tests.

>>> opened, text = tiny_model(0)
>>> opened.model.config.d_model, text.ids.shape
(32, torch.Size([8, 24]))
"""

from compress.calibration import Calibration, calibrate
from compress.models.opened import OpenedModel
from compress.models.tokenizers import of_tiny_gpt
from tiny_gpt.data.tokenizers import train_tokenizer
from week19.twins import small_llama


def tiny_model(
    seed: int, *, n: int = 8, seqlen: int = 24, **sizes: int
) -> tuple[OpenedModel, Calibration]:
    """A random LLaMA over bytes, two blocks of width 32, and windows of Python's manual."""
    sizes = {"vocab_size": 257, "d_ff": 48, "context": 64, **sizes}
    model = small_llama(seed, std=0.15, **sizes)
    tokenizer = of_tiny_gpt(train_tokenizer("byte", []))
    return OpenedModel(model, tokenizer, f"tiny:{seed}", f"{seed}"), calibrate(
        tokenizer, "pydocs", n=n, seqlen=seqlen, seed=seed
    )
