"""The engine: everybody's own tokens, room for whoever comes next, and no one left waiting."""

import asyncio
import gc
import threading
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from week19.kv_cache import generate
from week19.sampling import Sampler
from week19.scheduler import Request, Scheduler
from week19.twins import small_llama
from week27.serve import Broken, Engine, Full, Stream, write

MODEL = small_llama(0)


def engine(model=MODEL, *, most=64, sharing=False, **options):
    sizes = {"n_blocks": 16, "block_size": 4, "max_batch": 3} | options
    return Engine(Scheduler(model, sharing=sharing, **sizes), most=most)


def alone(request):
    own = torch.Generator().manual_seed(request.seed)
    options = {"choose": request.choose, "stop": request.stop, "generator": own}
    return [int(t) for t in generate(MODEL, [request.prompt], request.max_new_tokens, **options)]


async def read(stream):
    return [token async for token in stream]


async def held(serving):
    """Lets the model go on; between two steps it waits until then."""
    go, waits = threading.Event(), threading.Event()
    work = asyncio.ensure_future(serving.call(lambda: waits.set() or go.wait(60)))
    await until(waits.is_set)

    async def on():
        go.set()
        await work

    return on


async def until(true, seconds=60):
    end = asyncio.get_running_loop().time() + seconds
    while not true():
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.001)


prompts = st.lists(st.integers(0, 3), min_size=1, max_size=9)


@given(
    st.lists(
        st.tuples(
            prompts,
            st.integers(1, 12),
            st.sampled_from([Sampler(temperature=0), Sampler(temperature=1.3, top_p=0.9)]),
            st.integers(0, 99),
            st.integers(0, 13),
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=15, deadline=None)
def test_some_read_to_the_end_and_some_leave(drawn):
    async def one(serving, row):
        *values, leaves = row
        stream = serving.submit(Request(*values))
        found = []
        async for token in stream:
            found.append(token)
            if len(found) == leaves:
                break
        stream.cancel()
        return found

    async def all_of_them():
        with engine() as serving:
            found = await asyncio.gather(*(one(serving, row) for row in drawn))
            await until(lambda: serving.scheduler.pool.n_free == 16)
            await until(lambda: (serving.running, serving.used_blocks) == (0, 0))
            assert not serving.active
            assert not serving._streams
            assert not serving.scheduler.finished
        return found

    for row, found in zip(drawn, asyncio.run(all_of_them()), strict=True):
        expected = alone(Request(*row[:4]))
        assert found == (expected[: row[4]] if row[4] else expected)


def test_more_than_there_is_room_for_is_refused_and_may_come_again():
    async def three():
        with engine(most=2) as serving:
            go_on = await held(serving)
            first, second = (serving.submit(Request([n], 30)) for n in (1, 2))
            with pytest.raises(Full, match="2 requests"):
                serving.submit(Request([3], 1))
            first.cancel()
            third = serving.submit(Request([3], 2))
            await go_on()
            assert len(await read(third)) == 2
            assert len(await read(second)) == 30
            assert serving.submit(Request([3], 1))

    asyncio.run(three())


def test_what_the_scheduler_refuses_is_told_to_whoever_asked():
    async def two():
        with engine() as serving:
            good, bad = serving.submit(Request([1], 2)), serving.submit(Request([99], 2))
            with pytest.raises(ValueError, match="prompt must hold tokens"):
                await read(bad)
            assert len(await read(good)) == 2
            assert not serving.active

    asyncio.run(two())


class Fails(nn.Module):
    """A model that breaks after some passes."""

    def __init__(self, passes):
        super().__init__()
        self.config, self.embed, self.left = MODEL.config, MODEL.embed, passes

    def forward(self, *args, **options):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("out of memory")
        return MODEL(*args, **options)


def test_a_broken_model_leaves_nobody_waiting():
    async def several():
        with engine(Fails(6)) as serving:
            go_on = await held(serving)
            streams = [serving.submit(Request([n], 50)) for n in range(5)]
            await go_on()
            found = await asyncio.gather(*map(read, streams), return_exceptions=True)
            assert all(isinstance(error, Broken) for error in found)
            assert isinstance(serving.error, RuntimeError)
            with pytest.raises(Broken):
                serving.submit(Request([1], 1))
            assert not serving.active

    asyncio.run(asyncio.wait_for(several(), 100))


class Slow(Fails):
    """A model that does not end its answers while a test looks away."""

    def __init__(self):
        super().__init__(10**6)

    def forward(self, *args, **options):
        time.sleep(0.1)
        return super().forward(*args, **options)


def test_closing_leaves_nobody_waiting():
    async def several():
        serving = engine(Slow())
        with serving:
            streams = [serving.submit(Request([n], 58)) for n in range(6)]
            await anext(streams[0])
        found = await asyncio.gather(*map(read, streams), return_exceptions=True)
        assert any(isinstance(error, Broken) for error in found)
        with pytest.raises(Broken):
            serving.submit(Request([1], 1))
        with pytest.raises(Broken):
            await serving.call(lambda: 1)

    asyncio.run(asyncio.wait_for(several(), 100))


def test_work_between_two_steps():
    async def ask():
        with engine() as serving:
            go_on = await held(serving)
            stream = serving.submit(Request([1], 30))
            known = asyncio.ensure_future(
                serving.call(lambda: serving.scheduler.running + serving.scheduler.waiting)
            )
            await asyncio.sleep(0)  # it has asked
            await go_on()
            assert await known == [1]
            with pytest.raises(ZeroDivisionError):
                await serving.call(lambda: 1 / 0)
            assert len(await read(stream)) == 30

    asyncio.run(ask())


def test_a_stream_stays_over():
    async def ask():
        with engine() as serving:
            stream = serving.submit(Request([1], 1))
            assert len(await read(stream)) == 1
            assert await asyncio.wait_for(read(stream), 60) == []

    asyncio.run(ask())


def test_tokens_come_while_others_are_written(monkeypatch):
    receive, order = Stream._receive, []  # as they come from the thread, whoever reads first

    def noted(self, event):
        order.append(self.request.prompt)
        receive(self, event)

    monkeypatch.setattr(Stream, "_receive", noted)

    async def ask():
        with engine() as serving:
            go_on = await held(serving)
            long, short = serving.submit(Request([1], 50)), serving.submit(Request([2], 2))
            await go_on()
            assert [len(await read(stream)) for stream in (long, short)] == [50, 2]

    asyncio.run(ask())
    assert order.index([2]) < 10


def decode(ids):
    return "".join(chr(97 + i % 26) for i in ids)


def test_text_ends_at_a_stop_and_makes_room():
    whole = decode(alone(Request([1, 2], 40)))

    async def ask(stops):
        with engine() as serving:
            request = Request([1, 2], 40)
            pieces = [piece async for piece in write(serving, request, decode, stops=stops)]
            await until(lambda: serving.scheduler.pool.n_free == 16)
            return pieces

    assert "".join(asyncio.run(ask([]))) == whole
    stop = whole[7:10]
    assert "".join(asyncio.run(ask([stop]))) == whole[: whole.find(stop)]


def test_whoever_stops_listening_makes_room():
    async def ask():
        with engine() as serving:
            pieces = write(serving, Request([1], 58), decode)
            await anext(pieces)
            await pieces.aclose()
            assert not serving.active
            await until(lambda: serving.scheduler.pool.n_free == 16)

    asyncio.run(ask())
    gc.collect()


def test_a_thread_that_idles_takes_no_time():
    async def ask():
        with engine() as serving:
            await read(serving.submit(Request([1], 2)))
            await until(lambda: serving.running == 0)
            return serving._inbox.empty(), serving._thread.is_alive()

    assert asyncio.run(ask()) == (True, True)


def test_bad_settings():
    with pytest.raises(ValueError, match="most must be at least 1"):
        engine(most=0)
