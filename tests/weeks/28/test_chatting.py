"""A conversation: what is remembered, what is forgotten, how it ends."""

import pytest

from shared.errors import UserError
from week28.chatting import ASSISTANTS, assistant, chat, question_of


def talk(lines, reply):
    """Say the lines, then the input ends; the turns, and what was said."""
    waiting, said = iter(lines), []

    def ask(_):
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    return chat(reply, ask, said.append), said


def test_each_reply_is_told_all_that_was_said():
    told = []

    def reply(messages):
        told.append([m["content"] for m in messages])
        return f"r{len(messages)}"

    turns, said = talk(["a", "  ", "b ", "exit", "c"], reply)
    assert told == [["a"], ["a", "r1", "b"]]
    assert said == ["r1", "r3"]
    assert [m["role"] for m in turns] == ["user", "assistant"] * 2


@pytest.mark.parametrize("end", [["exit"], ["QUIT"], []])
def test_it_ends(end):
    assert talk(end, lambda _: "x") == ([], [])


def test_what_cannot_be_answered_is_one_line_and_forgotten():
    def reply(messages):
        if messages[-1]["content"] == "bad":
            raise UserError("two\nlines")
        return str(len(messages))

    turns, said = talk(["a", "bad", "b"], reply)
    assert said == ["1", "error: two lines", "3"]
    assert [m["content"] for m in turns] == ["a", "1", "b", "3"]


def test_a_bug_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        talk(["a"], lambda _: 1 / 0)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "assistant", "content": "x"}],
        [{"role": "user", "content": " \n"}],
        [{"content": "x"}],
    ],
)
def test_a_conversation_ends_with_a_question(messages):
    with pytest.raises(UserError, match="messages must end with a question of the user's, got"):
        question_of(messages)
    assert question_of([{"role": "user", "content": " x "}]) == "x"


def test_assistants_have_names():
    assert assistant("verilog").__name__ == "week28.verilog_assistant"
    assert callable(assistant("verilog").reply)
    must = f"assistant must be one of {', '.join(ASSISTANTS)}, got 'x'"
    with pytest.raises(UserError, match=must):
        assistant("x")
