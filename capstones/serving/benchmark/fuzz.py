"""Requests that no honest client sends: no answer may be a 5xx, and no request may hang.

Three kinds, drawn from a seed:

- bodies whose values are absurd (numbers, nesting, types, half characters), or whose JSON, UTF-8
  or headers are broken;
- bytes on a socket that are no request, or only the beginning of one (slow-loris);
- what schemathesis derives from the server's own description of its interface.

Afterwards the server must answer an ordinary request, and have nothing left running.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx

from shared.errors import UserError

PATIENCE = 60.0  # seconds; longer is a hang
LARGE = 1024**2  # bytes; more is refused
SETTLING = 50  # tenths of a second in which what was left must be gone
TOKENS = 4  # of an answer, where a body is well
PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
BODIES: dict[str, dict[str, Any]] = {
    PATHS[0]: {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": TOKENS},
    PATHS[1]: {"prompt": "Hi", "max_tokens": TOKENS},
    PATHS[2]: {"input": "Hi"},
}
FIELDS = ("model", "max_tokens", "max_completion_tokens", "n", "stream", "stream_options", "stop")
FIELDS += ("seed", "temperature", "top_p", "presence_penalty", "frequency_penalty", "logit_bias")
FIELDS += (
    "top_k",
    "min_p",
    "repetition_penalty",
    "ignore_eos",
    "user",
    "metadata",
    "tools",
    "echo",
)
FIELDS += ("response_format", "logprobs", "top_logprobs", "best_of", "suffix", "prompt", "messages")
FIELDS += ("input", "encoding_format", "dimensions", "unknown")
DEEP = "[" * 20_000 + "]" * 20_000
ABSURD = (
    *("0", "-1", "1", "2", "7", "1e400", "-1e400", "NaN", "Infinity", "1.5", "1e-320", "-0.0"),
    *(str(2**31), str(2**63), str(-(2**63) - 1), "9" * 5000, "null", "true", "false", '""', '"a"'),
    *('"\\ud800"', '"\\u0000"', '"\\udc00\\ud800"', '"é\\u0301😀"', '"<|im_end|>"', "[]", "{}"),
    *("[[]]", "[null]", '[""]', "[-1]", "[1e9]", '["a", 1]', '{"": null}', '{"1": 1e308}'),
    *('{"-1": 1}', '{"99999999": 1}', '{"a": "b"}', '[{"role": "user", "content": null}]'),
    *('[{"role": "\\ud800", "content": "x"}]', '[{"role": "user"}]', '[{"content": [[[]]]}]'),
    *('{"include_usage": 3}', '{"type": "json_object"}', DEEP, '{"a":' * 5000 + "1" + "}" * 5000),
    *(json.dumps("x" * 100_000), json.dumps(["a"] * 5000), json.dumps([0] * 5000)),
)
KINDS = ("application/json", "text/plain", "application/json; charset=utf-16", "", "é")
RAW = (
    b"\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
    b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    b"GET /v1/models HTTP/1.1\r\nHo",
)


def body(rng: random.Random, path: str) -> bytes:
    """A body for a route, wrong in one or two ways, or in none."""
    parts = {name: json.dumps(value) for name, value in BODIES[path].items()}
    for _ in range(rng.choice((0, 1, 1, 1, 2))):
        parts[rng.choice(FIELDS)] = rng.choice(ABSURD)
    text = "{" + ", ".join(f'"{name}": {value}' for name, value in parts.items()) + "}"
    data = bytearray(text.encode())
    match rng.randrange(8):
        case 0:
            del data[rng.randrange(len(data)) :]
        case 1:
            data[rng.randrange(len(data))] = rng.randrange(256)
        case 2:
            data += rng.randbytes(rng.randrange(1, 50))
        case 3 if rng.random() < 0.1:
            data += b" " * 2 * LARGE
    return bytes(data)


async def fuzz(
    url: str, *, requests: int, seed: int = 0, clients: int = 16, seconds: float = float("inf")
) -> dict[str, Any]:
    """Send so many of the first two kinds, or as many as begin within `seconds`.

    Returns
    -------
    found
        How many answers had which status; `failures`, what may not happen, at most ten of it; and
        `sound`, whether the server answers afterwards and has nothing left to do.
    """
    numbers, counts, failures = iter(range(requests)), Counter(), []
    end = time.monotonic() + seconds

    async def work(client: httpx.AsyncClient) -> None:
        for number in numbers:
            if time.monotonic() > end:
                break
            rng = random.Random(f"{seed} {number}")
            try:
                async with asyncio.timeout(PATIENCE):
                    if number % 50 == 0:
                        status, wrong = await _raw(url, rng), None
                    else:
                        status, wrong = await _sent(client, rng)
            except TimeoutError:
                status, wrong = "hang", "no answer"
            counts[status] += 1
            if wrong:
                failures.append({"number": number, "status": status, "what": wrong})

    async with httpx.AsyncClient(base_url=url, timeout=None) as client:
        await asyncio.gather(*(work(client) for _ in range(clients)))
        sound = await is_sound(client)
    return {
        "n": counts.total(),
        "statuses": {str(status): counts[status] for status in sorted(counts, key=str)},
        "n_failures": len(failures),
        "failures": failures[:10],
        "sound": sound,
    }


async def _sent(client: httpx.AsyncClient, rng: random.Random) -> tuple[str, str | None]:
    """The status of a request, and what is wrong with its answer."""
    path = rng.choice(PATHS[:2] * 4 + PATHS[2:])
    headers = {"Content-Type": rng.choice(KINDS[:1] * 8 + KINDS[1:]).encode()}
    data = body(rng, path)
    match rng.randrange(40):
        case 0:
            headers["Authorization"] = rng.randbytes(9).hex().encode()
        case 1:
            headers["Content-Encoding"] = b"gzip"
        case 2:
            path = "/v1/" + "".join(rng.choices("abc/%.?#&=-_~é", k=rng.randrange(1, 40)))
        case 3:
            headers["Host"] = b"evil.example"
    method = "POST" if rng.random() < 0.95 else rng.choice(("PUT", "HEAD", "OPTIONS", "TRACE"))
    for again in (True, False):
        try:
            response = await client.request(method, path, content=data, headers=headers)
            break
        except (httpx.InvalidURL, httpx.LocalProtocolError):
            return "not sent", None
        except httpx.HTTPError as error:
            if len(data) > LARGE:  # the server need not read it, so its answer may be lost
                return "cut", None
            if not again:  # once: a connection that was kept may end just when it is used
                return "lost", f"no answer: {error!r}"
    return str(response.status_code), _wrong(response)


def _wrong(response: httpx.Response) -> str | None:
    """What an answer should not be."""
    status, kind = response.status_code, response.headers.get("Content-Type", "")
    if status >= 500:
        return response.text[:200]
    if response.request.method == "HEAD":
        return None
    try:
        if kind.startswith("text/event-stream"):
            lines = [line[6:] for line in response.text.split("\n\n") if line]
            if lines[-1] != "[DONE]":
                return "a stream without an end"
            if errors := [each for each in map(json.loads, lines[:-1]) if "error" in each]:
                return json.dumps(errors[0])[:200]
        elif status >= 400 and not isinstance(response.json()["error"]["message"], str):
            return "an error without a message"
    except (ValueError, LookupError, TypeError):
        return f"status {status} in no known shape: {response.text[:100]!r}"
    return None


async def _raw(url: str, rng: random.Random) -> str:
    """Bytes on a socket; the server must end the connection, or answer."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        writer.write(rng.choice(RAW))
        await writer.drain()
        first = await reader.read(12)
        return f"raw {first[9:12].decode('latin-1')}" if first else "raw closed"
    except ConnectionError:
        return "raw closed"
    finally:
        writer.close()


async def is_sound(client: httpx.AsyncClient) -> bool:
    """Whether an ordinary request is answered and nothing runs or waits then."""
    try:
        response = await client.post(PATHS[0], json=BODIES[PATHS[0]], timeout=PATIENCE)
    except httpx.HTTPError:
        return False
    for _ in range(SETTLING):
        lines = (await client.get("/metrics")).text.splitlines()
        names = ("vllm:num_requests_running{", "vllm:num_requests_waiting{", "vllm:kv_cache_usage")
        busy = [line for line in lines if line.startswith(names) and not line.endswith(" 0.0")]
        if not busy:
            return response.status_code == 200
        await asyncio.sleep(0.1)
    return False


def from_schema(url: str, *, examples: int, seed: int = 0) -> dict[str, Any]:
    """What schemathesis derives from `/openapi.json`, so many examples per route."""
    try:
        import schemathesis
        from hypothesis import HealthCheck, given, settings
        from hypothesis import seed as seeded
    except ImportError as error:
        raise UserError(f"fuzz needs a development dependency: {error}") from error

    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    counts: Counter[str] = Counter()
    failures: list[Mapping[str, Any]] = []

    def tried(case: Any) -> None:
        response = case.call(base_url=url, timeout=PATIENCE)
        counts[str(response.status_code)] += 1
        if response.status_code >= 500:
            failures.append({"path": case.path, "what": response.text[:200]})

    for found in schema.get_all_operations():
        calm = settings(
            max_examples=examples,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        seeded(seed)(calm(given(case=found.ok().as_strategy())(tried)))()
    return {
        "n": sum(counts.values()),
        "statuses": dict(sorted(counts.items())),
        "n_failures": len(failures),
        "failures": failures[:10],
    }
