"""The command line: every command's round trip, one clear line for a mistake, no network."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from tiny_gpt import cli
from tiny_gpt.settings import Settings
from tiny_gpt.training import checkpoints


def sizes(**changes) -> list[str]:
    """Options of a run that takes no time."""
    chosen = {"n_layers": 1, "n_heads": 2, "d_model": 16, "context": 16, "batch_size": 4}
    chosen |= {"steps": 6, "eval_every": 3, "save_every": 2, "threads": 1}
    chosen |= {"dtype": "fp32", "device": "cpu", **changes}
    return [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items()]


@pytest.fixture(scope="module", autouse=True)
def no_network():
    """Whatever a command does, it does not ask anybody."""

    def refuse(*args):
        raise AssertionError("something was fetched")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text, what was prepared of it, and a run; the working folder stays clean."""
    folder = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        lines = [f"Line {i} says that {i * i} is the square of {i}, no less.\n" for i in range(500)]
        (folder / "text.txt").write_text("".join(lines))
        words = ["prepare", "text.txt", "--out", "data", "--tokenizer", "char", "--workers", "1"]
        assert cli.main(words) == 0
        words = ["train", "--data", "data", "--out", "run", "--samples", "1", *sizes()]
        assert cli.main(words) == 0
    return folder


@pytest.fixture
def here(folder, monkeypatch, tmp_path):
    """A copy of the folder as the working folder."""
    for name in ("data", "run"):
        shutil.copytree(folder / name, tmp_path / name)
    shutil.copy(folder / "text.txt", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    return tmp_path


@pytest.fixture
def call(capsys):
    """Run a command line: its status and what it printed."""

    def call(*words):
        capsys.readouterr()
        status = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        if status in (2, 3):
            assert err.startswith("tiny-gpt: error: ")
            assert err.count("\n") == 1
        else:
            assert not err
        return status, out, err

    return call


def test_a_run_has_everything(folder):
    names = {path.name for path in (folder / "run").iterdir()} - {".lock", "checkpoints", "best"}
    assert names == {"settings.toml", "log.jsonl", "timing.jsonl", "seal.json"} | {
        *("report.html", "samples.json", "evaluation.json")
    }
    assert checkpoints.steps_saved(folder / "run") == [4, 6]
    evaluation = json.loads((folder / "run" / "evaluation.json").read_text())
    assert evaluation["signature"].startswith("tiny-gpt|")


def test_train_prints_what_it_chose_and_what_came_of_it(here, call):
    words = ["train", "--data", "data", "--out", "other", *sizes(dtype="auto")]
    status, out, _ = call(*words, "--samples", "1")
    assert status == 0
    parts = ["data data: tokens", "precision ", "model modern, ", "6 steps of 4 x 16 tokens"]
    parts += ["step 3/6 validation loss ", "(best)", "tokens/s", "validation loss  "]
    parts += ["bits per byte", "protocol         tiny-gpt|", "|v1", "memorized", "report "]
    for part in parts:
        assert part in out, part
    status, out, _ = call(*words, "--samples", "0")
    assert status == 0
    assert "it was finished" in out


def test_train_prepares_what_is_not_prepared_once(here, call):
    words = ["train", "--data", "text.txt", "--out", "runs/new", "--samples", "0"]
    words += ["--tokenizer", "byte", *sizes(steps=2)]
    assert call(*words)[0] == 0
    (prepared,) = (here / "runs" / "data").iterdir()
    assert prepared.name.startswith("text-byte-")
    before = (prepared / "data.json").stat().st_mtime_ns
    assert call(*words)[0] == 0
    assert (prepared / "data.json").stat().st_mtime_ns == before
    assert call("eval", "runs/new")[0] == 0


def test_interrupted_exits_75_and_the_same_command_goes_on(here, call):
    words = ["train", "--data", "data", "--out", "cut", "--samples", "0", *sizes()]
    status, out, _ = call(*words, "--max-time", "0")
    assert status == 75
    assert "interrupted at step 0 of 6 and saved; the same command goes on from there" in out
    status, out, _ = call(*words)
    assert status == 0
    assert "resumed at step 0 of 6" in out
    ours, reference = (here / name / "log.jsonl" for name in ("cut", "run"))
    assert ours.read_bytes() == reference.read_bytes()


def test_eval(here, call):
    status, out, _ = call("eval", "run")
    assert status == 0
    assert "nats/token" in out
    assert "bits/byte" in out
    assert "tiny-gpt|split:val|" in out
    found = json.loads(call("eval", "run", "--json")[1])
    saved = json.loads((here / "run" / "evaluation.json").read_text())
    assert {k: v for k, v in saved.items() if k != "memorization"} == found
    moved = json.loads(call("eval", "run/best", "--data", "data", "--stride", 4, "--json")[1])
    assert moved["n_tokens"] == found["n_tokens"]
    assert moved["signature"] != found["signature"]


def test_sample_streams_and_is_reproducible(here, call, monkeypatch):
    short = ["--max-new-tokens", 12]
    status, one, _ = call("sample", "run", "-p", "Line 1", *short)
    assert status == 0
    assert one.startswith("Line 1")
    assert len(one) == len("Line 1") + 12 + 1
    assert call("sample", "run", "-p", "Line 1", *short)[1] == one
    assert call("sample", "run", "-p", "Line 1", *short, "--no-cache")[1] == one
    other = call("sample", "run", "-p", "Line 1", *short, "--seed", 1)[1]
    assert other != one
    both = call("sample", "run", "-p", "Line 1", *short, "-n", 2)[1]
    assert one in both
    assert other in both
    monkeypatch.setattr(sys, "stdin", io.StringIO("Line 1\n"))
    assert call("sample", "run", "-p", "-", *short)[1] == one
    (here / "prompt.txt").write_text("Line 1")
    assert call("sample", "run", "-f", "prompt.txt", *short)[1] == one
    written = one.removeprefix("Line 1")
    stop = written[3:5]
    ended = f"Line 1{written[: written.index(stop)]}\n"
    words = ["sample", "run", "-p", "Line 1", f"--stop={stop}", *short]
    assert call(*words)[1] == ended
    assert ended in call(*words, "-n", 2)[1]
    greedy = call("sample", "run", "-p", "L", "-t", 0, *short)[1]
    assert call("sample", "run", "-p", "L", "-t", 0, "--seed", 1, *short)[1] == greedy


def test_sample_reads_a_pipe(here, call, monkeypatch):
    one = call("sample", "run", "-p", "Line 1", "--max-new-tokens", 5)[1]
    (here / "prompt.txt").write_text("Line 1\n")
    with (here / "prompt.txt").open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert call("sample", "run", "--max-new-tokens", 5)[1] == one
    with open(os.devnull) as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert call("sample", "run", "--max-new-tokens", 5)[0] == 0


def test_export_inspect_verify(here, call):
    status, out, _ = call("export", "run", "--out", "hf", "--format", "hf")
    assert status == 0
    assert (here / "hf" / "model.safetensors").exists()
    for path in ("run", "run/best", "data"):
        status, out, _ = call("inspect", path)
        assert status == 0
        json.loads(call("inspect", path, "--json")[1])
        status, out, _ = call("verify", path)
        assert (status, "every byte is as it was written" in out) == (0, True)


def test_config_preset_and_flags(here, call):
    lines = ["seed = 7", "[train]", "n_layers = 1", "d-model = 16", "n-heads = 2", "steps = 3"]
    (here / "c.toml").write_text("\n".join(lines))
    words = ["train", "--preset", "shakespeare-quick", "--config", "c.toml", "--data", "data"]
    words += ["--out", "new", "--steps", "2", "--max-time", "0", "--context=16"]
    assert call(*words)[0] == 75
    found = Settings.of_run(here / "new")
    assert (found.n_layers, found.d_model, found.steps, found.context) == (1, 16, 2, 16)
    assert found.seed == 7  # beside the table
    assert (found.batch_size, found.eval_every, found.tokenizer) == (16, 0, "char")
    words = ["train", "--config", "new/settings.toml", "--out", "copy", "--max-time", "0"]
    assert call(*words)[0] == 75
    first, second = ((here / name / "settings.toml").read_text() for name in ("new", "copy"))
    assert second == first.replace('"new"', '"copy"')


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("n-layer = 2", "there is no setting 'n-layer'; did you mean n-layers?"),
        ("zzz = 2", "there is no setting 'zzz'"),
        ("[train]\nbatchsize = 2", "did you mean batch-size?"),
        ("[model]\nn-layers = 2", "there is no setting 'model'"),
        ("n-layers = 1.5", "expected a whole number, got 1.5"),
        ("n-layers = 'two'", "expected a whole number, got two"),
        ("lr = 'fast'", "unable to convert"),
        ("arch = 'gpt7'", "Choose from"),
        ("steps = 0", "Must be >= 1"),
        ("this is not toml", "config c.toml is not TOML"),
    ],
)
def test_wrong_config(config, message, here, call):
    (here / "c.toml").write_text(config)
    status, _, err = call("train", "--config", "c.toml", "--data", "data", "--out", "new")
    assert status == 2
    assert message in err
    assert not (here / "new").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian", 'Did you mean "train"?'),
        ("train --stepz 3", "Did you mean --steps?"),
        ("train data", "Unused Tokens"),
        ("train --steps 1.5", "expected a whole number, got 1.5"),
        ("train --steps -1", "Must be >= 1"),
        ("train --data data --out new --d-model 1000000000", "d_model"),
        ("train --data data --out new --n-layers 1000000000", "n_layers"),
        ("train --data data --out new --batch-size 1000000000000", "batch_size"),
        ("train --data data --out new --d-model 1e9", "--d-model: expected a whole number"),
        ("train --data data --out new --seed 18446744073709551615", "--seed"),
        ("train --data data --out new --threads 1000000", "--threads. Must be <= 1024"),
        ("train --data data --out new --device cuda", "device cuda must be one that torch can use"),
        ("train --data data --out .", "out must be a folder of its own, got '.'"),
        ("train --data data --out /", "out must be a folder of its own, got '/'"),
        ("train --data data --out data", "out data holds something else than a run"),
        ("train --data data --out new\udcff", "out must be a name in UTF-8"),
        ("prepare text.txt --out .", "out must be a folder of its own, got '.'"),
        ("prepare text.txt --out ../..", "out must be a folder of its own, got '../..'"),
        ("prepare text.txt --out /", "out must be a folder of its own, got '/'"),
        ("prepare=", "source must be a text's name, a file or a folder, got ''"),
        ("prepare loop", "loop cannot be read (Too many levels"),
        ("prepare links --out new", "links/loop.txt cannot be read (Too many levels"),
        ("prepare text.txt --out new --near-duplicate nan", "near_duplicate must be between"),
        ("prepare text.txt --out new --near-duplicate 1e-9", "near_duplicate must be between"),
        ("find-lr --data data --steps 9 --trial-steps 99", "trial_steps must be at most steps = 9"),
        ("sample run --max-new-tokens 10000000000000", "max_new_tokens must fit"),
        ("sample run -n 100000000000000", "number and max_new_tokens must fit"),
        ("export run --out /", "out must be a folder of its own, got '/'"),
        ("train --n-heads 3", "n_heads must divide d_model = 128, got 3"),
        ("train --max-time 3x", "max_time must be like 90s, 3m or 1.5h"),
        ("train --lr -1", "lr must be at least 0, got -1"),
        ("train --preset gpt5", "preset must be one of shakespeare-quick"),
        ("train --config", "--config must be followed by its value"),
        ("train --config  --data data", "--config must be followed by its value, got none"),
        ("train --config none.toml", "config none.toml cannot be read"),
        ("train --data nowhere.txt --out new", "nowhere"),
        ("train --data data --out text.txt", "out text.txt"),
        ("train --data data --out new --context 100000", "must have at least context"),
        ("train --data data --out new --resume must", "new holds none"),
        ("train --data data --out run --resume never", "holds a run already"),
        ("train --data data --out run", "does not fit the run in run"),
        ("eval run --split test", "split must be one of"),
        ("eval run --stride 0", "Must be >= 1"),
        ("eval run --stride 100", "stride"),
        ("sample run -p a -f text.txt", "prompt and file cannot both be given"),
        ("sample run -p §", "prompt cannot be encoded"),
        ("sample run -f none.txt", "file none.txt cannot be read"),
        ("sample run -t -1", "temperature"),
        ("sample run --top-p 2", "top-p"),
        ("export run --format gguf --out gguf", "gguf"),
        ("export run --format tar --out x", "Choose from"),
        ("inspect nowhere", "nowhere"),
        ("eval nowhere", "there is no checkpoint in nowhere"),
        ("sample nowhere", "there is no checkpoint in nowhere"),
        ("export nowhere --out x", "there is no checkpoint in nowhere"),
        ("verify nowhere", "nowhere"),
    ],
)
def test_mistakes_take_one_line(words, message, here, call, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (here / "loop").symlink_to("loop")
    (here / "links").mkdir()
    (here / "links" / "loop.txt").symlink_to("loop.txt")
    before = sorted(here.iterdir())
    status, _, err = call(*words.replace("=", " ").split(" "))
    assert status in (2, 3)
    assert message in err
    assert set(here.iterdir()) - set(before) <= {here / "new"}


def test_help_is_readable(capsys):
    for words in (["--help"], ["train", "--help"], ["sample", "--help"]):
        assert cli.main(words) == 0
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= 80 or "COLUMNS" in os.environ
    assert cli.main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    for name in vars(Settings()):
        row = out.split("--" + name.replace("_", "-"), 1)[1]
        assert len(row[:200].split()) > 3, name


def test_module_is_what_torchrun_starts(folder):
    done = subprocess.run(
        [sys.executable, "-m", "tiny_gpt", "--help"], capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0
    assert "train" in done.stdout


def test_what_has_no_line_end_is_trained_sampled_and_reported(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.txt").write_text("the cat sat on the mat and saw a dog. " * 100)
    status, out, err = call("train", "--data", "one.txt", "--out", "new", *sizes(steps=2))
    assert status == 0, err
    assert "memorized" in out
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names >= {"report.html", "samples.json", "evaluation.json"}
    (tmp_path / "dot.txt").write_text("." * 500 + "," * 300)  # not even a blank
    assert call("train", "--data", "dot.txt", "--out", "new2", *sizes(steps=2))[0] == 0


def test_a_fault_at_the_end_costs_only_itself(here, capsys, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("no way")

    monkeypatch.setattr("tiny_gpt.report.wrapup.write", fail)
    assert cli.main(["train", "--data", "data", "--out", "new", *sizes(steps=2)]) == 1
    out, err = capsys.readouterr()
    assert err == "tiny-gpt: error: new is trained and evaluated, but has no samples (no way)\n"
    assert "bits per byte" in out
    assert {path.name for path in (here / "new").iterdir()} >= {"evaluation.json", "report.html"}


def test_a_loss_that_is_not_finite_is_a_failure(here, capsys):
    words = ["train", "--data", "data", "--out", "new", *sizes(matrix_lr=1e9), "--samples", "0"]
    assert cli.main(words) == 1
    err = capsys.readouterr().err
    assert "has no finite loss (begin again in another --out" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("during", ["evaluate", "write", "write_report"])
def test_ctrl_c_at_the_end_is_resumed_by_the_same_command(during, here, call, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    words = ["train", "--data", "data", "--out", "new", *sizes(steps=2), "--samples", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(f"tiny_gpt.report.wrapup.{during}", stop)
        status, out, _ = call(*words)
    assert status == 75
    assert "new: interrupted after step 2 and saved; the same command goes on from there" in out
    assert call(*words)[0] == 0


def test_an_export_is_told_from_a_corrupt_run(here, call):
    assert call("export", "run", "--out", "hf", "--no-verify")[0] == 0
    assert json.loads(call("inspect", "hf", "--json")[1])["kind"] == "export"
    assert call("verify", "hf")[:2] == (0, "hf: every byte is as it was written\n")
    for words in (["sample", "hf"], ["eval", "hf"], ["export", "hf", "--out", "x"]):
        status, _, err = call(*words)
        assert (status, "got an export for other programs, hf" in err) == (2, True)
    (here / "hf" / "config.json").write_text("{}")
    assert call("verify", "hf")[0] == 3


def test_prompts_of_windows(here, call, monkeypatch):
    wanted = call("sample", "run", "-p", "Line 1\nL", "--max-new-tokens", 5)[1]
    (here / "prompt.txt").write_bytes(b"\xef\xbb\xbfLine 1\r\nL")
    assert call("sample", "run", "-f", "prompt.txt", "--max-new-tokens", 5)[1] == wanted
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeffLine 1\r\nL\r\n"))
    assert call("sample", "run", "-p", "-", "--max-new-tokens", 5)[1] == wanted


def test_names_that_are_not_utf8(here, call):
    name = os.fsdecode(b"a\xff.txt")
    os.rename("text.txt", name)
    assert call("prepare", name, "--out", "new", "--workers", "1")[0] == 0
    assert json.loads((here / "new" / "data.json").read_text())["meta"]["source"] == "a\ufffd.txt"


IMPORTING = "import os, sys, time; sys.argv = ['tiny-gpt']; import tiny_gpt; print(1, flush=True)"
PROGRAMS = {
    "while it is imported": [sys.executable, "-c", f"{IMPORTING}; time.sleep(600)"],
    "while it works": [sys.executable, "-m", "tiny_gpt", *["sample", "run", "--max-new-tokens"]],
}


@pytest.mark.parametrize(("number", "said"), [(2, "interrupted"), (15, "terminated")])
@pytest.mark.parametrize("when", PROGRAMS)
def test_a_signal_takes_one_line(number, said, when, here):
    process = subprocess.Popen(
        [*PROGRAMS[when], "1000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    process.stdout.read(1)
    process.send_signal(number)
    err = process.communicate(timeout=120)[1]
    assert (process.returncode, err) == (128 + number, f"tiny-gpt: {said}\n")
