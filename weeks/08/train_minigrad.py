r"""Train with our own framework: a perceptron and a small convolutional network in minigrad.

minigrad computes gradients; whether a *training run* is right is a stronger question, because
each step builds on all before. So both networks first train beside torch, from the same weights on
the same batches, and the losses must agree step by step,

$$ |L_t^{\text{minigrad}} - L_t^{\text{torch}}| \le 10^{-8} \text{ in float64}, \; t = 1, 2, …, $$

under SGD with momentum and under Adam, and so must the weights after the last step. Then both learn
MNIST's handwritten digits in float32.

>>> model = make_mlp(8, width=16, generator=np.random.default_rng(0))
>>> predict(model, Tensor(np.zeros((3, 1, 8, 8), np.float32))).shape
(3, 10)

    uv run weeks/08/train_minigrad.py

MNIST is not downloaded by itself: without its files the run takes scikit-learn's 8 × 8 digits.

Source: Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, *Gradient-based learning applied to document
recognition* (Proc. IEEE 86, 1998), sections II and III: the data and both kinds of network.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Integer, UInt8

from shared.require import require
from week08.minigrad import DataLoader, Tensor, TensorDataset, nn, no_grad, optim
from week08.minigrad import functional as F

# ---- models


def make_mlp(
    side: int, *, width: int = 256, classes: int = 10, generator: np.random.Generator
) -> nn.Sequential:
    """One hidden layer of ReLUs over the flattened image of `side` × `side` pixels."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(side * side, width, generator=generator),
        nn.ReLU(),
        nn.Linear(width, classes, generator=generator),
    )


def make_cnn(
    side: int, *, channels: int = 8, classes: int = 10, generator: np.random.Generator
) -> nn.Sequential:
    """Two convolutions, a pooling and a linear layer: each halving leaves a quarter of the work."""
    require(side >= 4, "side must be at least 4", side)
    left = ((side + 1) // 2) // 2  # after a stride of 2 and a pooling by 2
    return nn.Sequential(
        nn.Conv2d(1, channels, 5, stride=2, padding=2, generator=generator),
        nn.ReLU(),
        nn.Conv2d(channels, 2 * channels, 3, padding=1, generator=generator),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(2 * channels * left**2, classes, generator=generator),
    )


# ---- training


class Images(NamedTuple):
    """Images (n, 1, side, side), from 0 to 1, and their labels (n,)."""

    x: Tensor
    y: Tensor


def as_images(
    pixels: UInt8[np.ndarray, "n side side"],
    labels: Integer[np.ndarray, " labels"],
    dtype: type = np.float32,
) -> Images:
    """Scale bytes to [0, 1] and add the channel that a convolution wants."""
    n = len(pixels)
    require(n == len(labels), f"labels must be as many as images, {n}", len(labels))
    x = pixels[:, None].astype(dtype) / dtype(255)
    return Images(Tensor(x), Tensor(labels.astype(np.int64)))


def train(
    model: nn.Module,
    optimizer: optim.Optimizer,
    loader: DataLoader,
    *,
    epochs: int,
) -> list[float]:
    """Train in place, the learning rate falling linearly from the optimizer's to zero.

    Returns
    -------
    losses
        The loss of each step, nats.
    """
    require(epochs >= 1, "epochs must be at least 1", epochs)
    peak = [group["lr"] for group in optimizer.param_groups]
    total, losses = epochs * len(loader), []
    model.train()
    for _ in range(epochs):
        for x, y in loader:
            for group, lr in zip(optimizer.param_groups, peak, strict=True):
                group["lr"] = lr * (1 - len(losses) / total)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


@no_grad()
def predict(
    model: nn.Module, x: Float[Tensor, "n channels side side"], *, batch_size: int = 500
) -> Float[np.ndarray, "n classes"]:
    """Probabilities of the classes, in evaluation mode."""
    was_training = model.training
    model.eval()
    batches = [x[i : i + batch_size] for i in range(0, len(x), batch_size)]
    p = np.concatenate([F.softmax(model(batch), dim=1).numpy() for batch in batches])
    model.train(was_training)
    return p


def learn(
    make: Callable[..., nn.Module],
    images: Images,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
) -> tuple[nn.Module, list[float]]:
    """Train a fresh model with Adam; weights and batches come from one seed."""
    rng = np.random.default_rng(seed)
    model = make(images.x.shape[-1], generator=rng)
    loader = DataLoader(TensorDataset(*images), batch_size, shuffle=True, generator=rng)
    optimizer = optim.Adam(model.parameters(), lr=lr)
    return model, train(model, optimizer, loader, epochs=epochs)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
