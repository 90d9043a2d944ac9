r"""Guidance: ask a sampler for something, and ask louder than the data would.

By Bayes' rule the score of what has label $y$ is that of all data plus a classifier's gradient.
A scale on it turns the classifier's voice up,

$$ \nabla \log p(x_t) + s\, \nabla \log p(y \mid x_t) . $$

**Classifier guidance** takes the gradient of a classifier of noisy inputs. **Classifier-free
guidance** needs none: a network that was trained with labels, some of them dropped, gives the
conditional prediction $c$ and the unconditional one $u$, and

$$ u + w\, (c - u) . $$

Here $w = 0$ is unconditional, $w = 1$ conditional, above it is guidance. Ho and Salimans write
$(1 + w') c - w' u$, so that their $w'$ is $w - 1$. At scale 1 both are exact. Above it nothing is:
noising the data that were reweighted by $p(y \mid x)^s$ does not give these scores.

>>> u, c = torch.zeros(2, 3), torch.ones(2, 3)
>>> net = lambda x, t, label=None: u if label is None else c
>>> guided = classifier_free(net, torch.tensor([4, 7]), scale=2.5)
>>> guided(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))[0]
tensor([2.5000, 2.5000, 2.5000])
>>> drop_labels(torch.tensor([1, 2, 3]), 1.0, null=10, generator=torch.Generator())
tensor([10, 10, 10])

    uv run weeks/23/guidance.py

Sources: Dhariwal & Nichol, "Diffusion models beat GANs on image synthesis" (2021), section 4 and
algorithms 1 and 2; Ho & Salimans, "Classifier-free diffusion guidance" (2022), equation 6.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared.arguments import checked
from shared.require import require
from week23.schedules import Kind, Model, Schedule

__all__ = [
    "classifier_free",
    "classifier_gradient",
    "classifier_guided",
    "drop_labels",
]

# Log-probabilities of the labels, given x at times t.
Classifier = Callable[[Float[Tensor, "n *dims"], Int[Tensor, " n"]], Float[Tensor, "n labels"]]
Labels = Int[Tensor, " n"]


@checked
def classifier_gradient(
    classifier: Classifier, x: Float[Tensor, "n *dims"], t: Int[Tensor, " n"], labels: Labels
) -> Float[Tensor, "n *dims"]:
    """Where each row's own label becomes more likely."""
    with torch.enable_grad():  # samplers run without gradients
        x = x.detach().requires_grad_()
        chosen = classifier(x, t).gather(-1, labels[:, None])
        return torch.autograd.grad(chosen.sum(), x)[0]


def classifier_guided(
    model: Model,
    classifier: Classifier,
    schedule: Schedule,
    labels: Labels,
    *,
    scale: float,
    kind: Kind = "epsilon",
) -> Model:
    """An unconditional network whose prediction leans towards the labels; of the same kind.

    References
    ----------
    Dhariwal & Nichol (2021), equation 14 and algorithm 2. Their algorithm 1 moves the mean of an
    ancestral step by scale · β · gradient; this one moves it by 1 / √α times as much.
    """
    _check_scale(scale)

    def guided(x: Tensor, t: Tensor) -> Tensor:
        score = schedule.convert(model(x, t), x, t, kind, "score")
        score = score + scale * classifier_gradient(classifier, x, t, labels)
        return schedule.convert(score, x, t, "score", kind)

    return guided


def classifier_free(model: Callable[..., Tensor], labels: Labels, *, scale: float) -> Model:
    """u + scale (c - u), for a network that takes labels and may do without.

    All kinds of prediction are linear in each other, so that it does not matter which one this is.

    References
    ----------
    Ho & Salimans (2022), equation 6, with scale = 1 + w.
    """
    _check_scale(scale)

    def guided(x: Tensor, t: Tensor) -> Tensor:
        if scale == 0:
            return model(x, t)
        conditional = model(x, t, labels)
        if scale == 1:
            return conditional
        unconditional = model(x, t)
        return unconditional + scale * (conditional - unconditional)

    return guided


def drop_labels(
    labels: Labels, probability: float, *, null: int, generator: torch.Generator
) -> Labels:
    """Each label replaced by `null` with this probability: the network learns both predictions."""
    require(0 <= probability <= 1, "probability must be in [0, 1]", probability)
    gone = torch.rand(labels.shape, generator=generator) < probability
    return labels.masked_fill(gone, null)


def _check_scale(scale: float) -> None:
    require(scale >= 0, "scale must be at least 0", scale)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
