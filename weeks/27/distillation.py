r"""Distillation: a small model learns from all that a large one says, not from the answer alone.

A teacher's logits $v$ say which wrong answers are nearly right. A temperature $T$ makes that
audible, and the student's logits $z$ are trained to say the same,

$$ L = T^2\, \mathrm{KL}(p \,\|\, q), \qquad p = \mathrm{softmax}(v / T), \quad
   q = \mathrm{softmax}(z / T), \qquad \frac{\partial L}{\partial z} = T\,(q - p) . $$

The factor $T^2$ keeps the gradient's size: $q - p$ shrinks as $1/T$, and the chain rule divides by
$T$ once more. As $T$ grows, the gradient turns into $(z - v)/N$ for $N$ classes and centered
logits: matching logits. Language models are taught token by token, by a divergence between $p$ and
$q$ of which the KL divergence is one end, with $m = \beta p + (1 - \beta) q$,

$$ D_\beta = \beta\, \mathrm{KL}(p \,\|\, m) + (1 - \beta)\, \mathrm{KL}(q \,\|\, m), $$

on given text or, **on policy**, on text that the student writes: it is then corrected where its
own mistakes lead it.

>>> teacher, student = torch.tensor([[2.0, 1.0, -3.0]]), torch.zeros(1, 3)
>>> teacher.softmax(-1), (teacher / 4).softmax(-1)  # the third answer is heard
(tensor([[0.7275, 0.2676, 0.0049]]), tensor([[0.4842, 0.3771, 0.1387]]))
>>> soft_loss(student, teacher, temperature=4.0)
tensor(1.6905)
>>> generalized_jsd(student, teacher, beta=0.0)  # forward KL
tensor([0.4883])

    uv run weeks/27/distillation.py

Sources: Hinton, Vinyals & Dean, "Distilling the knowledge in a neural network" (2015), section 2;
Agarwal et al., "On-policy distillation of language models" (2023), equation 1 and algorithm 1;
Romero et al., "FitNets" (2014), equation 3; Szegedy et al. (2015), section 7, for label smoothing.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.arguments import checked
from shared.require import require

# Logits of the next token after each one.
NextToken = Callable[[Int[Tensor, "batch seq"]], Float[Tensor, "batch seq vocab"]]


@checked
def soft_loss(
    student: Float[Tensor, "*batch classes"],
    teacher: Float[Tensor, "*batch classes"],
    *,
    temperature: float,
) -> Float[Tensor, ""]:
    """T² times the KL divergence of the student from the teacher, mean over examples.

    The divergence is a *sum* over classes: a mean over all entries would divide by their number
    (`kl_div`'s reduction "mean" does, "batchmean" does not). No gradient goes to the teacher.

    References
    ----------
    Hinton et al. (2015), section 2 and 2.1.
    """
    _check_temperature(temperature)
    log_p, log_q = (x.div(temperature).log_softmax(-1) for x in (teacher.detach(), student))
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(-1).mean()


@checked
def distillation_loss(
    student: Float[Tensor, "batch classes"],
    teacher: Float[Tensor, "batch classes"],
    labels: Int[Tensor, " batch"],
    *,
    temperature: float,
    soft: float = 0.9,
) -> Float[Tensor, ""]:
    """A weighted mean of the soft loss and of the log loss of the labels, at temperature 1."""
    require(0 <= soft <= 1, "soft must be in [0, 1]", soft)
    hard = F.cross_entropy(student, labels)
    return soft * soft_loss(student, teacher, temperature=temperature) + (1 - soft) * hard


@checked
def smoothing_loss(
    student: Float[Tensor, "batch classes"], labels: Int[Tensor, " batch"], *, smoothing: float
) -> Float[Tensor, ""]:
    """Log loss of labels that share a part of their weight evenly among all classes.

    Soft targets that know nothing of the example: the control of distillation.

    References
    ----------
    Szegedy et al. (2015), section 7.
    """
    require(0 <= smoothing < 1, "smoothing must be in [0, 1)", smoothing)
    log_q = student.log_softmax(-1)
    right = log_q.gather(-1, labels[:, None])[:, 0]
    return -((1 - smoothing) * right + smoothing * log_q.mean(-1)).mean()


class FeatureMatching(nn.Module):
    """A student's hidden layer should be a linear image away from the teacher's.

    Parameters
    ----------
    student, teacher
        Widths of the two layers. The map between them is learned with the student and then thrown
        away.

    References
    ----------
    Romero et al. (2014), equation 3, with a linear regressor.
    """

    def __init__(self, student: int, teacher: int, generator: torch.Generator | None = None):
        super().__init__()
        self.regressor = nn.Linear(student, teacher)
        nn.init.normal_(self.regressor.weight, std=student**-0.5, generator=generator)
        nn.init.zeros_(self.regressor.bias)

    def forward(
        self, student: Float[Tensor, "*batch s"], teacher: Float[Tensor, "*batch t"]
    ) -> Float[Tensor, ""]:
        """Half the squared distance, mean over examples."""
        return 0.5 * (self.regressor(student) - teacher.detach()).square().sum(-1).mean()


# ---- language models


@checked
def generalized_jsd(
    student: Float[Tensor, "*batch vocab"],
    teacher: Float[Tensor, "*batch vocab"],
    *,
    beta: float = 0.5,
    temperature: float = 1.0,
) -> Float[Tensor, "*batch"]:
    """Divergence of the two distributions at each place.

    Parameters
    ----------
    beta
        0 is KL(teacher ‖ student), which punishes what the student leaves out; 1 is
        KL(student ‖ teacher), which punishes what it makes up; between them lies Jensen–Shannon.
        The ends are defined so: D_β itself goes to 0 there, and D_β / (β (1 - β)) to these.

    References
    ----------
    Agarwal et al. (2023), equation 1.
    """
    require(0 <= beta <= 1, "beta must be in [0, 1]", beta)
    _check_temperature(temperature)
    log_p, log_q = (x.div(temperature).log_softmax(-1) for x in (teacher.detach(), student))
    if beta in (0, 1):
        a, b = (log_p, log_q) if beta == 0 else (log_q, log_p)
        return _kl(a, b)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log1p(-beta))
    return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    return (log_a.exp() * (log_a - log_b)).sum(-1)


def _check_temperature(temperature: float) -> None:
    finite = 0 < temperature < math.inf
    require(finite, "temperature must be positive and finite", temperature)


@torch.no_grad()
def write(
    model: NextToken,
    prompts: Int[Tensor, "batch prompt"],
    length: int,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "batch seq"]:
    """Prompts and what the model goes on to write, sampled at temperature 1."""
    require(length >= 1, "length must be at least 1", length)
    require(prompts.shape[1] >= 1, "prompts must hold at least one token each", "none")
    tokens = prompts
    for _ in range(length):
        p = model(tokens)[:, -1].softmax(-1)
        tokens = torch.cat([tokens, torch.multinomial(p, 1, generator=generator)], dim=1)
    return tokens


def text_loss(
    student: NextToken,
    teacher: NextToken,
    tokens: Int[Tensor, "batch seq"],
    *,
    prompt: int = 1,
    **options: float,
) -> Float[Tensor, ""]:
    """Mean divergence over the places of given tokens that follow the first `prompt` ones.

    What stands at the last place predicts a token that is not there, and is left out.
    """
    n = tokens.shape[1]
    require(1 <= prompt < n, f"prompt must be between 1 and {n - 1}", prompt)
    with torch.no_grad():
        target = teacher(tokens)[:, prompt - 1 : -1]
    return generalized_jsd(student(tokens)[:, prompt - 1 : -1], target, **options).mean()


def on_policy_loss(
    student: NextToken,
    teacher: NextToken,
    prompts: Int[Tensor, "batch prompt"],
    length: int,
    *,
    generator: torch.Generator | None = None,
    **options: float,
) -> Float[Tensor, ""]:
    """The same where the student itself writes on: what it wrote is data, with no gradient.

    References
    ----------
    Agarwal et al. (2023), algorithm 1 with all data from the student.
    """
    tokens = write(student, prompts, length, generator)
    return text_loss(student, teacher, tokens, prompt=prompts.shape[1], **options)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
