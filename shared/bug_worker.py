"""Run pytest again and again without importing the heavy libraries again: `study bugs`' engine.

Reads one JSON list of pytest arguments a line on standard input, runs them in a forked child and
answers with one JSON line: [exit status, tail of the output]. Nothing of the project is imported
before the fork, so each child sees the sources as they are then.
"""

import contextlib
import importlib
import json
import os
import sys
import tempfile


def serve() -> None:
    """Import what the arguments name, then answer requests until standard input ends."""
    for name in sys.argv[1:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        with tempfile.TemporaryFile() as output:
            child = os.fork()
            if child == 0:
                _run(json.loads(line), output.fileno())
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            output.seek(0)
            tail = output.read().decode(errors="replace")[-3000:]
        sys.stdout.write(json.dumps([status, tail]) + "\n")
        sys.stdout.flush()


def _run(arguments: list[str], output: int) -> None:
    os.dup2(output, 1)
    os.dup2(output, 2)
    status = 3  # pytest's own status for an internal error
    try:
        import pytest

        status = int(pytest.main(arguments))
    finally:
        sys.stdout.flush()
        os._exit(status)


if __name__ == "__main__":
    serve()
