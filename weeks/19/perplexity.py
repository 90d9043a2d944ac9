r"""Perplexity by two protocols whose numbers must not be compared with each other.

**GPTQ's**: the whole text is one row of tokens, cut into windows that do not overlap. The first
token of a window is not predicted, the second sees one token, and so on:

$$ \exp\Big( \frac{1}{n\,(c - 1)} \sum_{j=1}^{n} \sum_{t=2}^{c} -\ln p(x_{jt} \mid x_{j,<t}) \Big)$$

per *token*, so that a model with another tokenizer has another unit. **lm-eval's**: each page by
itself, all its tokens predicted once (the first after a prefix token, the last window reaching back
as far as it may), and the sum divided by the page's *words* or *bytes*, the same for all models.

>>> [(len(given), len(said)) for given, said in rolling_windows([*range(10)], 0, context=4)]
[(4, 4), (4, 4), (4, 2)]
>>> pages(" = A page = \n text \n = = Part = = \n more \n = Another = \n end \n")[1]
' = Another = \n end \n'
>>> detokenize("a @-@ b , c ( d ) \n")
'a-b, c (d)\n'

Sources: the evaluation of GPTQ's repository; the `wikitext` task of EleutherAI's lm-eval.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.require import require

# From spaced-out tokens to running text; in this order.
REPLACED = [
    ("s '", "s'"),
    *((f" @{mark}@ ", mark) for mark in "-,."),
    *((f" {mark} ", f"{mark} ") for mark in ":;.!?,"),
]
BRACKETS = [("\\(", "\\)"), ("\\[", "\\]"), ("{", "}"), ('"', '"'), ("'", "'")]
LATER = [("= = = =", "===="), ("= = =", "==="), ("= =", "=="), (" ° ", "°")]
LATER += [(" \n", "\n"), ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s")]


def detokenize(text: str) -> str:
    """WikiText's tokens as running text, by lm-eval's rules."""
    for old, new in REPLACED:
        text = text.replace(old, new)
    for left, right in BRACKETS:
        stop, bare = right.removeprefix("\\"), left.removeprefix("\\")
        pattern = rf"{left}\s*([^{right}]*?)\s*{right}"
        text = re.sub(pattern, lambda found, a=bare, b=stop: f"{a}{found[1]}{b}", text)
    for old, new in LATER:
        text = text.replace(old, new)
    return text


def pages(text: str) -> list[str]:
    """The articles of a WikiText file; each begins with a line like ` = Title = `."""
    starts = [found.start() for found in re.finditer(r"^ = [^=\n].*[^=] = *$", text, re.MULTILINE)]
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]


def gptq_nats(
    model: Callable[[Tensor], Tensor], tokens: Int[Tensor, " n"], *, context: int
) -> Float[Tensor, " windows"]:
    """Mean nats per predicted token of each whole window; what is left over is dropped."""
    require(context >= 2, "context must be at least 2", context)
    require(len(tokens) >= context, f"tokens must fill a window of {context}", len(tokens))
    windows = tokens[: len(tokens) // context * context].reshape(-1, context)
    with torch.inference_mode():
        return torch.stack(
            [F.cross_entropy(model(row[None])[0, :-1].float(), row[1:]) for row in windows]
        )


def rolling_windows(
    tokens: Sequence[int], prefix: int, *, context: int
) -> Iterator[tuple[list[int], list[int]]]:
    """What a model is given and what it has to say, each token once (lm-eval's rolling windows)."""
    require(context >= 1, "context must be at least 1", context)
    row = [prefix, *tokens]
    for start in range(0, len(tokens), context):
        end = min(start + context, len(tokens))
        yield row[max(0, end - context) : end], row[start + 1 : end + 1]


def page_nats(model: nn.Module, tokens: Sequence[int], prefix: int, *, context: int) -> float:
    """Nats of all tokens of a page."""
    total = 0.0
    with torch.inference_mode():
        for given, said in rolling_windows(tokens, prefix, context=context):
            logits = model(torch.tensor([given]))[0, -len(said) :].float()
            total += F.cross_entropy(logits, torch.tensor(said), reduction="sum").item()
    return total


def per_word_and_byte(page: str, nats: float) -> dict[str, float]:
    """lm-eval's units, counted on the page before it was detokenized."""
    words, size = len(re.split(r"\s+", page)), len(page.encode())
    return {"word_perplexity": math.exp(nats / words), "bits_per_byte": nats / size / math.log(2)}
