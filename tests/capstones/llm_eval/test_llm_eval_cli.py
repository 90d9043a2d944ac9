"""The command line: every command's round trip, one clear line for a mistake, no network."""

import json
import socket

import pytest

from llm_eval import cli
from llm_eval.options import Asking
from llm_eval.report.reading import read_results

TASK = """
task: capitals
output_type: multiple_choice
dataset_path: json
dataset_kwargs: {data_files: {test: capitals.jsonl}}
test_split: test
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
llm_eval:
  title: Capitals
  group: "{{continent}}"
  templates: {bare: {doc_to_text: "{{question}}"}}
  summaries: [groups, calibration]
"""
PROGRAMS = """
task: programs
output_type: generate_until
dataset_path: json
dataset_kwargs: {data_files: {test: programs.jsonl}}
test_split: test
doc_to_text: "{{text}}"
doc_to_target: "{{test}}"
generation_kwargs: {until: ["\n"], max_gen_toks: 4}
metric_list: [{metric: pass@1}]
"""
QUESTIONS = [("France", "Europe"), ("Peru", "America"), ("Japan", "Asia"), ("Chad", "Africa")]
CAPITALS = ["Paris", "Lima", "Tokyo", "N'Djamena"]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whatever a command does, it does not ask anybody."""

    def refuse(*args):
        raise AssertionError("something was fetched")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def call(capsys):
    """Run a command line: its status and what it printed."""

    def call(*words):
        capsys.readouterr()
        status = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        if status in (2, 3):
            assert err.startswith("llm-eval: error: ")
            assert err.count("\n") == 1
        return status, out, err

    return call


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a task."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "capitals.yaml").write_text(TASK, "utf-8")
    rows = [
        {"question": f"Capital of {q}?", "choices": CAPITALS, "answer": i, "continent": continent}
        for i, (q, continent) in enumerate(QUESTIONS)
    ]
    (tmp_path / "capitals.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    return tmp_path


DUMMY = ("run", "--model", "dummy", "--tasks")


def test_a_run_and_the_same_run_again(here, call):
    first = call(*DUMMY, "capitals.yaml", "--templates", "--out", "a")
    again = call(*DUMMY, "capitals.yaml", "--templates", "--out", "b")
    assert first[0] == again[0] == 0
    assert "capitals" in first[1]
    assert (here / "a/results.json").read_bytes() == (here / "b/results.json").read_bytes()
    assert "index.html" in first[2]
    prompts = {number.template for number in read_results(here / "a").numbers}
    assert {"", "bare"} <= prompts


def test_results_are_shown_again_and_an_altered_byte_is_named(here, call):
    call(*DUMMY, "capitals.yaml", "--out", "a")
    status, out, _ = call("report", "a", "--json")
    assert status == 0
    assert json.loads(out)["tasks"]["capitals"]["documents"] == 4
    samples = here / "a/samples.jsonl"
    samples.write_bytes(samples.read_bytes().replace(b"Paris", b"Parma", 1))
    status, _, err = call("report", "a")
    assert status == 3
    assert "samples.jsonl was altered" in err


def test_json_is_one_object_and_nothing_else(here, call):
    status, out, _ = call(*DUMMY, "capitals.yaml", "--json")
    assert status == 0
    assert json.loads(out)["model"]["name"] == "dummy"


def test_a_build_fails_where_a_rule_is_broken(here, call):
    words = (*DUMMY, "capitals.yaml", "--fail-under")
    assert call(*words, "acc>=0")[0] == 0
    status, _, err = call(*words, "capitals.acc=1.1")
    assert status == 1
    assert "capitals.acc must be at least 1.1" in err
    assert call(*words, "acc")[0] == 2
    words = (*DUMMY, "mini_copy", "--out", "none", "--fail-under")
    for rule in ("acc=.5", "mini_copy.exact_mach=.5", "capitals.acc=.5"):
        status, _, err = call(*words, rule)
        assert status == 2
        assert f"no number is called {rule[:-3]!r}" in err
    assert not (here / "none").exists()  # nothing was asked


def test_programs_are_not_asked_for_where_none_may_be_run(here, call):
    rows = '{"id": 1, "text": "def one():", "test": "assert one() == 1"}\n'
    (here / "programs.jsonl").write_text(rows, "utf-8")
    (here / "programs.yaml").write_text(PROGRAMS, "utf-8")
    status, _, err = call(*DUMMY, "programs.yaml", "--out", "none")
    assert status == 2
    assert "--allow-code" in err
    assert not (here / "none").exists()
    status, _, err = call(*DUMMY, "programs.yaml", "--allow-code", "--out", "a")
    assert status == 0
    assert "dummy is no model" in err
    for allowed in (False, True):  # a tag does without them
        tasks, _ = Asking(model="dummy", tasks="all", allow_code=allowed).tasks_and_model()
        assert any(task.runs_programs for task in tasks) is allowed


def test_two_runs_are_compared_by_document(here, call):
    call(*DUMMY, "capitals.yaml", "--out", "a")
    call(*DUMMY, "capitals.yaml", "--out", "b", "--seed", 1)
    status, out, _ = call("compare", "a", "b", "--json", "--html", "page.html")
    assert status == 0
    found = {row["metric"]: row for row in json.loads(out)}
    assert found["acc"]["value"] == 0  # zero-shot likelihoods do not depend on the seed
    assert found["acc"]["n"] == 4
    assert "<html" in (here / "page.html").read_text("utf-8")
    assert call("compare", "a", "b")[0] == 0
    call(*DUMMY, "mini_mcqa", "--limit", 3, "--out", "c")
    assert "share none" in call("compare", "a", "c")[2]


def test_a_number_that_is_no_mean_is_tested_by_its_own_rule(here, call):
    words = (*DUMMY, "mini_translate", "--limit", 8, "--out")
    call(*words, "a")
    call(*words, "b")
    found = {row["metric"]: row for row in json.loads(call("compare", "a", "b", "--json")[1])}
    assert found["bleu"]["p"] == found["chrf"]["p"] == 1
    assert found["bleu"]["low"] == found["bleu"]["high"] == 0


@pytest.mark.parametrize("task", ["mini_mcqa", "capitals.yaml"])
def test_what_was_answered_is_recovered(here, call, task):
    call(*DUMMY, task, "--limit", 5, "--out", "a", "--cache", "cache")
    status, *_ = call("recover", "cache", "--out", "r")
    assert status == 0
    assert read_results(here / "r").numbers == read_results(here / "a").numbers


def test_predictions_of_another_program(here, call):
    rows = [{"prediction": "It is Paris", "reference": "Paris"}, {"output": "x", "gold": ["x"]}]
    (here / "p.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    words = ("score", "p.jsonl", "--metrics", "exact_match,token_f1,rouge1,bleu,ter", "--json")
    status, out, _ = call(*words)
    assert status == 0
    found = {row["metric"]: row["value"] for row in json.loads(out)}
    assert found["exact_match"] == 0.5
    assert found["token_f1"] == pytest.approx((0.5 + 1) / 2)
    assert call(*words[:-1])[0] == 0
    assert "accuracy" in call("score", "p.jsonl", "--metrics", "accuracy")[2]


def test_what_a_training_text_holds(here, call):
    call(*DUMMY, "mini_cloze", "--limit", 6, "--out", "a")
    lines = (here / "a/samples.jsonl").read_text("utf-8").splitlines()
    texts = [" ".join(map(str, json.loads(line)["document"].values())) for line in lines]
    text = max(texts, key=len)
    (here / "seen.txt").write_text(f"before {text} after", "utf-8")
    status, out, _ = call("contamination", "a", "seen.txt", "-n", 8, "--json")
    assert status == 0
    found = {row["metric"]: row for row in json.loads(out)}
    assert found["contaminated"]["value"] * found["contaminated"]["n"] == pytest.approx(1)
    (here / "seen.txt").write_text(" ".join(text.split()[:8]), "utf-8")  # its beginning only
    for share, n_seen in (("0", 1), ("0.9", 0)):
        words = ("contamination", "a", "seen.txt", "-n", 8, "--share", share, "--json")
        (first, *_) = json.loads(call(*words)[1])
        assert first["value"] * first["n"] == pytest.approx(n_seen)


@pytest.mark.parametrize(
    ("what", "name"), [("tasks", "mini_copy"), ("metrics", "rougeL"), ("models", "smollm2")]
)
def test_lists(call, what, name):
    rows = json.loads(call("ls", what, "--json")[1])
    assert name in [row["name"] for row in rows]
    assert name in call("ls", what)[1]
    assert call("list", what)[1] == call("ls", what)[1]


def test_tasks_are_listed_with_license_and_size(call):
    rows = json.loads(call("ls", "--json")[1])
    assert all(row["license"] for row in rows)
    assert all(row["documents"] > 0 for row in rows if row["here"])
    assert sum("mini" in row["tags"] for row in rows) >= 8


def test_task_files_are_validated(here, call):
    status, out, _ = call("validate", "capitals.yaml")
    assert (status, out) == (0, "capitals.yaml: capitals, 4 documents\n")
    (here / "wrong.yaml").write_text(TASK.replace("doc_to_target", "doc_to_targt"), "utf-8")
    status, _, err = call("validate", "wrong.yaml", "capitals.yaml")
    assert status == 1
    assert "wrong.yaml:9: unknown field doc_to_targt; did you mean doc_to_target?" in err


MISTAKES = [
    (("run", "--tasks", "arc_esay"), "did you mean arc_easy or "),
    (("run", "--tasks", " , "), "tasks must name at least one"),
    (("run", "--model", "gpt-9"), "model must be smollm2, "),
    (("run", "--limit", "-3"), "limit must be a whole number"),
    (("run", "--limit", "nan"), "limit must be a whole number"),
    (("run", "--model-args", "pretrained"), "model_args must be "),
    (("run", "--model-args", "quantized=yes"), "model_args must be "),
    (("run", "--batch-tokens", "0"), "batch-tokens"),
    (("run", "--model", "dummy", "--tasks", "nowhere.yaml"), "nowhere.yaml"),
    (("report", "nowhere"), "there are no results in nowhere"),
    (("compare", "nowhere", "nowhere"), "there are no results in nowhere"),
    (("recover", "nowhere"), "nowhere holds no run"),
    (("score", "nowhere.jsonl"), "nowhere.jsonl cannot be read"),
    (("validate",), "files must name at least one"),
    (("bench", "speed"), "rows must be among "),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, call, words, said):
    monkeypatch.chdir(tmp_path)
    status, _, err = call(*words)
    assert status in (2, 3)
    assert said in err
    assert not (tmp_path / "runs").exists()


def test_lm_evals_arguments_are_understood():
    from llm_eval.options import Asking

    asking = Asking(model="hf", model_args="pretrained=models/x,dtype=bfloat16,device=cpu")
    assert asking.named_model() == ("hf:models/x", {"dtype": "bfloat16", "device": "cpu"})
    asking = Asking(model="openai", model_args="base_url=http://127.0.0.1:1/v1,model=m")
    assert asking.named_model()[0] == "openai:http://127.0.0.1:1/v1#m"


def test_an_interrupted_run_says_that_answers_are_kept(call, monkeypatch):
    def interrupted(*args, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("llm_eval.engine.run.evaluate", interrupted)
    status, _, err = call("run", "--model", "dummy", "--tasks", "mini_facts")
    assert status == 130
    assert err.endswith(
        "llm-eval: interrupted; what was answered is kept, the same command goes on\n"
    )


def test_validate_names_the_document_that_cannot_be_asked(call, here):
    (here / "capitals.jsonl").write_text('{"question": "?", "choices": [], "answer": 0}\n')
    status, _, err = call("validate", here / "capitals.yaml")
    assert status == 1
    assert "capitals.yaml: document 0: doc_to_choice must give" in " ".join(err.split())
