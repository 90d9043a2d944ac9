"""Instructions to learn from: generated ones, and a file of written ones.

>>> draw = torch.Generator().manual_seed(0)
>>> sorted({task.name for task in generated(40, draw)})
['double', 'first', 'last', 'upper']
>>> answer("last", "quiz"), answer("double", "ab")
('z', 'aabb')

Their form, an instruction with an optional input and its output, is that of Wang et al.,
"Self-Instruct" (2023). `uv run weeks/20/sft.py` trains on them.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

import torch

from shared import datasets
from week20.sft import Characters

LETTERS = "abcdefgh"
TASKS = ("first", "last", "upper", "double")
FILE = "ch07/01_main-chapter-code/instruction-data.json"


class Task(NamedTuple):
    """What is asked, of what kind, and what a right answer is."""

    name: str
    prompt: str
    answer: str


def answer(name: str, word: str) -> str:
    """What each of the generated tasks asks for."""
    answers = {"first": word[0], "last": word[-1], "upper": word.upper()}
    return (answers | {"double": "".join(2 * letter for letter in word)})[name]


def generated(n: int, generator: torch.Generator) -> list[Task]:
    """Random tasks about random words of two to four letters."""
    found = []
    for _ in range(n):
        size = int(torch.randint(2, 5, (1,), generator=generator))
        letters = torch.randint(len(LETTERS), (size,), generator=generator).tolist()
        name = TASKS[int(torch.randint(len(TASKS), (1,), generator=generator))]
        word = "".join(LETTERS[i] for i in letters)
        found.append(Task(name, f"{name} {word}", answer(name, word)))
    return found


def shuffled_answers(tasks: Sequence[Task], generator: torch.Generator) -> list[Task]:
    """The same prompts, each with the answer of another of its kind."""
    found = list(tasks)
    for name in TASKS:
        places = [i for i, task in enumerate(tasks) if task.name == name]
        order = torch.randperm(len(places), generator=generator).tolist()
        for i, j in zip(places, (places[k] for k in order), strict=True):
            found[i] = tasks[i]._replace(answer=tasks[j].answer)
    return found


def tokenizer() -> Characters:
    """Every character that the generated tasks need."""
    return Characters(LETTERS + LETTERS.upper() + "".join(TASKS) + " ")


def written() -> list[Task]:
    """1,100 written instructions (Raschka, 2024); the input, if there is one, on a line of its own.

    Raises
    ------
    UserError
        If the file cannot be had.
    """
    path = datasets.path("raschka_instruction_data", FILE)
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [
        Task("written", "\n".join(filter(None, (row["instruction"], row["input"]))), row["output"])
        for row in rows
    ]
