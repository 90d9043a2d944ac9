"""A child that holds one form of a model and times it when told to, one line of JSON per turn.

    python -m compress.benchmark.speed_worker REF FORM

On each line `{"threads": 1, "prefill": 64, "decode": 12}` it reads the prompt once and writes on
from it, and answers with seconds; its first line says what memory it has.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def memory() -> dict[str, int]:
    """Bytes that this process has now, and the most it had; 0 where Linux does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    said = {name: line.split() for name, _, line in (line.partition(":") for line in lines)}
    names = {"resident": "VmRSS", "peak": "VmHWM"}
    return {key: 1024 * int(said[name][0]) if said else 0 for key, name in names.items()}


class Network:
    """A form of a LLaMA with its cache, in torch."""

    def __init__(self, ref: str, form: str):
        from compress.benchmark.forms import opened

        self.model = opened(ref, form).model
        self.vocab_size = self.model.config.vocab_size

    def on(self, threads: int) -> None:
        """Compute with so many threads from now on."""
        torch.set_num_threads(threads)

    def begin(self, length: int) -> Callable:
        """A function from the next tokens to their logits, with room for so many."""
        from week19.kv_cache import KVCache

        cache = KVCache.for_model(self.model, batch=1, max_length=length)
        return lambda tokens: self.model(tokens, cache=cache)


class Graph:
    """The same in onnxruntime, which takes its threads when it opens the file."""

    def __init__(self, ref: str, form: str):
        self.path = Path(ref) / ("int8.onnx" if "int8" in form else "float32.onnx")
        self.threads = 0
        self.on(1)
        self.vocab_size = self.model.session.get_outputs()[0].shape[-1]

    def on(self, threads: int) -> None:
        """Open the file anew where the threads change."""
        from week27.onnx_export import OnnxLlama

        if threads != self.threads:
            self.model, self.threads = OnnxLlama(self.path, threads=threads), threads

    def begin(self, length: int) -> Callable:
        """See `Network.begin`."""
        from week27.onnx_export import OnnxCache

        cache = OnnxCache()
        return lambda tokens: self.model(tokens, cache=cache)


@torch.no_grad()  # not inference_mode, in which optimum-quanto cannot unpack
def turn(network: Network | Graph, prefill: int, decode: int) -> dict[str, Any]:
    """Seconds to read a prompt (all its logits), then of each new token."""
    prompt = (torch.arange(prefill) * 7919 % network.vocab_size)[None]
    step = network.begin(prefill + decode)
    start = time.perf_counter()
    logits = step(prompt)
    read, steps = time.perf_counter() - start, []
    for _ in range(decode):
        token = logits[:, -1:].argmax(-1)
        start = time.perf_counter()
        logits = step(token)
        steps.append(time.perf_counter() - start)
    return {"prefill": read, "steps": steps}


def main(ref: str, form: str) -> None:
    """Answer until the input ends."""
    bare = memory()["resident"]
    torch.set_num_threads(1)
    network = (Graph if form.startswith("onnxruntime") else Network)(ref, form)
    turn(network, 8, 2)
    answer(memory() | {"bare": bare})
    for line in sys.stdin:
        asked = json.loads(line)
        network.on(asked.pop("threads"))
        answer(turn(network, **asked))


def answer(content: dict) -> None:
    """One line."""
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
