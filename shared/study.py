"""Run a script as an experiment: options, checks against references, claims, figures, a record.

An idea `weeks/NN/topic.py` ends with `hand_over(__file__)`; its evidence,
`weeks/NN/evidence/topic.py`, defines

    def main(run, *, n: PositiveInt = 8):
        run.check("norm", ours, reference, against="numpy.linalg.norm", atol=1e-12,
                  why="float64 rounding")
        run.claim("it is small", values_per_seed, at_most=1)

A paper's `reproduce.py` defines `main` itself and ends with `cli(main)`.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import logging
import os
import sys
import tempfile
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter, validators
from threadpoolctl import threadpool_limits

from shared import records
from shared.errors import UserError
from shared.run import Device, Mode, Run
from shared.signals import like_ctrl_c

__all__ = [
    "Cores",
    "NonNegativeInt",
    "PositiveFloat",
    "PositiveInt",
    "Run",
    "UserError",
    "call",
    "cli",
    "execute",
    "hand_over",
    "whole",
]


def _whole(type_, tokens) -> int:
    try:
        return int(tokens[0].value)  # cyclopts itself would round 1.5 to 2 and say nothing
    except ValueError:
        raise ValueError(f"expected a whole number, got {tokens[0].value}") from None


def whole(least: int, most: int = 2**63 - 1) -> Parameter:
    """A whole number within limits, at most what torch and NumPy can hold."""
    return Parameter(converter=_whole, validator=validators.Number(gte=least, lte=most))


PositiveInt = Annotated[int, whole(1)]
NonNegativeInt = Annotated[int, whole(0)]
Cores = Annotated[int, whole(1, 1024)]
PositiveFloat = Annotated[float, Parameter(validator=validators.Number(gt=0))]


def execute(
    main: Callable[..., None],
    *,
    seed: int = 0,
    device: Device = "auto",
    mode: Mode = "default",
    threads: int = 2,
    record: bool = False,
    out: Path | None = None,
    quiet: bool = False,
    **options,
) -> Run:
    """Run `main` once, with threads and seeds pinned, and finish its run.

    With `record`, the quick run follows, and both are published as the record.
    """
    defaults = _defaults(main)
    changed = {name: value for name, value in options.items() if value != defaults.get(name)}
    run = Run(
        _script(main).resolve(),
        {**defaults, **options},
        arguments=_arguments(changed),
        seed=seed,
        device=device,
        mode=mode,
        threads=threads,
        out=out,
        quiet=quiet,
    )
    run.prepare()
    silence_libraries()
    if "torch" in sys.modules:
        import torch

        torch.manual_seed(seed)
        torch.set_num_threads(threads)
    with threadpool_limits(threads):
        main(run, **options)
        run.finish()
    if record and not run.passed:
        run.say("not recorded: a check failed")
    elif record:
        run.publish(quick_fingerprint(main))
    return run


def silence_libraries() -> None:
    """No line about a deprecation in torch when transformers imports torchao."""
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)


def quick_fingerprint(main: Callable[..., None]) -> dict:
    """What the quick run of `main` shows, on one thread and with the default options."""
    from shared import fingerprint

    with tempfile.TemporaryDirectory() as out:
        run = execute(main, mode="quick", threads=1, device="cpu", out=Path(out), quiet=True)
    if not run.passed:
        raise UserError(f"not recorded: the quick run fails: {records.problems(run.record())}")
    return fingerprint.of(run)


def hand_over(file: str) -> typing.NoReturn:
    """Run the evidence of the idea that is being run as a program.

    The running module takes its name in the package first, so that it exists once.
    """
    script = Path(file).resolve()
    # Its folder is in front of the path; libraries that look for others (transformers for hqq)
    # would find a week's file of that name.
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != script.parent]
    package = f"week{script.parent.name}"
    sys.modules[f"{package}.{script.stem}"] = sys.modules["__main__"]
    cli(importlib.import_module(f"{package}.evidence.{script.stem}").main)


def cli(main: Callable[..., None], argv: list[str] | None = None) -> typing.NoReturn:
    """Turn `main` into a command line and run it.

    `main`'s keyword options come with the common ones: --seed, --device, --quick, --full,
    --record, --threads. Exits 0 if every check passed, 1 if one did not, 2 on bad input
    (one line on stderr; STUDY_TRACEBACK=1 shows where), 130 on Ctrl-C.
    """
    script = _script(main)
    app = cyclopts.App(
        name=script.name,
        help=ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))),
        help_format="plaintext",
        version_flags=[],
        result_action="return_value",
    )

    def command(
        *,
        seed: NonNegativeInt = 0,
        device: Device = "auto",
        quick: Annotated[bool, Parameter(negative="")] = False,
        full: Annotated[bool, Parameter(negative="")] = False,
        record: Annotated[bool, Parameter(negative="")] = False,
        threads: Cores = 2,
        **options,
    ) -> bool:
        if quick and full:
            raise UserError("--quick and --full exclude each other")
        if quick and record:
            raise UserError("--quick and --record exclude each other: quick runs are for tests")
        mode = "quick" if quick else "full" if full else "default"
        run = execute(
            main, seed=seed, device=device, mode=mode, threads=threads, record=record, **options
        )
        return run.passed

    common = [p for p in inspect.signature(command).parameters.values() if p.name != "options"]
    hints = typing.get_type_hints(command, include_extras=True)
    own = typing.get_type_hints(main, include_extras=True)
    parameters = [
        p.replace(annotation=(own if p.name in own else hints)[p.name])
        for p in [*list(inspect.signature(main).parameters.values())[1:], *common]
    ]
    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__ = _help(main)
    app.default(command)
    sys.exit(call(app, argv))


COMMON_HELP = """
seed: Seed of every random number in the run.
device: Where to compute; auto takes CUDA, then MPS, then the CPU.
quick: Smallest size that still exercises everything (tests).
full: The long setting.
record: Write the record and figures to results/.
threads: Threads for BLAS and torch; records are made with 2.
"""


def call(
    app: cyclopts.App,
    argv: list[str] | None = None,
    *,
    prepare: Callable[[list[str] | None], list[str] | None] = lambda argv: argv,
    lost: str = "; nothing was recorded",
) -> int:
    """Run a cyclopts app; give its exit status and tell a user's mistake in one line.

    A command's own result is 0 for None or True, 1 for False, or the status itself. What must
    happen to the words first, and may find a mistake in them, is `prepare`. Whatever else goes
    wrong is one line too, with status 1; STUDY_TRACEBACK=1 shows where. SIGTERM ends like Ctrl-C,
    which says what is `lost`, and a reader that closes the pipe (`head`) without a word.
    """
    name = app.name[0]
    app.suppress_keyboard_interrupt = False  # it would end without a word
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal without ✓ is no reason to fail
    try:
        with like_ctrl_c():
            passed = app(prepare(argv), exit_on_error=False, print_error=False)
            if sys.stdout is not None:  # closed by whoever started us
                sys.stdout.flush()
    except cyclopts.CycloptsError as error:
        return _complain(name, f"{_line(error)} (see {name} --help)")
    except KeyboardInterrupt as error:
        print(f"{name}: {str(error) or 'interrupted'}{lost}", file=sys.stderr)
        return 143 if str(error) else 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's own flush
        return 141
    except Exception as error:
        if os.environ.get("STUDY_TRACEBACK"):
            raise
        if isinstance(error, UserError | ValueError | OSError):
            return _complain(name, _line(error), getattr(error, "status", 2))
        where = "STUDY_TRACEBACK=1 shows where"
        return _complain(name, f"{type(error).__name__}: {_line(error)} ({where})", 1)
    if isinstance(passed, int) and not isinstance(passed, bool):
        return passed
    return 0 if passed is None or passed else 1


def _line(error: Exception) -> str:
    """What an error says, in one line, without torch's advice for its own developers."""
    said = str(error).split("\nException raised from")[0].split("\nCompile with")[0]
    said = " ".join(said.split()) or "no reason given"
    return said if len(said) <= 2000 else f"{said[:2000]} …"


def _complain(name: str, message: str, status: int = 2) -> int:
    print(f"{name}: error: {message}", file=sys.stderr)
    return status


def _help(main: Callable[..., None]) -> str:
    """`main`'s own docstring parameters followed by the common ones, in one NumPy section."""
    doc = inspect.cleandoc(main.__doc__ or "")
    own = doc.split("Parameters\n----------\n")[1] if "Parameters\n----------\n" in doc else ""
    common = [line.partition(": ") for line in COMMON_HELP.strip().splitlines()]
    section = "\n".join(f"{name}\n    {text}" for name, _, text in common)
    return f"\n\nParameters\n----------\n{own.rstrip()}\n{section}\n"


def _arguments(options: dict[str, Any]) -> list[str]:
    """Options as they stand on the command line."""
    words = []
    for name, value in options.items():
        name = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            for item in value if isinstance(value, list | tuple) else [value]:
                words += [f"--{name}", str(item)]
    return words


def _script(main: Callable[..., None]) -> Path:
    """The file of `main`, also where a decorator (a test's type checker) wraps it."""
    return records.script_of_main(Path(inspect.getsourcefile(inspect.unwrap(main))))


def _defaults(main: Callable[..., None]) -> dict[str, Any]:
    return {
        p.name: p.default
        for p in inspect.signature(main).parameters.values()
        if p.default is not inspect.Parameter.empty
    }
