"""What is measured of a teacher: replies by the rubric, preferences, what it still knows."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from shared import datasets
from week18.gguf_tokenizer import GGUFTokenizer
from week18.llama3 import Llama
from week20.domain_lora import Reader, Row, choose, held_out_nats
from week21.dpo import Preference
from week28.good_teacher import draw_pairs, preference, prompt_ids, replies
from week28.lessons import JUDGING, Lesson, lessons
from week28.rubric import Rubric, labeled, names_the_step, scores, states_a_result
from week28.word_problems import HELD_OUT, TAUGHT

KNOWN = [  # a question, its answer, two wrong ones
    ("What is the capital of France?", "Paris", "Lyon", "Rome"),
    ("What is the capital of Japan?", "Tokyo", "Seoul", "Kyoto"),
    ("Which planet is the largest?", "Jupiter", "Mars", "Venus"),
    ("Who wrote Hamlet?", "William Shakespeare", "Charles Dickens", "Jane Austen"),
    ("What is the chemical symbol of gold?", "Au", "Go", "Ag"),
    ("What gas do plants take in?", "Carbon dioxide", "Oxygen", "Helium"),
    ("How many days has a week?", "Seven", "Five", "Nine"),
    ("What is frozen water called?", "Ice", "Steam", "Sand"),
    ("Which animal barks?", "A dog", "A cat", "A cow"),
    ("What color is the sky on a clear day?", "Blue", "Green", "Brown"),
    ("Which ocean is the largest?", "The Pacific Ocean", "The Arctic Ocean", "The Indian Ocean"),
    ("What do bees make?", "Honey", "Milk", "Silk"),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci", "Vincent van Gogh", "Pablo Picasso"),
    ("What is the opposite of hot?", "Cold", "Warm", "Dry"),
    ("In which country are the pyramids of Giza?", "Egypt", "Mexico", "Greece"),
    ("What organ pumps blood?", "The heart", "The liver", "The skin"),
]


class Material(NamedTuple):
    """What teachers are judged by: nothing of it is trained on."""

    rubric: Rubric
    given: list[Lesson]
    prompts: list[list[int]]
    pairs: list[Preference]
    windows: list[Row]
    questions: list[tuple[str, ...]]


class Judged(NamedTuple):
    """Of the replies to the same lessons, one row or number for each."""

    replies: list[str]
    marks: np.ndarray
    states: np.ndarray
    names: np.ndarray

    @property
    def score(self) -> np.ndarray:
        """The mean of the four marks."""
        return self.marks.mean(1)


class Knowledge(NamedTuple):
    """1 per question answered right; nats per token of each piece of text."""

    right: np.ndarray
    nats: np.ndarray


def material(tokenizer: GGUFTokenizer, seed: int, sizes: dict[str, int]) -> Material:
    """Held-out kinds, numbers and sentences; a rubric that has read the judge's bank only."""
    chance = random.Random(1000 + seed)
    rubric = Rubric().fit([r for _, r in labeled(TAUGHT, sizes["labeled"], JUDGING, chance)])
    given = lessons(HELD_OUT, sizes["prompts"], JUDGING, chance)
    pairs = draw_pairs(sizes["pairs"], chance, kinds=HELD_OUT, bank=JUDGING)
    text, windows = datasets.wikitext2("test"), []
    for i in range(sizes["windows"]):
        ids = tokenizer.encode(text[i * len(text) // sizes["windows"] :][:500])
        windows.append(Row([0, *ids[:47]], 1))
    return Material(
        rubric,
        given,
        [prompt_ids(tokenizer, lesson) for lesson in given],
        [preference(tokenizer, pair) for pair in pairs],
        windows,
        KNOWN[: sizes["questions"]],
    )


def judged(by: Material, said: Sequence[str]) -> Judged:
    """Replies by the rubric, and by what it does not ask."""
    both = list(zip(by.given, said, strict=True))
    states = np.array([float(states_a_result(*each)) for each in both])
    names = np.array([names_the_step(*each) for each in both])
    return Judged(list(said), scores(by.rubric, by.given, said), states, names)


def judge(
    model: Llama, tokenizer: GGUFTokenizer, by: Material, most: int, system: str | None = None
) -> Judged:
    """What a model says to the held-out students."""
    prompts = by.prompts
    if system is not None:
        prompts = [prompt_ids(tokenizer, lesson, system) for lesson in by.given]
    return judged(by, replies(model, tokenizer, prompts, most))


def knowledge(model: Reader, tokenizer: GGUFTokenizer, by: Material) -> Knowledge:
    """A quiz by likelihood, and text read without a chat."""
    right = []
    for i, (asked, *options) in enumerate(by.questions):
        turned = [f" {options[(k + i) % 3]}" for k in range(3)]  # the place says nothing
        given = [0, *tokenizer.encode(f"Question: {asked}\nAnswer:")]
        right.append(turned[choose(model, tokenizer, given, turned)] == f" {options[0]}")
    sums, counts = held_out_nats(model, by.windows)
    return Knowledge(np.array(right, dtype=float), (sums / counts).double().numpy())
