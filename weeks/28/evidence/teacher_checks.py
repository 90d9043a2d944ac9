"""Leaks against all spellings, the judge judged, training against transformers and torch."""

import copy
import random
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shared.study import Run
from week18.gguf_tokenizer import GGUFTokenizer
from week18.llama3 import Llama, LlamaConfig
from week18.transformers_twin import randomize, transformers_twin
from week21.dpo import Preference
from week28.good_teacher import draw_pairs, known, pair_log_probs, prefer, preference
from week28.lessons import JUDGING, TEACHING
from week28.numbers_said import ROUND, UNITS, values_in
from week28.rubric import MARKS, Rubric, labeled
from week28.word_problems import HELD_OUT, TAUGHT

# ---- leaks


def spellings(n: int) -> Iterator[str]:
    """Ways to write a number below 10,000 in words, by looking up its digits."""
    units, tens = UNITS.split(), {n: word for word, n in ROUND.items()}
    if n < 20:
        yield units[n]
    elif n < 100:
        rest = f" {units[n % 10]}" if n % 10 else ""
        yield from {tens[n - n % 10] + rest, tens[n - n % 10] + rest.replace(" ", "-")}
    else:
        base, word = (100, "hundred") if n < 1000 else (1000, "thousand")
        heads = [units[n // base], *(["a"] if n // base == 1 else [])]
        tails = [f"{link}{rest}" for rest in spellings(n % base) for link in (" ", " and ")]
        yield from (
            f"{head} {word}{tail}" for head in heads for tail in (tails if n % base else [""])
        )


def check_numbers(run: Run) -> None:
    """Every spelling below a limit, alone and among others."""
    chance = random.Random(run.seed)
    numbers = range(run.budget(quick=400, default=2000, full=10_000))
    texts = [(n, text) for n in numbers for text in spellings(n)]
    exact = run.against("a list of all spellings", kind="theorem", why="whole numbers")
    read = [values_in(f"So it is {text}, then.") for _, text in texts]
    ours = [int(max(values, default=-1)) if len(values) == 1 else -2 for values in read]
    exact("numbers in words", ours, [n for n, _ in texts])
    found, expected = [], []
    for _ in range(len(texts) // 4):
        some = chance.sample(texts, 3)
        a, b = chance.randint(1, 30), chance.randint(2, 30)
        forms = [text for _, text in some] + [f"{a}/{a * b + 1}", f"{1000 * a:,}.5"]
        values = {n for n, _ in some} | {Fraction(a, a * b + 1), 1000 * a + Fraction(1, 2)}
        text = chance.choice([" plus ", ", ", " or "]).join(chance.sample(forms, len(forms)))
        found.append(float(sum(values_in(text))))
        expected.append(float(sum(values)))
    exact("three numbers, a fraction and a decimal in a row", found, expected)


# ---- the judge


def judge_the_judge(run: Run) -> None:
    """How often the rubric's marks are those of replies in sentences it has never read."""
    n = run.budget(quick=120, default=240)
    right, own, by_chance = [], [], []
    for seed in range(run.seed, run.seed + run.budget(quick=2, default=3, full=8)):
        chance = random.Random(3000 + seed)
        known_replies = [r for _, r in labeled(TAUGHT, n, JUDGING, chance)]
        new, read = (labeled(HELD_OUT, n, bank, chance) for bank in (TEACHING, JUDGING))
        rubric = Rubric().fit(known_replies)
        labels = chance.sample(known_replies, n)
        drawn = [r._replace(text=k.text) for r, k in zip(labels, known_replies, strict=True)]
        guess = Rubric().fit(drawn)
        right.append(agreement(rubric, new))
        own.append(agreement(rubric, read))
        by_chance.append(agreement(guess, new))
    seen = "six other seeds: 0.86 to 0.93 by mark"
    rule = {"at_least": 0.8, "seen_before": seen, "quick": False}
    name = "the judge marks replies in sentences it never read"
    run.claim(name, np.mean(right, axis=1), rtol=0.05, **rule)
    run.falsifier(
        "learned from the labels of other replies", np.mean(by_chance, axis=1), breaks=name
    )
    for i, mark in enumerate(MARKS):
        run.metric(
            f"{mark.replace('_', ' ')}, right in new sentences", np.mean(right, 0)[i], rtol=0.05
        )
    run.metric("right in the sentences it read, other problems", np.mean(own), rtol=0.05)


def agreement(rubric: Rubric, replies: list) -> np.ndarray:
    """Share of right marks, per mark."""
    marks = rubric.marks([r.text for _, r in replies])
    return (marks == np.array([r[1:] for _, r in replies])).mean(0)


# ---- training, against transformers


def tiny(run: Run) -> tuple[Llama, GGUFTokenizer]:
    """A random LLaMA of two layers that reads bytes, and its tokenizer."""
    from week15.merges import printable_bytes

    tokens = [*printable_bytes().values(), "<|im_start|>", "<|im_end|>"]
    tokenizer = GGUFTokenizer(tokens, [1] * 256 + [3, 3], [], cut="smollm", end=257)
    sizes = {"d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "context": 1024}
    return randomize(Llama(LlamaConfig(258, **sizes), run.generator()), std=0.1), tokenizer


def one_by_one(model: torch.nn.Module, pairs: Sequence[Preference]) -> Tensor:
    """ln π of chosen and rejected from all logits of one text at a time, ours or transformers'."""
    found = []
    for pair in pairs:
        for said in (pair.chosen, pair.rejected):
            logits = model(torch.tensor([pair.prompt + said]))
            logits = getattr(logits, "logits", logits)[0, len(pair.prompt) - 1 : -1]
            found.append(-F.cross_entropy(logits, torch.tensor(said), reduction="sum"))
    return torch.stack(found).view(-1, 2)


def check_training(run: Run) -> None:
    """Log-probabilities, the first gradient and three steps of DPO, by transformers and torch."""
    model, tokenizer = tiny(run)
    if run.mode == "quick":  # transformers' import alone takes longer than a quick run
        theirs, by, kind = copy.deepcopy(model), "week 18", "consistency"
    else:
        theirs, by, kind = transformers_twin(model), "transformers, copied weights", "library"
    pairs = [preference(tokenizer, p) for p in draw_pairs(3, random.Random(run.seed))]
    near = run.against(by, kind=kind, rtol=1e-4, atol=1e-3, why="float32 sums")
    at_first, start = known(model, pairs), one_by_one(theirs, pairs).detach()
    near("ln π of replies in a batch", at_first, start)
    (ours,) = torch.autograd.grad(pair_log_probs(model, pairs).sum(), model.embed.weight)
    (other,) = torch.autograd.grad(one_by_one(theirs, pairs).sum(), next(theirs.parameters()))
    near("their gradient, of the embedding", ours, other, atol=1e-4 * float(other.abs().max()))
    losses = prefer(model, pairs, at_first, steps=3, batch_size=3, lr=1e-3, seed=0)
    optimizer, expected = torch.optim.AdamW(theirs.parameters(), weight_decay=0.0), []
    for step in range(3):
        ratio = one_by_one(theirs, pairs) - start
        loss = -F.logsigmoid(0.1 * (ratio[:, 0] - ratio[:, 1])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / 3)
        optimizer.step()
        expected.append(loss.item())
    near("losses of three steps of DPO, by torch's AdamW", list(losses), expected, rtol=1e-3)


def check_smollm2(run: Run, model: Llama, tokenizer: GGUFTokenizer) -> None:
    """The same of the real model's first replies."""
    pairs = [preference(tokenizer, p) for p in draw_pairs(2, random.Random(run.seed))]
    theirs = transformers_twin(model)
    with torch.no_grad():
        expected = one_by_one(theirs, pairs)
    library = {"against": "transformers, copied weights", "why": "float32 sums"}
    run.check("ln π of SmolLM2's replies", known(model, pairs), expected, rtol=1e-4, **library)
