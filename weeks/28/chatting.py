"""A conversation on the command line, and the assistants of this week by name.

An assistant is a module with `reply(messages) -> str`: it is told all that was said so far, each
turn a dictionary with a `role` (user or assistant) and its `content`, and says what comes next.

>>> lines = iter(["hello", "", "and again", "exit"])
>>> told = chat(lambda messages: f"turn {len(messages)}", ask=lambda _: next(lines), say=print)
turn 1
turn 3
>>> [turn["role"] for turn in told]
['user', 'assistant', 'user', 'assistant']

`uv run weeks/28/verilog_assistant.py --chat` talks so, as do the other two. The form of the turns
is that of OpenAI's interface (2023), which `serve` speaks.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from shared.errors import UserError
from shared.require import require

ASSISTANTS = {
    "verilog": "verilog_assistant",
    "teacher": "good_teacher",
    "circuits": "circuit_documents",
}
ENDS = ("exit", "quit")
Messages = Sequence[Mapping[str, str]]
Reply = Callable[[Messages], str]


@runtime_checkable
class Assistant(Protocol):
    """Whoever answers a conversation."""

    def reply(self, messages: Messages) -> str:
        """What comes next."""
        ...


def assistant(name: str) -> Assistant:
    """An assistant of this week: `verilog`, `teacher` or `circuits`.

    Raises
    ------
    UserError
        If there is none of that name.
    """
    known = ", ".join(ASSISTANTS)
    require(name in ASSISTANTS, f"assistant must be one of {known}", repr(name), error=UserError)
    return importlib.import_module(f"week28.{ASSISTANTS[name]}")


def question_of(messages: Messages) -> str:
    """What was asked last, without blanks at its ends.

    Raises
    ------
    UserError
        If a conversation is empty, or does not end with something that the user says.
    """
    last = messages[-1] if messages else {}
    said = last.get("content", "").strip() if last.get("role") == "user" else ""
    must = "messages must end with a question of the user's"
    require(said, must, repr(last.get("role", "none")), error=UserError)
    return said


def chat(
    reply: Reply, ask: Callable[[str], str] = input, say: Callable[[str], None] = print
) -> list[dict[str, str]]:
    """Talk until `exit` or the end of the input; the turns that were answered.

    What cannot be answered is said in one line, and forgotten.
    """
    messages: list[dict[str, str]] = []
    while True:
        try:
            said = ask("> ").strip()
        except EOFError:
            return messages
        if said.lower() in ENDS:
            return messages
        if not said:
            continue
        turn = {"role": "user", "content": said}
        try:
            answer = reply([*messages, turn])
        except (UserError, ValueError, OSError) as error:
            say(f"error: {' '.join(str(error).split())}")
            continue
        messages += [turn, {"role": "assistant", "content": answer}]
        say(answer)
