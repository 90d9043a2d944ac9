r"""Multi-token prediction: one more block per extra token, trained beside the model, then a draft.

The trunk's state $h^0_i$ at token $t_i$ predicts $t_{i+1}$. Depth $k$ joins the state below with
the embedding of the next known token and predicts one further,

$$ h^k_i = \mathrm{block}_k\big(M_k\,[\mathrm{norm}(E\,t_{i+k});
   \mathrm{norm}(h^{k-1}_i)]\big), \qquad
   p(t_{i+k+1} \mid t_1 \dots t_{i+k}) = \mathrm{softmax}\big(W\,\mathrm{norm}(h^k_i)\big), $$

with the trunk's own embedding $E$ and head $W$. The last $k$ places know no $t_{i+k}$: they are cut
off and not filled. The losses are averaged over depths and added with a small weight. When
generating, depth 1 guesses the token after next, and the trunk's next pass checks the guess.

>>> tokens = torch.arange(8)[None]  # ids that are their own places
>>> targets_of_depth(tokens, 0), targets_of_depth(tokens, 2)  # one token on; three on, two cut off
(tensor([[1, 2, 3, 4, 5, 6, 7]]), tensor([[3, 4, 5, 6, 7]]))

    uv run weeks/18/multi_token.py

Sources: DeepSeek-AI, "DeepSeek-V3" (2024), section 2.2, eq. 21 to 25, and section 5.4.3; Gloeckle
et al., "Better & faster large language models via multi-token prediction" (2024), has parallel
heads; Leviathan et al. (2023) have the checking.
"""

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.require import require
from week18.deepseek_v3 import Block, DeepSeek, initialize, turns_after
from week18.latent_attention import LatentCache
from week18.llama3 import RMSNorm, allowed_keys


class Predictor(nn.Module):
    """One depth: its own norms, projection and block; embedding and head are the trunk's."""

    def __init__(self, trunk: DeepSeek):
        super().__init__()
        c = trunk.config
        d, eps = c.attention.d_model, c.attention.norm_eps
        self.config = c
        self.embedding_norm, self.hidden_norm = RMSNorm(d, eps), RMSNorm(d, eps)
        self.join = nn.Linear(2 * d, d, bias=False)
        self.block = Block(c, 0, dense=False)
        self.norm = RMSNorm(d, eps)

    def forward(
        self,
        hidden: Float[Tensor, "batch seq d_model"],
        embedded: Float[Tensor, "batch seq d_model"],
        cache: LatentCache | None = None,
    ) -> Float[Tensor, "batch seq d_model"]:
        """States of this depth; places count from the first state, whatever the depth."""
        past, n = 0 if cache is None else cache.length, hidden.shape[1]
        x = torch.cat([self.embedding_norm(embedded), self.hidden_norm(hidden)], dim=-1)
        cos, sin = turns_after(past, n, self.config, hidden)
        allowed = allowed_keys(past, n, None, hidden.device)
        x = self.block(self.join(x), cos, sin, cache, allowed)
        if cache is not None:
            cache.advance(n)
        return self.norm(x)


class MultiToken(nn.Module):
    """A trunk and the predictors of `depths` further tokens."""

    def __init__(self, trunk: DeepSeek, depths: int = 1, generator: torch.Generator | None = None):
        super().__init__()
        require(depths >= 1, "depths must be at least 1", depths)
        self.trunk = trunk
        self.predictors = nn.ModuleList(Predictor(trunk) for _ in range(depths))
        initialize(self.predictors, trunk.config.n_layers, generator)

    def forward(self, tokens: Int[Tensor, "batch seq"]) -> list[Float[Tensor, "batch _ vocab"]]:
        """Logits of every depth from 0, the trunk's; depth k has the first seq - k places."""
        must = f"tokens must be longer than the {len(self.predictors)} depths"
        require(tokens.shape[1] > len(self.predictors), must, tokens.shape[1])
        hidden, embedded = self.trunk.hidden(tokens), self.trunk.embed(tokens)
        logits = [self.trunk.head(hidden)]
        for k, predictor in enumerate(self.predictors, start=1):
            hidden = predictor(hidden[:, :-1], embedded[:, k:])
            logits.append(self.trunk.head(hidden))
        return logits

    def balance(self, rate: float) -> None:
        """Move the biases of the trunk's and the predictors' mixtures."""
        self.trunk.balance(rate)
        for predictor in self.predictors:
            predictor.block.mlp.balance(rate)


# ---- the loss


def targets_of_depth(tokens: Int[Tensor, "batch n"], depth: int) -> Int[Tensor, "batch left"]:
    """What depth k should predict at each place that has an answer: the token k + 1 further on."""
    require(0 <= depth < tokens.shape[1] - 1, "depth must leave a place to predict from", depth)
    return tokens[:, depth + 1 :]


def loss_by_depth(
    logits: list[Float[Tensor, "batch _ vocab"]],
    tokens: Int[Tensor, "batch n"],
    documents: Int[Tensor, "batch n"] | None = None,
) -> list[Float[Tensor, ""]]:
    """Mean surprise of every depth, in nats per token (DeepSeek-V3, eq. 24).

    Parameters
    ----------
    tokens
        What the model read, and one token more.
    documents
        The document of each token: places whose target lies in another one do not count.
    """
    n = tokens.shape[1]
    require(logits[0].shape[1] == n - 1, "tokens must be one more than depth 0 predicts", n)
    losses = []
    for depth, scores in enumerate(logits):
        targets = targets_of_depth(tokens, depth)
        if documents is not None:
            same = targets_of_depth(documents, depth) == documents[:, : targets.shape[1]]
            targets = targets.masked_fill(~same, -100)
        losses.append(F.cross_entropy(scores.transpose(1, 2), targets, ignore_index=-100))
    return losses


def multi_token_loss(losses: list[Float[Tensor, ""]], weight: float) -> Float[Tensor, ""]:
    """Next token's loss, plus `weight` times the mean of the further depths' (eq. 25)."""
    require(weight >= 0, "weight must be at least 0", weight)
    return losses[0] + weight * torch.stack(losses[1:]).mean()


# ---- the draft


@dataclass
class Generation:
    """Prompt and continuation, the trunk's passes, guesses made and kept."""

    tokens: Int[Tensor, " n"]
    passes: int = 0
    guessed: int = 0
    kept: list[bool] = field(default_factory=list)


@torch.no_grad()
def generate_greedy(
    model: MultiToken, prompt: Int[Tensor, " n"], length: int, *, speculate: bool = True
) -> Generation:
    """Continue by `length` of the likeliest tokens, two per pass of the trunk where a guess holds.

    A guess is kept if it is the trunk's own choice, so the text is the trunk's, guesses or not.
    A kept guess gives one token more, since the pass that checked it also read it.
    """
    require(len(prompt) > 0, "prompt must hold at least one token", len(prompt))
    require(length >= 0, "length must be at least 0", length)
    trunk, predictor = model.trunk, model.predictors[0]
    end = len(prompt) + length
    like = {"dtype": trunk.embed.weight.dtype, "device": prompt.device}
    sizes = {"batch": 1, "max_length": end + 1, **like}
    cache = LatentCache(trunk.config.attention, n_layers=trunk.config.n_layers, **sizes)
    drafts = LatentCache(trunk.config.attention, n_layers=1, **sizes)
    found, guess = Generation(prompt.clone()), prompt[:0]
    while len(found.tokens) < end:
        read = cache.length
        hidden = trunk.hidden(torch.cat([found.tokens[read:], guess])[None], cache)
        choices = trunk.head(hidden)[0].argmax(-1)
        found.passes += 1
        if len(guess):
            found.kept.append(bool(choices[-2] == guess))
            if not found.kept[-1]:  # forget the guess: what came after it is worthless
                choices, hidden = choices[:-1], hidden[:, :-1]
                cache.crop(cache.length - 1)
        new = choices[-1:] if not (len(guess) and found.kept[-1]) else choices[-2:]
        found.tokens = torch.cat([found.tokens, new])[:end]
        if speculate and len(found.tokens) < end - 1:
            # state i and token i + 1 make the guess for i + 2
            known = trunk.embed(found.tokens[None, read + 1 : cache.length + 1])
            state = predictor(hidden, known, drafts)
            guess = trunk.head(state[:, -1:])[0].argmax(-1)
        else:
            guess = prompt[:0]
    found.guessed = len(found.kept)
    return found


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
