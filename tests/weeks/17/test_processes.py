"""Processes: they meet, and whatever one of them does, the others end in time, with one line."""

import os
import subprocess
import sys
import time

import pytest
import torch
from enforce import ROOT

from shared.errors import UserError
from week17.evidence.processes import FAULTS
from week17.evidence.processes_worker import fault, nothing, stall
from week17.processes import launch, meet


@pytest.mark.parametrize("size", [1, 3])
def test_all_meet_and_answer_by_rank(size):
    answers = launch(meet, size, timeout=120)
    assert [int(a["rank"]) for a in answers] == list(range(size))
    assert all(torch.equal(a["all"], torch.arange(size)) for a in answers)


def test_an_answer_may_be_empty():
    assert launch(nothing, 2, timeout=120) == [{}, {}]


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_ends_all_and_names_who(kind, tmp_path):
    clock = tmp_path / "clock"
    for timeout in (8.0, 24.0, 72.0):  # on a machine that stops, others are silent too
        with pytest.raises(UserError) as caught:
            launch(fault, 3, kind, str(clock), timeout=timeout)
        assert "\n" not in str(caught.value)
        assert time.time() - float(clock.read_text()) < timeout + 60
        assert not torch.multiprocessing.active_children()
        if str(caught.value).startswith(FAULTS[kind]):
            break
    assert str(caught.value).startswith(FAULTS[kind])


def test_all_may_stall(tmp_path):
    for timeout in (2.0, 8.0, 32.0):
        with pytest.raises(UserError) as caught:
            launch(stall, 2, str(tmp_path), timeout=timeout)
        if str(caught.value).startswith("no answer"):
            break
    assert str(caught.value).startswith(f"no answer from processes 0, 1 of 2 within {timeout:g} s")
    since = max(path.stat().st_mtime for path in tmp_path.iterdir())
    assert time.time() - since < timeout + 40


def test_an_exception_keeps_its_words():
    with pytest.raises(UserError, match="process 1 of 3 raised ValueError: no such token: 99"):
        launch(fault, 3, "raises", timeout=60.0)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody has waited for is dead."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not os.path.exists("/proc"), reason="looks processes up in /proc")
def test_no_orphan_when_the_parent_is_killed(tmp_path):
    lines = ["import sys", "from week17.evidence.processes_worker import stall"]
    lines += ["from week17.processes import launch", "if __name__ == '__main__':"]
    lines += ["    launch(stall, 2, sys.argv[1], timeout=100)", ""]
    script, folder = tmp_path / "parent.py", tmp_path / "pids"
    folder.mkdir()
    script.write_text("\n".join(lines))
    parent = subprocess.Popen([sys.executable, str(script), str(folder)], cwd=ROOT)
    try:
        deadline = time.monotonic() + 400
        texts = []
        while len([t for t in texts if t]) < 2 and time.monotonic() < deadline:
            time.sleep(0.2)
            texts = [path.read_text() for path in folder.iterdir()]
        pids = [int(text) for text in texts]
        assert len(pids) == 2
    finally:
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 60
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(alive, pids))


@pytest.mark.parametrize(
    ("size", "timeout", "message"),
    [
        (0, 1.0, "size must be at least 1, got 0"),
        (2, 0.0, "timeout must be positive, got 0.0"),
    ],
)
def test_bad_input_is_named(size, timeout, message):
    with pytest.raises(ValueError, match=message):
        launch(meet, size, timeout=timeout)
