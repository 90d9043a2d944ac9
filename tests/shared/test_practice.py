"""Exercises: planted, graded on copies, hinted at, kept; the repository is never touched."""

import json
import subprocess
from collections import Counter
from dataclasses import replace

import pytest
from witness import Witness

from shared import cli, records
from shared.errors import UserError
from shared.judge import rule_text
from shared.practice import exercises, grading, hints, predict, progress
from shared.practice.commands import _desk
from shared.practice.desk import Desk
from shared.practice.grading import Copy
from shared.study import call

SOURCE = '''"""A week of one function."""


def mean(x: list[float]) -> float:
    """Arithmetic mean."""
    total = 0.0
    for value in x:
        total += value
    count = len(x)
    return total / count


def median(x: list[float]) -> float:
    """The middle one of an odd number: long enough, but no mistake in it is known."""
    ordered = sorted(x)
    half = len(x) // 2
    assert len(x) % 2
    middle = ordered[half]
    return middle
'''
TEST = """
import os
import pytest
from week01.toy import mean

def test_mean():
    if os.path.exists("skip"):
        pytest.skip("asked for")
    assert mean([1.0, 2.0, 6.0]) == 3.0
"""
LIMIT = 600  # seconds that a machine may take for a test
EDITS = [("len(x)\n    return", "len(x) - 1\n    return"), ("+= value", "= value"), ("0.0", "1.0")]


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A project of one week in a git checkout, and a reader's desk beside it."""
    root = tmp_path / "project"
    for folder in ("weeks/01", "tests/weeks/01"):
        (root / folder).mkdir(parents=True)
    (root / "curriculum.toml").write_text(
        '[[week]]\nnumber = "01"\ntitle = "Toys"\npart = "I"\ndate = 2026-01-01\nscripts = []\n'
    )
    (root / "weeks/01/__init__.py").write_text("")
    (root / "weeks/01/toy.py").write_text(SOURCE)
    (root / "tests/weeks/01/test_toy.py").write_text(TEST)
    rows = [
        f'[[bug]]\nid = "toy-{i}"\nfile = "weeks/01/toy.py"\nbefore = {json.dumps(before)}\n'
        f'after = {json.dumps(after)}\nsymptom = "It is {i} wrong."\n'
        'test = "tests/weeks/01/test_toy.py::test_mean"\n'
        for i, (before, after) in enumerate(EDITS)
    ]
    (root / "tests/weeks/01/bugs.toml").write_text("\n".join(rows))
    subprocess.run(["git", "init", "-q", root], check=True)
    monkeypatch.setattr(records, "ROOT", root)
    return Desk(tmp_path / "mine")


def of(kind):
    return next(exercises.every("01", kind))


def wrong(number):
    before, after = EDITS[number]
    return SOURCE.replace(before, after, 1)


# ---- which exercises there are


def test_every_mistake_can_be_planted_and_every_week_has_each_kind():
    names = Counter()
    for week in exercises.weeks():
        found = exercises.of_week(week)
        names.update(exercise.name for exercise in found)
        kinds = Counter(exercise.kind for exercise in found)
        if (records.ROOT / "tests" / "weeks" / week / "bugs.toml").exists():
            assert kinds["find"], week
            assert kinds["write"], week
        for exercise in found:
            if exercise.kind == "predict":
                continue
            compile(exercise.start, exercise.file, "exec")
            assert exercise.start != exercise.solution
            assert exercise.tests
            assert all(hints.hints(exercise))
    assert max(names.values()) == 1


def test_a_name_does_not_tell_the_mistake(toy):
    assert "toy-0" not in of("find").name


def test_a_function_qualifies_only_with_a_test_that_needs_its_body(toy):
    assert [exercise.function for exercise in exercises.every("01", "write")] == ["mean"]
    start = of("write").start
    assert '"""Arithmetic mean."""\n    raise NotImplementedError\n\n\ndef median' in start
    assert "total" not in start


def test_places_are_the_lines_that_changed():
    text = "a\nb = 2\nc\n"
    assert exercises.changed_lines(text, "a\nb = 2\n", "a\nb = 1\n", 0) == (2, 2)
    assert exercises.changed_lines("a\nc\n", "a\nc", "a\nb\nc", 0) == (2, 2)


def test_hints_go_from_the_function_to_the_line(toy):
    exercise = of("find")
    said = [toy.hint(exercise) for _ in range(4)]
    assert [number for number, _, _ in said] == [1, 2, 3, 3]
    assert "`mean`" in said[0][2]
    assert "lines 4 and 14" in said[1][2]
    assert "count = len(x) - 1" in said[2][2]
    assert "-    count = len(x) - 1\n+    count = len(x)\n" in hints.answer(exercise)


def test_hints_for_a_body(toy):
    said = [toy.hint(of("write"))[2] for _ in range(3)]
    assert said[0] == "The body in the repository has 5 lines."
    assert said[1] == "It calls len."
    assert said[2].endswith("total += value")
    assert "count" not in said[2]


# ---- grading


def test_solutions_pass_and_every_mistake_fails(toy):
    before = {path: path.read_bytes() for path in records.ROOT.rglob("*") if path.is_file()}
    write = of("write")
    with Copy() as copy:
        for number in range(len(EDITS)):
            found = copy.grade(write, wrong(number), LIMIT)
            assert not found.passed
            assert "assert mean([1.0, 2.0, 6.0]) == 3.0" in found.said
        assert "NotImplementedError" in copy.grade(write, write.start, LIMIT).said
        assert copy.grade(write, SOURCE, LIMIT).passed
    after = {path: path.read_bytes() for path in records.ROOT.rglob("*") if path.is_file()}
    assert after == before
    assert not copy.folder.exists()


def test_syntax_errors_are_told_by_line(toy):
    with Copy() as copy:
        found = copy.grade(of("find"), "x = 1\ndef f(:\n", LIMIT)
    assert not found.passed
    assert found.said.startswith("toy.py, line 2: ")


def test_an_endless_loop_is_ended_with_its_children(toy, tmp_path):
    pipe = tmp_path / "pipe"
    child = f"import time; f = open({str(pipe)!r}, 'wb', 0); f.write(b'x'); time.sleep(200)"
    text = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {child!r}])\n"
    with Copy() as copy, Witness(pipe) as witness:
        for limit in (5, 20, 60, 180):  # a slow child has not begun at first
            found = copy.grade(of("find"), text + "while True: pass\n", limit)
            assert not found.passed
            assert found.said.startswith(f"ended after {limit} s")
            if witness.begun():
                break
        assert witness.ended()


def test_to_end_the_process_is_not_to_pass(toy):
    with Copy() as copy:
        found = copy.grade(of("find"), "import os\nos._exit(0)\n", LIMIT)
    assert not found.passed


def test_a_skipped_test_is_not_green(toy):
    with Copy() as copy:
        (copy.folder / "skip").write_text("")
        found = copy.grade(of("find"), SOURCE, LIMIT)
    assert not found.passed
    assert "skipped" in found.said


def test_a_failure_is_shortened():
    frames = [f"weeks/01/a.py:{i}: in f\n    f({i})" for i in range(9)]
    foreign = "<@beartype(f) at 0x1>:5: in f\n    ???\n../site-packages/b.py:3: in g\n    g()"
    reasons = [f"E   {i}" for i in range(30)]
    summary = "= short test summary info =\nE   again"
    said = grading.shortened("\n".join(["noise", *frames, foreign, *reasons, summary])).split("\n")
    assert said[:2] == ["weeks/01/a.py:0: in f", "    f(0)"]
    assert said[2:6] == "\n".join(frames[-2:]).split("\n")
    assert said[6:] == [*reasons[:12], "… 18 more lines"]
    assert grading.shortened("it could not begin\n") == "it could not begin"


def test_a_real_mistake_is_red_and_its_solution_green():
    exercise = of("find")
    with Copy() as copy:
        assert copy.grade(exercise, exercise.solution, LIMIT).passed
        assert not copy.grade(exercise, exercise.start, LIMIT).passed


# ---- the reader's folder


def test_resume_goes_on_with_what_is_open(toy):
    first = toy.next()
    toy.open(first)
    toy.path(first).write_text("mine")
    toy.open(first)
    assert toy.path(first).read_text() == "mine"
    again = Desk(toy.home)
    assert again.next() == first
    assert again.next(kind="write").kind == "write"
    again.progress.solved.append(first.name)
    assert again.next() != first
    assert again.after(first) == again.next()
    last = list(exercises.every())[-1]
    assert again.after(last) == again.next()
    assert again.after(first, "01", "find").name in [e.name for e in exercises.every("01", "find")]


def test_nothing_is_left_when_all_is_done(toy):
    toy.progress.solved += [exercise.name for exercise in exercises.every()]
    assert toy.next() is None


def test_a_solved_one_stays_solved(toy):
    exercise = of("find")
    toy.open(exercise)
    toy.path(exercise).write_text(exercise.solution)
    with Copy() as copy:
        assert toy.check(exercise, copy, LIMIT).passed
    assert Desk(toy.home).done(exercise)


@pytest.mark.parametrize("text", ['{"current": "find', "[]", '{"solved": 3}', '{"what": 1}', "\0"])
def test_torn_progress_is_put_aside(toy, text):
    toy.open(of("find"))
    mine = toy.path(of("find"))
    mine.write_text("mine")
    (toy.home / progress.FILE).write_text(text)
    again = Desk(toy.home)
    assert again.progress == progress.Progress()
    assert "damaged" in again.notice
    assert "\n" not in again.notice
    assert (toy.home / "progress.json.1").read_text() == text
    assert mine.read_text() == "mine"


def test_reset_keeps_the_readers_file(toy):
    exercise = of("find")
    toy.open(exercise)
    assert toy.reset(exercise) is None
    for number in (1, 2):
        toy.path(exercise).write_text(f"mine {number}")
        aside = toy.reset(exercise)
        assert aside.name == f"toy.py.{number}"
        assert aside.read_text() == f"mine {number}"
        assert toy.path(exercise).read_text() == exercise.start


def test_the_readers_folder_is_not_among_the_projects(toy):
    with pytest.raises(UserError, match=r"outside the project or in practice/"):
        _desk(records.ROOT / "weeks")
    assert _desk(None).home == records.ROOT / "practice"


# ---- predictions

ROWS = [
    {"name": "a", "verdict": "holds"},
    {"name": "b", "verdict": "fails"},
    {"name": "c", "verdict": "inconclusive"},
]


def test_score_counts_what_was_right_and_how_sure():
    assert predict.score(ROWS, {"a": 1.0, "b": 1.0, "c": 0.25}) == (2, 3, (0 + 1 + 1 / 16) / 3)
    assert predict.score(ROWS, {}) == (0, 0, 0.0)


@pytest.mark.parametrize(
    ("word", "value"), [("y", 1), ("No", 0), ("70 %", 0.7), ("101", None), ("", None), ("-1", None)]
)
def test_words_for_a_probability(word, value):
    assert predict.probability(word) == value


def test_predictions_are_asked_kept_and_shown(tmp_path, capsys):
    desk = Desk(tmp_path)
    exercise = of("predict")
    rows = predict.claims(exercise)
    few = iter(["y"])

    def read(prompt):
        try:
            return next(few)
        except StopIteration:
            raise EOFError from None

    if len(rows) > 1:
        assert not predict.ask(cli.console, desk, exercise, read)
        assert rows[0]["verdict"] not in capsys.readouterr().out.split()
        assert not desk.done(exercise)
    assert predict.ask(cli.console, desk, exercise, lambda prompt: "80")
    assert "Brier score" in capsys.readouterr().out
    kept = Desk(tmp_path)
    assert kept.done(exercise)
    assert predict.total(kept)[1] == len(rows)


def test_hints_for_a_prediction_do_not_tell_the_verdict():
    for exercise in exercises.every(kind="predict"):
        rows = predict.claims(exercise)
        idea, *about = hints.hints(exercise)
        assert "\n" in idea
        assert not {">>>", "Source:"} & set(idea.split())
        assert "uv run" not in idea
        assert len(about) == len(rows)
        for row, text in zip(rows, about, strict=True):
            rest = text.removeprefix(f"{row['name']}: ").partition(" What should break it")[0]
            assert rule_text(row).removesuffix(" for each") in rest
            assert row["verdict"] not in rest.split()
            assert not row["note"] or row["note"] not in text


def test_a_hint_on_a_rule():
    rule = {"at_least": 0.1, "at_most": None, "name": "it gains"}
    falsifiers = [{"name": "no momentum", "breaks": "it gains"}, {"name": "x", "breaks": "y"}]
    for fields, words in (
        ({"each": True, "n": 3}, "Each of 3 values must be at least 0.1."),
        ({"each": False, "n": 1}, "One number must be at least 0.1."),
        (
            {"each": False, "n": 5},
            "The whole 95 % interval of a mean (n = 5) must be at least 0.1; a part is not enough.",
        ),
    ):
        said = hints._on_claim(rule | fields, falsifiers)
        assert (
            said == f"it gains: {words} What should break it: no momentum. What is missing there?"
        )


def test_a_prediction_gives_hints_when_asked(tmp_path, capsys):
    desk, exercise = Desk(tmp_path), of("predict")
    words = iter(["h", "H", *["50"] * len(predict.claims(exercise))])
    assert predict.ask(cli.console, desk, exercise, lambda prompt: next(words))
    said = " ".join(capsys.readouterr().out.split())
    idea, first, *_ = (" ".join(hint.split()) for hint in hints.hints(exercise))
    assert said.count(idea) == 1
    assert said.count(first) == 2


# ---- the command


def test_a_session_by_commands(toy, capsys):
    def study(*words):
        status = call(cli.app, ["practice", *words, "--home", str(toy.home)], lost="")
        shown = capsys.readouterr()
        return status, shown.out + shown.err

    status, said = study("check")
    assert status == 2
    assert "no exercise is begun" in said
    status, said = study("--kind", "find")
    assert status == 0
    assert "It is 0 wrong." in said
    assert "Next: edit the file" in said
    assert study("check")[0] == 1
    assert "Hint 1 of 3" in study("hint")[1]
    assert "+    count = len(x)" in study("answer")[1]
    exercise = of("find")
    toy.path(exercise).write_text(exercise.solution)
    status, said = study("check")
    assert status == 0
    assert "green (after the answer)" in said
    assert "1 of 4" in study("list")[1]
    assert "✓" in study("list", "--week", "1")[1]
    assert "kept as" in study("reset")[1]
    assert study("--week", "99")[0] == 2


def test_an_exercise_is_opened_by_its_name(toy, capsys):
    def study(*words):
        status = call(cli.app, ["practice", *words, "--home", str(toy.home)], lost="")
        shown = capsys.readouterr()
        return status, shown.out + shown.err

    exercise = of("write")
    short = exercise.name.split("/")[1]
    assert "week01-toy" in study("--kind", "find")[1]
    status, said = study("open", short)
    assert status == 0
    assert "write  mean" in said
    assert toy.path(exercise).exists()
    assert Desk(toy.home).next() == exercise
    status, said = study("open", short[:-1])
    assert (status, said.count("\n")) == (2, 1)
    assert f"near: {exercise.name}" in said
    status, said = study("open", "what")
    assert (status, said.count("\n")) == (2, 1)
    for limit in ("0", "nan"):
        status, said = study("open", short, "--limit", limit)
        assert (status, said.count("\n")) == (2, 1)
        assert "--limit must be above 0 seconds" in said


def test_what_was_predicted_is_not_asked_again(tmp_path, capsys):
    desk, exercise = Desk(tmp_path), of("predict")
    predict.ask(cli.console, desk, exercise, lambda prompt: "y")
    assert call(cli.app, ["practice", "open", exercise.name, "--home", str(tmp_path)], lost="") == 2
    assert f"{exercise.name} is predicted: " in capsys.readouterr().err
    for _ in hints.hints(exercise):
        call(cli.app, ["practice", "hint", exercise.name, "--home", str(tmp_path)], lost="")
    assert f"practice check {exercise.name}` shows" in capsys.readouterr().out


def test_readmes_tell_how_much_there_is():
    for week in exercises.weeks():
        text = (records.ROOT / "weeks" / week / "README.md").read_text(encoding="utf-8")
        assert f"`uv run study practice --week {week}`" in text


class Red:
    """A copy in which every test is red."""

    def grade(self, exercise, text, limit):
        return grading.Outcome(False, "red")


def test_a_change_in_the_repository_is_told(toy):
    toy.open(of("find"))
    changed = replace(of("find"), start="new")
    toy.open(changed)
    assert toy.path(changed).read_text() == of("find").start
    assert toy.check(of("find"), Red(), 1).said == "red"
    assert "has changed since you began" in toy.check(changed, Red(), 1).said
    toy.reset(changed)
    assert toy.check(changed, Red(), 1).said == "red"
