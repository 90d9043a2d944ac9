"""What a client does wrong is told in OpenAI's shape, and breaks nothing."""

import json

import httpx
import pytest
from serving_small import HELLO, Served

JSON = {"Content-Type": "application/json"}
CHAT, TEXT, VECTORS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"


@pytest.fixture(scope="module")
def served():
    with Served() as served:
        yield served
        assert served.chat().status_code == 200  # after all of that
        assert served.engine.error is None


def told(response, status, param=None, code=None):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    if param is not None:
        assert error["param"] == param
    if code is not None:
        assert error["code"] == code
    return error


USER = {"role": "user", "content": "x"}
WRONG = [
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.role"),
    ({"messages": [{"role": "user"}]}, "messages.content"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, None),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, None),
    ({"messages": [USER | {"tool_calls": []}]}, "messages.tool_calls"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_tokens": 1.5}, "max_tokens"),
    ({"max_tokens": 10**30}, "max_tokens"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"max_completion_tokens": 0}, "max_completion_tokens"),
    ({"temperature": -0.1}, "temperature"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": float("inf")}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"repetition_penalty": 0}, "repetition_penalty"),
    ({"presence_penalty": 3}, "presence_penalty"),
    ({"frequency_penalty": -3}, "frequency_penalty"),
    ({"n": 0}, "n"),
    ({"n": 129}, "n"),
    ({"n": 9}, "n"),  # more than are written at a time
    ({"stop": ""}, None),
    ({"stop": [""]}, None),
    ({"stop": ["x"] * 17}, None),
    ({"stop": "x" * 257}, None),
    ({"stop": 5}, None),
    ({"seed": 2**63}, "seed"),
    ({"seed": "x"}, "seed"),
    ({"logit_bias": {"x": 1}}, None),
    ({"logit_bias": {"258": 1}}, "logit_bias"),
    ({"logit_bias": {"1": 101}}, None),
    ({"logit_bias": [1]}, "logit_bias"),
    ({"logprobs": "all"}, "logprobs"),
    ({"top_logprobs": 2}, "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"stream": "perhaps"}, "stream"),
    ({"stream_options": {"usage": True}}, "stream_options.usage"),
    ({"tools": [{"type": "function"}]}, None),
    ({"response_format": {"type": "json_object"}}, None),
    ({"temprature": 1}, "temprature"),
    ({"x\ud800": 1}, None),
]


@pytest.mark.parametrize(("change", "param"), WRONG)
def test_a_conversation(served, change, param):
    body = json.dumps(HELLO | change)  # as ASCII: half a surrogate pair stays one
    told(served.client.post(CHAT, content=body, headers=JSON), 400, param)


WRONG_TEXTS = [
    ({}, "prompt"),
    ({"prompt": None}, None),
    ({"prompt": []}, None),
    ({"prompt": [[]]}, None),
    ({"prompt": ["a", "b"]}, None),
    ({"prompt": [258]}, "prompt"),
    ({"prompt": [-1]}, None),
    ({"prompt": [2**40]}, None),
    ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
    ({"prompt": "x", "logprobs": 21}, "logprobs"),
    ({"prompt": "x", "logprobs": True, "echo": 7}, "echo"),
    ({"prompt": "x", "best_of": 3}, "best_of"),
    ({"prompt": "x", "suffix": "y"}, None),
    ({"prompt": "x" * 600, "echo": True, "max_tokens": 0}, None),
]


@pytest.mark.parametrize(("body", "param"), WRONG_TEXTS)
def test_a_text(served, body, param):
    told(served.client.post(TEXT, json=body), 400, param)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": []}, None),
        ({"input": [1, 2]}, None),
        ({"input": ["a"] * 257}, None),
        ({"input": "a", "dimensions": 7}, "dimensions"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
    ],
)
def test_vectors(served, body, param):
    told(served.client.post(VECTORS, json=body), 400, param)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"hi"',
        b"\xff\xfe",
        b'{"messages": "\xc3("}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"max_tokens": ' + b"9" * 5000 + b"}",
    ],
)
@pytest.mark.parametrize("path", [CHAT, TEXT, VECTORS])
def test_what_is_no_json_object(served, path, body):
    told(served.client.post(path, content=body, headers=JSON), 400)


@pytest.mark.parametrize(("path", "name"), [(TEXT, "prompt"), (VECTORS, "input")])
def test_half_a_surrogate_pair(served, path, name):
    body = json.dumps({name: "a\ud800"})
    told(served.client.post(path, content=body, headers=JSON), 400, name)


def test_a_prompt_that_is_too_long(served):
    long = {"messages": [{"role": "user", "content": "x" * 600}]}
    told(served.chat(**long), 400, "messages", "context_length_exceeded")
    told(served.chat(max_tokens=500), 400, code="context_length_exceeded")
    prompt = {"prompt": "x" * 511, "max_tokens": 1}
    assert served.client.post(TEXT, json=prompt).status_code == 200
    told(served.client.post(TEXT, json=prompt | {"max_tokens": 2}), 400)
    told(served.client.post(TEXT, json={"prompt": "x" * 512, "max_tokens": None}), 400)


def test_an_empty_text_has_no_tokens_but_goes_on(served):
    found = served.client.post(TEXT, json={"prompt": "", "max_tokens": 2}).json()
    assert found["usage"]["prompt_tokens"] == 1  # the token between texts


def test_a_model_that_is_not_here(served):
    told(served.chat(model="gpt-9"), 404, "model", "model_not_found")
    assert served.chat(model="other").status_code == 200


def test_a_page_or_method_that_is_not_here(served):
    told(served.client.get("/v1/nothing"), 404)
    told(served.client.get(CHAT), 405)
    told(served.client.delete("/health"), 405)


def test_who_speaks_no_http(served):
    import socket

    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as sock:
        sock.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert b"400" in sock.recv(1000)


def test_errors_do_not_tell_what_was_asked(served):
    secret = "my password is hunter2"
    for body in (HELLO | {"messages": secret}, HELLO | {"stop": [secret, 5]}):
        found = httpx.post(served.url + CHAT, json=body)
        assert "hunter2" not in found.text
