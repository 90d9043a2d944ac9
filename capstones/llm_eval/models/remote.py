"""A server that speaks OpenAI's format: vLLM, llama.cpp's, anybody's.

Text is continued by `/completions`, a conversation by `/chat/completions`. Likelihoods come from
`/completions` with `echo`, which gives a text back with the log-probability of each token; servers
that do not offer it answer an error, and so does the response. What fails for a while (a busy
server, a lost connection) is asked again, later each time, with jitter, so that clients that were
refused together do not come back together.

>>> waits = [wait(attempt, None, lambda: 0.5) for attempt in range(4)]
>>> waits
[0.75, 1.5, 3.0, 6.0]
>>> wait(0, "7", lambda: 0.5)  # the server's word counts
7.0

Source: OpenAI, "API reference", completions (`echo`, `logprobs`) and chat completions.
"""

import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock
from typing import Any

from llm_eval.models.identity import VERSION
from llm_eval.models.until import cut, stops
from llm_eval.types import Request, Response
from shared import model_refs
from shared.errors import UserError
from shared.require import require

KEY = "OPENAI_API_KEY"
CONNECT, READ = 5.0, 120.0  # seconds
ATTEMPTS, FIRST, LONGEST = 6, 1.0, 300.0  # tries; seconds before the second; most seconds
BUSY = (408, 409, 425, 429, 500, 502, 503, 504)
STOPS = 4  # that a server accepts
LARGEST = 1 << 26  # bytes of an answer
BATCH = 16


def wait(attempt: int, said: str | None, draw: Callable[[], float] = random.random) -> float:
    """Seconds before the next try: what the server said, or twice as long each time, ± half."""
    try:
        asked = float(said) if said is not None else -1.0
    except ValueError:  # a date: our own guess is as good
        asked = -1.0
    return min(LONGEST, asked if asked >= 0 else FIRST * 2**attempt * (0.25 + draw()))


# What reading an answer raises that is not as it should be.
UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)


class Unanswered(Exception):
    """Why a server gave one request no answer."""


class OpenAI:
    """Answers from an address, such as `http://127.0.0.1:8000/v1` or `…/v1#model-name`.

    The key is read from the environment at each call and stands nowhere else: not in the name or
    the identity, not in an error, and no redirection carries it to another host. For the same
    reason a server's words are not repeated.

    Parameters
    ----------
    requests_per_minute
        Most of them; None for no limit.
    parallel
        Requests that are under way at a time.
    timeout
        Seconds of silence, or of an answer's body, after which a request is asked again.
    """

    def __init__(
        self,
        address: str,
        *,
        requests_per_minute: float | None = None,
        parallel: int = 4,
        timeout: float = READ,
        attempts: int = ATTEMPTS,
        sleep: Callable[[float], None] = time.sleep,
    ):
        slow = requests_per_minute is None or requests_per_minute > 0
        require(slow, "requests_per_minute must be above 0", requests_per_minute, error=UserError)
        for name, value in (("parallel", parallel), ("attempts", attempts)):
            require(value >= 1, f"{name} must be at least 1", value, error=UserError)
        self.url, self.model = model_refs.address(address)
        self.name = f"openai:{address}"
        self.identity = {"server": self.url, "model": self.model, "code": VERSION}
        self.parallel, self.timeout, self.attempts = parallel, timeout, attempts
        self._pause = 60 / requests_per_minute if requests_per_minute else 0.0
        self._sleep, self._lock, self._next = sleep, Lock(), 0.0

    def plan(self, requests: Sequence[Request]) -> list[list[int]]:
        """Batches of 16: what is lost if the program ends."""
        return [
            list(range(i, min(i + BATCH, len(requests)))) for i in range(0, len(requests), BATCH)
        ]

    def answer(self, requests: Sequence[Request]) -> list[Response]:
        """See `llm_eval.types.Model.answer`.

        Raises
        ------
        UserError
            The server cannot be reached, or does not know the key: no request would be answered.
        """
        with ThreadPoolExecutor(self.parallel) as pool:
            return list(pool.map(self._answer, requests))

    def _answer(self, request: Request) -> Response:
        until = stops(request.until)
        try:
            if request.kind == "generate":
                return self._text(request, until)
            if not isinstance(request.context, str):
                raise Unanswered("chat completions do not score a given answer; ask without turns")
            return self._score(request)
        except Unanswered as error:
            return Response(error=str(error))

    def _text(self, request: Request, until: tuple[str, ...]) -> Response:
        body: dict[str, Any] = {"max_tokens": request.max_new_tokens, "seed": request.seed}
        body |= {"temperature": request.temperature} | ({"stop": until[:STOPS]} if until else {})
        if isinstance(request.context, str):
            choice = self._ask("completions", body | {"prompt": request.context}, _choice)
            said = choice["text"]
        else:
            turns = [{"role": role, "content": text} for role, text in request.context]
            choice = self._ask("chat/completions", body | {"messages": turns}, _message)
            said = choice["message"]["content"] or ""
        text, stopped = cut(said, until)
        ended = "stop" if stopped or choice.get("finish_reason") == "stop" else "length"
        return Response(text=text, ended=ended, n_tokens=choice["n_tokens"])

    def _score(self, request: Request) -> Response:
        start = len(request.context.rstrip()) if request.kind == "loglikelihood" else 0
        before = request.context if request.kind == "loglikelihood" else ""
        text = before + request.continuation
        # One new token, since servers refuse none; it begins where the text ends.
        body = {"prompt": text, "max_tokens": 1, "temperature": 0, "echo": True, "logprobs": 1}
        return self._ask("completions", body, partial(_echo, text, start))

    # ---- the connection

    def _ask(self, path: str, body: Mapping[str, Any], read: Callable[[Any], Any]) -> Any:
        """What `read` makes of the answer, asked for again while it may help."""
        import requests

        failure = ""
        for attempt in range(self.attempts):
            self._wait_for_turn()
            key = os.environ.get(KEY, "")
            options = {"headers": {"Authorization": f"Bearer {key}"} if key else {}}
            options |= {"timeout": (CONNECT, self.timeout), "allow_redirects": False}
            said, lost = None, False
            try:
                url, content = f"{self.url}/{path}", {"model": self.model, **body}
                with requests.post(url, json=content, stream=True, **options) as response:
                    failure = f"{self.url}/{path} answered with status {response.status_code}"
                    if response.status_code == 200:
                        return read(json.loads(_body(response.raw, self.timeout)))
                    if response.status_code in (401, 403):
                        raise UserError(f"{failure}; the key is read from {KEY}")
                    if response.status_code not in BUSY:
                        raise Unanswered(failure)
                    said = response.headers.get("Retry-After")
            except requests.ConnectionError as error:
                failure, lost = (
                    f"{self.url} cannot be reached ({type(error).__name__})",
                    _away(error),
                )
            except requests.Timeout:
                failure = f"{self.url}/{path} was silent for {self.timeout:g} seconds"
            except UNREADABLE as error:
                failure = f"{self.url}/{path} does not speak OpenAI's format"
                failure += f" ({type(error).__name__})"
            except requests.RequestException as error:
                failure = f"{self.url}/{path} did not answer ({type(error).__name__})"
            if attempt + 1 < self.attempts:
                self._sleep(wait(attempt, said))
        raise (UserError if lost else Unanswered)(failure)

    def _wait_for_turn(self) -> None:
        if not self._pause:
            return
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + self._pause
        if turn > now:
            self._sleep(turn - now)


def _body(raw: Any, seconds: float) -> bytes:
    """The bytes of an answer, as they come, so that neither a huge nor an endless one is awaited.

    Raises
    ------
    requests.RequestException
        It breaks off, is too large or takes too long.
    """
    import requests
    from urllib3.exceptions import HTTPError, ReadTimeoutError

    content, end = bytearray(), time.monotonic() + seconds
    try:
        while piece := raw.read1(1 << 16, decode_content=True):
            content += piece
            if len(content) > LARGEST:
                raise requests.exceptions.ContentDecodingError("too large")
            if time.monotonic() > end:
                raise requests.Timeout("too slow")
    except ReadTimeoutError as error:
        raise requests.Timeout("silent") from error
    except HTTPError as error:
        raise requests.RequestException("broken off") from error
    return bytes(content)


# ---- what a server said; anything unexpected raises a lookup's or a type's error


def _choice(content: Any) -> dict[str, Any]:
    choice = content["choices"][0]
    require(isinstance(choice["text"], str), "text must be a string", type(choice["text"]))
    return choice | {"n_tokens": _written(content)}


def _message(content: Any) -> dict[str, Any]:
    choice = content["choices"][0]
    said = choice["message"]["content"]
    require(said is None or isinstance(said, str), "content must be a string", type(said))
    return choice | {"n_tokens": _written(content)}


def _written(content: Any) -> int:
    return int((content.get("usage") or {}).get("completion_tokens") or 0)


def _echo(text: str, start: int, content: Any) -> Response:
    choice = content["choices"][0]
    if not choice["text"].startswith(text) or choice.get("logprobs") is None:
        raise Unanswered("the server gives no log-probabilities of a text (echo and logprobs)")
    names = ("text_offset", "token_logprobs", "top_logprobs")
    lists = {name: list(choice["logprobs"][name]) for name in names}
    for values in lists.values():
        require(len(values) == len(lists[names[0]]), "lists must be as long", len(values))
    for logprob, top in zip(lists["token_logprobs"], lists["top_logprobs"], strict=True):
        number = logprob is None or (logprob < 1 and len(top) > 0)  # and not NaN
        require(number, "token_logprobs must be numbers", repr(logprob))
    own = [i for i, at in enumerate(lists["text_offset"]) if start <= at < len(text)]
    logprobs = [lists["token_logprobs"][i] for i in own]
    if not own:
        raise Unanswered("the continuation makes no token of its own")
    if None in logprobs:
        raise Unanswered("the server gives a text's first token no log-probability")
    best = [max(lists["top_logprobs"][i].values()) for i in own]
    greedy = all(p >= top for p, top in zip(logprobs, best, strict=True))
    return Response(sum(logprobs), greedy, tuple(logprobs), n_tokens=len(own))


def _away(error: Exception) -> bool:
    """Whether nobody listens there; a connection that breaks may be one request's fault."""
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

    cause = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(cause, ConnectTimeoutError | NewConnectionError)
