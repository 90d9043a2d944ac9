"""Results in a folder: the same run gives the same bytes, and what was altered is named."""

import dataclasses
import json
import math
import re
import socket
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llm_eval_report import Outcome, number, outcome

from llm_eval.report.reading import read_results, read_samples
from llm_eval.report.writing import save
from llm_eval.types import Sample
from shared import artifacts
from shared.artifacts import ArtifactError
from shared.errors import UserError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder of results, and the run they are of."""
    folder = tmp_path_factory.mktemp("run") / "out"
    run = outcome(8)
    save(run, folder, run={"seconds": 1.5})
    return folder, run


def copy(folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def test_what_was_saved_is_read_back(saved):
    folder, run = saved
    results = read_results(folder)
    assert list(results.numbers) == run.numbers
    assert (results.settings, results.tasks, results.model) == (run.settings, run.tasks, run.model)
    again = list(read_samples(folder))
    assert len(again) == len(run.samples)
    assert [s.as_json() for s in again] == [
        json.loads(json.dumps(s.as_json())) for s in run.samples
    ]
    assert again[0] == run.samples[0]
    made = json.loads((folder / "run.json").read_text())
    assert (made["seconds"], made["notes"]) == (1.5, [])
    assert {path.name for path in folder.parent.iterdir()} == {"out"}


def test_the_same_run_gives_the_same_bytes(saved, tmp_path, monkeypatch):
    folder, run = saved
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    save(run, tmp_path / "again", run={"seconds": 77})
    for name in ("results.json", "samples.jsonl", "index.html"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    text = (folder / "results.json").read_text()
    assert not re.search(r"\d\d:\d\d:\d\d|20\d\d-\d\d-\d\d", text), "a time"
    assert str(folder) not in text
    body = json.loads(text)
    assert list(body) == ["version", "model", "settings", "tasks", "numbers", "files", "sha256"]


@given(st.integers(0, 10**9), st.sampled_from(["results.json", "samples.jsonl"]), st.booleans())
@settings(max_examples=40)
def test_a_torn_or_altered_file_is_named(saved, tmp_path_factory, place, name, torn):
    folder = copy(saved[0], tmp_path_factory.mktemp("bad") / "out")
    data = bytearray((folder / name).read_bytes())
    place %= len(data)
    if torn:
        del data[place:]
    else:
        data[place] ^= 1 << (place % 7)
    (folder / name).write_bytes(data)
    with pytest.raises(ArtifactError) as found:
        list(read_samples(folder))
    assert found.value.status == 3
    assert name in str(found.value)
    assert "\n" not in str(found.value)
    if name == "results.json":
        with pytest.raises(ArtifactError, match="altered or is torn"):
            read_results(folder)


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"numbers": [{"task": "x"}]},
        {"numbers": [number().as_json() | {"value": "0.5"}]},
        {"numbers": [number().as_json() | {"n": None}]},
        {"numbers": [number().as_json() | {"higher_is_better": 1.0}]},
        {"numbers": 7},
        {"tasks": {"a": 1}},
        {"tasks": []},
        {"missing": "3"},
    ],
)
def test_sealed_nonsense_is_refused_in_one_line(saved, tmp_path, change):
    folder = copy(saved[0], tmp_path / "out")
    body = json.loads((folder / "results.json").read_text()) | change
    del body["sha256"]
    (folder / "results.json").write_bytes(artifacts.sealed(body))
    with pytest.raises(ArtifactError, match=r"results\.json (holds no results|must be)"):
        read_results(folder)


def test_what_is_not_there_is_said(saved, tmp_path):
    with pytest.raises(ArtifactError, match=r"there are no results in .*absent"):
        read_results(tmp_path / "absent")
    folder = copy(saved[0], tmp_path / "out")
    (folder / "samples.jsonl").unlink()
    with pytest.raises(ArtifactError, match=r"samples\.jsonl cannot be read"):
        next(read_samples(folder))


def test_a_run_that_breaks_off_leaves_the_old_results(saved, tmp_path):
    run = outcome(8)
    folder = tmp_path / "out"
    save(run, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def broken():
        yield from run.samples[:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(dataclasses.replace(run, samples=broken()), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    save(dataclasses.replace(run, samples=iter(run.samples[:5])), folder)
    assert len(list(read_samples(folder))) == 5


def test_other_peoples_files_are_not_replaced(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    run = outcome(8)
    with pytest.raises(UserError, match="holds something else"):
        save(run, tmp_path / "other")
    save(run, tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"also holds notes\.txt"):
        save(run, tmp_path / "out")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is not a folder"):
        save(run, tmp_path / "file")


def small(*numbers, samples=(), **given) -> Outcome:
    return Outcome(list(numbers), list(samples), {}, {}, **given)


def test_a_number_without_a_signature_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"must have a signature, got none for arc_easy\.acc"):
        save(small(number(), number(signature="")), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_infinity_is_none_with_a_note(tmp_path):
    save(small(number(value=math.inf, half=1.0, note="Odd.")), tmp_path / "out")
    (found,) = read_results(tmp_path / "out").numbers
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.note == "Odd. The value is inf."
    json.loads((tmp_path / "out" / "results.json").read_text(), parse_constant=pytest.fail)


def test_a_model_may_be_an_object_and_values_numpys(tmp_path):
    import numpy as np

    class Model:
        name, identity = "dummy", {"seed": "0"}

    values = {"acc": np.float32(0.5), "counts": np.arange(2)}
    sample = Sample("t", "1", {}, (), (), values=values)
    save(small(samples=[sample], model=Model(), missing=4, notes=("slow",)), tmp_path / "out")
    results = read_results(tmp_path / "out")
    assert results.model == {"name": "dummy", "identity": {"seed": "0"}}
    assert results.missing == 4
    (again,) = read_samples(tmp_path / "out")
    assert again.values == {"acc": 0.5, "counts": [0, 1]}
    assert json.loads((tmp_path / "out" / "run.json").read_text())["notes"] == ["slow"]
    assert "not finished: 4 documents" in (tmp_path / "out" / "index.html").read_text()
