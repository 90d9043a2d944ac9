"""Runs of the whole suite are kept by dependencies and Python, and only whole ones are."""

import json
import platform
import subprocess
import sys

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


def test_some_tests_are_not_a_run():

    words = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-n0",
        "--record-run",
        "lock",
    ]
    before = suite_record.RECORD.read_bytes() if suite_record.RECORD.exists() else b""
    one = f"{__file__}::test_a_run_takes_the_place_of_an_earlier_one_of_its_kind"
    done = subprocess.run([*words, one], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert "not recorded: only some tests were chosen" in done.stdout
    assert (suite_record.RECORD.read_bytes() if suite_record.RECORD.exists() else b"") == before
