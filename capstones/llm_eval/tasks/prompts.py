r"""From a document to what the model reads, as lm-eval 0.4.13 does it (`api/task.py`).

A prompt is a conversation: a description, examples, the question. As text, its messages stand
behind one another, each with its delimiter:

    description  (text + target_delimiter + target + fewshot_delimiter) per example  text

As a chat it is turns without delimiters, for the model's own template.

>>> prompt = Prompt("Q: {{q}}\nA:", "{{a}}", description="Sums.\n\n")
>>> documents = [{"q": "1+1", "a": "2"}, {"q": "2+2", "a": "4"}]
>>> messages = conversation(prompt, documents[1], [(prompt, documents[0])])
>>> as_text(messages)
'Sums.\n\nQ: 1+1\nA: 2\n\nQ: 2+2\nA:'
>>> as_turns(messages)[-1]
('user', 'Q: 2+2\nA:')
"""

import ast
import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm_eval.tasks.config import Prompt
from llm_eval.tasks.located import short
from llm_eval.tasks.templates import render
from llm_eval.types import Document, Turns
from shared.errors import UserError


@dataclass(frozen=True)
class Message:
    """A turn, and what follows it where the conversation is text."""

    role: str
    content: str
    delimiter: str = ""


def text_of(prompt: Prompt, document: Document) -> str | int:
    """The question. A number, where there are choices: the right one among several contexts."""
    if not isinstance(prompt.text, str):
        return prompt.text
    text = _resolve("doc_to_text", prompt.text, document)
    if isinstance(text, str) and text.isdigit() and prompt.choices is not None:
        return int(text)
    return text if isinstance(text, int) and not isinstance(text, bool) else str(text)


def target_of(prompt: Prompt, document: Document) -> str | int | list[Any]:
    """The answer: text, a choice's index, or a list of right ones."""
    if isinstance(prompt.target, int):
        return prompt.target
    if isinstance(prompt.target, tuple):
        return list(prompt.target)
    target = _resolve("doc_to_target", prompt.target, document)
    if prompt.target in document:
        return target if isinstance(target, str | int | list) else str(target)
    if target.isdigit() and prompt.choices is not None:
        return int(target)
    if len(target) >= 2 and target[0] == "[" and target[-1] == "]":
        try:
            return ast.literal_eval(target)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return target
    return target


def choices_of(prompt: Prompt, document: Document) -> list[str]:
    """The choices.

    Raises
    ------
    UserError
        What the document gives is no list of texts.
    """
    if isinstance(prompt.choices, tuple):
        return list(prompt.choices)
    choices = _resolve("doc_to_choice", prompt.choices or "", document)
    if isinstance(choices, str):
        try:
            choices = ast.literal_eval(choices)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise UserError(f"doc_to_choice must give a list, got {short(choices)}") from error
    if not isinstance(choices, list) or not choices:
        raise UserError(f"doc_to_choice must give a list of texts, got {short(choices)}")
    if not all(isinstance(choice, str) and choice for choice in choices):
        raise UserError(f"choices must be texts that are not empty, got {short(choices)}")
    return choices


def pick(choices: Sequence[str] | None, index: int) -> str:
    """The choice of an index, counted from 0.

    Raises
    ------
    UserError
        There is none.
    """
    if not choices or not 0 <= index < len(choices):
        raise UserError(
            f"the right choice must be one of 0 to {len(choices or ()) - 1}, got {index}"
        )
    return choices[index]


def conversation(
    prompt: Prompt,
    document: Document,
    examples: Sequence[tuple[Prompt, Document]] = (),
    question: str | None = None,
) -> list[Message]:
    """Description, examples and question.

    Parameters
    ----------
    examples
        Documents with the prompts that show them.
    question
        Instead of the document's own, as where contexts are the choices.
    """
    messages = []
    if description := _resolve("description", prompt.description, document):
        messages.append(Message("system", str(description)))
    for shown, example in examples:
        messages += _example(shown, example)
    if question is None:
        question = text_of(prompt, document)
    if not isinstance(question, str):
        raise UserError(f"doc_to_text must give text, got {short(question)}")
    return [*messages, Message("user", question)]


def as_text(messages: Sequence[Message]) -> str:
    """The conversation as one text."""
    return "".join(message.content + message.delimiter for message in messages)


def as_turns(messages: Sequence[Message]) -> Turns:
    """The conversation as turns."""
    return tuple((message.role, message.content) for message in messages)


def _example(prompt: Prompt, document: Document) -> list[Message]:
    question, answer = text_of(prompt, document), target_of(prompt, document)
    choices = choices_of(prompt, document) if prompt.choices is not None else None
    if isinstance(question, int):  # the right context among several
        question, choices = pick(choices, question), None
    if isinstance(answer, list) and answer:
        answer = answer[0]
    if isinstance(answer, int) and choices is not None:
        answer = pick(choices, answer)
    if not isinstance(answer, str):
        raise UserError(f"doc_to_target of an example must give text, got {short(answer)}")
    if not answer:
        return [Message("user", question)]
    return [
        Message("user", question, prompt.target_delimiter),
        Message("assistant", answer, prompt.fewshot_delimiter),
    ]


def _resolve(name: str, template: str, document: Document) -> Any:
    if template in document:
        return document[template]
    if re.fullmatch(r"[A-Za-z_]\w*", template) and (
        near := difflib.get_close_matches(template, list(document), n=1, cutoff=0.8)
    ):
        raise UserError(f"{name} {template} is no field of the document; did you mean {near[0]}?")
    return render(template, document)
