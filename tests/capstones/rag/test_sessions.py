"""Sessions last, are shared by threads and processes, and leave nothing when forgotten."""

import json
import multiprocessing
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from rag.conversation.sessions import Sessions
from rag.types import Answer, Chunk, Citation, Hit, Sentence, Stage, Turn
from shared.errors import UserError

SECRET = "the password of the tea house is jasmine"


@pytest.fixture
def sessions(tmp_path):
    return Sessions(tmp_path / "rag.sqlite")


def answer_of(question="Is tea hot?", text="Yes. [1]"):
    chunk = Chunk("tea.md", 3, 14, "Tea is hot.")
    return Answer(
        question,
        text,
        sentences=(Sentence(text, (1,)),),
        citations=(Citation(1, "tea.md", 3, 14, "Tea is hot."),),
        hits=(Hit(chunk, 0, 0.5, {"bm25": 1.0}),),
        stages=(Stage("bm25", 1.0, 1),),
        query="tea hot",
    )


def test_turns_come_back_in_order_after_a_restart(sessions):
    name = sessions.create("tea")
    for i in range(12):
        sessions.append(name, answer_of(f"question {i}", f"answer {i}"))
    again = Sessions(sessions.database)
    assert again.turns("tea") == [Turn(f"question {i}", f"answer {i}") for i in range(12)]


def test_a_page_can_be_shown_again(sessions):
    sessions.append(sessions.create("tea"), answer_of())
    (stored,) = sessions.answers("tea")
    assert stored["citations"][0] | {"page": 0} == stored["citations"][0]
    assert stored["citations"][0]["quote"] == "Tea is hot."
    assert stored["sentences"] == [{"text": "Yes. [1]", "citations": [1], "supported": True}]
    assert stored["hits"] == [{"id": "tea.md:3-14", "score": 0.5}]
    assert json.loads(json.dumps(sessions.export("tea")))["answers"] == [stored]


def test_names(sessions):
    assert sessions.names() == []
    assert [sessions.create() for _ in range(3)] == ["chat-1", "chat-2", "chat-3"]
    sessions.forget("chat-2")
    assert sessions.create() == "chat-2"
    assert sessions.create("чай 茶") == "чай 茶"
    sessions.append("chat-1", answer_of())
    first = sessions.names()[0]
    assert (first.name, first.turns) == ("chat-1", 1)
    assert len(sessions.names()) == 4


def test_creating_again_goes_on(sessions):
    sessions.append(sessions.create("tea"), answer_of())
    assert sessions.create("tea") == "tea"
    assert len(sessions.turns("tea")) == 1


@pytest.mark.parametrize("name", ["", "  ", "x" * 201])
def test_names_that_are_refused(sessions, name):
    with pytest.raises(ValueError, match="name must have 1 to 200 characters"):
        sessions.create(name)


def test_names_are_data(sessions):
    name = sessions.create("'; DROP TABLE turns; --")
    sessions.append(name, answer_of())
    assert len(sessions.turns(name)) == 1


@pytest.mark.parametrize("method", ["turns", "answers", "export", "forget"])
def test_unknown_sessions(sessions, method):
    with pytest.raises(UserError, match="there is no session 'tea'"):
        getattr(sessions, method)("tea")


def bytes_of(sessions):
    folder = sessions.database.parent
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


def test_what_is_forgotten_is_in_no_file(sessions):
    for name in ("secret", "other"):
        sessions.create(name)
    for i in range(30):  # long enough for pages of their own
        sessions.append("secret", answer_of(f"{SECRET} {i}", SECRET * 100))
        sessions.append("other", answer_of("Is tea hot?", "It stays."))
    reader = sqlite3.connect(sessions.database)  # as the store keeps one open
    reader.execute("SELECT COUNT(*) FROM turns").fetchone()
    assert SECRET.encode() in bytes_of(sessions)
    sessions.forget("secret")
    assert SECRET.encode() not in bytes_of(sessions)
    assert len(sessions.turns("other")) == 30
    reader.close()


def test_forgetting_says_when_a_reader_keeps_the_log(sessions, monkeypatch):
    monkeypatch.setattr("rag.conversation.sessions.PATIENCE", 0.05)
    sessions.append(sessions.create("tea"), answer_of(SECRET))
    reader = sqlite3.connect(sessions.database, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM turns").fetchall()
    with pytest.raises(UserError, match=r"is deleted, but .* is being read"):
        sessions.forget("tea")
    assert sessions.names() == []
    reader.execute("COMMIT")
    reader.close()


def test_an_answer_that_fails_leaves_nothing(sessions):
    sessions.create("tea")
    with pytest.raises(TypeError):
        sessions.append("tea", answer_of(text=object()))
    assert sessions.turns("tea") == []
    sessions.append("tea", answer_of())  # and locks nobody out
    assert len(sessions.turns("tea")) == 1


def test_threads_lose_no_turn(sessions):
    sessions.create("tea")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: sessions.append("tea", answer_of(str(i))), range(24)))
    assert sorted(int(turn.question) for turn in sessions.turns("tea")) == list(range(24))


def write_turns(database, worker):
    sessions = Sessions(database)
    name = sessions.create("tea")
    for i in range(5):
        sessions.append(name, answer_of(f"{worker}-{i}"))
    sessions.create()


def test_processes_share_a_file(tmp_path):
    database = tmp_path / "rag.sqlite"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write_turns, args=(database, w)) for w in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    questions = [turn.question for turn in Sessions(database).turns("tea")]
    assert sorted(questions) == [f"{w}-{i}" for w in range(3) for i in range(5)]
    for w in range(3):  # each worker's own turns in its order
        assert [q for q in questions if q[0] == str(w)] == [f"{w}-{i}" for i in range(5)]
    assert len(Sessions(database).names()) == 4


def test_the_stores_own_tables_are_left_alone(tmp_path):
    path = tmp_path / "rag.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE documents (id TEXT)")
        connection.execute("INSERT INTO documents VALUES ('tea.md')")
    sessions = Sessions(path)
    sessions.create("tea")
    sessions.forget("tea")
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT id FROM documents").fetchall() == [("tea.md",)]


def test_a_file_that_is_no_database(tmp_path):
    path = tmp_path / "rag.sqlite"
    path.write_text("not a database, by any means " * 50)
    with pytest.raises(UserError, match="cannot be used"):
        Sessions(path)
