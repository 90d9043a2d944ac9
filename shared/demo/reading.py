"""What the programs left, as the page shows it: each number is read from a file of theirs."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["Fact", "Score", "conversation", "facts", "scores", "training"]

METRICS = {"manual": "bits_per_byte", "mini_mcqa": "acc", "mini_cloze": "acc"}
MODELS = {"tiny_gpt": "tiny_gpt", "smollm2": "SmolLM2"}


class Fact(NamedTuple):
    """A number and what it is."""

    name: str
    value: str
    note: str = ""


class Score(NamedTuple):
    """A metric of a model before and after it was compressed, and what changed."""

    model: str
    task: str
    metric: str
    title: str
    before: str
    after: str
    change: str
    n: int
    failed: int


def training(out: Path) -> dict[str, Any]:
    """Losses by step, and what the model writes in the end."""
    run = out / "tiny_gpt"
    log = _lines(run / "log.jsonl")
    samples = _json(run / "samples.json") or []
    return {
        "train": [(row["step"], row["loss"]) for row in log if "loss" in row],
        "val": [(row["step"], row["val_loss"]) for row in log if "val_loss" in row],
        "sample": samples[-1]["text"] if samples else "",
    }


def facts(out: Path, program: str) -> list[Fact]:
    """The numbers that stand beside a program."""
    return {
        "tiny-gpt": _trained,
        "llm-eval": lambda out: [],
        "compress": _compressed,
        "serve": _served,
        "rag": _asked,
    }[program](out)


def _trained(out: Path) -> list[Fact]:
    told = _json(out / "tiny_gpt" / "evaluation.json")
    timing = _lines(out / "tiny_gpt" / "timing.jsonl")
    found = []
    if told:
        bits = told["bits_per_byte"]
        found.append(Fact("validation loss, nats per token", f"{told['nats_per_token']:.3f}"))
        note = _interval(bits["low"], bits["high"], ".2f")
        found.append(Fact("bits per byte, validation", f"{bits['value']:.2f}", note))
    speeds = [row["tokens_per_second"] for row in timing if "tokens_per_second" in row]
    if speeds:
        found.append(Fact("tokens per second, training", f"{speeds[-1]:,.0f}", "at the last step"))
    return found


def _compressed(out: Path) -> list[Fact]:
    found = []
    for model, title in MODELS.items():
        if told := _json(out / f"{model}_small.json"):
            share = f"{told['bytes'] / told['source_bytes']:.0%} of {told['source_bytes']:,}"
            found.append(Fact(f"bytes of {title}", f"{told['bytes']:,}", share))
    return found


def _served(out: Path) -> list[Fact]:
    told = _json(out / "load.json")
    if not told:
        return []
    found = [Fact("tokens per second, two clients", f"{told['tokens_per_second']:.1f}")]
    found.append(Fact("answered", f"{told['well']} of {told['n']}"))
    if told.get("first"):
        found.append(Fact("seconds to the first text, median", f"{told['first']['p50']:.2f}"))
    return found


def _asked(out: Path) -> list[Fact]:
    found, told = [], _json(out / "store.json")
    if told:
        count = told["added"] + told["updated"] + told["unchanged"]
        found.append(Fact("passages", f"{told['chunks']:,}", f"of {count} documents"))
    if answers := _lines(out / "answers.jsonl"):
        cited = sum(len(answer["citations"]) for answer in answers)
        found.append(Fact("citations", str(cited), f"in {len(answers)} answers"))
    return found


def scores(out: Path) -> list[Score]:
    """Both models on all tasks, with intervals; after minus before over the same documents."""
    found = []
    for model, title in MODELS.items():
        before, after = _numbers(out / f"eval_{model}"), _numbers(out / f"eval_{model}_small")
        changes = {(x["task"], x["metric"]): x for x in _json(out / f"compare_{model}.json") or []}
        tasks = (_json(out / f"eval_{model}" / "results.json") or {}).get("tasks", {})
        for key in METRICS.items():
            if key in before:
                found.append(
                    Score(
                        title,
                        *key,
                        tasks[key[0]]["title"],
                        _told(before[key]),
                        _told(after.get(key)),
                        _told(changes.get(key), "+.3f"),
                        before[key]["n"],
                        before[key]["failed"],
                    )
                )
    return found


def _numbers(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    told = _json(folder / "results.json") or {}
    whole = (x for x in told.get("numbers", []) if not (x["group"] or x["template"]))
    return {(x["task"], x["metric"]): x for x in whole}


def _told(number: dict[str, Any] | None, form: str = ".3f") -> str:
    if not number or number["value"] is None:
        return ""
    return f"{number['value']:{form}} {_interval(number['low'], number['high'], form)}".rstrip()


def _interval(low: float | None, high: float | None, form: str) -> str:
    return "" if low is None or high is None else f"[{low:{form}}, {high:{form}}]"


def conversation(out: Path) -> list[dict[str, Any]]:
    """The questions, the answers in pieces, and for each citation the passage around its quote."""
    found = []
    for i, answer in enumerate(_lines(out / "answers.jsonl"), 1):
        chunks = [hit["chunk"] for hit in answer["hits"]]
        sources = []
        for cited in answer["citations"]:
            before, quote, after = _around(cited, chunks)
            place = f"{cited['document']}:{cited['start']}-{cited['end']}"
            sources.append(
                {
                    "id": f"source-{i}-{cited['number']}",
                    "number": cited["number"],
                    "place": place,
                    "before": before,
                    "quote": quote,
                    "after": after,
                }
            )
        pieces = _pieces(answer["text"], [source["number"] for source in sources])
        silent = answer["abstained"]
        found.append(
            {
                "number": i,
                "question": answer["question"],
                "pieces": pieces,
                "sources": sources,
                "silent": silent,
                "note": answer.get("note", ""),
            }
        )
    return found


def _around(cited: dict[str, Any], chunks: Sequence[dict[str, Any]]) -> tuple[str, str, str]:
    """The found passage that holds a quote, in three parts; the quote alone if none does."""
    for chunk in chunks:
        low, high = cited["start"] - chunk["start"], cited["end"] - chunk["start"]
        text = chunk["text"]
        if cited["document"] == chunk["document"] and text[max(low, 0) : high] == cited["quote"]:
            return text[:low], cited["quote"], text[high:]
    return "", cited["quote"], ""


def _pieces(text: str, numbers: Sequence[int]) -> list[tuple[str, int | None]]:
    """The text cut at its marks of citations.

    >>> _pieces("It is. [1] Not [9].", [1])
    [('It is. ', None), ('[1]', 1), (' Not [9].', None)]
    """
    pieces: list[tuple[str, int | None]] = [(text, None)]
    for number in numbers:
        mark, cut = f"[{number}]", []
        for piece, of in pieces:
            parts = piece.split(mark) if of is None else [piece]
            for j, part in enumerate(parts):
                cut += [(mark, number)] if j else []
                cut += [(part, of)] if part else []
        pieces = cut
    return pieces


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes()) if path.is_file() else None


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.is_file() else []
