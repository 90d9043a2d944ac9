"""A draft trained on SmolLM2's own answers: how often it is right, what it saves and costs."""

import copy
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from shared import artifacts, datasets, plots
from shared.errors import UserError
from shared.study import Run
from week18.gguf_tokenizer import GGUFTokenizer
from week18.llama3 import Llama
from week18.smollm2 import SYSTEM, smollm2
from week18.transformers_twin import transformers_twin
from week19.draft_model import (
    Draft,
    agreement,
    draft_generate,
    frequent,
    imitate,
    new_draft,
    write,
)
from week19.evidence.threads import one_thread
from week19.fused_llama import FusedLlama
from week19.kv_cache import generate
from week19.prompt_lookup import prompt_lookup_generate
from week19.sampling import greedy
from week19.speculative_decoding import expected_tokens
from week19.twins import small_llama, transformers_greedy

GUESSES = (1, 2, 4, 8)
GAMMA = 4  # where seconds are measured
KNOWN = 6144  # tokens of the draft
TRAINING, ANSWER = 1280, 96  # articles that are asked about, and tokens of an answer
JUDGED, LENGTH = 12, 64  # other articles, the last ones, and tokens that are written on each


def main(run: Run) -> None:
    """A small random model is imitated, then SmolLM2 (well with `--full`, which takes longer)."""
    run.rounding(0.1, "Muon multiplies in bfloat16, which processors round differently")
    with one_thread():
        check_tokens(run)
        judge_small(run)
        if run.mode == "quick":  # the real model takes longer than a quick run may
            return
        try:
            model, tokenizer = smollm2()
            prompts = questions(tokenizer)
        except UserError as error:
            run.say(f"{error}; without them only small random models were imitated")
            return
        judge_smollm2(run, model, tokenizer, prompts)


def alone(model: Llama, prompt: Tensor, n: int) -> Tensor:
    """The prompt and its greedy continuation."""
    new = [int(t) for t in generate(model, prompt[None], n, choose=greedy)]
    return torch.cat([prompt, torch.tensor(new)])


# ---- small models


def check_tokens(run: Run) -> None:
    """Tokens are transformers', and passes can be counted from where the models agree."""
    ours, theirs, made, counted = [], [], [], []
    for seed in range(4):
        target = small_llama(run.seed + seed)
        some = torch.randperm(61, generator=run.generator(seed))[:40]
        draft = Draft(small_llama(run.seed + seed, vocab_size=41), some)
        prompt = torch.randint(61, (9,), generator=run.generator(10 + seed))
        text = draft_generate(target, draft, prompt, 40, gamma=3)
        ours.append(text.tokens)
        twin = transformers_twin(target)
        theirs.append(transformers_greedy(twin, [prompt.tolist()], 40).sequences[0])
        made.append(text.target_passes)
        counted.append(passes(agreement(draft, text.tokens, len(prompt), 61), 3))
    equal = run.against("transformers' greedy generate", why="tokens are integers")
    equal("tokens of four random models", torch.stack(ours), torch.stack(theirs))
    name = "one pass of draft and target over the text, without caches"
    equal = run.against(name, kind="consistency", why="counts are integers")
    equal("passes of four random models", made, counted)


def judge_small(run: Run) -> None:
    """What drafts of random models gain by imitation, on prompts that are new to them."""
    gains: dict[str, list[float]] = {"imitation": [], "control": []}
    for seed in range(4):
        generator = run.generator(30 + seed)
        target = small_llama(run.seed + seed, vocab_size=12, n_layers=1)
        prompts = torch.randint(12, (220, 4), generator=generator).tolist()
        texts = write(target, prompts, 16, end=-1)
        shuffled = [text[torch.randperm(20, generator=generator)] for text in texts]
        sizes = {"d_model": 32, "n_layers": 1, "generator": generator}
        options = {"known": 12, "steps": 150, "batch_size": 16, "context": 19} | sizes
        first = new_draft(target.embed.weight, frequent(texts, 12), **sizes)

        def rate(draft: Draft, texts: list[Tensor] = texts) -> float:
            return float(torch.cat([agreement(draft, t, 4, 12) for t in texts[200:]]).mean())

        for name, lesson in (("imitation", texts), ("control", shuffled)):
            draft = imitate(target.embed.weight, lesson[:200], **options)
            gains[name].append(rate(draft) - rate(first))
    name, unit = "a draft that imitates says more often what a random model says", "share of tokens"
    seen = "gains of 0.13 to 0.31 with four other seeds and fewer steps"
    rule = {"at_least": 0.1, "each": True, "seen_before": seen, "rtol": 0.5}
    run.claim(name, gains["imitation"], **rule, unit=unit)
    run.falsifier("it imitates shuffled texts", gains["control"], breaks=name)


# ---- SmolLM2


def questions(tokenizer: GGUFTokenizer) -> list[list[int]]:
    """One about each article of Wikipedia; the last ones are not for training."""
    return [
        tokenizer.chat(
            [{"role": "user", "content": f"Tell me about {article.name}."}], system=SYSTEM
        )
        for article in datasets.wikipedia()
    ]


def answers(run: Run, model: Llama, prompts: list[list[int]], most: int, end: int) -> list[Tensor]:
    """What the model says in bfloat16, half the bytes to read; an earlier run's if it is there."""
    folder = run.out / f"answers-{len(prompts)}-{most}"
    try:
        tensors, artifact = artifacts.load_tensors(folder)
        run.say(f"answers read from {folder}")
    except artifacts.ArtifactError:
        start = time.perf_counter()
        half = copy.deepcopy(model).to(torch.bfloat16)
        tensors = {f"{i:05}": text for i, text in enumerate(write(half, prompts, most, end=end))}
        written = {"seconds": time.perf_counter() - start}
        artifacts.save_tensors(folder, tensors, metadata=written)
        artifact = artifacts.load(folder)
    seconds = artifact.metadata["seconds"]
    run.metric("seconds to write what the draft learns from", seconds, "s", rtol=None)
    return [tensors[name] for name in sorted(tensors)]


def judge_smollm2(
    run: Run, model: Llama, tokenizer: GGUFTokenizer, prompts: list[list[int]]
) -> None:
    """Train a draft, then let it guess on articles that it was not trained on."""
    n, most = run.budget(quick=(8, 8), default=(64, 48), full=(TRAINING, ANSWER))
    texts = answers(run, model, prompts[:n], most, tokenizer.end)
    run.metric("tokens that the draft learns from", sum(map(len, texts)))
    generator, embedding, sizes = run.generator(1), model.embed.weight, {"d_model": 128}
    start = time.perf_counter()
    steps = run.budget(quick=2, default=40, full=600)
    draft = imitate(embedding, texts, known=KNOWN, **sizes, steps=steps, generator=generator)
    run.metric("seconds to train the draft", time.perf_counter() - start, "s", rtol=None)
    state = draft.model.state_dict() | {"known": draft.known}
    artifacts.save_tensors(run.out / "draft", state)  # for the benchmark
    first = new_draft(embedding, draft.known, n_layers=2, **sizes, generator=generator)
    alike = {"last": max(GUESSES) + 1}
    # Products prepared for one row, and for the rows of a pass that checks guesses.
    targets = FusedLlama(model, **alike), FusedLlama(model, batch=GAMMA + 1, **alike)
    judged = prompts[-run.budget(quick=1, default=2, full=JUDGED) :]
    judge_texts(run, *targets, {"trained": draft, "untrained": first}, judged)
    costs(run, model, *targets, draft)


def judge_texts(
    run: Run,
    target: FusedLlama,
    checker: FusedLlama,
    drafts: dict[str, Draft],
    prompts: Sequence[list[int]],
) -> None:
    """Tokens per pass, the law beside them, and seconds, article by article."""
    flags: dict[str, list[Tensor]] = {name: [] for name in drafts}
    ours, reference, kept, counted = [], [], [], []
    seconds: dict[str, list[float]] = {"greedy": [], "draft": [], "lookup": [], "untrained": []}
    lookup = []
    for prompt in run.progress([torch.tensor(p) for p in prompts], "articles"):
        pair = {"greedy": lambda p=prompt: alone(target, p, LENGTH)}
        for name, draft in zip(("draft", "untrained"), drafts.values(), strict=True):
            pair[name] = lambda p=prompt, d=draft: draft_generate(
                checker, d, p, LENGTH, gamma=GAMMA
            )
        pair["lookup"] = lambda p=prompt: prompt_lookup_generate(target, p, LENGTH)
        found = {}
        for name, writes in pair.items():
            start = time.perf_counter()
            found[name] = writes()
            seconds[name].append(time.perf_counter() - start)
        own = len(prompt)  # where the model's tokens begin
        ours += [found[name].tokens[own:] for name in ("draft", "untrained", "lookup")]
        reference += 3 * [found["greedy"][own:]]
        lookup.append(LENGTH / found["lookup"].target_passes)
        for name, draft in drafts.items():
            right = agreement(draft, found["greedy"], len(prompt), target.config.vocab_size)
            flags[name].append(right)
        kept.append(found["draft"].target_passes)
        counted.append(passes(flags["trained"][-1], GAMMA))
    equal = run.against("greedy decoding", kind="consistency", why="integers")
    equal("SmolLM2's tokens, guessed in three ways", torch.stack(ours), torch.stack(reference))
    equal("passes, counted from where draft and target agree", kept, counted)
    per_pass = {
        name: np.array([[LENGTH / passes(right, g) for g in GUESSES] for right in rows])
        for name, rows in flags.items()
    }
    at = GUESSES.index(GAMMA)
    name, unit = "a trained draft saves passes of SmolLM2", "tokens/pass"
    seen = "α of 0.40 on 64 other articles, by which steps and known tokens were chosen"
    options = {"unit": unit, "note": "four guesses", "seen_before": seen, "rtol": None}
    run.claim(name, per_pass["trained"][:, at], at_least=1.5, **options)
    run.falsifier("untrained", per_pass["untrained"][:, at], breaks=name)
    alpha = {name: float(torch.cat(rows).mean()) for name, rows in flags.items()}
    law = {name: np.array([expected_tokens(a, g) for g in GUESSES]) for name, a in alpha.items()}
    off = per_pass["trained"].mean(0) / law["trained"] - 1
    rule = {"at_least": -0.15, "at_most": 0.15, "each": True, "rtol": None}
    follow = "tokens per pass follow the law"
    run.claim(follow, off, **rule, note="relative deviations for 1, 2, 4, 8 guesses")
    wrong = per_pass["trained"].mean(0) / law["untrained"] - 1
    run.falsifier("with the untrained draft's α", wrong, breaks=follow)
    ratio = {k: np.divide(seconds["greedy"], s) for k, s in seconds.items() if k != "greedy"}
    sooner = "the text comes sooner with the trained draft"
    seen = "0.93 ± 0.09 with products prepared for one row"
    options = {"unit": "times", "note": "four guesses", "seen_before": seen, "rtol": None}
    run.claim(sooner, ratio["draft"], at_least=1.2, **options)
    run.falsifier("untrained draft", ratio["untrained"], breaks=sooner)
    for name, a in alpha.items():
        run.metric(f"α, {name}", a, rtol=None)
        run.metric(f"tokens per pass, {name}", per_pass[name][:, at].mean(), rtol=None)
    run.metric("tokens per pass, prompt lookup", np.mean(lookup), rtol=None)
    for name, values in ratio.items():
        run.metric(f"greedy / {name} time, median", float(np.median(values)), rtol=None)
    draw(run, per_pass, law["trained"])


def passes(right: Tensor, gamma: int) -> int:
    """Passes of the target for a text, from where the draft would say what the target says."""
    at, count, n = 0, 0, len(right)
    while at < n:
        guesses = right[at : at + min(gamma, n - at - 1)]  # a pass ends with the target's own token
        at += int(guesses.cumprod(0).sum()) + 1
        count += 1
    return count


def draw(run: Run, per_pass: dict[str, np.ndarray], law: np.ndarray) -> None:
    """Tokens per pass against guesses."""
    with run.figure("passes", "How many tokens does a pass of SmolLM2 yield?") as axes:
        plots.interval_band(
            axes, GUESSES, per_pass["trained"], color=plots.BLUE, label="trained draft (range)"
        )
        axes.plot(GUESSES, law, "--", color=plots.REFERENCE, label="(1 − α^(γ+1)) / (1 − α)")
        axes.plot(
            GUESSES, per_pass["untrained"].mean(0), color=plots.ORANGE, label="untrained draft"
        )
        axes.set(xlabel="guesses per pass, γ", ylabel="tokens per pass", xticks=GUESSES, ylim=0)
        axes.legend()


# ---- what a guess costs


def median_ms(run: Callable[[], object], repeats: int = 15) -> float:
    """Milliseconds of a call."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times[1:])


@torch.inference_mode()
def costs(run: Run, model: Llama, target: FusedLlama, checker: FusedLlama, draft: Draft) -> None:
    """A pass of the target over one token and over five; a guess with few tokens and with all."""
    every = frequent([torch.arange(model.config.vocab_size)], model.config.vocab_size - 1)
    options = {"d_model": 128, "n_layers": 2, "generator": run.generator(2)}
    whole = new_draft(model.embed.weight, every, **options)
    one, five = torch.zeros(1, 1, dtype=torch.long), torch.zeros(1, GAMMA + 1, dtype=torch.long)
    calls = {
        "a pass of SmolLM2 over one token": lambda: target(one),
        "a pass of SmolLM2 over five tokens": lambda: checker(five),
        "five tokens, products prepared for one": lambda: target(five),
        "a guess": lambda: draft.model(one),
        "a guess with a head of all tokens": lambda: whole.model(one),
    }
    for name, call in calls.items():
        run.metric(f"milliseconds, {name}", median_ms(call), "ms", rtol=None)
