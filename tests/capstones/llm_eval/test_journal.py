"""The journal gives back what was written, to the model that answered, whatever befell the file."""

import random
import shutil
from multiprocessing import get_context

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_eval.engine.journal import Journal, batch_key
from llm_eval.types import Response, digest
from shared.errors import UserError

IDENTITY = {"weights": "ab12", "dtype": "float32"}
FLOATS = st.floats(allow_nan=False)
RESPONSES = st.builds(
    Response,
    logprob=st.none() | FLOATS,
    greedy=st.none() | st.booleans(),
    logprobs=st.lists(FLOATS, max_size=3).map(tuple),
    text=st.none() | st.text(st.characters(), max_size=9) | st.just("\ud800\n\u2028 \x00"),
    ended=st.sampled_from(["", "stop", "length"]),
)


def key_of(i):
    return digest(i)


def filled(cache, batches=4, size=3):
    with Journal(cache, IDENTITY) as journal:
        for b in range(batches):
            keys = [key_of([b, i]) for i in range(size)]
            answers = {k: Response(logprob=-b - i / 7) for i, k in enumerate(keys)}
            journal.add(batch_key(keys), answers)
        (path,) = journal.folder.glob("*.jsonl")
        return path


def found(cache, batches=4, size=3):
    """How many answers there are, each of them the right one, and how many lines are damaged."""
    with Journal(cache, IDENTITY) as journal:
        there = 0
        for b in range(batches):
            for i in range(size):
                answer = journal.get(key_of([b, i]))
                assert answer in (None, Response(logprob=-b - i / 7))
                there += answer is not None
        return there, journal.damaged


@given(st.lists(st.lists(RESPONSES, max_size=3), max_size=4))
def test_answers_come_back_bit_by_bit(tmp_path_factory, batches):
    cache = tmp_path_factory.mktemp("journal")
    with Journal(cache, IDENTITY) as journal:
        for b, answers in enumerate(batches):
            journal.add(f"batch{b}", {key_of([b, i]): x for i, x in enumerate(answers)})
        for reader in (journal, Journal(cache, IDENTITY)):
            for b, answers in enumerate(batches):
                assert [reader.get(key_of([b, i])) for i in range(len(answers))] == answers
            assert reader.get(key_of("other")) is None
            assert reader.damaged == 0
            reader.close()


def test_a_journal_of_another_model_is_another_or_refused(tmp_path):
    path = filled(tmp_path)
    other = {**IDENTITY, "dtype": "bfloat16"}
    with Journal(tmp_path, other) as journal:
        assert journal.get(key_of([0, 0])) is None
        shutil.copy(path, journal.folder / "007.jsonl")
    with pytest.raises(UserError, match=r"007.jsonl holds answers of another model.*bfloat16") as e:
        Journal(tmp_path, other)
    assert "\n" not in str(e.value)


def test_a_torn_tail_loses_only_what_was_torn(tmp_path):
    path = filled(tmp_path)
    whole = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for cut in random.Random(0).sample(range(len(whole)), 40):
        path.write_bytes(whole[:cut])
        assert found(tmp_path) == (max(0, sum(end <= cut for end in ends) - 1), 0)
    # a new process goes on in a file of its own, and the torn one stays as it is
    with Journal(tmp_path, IDENTITY) as journal:
        journal.add("b", {key_of("new"): Response(text="x")})
    assert len(list(path.parent.glob("*.jsonl"))) == 2
    assert path.read_bytes() == whole[:cut]


def test_a_flipped_byte_loses_its_record_and_no_other(tmp_path):
    path = filled(tmp_path)
    whole = path.read_bytes()
    header = whole.index(b"\n") + 1
    for place in random.Random(1).sample(range(header, len(whole) - 1), 60):
        for bit in (1, 128):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
            there, damaged = found(tmp_path)
            lost = 2 if whole[place] == ord("\n") else 1  # two lines become one
            assert (there, damaged >= 1) == (12 - lost, True), place


def test_an_error_is_not_kept(tmp_path):
    with Journal(tmp_path, IDENTITY) as journal:
        journal.add("b", {"x": Response(error="timeout"), "y": Response(text="y")})
        assert journal.get("x") is None
        assert not journal.holds(["x", "y"], "b")
        assert journal.holds(["y"], "b")


def test_a_batch_that_was_begun_is_not_filled_from_others(tmp_path):
    with Journal(tmp_path, IDENTITY) as journal:
        journal.add("other", {"x": Response(logprob=-1.0), "y": Response(logprob=-2.0)})
        assert journal.holds(["x", "y"], "this")
        journal.add("this", {"x": Response(logprob=-1.5)})
        assert not journal.holds(["x", "y"], "this")
        assert journal.get("x", "this") == Response(logprob=-1.5)
        assert journal.get("x", "other") == journal.get("x") == Response(logprob=-1.0)


def test_what_others_write_is_seen(tmp_path):
    with Journal(tmp_path, IDENTITY) as a, Journal(tmp_path, IDENTITY) as b:
        a.add("1", {"x": Response(text="x")})
        b.add("2", {"y": Response(text="y")})
        assert (a.get("y"), b.refresh(), a.refresh(), a.refresh()) == (None, 1, 1, 0)
        assert a.get("y") == Response(text="y")


def write_many(cache, name):
    with Journal(cache, IDENTITY) as journal:
        for i in range(50):
            journal.add(f"{name}{i}", {f"{name}{i}": Response(text=f"{name}{i}" * 200)})


def test_processes_that_write_at_once(tmp_path):
    context = get_context("fork")
    children = [context.Process(target=write_many, args=(tmp_path, n)) for n in "abc"]
    for child in children:
        child.start()
    for child in children:
        child.join()
    with Journal(tmp_path, IDENTITY) as journal:
        assert journal.damaged == 0
        for name in "abc":
            for i in range(50):
                assert journal.get(f"{name}{i}") == Response(text=f"{name}{i}" * 200)


def test_versions_and_folders_that_do_not_fit(tmp_path):
    path = filled(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be used"):
        Journal(tmp_path / "file", IDENTITY)
    from llm_eval.engine.journal import _line

    path.write_bytes(_line("-", "", {"version": 9, "identity": IDENTITY}))
    with pytest.raises(UserError, match=r"000.jsonl must be of version 1, got 9"):
        Journal(tmp_path, IDENTITY)


def test_only_places_are_held(tmp_path):
    """Ten thousand answers of 2 kB are 20 MB; what is held of them is less than a tenth."""
    import tracemalloc

    with Journal(tmp_path, IDENTITY) as journal:
        answers = {key_of(i): Response(text="x" * 2000) for i in range(10_000)}
        journal.add("b", answers)
    del answers
    tracemalloc.start()
    with Journal(tmp_path, IDENTITY) as journal:
        assert tracemalloc.get_traced_memory()[0] < 6e6
        assert journal.get(key_of(77)).text == "x" * 2000
    tracemalloc.stop()
