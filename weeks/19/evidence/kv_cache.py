"""Checks, claims and figures of kv_cache."""

import statistics
import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from shared import plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week18.llama3 import Llama, LlamaConfig
from week18.pretrained import hugging_face_config, hugging_face_name
from week19.kv_cache import KVCache, PagedKVCache, cache_bytes, generate
from week19.sampling import greedy


def small_llama(seed: int, *, std: float = 0.25, **sizes) -> Llama:
    """A model with weights large enough that a wrong key or position shows in its logits."""
    defaults = {"vocab_size": 61, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "n_layers": 2}
    model = Llama(LlamaConfig(**defaults | sizes))
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        if p.ndim == 2:
            nn.init.normal_(p, std=std, generator=generator)
    return model.eval()


def hugging_face_twin(model: Llama) -> nn.Module:
    """The same weights in transformers' LlamaForCausalLM."""
    from transformers import LlamaConfig as TheirConfig
    from transformers import LlamaForCausalLM

    content = hugging_face_config(model.config)
    names = ("architectures", "model_type", "rope_theta", "rope_scaling")
    theirs = LlamaForCausalLM(TheirConfig(**{k: v for k, v in content.items() if k not in names}))
    weights = {hugging_face_name(name): p for name, p in model.named_parameters()}
    theirs.load_state_dict(weights, strict=not model.config.tied)
    return theirs.eval()


def transformers_greedy(theirs, prompts: list[list[int]], n: int, **options):
    """What transformers' cached generate returns for prompts padded on the left."""
    longest = max(map(len, prompts))
    padded = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
    attention = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    with torch.inference_mode():
        return theirs.generate(
            padded,
            attention_mask=attention,
            max_new_tokens=n,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
            **options,
        )


def paged_call(model: Llama, pool: PagedKVCache, sequences: list[int], tokens: Tensor) -> Tensor:
    """Logits of the next tokens of some sequences in the pool."""
    batch = pool.batch(sequences, new=tokens.shape[1])
    return model(tokens, cache=batch, mask=batch.mask, positions=batch.positions)


# ---- checks


@torch.no_grad()
def check_equivalences(run: Run) -> None:
    """However the tokens come in, the logits are those of one pass without a cache."""
    model = small_llama(run.seed)
    tokens = torch.randint(61, (3, 24), generator=run.generator())
    whole = model(tokens)
    common = {
        "against": "the same model without a cache",
        "rtol": 1e-5,
        "atol": 1e-5,
        "why": "float32 rounding: the same sums in another order",
    }
    cache = KVCache.for_model(model, 3, 24)
    one_by_one = [model(tokens[:, i : i + 1], cache=cache) for i in range(24)]
    run.check("logits, one token at a time", torch.cat(one_by_one, 1), whole, **common)
    cache = KVCache.for_model(model, 3, 24)
    chunks = [model(part, cache=cache) for part in tokens.split([7, 1, 9, 7], dim=1)]
    run.check("logits, prompt in four chunks", torch.cat(chunks, 1), whole, **common)
    cache.crop(10)
    run.check(
        "logits after a roll-back to token 10", model(tokens[:, 10:], cache=cache), whole[:, 10:],
        **common,
    )  # fmt: skip
    cache.crop(20)
    cache.select(torch.tensor([2, 0, 0]))
    run.check(
        "logits after rows were exchanged", model(tokens[[2, 0, 0], 20:], cache=cache),
        whole[[2, 0, 0], 20:], **common,
    )  # fmt: skip

    pool = PagedKVCache(model, n_blocks=24, block_size=4)
    lengths, ids = (5, 13, 8), []
    for row, n in zip(tokens, lengths, strict=True):
        ids.append(pool.add())
        paged_call(model, pool, ids[-1:], row[None, :n])
    ids.append(pool.fork(ids[1]))  # and now two ends for one beginning
    rows, starts = [0, 1, 2, 1], torch.tensor([*lengths, 13])
    new = torch.stack([tokens[r, s : s + 6] for r, s in zip(rows, starts.tolist(), strict=True)])
    new[3] = new[3].flip(0)
    ours = torch.cat([paged_call(model, pool, ids, new[:, i : i + 1]) for i in range(6)], dim=1)
    alone = [
        model(torch.cat([tokens[r, :s], n])[None])[:, s:]
        for r, s, n in zip(rows, starts.tolist(), new, strict=True)
    ]
    run.check("logits, paged, unequal lengths and a fork", ours, torch.cat(alone), **common)


def check_against_transformers(run: Run) -> None:
    """The same weights and prompts: same greedy tokens, same logits, the same FLOPs as counted."""
    model = small_llama(run.seed)
    prompts = [[5, 9, 2, 44, 17, 3, 8], [7], [50, 50, 31, 4]]
    n = 32
    out = transformers_greedy(hugging_face_twin(model), prompts, n, output_logits=True)
    tokens, logits = out.sequences[:, 7:], torch.stack(out.logits, dim=1)
    seen = []

    def choose(step_logits, history, generator):
        seen.append(step_logits)
        return greedy(step_logits)

    ours = torch.stack(list(generate(model, prompts, n, choose=choose)), dim=1)
    against, exact = "transformers generate, DynamicCache", "tokens are equal or not"
    run.check("greedy tokens, three prompts padded", ours, tokens, against=against,
              why=exact)  # fmt: skip
    run.check("their logits", torch.stack(seen, dim=1), logits, against=against,
              rtol=1e-4, atol=1e-4, why="float32 rounding, 38 tokens deep")  # fmt: skip
    uncached = torch.stack(list(generate(model, prompts, n, choose=greedy, cache=False)), dim=1)
    run.check("greedy tokens without a cache", uncached, tokens, against=against,
              why=exact)  # fmt: skip
    alone = [torch.stack(list(generate(model, [p], n, choose=greedy)), dim=1) for p in prompts]
    run.check("greedy tokens, each prompt by itself", torch.cat(alone), tokens, against=against,
              why=exact)  # fmt: skip


@torch.no_grad()
def check_memory(run: Run) -> None:
    """Bytes by the formula, by our buffers and by transformers' cache; then for a real model."""
    from transformers import DynamicCache

    counted, formula = [], []
    for kv_heads, n_layers, tokens in ((4, 2, 10), (2, 2, 33), (1, 3, 7)):
        model = small_llama(run.seed, n_kv_heads=kv_heads, n_layers=n_layers)
        theirs = DynamicCache()
        hugging_face_twin(model)(torch.zeros(2, tokens, dtype=torch.long), past_key_values=theirs)
        layers = theirs.layers
        counted.append(sum(x.keys.nbytes + x.values.nbytes for x in layers))
        counted.append(KVCache.for_model(model, 2, tokens).nbytes)
        sizes = {"n_layers": n_layers, "n_kv_heads": kv_heads, "head_dim": 8}
        formula += [cache_bytes(**sizes, n_tokens=2 * tokens, bytes_per_number=4)] * 2
    run.check("bytes of transformers' cache and of ours", counted, formula,
              against="2 · layers · kv_heads · head_dim · tokens · bytes",
              why="bytes are counted exactly")  # fmt: skip

    llama = {"n_layers": 32, "head_dim": 128}
    weights = 8.03e9 * 2
    one = cache_bytes(**llama, n_kv_heads=8, n_tokens=1)
    run.metric("cache of LLaMA 3 8B, a token", one / 1e3, "kB")
    full = cache_bytes(**llama, n_kv_heads=8, n_tokens=131_072)
    run.metric("its cache at 131,072 tokens, share of its weights", full / weights)
    lengths = np.geomspace(256, 2**17, 40)
    with run.figure("memory", "When does one sequence's cache outweigh the model?") as axes:
        for heads, label, color in (
            (32, "32 kv heads (multi-head)", plots.ORANGE),
            (8, "8 (grouped: LLaMA 3 8B)", plots.BLUE),
            (1, "1 (multi-query)", plots.GREEN),
        ):
            each = cache_bytes(**llama, n_kv_heads=heads, n_tokens=1)
            axes.plot(lengths, lengths * each / 1e9, color=color, label=label)
        axes.axhline(weights / 1e9, color=plots.REFERENCE, lw=1, ls="--")
        axes.text(256, weights / 1e9 * 1.1, "its 8 billion weights, 2 bytes each",
                  color=plots.REFERENCE)  # fmt: skip
        axes.set(xscale="log", yscale="log", xlabel="tokens of one sequence",
                 ylabel="keys and values (GB, 2 bytes a number)")  # fmt: skip
        axes.set_xticks([256, 1024, 4096, 16384, 65536], ["256", "1k", "4k", "16k", "64k"])
        axes.minorticks_off()
        plots.label_lines(axes)


# ---- claims and figures


def draw_paging(run: Run) -> None:
    """Waste against the size of a block, beside rows that reserve their longest length."""
    model = small_llama(0, d_model=4, n_heads=1, n_kv_heads=1, n_layers=1)
    longest, n = 512, 200
    sizes, seeds = (1, 2, 4, 8, 16, 32, 64, 128, 256), run.budget(quick=2, default=8)
    waste, theory, reserved = np.zeros((seeds, len(sizes))), np.zeros(len(sizes)), []
    for s in range(seeds):
        rng = np.random.default_rng([run.seed, s])
        lengths = rng.lognormal(4.4, 0.8, n).astype(int).clip(1, longest)
        reserved.append(1 - lengths.mean() / longest)
        theory += [(b - 1) / 2 / (lengths.mean() + (b - 1) / 2) / seeds for b in sizes]
        for j, b in enumerate(sizes):
            pool = PagedKVCache(model, n_blocks=n * -(-longest // b), block_size=b)
            for length in lengths.tolist():
                pool.batch([pool.add()], new=length).advance(length)
            waste[s, j] = pool.fragmentation
    at_16 = waste[:, sizes.index(16)]
    run.metric("slots wasted, blocks of 16", at_16.mean(), rtol=0.2)
    run.metric("slots wasted, longest length reserved", np.mean(reserved), rtol=0.2)
    off = np.abs(waste.mean(0) - theory)[: sizes.index(64)].max()
    run.claim(
        "half a block a sequence is wasted, as if lengths ended anywhere in a block",
        off < 0.02,
        f"blocks of 16 waste {mean_interval(at_16)} of their slots, the formula differs by at "
        f"most {off:.3f} up to blocks of 32; reserved rows waste {np.mean(reserved):.2f}",
    )
    pool = PagedKVCache(model, n_blocks=200, block_size=16)
    first = pool.add()
    pool.batch([first], new=100).advance(100)
    forks = [pool.fork(first) for _ in range(15)]
    for i in (first, *forks):
        pool.batch([i], new=20).advance(20)
    run.metric("blocks of 16 continuations that share a prompt", pool.n_blocks - pool.n_free)
    run.metric("blocks of 16 continuations that do not", 16 * -(-120 // 16))

    with run.figure("paging", "How much of the cache stays empty?") as axes:
        axes.plot(sizes, 100 * theory, color=plots.REFERENCE, lw=1, ls="--",
                  label="half a block\na sequence")  # fmt: skip
        plots.interval_band(axes, sizes, 100 * waste, color=plots.BLUE, label="measured")
        axes.plot(sizes, np.full(len(sizes), 100 * np.mean(reserved)), color=plots.ORANGE,
                  label="longest length\nreserved")  # fmt: skip
        axes.set(xscale="log", xlabel="tokens in a block", ylabel="slots without a token (%)",
                 ylim=(0, 100))  # fmt: skip
        axes.set_xticks(sizes, map(str, sizes))
        axes.minorticks_off()
        plots.label_lines(axes)


@torch.no_grad()
def draw_wrong_position(run: Run) -> None:
    """Failure on display: a new token that is told its place in the call, not in the text."""
    start, n, seeds = 16, run.budget(quick=8, default=48), run.budget(quick=2, default=8)
    bugs = {
        "position 0 for\nevery new token": lambda i: 0,
        "one too far": lambda i: i + 1,
        "right": lambda i: i,
    }
    moved = {name: np.zeros((seeds, n)) for name in bugs}
    for s in range(seeds):
        model = small_llama(run.seed + s)
        tokens = torch.randint(61, (16, start + n), generator=run.generator(s))
        truth = model(tokens)[:, start:].softmax(-1)
        for name, place in bugs.items():
            cache = KVCache.for_model(model, 16, start + n)
            model(tokens[:, :start], cache=cache)
            for i in range(start, start + n):
                told = torch.tensor([place(i)])
                logits = model(tokens[:, i : i + 1], positions=told, cache=cache)[:, 0]
                distance = (logits.softmax(-1) - truth[:, i - start]).abs().sum(-1) / 2
                moved[name][s, i - start] = float(distance.mean())
    zero, _, right = (values.mean(1) for values in moved.values())
    run.metric("probability moved by position 0", zero.mean(), rtol=0.3)
    run.metric("probability moved by rounding", right.mean(), rtol=None)
    run.claim(
        "a decoder that forgets its position predicts something else, in every seed",
        zero.min() > 1e3 * right.max(),
        f"{mean_interval(zero)} of the probability is on other tokens with position 0 for each, "
        f"at most {right.max():.0e} when right",
    )
    title = "Told the wrong position, how far off is a cached decoder?"
    with run.figure("position", title) as axes:
        for (name, values), color in zip(
            moved.items(), (plots.ORANGE, plots.PINK, plots.BLUE), strict=True
        ):
            plots.interval_band(axes, np.arange(start, start + n), values, color=color, label=name)
        axes.set(yscale="log", ylim=(1e-7, 1), ylabel="probability on the wrong tokens",
                 xlabel="position of the new token (the prompt has 16)")  # fmt: skip
        plots.label_lines(axes)


def decode_flops(model: Llama, tokens: int) -> tuple[int, int]:
    """FLOPs of the next token after `tokens - 1` others, without and with the cache, by formula.

    Every weight but the embedding's is multiplied and added once a token; every query meets every
    key and value that the kernel is given.
    """
    c = model.config
    weights = sum(p.numel() for p in model.parameters() if p.ndim == 2) - model.embed.weight.numel()
    pair = 4 * c.n_layers * c.n_heads * c.head_dim
    return 2 * weights * tokens + pair * tokens**2, 2 * weights + pair * tokens


def draw_speed(run: Run, longest: int) -> None:
    """Seconds of one more token at growing lengths, with and without the cache."""
    model = small_llama(run.seed, std=0.05, vocab_size=256, d_model=256, n_layers=4)
    lengths = sorted({max(2, longest // 2**i) for i in range(7)})
    repeats = run.budget(quick=2, default=15)
    flops, predicted, ratios, seconds = [], [], [], []
    with torch.inference_mode():
        for n in lengths:
            tokens = torch.randint(256, (1, n), generator=run.generator(n))
            cache = KVCache.for_model(model, 1, n)
            model(tokens[:, :-1], cache=cache)

            def with_cache(cache=cache, tokens=tokens, n=n):
                cache.crop(n - 1)
                return model(tokens[:, -1:], cache=cache)

            def without(tokens=tokens):
                return model(tokens)

            for call, formula in zip((without, with_cache), decode_flops(model, n), strict=True):
                with FlopCounterMode(display=False) as counter:
                    call()
                flops.append(counter.get_total_flops())
                predicted.append(formula)
            pairs = [(_seconds(without), _seconds(with_cache)) for _ in range(repeats + 1)][1:]
            ratios.append([a / b for a, b in pairs])
            seconds += [statistics.median(times) for times in zip(*pairs, strict=True)]
    run.check("FLOPs of one token at every length, with and without", flops, predicted,
              against="torch.utils.flop_counter", why="FLOPs are counted exactly")  # fmt: skip
    medians = [statistics.median(r) for r in ratios]
    run.metric("times faster with the cache, longest text", medians[-1], rtol=None)
    run.metric("tokens of the longest text", longest)
    run.claim(
        "the cache pays, and pays more the longer the text",
        medians[-1] > 2 and medians[-1] > medians[0],
        f"one token is {medians[-1]:.1f} times faster at {longest} tokens, "
        f"{medians[0]:.1f} times at {lengths[0]} (medians of {repeats})",
        quick=False,
    )
    # t = fixed + FLOPs / rate, by least squares of relative errors
    work, t = np.array(flops, dtype=float), np.array(seconds)
    (fixed, per_flop), *_ = np.linalg.lstsq(np.c_[1 / t, work / t], np.ones(len(t)), rcond=None)
    model_of = (fixed + per_flop * work[::2]) / (fixed + per_flop * work[1::2])
    low, high = (np.quantile(ratios, q, axis=1) for q in (0.25, 0.75))
    with run.figure("speed", "How much faster is the next token with a cache?") as axes:
        axes.plot(lengths, lengths, color=plots.REFERENCE, lw=1, ls="--", label="in FLOPs")
        axes.plot(lengths, model_of, color=plots.REFERENCE, lw=1, ls=":",
                  label="fixed cost +\nFLOPs, fitted")  # fmt: skip
        axes.plot(lengths, medians, "o-", color=plots.BLUE, label="by the clock")
        axes.fill_between(lengths, low, high, color=plots.BLUE, alpha=0.18, linewidth=0)
        axes.axhline(1, color=plots.GRAY, lw=1)
        axes.set(xscale="log", yscale="log", xlabel="tokens so far",
                 ylabel="time without / time with")  # fmt: skip
        axes.set_xticks(lengths, map(str, lengths))
        ticks = [1, 2, 5, 10, 20, 50, 100, 200]
        axes.set_yticks(ticks, map(str, ticks))
        axes.minorticks_off()
        plots.label_lines(axes)


def _seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main(run: Run, *, new_tokens: PositiveInt = 256) -> None:
    """Check both caches against no cache and against transformers; measure memory and speed.

    Parameters
    ----------
    new_tokens
        Tokens generated where speed is measured.
    """
    check_equivalences(run)
    check_against_transformers(run)
    check_memory(run)
    draw_paging(run)
    draw_wrong_position(run)
    draw_speed(run, run.budget(quick=24, default=new_tokens))
