"""How fast does SmolLM2 write beside transformers' `generate`? One text, two threads, in turns.

uv run study bench 19
"""

import time

import torch

from shared.errors import UserError
from shared.pretrained import smollm2 as file_of_smollm2
from week15.timing import in_turns
from week18.gguf_llama import hugging_face_folder
from week18.smollm2 import smollm2
from week19.fused_llama import FusedLlama, packed
from week19.kv_cache import generate
from week19.sampling import greedy
from week19.twins import transformers_greedy

NEW_TOKENS = 32
BEGINNINGS = ("The capital of France is", "Once upon a time there was", "def add(a, b):\n   ")


def bench(repeats: int = 5, *, batch: int = 1, limit: float = 1 / 1.5) -> dict:
    """Continue texts greedily in float32; beside it, the time that reading the weights needs.

    Parameters
    ----------
    repeats
        How often each is timed, in turns; one more round of both warms up.
    batch
        Texts at once.
    """
    name = f"SmolLM2, {NEW_TOKENS} tokens for {batch} text{'s' * (batch > 1)}"
    try:
        model, tokenizer = smollm2()
    except UserError as error:
        return {"name": f"{name}: {error}", "ours_seconds": 0, "reference_seconds": 0} | {
            "ratio": 0,
            "limit": limit,
            "equal_work": "nothing was run",
        }
    from transformers import LlamaForCausalLM

    twin = LlamaForCausalLM.from_pretrained(hugging_face_folder(file_of_smollm2())).eval()
    fused = FusedLlama(model, batch=batch)
    shortest = min(len(tokenizer.encode(text)) for text in BEGINNINGS)
    prompts = [tokenizer.encode(BEGINNINGS[i % 3])[:shortest] for i in range(batch)]

    def ours():
        return torch.stack(list(generate(fused, prompts, NEW_TOKENS, choose=greedy)), dim=1)

    def theirs():
        return transformers_greedy(twin, prompts, NEW_TOKENS).sequences[:, shortest:]

    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        ours_s, theirs_s = in_turns([ours, theirs], repeats)
        same = torch.equal(ours(), theirs())
        floor = NEW_TOKENS * seconds_to_read(sum(p.nbytes for p in model.parameters()), batch)
    finally:
        torch.set_num_threads(threads)
    return {
        "name": f"{name} (their weights alone, read once for each: {floor:.3g} s)",
        "ours_seconds": ours_s,
        "reference_seconds": theirs_s,
        "ratio": ours_s / theirs_s,
        "limit": limit,
        "equal_work": "the same tokens" if same else "DIFFERENT TOKENS",
    }


@torch.inference_mode()
def seconds_to_read(n_bytes: int, batch: int) -> float:
    """The best of five products with one matrix of this size."""
    rows = n_bytes // 4 // 576
    product, x, best = packed(torch.ones(rows, 576), batch), torch.ones(batch, 576), float("inf")
    for _ in range(6):
        start = time.perf_counter()
        product(x)
        best = min(best, time.perf_counter() - start)
    return best
