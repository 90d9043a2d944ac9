"""What broke once: leftovers, files of others, odd requests, texts that stayed."""

import json
import threading

import pytest
from fastapi.testclient import TestClient
from rag_small import DOCUMENTS, small_store

from rag import cli, terminal
from rag.answering.models import Extractive
from rag.embeddings.embedder import open_embedder
from rag.store.store import Store
from rag.types import Document
from rag.web import uploads
from rag.web.server import create_app
from shared.errors import UserError

SECRET = Document("secret.md", "Zyzzogeton is the password. " * 40)


@pytest.fixture
def folder(tmp_path):
    small_store(tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def client(folder):
    web = create_app(folder, model=Extractive())
    with TestClient(web, base_url="http://localhost:8000", raise_server_exceptions=False) as found:
        yield found


def files_with(folder, word: bytes) -> list[str]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in paths if word in path.read_bytes().lower()]


def test_a_deleted_text_is_in_no_file(folder):
    with Store.open(folder) as store:
        store.ingest([SECRET])
        assert sorted(files_with(folder, b"zyzzogeton")) == ["store.sqlite", "words.json"]
        store.delete(["secret.md"])
        assert files_with(folder, b"zyzzog") == []
        assert len(store.lexical("boiling water", 5).rows)


def test_a_deleted_text_is_in_no_file_of_a_server(client, folder):
    client.post("/api/upload", files=[("files", ("secret.md", SECRET.text.encode()))])
    assert client.get("/api/health").json()["documents"] == len(DOCUMENTS) + 1
    client.delete("/api/documents/uploads/secret.md")
    assert client.get("/api/health").json()["documents"] == len(DOCUMENTS)
    assert files_with(folder, b"zyzzog") == []


def test_files_of_others_among_the_generations_stay(folder):
    generations = folder / "generations"
    (generations / ".DS_Store").write_bytes(b"x")
    (generations / "mine").mkdir()
    (generations / "mine" / "file").write_bytes(b"x")
    with Store.open(folder) as store:
        store.ingest([SECRET])
        assert store.verify() == []
    assert (generations / ".DS_Store").exists()
    assert (generations / "mine" / "file").exists()


def test_a_first_ingest_that_failed_can_be_done_otherwise(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tea.md").write_text(DOCUMENTS[0].text, "utf-8")
    words = ["--store", "store", "--embedder", "lsa"]
    assert cli.main(["ingest", "none.md", *words]) == 2
    assert cli.main(["ingest", "tea.md", *words, "--chunk-size", "50"]) == 0
    assert cli.main(["ingest", "tea.md", *words]) == 2
    assert "cannot be changed" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert cli.main(["ingest", "tea.md", "--store", "empty", "--embedder", "lsa"]) == 0


def test_impossible_chunks_leave_no_store(tmp_path):
    with pytest.raises((UserError, ValueError), match="overlap must be less than size"):
        Store.create(tmp_path / "s", embedder=open_embedder("lsa"), size=10, overlap=50)
    assert not (tmp_path / "s").exists()


def test_a_first_use_that_was_broken_off_is_done_again(tmp_path, monkeypatch):
    from rag.documents import sources

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "read", lambda *args, **options: iter(DOCUMENTS))
    Store.create(terminal.DEFAULT, embedder=open_embedder("lsa")).close()
    with terminal.open_store(terminal.DEFAULT) as store:
        assert len(store.documents()) == len(DOCUMENTS)


def test_serving_others_warns(folder, monkeypatch, capsys):
    import uvicorn

    monkeypatch.setattr(uvicorn, "run", lambda *args, **options: None)
    words = ["serve", "--store", str(folder), "--llm", "extractive", "--host", "0.0.0.0"]
    assert cli.main(words) == 0
    assert "warning: whoever reaches 0.0.0.0:8000" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["compact"], ["export", "--out", "out"], ["sessions", "forget"]], ids=" ".join
)
def test_json_is_all_that_is_printed(folder, words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*words, "--store", str(folder), "--json"]) == 0
    json.loads(capsys.readouterr().out)


def test_nothing_is_exported_onto_a_file(folder, tmp_path):
    (tmp_path / "file").write_text("x")
    with Store.open(folder) as store, pytest.raises(UserError, match="cannot be made"):
        store.export(tmp_path / "file")


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Origin": "http://["}, 403), ({"Content-Length": "9" * 5000}, 413)],
    ids=["origin", "length"],
)
def test_odd_headers_are_refused(client, headers, status):
    assert client.post("/api/sessions", json={"title": "x"}, headers=headers).status_code == status


def test_a_field_of_text_is_no_upload(client):
    assert client.post("/api/upload", data={"files": "hello"}).status_code == 422


def test_long_names_in_any_script_can_be_uploaded(client):
    assert len(uploads.file_name("茶" * 130 + ".md").encode()) <= 160
    name = ("files", ("茶" * 130 + ".md", b"Tea is hot."))
    assert client.post("/api/upload", files=[name]).json()["added"] == 1


def test_sessions_of_one_title_are_not_one(client):
    names = []

    def begin():
        names.append(client.post("/api/sessions", json={"title": "Tea?"}).json()["name"])

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(names)) == 8


def test_no_session_is_named_as_a_step_of_a_path(client):
    assert client.post("/api/sessions", json={"title": ".."}).json()["name"] not in (".", "..")
