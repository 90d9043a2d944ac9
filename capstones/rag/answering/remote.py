"""A server that speaks OpenAI's chat completions: ours, llama.cpp's, vLLM's, anybody's."""

import json
import os
from collections.abc import Iterator
from threading import Event

from rag.answering.prompt import Message
from shared import model_refs
from shared.errors import UserError

KEYS = ("RAG_API_KEY", "OPENAI_API_KEY")
CONNECT, READ = 5, 120  # seconds


class OpenAI:
    """Streams from an address, such as `http://127.0.0.1:8000/v1` or `…/v1#model-name`.

    The key is read from the environment at each call and stands nowhere else: not in the name,
    not in an error, and no redirection carries it to another host.

    Parameters
    ----------
    context
        Most tokens of prompt and answer, counted as three characters each, since the server's
        tokenizer is not known.
    """

    def __init__(self, address: str, *, context: int = 8192):
        (self.url, self.model), self.context = model_refs.address(address), context
        self.name, self.note = f"openai:{address}", ""

    def fits(self, messages: list[Message], max_new_tokens: int) -> bool:
        """Whether prompt and answer are about within the context."""
        characters = sum(len(message["content"]) for message in messages)
        return characters // 3 + max_new_tokens <= self.context

    def stream(
        self,
        messages: list[Message],
        *,
        max_new_tokens: int = 160,
        seed: int = 0,
        temperature: float = 0.0,
        stop: Event | None = None,
    ) -> Iterator[str]:
        """See `Model.stream`.

        Raises
        ------
        UserError
            The server cannot be reached, refuses, is silent for too long, or says no JSON.
        """
        import requests

        key = next((os.environ[name] for name in KEYS if os.environ.get(name)), "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        body = {"model": self.model, "messages": messages, "max_tokens": max_new_tokens}
        body |= {"seed": seed, "temperature": temperature, "stream": True}
        options = {"timeout": (CONNECT, READ), "stream": True, "allow_redirects": False}
        try:
            with requests.post(
                f"{self.url}/chat/completions", json=body, headers=headers, **options
            ) as response:
                if response.status_code != 200:
                    raise UserError(f"{self.url} answered with status {response.status_code}")
                for text in _said(response.iter_lines(chunk_size=None)):
                    if stop is not None and stop.is_set():
                        return
                    yield text
        except requests.RequestException as error:
            raise UserError(f"{self.url} did not answer ({type(error).__name__})") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.url} does not speak OpenAI's format ({type(error).__name__})"
            ) from None


def _said(lines: Iterator[bytes]) -> Iterator[str]:
    """The text in a stream of server-sent events."""
    for line in lines:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            return
        choices = json.loads(data).get("choices")
        if choices and (text := choices[0]["delta"].get("content")):
            yield text
