"""Killed at any moment, or damaged on the disk, a run loses nothing that was saved."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from shared.artifacts import ArtifactError
from tiny_gpt import cli
from tiny_gpt.data.prepare import prepare
from tiny_gpt.data.shards import open_data
from tiny_gpt.settings import Settings
from tiny_gpt.training import checkpoints, train
from tiny_gpt.training.checkpoints import load_checkpoint

SIZES = {"n_layers": 1, "n_heads": 1, "d_model": 8, "context": 8, "batch_size": 2, "steps": 160}
PLAIN = {"dtype": "fp32", "device": "cpu", "compile": "off", "samples": 0, "threads": 1}
SMALL = Settings(**SIZES, **PLAIN, eval_every=20, save_every=3)

# One process imports everything and forks those that train, before it has any thread.
WORKER = """
import json, os, random, shutil, signal, sys, time, traceback
from dataclasses import replace
from pathlib import Path

import torch

torch.set_num_threads(1)
from tiny_gpt.training import checkpoints
from tiny_gpt import cli
from tiny_gpt.training import train
from tiny_gpt.settings import Settings
from tiny_gpt.data.shards import open_data
from tiny_gpt.report.verify import verify
from shared.errors import UserError

signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
folder, settings = Path(sys.argv[1]), Settings.from_toml(Path(sys.argv[2]).read_text())
data = open_data(folder / "data")


def forked(action):
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = action()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def slowly(step, loss, speed):
    time.sleep(0.001)


def life(run):
    train.train(data, replace(settings, out=run), train.Listener(step=slowly))
    return 0


def code(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


assert code(forked(lambda: life(folder / "straight"))) == 0

# SIGKILL after SIGKILL
generator, kills, run, window = random.Random(1), 0, folder / "killed", 0.1
runs = [[0]]  # the steps that each run had saved when it was killed
while True:
    child, saved = forked(lambda: life(run)), runs[-1]
    if kills < 15 or (kills < 22 and len(runs) < 10):
        time.sleep(generator.uniform(0.2, 1.0) * window)
        os.kill(child, signal.SIGKILL)
    status = code(child)
    if status == 0 and kills >= 15:
        break
    if status == 0:  # it was faster than its killer: once more from the beginning
        shutil.rmtree(run)
        runs.append([0])
        window /= 2
        continue
    assert status == -signal.SIGKILL, status
    kills += 1
    # Once there was a checkpoint there always is one that loads, and none is lost.
    try:
        step = checkpoints.load_checkpoint(checkpoints.find_checkpoint(run, last=True)).step
        wrong = [str(finding) for finding in verify(run) if finding.fatal]
        assert not wrong, wrong
    except UserError:
        step = 0
    # Lives are short, but not so short that none gets anywhere on a busy machine; one that came
    # far is followed by much shorter ones, so that the run does not end before it was killed often.
    gained = step - saved[-1]
    window *= 1.3 if not gained else 0.9 if gained <= 6 else 0.6
    saved.append(step)

# SIGTERM and Ctrl-C through the command line
codes, stopped = [], {}
for number in (signal.SIGTERM, signal.SIGINT):
    run = folder / signal.Signals(number).name
    words = ["train", "--config", sys.argv[2], "--data", str(folder / "data"), "--out", str(run)]
    for _ in range(9):
        child = forked(lambda: cli.main(words))
        while not checkpoints.steps_saved(run):
            time.sleep(0.002)
        os.kill(child, number)
        status = code(child)
        if status != 0:
            break
        shutil.rmtree(run)  # it was faster than the signal
    codes.append(status)
    stopped[run.name] = checkpoints.steps_saved(run)[-1]
    codes.append(code(forked(lambda: cli.main(words))))
print(json.dumps({"kills": kills, "runs": runs, "codes": codes, "stopped": stopped}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crash")
    (folder / "text.txt").write_text("the cat sat on the mat and saw a dog. " * 600)
    prepare(folder / "text.txt", folder / "data", tokenizer="char", split="tail", workers=1)
    return folder


@pytest.fixture(scope="module")
def lives(folder):
    """What the worker found, and the folder of its runs."""
    (folder / "settings.toml").write_text(SMALL.to_toml().replace('"runs/tiny_gpt"', '"unused"'))
    (folder / "worker.py").write_text(WORKER)
    words = [sys.executable, "worker.py", str(folder), str(folder / "settings.toml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=900, cwd=folder, env=environment
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "complaints": done.stderr}


def digests(run: Path) -> dict[str, str]:
    files = [run / "log.jsonl"]
    for part in (checkpoints.folder_of(run, SMALL.steps), run / "best"):
        files += [part / name for name in ("tensors.safetensors", "state.json", "tokenizer.json")]
    return {str(f.relative_to(run)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_killed_at_random_moments(lives, folder):
    assert lives["kills"] >= 15  # 22 unless single lives came far
    assert lives["runs"] == [sorted(saved) for saved in lives["runs"]]  # nothing saved is ever lost
    assert len({step for saved in lives["runs"] for step in saved}) >= 5
    assert digests(folder / "killed") == digests(folder / "straight")
    left = [path.name for path in (folder / "killed" / "checkpoints").iterdir()]
    assert sorted(left) == ["step-00000159", "step-00000160"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signals_save_and_exit_75(name, lives, folder):
    assert lives["codes"] == [75, 0, 75, 0], lives["complaints"]
    assert 0 < lives["stopped"][name] < SMALL.steps
    assert digests(folder / name) == digests(folder / "straight")


# ---- damage


@pytest.fixture(scope="module")
def finished(folder):
    run = folder / "finished"
    settings = replace(SMALL, data=str(folder / "data"), out=run, steps=6, eval_every=0)
    train.train(open_data(folder / "data"), settings)
    return run, settings


FILES = ["MANIFEST.json", "config.json", "state.json", "tensors.safetensors", "tokenizer.json"]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


DAMAGE = {"truncated": lambda data: data[: len(data) // 2], "empty": lambda data: b""}
DAMAGE |= {"flipped": flipped, "longer": lambda data: data + b"\0", "removed": None}


def damage_file(path, damage):
    change = DAMAGE[damage]
    path.write_bytes(change(path.read_bytes())) if change else path.unlink()


def complains(text, name, good):
    assert name in text
    assert str(good) in text
    assert "\n" not in text


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_damage_is_named_and_the_last_good_checkpoint_offered(name, damage, finished, tmp_path):
    run, settings = tmp_path / "run", replace(finished[1], out=tmp_path / "run")
    shutil.copytree(finished[0], run)
    folder, good = checkpoints.folder_of(run, 6), checkpoints.folder_of(run, 3)
    damage_file(folder / name, damage)
    for action in (lambda: load_checkpoint(folder), lambda: train.train(data_of(run), settings)):
        with pytest.raises(ArtifactError) as error:
            action()
        complains(str(error.value), name, good)
    assert f"remove {folder} to go on from there" in str(error.value)


@pytest.mark.parametrize(
    ("name", "damage"),
    [("state.json", "flipped"), ("tensors.safetensors", "truncated"), ("MANIFEST.json", "removed")],
)
def test_every_command_names_the_damage_and_the_run_goes_on_without(
    name, damage, finished, tmp_path, capsys
):
    run, settings = tmp_path / "run", replace(finished[1], out=tmp_path / "run")
    shutil.copytree(finished[0], run)
    folder, good = checkpoints.folder_of(run, 6), checkpoints.folder_of(run, 3)
    damage_file(folder / name, damage)
    damage_file(run / "best" / name, damage)
    assert cli.main(["eval", str(run)]) == 3
    complains(capsys.readouterr().err.removesuffix("\n"), name, good)
    shutil.rmtree(run / "best")
    again = ["train", "--config", str(run / "settings.toml"), "--out", str(run)]
    for words in (["eval", str(folder)], ["sample", str(folder), "-p", "a"], again):
        assert cli.main(words) == ArtifactError.status == 3
        complaint = capsys.readouterr().err
        assert complaint.startswith("tiny-gpt: error: ")
        complains(complaint.removesuffix("\n"), name, good)
    assert cli.main(["verify", str(run)]) == 3
    assert name in capsys.readouterr().out.replace("\n", "")
    shutil.rmtree(folder)  # as the message says
    assert train.train(data_of(run), settings).finished
    again = load_checkpoint(folder)
    reference = load_checkpoint(checkpoints.folder_of(finished[0], 6))
    assert all(
        (p == q).all()
        for p, q in zip(again.model.parameters(), reference.model.parameters(), strict=True)
    )


def data_of(run):
    return open_data(Path(Settings.of_run(run).data))
