"""Commands of `serve` that ask a server instead of being one."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import httpx
from cyclopts import Parameter, validators

from llm_eval.terminal import console, errors, put
from shared.errors import UserError

Flag = Annotated[bool, Parameter(negative="")]
Positive = Annotated[float, Parameter(validator=validators.Number(gt=0))]
Share = Annotated[float, Parameter(validator=validators.Number(gte=0, lte=1))]
Count = Annotated[int, Parameter(validator=validators.Number(gte=1))]


def bench(
    url: str,
    *,
    model: str | None = None,
    rate: Positive = 1.0,
    duration: Positive = 30.0,
    clients: Count | None = None,
    tokens: Count = 16,
    disconnect: Share = 0.0,
    seed: int = 0,
    api_key: str | None = None,
    json_: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> int:
    """Load any server with OpenAI's interface; 1 if a request failed.

    Parameters
    ----------
    url
        Such as http://127.0.0.1:8000.
    model
        Its name there; the first one that the server tells if not given.
    rate
        Requests per second; they come at random times, whatever the answers do.
    duration
        Seconds in which they come.
    clients
        Instead of a rate: so many clients that wait for each answer; duration times rate requests.
    tokens
        Of each answer.
    disconnect
        Share of clients that hang up after their first text.
    seed
        Of the times and of who hangs up.
    api_key
        If the server wants one.
    json_
        Print a JSON object.
    """
    from serving.benchmark.load import closed_load, open_load, summary
    from serving.benchmark.rows import asked
    from serving.benchmark.tables import loaded

    name = model or _served(url, api_key)

    def body(i: int) -> dict[str, Any]:
        return {**asked(i, tokens=tokens), "model": name}

    options = {"seed": seed, "disconnect": disconnect, "key": api_key}
    if clients is None:
        load = open_load(url, body, rate=rate, seconds=duration, **options)
    else:
        n = max(1, round(rate * duration))
        load = closed_load(url, body, clients=clients, requests=n, **options)
    found = summary(asyncio.run(load))
    put(found) if json_ else console.print(loaded(found))
    return 1 if found["failed"] else 0


def _served(url: str, key: str | None) -> str:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        cards = httpx.get(f"{url}/v1/models", headers=headers, timeout=30).json()
        return cards["data"][0]["id"]
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{url} does not tell which models it has: {error!r}") from error


def fuzz(url: str, *, requests: Count = 1000, examples: Count = 20, seed: int = 0) -> int:
    """Send absurd requests to a running `serve`; 1 if one was answered by 5xx or not at all.

    Parameters
    ----------
    url
        Such as http://127.0.0.1:8000.
    requests
        Of our own.
    examples
        Of schemathesis, for each route.
    seed
        What is drawn.
    """
    from serving.benchmark import fuzz as fuzzing

    own = asyncio.run(fuzzing.fuzz(url, requests=requests, seed=seed))
    derived = fuzzing.from_schema(url, examples=examples, seed=seed)
    put({"own": own, "schemathesis": derived})
    return 1 if own["n_failures"] or derived["n_failures"] or not own["sound"] else 0


def duel(*rows: str, quick: Flag = False, record: Flag = False) -> None:
    """Measure beside plain FastAPI and LitServe; nothing else should run meanwhile.

    Parameters
    ----------
    rows
        Which rows; all of them if none is named.
    quick
        Little of everything, to see that it runs.
    record
        Write into the project's record and tables instead of below runs/.
    """
    from rich.markdown import Markdown

    from serving.benchmark import bench as benchmark
    from serving.benchmark import tables

    out = benchmark.RECORD if record else Path("runs/serving/bench.json")
    found = benchmark.bench(rows, quick=quick, out=out, say=errors.print)
    if record:
        tables.main()
    else:
        for text in tables.pages(found).values():
            console.print(Markdown(text))


COMMANDS = (bench, fuzz, duel)
