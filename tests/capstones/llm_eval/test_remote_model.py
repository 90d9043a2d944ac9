"""A server that is busy, wrong, silent or away: what is asked again, and what is said of it."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from llm_eval.models.remote import KEY, OpenAI, _body, wait
from llm_eval.types import Request
from shared.errors import UserError

SECRET = "sk-very-secret"
ASKED = Request("generate", "Say hello", until=("\n",))
TURNS = (("system", "Be kind."), ("user", "Hello"))


def said(text, **more):
    return {
        "choices": [{"text": text, "finish_reason": "stop"}],
        "usage": {"completion_tokens": 2},
    } | more


def echoed(body):
    """As a server whose tokens are words: word k has log-probability -k, each third likeliest."""
    text, at, tokens = body["prompt"], 0, []
    for word in text.replace(" ", "| ").split("|"):
        tokens.append((word, at))
        at += len(word)
    tokens.append(("!", at))
    tops = [None if k == 0 else {"x": -k if k % 3 == 0 else -0.5} for k in range(len(tokens))]
    logprobs = {
        "tokens": [word for word, _ in tokens],
        "text_offset": [at for _, at in tokens],
        "token_logprobs": [None, *(-float(k) for k in range(1, len(tokens)))],
        "top_logprobs": tops,
    }
    return {"choices": [{"text": text + "!", "logprobs": logprobs}]}


class Server:
    """Answers by a script: a status with headers and content each, the last one again and again."""

    def __init__(self, *script):
        self.script, self.asked, self.over = list(script), [], threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((self.path, dict(self.headers), body))
                step = outer.script.pop(0) if len(outer.script) > 1 else outer.script[0]
                status, headers, content = step(body) if callable(step) else step
                if status == 0:  # says nothing
                    outer.over.wait(content)
                    return
                if not isinstance(content, bytes):
                    content = json.dumps(content).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.over.set()
        self.http.shutdown()
        self.http.server_close()


def ok(content):
    return 200, {}, content


def model_of(server, **options):
    waits = []
    return OpenAI(server.url + "#m", sleep=waits.append, **options), waits


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(KEY, SECRET)


def test_text_and_conversations():
    with Server(
        ok(said("Hello\nyou")),
        ok({"choices": [{"message": {"content": "Hi"}, "finish_reason": "length"}]}),
    ) as server:
        model, _ = model_of(server)
        assert sorted(i for batch in model.plan([ASKED] * 40) for i in batch) == list(range(40))
        (text,) = model.answer([ASKED])
        (turn,) = model.answer([Request("generate", TURNS, temperature=0.7, seed=3)])
    assert (text.text, text.ended, text.n_tokens) == ("Hello", "stop", 2)
    assert (turn.text, turn.ended) == ("Hi", "length")
    (path, headers, body), (chat, _, conversation) = server.asked
    assert (path, chat) == ("/v1/completions", "/v1/chat/completions")
    assert headers["Authorization"] == f"Bearer {SECRET}"
    assert body["prompt"] == "Say hello"
    assert (body["stop"], body["model"], body["temperature"]) == (["\n"], "m", 0.0)
    assert conversation["messages"][0] == {"role": "system", "content": "Be kind."}
    assert (conversation["temperature"], conversation["seed"]) == (0.7, 3)
    assert SECRET not in repr((model.name, model.identity, text, turn))


def test_likelihoods_are_those_of_the_continuation():
    with Server(lambda body: ok(echoed(body))) as server:
        model, _ = model_of(server)
        asked = [
            Request("loglikelihood", "a b c", " d e"),
            Request("loglikelihood", "a b c ", "d"),  # the space belongs to the continuation
            Request("loglikelihood", "a b ", "c"),
            Request("rolling", "", "a b"),
            Request("loglikelihood", TURNS, " d"),
        ]
        one, two, three, rolling, turns = model.answer(asked)
    assert (one.logprobs, one.logprob, one.greedy) == ((-3.0, -4.0), -7.0, False)
    assert (two.logprobs, two.greedy) == ((-3.0,), True)
    assert three.logprobs == (-2.0,)
    assert rolling.error == "the server gives a text's first token no log-probability"
    assert "do not score" in turns.error


@pytest.mark.parametrize(
    "content",
    [said("a b"), said("!", logprobs=None), {"choices": [{"text": "a b!", "logprobs": None}]}],
)
def test_a_server_without_echo_is_asked_once(content):
    with Server(ok(content)) as server:
        model, waits = model_of(server)
        (response,) = model.answer([Request("loglikelihood", "a", " b")])
    assert "no log-probabilities of a text" in response.error
    assert (len(server.asked), waits) == (1, [])


def test_what_fails_for_a_while_is_asked_again():
    busy, limited = (503, {}, b"busy"), (429, {"Retry-After": "7"}, b"")
    with Server(busy, limited, ok(b"{garbage"), ok([1]), ok(said("Hello"))) as server:
        model, waits = model_of(server)
        (response,) = model.answer([ASKED])
    assert response.text == "Hello"
    assert len(server.asked) == 5
    assert waits[1] == 7
    for attempt in (0, 2, 3):
        assert 0.25 * 2**attempt <= waits[attempt] <= 1.25 * 2**attempt


@pytest.mark.parametrize(
    ("step", "times", "message"),
    [
        ((500, {}, SECRET.encode()), 3, "answered with status 500"),
        ((400, {}, SECRET.encode()), 1, "answered with status 400"),
        ((404, {}, b""), 1, "answered with status 404"),
        (ok(b"<html>"), 3, "does not speak OpenAI's format"),
        (ok({"choices": []}), 3, "does not speak OpenAI's format"),
        (ok({"choices": [{"text": 3}]}), 3, "does not speak OpenAI's format"),
        ((0, {}, 60), 3, "was silent for 0.2 seconds"),
    ],
)
def test_what_stays_wrong_is_one_answers_error(step, times, message):
    with Server(step) as server:
        seconds = 0.2 if "silent" in message else 60
        model, waits = model_of(server, attempts=3, timeout=seconds)
        (response,) = model.answer([ASKED])
    assert message in response.error
    assert "\n" not in response.error
    assert SECRET not in response.error
    assert response.text is None
    assert (len(server.asked), len(waits)) == (times, times - 1)


@pytest.mark.parametrize("status", [401, 403])
def test_a_wrong_key_ends_the_run(status):
    with Server((status, {}, SECRET.encode())) as server:
        model, _ = model_of(server)
        with pytest.raises(UserError, match=KEY) as caught:
            model.answer([ASKED])
    assert SECRET not in str(caught.value)


def test_a_server_that_is_away_ends_the_run():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        waits = []
        with pytest.raises(UserError, match="cannot be reached"):
            OpenAI(address, sleep=waits.append, attempts=3).answer([ASKED])
    assert len(waits) == 2


def test_a_connection_that_breaks_is_one_answers_error():
    with Server((0, {}, 0)) as server:  # closes without a word
        model, _ = model_of(server, attempts=2)
        (response,) = model.answer([ASKED])
    assert "cannot be reached" in response.error


def test_no_redirection_is_followed():
    with Server(ok(said("stolen"))) as thief:
        away = Server((307, {"Location": thief.url + "/completions"}, b""))
        with away:
            (response,) = model_of(away)[0].answer([ASKED])
    assert "answered with status 307" in response.error
    assert thief.asked == []


def test_requests_per_minute():
    with Server(ok(said("Hello"))) as server:
        model, waits = model_of(server, requests_per_minute=0.5, parallel=3)
        model.answer([ASKED] * 3)
    assert sorted(waits) == pytest.approx([120, 240], abs=50)


def test_answers_keep_their_order():
    def slow_first(body):
        time.sleep(0.1 if body["prompt"] == "0" else 0)
        return ok(said(body["prompt"]))

    with Server(slow_first) as server:
        model, _ = model_of(server)
        found = model.answer([Request("generate", str(i)) for i in range(6)])
    assert [one.text for one in found] == list("012345")


@given(
    st.integers(0, 40), st.sampled_from([None, "-1", "x", "nan", "Wed, 21 Oct 2026 07:28:00 GMT"])
)
def test_waits_grow_and_end(attempt, header):
    shortest, longest = (wait(attempt, header, lambda x=x: x) for x in (0.0, 1.0))
    assert 0 < shortest <= longest <= 300
    assert wait(attempt, "9999") == 300
    assert longest <= 2 * wait(attempt, header, lambda: 0.5)


@pytest.mark.parametrize("options", [{"requests_per_minute": 0}, {"parallel": 0}, {"attempts": 0}])
def test_settings_are_judged(options):
    with pytest.raises(UserError, match=next(iter(options))):
        OpenAI("http://127.0.0.1:1/v1", **options)


def at_odds(**lists):
    """An echo of which some lists are not what they should be."""

    def step(body):
        content = echoed(body)
        logprobs = content["choices"][0]["logprobs"]
        for name, value in lists.items():
            logprobs[name] = [value] * len(logprobs[name])
        return ok(content)

    return step


@pytest.mark.parametrize(
    "step",
    [
        ok(b"[" * 100_000),
        ok(b'{"choices": [{"text": "x"}], "usage": {"completion_tokens": Infinity}}'),
        ok(b'{"choices": [{"text": "\xff"}]}'),
        at_odds(text_offset="0"),
        at_odds(top_logprobs=[1.0]),
        at_odds(top_logprobs={"x": "likely"}),
    ],
)
def test_no_answer_of_a_server_ends_the_run(step):
    with Server(step) as server:
        model, _ = model_of(server, attempts=1)
        written = ASKED if not callable(step) else Request("loglikelihood", "A b", " c")
        (response,) = model.answer([written])
    assert "does not speak OpenAI's format" in response.error


def test_an_endless_or_huge_answer_is_not_awaited(monkeypatch):
    monkeypatch.setattr("llm_eval.models.remote.LARGEST", 1000)
    with Server(ok(b" " * 2000)) as server:
        model, _ = model_of(server, attempts=1)
        assert "did not answer" in model.answer([ASKED])[0].error

    class Dripping:
        def read1(self, most, *, decode_content):
            time.sleep(0.01)
            return b" "

    with pytest.raises(requests.Timeout):
        _body(Dripping(), 0.1)
