r"""Which task without labels prepares an encoder–decoder best: noise, a prefix, or order?

Three objectives on the same sentences, each with a target that the decoder writes: what was cut out
(denoising), the end of a text from its beginning (a prefix language model), and the text from its
words in random order (deshuffling). Then all models learn the same three labeled tasks, as texts
for texts:

$$ \mathrm{score} = \tfrac{1}{3} \big( \text{agreement} + \text{copying} + \text{entailment} \big),
   \quad \text{each the share of answers that are right in every word.} $$

Reduced: sentences of a grammar with 28 words instead of web pages, one layer per stack instead of
twelve. The tasks and rules stand in the front matter of README.md.

    uv run papers/2020-t5/reproduce.py

Raffel et al. (2020), "Exploring the limits of transfer learning with a unified text-to-text
transformer", section 3.3.1 and table 4.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from shared import papers, plots
from shared.require import require
from shared.study import PositiveInt, Run, cli
from week11.batches import pad
from week14.span_corruption import EOS, PAD, corrupt_spans, deshuffle, prefix, restore
from week14.t5 import T5, T5Config, greedy, training_losses
from week14.t5_twin import randomize, transformers_twin

NOUNS, VERBS = ("cat", "dog", "bird", "horse", "lion"), ("see", "like", "chase")
ADJECTIVES, PLACES, TASKS = (
    ("big", "red"),
    ("near", "behind"),
    ("agreement", "copying", "entailment"),
)
WORDS = ["yes", "no", "[", "]", "|", *TASKS, *ADJECTIVES, *PLACES]
WORDS += [word + s for word in NOUNS + VERBS for s in ("", "s")]
PACKED, SENTINELS = 4, 16
IDS = {word: i for i, word in enumerate(WORDS, start=EOS + 1)}
VOCAB = EOS + 1 + len(WORDS) + SENTINELS

OBJECTIVES = {"denoising": partial(corrupt_spans, density=0.25, mean_span=1.5)}
OBJECTIVES |= {"prefix": prefix, "deshuffling": deshuffle}
ARMS = (*OBJECTIVES, "shuffled words", "nothing")
SIZES = T5Config(VOCAB, d_model=48, n_layers=1)
Pair = tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]


# ---- a language, and three questions about it


def phrase(rng: np.random.Generator) -> list[str]:
    """A noun, of one or of many, and perhaps an adjective before it."""
    noun = str(rng.choice(NOUNS)) + ("s" if rng.random() < 0.5 else "")
    return [str(rng.choice(ADJECTIVES)), noun] if rng.random() < 0.5 else [noun]


def sentence(rng: np.random.Generator) -> dict[str, list[str]]:
    """Subject, place (or none), verb and object; the verb agrees with the subject in number."""
    subject, other, thing = phrase(rng), phrase(rng), phrase(rng)
    place = [str(rng.choice(PLACES)), *other] if rng.random() < 0.5 else []
    verb = str(rng.choice(VERBS)) + ("" if subject[-1].endswith("s") else "s")
    return {"subject": subject, "place": place, "verb": [verb], "object": thing}


def words_of(parts: dict[str, list[str]]) -> list[str]:
    """The sentence in order."""
    return [word for name in ("subject", "place", "verb", "object") for word in parts[name]]


def encode(words: list[str]) -> Int[np.ndarray, " n"]:
    """Ids of words."""
    return np.array([IDS[word] for word in words])


def other_number(verb: str) -> str:
    """The verb in the form that does not agree."""
    return verb[:-1] if verb.endswith("s") else verb + "s"


def ask(task: str, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """A question and its answer.

    agreement: the verb as it must be; half of them stand there wrong. copying: the words in
    brackets. entailment: is it true what is said of the subject? In half the questions one noun or
    verb is another.
    """
    require(task in TASKS, f"task must be one of {', '.join(TASKS)}", task)
    parts, right = sentence(rng), bool(rng.integers(2))
    words, answer = words_of(parts), ["yes" if right else "no"]
    if task == "copying":
        start = int(rng.integers(len(words) - 1))
        end = start + int(rng.integers(1, 3))
        return [task, *words[:start], "[", *words[start:end], "]", *words[end:]], words[start:end]
    if task == "agreement":
        verb = parts["verb"][0]
        shown = verb if right else other_number(verb)
        return [task, *words_of(parts | {"verb": [shown]})], [verb]
    short = [parts["subject"][-1], parts["verb"][0]]
    if not right:  # who else did it, or what else was done
        nouns = [noun for noun in NOUNS if noun[:3] != short[0][:3]]
        verbs = [verb for verb in VERBS if verb[:3] != short[1][:3]]
        ends = "s" * short[0].endswith("s"), "s" * short[1].endswith("s")
        which = int(rng.integers(2))
        short[which] = str(rng.choice((nouns, verbs)[which])) + ends[which]
    return [task, *words, "|", *short], answer


# ---- training


def batches(
    make: Callable[[np.random.Generator], Pair], seed: int, size: int
) -> Iterator[tuple[Int[Tensor, "batch source"], Int[Tensor, "batch target"]]]:
    """Endless batches of padded pairs."""
    rng = np.random.default_rng(seed)
    while True:
        yield as_batch([make(rng) for _ in range(size)])


def as_batch(pairs: list[Pair]) -> tuple[Int[Tensor, "batch source"], Int[Tensor, "batch target"]]:
    """Padded sources and targets."""
    return tuple(pad([pair[side].tolist() for pair in pairs], PAD)[0] for side in (0, 1))


def unlabeled(objective: str, shuffled: bool = False) -> Callable[[np.random.Generator], Pair]:
    """Sides of an objective, of sentences in a row or of their words in random order.

    What the sentences are and what is done to them are drawn from two generators, so that all
    objectives of a seed see the same sentences.
    """

    def make(rng: np.random.Generator) -> Pair:
        text, noise = (np.random.default_rng(s) for s in rng.integers(2**32, size=2))
        tokens = np.concatenate([encode(words_of(sentence(text))) for _ in range(PACKED)])
        tokens = noise.permutation(tokens) if shuffled else tokens
        return OBJECTIVES[objective](tokens, noise, VOCAB)

    return make


def labeled(seed: int, n: int, task: str | None = None) -> list[Pair]:
    """Questions of the tasks in turn, or of one, and their answers."""
    rng = np.random.default_rng(seed)
    asked = [ask(task or TASKS[i % len(TASKS)], rng) for i in range(n)]
    return [tuple(np.append(encode(words), EOS) for words in pair) for pair in asked]


def pretrain(arm: str, seed: int, *, steps: int, lr: float) -> T5:
    """A model that has learned one of the `ARMS`; all of a seed start alike."""
    require(arm in ARMS, f"arm must be one of {', '.join(ARMS)}", arm)
    model = T5(SIZES, torch.Generator().manual_seed(seed))
    if arm != "nothing":
        shuffled = arm == "shuffled words"
        make = unlabeled("denoising" if shuffled else arm, shuffled)
        list(training_losses(model, batches(make, seed, 8), steps=steps, lr=lr))
    return model


def fine_tune(model: T5, seed: int, *, steps: int, lr: float) -> None:
    """Learn the tasks together, from 1,000 labeled questions of each."""
    examples = labeled(seed + 5000, 3000)
    going = batches(lambda rng: examples[rng.integers(len(examples))], seed, 24)
    list(training_losses(model, going, steps=steps, lr=lr))


def accuracy(model: T5, pairs: list[Pair]) -> float:
    """Percent of the answers that are right in every word."""
    source, target = as_batch(pairs)
    found = greedy(model, source, max_len=target.shape[1])
    found = F.pad(found, (0, target.shape[1] - found.shape[1]), value=PAD)
    return 100 * (found == target).all(1).double().mean().item()


# ---- the run


def main(
    run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 200, tuning: PositiveInt = 120
) -> None:
    """Pre-train with each objective, fine-tune, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Models of each objective.
    steps
        Batches of 8 texts of four sentences in pre-training.
    tuning
        Batches of 24 questions in fine-tuning.
    """
    paper = papers.load(__file__)
    run.rounding(0.05, "float32 sums in another order, over some steps of training")
    torch.set_num_threads(1)  # matrices of 48 columns are too small to share
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps = run.budget(quick=2, default=steps, full=8 * steps)
    tuning = run.budget(quick=2, default=tuning, full=4 * tuning)
    lr, n_test = paper.matter["lr"], run.budget(quick=20, default=400)
    scores: dict[str, dict[str, list[float]]] = {arm: {t: [] for t in TASKS} for arm in ARMS}
    for seed in run.progress(range(run.seed, run.seed + seeds), "training"):
        tests = {task: labeled(seed + 9000, n_test, task) for task in TASKS}
        for arm in ARMS:
            model = pretrain(arm, seed, steps=steps, lr=lr)
            fine_tune(model, seed, steps=tuning, lr=lr)
            for task, pairs in tests.items():
                scores[arm][task].append(accuracy(model, pairs))
    judge(run, paper, scores)
    draw(run, scores, paper.matter["paper_glue"])


def judge(run: Run, paper: papers.Paper, scores: dict[str, dict[str, list[float]]]) -> None:
    """Differences of the mean over the tasks, paired by seed."""
    mean = {arm: np.mean(list(tasks.values()), axis=0) for arm, tasks in scores.items()}
    late = {"quick": False, "rtol": None}
    for first, second in (
        ("denoising", "deshuffling"),
        ("denoising", "prefix"),
        ("prefix", "deshuffling"),
    ):
        name = f"{first} prepares better than {second}"
        paper.judge(run, name, mean[first] - mean[second], **late)
    claim = "denoising prepares better than deshuffling"
    without = mean["shuffled words"] - mean["deshuffling"]
    run.falsifier("denoising of shuffled words", without, breaks=claim)
    for arm, tasks in scores.items():
        run.metric(f"score after {arm}", mean[arm].mean(), "%", rtol=0.2)
        for task, values in tasks.items():
            run.metric(f"{task} after {arm}", np.mean(values), "%", rtol=0.3)


def check(run: Run) -> None:
    """Splicing restores the sentences, and transformers' model gives the same answers."""
    make, rng = np.random.default_rng(run.seed), np.random.default_rng(run.seed)
    tokens = np.concatenate([encode(words_of(sentence(make))) for _ in range(PACKED)])
    source, target = OBJECTIVES["denoising"](tokens, rng, VOCAB)
    spliced = restore(source, target, vocab_size=VOCAB)
    run.check("spliced", spliced, tokens, against="the text", kind="theorem", why="whole numbers")
    model = randomize(T5(SIZES), seed=run.seed)
    source, target = as_batch(labeled(run.seed, 9))
    keep = (source != PAD).long()
    theirs = transformers_twin(model)(input_ids=source, attention_mask=keep, labels=target).logits
    equal = run.against(
        "transformers T5ForConditionalGeneration", atol=1e-4, why="float32 rounding"
    )
    equal("logits of answers", model(source, target), theirs, rtol=1e-4)


def draw(run: Run, scores: dict[str, dict[str, list[float]]], paper_glue: dict) -> None:
    """The paper's averages, and our scores by task."""
    with run.figure(
        "scores",
        "Which task without labels prepares best?",
        columns=2,
        size=(9.6, 4.4),
        width_ratios=[1, 1.6],
    ) as (left, right):
        plots.bars(left, paper_glue, xlabel="GLUE average\n(the paper, table 4)", xlim=(60, 90))
        bars = {arm: np.mean(list(tasks.values()), axis=0) for arm, tasks in scores.items()}
        plots.bars(right, bars, colors=plots.COLORS, xlabel="right answers, mean of three tasks, %")


if __name__ == "__main__":
    cli(main)
