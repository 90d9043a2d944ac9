"""Two Markov models as target and draft: every law is known, and thousands of texts are cheap.

>>> target, draft = (random_table(3, torch.Generator().manual_seed(i)) for i in (0, 1))
>>> law = law_of_text(target, draft, 0, gamma=2)  # texts of 3 tokens, all that can happen added up
>>> exact = float(target[0, 1] * target[1, 2] * target[2, 0])
>>> abs(law[1, 2, 0] - exact) < 1e-12
True

`uv run weeks/19/speculative_decoding.py` judges the rule by these. Leviathan, Kalman & Matias
(2023), algorithm 1.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from week19.speculative_decoding import leading, residual, verify

Table = Float[Tensor, "state state"]
Verify = Callable[..., tuple[Tensor, Tensor]]


def random_table(states: int, generator: torch.Generator, sharpness: float = 1.5) -> Table:
    """Transition probabilities: one random distribution per state."""
    logits = sharpness * torch.randn(states, states, generator=generator, dtype=torch.float64)
    return logits.softmax(-1)


def mixed_with_noise(table: Table, share: float, generator: torch.Generator) -> Table:
    """A draft for it: the table, blurred by another one."""
    return (1 - share) * table + share * random_table(len(table), generator)


# ---- exact laws


def law_of_text(target: Table, draft: Table, start: int, gamma: int) -> dict[tuple, float]:
    """Probability of each text of gamma + 1 tokens, by adding up all that algorithm 1 can do.

    After a rejection the text is shorter; the target goes on from there.
    """
    law: dict[tuple, float] = {}
    for guesses in itertools.product(range(len(target)), repeat=gamma):
        before = (start, *guesses)
        reach = 1.0  # probability that these guesses are drawn and all kept so far
        for i, guess in enumerate(guesses):
            p, q = target[before[i]], draft[before[i]]
            later = text_probability(draft, before[i:])
            rejected = reach * later * (1 - min(1.0, float(p[guess] / q[guess])))
            for token, r in enumerate(residual(p, q)):
                _add_target(law, target, (*guesses[:i], token), gamma + 1, rejected * float(r))
            reach *= min(float(p[guess]), float(q[guess]))
        for token, p in enumerate(target[before[-1]]):
            key = (*guesses, token)
            law[key] = law.get(key, 0.0) + reach * float(p)
    return law


def text_probability(table: Table, text: tuple[int, ...]) -> float:
    """Of a text, given its first token."""
    return float(torch.stack([table[a, b] for a, b in itertools.pairwise(text)]).prod())


def _add_target(law: dict, target: Tensor, text: tuple, length: int, mass: float) -> None:
    if len(text) == length:
        law[text] = law.get(text, 0.0) + mass
        return
    for token, p in enumerate(target[text[-1]]):
        _add_target(law, target, (*text, token), length, mass * float(p))


def enumerated_laws(
    gamma: int, generator: torch.Generator
) -> tuple[Float[np.ndarray, " text"], Float[np.ndarray, " text"]]:
    """Law of all texts of gamma + 1 tokens by algorithm 1, and the target's own, for two models."""
    target, draft = random_table(3, generator), random_table(3, generator)
    draft = torch.where(draft < 0.1, 0.0, draft)  # guesses that q never makes
    law = law_of_text(target, draft / draft.sum(-1, keepdim=True), 0, gamma)
    own = [text_probability(target, (0, *text)) for text in law]
    return np.array(list(law.values())), np.array(own)


def tokens_of_first_run(target: Table, draft: Table, gamma: int) -> Float[Tensor, " state"]:
    """Expected tokens of a run from each state, exactly: 1 + A1 + A²1 + …

    A(s, t) = min(p, q) is the probability that t is guessed after s, and kept.
    """
    kept = torch.minimum(target, draft)
    reach = total = torch.ones(len(target), dtype=target.dtype)
    for _ in range(gamma):
        reach = kept @ reach
        total = total + reach
    return total


def pair_law(target: Table) -> Float[np.ndarray, "state state"]:
    """The target's law of the first two tokens after state 0."""
    return (target[0][:, None] * target).numpy()


# ---- many texts


class Chains(NamedTuple):
    """Texts of many chains, and how many tokens their runs gave."""

    texts: Tensor
    tokens_a_run: np.ndarray


def simulate(
    target: Table,
    draft: Table,
    length: int,
    gamma: int,
    chains: int,
    generator: torch.Generator,
    rule: Verify = verify,
) -> Chains:
    """Many independent texts from state 0, all chains at once."""
    n = torch.zeros(chains, dtype=torch.long)
    texts = torch.zeros(chains, length + gamma + 1, dtype=torch.long)
    state, gained = torch.zeros(chains, dtype=torch.long), []
    while int(n.min()) < length:
        guesses, q, at = [], [], state
        for _ in range(gamma):
            q.append(draft[at])
            at = torch.multinomial(q[-1], 1, generator=generator)[:, 0]
            guesses.append(at)
        guesses = torch.stack(guesses, dim=1)
        p = target[torch.cat([state[:, None], guesses], dim=1)]
        kept, token = rule(guesses, p, torch.stack(q, dim=1), generator)
        new = torch.cat([guesses, token[:, None]], dim=1).scatter(1, kept[:, None], token[:, None])
        place = (n[:, None] + torch.arange(gamma + 1)).clamp(max=texts.shape[1] - 1)
        active = n < length
        writes = active[:, None] & (torch.arange(gamma + 1) <= kept[:, None])
        rows = torch.arange(chains)[:, None].expand_as(place)
        texts[rows[writes], place[writes]] = new[writes]
        gained.append(np.where(active.numpy(), kept.numpy() + 1, 0))
        n = n + torch.where(active, kept + 1, 0)
        state = torch.where(active, token, state)
    return Chains(texts[:, :length], np.stack(gained))


def total_variation(
    texts: Int[Tensor, "chain length"], law: Float[np.ndarray, "state state"]
) -> float:
    """Half the summed differences between the texts' frequencies and a law over pairs."""
    states = law.shape[0]
    counts = np.bincount((texts[:, 0] * states + texts[:, 1]).numpy(), minlength=states**2)
    return 0.5 * float(np.abs(counts / counts.sum() - law.ravel()).sum())


def sampling_floor(
    law: Float[np.ndarray, "state state"], n: int, rng: np.random.Generator, repeats: int = 200
) -> float:
    """Mean total variation of n texts drawn from the law itself."""
    counts = rng.multinomial(n, law.ravel(), size=repeats)
    return 0.5 * float(np.abs(counts / n - law.ravel()).sum(axis=1).mean())


# ---- wrong rules, in place of `verify`


def swapped(
    guesses: Int[Tensor, "batch gamma"],
    p: Float[Tensor, "batch gamma_plus_1 vocab"],
    q: Float[Tensor, "batch gamma vocab"],
    generator: torch.Generator,
) -> tuple[Int[Tensor, "batch"], Int[Tensor, "batch"]]:
    """Keep a guess with probability min(1, q/p)."""
    p_guess, q_guess, u = _of_guesses(guesses, p, q, generator)
    return _finish(u * p_guess < q_guess, p, q, generator, residual)


def resampled_from_target(
    guesses: Int[Tensor, "batch gamma"],
    p: Float[Tensor, "batch gamma_plus_1 vocab"],
    q: Float[Tensor, "batch gamma vocab"],
    generator: torch.Generator,
) -> tuple[Int[Tensor, "batch"], Int[Tensor, "batch"]]:
    """After a rejection, draw from p as if nothing had been tried."""
    p_guess, q_guess, u = _of_guesses(guesses, p, q, generator)
    return _finish(u * q_guess < p_guess, p, q, generator, lambda p, q: p)


def _of_guesses(guesses, p, q, generator) -> tuple[Tensor, Tensor, Tensor]:
    u = torch.rand(guesses.shape, generator=generator, dtype=p.dtype)
    p_guess, q_guess = (x[:, : u.shape[1]].gather(-1, guesses[..., None])[..., 0] for x in (p, q))
    return p_guess, q_guess, u


def _finish(kept: Tensor, p: Tensor, q: Tensor, generator: torch.Generator, left_of: Callable):
    n, rows = leading(kept), torch.arange(len(kept))
    q = torch.cat([q, torch.zeros_like(p[:, :1])], dim=1)
    left = left_of(p[rows, n], q[rows, n])
    return n, torch.multinomial(left, 1, generator=generator)[:, 0]
