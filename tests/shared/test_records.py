"""Records: what they must hold, how two of them differ, and what counts as a change of the code."""

import copy
import importlib.metadata
import json

import numpy as np
import pytest
import torch
from tiny_project import git

from shared import records
from shared.errors import UserError

CHECK = {"name": "sum", "against": "theory", "kind": "theorem", "error": 0.0, "passed": True}
CLAIM = {
    **dict.fromkeys(("at_least", "at_most", "mean", "low", "high", "n", "paper"), 1),
    "name": "falls",
    "verdict": "holds",
}
RECORD = {
    **dict.fromkeys(records.REQUIRED, ""),
    "checks": [CHECK],
    "claims": [CLAIM],
    "falsifiers": [{"name": "shuffled", "breaks": "falls", "mean": 0.0, "broken": True}],
    "metrics": [
        {"name": "loss", "value": 2.0, "unit": "nats", "rtol": 0.05},
        {"name": "time", "value": 1.0, "unit": "s", "rtol": None},
    ],
    "figures": [],
}


@pytest.fixture
def record():
    return copy.deepcopy(RECORD)


# ---- files


def test_keys_and_places():
    script = records.ROOT / "weeks" / "14" / "ngram.py"
    assert records.key_of(script) == "weeks/14/ngram"
    assert records.script_of("weeks/14/ngram") == script
    assert records.results_of(script) == script.parent / "results"
    assert records.record_of(script) == script.parent / "results" / "ngram.json"


def test_a_script_elsewhere_goes_by_its_name(tmp_path):
    assert records.key_of(tmp_path / "mine.py") == "mine"
    assert records.readable(tmp_path / "mine.py") == "mine.py"


def test_round_trip(record, tmp_path):
    record["options"] = {"x": np.float32(0.5), "t": torch.tensor([1, 2]), "a": np.arange(2)}
    records.save(record, tmp_path / "r.json")
    loaded = records.load(tmp_path / "r.json")
    assert loaded["options"] == {"x": 0.5, "t": [1, 2], "a": [0, 1]}
    assert loaded["checks"] == record["checks"]
    text = (tmp_path / "r.json").read_bytes()
    assert text.endswith(b"}\n")
    assert text.count(b"\n") > 20, "one entry a line, for diffs"
    records.save(record, tmp_path / "r.json")
    assert (tmp_path / "r.json").read_bytes() == text
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object()])
def test_what_json_cannot_hold_is_not_written(record, tmp_path, value):
    records.save(record, tmp_path / "r.json")
    before = (tmp_path / "r.json").read_bytes()
    record["options"] = value
    with pytest.raises((ValueError, TypeError)):
        records.save(record, tmp_path / "r.json")
    assert (tmp_path / "r.json").read_bytes() == before


def test_missing_record(tmp_path):
    with pytest.raises(UserError, match=r"no record r\.json; run the script with --record"):
        records.load(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is not valid JSON"),
        (b'{"script": "x", ', "is not valid JSON"),
        (b"<<<<<<< HEAD\n{}\n", "is not valid JSON"),
        (b"\xff\xfe\x00", "is not valid JSON"),
        (b"[]", "is not a JSON object"),
        (b"3", "is not a JSON object"),
        (b"null", "is not a JSON object"),
        (b"{}", "lacks script, command, mode"),
    ],
)
def test_broken_record(tmp_path, content, complaint):
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=complaint) as error:
        records.load(path)
    assert "r.json" in str(error.value)


@pytest.mark.parametrize("field", records.REQUIRED)
def test_incomplete_record(record, tmp_path, field):
    del record[field]
    (tmp_path / "r.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match=f"lacks {field}$"):
        records.load(tmp_path / "r.json")


@pytest.mark.parametrize("rows", [[{}], [3], {"name": "x"}, "x", None])
@pytest.mark.parametrize("kind", records.ROWS)
def test_incomplete_rows(record, tmp_path, kind, rows):
    record[kind] = rows
    (tmp_path / "r.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match=f"each of its {kind} needs"):
        records.load(tmp_path / "r.json")


# ---- what they say


def test_problems(record):
    """A failed check is one; a claim that fails is a finding, and published."""
    record["claims"][0]["verdict"] = "fails"
    assert records.problems(record) == []
    record["checks"][0]["passed"] = False
    assert records.problems(record) == ["check failed: sum"]
    none = "no check against a library or a theorem"
    record["checks"][0] |= {"passed": True, "kind": "consistency"}
    assert records.problems(record) == [none]
    record["checks"] = []
    assert records.problems(record) == [none]


def test_equal_records_do_not_differ(record):
    assert records.differences(record, RECORD) == []
    record["seconds"], record["metrics"][1]["value"] = 99.0, 50.0  # never compared
    assert records.differences(record, RECORD) == []


@pytest.mark.parametrize(
    ("value", "differs"), [(2.0, False), (2.09, False), (1.91, False), (2.12, True), (-2.0, True)]
)
def test_metric_within_the_recorded_tolerance(record, value, differs):
    record["metrics"][0]["value"] = value
    record["metrics"][0]["rtol"] = 9.0  # what the fresh run allows itself does not count
    found = records.differences(record, RECORD)
    expected = f"metric 'loss': {value:.6g}, recorded 2 (tolerance 5 %)"
    assert found == ([expected] if differs else [])


def test_exact_metric(record):
    record["metrics"][0] |= {"value": 2.0000001}
    old = copy.deepcopy(RECORD)
    old["metrics"][0]["rtol"] = 0.0
    assert len(records.differences(record, old)) == 1
    old["metrics"][0]["rtol"] = 0.001
    record["metrics"][0] |= {"value": 2.1}
    assert records.differences(record, old)[0].endswith("(tolerance 0.1 %)")


@pytest.mark.parametrize("kind", ["checks", "claims", "falsifiers", "metrics"])
def test_rows_that_came_or_went(record, kind):
    name = record[kind][0]["name"]
    record[kind][0]["name"] = "other"
    found = records.differences(record, RECORD)
    assert found == [f"{kind}: 'other' is new", f"{kind}: '{name}' is gone"]


def test_outcomes_must_be_the_same(record):
    record["claims"][0]["verdict"] = "inconclusive"
    record["falsifiers"][0]["broken"] = False
    assert records.differences(record, RECORD) == [
        "claims: 'falls': inconclusive, recorded holds",
        "falsifiers: 'shuffled': False, recorded True",
    ]
    record["checks"][0]["passed"] = False
    assert records.differences(record, RECORD)[0] == "check failed: sum"


# ---- the code's digest

CODE = '''\
"""Title.

More.
"""

import math  # needed


def area(r):
    """Of a circle."""
    text = """first

    last # not a comment
    """
    return math.pi * r**2, text, f"{r} # neither"


class Ring: "what it is"; width = 1
'''

SAME = {
    "comment": ("import math  # needed", "import math"),
    "comment line": ("\n\nclass", "\n# a comment\n\nclass"),
    "docstring": ("More.\n", "Quite another text: é, ×.\n\nAnd more.\n"),
    "no docstring": ('    """Of a circle."""\n', ""),
    "docstring beside code": ('"what it is"', '"what it was"'),
    "blank lines": ("\n\n\ndef", "\n\n\n\n\ndef"),
    "trailing blanks": ("def area(r):", "def area(r):   "),
    "form feed in a docstring": ("More.", "Mo\x0cre\u2028."),
    "line ends": ("\n", "\r\n"),
}
OTHER = {
    "number": ("r**2", "r**3"),
    "name": ("area", "volume"),
    "code beside a docstring": ("class Ring", "class Rang"),
    "code after a docstring": ("width = 1", "width = 2"),
    "string": ("last #", "final #"),
    "hash in a string": ("# not a comment", "# not one"),
    "hash in an f-string": ("# neither", "# nor"),
    "blank line in a string": ("first\n\n", "first\n"),
    "blanks at a line's end in a string": ("first\n", "first \n"),
    "indentation": ("    return", "      \treturn"),
    "import": ("import math", "import cmath as math"),
}


def digest(tmp_path, source):
    path = tmp_path / "script.py"
    path.write_bytes(source.encode())
    return records.code_digest(path)


@pytest.mark.parametrize(("old", "new"), SAME.values(), ids=SAME)
def test_digest_is_blind_to(tmp_path, old, new):
    assert old in CODE
    assert digest(tmp_path, CODE.replace(old, new)) == digest(tmp_path, CODE)


@pytest.mark.parametrize(("old", "new"), OTHER.values(), ids=OTHER)
def test_digest_sees(tmp_path, old, new):
    assert old in CODE
    changed = CODE.replace(old, new)
    if old == "    return":
        changed = CODE.replace('\n    return math.pi * r**2, text, f"{r} # neither"', "").replace(
            "    text =", "    return None\n    text ="
        )
    assert digest(tmp_path, changed) != digest(tmp_path, CODE)


def test_digest_is_the_same_on_every_python(tmp_path):
    """A constant, because records travel: syntax trees print differently from one to the next."""
    assert digest(tmp_path, CODE) == "e8f27f7eb1b573fb"


def test_digest_covers_the_evidence_and_its_parts(tmp_path):
    week = tmp_path / "weeks" / "01"
    files = {
        "norm.py": "x = 1\n",
        "evidence/norm.py": "from week01.evidence.figures import draw\n",
        "evidence/figures.py": "draw = 1\n",
        "evidence/other.py": "y = 1\n",
    }
    for name, text in files.items():
        (week / name).parent.mkdir(parents=True, exist_ok=True)
        (week / name).write_text(text, encoding="utf-8")
    script = week / "norm.py"
    assert [path.name for path in records.sources_of(script)] == [
        "norm.py",
        "norm.py",
        "figures.py",
    ]
    before = records.digest_of(script)
    for name, counts in (("evidence/other.py", False), *((name, True) for name in list(files)[:3])):
        (week / name).write_text(files[name] + "z = 2\n", encoding="utf-8")
        assert (records.digest_of(script) != before) == counts, name
        (week / name).write_text(files[name], encoding="utf-8")


def test_versions_and_commit(monkeypatch, tmp_path):
    found = records.versions()
    assert found["numpy"] == np.__version__
    assert found["torch"] == importlib.metadata.version("torch")
    assert len(found["python"].split(".")) == 3
    monkeypatch.setattr(records, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert records.commit() == ""
    assert records.git_files() == []
    git(tmp_path, "init", "-q")
    (tmp_path / "übung.md").write_text("a", encoding="utf-8")
    assert records.git_files("*.md") == ["übung.md"]
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    assert len(records.commit()) == 10
    (tmp_path / "übung.md").write_text("b", encoding="utf-8")
    assert records.commit().endswith("+")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert records.commit() == "", "no git at all"
    assert records.git_files() == []
