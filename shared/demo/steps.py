"""The steps of the chain: each is one command of a program, as a user would type it."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MODULES", "Step", "steps"]

# The programs in the order of the chain, and the modules that they are.
MODULES = {
    "tiny-gpt": "tiny_gpt",
    "llm-eval": "llm_eval",
    "compress": "compress",
    "serve": "serving",
    "rag": "rag",
}


@dataclass(frozen=True)
class Step:
    """A command, why it is there, and what it leaves.

    Attributes
    ----------
    words
        After the program's name; `{out}` is the demo's folder, `{url}` the server's address.
    leaves
        Files and folders below the demo's folder, without which it is not done.
    stdin, stdout
        Files below that folder which it reads and writes as streams.
    serves
        It is a server, which goes on until the last step is done.
    """

    name: str
    program: str
    why: str
    words: tuple[str, ...]
    leaves: tuple[str, ...] = ()
    stdin: str = ""
    stdout: str = ""
    serves: bool = False

    def typed(self, places: Mapping[str, str]) -> str:
        """The line that a user would type.

        Examples
        --------
        >>> step = Step("ask", "rag", "", ("chat", "--store", "{out}/store"), stdin="questions.txt")
        >>> step.typed({"out": "runs/demo"})
        'uv run rag chat --store runs/demo/store < runs/demo/questions.txt'
        """
        line = shlex.join(["uv", "run", self.program, *_filled(self.words, places)])
        for mark, name in (("<", self.stdin), (">", self.stdout)):
            line += f" {mark} {shlex.quote(places['out'] + '/' + name)}" if name else ""
        return line

    def command(self, places: Mapping[str, str]) -> list[str]:
        """The same for this Python."""
        return [sys.executable, "-m", MODULES[self.program], *_filled(self.words, places)]

    def done(self, out: Path) -> bool:
        """Whether what it leaves is there."""
        return all((out / name).exists() for name in self.leaves)


def _filled(words: tuple[str, ...], places: Mapping[str, str]) -> list[str]:
    filled = []
    for word in words:
        for name, place in places.items():
            word = word.replace(f"{{{name}}}", place)
        filled.append(word)
    return filled


TASKS = "{out}/heldout.yaml,mini_mcqa,mini_cloze"
SIZE = "--n-layers 4 --d-model 128 --context 128 --steps 600"
QUICK_SIZE = (
    "--n-layers 1 --n-heads 2 --d-model 32 --context 64 --steps 10 --eval-every 5 --samples 1 "
    "--dtype fp32 --compile off"
)


def steps(*, quick: bool, smollm2: bool) -> list[Step]:
    """The chain; the quick form and the one without SmolLM2 do with tiny_gpt's model."""
    large = smollm2 and not quick
    found = [
        Step(
            "train",
            "tiny-gpt",
            "a language model of your own, from nothing: it reads Python's manual",
            _words(
                "train --data {out}/manual --tokenizer byte --arch llama",
                QUICK_SIZE if quick else SIZE,
                "--out {out}/tiny_gpt",
            ),
            ("tiny_gpt/evaluation.json", "tiny_gpt/report.html"),
        ),
        _measure("measure-tiny", "tiny_gpt:{out}/tiny_gpt", "tiny_gpt", quick),
    ]
    if large:
        found.append(_measure("measure-smollm2", "smollm2", "smollm2", quick))
    bits = "--bits 4 --group-size 32"
    found.append(_compress("compress-tiny", "tiny_gpt:{out}/tiny_gpt", "tiny_gpt", bits))
    if large:
        bits = "--bits 8 --sym --per-channel --embedding-bits 8"
        found.append(_compress("compress-smollm2", "smollm2", "smollm2", bits))
    for name in ("tiny", "smollm2") if large else ("tiny",):
        model = "tiny_gpt" if name == "tiny" else name
        small = f"{model}_small"
        found += [
            _measure(f"measure-small-{name}", f"compress:{{out}}/{small}", small, quick),
            Step(
                f"compare-{name}",
                "llm-eval",
                f"what that cost {_title(model)}, document by document",
                _words(
                    f"compare {{out}}/eval_{small} {{out}}/eval_{model}",
                    f"--html {{out}}/compare_{model}.html --json",
                ),
                (f"compare_{model}.json", f"compare_{model}.html"),
                stdout=f"compare_{model}.json",
            ),
        ]
    served = "dummy" if quick else f"compress:{{out}}/{'smollm2' if large else 'tiny_gpt'}_small"
    which = "a small model of random weights" if quick else "the compressed model"
    writer, how = "extractive", "answered in quotations"
    if large:
        writer, how = "openai:{url}/v1#small", "answered through that server"
    load = Step(
        "load",
        "serve",
        "how fast it answers two clients",
        _words(f"bench {{url}} --clients 2 --duration {2 if quick else 8} --json"),
        ("load.json",),
        stdout="load.json",
    )
    return [
        *found,
        Step(
            "ingest",
            "rag",
            "the manual again, cut into passages that can be found",
            _words(f"ingest {'{out}/manual' if quick else 'pydocs'} --store {{out}}/store --json"),
            ("store", "store.json"),
            stdout="store.json",
        ),
        Step(
            "serve",
            "serve",
            f"{which} behind OpenAI's interface, on this machine only",
            _words(f"{served} --served-model-name small --port 0"),
            serves=True,
        ),
        *([load] if large or quick else []),  # tiny_gpt's model knows no turns of a conversation
        Step(
            "chat",
            "rag",
            f"three questions to the manual, {how}, with citations",
            _words(f"chat --store {{out}}/store --llm {writer} --json"),
            ("answers.jsonl",),
            stdin="questions.txt",
            stdout="answers.jsonl",
        ),
    ]


def _title(folder: str) -> str:
    """What a folder's model is called.

    >>> _title("smollm2_small")
    'the smaller SmolLM2'
    """
    name = folder.replace("smollm2", "SmolLM2")
    return f"the smaller {name.removesuffix('_small')}" if name.endswith("_small") else name


def _measure(name: str, model: str, folder: str, quick: bool) -> Step:
    return Step(
        name,
        "llm-eval",
        f"what {_title(folder)} can do, with intervals",
        _words(
            f"run --model {model} --tasks {TASKS} --limit {2 if quick else 'all'}",
            f"--out {{out}}/eval_{folder} --cache {{out}}/cache",
        ),
        (f"eval_{folder}/results.json", f"eval_{folder}/index.html"),
    )


def _compress(name: str, model: str, folder: str, bits: str) -> Step:
    return Step(
        name,
        "compress",
        f"fewer bits for each weight of {_title(folder)}, rounded to the nearest",
        _words(
            f"quantize {model} --method rtn {bits} --calib pydocs --n-calib 4 --json",
            f"--out {{out}}/{folder}_small",
        ),
        (f"{folder}_small", f"{folder}_small.json"),
        stdout=f"{folder}_small.json",
    )


def _words(*parts: str) -> tuple[str, ...]:
    return tuple(" ".join(parts).split())
