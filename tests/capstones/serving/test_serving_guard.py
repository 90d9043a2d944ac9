"""Who may ask, how much and how slowly; what the log says of it."""

import asyncio
import contextlib
import json
import socket
import time
from types import SimpleNamespace

import httpx
import openai
import pytest
import uvicorn
from serving_small import HELLO, Served, wait

from serving.api.service import Service
from serving.engine.metrics import Metrics
from serving.guard.connections import Server
from serving.guard.guard import GuardSettings, is_key

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def served():
    lines = []
    guard = GuardSettings(key="secret", body=2000, log=lines.append)
    with Served(guard=guard) as served:
        served.lines = lines
        served.client.headers["Authorization"] = "Bearer secret"
        yield served


@pytest.fixture(scope="module")
def hasty():
    """A server that does not wait for those who are slow, this machine among them."""
    with Served(guard=GuardSettings(seconds=0.4), header_seconds=0.4) as served:
        yield served


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", "127.0.0.1.evil.example"])
def test_a_name_of_somebody_else(served, host):
    for path in ("/v1/models", "/metrics"):
        refused = served.client.get(path, headers={"Host": host})
        assert refused.status_code == 403
        assert refused.json()["error"]["type"] == "permission_error"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9", "LOCALHOST", "[::1]:8000"])
def test_a_name_of_this_machine(served, host):
    assert served.client.get("/v1/models", headers={"Host": host}).status_code == 200


def test_other_pages_may_not_ask(served):
    own = f"http://127.0.0.1:{served.port}"
    assert served.client.get("/v1/models", headers={"Origin": own}).status_code == 200
    for origin in ("http://evil.example", "null", f"http://localhost:{served.port}"):
        refused = served.client.post(CHAT, json=HELLO, headers={"Origin": origin})
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer guess", "Bearer secreT", "secret", "Basic secret", "Bearer sécret"],
)
def test_without_the_key(served, given):
    refused = httpx.get(f"{served.url}/v1/models", headers={"Authorization": given.encode()})
    assert refused.status_code == 401
    assert refused.json()["error"]["code"] == "invalid_api_key"
    assert "secret" not in refused.text


def test_what_needs_no_key(served):
    for path in ("/health", "/ready", "/metrics"):
        assert httpx.get(served.url + path).status_code == 200


def test_the_client_with_the_key(served):
    url = f"{served.url}/v1"
    assert len(list(openai.OpenAI(base_url=url, api_key="secret").models.list())) == 2
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=url, api_key="guess").models.list()


def test_keys_are_compared_as_bytes():
    assert is_key("bearer  sécret ", "sécret")
    assert not is_key("bearer sécre", "sécret")


def test_a_body_that_is_too_long(served):
    long = json.dumps(HELLO | {"user": "x" * 3000}).encode()
    headers = {"Content-Type": "application/json"}
    for content in (long, (long[i : i + 100] for i in range(0, len(long), 100))):  # and in chunks
        refused = served.client.post(CHAT, content=content, headers=headers)
        assert refused.status_code == 413
        assert refused.json()["error"]["code"] == "too_large"
    assert served.chat().status_code == 200


def connected(served):
    return socket.create_connection(("127.0.0.1", served.port), timeout=60)


@pytest.mark.parametrize("length", ["-1", "1e3", "9" * 30, "2001"])
def test_a_length_that_cannot_be(served, length):
    with connected(served) as sock:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer secret\r\n"
        sock.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode())
        assert sock.recv(1000).split()[1] in (b"400", b"413")


def closed_after(sock, start):
    """Seconds until the server closes the connection; it is an error if it does not in a minute."""
    with contextlib.suppress(ConnectionError):
        while sock.recv(1000):
            pass
    return time.monotonic() - start


def test_headers_that_do_not_come(hasty):
    for begun in (b"", b"GET /health HTTP/1.1\r\nHost: loc"):
        start = time.monotonic()
        with connected(hasty) as sock:
            with contextlib.suppress(ConnectionError):
                sock.sendall(begun)
            assert closed_after(sock, start) > 0.2


def test_headers_that_drip(hasty):
    with connected(hasty) as sock:
        start = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - start < 60:
                sock.sendall(b"X")
                time.sleep(0.05)
        assert time.monotonic() - start < 60


def asked_well(hasty):
    """A connection on which a request was answered, and when that began."""
    for _ in range(20):  # none is answered when this machine stops between connecting and asking
        start = time.monotonic()
        sock = connected(hasty)
        with contextlib.suppress(ConnectionError):
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if b"200" in sock.recv(2000):
                return sock, start
        sock.close()
    raise AssertionError("no request was answered")


def test_headers_of_a_second_request_that_do_not_come(hasty):
    sock, start = asked_well(hasty)
    with sock:
        with contextlib.suppress(ConnectionError):
            sock.sendall(b"GET /hea")
        assert closed_after(sock, start) > 0.2


def test_a_body_that_does_not_come():
    with Served(guard=GuardSettings(seconds=0.4)) as served, connected(served) as sock:
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
        sock.sendall(f'{head}{{"mess'.encode())
        assert b"408" in sock.recv(2000).splitlines()[0]
        closed_after(sock, 0)


def test_a_long_answer_is_not_cut_by_these_limits(hasty):
    hasty.held.pause, answer = 0.1, None
    for _ in range(20):  # the request is cut too when this machine stops before it is all sent
        with contextlib.suppress(httpx.TransportError):
            answer = hasty.chat(max_tokens=9)
            if answer.status_code == 200:
                break
    hasty.held.pause = 0
    assert answer
    assert answer.status_code == 200


def test_every_request_has_a_number(served):
    first, second = (served.client.get("/health").headers["X-Request-Id"] for _ in range(2))
    assert first != second
    own = served.client.get("/health", headers={"X-Request-Id": "mine-1"})
    assert own.headers["X-Request-Id"] == "mine-1"
    odd = served.client.get("/health", headers={"X-Request-Id": "a" * 65})
    assert odd.headers["X-Request-Id"].startswith("req-")


def test_the_log_has_numbers_and_no_words(served):
    served.lines.clear()
    question = {"messages": [{"role": "user", "content": "my password is hunter2"}]}
    found = served.chat(**question, user="mr-hunter2")
    served.chat(**question, stop="")
    served.client.get("/v1/models?x=hunter2")
    wait(lambda: len(served.lines) == 3)
    first, second, _ = served.lines
    assert first["request"] == found.headers["X-Request-Id"]
    assert (first["method"], first["path"], first["status"]) == ("POST", CHAT, 200)
    assert first["completion_tokens"] == 8
    assert first["prompt_tokens"] > 8
    assert second["status"] == 400
    text = json.dumps(served.lines)
    assert "hunter2" not in text
    assert "secret" not in text


def test_the_server_ends_when_answers_do_or_their_time_is_over():
    def made(drain):
        service = Service(lambda: None, ["dummy"], Metrics("dummy"))
        service._backend = SimpleNamespace(active=2)
        server = Server(uvicorn.Config(None), service, drain)
        assert not asyncio.run(server.on_tick(1))
        server.handle_exit(15, None)
        assert service.leaving
        return server, service._backend

    def ends(server):
        return asyncio.run(server.on_tick(1))

    calm, backend = made(60)
    assert not ends(calm)
    backend.active = 0
    assert ends(calm)
    assert (calm.broken_off, calm.force_exit) == (0, False)
    hasty, _ = made(60)
    hasty.handle_exit(15, None)
    assert ends(hasty)
    assert (hasty.broken_off, hasty.force_exit) == (2, True)
    late, _ = made(0)
    assert ends(late)
    assert late.broken_off == 2
