"""Files that survive a crash: what was written is on the disk, or the old content still is."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from shared.errors import UserError

__all__ = ["locked", "sync_folder", "write_atomic", "write_synced"]


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write one file so that its name holds the old content or the new, nothing between.

    Parameters
    ----------
    path
        The file; its folder must exist.
    data
        Its content; a str is written as UTF-8, line ends as they are.

    Raises
    ------
    UserError
        The file cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        write_synced(temporary, data.encode("utf-8") if isinstance(data, str) else data)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror or error})") from error
    finally:  # also on KeyboardInterrupt; there is nothing to remove after the rename
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_synced(path: Path, data: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    with path.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system lets go when the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot lock folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
