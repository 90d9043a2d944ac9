"""A run's numbers depend on model, tasks and settings, and on nothing else."""

import sys
import threading
import tracemalloc

import pytest
from tiny_eval import TinyModel, TinyTask, as_bytes

from llm_eval.engine.distributed import World, find_world
from llm_eval.engine.recover import recover
from llm_eval.engine.run import evaluate
from llm_eval.types import Response
from shared.errors import UserError

TASKS = [TinyTask("one", 20), TinyTask("two", 7)]


def asked(model):
    return sorted(len(batch) for batch in model.asked)


def test_a_run_gives_numbers_samples_and_what_one_must_know():
    model = TinyModel()
    outcome = evaluate(model, TASKS, limit=5, seed=3)
    assert outcome.settings == {
        "limit": 5,
        "seed": 3,
        "num_fewshot": None,
        "chat": False,
        "templates": False,
    }
    assert outcome.model == {"name": "tiny", "identity": {"seed": "0"}}
    assert outcome.tasks["two"] == {
        "title": "Tiny",
        "license": "CC0",
        "source": "none",
        "version": 1,
        "documents": 5,
        "size": 7,
        "failed": 0,
        "tags": ["mini"],
    }
    assert [(n.task, n.metric, n.n) for n in outcome.numbers] == [
        ("one", "acc", 5),
        ("two", "acc", 5),
    ]
    right = [sample.values["acc"] for sample in outcome.samples if sample.task == "one"]
    assert outcome.numbers[0].value == sum(right) / 5
    assert outcome.numbers[0].signature == "acc|shots:None|chat:False|seed:3"
    assert as_bytes(outcome) == as_bytes(evaluate(TinyModel(), TASKS, limit=5, seed=3))


def test_equal_requests_are_asked_once_and_cached_ones_never(tmp_path):
    model = TinyModel()
    copy = TinyTask("one", 20)
    copy.name = "copy"
    first = evaluate(model, [*TASKS, copy], cache=tmp_path)
    assert sum(asked(model)) == 3 * 27
    again = TinyModel()
    assert as_bytes(evaluate(again, [*TASKS, copy], cache=tmp_path)) == as_bytes(first)
    assert again.asked == []


def test_a_cache_is_not_shared_between_models(tmp_path):
    evaluate(TinyModel(0), TASKS, cache=tmp_path)
    other = evaluate(TinyModel(1), TASKS, cache=tmp_path)
    assert as_bytes(other) == as_bytes(evaluate(TinyModel(1), TASKS))


def test_a_batch_of_which_an_answer_is_missing_is_computed_whole(tmp_path):
    """What is beside a request shows in the last digits, so a part of a batch would differ."""
    straight = as_bytes(evaluate(TinyModel(), TASKS, cache=tmp_path))
    (journal,) = tmp_path.glob("*/*.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:1] + lines[2:10] + lines[14:-1]) + lines[-1][:30])
    model = TinyModel()
    assert as_bytes(evaluate(model, TASKS, cache=tmp_path)) == straight
    assert set(asked(model)) == {3}
    assert 2 <= len(model.asked) <= 6


def test_another_runs_answers_are_used_and_its_own_bits_stay(tmp_path):
    small = evaluate(TinyModel(), TASKS, cache=tmp_path, limit=6)
    evaluate(TinyModel(), TASKS, cache=tmp_path)
    model = TinyModel()
    assert as_bytes(evaluate(model, TASKS, cache=tmp_path, limit=6)) == as_bytes(small)
    assert model.asked == []


def test_failures_are_in_no_average_and_asked_again(tmp_path):
    task = TinyTask("t", 12, extra=[{"choices": ["a", "bad"]}, {"odd": 1}, {"refuse": 1}])
    model = TinyModel(fails=["bad"])
    outcome = evaluate(model, [task], cache=tmp_path)
    (number,) = outcome.numbers
    plain = evaluate(TinyModel(), [TinyTask("t", 12)]).numbers[0]
    assert (number.n, number.failed) == (12, 3)
    assert abs(number.value - plain.value) <= 1 / 12  # last digits differ: batches are others
    assert outcome.tasks["t"]["failed"] == 3
    failed = {s.id: s.error for s in outcome.samples if s.error}
    assert failed == {
        "x0": "no answer to this",
        "x1": "ZeroDivisionError: nothing to divide",
        "x2": "KeyError: 'question'",
    }
    assert all(s.values == {} for s in outcome.samples if s.error)
    well = TinyModel()
    later = evaluate(well, [task], cache=tmp_path)
    assert later.numbers[0].failed == 2
    assert len(well.asked) == 1  # the batch that held the failure


def test_all_failed_is_no_zero():
    outcome = evaluate(TinyModel(fails="abc"), [TinyTask("t", 4)])
    assert (outcome.numbers[0].value, outcome.numbers[0].failed) == (None, 4)


def test_templates_give_each_its_numbers_and_how_much_they_differ():
    outcome = evaluate(
        TinyModel(), [TinyTask("t", 30, templates=("", "terse ", "long "))], templates=True
    )
    by_name = {(n.metric, n.template): n for n in outcome.numbers}
    values = [by_name["acc", t].value for t in ("", "terse ", "long ")]
    assert by_name["acc_worst_prompt", ""].value == min(values)
    assert by_name["acc_best_prompt", ""].value == max(values)
    assert by_name["acc_mean_prompt", ""].value == pytest.approx(sum(values) / 3)
    assert by_name["acc_spread_prompt", ""].value == pytest.approx(max(values) - min(values))
    assert "too good by about" in by_name["acc_best_prompt", ""].note
    assert by_name["acc_spread_prompt", ""].higher_is_better is False
    assert {n.signature for n in outcome.numbers if "_" in n.metric} == {
        "acc|shots:None|chat:False|seed:0|prompts:3"
    }


def test_summaries_are_of_the_standard_prompt(monkeypatch):
    import types

    from llm_eval.types import Number

    def counted(samples, *, task, signature, seed=0):
        said = {"higher_is_better": None, "signature": signature}
        return [
            Number(task, "count", float(len(samples)), None, None, None, len(samples), 0, **said)
        ]

    module = types.ModuleType("llm_eval.tasks.summaries")
    module.SUMMARIES = {"counted": "tiny_summaries:counted"}
    home = types.ModuleType("tiny_summaries")
    home.counted = counted
    monkeypatch.setitem(sys.modules, "llm_eval.tasks.summaries", module)
    monkeypatch.setitem(sys.modules, "tiny_summaries", home)
    task = TinyTask("t", 6)
    task.summaries = ("counted",)
    numbers = evaluate(TinyModel(), [task], templates=True).numbers
    assert [(n.value, n.signature) for n in numbers if n.metric == "count"] == [
        (6.0, "acc|shots:None|chat:False|seed:0")
    ]


def test_what_cannot_be_run_is_said_in_a_line(tmp_path):
    with pytest.raises(UserError, match="tasks must have different names, got 'one' twice"):
        evaluate(TinyModel(), [TASKS[0], TASKS[0]])
    with pytest.raises(UserError, match="task one must have a document"):
        evaluate(TinyModel(), TASKS, limit=0)
    with pytest.raises(UserError, match="cache must be a folder that all processes share"):
        evaluate(TinyModel(), TASKS, world=World(0, 2))
    model = TinyModel()
    model.answer = lambda requests: [Response(logprob=0.0)]
    with pytest.raises(ValueError, match="must give an answer to each of 3 requests, got 1"):
        evaluate(model, TASKS)
    model.plan = lambda requests: [[0], [0]]
    with pytest.raises(ValueError, match="plan must hold each request once"):
        evaluate(model, TASKS)


def test_progress_is_told():
    told = []
    evaluate(TinyModel(batch=30), TASKS, progress=lambda done, total: told.append((done, total)))
    assert told == [(30, 81), (60, 81), (81, 81)]


def test_samples_are_not_held():
    outcome = evaluate(TinyModel(batch=300), [TinyTask(f"t{i}", 20) for i in range(10)])
    tracemalloc.start()
    n = sum(1 for _ in outcome.samples)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert n == 200
    assert peak < 150_000


# ---- several processes


def run_all(cache, size, patience=30.0):
    """All processes of a run, as threads."""
    outcomes, models = {}, [TinyModel(pause=0.001) for _ in range(size)]

    def run(rank):
        world = World(rank, size, patience)
        outcomes[rank] = evaluate(models[rank], TASKS, cache=cache, world=world)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcomes[rank] is None for rank in range(size)] == [rank > 0 for rank in range(size)]
    return outcomes[0], models


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_number_of_processes_changes_nothing(size, tmp_path):
    outcome, models = run_all(tmp_path, size)
    assert as_bytes(outcome) == as_bytes(evaluate(TinyModel(), TASKS))
    batches = [tuple(batch) for model in models for batch in model.asked]
    assert len(set(batches)) == 27
    assert len(batches) == 27 or outcome.notes  # a process that began late had its share taken


def test_shares_are_all_batches_once():
    for size in (1, 2, 3, 5):
        shares = [i for rank in range(size) for i in World(rank, size).share(range(17))]
        assert sorted(shares) == list(range(17))


def test_a_run_is_resumed_by_another_number_of_processes(tmp_path):
    assert evaluate(TinyModel(), TASKS, cache=tmp_path, world=World(1, 3)) is None
    assert evaluate(TinyModel(), TASKS, cache=tmp_path, world=World(1, 2)) is None
    model = TinyModel()
    outcome = evaluate(model, TASKS, cache=tmp_path)
    assert as_bytes(outcome) == as_bytes(evaluate(TinyModel(), TASKS))
    assert 0 < len(model.asked) < 18


def test_what_a_process_that_ended_leaves_is_done_and_said(tmp_path):
    with World(1, 2).alive(evaluate_folder(tmp_path)):
        pass
    outcome = evaluate(TinyModel(), TASKS, cache=tmp_path, world=World(0, 2))
    assert as_bytes(outcome) == as_bytes(evaluate(TinyModel(), TASKS))
    assert outcome.notes == (
        "other processes of 2 ended and left 13 batches unanswered; process 0 asked them",
    )


def evaluate_folder(cache):
    from llm_eval.engine.journal import Journal

    return Journal(cache, TinyModel().identity).folder


def test_a_process_that_hangs_is_named_and_not_waited_for(tmp_path):
    with (
        World(1, 2).alive(evaluate_folder(tmp_path)),
        pytest.raises(UserError, match=r"process 1 of 2 has answered nothing for 0.2 seconds"),
    ):
        evaluate(TinyModel(), TASKS, cache=tmp_path, world=World(0, 2, patience=0.2))


def test_the_world_is_that_of_torchrun(monkeypatch):
    assert find_world() == World(0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert find_world() == World(2, 3)
    for rank in ("3", "x", "-1"):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(UserError, match=f"RANK and WORLD_SIZE must be numbers.*{rank} and 3"):
            find_world()


# ---- recovery


def test_recovery_gives_what_is_complete(tmp_path):
    class Stopped(Exception):
        pass

    def stop(done, total):
        if done >= 45:
            raise Stopped

    with pytest.raises(Stopped):
        evaluate(TinyModel(), TASKS, cache=tmp_path, progress=stop, seed=2)
    left = recover(tmp_path, open_tasks=lambda names: [t for t in TASKS if t.name in names])
    whole = evaluate(TinyModel(), TASKS, seed=2)
    complete = {(s.task, s.id): s for s in left.samples}
    assert 5 < len(complete) == 27 - left.missing < 27
    assert all(complete[key] == s for s in whole.samples if (key := (s.task, s.id)) in complete)
    assert (left.model, left.settings) == (whole.model, whole.settings)
    assert sum(number.n for number in left.numbers) == len(complete)
    finished = evaluate(TinyModel(), TASKS, cache=tmp_path, seed=2)
    assert as_bytes(finished) == as_bytes(whole)
    assert as_bytes(recover(tmp_path, open_tasks=lambda names: TASKS)) == as_bytes(whole)


def test_a_run_that_could_not_begin_is_not_recovered(tmp_path):
    evaluate(TinyModel(), TASKS[:1], cache=tmp_path, limit=2)

    class Absent(TinyTask):
        def documents(self, limit=None):
            raise UserError("its data is not here")

    with pytest.raises(UserError, match="not here"):
        evaluate(TinyModel(), [Absent()], cache=tmp_path)
    assert len(list(tmp_path.glob("*/runs/*.json"))) == 1


def test_there_is_nothing_to_recover(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        recover(tmp_path)
    evaluate(TinyModel(), TASKS, cache=tmp_path, limit=1)
    (note,) = tmp_path.glob("*/runs/*.json")
    note.write_text(note.read_text()[:20])
    with pytest.raises(UserError, match="is no note of a run"):
        recover(tmp_path)
