"""Sources stream every document once, in a fixed order, and name the file that is wrong."""

import gzip
import json

import pytest

from shared import datasets
from shared.errors import UserError
from tiny_gpt.data.sources import documents


def read(source):
    return [(document.name, document.text) for document in documents(source)]


def jsonl(*texts):
    return "".join(json.dumps({"id": i, "text": t}) + "\n" for i, t in enumerate(texts)).encode()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_file_is_one_document_and_jsonl_one_a_line(tmp_path, suffix):
    pack = gzip.compress if suffix else bytes
    text = "\r\nZwölf Boxkämpfer\tjagen\u2028Viktor\f\n"
    book = tmp_path / f"book.txt{suffix}"
    book.write_bytes(pack(b"\xef\xbb\xbf" + text.encode()))
    assert read(book) == [(book.name, text)]
    assert read(str(book)) == read(book)

    lines = tmp_path / f"many.jsonl{suffix}"
    lines.write_bytes(pack(b"\xef\xbb\xbf" + jsonl("a\nb", "ü\u2028") + b"\r\n\n" + jsonl("", "z")))
    name = lines.name
    expected = [
        (f"{name}:1", "a\nb"),
        (f"{name}:2", "ü\u2028"),
        (f"{name}:5", ""),
        (f"{name}:6", "z"),
    ]
    assert read(lines) == expected


def test_folder_is_read_in_the_order_of_paths(tmp_path):
    for name in ("b/z.md", "b/a.txt", "a.txt", "c.jsonl", "b.txt", "B.rst", "d.py", "é.txt.gz"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        data = jsonl("1", "2") if name.endswith("jsonl") else name.encode()
        path.write_bytes(gzip.compress(data, mtime=0) if name.endswith("gz") else data)
    for ignored in (".git/x.txt", "picture.png", ".hidden.txt"):
        (tmp_path / ignored).parent.mkdir(exist_ok=True)
        (tmp_path / ignored).write_bytes(b"\xff\0")
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    names = [name for name, _ in read(tmp_path)]
    expected = ["B.rst", "a.txt", "b/a.txt", "b/z.md", "b.txt", "c.jsonl:1", "c.jsonl:2", "d.py"]
    assert names == [*expected, "é.txt.gz"]


def test_registry_names():
    assert read("pydocs") == [(d.name, d.text) for d in datasets.pydocs()]


def test_wikitext_is_cut_at_titles(monkeypatch):
    text = " \n = First = \n \n one = two = \n = = Part = = \n three\n \n = Second one = \n four\n"
    monkeypatch.setattr(datasets, "wikitext2", lambda: text)
    found = read("wikitext2")
    assert [name for name, _ in found] == ["First", "Second one"]
    assert "".join(part for _, part in found) == text.removeprefix(" \n")


def test_name_wins_over_a_folder_which_is_written_as_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pydocs").mkdir()
    (tmp_path / "pydocs" / "x.txt").write_text("mine")
    assert len(read("pydocs")) > 50
    assert read("./pydocs") == [("x.txt", "mine")]


def test_hugging_face_data_set_on_disk(tmp_path):
    hf = pytest.importorskip("datasets")
    hf.disable_progress_bars()
    texts = [f"text {i} ü" for i in range(300)]
    data = hf.Dataset.from_dict({"id": range(301), "text": [*texts, None]})
    data.save_to_disk(str(tmp_path / "set"))
    found = read(f"hf:{tmp_path / 'set'}")
    assert [text for _, text in found] == [*texts, ""]
    assert found[299][0] == "set:299"

    hf.DatasetDict(train=data, test=data).save_to_disk(str(tmp_path / "splits"))
    with pytest.raises(
        UserError, match=r"give one of them: hf:.*/splits/train or hf:.*/splits/test"
    ):
        documents(f"hf:{tmp_path / 'splits'}")
    assert len(read(f"hf:{tmp_path / 'splits' / 'test'}")) == 301
    data.remove_columns("text").save_to_disk(str(tmp_path / "no-text"))
    with pytest.raises(UserError, match='no column "text" of strings; its columns are id'):
        documents(f"hf:{tmp_path / 'no-text'}")
    with pytest.raises(UserError, match="no data set that was saved to disk"):
        documents(f"hf:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"good\n\xe4\xf6", r"a\.txt is not UTF-8 text: byte 5 is 0xe4"),
        ("a.txt", b"ab\0", r"a\.txt is not a text file: byte 2 is NUL"),
        (
            "a.jsonl",
            jsonl("x", "y") + b'{"text": "\xff"}\n',
            r"a\.jsonl is not UTF-8 text: byte 56 is 0xff",
        ),
        ("a.jsonl", jsonl("x") + b"{\n", r"a\.jsonl, line 2: expected a JSON object"),
        ("a.jsonl", b'["text"]\n', r"line 1: expected a JSON object with a text"),
        ("a.jsonl", b'{"text": 5}\n', r"line 1: expected"),
        ("a.jsonl", b'{"txt": "5"}\n', r"line 1: expected"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"line 1: expected"),
        ("a.txt.gz", b"plain", r"a\.txt\.gz is not a whole gzip file"),
        (
            "a.txt.gz",
            gzip.compress(b"x" * 99, mtime=0)[:-9],
            r"a\.txt\.gz is not a whole gzip file",
        ),
        ("a.png", b"x", r"holds no text files"),
    ],
)
def test_wrong_files_are_named(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)


def test_unknown_sources():
    with pytest.raises(UserError, match="unknown text 'pydoc'; did you mean pydocs"):
        documents("pydoc")
    with pytest.raises(UserError, match=r"no/such\.txt does not exist"):
        documents("no/such.txt")


def test_records_are_streamed(tmp_path):
    (tmp_path / "many.jsonl").write_bytes(jsonl("first", "second") + b"torn")
    stream = documents(tmp_path / "many.jsonl")
    assert [next(stream).text, next(stream).text] == [
        "first",
        "second",
    ]  # the third is not read yet
    with pytest.raises(UserError, match="line 3"):
        next(stream)
