"""How long does our cached decoding take beside transformers'? Same weights, one thread, in turns.

uv run study bench 19
"""

import torch

from week15.timing import in_turns
from week18.transformers_twin import transformers_twin
from week19.kv_cache import generate
from week19.sampling import greedy
from week19.twins import small_llama, transformers_greedy

NEW_TOKENS, PROMPT = 256, [3, 1, 4, 1, 5, 9, 2, 6]


def bench(repeats: int = 5) -> dict:
    """Decode 256 tokens greedily, batch 1, with a model of 2 layers of width 128.

    Parameters
    ----------
    repeats
        How often each is timed, in turns; one more round of both warms up.
    """
    model = small_llama(0, std=0.1, vocab_size=256, d_model=128, n_layers=2)
    twin = transformers_twin(model)

    def ours():
        steps = generate(model, [PROMPT], NEW_TOKENS, choose=greedy)
        return torch.stack(list(steps), dim=1)

    def theirs():
        return transformers_greedy(twin, [PROMPT], NEW_TOKENS).sequences[:, len(PROMPT) :]

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ours_s, theirs_s = in_turns([ours, theirs], repeats)
        same = torch.equal(ours(), theirs())
    finally:
        torch.set_num_threads(threads)
    return {
        "name": f"cached decoding of {NEW_TOKENS} tokens, against transformers",
        "ours_seconds": ours_s,
        "reference_seconds": theirs_s,
        "ratio": ours_s / theirs_s,
        "limit": 1.0,
        "equal_work": "the same tokens" if same else "DIFFERENT TOKENS",
    }
