"""The quick run vouches for a record: a change in imported code that moves a number is seen."""

import pytest
from tiny_project import main_of, make_project

from shared import calibration, fingerprint, records
from shared.study import execute


@pytest.fixture
def norm(tmp_path, monkeypatch):
    """A script whose idea imports another module, recorded."""
    root = make_project(tmp_path, monkeypatch)
    monkeypatch.setattr(calibration, "calibrate", lambda: 1.0)
    script = root / "weeks" / "01" / "norm.py"
    helper = root / "imports" / "helper_of_norm.py"
    helper.write_text("SCALE = 1.0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(root / "imports")
    text = script.read_text(encoding="utf-8").replace(
        "import numpy as np", "import helper_of_norm as h\nimport numpy as np"
    )
    script.write_text(text.replace("(x * x).sum()", "(x * x).sum() * h.SCALE"), encoding="utf-8")
    execute(main_of(script), record=True, quiet=True)
    return script, helper


def quick(script, tmp_path):
    run = execute(main_of(script), mode="quick", threads=1, out=tmp_path / "quick", quiet=True)
    return fingerprint.of(run)


def test_imported_code_that_changes_a_number_is_seen(norm, tmp_path, monkeypatch):
    script, _ = norm
    recorded = records.load(records.record_of(script))
    assert recorded["code"] == records.digest_of(script)
    assert fingerprint.compare(quick(script, tmp_path), recorded["fingerprint"]) == []
    monkeypatch.setattr("helper_of_norm.SCALE", 1.0 + 1e-5)
    assert fingerprint.compare(quick(script, tmp_path), recorded["fingerprint"]) == []
    monkeypatch.setattr("helper_of_norm.SCALE", 1.01)
    found = fingerprint.compare(quick(script, tmp_path), recorded["fingerprint"])
    assert [line.split(":")[0] for line in found] == ["metric length", "claim it is positive"]
    assert recorded["code"] == records.digest_of(script), "the digest does not see it"


PRINT = {
    "tolerance": 0.01,
    "why": "",
    "data": {"digits": "sha256:1"},
    "values": {"metric loss": 2.0, "claim gain": 1.0},
    "slack": {"claim gain": 0.1},
    "verdicts": {"gain": "holds"},
}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({}, []),
        ({"values": {"metric loss": 2.01, "claim gain": 1.05}}, []),
        ({"values": {"metric loss": 2.03, "claim gain": 1.0}}, ["metric loss: 2.03, recorded 2"]),
        ({"values": {"metric loss": 2.0, "claim gain": 1.2}}, ["claim gain: 1.2, recorded 1"]),
        ({"values": {"metric loss": 2.0}}, ["claim gain is gone"]),
        ({"values": PRINT["values"] | {"x": 1}}, ["x is new"]),
        ({"verdicts": {"gain": "fails"}}, ["claim gain: fails, recorded holds"]),
        ({"data": {"digits": "sha256:2"}}, ["other data: digits"]),
        ({"data": {}}, ["no data: digits"]),
    ],
)
def test_compare(change, found):
    lines = fingerprint.compare(PRINT | change, PRINT)
    assert [line.split(" (±")[0] for line in lines] == found
