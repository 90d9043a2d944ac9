"""The benchmark: sides are asked the same, and verdicts follow the numbers."""

import asyncio
import threading

import pytest
from serving_scripted import running

from serving.benchmark import bench, rivals, rows, tables
from serving.benchmark.load import closed_load, summary
from serving.benchmark.servers import Running
from shared.errors import UserError


def line(side, rate, p99, **more):
    times = {"p50": p99 / 2, "p90": p99, "p99": p99}
    counts = {"n": 40, "well": 40, "failed": 0, "least": rate, "most": rate}
    spans = dict.fromkeys(("first", "between", "whole"), times)
    return {"side": side, "tokens_per_second": rate, **counts, **spans, **more}


def measured(row, quick=False):
    machine = {"cpu": "c", "cores": 2, "date": "2026-01-01", "commit": "abc", "quick": quick}
    return row | {"machine": machine | {"threads": 2}}


def record(*, times=3.1, ours=1.0, theirs=1.1, growth=0.005, failed=0, sound=True):
    sides = [line("serve", 30.0, ours), line("fastapi", 30.0 / times, 9.0)]
    sides.append(line("litserve", 20.0, theirs))
    load = {"lines": sides, "times": times, "llama_cpp": "not installed"}
    counts = {"n": 10_000, "left": 500, "failed": failed, "sound": sound}
    shares = {"n": 100, "blocked": 90, "low": 0.8, "high": 0.95}
    told = [
        {"data": "tweets", "toxic": True, **shares},
        {"data": "prose", "toxic": False, **shares},
    ]
    rows = {
        "throughput": load,
        "latency": {"rate": 0.8, "lines": [sides[0], sides[2]]},
        "memory": {"growth": growth, **counts},
        "fuzz": counts,
        "safety": {"lines": told},
    }
    return {name: measured(row) for name, row in rows.items()}


def verdicts(found):
    lines = [row.split(" | ") for row in tables.pages(found)["goals.md"].splitlines()[2:6]]
    return {cells[0].strip("| "): cells[3].strip(" |") for cells in lines}


@pytest.mark.parametrize(
    ("change", "row"),
    [
        ({"times": 2.9}, "throughput"),
        ({"ours": 1.2}, "latency"),
        ({"growth": 0.011}, "memory"),
        ({"failed": 1}, "fuzz"),
        ({"sound": False}, "memory"),
        ({"sound": False}, "fuzz"),
    ],
)
def test_a_verdict_follows_its_number(change, row):
    assert set(verdicts(record()).values()) == {"reached"}
    assert verdicts(record(**change))[row] == "missed"


def test_a_quick_trial_has_no_verdict():
    found = {name: measured(row, quick=True) for name, row in record().items()}
    assert set(verdicts(found).values()) == {"a quick trial: none"}


def test_what_was_measured_stands_in_the_tables():
    pages = tables.pages(record())
    assert set(pages) == {"goals.md", "load.md", "safety.md"}
    for word in ("LitServe", "FastAPI", "30.0", "not installed", "0.8 requests/s"):
        assert word in pages["load.md"]
    assert "commit abc: throughput, latency, memory, fuzz." in pages["goals.md"]
    assert "commit abc: throughput, latency." in pages["load.md"]
    tweets, prose = pages["safety.md"].splitlines()[2:4]
    assert "| 10 | 10.0 [5.0, 20.0] |" in tweets  # of 100 toxic ones 10 pass
    assert "| 90 | 90.0 [80.0, 95.0] |" in prose


def test_everybody_is_asked_the_same():
    ours, theirs = rows._endless(3), rows.asked(3)
    assert {k: v for k, v in ours.items() if k != "ignore_eos"} == theirs
    assert theirs["max_tokens"] == rows.TOKENS
    assert rows.asked(3) == theirs != rows.asked(4)


def test_plain_fastapi_writes_one_answer_at_a_time(monkeypatch):
    class Model:
        now = most = 0

        def write(self, conversations, new):
            Model.now += 1
            Model.most = max(Model.most, Model.now)
            for _ in range(new):
                threading.Event().wait(0.005)
                yield ["word "] * len(conversations)
            Model.now -= 1

    monkeypatch.setattr(rivals, "Transformers", Model)
    with running(rivals.fastapi_app()) as url:
        load = closed_load(url, rows.asked, clients=4, requests=8)
        found = summary(asyncio.run(load))
    assert (found["well"], found["failed"]) == (8, 0)
    assert found["tokens_per_second"] * found["seconds"] == pytest.approx(8 * rows.TOKENS)
    assert Model.most == 1


def test_transformers_writes_a_token_of_each_row_at_a_time():
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    class Tokenizer:
        """Letters; each row of a batch is padded on the left."""

        def apply_chat_template(self, turns, **options):
            return turns[0]["content"]

        def __call__(self, texts, **options):
            from transformers import BatchEncoding

            longest = max(map(len, texts))
            ids = [[0] * (longest - len(t)) + [ord(c) - 96 for c in t] for t in texts]
            mask = [[0] * (longest - len(t)) + [1] * len(t) for t in texts]
            tensors = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
            return BatchEncoding(tensors)

        def batch_decode(self, rows):
            return ["".join(chr(96 + token) for token in row) for row in rows.tolist()]

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
    config = LlamaConfig(vocab_size=27, intermediate_size=32, **sizes, pad_token_id=0)
    model = object.__new__(rivals.Transformers)
    model.tokenizer, model.model = Tokenizer(), LlamaForCausalLM(config).eval()
    asked = [[{"role": "user", "content": text}] for text in ("abc", "xy")]
    together = list(model.write(asked, 5))
    assert [len(step) for step in together] == [2] * 5
    for i, one in enumerate(asked):
        assert [step[0] for step in model.write([one], 5)] == [step[i] for step in together]


def test_memory_is_the_processes_own():
    import os

    import psutil

    ours = Running("", os.getpid()).resident()
    assert ours == pytest.approx(psutil.Process().memory_info().rss, rel=0.02)


def test_wrong_input():
    with pytest.raises(UserError, match=r"rows must be among throughput, .*, got speed"):
        bench.bench(["speed"])
    with pytest.raises(UserError, match="a quick trial measures nothing"):
        bench.bench(["fuzz"], quick=True)
