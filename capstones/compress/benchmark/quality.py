r"""How good a model is: perplexity by two protocols, and answers to questions of three tasks.

Each number has its protocol in a line. Perplexity of GPTQ's windows is per token, that of lm-eval's
pages per word: they stand in columns of their own and are never compared. What a form of the model
lost is measured against float32 on the *same* windows and documents, so that most of what makes
one window harder than another cancels.

>>> from week18.llama3 import LlamaConfig
>>> model = Llama(LlamaConfig(vocab_size=256), torch.Generator().manual_seed(0))
>>> text = Text.of(
...     lambda page: list(page.encode()),
...     " = Aha = \n some words \n" * 40,
...     "made up",
...     windows=2,
...     context=64,
...     pages=1,
... )
>>> text.signature
'text:made up|protocol:gptq|windows:2|context:64|unit:token'
>>> [f"{x:.1f}" for x in window_nats(model, text)]  # guessing costs ln 256 = 5.5
['5.5', '5.5']
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from compress.models.tokenizers import Tokenizer
from shared import datasets
from shared.errors import UserError
from shared.stats import mean_interval
from week18.llama3 import Llama
from week19 import perplexity

PREFIX = 0  # stands before a page: <|endoftext|> of SmolLM2
TASKS = ("arc_easy", "piqa", "lambada")
Encode = Callable[[str], list[int]]


@dataclass(frozen=True)
class Text:
    """What perplexity is measured on.

    Attributes
    ----------
    windows
        Rows of tokens, for GPTQ's protocol.
    pages
        Whole pages, as they are and in tokens, for lm-eval's.
    """

    name: str
    windows: Int[Tensor, "window n"]
    pages: list[tuple[str, list[int]]]

    @classmethod
    def of(
        cls, encode: Encode, text: str, name: str, *, windows: int, context: int, pages: int
    ) -> "Text":
        """The beginning of a text, and its shortest pages."""
        joined = "\n\n".join(text.splitlines(keepends=True))  # as GPTQ joins lines
        tokens = torch.tensor(encode(joined[: 12 * windows * context]))
        count = min(windows, len(tokens) // context)
        short = sorted(perplexity.pages(text), key=len)[:pages]
        read = [(page, encode(perplexity.detokenize(page))) for page in short]
        return cls(name, tokens[: count * context].reshape(count, context), read)

    @property
    def signature(self) -> str:
        """The protocol of `window_nats`."""
        n, context = self.windows.shape
        return f"text:{self.name}|protocol:gptq|windows:{n}|context:{context}|unit:token"

    @property
    def page_signature(self) -> str:
        """The protocol of `word_perplexity`."""
        context = self.windows.shape[1]
        kind = "protocol:lm-eval rolling|normalized:words before detokenizing"
        return f"text:{self.name}|{kind}|pages:{len(self.pages)}|context:{context}|unit:word"


def wikitext(encode: Encode, *, windows: int, context: int, pages: int) -> Text:
    """WikiText-2's test part; Python's manual, as one page, where that is not here."""
    try:
        text, name = datasets.wikitext2("test"), "wikitext-2-raw test"
    except UserError:
        text, name = " = Manual = \n" + datasets.pydocs_text()[:200_000], "pydocs"
    return Text.of(encode, text, name, windows=windows, context=context, pages=pages)


def window_nats(model: nn.Module, text: Text) -> list[float]:
    """Mean nats per token of each window, by GPTQ's protocol."""
    context = text.windows.shape[1]
    return perplexity.gptq_nats(model, text.windows.flatten(), context=context).tolist()


def word_perplexity(model: nn.Module, text: Text) -> float | None:
    """Of all pages together, by lm-eval's protocol; None without pages."""
    nats = words = 0.0
    for page, tokens in text.pages:
        of_page = perplexity.page_nats(model, tokens, PREFIX, context=text.windows.shape[1])
        nats += of_page
        words += of_page / math.log(perplexity.per_word_and_byte(page, of_page)["word_perplexity"])
    return math.exp(nats / words) if words else None


class Codec:
    """A tokenizer as llm_eval asks for one; token 0 stands before a text without context."""

    prefix, ends = PREFIX, frozenset()

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Ids of a text."""
        return self.tokenizer.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """The text that ids stand for."""
        return self.tokenizer.decode(ids)

    def chat(self, turns: Any) -> str:
        """Not asked for: no task here is a conversation."""
        raise NotImplementedError


def answers(
    model: Llama, tokenizer: Tokenizer, tasks: Sequence[str], documents: int
) -> dict[str, dict[str, Any]]:
    """Of each task, its protocol and by document whether the answer was right."""
    from llm_eval.engine.run import evaluate
    from llm_eval.models.local import LocalModel
    from llm_eval.models.networks import LlamaNetwork
    from llm_eval.tasks.opening import open_tasks

    local = LocalModel("in memory", LlamaNetwork(model), Codec(tokenizer), identity={})
    outcome = evaluate(local, open_tasks(list(tasks)), limit=documents)
    found: dict[str, dict[str, Any]] = {}
    for number in outcome.numbers:
        if number.metric == "acc" and not number.group and not number.template:
            found[number.task] = {"signature": number.signature, "right": {}}
    for sample in outcome.samples:
        if not sample.error:
            found[sample.task]["right"][sample.id] = int(sample.values["acc"])
    return found


# ---- beside float32


def nats_lost(nats: Sequence[float], of_float: Sequence[float]) -> dict[str, float]:
    """Mean nats per token more than float32, with its 95 % interval over windows.

    >>> nats_lost([1.2, 2.1, 3.15], [1.0, 2.0, 3.0])["mean"]
    0.15
    """
    change = [a - b for a, b in zip(nats, of_float, strict=True)]
    if len(change) < 2:
        return {"mean": round(change[0], 6)}
    found = mean_interval(change)
    return {"mean": round(found.mean, 6), "low": found.low, "high": found.high}


def accuracy_change(answered: dict[str, dict], of_float: dict[str, dict]) -> dict[str, Any]:
    """Share right over all tasks' documents, and that minus float32's, paired by document.

    >>> mine = {"t": {"signature": "s", "right": {"a": 1, "b": 0, "c": 0}}}
    >>> floats = {"t": {"signature": "s", "right": {"a": 1, "b": 1, "c": 0}}}
    >>> found = accuracy_change(mine, floats)
    >>> round(found["accuracy"], 3), round(found["change"], 3), found["n"]
    (0.333, -0.333, 3)
    """
    from llm_eval.statistics.compare import compare
    from llm_eval.types import Sample

    sides = [
        [
            Sample(task, i, {}, (), (), values={"acc": right})
            for task, found in side.items()
            for i, right in found["right"].items()
        ]
        for side in (answered, of_float)
    ]
    signatures = tuple(
        " + ".join(found["signature"] for found in side.values()) for side in (answered, of_float)
    )
    found = compare(*sides, "acc", signatures=signatures)
    ends = {"low": found.low, "high": found.high, "p": found.p, "n": found.n}
    return {"accuracy": found.a, "change": found.value, **ends, "signature": found.signature}
