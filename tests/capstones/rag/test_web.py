"""The web server: who may ask and how much, answers in a stream, sessions, documents, uploads."""

import asyncio
import json
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from rag_small import DOCUMENTS, TEA, Slow, small_store
from starlette.exceptions import HTTPException

from rag.answering.answerer import AnswerSettings
from rag.answering.models import Extractive
from rag.store.store import Store
from rag.types import Document
from rag.web import guard, server, uploads
from rag.web.guard import LOOPBACK, Limits
from rag.web.server import create_app

QUESTION = "What water does black tea need?"
SURE = AnswerSettings(min_confidence=0.0)


@contextmanager
def client_of(folder, *, model=None, **options):
    """A client of an application over a store."""
    options = {"answering": SURE, **options}
    web = create_app(folder, model=model or Extractive(), **options)
    with TestClient(web, base_url="http://localhost:8000", raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A client of a store that no test changes, but for sessions of its own."""
    folder = tmp_path_factory.mktemp("web") / "store"
    small_store(folder)
    with client_of(folder) as client:
        yield client


@pytest.fixture
def folder(tmp_path):
    small_store(tmp_path / "store")
    return tmp_path / "store"


def lines(response) -> list[dict]:
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


def until(true, seconds=60):
    """Wait for something that another thread does."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# ---- answers


def test_the_stream_says_what_the_whole_answer_says(shared):
    *pieces, last = lines(shared.post("/api/ask", json={"question": QUESTION}))
    whole = shared.post("/api/ask", json={"question": QUESTION, "stream": False}).json()
    answer = last["answer"]
    assert pieces
    assert "".join(piece["piece"] for piece in pieces) == answer["text"] == whole["text"]
    timed = {"stages"}
    assert {k: v for k, v in answer.items() if k not in timed} == {
        k: v for k, v in whole.items() if k not in timed
    }
    assert "boiling" in answer["text"]
    assert answer["citations"]
    for citation in answer["citations"]:
        text = next(d.text for d in DOCUMENTS if d.id == citation["document"])
        assert text[citation["start"] : citation["end"]] == citation["quote"]


def test_what_is_not_known_is_said(folder):
    with client_of(folder, answering=AnswerSettings(min_confidence=1.0)) as client:
        answer = client.post("/api/ask", json={"question": QUESTION, "stream": False}).json()
    assert answer["abstained"]
    assert not answer["citations"]


def test_a_filter_holds_for_answers(shared):
    asked = {"question": QUESTION, "where": 'path == "none"', "stream": False}
    assert shared.post("/api/ask", json=asked).json()["abstained"]
    asked = {"question": QUESTION, "where": "path ==="}
    response = shared.post("/api/ask", json=asked)
    assert response.status_code == 400
    assert "\n" not in response.json()["detail"]


def test_who_comes_while_others_are_answered_is_told_to_come_again(folder):
    model, answers = Slow(), []
    with client_of(folder, model=model, limits=Limits(answers=1)) as client:

        def ask():
            answers.append(client.post("/api/ask", json={"question": QUESTION}))

        first = threading.Thread(target=ask)
        first.start()
        library = client.app.state.library
        until(lambda: library.places._value == 0)
        refused = client.post("/api/ask", json={"question": QUESTION})
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) > 0
        assert client.get("/api/search", params={"q": "tea"}).status_code == 200
        model.go_on.set()
        first.join()
        until(lambda: library.places._value == 1)
        assert client.post("/api/ask", json={"question": QUESTION}).status_code == 200
    assert "answer" in lines(answers[0])[-1]


def test_an_answer_that_takes_too_long_is_broken_off(folder):
    model = Slow()
    with client_of(folder, model=model, limits=Limits(answers=1, seconds=0.3)) as client:
        name = client.post("/api/sessions", json={"title": "slow"}).json()["name"]
        said = lines(client.post("/api/ask", json={"question": QUESTION, "session": name}))
        assert "longer than 0.3 s" in said[-1]["error"]
        until(model.stopped.is_set)
        until(lambda: client.app.state.library.places._value == 1)
        asked = {"question": QUESTION, "stream": False}
        assert client.post("/api/ask", json=asked).status_code == 503
        assert client.get(f"/api/sessions/{name}").json() == []


@contextmanager
def running(web):
    """A server that really listens, in a thread; its address."""
    config = uvicorn.Config(web, port=0, log_level="error")
    serving = uvicorn.Server(config)
    thread = threading.Thread(target=serving.run)
    thread.start()
    until(lambda: serving.started)
    port = serving.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        serving.should_exit = True
        thread.join()


def test_who_leaves_stops_the_model_and_frees_the_place(folder):
    model = Slow()
    web = create_app(folder, model=model, answering=SURE, limits=Limits(answers=1))
    with running(web) as url:
        name = httpx.post(f"{url}/api/sessions", json={"title": "left"}).json()["name"]
        asked = {"question": QUESTION, "session": name}
        with httpx.stream("POST", f"{url}/api/ask", json=asked) as response:
            assert "piece" in next(response.iter_lines())
            assert web.state.library.places._value == 0
        until(model.stopped.is_set)
        until(lambda: web.state.library.places._value == 1)
        assert httpx.get(f"{url}/api/sessions/{name}").json() == []


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_failure_is_told_without_its_inside(folder):
    class Broken(Slow):
        def stream(self, messages, **options):
            raise RuntimeError("secret")

    with client_of(folder, model=Broken(), limits=Limits(answers=1)) as client:
        for _ in range(2):  # the place is free again
            said = lines(client.post("/api/ask", json={"question": QUESTION}))
            assert said[-1] == {"error": "the server failed (RuntimeError)"}


# ---- who may ask, and how much

ORIGINS = [("http://localhost:8000", 201), ("http://evil.example", 403), ("null", 403)]
ORIGINS += [("http://localhost:9000", 403), ("http://localhost.evil.example:8000", 403)]


@pytest.mark.parametrize(("origin", "status"), ORIGINS)
def test_only_our_own_page_changes_anything(shared, origin, status):
    title = {"title": f"from {origin}"}
    response = shared.post("/api/sessions", json=title, headers={"Origin": origin})
    assert response.status_code == status
    kept = {session["name"] for session in shared.get("/api/sessions").json()}
    assert (title["title"] in kept) == (status == 201)
    assert shared.get("/api/health", headers={"Origin": origin}).status_code == 200
    assert not any(name.startswith("access-control") for name in response.headers)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:1"])
def test_this_machine_by_its_names(shared, host):
    assert shared.get("/api/health", headers={"Host": host}).status_code == 200


HOSTS = ["evil.example", "localhost.evil.example", "evil.example:8000", "", "127.0.0.1.nip.io"]
HOSTS += ["10.0.0.1", "[", "localhost@evil.example", "evil.example#localhost"]


@pytest.mark.parametrize("host", HOSTS)
def test_a_name_of_somebody_else_is_refused(shared, host):
    for path in ("/", "/api/health", "/static/page.js"):
        response = shared.get(path, headers={"Host": host})
        assert response.status_code == 403
        assert "Host header" in response.json()["detail"]


def test_on_all_addresses_every_address_is_ours_but_no_name():
    hosts = LOOPBACK | {"0.0.0.0"}
    assert all(guard.is_ours(h, hosts) for h in ("10.1.2.3:80", "[fe80::1]:80", "localhost"))
    assert not guard.is_ours("evil.example", hosts)


def test_a_request_has_a_size(folder):
    with client_of(folder, limits=Limits(body=1000, upload=2000)) as client:
        long = {"question": "x" * 1500}
        assert client.post("/api/ask", json=long).status_code == 413
        for name, size, status in (("a.txt", 1000, 200), ("b.txt", 2500, 413)):
            sent = client.post("/api/upload", files=[("files", (name, b"tea " * (size // 4)))])
            assert sent.status_code == status
        lying = {"content-length": "-5"}
        assert client.post("/api/ask", content=b"{}", headers=lying).status_code == 413


def test_a_request_that_says_no_length_has_one():
    parts = iter([{"body": b"x" * 6}, {"body": b"x" * 4}, {"body": b"x"}])

    async def receive():
        return next(parts)

    async def read():
        counted = guard._counted(receive, 10)
        assert [len((await counted())["body"]) for _ in range(2)] == [6, 4]
        with pytest.raises(HTTPException, match="at most 10 bytes"):
            await counted()

    asyncio.run(read())


BAD = [
    {},
    {"question": ""},
    {"question": "  \n"},
    {"question": "x" * 4001},
    {"question": 5},
    {"question": "a", "where": "x" * 1001},
    {"question": "a", "sesion": "typo"},
    [],
]


@pytest.mark.parametrize("body", BAD, ids=str)
def test_a_malformed_question_is_one_line(shared, body):
    response = shared.post("/api/ask", json=body)
    assert response.status_code == 422
    assert 0 < len(response.json()["detail"].splitlines()) <= 1


def test_what_is_no_json_is_refused(shared):
    headers = {"content-type": "application/json"}
    assert shared.post("/api/ask", content=b'{"question": ', headers=headers).status_code == 422
    assert shared.post("/api/ask", content=b"\xff\xfe", headers=headers).status_code in (400, 422)
    # what a page elsewhere could send without asking first
    headers = {"content-type": "text/plain"}
    body = json.dumps({"question": QUESTION})
    assert shared.post("/api/ask", content=body, headers=headers).status_code == 422


SEARCHES = [{}, {"q": ""}, {"q": "a", "k": 0}, {"q": "a", "k": 51}, {"q": "a", "mode": "magic"}]


@pytest.mark.parametrize("query", SEARCHES, ids=str)
def test_a_malformed_search_is_refused(shared, query):
    assert shared.get("/api/search", params=query).status_code == 422


def test_every_answer_binds_the_page(shared):
    for path in ("/", "/static/page.css", "/api/health", "/api/none"):
        headers = shared.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_nothing_of_the_page_comes_from_elsewhere_or_enters_as_html():
    for path in server.STATIC.iterdir():
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"(^|\s)//.*", "", text), path  # but comments
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval", text)
        assert not re.search(r"<script(?! type=\"module\" src)|<style|\son\w+=|style=", text)


def test_the_interface_is_described_without_a_page_that_loads_scripts(shared):
    described = shared.get("/openapi.json").json()["paths"]
    for path in ("ask", "search", "sessions", "documents", "upload", "health"):
        assert f"/api/{path}" in described
    assert shared.get("/docs").status_code == shared.get("/redoc").status_code == 404


PATHS = ["/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py"]
PATHS += [
    "/static//etc/passwd",
    "/api/documents/../../etc/passwd",
    "/api/documents/%2fetc%2fpasswd",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_out(shared, path):
    response = shared.get(path)
    assert response.status_code == 404
    assert "root:" not in response.text


# ---- search and documents


def test_search_explains(shared):
    found = shared.get("/api/search", params={"q": "boiling water", "k": 2}).json()
    assert found["hits"][0]["chunk"]["document"] == "notes/tea.md"
    assert all(hit["stages"] for hit in found["hits"])
    assert all(stage["milliseconds"] >= 0 for stage in found["stages"])
    words = shared.get("/api/search", params={"q": "granite", "mode": "bm25"}).json()
    assert [hit["chunk"]["document"] for hit in words["hits"]] == ["rock.txt"]
    where = {"q": "water", "where": "pth ~ ("}
    assert shared.get("/api/search", params=where).status_code == 400


@given(st.integers(0, len(TEA)), st.integers(0, len(TEA)))
def test_a_span_is_cut_by_characters(shared, start, length):
    end = min(start + length, len(DOCUMENTS[0].text))
    query = {"start": start, "end": end, "around": 10}
    found = shared.get("/api/documents/notes/tea.md", params=query).json()
    text = DOCUMENTS[0].text
    assert found["span"] == text[start:end]
    assert found["before"] == text[max(0, start - 10) : start]
    assert found["after"] == text[end : end + 10]
    assert found["clipped"] == (start > 10 or end + 10 < len(text))


def test_documents_by_odd_names_and_none(shared):
    listed = {info["id"]: info for info in shared.get("/api/documents").json()}
    assert set(listed) == {document.id for document in DOCUMENTS}
    odd = "/api/documents/notes/%3Cb%3Eodd%3C%2Fb%3E.md"
    assert shared.get(odd).json()["title"] == "<i>Tags"
    assert shared.get("/api/documents/none").status_code == 404
    for span in ({"start": 5, "end": 3}, {"end": 10_000}):
        assert shared.get("/api/documents/rock.txt", params=span).status_code == 400


# ---- sessions


def test_a_session_is_kept_listed_exported_and_forgotten(folder):
    with client_of(folder) as client:
        names = [client.post("/api/sessions", json={"title": "Tea\n/ water?"}).json()["name"]]
        names += [client.post("/api/sessions", json={"title": "Tea / water?"}).json()["name"]]
        assert names == ["Tea / water?", "Tea / water? (2)"]
        path = "/api/sessions/Tea%20%2F%20water%3F"
        asked = {"question": QUESTION, "session": names[0], "stream": False}
        answer = client.post("/api/ask", json=asked).json()
        follow = {"question": "And green tea?", "session": names[0], "stream": False}
        assert "water" in client.post("/api/ask", json=follow).json()["query"]
        kept = client.get(path).json()
        assert [turn["question"] for turn in kept] == [QUESTION, "And green tea?"]
        for part in ("text", "citations", "sentences"):
            assert kept[0][part] == answer[part]
        listed = client.get("/api/sessions").json()
        assert (listed[0]["name"], listed[0]["turns"]) == (names[0], 2)
    with client_of(folder) as client:  # another server
        saved = client.get(path, params={"download": True})
        assert "attachment" in saved.headers["content-disposition"]
        assert saved.json()["name"] == names[0]
        assert client.delete(path).status_code == 204
        for gone in (client.get(path), client.delete(path), client.post("/api/ask", json=asked)):
            assert gone.status_code == 404
        assert [info["name"] for info in client.get("/api/sessions").json()] == names[1:]
    assert not any(b"boiling" in file.read_bytes() for file in folder.glob("sessions.sqlite*"))


def test_a_long_title_ends_at_a_word(shared):
    name = shared.post("/api/sessions", json={"title": "word " * 100}).json()["name"]
    assert len(name) < 70
    assert name.endswith("word …")


# ---- uploads


def test_what_is_uploaded_is_found_and_can_be_taken_out(folder):
    with client_of(folder) as client:
        files = [("files", ("../../quartz.txt", b"Quartz is harder than glass."))]
        files += [("files", ("broken.pdf", b"%PDF-1.7 but nothing else"))]
        report = client.post("/api/upload", files=files).json()
        assert (report["added"], report["updated"], report["unchanged"]) == (1, 0, 0)
        (skipped,) = report["skipped"]
        assert skipped["source"] == "uploads/broken.pdf"
        assert skipped["reason"]
        assert client.post("/api/upload", files=files[:1]).json()["unchanged"] == 1
        found = client.get("/api/search", params={"q": "quartz", "mode": "bm25"}).json()["hits"]
        assert found[0]["chunk"]["document"] == "uploads/quartz.txt"
        assert client.delete("/api/documents/uploads/quartz.txt").status_code == 204
        assert client.delete("/api/documents/uploads/quartz.txt").status_code == 404
        found = client.get("/api/search", params={"q": "quartz"}).json()["hits"]
        assert all(hit["chunk"]["document"] != "uploads/quartz.txt" for hit in found)
    assert not (folder.parent.parent / "quartz.txt").exists()


def test_an_upload_has_a_number_of_files(folder):
    with client_of(folder, limits=Limits(files=2)) as client:
        files = [("files", (f"{i}.txt", b"tea")) for i in range(3)]
        assert client.post("/api/upload", files=files).status_code == 413
        assert client.post("/api/upload").status_code == 422


@given(st.text(max_size=300))
def test_a_file_name_is_harmless(given):
    name = uploads.file_name(given)
    assert Path(name).name == name not in ("", ".", "..")
    assert not set(name) & set('/\\:*?"<>|\0\n')
    assert len(name) <= 141
    assert uploads.file_name(name) == name


def test_what_others_write_is_served(folder):
    with client_of(folder) as client:
        library = client.app.state.library
        with library.reading() as before:
            with library.reading():  # two read the old state, and one of them leaves
                with Store.open(folder) as store:
                    store.ingest([Document("new.txt", "Basalt is volcanic.")])
                assert client.get("/api/documents/new.txt").json()["before"] == ""
            assert len(before.documents()) == len(DOCUMENTS)  # who reads is not disturbed
        assert client.get("/api/health").json()["documents"] == len(DOCUMENTS) + 1


def test_health(shared):
    facts = shared.get("/api/health").json()
    assert facts["documents"] == len(DOCUMENTS)
    assert facts["model"] == "extractive"
    assert facts["examples"] == []


def test_a_document_as_the_store_has_it(shared):
    assert asdict(DOCUMENTS[3])["text"] == shared.get("/api/documents/rock.txt").json()["after"]
