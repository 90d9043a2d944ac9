"""The questions are of the manual, their answers stand in it, and judging them is no guess."""

import pytest
from rag_library import TEA, Library, Parrot

from rag.answering.answerer import Answerer, AnswerSettings
from rag.answering.models import Extractive
from rag.evaluation.questions import (
    CANARY,
    Question,
    fit,
    from_memory,
    is_right,
    judge,
    obeyed,
    questions,
    split_of,
)
from rag.types import Answer, Turn
from shared.texts import pydocs

MANUAL = {f"pydocs/{document.name}": document.text for document in pydocs()}
ASKED = [
    Question("Where was coffee first drunk?", (), "coffee.md", "Yemen"),
    Question("At how many degrees is green tea brewed?", (), "tea.md", "80 degrees"),
    Question("Who invented paper?", (Turn("Hello", "Hello."),), "paper.md", "Cai Lun"),
    Question("What is the capital of Mongolia?", (), None, None),
]


@pytest.mark.parametrize("question", [q for q in questions() if q.answer], ids=lambda q: q.question)
def test_the_answer_stands_in_the_manual(question):
    if question.answer not in MANUAL.get(question.document, ""):
        pytest.skip("the manual of this Python words it otherwise")
    assert question.answer.strip() == question.answer


def test_most_answers_stand_in_any_manual():
    known = [q for q in questions() if q.answer]
    there = [q.answer in MANUAL.get(q.document, "") for q in known]
    assert sum(there) / len(there) >= 0.8


def test_there_are_enough_of_each_kind():
    rows = questions()
    assert len(rows) >= 120
    assert len({(q.question, q.history) for q in rows}) == len(rows)
    assert 0.3 <= sum(q.answer is None for q in rows) / len(rows) <= 0.4
    assert sum(bool(q.history) for q in rows) >= 15
    assert all((q.answer is None) == (q.document is None) for q in rows)


def test_the_splits_are_apart_and_of_a_size():
    dev, test = questions("dev"), questions("test")
    assert {q.question for q in dev} & {q.question for q in test} == set()
    assert len(dev) + len(test) == len(questions())
    assert min(len(dev), len(test)) >= 80
    assert [split_of(x) for x in "abc"] == [split_of(x) for x in "abc"]


def answerer_of(model, min_confidence=0.0):
    return Answerer(Library(TEA), model, AnswerSettings(min_confidence=min_confidence, quotes=1))


def test_judging_quotes():
    report = judge(answerer_of(Extractive(), 0.55), ASKED)
    assert report["n"] == 4
    assert report["hit_rate"] == report["right_of_answerable"] == report["right"] == 1
    assert report["citation_precision"] == report["citation_recall"] == 1
    assert report["cited_document"] == report["faithfulness"] == 1
    assert report["refusals"] == {"precision": 1, "recall": 1, "answered": 1}
    assert report["curve"]["risk"] == [0, 0, 0, 0.25]  # the unanswerable one is the last
    assert 0 < report["f1"] < 1
    assert report["exact_match"] == report["fallbacks"] == 0


def test_silence_is_right_only_where_there_is_no_answer():
    report = judge(answerer_of(Extractive(), 1.0), ASKED)
    assert report["right"] == 0.25
    assert report["refusals"]["answered"] == 0
    assert report["curve"]["risk"] == [0, 0, 0, 0.25]  # the curve does not depend on the threshold


def test_fallbacks_are_counted():
    report = judge(answerer_of(Parrot("Elvis did that on Mars.")), ASKED[:3])
    assert report["fallbacks"] == 1


@pytest.mark.parametrize(
    ("said", "truth", "right"),
    [
        ("It was Yemen. [1]", "Yemen", True),
        ("Yemen", "in Yemen", True),
        ("Yemeni", "Yemen", False),
        ("I don't know.", "Yemen", False),
        ("In Yemen.", None, False),
        ("I don't know.", None, True),
    ],
)
def test_what_is_right(said, truth, right):
    answer = Answer("?", said, abstained=said.startswith("I don't"))
    document = truth and "coffee.md"
    assert is_right(answer, Question("?", (), document, truth)) == right


def test_the_control_has_no_documents():
    parrot = Parrot("Yemen", "I have no idea", "Cai Lun")
    assert from_memory(parrot, ASKED) == pytest.approx(2 / 3)
    assert all("<document" not in messages[-1]["content"] for messages in parrot.asked)


def test_fitting_separates_what_can_be_answered():
    weights, _, threshold = fit(answerer_of(Extractive()), ASKED)
    assert len(weights) == 4
    assert 0.5 < threshold < 1


def test_the_canary_is_heard_only_without_the_guard():
    class Obedient(Parrot):
        def stream(self, messages, **options):
            text = messages[-1]["content"]
            yield CANARY if CANARY in text else "80 degrees"

    assert obeyed(Obedient(""), guard=False) == 1
    assert obeyed(Obedient(""), guard=True) <= 0.1
