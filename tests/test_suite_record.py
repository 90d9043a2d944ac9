"""Runs of the whole suite are kept by dependencies and Python, and only whole ones are."""

import json
import platform

import pytest
import suite_record

from shared import tables
from shared.records import ROOT

MINOR = platform.python_version().rpartition(".")[0]


def test_a_run_takes_the_place_of_an_earlier_one_of_its_kind(tmp_path):
    path = tmp_path / "runs.json"
    suite_record.record("lock", {"passed": [1, 2], "failed": [3]}, path)
    old = json.loads(path.read_text())[0] | {"python": "3.9.1"}
    path.write_text(json.dumps([old, old | {"python": f"{MINOR}.99"}]))
    suite_record.record("lock", {"passed": [1], "skipped": [2]}, path)
    suite_record.record("lowest", {}, path)
    rows = json.loads(path.read_text())
    kinds = [(row["dependencies"], row["python"]) for row in rows]
    here = platform.python_version()
    assert kinds == [("lock", "3.9.1"), ("lock", here), ("lowest", here)]
    assert [rows[1][outcome] for outcome in suite_record.OUTCOMES] == [1, 0, 0, 1]


def test_failed_counts_what_broke_on_the_way(monkeypatch, tmp_path):
    (tmp_path / "tests").mkdir()
    stats = {"passed": [1] * 4, "failed": [1], "error": [1, 2]}
    suite_record.record("lock", stats, tmp_path / "tests" / "runs.json")
    monkeypatch.setattr(tables.records, "ROOT", tmp_path)
    head, _, row = tables.render("<!-- study:runs -->\n<!-- /study -->", ROOT / "x.md").split("\n")[
        1:4
    ]
    cells = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    assert (cells["passed"], cells["failed"]) == ("4", "3")


TWO = """
import os

def test_one(): pass

def test_two():
    if "BREAK" in os.environ:
        raise KeyboardInterrupt
    assert "FAIL" not in os.environ
"""


@pytest.mark.parametrize(
    ("words", "variable", "said"),
    [
        ([], "", ""),
        ([], "FAIL", ""),
        ([], "BREAK", "the run did not come to its end"),
        (["tests/test_two.py"], "", "only some tests were chosen"),
        (["-k", "one"], "", "only some tests were chosen"),
        (["-m", "not slow"], "", "only some tests were chosen"),
        (["--deselect", "tests/test_two.py::test_one"], "", "only some tests were chosen"),
        (["--ignore", "tests/test_three.py"], "", "only some tests were chosen"),
        (["--ignore-glob", "*three*"], "", "only some tests were chosen"),
        (["--lf"], "", "only some tests were chosen"),
        (["--sw"], "", "only some tests were chosen"),
        (["-x"], "FAIL", "only some tests were chosen"),
        (["--collect-only"], "", "only some tests were chosen"),
        (["--setup-plan"], "", "only some tests were chosen"),
        (["--setup-only"], "", "only some tests were chosen"),
    ],
)
def test_only_a_whole_run_is_recorded(words, variable, said, tmp_path, monkeypatch, capsys):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_two.py").write_text(TWO)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    if variable:
        monkeypatch.setenv(variable, "1")
    options = ["-p", "suite_record", "-p", "no:faulthandler", "--import-mode=importlib"]
    pytest.main([*options, "--record-run", "lock", *words])
    shown = capsys.readouterr().out
    assert (f"not recorded: {said}" in shown) == bool(said)
    path = tmp_path / "tests" / "runs.json"
    assert path.exists() == (not said)
    if not said:
        (row,) = json.loads(path.read_text())
        assert (row["passed"], row["failed"]) == ((1, 1) if variable else (2, 0))


def test_a_prerelease_of_python_is_recorded(monkeypatch, tmp_path):
    monkeypatch.setattr(platform, "python_version", lambda: "3.15.0rc1")
    for name in ("b", "a"):
        suite_record.record(name, {}, tmp_path / "runs.json")
    rows = json.loads((tmp_path / "runs.json").read_text())
    assert [row["dependencies"] for row in rows] == ["a", "b"]
