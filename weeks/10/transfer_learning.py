r"""What a network learned on five digits helps with five others: probe, fine-tune, start anew.

A network is a body $\phi$ and a linear layer. With few labels of a new task

- a *linear probe* freezes $\phi$ and solves the convex problem of the last layer alone,
$$ \min_{W, b} \; C \sum_i -\log \mathrm{softmax}(W \phi(x_i) + b)_{y_i} + \tfrac12 \|W\|^2 , $$
- *fine-tuning* starts from the probe and moves all weights,
- *from scratch* trains a new network.

A frozen body is used as in use: its batch normalizations neither normalize by the new batch nor
remember it.

>>> body = SmallCNN(Recipe(), n_classes=5, generator=torch.Generator().manual_seed(0))
>>> x = torch.rand(4, 1, 14, 14, generator=torch.Generator().manual_seed(1))
>>> model = linear_probe(body, x, torch.tensor([0, 1, 1, 0]))
>>> model(x).argmax(dim=1).tolist()  # four points in 32 dimensions can be separated
[0, 1, 1, 0]
>>> torch.equal(model.convs[0].weight, body.convs[0].weight)
True

    uv run weeks/10/transfer_learning.py

Yosinski, Clune, Bengio, Lipson (2014), "How transferable are features in deep neural networks?";
Kumar, Raghunathan, Jones, Ma, Liang (2022), "Fine-tuning can distort pretrained features"
(the head is probed first).
"""

import copy

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.require import require
from week04.logistic_regression import LogisticRegression
from week10.cnn_ablations import Images, Recipe, SmallCNN, train

__all__ = ["Recipe", "SmallCNN", "features", "few_labels", "fine_tune", "linear_probe"]


def few_labels(
    y: Int[Tensor, " n"], n: int, *, generator: torch.Generator
) -> Int[Tensor, " chosen"]:
    """Rows of `n` labels, as many of each class.

    Raises
    ------
    ValueError
        If the classes do not divide `n`, or one has too few rows.
    """
    classes = y.unique()
    share, rest = divmod(n, len(classes))
    require(share and not rest, f"n must be a multiple of the {len(classes)} classes", n)
    chosen = []
    for label in classes:
        rows = (y == label).nonzero()[:, 0]
        must = f"n must be at most {len(classes)} times the {len(rows)} rows of class {int(label)}"
        require(share <= len(rows), must, n)
        chosen.append(rows[torch.randperm(len(rows), generator=generator)[:share]])
    return torch.cat(chosen)


@torch.no_grad()
def features(body: SmallCNN, x: Images) -> Float[Tensor, "batch 32"]:
    """What the body makes of pictures, as in use; the body stays as it was."""
    training = body.training
    try:
        return body.eval().features(x)
    finally:
        body.train(training)


def linear_probe(
    body: SmallCNN, x: Images, y: Int[Tensor, " batch"], *, C: float = 1.0
) -> SmallCNN:
    """A copy of the network with a new last layer: logistic regression on its frozen features.

    Parameters
    ----------
    y
        Classes 0 to k - 1, each of them present.
    C
        Inverse of the penalty, as in scikit-learn. The features are standardized for it; their
        means and deviations are folded into the layer.
    """
    n_classes = len(y.unique())
    present = int(y.min()) == 0 and int(y.max()) == n_classes - 1
    require(present, "y must have all classes from 0 to its largest", y.unique().tolist())
    h = features(body, x).double().numpy()
    mean, deviation = h.mean(0), np.maximum(h.std(0), 1e-6)  # a dead unit stays at 0
    fit = LogisticRegression(C=C).fit((h - mean) / deviation, y.numpy())
    weight, bias = fit.coef_ / deviation, fit.intercept_ - (fit.coef_ / deviation) @ mean
    if n_classes == 2:  # one row of scores: half of it for each class
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    model = copy.deepcopy(body).eval()
    model.fc = nn.Linear(h.shape[1], n_classes)
    with torch.no_grad():
        model.fc.weight.copy_(torch.from_numpy(weight))
        model.fc.bias.copy_(torch.from_numpy(bias))
    return model


def fine_tune(
    body: SmallCNN,
    x: Images,
    y: Int[Tensor, " batch"],
    *,
    lr: float,
    steps: int,
    generator: torch.Generator,
    C: float = 1.0,
) -> SmallCNN:
    """A copy of the network, its last layer probed and then all of it trained."""
    model = linear_probe(body, x, y, C=C)
    train(model, x, y, lr=lr, steps=steps, generator=generator)
    return model.eval()


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
