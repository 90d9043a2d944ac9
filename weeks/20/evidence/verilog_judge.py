"""What is measured of a model of Verilog: held-out circuits, a quiz, a compiler, what it forgot."""

import random
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from shared import datasets
from shared.stats import Interval, bootstrap_interval
from week18.gguf_tokenizer import GGUFTokenizer
from week20.domain_lora import Row, choose, complete, held_out_nats, row
from week20.verilog_quiz import body_question, port_questions


class Judged(NamedTuple):
    """What is measured of one model."""

    nats: tuple[Tensor, Tensor]  # per held-out problem: sum, tokens
    ports: list[float]
    too_wide: list[float]
    bodies: list[float]
    compiles: list[float]
    ends: list[float]
    wikitext: Tensor
    blimp: list[float]


class Material(NamedTuple):
    """Everything that models are judged by."""

    held_out: list
    ports: list
    bodies: list
    windows: list[Row]
    pairs: list[tuple[Row, Row]]
    shots: list
    quiz_shots: list[tuple[str, str]]


def plain_row(tokenizer: GGUFTokenizer, text: str, most: int = 128) -> Row:
    """A text without a chat, all of it to be said but the end-of-text token before it."""
    return Row([0, *tokenizer.encode(text)[: most - 1]], 1)


def material(tokenizer: GGUFTokenizer, training: list, held_out: list, sizes: dict) -> Material:
    """The quiz, texts and sentences; two short training problems for examples."""
    text = datasets.wikitext2("test")
    step = len(text) // sizes["windows"]
    windows = [plain_row(tokenizer, text[i * step :][:1000]) for i in range(sizes["windows"])]
    pairs = [rows[0] for rows in datasets.blimp().values()][: sizes["pairs"]]
    pairs = [(plain_row(tokenizer, good), plain_row(tokenizer, bad)) for good, bad in pairs]
    shots = sorted((p for p in training if p.description), key=lambda p: len(p.body))[20:22]
    solved = [(asked, options[k]) for asked, options, k in port_questions(training, 1)[:2]]
    questions = port_questions(held_out, 0)[: sizes["ports"]]
    bodies = [(p, body_question(p.body, random.Random(i))) for i, p in enumerate(held_out)]
    bodies = [(p, found) for p, found in bodies if found][: sizes["bodies"]]
    return Material(held_out, questions, bodies, windows, pairs, shots, solved)


def chat(tokenizer: GGUFTokenizer, solved: list[tuple[str, str]], asked: str) -> list[int]:
    """Questions with their answers, and one that is open."""
    messages = [
        {"role": role, "content": said}
        for pair in solved
        for role, said in zip(("user", "assistant"), pair, strict=True)
    ]
    return tokenizer.chat([*messages, {"role": "user", "content": asked}])


def judge(
    model: nn.Module, tokenizer: GGUFTokenizer, by: Material, written: int, *, shots: bool = False
) -> Judged:
    """All measurements of one model, which is shown examples first if asked."""
    examples, solved = (by.shots, by.quiz_shots) if shots else ([], [])
    rows = [row(tokenizer, p, examples) for p in by.held_out]
    right, too_wide, bodies = [], [], []
    for asked, options, k in by.ports:
        chosen = choose(model, tokenizer, chat(tokenizer, solved, asked), options)
        right.append(float(chosen == k))
        too_wide.append(float(f", {options[chosen].split('[')[1].split(':')[0]} bits" in asked))
    for problem, (options, k) in by.bodies:
        given = row(tokenizer, problem, examples)
        chosen = choose(model, tokenizer, given.ids[: given.start], options)
        bodies.append(float(chosen == k))
    compiles, ends = [], []
    for problem, given in list(zip(by.held_out, rows, strict=True))[:written]:
        body, ended = complete(model, tokenizer, given, most=80)
        compiles.append(float(errors(f"{problem.header}\n{body}") == 0))
        ends.append(float(ended))
    sums, counts = held_out_nats(model, by.windows)
    sentences = held_out_nats(model, [r for pair in by.pairs for r in pair], 16)[0]
    grammatical = (sentences[::2] < sentences[1::2]).float().tolist()
    nats, quiz = held_out_nats(model, rows), (right, too_wide, bodies)
    return Judged(nats, *quiz, compiles, ends, sums / counts, grammatical)


def mean_nats(nats: tuple[Tensor, Tensor]) -> float:
    """Nats per token of all problems together."""
    return (nats[0].sum() / nats[1].sum()).item()


def gain(a: Judged, b: Judged, seed: int = 0) -> Interval:
    """Nats per token that b saves of a's, with the bootstrap's interval over problems."""
    counts = a.nats[1].double().numpy()
    saved = (a.nats[0] - b.nats[0]).double().numpy()

    def ratio(picked: np.ndarray, axis: int):
        picked = picked.astype(int)
        return saved[picked].sum(axis=axis) / counts[picked].sum(axis=axis)

    return bootstrap_interval(np.arange(len(counts)), ratio, rng=np.random.default_rng(seed))


def shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    """The same tokens to write in random order: the control."""
    chance = random.Random(seed)
    return [
        Row(r.ids[: r.start] + chance.sample(r.ids[r.start :], len(r.ids) - r.start), r.start)
        for r in rows
    ]


def errors(verilog: str) -> int:
    """How many errors slang, a SystemVerilog compiler, finds in a source text."""
    from pyslang import ast, syntax

    compilation = ast.Compilation()
    compilation.addSyntaxTree(syntax.SyntaxTree.fromText(verilog))
    return sum(d.isError() for d in compilation.getAllDiagnostics())
