"""The commands that look after a store and its conversations."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from rag.options import Json
from rag.terminal import DEFAULT, console, open_store, put, show_table
from shared import pretrained
from shared.artifacts import ArtifactError
from shared.errors import UserError

if TYPE_CHECKING:
    from rag.conversation.sessions import Sessions

PARTS = ("faiss-cpu", "torch", "sentence-transformers", "pypdf", "python-docx", "fastapi")
EXTRAS = ("langchain-core", "transformers", "psycopg", "pgvector")


def doctor(*, store: Path = DEFAULT, json_: Json = False) -> int:
    """Verify a store and say what is installed.

    Parameters
    ----------
    store
        The store's folder.
    json_
        Print one JSON object.
    """
    from rag.store.store import Store

    found = installed()
    problems = []
    if store.exists() or store != DEFAULT:
        with Store.open(store) as opened:
            problems = opened.verify()
    if json_:
        put({"installed": found, "store": str(store), "problems": problems})
    else:
        show_table(["part", "state"], list(found.items()))
        for problem in problems:
            console.print(f"{store}: {problem}")
        if not problems:
            state = "as it was written" if store.exists() else "not made yet; any command makes it"
            console.print(f"{store}: {state}")
    return ArtifactError.status if problems else 0


def stats(*, store: Path = DEFAULT, json_: Json = False) -> None:
    """Say what a store holds.

    Parameters
    ----------
    store
        The store's folder.
    json_
        Print one JSON object.
    """
    with open_store(store) as opened:
        facts = opened.stats()
    if json_:
        put(facts)
    else:
        show_table(["", ""], [[name, str(value)] for name, value in facts.items()])


def compact(*, store: Path = DEFAULT, json_: Json = False) -> None:
    """Give back the room that deleted and replaced documents still take.

    Parameters
    ----------
    store
        The store's folder.
    json_
        Print one JSON object.
    """
    with open_store(store) as opened:
        freed = opened.compact()
    put({"freed": freed}) if json_ else console.print(f"{store}: {freed:,} bytes less")


def export(*, out: Path, store: Path = DEFAULT, json_: Json = False) -> None:
    """Write documents, passages and vectors as JSON lines and .npy, for other programs.

    Parameters
    ----------
    out
        The folder to write.
    store
        The store's folder.
    json_
        Print one JSON object.
    """
    with open_store(store) as opened:
        opened.export(out)
    put({"out": str(out)}) if json_ else console.print(f"{out}: written")


def list_sessions(*, store: Path = DEFAULT, json_: Json = False) -> None:
    """List conversations, the last one first."""
    with _sessions(store) as kept:
        found = kept.names()
    if json_:
        put([info._asdict() for info in found])
    else:
        when = [f"{datetime.fromtimestamp(info.updated):%Y-%m-%d %H:%M}" for info in found]
        rows = [[i.name, str(i.turns), at] for i, at in zip(found, when, strict=True)]
        show_table(["name", "turns", "updated"], rows)


def export_session(name: str, *, store: Path = DEFAULT, json_: Json = True) -> None:
    """Print all that is kept of a conversation, as JSON, also without --json."""
    with _sessions(store) as kept:
        put(kept.export(name))


def forget_sessions(*names: str, store: Path = DEFAULT, json_: Json = False) -> None:
    """Delete conversations for good."""
    with _sessions(store) as kept:
        for name in names:
            kept.forget(name)
            if not json_:
                console.print(f"forgot {name}")
    if json_:
        put({"forgot": names})


@contextmanager
def _sessions(folder: Path) -> Iterator["Sessions"]:
    from rag.conversation.talking import sessions_of

    with open_store(folder) as opened:
        yield sessions_of(opened)


def installed() -> dict[str, str]:
    """Each part that the program uses: its version, or that it is missing."""
    found = {"python": platform.python_version()}
    for name in (*PARTS, *EXTRAS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing" + (" (only for some uses)" if name in EXTRAS else "")
    for name in ("minilm", "smollm2"):
        try:
            found[name] = f"weights in {getattr(pretrained, name)().name}"
        except UserError as error:
            found[name] = str(error)
    return found
