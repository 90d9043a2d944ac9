"""Predictions from a file: any usual names, a line's number in every error, nothing unseen."""

import json
import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_eval.report import predictions
from llm_eval.report.predictions import PREDICTION, REFERENCE, read_predictions, score
from llm_eval.statistics.estimates import bootstrap_estimate, mean_estimate
from llm_eval.types import Number
from shared.errors import UserError


@dataclass
class Exact:
    """A metric like those of the registry."""

    name: str = "exact_match"
    higher_is_better: bool = True
    signature: str = "exact_match|v:1"
    linear: bool = True

    def value(self, prediction, references):
        return float(prediction in references)

    def aggregate(self, values):
        return sum(values) / len(values)


@pytest.fixture
def exact(monkeypatch):
    """The registry's part is played by two metrics here."""
    known = {
        "exact_match": Exact(),
        "corpus": Exact("corpus", signature="corpus|v:1", linear=False),
    }
    monkeypatch.setattr(predictions, "_metric", known.__getitem__)


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


ROWS = [
    {"prediction": "Paris", "reference": "Paris"},
    {"id": "b", "output": "1889", "references": ["in 1889", "1889"]},
    {"prediction": "", "answer": "tea"},
    {"prediction": None, "target": "x"},
    {"pred": "日本", "label": "日本"},
]


def test_numbers_of_a_file(exact, tmp_path):
    path = write(tmp_path / "mine.jsonl", *ROWS)
    right = [1.0, 1.0, 0.0, 1.0]
    one, two = score(path, ["exact_match", "corpus"])
    mean = mean_estimate(right)
    assert one == Number(
        *("mine", "exact_match", mean.value, mean.stderr, mean.low, mean.high, 4, 1, True),
        "exact_match|v:1",
    )
    drawn = bootstrap_estimate(right, lambda x: sum(x) / len(x))
    assert (two.value, two.low, two.high, two.failed) == (0.75, drawn.low, drawn.high, 1)


def test_a_file_without_answers_has_no_value(exact, tmp_path):
    path = write(tmp_path / "mine.jsonl", {"prediction": None, "target": "x"})
    (found,) = score(path)
    assert (found.value, found.low, found.n, found.failed) == (None, None, 0, 1)


@given(
    st.sampled_from(PREDICTION),
    st.sampled_from(REFERENCE),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1),
)
def test_texts_come_back_under_any_name(tmp_path_factory, said, meant, text, references):
    path = tmp_path_factory.mktemp("p") / "x.jsonl"
    write(path, {said: text, meant: references, "id": 7}, {said: text, meant: references[0]})
    path.write_text("\n  \n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    one, two = read_predictions(path)
    assert (one.id, one.text, one.references) == ("7", text, tuple(references))
    assert (two.id, two.text, two.references) == ("4", text, (references[0],))


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{", "line 2: must be a JSON object .Expecting property name"),
        (b"[1]", "line 2: must be a JSON object, got a list"),
        (b'"text"', "line 2: must be a JSON object, got text"),
        (b"\xff", "line 2: must be UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"reference": "x"}', "line 2: must have a field prediction, pred, .* or generated"),
        (b'{"prediction": "x"}', "line 2: must have a field references, .* or label"),
        (b'{"prediction": 3, "reference": "x"}', "line 2: prediction must be text, got a number"),
        (b'{"pred": true, "gold": "x"}', "line 2: pred must be text, got true or false"),
        (
            b'{"pred": "x", "gold": []}',
            "line 2: gold must be text or a list of texts, got an empty",
        ),
        (b'{"pred": "x", "gold": null}', "line 2: gold must be text, got null"),
        (b'{"pred": "x", "gold": ["a", {}]}', "line 2: gold must be text, got an object"),
        (b'{"pred": "\\ud83d", "gold": "x"}', "line 2: pred must be text, got half a character"),
    ],
)
def test_what_is_no_prediction_is_named_with_its_line(tmp_path, line, why):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b'{"prediction": "a", "reference": "a"}\n' + line + b"\n")
    with pytest.raises(UserError, match=why) as found:
        list(read_predictions(path))
    assert "\n" not in str(found.value)


def test_lines_have_a_limit_and_files_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "LONGEST", 100)
    path = write(tmp_path / "x.jsonl", {"prediction": "x" * 200, "reference": "x"})
    with pytest.raises(UserError, match="line 1: a line must be at most 100 bytes long"):
        list(read_predictions(path))
    (tmp_path / "x.jsonl").write_text("\n\n")
    with pytest.raises(UserError, match="it is empty"):
        list(read_predictions(path))
    with pytest.raises(UserError, match=r"^metrics must be .*bleu.*, got 'bleuu'"):
        predictions.score(path, ["bleuu"])
    with pytest.raises(UserError, match="absent cannot be read"):
        list(read_predictions(tmp_path / "absent"))
    with pytest.raises(UserError, match="cannot be read"):
        list(read_predictions(tmp_path))


def test_mutated_files_give_numbers_or_one_line(exact, tmp_path):
    """Bytes flipped, cut out, doubled and mixed in; nothing else may come than an error of ours."""
    rng = random.Random(0)
    whole = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS * 3).encode()
    path = tmp_path / "x.jsonl"
    numbers = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            i, j = sorted(rng.randrange(len(data)) for _ in range(2))
            junk = [
                b"\x00",
                b"\xff",
                b"null",
                b"[",
                b"{",
                b'"',
                b"\n",
                b"1e999",
                b"\\ud800",
                b"NaN",
            ]
            change = rng.randrange(4)
            if change == 0:
                data[i] ^= 1 << rng.randrange(8)
            elif change == 1:
                del data[i : min(j, i + 40)]
            elif change == 2:
                data[i:i] = data[i:j]
            else:
                data[i:i] = rng.choice(junk)
        path.write_bytes(data)
        told = ""
        try:
            (found,) = score(path)
            numbers += 1
            assert found.n + found.failed > 0
        except UserError as error:
            told = str(error)
        assert not told or ("x.jsonl" in told and "\n" not in told)
    assert 0 < numbers < 300
