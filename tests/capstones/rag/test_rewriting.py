"""Follow-ups get their topic, and nothing else is touched."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.conversation.rewriting import is_small_talk, rewrite
from rag.types import Turn

# The turn before, then follow-ups with a word that the query must carry.
FOLLOW_UPS = {
    "How does the with statement close a file?": [
        ("And if it raises an error?", "file"),
        ("What happens to it when the block ends?", "file"),
        ("Does that work for sockets too?", "close"),
        ("Why?", "with"),
        ("Can you give an example?", "file"),
        ("How many of them can it take?", "statement"),
        ("For example?", "close"),
    ],
    "What is a generator function?": [
        ("How do I write one?", "generator"),
        ("What does it return?", "generator"),
        ("Are they faster than lists?", "generator"),
        ("When is its body run?", "function"),
        ("and in async code?", "generator"),
        ("Tell me more", "generator"),
        ("Which of those can be restarted?", "generator"),
    ],
    "How are lists compared in Python?": [
        ("What about sets?", "compared"),
        ("And tuples?", "compared"),
        ("How about dictionaries?", "compared"),
        ("Why is that so?", "lists"),
        ("Is it slow?", "compared"),
        ("And of different lengths?", "lists"),
        ("But if they are nested?", "lists"),
    ],
    "What does the nonlocal keyword do?": [
        ("How is this different from global?", "nonlocal"),
        ("When was it added?", "nonlocal"),
        ("Can I use it at module level?", "nonlocal"),
        ("Which proposal describes it?", "nonlocal"),
        ("Since when?", "nonlocal"),
        ("What error does it raise?", "nonlocal"),
        ("Is there another way?", "nonlocal"),
    ],
    "Which exception does a failed assertion raise?": [
        ("How can I catch it?", "assertion"),
        ("Is this exception ever silenced?", "assertion"),
        ("Does the same apply to warnings?", "assertion"),
        ("What does its message say?", "exception"),
        ("Explain", "assertion"),
        ("In production?", "assertion"),
        ("What if it is inside a loop?", "assertion"),
    ],
}
# Questions that stand alone, whatever came before, and talk that asks nothing.
ALONE = [
    "What does the del statement do?",
    "How are floating point literals written?",
    "Which operators have the lowest priority?",
    "Is it possible to decorate a class?",
    "Explain the difference between is and ==.",
    "What does it mean to unpack a dictionary?",
    "How does Python find that a module is a package?",
    "Show me the syntax of a lambda expression.",
    "What is the value of __name__ in the main module?",
    "How do I delete an item of a list?",
    "Why are default arguments evaluated only once?",
    "Can a lambda contain statements?",
    "What happens when two keys of a dictionary are equal?",
    "What does the expression `this is not None` test?",
    "How do I write a class that can be called?",
    "Where may the return statement occur?",
    "Which characters can identifiers contain?",
    "When is the else clause of a while loop executed?",
    "What is the meaning of the underscore in a match statement?",
    "Does Python have a switch statement?",
    "How long may an identifier be?",
    "Is there a limit for integers?",
    "Are strings mutable?",
    "What are slots?",
    "Name the keywords of the language.",
    "How can one import a module under another name?",
    "What is the default encoding of source files?",
    "Which error is raised when a name is not found?",
    "Do f-strings allow nested quotes?",
    "And operators: which of them bind tightest in Python expressions?",
    "So how does operator precedence work in Python?",
    "What is a metaclass?",
    "How does a class know its own name?",
    "Does a generator keep its state between calls?",
    "What happens when the same key is given twice?",
    "Can a function change its default values?",
    "Is list() the same as an empty display?",
    "Is an exception cleared when its handler ends?",
    "How do I open a file and read it?",
]
TALK = [
    "Hello",
    "Hi there!",
    "Thanks",
    "Thank you very much!",
    "Thanks, that helps.",
    "Good morning",
    "ok",
    "Great, thanks!",
    "Bye",
    "Got it.",
    "Hello, how are you?",
    "Perfect!",
    "No, thank you.",
]


def history_of(question):
    return [Turn("What is a list?", "A mutable sequence. [1]"), Turn(question, "So it is. [1]")]


def test_precision_and_recall():
    follow_ups = [(b, q, w) for b, rest in FOLLOW_UPS.items() for q, w in rest]
    hits = [rewrite(q, history_of(b)).changed for b, q, _ in follow_ups]
    false = [rewrite(q, history_of("How are sets made?")).changed for q in ALONE + TALK]
    assert len(follow_ups) + len(false) >= 60
    assert sum(hits) / len(hits) >= 0.9  # recall
    assert sum(hits) / (sum(hits) + sum(false)) >= 0.95  # precision


@pytest.mark.parametrize(
    ("before", "question", "word"),
    [(before, *rest) for before, asked in FOLLOW_UPS.items() for rest in asked],
)
def test_the_topic_is_carried(before, question, word):
    query = rewrite(question, history_of(before)).query
    assert query.startswith(question)  # nothing that was asked is lost
    assert word in query.lower()
    assert "mutable" not in query  # nor is the topic before the last one added


@pytest.mark.parametrize("text", TALK)
def test_small_talk_is_left_alone(text):
    assert is_small_talk(text)
    assert rewrite(text, history_of("What is a set?")) == (text, False, "small talk")


@pytest.mark.parametrize(
    "text", ["Why?", "Hello world in Python?", "Is that all?", "ok but why?", ""]
)
def test_questions_are_no_small_talk(text):
    assert not is_small_talk(text)


def test_without_a_history_nothing_is_rewritten():
    assert rewrite("And then?", []) == ("And then?", False, "nothing before it")


def test_a_chain_of_follow_ups_keeps_the_topic():
    history = [
        Turn("How does the with statement close a file?", "By __exit__(). [1]"),
        Turn("Thanks!", "Hello."),
        Turn("And if it raises?", "It is closed, too. [1]"),
    ]
    query = rewrite("Why is that?", history).query
    for word in ("with", "statement", "close", "file", "raises"):
        assert word in query


def test_a_word_that_is_there_is_not_added_again():
    query = rewrite("Does it close files?", [Turn("How are files closed by with?", "So.")]).query
    assert query.lower().count("file") == 1


@given(st.text(max_size=60), st.lists(st.text(max_size=40), max_size=3))
def test_any_text(question, before):
    result = rewrite(question, [Turn(x, x) for x in before])
    assert result.query.startswith(question)
    assert result.changed == (result.query != question)
