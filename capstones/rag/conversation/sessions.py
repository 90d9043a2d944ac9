"""Conversations that last, in the store's database, until they are forgotten.

Every call opens its own connection and is one transaction, so threads and processes may share a
session. What is forgotten is overwritten with zeros, in the write-ahead log too.

>>> import tempfile
>>> sessions = Sessions(Path(tempfile.mkdtemp()) / "rag.sqlite")
>>> sessions.append(sessions.create("tea"), Answer("Is tea hot?", "Yes. [1]"))
>>> sessions.turns("tea")
[Turn(question='Is tea hot?', answer='Yes. [1]')]
>>> sessions.forget("tea")
>>> sessions.names()
[]
"""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from rag.types import Answer, Turn
from shared.errors import UserError
from shared.require import require

TABLES = """
CREATE TABLE IF NOT EXISTS sessions (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, updated REAL NOT NULL);
CREATE TABLE IF NOT EXISTS turns (
    session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
    number INTEGER NOT NULL, answer TEXT NOT NULL, PRIMARY KEY (session, number));
"""
PATIENCE = 30  # seconds to wait for other writers
LONGEST = 200


class SessionInfo(NamedTuple):
    """A session: its number of turns, and when the last one was, in seconds since 1970."""

    name: str
    turns: int
    updated: float


class Sessions:
    """The sessions of a database file; the file and the tables are made where they are missing."""

    def __init__(self, database: Path):
        self.database = Path(database)
        with self._open() as connection:
            connection.executescript(TABLES)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction: committed at the end, rolled back at an error."""
        try:
            with closing(sqlite3.connect(self.database, timeout=PATIENCE)) as connection:
                connection.isolation_level = None
                for pragma in ("journal_mode = WAL", "foreign_keys = ON", "secure_delete = ON"):
                    connection.execute(f"PRAGMA {pragma}")
                yield connection
        except sqlite3.Error as error:
            raise UserError(f"sessions in {self.database} cannot be used: {error}") from error

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._open() as connection:
            connection.execute("BEGIN IMMEDIATE")  # what is read stays true until it is written
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                connection.execute("ROLLBACK")
                raise

    def create(self, name: str | None = None) -> str:
        """Begin a session, or go on with the one of that name; without a name it gets a new one."""
        good = name is None or (name.strip() and len(name) <= LONGEST)
        require(good, f"name must have 1 to {LONGEST} characters", repr(name)[:60])
        with self._writing() as connection:
            if name is None:
                taken = {row[0] for row in connection.execute("SELECT name FROM sessions")}
                name = next(n for i in range(len(taken) + 1) if (n := f"chat-{i + 1}") not in taken)
            new = "INSERT OR IGNORE INTO sessions (name, updated) VALUES (?, ?)"
            connection.execute(new, (name, time.time()))
        return name

    def begin(self, name: str) -> bool:
        """Begin a session of that name; False if there is one, so that no two begin the same."""
        new = "INSERT OR IGNORE INTO sessions (name, updated) VALUES (?, ?)"
        with self._writing() as connection:
            return connection.execute(new, (name, time.time())).rowcount == 1

    def names(self) -> list[SessionInfo]:
        """All sessions, the one last used first."""
        query = """SELECT name, COUNT(number), updated FROM sessions LEFT JOIN turns ON session = id
            GROUP BY id ORDER BY updated DESC, id DESC"""
        with self._open() as connection:
            return [SessionInfo(*row) for row in connection.execute(query)]

    def append(self, name: str, answer: Answer) -> None:
        """Add a turn. Of the chunks only their places are kept: their texts are the store's."""
        kept = asdict(replace(answer, hits=(), stages=()))
        kept["hits"] = [{"id": hit.chunk.id, "score": float(hit.score)} for hit in answer.hits]
        turn = """INSERT INTO turns SELECT ?1, COALESCE(MAX(number), 0) + 1, ?2 FROM turns
            WHERE session = ?1"""
        with self._writing() as connection:
            session = self._id(connection, name)
            connection.execute(turn, (session, json.dumps(kept, ensure_ascii=False)))
            used = "UPDATE sessions SET updated = ? WHERE id = ?"
            connection.execute(used, (time.time(), session))

    def answers(self, name: str) -> list[dict[str, Any]]:
        """The answers in order, as JSON knows them."""
        query = "SELECT answer FROM turns WHERE session = ? ORDER BY number"
        with self._open() as connection:
            rows = connection.execute(query, (self._id(connection, name),)).fetchall()
        return [json.loads(answer) for (answer,) in rows]

    def turns(self, name: str) -> list[Turn]:
        """What was asked and answered, in order."""
        return [Turn(answer["question"], answer["text"]) for answer in self.answers(name)]

    def export(self, name: str) -> dict[str, Any]:
        """All that is kept of a session, for JSON."""
        return {"name": name, "answers": self.answers(name)}

    def forget(self, name: str) -> None:
        """Delete a session, so that its text is in none of the database's files.

        Raises
        ------
        UserError
            There is no such session, or somebody reads for so long that its text stays in the log.
        """
        with self._writing() as connection:
            session = self._id(connection, name)
            connection.execute("DELETE FROM sessions WHERE id = ?", (session,))
        with self._open() as connection:
            busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise UserError(
                f"session {name!r} is deleted, but {self.database} is being read: its text stays"
                " in the log until the next one is forgotten"
            )

    def _id(self, connection: sqlite3.Connection, name: str) -> int:
        row = connection.execute("SELECT id FROM sessions WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise UserError(f"there is no session {name!r}")
        return row[0]
