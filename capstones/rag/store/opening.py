"""The beginning of a store, and the embedder that belongs to it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rag.embeddings.embedder import open_embedder
from rag.store.database import OURS, SCHEMA, Database
from rag.types import Embedder
from shared.artifacts import ArtifactError
from shared.errors import UserError


def create_in(folder: Path, settings: Mapping[str, Any]) -> None:
    """Make a folder with an empty store, in one transaction."""
    path = folder / "store.sqlite"
    ours = ("", "-wal", "-shm", "-journal")  # of a process that was killed in here
    if folder.is_dir() and {p.name for p in folder.iterdir()} - {path.name + end for end in ours}:
        raise UserError(f"{folder} is not empty: a store needs a folder of its own")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror})") from error
    database = Database(path)
    try:
        database.query("BEGIN IMMEDIATE")
        if database.query("PRAGMA application_id") != [(0,)]:
            raise UserError(f"{folder} holds a store already")
        for statement in SCHEMA.split(";"):
            database.query(statement)
        database.query(f"PRAGMA application_id = {OURS}")
        rows = ((name, json.dumps(value)) for name, value in settings.items())
        database.many("INSERT INTO settings VALUES (?, ?)", rows)
        database.query("COMMIT")
    finally:
        database.close()


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
