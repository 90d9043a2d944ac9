"""The same task files through lm-eval and through ours: the same prompts, values and numbers."""

import hashlib
import json

import pytest

from llm_eval.tasks.reading import read_task
from llm_eval.types import Response

ROWS = [
    {"q": "Is ice cold", "options": ["yes", "no"], "label": 0, "a": "yes #### 12", "ok": "yes"},
    {"q": "Wo ist Ägypten", "options": ["in Afrika", "weit"], "label": 1, "a": "7", "ok": "weit"},
    {"q": "2+2", "options": ["4", "four, of course"], "label": 0, "a": "#### 4", "ok": "4"},
    {"q": "Is ice cold", "options": ["yes", "no"], "label": 1, "a": "1,000", "ok": "no"},
    {"q": "日本の首都", "options": ["東京", "Kyoto"], "label": 0, "a": "東京", "ok": "東京"},
    {"q": "a\nb", "options": ["c", " d"], "label": 1, "a": "The answer is 5.", "ok": " d"},
    {"q": "Last", "options": ["same", "also"], "label": 0, "a": "$3", "ok": "same"},
]
COMMON = "dataset_path: json\nmetadata: {version: 1}\n"
DATA = {
    "test": "test_split: test\ndataset_kwargs: {data_files: {test: rows.jsonl}}\n",
    "both": "test_split: test\nfewshot_split: train\n"
    "dataset_kwargs: {data_files: {test: rows.jsonl, train: train.jsonl}}\n",
    "same": "test_split: test\nfewshot_split: test\n"
    "dataset_kwargs: {data_files: {test: rows.jsonl}}\n",
    "validation": "training_split: train\nvalidation_split: val\n"
    "dataset_kwargs: {data_files: {val: rows.jsonl, train: train.jsonl}}\n",
}
CHOICE = """output_type: multiple_choice
doc_to_text: "Q: {{q}}?\\nA:"
doc_to_target: label
doc_to_choice: options
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
  - {metric: acc_bytes, aggregation: mean, higher_is_better: true}
"""
GENERATE = """output_type: generate_until
doc_to_text: "{{q | regex_replace('a', 'A')}}"
doc_to_target: a
generation_kwargs: {until: ["\\n", "."], max_gen_toks: 20, do_sample: false}
filter_list:
  - name: first
    filter:
      - {function: regex, regex_pattern: "#### ([0-9,]+)|([0-9]+)"}
      - {function: take_first}
  - name: last
    filter:
      - {function: lowercase}
      - {function: regex, regex_pattern: "[0-9]+", group_select: -1, fallback: nothing}
      - {function: remove_whitespace}
      - {function: take_first}
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
    ignore_case: true
    ignore_punctuation: true
    regexes_to_ignore: [",", "(?s).*#### "]
"""
FILES = {
    "choice": DATA["test"] + CHOICE,
    "delimiters": DATA["both"]
    + CHOICE
    + 'description: "Answer {{q | length}}.\\n"\ntarget_delimiter: ""\n'
    + 'fewshot_delimiter: "\\n--\\n"\nnum_fewshot: 2\n',
    "first_n": DATA["same"] + CHOICE + "num_fewshot: 2\nfewshot_config: {sampler: first_n}\n",
    "drawn_apart": DATA["same"] + CHOICE + "num_fewshot: 3\n",
    "validation": DATA["validation"] + CHOICE + "num_fewshot: 2\n",
    "by_text": DATA["test"] + CHOICE.replace("doc_to_target: label", "doc_to_target: ok"),
    "by_template": DATA["both"]
    + CHOICE.replace("doc_to_target: label", 'doc_to_target: "{{label}}"').replace(
        "doc_to_choice: options", 'doc_to_choice: "{{[options[0], options[1]]}}"'
    )
    + "num_fewshot: 1\n",
    "contexts": DATA["both"]
    + CHOICE.replace('doc_to_text: "Q: {{q}}?\\nA:"', "doc_to_text: label").replace(
        "doc_to_target: label", 'doc_to_target: "ends {{a}}"'
    )
    + "num_fewshot: 2\n",
    "samples": DATA["test"]
    + CHOICE
    + "num_fewshot: 2\nfewshot_config:\n  sampler: first_n\n  doc_to_text: 'Example {{q}}'\n"
    + "  samples:\n    - {q: x, options: [u, v], label: 1}\n"
    + "    - {q: y, options: [u, v], label: 0}\n",
    "generate": DATA["both"] + GENERATE + "num_fewshot: 2\n",
    "likelihood": DATA["both"]
    + """output_type: loglikelihood
doc_to_text: "{{q}}"
doc_to_target: "{{' ' + a}}"
num_fewshot: 1
target_delimiter: ""
metric_list:
  - {metric: perplexity, aggregation: perplexity, higher_is_better: false}
  - {metric: acc, aggregation: mean, higher_is_better: true}
""",
    "rolling": DATA["test"]
    + """output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{q}} {{a}}"
metric_list:
  - {metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: byte_perplexity, aggregation: weighted_perplexity, higher_is_better: false}
  - {metric: bits_per_byte, aggregation: bits_per_byte, higher_is_better: false}
""",
}


def number(*texts):
    return int.from_bytes(hashlib.sha256("\0".join(texts).encode()).digest()[:4]) / 2**32


def likelihood(context, continuation):
    """Some are equal, so that ties count too."""
    x = number(context, continuation)
    return (-4.0 if x < 0.3 else -10 * x), x > 0.5


def written(context):
    x = int(number(context) * 5)
    return ["yes #### 12", "It is 4", "#### 1,000 or 7", "nothing", "東京 5 $3"][x]


def answered(request):
    if request.kind == "generate":
        return Response(text=written(request.context))
    logprob, greedy = likelihood(request.context, request.continuation)
    return Response(logprob=logprob, greedy=greedy)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parity")
    lines = [json.dumps(row) + "\n" for row in ROWS]
    (folder / "rows.jsonl").write_text("".join(lines))
    train = [json.dumps(row | {"q": row["q"] + " (train)"}) + "\n" for row in ROWS[::-1]]
    (folder / "train.jsonl").write_text("".join(train))
    for name, text in FILES.items():
        (folder / f"{name}.yaml").write_text(f"task: {name}\n{COMMON}{text}")
    return folder


@pytest.fixture(scope="module")
def theirs(folder):
    """Results and samples of lm-eval."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        import datasets
        from lm_eval import simple_evaluate
        from lm_eval.api.model import LM
        from lm_eval.tasks import TaskManager

        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))

        class Digest(LM):
            def loglikelihood(self, requests):
                return [likelihood(*request.args) for request in requests]

            def loglikelihood_rolling(self, requests):
                return [likelihood("", *request.args)[0] for request in requests]

            def generate_until(self, requests):
                return [written(request.args[0]) for request in requests]

        return simple_evaluate(
            Digest(),
            tasks=list(FILES),
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            bootstrap_iters=2,
            log_samples=True,
            fewshot_random_seed=3,
        )


def ours(folder, name):
    judge = read_task(folder / f"{name}.yaml").judge(seed=3)
    return judge, [
        judge.sample(id, document, [answered(r) for r in judge.requests(document)])
        for id, document in read_task(folder / f"{name}.yaml").documents()
    ]


@pytest.mark.parametrize("name", FILES)
def test_prompts_are_those_of_lm_eval(folder, theirs, name):
    _, samples = ours(folder, name)
    expected = sorted(theirs["samples"][name], key=lambda s: s["doc_id"])
    expected = expected[:: len(expected) // len(ROWS)]  # a line per pipeline of filters
    assert len(samples) == len(expected) == len(ROWS)
    for sample, other in zip(samples, expected, strict=True):
        calls = [list(call) for call in other["arguments"]]
        for request, call in zip(sample.requests, calls, strict=True):
            if request.kind == "generate":
                assert (request.context, list(request.until)) == (call[0], call[1]["until"])
                assert request.max_new_tokens == call[1]["max_gen_toks"]
            elif request.kind == "rolling":
                assert [request.continuation] == call
            else:
                assert [request.context, request.continuation] == call


@pytest.mark.parametrize("name", FILES)
def test_numbers_are_those_of_lm_eval(folder, theirs, name):
    judge, samples = ours(folder, name)
    expected = {k: v for k, v in theirs["results"][name].items() if "," in k}
    seen = 0
    for row in judge.numbers(samples):
        metric, _, pipeline = row.metric.partition(",")
        pipeline = pipeline or "none"
        assert row.value == pytest.approx(expected[f"{metric},{pipeline}"], abs=1e-12)
        theirs_ = expected[f"{metric}_stderr,{pipeline}"]
        if judge.metrics[row.metric][1].linear:
            assert row.stderr == pytest.approx(theirs_, abs=1e-12)
        assert row.n == len(ROWS)
        seen += 1
    assert seen == sum("stderr" not in key for key in expected) > 0
