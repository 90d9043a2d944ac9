"""Speed: decoding and training beside what one would otherwise write, and preparing text."""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from shared import datasets
from shared.errors import UserError
from tiny_gpt.benchmark import recipes
from tiny_gpt.benchmark.bench import Bench
from tiny_gpt.report.costs import flops_per_token

__all__ = ["DECODING_TARGETS", "run_decoding", "run_prepare", "run_throughput"]

DECODING_TARGETS = {1: 5.0, 16: 15.0}


def run_decoding(b: Bench, *, new_tokens: int = 256, repeats: int = 5) -> None:
    """256 new tokens at batch 1 and 16: the rival uncached; ours uncached, cached and compiled."""
    import torch

    from tiny_gpt.benchmark.rival import RivalGPT, generate_uncached
    from tiny_gpt.generation.decoder import why_not_compiled
    from tiny_gpt.generation.generate import generate
    from tiny_gpt.model.gpt import GPT
    from week15.timing import in_turns
    from week19.sampling import Sampler

    torch.set_num_threads(b.threads)
    new_tokens, repeats = (8, 1) if b.quick else (new_tokens, repeats)
    why = "a quick trial" if b.quick else why_not_compiled()
    rival = RivalGPT(65).eval()
    config = recipes.settings_of("same-size").model_config(65)
    model = GPT(config, torch.Generator().manual_seed(0)).eval()
    batches = []
    for batch_size, goal in DECODING_TARGETS.items():
        prompt = torch.zeros(batch_size, 1, dtype=torch.int64)

        def theirs(prompt=prompt):
            return list(generate_uncached(rival, prompt, new_tokens))

        def ours(prompt=prompt, **options):
            sampler = Sampler(temperature=0.8)
            return list(generate(model, prompt, new_tokens, sampler=sampler, **options))

        sides: dict[str, Callable] = {
            "rival uncached": theirs,
            "uncached": lambda ours=ours: ours(cache=False),
            "cached": ours,
        }
        first = None
        if why:
            b.say(f"compiled: not measured, {why}")
        else:  # what the first text waits for, the compiler included
            sides["compiled"] = lambda ours=ours: ours(compile=True)
            begin = time.perf_counter()
            sides["compiled"]()
            first = time.perf_counter() - begin
        seconds = dict(zip(sides, in_turns(list(sides.values()), repeats), strict=True))
        best = min((side for side in sides if side != "rival uncached"), key=seconds.get)
        ratio = seconds["rival uncached"] / seconds[best]
        batch = {
            "batch": batch_size,
            "new_tokens": new_tokens,
            "seconds": seconds,
            "tokens_per_second": {k: batch_size * new_tokens / s for k, s in seconds.items()},
            "first_compiled_seconds": first,
            "best": best,
            "ratio": ratio,
            "cached_ratio": seconds["rival uncached"] / seconds["cached"],
            "goal": goal,
            "reached": ratio >= goal,
        }
        batches.append(batch)
        b.say(f"decoding, batch {batch_size}: {ratio:.1f} times the rival ({best})")
    content = {"title": "Decoding 256 tokens", "batches": batches, "repeats": repeats}
    b.save("decoding", content | {"n_parameters": model.n_parameters()})


def run_throughput(b: Bench, *, repeats: int = 3) -> None:
    """Training tokens per second beside the plain loop, a model of the same size, in turns."""
    steps = recipes.settings_of("throughput").steps
    sides = {
        "plain loop": lambda: b.rival("plain", steps=steps),
        "ours, the same model and optimizer": lambda: b.ours("throughput-equal"),
        "ours, as it comes": lambda: b.ours("throughput"),
    }
    runs: dict[str, list[dict]] = {side: [] for side in sides}
    peaks = []
    for _ in range(1 if b.quick else repeats):
        peaks.append(_peak(b))
        for side, run in sides.items():
            runs[side].append(run())
    peak = statistics.median(peaks)
    flops = 3 * flops_per_token(recipes.settings_of("throughput").model_config(65))
    lines = []
    for side, found in runs.items():
        speed = statistics.median(run["tokens_per_second"] for run in found)
        line = {"side": side, "tokens_per_second": speed, "utilization": speed * flops / peak}
        line["n_parameters"] = found[0]["n_parameters"]
        line["peak_bytes"] = max(run["peak_bytes"] for run in found)
        line["whole_seconds"] = statistics.median(run["whole_seconds"] for run in found)
        lines.append(line)
        b.say(f"{side}: {speed:,.0f} tokens/s, {100 * speed * flops / peak:.0f} % of the peak")
    content = {"title": "Training throughput", "lines": lines, "repeats": len(peaks)}
    b.save("throughput", content | {"matmul_peak_flops": peak, "flops_per_token": flops})


def _peak(b: Bench) -> float:
    """Floating-point operations per second in large products of float32."""
    import torch

    from week16.choice_of_precision import matmul_seconds

    torch.set_num_threads(b.threads)
    size, repeats = (256, 1) if b.quick else (1536, 3)
    cpu = torch.device("cpu")
    seconds = [matmul_seconds(cpu, torch.float32, size=size) for _ in range(repeats)]
    return 2 * size**3 / min(seconds)


def run_prepare(b: Bench, *, repeats: int = 3) -> None:
    """Megabytes of text per second from a source to token files."""
    from tiny_gpt.data.prepare import prepare
    from tiny_gpt.data.shards import open_data

    source = b.data
    if not b.quick:
        try:
            datasets.wikipedia(20)
            source = "wikipedia"
        except UserError:
            source = "pydocs"
    lines = []
    for tokenizer, dedup in (("char", "off"), ("byte", "off"), ("bpe", "off"), ("bpe", "minhash")):
        options = {"tokenizer": tokenizer, "dedup": dedup, "vocab_size": 4096, "workers": b.threads}
        seconds = []
        with tempfile.TemporaryDirectory(prefix="tiny-gpt-bench-") as folder:
            out = Path(folder) / "data"
            for _ in range(1 if b.quick else repeats):
                begin = time.perf_counter()
                report = prepare(source, out, **options)
                seconds.append(time.perf_counter() - begin)
            splits = open_data(out).splits.values()
        megabytes = report["read"]["bytes"] / 1e6
        line = {"tokenizer": tokenizer, "dedup": dedup, "megabytes": megabytes}
        line |= {"seconds": statistics.median(seconds), "tokens": sum(s.n_tokens for s in splits)}
        line["megabytes_per_second"] = megabytes / line["seconds"]
        lines.append(line)
        b.say(f"prepare {tokenizer}, dedup {dedup}: {line['megabytes_per_second']:.2f} MB/s")
    b.save("prepare", {"title": f"Preparing {Path(source).name}", "lines": lines})
