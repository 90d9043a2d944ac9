r"""DPO: learn from preferences by maximum likelihood, without a reward model and without sampling.

Of two answers to a prompt $x$ people preferred $y_w$ to $y_l$. The policy with the most reward,
minus β times its KL divergence from a reference, is known in closed form,

$$\pi^*(y \mid x) \propto \pi_{\mathrm{ref}}(y \mid x)\, e^{r(x, y)/\beta} .$$

Read backwards, a policy *is* a reward: $r = \beta \ln \pi^*/\pi_{\mathrm{ref}}$ plus a constant of
the prompt, which cancels in a difference. Bradley and Terry's probability of a preference,
$\sigma(r_w - r_l)$, then needs no reward model:

$$L = -\ln \sigma\left(\beta \ln \frac{\pi(y_w \mid x)}{\pi_{\mathrm{ref}}(y_w \mid x)}
  - \beta \ln \frac{\pi(y_l \mid x)}{\pi_{\mathrm{ref}}(y_l \mid x)}\right) .$$

IPO, SimPO and KTO change this line: a square, no reference, no pairs.

>>> same = torch.zeros(1)  # ln π/π_ref of a policy that is its reference
>>> dpo_loss(same, same, beta=0.1)  # a coin's ln 2
tensor([0.6931])
>>> batch = collate([Preference(prompt=[5, 6], chosen=[7, 1], rejected=[8, 9, 1])])
>>> batch.tokens
tensor([[5, 6, 7, 1, 0],
        [5, 6, 8, 9, 1]])
>>> batch.scored.int()  # the responses with their ends; no prompt, no padding
tensor([[0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1]], dtype=torch.int32)

    uv run weeks/21/dpo.py

Sources: Rafailov et al., "Direct preference optimization" (2023), equations 4 and 7; Azar et al.,
"A general theoretical paradigm …" (IPO, 2023), eq. 17; Meng et al., "SimPO" (2024), eq. 6;
Ethayarajh et al., "KTO" (2024), eq. 8.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from shared.arguments import checked
from shared.require import require
from week09.optimizers import AdamW

Loss = Literal["dpo", "ipo", "simpo", "kto"]

# ---- pairs of responses


@dataclass(frozen=True)
class Preference:
    """One prompt and two responses to it, as token ids, ends included.

    The prompt stands here once, so both texts begin with the same ids. Cut out of two tokenized
    texts they need not: a token may reach over the seam.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]

    def __post_init__(self):
        for name in ("prompt", "chosen", "rejected"):
            require(getattr(self, name), f"{name} must hold at least one token, got none")

    @classmethod
    def from_texts(cls, chosen: list[int], rejected: list[int], n_prompt: int) -> "Preference":
        """Cut two tokenized texts after `n_prompt` tokens, which must be the same in both."""
        a, b = chosen[:n_prompt], rejected[:n_prompt]
        require(a == b, "chosen and rejected must begin with the same prompt ids", a, b)
        return cls(a, chosen[n_prompt:], rejected[n_prompt:])


@dataclass(frozen=True)
class Batch:
    """Texts padded on the right, and which of their tokens count. Chosen first, then rejected."""

    tokens: Int[Tensor, "batch seq"]
    scored: Bool[Tensor, "batch seq"]

    def rows(self, index: Int[Tensor, " n"]) -> "Batch":
        """Some of the rows."""
        return Batch(self.tokens[index], self.scored[index])


def collate(pairs: Sequence[Preference], pad: int = 0) -> Batch:
    """All chosen texts, then all rejected ones.

    Padding is told by length and not by its id, so that an end of text that doubles as padding is
    still learned.
    """
    require(pairs, "pairs must hold at least one preference, got none")
    texts = [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]
    return pad_texts(texts, pad)


def pad_texts(texts: Sequence[tuple[list[int], list[int]]], pad: int = 0) -> Batch:
    """Prompts with their responses, side by side."""
    longest = max(len(prompt) + len(response) for prompt, response in texts)
    tokens = torch.full((len(texts), longest), pad)
    scored = torch.zeros(len(texts), longest, dtype=torch.bool)
    for i, (prompt, response) in enumerate(texts):
        start, end = len(prompt), len(prompt) + len(response)
        tokens[i, :end] = torch.tensor([*prompt, *response])
        scored[i, start:end] = True
    return Batch(tokens, scored)


@checked
def response_log_probs(
    logits: Float[Tensor, "batch seq vocab"],
    tokens: Int[Tensor, "batch seq"],
    scored: Bool[Tensor, "batch seq"],
) -> Float[Tensor, "batch seq_minus_1"]:
    """Log-probability of each scored token given all before it; 0 for the others.

    The logits at t are about token t + 1. The first token of a response is therefore predicted at
    the last one of its prompt, and a text's first token by nobody.

    Raises
    ------
    ValueError
        If a first token is scored, or a row has no scored token.
    """
    require(not scored[:, 0].any(), "scored must leave out the first token: nothing predicts it")
    require(scored.any(dim=1).all(), "scored must hold a token in each row")
    log_probs = logits[:, :-1].log_softmax(dim=-1)
    found = log_probs.gather(-1, tokens[:, 1:, None])[..., 0]
    return found.masked_fill(~scored[:, 1:], 0.0)


# ---- the losses, one number per pair (KTO: per response)


@checked
def dpo_loss(
    chosen: Float[Tensor, " n"], rejected: Float[Tensor, " n"], *, beta: float
) -> Float[Tensor, " n"]:
    """DPO of the log-ratios ln π/π_ref of whole responses (Rafailov et al., eq. 7)."""
    return -F.logsigmoid(beta * (chosen - rejected))


@checked
def ipo_loss(
    chosen: Float[Tensor, " n"], rejected: Float[Tensor, " n"], *, beta: float
) -> Float[Tensor, " n"]:
    """IPO of the log-ratios per token: a gap to be met, not one to grow without end (eq. 17)."""
    return (chosen - rejected - 1 / (2 * beta)) ** 2


@checked
def simpo_loss(
    chosen: Float[Tensor, " n"], rejected: Float[Tensor, " n"], *, beta: float, gamma: float
) -> Float[Tensor, " n"]:
    """SimPO of the policy's own log-probabilities per token, with a margin γ (eq. 6)."""
    return -F.logsigmoid(beta * (chosen - rejected) - gamma)


@checked
def kto_loss(
    ratio: Float[Tensor, " n"],
    desirable: Bool[Tensor, " n"],
    reference_point: Float[Tensor, ""],
    *,
    beta: float,
) -> Float[Tensor, " n"]:
    """KTO of the log-ratios of single responses, good or bad, about a reference point (eq. 8).

    The point is an estimate of KL(π‖π_ref), and no gradient goes through it.
    """
    gain = beta * (ratio - reference_point.detach())
    return 1 - torch.sigmoid(torch.where(desirable, gain, -gain))


# ---- the optimum, where the answers can be listed


@checked
def regularized_optimum(
    log_reference: Float[Tensor, "*batch answers"],
    reward: Float[Tensor, "*batch answers"],
    beta: float,
) -> Float[Tensor, "*batch answers"]:
    """Log-probabilities of the policy with the most E[r] - β KL(π‖π_ref), equation 4."""
    require(beta > 0, "beta must be positive", beta)
    return (log_reference + reward / beta).log_softmax(dim=-1)


@checked
def expected_dpo_loss(
    log_policy: Float[Tensor, " answers"],
    log_reference: Float[Tensor, " answers"],
    wins: Float[Tensor, "answers answers"],
    beta: float,
) -> Float[Tensor, ""]:
    """DPO's loss over all pairs of answers at once; wins[i, j] is how often i beats j."""
    ratio = log_policy - log_reference
    i, j = (x.flatten() for x in torch.meshgrid(*[torch.arange(len(ratio))] * 2, indexing="ij"))
    return (wins.flatten() * dpo_loss(ratio[i], ratio[j], beta=beta)).sum() / wins.sum()


# ---- training


def train(
    policy: Callable[[Tensor], Tensor],
    reference: Callable[[Tensor], Tensor],
    pairs: Sequence[Preference],
    *,
    parameters: Sequence[Tensor],
    steps: int,
    batch: int,
    generator: torch.Generator,
    loss: Loss = "dpo",
    beta: float = 0.1,
    gamma: float = 0.5,
    lr: float = 1e-3,
) -> Iterator[dict[str, float]]:
    """Train the policy in place and give, for each step, its loss and what to watch beside it.

    Parameters
    ----------
    policy, reference
        Tokens (batch, seq) to logits (batch, seq, vocab). The reference is asked once.
    parameters
        The policy's, those to be trained.

    Returns
    -------
    logs
        `loss`; `chosen` and `rejected`, the mean log-probabilities of the two responses under the
        policy (both may fall, the gap between them grows all the same); `accuracy`.
    """
    n = len(pairs)
    both = collate(pairs)
    # KTO's reference point: each prompt with the chosen response to the next one
    other = pad_texts([(p.prompt, pairs[i - 1].chosen) for i, p in enumerate(pairs)])

    def score(model, texts: Batch) -> Tensor:
        return response_log_probs(model(texts.tokens), texts.tokens, texts.scored).sum(dim=1)

    with torch.no_grad():
        known, known_other = score(reference, both), score(reference, other)
    length = both.scored.sum(dim=1)
    optimizer = AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=0.0)
    for _ in range(steps):
        row = torch.randint(n, (batch,), generator=generator)
        rows = torch.cat([row, row + n])
        log_prob = score(policy, both.rows(rows))
        ratio = log_prob - known[rows]
        per_token = (ratio if loss == "ipo" else log_prob) / length[rows]
        if loss == "dpo":
            losses = dpo_loss(*ratio.chunk(2), beta=beta)
        elif loss == "ipo":
            losses = ipo_loss(*per_token.chunk(2), beta=beta)
        elif loss == "simpo":
            losses = simpo_loss(*per_token.chunk(2), beta=beta, gamma=gamma)
        else:
            with torch.no_grad():
                point = (score(policy, other.rows(row)) - known_other[row]).mean().clamp(min=0)
            losses = kto_loss(ratio, rows < n, point, beta=beta)
        mean = losses.mean()
        optimizer.zero_grad()
        mean.backward()
        optimizer.step()
        chosen, rejected = log_prob.detach().chunk(2)
        right = (ratio[:batch] > ratio[batch:]).float().mean()
        logs = {"loss": mean.detach(), "chosen": chosen.mean(), "rejected": rejected.mean()}
        yield {name: float(x) for name, x in (logs | {"accuracy": right}).items()}


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
