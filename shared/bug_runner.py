"""Apply bugs to throw-away copies of the project, one at a time, and run their tests there."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

from shared import records
from shared.bugs import Bug
from shared.errors import UserError

TESTS_FAILED = 1  # pytest's exit status for "tests ran, some failed"
TIMEOUT = 180  # seconds for one test under one bug
BASELINE_TIMEOUT = 1200  # seconds for all of them without one
HEAVY = (  # imported once per copy instead of once per bug
    "numpy",
    "scipy.stats",
    "torch",
    "torch._dynamo",
    "torch.func",
    "torch.optim",
    "torch.utils.checkpoint",
    "torch.utils.flop_counter",
    "sklearn.ensemble",
    "sklearn.decomposition",
    "sklearn.linear_model",
    "sklearn.model_selection",
    "sklearn.svm",
    "sklearn.utils.estimator_checks",
    "matplotlib.pyplot",
    "pandas",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.gpt_neox.modeling_gpt_neox",
    "transformers.models.llama.modeling_llama",
    "transformers.generation.logits_process",
    "tokenizers",
    "tiktoken",
    "datasketch",
    "xgboost",
    "hypothesis.extra.numpy",
    "hypothesis",
    "jaxtyping",
    "beartype",
    "rich.progress",
    "cyclopts",
    "pytest",
)


def survivors(
    bugs: list[Bug], *, jobs: int = 2, show: Callable[[Bug, str], None] = lambda bug, verdict: None
) -> list[tuple[Bug, str]]:
    """Apply each bug to a throw-away copy and run its test there.

    Parameters
    ----------
    jobs
        Copies worked on at the same time.
    show
        Called with each bug and its verdict as it is known.

    Returns
    -------
    survivors
        The bugs that were not caught, with the reason.

    Raises
    ------
    UserError
        If a bug cannot be made, or a test is red before any bug is.
    """
    for bug in bugs:
        bug.mistaken(records.ROOT)
    with tempfile.TemporaryDirectory(prefix="study-bugs-") as scratch:
        copies: Queue[Path] = Queue()
        for i in range(jobs):
            copies.put(_copy(Path(scratch) / str(i)))
        clean = copies.get()
        status, output = _pytest(clean, sorted({bug.test for bug in bugs}), "-n", str(jobs))
        if status == TESTS_FAILED and (red := _failed(output)):
            # Beside others a test may wait longer than it allows for: alone it has to be green.
            status, output = _pytest(clean, red, "-n0")
        copies.put(clean)
        if status:
            raise UserError(f"the catalogue's tests are red without any bug:\n{output[-3000:]}")

        with contextlib.ExitStack() as stack:
            workers = {copy: stack.enter_context(Worker(copy)) for copy in list(copies.queue)}

            def judge(bug: Bug) -> tuple[Bug, str]:
                copy = copies.get()
                try:
                    original = (copy / bug.file).read_bytes()
                    (copy / bug.file).write_text(bug.mistaken(copy), encoding="utf-8")
                    status, output = workers[copy].run([bug.test])
                    (copy / bug.file).write_bytes(original)
                finally:
                    copies.put(copy)  # else the others would wait for it for ever
                verdict = "caught" if status == TESTS_FAILED else "survived"
                if status not in (0, TESTS_FAILED):
                    verdict = f"did not run (pytest status {status}): {output.strip()[-300:]}"
                show(bug, verdict)
                return bug, verdict

            with ThreadPoolExecutor(jobs) as pool:
                judged = list(pool.map(judge, bugs))
    return [(bug, verdict) for bug, verdict in judged if verdict != "caught"]


class Worker:
    """A process that has the heavy libraries loaded and forks for every pytest run in `copy`.

    Where there is no fork (Windows), every run is a process of its own.
    """

    def __init__(self, copy: Path):
        self.copy, self.process = copy, None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error) -> None:
        self._stop()

    def run(self, tests: list[str]) -> tuple[int, str]:
        """Pytest's exit status and the end of its output."""
        if not hasattr(os, "fork"):
            return _pytest(self.copy, tests, "-n0", "-x")
        if self.process is None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "shared.bug_worker", *HEAVY],
                cwd=self.copy,
                env=environment_of(self.copy),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        request = ["-q", "-p", "no:cacheprovider", "-n0", "-x", "--tb=line", *tests]
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        if not select.select([self.process.stdout], [], [], TIMEOUT)[0]:
            self._stop()
            return TESTS_FAILED, "timed out"  # a bug that hangs the test is caught too
        status, output = json.loads(self.process.stdout.readline())
        return status, output

    def _stop(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
            self.process = None


def _copy(target: Path) -> Path:
    """Copy what git knows to `target`, importable there in place of the installed project."""
    names = records.git_files()
    if not names:
        raise UserError("study bugs copies what git knows, and this is not a git checkout")
    for name in names:
        if (records.ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(records.ROOT / name, target / name)
    return link_packages(target)


def link_packages(target: Path) -> Path:
    """Make the packages of a copy importable under their names, through `imports/`."""
    (target / "imports").mkdir(exist_ok=True)
    for package in list(target.glob("*/*/__init__.py")):  # before there are links to find
        folder = package.parent
        name = f"week{folder.name}" if folder.parent.name == "weeks" else folder.name
        (target / "imports" / name).symlink_to(folder, target_is_directory=True)
    return target


def _failed(output: str) -> list[str]:
    """Tests named in the summary that ends the output of pytest."""
    summary = [line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return [line.split(" ", 1)[1].split(" - ")[0] for line in summary]


def _pytest(copy: Path, tests: list[str], *options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *tests]
    try:
        done = subprocess.run(
            command,
            cwd=copy,
            env=environment_of(copy),
            capture_output=True,
            text=True,
            timeout=BASELINE_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return TESTS_FAILED, "timed out"  # a bug that hangs the test is caught too
    return done.returncode, done.stdout + done.stderr


def environment_of(copy: Path) -> dict[str, str]:
    """This process's, with the copy's code before the installed one and no bytecode written.

    `STUDY_BUGS` tells the tests that a failure need not be reduced to its simplest example.
    """
    path = os.pathsep.join([str(copy / "imports"), str(copy)])
    environment = os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    environment["STUDY_BUGS"] = "1"
    if "ML_STUDIES_DATA" in os.environ:
        environment["ML_STUDIES_DATA"] = str(Path(os.environ["ML_STUDIES_DATA"]).resolve())
    return environment
