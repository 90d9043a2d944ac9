r"""Grading Verilog by running it: a written circuit under a test bench, in a narrow room.

That a circuit compiles says that its grammar is right. A bench drives its inputs, compares its
outputs with those of a right circuit, and counts mismatches: none in at least one sample passes.

What a model wrote is a stranger's program. A simulator can read and write files and run commands
for it, so system tasks are let through by a list (`$signed` and the like), and a circuit may not
reach into other modules: one that reads the right answer out of the bench would pass. What is left
runs with limits on time, memory and output in a folder that is deleted.

>>> refusal('module top_module; initial $system("ls"); endmodule')
'it calls $system'
>>> refusal("module top_module(output y); assign y = good1.y; endmodule")
'it reaches into good1'
>>> refusal("module top_module(output y); assign y = $signed(1); endmodule") is None
True

`uv run weeks/28/verilog_assistant.py` grades models. Sources: IEEE 1364-2005, clause 17, for what
system tasks can do; Liu et al., "VerilogEval" (2023), for the benches; Chen et al., "Evaluating
large language models trained on code" (2021), section 2.3, for the room.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from shared.errors import UserError
from shared.require import require

# They compute and do nothing else.
HARMLESS = {"$signed", "$unsigned", "$clog2", "$bits", "$countones", "$onehot", "$isunknown"}
BENCH = {"tb", "reference_module", "stimulus_gen", "bind"}
# Strings and escaped names may hold what looks like a comment.
LEXED = re.compile(r'"(?:\\.|[^"\\\n])*"|\\\S+|//[^\n]*|/\*.*?\*/', re.DOTALL)
MISMATCHES = re.compile(r"^Mismatches: (\d+) in (\d+) samples", re.MULTILINE)
SECONDS, MEGABYTES, MOST_OUTPUT = 10.0, 1024, 1 << 20
LONGEST = 20_000  # characters of a circuit


class Verdict(NamedTuple):
    """What became of a circuit, in one word, and why."""

    outcome: str  # refused, does not compile, compiles, takes too long, fails or passes
    why: str = ""

    @property
    def passed(self) -> bool:
        """Whether it does what it should."""
        return self.outcome == "passes"

    @property
    def compiled(self) -> bool:
        """Whether its grammar is right."""
        return self.outcome in ("compiles", "passes", "fails", "takes too long")


# ---- before anything runs


def refusal(source: str) -> str | None:
    """Why a text is not run, or None.

    For system tasks and directives comments count too: what hides in one is not worth the risk.
    """
    if len(source) > LONGEST:
        return f"it has {len(source)} characters, more than {LONGEST}"
    if directive := re.search(r"`\s*\w*", source):  # `include reads files, `define hides names
        return f"it has the directive {directive[0]}"
    for task in re.findall(r"\$\s*\w*", source):
        if task not in HARMLESS:
            return f"it calls {task}"
    code = LEXED.sub(lambda found: " " if found[0].startswith("/") else found[0], source)
    if within := re.search(r"([A-Za-z_]\w*)\s*\.\s*\w", code):
        return f"it reaches into {within[1]}"
    if names := BENCH & set(re.findall(r"\w+", code)):
        return f"it names {min(names)}"
    return None


def first_module(text: str) -> str:
    """A model's answer from its first `module` to that one's `endmodule`.

    Text before and after, such as a greeting or a fence, is no part of a circuit.
    """
    found = re.search(r"\bmodule\s+\w+.*?\bendmodule\b", text, re.DOTALL)
    return found[0] if found else text.strip()


# ---- running


def simulator() -> str | None:
    """Where Icarus Verilog is, None if it is not on the path."""
    return shutil.which("iverilog") if shutil.which("vvp") else None


def _limited() -> None:
    """In the child, before it becomes the program: what it may use at most."""
    import resource

    memory = MEGABYTES << 20
    for what, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, int(SECONDS) + 1),
        (resource.RLIMIT_FSIZE, MOST_OUTPUT),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def run_limited(command: Sequence[str], folder: Path, seconds: float) -> tuple[int | None, str]:
    """Exit status (None: it was ended for its time) and output of a program and its children.

    It starts in `folder`, with an environment of its own, and writes its output to a file there,
    so that the limit on files is one on output too.
    """
    require(seconds > 0, "seconds must be above 0", seconds)
    environment = {"PATH": os.environ.get("PATH", ""), "TMPDIR": str(folder), "LC_ALL": "C"}
    with tempfile.TemporaryFile(dir=folder) as output:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a compiler has children, which end with it
            preexec_fn=_limited if os.name == "posix" else None,
        )
        try:
            status = child.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if os.name == "posix":
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
            else:
                child.kill()
            child.wait()
        output.seek(0)
        return status, output.read(MOST_OUTPUT).decode(errors="replace")


def simulate(circuit: str, bench: str | None, *, seconds: float = SECONDS) -> Verdict:
    """Compile a circuit with a bench by Icarus Verilog, run it, and read what the bench counts.

    Without a bench it is only compiled; its outcome is then "compiles".

    Raises
    ------
    UserError
        If Icarus Verilog is not installed.
    """
    if reason := refusal(circuit):
        return Verdict("refused", reason)
    compiler = simulator()
    require(compiler, "Icarus Verilog (iverilog) must be on the path", "none", error=UserError)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "circuit.sv").write_text(circuit + "\n", encoding="utf-8")
        command, files = [compiler, "-g2012", "-o", "program"], ["circuit.sv"]
        if bench is not None:
            (folder / "bench.sv").write_text(bench, encoding="utf-8")
            command, files = [*command, "-s", "tb"], ["bench.sv", *files]  # it sets the time's unit
        status, said = run_limited([*command, *files], folder, seconds)
        if status is None:
            return Verdict("takes too long", "the compiler")
        if status != 0:
            return Verdict("does not compile", said.strip().split("\n")[0][:200])
        if bench is None:
            return Verdict("compiles")
        # -n: an interactive stop ends it; -none: no waveforms are written
        status, said = run_limited(["vvp", "-n", "program", "-none"], folder, seconds)
    if status is None:
        return Verdict("takes too long", f"over {seconds:g} s")
    counted = MISMATCHES.findall(said)
    if status != 0 or not counted:
        return Verdict("fails", "the bench did not reach its end")
    wrong, samples = map(int, counted[-1])
    right = wrong == 0 and samples > 0
    return Verdict("passes" if right else "fails", f"{wrong} mismatches in {samples} samples")


def truth_table_bench(names: Sequence[str], outputs: dict[str, Sequence[int]]) -> str:
    """A bench that drives one-bit inputs through all combinations, the first name the slowest.

    Parameters
    ----------
    outputs
        For each one-bit output what it should be, 2^n values.
    """
    rows = 2 ** len(names)
    for name, values in outputs.items():
        require(len(values) == rows, f"outputs[{name!r}] must have {rows} values", len(values))
    tables = [
        f"  wire {name}; reg [0:{rows - 1}] want_{name} = {rows}'b{''.join(map(str, values))};"
        for name, values in outputs.items()
    ]
    wrong = " | ".join(f"({name} !== want_{name}[i])" for name in outputs)
    ports = ", ".join(f".{name}({name})" for name in (*names, *outputs))
    return "\n".join(
        [
            "module tb;",
            f"  reg {', '.join(names)}; integer i, errors = 0;",
            *tables,
            f"  top_module top_module1 ({ports});",
            "  initial begin",
            f"    for (i = 0; i < {rows}; i = i + 1) begin",
            f"      {{{', '.join(names)}}} = i; #1 if ({wrong}) errors = errors + 1;",
            "    end",
            f'    $display("Mismatches: %0d in {rows} samples", errors);',
            "    $finish;",
            "  end",
            "endmodule",
        ]
    )
