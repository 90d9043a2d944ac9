"""Week 28's assistants behind OpenAI's interface, with one whose lines are written down."""

import threading

import pytest
from serving_small import Served, events, wait

from serving.engine.backend import Limits
from serving.engine.metrics import Metrics
from serving.models.assistants import AssistantBackend
from serving.server import open_backend
from shared.errors import UserError


class Scripted:
    """Says how many turns it was told, and the last one."""

    def __init__(self):
        self.told, self.is_open = [], False

    def opened(self):
        self.is_open = True

    def reply(self, messages):
        self.told.append([dict(m) for m in messages])
        last = messages[-1]["content"]
        if last == "bad":
            raise UserError("no answer\nto that")
        if last == "worse":
            raise RuntimeError("secret")
        return f"{len(messages)}: {last}"


@pytest.fixture
def served():
    scripted = Scripted()
    metrics = Metrics("week28")
    load = lambda: AssistantBackend("verilog", Limits(), metrics, given=scripted)  # noqa: E731
    with Served(load=load) as server:
        server.scripted = scripted
        yield server


def ask(served, *turns, **more):
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]
    return served.client.post("/v1/chat/completions", json={"messages": messages, **more})


def test_a_conversation_is_answered_whole(served):
    found = ask(served, "a latch?", "yes", "and a mux?").json()
    choice = found["choices"][0]
    assert choice["message"]["content"] == "3: and a mux?"
    assert choice["finish_reason"] == "stop"
    assert served.scripted.is_open
    roles = [m["role"] for m in served.scripted.told[0]]
    assert roles == ["user", "assistant", "user"]


def test_a_stream_is_the_whole_and_ends(served):
    text = ask(served, "hello", stream=True).text
    chunks = events(text)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("content", "") for delta in deltas) == "1: hello"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert text.rstrip().endswith("data: [DONE]")


def test_what_an_assistant_refuses_is_the_requests_mistake(served):
    found = ask(served, "bad")
    assert found.status_code == 400
    assert found.json()["error"]["message"].startswith("no answer to that")
    found = ask(served, "worse")
    assert found.status_code == 500
    assert "secret" not in found.text
    assert ask(served, "good").status_code == 200  # it goes on


@pytest.mark.parametrize("more", [{"n": 2}, {"logprobs": True}, {"stop": "x"}])
def test_what_it_cannot_do_is_named(served, more):
    found = ask(served, "hello", **more)
    assert (found.status_code, found.json()["error"]["param"]) == (400, next(iter(more)))
    assert not served.scripted.told


def test_texts_are_not_completed(served):
    found = served.client.post("/v1/completions", json={"prompt": "x"})
    assert found.status_code == 400
    assert "assistants are asked at /v1/chat/completions" in found.json()["error"]["message"]


def test_one_at_a_time():
    inside, most, lock = [0], [0], threading.Lock()
    go = threading.Event()

    class Slow:
        def reply(self, messages):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            go.wait(60)
            with lock:
                inside[0] -= 1
            return "x"

    load = lambda: AssistantBackend("teacher", Limits(), Metrics("t"), given=Slow())  # noqa: E731
    with Served(load=load) as served:
        asking = [threading.Thread(target=ask, args=(served, "hi")) for _ in range(3)]
        for thread in asking:
            thread.start()
        wait(lambda: served.service.active == 3)
        go.set()
        for thread in asking:
            thread.join(60)
    assert most[0] == 1


def test_names():
    must = "assistant must be one of verilog, teacher, circuits, got 'gpt'"
    with pytest.raises(UserError, match=must):
        open_backend("week28:gpt", Limits(), Metrics("x"))
