"""The program: how it starts, what it refuses, how it ends."""

import contextlib
import json
import signal
import subprocess
import sys

import httpx
import openai
import pytest
from serving_small import HELLO, Served

from serving.cli import main
from serving.engine.backend import TokenBackend
from serving.models.opening import open_model

WRONG = [
    (["gpt-9"], "model must be smollm2, hf:FOLDER"),
    (["hf:/nowhere"], "hf:FOLDER must be a folder"),
    (["gguf:model.bin"], "must end in .gguf"),
    (["gguf:/nowhere.gguf"], "nowhere.gguf"),
    (["tiny_gpt:/nowhere"], "nowhere"),
    (["compress:/nowhere"], "there is no artifact at /nowhere"),
    (["rag:/nowhere"], "nowhere"),
    (["dummy", "--host", "0.0.0.0"], "--host must be an address of the loopback"),
    (["dummy", "--host", "nowhere.invalid", "--api-key", "x"], ""),
    (["dummy", "--port", "70000"], "--port"),
    (["dummy", "--port", "x"], "--port"),
    (["dummy", "--max-num-seqs", "0"], "--max-num-seqs must be at least 1"),
    (["dummy", "--max-queue", "-1"], "--max-queue must be at least 0"),
    (["dummy", "--max-model-len", "0"], "--max-model-len must be at least 1"),
    (["dummy", "--max-model-len", "513"], "--max-model-len must be at most the model's context"),
    (["dummy", "--kv-cache-memory-bytes", "1"], "--kv-cache-memory-bytes must be at least"),
    (["dummy", "--max-num-seqs", "1025"], "--max-num-seqs must be at most 1024"),
    (["dummy", "--deadline", "0"], "--deadline must be above 0"),
    (["dummy", "--deadline", "inf"], "--deadline must be above 0 and at most a day"),
    (["dummy", "--drain", "-1"], "--drain must be at least 0"),
    (["dummy", "--drain", "nan"], "--drain must be at least 0"),
    (["dummy", "--max-num-sequences", "2"], "--max-num-sequences"),
    (["dummy", "smollm2"], "smollm2"),
]


@pytest.mark.parametrize(("words", "expected"), WRONG)
def test_a_mistake_is_one_line(words, expected, capsys):
    port = [] if "--port" in words else ["--port", "0"]
    missing = words[0].startswith(("tiny_gpt:", "compress:", "rag:"))
    assert main([*words, *port]) == (3 if missing else 2)
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1
    assert said.startswith("serve: ")
    assert expected in said


def test_a_port_that_is_taken_is_one_line(capsys):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["dummy", "--port", str(taken.getsockname()[1])]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


class TooFast(Exception):
    """The answer ended before anybody else could ask."""


def test_sigterm_lets_answers_end_and_refuses_others(tmp_path):
    for n in (8, 24, 72):
        with contextlib.suppress(TooFast):
            sigterm(tmp_path, n)
            return
    raise AssertionError("the server refused nobody")


def sigterm(tmp_path, n):
    command = [sys.executable, "-m", "serving", "dummy", "--port", "0", "--served-model-name", "d"]
    command += ["--drain", "500", "--deadline", "500"]
    errors = tmp_path / "errors"
    with errors.open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        url = process.stdout.readline().split()[-1]
        assert url.startswith("http://127.0.0.1:")
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        long = HELLO | {"model": "d", "max_tokens": 480, "n": n, "extra_body": {"ignore_eos": True}}
        stream = client.chat.completions.create(**long, stream=True)
        chunks = [next(stream) for _ in range(4)]
        process.send_signal(signal.SIGTERM)
        refused = set()
        while not refused:
            try:
                found = httpx.post(f"{url}/chat/completions", json=HELLO, timeout=60)
            except httpx.TransportError as error:
                process.wait(120)
                raise TooFast from error
            refused = {found.json()["error"]["code"]} if found.status_code == 503 else set()
        assert refused == {"draining"}
        chunks += list(stream)
        assert chunks[-1].choices[0].finish_reason == "length"
        assert process.wait(120) == 0
    finally:
        process.kill()
        process.wait()
    lines = [json.loads(line) for line in errors.read_text().splitlines()]
    assert {line["status"] for line in lines} >= {200, 503}
    assert "Hello" not in errors.read_text()


def test_smollm2_answers():
    served = Served(load=lambda: None)
    model = open_model("smollm2")
    served.service._load = lambda: TokenBackend(model, served.limits, served.metrics)
    with served:
        client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
        question = [{"role": "user", "content": "What is the capital of France?"}]
        options = {"model": "dummy", "messages": question, "temperature": 0}
        stream = client.chat.completions.create(**options, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
        assert text == "The capital of France is Paris."
