"""Artifacts are whole or not there: altered, torn, killed and concurrent saves."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shared import artifacts, files
from shared.artifacts import ArtifactError, load, load_tensors, save, save_tensors, write_atomic
from shared.errors import UserError

CONTENTS = {"config.json": b'{"n": 1}', "weights.bin": bytes(range(256)), "empty": b""}


@pytest.fixture
def target(tmp_path):
    folder = tmp_path / "models" / "tiny"
    save(folder, CONTENTS, metadata={"step": 3, "loss": 0.1})
    return folder


def one_line(error):
    message = str(error.value)
    assert "\n" not in message
    return message


def reseal(folder, **changes):
    """Change the manifest as somebody would who knows its digest."""
    body = json.loads((folder / "MANIFEST.json").read_bytes())
    del body["sha256"]
    (folder / "MANIFEST.json").write_bytes(artifacts.sealed({**body, **changes}))


def test_round_trip(target):
    artifact = load(target)
    assert artifact.files == CONTENTS
    assert artifact.metadata == {"step": 3, "loss": 0.1}
    assert artifact.path == target
    assert os.listdir(target.parent) == ["tiny"]


def test_manifest_says_what_made_it(target):
    body = json.loads((target / "MANIFEST.json").read_bytes())
    assert body["program"].startswith("ml-studies ")
    assert body["argv"] == sys.argv
    assert body["files"]["weights.bin"] == {
        "sha256": hashlib.sha256(bytes(range(256))).hexdigest(),
        "bytes": 256,
    }


names = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)  # each example waits for the disk
@given(
    # Names that differ in case only would be one file on some systems.
    st.dictionaries(names.map(str.lower), st.binary(max_size=50), max_size=4),
    st.dictionaries(st.text(), json_values, max_size=4),
)
def test_round_trip_of_anything(tmp_path_factory, contents, metadata):
    folder = tmp_path_factory.getbasetemp() / "any"
    save(folder, contents, metadata=metadata)
    artifact = load(folder)
    assert artifact.files == contents
    assert artifact.metadata == metadata


def test_save_replaces(target):
    save(target, {"other": b"1"})
    assert load(target).files == {"other": b"1"}
    assert sorted(os.listdir(target)) == ["MANIFEST.json", "other"]
    assert os.listdir(target.parent) == ["tiny"]


@pytest.mark.parametrize("name", CONTENTS)
def test_missing_file(target, name):
    (target / name).unlink()
    with pytest.raises(ArtifactError) as error:
        load(target)
    assert f"{name} is missing" in one_line(error)
    assert str(target) in one_line(error)


@pytest.mark.parametrize("name", [*CONTENTS, "MANIFEST.json"])
def test_appended_byte(target, name):
    with (target / name).open("ab") as stream:
        stream.write(b" ")
    with pytest.raises(ArtifactError, match=f"{name} was altered or is torn"):
        load(target)


@pytest.mark.parametrize("name", ["config.json", "weights.bin", "MANIFEST.json"])
def test_every_torn_length_and_flipped_byte_is_found(target, name):
    data = (target / name).read_bytes()
    torn = [data[:n] for n in range(0, len(data), 7)]
    flipped = [data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :] for i in range(0, len(data), 7)]
    for wrong in torn + flipped:
        (target / name).write_bytes(wrong)
        with pytest.raises(ArtifactError) as error:
            load(target)
        assert name in one_line(error)
    (target / name).write_bytes(data)
    assert load(target).files == CONTENTS


def test_extra_file(target):
    (target / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"notes\.txt does not belong to it"):
        load(target)


def test_extra_folder(target):
    (target / "more").mkdir()
    with pytest.raises(ArtifactError, match="more is not a regular file"):
        load(target)


def test_link_is_refused(target, tmp_path):
    outside = tmp_path / "outside"
    shutil.move(target / "weights.bin", outside)
    (target / "weights.bin").symlink_to(outside)
    with pytest.raises(ArtifactError, match=r"weights\.bin is not a regular file"):
        load(target)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", "", "a\\b", ".hidden"])
def test_manifest_cannot_name_a_file_elsewhere(target, name):
    (target.parent / "secret").write_bytes(b"s")
    reseal(target, files={name: artifacts._facts(b"s")})
    with pytest.raises(ArtifactError) as error:
        load(target)
    assert "which is not a plain file name" in one_line(error)


@pytest.mark.parametrize("body", [[], 3, None, {}, {"sha256": 1}])
def test_manifest_of_another_form(target, body):
    (target / "MANIFEST.json").write_text(json.dumps(body), encoding="utf-8")
    with pytest.raises(ArtifactError, match=r"MANIFEST\.json was altered or is torn"):
        load(target)


def test_sealed_manifest_of_another_form(target):
    reseal(target, files=[1, 2])
    with pytest.raises(ArtifactError, match=r"MANIFEST\.json was altered or is torn"):
        load(target)


def test_nothing_there(tmp_path):
    for path in (tmp_path / "none", tmp_path / "no" / "where"):
        with pytest.raises(ArtifactError, match="there is no artifact at"):
            load(path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ArtifactError) as error:
        load(tmp_path / "file")
    assert "cannot be read" in one_line(error)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".x", "MANIFEST.json", "a b", "x\0"])
def test_names_that_cannot_be_saved(tmp_path, name):
    with pytest.raises(ValueError, match="contents must have plain file names, got"):
        save(tmp_path / "a", {name: b""})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("metadata", [{"x": float("nan")}, {"x": object()}])
def test_metadata_that_cannot_be_saved(tmp_path, metadata):
    with pytest.raises(ValueError, match="metadata must be what JSON can hold"):
        save(tmp_path / "a", {}, metadata=metadata)
    assert os.listdir(tmp_path) == []


def test_what_is_not_an_artifact_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(ArtifactError, match="not replaced"):
        save(tmp_path, CONTENTS)
    with pytest.raises(ArtifactError, match="is not a folder"):
        save(tmp_path / "thesis.txt", CONTENTS)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError) as error:
        save(tmp_path / "file" / "a", CONTENTS)
    assert "cannot be saved" in one_line(error)


@pytest.mark.parametrize("step", ["write_synced", "sync_folder", "first rename", "second rename"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failing_save_keeps_the_old_one(target, monkeypatch, step, error):
    calls = []
    rename = os.rename

    def fail(*args):
        raise error

    def fail_at_second(*args):
        calls.append(args)
        return fail() if len(calls) == 2 else rename(*args)

    if step.endswith("rename"):
        monkeypatch.setattr(os, "rename", fail if step == "first rename" else fail_at_second)
    else:
        monkeypatch.setattr(artifacts, step, fail)
    with pytest.raises(UserError if isinstance(error, OSError) else KeyboardInterrupt):
        save(target, {"new": b"new"})
    monkeypatch.undo()
    assert load(target).files == CONTENTS
    assert os.listdir(target.parent) == ["tiny"]


def test_crash_between_the_two_renames(target):
    previous = target.with_name(".tiny.previous")
    target.rename(previous)
    assert load(target).files == CONTENTS
    save(target, {"new": b"new"})
    assert load(target).files == {"new": b"new"}
    assert os.listdir(target.parent) == ["tiny"]


def test_leavings_of_a_crash_are_cleared(target):
    shutil.copytree(target, target.with_name(".tiny.previous"))
    target.with_name(".tiny.saving").mkdir()
    (target.with_name(".tiny.saving") / "torn").write_bytes(b"x")
    save(target, {"new": b"new"})
    assert load(target).files == {"new": b"new"}
    assert os.listdir(target.parent) == ["tiny"]


def test_everything_is_synced_before_the_rename(target, monkeypatch):
    events = []
    fsync, rename = os.fsync, os.rename

    def logged_fsync(descriptor):
        events.append(("sync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def logged_rename(a, b):
        inodes = {path.stat().st_ino for path in (a, *a.iterdir())}
        events.append(("rename", inodes))
        rename(a, b)

    monkeypatch.setattr(os, "fsync", logged_fsync)
    monkeypatch.setattr(os, "rename", logged_rename)
    save(target, CONTENTS)
    kinds = [kind for kind, _ in events]
    assert kinds[-3:] == ["rename", "rename", "sync"]
    synced = {inode for kind, inode in events[:-3] if kind == "sync"}
    assert events[-2][1] <= synced
    assert events[-1][1] == target.parent.stat().st_ino


WRITER = """
import sys
from pathlib import Path
from shared.artifacts import save
target = Path(sys.argv[1])
print("ready", flush=True)
n = 0
while True:
    n += 1
    save(target, {f"part{i}": str(n).encode() * 1000 for i in range(5)}, metadata={"n": n})
"""


def consistent(artifact):
    """Whether all of an artifact comes from one save."""
    n = artifact.metadata["n"]
    return artifact.files == {f"part{i}": str(n).encode() * 1000 for i in range(5)}


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_killed_at_any_moment_the_old_or_the_new_one_loads(tmp_path):
    target = tmp_path / "artifact"
    save(target, {f"part{i}": b"0" * 1000 for i in range(5)}, metadata={"n": 0})
    waits = random.Random(0)
    progress, window, lives = 0, 0.06, 0
    while lives < 10 or (not progress and lives < 20):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE
        ) as process:
            process.stdout.readline()
            time.sleep(waits.uniform(0.0, window))
            process.send_signal(signal.SIGKILL)
        artifact = load(target)
        assert consistent(artifact)
        progress, lives = progress + artifact.metadata["n"], lives + 1
        window *= 1 if progress else 1.5  # where a save takes longer than a life
    assert progress > 0
    save(target, CONTENTS)
    assert load(target).files == CONTENTS
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_concurrent_saves_and_loads(tmp_path):
    target = tmp_path / "artifact"
    save(target, {f"part{i}": b"0" * 1000 for i in range(5)}, metadata={"n": 0})
    problems, stop = [], threading.Event()

    def attempt(action):
        try:
            action()
        except BaseException as error:
            problems.append(error)

    def write(start):
        for n in range(start, start + 15):
            save(target, {f"part{i}": str(n).encode() * 1000 for i in range(5)}, metadata={"n": n})

    def read():
        while not stop.is_set():
            assert consistent(load(target))

    readers = [threading.Thread(target=attempt, args=[read]) for _ in range(2)]
    writers = [
        threading.Thread(target=attempt, args=[lambda s=s: write(s)]) for s in (100, 200, 300)
    ]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert problems == []
    assert load(target).metadata["n"] in (114, 214, 314)
    assert os.listdir(tmp_path) == ["artifact"]


@settings(max_examples=30, deadline=None)  # each example waits for the disk
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5).filter(lambda s: s != "__metadata__"),
        hnp.arrays(
            st.sampled_from([np.float32, np.float64, np.int64, np.uint8, np.bool_, np.float16]),
            hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        ),
        max_size=3,
    )
)
def test_arrays_round_trip(tmp_path_factory, arrays):
    folder = tmp_path_factory.getbasetemp() / "arrays"
    save_tensors(folder, arrays, metadata={"k": 1})
    loaded, artifact = load_tensors(folder)
    assert artifact.metadata == {"k": 1}
    assert loaded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array, strict=True)


def test_arrays_that_are_views(tmp_path):
    grid = np.arange(12.0).reshape(3, 4)
    arrays = {"t": grid.T, "step": grid[:, ::2], "back": grid[::-1], "scalar": np.array(2.0)}
    save_tensors(tmp_path / "a", arrays)
    loaded, _ = load_tensors(tmp_path / "a")
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array, strict=True)


def test_torch_tensors_round_trip(tmp_path):
    import torch

    weight = torch.arange(12.0).reshape(3, 4).requires_grad_()
    tensors = {
        "embedding": weight,
        "head": weight,  # tied
        "transposed": weight.T,
        "row": weight[1],
        "half": torch.ones(2, dtype=torch.bfloat16),
        "scalar": torch.tensor(3),
    }
    save_tensors(tmp_path / "a", tensors, files={"config.json": b"{}"})
    loaded, artifact = load_tensors(tmp_path / "a")
    assert artifact.files["config.json"] == b"{}"
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(loaded[name], tensor.detach(), rtol=0, atol=0)
        assert loaded[name].dtype == tensor.dtype


def test_tensors_of_two_kinds(tmp_path):
    import torch

    with pytest.raises(
        TypeError, match="all NumPy arrays or all torch tensors, got ndarray for 'b'"
    ):
        save_tensors(tmp_path / "a", {"a": torch.ones(1), "b": np.ones(1)})
    with pytest.raises(TypeError, match="got list for 'a'"):
        save_tensors(tmp_path / "a", {"a": [1.0]})
    with pytest.raises(TypeError, match="dtypes that can be stored"):
        save_tensors(tmp_path / "a", {"a": np.array(["text"])})
    assert os.listdir(tmp_path) == []


def test_artifact_without_tensors(target):
    with pytest.raises(ArtifactError, match=r"holds no tensors: tensors\.safetensors is missing"):
        load_tensors(target)


def test_write_atomic(tmp_path):
    path = tmp_path / "x.txt"
    write_atomic(path, "é\r\n")
    assert path.read_bytes() == "é\r\n".encode()
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_write_atomic_says_what_it_cannot_write(tmp_path):
    with pytest.raises(UserError) as error:
        write_atomic(tmp_path / "none" / "x", "")
    assert "cannot be written" in one_line(error)


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, OSError])
def test_write_atomic_interrupted(tmp_path, monkeypatch, step, kind):
    path = tmp_path / "x.txt"
    path.write_bytes(b"old")

    def fail(*args):
        raise kind

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(UserError if kind is OSError else kind):
        write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_write_atomic_syncs_before_it_replaces(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: events.append("sync") or fsync(fd))
    monkeypatch.setattr(os, "replace", lambda a, b: events.append("replace") or replace(a, b))
    files.write_atomic(tmp_path / "x", b"x")
    assert events == ["sync", "replace", "sync"]
