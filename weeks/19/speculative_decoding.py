r"""Speculative decoding: a cheap model guesses, the real one checks many guesses at once.

A draft model with distribution $q$ proposes $\gamma$ tokens. One pass of the target, distribution
$p$, scores all of them. Guess $x$ is kept with probability $\min(1, p(x) / q(x))$; at the first
rejection the token is drawn from what $q$ has too little of,

$$r(x) = \frac{\max(0, p(x) - q(x))}{\sum_y \max(0, p(y) - q(y))},$$

and if all are kept, the target's pass gives one more token for nothing. The text then follows $p$,
whatever $q$ is: $q(x) \min(1, p(x)/q(x)) + \Pr[\text{rejected}]\, r(x) = p(x)$. How *fast* it is
depends on $q$: with guesses kept independently at rate $\alpha$, a pass of the target yields

$$1 + \alpha + \dots + \alpha^\gamma = \frac{1 - \alpha^{\gamma + 1}}{1 - \alpha}
  \quad \text{tokens}, \qquad \alpha = 1 - \mathrm{TV}(p, q).$$

>>> p, q = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
>>> acceptance_rate(p, q), residual(p, q)  # what is missing is drawn after a rejection
(tensor(0.7000), tensor([1., 0., 0.]))
>>> expected_tokens(alpha=0.7, gamma=3)  # 1 + 0.7 + 0.49 + 0.343
2.533
>>> model = with_temperature(lambda tokens: torch.eye(3)[(tokens + 1) % 3], 0)  # 0, 1, 2, 0, …
>>> text = speculative_generate(model, model, torch.tensor([0]), 6, gamma=2)
>>> text.tokens.tolist(), text.target_passes
([0, 1, 2, 0, 1, 2, 0], 2)

    uv run weeks/19/speculative_decoding.py

Source: Leviathan, Kalman & Matias, "Fast inference from transformers via speculative decoding"
(2023), algorithm 1, theorem 3.8 and appendix A.1; Chen et al. (2023) found the same rule.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from shared.arguments import checked
from shared.require import require
from week19.sampling import apply_temperature, greedy, in_float32, probabilities

# Probabilities of the next token after each one of a sequence (its batch is 1).
NextToken = Callable[[Int[Tensor, "1 seq"]], Float[Tensor, "1 seq vocab"]]


@checked
def residual(
    p: Float[Tensor, "*batch vocab"], q: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch vocab"]:
    """What to draw from after a rejection: max(0, p - q), normalized.

    Where p = q nothing is ever rejected, except by rounding; then p itself is as good.

    References
    ----------
    Leviathan et al. (2023), section 2.3.
    """
    left = (p - q).clamp(min=0)
    total = left.sum(-1, keepdim=True)
    return torch.where(total > 0, left / total.clamp(min=torch.finfo(p.dtype).tiny), p)


@checked
def acceptance_rate(
    p: Float[Tensor, "*batch vocab"], q: Float[Tensor, "*batch vocab"]
) -> Float[Tensor, "*batch"]:
    """Probability that a guess from q is kept: the overlap of p and q, one minus their TV distance.

    References
    ----------
    Leviathan et al. (2023), theorem 3.5.
    """
    return torch.minimum(p, q).sum(-1)


def expected_tokens(alpha: float, gamma: int) -> float:
    """Tokens per pass of the target if each guess is kept independently with probability alpha.

    References
    ----------
    Leviathan et al. (2023), equation 1.
    """
    require(0 <= alpha <= 1, "alpha must lie in [0, 1]", alpha)
    require(gamma >= 0, "gamma must be at least 0", gamma)
    return float(sum(alpha**i for i in range(gamma + 1)))


def expected_speedup(alpha: float, gamma: int, cost: float) -> float:
    """How many times faster, if a draft pass costs `cost` target passes and checking is free.

    References
    ----------
    Leviathan et al. (2023), theorem 3.8.
    """
    require(cost >= 0, "cost must be at least 0", cost)
    return expected_tokens(alpha, gamma) / (gamma * cost + 1)


@checked
def verify(
    guesses: Int[Tensor, "batch gamma"],
    p: Float[Tensor, "batch gamma_plus_1 vocab"],
    q: Float[Tensor, "batch gamma vocab"],
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "batch"], Int[Tensor, "batch"]]:
    """Keep the guesses up to the first rejection, and draw the token after them.

    Parameters
    ----------
    guesses
        Drawn from q, one after the other.
    p, q
        The two models' probabilities before each guess; of p also those after the last.

    Returns
    -------
    kept, token
        How many guesses, from the first on, and the token that follows them.

    References
    ----------
    Leviathan et al. (2023), algorithm 1.
    """
    n = guesses.shape[1]
    must = f"p must have one row more than the {n} guesses and q as many"
    require(p.shape[1] == n + 1 and q.shape[1] == n, must, p.shape[1], q.shape[1])
    p_guess, q_guess = (x[:, :n].gather(-1, guesses[..., None])[..., 0] for x in (p, q))
    u = torch.rand(guesses.shape, generator=generator, dtype=p.dtype, device=p.device)
    # u < p/q without the division; strict, so that p = 0 is never kept
    kept = leading(u * q_guess < p_guess)
    padded = torch.cat([q, torch.zeros_like(p[:, :1])], dim=1)  # after the last guess r = p
    row = kept[:, None, None].expand(-1, 1, p.shape[-1])
    left = residual(p.gather(1, row)[:, 0], padded.gather(1, row)[:, 0])
    return kept, torch.multinomial(left, 1, generator=generator)[:, 0]


def leading(kept: Bool[Tensor, "batch gamma"]) -> Int[Tensor, "batch"]:
    """How many entries are True before the first False."""
    return kept.long().cumprod(dim=1).sum(dim=1)


# ---- text


@dataclass
class Generation:
    """Prompt and continuation, the target's passes, and the guesses kept in each of them."""

    tokens: Int[Tensor, " n"]
    target_passes: int = 0
    kept: list[int] = field(default_factory=list)


def with_temperature(
    logits_of: Callable[[Int[Tensor, "1 seq"]], Float[Tensor, "1 seq vocab"]],
    temperature: float = 1.0,
) -> NextToken:
    """A model's probabilities at a temperature; at 0 all of it lies on the likeliest token.

    With both models at temperature 0 the rules above turn into: keep a guess if it is the target's
    own choice, else take that choice. Greedy decoding is no special case.
    """
    usual = 0 <= temperature < math.inf
    require(usual, "temperature must be at least 0 and finite", temperature)

    def next_token(tokens: Int[Tensor, "1 seq"]) -> Float[Tensor, "1 seq vocab"]:
        logits = in_float32(logits_of(tokens))
        if temperature == 0:
            choice = greedy(logits)
            return torch.nn.functional.one_hot(choice, logits.shape[-1]).to(logits.dtype)
        return probabilities(apply_temperature(logits, temperature))

    return next_token


@torch.no_grad()
def generate(
    target: NextToken,
    prompt: Int[Tensor, " n"],
    length: int,
    *,
    generator: torch.Generator | None = None,
) -> Generation:
    """Continue `prompt` by `length` tokens the ordinary way, a pass of the target for each."""
    _check(prompt, length)
    found = Generation(prompt.clone())
    for _ in range(length):
        p = target(found.tokens[None])[0, -1]
        token = torch.multinomial(p, 1, generator=generator)
        found.tokens = torch.cat([found.tokens, token])
        found.target_passes += 1
        found.kept.append(0)
    return found


@torch.no_grad()
def speculative_generate(
    target: NextToken,
    draft: NextToken,
    prompt: Int[Tensor, " n"],
    length: int,
    *,
    gamma: int = 4,
    generator: torch.Generator | None = None,
) -> Generation:
    """Continue `prompt` by `length` tokens of the target, guessed by the draft where it can.

    Parameters
    ----------
    target, draft
        The next token's probabilities after each token, over the same vocabulary.
    gamma
        Guesses per pass; the last one guesses no more than are still wanted of `length` tokens.

    References
    ----------
    Leviathan et al. (2023), algorithm 1.
    """
    _check(prompt, length)
    require(gamma >= 1, "gamma must be at least 1", gamma)
    found = Generation(prompt.clone())
    end = len(prompt) + length
    while len(found.tokens) < end:
        n = len(found.tokens)
        guessed, q = found.tokens, []
        for _ in range(min(gamma, end - n - 1)):
            q.append(draft(guessed[None])[0, -1])
            guess = torch.multinomial(q[-1], 1, generator=generator)
            guessed = torch.cat([guessed, guess])
        p = target(guessed[None])[:, n - 1 :]  # one pass: before each guess, and after the last
        rows = torch.stack(q)[None] if q else p[:, :0]
        kept, token = verify(guessed[None, n:], p, rows, generator)
        found.tokens = torch.cat([guessed[: n + int(kept)], token])
        found.target_passes += 1
        found.kept.append(int(kept))
    return found


def _check(prompt: Tensor, length: int) -> None:
    require(len(prompt) > 0, "prompt must hold at least one token, got none")
    require(length >= 0, "length must be at least 0", length)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
