"""Every script runs, checks itself against something else, and still gives its record."""

import functools
import importlib
import importlib.util
import os
import sys

import matplotlib.image
import pytest

from shared import fingerprint, log, records
from shared.study import execute

SCRIPTS = log.all_scripts()
NAMES = [records.key_of(script) for script in SCRIPTS]
SIZE_LIMIT = 150_000


def load(script):
    """The module of a script: a week's by its import name, a paper's from its file."""
    if script.parent.parent.name == "weeks":
        return importlib.import_module(f"week{script.parent.name}.evidence.{script.stem}")
    name = f"paper_{script.parent.name.replace('-', '_')}"
    spec = importlib.util.spec_from_file_location(name, script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_quick_run_passes_and_gives_the_recorded_fingerprint(script, tmp_path):
    run = execute(load(script).main, mode="quick", threads=1, out=tmp_path, quiet=True)
    assert run.claims, "nothing is claimed"
    assert run.passed, records.problems(run.record())
    recorded = records.load(records.record_of(script))
    found = fingerprint.compare(fingerprint.of(run), recorded["fingerprint"])
    if found and found[0].startswith("other data"):
        pytest.skip(f"{found[0]}: this Python's texts differ from the recorded ones")
    if found and found[0].startswith("no data") and "ML_STUDIES_DATA" not in os.environ:
        pytest.skip(f"{found[0]}: `uv run study fetch` downloads what the record was made with")
    assert found == []


@functools.cache
def record_of(script):
    return records.load(records.record_of(script))


@pytest.mark.parametrize("script", SCRIPTS, ids=NAMES)
def test_record_is_complete_and_passing(script):
    record = record_of(script)
    assert records.problems(record) == []
    assert record["script"] == records.key_of(script)
    assert record["mode"] in ("default", "full")
    assert record["code"] == records.digest_of(script), "the code changed after the record"
    if record["mode"] == "default":
        assert record.get("reference_seconds", record["seconds"]) < 90
    for figure in record["figures"]:
        path = records.results_of(script) / figure["file"]
        assert path.stat().st_size <= SIZE_LIMIT
        assert matplotlib.image.imread(path).std() > 0.01, f"{path.name} is blank"


def test_no_result_without_a_record():
    known = set()
    for script in SCRIPTS:
        known.add(records.record_of(script))
        known |= {records.results_of(script) / f["file"] for f in record_of(script)["figures"]}
    folders = ("weeks", "papers")
    found = {path for name in folders for path in records.ROOT.glob(f"{name}/*/results/*")}
    assert found == known
