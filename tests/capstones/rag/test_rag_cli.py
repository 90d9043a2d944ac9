"""The command line: every command's round trip, one clear line for a mistake, no network."""

import io
import json
import re
import socket
import sys

import pytest
from rag_small import DOCUMENTS

from rag import cli, terminal

SURE = ["--llm", "extractive", "--min-confidence", "0"]
QUESTION = "What water does black tea need?"


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whatever a command does, it does not ask anybody."""

    def refuse(*args):
        raise AssertionError("something was fetched")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def call(capsys, monkeypatch):
    """Run a command line: its status and what it printed."""

    def call(*words, piped=""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(piped))
        capsys.readouterr()
        status = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        if status in (2, 3):
            assert err.startswith("rag: error: ")
            assert err.count("\n") == 1
        return status, out, err

    return call


@pytest.fixture
def here(tmp_path, monkeypatch, call):
    """A working folder with files, and a store of them."""
    monkeypatch.chdir(tmp_path)
    for document in DOCUMENTS[:2]:
        path = tmp_path / document.id
        path.parent.mkdir(exist_ok=True)
        path.write_text(document.text, "utf-8")
    (tmp_path / "notes" / "torn.pdf").write_bytes(b"%PDF-1.7")
    words = ["ingest", "notes", "--store", "store", "--embedder", "lsa", "--chunk-size", "200"]
    status, out, _ = call(*words, "--chunk-overlap", 0)
    assert status == 0
    assert "2 added" in out
    assert "skipped notes/torn.pdf: " in out
    return tmp_path


def test_what_is_unchanged_is_skipped_and_what_is_gone_is_pruned(here, call):
    again = ["ingest", "notes", "--store", "store", "--json"]
    report = json.loads(call(*again)[1])
    assert (report["added"], report["unchanged"]) == (0, 2)
    assert [item["source"] for item in report["skipped"]] == ["notes/torn.pdf"]
    (here / "notes" / "ice.md").unlink()
    assert json.loads(call(*again)[1])["deleted"] == 0
    assert json.loads(call(*again, "--prune")[1])["deleted"] == 1


def test_search(here, call):
    words = ["search", "boiling water", "--store", "store", "-k", 1]
    found = json.loads(call(*words, "--json")[1])
    (hit,) = found["hits"]
    assert hit["chunk"]["document"] == "notes/tea.md"
    status, out, _ = call(*words)
    assert status == 0
    assert "ms" not in out
    out = call(*words, "--explain")[1]
    assert "bm25" in out
    assert "ms" in out
    assert "no passage matches" in call(*words, "--filter", 'path == "none"')[1]


def test_ask_prints_the_answer_then_its_sources(here, call):
    status, out, _ = call("ask", QUESTION, "--store", "store", *SURE)
    assert status == 0
    answer, sources = out.split("\n\n", 1)
    (number,) = re.findall(r"Black tea needs boiling water\. (\[\d\])", answer)
    start = DOCUMENTS[0].text.index("Black tea")
    assert f"{number} notes/tea.md:{start}-{start + 30}\n" in sources
    assert "“Black tea needs boiling water.”" in sources
    piped = call("ask", "--store", "store", *SURE, "--json", piped=QUESTION + "\n")[1]
    assert start in [citation["start"] for citation in json.loads(piped)["citations"]]
    sure = call("ask", QUESTION, "--store", "store", "--llm", "extractive", "--min-confidence", 1)
    assert "[1]" not in sure[1]
    assert call("ask", "--store", "store", piped=" ")[0] == 2


def test_a_conversation_goes_on_is_listed_exported_and_forgotten(here, call):
    words = ["chat", "--store", "store", *SURE, "--json"]
    lines = call(*words, piped=f"{QUESTION}\n\nAnd green tea?\n/new\nHello\n")[1].splitlines()
    answers = [json.loads(line) for line in lines]
    assert [a["question"] for a in answers] == [QUESTION, "And green tea?", "Hello"]
    assert "water" in answers[1]["query"]
    listed = json.loads(call("sessions", "list", "--store", "store", "--json")[1])
    assert sorted((s["name"], s["turns"]) for s in listed) == [("chat-1", 2), ("chat-2", 1)]
    more = ["ask", "And ice?", "--session", "chat-1", "--store", "store", *SURE]
    assert call(*more)[0] == 0
    saved = json.loads(call("sessions", "export", "chat-1", "--store", "store")[1])
    assert len(saved["answers"]) == 3
    assert call("sessions", "forget", "chat-1", "--store", "store")[0] == 0
    assert call("sessions", "forget", "chat-1", "--store", "store")[0] == 2
    assert "chat-1" not in call("sessions", "list", "--store", "store")[1]


def test_what_is_not_supported_is_marked(capsys):
    from rag.types import Answer, Sentence

    said = (Sentence("Tea is old. [1]", (1,)), Sentence(" It is blue.", supported=False))
    terminal.show_answer(Answer("?", "".join(s.text for s in said), said, flagged=("bad.md",)))
    out = capsys.readouterr().out
    assert "Tea is old. [1] It is blue. [?]" in out
    assert "[?] not found in the documents" in out
    assert "bad.md" in out


def test_upkeep(here, call):
    assert json.loads(call("stats", "--store", "store", "--json")[1])["documents"] == 2
    assert call("export", "--store", "store", "--out", "out")[0] == 0
    assert any((here / "out").iterdir())
    assert call("compact", "--store", "store")[0] == 0
    status, out, _ = call("doctor", "--store", "store", "--json")
    assert status == 0
    assert json.loads(out)["problems"] == []
    vectors = next((here / "store" / "generations").glob("*/dense/vectors.faiss"))
    raw = bytearray(vectors.read_bytes())
    raw[-1] ^= 1
    vectors.write_bytes(raw)
    status, out, err = call("doctor", "--store", "store")
    assert status == 3
    assert "vectors.faiss" in out + err


def test_the_manual_is_read_on_first_use(tmp_path, monkeypatch, call):
    """With two topics and LSA in place of all and MiniLM, which take half a minute."""
    from rag.documents import sources
    from rag.embeddings import embedder

    monkeypatch.chdir(tmp_path)
    opened = embedder.open_embedder
    monkeypatch.setattr(embedder, "open_embedder", lambda *a, **k: opened("lsa", **k))
    monkeypatch.setattr(sources, "read", lambda *args, **options: iter(DOCUMENTS))
    status, out, err = call("chat", *SURE, piped=QUESTION)
    assert status == 0
    assert "first use" in err
    assert "Black tea needs boiling water. [" in out
    assert "first use" not in call("chat", *SURE, piped=QUESTION)[2]


BAD = [
    (["search", "x", "--store", "none"], 3),
    (["search", "x", "--store", "notes"], 3),
    (["search", "x", "--store", "store", "-k", "0"], 2),
    (["search", "x", "--store", "store", "--mode", "magic"], 2),
    (["search", "x", "--store", "store", "--rerank", "magic"], 2),
    (["search", "x", "--store", "store", "--filter", "pth ~ ("], 2),
    (["ask", "x", "--store", "store", "--llm", "gpt-9"], 2),
    (["ask", "x", "--store", "store", "--min-confidence", "2"], 2),
    (["ingest", "--store", "store"], 2),
    (["ingest", "missing/", "--store", "store"], 2),
    (["ingest", "notes", "--store", "store", "--chunk-size", "9"], 2),
    (["ingest", "notes", "--store", "store", "--root", "store"], 2),
    (["serve", "--store", "none"], 3),
    (["serve", "--port", "0"], 2),
    (["eval", "--quick", "--record"], 2),
    (["bench", "magic", "--quick"], 2),
    (["sessions", "export", "none", "--store", "store"], 2),
    (["fly"], 2),
]


@pytest.mark.parametrize(
    ("words", "status"), BAD, ids=lambda x: " ".join(x) if type(x) is list else ""
)
def test_a_mistake_is_one_line(here, call, words, status):
    assert call(*words)[0] == status
