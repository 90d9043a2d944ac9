"""What does routing cost? A mixture's time per token beside a dense model of equal active weights.

uv run study bench 18
"""

import torch

from week15.timing import in_turns
from week18.llama3 import Llama, LlamaConfig
from week18.mixtral import Mixtral, MixtralConfig, n_parameters

SIZES = {"d_model": 256, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "context": 256}


@torch.no_grad()
def bench(repeats: int = 5) -> dict:
    """Read 8 windows of 256 tokens, 2 of 8 experts of width 512 beside one MLP of width 1024.

    Parameters
    ----------
    repeats
        How often each is timed, in turns; one more round of both warms up.
    """
    generator = torch.Generator().manual_seed(0)
    config = MixtralConfig(256, d_ff=512, **SIZES)
    mixture = Mixtral(config, generator).eval()
    dense = Llama(LlamaConfig(256, d_ff=1024, **SIZES), generator).eval()
    tokens = torch.randint(256, (8, 256), generator=generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours, theirs = in_turns([lambda: mixture(tokens), lambda: dense(tokens)], repeats)
    finally:
        torch.set_num_threads(threads)
    active = n_parameters(config)[1] / sum(p.numel() for p in dense.parameters())
    return {
        "name": "reading 2,048 tokens, against a dense model of equal active weights",
        "ours_seconds": ours,
        "reference_seconds": theirs,
        "ratio": ours / theirs,
        "limit": 1.5,
        "equal_work": f"{100 * active:.1f} % of its weights per token",
    }
