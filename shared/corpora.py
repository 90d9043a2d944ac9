"""Texts that come with answers: words and stems, tags, relevant documents, programs."""

import json
import re
import zipfile
from typing import Literal, NamedTuple

from shared.registry import path, registry
from shared.texts import Document, check_split, read_text_file

__all__ = [
    "Cranfield",
    "HardwareProblem",
    "Word",
    "analogies",
    "blimp",
    "cranfield",
    "english_ewt",
    "english_lemmas",
    "porter_pairs",
    "ros2_docs",
    "verilog_benches",
    "verilog_docs",
    "verilog_eval",
    "wnut17",
    "word_similarity",
]

WNUT17 = {
    "train": "wnut17train.conll",
    "dev": "emerging.dev.conll",
    "test": "emerging.test.annotated",
}


class Word(NamedTuple):
    """A word of a sentence, its lemma and its universal part of speech (``NOUN``)."""

    form: str
    lemma: str
    pos: str


class Cranfield(NamedTuple):
    """A test collection for search.

    Attributes
    ----------
    documents
        1,400 abstracts on aerodynamics, each named by its number from ``"1"``; two are empty.
    queries
        225 questions, named ``"1"`` to ``"225"`` in their order: the judgments count them so, and
        not by the numbers that the file of queries holds.
    relevant
        For each query's name the documents judged relevant, 1 (the only grade) each.
    """

    documents: list[Document]
    queries: list[Document]
    relevant: dict[str, dict[str, int]]


def porter_pairs() -> list[tuple[str, str]]:
    """Return 42,603 words with the stems of Porter's algorithm, as ``(word, stem)``."""
    words, stems = (
        path("snowball_porter", f"porter/{name}.txt").read_text("utf-8").split("\n")
        for name in ("voc", "output")
    )
    return [pair for pair in zip(words, stems, strict=True) if pair[0]]


def english_lemmas() -> dict[str, str]:
    """Return English word forms and their lemma; the first listed where a form has several."""
    lemmas: dict[str, str] = {}
    for line in read_text_file(path("lemmatization_lists", "lemmatization-en.txt")).splitlines():
        lemma, form = line.split("\t")
        lemmas.setdefault(form, lemma)
    return lemmas


def english_ewt(split: Literal["train", "dev", "test"] = "dev") -> list[list[Word]]:
    """Return the sentences of the Universal Dependencies English Web Treebank.

    Words are the syntactic ones (``don't`` is two); the rows of whole tokens and of words that
    only the enhanced graph has are left out.

    Parameters
    ----------
    split
        ``"train"`` (12,544 sentences, which must be downloaded), ``"dev"`` (2,001) or ``"test"``
        (2,077).

    Raises
    ------
    ValueError
        The split is another.
    UserError
        The file cannot be had; see `shared.registry.fetch`.
    """
    check_split(split, ("train", "dev", "test"))
    text = read_text_file(path("ud_english_ewt", f"en_ewt-ud-{split}.conllu"))
    rows = [[line.split("\t") for line in block] for block in _blocks(text)]
    return [[Word(*row[1:4]) for row in block if row[0].isdecimal()] for block in rows]


def wnut17(split: Literal["train", "dev", "test"] = "train") -> list[list[tuple[str, str]]]:
    """Return the sentences of WNUT-17 (tweets and the like) as ``(token, tag)``.

    Tags are ``O``, or ``B-`` or ``I-`` and one of six types of entity: corporation,
    creative-work, group, location, person, product. Parts: train 3,394, dev 1,009, test 1,287.

    Raises
    ------
    ValueError
        The split is another.
    """
    check_split(split, tuple(WNUT17))
    text = read_text_file(path("wnut17", WNUT17[split]))
    return [[tuple(line.split("\t")[:2]) for line in block] for block in _blocks(text)]


def cranfield() -> Cranfield:
    """Return the Cranfield collection of 1,400 abstracts, 225 questions and who answers them."""
    entries = re.findall(
        r"<docno>(\d+)</docno>.*?<text>(.*?)</text>",
        read_text_file(path("cranfield", "cran.all.1400.xml")),
        re.S,
    )
    titles = re.findall(
        r"<title>(.*?)</title>", read_text_file(path("cranfield", "cran.qry.xml")), re.S
    )
    relevant: dict[str, dict[str, int]] = {}
    for line in read_text_file(path("cranfield", "cranqrel.trec.txt")).splitlines():
        query, _, document, grade = line.split()
        if int(grade) > 0:
            relevant.setdefault(query, {})[document] = 1
    return Cranfield(
        [Document(number, text.strip()) for number, text in entries],
        [Document(str(i), " ".join(title.split())) for i, title in enumerate(titles, 1)],
        relevant,
    )


def analogies() -> dict[str, list[tuple[str, str, str, str]]]:
    """Return the 19,544 questions "a is to b as c is to d" in their 14 categories, lower-cased."""
    categories: dict[str, list] = {}
    for line in read_text_file(path("word_similarity", "questions-words.txt")).splitlines():
        if line.startswith(":"):
            questions = categories.setdefault(line[1:].strip(), [])
        else:
            questions.append(tuple(line.lower().split()))
    return categories


def word_similarity(
    name: Literal["wordsim353", "simlex999"] = "wordsim353",
) -> list[tuple[str, str, float]]:
    """Return pairs of words, lower-cased, and the mean similarity that people gave them, 0 to 10.

    Raises
    ------
    ValueError
        The name is another.
    """
    check_split(name, ("wordsim353", "simlex999"), "name")
    file = path("word_similarity", {"wordsim353": f"{name}.tsv", "simlex999": f"{name}.txt"}[name])
    rows = (line.split("\t") for line in read_text_file(file).splitlines() if line[0] != "#")
    return [(first.lower(), second.lower(), float(score)) for first, second, score in rows]


class HardwareProblem(NamedTuple):
    """A circuit: what it does in words (maybe empty), its ports, and Verilog that does it."""

    name: str
    description: str
    header: str
    body: str


def verilog_eval() -> list[HardwareProblem]:
    """Return VerilogEval's 143 problems that a machine described, most in one sentence.

    35 have no short description. Headers end with their `);`, bodies with `endmodule`. The
    testbenches are in `verilog_benches`: they need a simulator.
    """
    file = "VerilogDescription_Machine.jsonl"
    said = {row["task_id"]: row for row in _json_lines("verilog_eval", file)}
    return [
        HardwareProblem(
            row["task_id"],
            said[row["task_id"]].get("simple_description", "").strip(),
            row["prompt"].strip(),
            row["canonical_solution"].strip(),
        )
        for row in _json_lines("verilog_eval", "VerilogEval_Machine.jsonl")
    ]


def verilog_benches() -> dict[str, str]:
    """Return the testbenches of `verilog_eval` by its problems' names; each is a program.

    Its module `tb` compares `top_module` with a right one of its own, and ends with a line
    ``Mismatches: 3 in 200 samples``.
    """
    rows = _json_lines("verilog_eval", "VerilogEval_Machine.jsonl")
    return {row["task_id"]: row["test"] for row in rows}


def ros2_docs() -> list[Document]:
    """Return 61 pages of ROS 2's documentation in reStructuredText, named by their paths."""
    return _pages("ros2_docs")


def verilog_docs() -> list[Document]:
    """Return the two pages that document PicoRV32, a processor in Verilog, in Markdown."""
    return _pages("verilog_docs")


def _pages(dataset: str) -> list[Document]:
    names = [file.path.split("/", 1)[1] for file in registry()[dataset].files]
    return [Document(name, read_text_file(path(dataset, name))) for name in sorted(names)]


def _json_lines(dataset: str, file: str) -> list[dict]:
    return [json.loads(line) for line in read_text_file(path(dataset, file)).splitlines()]


def blimp() -> dict[str, list[tuple[str, str]]]:
    """Return BLiMP's 67 paradigms, 1,000 pairs each of a sentence and an ungrammatical one."""
    with zipfile.ZipFile(path("blimp", "BLiMP.zip")) as archive:
        files = sorted(n for n in archive.namelist() if re.fullmatch(r"data/\w+\.jsonl", n))
        found = {}
        for name in files:
            rows = map(json.loads, archive.read(name).decode().splitlines())
            pairs = [(row["sentence_good"], row["sentence_bad"]) for row in rows]
            found[name.removeprefix("data/").removesuffix(".jsonl")] = pairs
    return found


def _blocks(text: str) -> list[list[str]]:
    """The lines between blank lines, without comments that start with ``# ``."""
    blocks: list[list[str]] = [[]]
    for line in text.split("\n"):
        if not line.strip():
            blocks.append([])
        elif not line.startswith("# "):
            blocks[-1].append(line)
    return [block for block in blocks if block]
