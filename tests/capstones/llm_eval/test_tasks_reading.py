"""Task files: what is read, and that a mistake is one line with file, line and field."""

import random
import re

import pytest
import yaml

from llm_eval.tasks.located import Fields, parse
from llm_eval.tasks.opening import builtin, open_tasks
from llm_eval.tasks.reading import read_task
from llm_eval.tasks.task import Task
from llm_eval.tasks.templates import render
from shared.errors import UserError

GOOD = """task: sums
dataset_path: json
dataset_kwargs: {data_files: rows.jsonl}
test_split: train
output_type: generate_until
doc_to_text: "{{q}}"
doc_to_target: a
generation_kwargs:
  until: "."
metric_list:
  - metric: exact_match
    aggregation: mean
    ignore_case: true
"""


def written(tmp_path, text, name="t.yaml"):
    (tmp_path / "rows.jsonl").write_text('{"q": "1+1", "a": "2"}\n')
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        (
            "doc_to_target: a",
            "doc_to_targt: a",
            r":7: unknown field doc_to_targt; did you mean doc_to",
        ),
        ("task: sums", "task: [a]", r"t\.yaml:1: task must be text, got \['a'\]"),
        ("task: sums", "task: a b", r":1: task must be a name of letters"),
        ("test_split: train", "test_splt: train", r":4: unknown field test_splt; did you mean"),
        ("generate_until", "generate", r":5: output_type must be one of multiple_choice"),
        ('"{{q}}"', '"{{q}"', r":6: doc_to_text must be a template"),
        ('"{{q}}"', "!function utils.text", r":6: doc_to_text is !function, which asks to run"),
        ('"{{q}}"', "!!python/object/apply:os.system [ls]", r":6: doc_to_text is no value|:6:"),
        ("json", "allenai/ai2_arc", r":2: dataset_path must be json or csv .*nothing is down"),
        ("rows.jsonl", "hf://a/b.jsonl", r":3: dataset_kwargs.data_files must be files that are"),
        ("until:", "untill:", r":9: unknown field generation_kwargs.untill; did you mean until"),
        ('until: "."', "max_gen_toks: 0", r":9: generation_kwargs.max_gen_toks must be between"),
        ("exact_match", "exact_mach", r":11: metric_list.0.metric is wrong: metric of gen"),
        ("ignore_case", "ignore_caps", r":11: metric_list.0.metric is wrong: options of exact"),
        ("aggregation: mean", "aggregation: median", r":12: metric_list.0.aggregation of exact"),
        ("doc_to_target: a", "", r":1: doc_to_target is missing, which generate_until needs"),
        ("test_split: train", "", r":1: test_split or validation_split must name what is eval"),
        ("test_split: train", "test_split: test", r":4: test_split must be one of train, got"),
        ("task: sums", "task: sums\ntask: b", r":2: field task comes twice"),
        ("task: sums", "task: sums\nprocess_docs: f", r":2: process_docs is not read here"),
        ("task: sums", "task: sums\nrepeats: true", r":2: repeats must be a whole number, got T"),
        ("task: sums", "task: sums\ninclude: no.yaml", r"no\.yaml cannot be read"),
        ("task: sums", "task: sums\ninclude: t.yaml", r"include is deeper than"),
        ("task: sums", "- a", r"is no YAML|must hold a mapping"),
        ("task: sums", "llm_eval: {summaries: bqb}\ntask: s", r":1: llm_eval.summaries must be of"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, before, after, why):
    assert before in GOOD
    path = written(tmp_path, GOOD.replace(before, after, 1))
    with pytest.raises(UserError, match=why) as error:
        read_task(path)
    assert "\n" not in str(error.value)


def test_a_filter_is_checked_where_it_stands(tmp_path):
    text = GOOD + "filter_list:\n  - name: x\n    filter:\n      - function: regex\n"
    with pytest.raises(UserError, match=r":18: filter_list\.0\.filter\.0\.regex_pattern must be a"):
        read_task(written(tmp_path, text + "        regex_pattern: '('\n"))
    with pytest.raises(UserError, match=r":17: .*function must be one of regex, lower.*'regx'"):
        read_task(written(tmp_path, text.replace("regex", "regx")))


def test_included_fields_are_replaced_as_a_whole_and_keep_their_lines(tmp_path):
    written(tmp_path, GOOD, "base.yaml")
    path = written(
        tmp_path, "include: base.yaml\ntask: other\ngeneration_kwargs: {until: [x, y]}\n"
    )
    config = read_task(path).config
    assert (config.name, config.generation.until) == ("other", ("x", "y"))
    written(tmp_path, GOOD.replace("json", "jsn", 1), "base.yaml")
    with pytest.raises(UserError, match=r"base\.yaml:2: dataset_path must be json"):
        read_task(path)


def test_until_may_be_one_text(tmp_path):
    assert read_task(written(tmp_path, GOOD)).config.generation.until == (".",)
    text = GOOD.replace('until: "."', 'until: "Question:"')
    assert read_task(written(tmp_path, text)).config.generation.until == ("Question:",)
    (request,) = read_task(written(tmp_path, text)).judge().requests({"q": "1", "a": "2"})
    assert request.until == ("Question:",)


def test_temperature_needs_sampling(tmp_path):
    def temperature(extra):
        return read_task(written(tmp_path, GOOD.replace('until: "."', extra))).config.generation

    assert temperature("temperature: 0.7").temperature == 0.7
    assert temperature("temperature: 0.7\n  do_sample: false").temperature == 0
    assert temperature("do_sample: true").temperature == 1
    assert temperature("do_sample: false").until == ("\n\n",)


TEMPLATES = [
    "{{ 'a' * 10 ** 9 }}",
    "{{ 'a' * 1000000000 }}",
    "{{ [1] * 1000000000 }}",
    "{% for i in range(99999) %}{{ 'abcdefghijklmnop' }}{% endfor %}",
    "{{ ''.__class__.__mro__ }}",
    "{{ cycler.__init__.__globals__ }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ 'a'.ljust(1000000000) }}",
    "{{ 'a'.zfill(1000000000) }}",
    "{{ (1).__class__ }}",
    "{{ q | regex_replace('(', '') }}",
    "{{ x.append(1) }}",
    "{{ 1 / 0 }}",
    "{% include 'a' %}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_that_reach_out_or_blow_up_are_refused(template):
    with pytest.raises(UserError, match="template"):
        render(template, {"q": "x", "x": [1]})


def test_yaml_that_grows_is_refused():
    bomb = "task: a\nl0: &l0 [x, x, x, x, x, x, x, x, x, x]\n"
    for i in range(9):
        bomb += f"l{i + 1}: &l{i + 1} [{', '.join([f'*l{i}'] * 10)}]\n"
    for text in (bomb, "a: &a [*a]\n", "a: " + "[" * 5000, "a: " + "{b: " * 400):
        with pytest.raises(UserError, match=r"^f:\d+: "):
            parse(text, "f")


def test_values_that_yaml_would_guess_stay_text():
    fields = parse("a: 2020-01-01\nb: yes\nc: 1e3\nd: 12\n", "f")
    assert isinstance(fields, Fields)
    assert fields.take("a", str) == "2020-01-01"
    assert fields.take("b", bool) is True
    assert fields.take("c", str) == "1e3"
    assert fields.take("d", float) == 12.0


def mutated(rng, text):
    lines = text.split("\n")
    for _ in range(rng.randint(1, 3)):
        i = rng.randrange(len(lines))
        kind = rng.randrange(8)
        if kind == 0:
            lines[i] = lines[i][: rng.randint(0, len(lines[i]))]
        elif kind == 1:
            j = rng.randint(0, len(lines[i]))
            lines[i] = lines[i][:j] + rng.choice("{}[]:#!&*'\"\t\x00é,-|>%@`\\") + lines[i][j:]
        elif kind == 2:
            del lines[i]
            lines = lines or [""]
        elif kind == 3:
            lines.insert(i, lines[rng.randrange(len(lines))])
        elif kind == 4:
            lines[i] = re.sub(r": .*", f": {rng.choice(VALUES)}", lines[i])
        elif kind == 5:
            lines[i] = "  " * rng.randint(0, 2) + lines[i]
        elif kind == 6:
            j, k = sorted(rng.randint(0, len(lines[i])) for _ in range(2))
            lines[i] = lines[i][:j] + lines[i][k:]
        else:
            lines[i] = lines[i].replace("metric", "matric").replace("doc_", "dok_")
    return "\n".join(lines)


VALUES = ["null", "-1", "1e400", "[]", "{}", "[null]", "yes", "!x y", "2001-99-99", "0o9", ".nan"]
VALUES += ["&a [*a]", "*a", "'{{'", "'{{ 1/0 }}'", "{a: {b: []}}", "[[1]]", "999999999999999999999"]
VALUES += ["12:99:99", "'{% for %}'", "!!int x", "!!binary x", "!!set {a}", "? x", "0x", "-.inf"]


def complaint(action, *arguments):
    """What a user is told, "" if nothing is wrong."""
    try:
        action(*arguments)
    except UserError as error:
        return str(error)
    return ""


def test_mutated_files_are_tasks_or_one_line_errors(tmp_path):
    rng = random.Random(0)
    sources = [path.read_text(encoding="utf-8") for path in builtin().values()] + [GOOD] * 20
    document = {"q": "1", "question": "x", "choices": ["a", "b"], "gold": 0}
    told = []
    for _ in range(300):
        path = written(tmp_path, mutated(rng, rng.choice(sources)))
        told.append(complaint(read_task, path))
        if not told[-1]:
            task = read_task(path)
            assert isinstance(task, Task)
            told.append(complaint(lambda made: made.judge().requests(document), task))
    assert all("\n" not in line and len(line) < 1000 for line in told)
    assert 100 < sum(map(bool, told)) < len(told) - 10


def test_our_loader_gives_yamls_own_values():
    for path in builtin().values():
        text = path.read_text(encoding="utf-8")
        ours, theirs = parse(text, path.name).content, yaml.safe_load(text)
        assert ours == theirs


def test_names_tags_and_files(tmp_path):
    path = written(tmp_path, GOOD)
    tasks = open_tasks(["mini_copy", str(path), "mini", "mini_copy"])
    assert [task.name for task in tasks[:2]] == ["mini_copy", "sums"]
    assert len({task.name for task in tasks}) == len(tasks) >= 13
    with pytest.raises(UserError, match="two tasks are called mini_copy"):
        open_tasks(["mini_copy", str(written(tmp_path, GOOD.replace("sums", "mini_copy")))])
    for name in ("mini_kopy", "corre", ""):
        with pytest.raises(UserError, match=r"unknown task or tag"):
            open_tasks([name])
    with pytest.raises(UserError, match="tasks must be at least one"):
        open_tasks([])
    with pytest.raises(UserError, match=r"x\.yaml cannot be read"):
        open_tasks([str(tmp_path / "x.yaml")])
