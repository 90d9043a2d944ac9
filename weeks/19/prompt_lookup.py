r"""Prompt lookup: speculative decoding whose draft is a search in the text that is already there.

Answers repeat their prompts: names, code to edit, passages to quote. So look for the last $n$
tokens earlier in the text, and guess that what followed then follows now. No draft model, no
training; a guess costs a comparison. One pass of the model scores all guesses, and the first one
that is not the model's own choice is replaced by it:

$$\hat x_{t+i} = x_{s+i}, \quad i = 1 \dots \gamma, \qquad
  s = \max\{s < t : x_{s-n+1 \dots s} = x_{t-n+1 \dots t}\} .$$

The text is that of greedy decoding, token for token; only the number of passes shrinks.

>>> guess(torch.tensor([5, 6, 7, 8, 9, 1, 5, 6]), ngram=2, gamma=3)  # 5 6 was followed by …
tensor([7, 8, 9])
>>> guess(torch.tensor([1, 2, 3]), ngram=2, gamma=3)  # 2 3 is new
tensor([], dtype=torch.int64)
>>> model = Llama(LlamaConfig(vocab_size=50), torch.Generator().manual_seed(0))
>>> found = prompt_lookup_generate(model, torch.tensor([1, 2, 3, 1, 2]), 12)
>>> len(found.tokens), sum(found.kept) + found.target_passes
(17, 12)

    uv run weeks/19/prompt_lookup.py

Source: Saxena, "Prompt lookup decoding" (2023), a repository; Leviathan et al. (2023), of which it
is the special case of a draft that puts all its probability on one token.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from shared.require import require
from week18.llama3 import Llama, LlamaConfig
from week19.kv_cache import KVCache
from week19.speculative_decoding import Generation

__all__ = ["Generation", "LlamaConfig", "checked_generate", "guess", "prompt_lookup_generate"]

# `guesser(text, gamma=…)` says how the text may go on, in at most gamma tokens.
Guesser = Callable[..., Int[Tensor, " most_gamma"]]


def guess(tokens: Int[Tensor, " n"], *, ngram: int, gamma: int) -> Int[Tensor, " most_gamma"]:
    """What followed the last `ngram` tokens when they last occurred: at most `gamma` tokens."""
    n = len(tokens)
    if n <= ngram:
        return tokens[:0]
    windows = tokens[:-1].unfold(0, ngram, 1)  # all but the one at the end
    same = (windows == tokens[-ngram:]).all(dim=1).nonzero()
    if len(same) == 0:
        return tokens[:0]
    start = int(same[-1]) + ngram
    return tokens[start : start + gamma]


def prompt_lookup_generate(
    model: Llama,
    prompt: Int[Tensor, " n"],
    max_new_tokens: int,
    *,
    ngram: int = 2,
    gamma: int = 8,
    end: int | None = None,
) -> Generation:
    """Continue greedily, with guesses from the text itself.

    Parameters
    ----------
    ngram
        Tokens that must agree; longer ones are rarer and mislead less.
    gamma
        Most guesses per pass.
    end
        The token that ends the text; it is kept.

    Returns
    -------
    generation
        Tokens, passes of the model, and the guesses kept in each of them.
    """
    require(ngram >= 1 and gamma >= 1, "ngram and gamma must be at least 1", ngram, gamma)
    search = partial(guess, ngram=ngram)
    return checked_generate(model, prompt, max_new_tokens, search, gamma=gamma, end=end)


@torch.inference_mode()
def checked_generate(
    model: Llama,
    prompt: Int[Tensor, " n"],
    max_new_tokens: int,
    guesser: Guesser,
    *,
    gamma: int,
    end: int | None = None,
) -> Generation:
    """Continue greedily, with guesses from anywhere; the arguments are those of prompt lookup."""
    require(len(prompt) > 0, "prompt must hold at least one token, got none")
    require(max_new_tokens >= 1, "max_new_tokens must be at least 1", max_new_tokens)
    total, context = len(prompt) + max_new_tokens, model.config.context
    require(total - 1 <= context, f"prompt and new tokens must fit in context = {context}", total)
    cache, found = KVCache.for_model(model, 1, total), Generation(prompt.clone())
    while len(found.tokens) < total:
        n = len(found.tokens)
        # The last token of a pass comes from the model, so one guess fewer is wanted.
        guesses = guesser(found.tokens, gamma=min(gamma, total - n - 1))
        unread = torch.cat([found.tokens[cache.length :], guesses])
        choices = model(unread[None], cache=cache)[0, -len(guesses) - 1 :].argmax(-1)
        right = choices[:-1] == guesses
        kept = int(right.long().cumprod(0).sum())
        new = choices[: kept + 1]
        if end is not None and (new == end).any():
            new = new[: int((new == end).nonzero()[0]) + 1]
        cache.crop(n + kept)  # what the rejected guesses left in it
        found.tokens = torch.cat([found.tokens, new])
        found.target_passes += 1
        found.kept.append(len(new) - 1)
        if end is not None and int(new[-1]) == end:
            break
    return found


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
