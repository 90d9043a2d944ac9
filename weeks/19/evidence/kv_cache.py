"""The caches against no cache and against transformers; what they cost and save."""

import time
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from shared import plots
from shared.study import PositiveInt, Run
from week18.llama3 import Llama
from week18.transformers_twin import transformers_twin
from week19.characters import manual, trained_model
from week19.evidence.threads import one_thread
from week19.kv_cache import KVCache, PagedKVCache, cache_bytes, generate
from week19.sampling import greedy
from week19.twins import small_llama, transformers_greedy


def main(run: Run, *, new_tokens: PositiveInt = 256, steps: PositiveInt = 150) -> None:
    """Check the cache against no cache and against transformers; measure memory and speed.

    Parameters
    ----------
    new_tokens
        Tokens generated where speed is measured.
    steps
        Training steps of the model whose positions are mistaken.
    """
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    check_against_transformers(run)
    check_memory(run)
    draw_paging(run)
    mistake_positions(run, run.budget(quick=3, default=steps))
    draw_speed(run, run.budget(quick=24, default=new_tokens))


# ---- checks


def check_against_transformers(run: Run) -> None:
    """The same weights and prompts: the same greedy tokens, the same logits."""
    model, n = small_llama(run.seed), 32
    prompts = [[5, 9, 2, 44, 17, 3, 8], [7], [50, 50, 31, 4]]
    out = transformers_greedy(transformers_twin(model), prompts, n, output_logits=True)
    tokens, logits, seen = out.sequences[:, 7:], torch.stack(out.logits, dim=1), []

    def choose(step_logits, history, generator):
        seen.append(step_logits)
        return greedy(step_logits)

    def write(prompts, choose=greedy, **options) -> Tensor:
        return torch.stack(list(generate(model, prompts, n, choose=choose, **options)), dim=1)

    equal = run.against("transformers generate, DynamicCache", why="tokens are equal or not")
    equal("greedy tokens, three prompts padded", write(prompts, choose), tokens)
    run.check(
        "their logits",
        torch.stack(seen, dim=1),
        logits,
        rtol=1e-4,
        atol=1e-4,
        against="transformers generate",
        why="float32 rounding, 38 tokens deep",
    )
    equal("greedy tokens without a cache", write(prompts, cache=False), tokens)
    alone = torch.cat([write([prompt]) for prompt in prompts])
    equal("greedy tokens, each prompt by itself", alone, tokens)


@torch.no_grad()
def check_memory(run: Run) -> None:
    """Bytes by the formula, by our buffers and by transformers' cache; then for a real model."""
    from transformers import DynamicCache

    counted, formula = [], []
    for n_kv_heads, n_layers, tokens in ((4, 2, 10), (2, 2, 33), (1, 3, 7)):
        sizes = {"n_layers": n_layers, "n_kv_heads": n_kv_heads}
        model, theirs = small_llama(run.seed, **sizes), DynamicCache()
        transformers_twin(model)(torch.zeros(2, tokens, dtype=torch.long), past_key_values=theirs)
        counted.append(sum(x.keys.nbytes + x.values.nbytes for x in theirs.layers))
        counted.append(KVCache.for_model(model, 2, tokens).nbytes)
        own = cache_bytes(**sizes, head_dim=8, n_tokens=2 * tokens, bytes_per_number=4)
        formula += [own, own]
    exact = run.against("transformers' DynamicCache, and our buffers", why="bytes are counted")
    exact("bytes, 2 · layers · kv_heads · head_dim · tokens · bytes", formula, counted)

    llama, weights = {"n_layers": 32, "head_dim": 128}, 8.03e9 * 2
    full = cache_bytes(**llama, n_kv_heads=8, n_tokens=131_072)
    run.metric("its cache at 131,072 tokens, share of its weights", full / weights)
    heads = {"32 kv heads\n(multi-head)": 32, "8 (grouped:\nLLaMA 3 8B)": 8, "1 (multi-query)": 1}
    lengths = np.geomspace(256, 2**17, 40)
    lines = {
        name: lengths * cache_bytes(**llama, n_kv_heads=n, n_tokens=1) / 1e9
        for name, n in heads.items()
    }
    with run.figure("memory", "When does one sequence's cache outweigh the model?") as axes:
        colors = (plots.ORANGE, plots.BLUE, plots.GREEN)
        axes.set(xscale="log", yscale="log", xlabel="tokens of one sequence")
        labels = {"ylabel": "keys and values (GB, 2 bytes)"}
        labels["reference"] = {"its 8 billion weights": weights / 1e9}
        plots.curves(axes, lengths, lines, colors=colors, **labels)


# ---- paging


def draw_paging(run: Run) -> None:
    """Waste against the size of a block, beside rows that reserve their longest length."""
    model = small_llama(0, d_model=4, n_heads=1, n_kv_heads=1, n_layers=1)
    longest, n, seeds = 512, run.budget(quick=50, default=200), run.budget(quick=2, default=8)
    sizes, small = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256]), 6  # those below a text's length
    waste, theory, reserved = [], [], []
    for s in range(seeds):
        rng = np.random.default_rng([run.seed, s])
        lengths = rng.lognormal(4.4, 0.8, n).astype(int).clip(1, longest)
        reserved.append(1 - lengths.mean() / longest)
        theory.append((sizes - 1) / 2 / (lengths.mean() + (sizes - 1) / 2))
        waste.append([wasted(model, lengths.tolist(), block) for block in sizes.tolist()])
    waste, theory = np.array(waste), np.mean(theory, axis=0)
    run.metric("slots wasted, blocks of 16", waste[:, sizes == 16].mean(), rtol=0.2)
    run.metric("slots wasted, longest length reserved", np.mean(reserved), rtol=0.2)
    off = np.abs(waste.mean(axis=0) - theory)
    half, note = "half a block per sequence is wasted", "off the formula, blocks of 1 to 32"
    run.claim(half, off[:small], at_most=0.02, each=True, note=note, quick=False)
    run.falsifier("blocks of 64 to 256, longer than many texts", off[small:], breaks=half)
    pool = PagedKVCache(model, n_blocks=200, block_size=16)
    first = pool.add()
    pool.batch([first], new=100).advance(100)
    for i in (first, *[pool.fork(first) for _ in range(15)]):
        pool.batch([i], new=20).advance(20)
    run.metric("blocks of 16 continuations that share a prompt", pool.n_blocks - pool.n_free)
    run.metric("blocks of 16 continuations that do not", 16 * -(-120 // 16))
    percent = {"longest length\nreserved": np.full(len(sizes), 100 * np.mean(reserved))}
    percent |= {"measured": 100 * waste, "half a block\nper sequence": 100 * theory}
    with run.figure("paging", "How much of the cache stays empty?") as axes:
        colors = (plots.ORANGE, plots.BLUE, plots.REFERENCE)
        axes.set(xscale="log", xlabel="tokens in a block", ylim=(0, 100))
        plots.curves(axes, sizes, percent, colors=colors, ylabel="slots without a token (%)")
        axes.set_xticks(sizes, map(str, sizes))
        axes.minorticks_off()


def wasted(model: Llama, lengths: list[int], block_size: int) -> float:
    """Share of the slots that sequences of these lengths leave empty."""
    blocks = sum(-(-length // block_size) for length in lengths)
    pool = PagedKVCache(model, n_blocks=blocks, block_size=block_size)
    for length in lengths:
        pool.batch([pool.add()], new=length).advance(length)
    return pool.fragmentation


# ---- failure on display: a new token takes its place in the call for its place in the text


@torch.no_grad()
def probability_moved(
    model: Llama, tokens: Int[Tensor, "batch seq"], start: int, place: Callable[[int], int]
) -> Float[np.ndarray, "batch new"]:
    """Total variation between right and wrong counting at each new token."""
    truth = model(tokens)[:, start:].softmax(-1)
    cache = KVCache.for_model(model, len(tokens), tokens.shape[1])
    model(tokens[:, :start], cache=cache)
    moved = []
    for i in range(start, tokens.shape[1]):
        position = torch.tensor([place(i)])
        p = model(tokens[:, i : i + 1], positions=position, cache=cache)[:, 0].softmax(-1)
        moved.append((p - truth[:, i - start]).abs().sum(-1) / 2)
    return torch.stack(moved, dim=1).numpy()


def mistake_positions(run: Run, steps: int) -> None:
    """Three ways of counting, in random models and in one that was trained."""
    start, n, seeds = 16, run.budget(quick=8, default=48), run.budget(quick=2, default=8)
    places = {
        "position 0 for\nevery new token": lambda i: 0,
        "one too far": lambda i: i + 1,
        "right": lambda i: i,
    }
    moved = {name: [] for name in places}
    for s in range(seeds):
        model = small_llama(run.seed + s)
        tokens = torch.randint(61, (16, start + n), generator=run.generator(s))
        for name, place in places.items():
            moved[name].append(probability_moved(model, tokens, start, place).mean(axis=0))
    zero, _, right = (np.mean(values, axis=1) for values in moved.values())
    run.metric("probability moved by rounding", right.mean(), rtol=None)
    random, seen = "position 0 moves probability in random models", "0.49 in random models"
    run.claim(random, zero, at_least=0.01, note="models with random weights")
    run.falsifier("the right position", right, breaks=random)

    text = manual()
    model = trained_model(text, steps, run.seed)
    at = torch.linspace(0, len(text.held_out) - start - n - 1, 16).long()
    tokens = text.held_out[at[:, None] + torch.arange(start + n)]
    found = [probability_moved(model, tokens, start, f).mean(axis=1) for f in places.values()]
    trained, note = "position 0 moves probability in a trained model", "held-out prompts"
    late = {"quick": False, "seen_before": seen}  # three steps of training teach no positions
    run.claim(trained, found[0], at_least=0.01, note=note, **late)
    run.falsifier("the right position, trained", found[2], breaks=trained)
    title = "Given the wrong position, how far off is a cached decoder?"
    with run.figure("position", title) as axes:
        colors, labels = (plots.ORANGE, plots.PINK, plots.BLUE), {"yscale": "log"}
        labels |= {"ylim": (1e-8, 1), "ylabel": "probability on the wrong tokens"}
        labels |= {"xlabel": "position of the new token (the prompt has 16), random models"}
        plots.curves(axes, np.arange(start, start + n), moved, colors=colors, **labels)


# ---- speed


def decode_flops(model: Llama, tokens: int) -> tuple[int, int]:
    """FLOPs of the next token after `tokens - 1` others, without and with the cache, by formula.

    Every weight but the embedding's is multiplied and added once per token; every query meets
    every key and value that the kernel is given.
    """
    c = model.config
    weights = sum(p.numel() for p in model.parameters() if p.ndim == 2) - model.embed.weight.numel()
    pair = 4 * c.n_layers * c.n_heads * c.head_dim
    return 2 * weights * tokens + pair * tokens**2, 2 * weights + pair * tokens


@one_thread()
@torch.inference_mode()
def draw_speed(run: Run, longest: int) -> None:
    """Seconds of one more token at growing lengths, with and without the cache."""
    model = small_llama(run.seed, std=0.05, vocab_size=256, d_model=256, n_layers=4)
    lengths = sorted({max(2, longest // 2**i) for i in range(7)})
    repeats = run.budget(quick=2, default=30)
    flops, predicted, seconds = [], [], []
    for n in lengths:
        tokens = torch.randint(256, (1, n), generator=run.generator(n))
        cache = KVCache.for_model(model, 1, n)
        model(tokens[:, :-1], cache=cache)

        def with_cache(cache=cache, tokens=tokens, n=n):
            cache.crop(n - 1)
            return model(tokens[:, -1:], cache=cache)

        def without(tokens=tokens):
            return model(tokens)

        for call in (without, with_cache):
            with FlopCounterMode(display=False) as counter:
                call()
            flops.append(counter.get_total_flops())
        predicted += decode_flops(model, n)
        pairs = [(_seconds(without), _seconds(with_cache)) for _ in range(repeats + 1)]
        seconds.append(pairs[1:])
    counted = run.against("torch.utils.flop_counter", why="FLOPs are counted exactly")
    counted("FLOPs of one token at every length, with and without", predicted, flops)
    times = np.array(seconds)  # length, repeat, without and with
    ratios = times[..., 0] / times[..., 1]
    medians = np.median(ratios, axis=1)
    run.metric("times faster with the cache, longest text", medians[-1], rtol=None)
    run.metric("tokens of the longest text", longest)
    rule = {"quick": False, "rtol": None, "unit": "times", "note": f"{longest} tokens"}
    run.claim("the next token comes sooner with a cache", ratios[-1], at_least=2, **rule)
    # t = fixed + FLOPs / rate, by least squares of relative errors
    work, t = np.array(flops, dtype=float), np.median(times, axis=1).flatten()
    (fixed, per_flop), *_ = np.linalg.lstsq(np.c_[1 / t, work / t], np.ones(len(t)), rcond=None)
    fit = (fixed + per_flop * work[::2]) / (fixed + per_flop * work[1::2])
    low, high = np.quantile(ratios, (0.25, 0.75), axis=1)
    lines = {"in FLOPs": lengths, "by the clock": medians, "fixed cost +\nFLOPs, fitted": fit}
    with run.figure("speed", "How much faster is the next token with a cache?") as axes:
        axes.fill_between(lengths, low, high, color=plots.BLUE, alpha=0.18, linewidth=0)
        axes.set(xscale="log", yscale="log", xlabel="tokens so far")
        colors, ylabel = (plots.REFERENCE, plots.BLUE, plots.GRAY), "time without / time with"
        plots.curves(axes, lengths, lines, colors=colors, ylabel=ylabel)
        axes.set_xticks(lengths, map(str, lengths))
        axes.minorticks_off()


def _seconds(call: Callable[[], Tensor]) -> float:
    """Of this thread at work: what other programs take meanwhile is not counted."""
    start = time.thread_time()
    call()
    return time.thread_time() - start
