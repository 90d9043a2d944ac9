"""Runs a Python program that nobody has read, such as a model's, so that it can do little harm.

The program gets a fresh folder, an empty environment, no input, the standard library, and limits of
time, memory, files and output. On Linux the kernel gives it no network, lets it read nothing but
the standard library, change nothing outside its folder (Landlock, from 5.13) and start no process
or thread; Python itself refuses the same by an audit hook, which is all there is elsewhere. When it
ends, its whole session is killed. No privileges are needed.

>>> run_python("print(6 * 7)").output
'42\\n'
>>> run_python("while True: pass", seconds=0.5).end
'time'
>>> run_python("import socket; socket.socket()").error.splitlines()[-1]
'PermissionError: the sandbox forbids socket.__new__'

What it does **not** stop: a program that sets out to escape, by a hole in the kernel or by forging
objects in memory until the hook is gone. Without Landlock (`files` is not in `guards`) a program
can read and change what you can. For root the kernel counts no processes (`processes` is not in
`guards`): do not run it as root. macOS limits no memory. The folder may be filled while the time
lasts. Programs that somebody may have written against you belong in a virtual machine.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from shared.errors import UserError
from shared.require import require

OUTPUT = 1 << 20  # bytes of a file, and of what is printed
End = Literal["ended", "error", "time", "output", "killed"]


@dataclass(frozen=True)
class Verdict:
    """What became of a program.

    Attributes
    ----------
    end
        ended: with code 0, be it by `sys.exit` half-way. error: with another code, as by an
        exception. time, output: it had too much of them and was ended. killed: by a signal, as of
        a stack that overflows.
    code
        Of the process; minus the signal's number if it was killed.
    output, error
        What was printed; bytes that are no UTF-8 are replaced.
    guards
        What the kernel enforced of network, files and processes; Python's hook stood before each.
    """

    end: End
    code: int
    output: str
    error: str
    guards: tuple[str, ...]


def run_python(source: str, *, seconds: float = 5.0, memory: int = 1 << 30) -> Verdict:
    """Run a program to its end, or to one of its limits.

    Parameters
    ----------
    seconds
        By the clock, and one more of the processor.
    memory
        Bytes of address space.

    Raises
    ------
    UserError
        This system has no resource limits.
    """
    require(seconds > 0, "seconds must be above 0", seconds)
    require(memory >= 1 << 26, "memory must be at least 64 MiB", memory)
    if os.name != "posix":
        raise UserError("programs of a model are run only on Linux and macOS")
    # As isolated as -I, but that hashes, and so the order of sets, are the same in each run.
    python = [sys.executable, "-s", "-S", "-P", "-B", "-X", "utf8"]
    script = str(Path(__file__).with_name("confine.py").resolve())
    command = [*python, script, str(seconds), str(memory), str(OUTPUT)]
    code, output, error = watch(command, source.encode(errors="replace"), seconds)
    guards, _, error = error.partition("\n")
    if not guards.startswith("["):
        raise RuntimeError(f"the sandbox did not start: {guards} {error}")
    return Verdict(_end(code, output, error), code or 0, output, error, tuple(json.loads(guards)))


def watch(command: Sequence[str], text: bytes, seconds: float) -> tuple[int | None, str, str]:
    """Run a command in a session and folder of its own, and kill all of it in the end.

    Returns
    -------
    code, output, error
        None as code if time ran out. Of what is printed, the beginning.
    """
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as error,
    ):
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={"PYTHONHASHSEED": "0"},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=error,
            start_new_session=True,
        )
        try:
            process.communicate(text, timeout=seconds)
            code = process.returncode
        except subprocess.TimeoutExpired:
            code = None
        finally:
            _kill(process)
        return code, _beginning(output), _beginning(error)


def _kill(process: subprocess.Popen) -> None:
    try:
        os.killpg(process.pid, signal.SIGKILL)  # children too, and what outlived their parent
    except (ProcessLookupError, PermissionError):  # nobody is left; macOS says it of zombies
        process.kill()
    process.wait()


def _beginning(file) -> str:
    file.seek(0)
    return file.read(OUTPUT).decode(errors="replace")


def _end(code: int | None, output: str, error: str) -> End:
    if code is None or code == -signal.SIGXCPU:
        return "time"
    if code and max(len(output), len(error)) >= OUTPUT // 4:  # up to four bytes a character
        return "output"
    return "ended" if code == 0 else "error" if code > 0 else "killed"
