r"""One prompt and several continuations of it: the prompt is read once, and its cache copied.

To draw n answers to a question, or to compare m options, a model would read the same prompt n or m
times. Keys and values of a prefix do not depend on what follows, so they are computed for one row
and repeated; what each row adds is its own. The result is the same, row by row.

>>> from week18.llama3 import LlamaConfig
>>> config = LlamaConfig(vocab_size=20, d_model=16, n_heads=2, n_kv_heads=1, n_layers=1)
>>> model = Llama(config, torch.Generator().manual_seed(0))
>>> draw_answers(model, [1, 2, 3], 2, most=4, end=19, sampler=Sampler(temperature=0))
[[13, 3, 13, 3], [13, 3, 13, 3]]
>>> nats_of(model, [1, 2, 3], [[4, 5], [6]]).shape
torch.Size([2])

`uv run weeks/28/verilog_assistant.py` uses it. Pope et al., "Efficiently scaling transformer
inference" (2022), for what a cache saves; Brown et al., "Language models are few-shot learners"
(2020), section 2.4, for options compared per token.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from shared.require import require
from week18.llama3 import Llama
from week19.kv_cache import KVCache
from week19.sampling import Sampler  # noqa: F401 (doctest)


def read_prompt(
    model: Llama, prompt: Sequence[int], rows: int, room: int
) -> tuple[KVCache, Float[Tensor, "rows vocab"]]:
    """A cache of so many rows that holds the prompt, with room for more, and the logits after it.

    Raises
    ------
    ValueError
        If the prompt and what may follow do not fit the model's context.
    """
    must, length = "prompt must not be empty", len(prompt) + room
    require(len(prompt) >= 1, must)
    most = model.config.context
    require(length <= most, f"the prompt and its answer must have at most {most} tokens", length)
    cache = KVCache.for_model(model, 1, length)
    logits = model(torch.tensor([list(prompt)]), cache=cache)[:, -1]
    cache.select(torch.zeros(rows, dtype=torch.long))
    return cache, logits.expand(rows, -1)


@torch.inference_mode()
def draw_answers(
    model: Llama,
    prompt: Sequence[int],
    n: int,
    *,
    most: int,
    end: int,
    sampler: Callable[..., Tensor],
    generator: torch.Generator | None = None,
    enough: Callable[[list[int]], bool] = lambda answer: False,
) -> list[list[int]]:
    """Draw n answers of at most `most` tokens, without the token that ends them.

    Parameters
    ----------
    sampler
        Takes logits, all tokens so far and the generator, such as week 19's `Sampler`.
    enough
        Whether an answer needs no more tokens; it is then cut there.
    """
    require(n >= 1, "n must be at least 1", n)
    cache, logits = read_prompt(model, prompt, n, most)
    answers: list[list[int]] = [[] for _ in range(n)]
    running, history = [True] * n, torch.tensor([list(prompt)]).expand(n, -1)
    for _ in range(most):
        tokens = sampler(logits, history, generator)
        for i, token in enumerate(tokens.tolist()):
            if running[i] and token == end:
                running[i] = False
            elif running[i]:
                answers[i].append(token)
                running[i] = not enough(answers[i])
        if not any(running) or cache.length == cache.max_length:
            break
        history = torch.cat([history, tokens[:, None]], dim=1)
        logits = model(tokens[:, None], cache=cache)[:, -1]
    return answers


@torch.inference_mode()
def nats_of(
    model: Llama, prompt: Sequence[int], options: Sequence[Sequence[int]]
) -> Float[Tensor, " option"]:
    """Mean of -log p per token of each option, after the prompt."""
    require(len(options) and all(options), "options must each have a token")
    n = max(map(len, options))
    cache, first = read_prompt(model, prompt, len(options), n)
    tokens, targets = torch.zeros(len(options), n).long(), torch.full((len(options), n), -100)
    for i, option in enumerate(options):
        tokens[i, : len(option)] = targets[i, : len(option)] = torch.tensor(list(option))
    logits = first[:, None]
    if n > 1:
        logits = torch.cat([logits, model(tokens[:, :-1], cache=cache)], dim=1)
    each = F.cross_entropy(logits.float().mT, targets, reduction="none", ignore_index=-100)
    return each.sum(dim=1) / (targets >= 0).sum(dim=1)
