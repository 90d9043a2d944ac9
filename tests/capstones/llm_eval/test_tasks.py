"""Tasks: documents in order, examples that are never the question, answers judged, errors apart."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llm_eval.statistics.estimates import mean_estimate
from llm_eval.tasks.fewshot import Examples
from llm_eval.tasks.filters import NAMES, Filter, apply
from llm_eval.tasks.reading import read_task
from llm_eval.tasks.sources import read_rows, take_turns
from llm_eval.tasks.standard import NOT_RUN
from llm_eval.types import Request, Response, Sample
from shared.errors import UserError

ROWS = [{"q": f"Q{i}", "options": ["a", "bb", "ccc"], "gold": i % 3} for i in range(6)]
CHOICE = """output_type: multiple_choice
doc_to_text: "{{q}}:"
doc_to_target: gold
doc_to_choice: options
"""
GENERATE = """output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: answer
metric_list: [{metric: exact_match}]
"""


@pytest.fixture
def task(tmp_path):
    def make(text, rows=ROWS, own="", name="t"):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "rows.jsonl").write_text(lines)
        path = tmp_path / f"{name}.yaml"
        data = "llm_eval:\n  data: {file: rows.jsonl}\n"
        path.write_text(f"task: {name}\n{text}{data}{own}")
        return read_task(path)

    return make


def scored(*logprobs):
    return [Response(logprob=x, greedy=False) for x in logprobs]


# ---- documents


def test_the_first_documents_with_numbers_or_ids_of_their_own(task):
    assert task(CHOICE).documents(2) == [("0", ROWS[0]), ("1", ROWS[1])]
    assert len(task(CHOICE, own="  limit: 4\n").documents()) == 4
    assert len(task(CHOICE, own="  limit: 4\n").documents(100)) == task(CHOICE).size == 6
    assert [len(task(CHOICE).documents(share)) for share in (0.01, 0.4, 1.0)] == [1, 3, 6]
    named = [row | {"id": f"x{i}"} for i, row in enumerate(ROWS)]
    assert [id for id, _ in task(CHOICE, named).documents(2)] == ["x0", "x1"]
    twice = [row | {"id": 7} for row in ROWS]
    assert [id for id, _ in task(CHOICE, twice).documents(2)] == ["0", "1"]


@given(st.lists(st.sampled_from("abc"), max_size=12))
def test_documents_take_turns_by_kind_and_none_is_lost(kinds):
    rows = [{"kind": kind, "i": i} for i, kind in enumerate(kinds)]
    turned = take_turns(rows, "kind")
    assert sorted(row["i"] for row in turned) == list(range(len(rows)))
    first = [row["kind"] for row in turned[: len(set(kinds))]]
    assert sorted(first) == sorted(set(kinds))


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": ', r"a\.jsonl:2: is no JSON"),
        ("a.jsonl", "[1]\n", r"a\.jsonl:1: a document must be an object, got \[1\]"),
        ("a.json", "[[1]]", r"a document must be an object"),
        ("a.csv", "x,y\n1\n", r"a\.csv:2: has another number of columns"),
        ("a.tsv", "x\ty\n1\t2\t3\n", r"a\.tsv:2: has another number of columns"),
        ("a.parquet", "x", r"must be jsonl, json, csv"),
        ("a.jsonl.gz", "x", r"cannot be read"),
        ("a.zip", "x", r"cannot be read"),
    ],
)
def test_files_that_are_not_what_they_say_are_named(tmp_path, name, content, why):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=why):
        read_rows(tmp_path / name)


def test_an_absent_or_empty_file_is_said(task, tmp_path):
    made = task(CHOICE, rows=[])
    with pytest.raises(UserError, match="holds no documents"):
        made.documents()
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(UserError, match=r"data of task t: .*rows\.jsonl is no file"):
        made.documents()
    assert not made.here


# ---- prompts


def test_a_misspelled_field_is_not_taken_for_text(task):
    made = task(CHOICE.replace('"{{q}}:"', "questio"), [row | {"question": "x"} for row in ROWS])
    with pytest.raises(UserError, match="questio is no field of the document; did you mean quest"):
        made.judge().requests(made.documents(1)[0][1])


def test_a_chat_is_turns_and_choices_lose_their_delimiter(task):
    text = CHOICE + 'num_fewshot: 1\nfewshot_config: {sampler: first_n}\ndescription: "Choose."\n'
    made = task(text)
    _, document = made.documents()[1]
    requests = made.judge(chat=True).requests(document)
    turns = (("system", "Choose."), ("user", "Q0:"), ("assistant", "a"), ("user", "Q1:"))
    assert [request.context for request in requests] == [turns] * 3
    assert [request.continuation for request in requests] == ["a", "bb", "ccc"]
    assert made.judge().requests(document)[0] == Request(
        "loglikelihood", "Choose.Q0: a\n\nQ1:", " a"
    )


def test_other_templates_change_what_they_name(task):
    own = "  templates:\n    short: {doc_to_text: q, target_delimiter: '='}\n"
    made = task(CHOICE, own=own)
    assert made.templates == ("", "short")
    _, document = made.documents(1)[0]
    request = made.judge("short").requests(document)[0]
    assert (request.context, request.continuation) == ("Q0", "=a")
    assert made.judge("short").signature != made.judge().signature
    with pytest.raises(UserError, match="task t has no prompt 'long'; it has short"):
        made.judge("long")


# ---- examples


@given(st.integers(1, 5), st.integers(0, 99), st.sampled_from(["default", "first_n"]), st.data())
@settings(max_examples=50)
def test_a_document_is_never_its_own_example(number, seed, sampler, data):
    documents = [{"q": data.draw(st.sampled_from("abcdefgh")), "i": i // 2} for i in range(12)]
    examples = Examples(documents, documents, number, sampler=sampler, apart=True, seed=seed)
    for document in documents:
        shown = examples.of(document)
        assert len(shown) == number
        assert document not in shown


def test_without_a_split_for_examples_a_task_does_not_show_its_own_question(task):
    """lm-eval 0.4.13 does, where only test_split is given."""
    made = task(CHOICE + "test_split: test\n")
    judge = made.judge(num_fewshot=3, seed=1)
    for _, document in made.documents():
        context = judge.requests(document)[0].context
        assert context.count(document["q"]) == 1
    with pytest.raises(UserError, match="num_fewshot must be at most 5, got 6"):
        made.judge(num_fewshot=6)


def test_examples_do_not_depend_on_what_was_asked_before(task):
    made = task(CHOICE)
    documents = [document for _, document in made.documents()]
    forward, backward = made.judge(num_fewshot=2), made.judge(num_fewshot=2)
    there = [forward.requests(document) for document in documents]
    back = [backward.requests(document) for document in documents[::-1]]
    assert there == back[::-1]
    assert there == [forward.requests(document) for document in documents]
    assert made.judge(num_fewshot=2, seed=5).requests(documents[0]) != there[0]


def test_a_file_that_says_no_examples_gets_none(task):
    made = task(CHOICE + "num_fewshot: 0\n")
    assert made.judge(num_fewshot=3).examples.number == 0
    with pytest.raises(UserError, match="num_fewshot must be 0 or more, got -1"):
        made.judge(num_fewshot=-1)


# ---- answers


def test_of_equal_choices_the_first_is_the_answer(task):
    judge = task(CHOICE).judge()
    sample = judge.sample("0", ROWS[0], scored(-1.0, -1.0, -1.0))
    assert (sample.prediction, sample.target) == (0, 0)
    assert sample.values["acc"] == 1.0


def test_lengths_are_of_the_choice_without_its_delimiter(task):
    judge = task(CHOICE).judge()
    values = judge.sample("1", ROWS[1], scored(-1.2, -2.3, -6.0)).values
    assert values == {"acc": 0.0, "acc_norm": 1.0}  # 1.2 / 1 and 2.3 / 2; with a space 0.6, 0.77


@pytest.mark.parametrize("target", ["gold", '"{{gold}}"', "text", "golds"])
def test_the_right_choice_is_an_index_a_text_or_several(task, target):
    row = {"q": "Q", "options": ["a", "b", "c"], "gold": 2, "text": "c", "golds": [2]}
    made = task(CHOICE.replace("doc_to_target: gold", f"doc_to_target: {target}"), [row])
    sample = made.judge().sample("0", row, scored(-3.0, -2.0, -1.0))
    assert sample.target in (2, [2])
    assert sample.values["acc"] == 1.0
    assert made.judge().sample("0", row, scored(-1.0, -2.0, -3.0)).values["acc"] == 0.0


@pytest.mark.parametrize("gold", [3, -1, "d"])
def test_a_target_that_is_no_choice_is_an_error_not_a_wrong_answer(task, gold):
    row = ROWS[0] | {"gold": gold}
    with pytest.raises(UserError, match="must be one of"):
        task(CHOICE, [row]).judge().sample("0", row, scored(-1.0, -2.0, -3.0))


def test_failed_answers_are_in_no_average(task):
    judge = task(CHOICE).judge()
    samples = [judge.sample(str(i), row, scored(-1.0, -2.0, -3.0)) for i, row in enumerate(ROWS)]
    failed = judge.sample("6", ROWS[0], [Response(error="timeout"), *scored(-1.0, -2.0)])
    assert (failed.error, failed.values) == ("timeout", {})
    row = judge.numbers([*samples, failed])[0]
    expected = mean_estimate([s.values["acc"] for s in samples])
    assert (row.value, row.stderr, row.n, row.failed) == (expected.value, expected.stderr, 6, 1)
    (row, _) = judge.numbers([failed])
    assert (row.value, row.low, row.n, row.failed) == (None, None, 0, 1)


def test_numbers_by_group_and_errors_by_cluster(task):
    made = task(CHOICE, own="  group: 'g{{gold}}'\n  cluster: '{{gold}}'\n")
    judge = made.judge()
    samples = [judge.sample(id, row, scored(-1.0, -2.0, -3.0)) for id, row in made.documents()]
    rows = {(r.metric, r.group): r for r in judge.numbers(samples)}
    assert [rows["acc", g].value for g in ("", "g0", "g1")] == [pytest.approx(1 / 3), 1.0, 0.0]
    clustered = mean_estimate([1, 0, 0, 1, 0, 0], clusters=[0, 1, 2, 0, 1, 2])
    assert rows["acc", ""].stderr == clustered.stderr
    assert rows["acc", "g0"].stderr is None  # one cluster says nothing of its error


def test_samples_survive_json(task):
    made = task(CHOICE + "metric_list: [{metric: f1, average: macro}, {metric: acc}]\n")
    judge = made.judge()
    samples = [judge.sample(id, row, scored(-1.0, -2.0, -3.0)) for id, row in made.documents()]
    again = [Sample.of(json.loads(json.dumps(sample.as_json()))) for sample in samples]
    assert judge.numbers(again) == judge.numbers(samples)


def test_repeats_are_drawn_apart_and_the_first_is_judged(task):
    text = GENERATE + "repeats: 3\ngeneration_kwargs: {temperature: 0.5, do_sample: true}\n"
    row = {"q": "Q", "answer": "yes"}
    judge = task(text, [row]).judge()
    requests = judge.requests(row)
    assert [request.seed for request in requests] == [0, 1, 2]
    assert len({request.key for request in requests}) == 3
    sample = judge.sample("0", row, [Response(text=text) for text in ("yes", "no", "no")])
    assert (sample.prediction, sample.values) == ("yes", {"exact_match": 1.0})
    vote = "filter_list: [{name: v, filter: [{function: majority_vote}]}]\n"
    judge = task(text + vote, [row], name="v").judge()
    assert judge.sample("0", row, sample.responses).prediction == "no"


def test_each_pipeline_has_its_value(task):
    text = GENERATE + (
        "filter_list:\n"
        "  - {name: first, filter: [{function: regex, regex_pattern: '[0-9]+'}]}\n"
        "  - {name: last, filter: [{function: regex, regex_pattern: '[0-9]+', group_select: -1}]}\n"
    )
    row = {"q": "Q", "answer": "7"}
    sample = task(text, [row]).judge().sample("0", row, [Response(text="3 and 4 are 7")])
    assert sample.values == {"exact_match,first": 0.0, "exact_match,last": 1.0}
    assert sample.prediction == "3"


def test_programs_run_only_where_that_is_allowed(task):
    text = GENERATE.replace("exact_match", "pass@1") + "num_fewshot: 0\n"
    row = {"q": "def one():\n    return", "answer": "assert one() == 1"}
    made = task(text, [row])
    sample = made.judge().sample("0", row, [Response(text=" 1")])
    assert sample.values == {}
    (number,) = made.judge().numbers([sample])
    assert (number.value, number.n, number.note) == (None, 0, NOT_RUN)
    made.allow_code = True
    for answer, right in ((" 1", 1.0), (" 2", 0.0)):
        sample = made.judge().sample("0", row, [Response(text=answer)])
        assert sample.values == {"pass@1": right}


# ---- filters

TEXTS = st.lists(st.text(alphabet="aB1 $,.-7é\n", max_size=12), min_size=1, max_size=4)
STEPS = {
    "regex": {"regex_pattern": r"(-?[$0-9.,]{2,})|(-?[0-9]+)", "group_select": -1},
    "take_first_k": {"k": 1},
}


@given(TEXTS, st.lists(st.sampled_from(sorted(NAMES)), max_size=3))
@settings(max_examples=100, deadline=None)
def test_filters_are_those_of_lm_eval(texts, names):
    import lm_eval.filters  # registers them
    from lm_eval.api.registry import get_filter

    assert lm_eval.filters.FilterEnsemble
    theirs = [texts]
    for name in names:
        if name == "take_first":
            continue  # theirs unwraps the list, after which nothing may follow
        options = STEPS.get(name, {})
        theirs = list(get_filter(name)(**options).apply(theirs, [{}]))
    pattern, k = STEPS["regex"]["regex_pattern"], 1
    steps = [Filter(n, pattern=pattern, select=-1, k=k) for n in names if n != "take_first"]
    assert apply(steps, texts) == theirs[0]


def test_a_match_that_is_not_there_is_the_fallback():
    third = Filter("regex", pattern="[0-9]", select=2, fallback="none")
    assert apply([third], ["1 2 3", "1 2", ""]) == ["3", "none", "none"]
    assert apply([Filter("regex", pattern="(x)?(y)?")], ["z"]) == ["[invalid]"]
    with pytest.raises(ValueError, match="a filter must be one of"):
        Filter("uppercase!")
