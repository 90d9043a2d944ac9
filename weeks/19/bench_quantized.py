"""How much faster are integer weights at batch 1? SmolLM2's layers, and SmolLM2 writing.

uv run study bench 19
"""

import statistics
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared.errors import UserError
from week15.timing import in_turns
from week18.smollm2 import smollm2
from week19.fused_llama import FusedLlama
from week19.kv_cache import generate
from week19.quantized_linear import DynamicInt8Linear, Int4Linear, Int8Linear
from week19.sampling import greedy

LAYERS = [(1536, 576), (49152, 576)]  # outputs, inputs
NEW_TOKENS, PROMPT = 24, "The capital of France is"


def fused(weight: Float[Tensor, "n_out n_in"], bias: Float[Tensor, " n_out"] | None) -> nn.Module:
    """Dynamic int8 on the kernel that does it all in one call."""
    return DynamicInt8Linear(weight, bias, shared_grid=True)


KINDS: dict[str, Callable[[Tensor, Tensor | None], nn.Module]] = {
    "int8 weights": Int8Linear,
    "int4 weights": Int4Linear,
    "int8 dynamic": DynamicInt8Linear,
    "int8 dynamic, fused": fused,
}


def layer_times(n_out: int, n_in: int, repeats: int) -> dict[str, float]:
    """Median seconds of one token times the matrix, the kinds in turns."""
    weight, x = torch.randn(n_out, n_in), torch.randn(1, n_in)
    layers = {"float32": nn.Linear(n_in, n_out, bias=False)}
    layers |= {name: make(weight, None) for name, make in KINDS.items()}
    calls = 1 if n_out > 10_000 else 20

    def several(layer: nn.Module) -> Callable:
        return lambda: [layer(x) for _ in range(calls)]

    with torch.inference_mode():
        seconds = in_turns([several(layer) for layer in layers.values()], repeats)
    return {name: s / calls for name, s in zip(layers, seconds, strict=True)}


def decoding_times(repeats: int) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds per token of SmolLM2's greedy text, and which share of it is float32's."""
    model, tokenizer = smollm2()
    models = {"float32": FusedLlama(model)}
    for name in ("int8 weights", "int4 weights", "int8 dynamic, fused"):
        make = KINDS[name]
        models[name] = FusedLlama(model, product=lambda weight, _, make=make: make(weight, None))
    prompt = tokenizer.encode(PROMPT)

    def text(form: nn.Module) -> list[int]:
        return [int(t) for t in generate(form, [prompt], NEW_TOKENS, choose=greedy)]

    seconds = in_turns([lambda form=form: text(form) for form in models.values()], repeats)
    texts = {name: text(form) for name, form in models.items()}
    same = {
        name: statistics.mean(a == b for a, b in zip(found, texts["float32"], strict=True))
        for name, found in texts.items()
    }
    return {n: s / NEW_TOKENS for n, s in zip(models, seconds, strict=True)}, same


def bench(repeats: int = 9) -> dict:
    """One token through two of SmolLM2's layers and through all of it, on two threads.

    Parameters
    ----------
    repeats
        How often each is timed, in turns; one more round of all warms up.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    rows: dict[str, dict[str, float]] = {}
    try:
        for n_out, n_in in LAYERS:
            rows[f"{n_in} x {n_out}"] = layer_times(n_out, n_in, repeats)
        try:
            rows["SmolLM2, a token"], same = decoding_times(max(3, repeats // 3))
        except UserError:
            same = {}
    finally:
        torch.set_num_threads(threads)
    ratios = {
        f"{place}, {name}": round(row["float32"] / seconds, 2)
        for place, row in rows.items()
        for name, seconds in row.items()
        if name != "float32"
    }
    last = rows.get("SmolLM2, a token", rows[f"{LAYERS[0][1]} x {LAYERS[0][0]}"])
    best = min(seconds for name, seconds in last.items() if name != "float32")
    return {
        "name": "integer weights at batch 1, against float32",
        "ours_seconds": best,
        "reference_seconds": last["float32"],
        "ratio": best / last["float32"],
        "limit": 0.5,
        "equal_work": "the same shapes; times faster: "
        + ", ".join(f"{name} {value}" for name, value in ratios.items())
        + ("; greedy tokens as float32's: " if same else "")
        + ", ".join(f"{name} {share:.0%}" for name, share in same.items()),
    }
