"""Sentences beside those that linguists marked, and the abbreviations that must not end one."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.documents.sentences import sentences
from shared import registry


def cut(text):
    return [text[start:end] for start, end in sentences(text)]


@pytest.mark.parametrize(
    "text",
    [
        "Dr. Ada met Mr. Babbage.|They talked.",
        "See Fig. 2 and Eq. (3).|Then read on.",
        "No. 5 is alive.|He said no.|Then he left.",
        "Tea, coffee etc. are hot.|We have tea etc.|The rest is cold.",
        "J. R. R. Tolkien wrote it.|We read it.",
        "He lives in the U.S. Army base.|She left the U.S.|The rest stayed.",
        "It costs 1.50 dollars.|Version 3.11 is out.",
        "Use e.g. Tea, i.e. Green Tea.|Or water.",
        '"Is it hot?" she asked.|"No!"|He left.',
        "Really?!|Yes...|Perhaps.",
        "He left (at last.)|Nobody saw him.",
        "Steps:\n1. Boil water.\n|2. Add tea.",
        "That was in 1999.|Then it ended.",
        "A heading\n\n|A paragraph without a mark\n\n|Another",
        "これは茶です。|熱いです！|はい",
        "Öl ist teuer.|Äpfel nicht.",
        "**Bold end.**|Next one.",
        "Is it?|no it is not",
        "",
        " \n ",
        "...",
    ],
)
def test_ends(text):
    assert cut(text.replace("|", " ")) == [part.strip() for part in text.split("|") if part.strip()]


@given(
    st.text(max_size=100)
    | st.lists(st.sampled_from([*'aA.?! \n。")1', "Dr.", "etc."])).map("".join)
)
def test_spans_lose_nothing(text):
    spans = sentences(text)
    covered = {i for start, end in spans for i in range(start, end)}
    assert all((i in covered) for i, sign in enumerate(text) if not sign.isspace())
    edges = [edge for span in spans for edge in span]
    assert edges == sorted(set(edges))
    assert all(text[a:b] == text[a:b].strip() != "" for a, b in spans)


def test_a_treebank_agrees():
    """The web treebank: blogs, mail, reviews. Half of what is missed there ends without a mark."""
    rows = registry.path("ud_english_ewt", "en_ewt-ud-dev.conllu").read_text("utf-8")
    blocks = re.split(r"(?m)^# new(?:par|doc)\b.*$", rows)
    marked = [re.findall(r"(?m)^# text = (.*)$", block) for block in blocks]

    def rates(find):
        right = n_found = n_marked = 0
        for paragraph in filter(None, marked):
            text = " ".join(paragraph)
            gold = {len(" ".join(paragraph[:i])) for i in range(1, len(paragraph))}
            found = set(find(text)) - {len(text)}
            right += len(gold & found)
            n_found += len(found)
            n_marked += len(gold)
        return right / n_found, right / n_marked

    def after_each_mark(text):
        return [mark.end() for mark in re.finditer(r"[.!?]+(?=\s)", text)]

    precision, recall = rates(lambda text: [end for _, end in sentences(text)])
    naive_precision, naive_recall = rates(after_each_mark)
    assert precision > 0.97
    assert naive_precision < 0.93
    assert recall > naive_recall - 0.04
