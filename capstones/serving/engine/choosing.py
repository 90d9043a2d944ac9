"""The next token of one answer, and how likely it was.

>>> choose = Chooser(Sampling(temperature=0, bias={1: 5.0}), n_prompt=1, top=1)
>>> int(choose(torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[2]])))
1
>>> [token for token, _ in choose.said[0].top], round(choose.said[0].logprob, 2)
([2], -1.55)
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from serving.types import Said, Sampling
from week19.sampling import Sampler


class Chooser:
    """Chooses as `week19.scheduler` wants it; penalties and bias come before the sampler.

    Parameters
    ----------
    n_prompt
        Tokens of the history that are the prompt's: penalties are for the answer.
    top
        How many of the likeliest tokens to keep of each place; None keeps nothing.

    Attributes
    ----------
    said
        What was chosen, with log-probabilities of the model itself, before penalties, temperature
        and filters.
    """

    def __init__(self, sampling: Sampling, n_prompt: int, top: int | None = None):
        s = sampling
        self._sample = Sampler(
            s.temperature, s.top_k or None, s.top_p, s.min_p, s.repetition_penalty
        )
        self._sampling, self._n_prompt, self._top = sampling, n_prompt, top
        self.said: list[Said] = []

    def __call__(
        self,
        logits: Float[Tensor, "batch vocab"],
        history: Int[Tensor, "batch seq"],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "batch"]:
        """The next token of the one row."""
        token = self._sample(self._moved(logits, history), history, generator)
        if self._top is not None:
            self.said.append(said(logits[0], int(token), self._top))
        return token

    def _moved(self, logits: Tensor, history: Tensor) -> Tensor:
        s = self._sampling
        if s.presence_penalty or s.frequency_penalty:
            counts = torch.zeros_like(logits[0])
            own = history[0, self._n_prompt :]
            counts.index_add_(0, own, torch.ones_like(own, dtype=logits.dtype))
            logits = logits - s.frequency_penalty * counts - s.presence_penalty * (counts > 0)
        if s.bias:
            logits = logits.clone()
            logits[0, list(s.bias)] += logits.new_tensor(list(s.bias.values()))
        return logits


def said(logits: Float[Tensor, "vocab"], token: int, top: int) -> Said:
    """A token with its log-probability, and the likeliest ones with theirs."""
    logprobs = logits.float().log_softmax(-1)
    best = logprobs.topk(min(top, len(logprobs)))
    pairs = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return Said(token, float(logprobs[token]), tuple(pairs))
