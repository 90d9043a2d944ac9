r"""R1 in miniature: a cold start that shows the form, then rewards that a program computes.

No one scores the thinking. A rule looks at the end, is the number between the answer tags the sum,
and another at the form, is there one thought and then one answer; week 21's GRPO does the rest:

$$r = r_\text{accuracy} + w\, r_\text{format} .$$

Whether the model *learned* something or only says more often what it could say before is seen by
drawing $n$ answers to each question. If $c$ of them are right, the chance that one of $k$ is, and
with it the share of questions that are within the model's reach, is estimated without bias by

$$\text{pass@}k = 1 - \binom{n - c}{k} \Big/ \binom{n}{k},$$

while maj@k lets $k$ answers vote. Reinforcement can raise the vote and leave the reach as it was.

>>> answer_in("<think>13,22</think><answer>22</answer>")
'22'
>>> format_reward("<think>13,22</think><answer>22</answer>"), format_reward("<answer>22</answer>")
(1.0, 0.0)
>>> pass_at_k(torch.tensor([2, 0]), 4, 2).tolist()  # 1 - C(2,2)/C(4,2) = 5/6, and nothing right
[0.8333333333333334, 0.0]
>>> majority_at_k([["22", "21", "22"]], ["22"], 3).item()
1.0

    uv run weeks/21/r1.py

Sources: DeepSeek-AI, "DeepSeek-R1" (2025), sections 2.2 and 2.3; Chen et al., "Evaluating large
language models trained on code" (2021), equation 1.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared.require import require
from week21.arithmetic import Problems, response_text
from week21.grpo import Batch

FORM = re.compile(r"<think>[^<]+</think><answer>([^<]+)</answer>")
ANSWER = re.compile(r"<answer>([^<]*)</answer>")
NUMBER = re.compile(r"\d+")

# What a response and the right answer are worth.
Reward = Callable[[str, str], float]


# ---- rewards


def answer_in(response: str) -> str | None:
    """The text between the answer tags; None without tags, or with several answers."""
    found = ANSWER.findall(response)
    return found[0] if len(found) == 1 else None


def last_number(response: str) -> str | None:
    """The number said last, for models that know of no tags."""
    found = NUMBER.findall(response)
    return found[-1] if found else None


def accuracy_reward(response: str, answer: str) -> float:
    """1 if just this number stands between the answer tags; a list of guesses is no answer."""
    return float(answer_in(response) == answer)


def format_reward(response: str, answer: str = "") -> float:
    """1 if the response is one thought and one answer, neither of them empty."""
    return float(FORM.fullmatch(response) is not None)


def mentions_answer(response: str, answer: str) -> float:
    """A flawed verifier: 1 if the right number is said anywhere. Say many numbers, and it pays."""
    return float(answer in NUMBER.findall(response))


def weighted(**weights: float) -> Reward:
    """A sum of rewards: `weighted(accuracy=1, format=0.2)`.

    Raises
    ------
    ValueError
        If a reward has an unknown name.
    """
    known = {"accuracy": accuracy_reward, "format": format_reward, "mentions": mentions_answer}
    unknown = sorted(weights.keys() - known.keys())
    require(not unknown, f"weights must be of {', '.join(known)}", *unknown)

    def reward(response: str, answer: str) -> float:
        return sum(weight * known[name](response, answer) for name, weight in weights.items())

    return reward


# ---- questions, examples


def questions(
    problems: Problems, reward: Reward, generator: torch.Generator
) -> Callable[[int], Batch]:
    """Batches for `week21.grpo.train`: sums, and the reward of each answer to them."""

    def batch(n: int) -> Batch:
        drawn = problems.draw(n, generator)

        def rewards(answers: Int[Tensor, "answer token"]) -> Float[Tensor, "answer"]:
            each = len(answers) // n
            truth = [str(sum(numbers)) for numbers in drawn for _ in range(each)]
            texts = map(response_text, answers)
            return torch.tensor([reward(t, a) for t, a in zip(texts, truth, strict=True)])

        return problems.prompts(drawn), rewards

    return batch


def written(problems: Problems, numbers: Sequence[int], style: str) -> str:
    """An answer as people write it: `direct`, `worked`, or either of them with tags."""
    answer = str(sum(numbers))
    thought = problems.worked(numbers)
    styles = {
        "direct": answer,
        "worked": thought,
        "tagged direct": f"<answer>{answer}</answer>",
        "tagged": f"<think>{thought}</think><answer>{answer}</answer>",
    }
    require(style in styles, f"style must be one of {', '.join(styles)}", style)
    return styles[style]


def corpus(
    problems: Problems, shares: dict[str, float], n: int, generator: torch.Generator
) -> list[tuple[str, str]]:
    """Prompts and answers, in styles that are drawn with these shares."""
    names, weights = list(shares), torch.tensor(list(shares.values()))
    styles = torch.multinomial(weights, n, replacement=True, generator=generator).tolist()
    drawn = problems.draw(n, generator)
    return [
        (problems.prompt(numbers), written(problems, numbers, names[style]))
        for numbers, style in zip(drawn, styles, strict=True)
    ]


# ---- judging


def pass_at_k(n_right: Int[Tensor, " problem"], n: int, k: int) -> Float[Tensor, " problem"]:
    """Chance that one of k answers is right, of n that were drawn `n_right` being so.

    The naive 1 - (1 - c/n)^k is too low: drawing with replacement can draw one answer twice.

    References
    ----------
    Chen et al. (2021), equation 1.
    """
    require(1 <= k <= n, f"k must be between 1 and n = {n}", k)
    inside = len(n_right) == 0 or (int(n_right.min()) >= 0 and int(n_right.max()) <= n)
    require(inside, f"n_right must be between 0 and n = {n}", n_right.tolist())
    wrong = (n - n_right).double()
    drawn = torch.arange(k, dtype=torch.float64)
    # C(w, k) / C(n, k) as a product of k shares; one of them is 0 if w < k
    return 1 - ((wrong[:, None] - drawn).clamp(min=0) / (n - drawn)).prod(dim=1)


def majority_at_k(
    answers: Sequence[Sequence[str | None]], truth: Sequence[str], k: int
) -> Float[Tensor, " problem"]:
    """Share of votes among k answers that the right one wins; a tie counts as its part.

    The answers of a problem vote in blocks of k. None, no answer, has no vote.
    """
    shares = []
    for row, right in zip(answers, truth, strict=True):
        require(1 <= k <= len(row), f"k must be between 1 and {len(row)} answers", k)
        blocks = [row[i : i + k] for i in range(0, len(row) - k + 1, k)]
        won = 0.0
        for block in blocks:
            votes = Counter(a for a in block if a is not None)
            first = [a for a, count in votes.items() if count == max(votes.values())]
            won += (right in first) / max(1, len(first))
        shares.append(won / len(blocks))
    return torch.tensor(shares, dtype=torch.float64)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
