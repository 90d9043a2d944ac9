"""The load generator: it asks when it should, and counts what a waiting user would have waited."""

import asyncio
import json
import time

import numpy as np
import pytest
from scipy import stats
from serving_scripted import ScriptedBackend, running, scripted_app
from starlette.applications import Starlette
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from serving.benchmark.load import Reply, arrivals, closed_load, open_load, summary


def body(i):
    return {"messages": [{"role": "user", "content": f"Question {i}"}], "stream": True}


def served(answer):
    """An application whose one route is `answer(number of the request)`."""
    seen = []

    async def route(request):
        seen.append(time.perf_counter())
        return await answer(len(seen) - 1)

    app = Starlette(routes=[Route("/v1/chat/completions", route, methods=["POST"])])
    return app, seen


def events(*texts, done=True):
    lines = [json.dumps({"choices": [{"delta": {"content": text}}]}) for text in texts]
    lines += ["[DONE]"] if done else []
    return StreamingResponse(iter([f"data: {line}\n\n" for line in lines]))


def test_arrivals_are_a_poisson_process():
    times = arrivals(rate=50, seconds=100, seed=3)
    assert (np.diff(times) > 0).all()
    assert times[-1] < 100
    assert stats.kstest(np.diff(times), stats.expon(scale=1 / 50).cdf).pvalue > 0.01
    assert (
        stats.poisson(5000).interval(0.999)[0] < len(times) < stats.poisson(5000).interval(0.999)[1]
    )
    assert (arrivals(rate=50, seconds=100, seed=3) == times).all()


def test_requests_come_whatever_the_answers_do():
    due = arrivals(rate=60, seconds=0.5, seed=1)
    app, seen = served(lambda i: late(i))

    async def late(i):  # nobody is answered before all have asked
        end = time.monotonic() + 60
        while len(seen) < len(due) and time.monotonic() < end:
            await asyncio.sleep(0.01)
        answered.append(time.perf_counter())
        return events("a")

    answered, start = [], time.perf_counter()
    with running(app) as url:
        replies = asyncio.run(open_load(url, body, rate=60, seconds=0.5, seed=1))
    assert len(seen) == len(due) == len(replies)
    assert max(seen) < min(answered)
    assert (np.sort(seen) - start >= due).all()  # late on a slow machine, but never before its time
    assert all(r.times[0] > due[-1] for r in replies)


def test_a_late_request_has_waited_since_it_was_due():
    def slow(i):  # the client itself is too slow for its own plan
        time.sleep(0.05)
        return body(i)

    backend = ScriptedBackend()
    with running(scripted_app(backend)) as url:
        replies = asyncio.run(open_load(url, slow, rate=100, seconds=0.2, seed=1))
    assert [reply.due for reply in replies] == arrivals(rate=100, seconds=0.2, seed=1).tolist()
    found = summary(replies)
    assert found["first"]["p99"] > 0.05 * (len(replies) - 6)
    assert found["well"] == len(replies)


def test_a_closed_load_has_so_many_on_their_way_and_no_more():
    now = most = 0

    async def answer(i):
        nonlocal now, most
        now += 1
        most = max(most, now)
        end = time.monotonic() + 20
        while most < 3 and time.monotonic() < end:  # the first ones meet
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.02)
        now -= 1
        return events("a", "b")

    app, seen = served(answer)
    with running(app) as url:
        replies = asyncio.run(closed_load(url, body, clients=3, requests=12))
    assert (most, len(seen), len(replies)) == (3, 12, 12)
    assert summary(replies)["tokens_per_second"] > 0


def test_what_went_wrong_is_counted_as_such():
    answers = {
        0: lambda: events("a", "b"),
        1: lambda: JSONResponse({"error": {}}, 429),
        2: lambda: JSONResponse({"error": {}}, 500),
        3: lambda: events("a", done=False),
        4: lambda: StreamingResponse(
            iter(['data: {"error": {"message": "x"}}\n\n', "data: [DONE]\n\n"])
        ),
        5: lambda: events(),
        6: lambda: events("", "a"),
    }

    async def answer(i):
        return answers[i]()

    app, _ = served(answer)
    with running(app) as url:
        replies = asyncio.run(closed_load(url, body, clients=1, requests=len(answers)))
    assert [r.status for r in replies] == [200, 429, 500, -1, -1, 200, 200]
    found = summary(replies)
    assert [found[name] for name in ("n", "well", "refused", "failed", "left")] == [7, 2, 1, 4, 0]
    assert [len(r.times) for r in replies if r.well] == [2, 1]
    nobody = asyncio.run(closed_load(url, body, clients=1, requests=1))
    assert [r.status for r in nobody] == [0]
    assert summary(nobody)["first"] is None


def test_who_hangs_up_is_gone_for_the_server():
    backend = ScriptedBackend(["a ", "b "], finish=None)
    with running(scripted_app(backend)) as url:
        load = closed_load(url, body, clients=4, requests=4, disconnect=1.0)
        replies = asyncio.run(load)
        end = time.monotonic() + 60
        while not all(answer.cancelled for answer in backend.answers):
            assert time.monotonic() < end
            time.sleep(0.01)
    found = summary(replies)
    assert (found["left"], found["well"], found["failed"]) == (4, 0, 0)


def test_percentiles_are_values_that_were_seen():
    replies = [Reply(1.0, [1.0 + i, 2.0 + i], 2.0 + i, 200) for i in range(1, 101)]
    found = summary(replies, tokens=16)
    assert found["first"] == {"p50": 50.0, "p90": 90.0, "p99": 99.0}
    assert found["between"] == {"p50": 1.0, "p90": 1.0, "p99": 1.0}
    assert found["whole"]["p99"] == 100.0
    assert found["seconds"] == 102.0
    assert found["tokens_per_second"] == pytest.approx(1600 / 102)


def test_wrong_input():
    with pytest.raises(ValueError, match="rate must be positive, got 0"):
        arrivals(rate=0.0, seconds=1.0, seed=0)
    with pytest.raises(ValueError, match="clients must be at least 1, got 0"):
        asyncio.run(closed_load("http://localhost:1", body, clients=0, requests=1))
