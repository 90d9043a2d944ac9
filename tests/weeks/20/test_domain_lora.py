"""Project 4 on a tiny model that reads bytes: rows, split, quiz, training and folders."""

import copy
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import datasets
from shared.datasets import HardwareProblem
from shared.errors import UserError
from shared.run import Run
from week18.pretrained import save_pretrained
from week20 import domain_lora
from week20.domain_lora import (
    ADAPTER,
    MERGED,
    TARGETS,
    Row,
    choose,
    complete,
    fit,
    held_out_nats,
    load_domain_model,
    nats,
    padded,
    row,
    save_domain_model,
    split,
    with_lora,
)
from week20.evidence.domain_lora import CIRCUITS, tell, tiny
from week20.evidence.verilog_judge import Judged, errors, gain, shuffled
from week20.lora import LoRAConfig, trainable
from week20.verilog_quiz import HABITS, body_question, port_question, port_questions, ports


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "weeks/20/domain_lora.py", mode="quick", out=tmp_path, quiet=True)


@pytest.fixture
def model(run):
    return tiny(run)


def problem(name, body="endmodule", header="module top_module (input a);"):
    return HardwareProblem(name, "", header, body)


# ---- rows


def test_a_row_is_a_chat_that_ends(model):
    _, tokenizer = model
    whole = row(tokenizer, CIRCUITS[0])
    text = tokenizer.decode(whole.ids)
    assert text.startswith("<|im_start|>user\nWrite a Verilog module. This module computes and.")
    assert text.endswith("endmodule<|im_end|>")
    assert tokenizer.decode(whole.ids[whole.start :]) == f"{CIRCUITS[0].body}<|im_end|>"
    more = row(tokenizer, CIRCUITS[0], ports_given=False)
    assert more.ids == whole.ids
    answer = f"{CIRCUITS[0].header}\n{CIRCUITS[0].body}<|im_end|>"
    assert tokenizer.decode(more.ids[more.start :]) == answer


def test_examples_are_turns_before_the_question(model):
    _, tokenizer = model
    text = tokenizer.decode(row(tokenizer, CIRCUITS[0], CIRCUITS[1:3]).ids)
    assert text.count("<|im_start|>user") == text.count("<|im_start|>assistant") == 3
    assert text.index(CIRCUITS[1].body) < text.index(CIRCUITS[2].body) < text.index("computes and")
    alone = row(tokenizer, CIRCUITS[0])
    shown = row(tokenizer, CIRCUITS[0], CIRCUITS[1:3])
    assert shown.ids[shown.start :] == alone.ids[alone.start :]


def test_targets_are_what_is_written_and_the_end_even_if_it_pads():
    end = 7
    rows = [Row([1, 2, 3, 4, end], 2), Row([5, 6, end], 1)]
    tokens, targets = padded(rows, fill=end)
    assert tokens.tolist() == [[1, 2, 3, 4], [5, 6, end, end]]
    assert targets.tolist() == [[-100, 3, 4, end], [6, end, -100, -100]]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(2, 12), st.integers(1, 11)), min_size=1, max_size=5))
def test_nats_are_those_of_each_row_alone(shapes):
    chance = random.Random(0)
    rows = [
        Row([chance.randrange(258) for _ in range(n)], min(start, n - 1)) for n, start in shapes
    ]
    torch.manual_seed(0)
    table = torch.randn(258, 258)
    sums, counts = nats(lambda tokens: table[tokens], rows)
    for total, count, (ids, start) in zip(sums, counts, rows, strict=True):
        said = torch.tensor(ids)
        each = F.cross_entropy(table[said[:-1]], said[1:], reduction="none")[start - 1 :]
        assert count == len(each)
        assert torch.allclose(total, each.sum(), rtol=1e-5)


def test_what_pads_changes_nothing(model):
    network, tokenizer = model
    rows = [row(tokenizer, p) for p in CIRCUITS]
    rows[1] = Row(rows[1].ids + rows[1].ids[-30:], rows[1].start)
    together = held_out_nats(network, rows)
    alone = [held_out_nats(network, [r], 1) for r in rows]
    assert torch.allclose(together[0], torch.cat([s for s, _ in alone]), rtol=1e-5)
    assert together[1].tolist() == [int(c) for _, c in alone]


# ---- the split


def test_problems_are_held_out_whole_and_twins_with_them():
    problems = [problem(f"p{i}", f"assign y = {i % 7};\nendmodule") for i in range(30)]
    for seed in range(5):
        training, held_out = split(problems, 4, seed)
        assert len(held_out) == 4
        bodies = {p.body for p in held_out}
        assert not [p for p in training if p.body in bodies]
        assert {p.name for p in problems if p.body not in bodies} == {p.name for p in training}
    spaced = [problem("a", "assign y=1;endmodule"), problem("b", "assign  y = 1;\n\nendmodule")]
    three = [*spaced, problem("c", "x")]
    seed = next(s for s in range(20) if split(three, 1, s).held_out[0].name == "a")
    training, _ = split(three, 1, seed)
    assert [p.name for p in training] == ["c"]
    with pytest.raises(ValueError, match="held_out must be below 3, got 3"):
        split([*spaced, problem("c")], 3, 0)


# ---- the quiz


def test_one_option_declares_the_port_and_is_found_anywhere():
    places = set()
    for seed in range(40):
        asked, options, answer = port_question("output", 5, "q", random.Random(seed))
        assert asked == "Declare in Verilog: the output q, 5 bits wide."
        assert options[answer] == "output [4:0] q"
        assert sorted(options) == [
            "input [4:0] q",
            "output [4:0] q",
            "output [5:0] q",
            "output q [4:0]",
        ]
        places.add(answer)
    assert places == {0, 1, 2, 3}


def test_options_err_in_one_thing_by_a_compiler():
    _, options, answer = port_question("input", 8, "data", random.Random(0))
    module = "module t ({}); wire [7:0] w; assign w = data; endmodule"
    assert errors(module.format(options[answer])) == 0
    array = next(o for o in options if o.endswith("]"))
    assert errors(module.format(array)) > 0


def test_ports_are_read_from_headers():
    header = "module t(\n\tinput clk,\n\toutput reg [99:0] q,\n\tinput [6:1] y,\n\tinput wire d);"
    assert ports(header) == [("input", 1, "clk"), ("output", 100, "q"), ("input", 1, "d")]
    questions = port_questions([problem("a", header=header), problem("b", header=header)], 0)
    assert [q[0] for q in questions] == ["Declare in Verilog: the output q, 100 bits wide."]


def test_the_likeliest_option_per_token_is_chosen(model):
    _, tokenizer = model
    letters = {"b": 0.1, "c": 3.0}

    def network(tokens):
        logits = torch.zeros(*tokens.shape, 258)
        for letter, value in letters.items():
            logits[..., tokenizer.encode(letter)[0]] = value
        return logits

    given = tokenizer.encode("?")
    assert choose(network, tokenizer, given, ["aa", "bb", "cc"]) == 2
    # by the mean: more letters of the same kind dilute the token that ends
    assert choose(network, tokenizer, given, ["c", "cccccc", "a"]) == 1


def test_bodies_are_asked_with_three_that_do_not_compile():
    for p in datasets.verilog_eval()[::7]:
        found = body_question(p.body, random.Random(0))
        if found is None:
            continue
        options, answer = found
        assert options[answer] == p.body
        assert len(set(options)) == 4
        assert [errors(f"{p.header}\n{o}") == 0 for o in options] == [o == p.body for o in options]
    assert body_question("y", random.Random(0)) is None
    assert len({body_question(CIRCUITS[0].body, random.Random(i))[1] for i in range(30)}) == 4
    assert len(HABITS) == 6


# ---- training


def test_it_trains_and_on_shuffled_tokens_it_does_not(model):
    network, tokenizer = model
    rows = [row(tokenizer, p) for p in CIRCUITS]
    after = {}
    for name, material in (("right", rows), ("shuffled", shuffled(rows, 0))):
        learner = with_lora(copy.deepcopy(network), LoRAConfig(r=4, alpha=8.0, targets=TARGETS), 0)
        fit(learner, material, steps=25, batch_size=2, lr=3e-2, seed=0)
        sums, counts = held_out_nats(learner, rows)
        after[name] = (sums.sum() / counts.sum()).item()
    assert after["right"] < after["shuffled"] - 0.2


def test_shuffling_keeps_what_is_given_and_which_tokens_there_are():
    rows = [Row([9, 8, *range(20)], 2)]
    (other,) = shuffled(rows, 0)
    assert other.start == 2
    assert other.ids[:2] == [9, 8]
    assert sorted(other.ids[2:]) == list(range(20))
    assert other.ids != rows[0].ids


def test_rows_come_once_before_any_comes_twice(monkeypatch, model):
    network, _ = model
    seen = []

    def watched(_, batch):
        seen.extend(r.ids[0] for r in batch)
        p = next(p for p in network.parameters() if p.requires_grad)
        return (p.sum() * 0)[None], torch.ones(1)

    monkeypatch.setattr(domain_lora, "nats", watched)
    with_lora(network, LoRAConfig(r=1, targets=TARGETS), 0)
    fit(network, [Row([i, 0], 1) for i in range(6)], steps=6, batch_size=2, lr=0.1, seed=1)
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))


def test_corrections_are_float32_beside_half_precision(model):
    network, tokenizer = model
    network = with_lora(network.bfloat16(), LoRAConfig(r=2, targets=TARGETS), 0)
    learned = [p for p in network.parameters() if p.requires_grad]
    assert {p.dtype for p in learned} == {torch.float32}
    assert trainable(network)[0] == sum(p.numel() for p in learned)
    assert network(torch.tensor([[1, 2]])).dtype == torch.bfloat16
    losses = fit(network, [row(tokenizer, CIRCUITS[0])], steps=3, batch_size=1, lr=0.01, seed=0)
    assert losses[-1] < losses[0]


# ---- writing, saving, loading


def test_writing_stops_at_the_end_or_at_the_most(model):
    network, tokenizer = model
    given = row(tokenizer, CIRCUITS[0])
    with torch.no_grad():
        network.head.weight.zero_()
    text, ended = complete(network, tokenizer, given, most=5)
    assert len(tokenizer.encode(text)) == 5  # all logits are equal and the first token is written
    assert not ended
    with torch.no_grad():
        network.norm.weight.zero_()
        network.head.weight[0].fill_(0)
    tokenizer.end = 0
    assert complete(network, tokenizer, given, most=5) == ("", True)


def test_folders_come_back_merged_or_put_together_again(model, tmp_path, monkeypatch):
    network, tokenizer = model
    save_pretrained(network, tmp_path / "base")
    config = LoRAConfig(r=2, alpha=4.0, targets=TARGETS)
    with_lora(network, config, 0)
    fit(network, [row(tokenizer, p) for p in CIRCUITS], steps=3, batch_size=2, lr=0.03, seed=0)
    tokens = torch.arange(20)[None]
    learned = network(tokens).detach()
    save_domain_model(network, config, tmp_path / "domain")

    monkeypatch.setattr(domain_lora.pretrained, "smollm2", lambda: tmp_path / "base")
    monkeypatch.setattr(domain_lora.GGUF, "open", lambda path: path)
    monkeypatch.setattr(domain_lora.GGUFTokenizer, "from_gguf", lambda file: tokenizer)
    merged, _ = load_domain_model(tmp_path / "domain")
    assert torch.allclose(merged(tokens), learned, atol=1e-5)
    assert not [p for p in merged.parameters() if p.requires_grad]

    for file in (tmp_path / "domain" / MERGED).iterdir():
        file.unlink()
    (tmp_path / "domain" / MERGED).rmdir()
    again, _ = load_domain_model(tmp_path / "domain")
    assert torch.allclose(again(tokens), learned, atol=1e-5)
    weights = tmp_path / "domain" / ADAPTER / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"adapter_model\.safetensors was altered"):
        load_domain_model(tmp_path / "domain")


# ---- the judge


def test_gain_is_per_token_and_over_problems():
    counts = torch.tensor([10, 30] * 20)
    rest = ([], [], [], [], [], torch.zeros(1), [])
    a = Judged((torch.tensor([20.0, 30.0] * 20), counts), *rest)
    b = Judged((torch.tensor([10.0, 30.0] * 20), counts), *rest)
    found = gain(a, b)
    assert found.mean == pytest.approx(10 / 40)
    assert found.n == 40
    assert found.low < 0.25 < found.high
    assert found.high - found.low < 0.3
    back = gain(b, a)
    assert back.mean == pytest.approx(-0.25)
    same = gain(a, a)
    assert (same.low, same.high) == (0, 0)


def judged(nats_per_token, share):
    counts = torch.full((30,), 20)
    sums = counts * (nats_per_token + 0.01 * torch.arange(30))
    right = [1.0] * round(10 * share) + [0.0] * round(10 - 10 * share)
    written = ([1.0, 0.0], [1.0, 1.0])
    return Judged((sums, counts), right, right, right, *written, torch.full((4,), 3.0), right)


def test_what_is_told_follows_from_what_was_measured(run):
    run.mode = "default"
    found = {"as it is": judged(2.0, 0.2), "two examples": judged(1.5, 0.4)}
    found |= {"LoRA": judged(1.0, 0.9), "shuffled": judged(2.5, 0.2)}
    tell(run, found, {(8, 0): 1.1, (8, 1): 1.3, (64, 0): 1.0}, rank=8)
    verdicts = {claim["name"]: claim["verdict"] for claim in run.claims}
    assert verdicts["LoRA writes held-out circuits better than the model as it is"] == "holds"
    assert verdicts["LoRA writes held-out circuits better than two examples do"] == "holds"
    assert verdicts["LoRA tells Verilog from other habits more often"] == "holds"
    assert verdicts["LoRA forgets less than 0.1 nats of WikiText-2"] == "holds"
    assert verdicts["LoRA loses less than 5 points of BLiMP"] == "holds"
    assert all(falsifier["broken"] for falsifier in run.falsifiers)
    numbers = {metric["name"]: metric["value"] for metric in run.metrics}
    assert numbers["quiz on bodies, two examples"] == pytest.approx(0.4)
    assert numbers["compile, LoRA"] == 1
    assert numbers["nats per token at rank 8"] == pytest.approx(1.2)
    assert numbers["spread of the seeds at rank 8"] == pytest.approx(0.2)


def test_errors_are_a_compilers():
    good = "module t(input a, output b); assign b = a; endmodule"
    assert errors(good) == 0
    for bad in (good.replace("endmodule", ""), good.replace("= a", "= c"), good.replace(";", "")):
        assert errors(bad) > 0
    assert np.mean([errors(f"{p.header}\n{p.body}") for p in CIRCUITS]) == 0


def test_bad_input_is_named(model):
    network, tokenizer = model
    with pytest.raises(ValueError, match="start must be from 1 to 1, got 2"):
        padded([Row([1, 2], 2)])
    with pytest.raises(ValueError, match="width must be at least 2, got 1"):
        port_question("input", 1, "a", random.Random(0))
    with pytest.raises(ValueError, match="batch_size must be 1 to 1, got 2"):
        fit(network, [row(tokenizer, CIRCUITS[0])], steps=1, batch_size=2, lr=1, seed=0)
