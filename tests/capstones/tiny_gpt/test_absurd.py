"""Absurd values for every option of every command: status 0, or one line that says what is wrong.

Whatever comes, there is no traceback, no half-written file, and nothing takes long.
"""

import inspect
import io
import shutil
import sys
import typing

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_project import make_project

from shared import cli as study
from shared.study import call
from tiny_gpt import cli
from tiny_gpt.settings import Settings

QUICK = {"n_layers": 1, "n_heads": 2, "d_model": 8, "context": 4, "batch_size": 2, "steps": 2}
QUICK |= {"samples": 0, "threads": 1, "dtype": "fp32", "device": "cpu", "tokenizer": "char"}
WORDS = {
    "prepare": {"": "text.txt", "out": "new", "workers": "1", "tokenizer": "char"},
    "train": {"data": "data", "out": "new"} | {k: str(v) for k, v in QUICK.items()},
    "find_lr": {"data": "data", "trial_steps": "4"} | {k: str(v) for k, v in QUICK.items()},
    "evaluate_": {"": "run"},
    "sample": {"": "run", "max_new_tokens": "2", "prompt": "L"},
    "export": {"": "run", "out": "new", "no_verify": ""},
    "inspect": {"": "run"},
    "verify": {"": "run"},
}
NAMES = {"evaluate_": "eval", "find_lr": "find-lr"}
NUMBERS = ["0", "-1", "1", "1e9", "1000000000000", str(2**63), "9" * 5000, "-0.0", "1.5", "1e-320"]
NUMBERS += ["1e39", "1e308", "1e999", "nan", "inf", "-inf", "½", "１２", "0x10"]
TEXTS = ["", " ", "\0", "\n", "-", "--", "\ud800", "é\u0301\u2028", "x" * 5000, "[bold]", "%s{0}"]
PATHS = [".", "/", "..", "data", "run", "run/best", "text.txt", "text.txt/x", "absent/x", "loop"]
PATHS += ["/dev/null", "/proc/self/x", "hf:", "hf:data"]
ABSURD = NUMBERS + TEXTS + PATHS
FOREVER = {"steps", "max_new_tokens", "workers", "threads", "trial_steps", "number", "samples"}
HUGE = {"1e9", "1000000000000", str(2**63), "9" * 5000, "１２"}


def options() -> list[tuple[str, str]]:
    """Every option of every command; an argument has the name ""."""
    found = []
    for command in WORDS:
        for name, p in inspect.signature(getattr(cli, command)).parameters.items():
            if p.kind is p.POSITIONAL_OR_KEYWORD and "Settings" not in str(p.annotation):
                found.append((command, ""))
            elif "TextSettings" in str(p.annotation):
                names = ("tokenizer", "vocab_size", "dedup", "near_duplicate", "val_fraction")
                found += [(command, name) for name in (*names, "split")]
            elif "Settings" in str(p.annotation):
                found += [(command, field) for field in typing.get_type_hints(Settings)]
            else:
                found.append((command, name.rstrip("_")))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text, prepared and trained on, as the working folder."""
    folder = tmp_path_factory.mktemp("absurd") / "below" / "here"
    folder.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr("torch.cuda.is_available", lambda: False)
        (folder / "text.txt").write_text("Line after line says less, no more.\n" * 40)
        (folder / "loop").symlink_to("loop")
        assert cli.main(line_of("prepare", out="data")) == 0
        assert cli.main(line_of("train", out="run")) == 0
        yield folder


def line_of(command: str, **changes: str) -> list[str]:
    chosen = WORDS[command] | changes
    words = [NAMES.get(command, command), *([chosen.pop("")] if "" in chosen else [])]
    for name, value in chosen.items():
        flag = f"--{name.replace('_', '-')}"
        words += [flag] if name == "no_verify" else [f"{flag}={value}"]
    return words


def ends_well(main, words: list[str], folder) -> int:
    """Run it in the folder; nothing is left but what it was to write, and an error is one line."""
    before = {path for path in folder.rglob("*") if "new" not in path.parts}
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err)
        patch.setattr(sys, "stdin", io.StringIO("\ufeffLine\r\n"))
        status = main(words)
    told = err.getvalue()
    assert status in (0, 2, 3) or (status, "new" in str(words)) == (1, True), (status, words, told)
    assert "shows where" not in told, (words, told)  # nothing is unforeseen
    assert told.count("\n") == (status != 0), (words, told)
    assert len(told) < 20_000
    left = {path for path in folder.rglob(".*") if path.name != ".lock"}
    assert not left, (words, left)
    shutil.rmtree(folder / "new", ignore_errors=True)
    assert {path for path in folder.rglob("*") if "new" not in path.parts} == before, words
    return status


@settings(max_examples=150)
@given(option=st.sampled_from(options()), value=st.sampled_from(ABSURD))
@example(option=("train", "d_model"), value="1000000000000")
@example(option=("sample", "number"), value="1000000000000")
def test_options_of_tiny_gpt(folder, option, value):
    command, name = option
    if name == "out" and value in ("absent/x", "é\u0301\u2028", "[bold]", "%s{0}", *NUMBERS):
        return  # a good name
    if command == "prepare" and (name, value) == ("", "/"):
        return  # all of this machine
    if command in ("train", "find_lr") and (name, value) == ("data", "/"):
        return
    value = "3" if name in FOREVER and value in HUGE and command != "sample" else value
    ends_well(cli.main, line_of(command, **{name: value}), folder)


FILES = {
    "empty": b"",
    "mark": b"\xef\xbb\xbf",
    "marked": b"\xef\xbb\xbfhello world, hello\n" * 9,
    "windows": b"hello\r\nworld\r\n" * 20,
    "nul": b"abc\0def" * 20,
    "latin": b"caf\xe9 " * 30,
    "surrogate": b"\xed\xa0\x80 text" * 30,
    "one line": b"one line only, and one line again",
    "one letter": b"a",
    "blank": b" \n\t\r\n",
    "same": b"a" * 200,
    "line ends": b"\n" * 100 + b"x",
    "long line": b"a long line of words " * 20_000,
    "separators": "a\u2028b\x0cc\x85d ".encode() * 20,
    "nested": b'{"text": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".txt.gz"])
@pytest.mark.parametrize("content", FILES)
def test_texts(folder, content, suffix):
    path = folder / f"given{suffix}"
    path.write_bytes(FILES[content])
    try:
        for tokenizer in ("char", "byte"):
            words = {"": path.name, "tokenizer": tokenizer}
            if ends_well(cli.main, line_of("prepare", **words), folder) == 0:
                ends_well(cli.main, line_of("train", data=path.name, out="new/run"), folder)
        ends_well(cli.main, ["sample", "run", "-f", path.name, "--max-new-tokens=1"], folder)
        ends_well(cli.main, ["train", "--config", path.name, "--data", "absent/x"], folder)
    finally:
        path.unlink()


STUDY = {
    "show": [""],
    "run": ["", "script"],
    "verify": ["", "jobs"],
    "record": [""],
    "restamp": ["", "against"],
    "log": ["", "check"],
    "fetch": [""],
    "bugs": ["", "sample", "jobs"],
    "bench": ["", "repeats"],
}


@pytest.mark.parametrize("command", STUDY)
def test_options_of_study(command, tmp_path, monkeypatch):
    """Targets that are none, counts that are none; nothing is run for them."""
    root = make_project(tmp_path, monkeypatch)
    monkeypatch.chdir(root)
    monkeypatch.setattr("subprocess.run", lambda *args, **options: pytest.fail(f"ran {args}"))
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    for name in STUDY[command]:
        for value in set(ABSURD) - {"1", "--"}:  # a week, and nothing at all
            given = [f"--{name}={value}", "--", "nosuch"] if name else ["--", value]
            against = ["--against=HEAD"] if command == "restamp" and not name else []
            words = [command, *against, *given]
            status = ends_well(lambda words: call(study.app, words, lost=""), words, root)
            assert status == 2 or command == "log", (words, status)
    after = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert after == before
