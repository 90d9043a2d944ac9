"""The command line of a script: its exit status, and one clear line for a user's mistake."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time

import cyclopts
import numpy as np
import pytest
from tiny_project import SCRIPT, files_in, main_of, make_project

import week14.evidence.minimal_gpt
import week14.evidence.ngram
from shared import records, registry
from shared.errors import UserError
from shared.study import Run, call, cli, execute

NGRAM = records.ROOT / "weeks" / "14" / "ngram.py"


@pytest.fixture(autouse=True)
def runs(tmp_path, monkeypatch):
    """Nothing is written to the project."""
    monkeypatch.setenv("STUDY_RUNS", str(tmp_path / "runs"))
    monkeypatch.delenv("STUDY_TRACEBACK", raising=False)
    return tmp_path / "runs"


@pytest.fixture
def norm(tmp_path, monkeypatch):
    return make_project(tmp_path, monkeypatch) / "weeks" / "01" / "norm.py"


def status_of(main, *argv):
    with pytest.raises(SystemExit) as exit_:
        cli(main, list(argv))
    return exit_.value.code


def complaint(capsys, main, *argv, status=2):
    """The one line that a mistake is told in."""
    assert status_of(main, *argv) == status
    told = capsys.readouterr().err
    assert told.endswith("\n")
    assert told.count("\n") == 1, told
    assert "Traceback" not in told
    return told.strip()


# ---- exit status


def test_exit_status(norm, capsys):
    main = main_of(norm)
    assert status_of(main) == 0
    assert status_of(main, "--n", "7", "--threads", "1") == 0
    assert "✓" in capsys.readouterr().out
    assert status_of(main, "--wrong") == 1
    captured = capsys.readouterr()
    assert "✗" in captured.out
    assert captured.err == ""


def test_failing_run_is_status_1_also_with_record(norm, capsys):
    assert status_of(main_of(norm), "--wrong", "--record") == 1
    assert "not recorded: a check failed" in capsys.readouterr().out
    assert not (norm.parent / "results").exists()


def test_record(norm):
    assert status_of(main_of(norm), "--record", "--n", "5", "--seed", "3") == 0
    results = norm.parent / "results"
    assert list(files_in(results)) == ["norm.json", "norm_line.png"]
    record = records.load(results / "norm.json")
    assert record["options"] == {"n": 5, "wrong": False}
    assert record["seed"] == 3
    assert record["command"] == "uv run weeks/01/norm.py --n 5 --seed 3"
    assert record["device"] == "cpu"
    assert record["fingerprint"]["values"].keys() == {"metric length", "claim it is positive"}
    assert 0 < record["reference_seconds"] < 60


def test_interrupted_and_unexpected(capsys, monkeypatch):
    def app_that(error):
        app = cyclopts.App(name="thing", result_action="return_value")

        @app.default
        def main():
            raise error

        return app

    assert call(app_that(KeyboardInterrupt()), []) == 130
    assert capsys.readouterr().err == "thing: interrupted; nothing was recorded\n"
    assert call(app_that(UserError("two\nlines")), []) == 2
    assert capsys.readouterr().err == "thing: error: two lines\n"
    assert call(app_that(RuntimeError("a\ndefect")), []) == 1
    said = "thing: error: RuntimeError: a defect (STUDY_TRACEBACK=1 shows where)\n"
    assert capsys.readouterr().err == said
    assert call(app_that(MemoryError()), []) == 1
    assert "thing: error: MemoryError: no reason given" in capsys.readouterr().err
    monkeypatch.setenv("STUDY_TRACEBACK", "1")
    with pytest.raises(RuntimeError):
        call(app_that(RuntimeError("defect")), [])


def test_traceback_on_demand(monkeypatch):
    monkeypatch.setenv("STUDY_TRACEBACK", "1")
    with pytest.raises(UserError, match="unknown text 'nosuch'"):
        cli(week14.evidence.ngram.main, ["--dataset", "nosuch"])


def test_help(norm, capsys):
    assert status_of(main_of(norm), "--help") == 0
    told = capsys.readouterr().out
    for part in (
        "The length of a vector.",
        "How many coordinates.",
        "--seed",
        "--device",
        "--quick",
        "--full",
        "--record",
        "--threads",
        "Smallest size",
    ):
        assert part in told
    assert "--no-quick" not in told


# ---- a user's mistakes


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--nosuch"], "Unknown option: --nosuch"),
        (["--n", "many"], "many"),
        (["--n", "-3"], "Must be >= 1"),
        (["--n", "0"], "Must be >= 1"),
        (["--n", "1.5"], "expected a whole number, got 1.5"),
        (["--n"], "--n"),
        (["extra"], "extra"),
        (["--seed", "-1"], "Must be >= 0"),
        (["--threads", "0"], "Must be >= 1"),
        (["--device", "tpu"], "tpu"),
        (["--quick", "--full"], "--quick and --full exclude each other"),
        (["--quick", "--record"], "--quick and --record exclude each other"),
    ],
)
def test_wrong_options(norm, runs, capsys, argv, said):
    told = complaint(capsys, main_of(norm), *argv)
    assert told.startswith("norm.py: error: ")
    assert said in told
    assert not runs.exists(), "nothing was computed"


def test_device_that_is_not_there(norm, runs, capsys, monkeypatch):
    """Also by a script that never asks for one, and before it works for a minute."""
    import torch

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    told = complaint(capsys, main_of(norm), "--device", "mps")
    assert told.startswith("norm.py: error: --device mps is not on this machine; it has ")
    assert not runs.exists()


def test_unknown_data_set(capsys):
    told = complaint(capsys, week14.evidence.ngram.main, "--dataset", "nosuch")
    assert told.startswith("ngram.py: error: unknown text 'nosuch'; known are names, pydocs")
    told = complaint(capsys, week14.evidence.minimal_gpt.main, "--dataset", "pydoc")
    assert told == "minimal_gpt.py: error: unknown text 'pydoc'; did you mean pydocs?"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "does not exist"),
        (b"", "holds no text"),
        (b" \n", "holds no text"),
        (b"PNG\0\1", "is not a text file: byte 3 is NUL"),
        ("na\xefve".encode("latin-1"), "is not UTF-8 text: byte 2 is 0xef"),
        ("folder", "is a directory"),
        (b"too short", "the text must hold at least 2600 characters for --context 64, got 9"),
    ],
)
def test_text_that_cannot_be_read(tmp_path, capsys, content, said):
    text = tmp_path / "text.txt"
    if content == "folder":
        text.mkdir()
    elif content is not None:
        text.write_bytes(content)
    told = complaint(capsys, week14.evidence.minimal_gpt.main, "--quick", "--text", str(text))
    assert said in told


def test_file_with_a_wrong_digest(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ML_STUDIES_DATA", str(tmp_path))
    file = registry.registry()["tinyshakespeare"].files[0]
    path = tmp_path / file.path
    path.parent.mkdir()
    path.write_text("To be, or not.\n", encoding="utf-8")
    told = complaint(capsys, week14.evidence.ngram.main, "--dataset", "tinyshakespeare")
    digest = hashlib.sha256(b"To be, or not.\n").hexdigest()
    assert f"{path} has the digest sha256:{digest}, expected {file.digest}; delete it" in told


def test_data_folder_that_cannot_be_written(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ML_STUDIES_DATA", str(tmp_path / "file" / "inside"))
    told = complaint(capsys, week14.evidence.ngram.main, "--dataset", "tinyshakespeare")
    assert "ML_STUDIES_OFFLINE is set" in told
    monkeypatch.delenv("ML_STUDIES_OFFLINE")
    told = complaint(capsys, week14.evidence.ngram.main, "--dataset", "tinyshakespeare")
    assert "cannot write" in told
    assert "set ML_STUDIES_DATA to a folder that you can write to" in told


def test_runs_folder_that_cannot_be_written(norm, tmp_path, capsys, monkeypatch):
    """Found out before the work is done, not after it."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("STUDY_RUNS", str(tmp_path / "file" / "inside"))
    monkeypatch.setattr(np.linalg, "norm", lambda x: pytest.fail("computed already"))
    told = complaint(capsys, main_of(norm))
    assert "cannot be written" in told
    assert "set STUDY_RUNS to a folder" in told


def test_wrong_data_set_in_a_process_of_its_own():
    done = subprocess.run(
        [sys.executable, NGRAM, "--dataset", "nosuch"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("ngram.py: error: unknown text 'nosuch'")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_terminal_that_knows_no_check_mark(norm):
    done = subprocess.run(
        [sys.executable, norm],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"?  norm of x[i]" in done.stdout


def test_a_closed_pipe_ends_quietly(tmp_path):
    script = tmp_path / "many.py"
    script.write_text(
        "import cyclopts, sys\nfrom shared.study import call\napp = cyclopts.App('many')\n"
        "@app.default\ndef main():\n    for i in range(10**6):\n        print(i)\n"
        "sys.exit(call(app, []))\n"
    )
    done = subprocess.run(
        f"{sys.executable} {script} | head -1; exit ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("0\n", "", 141)


# ---- seeds and options


def test_seed_decides_the_record(norm, tmp_path):
    main = main_of(norm)

    def shown(seed):
        run = execute(main, seed=seed, out=tmp_path / f"{seed}", quiet=True)
        return run.metrics, run.claims, run.checks, files_in(run.out)["norm_line.png"]

    assert shown(1) == shown(1)
    assert shown(1)[0] != shown(2)[0]
    assert shown(1)[3] != shown(2)[3]


def test_seed_reaches_torch_and_threads_are_pinned(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch, "set_num_threads", lambda n: seen.append(n))
    seen = []

    def main(run: Run) -> None:
        seen.append(torch.rand(1).item())

    for seed in (1, 1, 2):
        execute(main, seed=seed, threads=1, out=tmp_path, quiet=True)
    assert seen[::2] == [1, 1, 1]
    assert seen[1] == seen[3] != seen[5]


def test_changed_options_are_in_the_command(tmp_path):
    def main(
        run: Run, *, n_steps: int = 3, flag: bool = True, names: tuple[str, ...] = ("a",)
    ) -> None:
        pass

    def command(**options):
        run = execute(main, out=tmp_path, quiet=True, **options)
        return run.record()["command"].split(".py")[1]

    assert command() == command(n_steps=3) == ""
    assert command(n_steps=4, flag=False) == " --n-steps 4 --no-flag"
    assert command(names=("b", "two words"), seed=2) == " --names b --names 'two words' --seed 2"
    assert command(mode="full") == " --full"


# ---- Ctrl-C

SLOW = SCRIPT.replace(
    "    run.claim(",
    """\
    import os
    import time

    with run.figure("early") as axes:
        axes.plot(x)
    if "WAIT" in os.environ:
        print("waiting", flush=True)
        for _ in run.progress(range(600), "waiting"):
            time.sleep(0.1)
    run.claim(""",
)


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_ctrl_c_and_sigterm(tmp_path, monkeypatch, number, status, said):
    """Results stay as they were, there is no half-written file, and no traceback."""
    root = make_project(tmp_path, monkeypatch, script=SLOW)
    script = root / "weeks" / "01" / "norm.py"
    assert SLOW != SCRIPT
    execute(main_of(script), record=True, quiet=True)
    before = files_in(script.parent)
    assert "results/norm_early.png" in before
    shutil.rmtree(root / "runs")
    process = subprocess.Popen(
        [sys.executable, script, "--record", "--seed", "1"],
        env=os.environ | {"WAIT": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background jobs, and so their children, ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.2)
        process.send_signal(number)
        _, told = process.communicate(timeout=170)
    finally:
        process.kill()
    assert process.returncode == status
    assert told == f"norm.py: {said}; nothing was recorded\n"
    assert files_in(script.parent) == before
    assert list(files_in(root / "runs")) == ["weeks/01/norm/norm_early.png"]
    assert not [path for path in root.rglob("*") if path.name.endswith((".tmp", ".part"))]
