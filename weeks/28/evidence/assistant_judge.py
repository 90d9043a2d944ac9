"""What is measured of an assistant: gaps of held-out pages, and circuits under their benches."""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from shared import datasets
from shared.datasets import HardwareProblem
from shared.stats import Interval, bootstrap_interval, paired_bootstrap
from week12.ranking import ndcg
from week18.gguf_tokenizer import GGUFTokenizer
from week18.llama3 import Llama
from week19.fused_llama import FusedLlama
from week21.r1 import pass_at_k
from week28.manual_search import Embed, Search
from week28.manuals import Passage, Question, passages, plain, questions, two_halves
from week28.verilog_assistant import (
    choose_word,
    circuit_search,
    nearest_circuits,
    passage_text,
    write_bodies,
)
from week28.verilog_bench import Verdict, simulate, simulator

PAGES = 0  # seed of the halves


class Written(NamedTuple):
    """Circuits that one arm wrote for one problem."""

    n: int
    compiled: int
    passed: int
    copied: int  # are the example that was shown, letter by letter


class Manuals(NamedTuple):
    """Pages to learn from and held out, as questions, and the held-out passages to search in."""

    learned: list[Question]
    held_out: list[Question]
    passages: dict[str, Passage]


# ---- pages


def manuals(most_pages: int | None = None, seed: int = PAGES) -> Manuals:
    """The questions of both halves; of the held-out one only so many pages, if it is said."""
    pages = {page.name: page for page in [*datasets.verilog_docs(), *datasets.ros2_docs()]}
    halves = two_halves(list(pages), seed)
    learned, held_out = ([passages(pages[name]) for name in half] for half in halves)
    asked = questions(held_out, seed)  # options come from all of them
    held_out = held_out[:most_pages]
    known = {p.name: p for page in held_out for p in page}
    asked = [q for q in asked if q.passage.name in known]
    return Manuals(questions(learned, seed), asked, known)


def searching(known: dict[str, Passage], embed: Embed | None) -> Search:
    """Search in passages, without their headings: those are what is asked for."""
    return Search(list(known), [plain(p.text) for p in known.values()], embed)


def heading_quality(known: dict[str, Passage], search: Search, how: str) -> dict[str, float]:
    """nDCG@10 of the passages under a heading, when the heading is searched for."""
    wanted: dict[str, dict[str, int]] = {}
    for name, passage in known.items():
        wanted.setdefault(passage.heading, {})[name] = 1
    return {
        heading: ndcg(search(heading, 10, how), grades, 10) for heading, grades in wanted.items()
    }


# ---- gaps


def quiz(
    model: Llama,
    tokenizer: GGUFTokenizer,
    asked: Sequence[Question],
    shown: Sequence[Sequence[str]],
) -> list[float]:
    """Whether each gap is filled rightly, with passages shown before it."""
    pairs = zip(asked, shown, strict=True)
    return [float(choose_word(model, tokenizer, q, found) == q.answer) for q, found in pairs]


def looked_up_for(
    asked: Sequence[Question], search: Search, known: dict[str, Passage]
) -> tuple[list[list[str]], list[float]]:
    """The best passage for each question, and whether it is the one that the gap is from."""
    names = [search(q.asked.replace("____", ""), 1) for q in asked]
    right = [float(q.passage.name in found) for q, found in zip(asked, names, strict=True)]
    return [[passage_text(known[name]) for name in found] for found in names], right


# ---- circuits


def write_and_run(
    model: Llama,
    tokenizer: GGUFTokenizer,
    problems: Sequence[HardwareProblem],
    solved: Sequence[HardwareProblem],
    *,
    n: int,
    most: int,
    retrieve: bool,
    seed: int,
    compiles: Callable[[str], bool],
) -> list[Written]:
    """Draw n circuits for each problem, compile them, and run them where there is a simulator."""
    fast, search = FusedLlama(model, batch=n), circuit_search(solved)
    by_name, benches = {p.name: p for p in solved}, datasets.verilog_benches()
    found = []
    for i, problem in enumerate(problems):
        shots = nearest_circuits(search, by_name, problem) if retrieve else []
        generator = torch.Generator().manual_seed(1000 * seed + i)
        texts = write_bodies(fast, tokenizer, problem, shots, n, most=most, generator=generator)
        verdicts: dict[str, Verdict] = {}
        for text in texts:
            if text not in verdicts and simulator():
                verdicts[text] = simulate(text, benches[problem.name])
        bare = {"".join(p.body.split()) for p in shots}
        bodies = ["".join(text.removeprefix(problem.header).split()) for text in texts]
        found.append(
            Written(
                n,
                sum(compiles(text) for text in texts),
                sum(verdicts[text].passed for text in texts if text in verdicts),
                sum(body in bare for body in bodies),
            )
        )
    return found


def passes(written: Sequence[Written], k: int) -> list[float]:
    """pass@k of each problem, without bias."""
    right = torch.tensor([w.passed for w in written])
    return pass_at_k(right, written[0].n, k).tolist()


def share(values: Sequence[float], seed: int = 0) -> Interval:
    """A mean with the bootstrap's interval over items."""
    return bootstrap_interval(values, rng=np.random.default_rng(seed))


def gain(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Interval:
    """By how much a is above b, item by item."""
    return paired_bootstrap(a, b, rng=np.random.default_rng(seed))


def slang_errors(verilog: str) -> int:
    """How many errors slang, another compiler, finds."""
    from pyslang import ast, syntax

    compilation = ast.Compilation()
    compilation.addSyntaxTree(syntax.SyntaxTree.fromText(verilog))
    return sum(d.isError() for d in compilation.getAllDiagnostics())


def operator_changed(body: str) -> str | None:
    """A body with its first `&` made `|`, `|` made `&`, `+` made `-` …; None if it has none."""
    other = {"&": "|", "|": "&", "^": "|", "+": "-", "~": "", "?": None, "<": None}
    for i, sign in enumerate(body):
        if other.get(sign) is not None and body[i : i + 2] not in ("<=", ">=", "//"):
            return body[:i] + other[sign] + body[i + 1 :]
    return None


def sample(items: Sequence, n: int, seed: int) -> list:
    """At most n of the items, by chance, in their order."""
    chosen = random.Random(seed).sample(range(len(items)), min(n, len(items)))
    return [items[i] for i in sorted(chosen)]
