"""The commands that ask no model: lists, task files, predictions, results."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from llm_eval.options import RUNS, Json
from llm_eval.terminal import console, errors, put
from shared.errors import UserError
from shared.study import whole

Seed = Annotated[int, whole(0)]


def ls(what: Literal["tasks", "metrics", "models"] = "tasks", *, json_: Json = False) -> None:
    """List what is built in; of tasks license, size and whether their data is here.

    Parameters
    ----------
    what
        tasks, metrics or models.
    json_
        Print one JSON list.
    """
    from llm_eval import listing

    rows = listing.rows(what)
    if json_:
        put(rows)
    else:
        console.print(listing.table(rows, width=console.width))


def validate(*files: Path) -> int:
    """Read task files with their data, and say what is wrong with each in one line.

    Parameters
    ----------
    files
        YAML files in the subset of lm-eval's format that the README describes.
    """
    from llm_eval.tasks.reading import read_task

    if not files:
        raise UserError("files must name at least one task file")
    wrong = 0
    for file in files:
        try:
            task = read_task(file)
            judge, documents = task.judge(), task.documents()
            for id, document in documents:
                try:
                    judge.requests(document)
                except UserError as error:
                    raise UserError(f"{file}: document {id}: {error}") from error
        except UserError as error:
            errors.print(str(error))
            wrong += 1
        else:
            console.print(f"{file}: {task.name}, {len(documents)} documents")
    return 1 if wrong else 0


def score(
    predictions: Path,
    *,
    metrics: str = "exact_match,token_f1",
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Numbers of predictions that another program made; no model is needed.

    Parameters
    ----------
    predictions
        A JSON object per line, with a prediction and one or several references.
    metrics
        Names separated by commas; `llm-eval ls metrics` lists them.
    seed
        Of the intervals.
    json_
        Print one JSON list.
    """
    from llm_eval.report.predictions import score as scored
    from llm_eval.report.reading import Results
    from llm_eval.report.terminal import show

    names = [name.strip() for name in metrics.split(",") if name.strip()]
    numbers = scored(predictions, names, seed=seed)
    if json_:
        put([number.as_json() for number in numbers])
        return
    tasks = {number.task: {"tags": []} for number in numbers}
    show(console, Results({"name": str(predictions)}, {}, tasks, tuple(numbers)), signatures=True)


def compare(
    first: Path,
    second: Path,
    *,
    test: Literal["auto", "mcnemar", "permutation", "paired-bootstrap"] = "auto",
    correction: Literal["holm", "benjamini-hochberg"] = "holm",
    html: Path | None = None,
    seed: Seed = 0,
    json_: Json = False,
) -> None:
    """Two runs, document by document: what differs, by how much, and whether by more than chance.

    Parameters
    ----------
    first
        A folder of results.
    second
        Another; differences are the first minus this one.
    test
        auto takes McNemar's where it fits, else the permutation test.
    correction
        For as many comparisons as there are: of the chance of any mistake (holm), or of the share
        of mistakes (benjamini-hochberg).
    html
        Also write a page there.
    seed
        Of the resampling.
    json_
        Print one JSON list.
    """
    from llm_eval.report.comparison import comparison_page, refuse_differing, show_comparison
    from llm_eval.report.reading import read_results, read_samples
    from llm_eval.statistics.aggregates import aggregates_of
    from llm_eval.statistics.compare import compare_runs
    from shared.files import write_atomic

    a, b = read_results(first), read_results(second)
    refuse_differing(a, b)
    aggregates = aggregates_of(a.numbers, read_samples(first))
    found = compare_runs(
        a.numbers,
        read_samples(first),
        b.numbers,
        read_samples(second),
        test=test,
        correction=correction,
        aggregates=aggregates,
        seed=seed,
    )
    if html:
        write_atomic(html, comparison_page(a, b, found))
    if json_:
        put(found)
    else:
        tested = [row for row in found if row.p is not None]
        show_comparison(console, a, b, tested or found)
        if tested and len(tested) < len(found):
            errors.print(f"{len(found) - len(tested)} more numbers have no test; --json has them")


def report(
    results: Path, *, parts: bool = False, signatures: bool = False, json_: Json = False
) -> None:
    """Show results that were saved, after every byte of them was verified.

    Parameters
    ----------
    results
        Their folder.
    parts
        Also print the numbers of groups and of other prompts.
    signatures
        Also print the protocol of each number.
    json_
        Print them as one JSON object.
    """
    from llm_eval.report.reading import read_results, read_samples
    from llm_eval.report.terminal import show

    found = read_results(results)
    for _ in read_samples(results):
        break  # its bytes are verified before the first
    if json_:
        put(found.as_json())
    else:
        show(console, found, parts=parts, signatures=signatures)


def recover(cache: Path = RUNS / "cache", *, out: Path = RUNS / "recovered") -> None:
    """Write what the last run in a cache has answered, without a model and without asking more.

    Parameters
    ----------
    cache
        The folder of answers that the run had.
    out
        Where the results go.
    """
    from llm_eval.engine.recover import recover as recovered
    from llm_eval.report.terminal import show
    from llm_eval.report.writing import save

    show(console, save(recovered(cache), out))


def contamination(
    results: Path,
    *corpus: Path,
    n: Annotated[int, Parameter(name=("--n", "-n")), whole(1)] = 13,
    share: float = 0.0,
    json_: Json = False,
) -> None:
    """Which documents of a run a training text holds, and how the run does without them.

    Parameters
    ----------
    results
        A run's folder.
    corpus
        Files of the training text: plain, or JSON lines with a field text.
    n
        Words in a row that make a match.
    share
        A document counts as seen if more than this share of its n-grams is found.
    json_
        Print one JSON list.
    """
    from llm_eval.report.reading import Results, read_results, read_samples
    from llm_eval.report.terminal import show
    from llm_eval.statistics.compare import averaged
    from llm_eval.statistics.contamination import contamination as measured
    from llm_eval.statistics.contamination import overlaps

    if not corpus:
        raise UserError("corpus must name at least one file of the training text")
    found, numbers = read_results(results), []
    samples = [sample for sample in read_samples(results) if not sample.template]
    for task in found.tasks:
        own = [sample for sample in samples if sample.task == task]
        means = (x for x in found.numbers if x.task == task and averaged(x, own))
        if (number := next(means, None)) is None:
            continue
        shares = overlaps({sample.id: sample.document for sample in own}, corpus, n=n)
        if all(part is None for part in shares.values()):
            errors.print(f"{task}: its documents are too short to be looked for")
            continue
        better, signature = number.higher_is_better, f"{number.signature}|words:{n}"
        options = {"signature": signature, "above": share, "higher_is_better": better}
        numbers += measured(own, shares, number.metric, **options)
    if json_:
        put([number.as_json() for number in numbers])
    else:
        show(console, Results(found.model, found.settings, found.tasks, tuple(numbers)))


COMMANDS: tuple[Any, ...] = (ls, validate, score, compare, report, recover, contamination)
