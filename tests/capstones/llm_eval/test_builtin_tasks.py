"""The built-in tasks: each opens, asks and judges; their prompts; their data and licenses."""

import json
from collections import Counter
from itertools import pairwise

import pytest

from llm_eval.tasks import shapes
from llm_eval.tasks.catalog import list_tasks
from llm_eval.tasks.opening import BUILTIN, builtin, left_out, open_tasks, tagged
from llm_eval.tasks.summaries import SUMMARIES
from llm_eval.types import Response
from shared import registry
from shared.errors import UserError

NAMES = sorted(builtin())
CHOICES = [t.name for t in tagged()["all"] if t.config.output_type == "multiple_choice"]
MINI = [task.name for task in tagged()["mini"]]


def opened(name):
    (task,) = open_tasks([name])
    if not task.here:
        pytest.skip(f"data of {name} is not here: study fetch {task.config.data.set}")
    return task


def answered(request):
    if request.kind == "generate":
        return Response(text=" 12 apples", ended="stop", n_tokens=2)
    return Response(logprob=-float(len(request.continuation)), greedy=False, n_tokens=1)


@pytest.mark.parametrize("name", NAMES)
def test_each_task_asks_and_judges(name):
    task = opened(name)
    assert task.name == name
    assert task.title != name
    assert task.license
    assert task.source
    documents = task.documents(6)
    assert len({id for id, _ in documents}) == len(documents) == 6
    for template in task.templates:
        judge = task.judge(template)
        samples = []
        for id, document in documents:
            requests = judge.requests(document)
            assert requests
            samples.append(judge.sample(id, document, [answered(r) for r in requests]))
        json.dumps([sample.as_json() for sample in samples])
        rows = [row for row in judge.numbers(samples) if not row.group]
        assert all(row.signature.startswith(f"{name}:{task.version}|") for row in rows)
        assert all(row.n == 6 or row.note for row in rows)
    chat = task.judge(chat=True).requests(documents[0][1])[0]
    assert chat.kind == "rolling" or chat.context[-1][0] == "user"


@pytest.mark.parametrize("name", CHOICES)
def test_choices_are_told_apart_and_the_right_one_is_among_them(name):
    task = opened(name)
    judge, golds, n_twice = task.judge(), Counter(), 0
    for id, document in task.documents(200):
        requests = judge.requests(document)
        assert len(requests) >= 2
        n_twice += len(set(requests)) < len(requests)
        gold = judge.sample(id, document, [answered(r) for r in requests]).target
        golds[gold] += 1
    assert n_twice <= 2  # ARC offers "remain the same" twice
    if name not in ("blimp", "crows_pairs", "truthfulqa_mc1", "copa"):  # always the first there
        assert max(golds.values()) < 0.8 * golds.total()


def test_prompts_of_known_documents():
    def prompt(name):
        task = opened(name)
        _, document = task.documents(1)[0]
        request = task.judge().requests(document)[0]
        return f"{request.context}|{request.continuation}"

    assert prompt("arc_easy") == (
        "Question: Which statement best explains why photosynthesis is the foundation of most "
        "food webs?\nAnswer:| Sunlight is the source of energy for nearly all ecosystems."
    )
    assert prompt("piqa").startswith("Question: How do I ready a guinea pig cage for it's new occ")
    assert "occupants?\nAnswer:| Provide the guinea pig" in prompt("piqa")
    assert prompt("boolq").startswith("All biomass goes through at least")
    assert prompt("boolq").endswith(
        "\nQuestion: does ethanol take more energy make that produces?\nAnswer:| no"
    )
    assert prompt("winogrande") == (
        "Sarah was a much better surgeon than Maria so Sarah| always got the easier cases."
    )
    assert prompt("lambada").endswith("I don't care about| signs")
    assert prompt("blimp").startswith("|Who should Derek hug")
    assert prompt("mini_copy") == (
        "Repeat the input exactly.\n\nInput: red house 12\nOutput: red house 12\n\n"
        "Input: The quick fox (a) sleeps\nOutput: The quick fox (a) sleeps\n\n"
        "Input: Music apple lamp\nOutput:|"
    )


def test_bbh_asks_as_lm_eval_does():
    import yaml
    from lm_eval import tasks

    task = opened("bbh")
    same, folder = 0, f"{tasks.__path__[0]}/bbh/cot_fewshot"
    for _, document in task.documents(27):
        with open(f"{folder}/{document['task']}.yaml", encoding="utf-8") as stream:
            theirs = yaml.safe_load(stream)
        examples = theirs["fewshot_config"]["samples"]
        expected = theirs["description"] + "".join(
            f"Q: {shown['input']}\nA: Let's think step by step.\n{shown['target']}\n\n"
            for shown in examples
        )
        expected += f"Q: {document['input']}\nA: Let's think step by step.\n"
        context = task.judge().requests(document)[0].context
        assert context.split() == expected.split()
        same += context == expected
    assert same == 26  # lm-eval breaks a line more in sports_understanding


def test_gsm8k_shows_five_worked_answers_and_reads_two_numbers():
    task = opened("gsm8k")
    id, document = task.documents(1)[0]
    judge = task.judge()
    (request,) = judge.requests(document)
    assert request.context.count("Question:") == 6
    assert request.context.count("\n#### ") == 5
    sample = judge.sample(id, document, [Response(text="She makes 2 * 9 = $18.")])
    assert sample.values == {"exact_match,strict-match": 0.0, "exact_match,flexible-extract": 1.0}
    sample = judge.sample(id, document, [Response(text="So 9.\n#### 18")])
    assert sample.values == {"exact_match,strict-match": 1.0, "exact_match,flexible-extract": 1.0}


def test_the_first_documents_are_of_all_kinds():
    for name, field, kinds in (
        ("blimp", "UID", 67),
        ("bbh", "task", 27),
        ("crows_pairs", "bias_type", 9),
        ("bbq_age", "question_index", 25),
    ):
        counts = Counter(document[field] for _, document in opened(name).documents(2 * kinds))
        assert len(counts) == kinds
        assert set(counts.values()) == {2}


def test_winobias_pairs_differ_in_the_pronoun_alone():
    rows = [document for _, document in opened("winobias").documents(10_000)]
    assert len(rows) == 1584
    pairs = {}
    for row in rows:
        assert len(row["choices"]) == 2
        assert row["choices"][row["gold"]] == row["entity"]
        assert row["pronoun"] in row["sentence"].split() or row["pronoun"] in row["sentence"]
        assert "[" not in row["sentence"]
        pairs.setdefault(row["pair"], {})[row["stereotype"]] = row
    assert len(pairs) == 792
    same = sum(p["pro"]["entity"] == p["anti"]["entity"] for p in pairs.values())
    assert same > 0.97 * len(pairs)
    with pytest.raises(UserError, match="a line of WinoBias must have"):
        shapes.winobias_row("3 no brackets here")


def test_wikitext_pages_are_detokenized_as_lm_eval_does():
    from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

    task = opened("wikitext")
    pages = [document for _, document in task.documents(1000)]
    assert len(pages) > 50
    for page in pages:
        assert page["text"] == wikitext_detokenizer(page)
    whole = registry.path("wikitext2", "test.txt").read_text(encoding="utf-8")
    assert "\n".join(page["page"] for page in pages).strip() == whole.strip()
    id, document = task.documents(1)[0]
    values = task.judge().sample(id, document, [Response(logprob=-5.0)]).values
    assert values["bits_per_byte"] == (-5.0, len(document["page"].encode()))


def test_truthfulqa_has_the_best_answer_first_and_no_choice_twice():
    for _, row in opened("truthfulqa_mc1").documents(1000):
        assert len(set(row["choices"])) == len(row["choices"]) >= 2
        assert all(choice.endswith(".") for choice in row["choices"])


def test_squad_nesting_is_flattened():
    rows = [document for _, document in opened("xquad_en").documents(2000)]
    assert len(rows) == 1190
    assert all(answer in row["context"] for row in rows for answer in row["answers"])
    assert len({row["paragraph"] for row in rows}) == 240


# ---- what comes with the package


def test_mini_tasks_are_enough_and_have_no_document_twice():
    assert len(MINI) >= 8
    for task in tagged()["mini"]:
        assert task.here
        rows = [document for _, document in task.documents(1000)]
        assert 30 <= len(rows) <= 60
        assert len({json.dumps(row, sort_keys=True) for row in rows}) == len(rows)
        assert not task.config.data.set


def test_mini_arithmetic_is_right():
    for _, row in opened("mini_arithmetic").documents():
        left, operator, right = row["question"].removeprefix("What is ").rstrip("?").split()
        sums = {"+": int(left) + int(right), "-": int(left) - int(right)}
        sums["*"] = int(left) * int(right)
        assert int(row["answer"]) == sums[operator]


def test_mini_extract_answers_stand_in_their_notes():
    for _, row in opened("mini_extract").documents():
        assert row["answers"][0] in row["note"]
    for _, row in opened("hallucination_closed").documents():
        assert row["answerable"] == bool(row["answers"])
        said = any(a.lower() in row["passage"].lower() for a in row["answers"])
        assert said == row["answerable"]


def test_pairs_differ_in_their_group_alone():
    for name, field in (("mini_bias_pairs", "text"), ("mini_consistency", "question")):
        pairs = {}
        for _, row in opened(name).documents():
            pairs.setdefault(row["pair"], []).append(row)
        for one, other in pairs.values():
            assert one["group"] != other["group"]
            same = ("continuation", "kind") if field == "text" else ("choices", "gold")
            assert [one[key] for key in same] == [other[key] for key in same]
            if field == "text":
                ends = [row["text"].lower().removeprefix(row["group"]) for row in (one, other)]
                assert ends[0] == ends[1]


def test_mini_facts_are_balanced():
    for name, field in (("mini_facts", "label"), ("hallucination_closed", "answerable")):
        values = [row[field] for _, row in opened(name).documents()]
        assert sum(values) == len(values) / 2


def test_the_list_says_what_is_here():
    rows = list_tasks()
    assert [row.name for row in rows] == NAMES
    assert all(row.title and row.license and row.source and row.tags for row in rows)
    for one, other in pairwise(rows):
        assert one.name < other.name
    assert {row.name for row in list_tasks("bias")} >= {"bbq_age", "crows_pairs", "winobias"}
    for tag in ("core", "bias", "toxicity", "hallucination", "mini"):
        assert list_tasks(tag)
    assert sum(row.n_templates > 2 for row in list_tasks("core")) >= 4


def test_tags_leave_out_what_is_not_here_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setenv("ML_STUDIES_DATA", str(tmp_path))
    monkeypatch.setenv("ML_STUDIES_OFFLINE", "1")
    names = [task.name for task in open_tasks(["hallucination"])]
    assert "mini_facts" in names
    assert left_out(["hallucination", "arc_easy"]) == ["halueval", "truthfulqa_mc1"]
    with pytest.raises(UserError, match="no task of code has its data here"):
        open_tasks(["code"])
    (task,) = open_tasks(["arc_easy"])
    with pytest.raises(UserError, match=r"arc_easy\.jsonl is not in"):
        task.documents()


def test_summaries_are_named_and_files_are_used():
    used = {name for task in tagged()["all"] for name in task.summaries}
    assert used == set(SUMMARIES)
    read = {
        file for task in tagged()["mini"] for f in task.config.data.files.values() for file in f
    }
    assert {path.name for path in BUILTIN.glob("*.jsonl")} == read
