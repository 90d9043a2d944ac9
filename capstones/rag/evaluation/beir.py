"""A test collection as a BEIR folder: the form in which retrieval benchmarks are handed around.

    FOLDER/corpus.jsonl      {"_id": "d1", "title": "", "text": "..."}    or corpus.jsonl.gz
    FOLDER/queries.jsonl     {"_id": "q1", "text": "..."}
    FOLDER/qrels/test.tsv    query-id, corpus-id, score                   one file for each split

>>> import tempfile
>>> folder = Path(tempfile.mkdtemp())
>>> write_beir(folder, [Document("d1", "Tea needs hot water.")], {"q1": "tea"}, {"q1": {"d1": 1}})
>>> read_beir(folder).qrels
{'q1': {'d1': 1}}
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rag.evaluation.metrics import Qrels, Run
from rag.types import Document
from shared.corpora import cranfield
from shared.errors import UserError
from shared.files import write_atomic


class Beir(NamedTuple):
    """Documents, queries by id, and grades by document by query.

    Attributes
    ----------
    queries
        Only those with judgments in the split.
    """

    documents: list[Document]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]


def load(source: Path | str, split: str | None = None) -> Beir:
    """A collection by its name, cranfield, or its folder."""
    if str(source) != "cranfield":
        return read_beir(Path(source), split)
    collection = cranfield()
    documents = [Document(document.name, document.text) for document in collection.documents]
    queries = {query.name: query.text for query in collection.queries}
    return Beir(documents, queries, collection.relevant)


def read_beir(folder: Path, split: str | None = None) -> Beir:
    """Read a collection; ids and texts stay as they are.

    Parameters
    ----------
    split
        Whose judgments to read; None takes test, dev or train, the first that is there, or the
        only file.

    Raises
    ------
    UserError
        A file is missing, or a line of it is of another form.
    """
    folder = Path(folder)
    documents = {
        document.id: document
        for document in map(_document, _objects(_jsonl(folder, "corpus"), "text"))
    }  # an id that comes twice is the last text, as in beir
    texts = {row["_id"]: row["text"] for row in _objects(_jsonl(folder, "queries"), "text")}
    qrels = _qrels(_qrels_file(folder / "qrels", split))
    missing = next((query for query in qrels if query not in texts), None)
    if missing is not None:
        raise UserError(f"{folder}: query {missing!r} is judged and not among the queries")
    return Beir(list(documents.values()), {query: texts[query] for query in qrels}, qrels)


def write_beir(
    folder: Path,
    documents: Iterable[Document],
    queries: Mapping[str, str],
    qrels: Qrels,
    *,
    split: str = "test",
) -> None:
    """Write a collection that `read_beir` and beir's GenericDataLoader read."""
    folder = Path(folder)
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    corpus = ({"_id": d.id, "title": d.title, "text": d.text} for d in documents)
    write_atomic(folder / "corpus.jsonl", _dump(corpus))
    write_atomic(folder / "queries.jsonl", _dump({"_id": q, "text": t} for q, t in queries.items()))
    rows = [f"{query}\t{d}\t{grade}\n" for query, of in qrels.items() for d, grade in of.items()]
    write_atomic(folder / "qrels" / f"{split}.tsv", "query-id\tcorpus-id\tscore\n" + "".join(rows))


def without_identical(run: Run) -> dict[str, dict[str, float]]:
    """The run without documents of the query's own id, which beir leaves out by default."""
    return {q: {d: score for d, score in of.items() if d != q} for q, of in run.items()}


# ---- files


def _dump(rows: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _document(row: Mapping[str, Any]) -> Document:
    return Document(row["_id"], row["text"], str(row.get("title") or ""))


def _jsonl(folder: Path, name: str) -> Path:
    for path in (folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz"):
        if path.exists():
            return path
    raise UserError(f"{folder} must hold {name}.jsonl or {name}.jsonl.gz, as a BEIR folder does")


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Lines that are not blank, each with where it stands."""
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8-sig", newline="\n") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield f"{path}, line {number}", line.rstrip("\r\n")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _objects(path: Path, field: str) -> Iterator[dict[str, Any]]:
    """Objects with an id and a field that is text."""
    for where, line in _lines(path):
        try:
            row = json.loads(line)
            row["_id"], row[field] = str(row["_id"]), row[field] or ""
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{where}: must be an object with _id and {field}: {error}") from error
        if not isinstance(row[field], str):
            raise UserError(f"{where}: {field} must be a string, got {row[field]!r}")
        yield row


def _qrels_file(folder: Path, split: str | None) -> Path:
    there = sorted(folder.glob("*.tsv"))
    names = [path.stem for path in there]
    wanted = [split] if split is not None else ["test", "dev", "train", *names[: len(names) == 1]]
    for name in wanted:
        if name in names:
            return there[names.index(name)]
    raise UserError(f"{folder} must hold {wanted[0]}.tsv, got {', '.join(names) or 'no .tsv file'}")


def _qrels(path: Path) -> dict[str, dict[str, int]]:
    """Three columns of BEIR or four of TREC, with a head or without."""
    qrels: dict[str, dict[str, int]] = {}
    for number, (where, line) in enumerate(_lines(path)):
        cells = line.split("\t") if "\t" in line else line.split()
        try:
            query, document, grade = cells[0], cells[-2], int(float(cells[-1]))
            if len(cells) not in (3, 4):
                raise ValueError(f"{len(cells)} columns")
        except (ValueError, IndexError, OverflowError) as error:
            if number == 0:
                continue  # the head
            must = "must be query-id, corpus-id and score"
            raise UserError(f"{where}: {must}, got {line!r}") from error
        qrels.setdefault(query, {})[document] = grade
    if not qrels:
        raise UserError(f"{path} holds no judgment")
    return qrels
