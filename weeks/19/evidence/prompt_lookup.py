"""Prompt lookup against greedy decoding, transformers' included; what it saves on a real model."""

import time

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from shared import plots
from shared.datasets import pydocs
from shared.study import Run, UserError
from week18.gguf_tokenizer import GGUFTokenizer
from week18.llama3 import Llama
from week18.smollm2 import smollm2
from week18.transformers_twin import transformers_twin
from week19.evidence.threads import one_thread
from week19.kv_cache import KVCache, PagedKVCache, generate
from week19.prompt_lookup import prompt_lookup_generate
from week19.sampling import greedy
from week19.twins import small_llama, transformers_greedy

NEW, PASSAGE, OPENING = 32, 72, 6  # tokens: to write, of a passage, of its repetition's beginning
GUESSES = (1, 2, 4, 8)


def main(run: Run) -> None:
    """The same tokens in fewer passes, if the text repeats itself."""
    with one_thread():
        check_tokens(run)
    if run.mode == "quick":  # the real model takes longer than a quick run may
        return
    try:
        model, tokenizer = smollm2()
    except UserError as error:
        run.say(f"{error}; without them only small random models were shown")
        return
    show_caches(run, model, tokenizer)
    judge_copies(run, model, tokenizer)


def alone(model: Llama, prompt: Int[Tensor, " n"], n: int, **options) -> list[int]:
    """Week 19's greedy continuation of one prompt."""
    return [int(t) for t in generate(model, prompt[None], n, choose=greedy, **options)]


def check_tokens(run: Run) -> None:
    """Small random models, whose texts soon run in circles."""
    ours, theirs, passes, n = [], [], 0, 60
    circles, controls = [], []
    for seed in range(4):
        model = small_llama(run.seed + seed)
        prompt = torch.randint(61, (12,), generator=run.generator(seed))
        found = prompt_lookup_generate(model, prompt, n)
        ours.append(found.tokens)
        passes += found.target_passes
        circle = prompt_lookup_generate(model, prompt, 150).tokens
        for values, ngram in ((circles, 2), (controls, 100)):  # a hundred tokens never recur so
            later = prompt_lookup_generate(model, circle, n, ngram=ngram)
            values.append(n / later.target_passes)
        options = {"prompt_lookup_num_tokens": 8}
        twin = transformers_twin(model)
        theirs.append(transformers_greedy(twin, [prompt.tolist()], n, **options).sequences[0])
    equal = run.against("transformers' generate with prompt lookup", why="tokens are integers")
    equal("tokens of four random models", torch.stack(ours), torch.stack(theirs))
    run.metric("tokens per pass, random models", 4 * n / passes)
    name = "a model in a circle is guessed"
    run.claim(name, circles, at_least=1.2, unit="tokens/pass")
    run.falsifier("a hundred tokens must agree", controls, breaks=name)


def show_caches(run: Run, model: Llama, tokenizer: GGUFTokenizer) -> None:
    """A cache in one piece, in pages, and none, on real weights."""
    tokens = torch.tensor(passages(tokenizer, 1)[0])
    whole = KVCache.for_model(model, 1, len(tokens))
    pool = PagedKVCache(model, n_blocks=12, block_size=16)
    sequence, logits = pool.add(), {"whole": [], "paged": []}
    with torch.inference_mode():
        for part in tokens[None].split([40, 1, 20, 11], dim=1):
            logits["whole"].append(model(part, cache=whole)[0])
            pages = pool.batch([sequence], new=part.shape[1])
            out = model(part, cache=pages, mask=pages.mask, positions=pages.positions)
            logits["paged"].append(out[0])
        expected = model(tokens[None])[0]
    why = "float32 rounding through thirty layers"
    equal = run.against("one pass over the text", kind="consistency", atol=1e-3, why=why)
    for name, parts in logits.items():
        equal(f"SmolLM2's logits, {name} cache", torch.cat(parts), expected)
    seconds = []
    for cache in (False, True):
        start = time.perf_counter()
        alone(model, tokens, 12, cache=cache)
        seconds.append(time.perf_counter() - start)
    run.metric("uncached / cached time, 12 tokens", seconds[0] / seconds[1], rtol=None)


def passages(tokenizer: GGUFTokenizer, n: int) -> list[list[int]]:
    """Beginnings of documents of Python's manual."""
    texts = [document.text for document in pydocs() if len(document.text) > 1500]
    return [tokenizer.encode(text[200:1200])[:PASSAGE] for text in texts[: 2 * n : 2]]


def judge_copies(run: Run, model: Llama, tokenizer: GGUFTokenizer) -> None:
    """Passages that are begun a second time, and ones that are followed by another's beginning."""
    pieces, between = passages(tokenizer, 8), tokenizer.encode("\n\n")
    per_pass: dict[str, list[list[float]]] = {"begun again": [], "another begun": []}
    ours, reference, seconds = [], [], np.zeros(2)
    for i in run.progress(range(4), "passages"):
        for kind, j in (("begun again", i), ("another begun", i + 4)):
            prompt = torch.tensor(pieces[i] + between + pieces[j][:OPENING])
            start = time.perf_counter()
            reference.append(alone(model, prompt, NEW))
            middle = time.perf_counter()
            row = []
            for gamma in GUESSES if kind == "begun again" else GUESSES[-1:]:
                start_lookup = time.perf_counter()
                found = prompt_lookup_generate(model, prompt, NEW, gamma=gamma)
                row.append(NEW / found.target_passes)
            if kind == "begun again":
                seconds += middle - start, time.perf_counter() - start_lookup
            ours.append(found.tokens[len(prompt) :].tolist())
            per_pass[kind].append(row)
    equal = run.against("greedy decoding", kind="consistency", why="tokens are integers")
    equal("SmolLM2's tokens of eight texts", ours, reference)
    again = np.array(per_pass["begun again"])
    name, unit = "a pass yields two tokens and more where the text repeats itself", "tokens/pass"
    seen = "2.75 of at most 4 in a trial that wrote 4 tokens of each text"
    run.claim(name, again[:, -1], at_least=2.0, unit=unit, seen_before=seen, quick=False)
    controls = [row[-1] for row in per_pass["another begun"]]
    run.falsifier("where another passage begins", controls, breaks=name)
    run.metric("greedy / lookup time, 8 guesses", seconds[0] / seconds[1], rtol=None)
    with run.figure("guesses", "How many tokens does a pass of SmolLM2 yield?") as axes:
        plots.interval_band(axes, GUESSES, again, color=plots.BLUE, label="passage begun again")
        axes.plot(GUESSES, [g + 1 for g in GUESSES], "--", color=plots.REFERENCE, label="all kept")
        axes.plot(GUESSES[-1:], [np.mean(controls)], "o", color=plots.ORANGE, label="another begun")
        axes.set(xlabel="guesses per pass", ylabel="tokens per pass", xticks=GUESSES)
        axes.legend()
