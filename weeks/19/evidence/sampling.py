"""Checks, claims and figures of `sampling.py` and `beam_search.py`, apart from them."""

import contextlib
import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shared import datasets, plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week09.muon import Muon
from week09.optimizers import AdamW
from week14.minimal_gpt import random_batch
from week14.ngram import encode_characters
from week18.llama3 import Llama, LlamaConfig
from week19 import sampling
from week19.beam_search import beam_search, cached_step
from week19.evidence.kv_cache import hugging_face_twin, small_llama
from week19.kv_cache import generate
from week19.sampling import Sampler, draw, greedy

CONTEXT = 256


@contextlib.contextmanager
def one_thread():
    """Products this small are slower on several threads, and far slower on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def awkward_logits(generator: torch.Generator, batch: int = 64, vocab: int = 50) -> Tensor:
    """Random logits, with ties in some rows and impossible tokens in others."""
    logits = 3 * torch.randn(batch, vocab, generator=generator)
    logits[::4] = logits[::4].round()  # many ties, also at the filters' borders
    logits[1::4, ::3] = -torch.inf
    logits[2::8] = 0.0
    return logits


# ---- checks


def check_filters(run: Run) -> None:
    """Each function, and all of them in turn, against transformers' processors."""
    import transformers as hf

    logits = awkward_logits(run.generator())
    history = torch.randint(50, (64, 20), generator=run.generator(1))
    least = {"min_tokens_to_keep": 3}
    both = {
        "temperature": (
            sampling.apply_temperature(logits, 0.7),
            hf.TemperatureLogitsWarper(0.7),
        ),
        "top-k": (sampling.keep_top_k(logits, 7), hf.TopKLogitsWarper(7)),
        "top-p": (sampling.keep_top_p(logits, 0.8), hf.TopPLogitsWarper(0.8)),
        "top-p, at least 3": (
            sampling.keep_top_p(logits, 0.3, **least),
            hf.TopPLogitsWarper(0.3, **least),
        ),
        "min-p": (sampling.keep_min_p(logits, 0.1), hf.MinPLogitsWarper(0.1)),
        "min-p, at least 3": (
            sampling.keep_min_p(logits, 0.9, **least),
            hf.MinPLogitsWarper(0.9, **least),
        ),
        "typical": (sampling.keep_typical(logits, 0.6), hf.TypicalLogitsWarper(0.6)),
        "repetition penalty": (
            sampling.penalize_repetition(logits, history, 1.3),
            hf.RepetitionPenaltyLogitsProcessor(1.3),
        ),
    }
    for name, (ours, processor) in both.items():
        run.check(name, ours, processor(history, logits), against="transformers",
                  why="the same operations on the same numbers")  # fmt: skip
    chain = hf.LogitsProcessorList(
        [
            hf.RepetitionPenaltyLogitsProcessor(1.2),
            hf.TemperatureLogitsWarper(0.8),
            hf.TopKLogitsWarper(30),
            hf.TopPLogitsWarper(0.95),
            hf.MinPLogitsWarper(0.02),
            hf.TypicalLogitsWarper(0.9),
        ]
    )
    sampler = Sampler(
        temperature=0.8, top_k=30, top_p=0.95, min_p=0.02, typical=0.9, repetition_penalty=1.2
    )
    run.check("all of them in turn", sampler.process(logits, history), chain(history, logits),
              against="transformers, in its order", why="the same operations")  # fmt: skip


def check_draws(run: Run) -> None:
    """Drawn frequencies against the softmax, and a row against itself in another batch."""
    from scipy.stats import chisquare

    n, seeds = run.budget(quick=2000, default=20_000), run.budget(quick=4, default=20)
    logits = sampling.keep_top_p(torch.tensor([[2.0, 1.0, 0.5, 0.0, -0.5, -1.0, -6.0]]), 0.98)
    alive = torch.isfinite(logits[0])

    def p_value(seed: int, temperature: float) -> float:
        tokens = draw(logits.expand(n, -1) / temperature, run.generator(100 + seed))
        counts = torch.bincount(tokens, minlength=7)
        if counts[~alive].any():
            return 0.0
        return float(chisquare(counts[alive], n * logits.double().softmax(-1)[0, alive]).pvalue)

    right = [p_value(seed, 1.0) for seed in range(seeds)]
    wrong = [p_value(seed, 1.25) for seed in range(seeds)]
    run.claim(
        "draws follow the filtered softmax, and the χ² test would see a temperature of 1.25",
        min(right) * seeds > 1e-3 and max(wrong) < 1e-3,
        f"{seeds} seeds of {n} draws: smallest p-value {min(right):.3f}, of the control the "
        f"largest {max(wrong):.0e}",
    )
    model = small_llama(run.seed, std=0.1)
    prompts = [[3, 1, 4], [1, 5, 9, 2, 6], [5, 3], [5, 8, 9, 7]]
    sampler = Sampler(temperature=0.9, top_p=0.95)

    def write(rows, generator):
        steps = generate(model, rows, 24, choose=sampler, generator=generator)
        return torch.stack(list(steps), dim=1)

    together = write(prompts, [run.generator(i) for i in range(4)])
    alone = [write([p], run.generator(i)) for i, p in enumerate(prompts)]
    run.check("sampled tokens of four prompts in one batch", together, torch.cat(alone),
              against="each prompt by itself, its own generator",
              why="tokens are equal or not")  # fmt: skip
    one_generator = write(prompts, run.generator())
    run.claim(
        "with one generator for the batch, rows get other tokens than by themselves",
        bool((one_generator[1:] != write(prompts[1:], run.generator())).any()),
        "the last three rows differ once the first is left out",
    )


def brute_force(model: Llama, prompt: Tensor, n: int, stop: int, penalty: float):
    """Best text and score by enumeration of all texts of up to n tokens, whole passes only."""
    vocab = model.config.vocab_size
    scores = {}
    for text in itertools.product(range(vocab), repeat=n):
        end = text.index(stop) + 1 if stop in text else n
        scores[text[:end]] = None
    for length in range(1, n + 1):
        texts = [t for t in scores if len(t) == length]
        if not texts:
            continue
        rows = torch.cat([prompt.expand(len(texts), -1), torch.tensor(texts)], dim=1)
        log_p = model(rows[:, :-1]).log_softmax(-1)[:, len(prompt) - 1 :]
        sums = log_p.gather(-1, rows[:, len(prompt) :, None]).sum((1, 2))
        scores |= dict(zip(texts, (sums / length**penalty).tolist(), strict=True))
    best = max(scores, key=scores.get)
    return best, scores[best]


@one_thread()
@torch.no_grad()
def check_beam_search(run: Run) -> None:
    """With enough beams it is the enumeration; with few it is transformers'."""
    model = small_llama(run.seed, std=0.4, vocab_size=5)
    prompt = torch.tensor([1, 3, 2])
    ours, reference = [], []
    for penalty in (0.0, 1.0, 2.0):
        text, score = brute_force(model, prompt, 4, 0, penalty)
        logits, step = cached_step(model, prompt, 4)
        best = beam_search(logits, step, 4, n_beams=5**3, length_penalty=penalty,
                           early_stopping="never", stop=(0,))[0]  # fmt: skip
        ours.append([best.score, len(best.tokens), *best.tokens, *[-1] * (4 - len(best.tokens))])
        reference.append([score, len(text), *text, *[-1] * (4 - len(text))])
    run.check("best of all texts, 125 beams", ours, reference, against="enumeration of all texts",
              atol=1e-5, why="float32 rounding of scores; tokens exact")  # fmt: skip

    ours, reference, shorter = [], [], 0
    cases = list(itertools.product((2, 5), (0.0, 1.0), (False, True, "never")))
    for seed, (n_beams, penalty, early) in enumerate(cases):
        model = small_llama(run.seed + seed, vocab_size=13)
        prompt = torch.randint(13, (4,), generator=run.generator(seed))
        logits, step = cached_step(model, prompt, 10)
        best = beam_search(logits, step, 10, n_beams=n_beams, length_penalty=penalty,
                           early_stopping=early, stop=(7,))[0]  # fmt: skip
        out = hugging_face_twin(model).generate(
            prompt[None], attention_mask=torch.ones(1, 4, dtype=torch.long), max_new_tokens=10,
            num_beams=n_beams, length_penalty=penalty, early_stopping=early, do_sample=False,
            eos_token_id=7, pad_token_id=7, return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
        shorter += len(best.tokens) < 10
        ours.append([best.score, *best.tokens, *[7] * (10 - len(best.tokens))])
        theirs = out.sequences[0, 4:].tolist()
        reference.append([out.sequences_scores.item(), *theirs, *[7] * (10 - len(theirs))])
    run.say(f"beam search: {shorter} of {len(cases)} texts end with the stop token")
    run.check("beam search, 12 settings", ours, reference, against="transformers generate",
              atol=1e-4, why="float32 rounding of scores; tokens exact")  # fmt: skip


# ---- a model to sample from


@one_thread()
def train_characters(run: Run, steps: int) -> tuple[Llama, Tensor]:
    """A small LLaMA that has read Python's manual, and the held-out text."""
    encoded, alphabet = encode_characters(datasets.load_text("pydocs"))
    tokens = torch.from_numpy(encoded)
    train, held_out = tokens[: -len(tokens) // 10], tokens[-len(tokens) // 10 :]
    shares = torch.bincount(train).double() / len(train)
    frequencies = float(-(shares * shares.clamp(min=1e-12).log()).sum())
    losses, control = {}, 0.0
    for shuffled in (False, True):
        config = LlamaConfig(len(alphabet), d_model=96, n_layers=2, n_heads=4, n_kv_heads=2,
                             context=2 * CONTEXT, rope_base=10_000.0)  # fmt: skip
        model = Llama(config, run.generator())
        matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
        chosen = {id(p) for p in matrices}
        rest = [p for p in model.parameters() if id(p) not in chosen]
        optimizers = [
            Muon(matrices, lr=0.02),
            AdamW(rest, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        peaks = [o.lr for o in optimizers]
        generator = run.generator()
        n = max(3, steps // 3) if shuffled else steps
        for i in run.progress(range(n), "control" if shuffled else "training"):
            x, y = random_batch(train, 4, CONTEXT, generator)
            if shuffled:
                y = y.flatten()[torch.randperm(y.numel(), generator=generator)].view_as(y)
            loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
            for o, peak in zip(optimizers, peaks, strict=True):
                o.zero_grad()
                o.lr = peak * (1 - i / n)
            loss.backward()
            for o in optimizers:
                o.step()
            losses.setdefault(shuffled, []).append(loss.item())
        with torch.no_grad():
            x, y = random_batch(held_out, 32, CONTEXT, run.generator(1))
            value = F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item()
        if shuffled:
            control = value
        else:
            trained, loss_held_out = model.eval(), value
    run.metric("held-out loss of the character model", loss_held_out, "nats/char", rtol=0.1)
    run.claim(
        "the model learns more than letter frequencies, and with shuffled targets it does not",
        loss_held_out < frequencies - 0.5 and control > frequencies - 0.1,
        f"held-out loss {loss_held_out:.2f}, control {control:.2f}, "
        f"letter frequencies {frequencies:.2f} nats/char",
        quick=False,
    )
    return trained, held_out


@torch.no_grad()
def held_out_logits(model: Llama, text: Tensor, rows: int, generator) -> Tensor:
    """Logits at all positions of random windows, (rows · context, vocab)."""
    x, _ = random_batch(text, rows, CONTEXT, generator)
    return model(x)[:, 16:].flatten(0, 1)


# ---- claims and figures


def draw_filters(run: Run, model: Llama, text: Tensor) -> None:
    """Two real distributions, one sure and one not, and where each filter cuts them."""
    logits = held_out_logits(model, text, 4, run.generator(2))
    entropy = torch.distributions.Categorical(logits=logits).entropy()
    order = entropy.argsort()
    cuts = {
        "top-k, k = 10": (lambda z: sampling.keep_top_k(z, 10), plots.ORANGE),
        "top-p, p = 0.9": (lambda z: sampling.keep_top_p(z, 0.9), plots.GREEN),
        "min-p, p = 0.1": (lambda z: sampling.keep_min_p(z, 0.1), plots.PINK),
    }
    title = "How many characters does each filter leave?"
    with run.figure("filters", title, 1, 2, size=(8.0, 4.3), sharey=True) as axes:
        for panel, share, name in zip(axes, (0.15, 0.9), ("sure", "unsure"), strict=True):
            at = order[int(share * len(order))]
            z = logits[at][None]
            p = z.softmax(-1)[0].sort(descending=True).values[:40]
            panel.bar(np.arange(1, 41), p, color=plots.SKY, width=1.0, linewidth=0)
            for i, (label, (keep, color)) in enumerate(cuts.items()):
                n = int(torch.isfinite(keep(z)).sum())
                panel.axvline(n + 0.5, color=color, lw=1.8)
                panel.text(39.5, 0.55 / 2.2**i, f"{label}: {n}", color=color, ha="right",
                           fontsize=10)  # fmt: skip
            panel.set_title(f"the model is {name}: entropy {entropy[at]:.2f} nats", fontsize=11,
                            weight="normal")  # fmt: skip
            panel.set(xlabel="character, by rank", yscale="log", ylim=(1e-4, 1), xlim=(0, 40.5))
        axes[0].set_ylabel("probability")


def top_p_off_by_one(run: Run, model: Llama, text: Tensor) -> None:
    """Failure on display: a top-p that drops the token which carries the sum over p."""
    z = held_out_logits(model, text, run.budget(quick=2, default=16), run.generator(3))
    p = z.softmax(-1)
    right = p * torch.isfinite(sampling.keep_top_p(z, 0.9))
    ranked, order = p.sort(descending=True)
    inside = ranked.cumsum(-1) <= 0.9  # the bug: the sum includes the token itself
    inside[:, 0] = True
    wrong = p * torch.zeros_like(inside).scatter(-1, order, inside)
    share = float((wrong.sum(-1) < 0.9).float().mean())
    run.metric("mass that top-p 0.9 keeps", right.sum(-1).mean(), rtol=0.1)
    run.metric("mass it keeps if off by one", wrong.sum(-1).mean(), rtol=0.1)
    run.metric("characters it leaves", (right > 0).sum(-1).float().mean(), rtol=0.3)
    run.metric("characters it leaves if off by one", (wrong > 0).sum(-1).float().mean(), rtol=0.3)
    run.claim(
        "top-p never keeps less than p; off by one it usually does",
        bool((right.sum(-1) > 0.9 - 1e-5).all()) and share > 0.5,
        f"{len(z)} distributions: least mass {float(right.sum(-1).min()):.4f}; off by one, "
        f"{share:.0%} of them keep less than 0.9",
        quick=False,
    )


def repeated(texts: np.ndarray, n: int = 12) -> np.ndarray:
    """Whether the n tokens ending at each position stood earlier in the same text, (rows, len)."""
    result = np.full(texts.shape, np.nan)
    for row, text in enumerate(texts.tolist()):
        seen = set()
        for end in range(n, len(text) + 1):
            gram = tuple(text[end - n : end])
            result[row, end - 1] = gram in seen
            seen.add(gram)
    return result


@one_thread()
def draw_loops(run: Run, model: Llama, text: Tensor, length: int) -> None:
    """Failure on display: the likeliest text is a loop."""
    n_rows, prompt = run.budget(quick=4, default=48), 16
    starts = torch.randint(len(text) - prompt - length, (n_rows,), generator=run.generator(4))
    written = torch.stack([text[s : s + prompt + length] for s in starts])
    methods = {
        "greedy": (greedy, plots.ORANGE),
        "repetition\npenalty 1.2": (Sampler(temperature=0, repetition_penalty=1.2), plots.PINK),
        "temperature 0.5": (Sampler(temperature=0.5), plots.YELLOW),
        "top-p 0.9": (Sampler(top_p=0.9), plots.GREEN),
        "temperature 1": (Sampler(), plots.BLUE),
    }
    curves = {}
    for name, (choose, _) in methods.items():
        steps = generate(model, written[:, :prompt], length, choose=choose,
                         generator=run.generator(5))  # fmt: skip
        ours = torch.cat([written[:, :prompt], torch.stack(list(steps), dim=1)], dim=1)
        curves[name] = repeated(ours.numpy())
    human = repeated(written.numpy())
    last = length // 3
    ends = {name: np.nanmean(c[:, -last:], axis=1) for name, c in curves.items()}
    humans = np.nanmean(human[:, -last:], axis=1)
    for name, values in ends.items():
        run.metric(f"repeated at the end, {name.replace(chr(10), ' ')}", values.mean(), rtol=None)
    run.metric("repeated at the end, the manual itself", humans.mean(), rtol=None)
    difference = mean_interval(ends["greedy"] - ends["temperature 1"])
    run.claim(
        "greedy text runs into loops that sampled text does not",
        difference.low > 0.3,
        f"in the last third, 12 characters in a row stood there before: greedy "
        f"{mean_interval(ends['greedy'])} of the places, temperature 1 "
        f"{ends['temperature 1'].mean():.3f}, the manual itself {humans.mean():.3f}",
        quick=False,
    )

    def smooth(curve):
        width = max(3, length // 12)
        share = np.nanmean(curve[:, prompt + 12 :], axis=0)
        return np.convolve(share, np.ones(width) / width, mode="valid")

    with run.figure("loops", "How soon does the likeliest text repeat itself?") as axes:
        for name, (_, color) in methods.items():
            y = smooth(curves[name])
            axes.plot(12 + np.arange(len(y)) + length // 24, 100 * y, color=color, label=name)
        y = smooth(human)
        axes.plot(12 + np.arange(len(y)) + length // 24, 100 * y, color=plots.REFERENCE, ls="--",
                  lw=1.2, label="the manual itself")  # fmt: skip
        axes.set(xlabel="characters written", ylabel="places where the last 12 are a repeat (%)",
                 ylim=(-1, 100))  # fmt: skip
        plots.label_lines(axes)


def main(run: Run, *, steps: PositiveInt = 200, tokens: PositiveInt = 240) -> None:
    """Check filters and beam search against transformers, then see what each does to a text.

    Parameters
    ----------
    steps
        Training steps of the small character model.
    tokens
        Characters that it writes with each method.
    """
    check_filters(run)
    check_draws(run)
    check_beam_search(run)
    model, text = train_characters(run, run.budget(quick=6, default=steps))
    draw_filters(run, model, text)
    top_p_off_by_one(run, model, text)
    draw_loops(run, model, text, run.budget(quick=24, default=tokens))
