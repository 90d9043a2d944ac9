"""`llm-eval`: what a language model can do and what it does to people, with how sure that is.

    llm-eval run                                    # SmolLM2 over the standard suites, offline
    llm-eval run --model tiny_gpt:runs/mine --tasks core,blimp --limit 200
    llm-eval compare runs/llm_eval/a runs/llm_eval/b

Exit status: 0 all went well, 1 it failed or a limit of --fail-under was not kept, 2 a mistake in
the command, 3 torn or altered results, 130 (Ctrl-C) or 143 (SIGTERM) interrupted: the same command
goes on from there. 141 nobody reads what is printed.
"""

import os
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter

from llm_eval import looking
from llm_eval.options import Asking, Json, Output
from llm_eval.terminal import console, errors, progress, put
from shared import study
from shared.errors import UserError
from shared.study import PositiveInt

options = {"help_format": "plaintext", "version_flags": [], "result_action": "return_value"}
app = cyclopts.App(name="llm-eval", help=__doc__, **options)
for name, command in looking.COMMANDS.items():
    app.command(command, name=name)


def main(argv: list[str] | None = None) -> int:
    """Run a command line; return its exit status."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    study.silence_libraries()
    return study.call(app, argv, lost="what was answered is kept; the same command goes on")


@app.command
def run(
    *,
    asking: Asking = Asking(),  # noqa: B008 (frozen)
    output: Output = Output(),  # noqa: B008
    fail_under: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    strict: bool = False,
    json_: Json = False,
) -> int:
    """Ask a model the questions of tasks; write numbers, samples and a page.

    A run that was broken off goes on where it stopped, and ends with the same results.

    Parameters
    ----------
    fail_under
        For a build: end with status 1 unless this holds, such as acc=.6 for every acc, or
        arc_easy.acc=.4, or bbq.s_AMB<=.1; may be given several times.
    strict
        Judge --fail-under by the worse end of the interval instead of the value.
    json_
        Print results.json instead of the table.
    """
    from llm_eval.engine.run import evaluate
    from llm_eval.report import gate
    from llm_eval.report.reading import read_results
    from llm_eval.report.terminal import show
    from llm_eval.report.writing import save

    rules = [gate.parse(text) for text in fail_under]  # a mistake is said before hours of work
    model, tasks = asking.model_and_tasks()
    folder = output.folder(model.name, asking.tasks)
    with progress() as moved:
        outcome = evaluate(model, tasks, **asking.settings(), cache=output.cache, progress=moved)
    if outcome is None:  # another of several processes writes
        return 0
    save(outcome, folder)
    results = read_results(folder)
    if json_:
        put(results)
    else:
        show(console, results)
        errors.print(f"{folder / 'index.html'} shows each sample")
    broken = gate.failures(results, rules, strict=strict)
    for line in broken:
        errors.print(line)
    return 1 if broken else 0


@app.command
def recover(
    *,
    asking: Asking = Asking(),
    output: Output = Output(),
    json_: Json = False,  # noqa: B008
) -> int:
    """Write what a broken-off run has answered so far, without asking for more.

    Give the same options as to `run`. Documents without an answer are counted as failed.
    """
    from llm_eval.engine.recover import recover as recovered
    from llm_eval.report.reading import read_results
    from llm_eval.report.terminal import show
    from llm_eval.report.writing import save

    model, tasks = asking.model_and_tasks()
    folder = output.folder(model.name, asking.tasks)
    outcome = recovered(model, tasks, **asking.settings(), cache=output.cache)
    save(outcome, folder)
    results = read_results(folder)
    if json_:
        put(results)
    else:
        show(console, results)
    return 0


@app.command
def bench(*rows: str, quick: bool = False, record: bool = False, json_: Json = False) -> None:
    """Measure beside lm-eval, sacrebleu and rouge-score; nothing else should run meanwhile.

    Parameters
    ----------
    rows
        Which rows; all of them if none is named.
    quick
        Little of everything, to see that it runs.
    record
        Write into the project's record and tables instead of below runs/.
    json_
        Print the record as one JSON object.
    """
    from rich.markdown import Markdown

    from llm_eval.benchmark import bench as benchmark
    from llm_eval.benchmark import tables

    out = benchmark.RECORD if record else Path("runs/llm_eval") / "bench.json"
    found = benchmark.bench(rows, quick=quick, out=out, say=errors.print)
    if record:
        tables.main()
    if json_:
        put(found)
    else:
        for text in tables.pages(found).values():
            console.print(Markdown(text))
