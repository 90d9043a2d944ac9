"""Killed at any moment the same command ends with the same bytes; what was altered is named."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_llama import tiny_folder

from compress import cli, making
from compress.artifact.folder import load
from compress.options import Making
from compress.pipeline.journal import Journal
from compress.pipeline.recipe import recipe_from
from shared.artifacts import ArtifactError

STEPS = [
    {"prune": {"method": "sparsegpt", "pattern": "2:4"}},
    {"recover": {"steps": 3, "batch_size": 2}},
    {
        "quantize": {
            "method": "awq",
            "bits": 4,
            "group_size": 16,
            "embedding_bits": 4,
            "embedding_method": "gptq",
        }
    },
]
CHOSEN = {"calib": "pydocs", "n_calib": 4, "seqlen": 16, "threads": 1}

# One process imports everything and forks those that compress, before it has any thread.
WORKER = """
import json, os, random, shutil, signal, sys, time, traceback
from pathlib import Path

import torch

torch.set_num_threads(1)
from compress.making import make
from compress.options import Making
from compress.pipeline.recipe import recipe_from

folder, steps, chosen = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])


def forked(out):
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        make(str(folder / "model"), recipe_from(steps), folder / out, Making(**chosen))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def entries():
    return sum(1 for _ in folder.glob(".killed.*.journal/*.entry"))


def code(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


start = time.monotonic()
assert code(forked("unbroken")) == 0
long = time.monotonic() - start
generator, kills, seen, window = random.Random(1), 0, [0], long / 2
while True:
    child = forked("killed")
    if kills < 24:
        time.sleep(generator.uniform(0.2, 1.0) * window)
        os.kill(child, signal.SIGKILL)
    status = code(child)
    if status == 0 and kills >= 24:
        break
    if status == 0:  # it was faster than its killer: once more from the beginning
        shutil.rmtree(folder / "killed")
        window /= 2
        continue
    assert status == -signal.SIGKILL, status
    kills += 1
    seen.append(entries())
    window *= 1.3 if seen[-1] == seen[-2] else 0.9
print(json.dumps({"kills": kills, "seen": seen}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crash")
    tiny_folder(folder / "model")
    return folder


@pytest.fixture(scope="module")
def lives(folder):
    """What the worker found."""
    (folder / "worker.py").write_text(WORKER)
    steps = [STEPS[0], STEPS[2]]  # a step of training is short, and is begun anew
    words = [sys.executable, "worker.py", str(folder), json.dumps(steps), json.dumps(CHOSEN)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=900, cwd=folder, env=environment
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def digests(out: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(out.iterdir())}


def test_killed_at_random_moments_it_ends_with_the_same_bytes(lives, folder):
    assert lives["kills"] >= 20
    assert len(set(lives["seen"])) >= 5  # killed at many stages
    assert digests(folder / "killed") == digests(folder / "unbroken")
    left = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert not left  # no journal, nothing half written


def make(folder, out, steps=STEPS):
    return making.make(str(folder / "model"), recipe_from(steps), out, Making(**CHOSEN))


@pytest.fixture(scope="module")
def straight(folder):
    """What a run gives that nothing disturbs."""
    make(folder, folder / "straight")
    return folder / "straight"


class Stop(BaseException):
    """As if it had been killed."""


def broken_off(folder, out, monkeypatch, after, steps=STEPS):
    """A run that ends when so many entries have been written; its journal's folder."""
    put, n = Journal.put, [0]

    def counted(self, *args):
        put(self, *args)
        n[0] += 1
        if n[0] == after:
            raise Stop

    monkeypatch.setattr(Journal, "put", counted)
    with pytest.raises(Stop):
        make(folder, out, steps)
    monkeypatch.setattr(Journal, "put", put)
    (journal,) = out.parent.glob(f".{out.name}.*.journal")
    assert len(list(journal.iterdir())) == after
    return journal


def test_what_is_done_is_not_done_again(folder, tmp_path, monkeypatch, straight):
    out = tmp_path / "straight"
    broken_off(folder, out, monkeypatch, 12)
    from compress.pipeline import passes

    compressed, real = [], passes.compress_matrix

    def spy(w, *args, **options):
        compressed.append(w.shape)
        return real(w, *args, **options)

    monkeypatch.setattr(passes, "compress_matrix", spy)
    make(folder, out)
    assert len(compressed) == 2 * 14 - 12
    assert sizes_and_tensors(out) == sizes_and_tensors(straight)


def sizes_and_tensors(out):
    return {name: d for name, d in digests(out).items() if name != "MANIFEST.json"}


TRAINING = [STEPS[0], {"recover": {"steps": 7, "batch_size": 2}}]


def killed_at(step, folder, out, monkeypatch, steps=TRAINING):
    """A run that is killed when its loss is computed for this step; how many steps it had made."""
    from compress.recovery import distilling

    real, n = distilling.soft_loss, [0]

    def counted(*args, **options):
        n[0] += 1  # the first is the loss before
        if step is not None and n[0] == step + 1:
            raise Stop
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(distilling, "soft_loss", counted)
        if step is None:
            make(folder, out, steps)
        else:
            with pytest.raises(Stop):
                make(folder, out, steps)
    return n[0] - 2


@pytest.mark.parametrize("method", ["full", "lora"])
def test_training_that_was_killed_goes_on(method, folder, tmp_path, monkeypatch):
    from compress.recovery import resuming

    monkeypatch.setattr(resuming, "EVERY", 2)
    steps = [TRAINING[0], {"recover": TRAINING[1]["recover"] | {"method": method, "r": 2}}]
    make(folder, tmp_path / "straight", steps)
    out = tmp_path / "out"
    killed_at(6, folder, out, monkeypatch, steps)  # after 5: 4 are kept
    assert killed_at(3, folder, out, monkeypatch, steps) == 2  # after 6
    (journal,) = tmp_path.glob(".out.*.journal")
    assert {entry.name.split(".")[2] for entry in journal.glob("1.recover.*")} == {"6"}
    assert killed_at(None, folder, out, monkeypatch, steps) == 1
    assert sizes_and_tensors(out) == sizes_and_tensors(tmp_path / "straight")
    assert not list(tmp_path.glob(".*"))


def test_a_step_that_was_half_kept_is_made_again(folder, tmp_path, monkeypatch):
    from compress.recovery import resuming

    monkeypatch.setattr(resuming, "EVERY", 3)
    make(folder, tmp_path / "straight", TRAINING)
    out = tmp_path / "out"
    broken_off(folder, out, monkeypatch, 14 + 3 + 2, TRAINING)  # of step 6 two of three parts
    assert killed_at(None, folder, out, monkeypatch) == 4
    assert sizes_and_tensors(out) == sizes_and_tensors(tmp_path / "straight")


@pytest.mark.parametrize("damage", ["flipped", "truncated", "empty"])
def test_an_altered_entry_is_not_believed(damage, folder, tmp_path, monkeypatch, straight):
    out = tmp_path / "straight"
    journal = broken_off(folder, out, monkeypatch, 9)
    for entry in list(journal.iterdir())[:4]:
        entry.write_bytes(DAMAGE[damage](entry.read_bytes()))
    make(folder, out)
    assert sizes_and_tensors(out) == sizes_and_tensors(straight)


def test_another_run_does_not_take_its_entries(folder, tmp_path, monkeypatch, straight):
    out = tmp_path / "straight"
    broken_off(folder, out, monkeypatch, 9)
    other = [{"prune": {"method": "sparsegpt", "pattern": "4:8"}}, *STEPS[1:]]
    make(folder, out, other)
    assert sizes_and_tensors(out) != sizes_and_tensors(straight)
    make(folder, tmp_path / "b", other)
    assert sizes_and_tensors(out) == sizes_and_tensors(tmp_path / "b")


def test_what_stands_already_is_not_made_again(folder, monkeypatch, straight):
    monkeypatch.setattr(making, "compress", None)
    assert len(make(folder, straight)["layers"]) == 29


# ---- damage


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGE = {"flipped": flipped, "truncated": lambda data: data[: len(data) // 2]}
DAMAGE |= {"empty": lambda data: b"", "longer": lambda data: data + b"\0", "removed": None}
FILES = ["MANIFEST.json", "config.json", "tensors.safetensors", "tokenizer.json"]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_an_altered_file_is_named_and_nothing_is_loaded(name, damage, straight, tmp_path, capsys):
    out, change = tmp_path / "a", DAMAGE[damage]
    shutil.copytree(straight, out)
    path = out / name
    path.write_bytes(change(path.read_bytes())) if change else path.unlink()
    with pytest.raises(ArtifactError, match=name):
        load(out)
    for words in (["verify", out], ["inspect", f"compress:{out}"]):
        assert cli.main([str(word) for word in words]) == 3
        complaint = capsys.readouterr().err
        assert complaint.startswith("compress: error: ")
        assert name in complaint
        assert complaint.count("\n") == 1


def resealed(out: Path, change) -> None:
    """The folder with other metadata under a seal that is right."""
    from shared import artifacts

    artifact = artifacts.load(out)
    change(artifact.metadata)
    artifacts.save(out, artifact.files, metadata=artifact.metadata)


def deeper(metadata, key, value):
    metadata["layers"]["blocks.0.q_proj"][key] = value


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda m: m.update(format="compression 9"), "is no compressed model of 'compression 1'"),
        (lambda m: m.update(tokenizer="gguf"), "holds another model than it says"),
        (lambda m: m["layers"].pop("blocks.0.q_proj"), "holds another model than it says"),
        (lambda m: deeper(m, "bits", 3), "holds another model than it says"),
        (lambda m: deeper(m, "shape", [16, 64]), "holds another model than it says"),
        (lambda m: deeper(m, "n_pruned", 3), "holds another model than it says"),
        (lambda m: deeper(m, "group_size", 7), "holds another model than it says"),
        (lambda m: m["records"][-1].update(n_pruned=1), "its record says 1"),
    ],
)
def test_a_folder_that_contradicts_itself_is_refused(change, line, straight, tmp_path, capsys):
    out = tmp_path / "a"
    shutil.copytree(straight, out)
    resealed(out, change)
    assert cli.main(["verify", str(out)]) == 3
    complaint = capsys.readouterr().err
    assert line in complaint
    assert complaint.count("\n") == 1


def test_something_else_is_not_replaced(folder, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    words = ["quantize", str(folder / "model"), "-o", str(tmp_path / "mine"), "--method", "rtn"]
    assert cli.main(words) == 3
    assert "holds something else" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").exists()
