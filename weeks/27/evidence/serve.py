"""Text by all cuts; tokens alone and in company; what cancelling frees; what company gains."""

import asyncio
import codecs
import itertools
import statistics
import threading
import time
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from shared import plots
from shared.errors import UserError
from shared.study import PositiveInt, Run
from week18.llama3 import Llama
from week18.smollm2 import smollm2
from week18.transformers_twin import transformers_twin
from week19.fused_llama import FusedLlama
from week19.kv_cache import generate
from week19.sampling import Sampler
from week19.scheduler import Request, Scheduler
from week19.twins import small_llama, transformers_greedy
from week27.serve import Engine, Stream
from week27.streaming import Detokenizer, UntilStop

TEXT, BAD = "né 漢😀!", b"\xf0\x9f\x98A\xc3\x80\x80\xe2\x82"
LOOSE = {"encoding": "utf-8", "errors": "replace"}
STOPS = ("aba", "bb", "cab")
BLOCKS, TOGETHER, REPEATS = 24, 8, 5
SAME = {"kind": "consistency", "why": "tokens are equal or not"}
QUESTIONS = (
    "What is the capital of France?",
    "Name three colors.",
    "What is two plus two?",
    "Why is the sky blue?",
    "Write one sentence about the sea.",
    "Who wrote Hamlet?",
    "What is a prime number?",
    "Translate 'good morning' into French.",
)


def main(run: Run, *, tokens: PositiveInt = 9) -> None:
    """Check the text, the engine and its cancelling; measure what company gains and costs.

    Parameters
    ----------
    tokens
        Of each of SmolLM2's answers.
    """
    check_characters(run)
    check_stops(run)
    check_tokens(run)
    check_cancelling(run)
    model, prompts = small_llama(run.seed), requests(run.seed, TOGETHER)
    if run.budget(quick=False, default=True):
        try:
            model, tokenizer = smollm2()
        except UserError as missing:
            run.say(f"{missing}; a small random model takes its place")
        else:
            asked = [tokenizer.chat([{"role": "user", "content": q}]) for q in QUESTIONS]
            prompts = [Request(prompt, tokens) for prompt in asked]
    fused = FusedLlama(model, batch=TOGETHER)
    rounding(run, fused, prompts)
    throughput(run, model, fused, prompts)


def cuts(n: int):
    """All ways to cut n things in a row into pieces, as the ends of the pieces."""
    for count in range(n):
        for ends in itertools.combinations(range(1, n), count):
            yield (*ends, n)


def check_characters(run: Run) -> None:
    """A text in every way in which its bytes can be tokens, valid and not."""
    data, wrong, early = TEXT.encode(), [0, 0], 0
    for case, whole in enumerate((data, BAD)):
        for ends in cuts(len(whole)):
            pieces = [whole[a:b] for a, b in zip((0, *ends), ends, strict=False)]
            text = Detokenizer(lambda ids, p=pieces: b"".join(p[i] for i in ids).decode(**LOOSE))
            found = [text.feed(i) for i in range(len(pieces))]
            theirs = codecs.getincrementaldecoder("utf-8")("replace")
            expected = [theirs.decode(piece) for piece in pieces]
            wrong[case] += "".join((*found, text.end())) != whole.decode(**LOOSE)
            early += case == 0 and found != expected
    exact = run.against("CPython's decoder, all cuts", why="counted")
    exact("texts that differ, characters of 1 to 4 bytes", wrong[0], 0)
    exact("texts that differ, bytes that are no UTF-8", wrong[1], 0)
    exact("pieces that come early or late", early, 0)


def first_stop(text: str, stops) -> str:
    """By the definition: the text before the stop string that is complete first."""
    for end in range(1, len(text) + 1):
        ending = [s for s in stops if text[:end].endswith(s)]
        if ending:
            return text[: end - max(map(len, ending))]
    return text


def check_stops(run: Run) -> None:
    """Every short text in every way to cut it; nothing is held back without a reason."""
    wrong = late = 0
    for letters in itertools.product("abc", repeat=run.budget(quick=4, default=7)):
        text = "".join(letters)
        expected = first_stop(text, STOPS)
        for ends in cuts(len(text)):
            until, sent = UntilStop(STOPS), ""
            for a, b in zip((0, *ends), ends, strict=False):
                sent += until.feed(text[a:b])
                seen = text[:b]
                could = [n for s in STOPS for n in range(len(s)) if seen.endswith(s[:n])]
                late += until.found is None and len(sent) != len(seen) - max(could)
            wrong += sent + until.end() != expected
    exact = run.against("the definition, all cuts of a text", kind="theorem", why="counted")
    exact("streams that differ from the whole text", wrong, 0)
    exact("pieces held back for too long, or too short", late, 0)


# ---- tokens


def requests(seed: int, n: int = 10, **options) -> list[Request]:
    """Prompts that begin alike and go on differently, for answers of different lengths."""
    rng = np.random.default_rng(seed)
    common = rng.integers(61, size=9).tolist()
    tails = [rng.integers(61, size=rng.integers(1, 9)).tolist() for _ in range(n)]
    lengths = rng.integers(4, 25, n).tolist()
    return [
        Request(common + tail, m, seed=i, **options)
        for i, (tail, m) in enumerate(zip(tails, lengths, strict=True))
    ]


async def read(stream: Stream) -> list[int]:
    """All tokens of a stream."""
    return [token async for token in stream]


def serve(model: Llama, asked: list[Request], *, places: int = TOGETHER):
    """Tokens of requests that come together, and the seconds until the last one."""

    async def all_of_them() -> list[list[int]]:
        with Engine(scheduler, most=len(asked)) as engine:
            return await asyncio.gather(*(read(engine.submit(each)) for each in asked))

    # The small model's pool is too small for all at a time.
    blocks, size = (BLOCKS, 4) if model.config.n_layers == 2 else (64, 16)
    scheduler = Scheduler(model, n_blocks=blocks, block_size=size, max_batch=places)
    start = time.perf_counter()
    return asyncio.run(all_of_them()), time.perf_counter() - start


def flat(rows: list[list[int]]) -> list[int]:
    """All tokens, with -1 after each answer."""
    return [token for row in rows for token in (*row, -1)]


def check_tokens(run: Run) -> None:
    """A request's tokens do not depend on who is there, nor on a pool too small for all."""
    model = small_llama(run.seed)
    asked, theirs = requests(run.seed), transformers_twin(model)
    alone = [
        transformers_greedy(theirs, [each.prompt], each.max_new_tokens).sequences[0].tolist()
        for each in asked
    ]
    expected = [tokens[len(each.prompt) :] for tokens, each in zip(alone, asked, strict=True)]
    exact = run.against("transformers generate, each alone", why="tokens are equal or not")
    exact("greedy tokens of 10 requests", flat(serve(model, asked)[0]), flat(expected))
    asked = requests(run.seed + 1, choose=Sampler(temperature=0.9, top_p=0.95))
    own = [torch.Generator().manual_seed(each.seed) for each in asked]
    alone = [
        [
            int(t)
            for t in generate(model, [r.prompt], r.max_new_tokens, choose=r.choose, generator=g)
        ]
        for r, g in zip(asked, own, strict=True)
    ]
    found = flat(serve(model, asked)[0])
    run.check("drawn tokens", found, flat(alone), against="each alone, same seed", **SAME)


# ---- cancelling


class Gate(nn.Module):
    """A model that waits before each pass until it is let go, and says that it waits."""

    def __init__(self, model: Llama):
        super().__init__()
        self.model, self.config, self.embed = model, model.config, model.embed
        self.waits, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def forward(self, *args, **options):
        """See `Llama.forward`."""
        self.waits.release()
        self.go.acquire()
        return self.model(*args, **options)


def check_cancelling(run: Run) -> None:
    """Leave while waiting, while the prompt is read, and while the answer is written."""
    exact = run.against("the whole pool, at the next step", kind="theorem", why="counted")
    for passes, when in enumerate(("waiting", "its prompt is read", "tokens are written")):
        steps, free = asyncio.run(leave(small_llama(run.seed), passes))
        exact(f"steps that begin with it after it left, {when}", steps, 0)
        exact(f"free blocks after that, {when}", free, BLOCKS)


class Watched(Scheduler):
    """A scheduler that writes down whom it knows when a step begins."""

    def step(self) -> dict[int, int]:
        """See `Scheduler.step`."""
        self.known = [*getattr(self, "known", []), {*self.running, *self.waiting}]
        return super().step()


async def leave(model: Llama, passes: int) -> tuple[int, int]:
    """Steps that still begin with a request that left in pass number `passes`, and free blocks.

    With 0 it waits for the only place; 1 is the pass that reads the prompt.
    """
    gate = Gate(model)
    scheduler = Watched(gate, n_blocks=BLOCKS, block_size=4, max_batch=1, sharing=False)
    with Engine(scheduler) as engine:
        first = engine.submit(Request([1, 2, 3], 4)) if passes == 0 else None
        left = engine.submit(Request(list(range(9)), 40))
        for _ in range(max(0, passes - 1)):
            await asyncio.to_thread(gate.waits.acquire)
            gate.go.release()
        await asyncio.to_thread(gate.waits.acquire)  # now it waits, is read or written
        left.cancel()
        begun = len(scheduler.known)
        after = engine.submit(Request([4, 5], 2))  # comes and goes, so that the thread runs on
        for _ in range(20):
            gate.go.release()
        await asyncio.gather(*(read(stream) for stream in (first, after) if stream))
        late = sum(left.number in known for known in scheduler.known[begun:])
        return late, scheduler.pool.n_free


# ---- company


def rounding(run: Run, fused: Llama, asked: list[Request]) -> None:
    """How far company moves a logit, and how far that is from another token."""
    seen: dict[tuple[int, int], list] = {}

    def watching(place: int):
        def choose(logits, history, generator=None):
            seen.setdefault((place, history.shape[1]), []).append(logits[0].clone())
            return logits.argmax(-1)

        return choose

    watched = [
        replace(each, max_new_tokens=min(8, each.max_new_tokens), choose=watching(i))
        for i, each in enumerate(asked)
    ]
    together, alone = (flat(serve(fused, watched, places=n)[0]) for n in (TOGETHER, 1))
    both = [pair for pair in seen.values() if len(pair) == 2]
    moved = max(float((a - b).abs().max()) for a, b in both)
    best = torch.stack([pair[0].topk(2).values for pair in both])
    run.metric("largest difference of a logit, alone and together", moved, rtol=None)
    run.metric("smallest lead of a chosen token", float((best[:, 0] - best[:, 1]).min()), rtol=0.01)
    run.check("answers together", together, alone, against="one after the other", **SAME)


def throughput(run: Run, model: Llama, fused: Llama, asked: list[Request]) -> None:
    """Tokens per second, one request at a time and several."""
    ways = {
        "1 at a time": (FusedLlama(model), 1, asked[::2]),  # as fast as all, in half the time
        f"{TOGETHER} at a time": (fused, TOGETHER, asked),
        "1 at a time, weights packed for 8": (fused, 1, asked[::2]),
    }
    speed: dict[str, list[float]] = {name: [] for name in ways}
    for network, *_ in ways.values():
        serve(network, asked[:1])  # the first pass is slower than any other
    for _ in run.progress(range(run.budget(quick=2, default=REPEATS)), "company"):
        for name, (network, places, chosen) in ways.items():
            rows, seconds = serve(network, chosen, places=places)
            speed[name].append(sum(map(len, rows)) / seconds)
    one, many, packed = speed.values()
    rule = "8 requests at a time give at least twice the tokens per second"
    seen = "week 19's scheduler: 3.2 times; beside other programs 3 ± 3, 4 ± 4 (n = 3)"
    options = {"unit": "times", "seen_before": seen, "quick": False, "rtol": None}
    run.claim(rule, np.divide(many, one), at_least=2, **options)
    run.falsifier("one place", np.divide(packed, one), breaks=rule)
    for name, values in speed.items():
        run.metric(f"tokens per second, {name}", statistics.median(values), rtol=None)
    with run.figure("company", "What does company give?") as axes:
        plots.bars(axes, speed, xlabel="tokens per second")
