"""Absurd requests: the server survives them, and the fuzzer sees it when one does not."""

import asyncio
import collections
import random
import threading
import time

import httpx
import pytest
from serving_scripted import ScriptedBackend, running, scripted_app
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from serving.api.app import create_app
from serving.api.service import Service
from serving.benchmark import fuzz as fuzzing
from serving.benchmark.fuzz import PATHS, body, from_schema, fuzz
from serving.engine.backend import Limits, TokenBackend
from serving.engine.metrics import Metrics
from serving.models.opening import open_model


@pytest.fixture(scope="module")
def server():
    metrics = Metrics("dummy")
    load = lambda: TokenBackend(open_model("dummy"), Limits(), metrics)  # noqa: E731
    with running(create_app(Service(load, ["dummy"], metrics))) as url:
        while httpx.get(f"{url}/ready").status_code != 200:  # the model is loaded meanwhile
            time.sleep(0.05)
        yield url


def test_no_absurd_request_is_a_5xx_or_hangs(server, monkeypatch):
    monkeypatch.setattr(fuzzing, "PATIENCE", 170.0)
    monkeypatch.setattr(fuzzing, "SETTLING", 600)
    found = asyncio.run(fuzz(server, requests=200, seed=1))
    assert found["failures"] == []
    assert found["sound"]
    assert sum(found["statuses"].values()) == found["n"] == 200
    assert {"200", "400", "404"} <= set(found["statuses"])
    assert {"413", "cut"} & set(found["statuses"])  # a body too long is refused, heard or not


def test_nothing_that_schemathesis_derives_is_a_5xx(server):
    found = from_schema(server, examples=3)
    assert found["failures"] == []
    assert found["n"] >= 9
    assert {"200", "400"} <= set(found["statuses"])


def test_bodies_are_of_many_kinds():
    rng = random.Random(0)
    bodies = [body(rng, rng.choice(PATHS)) for _ in range(400)]
    kinds = collections.Counter()
    for data in bodies:
        try:
            text = data.decode()
        except UnicodeDecodeError:
            kinds["no utf-8"] += 1
            continue
        kinds["long"] += len(data) > 2**20
        kinds["deep"] += "[" * 1000 in text
        kinds["half"] += not text.rstrip().endswith("}")
    assert len(set(bodies)) > 250
    assert all(kinds[name] for name in ("no utf-8", "long", "deep", "half"))


def mended(answer):
    """A server that is sound but for what `answer` does to a third of the requests."""
    n = 0

    async def route(request):
        nonlocal n
        n += 1
        bad = n % 3 == 0
        await request.body()
        return await answer() if bad else JSONResponse({})

    async def metrics(request):
        return Response("")

    routes = [Route("/metrics", metrics), Route("/{path:path}", route, methods=["POST"])]
    return Starlette(routes=routes)


@pytest.mark.parametrize(
    ("answer", "status", "what"),
    [
        (lambda: JSONResponse({"error": {"message": "oh"}}, 500), "500", "oh"),
        (lambda: JSONResponse({"detail": "oh"}, 400), "400", "status 400 in no known shape"),
        (lambda: Response("data: {}\n\n", media_type="text/event-stream"), "200", "without an end"),
        (None, "hang", "no answer"),
    ],
    ids=["500", "shape", "end", "hang"],
)
def test_the_fuzzer_sees_what_may_not_happen(answer, status, what, monkeypatch):
    monkeypatch.setattr(fuzzing, "PATIENCE", 60.0 if answer else 1.0)
    over = threading.Event()

    async def answered():
        while answer is None and not over.is_set():
            await asyncio.sleep(0.05)
        return JSONResponse({}) if answer is None else answer()

    with running(mended(answered)) as url:
        try:
            found = asyncio.run(fuzz(url, requests=12, clients=12, seed=2))
        finally:
            over.set()
    assert found["n_failures"] == len(found["failures"]) > 0
    assert {(f["status"], what in f["what"]) for f in found["failures"]} == {(status, True)}


@pytest.mark.parametrize(("times", "status"), [(1, "200"), (2, "lost")])
def test_what_is_lost_is_asked_again_once(times, status):
    asked = []

    def answer(request):
        asked.append(request.content)
        if len(asked) <= times:
            raise httpx.ReadError("")
        return httpx.Response(200, json={})

    async def sent():
        async with httpx.AsyncClient(
            base_url="http://test", transport=httpx.MockTransport(answer)
        ) as client:
            return await fuzzing._sent(client, random.Random(0))

    assert asyncio.run(sent())[0] == status
    assert len(asked) == 2
    assert asked[0] == asked[1]


def test_a_request_that_never_ends_is_seen(monkeypatch):
    monkeypatch.setattr(fuzzing, "SETTLING", 600)
    backend = ScriptedBackend()
    app = scripted_app(backend)
    running_now = app.state.service.metrics.running

    async def sound():
        async with httpx.AsyncClient(base_url=url) as client:
            return await fuzzing.is_sound(client)

    with running(app) as url:
        assert asyncio.run(sound())
        running_now.set(1)
        monkeypatch.setattr(fuzzing, "SETTLING", 3)
        assert not asyncio.run(sound())
