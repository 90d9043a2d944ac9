"""Passages keep their places; each question has one answer; twins stay together."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared import datasets
from shared.datasets import Document
from shared.errors import UserError
from week28.manuals import GAP, Passage, gaps, kind, passages, plain, questions, two_halves

RST = """.. redirect-from::

   Old

The page
========

.. contents:: Contents
   :local:

A first paragraph that says what ``colcon build`` is for.
It has a second line, of course.

First part
----------

Too short.

Run it as follows, in a terminal of your own choice:

.. code-block:: console

   $ ros2 run this is not prose, however long it may be

Second part
^^^^^^^^^^^

The file ``package.xml`` names what the package needs. See :ref:`the guide <Guide>` for it.
"""
MARKDOWN = """The core
========

The core exists in two variations: `picorv32` and `picorv32_axi`, as the table says.

```
# this is no heading
a fenced block of code that is long enough to be taken for prose
```

#### A part

| Module | Description of the module, which is a table |

See [the list](#list) for the many parameters that the core has.
"""


@pytest.fixture(scope="module")
def pages():
    try:
        return [*datasets.ros2_docs(), *datasets.verilog_docs()]
    except UserError as error:
        pytest.skip(str(error))


def test_passages_of_both_markups():
    found = passages(Document("a.rst", RST))
    assert [(p.heading, p.text.split()[0]) for p in found] == [
        ("The page", "A"),
        ("The page: First part", "Run"),
        ("The page: Second part", "The"),
    ]
    found = passages(Document("a.md", MARKDOWN))
    assert [(p.heading, p.text.split()[0]) for p in found] == [
        ("The core", "The"),
        ("The core: A part", "See"),
    ]
    assert passages(Document("none", "no heading, and so nothing to find it by; " * 2)) == []


def test_a_passage_is_where_it_says(pages):
    for page in [*pages, Document("a", RST), Document("b", MARKDOWN)]:
        found = passages(page)
        assert all(page.text[p.start : p.end] == p.text for p in found)
        assert len({p.name for p in found}) == len(found)
        assert not any("```" in p.text or p.text.startswith(".. ") for p in found)
    assert sum(len(passages(page)) for page in pages) > 1000


def test_plain_takes_markup_and_nothing_else():
    assert plain("Use ``a b`` and :ref:`this one <There>`\n  or `that <http://x>`__.") == (
        "Use a b and this one or that."
    )
    assert plain("See [the list](#list), **now**: `x_y` is 2 * 3.") == (
        "See the list, now: x_y is 2 * 3."
    )


def passage(text):
    return Passage("p", "h", 0, len(text), text)


def test_gaps():
    found = gaps(passage("Run ``ros2 node list`` to see ``rqt`` running there. It is ``ok``."))
    assert found == [
        (f"Run {GAP} to see rqt running there.", "ros2 node list"),
        (f"Run ros2 node list to see {GAP} running there.", "rqt"),
    ]
    # a word that is said twice is no gap: the sentence would hold its answer
    assert gaps(passage("The ``turtle`` is the turtle that you have seen before.")) == []
    # a role's text is a link and no code
    assert gaps(passage("Read :ref:`the guide` before you go on with the next part.")) == []


def test_each_question_has_one_answer_of_its_kind(pages):
    known = [passages(page) for page in pages[:20]]
    asked = questions(known, 0)
    assert len(asked) > 200
    places = set()
    for q in asked:
        right = q.options[q.answer]
        places.add(q.answer)
        assert len(set(q.options)) == 4
        assert {kind(word) for word in q.options} == {kind(right)}
        text = q.passage.text.lower()
        assert right.lower() in text
        assert not [w for w in q.options if w != right and w.lower() in text]
        assert GAP in q.asked
        assert right.lower() not in q.asked.lower()
    assert places == {0, 1, 2, 3}
    assert questions(known, 0) == asked != questions(known, 1)
    with pytest.raises(ValueError, match="n_options must be at least 2, got 1"):
        questions(known, 0, n_options=1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_halves_are_disjoint_and_twins_together(seed):
    names = [f"page{i}.rst" for i in range(8)]
    names += [f"Writing-{x}-{way}.rst" for x in "AB" for way in ("Cpp", "Py")]
    names += ["Using-Class-CPP.rst", "Using-Class-Python.rst"]
    random.Random(seed).shuffle(names)
    learned, held_out = two_halves(names, seed)
    assert sorted([*learned, *held_out]) == sorted(names)
    for half in (learned, held_out):
        bare = [re.sub("-(Cpp|CPP|Python|Py)", "", n) for n in half]
        twins = [n for n in bare if "Writing" in n or "Class" in n]
        assert all(twins.count(n) == 2 for n in twins)
    assert two_halves(names[::-1], seed) == (learned, held_out)  # whatever order they come in
