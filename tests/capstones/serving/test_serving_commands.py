"""Commands that ask a server: their output, their exit status, their mistakes."""

import json

import pytest
from serving_scripted import ScriptedBackend, running, scripted_app

from serving.cli import main


@pytest.fixture(scope="module")
def server():
    backend = ScriptedBackend()
    with running(scripted_app(backend)) as url:
        yield url, backend


def test_bench_of_an_open_load(server, capsys):
    options = ["--rate", "40", "--duration", "0.5", "--tokens", "3", "--seed", "2", "--json"]
    assert main(["bench", server[0], *options]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == found["well"] > 5
    assert found["first"]["p50"] <= found["first"]["p99"] <= found["whole"]["p99"]
    assert {asked.max_tokens for asked in server[1].asked} == {3}


def test_bench_of_clients_that_hang_up(server, capsys):
    options = ["--clients", "2", "--rate", "4", "--duration", "2", "--disconnect", "1"]
    assert main(["bench", server[0], *options]) == 0
    out = capsys.readouterr().out
    assert "8 requests in" in out
    assert "left 8" in out


def test_a_server_that_is_not_there_fails(capsys):
    options = ["--rate", "20", "--duration", "0.2", "--model", "m"]
    assert main(["bench", "http://127.0.0.1:9", *options]) == 1
    assert "failed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["bench"], "--url requires an argument"),
        (["bench", "http://127.0.0.1:9", "--rate", "0"], "rate"),
        (["bench", "http://127.0.0.1:9", "--disconnect", "1.5"], "disconnect"),
        (["bench", "http://127.0.0.1:9", "--clients", "0"], "clients"),
        (["bench", "http://127.0.0.1:9"], "does not tell which models it has"),
        (["bench", "somewhere"], "does not tell which models it has"),
        (["duel", "speed"], "rows must be among throughput"),
        (["dummy", "--safety", "strict"], "safety"),
        (["dummy", "--redact", "--port", "0"], "redact needs safety block, got off"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(argv, words, capsys):
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err
