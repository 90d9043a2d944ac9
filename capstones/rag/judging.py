"""The commands that judge and measure: `rag eval` and `rag bench`."""

from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from rag.options import Json
from rag.terminal import console, errors, put
from shared.study import PositiveInt


def evaluate(
    collection: str = "cranfield",
    *,
    split: str | None = None,
    parts: tuple[Literal["retrieval", "tuning", "answers", "injections"], ...] = (),
    llm: str = "smollm2",
    embedder: str = "minilm",
    quick: bool = False,
    record: bool = False,
    json_: Json = False,
) -> None:
    """Judge search, answers and the guard against injections.

    Parameters
    ----------
    collection
        cranfield, or a folder in BEIR's layout; its runs are written as TREC files.
    split
        Whose judgments of the folder to read.
    parts
        retrieval, tuning, answers or injections; all of them if none is named.
    llm
        What answers, beside quotes.
    embedder
        minilm, lsa, or a folder of sentence-transformers.
    quick
        A few queries of everything, to see that it runs.
    record
        Write into the project's record and tables instead of below runs/.
    json_
        Print the record as one JSON object.
    """
    from rag.evaluation import run, tables

    out = run.RECORD if record else _trial("eval.json", quick)
    options = {"parts": parts or run.PARTS, "model": llm, "embedder": embedder}
    found = run.evaluate(collection, split=split, **options, out=out, quick=quick, say=errors.print)
    _show(found, tables, record, json_)


def bench(
    *rows: str,
    chunks: PositiveInt = 100_000,
    queries: PositiveInt = 100,
    quick: bool = False,
    record: bool = False,
    json_: Json = False,
) -> None:
    """Measure beside what one would otherwise write; nothing else should run meanwhile.

    Parameters
    ----------
    rows
        Which rows; all of them if none is named.
    chunks
        Passages in the stores.
    queries
        How many are asked.
    quick
        Little of everything, to see that it runs.
    record
        Write into the project's record and tables instead of below runs/.
    json_
        Print the record as one JSON object.
    """
    from rag.benchmark import bench as benchmark
    from rag.benchmark import tables

    out = benchmark.RECORD if record else _trial("bench.json", quick)
    options = {"chunks": chunks, "queries": queries, "quick": quick}
    _show(benchmark.bench(rows, **options, out=out, say=errors.print), tables, record, json_)


def _trial(name: str, quick: bool) -> Path:
    out = Path("runs/rag") / ("quick" if quick else "") / name
    out.parent.mkdir(parents=True, exist_ok=True)
    return out


def _show(found: dict[str, Any], tables: ModuleType, record: bool, json_: bool) -> None:
    from rich.markdown import Markdown

    if record:
        tables.main()
    if json_:
        put(found)
    else:
        for text in tables.pages(found).values():
            console.print(Markdown(text))
