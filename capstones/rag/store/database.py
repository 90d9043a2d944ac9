"""The SQLite file, which is the only truth: what it does not say has not happened."""

import sqlite3
from pathlib import Path

from shared.artifacts import ArtifactError
from shared.errors import UserError

OURS = 0x72616731  # "rag1" in the file's header
SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE documents (
    id TEXT PRIMARY KEY, digest BLOB, title TEXT, text TEXT, metadata TEXT, pages TEXT
);
CREATE TABLE metadata (id INTEGER PRIMARY KEY, content TEXT UNIQUE);
CREATE TABLE chunks (
    row INTEGER PRIMARY KEY, document TEXT, start INTEGER, end INTEGER, heading TEXT,
    metadata INTEGER, digest BLOB
);
CREATE INDEX chunks_of ON chunks (document, row);
CREATE INDEX chunks_with ON chunks (metadata);
"""


PATIENCE = 60  # seconds to wait for other writers


class Database:
    """A connection whose errors name the file, in one line."""

    def __init__(self, path: Path):
        self.path = Path(path)
        try:
            # Threads may share it: SQLite lets one statement run after the other.
            self._connection = sqlite3.connect(
                self.path, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise UserError(f"{self.path} cannot be opened ({error})") from error
        try:
            self.query("PRAGMA journal_mode = WAL")
            # The old generation is removed after a commit, so that must not be lost: FULL.
            self.query("PRAGMA synchronous = FULL")
            self.query("PRAGMA secure_delete = ON")
        except BaseException:
            self.close()
            raise

    @property
    def in_transaction(self) -> bool:
        """Whether a state is held."""
        return self._connection.in_transaction

    def query(self, statement: str, values: tuple | list | dict = ()) -> list[tuple]:
        """All rows that a statement gives."""
        try:
            return self._connection.execute(statement, values).fetchall()
        except (sqlite3.Error, OverflowError, UnicodeError) as error:
            raise self.told(error) from error

    def many(self, statement: str, rows) -> None:
        """Run a statement for each row of values."""
        try:
            self._connection.executemany(statement, rows)
        except sqlite3.Error as error:
            raise self.told(error) from error

    def told(self, error: Exception) -> UserError:
        """What a user should read of an error."""
        if isinstance(error, sqlite3.OperationalError) and "malformed" not in str(error):
            return UserError(f"{self.path} cannot be used now ({error})")
        return ArtifactError(f"{self.path} was altered or is torn ({error})")

    def cut_log(self) -> None:
        """Empty the log, where deleted texts still stand, unless somebody reads from it."""
        self.query("PRAGMA busy_timeout = 0")
        self.query("PRAGMA wal_checkpoint(TRUNCATE)")
        self.query(f"PRAGMA busy_timeout = {PATIENCE * 1000}")

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()


def cut_log(folder: Path) -> None:
    """Empty the log of a store that nobody in this process has open."""
    database = Database(folder / "store.sqlite")
    try:
        database.cut_log()
    finally:
        database.close()
