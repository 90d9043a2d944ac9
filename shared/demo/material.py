"""What the chain works on: Python's manual to read, topics of it held out to judge, questions."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from shared.files import write_atomic
from shared.texts import Document, pydocs

__all__ = ["QUESTIONS", "TASK", "split", "write"]

QUESTIONS = (
    "When are default parameter values evaluated?",
    "What does the with statement do?",
    "How do I install a package with pip?",  # the manual does not say
)
# A task of one's own for llm-eval: bits per byte of texts, whatever a model's tokens are.
TASK = """\
task: manual
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
dataset_path: json
dataset_kwargs: {data_files: {test: heldout.jsonl}}
test_split: test
metric_list: [{metric: bits_per_byte}]
llm_eval:
  title: Topics of Python's manual that tiny_gpt has not read
  license: PSF License
  cluster: "{{topic}}"
"""
SHORT, EVERY, PIECE = 6000, 5, 1000  # characters of a topic, one topic of so many, characters


def split(documents: Sequence[Document]) -> tuple[list[Document], list[Document]]:
    """Documents to read and documents to judge by; no paragraph is in both.

    Every fifth of the short topics judges. The manual says some things twice, so paragraphs of
    those are taken out of the others.

    Examples
    --------
    >>> read, judge = split([Document("a", "one\\n\\ntwo"), Document("b", "two\\n\\nthree")])
    >>> read, judge
    ([Document(name='b', text='three')], [Document(name='a', text='one\\n\\ntwo')])
    """
    judge = [document for document in documents if len(document.text) < SHORT][::EVERY]
    seen = {paragraph for document in judge for paragraph in document.text.split("\n\n")}
    names = {document.name for document in judge}
    read = []
    for document in documents:
        kept = "\n\n".join(part for part in document.text.split("\n\n") if part not in seen)
        if document.name not in names and kept.strip():
            read.append(Document(document.name, kept))
    return read, judge


def write(out: Path, *, quick: bool) -> str:
    """Lay out the files; returns a digest of them. The quick form has a few topics."""
    documents = pydocs()
    if quick:
        documents = [document for document in documents if len(document.text) < SHORT][-16:]
    read, judge = split(documents)
    if quick:
        judge = judge[:1]
    pieces = [
        {"topic": document.name, "text": document.text[i : i + PIECE]}
        for document in judge
        for i in range(0, len(document.text), PIECE)
    ]
    files = {f"manual/{document.name}.txt": document.text for document in read}
    files["heldout.jsonl"] = "".join(f"{json.dumps(piece)}\n" for piece in pieces)
    files["heldout.yaml"] = TASK
    files["questions.txt"] = "".join(f"{question}\n" for question in QUESTIONS)
    manual = out / "manual"
    manual.mkdir(parents=True, exist_ok=True)
    for path in manual.iterdir():
        if f"manual/{path.name}" not in files:  # of the other form
            path.unlink()
    for name, text in files.items():
        if not (out / name).is_file() or (out / name).read_text(encoding="utf-8") != text:
            write_atomic(out / name, text)
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()
