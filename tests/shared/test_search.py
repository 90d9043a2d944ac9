"""The search of the log: what is a section, what is a word, and what comes first."""

import pytest
from tiny_project import make_project

from shared import cli, search
from shared.errors import UserError
from shared.search import Hit, cropped, of_markdown, of_python, parts
from shared.study import call

NOTE = """# Distances: a note

Far apart.

```python
# no heading
d_model = 3
```

## The *triangle*, <!--= weeks/01/norm "sum" .2f -->1.00<!--/=--> of [three](norm.py)

Its inequality, <!-- hidden --> by `norm`.

<!-- study:nav -->
**Next:** secret
<!-- /study -->

## Last
End.
"""
CODE = '''\
r"""Lengths of things.

    uv run weeks/01/norm.py
"""

from math import sqrt


def norm(x):
    """Root of the sum."""
    return sqrt(
        x
    )


def _private():
    """Unseen."""


class KVCache:
    """Keeps keys."""

    def push(self, q_proj):
        """Adds one."""

print("main")
'''


def test_sections_of_a_note():
    found = list(of_markdown("a.md", NOTE))
    assert [(s.line, s.title) for s in found] == [
        (1, "Distances: a note"),
        (10, "Distances › The triangle, 1.00 of three"),
        (18, "Distances › Last"),
    ]
    assert "# no heading\nd_model = 3" in found[0].text
    assert "Its inequality,  by norm." in found[1].text
    assert "secret" not in found[1].text
    assert next(of_markdown("b.md", "only text")).title == "b.md"


def test_sections_of_a_module():
    found = list(of_python("a.py", CODE))
    assert [(s.line, s.title) for s in found] == [
        (1, "Lengths of things"),
        (9, "norm"),
        (20, "KVCache"),
    ]
    assert found[1].text.rstrip().endswith("    )")
    assert "q_proj" in found[2].text
    assert "main" not in found[2].text


@pytest.mark.parametrize(
    ("word", "pieces"),
    [
        ("kv_cache", ("kv_cache", "kv", "cache")),
        ("MultiHeadAttention", ("multiheadattention", "multi", "head", "attention")),
        ("KVCache", ("kvcache", "kv", "cache")),
        ("llama3", ("llama3", "llama")),
        ("q_proj", ("q_proj", "proj")),
        ("Größe", ("größe",)),
        ("SVD", ("svd",)),
        ("warm-up", ("warmup", "warm", "up")),
        ("n-grams", ("ngrams", "grams")),
    ],
)
def test_parts_of_a_word(word, pieces):
    assert parts(word) == pieces


@pytest.fixture
def project(tmp_path, monkeypatch):
    root = make_project(tmp_path, monkeypatch)
    (root / "weeks" / "01" / "distance.md").write_text(NOTE, encoding="utf-8")
    (root / "weeks" / "01" / "cache.py").write_text(CODE, encoding="utf-8")
    for folder, word in (("papers/1637-geometry", "Curves"), ("capstones/ruler", "Ruler")):
        (root / folder).mkdir(parents=True)
        text = f"# {word}\n\nThey measure an inequality.\n"
        (root / folder / "README.md").write_text(text, encoding="utf-8")
    return root


def test_kinds(project):
    def files(kind):
        return [hit.file for hit in search.search(["inequality"], kind)[0]]

    assert sorted(files(None)) == [
        "capstones/ruler/README.md",
        "papers/1637-geometry/README.md",
        "weeks/01/distance.md",
    ]
    assert files("notes") == ["weeks/01/distance.md"]
    assert files("papers") == ["papers/1637-geometry/README.md"]
    assert files("programs") == ["capstones/ruler/README.md"]
    assert search.search(["norm"], "scripts")[0][0].file == "weeks/01/norm.py"


def test_a_part_of_a_name_finds_it(project):
    for asked in ("cache", "q_proj", "kv_cache"):
        assert "KVCache" in [hit.title for hit in search.search([asked])[0]]


def test_each_file_comes_once_before_any_comes_twice(project):
    strong = "# Norm\n\nNorm, norm.\n\n## Norm of norm\n\nNorm, norm, norm.\n"
    (project / "weeks" / "01" / "strong.md").write_text(strong, encoding="utf-8")
    hits, _ = search.search(["norm"])
    files = [hit.file for hit in hits]
    once = len(set(files))
    assert files[0] == "weeks/01/strong.md"
    assert files.count(files[0]) == 2
    assert len(set(files[:once])) == once > 1
    assert len(search.search(["norm"], limit=2)[0]) == 2


def test_the_line_and_its_marks(project):
    hit = search.search(["triangles", "inequality"], "notes")[0][0]
    assert (hit.line, hit.context) == (12, "Its inequality, by norm.")
    assert [hit.context[a:b] for a, b in hit.marks] == ["inequality"]


@pytest.mark.parametrize("asked", ["tapwater", "tap-water", "why is tap-water"])
def test_a_hyphen_is_no_difference_and_questions_are_no_words(project, asked):
    text = "# Rain\n\nA tap-water line.\n\n# Else\n\nWhy is it so, and why is it so?\n"
    (project / "weeks" / "01" / "water.md").write_text(text, encoding="utf-8")
    hits, absent = search.search(asked.split())
    assert [hit.context for hit in hits] == ["A tap-water line."]
    assert hits[0].marks == ((2, 11),)
    assert not absent
    assert len(search.search(["why"], "notes")[0]) == 1  # where nothing else is asked


def test_an_import_says_nothing(project):
    text = "# Use\n\n```python\nfrom week01.norm import gradient\n\ngradient(3)\n```\n"
    (project / "weeks" / "01" / "use.md").write_text(text, encoding="utf-8")
    (hit,) = search.search(["gradient"], "notes")[0]
    assert (hit.line, hit.context) == (6, "gradient(3)")


def test_absent_words(project):
    hits, absent = search.search(["inequalty", "triangle"])
    assert hits[0].file == "weeks/01/distance.md"
    assert absent == "nothing is said about 'inequalty'; near: inequality"
    with pytest.raises(UserError, match=r"^nothing is said about 'zzz' in papers$"):
        search.search(["zzz"], "papers")
    with pytest.raises(UserError, match=r"^WORD must have at least two letters or digits, got x$"):
        search.search(["x"])


def test_a_long_line_is_cropped_around_its_mark():
    text = "a" * 50 + " found " + "b" * 50
    hit = Hit("f", 1, "t", text, ((51, 56),))
    for width in (20, 60, 107, 200):
        line, ((start, end),) = cropped(hit, width)
        assert len(line) == min(width, len(text))
        assert line[start:end] == "found"
        assert line.startswith("…") == (width < 107)


def test_command(project, capfd):
    def study(*words):
        status = call(cli.app, ["search", *words], lost="")
        said = capfd.readouterr()
        return status, said.out, said.err

    status, said, _ = study("inequality", "zzz", "--kind", "notes")
    assert status == 0
    assert said == (
        "nothing is said about 'zzz' in notes\n"
        "weeks/01/distance.md:12  Distances › The triangle, 1.00 of three\n"
        "    Its inequality, by norm.\n"
    )
    for words in (["zzz"], ["x"], [], ["norm", "--limit", "0"], ["norm", "--kind", "books"]):
        status, said, error = study(*words)
        assert (status, said, error.count("\n")) == (2, "", 1)
        assert error.startswith("study: error: ")


def test_the_log_is_found():
    """What a reader looks for first stands among the first ten."""
    for asked, wanted in (
        ("rotary", "weeks/13/positional_encodings.py"),
        ("rotary", "weeks/18/llama3.md"),
        ("kv_cache", "weeks/19/kv_cache.md"),
        ("posterior collapse", "weeks/22/variational_autoencoders.md"),
    ):
        assert wanted in [hit.file for hit in search.search(asked.split())[0]]


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ("overfitting", "weeks/04/learning_paradigms.md"),
        ("why warmup", "weeks/09/optimizers.md"),
        ("attention mask", "weeks/13/attention.md"),
    ],
)
def test_what_explains_stands_among_the_first_three(asked, wanted):
    assert wanted in [hit.file for hit in search.search(asked.split(), limit=3)[0]]
