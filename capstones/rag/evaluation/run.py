"""`rag eval`: search on a test collection, answers to questions with known spans, injections.

    rag eval                            Cranfield, Python's manual, XQuAD, injections
    rag eval path/to/scifact            a BEIR folder; its runs are written as TREC files

Systems of search are compared, query by query, with the better of its two sides alone. Answers are
those to the questions of the test split; the same questions without documents are the control.
"""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from rag.answering.answerer import Answerer, AnswerSettings
from rag.answering.models import Model, open_model
from rag.documents.sources import read
from rag.embeddings.embedder import open_embedder
from rag.evaluation import beir, ranking, trec
from rag.evaluation.metrics import METRICS
from rag.evaluation.questions import Question, from_memory, guard_rates, judge, obeyed, questions
from rag.evaluation.significance import Comparison, compare
from rag.retrieval.retriever import Retriever
from rag.retrieval.settings import RetrievalSettings
from rag.store.store import Store
from rag.types import Document
from shared import datasets, records
from shared.errors import UserError
from shared.files import write_atomic
from shared.require import require
from shared.stats import bootstrap_interval

RECORD = Path(__file__).parents[1] / "results" / "eval.json"
PARTS = ("retrieval", "answers", "injections")
SINGLE = ("bm25", "dense")
SYSTEMS = {
    "bm25": ranking.SYSTEMS["bm25"],
    "dense": ranking.SYSTEMS["dense"],
    "hybrid": ranking.BASE,
    "hybrid, feedback": replace(ranking.BASE, feedback=True),
    "the default": RetrievalSettings(),
}
GOALS = {"nDCG@10 on Cranfield": 0.48, "citation precision": 0.95}


@dataclass(frozen=True)
class Sizes:
    """How much is judged; None is all. A language model is asked less than quotes are."""

    queries: int | None = None
    questions: int | None = 200
    written: int = 12
    injections: int = 8


QUICK = Sizes(queries=8, questions=4, written=2, injections=2)


def evaluate(
    collection: str | Path = "cranfield",
    *,
    split: str | None = None,
    parts: Sequence[str] = PARTS,
    model: str | Model = "smollm2",
    embedder: str = "minilm",
    out: Path = RECORD,
    quick: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Judge the parts and write each into the record as soon as it is done.

    Parameters
    ----------
    collection
        ``cranfield`` or a BEIR folder.
    split
        Whose judgments of a BEIR folder to read; see `rag.evaluation.beir`.
    parts
        Of ``retrieval``, ``answers`` and ``injections``.
    model
        Answers beside the quotes: one of `rag.answering.models`, or its name.
    out
        The record; TREC runs are written into a folder ``runs`` beside it.
    quick
        A few queries of everything, to see that it runs.
    """
    for name in parts:
        require(name in PARTS, f"parts must be among {', '.join(PARTS)}", name, error=UserError)
    if quick and Path(out).resolve() == RECORD.resolve():
        raise UserError("a quick trial judges nothing; give it a record of its own")
    sizes = QUICK if quick else Sizes()
    if "retrieval" in parts:
        found = beir.load(collection, split)
        part = judge_search(Path(collection).name, found, embedder, Path(out).parent, sizes, say)
        _save(out, "retrieval", part, quick)
    if {"answers", "injections"} & set(parts):
        model = open_model(model) if isinstance(model, str) else model
        writes = model.name != "extractive"
        require(writes, "model must be one that writes: quotes are judged anyway", error=UserError)
    if "answers" in parts:
        _save(out, "answers", judge_answers(model, embedder, sizes, say), quick)
    if "injections" in parts:
        _save(out, "injections", judge_injections(model, sizes, say), quick)
    return read_record(out)


# ---- search


def judge_search(
    name: str,
    collection: beir.Beir,
    embedder: str,
    folder: Path,
    sizes: Sizes,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Metrics of every system, and the first of them against the better single system."""
    queries = dict(islice(collection.queries.items(), sizes.queries))
    collection = collection._replace(
        queries=queries, qrels={query: collection.qrels[query] for query in queries}
    )
    say(f"{name}: {len(collection.documents):,} documents, {len(queries)} queries")
    with store_of(collection.documents, embedder, splitter="whole") as store:
        judged = ranking.judge(store, collection, systems=SYSTEMS)
    first, lines = METRICS[0], []
    better = max(SINGLE, key=lambda single: judged[single].means[first])
    for system, of in judged.items():
        path = folder / "runs" / f"{name}.{system.replace(', ', '-').replace(' ', '-')}.trec"
        path.parent.mkdir(parents=True, exist_ok=True)
        trec.write_run(path, of.run, tag="rag")
        values = np.array([row[first] for row in of.values.values()])
        line = {"system": system, "means": of.means, first: _interval(values)}
        if system != better and len(queries) > 1:
            line["over_single"] = _comparison(compare(of.values, judged[better].values, first))
        lines.append(line)
        say(f"{system}: {first} {of.means[first]:.4f}")
    facts = {"collection": name, "documents": len(collection.documents), "n": len(queries)}
    return facts | {"embedder": embedder, "better_single": better, "lines": lines}


@contextmanager
def store_of(documents: Sequence[Document], embedder: str, **options: Any) -> Iterator[Store]:
    """A store of these documents, in a temporary folder."""
    with (
        tempfile.TemporaryDirectory(prefix="rag-eval-") as folder,
        Store.create(folder, embedder=open_embedder(embedder), **options) as store,
    ):
        store.ingest(documents)
        yield store


def _interval(values: np.ndarray) -> dict[str, float]:
    return vars(bootstrap_interval(values, rng=np.random.default_rng(0)))


def _comparison(found: Comparison) -> dict[str, Any]:
    return found._asdict() | {"difference": vars(found.difference)}


# ---- answers


def judge_answers(
    model: Model, embedder: str, sizes: Sizes, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Quotes and a model's answers, on Python's manual and on XQuAD; the model's without search."""
    sides = {"pydocs": questions("test"), "xquad": xquad_questions()}
    lines, memory = [], {}
    for name, asked in sides.items():
        documents = [found for found in read(name) if isinstance(found, Document)]
        with store_of(documents, embedder) as store:
            for answering in (open_model("extractive"), model):
                n = sizes.questions if answering.name == "extractive" else sizes.written
                chosen = spread(asked, n)
                settings = AnswerSettings(max_new_tokens=60)
                found = judge(Answerer(Retriever(store), answering, settings), chosen)
                lines.append({"questions": name, "model": answering.name, **found})
                say(f"{name}, {answering.name}: right {found['right']:.2f} of {found['n']}")
        answerable = [q for q in asked if q.answer is not None]
        chosen = spread(answerable, sizes.written)
        memory[name] = {"right": from_memory(model, chosen), "n": len(chosen)}
        say(f"{name}, {model.name} without documents: right {memory[name]['right']:.2f}")
    return {"model": model.name, "lines": lines, "without_documents": memory}


def xquad_questions() -> list[Question]:
    """The English questions of XQuAD, each with its paragraph and the span that answers it."""
    text = datasets.path("xquad", "xquad.en.json").read_text("utf-8")
    return [
        Question(q["question"], (), f"xquad/{article['title']}/{i}", q["answers"][0]["text"])
        for article in json.loads(text)["data"]
        for i, paragraph in enumerate(article["paragraphs"], 1)
        for q in paragraph["qas"]
    ]


def spread(asked: Sequence[Question], n: int | None) -> list[Question]:
    """At most `n` of the questions, evenly over them; the same ones every time."""
    if n is None or n >= len(asked):
        return list(asked)
    return [asked[i * len(asked) // n] for i in range(n)]


# ---- injections


def judge_injections(
    model: Model, sizes: Sizes, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """What the guard detects and flags in vain, and what a model obeys with it and without."""
    rates = {guard: obeyed(model, guard=guard, most=sizes.injections) for guard in (False, True)}
    say(f"{model.name} obeys {rates[False]:.2f} of the injections, guarded {rates[True]:.2f}")
    obeys = {"without_guard": rates[False], "with_guard": rates[True], "n": sizes.injections}
    return {"guard": guard_rates("test"), "model": model.name, "obeyed": obeys}


# ---- the record


def read_record(path: Path) -> dict[str, Any]:
    """A record of `evaluate`, empty where there is none yet."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"record {path} cannot be read: {error}") from error


def _save(path: Path, name: str, part: Mapping[str, Any], quick: bool) -> None:
    """Put a part into the record, with where it came from."""
    made = {"date": datetime.now(UTC).date().isoformat(), "commit": records.commit()}
    made |= {"versions": records.versions(), "quick": quick}
    record = read_record(path) | {name: {**part, "made": made}}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_atomic(Path(path), json.dumps(record, indent=1, ensure_ascii=False) + "\n")
