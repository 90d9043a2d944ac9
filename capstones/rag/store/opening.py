"""The beginning of a store, and the embedder that belongs to it."""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rag.embeddings.embedder import open_embedder
from rag.store.database import OURS, SCHEMA, Database
from rag.types import Embedder
from shared.artifacts import ArtifactError
from shared.errors import UserError
from shared.files import locked

FILES = {f"store.sqlite{end}" for end in ("", "-wal", "-shm", "-journal")}
# What a first ingest that failed or was killed leaves beside them.
BESIDE = {
    f"{name}.sqlite{end}" for name in ("embeddings", "sessions") for end in ("", "-wal", "-shm")
}
BESIDE |= {"generations", "embedder"}


def is_made(folder: Path) -> bool:
    """Whether there is something; an empty folder, or a store killed as it was made, is nothing."""
    if not folder.is_dir():
        return folder.exists()
    names = {path.name for path in folder.iterdir()}
    if names - FILES or "store.sqlite" not in names:
        return bool(names)
    database = Database(folder / "store.sqlite")
    try:
        return database.query("PRAGMA application_id") != [(0,)]
    finally:
        database.close()


def create_in(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make a folder with an empty store, in one transaction; one that is empty is made anew."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if names - FILES - BESIDE or (names and "store.sqlite" not in names):
        raise UserError(f"{folder} is not empty: a store needs a folder of its own")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror})") from error
    generations = folder / "generations"
    with locked(generations) if generations.is_dir() else nullcontext():
        database = Database(folder / "store.sqlite")
        try:
            _fill(database, folder, settings)
        finally:
            database.close()


def _fill(database: Database, folder: Path, settings: Mapping[str, Any]) -> None:
    database.query("BEGIN IMMEDIATE")
    kind = database.query("PRAGMA application_id")
    if kind == [(0,)]:
        for statement in SCHEMA.split(";"):
            database.query(statement)
        database.query(f"PRAGMA application_id = {OURS}")
    else:
        number = "SELECT value FROM settings WHERE name = 'generation'"
        if kind != [(OURS,)] or database.query(number) != [("0",)]:
            raise UserError(f"{folder} holds a store already: how it is made cannot be changed")
    rows = ((name, json.dumps(value)) for name, value in settings.items())
    database.many("INSERT OR REPLACE INTO settings VALUES (?, ?)", rows)
    database.query("COMMIT")


def embedder_of(folder: Path, settings: Mapping[str, Any], given: Embedder | None) -> Embedder:
    """The embedder that was given, or else the one that the settings name, if it is the right one.

    Raises
    ------
    ArtifactError
        The store's vectors are another embedder's.
    """
    name, digest, dim = (settings[key] for key in ("embedder", "digest", "dim"))
    unfitted = given is not None and given.name == name and not given.digest
    if given is None or (digest and unfitted):
        given = open_embedder(name, saved=folder / "embedder" if digest else None)
    if digest and (digest, dim) != (given.digest, given.dim):
        ours = f"vectors of {name} ({dim} numbers, digest {digest[:8]})"
        theirs = f"{given.name} ({given.dim}, {given.digest[:8]})"
        raise ArtifactError(f"{folder} holds {ours}, not of {theirs}")
    return given
