"""The benchmark: sides are asked the same, must agree, and verdicts follow the numbers."""

import pytest

from llm_eval.benchmark import bench, known, rows, tables, upkeep
from llm_eval.benchmark.rivals import ask
from llm_eval.models.dummy import Dummy
from llm_eval.types import Request, Response
from shared.errors import UserError

LIGHT = ("standard", "rouge", "bleu", "chrf", "ter", "resume", "memory", "card")


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "open_model", lambda name: Dummy())
        patch.setattr(rows, "lm_eval_smollm2", Dummy)
        patch.setattr(rows, "ask", lambda model, requests, size: rows.answer_all(model, requests))
        out = tmp_path_factory.mktemp("bench") / "bench.json"
        return bench.bench([*LIGHT, "choices", "generation"], out=out, quick=True)


def test_every_row_is_in_a_table(record):
    pages = tables.pages(record)
    assert set(pages) == {"goals.md", "speed.md", "known.md", "standard.md"}
    text = "".join(pages.values())
    for word in ("arc_easy", "rouge-score", "sacrebleu", "4-bit", "s_AMB", "a quick trial: none"):
        assert word in text


def test_both_sides_agree(record):
    assert record["choices"]["largest_difference"] == 0
    assert record["generation"]["same_texts"] == 1
    assert all(record[name]["largest_difference"] <= 1e-10 for name in ("rouge", "bleu", "ter"))


def test_sides_that_disagree_are_an_error(monkeypatch):
    monkeypatch.setattr(rows, "open_model", lambda name: Dummy(1))
    monkeypatch.setattr(rows, "lm_eval_smollm2", Dummy)
    monkeypatch.setattr(rows, "ask", lambda m, requests, size: rows.answer_all(m, requests))
    with pytest.raises(UserError, match="choices of both harnesses must be the same"):
        rows.choices(quick=True)
    with pytest.raises(UserError, match=r"other must agree to 1e-10, got a difference of 0.5"):
        rows._metric(lambda: 1.0, lambda: 1.5, 1, "other", quick=True)


def test_a_verdict_follows_its_number(record):
    slow = record["rouge"] | {"times": 2.9}
    slow["machine"] = slow["machine"] | {"quick": False}
    fast = slow | {"times": 3.1}
    assert "missed" in tables.pages({"rouge": slow})["goals.md"]
    assert "reached" in tables.pages({"rouge": fast})["goals.md"]


def test_known_figures_stand_beside_their_own_metric(record):
    lines = {line["task"]: line for line in record["card"]["lines"]}
    assert {line["n"] for line in lines.values()} == {5, 10}
    assert [name for name, *_ in known.KNOWN] == list(lines)[:3]


def test_a_run_that_is_killed_ends_with_the_same_bytes():
    row = upkeep.kills(quick=True)
    assert row["differing"] == 0
    assert row["n"] == 2


def test_lm_eval_is_asked_what_we_are_asked():
    class Harness:
        def loglikelihood(self, instances, disable_tqdm):
            return [(-float(len(i.args[0])), i.args[1] == " a") for i in instances]

        def generate_until(self, instances, disable_tqdm):
            assert instances[0].args[1] == {"until": ["."], "max_gen_toks": 7, "do_sample": False}
            return [i.args[0].upper() for i in instances]

    likely = [Request("loglikelihood", "xy", " a"), Request("loglikelihood", "x", " b")]
    found = ask(Harness(), likely, 1)
    assert [(r.logprob, r.greedy) for r in found] == [(-2.0, True), (-1.0, False)]
    written = ask(Harness(), [Request("generate", "hi", until=(".",), max_new_tokens=7)], 1)
    assert written == [Response(text="HI")]


def test_wrong_input():
    with pytest.raises(UserError, match=r"rows must be among standard, .*, got speed"):
        bench.bench(["speed"])
    with pytest.raises(UserError, match="a quick trial measures nothing"):
        bench.bench(["rouge"], quick=True)
