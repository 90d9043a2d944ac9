"""What programs may not do: last, grow, print, call out, read, write, multiply, kill."""

import contextlib
import os
import subprocess
import sys

import pytest
from witness import Witness

from llm_eval.metrics.sandbox import OUTPUT, run_python, watch

GUARDS = run_python("", seconds=60).guards


def given_time(source):
    """The verdict on a program that does not end, once it had time enough to begin."""
    for seconds in (0.5, 4, 32):
        with contextlib.suppress(RuntimeError):  # the sandbox itself has not begun
            verdict = run_python(source, seconds=seconds)
            if verdict.output:
                break
    return verdict


def last(verdict):
    return verdict.error.strip().splitlines()[-1]


def needs(guard):
    return pytest.mark.skipif(guard not in GUARDS, reason=f"the kernel does not guard {guard} here")


def test_a_program_has_the_standard_library_and_nothing_else():
    verdict = run_python(
        "import dataclasses, decimal, hashlib, json, math, os, random, re, sys, typing\n"
        "@dataclasses.dataclass\nclass A:\n    x: 'int'\n"
        "print(A(6 * 7), __name__, sys.argv, os.listdir(), 'HOME' in os.environ)\n"
        "open('own', 'w').write('mine'); print(open('own').read()); os.remove('own')"
    )
    assert (verdict.end, verdict.code, verdict.error) == ("ended", 0, "")
    assert verdict.output == "A(x=42) __main__ ['program'] [] False\nmine\n"
    assert last(run_python("import numpy")) == "ModuleNotFoundError: No module named 'numpy'"
    assert last(run_python("input()")) == "EOFError: EOF when reading a line"


def test_a_program_runs_the_same_twice():
    source = "print({'a', 'b', 'c', 'd', 'e'}, hash('x'))"
    assert run_python(source) == run_python(source)


def test_ends_are_told_apart():
    assert run_python("raise SystemExit").end == "ended"
    assert (run_python("raise SystemExit(3)").end, run_python("x =").end) == ("error", "error")
    assert last(run_python("x = 1 / 0")) == "ZeroDivisionError: division by zero"
    assert last(run_python("\0")).startswith("SyntaxError")
    assert run_python("import os; os.abort()").end == "killed"


@pytest.mark.parametrize("source", ["while True: pass", "import time; time.sleep(1000)"])
def test_an_endless_loop_ends_and_what_it_printed_is_kept(source):
    verdict = given_time(f"print('here', flush=True)\n{source}")
    assert (verdict.end, verdict.output) == ("time", "here\n")


@pytest.mark.skipif(sys.platform != "linux", reason="macOS limits no address space")
def test_memory_is_limited():
    assert last(run_python("x = bytes(1 << 29)", seconds=60, memory=1 << 28)) == "MemoryError"
    source = "x = []\nwhile True: x.append(bytes(10**6))"
    grown = run_python(source, seconds=60, memory=1 << 28)
    assert last(grown) == "MemoryError"
    with pytest.raises(ValueError, match="memory must be at least 64 MiB, got 1000"):
        run_python("", memory=1000)


def test_output_is_limited():
    for stream in ("stdout", "stderr"):
        source = f"import sys\nwhile True: sys.{stream}.write('x' * 10000)"
        verdict = run_python(source, seconds=60)
        assert verdict.end == "output"
        assert len(verdict.output + verdict.error) <= 2 * OUTPUT
    assert last(run_python("open('big', 'w').write('x' * 10**8)")).endswith("File too large")


def test_deep_recursion_is_an_error_and_a_deeper_one_no_harm():
    assert last(run_python("def f(): f()\nf()")).startswith("RecursionError")
    deeper = "import sys; sys.setrecursionlimit(10**9)\ndef f(): f()\nf()"
    assert run_python(deeper, seconds=1, memory=1 << 28).end in ("error", "killed", "time")


@pytest.mark.parametrize(
    "source",
    [
        "import os\nwhile True: os.fork()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import os; os.posix_spawn('/bin/true', ['true'], {})",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; os.kill(os.getppid(), 0)",
        "import os; os.killpg(0, 0)",
        "import fcntl, os; fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())",
        "import os; os.chmod('.', 0o700)",
        "import os; os.chown('.', 0, 0)",
        "import os; os.utime('.')",
        "import socket; socket.socket()",
        "import socket; socket.getaddrinfo('localhost', 80)",
        "import ctypes",
        "import sys; sys._getframe(1).f_globals['ctypes'].CDLL(None)",
        "import resource as r; r.setrlimit(r.RLIMIT_CPU, (99, 99))",
    ],
)
def test_what_is_forbidden_raises(source):
    assert last(run_python(source)).startswith("PermissionError: the sandbox forbids ")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such call")
def test_nobody_is_signaled_by_a_descriptor():
    source = "import os, signal; signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 0)"
    assert "pidfd_send_signal" in last(run_python(source))
    assert run_python(source.replace("signal;", "_signal as signal;")).end == "error"


@needs("files")
def test_files_outside_are_neither_read_nor_changed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("42")
    for source in (
        f"print(open({str(secret)!r}).read())",
        f"open({str(secret)!r}, 'a')",
        f"open({str(tmp_path / 'new')!r}, 'w')",
        f"import os; os.remove({str(secret)!r})",
        f"import os; os.truncate({str(secret)!r}, 0)",
        f"import os; os.rename({str(secret)!r}, 'stolen')",
        f"import os; os.link({str(secret)!r}, 'stolen'); print(open('stolen').read())",
        f"import os; os.symlink({str(secret)!r}, 'stolen'); print(open('stolen').read())",
        f"import shutil; shutil.rmtree({str(tmp_path)!r})",
        "open('/etc/passwd')",
        f"open({__file__!r})",
    ):
        verdict = run_python(source)
        assert last(verdict).startswith(("PermissionError: ", "OSError: [Errno 18]")), source
        assert verdict.output == ""
    assert os.listdir(tmp_path) == ["secret"]
    assert secret.read_text() == "42"


# Makes a process, and a connection, behind the back of Python's audit events.
FORK = """
import _posixsubprocess, os
r, w = os.pipe()
_posixsubprocess.fork_exec([b"/bin/true"], [b"/bin/true"], True, (w,), None, None, -1, -1, -1, -1,
    -1, -1, r, w, False, False, 0, None, None, None, -1, None, False)
"""


@needs("processes")
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the call differs by version")
def test_the_kernel_makes_no_process_either():
    assert last(run_python(FORK)).startswith("BlockingIOError")


@needs("processes")
def test_the_kernel_makes_no_thread():
    source = "import threading; threading.Thread(target=print).start()"
    assert last(run_python(source)) == "RuntimeError: can't start new thread"


@needs("network")
def test_the_network_is_empty():
    """Asked of the kernel in a process that has only left its namespaces: no device is up."""
    source = (
        "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
        "from llm_eval.metrics import confine\n"
        "assert libc.unshare(confine.NEW_USER | confine.NEW_NETWORK) == 0\n"
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "s.connect(('192.0.2.1', 9))"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True)
    assert done.stderr.strip().endswith("Network is unreachable")


def test_grandchildren_end_too(tmp_path):
    """Where one could be made: here by a shell that is not confined."""
    script = f"exec 3> {tmp_path / 'pipe'}; echo >&3; sleep 200 & echo started; sleep 200"
    with Witness(tmp_path / "pipe") as witness:
        for seconds in (0.5, 4, 32):
            code, output, _ = watch(["/bin/sh", "-c", script], b"", seconds)
            if output:
                break
        assert (code, output) == (None, "started\n")
        while witness.begun():
            pass
        assert witness.ended()
    (tmp_path / "pipe").unlink()
    with Witness(tmp_path / "pipe") as witness:
        command = ["/bin/sh", "-c", script.replace("started; sleep 200", "started")]
        code, output, _ = watch(command, b"", 60)
        assert (code, output) == (0, "started\n")
        assert witness.begun()
        assert witness.ended()


def test_a_sandbox_that_does_not_start_is_no_verdict(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(RuntimeError, match="the sandbox did not start"):
        run_python("")
