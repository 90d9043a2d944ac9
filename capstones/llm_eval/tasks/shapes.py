r"""Documents of data sets whose files are something else: nested, joined, or prose with marks.

Each function takes (file name, rows) of the files and gives documents.

>>> row = winobias_row("1 The janitor reprimanded [the accountant] because [he] made a mistake.")
>>> row["sentence"], row["entity"], row["pronoun"]
('The janitor reprimanded the accountant because he made a mistake.', 'the accountant', 'he')
"""

import re
from collections.abc import Callable
from typing import Any

from llm_eval.tasks.located import short
from shared import registry
from shared.errors import UserError

Rows = list[dict[str, Any]]
Files = list[tuple[str, Rows]]
PRONOUNS = {"he", "she", "him", "her", "his", "hers", "himself", "herself"}


def joined(files: Files) -> Rows:
    """All rows; where there are several files, each row says which it is of."""
    if len(files) == 1:
        return files[0][1]
    return [{**row, "file": name.split(".")[0]} for name, rows in files for row in rows]


def bbh(files: Files) -> Rows:
    """BIG-Bench Hard: examples of each task, with the prompt of its authors (three worked ones)."""
    rows = []
    for name, content in files:
        task = name.removesuffix(".json")
        prompt = registry.path("bbh", f"{task}.txt").read_text(encoding="utf-8")
        worked = prompt.split("-----\n", 1)[-1].strip()
        examples = _nested(name, content, "examples")
        rows += [{"task": task, **example, "worked": worked} for example in examples]
    return rows


def squad(files: Files) -> Rows:
    """SQuAD's nesting of articles, paragraphs and questions."""
    rows, n_paragraphs = [], 0
    for name, content in files:
        for article in _nested(name, content, "data"):
            for paragraph in article["paragraphs"]:
                n_paragraphs += 1
                rows += [
                    {
                        "id": question["id"],
                        "context": paragraph["context"],
                        "question": question["question"],
                        "answers": [answer["text"] for answer in question["answers"]],
                        "paragraph": n_paragraphs,
                    }
                    for question in paragraph["qas"]
                ]
    return rows


def truthfulqa(files: Files) -> Rows:
    """TruthfulQA's lists: the best answer before the false ones, as its authors' MC1."""
    rows = []
    for row in joined(files):
        best = _sentence(row["Best Answer"])
        false = [_sentence(text) for text in row["Incorrect Answers"].split(";") if text.strip()]
        rows.append(
            {
                "question": row["Question"].strip(),
                "choices": [best, *dict.fromkeys(text for text in false if text != best)],
                "category": row["Category"],
                "type": row["Type"],
            }
        )
    return rows


def wikitext(files: Files) -> Rows:
    """WikiText's pages, each from its title on, as they are and with the tokenizer's marks undone.

    The marks are undone as lm-eval's task does (preprocess_wikitext.py), whose words and bytes are
    those of the page before.
    """
    pages: list[list[str]] = []
    for row in joined(files):
        if re.fullmatch(r" = [^=].*[^=] = ?", row["text"]) or not pages:
            pages.append([])
        pages[-1].append(row["text"])
    texts = ["\n".join(lines) for lines in pages]
    return [{"page": text, "text": _untokenized(text)} for text in texts if text.strip()]


def winobias(files: Files) -> Rows:
    """WinoBias: who the pronoun means, of the two occupations of each sentence.

    The right one and the pronoun are in brackets; the other is found by WinoBias' own lists. `pair`
    is the same for a sentence's stereotyped and anti-stereotyped forms.
    """
    kinds = ("female", "male")
    lists = [registry.path("winobias", f"{kind}_occupations.txt") for kind in kinds]
    occupations = [line.strip() for path in lists for line in path.read_text().splitlines()]
    rows = []
    for name, content in files:
        stereotype, kind = re.match(r"(pro|anti)_stereotyped_type(\d)", name).groups()
        for line in content:
            row = winobias_row(line["text"])
            # the longest first: a "construction worker" is one occupation
            names = "|".join(re.escape(o) for o in sorted(occupations, key=len, reverse=True) if o)
            people = rf"\b(?:{re.escape(row['entity'])}|the (?:{names}))\b"
            there = re.findall(people, row["sentence"], re.IGNORECASE)
            people = list(dict.fromkeys(who[0].lower() + who[1:] for who in there))
            number = row.pop("number")
            rows.append(
                {
                    "pair": f"type{kind}-{number}",
                    "type": int(kind),
                    "stereotype": stereotype,
                    "kind": f"{stereotype} {kind}",
                    **row,
                    "choices": people,
                    "gold": people.index(row["entity"]),
                }
            )
    return rows


def winobias_row(line: str) -> dict[str, str]:
    """One line of WinoBias: its number, sentence, right occupation and pronoun."""
    number, _, text = line.strip().partition(" ")
    marked = re.findall(r"\[([^\]]*)\]", text)
    entities = [mark for mark in marked if mark.lower() not in PRONOUNS]
    if len(entities) != 1 or len(marked) < 2 or not number.isdigit():
        why = "must have a number, a person and a pronoun in brackets"
        raise UserError(f"a line of WinoBias {why}, got {short(line)}")
    sentence = re.sub(r"[\[\]]", "", text)
    sentence = re.sub(r"\b([Tt]he) the\b", r"\1", sentence)
    entity = entities[0][0].lower() + entities[0][1:]
    pronoun = next(mark for mark in marked if mark.lower() in PRONOUNS)
    return {"number": number, "sentence": sentence, "entity": entity, "pronoun": pronoun}


def winogender(files: Files) -> Rows:
    """Winogender's sentences with she and with he; a pair has the same two people."""
    return [
        {**row, "pair": str(number), "group": "she" if "female" in name else "he"}
        for name, rows in files
        for number, row in enumerate(rows)
    ]


SHAPES: dict[str, Callable[[Files], Rows]] = {
    function.__name__: function
    for function in (bbh, squad, truthfulqa, wikitext, winobias, winogender)
}


def _nested(name: str, content: Rows, field: str) -> Rows:
    if len(content) != 1 or not isinstance(content[0].get(field), list):
        raise UserError(f"{name} must be an object with a list {field}")
    return content[0][field]


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith(".") else text + "."


def _untokenized(text: str) -> str:
    text = text.replace("s '", "s'")
    text = re.sub(r"/' [0-9]/", r"/'[0-9]/", text)
    for mark in "-,.":
        text = text.replace(f" @{mark}@ ", mark)
    for mark in ":;.!?,":
        text = text.replace(f" {mark} ", f"{mark} ")
    text = re.sub(r"\(\s*([^\)]*?)\s*\)", r"(\1)", text)
    text = re.sub(r"\[\s*([^\]]*?)\s*\]", r"[\1]", text)
    text = re.sub(r"{\s*([^}]*?)\s*}", r"{\1}", text)
    text = re.sub(r"\"\s*([^\"]*?)\s*\"", r'"\1"', text)
    text = re.sub(r"'\s*([^']*?)\s*'", r"'\1'", text)
    for marks in ("= = = =", "= = =", "= ="):
        text = text.replace(marks, marks.replace(" ", ""))
    text = text.replace(" ° ", "°").replace(" \n", "\n").replace("\n ", "\n")
    return text.replace(" N ", " 1 ").replace(" 's", "'s")
