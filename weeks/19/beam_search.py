r"""Beam search: keep the n most likely beginnings instead of one.

Greedy search takes the best token now, and can miss the best sentence. Beam search extends each of
n beginnings by every token and keeps the n best sums of log-probabilities. A finished text of
length t is scored

$$s = \frac{1}{t^{\alpha}} \sum_{i=1}^{t} \ln p(x_i \mid x_{<i}),$$

since without the division by $t^\alpha$ short texts win: every further token costs.

>>> first = torch.tensor([0.6, 0.4]).log()  # greedy starts with 0
>>> then = torch.tensor([[0.5, 0.5], [0.99, 0.01]]).log()  # but after 1 the best is near certain
>>> [beam_search(first, lambda _, t: then[t], 2, n_beams=n)[0].tokens for n in (1, 2)]
[(0, 0), (1, 0)]

`uv run weeks/19/sampling.py` compares it with transformers, its tests with all texts.
Wu et al., "Google's neural machine translation system" (2016), section 7, whose length
penalty is a shifted power; the plain power is transformers', as are the rules of stopping.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared.arguments import checked
from shared.require import require
from week18.llama3 import Llama
from week19.kv_cache import KVCache
from week19.sampling import FINITE, in_float32

Step = Callable[[Int[Tensor, "beam"], Int[Tensor, "beam"]], Float[Tensor, "beam vocab"]]


@dataclass(frozen=True)
class Hypothesis:
    """A finished text: its tokens and its score."""

    tokens: tuple[int, ...]
    score: float


@checked
def beam_search(
    logits: Float[Tensor, "vocab"],
    step: Step,
    max_new_tokens: int,
    *,
    n_beams: int,
    length_penalty: float = 1.0,
    early_stopping: bool | Literal["never"] = False,
    stop: Collection[int] = (),
) -> list[Hypothesis]:
    """The best texts found, at most n_beams, best first.

    Parameters
    ----------
    logits
        Of the first new token.
    step
        `step(parents, tokens)` gives the next logits, where row i continues what was row
        parents[i] by tokens[i].
    length_penalty
        The power α of the length that a score is divided by.
    early_stopping
        Whether to stop when n_beams texts are finished. If False, when no beam would beat the
        worst of them at its present length; if "never", when none would at any length.
    stop
        Tokens that finish a text.
    """
    for name, value in (("max_new_tokens", max_new_tokens), ("n_beams", n_beams)):
        require(value >= 1, f"{name} must be at least 1", value)
    power = abs(length_penalty) * math.log(max_new_tokens)
    must = "length_penalty must be finite, and so must max_new_tokens to its power"
    require(power < 700, must, length_penalty)  # exp(710) is infinite
    known = early_stopping in (True, False, "never")
    require(known, "early_stopping must be True, False or 'never'", early_stopping)
    vocab = len(logits)
    beams: list[tuple[int, ...]] = [()]
    sums, log_p = torch.zeros(1, device=logits.device), in_float32(logits).log_softmax(-1)[None]
    finished: list[Hypothesis] = []
    for length in range(1, max_new_tokens + 1):
        totals = (sums[:, None] + log_p).flatten()
        # Each stop token can take n_beams places; n_beams must be left to go on with.
        n = min(max(2, 1 + len(stop)) * n_beams, len(totals))
        best, index = totals.topk(n)
        require(not best[0].isnan(), FINITE)  # NaN comes first, and one makes its whole row NaN
        going = []
        for rank, (total, i) in enumerate(zip(best.tolist(), index.tolist(), strict=True)):
            parent, token = divmod(i, vocab)
            text = (*beams[parent], token)
            if total == -torch.inf:
                break
            if token in stop or length == max_new_tokens:
                if rank < n_beams:  # a text that only fills up the list may not finish
                    finished.append(Hypothesis(text, total / length**length_penalty))
            elif len(going) < n_beams:
                going.append((parent, text, total))
        finished = sorted(finished, key=lambda h: -h.score)[:n_beams]
        if not going or length == max_new_tokens:
            break
        if len(finished) == n_beams:
            never = early_stopping == "never"
            to_come = never and length_penalty > 0
            bound = going[0][2] / (max_new_tokens if to_come else length) ** length_penalty
            if (early_stopping and not never) or bound <= finished[-1].score:
                break
        parents, beams, totals_kept = (list(part) for part in zip(*going, strict=True))
        sums = torch.tensor(totals_kept, device=logits.device)
        tokens = torch.tensor([text[-1] for text in beams], device=logits.device)
        logits = step(torch.tensor(parents, device=logits.device), tokens)
        fits, must = (len(beams), vocab), "step must give logits of shape (beam, vocab)"
        require(logits.shape == fits, f"{must} = {fits}", tuple(logits.shape))
        log_p = in_float32(logits).log_softmax(-1)
    return finished


@torch.no_grad()
def cached_step(
    model: Llama, prompt: Int[Tensor, "seq"], max_new_tokens: int
) -> tuple[Float[Tensor, "vocab"], Step]:
    """The logits after the prompt, and a step for `beam_search` that reads one token per beam.

    The prompt is read once, and the cache's rows follow the beams.
    """
    cache = KVCache.for_model(model, 1, len(prompt) + max_new_tokens - 1)
    logits = model(prompt[None], cache=cache)[0, -1]

    @torch.no_grad()
    def step(parents, tokens):
        cache.select(parents)
        return model(tokens[:, None], cache=cache)[:, -1]

    return logits, step
