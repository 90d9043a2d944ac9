r"""SimCLR, with small networks: two views of a picture shall be near, all others far.

Each of N pictures is augmented twice. An encoder makes features h of each view, a projection head
makes z of them, and each view must be told its partner among the 2N - 1 others by the cosine,

$$ \ell_i = -\log \frac{\exp(z_i \cdot z_{p(i)} / \tau)}
                       {\sum_{k \ne i} \exp(z_i \cdot z_k / \tau)}, \qquad \|z_i\| = 1 . $$

That is NT-Xent, a cross-entropy whose diagonal is masked: a view is no negative of itself. What is
kept is the encoder; the head, whose output must be blind to the augmentations, is thrown away.

>>> e = torch.eye(2)
>>> round(nt_xent(e, e, temperature=0.5).item(), 4)  # two orthogonal pairs
0.2395
>>> same = torch.ones(4, 3)
>>> torch.isclose(nt_xent(same, same), torch.tensor(7.0).log())  # all alike: log(2N - 1)
tensor(True)

    uv run weeks/25/simclr.py

Sources: Chen, Kornblith, Norouzi & Hinton, "A simple framework for contrastive learning of visual
representations" (2020), equation 1; Wang & Isola, "Understanding contrastive representation
learning through alignment and uniformity on the hypersphere" (2020), section 4.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.arguments import checked
from shared.require import require
from week04.logistic_regression import LogisticRegression
from week09.optimizers import AdamW
from week09.schedules import one_cycle
from week10.cnn_ablations import Recipe, SmallCNN

__all__ = [
    "Augmentation",
    "SimCLR",
    "alignment",
    "linear_probe",
    "nt_xent",
    "nt_xent_loops",
    "row_losses",
    "train",
    "transform",
    "uniformity",
]

Images = Float[Tensor, "n channels height width"]
Loss = Callable[[Tensor, Tensor], Tensor]

# ---- losses


def nt_xent_loops(
    a: Float[Tensor, "n dim"], b: Float[Tensor, "n dim"], *, temperature: float = 0.5
) -> Float[Tensor, ""]:
    """The definition, view by view: slow, and what `nt_xent` is tested against."""
    z, n = F.normalize(torch.cat([a, b]), dim=1), len(a)
    losses = []
    for i in range(2 * n):
        others = torch.stack([z[i] @ z[k] / temperature for k in range(2 * n) if k != i])
        losses.append(others.logsumexp(0) - z[i] @ z[(i + n) % (2 * n)] / temperature)
    return torch.stack(losses).mean()


@checked
def row_losses(
    z: Float[Tensor, "rows dim"],
    everything: Float[Tensor, "views dim"],
    own: Int[Tensor, " rows"],
    partner: Int[Tensor, " rows"],
    *,
    temperature: float,
) -> Float[Tensor, " rows"]:
    """The loss of some views among all of them, each of which knows itself and its partner.

    One process has all rows. Of several, each has its own and gathers the others' views; the
    gather must carry gradients back, or views are pulled as queries and never as keys.
    """
    require(temperature > 0, "temperature must be positive", temperature)
    scores = F.normalize(z, dim=1) @ F.normalize(everything, dim=1).T / temperature
    right = scores.gather(1, partner[:, None])[:, 0]
    return scores.scatter(1, own[:, None], -math.inf).logsumexp(1) - right


@checked
def nt_xent(
    a: Float[Tensor, "n dim"], b: Float[Tensor, "n dim"], *, temperature: float = 0.5
) -> Float[Tensor, ""]:
    """Mean loss of all 2n views, where a[i] and b[i] are of one picture.

    References
    ----------
    Chen et al. (2020), equation 1 and algorithm 1.
    """
    require(len(a) >= 1, "a must have at least 1 row", len(a))
    z, own = torch.cat([a, b]), torch.arange(2 * len(a), device=a.device)
    return row_losses(z, z, own, own.roll(len(a)), temperature=temperature).mean()


@checked
def alignment(a: Float[Tensor, "n dim"], b: Float[Tensor, "n dim"]) -> Float[Tensor, ""]:
    """Mean squared distance of partners on the sphere, 0 at best."""
    return (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1).mean()


@checked
def uniformity(z: Float[Tensor, "n dim"], *, t: float = 2.0) -> Float[Tensor, ""]:
    """Log of the mean of exp(-t d²) over pairs of rows: 0 if all are alike, low if spread."""
    require(len(z) >= 2, "z must have at least 2 rows", len(z))
    z = F.normalize(z, dim=1)
    i, j = torch.triu_indices(len(z), len(z), offset=1)
    squares = (z[i] - z[j]).square().sum(1)
    return (-t * squares).logsumexp(0) - math.log(len(i))


# ---- two views of a picture


@checked
def transform(
    x: Images,
    side: Float[Tensor, " n"],
    center: Float[Tensor, "n 2"],
    degrees: Float[Tensor, " n"],
    gain: Float[Tensor, " n"],
) -> Images:
    """A window of each picture, turned and made to fill the frame, brighter or darker.

    Parameters
    ----------
    side
        Of the window, as a share of the picture's.
    center
        Of the window, right and down of the picture's middle, in half sides of the picture.
    degrees
        By how much the content is turned, counterclockwise.
    gain
        Factor of all pixels.
    """
    cos, sin = torch.deg2rad(degrees).cos() * side, torch.deg2rad(degrees).sin() * side
    rows = [torch.stack([cos, -sin, center[:, 0]], 1), torch.stack([sin, cos, center[:, 1]], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False) * gain[:, None, None, None]


@dataclass(frozen=True)
class Augmentation:
    """What a picture may become; called with pictures and a generator it gives one view of each.

    Attributes
    ----------
    smallest
        Least side of the window that is cut out, as a share of the picture's.
    turns
        Content is turned by a multiple of 360° / turns: 4 are quarter turns, 1 is none.
    contrast
        Gains lie between 1 - contrast and 1 + contrast.
    """

    smallest: float = 0.7
    turns: int = 4
    contrast: float = 0.5

    def __post_init__(self):
        require(0 < self.smallest <= 1, "smallest must be in (0, 1]", self.smallest)
        require(self.turns >= 1, "turns must be at least 1", self.turns)
        require(0 <= self.contrast < 1, "contrast must be in [0, 1)", self.contrast)

    def __call__(self, x: Images, generator: torch.Generator) -> Images:
        """One view of each picture."""
        uniform = torch.rand(4, len(x), generator=generator)
        side = 1 - (1 - self.smallest) * uniform[0]
        center = (2 * uniform[1:3] - 1) * (1 - side)  # the window stays inside
        turn = torch.randint(self.turns, (len(x),), generator=generator)
        gain = 1 + self.contrast * (2 * uniform[3] - 1)
        return transform(x, side, center.T, turn * 360.0 / self.turns, gain)


# ---- the networks and their training


class SimCLR(nn.Module):
    """A small convolutional encoder of gray pictures and a head: h for use, z for the loss.

    Parameters
    ----------
    head
        "mlp", two layers; "linear", one; or "none", where z is h.
    dim
        Of z, where there is a head.
    """

    def __init__(self, head: str = "mlp", *, dim: int = 32, generator: torch.Generator):
        super().__init__()
        require(head in ("none", "linear", "mlp"), 'head must be "none", "linear" or "mlp"', head)
        self.encoder = SmallCNN(Recipe(), generator=generator)
        del self.encoder.fc  # it has no classes
        width = 32
        layers = {
            "none": [],
            "linear": [nn.Linear(width, dim)],
            "mlp": [nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim)],
        }
        self.head = nn.Sequential(*layers[head])
        for p in self.head.parameters():
            if p.ndim > 1:
                nn.init.normal_(p, std=(2 / p.shape[1]) ** 0.5, generator=generator)
            else:
                nn.init.zeros_(p)

    def forward(self, x: Images) -> tuple[Float[Tensor, "n features"], Float[Tensor, "n dim"]]:
        """Features and their projections."""
        h = self.encoder.features(x)
        return h, self.head(h)

    @torch.no_grad()
    def frozen(self, x: Images) -> tuple[Float[Tensor, "n features"], Float[Tensor, "n dim"]]:
        """The same with the statistics of training, and without gradients."""
        return self.eval()(x)


def train(
    model: SimCLR,
    x: Images,
    augment: Callable[[Tensor, torch.Generator], Tensor],
    *,
    lr: float,
    steps: int,
    generator: torch.Generator,
    batch_size: int = 64,
    loss_of: Loss = nt_xent,
) -> Float[Tensor, " steps"]:
    """AdamW on random batches without labels, one cycle of the learning rate; the losses.

    Both views go through the network together, so that batch normalization tells none from the
    other.
    """
    optimizer, losses = AdamW(model.parameters(), lr=lr), []
    model.train()
    for step in range(steps):
        optimizer.lr = lr * one_cycle(step, steps=max(steps, 4))
        batch = x[torch.randint(len(x), (batch_size,), generator=generator)]
        views = torch.cat([augment(batch, generator), augment(batch, generator)])
        loss = loss_of(*model(views)[1].chunk(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


@checked
def linear_probe(
    h: Float[Tensor, "n dim"],
    y: Int[Tensor, " n"],
    h_test: Float[Tensor, "m dim"],
    y_test: Int[Tensor, " m"],
) -> float:
    """Percent right of logistic regression on standardized features."""
    mean, deviation = h.mean(0), h.std(0).clamp(min=1e-6)  # a dead unit stays at 0
    x, x_test = (((part - mean) / deviation).double().numpy() for part in (h, h_test))
    fit = LogisticRegression(C=0.1, tol=1e-6).fit(x, y.numpy())
    return 100 * float((fit.predict(x_test) == y_test.numpy()).mean())


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
