"""A source gives the same documents always, tells what it left out, and stays where it may read."""

import os
from pathlib import Path

import pytest

from rag.documents import sources
from rag.documents.sources import read
from rag.types import Document, Skipped
from shared import datasets
from shared.errors import UserError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files of a folder; the working directory is above it."""
    for name in ("b.md", "a.txt", "sub/c.py", "sub/b.txt", "a/z.txt", "B.txt"):
        path = tmp_path / "docs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "docs"


def ids(source, **options):
    found = list(read(source, **options))
    assert all(isinstance(own, Document) for own in found), found
    return [own.id for own in found]


ALL = ["B.txt", "a/z.txt", "a.txt", "b.md", "sub/b.txt", "sub/c.py"]


def test_ids_are_paths_as_the_source_was_written(folder, tmp_path, monkeypatch):
    expected = [f"docs/{name}" for name in sorted(ALL, key=lambda name: Path(name).parts)]
    for source in ("docs", "./docs/", "docs/../docs", folder, Path("docs"), f"{folder}/", "."):
        assert ids(source) == expected
    assert ids("docs/sub/c.py") == ["docs/sub/c.py"]
    assert ids(folder / "sub" / "c.py") == ["c.py"]
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert ids("../docs") == expected
    assert ids("../docs/sub") == ["sub/b.txt", "sub/c.py"]


def test_metadata_holds_the_path(folder):
    assert [d.metadata["path"] for d in read("docs")] == ids("docs")


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("docs/*.txt", ["B.txt", "a.txt"]),
        ("docs/**/*.txt", ["B.txt", "a.txt", "a/z.txt", "sub/b.txt"]),
        ("docs/**", ALL),
        ("docs/*", ["B.txt", "a.txt", "b.md"]),
        ("docs/[ab].*", ["a.txt", "b.md"]),
        ("docs/*/?.py", ["sub/c.py"]),
        ("**/c.py", ["sub/c.py"]),
    ],
)
def test_patterns(folder, pattern, names):
    expected = [f"docs/{name}" for name in sorted(names, key=lambda name: Path(name).parts)]
    assert ids(pattern) == expected
    if pattern.startswith("docs"):
        assert ids(str(folder.parent / pattern)) == expected


def test_a_file_whose_name_is_a_pattern_is_a_file(folder):
    (folder / "[ab].txt").write_text("x")
    assert ids("docs/[ab].txt") == ["docs/[ab].txt"]


def test_hidden_files_and_copies_of_others_are_passed_over(folder):
    for name in (".git/config", ".env", "node_modules/x.js", "sub/__pycache__/c.txt", "CVS/Root"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("no")
    assert len(ids("docs")) == len(ids("docs/**")) == len(ALL)
    assert ids("docs/.env") == ["docs/.env"]  # asked for by name


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("docs/no.txt", r"docs/no\.txt does not exist"),
        ("docs/*.pdf", r"no file fits docs/\*\.pdf"),
        ("docs/**x", r"\*\*x is no pattern|no file fits docs/\*\*x"),
        ("no/*.txt", r"no file fits no/\*\.txt"),
        ("pydoc", "unknown source 'pydoc'; did you mean pydocs"),
        ("no_such_thing", "unknown source"),
    ],
)
def test_what_is_not_there(folder, source, message):
    with pytest.raises(UserError, match=message):
        read(source)  # at once, not when the first document is asked for


def test_no_source():
    with pytest.raises(ValueError, match="source must be a file, a folder, a pattern or a name"):
        read(" ")


def test_what_cannot_be_read_is_skipped_and_the_rest_is_read(folder):
    (folder / "a.pdf").write_bytes(b"%PDF-")
    (folder / "b.png").write_bytes(b"\x89PNG\0")
    (folder / "c.jsonl").write_text('{"text": "x"}\n{')
    found = list(read("docs"))
    assert len([own for own in found if isinstance(own, Document)]) == len(ALL) + 1
    assert [own.source for own in found if isinstance(own, Skipped)] == [
        *("docs/a.pdf", "docs/b.png", "docs/c.jsonl, line 2")
    ]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_without_permission(folder):
    (folder / "a.txt").chmod(0)
    (folder / "sub").chmod(0)
    skipped = [own for own in read("docs") if isinstance(own, Skipped)]
    (folder / "sub").chmod(0o755)
    assert skipped == [
        Skipped("docs/a.txt", "cannot be read (Permission denied)"),
        Skipped("docs/sub", "is a folder that cannot be read"),
    ]


# ---- links and roots


def test_links_do_not_lead_out(folder, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "out.txt").symlink_to("../secret.txt")
    (folder / "in.txt").symlink_to("b.md")
    (folder / "loop").symlink_to(".")
    (folder / "away").symlink_to(tmp_path)
    (folder / "self.txt").symlink_to("self.txt")
    (folder / "gone.txt").symlink_to("nothing")
    for source in ("docs", "docs/**"):
        found = list(read(source))
        assert not any("secret" in own.text for own in found if isinstance(own, Document))
        assert sum(own.id == "docs/in.txt" for own in found if isinstance(own, Document)) == 1
        assert Skipped("docs/out.txt", "is a link that leads out of the folder") in found
    skipped = dict(own for own in read("docs") if isinstance(own, Skipped))
    assert skipped["docs/loop"] == "is a link to a folder"
    assert skipped["docs/away"] == "is a link that leads out of the folder"
    assert "cannot be read" in skipped["docs/gone.txt"]
    assert "docs/self.txt" in skipped


def test_roots(folder, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "out.txt").symlink_to("../secret.txt")
    (tmp_path / "docs2").mkdir()
    (tmp_path / "docs2" / "x.txt").write_text("x")
    for source in ("secret.txt", tmp_path, "docs/../secret.txt", "docs2", "*.txt", "docs/out.txt"):
        with pytest.raises(UserError, match="is outside of"):
            list(read(source, roots=[folder]))
    for source in ("docs", "docs/a.txt", "docs/*"):
        with pytest.raises(UserError, match="allowed: none"):
            read(source, roots=[])
    assert len(list(read("docs", roots=[tmp_path / "docs2", Path("docs")]))) == len(ALL) + 1
    assert ids("docs/sub", roots=[folder]) == ["docs/sub/b.txt", "docs/sub/c.py"]
    found = list(read("docs", roots=[folder, tmp_path / "secret.txt"]))
    assert [
        own.text for own in found if isinstance(own, Document) and own.id == "docs/out.txt"
    ] == ["secret"]


def test_names_that_are_not_utf8(folder):
    for name in (b"\xff.txt", b"\xfe.txt"):
        (folder / os.fsdecode(name)).write_text("x")
    found = ids("docs/sub") + [own.id for own in read("docs")]
    assert "docs/\\xff.txt" in found
    assert "docs/\\xfe.txt" in found


# ---- data sets


def test_manual_of_python():
    found = list(read("pydocs"))
    assert [(d.id, d.title, d.text) for d in found] == [
        (f"pydocs/{d.name}", d.name, d.text) for d in datasets.pydocs()
    ]


def test_cranfield():
    found = list(read("cranfield"))
    collection = datasets.cranfield()
    assert [own[0] if isinstance(own, Skipped) else own.id for own in found] == [
        f"cranfield/{d.name}" for d in collection.documents
    ]
    assert [own for own in found if isinstance(own, Skipped)] == [
        Skipped("cranfield/471", "holds no text"),
        Skipped("cranfield/995", "holds no text"),
    ]


def test_each_paragraph_of_xquad_is_a_document():
    found = list(read("xquad"))
    assert len({d.id for d in found}) == 240
    assert found[0].id == "xquad/Super_Bowl_50/1"
    assert found[0].title == "Super Bowl 50"
    assert found[0].text.startswith("The Panthers defense gave up just 308 points")


def test_files_of_the_registry():
    found = list(read("verilog_docs"))
    assert [d.id for d in found] == ["verilog_docs/README.md", "verilog_docs/picosoc/README.md"]
    assert found[0].metadata["kind"] == "markdown"


def test_a_name_that_comes_again_is_numbered():
    texts = [("a", "", "x"), ("b", "", " "), ("a", "", "y")]
    assert [d[0] if isinstance(d, Skipped) else d.id for d in sources._named("n", texts)] == [
        *("n/a", "n/b", "n/a (2)")
    ]


def test_a_name_wins_over_a_folder_which_is_written_as_a_path(folder):
    (folder / "pydocs").mkdir()
    (folder / "pydocs" / "x.txt").write_text("mine")
    os.chdir(folder)
    assert len(ids("pydocs")) > 50
    assert ids("./pydocs") == ids(Path("pydocs")) == ["pydocs/x.txt"]


def test_redaction(folder):
    (folder / "a.txt").write_text("Write to ada@example.org")
    found = {d.id: d for d in read("docs", redact=True)}
    assert found["docs/a.txt"].text == "Write to [EMAIL]"
    assert found["docs/a.txt"].metadata["redacted"] == "EMAIL 1"
    assert "redacted" not in found["docs/b.md"].metadata
    assert next(read("docs/a.txt")).text == "Write to ada@example.org"
