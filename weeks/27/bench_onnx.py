"""How much faster does SmolLM2 write as a graph than layer by layer in torch?

uv run study bench 27
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from week15.timing import in_turns
from week18.llama3 import Llama
from week18.smollm2 import smollm2
from week19.fused_llama import FusedLlama
from week19.kv_cache import generate
from week19.sampling import greedy
from week27.onnx_export import OnnxLlama, export_llama
from week27.onnx_int8 import quantize_llama

NEW_TOKENS, PROMPT = 24, "The capital of France is"


def by_torch(model: Llama, prompt: list[int]) -> list[int]:
    """Greedy text with week 19's cache."""
    return [int(token) for token in generate(model, [prompt], NEW_TOKENS, choose=greedy)]


def bench(repeats: int = 5) -> dict:
    """Greedy tokens one by one from a short prompt, each form with a cache, on one thread.

    Parameters
    ----------
    repeats
        How often each is timed, in turns; one more round of all warms up.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model, tokenizer = smollm2()
    prompt = tokenizer.encode(PROMPT)
    forms: dict[str, Callable[[], list[int]]] = {"torch": lambda: by_torch(model, prompt)}
    fused = FusedLlama(model)
    forms["torch, fused by hand"] = lambda: by_torch(fused, prompt)
    try:
        with tempfile.TemporaryDirectory() as folder:
            paths = {name: Path(folder) / f"{name}.onnx" for name in ("float32", "uint8")}
            export_llama(model, paths["float32"])
            quantize_llama(paths["float32"], paths["uint8"])
            graphs = {name: OnnxLlama(path) for name, path in paths.items()}
            for name, graph in graphs.items():
                forms[f"graph, {name}"] = lambda graph=graph: graph.greedy(prompt, NEW_TOKENS)
            texts = {name: form() for name, form in forms.items()}
            seconds = dict(zip(forms, in_turns(list(forms.values()), repeats), strict=True))
    finally:
        torch.set_num_threads(threads)
    per_second = {name: round(NEW_TOKENS / s, 1) for name, s in seconds.items()}
    same = [name for name, text in texts.items() if text == texts["torch"]]
    return {
        "name": "SmolLM2 as a graph in onnxruntime, against torch",
        "ours_seconds": seconds["graph, float32"] / NEW_TOKENS,
        "reference_seconds": seconds["torch"] / NEW_TOKENS,
        "ratio": seconds["graph, float32"] / seconds["torch"],
        "limit": 0.9,
        "equal_work": "the same prompt, weights and number of tokens, one thread; tokens per"
        f" second: {', '.join(f'{name} {rate}' for name, rate in per_second.items())}; the text"
        f" of torch: {', '.join(same[1:])}",
    }
