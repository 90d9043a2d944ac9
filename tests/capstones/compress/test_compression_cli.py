"""The command line: each command's round trip, one clear line for a mistake, no network."""

import json
import socket

import pytest
import torch
from tiny_llama import tiny_folder

from compress import cli


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whatever a command does, it does not ask anybody."""

    def refuse(*args):
        raise AssertionError("something was fetched")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(autouse=True)
def one_thread():
    """Commands set the number of threads; other tests have one."""
    yield
    torch.set_num_threads(1)


@pytest.fixture
def call(capsys):
    """Run a command line: its status and what it printed."""

    def call(*words):
        capsys.readouterr()
        status = cli.main([str(word) for word in words])
        out, err = capsys.readouterr()
        if status in (2, 3):
            assert err.startswith("compress: error: ")
            assert err.count("\n") == 1
        return status, out, err

    return call


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("models") / "model").parent


@pytest.fixture
def here(home, tmp_path, monkeypatch):
    """A working folder; the model is at ../model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").symlink_to(home / "model")
    (tmp_path / "text.txt").write_text("it was a dark and stormy night. " * 9)
    (tmp_path / "r.yaml").write_text("- prune: {method: wanda}\n  quantize: {group_size: 16}\n")
    (tmp_path / "bad.yaml").write_text("- prune: {method: wanda, sparsity: 2}\n")
    return tmp_path


TEXT = ("--calib", "text.txt", "--n-calib", 2, "--seqlen", 16)
WAYS = [
    ("quantize", "--method", "rtn", "--bits", 3, "--group-size", 16),
    ("quantize", "--method", "gptq", "--sym", "--act-order", "--group-size", 16, *TEXT),
    ("quantize", "--method", "awq", "--group-size", 16, *TEXT),
    ("quantize", "--method", "hqq", "--bits", 2, "--group-size", 16),
    ("quantize", "--method", "smoothquant", "--alpha", 0.7, "--embedding-bits", 8, *TEXT),
    ("quantize", "--method", "rtn", "--bits", 8, "--sym", "--per-channel", "--int8-inputs"),
    ("prune", "--method", "magnitude", "--scope", "global", "--sparsity", 0.3),
    ("prune", "--method", "wanda", "--pattern", "2:4", *TEXT),
    ("prune", "--method", "sparsegpt", "--pattern", "4:8", *TEXT),
    ("prune", "--method", "structured", "--neurons", 0.25, "--layers", 1, *TEXT),
    ("recipe", "-r", "r.yaml", *TEXT),
]


@pytest.mark.parametrize("words", WAYS, ids=lambda words: " ".join(map(str, words[:3])))
def test_a_model_is_made_and_verified(words, here, call):
    command, *rest = words
    status, out, err = call(command, "model", "-o", "a", *rest, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["out"] == "a"
    assert found["bytes"] == sum(path.stat().st_size for path in (here / "a").iterdir())
    status, out, _ = call("verify", "a")
    assert status == 0
    assert "a is whole" in out
    said = json.loads(call("inspect", "compress:a", "--json")[1])
    assert said["records"] == found["layers"]
    assert said["bytes"] < found["source_bytes"]
    assert (
        json.loads((here / "a/MANIFEST.json").read_text())["metadata"]["recipe"] == said["recipe"]
    )


def test_tables_are_for_people(here, call):
    status, out, _ = call("inspect", "model")
    assert status == 0
    assert "q_proj" in out
    status, _, err = call("recipe", "model", "-o", "a", "-r", "r.yaml", *TEXT)
    assert status == 0
    assert "% of the floats" in err
    out = call("inspect", "a")[1]
    assert "wanda+gptq" in out
    assert "512 of 1,024" in out


def test_what_serve_says_can_be_typed(here, call, monkeypatch):
    out = f"a {'long ' * 30}name"
    call("quantize", "model", "-o", out, "--method", "rtn", "--group-size", 16)
    for words in (out, f"compress:{out}"):
        assert call("serve", words) == (0, f"uv run serve 'compress:{out}'\n", "")


def test_the_same_command_again_finds_it_made(here, call):
    words = ("quantize", "model", "-o", "a", "--method", "rtn", "--group-size", 16)
    call(*words)
    before = (here / "a/tensors.safetensors").stat().st_mtime_ns
    status, _, err = call(*words)
    assert status == 0
    assert "a stands already" in err
    assert (here / "a/tensors.safetensors").stat().st_mtime_ns == before
    call(*words, "--bits", 3)
    assert (here / "a/tensors.safetensors").stat().st_mtime_ns != before


def test_a_compressed_model_is_a_model_to_compress(here, call):
    call("prune", "model", "-o", "a", "--method", "magnitude")
    assert call("quantize", "compress:a", "-o", "b", "--method", "rtn", "--group-size", 8)[0] == 0


def test_strict_ends_with_status_1(here, call):
    words = ("quantize", "model", "-o", "a", "--strict", "--damping", 1e-9, "--group-size", 16)
    status, _, err = call(*words, "--calib", "text.txt", "--n-calib", 1, "--seqlen", 8)
    assert status == 1
    assert "blocks.0.q_proj: its Hessian must be positive definite" in err
    assert not (here / "a").exists()


Q, P = ("quantize", "model", "-o", "a"), ("prune", "model", "-o", "a")
MISTAKES = [
    ((), None),
    (("squeeze",), "squeeze"),
    (("quantize",), "MODEL"),
    (("quantize", "model"), "--out"),
    (("quantize", "gpt-9", "-o", "a"), "MODEL must be smollm2"),
    (("quantize", "hf:none", "-o", "a"), "hf:FOLDER must be a folder"),
    ((*Q, "--bits", "5"), "bits must be 2, 3, 4 or 8, got 5"),
    ((*Q, "--bits", "four"), "four"),
    ((*Q, "--bits", "4.5"), "4.5"),
    ((*Q, "--method", "magic"), "magic"),
    ((*Q, "--group-size", "0"), "--group-size"),
    ((*Q, "--group-size", "-8"), "--group-size"),
    ((*Q, "--group-size", "1"), "group_size must be at least 2, got 1"),
    ((*Q, "--group-size", "64.5"), "64.5"),
    ((*Q, "--damping", "nan"), "damping must be in [0, 1], got nan"),
    ((*Q, "--damping", "2"), "damping must be in [0, 1], got 2"),
    ((*Q, "--alpha", "2", "--method", "smoothquant"), "alpha must be in [0, 1]"),
    ((*Q, "--method", "smoothquant", "--bits", "4"), "bits must be 8 for smoothquant, got 4"),
    ((*Q, "--method", "hqq", "--sym"), "symmetric must be off for hqq"),
    ((*Q, "--method", "rtn", "--act-order"), "act_order must be left out but for gptq"),
    ((*Q, "--int8-inputs"), "int8_inputs must go with symmetric weights"),
    ((*Q, "--embedding-bits", "5"), "embedding_bits must be 4 or 8, got 5"),
    (
        (*Q, "--calib", "none.txt", "--seqlen", "16"),
        "calib must be builtin, wikitext2, pydocs or a text file",
    ),
    ((*Q, "--calib", "text.txt", "--seqlen", "4096"), "seqlen must be at most the model's context"),
    ((*Q, "--seqlen", "1"), "seqlen"),
    ((*Q, "--n-calib", "0"), "n-calib"),
    ((*Q, "--threads", "0"), "threads"),
    ((*Q, "--seed", "-1"), "seed"),
    (("quantize", "model", "-o", "text.txt"), "out text.txt must be a folder or not there"),
    ((*P, "--sparsity", "1"), "sparsity"),
    ((*P, "--sparsity", "-0.5"), "sparsity"),
    ((*P, "--sparsity", "nan"), "sparsity"),
    ((*P, "--pattern", "4:2"), "pattern must be n:m with n below m"),
    ((*P, "--pattern", "²:4"), "pattern must be n:m with n below m"),
    ((*P, "--pattern", "3:7", "--method", "magnitude"), "m must divide the 32 inputs, got 7"),
    ((*P, "--scope", "row"), "scope must be layer for sparsegpt"),
    ((*P, "--method", "wanda", "--scope", "global"), "scope must be row or layer for wanda"),
    ((*P, "--method", "structured"), "structured must say how many"),
    ((*P, "--method", "structured", "--layers", "2", *TEXT), "layers must be fewer than"),
    ((*P, "--method", "structured", "--layers", "-1"), "--layers"),
    (
        ("recipe", "model", "-o", "a", "-r", "bad.yaml"),
        "bad.yaml: sparsity must be in [0, 1)",
    ),
    (("serve", ""), "MODEL must be smollm2"),
    (("serve", "compress:"), "MODEL must be smollm2"),
    (("recipe", "model", "-o", "a", "-r", "none.yaml"), "none.yaml cannot be read"),
    (("recipe", "model", "-o", "a", "-r", "model"), "model cannot be read"),
]


@pytest.mark.parametrize(
    ("words", "line"), MISTAKES, ids=[" ".join(map(str, words))[:60] for words, _ in MISTAKES]
)
def test_mistakes_are_told_in_one_line(words, line, here, call):
    status, _, err = call(*words)
    if line is None:  # nothing asked: the help
        assert status == 0
        return
    assert status == 2, err
    assert line.casefold() in err.casefold()
    assert not (here / "a").exists()


MISSING = [("verify", "none"), ("inspect", "compress:none"), ("serve", "none")]


@pytest.mark.parametrize("words", MISSING)
def test_an_artifact_that_is_missing_is_status_3(words, here, call):
    status, _, err = call(*words)
    assert status == 3
    assert "there is no artifact at" in err


def test_a_run_that_is_missing_is_status_3(here, call):
    status, _, err = call("quantize", "tiny_gpt:none", "-o", "a")
    assert status == 3
    assert "there is no checkpoint in none" in err


def test_help_names_the_statuses(call):
    status, out, _ = call("--help")
    assert status == 0
    assert "a torn, altered or missing artifact" in " ".join(out.split())
