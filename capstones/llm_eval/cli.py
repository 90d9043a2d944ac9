"""`llm-eval`: what a language model can do and what it does to people, with how sure that is.

For example:

    llm-eval run                  # SmolLM2 over the standard suites, offline
    llm-eval run --model tiny_gpt:runs/mine --tasks core,blimp --limit 200
    llm-eval compare runs/llm_eval/a runs/llm_eval/b

Exit status:

    0    all went well
    1    it failed, or a rule of --fail-under was broken
    2    a mistake in the command
    3    torn, altered or missing results, or such a run or artifact as model
    130  interrupted (143: by SIGTERM); the same command goes on from there
    141  nobody reads what is printed
"""

import os
import time
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from llm_eval import looking
from llm_eval.options import Asking, Json, Output
from llm_eval.terminal import console, errors, progress, put
from shared import study

options = {"help_format": "plaintext", "version_flags": [], "result_action": "return_value"}
app = cyclopts.App(name="llm-eval", help=__doc__, **options)


def main(argv: list[str] | None = None) -> int:
    """Run a command line; return its exit status."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    study.silence_libraries()
    return study.call(app, argv, lost="; what was answered is kept, the same command goes on")


@app.command
def run(
    *,
    asking: Asking | None = None,
    output: Output | None = None,
    fail_under: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    strict: bool = False,
    parts: bool = False,
    signatures: bool = False,
    json_: Json = False,
) -> int:
    """Ask a model the questions of tasks; write numbers, samples and a page.

    A run that was broken off goes on where it stopped, and ends with the same results.

    Parameters
    ----------
    fail_under
        For a build: end with status 1 unless this holds, such as acc=.6 for every acc,
        arc_easy.acc=.4 or bbq_age.s_AMB<=.1; may be given several times.
    strict
        Judge --fail-under by the worse end of the interval instead of the value.
    parts
        Also print the numbers of groups and of other prompts.
    signatures
        Also print the protocol of each number.
    json_
        Print the results as one JSON object instead of tables.
    """
    from llm_eval.engine.run import evaluate
    from llm_eval.report import gate
    from llm_eval.report.terminal import show
    from llm_eval.report.writing import save
    from llm_eval.tasks.opening import left_out

    asking, output = asking or Asking(), output or Output()
    rules = gate.parse(fail_under)  # a mistake is said before hours of work
    tasks, model = asking.tasks_and_model()
    gate.foresee(rules, tasks)
    folder, start = output.folder(model.name, asking.tasks), time.perf_counter()
    if absent := left_out(asking.names()):
        errors.print(f"left out, since their data is not here: {', '.join(absent)}")
    if model.name == "dummy":
        errors.print("dummy is no model: its answers are drawn by chance, to try the program")
    with progress() as moved:
        outcome = evaluate(model, tasks, **asking.settings(), cache=output.cache, progress=moved)
    if outcome is None:  # another of several processes writes
        return 0
    results = save(outcome, folder, run={"seconds": round(time.perf_counter() - start, 1)})
    for note in outcome.notes:
        errors.print(note)
    if json_:
        put(results.as_json())
    else:
        show(console, results, parts=parts, signatures=signatures)
        errors.print(f"each sample: {folder / 'index.html'}")
    broken = gate.check(results.numbers, rules, strict=strict)
    for line in broken:
        errors.print(line)
    return 1 if broken else 0


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

    out = benchmark.RECORD if record else Path("runs/llm_eval/bench.json")
    found = benchmark.bench(rows, quick=quick, out=out, say=errors.print)
    if record:
        tables.main()
    if json_:
        put(found)
    else:
        for text in tables.pages(found).values():
            console.print(Markdown(text))


for command in looking.COMMANDS:
    app.command(command, alias="list" if command is looking.ls else None)
