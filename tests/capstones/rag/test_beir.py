"""BEIR folders: as beir reads them, and whatever form their lines have."""

import gzip
import json

import pytest

from rag.evaluation.beir import load, read_beir, without_identical, write_beir
from rag.types import Document
from shared.errors import UserError

DOCUMENTS = [
    Document("d1", "  Tea\u2028needs hot water.\n", "On tea"),
    Document("MED-10", ""),
    Document("3", "Ünïcode 日本", ""),
]
QUERIES = {"q1": "tea?", "7": "日本\x0b"}
QRELS = {"q1": {"d1": 2, "3": 0}, "7": {"3": 1}}


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "qrels").mkdir()
    corpus = [{"_id": "d1", "title": "T", "text": "a"}, {"_id": 2, "text": "b", "metadata": {}}]
    (tmp_path / "corpus.jsonl").write_text(lines(corpus))
    (tmp_path / "queries.jsonl").write_text(
        lines([{"_id": "q1", "text": "x"}, {"_id": "q2", "text": "y"}])
    )
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\n")
    return tmp_path


def test_what_is_written_is_read_unchanged(tmp_path):
    write_beir(tmp_path / "c", DOCUMENTS, QUERIES, QRELS)
    assert read_beir(tmp_path / "c") == (DOCUMENTS, QUERIES, QRELS)


def test_ids_are_strings_and_only_judged_queries_are_asked(folder):
    found = read_beir(folder)
    assert [(d.id, d.title, d.text) for d in found.documents] == [("d1", "T", "a"), ("2", "", "b")]
    assert found.queries == {"q1": "x"}
    assert found.qrels == {"q1": {"d1": 1}}


@pytest.mark.parametrize(
    "text",
    [
        "q1\td1\t1\n",
        "q1 d1 1\n\n",
        "\ufeffquery-id\tcorpus-id\tscore\r\nq1\td1\t1\r\n",
        "q1\t0\td1\t1\n",
        "q1\td1\t1.0",
    ],
)
def test_forms_of_qrels(folder, text):
    (folder / "qrels" / "test.tsv").write_text(text, newline="")
    assert read_beir(folder).qrels == {"q1": {"d1": 1}}


def test_ids_with_spaces_in_tabbed_qrels(folder):
    (folder / "corpus.jsonl").write_text(lines([{"_id": "my file.md", "text": "a"}]))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\tmy file.md\t1\n")
    assert read_beir(folder).qrels == {"q1": {"my file.md": 1}}


def test_compressed_files_and_other_splits(folder):
    text = (folder / "corpus.jsonl").read_bytes()
    (folder / "corpus.jsonl").unlink()
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(text))
    (folder / "qrels" / "dev.tsv").write_text("q2\t2\t1\n")
    assert len(read_beir(folder).documents) == 2
    assert read_beir(folder, "dev").queries == {"q2": "y"}
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "odd.tsv")
    assert read_beir(folder).queries == {"q2": "y"}
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress(text)[:-9])
    with pytest.raises(UserError, match=r"corpus.jsonl.gz cannot be read"):
        read_beir(folder)


def test_the_querys_own_document_can_be_left_out():
    run = {"q1": {"q1": 3.0, "d": 1.0}, "q2": {"q1": 2.0}}
    assert without_identical(run) == {"q1": {"d": 1.0}, "q2": {"q1": 2.0}}


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("corpus.jsonl", '{"_id": 1, "text": "a"}\n{"_id": 2}\n', "line 2: must be an object"),
        ("corpus.jsonl", "[1]\n", "line 1: must be an object"),
        ("corpus.jsonl", '{"_id": 1, "text": ["a"]}\n', r"text must be a string, got \['a'\]"),
        ("queries.jsonl", "{\n", "queries.jsonl, line 1"),
        ("queries.jsonl", '{"_id": "z", "text": "a"}\n', "query 'q1' is judged and not among"),
        ("qrels/test.tsv", "q1\td1\t1\nq1\td2\n", "line 2: must be query-id"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\n", "holds no judgment"),
    ],
)
def test_what_is_no_collection_is_named_with_its_line(folder, name, text, why):
    (folder / name).write_text(text)
    with pytest.raises(UserError, match=why):
        read_beir(folder)


def test_what_is_missing_is_named(folder):
    with pytest.raises(UserError, match=r"must hold train.tsv, got test"):
        read_beir(folder, "train")
    (folder / "queries.jsonl").unlink()
    with pytest.raises(UserError, match=r"must hold queries.jsonl or queries.jsonl.gz"):
        load(folder)


def test_cranfield_by_name():
    found = load("cranfield")
    assert (len(found.documents), len(found.queries), len(found.qrels)) == (1400, 225, 225)
    assert found.queries["1"].startswith("what similarity laws")
