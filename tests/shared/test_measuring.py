"""Rows of a benchmark: each kept as soon as it is measured, and none by a quick trial."""

from pathlib import Path

import pytest

from shared.errors import UserError
from shared.measuring import check_rows, environment, measure, read_record


def test_a_quick_trial_does_not_become_the_record(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = tmp_path / "bench.json"
    for out in (record, Path("bench.json")):
        with pytest.raises(UserError, match="a quick trial measures nothing"):
            check_rows((), ["a"], out=out, record=record, quick=True)
    check_rows(["a"], ["a"], out=tmp_path / "other.json", record=record, quick=True)
    check_rows(["a"], ["a"], out=record, record=record, quick=False)
    with pytest.raises(UserError, match="rows must be among a, b, got c"):
        check_rows(["a", "c"], ["a", "b"], out=record, record=record, quick=False)


def test_rows_are_kept_one_by_one(tmp_path):
    def broken(quick):
        raise RuntimeError("no")

    out, said = tmp_path / "bench.json", []
    rows = {"a": lambda quick: {"n": 1}, "b": broken}
    options = {"out": out, "quick": True, "say": said.append, "threads": 3}
    with pytest.raises(RuntimeError):
        measure(rows, (), **options)
    (row,) = read_record(out).values()
    assert row["n"] == 1
    assert (row["machine"]["quick"], row["machine"]["threads"]) == (True, 3)
    assert said == ["a …", "b …"]
    out.unlink()
    assert list(measure(rows, ["a"], **options)) == ["a"]


def test_how_a_shell_lets_threads_wait_is_not_measured(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("HF_HOME", "here")
    found = environment(2)
    assert "OMP_WAIT_POLICY" not in found
    assert (found["OMP_NUM_THREADS"], found["HF_HOME"]) == ("2", "here")
