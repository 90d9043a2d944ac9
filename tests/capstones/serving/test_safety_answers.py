"""The filter in the server: prompts are refused, answers end, whole and streamed alike."""

import json

import pytest
from fastapi.testclient import TestClient
from serving_scripted import ScriptedBackend, scripted_app

from serving.guard.guard import GuardSettings
from serving.safety.policy import Safety

KEY = "AKIAIOSFODNN7EXAMPLE"
PIECES = [
    "Write to ada",
    "@example.org. ",
    "The key is AKIA",
    "IOSFODNN7EX",
    "AMPLE here",
    ". Bye.",
]


def toxic(sentence):
    return "fool" in sentence


def server(safety, pieces=PIECES):
    backend = ScriptedBackend(list(pieces))
    return TestClient(scripted_app(backend, safety), base_url="http://localhost"), backend


def ask(client, content="Hello", **more):
    body = {"messages": [{"role": "user", "content": content}], **more}
    return client.post("/v1/chat/completions", json=body)


def chunks(response):
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [choice for line in lines for choice in json.loads(line)["choices"]]


@pytest.mark.parametrize(
    ("safety", "text", "finish"),
    [
        (Safety("off"), "".join(PIECES), "stop"),
        (Safety("warn"), "".join(PIECES), "stop"),
        (Safety("block"), "Write to ada@example.org. The key is ", "content_filter"),
        (Safety("block", redact=True), "Write to [EMAIL]. The key is ", "content_filter"),
    ],
    ids=["off", "warn", "block", "redact"],
)
def test_whole_and_streamed_say_the_same(safety, text, finish):
    client, _ = server(safety)
    with client:
        choice = ask(client).json()["choices"][0]
        streamed = chunks(ask(client, stream=True))
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, finish)
    assert "".join(c["delta"].get("content", "") for c in streamed) == text
    assert [c["finish_reason"] for c in streamed if c["finish_reason"]] == [finish]
    reason = "token" if finish == "content_filter" else None
    assert choice["message"].get("content_filter") == reason
    assert streamed[-1]["delta"].get("content_filter") == reason


def test_what_is_blocked_is_no_longer_written():
    client, backend = server(Safety("block"), [*PIECES, *["more "] * 50])
    with client:
        ask(client)
    (answer,) = backend.answers
    assert answer.cancelled
    assert answer.n_written <= len(PIECES)


def test_completions_are_filtered_too():
    client, _ = server(Safety("block"))
    with client:
        choice = client.post("/v1/completions", json={"prompt": "Hello"}).json()["choices"][0]
    assert choice["text"] == "Write to ada@example.org. The key is "
    assert choice["finish_reason"] == "content_filter"


def test_each_of_several_answers_has_its_own_filter():
    client, backend = server(Safety("block"), ["It ", "rains ", "to", "day"])
    backend.pause = 0.01
    with client:
        found = ask(client, n=3).json()["choices"]
    assert [c["message"]["content"] for c in found] == ["It rains today"] * 3
    client, _ = server(Safety("block", toxic=toxic), ["It rains. ", "You fool", ". Bye."])
    with client:
        found = ask(client, n=3).json()["choices"]
    assert [c["message"]["content"] for c in found] == ["It rains. "] * 3
    assert [c["message"]["content_filter"] for c in found] == ["toxic"] * 3


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", {"messages": [{"role": "user", "content": f"Use {KEY} now"}]}),
        ("chat/completions", {"messages": [{"role": "system", "content": "You fool."}]}),
        ("chat/completions", {"messages": [{"role": "user", "content": x} for x in (KEY, "Hi")]}),
        ("completions", {"prompt": f"Use {KEY} now", "echo": False}),
    ],
)
def test_a_prompt_with_a_reason_is_refused_before_it_is_begun(path, body):
    client, backend = server(Safety("block", toxic=toxic))
    with client:
        response = client.post(f"/v1/{path}", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "content_filter"
    assert KEY not in response.text
    assert not backend.asked


def test_what_the_model_said_before_is_no_reason():
    client, _ = server(Safety("block", toxic=toxic), ["Fine."])
    turns = [{"role": "assistant", "content": "You fool."}, {"role": "user", "content": "Why?"}]
    with client:
        response = client.post("/v1/chat/completions", json={"messages": turns})
    assert response.json()["choices"][0]["message"]["content"] == "Fine."


def test_log_probabilities_do_not_tell_what_is_held_back():
    client, backend = server(Safety("block"))
    with client:
        chat = ask(client, logprobs=True)
        text = client.post("/v1/completions", json={"prompt": "Hi", "logprobs": 1})
    assert [chat.status_code, text.status_code] == [400, 400]
    assert chat.json()["error"]["param"] == "logprobs"
    assert not backend.asked


def test_what_goes_beside_the_text_is_filtered_too():
    client, backend = server(Safety("block", redact=True), ["It rains."])
    quotes = [{"number": 1, "quote": f"Key {KEY} fits."}, {"number": 2, "quote": "ada@example.org"}]
    backend.extra = {"citations": quotes, "abstained": False}
    with client:
        message = ask(client).json()["choices"][0]["message"]
    assert message["content"] == "It rains."
    assert [each["quote"] for each in message["citations"]] == [None, "[EMAIL]"]
    assert [message["abstained"], message["citations"][1]["number"]] == [False, 2]


def test_the_log_says_the_reason_and_nothing_of_the_text():
    lines = []
    guard = GuardSettings(log=lines.append)
    app = scripted_app(ScriptedBackend(list(PIECES)), Safety("warn"), guard)
    with TestClient(app, base_url="http://localhost") as client:
        ask(client)
        ask(client, stream=True)
    assert [line["safety"] for line in lines] == [["token"], ["token"]]
    assert "AKIA" not in json.dumps(lines)


def test_warn_counts_and_lets_pass():
    client, _ = server(Safety("warn", toxic=toxic))
    with client:
        assert ask(client, "You fool").status_code == 200
        metrics = client.get("/metrics").text
    found = [line for line in metrics.splitlines() if line.startswith("vllm:safety_total")]
    assert len(found) == 2
    assert any('reason="toxic",where="prompt"} 1.0' in line for line in found)
    assert any('reason="token",where="answer"} 1.0' in line for line in found)
    assert all('action="warn"' in line for line in found)
