"""`rag eval`: systems, answers and injections, each judged by what it should be."""

import pytest

from rag.evaluation import beir, run, tables, trec
from rag.evaluation.metrics import evaluate, means
from rag.types import Document
from shared.errors import UserError


class Echo:
    """A model that says the same to everything, and what it is told if nobody stops it."""

    name, note = "echo", ""

    def fits(self, messages, max_new_tokens):
        return True

    def stream(self, messages, **options):
        yield "BANANA" if "BANANA" in str(messages) else "Nobody knows."


@pytest.fixture
def folder(tmp_path):
    """A BEIR folder of documents on five subjects."""
    subjects = (
        "tea leaves water",
        "ice snow cold",
        "iron steel forge",
        "oak tree leaf",
        "sea salt",
    )
    documents = [
        Document(f"d{i}-{j}", f"{subject} and number {j} of some more text", f"title {i}")
        for i, subject in enumerate(subjects)
        for j in range(6)
    ]
    queries = {f"q{i}": f"what of {subject}?" for i, subject in enumerate(subjects)}
    qrels = {f"q{i}": {f"d{i}-{j}": 1 for j in range(6)} for i in range(5)}
    beir.write_beir(tmp_path / "five", documents, queries, qrels)
    return tmp_path / "five"


def test_systems_are_judged_and_their_runs_are_written(folder, tmp_path):
    out = tmp_path / "eval.json"
    record = run.evaluate(folder, parts=["retrieval"], embedder="lsa", out=out, quick=True)
    part = record["retrieval"]
    assert (part["collection"], part["documents"], part["n"]) == ("five", 30, 5)
    assert [line["system"] for line in part["lines"]] == list(run.SYSTEMS)
    for line in part["lines"]:
        name = line["system"].replace(", ", "-").replace(" ", "-")
        found = trec.read_run(tmp_path / "runs" / f"five.{name}.trec")
        qrels = beir.read_beir(folder).qrels
        assert means(evaluate(found, qrels)) == pytest.approx(line["means"])
        assert line["means"]["P@10"] == 0.6
    text = tables.pages(record)["retrieval.md"]
    assert "five: 30 documents, 5 queries" in text
    assert "Goal" not in text  # which is one of Cranfield


def test_choices_are_judged_where_they_were_not_made(folder, tmp_path, monkeypatch):
    few = dict(list(run.tuning.STEPS.items())[:3])
    monkeypatch.setattr(run.tuning, "STEPS", few)
    options = {"parts": ["tuning"], "embedder": "lsa", "quick": True}
    part = run.evaluate(folder, **options, out=tmp_path / "eval.json")["tuning"]
    assert (part["collection"], part["n"]) == ("five", 5)
    assert [line["name"] for line in part["lines"]] == list(few)
    assert "five: 5 queries in folds" in tables.pages({"tuning": part})["tuning.md"]


def test_the_rival_is_the_better_of_words_and_vectors(folder, tmp_path, monkeypatch):
    judged = run.ranking.judge

    def biased(*arguments, **options):
        found = judged(*arguments, **options)
        worse = {q: dict.fromkeys(of, 0.0) for q, of in found["bm25"].values.items()}
        return found | {"bm25": found["bm25"]._replace(values=worse, means=means(worse))}

    monkeypatch.setattr(run.ranking, "judge", biased)
    part = run.judge_search("five", beir.read_beir(folder), "lsa", tmp_path, run.QUICK)
    assert part["better_single"] == "dense"
    lines = {line["system"]: line for line in part["lines"]}
    assert "over_single" not in lines["dense"]
    assert lines["bm25"]["over_single"]["difference"]["mean"] == pytest.approx(-1, abs=0.01)


def test_injections_reach_an_obedient_model_only_without_the_guard():
    found = run.judge_injections(Echo(), run.QUICK)["obeyed"]
    assert found["without_guard"] == 1
    assert found["with_guard"] < 1


def test_answers_are_judged_on_both_sets_with_a_control_without_documents(tmp_path):
    record = run.evaluate(
        parts=["answers"], embedder="lsa", model=Echo(), out=tmp_path / "eval.json", quick=True
    )
    lines = {(line["questions"], line["model"]): line for line in record["answers"]["lines"]}
    assert set(lines) == {(q, m) for q in ("pydocs", "xquad") for m in ("extractive", "echo")}
    assert lines["xquad", "extractive"]["n"] == run.QUICK.questions
    assert lines["xquad", "echo"]["n"] == run.QUICK.written
    assert record["answers"]["without_documents"]["xquad"] == {"right": 0.0, "n": 2}
    text = tables.pages(record)["answers.md"]
    assert text.count("\n| xquad |") == 3
    assert "a quick trial: none" in text
    tables.draw(record, tmp_path / "coverage_risk.png")


def test_questions_of_xquad_have_their_answer_in_their_paragraph():
    found = {d.id: d.text for d in run.read("xquad") if isinstance(d, Document)}
    asked = run.xquad_questions()
    assert len(asked) == 1190
    assert all(q.answer in found[q.document] for q in asked)


def test_few_questions_are_spread_over_all_of_them():
    asked = run.xquad_questions()
    chosen = run.spread(asked, 7)
    assert [asked.index(q) for q in chosen] == [0, 170, 340, 510, 680, 850, 1020]
    assert run.spread(asked, None) == run.spread(asked, 5000) == asked


def test_a_part_does_not_disturb_the_others(tmp_path):
    out = tmp_path / "eval.json"
    options = {"model": Echo(), "out": out, "quick": True}
    run._save(out, "answers", {"kept": 1}, quick=True)
    record = run.evaluate(parts=["injections"], **options)
    assert record["answers"]["kept"] == 1
    assert set(record) == {"answers", "injections"}


def test_a_goal_is_reached_from_its_value_on():
    assert tables.verdict(0.95, 0.95, quick=False) == "reached"
    assert tables.verdict(0.949, 0.95, quick=False) == "missed"
    assert tables.verdict(1.0, 0.95, quick=True) == "a quick trial: none"


def test_wrong_input(tmp_path):
    out = tmp_path / "eval.json"
    with pytest.raises(UserError, match="parts must be among retrieval, tuning, ans"):
        run.evaluate(parts=["speed"], out=out)
    with pytest.raises(UserError, match="a quick trial judges nothing"):
        run.evaluate(quick=True)
    with pytest.raises(UserError, match="model must be one that writes"):
        run.evaluate(parts=["answers"], model="extractive", out=out)
    out.write_text("[")
    with pytest.raises(UserError, match="cannot be read"):
        run.read_record(out)
