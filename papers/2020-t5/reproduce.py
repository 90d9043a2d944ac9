r"""Which task without labels prepares an encoder–decoder best: noise, a prefix, or order?

Three objectives on the same sentences, each with a target that the decoder writes: the sentence
from one with words masked (BERT's noise), its end from its beginning (a prefix language model), the
sentence from its words in random order (deshuffling). Then all models learn the same three labeled
tasks, as texts for texts:

$$ \mathrm{score} = \tfrac{1}{3} \big( \text{agreement} + \text{copying} + \text{entailment} \big),
   \quad \text{each the share of answers that are right in every word.} $$

Reduced: sentences of a grammar with 46 words instead of web pages, 0.13 M weights instead of 220 M.
The tasks and rules stand in the front matter of README.md.

    uv run papers/2020-t5/reproduce.py

Raffel et al. (2020), "Exploring the limits of transfer learning with a unified text-to-text
transformer", section 3.3.1 and table 4.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared import papers, plots
from shared.require import require
from shared.study import PositiveInt, Run, cli
from week11.batches import pad
from week14.span_corruption import EOS, PAD, corrupt_spans, deshuffle, prefix
from week14.t5 import T5, T5Config, greedy, training_losses

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
        rows = [make(rng) for _ in range(size)]
        yield tuple(pad([row[side].tolist() for row in rows], PAD)[0] for side in (0, 1))


def unlabeled(objective: str, shuffled: bool = False) -> Callable[[np.random.Generator], Pair]:
    """Sides of an objective, of sentences or of sentences in random order.

    What a sentence is and what is done to it are drawn from two generators, so that all objectives
    of a seed see the same sentences.
    """

    def make(rng: np.random.Generator) -> Pair:
        text, noise = (np.random.default_rng(s) for s in rng.integers(2**32, size=2))
        tokens = np.concatenate([encode(words_of(sentence(text))) for _ in range(PACKED)])
        tokens = noise.permutation(tokens) if shuffled else tokens
        return OBJECTIVES[objective](tokens, noise, VOCAB)

    return make


def labeled(seed: int, n: int, task: str | None = None) -> list[Pair]:
    """Examples of the tasks in turn, or of one."""
    rng = np.random.default_rng(seed)
    asked = [ask(task or TASKS[i % len(TASKS)], rng) for i in range(n)]
    return [tuple(np.append(encode(words), EOS) for words in pair) for pair in asked]


def accuracy(model: T5, pairs: list[Pair]) -> float:
    """Percent of the answers that are right in every word."""
    source, target = (pad([pair[side].tolist() for pair in pairs], PAD)[0] for side in (0, 1))
    found = greedy(model, source, max_len=target.shape[1])
    found = torch.nn.functional.pad(found, (0, target.shape[1] - found.shape[1]), value=PAD)
    return 100 * (found == target).all(1).double().mean().item()


def learn(model: T5, seed: int, n: int, *, steps: int, lr: float, batch_size: int = 24) -> None:
    """Fine-tune on n labeled examples of all tasks together."""
    examples = labeled(seed, n)
    going = batches(lambda rng: examples[rng.integers(n)], seed, batch_size)
    list(training_losses(model, going, steps=steps, lr=lr))
