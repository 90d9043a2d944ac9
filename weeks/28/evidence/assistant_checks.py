"""What the assistant's parts are held against: transformers, enumeration, truth tables, people."""

import itertools
import math
import operator
import random
import tempfile
from pathlib import Path

import numpy as np
import torch

from shared import datasets
from shared.study import Run
from week18.gguf_tokenizer import GGUFTokenizer
from week18.llama3 import Llama, LlamaConfig
from week19.sampling import Sampler
from week21.r1 import pass_at_k
from week28.evidence.assistant_judge import operator_changed, sample
from week28.manual_search import rrf
from week28.one_prompt import draw_answers, nats_of
from week28.verilog_bench import simulate, truth_table_bench

SIGNS = {"&": operator.and_, "|": operator.or_, "^": operator.xor}


def tiny(run: Run) -> tuple[Llama, GGUFTokenizer]:
    """A random LLaMA of two layers that reads bytes, and its tokenizer."""
    from week15.merges import printable_bytes

    tokens = [*printable_bytes().values(), "<|im_start|>", "<|im_end|>"]
    tokenizer = GGUFTokenizer(tokens, [1] * 256 + [3, 3], [], cut="smollm", end=257)
    sizes = {"d_model": 32, "n_layers": 2, "n_heads": 2, "context": 2048}
    return Llama(LlamaConfig(258, **sizes), run.generator()), tokenizer


def check_continuations(run: Run) -> None:
    """A prompt that is read once gives what transformers computes for each row alone."""
    from transformers import LlamaForCausalLM

    from week18.pretrained import save_pretrained

    model, _ = tiny(run)
    model.eval().requires_grad_(False)
    prompt, options = [5, 9, 200, 31, 7], [[4, 8, 15], [16], [23, 42]]
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        save_pretrained(model, Path(name) / "model")
        theirs = LlamaForCausalLM.from_pretrained(Path(name) / "model").eval()
        losses = []
        for option in options:
            row = torch.tensor([prompt + option])
            labels = torch.where(torch.arange(row.shape[1]) < len(prompt), -100, row)
            losses.append(float(theirs(row, labels=labels).loss))
        near = run.against("transformers, each row alone", atol=1e-5, why="float32")
        near("nats per token of options after one prompt", nats_of(model, prompt, options), losses)
        settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": 257}
        asked = torch.tensor([prompt])
        there = torch.ones_like(asked)
        written = theirs.generate(asked, attention_mask=there, pad_token_id=0, **settings)
        ours = draw_answers(model, prompt, 3, most=8, end=257, sampler=Sampler(temperature=0))
        same = run.against("transformers' generate", why="token numbers")
        same("greedy answers, three at once", ours, [written[0, len(prompt) :].tolist()] * 3)


def check_estimators(run: Run) -> None:
    """pass@k against all subsets, fusion against its definition in fractions."""
    n, exact = (
        6,
        run.against("all subsets of the drawn circuits", kind="theorem", atol=1e-12, why="float64"),
    )
    for k in (1, 5):
        subsets = list(itertools.combinations(range(n), k))
        all_counts = [np.mean([min(s) < c for s in subsets]) for c in range(n + 1)]
        exact(f"pass@{k} of {n}, all counts", pass_at_k(torch.arange(n + 1), n, k), all_counts)
    naive = 1 - (1 - 3 / 10) ** 5
    run.metric("pass@5 of 3 right in 10, plugged in", naive)
    run.metric("pass@5 of 3 right in 10, without bias", float(pass_at_k(torch.tensor([3]), 10, 5)))
    chance, places = random.Random(run.seed), {}
    rankings = [chance.sample("abcdefgh", 5) for _ in range(3)]
    for name in "abcdefgh":
        at = [60 + r.index(name) + 1 for r in rankings if name in r]
        whole = math.prod(at)
        places[name] = (sum(whole // place for place in at), whole)
    order = sorted(places, key=lambda x: (-places[x][0] * 10**12 // places[x][1], x))
    order = [name for name in order if any(name in r for r in rankings)]
    same = run.against("the definition, in whole numbers", kind="theorem", why="places are equal")
    same("order of three fused rankings", list(map(ord, rrf(rankings))), list(map(ord, order)))


def check_bench(run: Run) -> None:
    """Icarus Verilog agrees with Python on random circuits, and the bench sees one wrong row."""
    chance, passed, seen = random.Random(run.seed), [], []
    for _ in range(6):
        left, right = chance.choices(list(SIGNS), k=2)
        bits = itertools.product((0, 1), repeat=3)
        table = [SIGNS[right](SIGNS[left](a, 1 - b), c) for a, b, c in bits]
        circuit = "module top_module(input a, input b, input c, output y);\n"
        circuit += f"assign y = (a {left} ~b) {right} c;\nendmodule"
        wrong = [1 - v if i == 5 else v for i, v in enumerate(table)]
        passed.append(simulate(circuit, truth_table_bench("abc", {"y": table})).passed)
        seen.append(not simulate(circuit, truth_table_bench("abc", {"y": wrong})).passed)
    same = run.against("truth tables by Python", why="yes or no")
    same("random circuits pass", passed, [True] * 6)
    same("and not if one row of eight is wrong", seen, [True] * 6)
    benches = datasets.verilog_benches()
    problems = sample(datasets.verilog_eval(), run.budget(quick=4, default=8, full=143), 1)
    good = [simulate(f"{p.header}\n{p.body}", benches[p.name]).passed for p in problems]
    claim = "what people wrote passes its bench"
    seen_before = "all 143 passed when the bench was written"
    run.claim(claim, np.mean(good), at_least=1, deterministic=True, seen_before=seen_before)
    changed = [(p, operator_changed(p.body)) for p in problems]
    bad = [simulate(f"{p.header}\n{c}", benches[p.name]).passed for p, c in changed if c]
    run.falsifier("with one operator changed", np.mean(bad), breaks=claim)
