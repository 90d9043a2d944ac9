"""Readers that leave, come too many, or wait too long; a model that fails."""

import json
import threading

import httpx
import pytest
from serving_small import HELLO, Served, connection, events, wait

from serving.engine.backend import Limits


@pytest.fixture
def served():
    with Served(Limits(max_num_seqs=2, max_queue=2)) as served:
        yield served


LONG = HELLO | {"max_tokens": 400, "ignore_eos": True}
SLOWLY = 0.05  # seconds per token: a long answer does not end before its reader leaves


def free(served):
    """All blocks but those that are only kept for sharing, and nobody there."""
    return (served.service.active, served.engine.running, served.engine.used_blocks) == (0, 0, 0)


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_while_the_answer_is_written(served, stream):
    served.held.holds_after = 5
    with connection(served, LONG | {"stream": stream}):
        wait(lambda: served.held.passes > 5)
        assert served.engine.used_blocks > 0
    wait(lambda: served.service.active == 0)
    served.held.go.set()
    wait(lambda: free(served))
    assert served.held.passes <= 7  # the token of that moment, and the rest of that step
    assert served.metric("vllm:request_success_total", finished_reason="abort") == 1
    wait(lambda: len(served.lines) > 0)


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_while_the_prompt_is_read(served, stream):
    served.held.go.clear()
    with connection(served, LONG | {"stream": stream}):
        wait(lambda: served.held.passes == 1)
    wait(lambda: served.service.active == 0)
    served.held.go.set()
    wait(lambda: free(served))
    assert served.held.passes <= 2  # the prompt, and the rest of that step


@pytest.mark.parametrize("stream", [True, False])
def test_leaving_while_waiting(served, stream):
    served.held.pause = SLOWLY
    with connection(served, LONG), connection(served, LONG):
        wait(lambda: served.engine.running == 2)
        with connection(served, LONG | {"stream": stream}):
            wait(lambda: served.service.active == 3)
            assert served.metric("vllm:num_requests_waiting") == 1
        wait(lambda: served.service.active == 2)
    wait(lambda: free(served))


def test_who_leaves_makes_room_for_the_next(served):
    served.held.pause = SLOWLY
    with connection(served, LONG), connection(served, LONG):
        wait(lambda: served.engine.running == 2)
        found = []
        asking = threading.Thread(target=lambda: found.append(served.chat(max_tokens=2)))
        asking.start()
        wait(lambda: served.service.active == 3)
    asking.join(60)
    assert found[0].status_code == 200


def test_one_of_several_answers_leaves_with_the_others(served):
    served.held.pause = SLOWLY
    with connection(served, LONG | {"n": 2, "stream": True}):
        wait(lambda: served.engine.running == 2)
    wait(lambda: free(served))


def test_too_many_are_told_to_come_again(served):
    served.held.go.clear()
    with connection(served, LONG), connection(served, LONG), connection(served, LONG):
        with connection(served, LONG):
            wait(lambda: served.service.active == 4)
            for stream in (False, True):
                refused = served.chat(stream=stream)
                assert refused.status_code == 429
                assert int(refused.headers["Retry-After"]) >= 1
                assert refused.json()["error"]["type"] == "rate_limit_error"
        wait(lambda: served.service.active == 3)
        assert served.chat(n=2).status_code == 429  # there is room for one
        assert served.service.active == 3
    served.held.go.set()
    wait(lambda: free(served))
    assert served.chat().status_code == 200


def test_an_answer_that_takes_too_long():
    with Served(deadline=0.6) as served:
        served.held.go.clear()
        late = served.chat()
        assert late.status_code == 504
        assert late.json()["error"]["code"] == "deadline_exceeded"
        found = served.chat(stream=True)
        assert found.status_code == 200  # the head was sent before
        assert events(found.text)[-1]["error"]["code"] == "deadline_exceeded"
        served.held.go.set()
        wait(lambda: free(served))
        served.service.deadline = 60
        assert served.chat(max_tokens=1).status_code == 200


def test_a_deadline_is_of_the_whole_answer():
    with Served(deadline=0.6) as served:
        served.held.pause = 0.15  # each token comes in time
        assert served.chat(max_tokens=40).status_code == 504
        wait(lambda: free(served))


def test_a_server_that_leaves_takes_no_requests(served):
    served.service.leaving = True
    for stream in (False, True):
        refused = served.chat(stream=stream)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert int(refused.headers["Retry-After"]) >= 1
    assert served.client.post("/v1/embeddings", json={"input": "tea"}).status_code == 503
    assert served.client.get("/health").status_code == 200
    assert served.client.get("/ready").status_code == 503


def test_a_model_that_fails_in_the_middle(served):
    lines = []

    def ask():
        with httpx.stream(
            "POST", f"{served.url}/v1/chat/completions", json=LONG | {"stream": True}
        ) as r:
            lines.append(r.read().decode())

    served.held.fails_after = 5
    asking = threading.Thread(target=ask)
    asking.start()
    asking.join(60)
    found = events(lines[0])
    assert found[-1]["error"]["code"] == "engine_dead"
    assert "secret" not in lines[0]
    for stream in (False, True):
        dead = served.chat(stream=stream)
        assert (dead.status_code, dead.json()["error"]["code"]) == (500, "engine_dead")
    assert served.client.get("/health").status_code == 503
    assert served.client.get("/ready").status_code == 503
    assert served.service.active == 0


def test_a_model_that_is_being_loaded():
    go = threading.Event()

    def load():
        go.wait(60)
        raise ValueError("no weights")

    served = Served(load=load)
    served.thread.start()
    wait(lambda: served.server.started)
    port = served.server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        assert client.get("/health").status_code == 200
        assert client.get("/ready").status_code == 503
        early = client.post("/v1/chat/completions", json=HELLO)
        assert (early.status_code, early.json()["error"]["code"]) == (503, "loading")
        assert int(early.headers["Retry-After"]) >= 1
        go.set()
        wait(lambda: served.service.failure)
        assert client.get("/health").status_code == 503
    served.server.should_exit = True
    served.thread.join()


def test_who_leaves_costs_no_more_than_a_step_each(served):
    for i in range(30):
        with connection(served, LONG | {"stream": i % 2 == 0}):
            pass
    wait(lambda: free(served))
    assert served.chat().status_code == 200
    assert not served.engine._streams
    wait(lambda: len(served.server.server_state.connections) <= 1)


def test_the_numbers_of_the_server(served):
    assert served.chat().status_code == 200
    text = served.client.get("/metrics").text
    for name, value in {
        "vllm:num_requests_running": 0,
        "vllm:num_requests_waiting": 0,
        "vllm:generation_tokens_total": 8,
        "vllm:request_success_total": 1,
        "vllm:time_to_first_token_seconds_count": 1,
        "vllm:inter_token_latency_seconds_count": 7,
        "vllm:e2e_request_latency_seconds_count": 1,
    }.items():
        wait(lambda n=name, v=value: served.metric(n) == v)  # the engine counts after it has sent
    assert served.metric("vllm:prompt_tokens_total") > 10
    assert served.metric("vllm:kv_cache_usage_perc") == 0
    assert "# TYPE vllm:time_to_first_token_seconds histogram" in text
    served.held.pause = SLOWLY
    with connection(served, LONG):
        wait(lambda: served.engine.running == 1)
        assert served.metric("vllm:num_requests_running") == 1
        assert 0 < served.metric("vllm:kv_cache_usage_perc") <= 1


def test_a_stream_says_all_before_its_end(served):
    lines = served.chat(stream=True, stream_options={"include_usage": True}).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    usage = json.loads(lines[-3].removeprefix("data: "))
    assert usage["usage"]["completion_tokens"] == 8
