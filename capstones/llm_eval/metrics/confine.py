"""Runs the Python program on standard input, confined: the inside of `sandbox.py`.

It is started as a process of its own and imports nothing of ours. First it gives up rights, one
after the other, then it runs the program in itself, so that no interpreter has to be started again
with fewer rights than that takes. What the kernel enforces here is told on the first line of
standard error.

    python -s -S -P confine.py SECONDS MEMORY OUTPUT < program.py
"""

import ctypes
import json
import math
import os
import resource
import signal
import sys
import types

# Linux's numbers: prctl(2), unshare(2), landlock(7); the latter's are the same on every machine.
PDEATHSIG, NO_NEW_PRIVILEGES = 1, 38
NEW_USER, NEW_NETWORK = 0x1000_0000, 0x4000_0000
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
READ = 0b1100  # files and folders
EVERYTHING = 0x1FFF  # with execution, writing, making and removing: the first version's rights
REFER, TRUNCATE = 1 << 13, 1 << 14  # the second's and the third's
SCOPED = 0b11  # the sixth's: no abstract socket of, and no signal to, a process outside

# Names of audit events, see "Audit events table" of Python's documentation.
FORBIDDEN = (
    "ctypes.",
    "fcntl.",  # F_SETOWN lets the kernel signal any process
    "os.chmod",  # this line and the next four: Landlock knows nothing of them
    "os.chown",
    "os.removexattr",
    "os.setxattr",
    "os.utime",
    "os.exec",
    "os.fork",
    "os.kill",
    "os.posix_spawn",
    "os.spawn",
    "os.system",
    "pty.spawn",
    "resource.setrlimit",
    "resource.prlimit",
    "signal.pthread_kill",
    "socket.",
    "subprocess.",
)


def limit(seconds: float, memory: int, output: int) -> None:
    """Resource limits, which a process without privileges cannot raise again."""
    limits = {
        "CORE": 0,
        "CPU": math.ceil(seconds) + 1,
        "AS": memory,
        "FSIZE": output,
        "NOFILE": 64,
        "NPROC": 0,  # no process and no thread beside this one; it does not bind root
    }
    for name, most in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        try:
            resource.setrlimit(kind, (most, most))
        except (ValueError, OSError):  # macOS has no limit of address space
            continue


def shut_files(libc: ctypes.CDLL) -> bool:
    """Landlock: run nothing, read only the standard library, change only what is in this folder."""
    version = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    handled = EVERYTHING | (REFER if version > 1 else 0) | (TRUNCATE if version > 2 else 0)
    rules = (ctypes.c_uint64 * 3)(handled, 0, SCOPED)
    size = ctypes.c_size_t(24 if version > 5 else 8)
    ruleset = libc.syscall(CREATE_RULESET, ctypes.byref(rules), size, 0)
    libraries = (f"{sys.base_prefix}/lib", "/lib", "/lib64", "/usr/lib", "/usr/share/zoneinfo")
    allowed = {os.getcwd(): handled & ~1} | dict.fromkeys(libraries, READ)
    for folder, rights in allowed.items():
        if not os.path.isdir(folder):
            continue
        opened = os.open(folder, os.O_RDONLY)
        rule = rights.to_bytes(8, sys.byteorder) + opened.to_bytes(4, sys.byteorder)
        libc.syscall(ADD_RULE, ruleset, 1, ctypes.create_string_buffer(rule, 12), 0)
        os.close(opened)
    shut = libc.syscall(RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return shut


def confine(seconds: float, memory: int, output: int) -> list[str]:
    """Give up rights for good; returns what the kernel enforces."""
    enforced = ["processes"] if os.getuid() else []
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.prctl(PDEATHSIG, 9, 0, 0, 0)  # whoever started this is gone: so is this
        if libc.unshare(NEW_USER | NEW_NETWORK) == 0:
            enforced.append("network")
        if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) == 0 and shut_files(libc):
            enforced.append("files")
    limit(seconds, memory, output)

    def guard(event: str, _: object) -> None:
        if event.startswith(FORBIDDEN):
            raise PermissionError(f"the sandbox forbids {event}")

    sys.addaudithook(guard)  # cannot be taken off again
    return sorted(enforced)


def main() -> None:
    """Read the program, give up rights, run it."""
    seconds, memory, output = sys.argv[1:]
    source = sys.stdin.buffer.read()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    enforced = confine(float(seconds), int(memory), int(output))
    sys.stderr.write(json.dumps(enforced) + "\n")
    sys.stderr.flush()
    sys.argv[:] = ["program"]
    del sys.modules["ctypes"]
    for module in (signal, sys.modules["_signal"]):  # no audit event tells of it
        vars(module).pop("pidfd_send_signal", None)
    program = sys.modules["__main__"] = types.ModuleType("__main__")
    exec(compile(source, "program", "exec"), program.__dict__)


if __name__ == "__main__":
    main()
