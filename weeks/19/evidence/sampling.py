"""Filters and beams against transformers and enumeration; what each way of choosing writes."""

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from shared import plots
from shared.study import PositiveInt, Run
from week14.minimal_gpt import random_batch
from week18.llama3 import Llama
from week18.transformers_twin import transformers_twin
from week19 import sampling
from week19.beam_search import beam_search, cached_step
from week19.characters import WINDOW, Text, manual, trained_model
from week19.evidence.sampling_smollm2 import judge_smollm2
from week19.evidence.threads import one_thread
from week19.kv_cache import generate
from week19.sampling import Sampler, draw, greedy
from week19.twins import small_llama, transformers_beams


def main(run: Run, *, steps: PositiveInt = 200, tokens: PositiveInt = 240) -> None:
    """Check filters and beam search against transformers, then see what each does to a text.

    Parameters
    ----------
    steps
        Training steps of the small character model.
    tokens
        Characters that it writes with each method.
    """
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    check_filters(run)
    check_draws(run)
    check_beam_search(run)
    text = manual()
    model = judge_training(run, text, run.budget(quick=4, default=steps))
    draw_filters(run, model, text.held_out)
    top_p_off_by_one(run, model, text.held_out)
    draw_loops(run, model, text.held_out, run.budget(quick=24, default=tokens))
    if run.mode != "quick":  # the real model takes longer than a quick run may
        judge_smollm2(run)


# ---- checks


def check_filters(run: Run) -> None:
    """Each function, and all of them in turn, against transformers' processors."""
    import transformers as hf

    logits = 3 * torch.randn(64, 50, generator=run.generator())
    logits[::4] = logits[::4].round()  # many ties, also at the filters' borders
    logits[1::4, ::3] = -torch.inf
    logits[2::8] = 0.0
    history = torch.randint(50, (64, 20), generator=run.generator(1))
    repeated, relative = hf.RepetitionPenaltyLogitsProcessor, hf.MinPLogitsWarper
    cool, heap, share = hf.TemperatureLogitsWarper, hf.TopKLogitsWarper, hf.TopPLogitsWarper
    both = {
        "temperature": (sampling.apply_temperature(logits, 0.7), cool(0.7)),
        "top-k": (sampling.keep_top_k(logits, 7), heap(7)),
        "top-p": (sampling.keep_top_p(logits, 0.8), share(0.8)),
        "min-p": (sampling.keep_min_p(logits, 0.1), relative(0.1)),
        "repetition penalty": (sampling.penalize_repetition(logits, history, 1.3), repeated(1.3)),
    }
    sampler = Sampler(0.8, top_k=30, top_p=0.95, min_p=0.02, repetition_penalty=1.2)
    chain = [repeated(1.2), cool(0.8), heap(30), share(0.95), relative(0.02)]
    in_turn = hf.LogitsProcessorList(chain)
    both["all of them in transformers' order"] = (sampler.process(logits, history), in_turn)
    equal = run.against("transformers", why="the same operations on the same numbers")
    for name, (ours, processor) in both.items():
        equal(name, ours, processor(history, logits))


def check_draws(run: Run) -> None:
    """Drawn frequencies against the softmax."""
    from scipy.stats import chisquare

    n, seeds = run.budget(quick=2000, default=20_000), run.budget(quick=4, default=20)
    logits = sampling.keep_top_p(torch.tensor([[2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -6.0]]), 0.98)
    alive = torch.isfinite(logits[0])

    def p_value(seed: int, temperature: float) -> float:
        drawn = draw(logits.expand(n, -1) / temperature, run.generator(100 + seed))
        counts = torch.bincount(drawn, minlength=7)
        if counts[~alive].any():
            return 0.0
        return float(chisquare(counts[alive], n * logits.double().softmax(-1)[0, alive]).pvalue)

    right, wrong = ([p_value(seed, t) for seed in range(seeds)] for t in (1.0, 1.25))
    follow, note = "draws follow the filtered softmax", f"p-values of χ² tests, {n:,} draws each"
    least = 1e-3 / seeds  # so that all together fail once in a thousand
    run.claim(follow, right, at_least=least, each=True, note=note, rtol=None)
    run.falsifier("drawn at temperature 1.25", wrong, breaks=follow)


@one_thread()
@torch.no_grad()
def check_beam_search(run: Run) -> None:
    """Scores and tokens of the best text, in many settings, are transformers'."""
    found, expected, n, stop = [], [], 10, [5, 7]

    def padded(score: float, tokens: list[int]) -> list[float]:
        return [score, *tokens, *[-1] * (n - len(tokens))]

    cases = list(itertools.product((2, 5), (0.0, 1.0), (False, True, "never")))
    for seed, (n_beams, penalty, early) in enumerate(cases):
        model = small_llama(run.seed + seed, vocab_size=13)
        prompt = torch.randint(13, (4,), generator=run.generator(seed))
        options = {"length_penalty": penalty, "early_stopping": early}
        logits, step = cached_step(model, prompt, n)
        best = beam_search(logits, step, n, stop=stop, n_beams=n_beams, **options)[0]
        found.append(padded(best.score, list(best.tokens)))
        twin, options = transformers_twin(model), options | {"num_beams": n_beams}
        score, tokens = transformers_beams(twin, prompt.tolist(), n, stop, **options)
        end = next((i + 1 for i, token in enumerate(tokens) if token in stop), n)
        expected.append(padded(score, tokens[:end]))
    why = "float32 rounding of scores; tokens exact"
    theirs = run.against("transformers generate", atol=1e-4, why=why)
    theirs("beam search, 12 settings", found, expected)


# ---- a model to sample from


@one_thread()
@torch.no_grad()
def judge_training(run: Run, text: Text, steps: int) -> Llama:
    """The trained model, ahead of letter frequencies on held-out windows; its control is not."""
    x, y = random_batch(text.held_out, 32, WINDOW, run.generator(1))
    shares = torch.bincount(text.training, minlength=len(text.alphabet)) / len(text.training)
    letters = -shares.log()[y].mean(dim=1)

    def ahead(model: Llama) -> Float[Tensor, " window"]:
        loss = F.cross_entropy(model(x).transpose(1, 2), y, reduction="none")
        return letters - loss.mean(dim=1)

    with torch.enable_grad():
        model = trained_model(text, steps, run.seed)
        control = trained_model(text, max(3, steps // 3), run.seed, shuffled=True)
    more, options = "the model learns more than letter frequencies", {"quick": False, "rtol": None}
    options |= {"unit": "nats/char ahead", "note": "held-out windows"}
    run.claim(more, ahead(model), at_least=0.5, **options)
    run.falsifier("trained on shuffled characters", ahead(control), breaks=more)
    return model


@torch.no_grad()
def held_out_logits(
    model: Llama, text: Int[Tensor, " n"], rows: int, generator: torch.Generator
) -> Float[Tensor, "place vocab"]:
    """Logits at all positions of random windows but the first few."""
    x, _ = random_batch(text, rows, WINDOW, generator)
    return model(x)[:, 16:].flatten(0, 1)


# ---- what the filters leave


def draw_filters(run: Run, model: Llama, text: Int[Tensor, " n"]) -> None:
    """Two real distributions, one sure and one not, and where each filter cuts them."""
    logits = held_out_logits(model, text, 4, run.generator(2))
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    order = entropy.argsort()
    cuts = {
        "top-k, k = 10": lambda z: sampling.keep_top_k(z, 10),
        "top-p, p = 0.9": lambda z: sampling.keep_top_p(z, 0.9),
        "min-p, p = 0.1": lambda z: sampling.keep_min_p(z, 0.1),
    }
    title, size = "How many characters does each filter leave?", (8.0, 4.3)
    with run.figure("filters", title, 1, 2, size=size, sharey=True) as axes:
        for panel, share, name in zip(axes, (0.15, 0.9), ("sure", "unsure"), strict=True):
            at = order[int(share * len(order))]
            z = logits[at][None]
            p = z.softmax(-1)[0].sort(descending=True).values[:40]
            panel.bar(np.arange(1, 41), p, color=plots.SKY, width=1.0, linewidth=0)
            for i, (label, keep) in enumerate(cuts.items()):
                color, n = plots.COLORS[1 + i], int(torch.isfinite(keep(z)).sum())
                panel.axvline(n + 0.5, color=color, lw=1.8)
                panel.text(39.5, 0.55 / 2.2**i, f"{label}: {n}", color=color, ha="right")
            title = f"the model is {name}: entropy {entropy[at]:.2f} nats"
            panel.set_title(title, fontsize=11, weight="normal")
            panel.set(xlabel="character, by rank", yscale="log", ylim=(1e-4, 1), xlim=(0, 40.5))
        axes[0].set_ylabel("probability")


def top_p_off_by_one(run: Run, model: Llama, text: Int[Tensor, " n"]) -> None:
    """Failure on display: a top-p that drops the token which carries the sum over p."""
    z = held_out_logits(model, text, run.budget(quick=2, default=16), run.generator(3))
    p = z.softmax(-1)
    kept = {"": p * torch.isfinite(sampling.keep_top_p(z, 0.9))}
    ranked, order = p.sort(descending=True)
    inside = ranked.cumsum(-1) <= 0.9  # the bug: the sum includes the token itself
    inside[:, 0] = True
    kept[" if off by one"] = p * torch.zeros_like(inside).scatter(-1, order, inside)
    mass = {name: of_kept.sum(-1).double().numpy() for name, of_kept in kept.items()}
    for name, of_kept in kept.items():
        run.metric(f"mass that top-p 0.9 keeps{name}", mass[name].mean(), rtol=0.1)
        left = (of_kept > 0).sum(-1).double().mean()
        run.metric(f"characters that it leaves{name}", left, rtol=0.3)
    never, note = "top-p never keeps less than p", "mass kept of each distribution, p = 0.9"
    run.claim(never, mass[""], at_least=0.9 - 1e-5, each=True, note=note)
    share = f"{np.mean(mass[' if off by one'] < 0.9):.0%} of them keep less"
    run.falsifier("off by one", mass[" if off by one"], breaks=never, note=share)


# ---- loops


def repeated(texts: Int[np.ndarray, "row n"], n: int = 12) -> Float[np.ndarray, "row n"]:
    """Whether the n tokens ending at each position stood earlier in the same text."""
    result = np.full(texts.shape, np.nan)
    for row, text in enumerate(texts.tolist()):
        seen = set()
        for end in range(n, len(text) + 1):
            gram = tuple(text[end - n : end])
            result[row, end - 1] = gram in seen
            seen.add(gram)
    return result


@one_thread()
def draw_loops(run: Run, model: Llama, text: Int[Tensor, " n"], length: int) -> None:
    """Failure on display: the likeliest text is a loop."""
    n_rows, prompt = run.budget(quick=4, default=48), 16
    starts = torch.randint(len(text) - prompt - length, (n_rows,), generator=run.generator(4))
    manual = torch.stack([text[s : s + prompt + length] for s in starts])
    methods = {
        "greedy": greedy,
        "repetition penalty 1.2": Sampler(temperature=0, repetition_penalty=1.2),
        "temperature 0.5": Sampler(temperature=0.5),
        "top-p 0.9": Sampler(top_p=0.9),
        "temperature 1": Sampler(),
    }
    curves = {}
    for name, choose in methods.items():
        options = {"choose": choose, "generator": run.generator(5)}
        steps = list(generate(model, manual[:, :prompt], length, **options))
        written = torch.cat([manual[:, :prompt], torch.stack(steps, dim=1)], dim=1)
        curves[name] = repeated(written.numpy())
    curves["the manual itself"] = repeated(manual.numpy())
    ends = {name: np.nanmean(c[:, -(length // 3) :], axis=1) for name, c in curves.items()}
    for name in ("greedy", "repetition penalty 1.2", "temperature 1", "the manual itself"):
        run.metric(f"repeated at the end, {name}", ends[name].mean(), rtol=None)
    loops = "greedy text runs into loops that sampled text does not"
    note = "share of repeated places in the last third, greedy minus temperature 1"
    difference = ends["greedy"] - ends["temperature 1"]
    run.claim(loops, difference, at_least=0.3, note=note, quick=False, rtol=None)
    human = ends["the manual itself"] - ends["temperature 1"]
    run.falsifier("the manual in greedy's place", human, breaks=loops)
    window = np.ones(max(3, length // 12)) / max(3, length // 12)
    smooth = {
        name.replace(" penalty", "\npenalty"): 100
        * np.convolve(np.nanmean(c[:, prompt + 12 :], axis=0), window, mode="valid")
        for name, c in curves.items()
    }
    colors = [plots.ORANGE, plots.PINK, plots.YELLOW, plots.GREEN, plots.BLUE, plots.REFERENCE]
    x = 12 + np.arange(len(smooth["greedy"])) + length // 24
    labels = {"xlabel": "characters written", "ylim": (-1, 100)}
    labels["ylabel"] = "places where the last 12 are a repeat (%)"
    with run.figure("loops", "How soon does the likeliest text repeat itself?") as axes:
        plots.curves(axes, x, smooth, colors=colors, **labels)
