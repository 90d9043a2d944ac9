r"""RealNVP: a network that can be run backward, and whose density is exact.

If $z = f(x)$ is invertible and $z \sim N(0, I)$, then

$$\ln p(x) = \ln N(f(x); 0, I) + \ln \Big| \det \frac{\partial f}{\partial x} \Big| .$$

A *coupling layer* leaves the masked part of x alone and lets it say how the rest is scaled and
shifted. Its Jacobian is triangular, whatever the network in it:

$$y = b \odot x + (1 - b) \odot \big(x \odot e^{s(b \odot x)} + t(b \odot x)\big), \qquad
  \ln |\det| = \sum_j (1 - b_j)\, s_j .$$

The next layer has the opposite mask, or half of x would never change. *ActNorm* scales channels by
one number each, so in a picture its log-determinant counts every place, $H W \sum_c \ln |a_c|$.
*Squeeze* turns 2 × 2 places into channels; after it half of the channels are done (*split*).

>>> flow = real_nvp(2, n_couplings=4, generator=torch.Generator().manual_seed(0))
>>> x = torch.tensor([[0.3, -1.2]])
>>> z, log_det = flow(x)
>>> bool(torch.allclose(flow.inverse(z), x, atol=1e-5))
True
>>> squeeze(torch.arange(4.0).reshape(1, 1, 2, 2)).ravel().tolist()  # one place, four channels
[0.0, 1.0, 2.0, 3.0]

    uv run weeks/22/realnvp.py

Source: Dinh, Sohl-Dickstein & Bengio, "Density estimation using Real NVP" (2017), equations 3 and
7 to 9, section 3.6; additive coupling: "NICE" (2015); ActNorm: Kingma & Dhariwal, "Glow" (2018).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared.arguments import checked
from shared.require import require


class Flow(nn.Module):
    """An invertible map: `forward` gives z and ln |det ∂z/∂x| of each row, `inverse` gives x."""

    def forward(self, x: Float[Tensor, "batch *shape"]) -> tuple[Tensor, Float[Tensor, "batch"]]:
        """From data to latents."""
        raise NotImplementedError

    def inverse(self, z: Float[Tensor, "batch *latent"]) -> Float[Tensor, "batch *shape"]:
        """From latents to data."""
        raise NotImplementedError

    def log_prob(self, x: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch"]:
        """Log density of each row, in nats: the base density at z and the change of volume."""
        z, log_det = self(x)
        return standard_normal(z) + log_det

    def sample(
        self, shape: tuple[int, ...], generator: torch.Generator | None = None
    ) -> Float[Tensor, "..."]:
        """Data from latents of this shape, drawn from N(0, I)."""
        return self.inverse(torch.randn(shape, generator=generator))


@checked
def standard_normal(z: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch"]:
    """Log density of N(0, I), summed over all but the first axis."""
    return -0.5 * (z**2 + math.log(2 * math.pi)).flatten(1).sum(1)


class Coupling(Flow):
    """Scale and shift what the mask hides, by a network that sees what it shows.

    Parameters
    ----------
    mask
        One row's shape, True where x is passed on as it is.
    network
        From x to twice as many numbers (twice the first axis of a row): scales and shifts.
    additive
        Shift only: the volume never changes.
    """

    def __init__(self, mask: Tensor, network: nn.Module, *, additive: bool = False):
        super().__init__()
        require(mask.dtype == torch.bool, "mask must be boolean", mask.dtype)
        self.register_buffer("mask", mask)
        self.network, self.additive = network, additive
        self.limit = nn.Parameter(torch.zeros(mask.shape))  # scales start at exp(0) = 1

    def _scale_and_shift(self, shown: Tensor) -> tuple[Tensor, Tensor]:
        s, t = self.network(shown).chunk(2, dim=1)
        s = torch.zeros_like(s) if self.additive else self.limit * s.tanh()  # bounded, learnably
        return s.masked_fill(self.mask, 0), t.masked_fill(self.mask, 0)

    def forward(self, x: Float[Tensor, "batch *shape"]) -> tuple[Tensor, Float[Tensor, "batch"]]:
        """Equations 7 and 8: where the mask is True, s and t are 0 and y = x."""
        s, t = self._scale_and_shift(x.where(self.mask, 0))
        return x * s.exp() + t, s.flatten(1).sum(1)

    def inverse(self, z: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *shape"]:
        """The shown part went through unchanged, so s and t can be computed again."""
        s, t = self._scale_and_shift(z.where(self.mask, 0))
        return (z - t) * (-s).exp()


class ActNorm(Flow):
    """(x + shift) · exp(log_scale) per channel; set by the first batch to mean 0, variance 1.

    That it was set is a buffer, so that a reloaded model is not set again.
    """

    def __init__(self, n_channels: int):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(n_channels))
        self.log_scale = nn.Parameter(torch.zeros(n_channels))
        self.register_buffer("ready", torch.tensor(False))

    def _per_channel(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1, *[1] * (x.ndim - 2))
        return self.shift.reshape(shape), self.log_scale.reshape(shape)

    @torch.no_grad()
    def set_from(self, x: Float[Tensor, "batch channels *places"]) -> None:
        """Let this batch have mean 0 and variance 1 in every channel."""
        rows = x.transpose(0, 1).flatten(1)
        self.shift.copy_(-rows.mean(1))
        self.log_scale.copy_(-rows.std(1, correction=0).clamp(min=1e-6).log())
        self.ready.fill_(True)

    def forward(self, x: Float[Tensor, "batch *shape"]) -> tuple[Tensor, Float[Tensor, "batch"]]:
        """Every place of a channel is scaled, so each counts in the log-determinant."""
        if self.training and not self.ready:
            self.set_from(x)
        shift, log_scale = self._per_channel(x)
        places = x[0, 0].numel()
        return (x + shift) * log_scale.exp(), (places * self.log_scale.sum()).expand(len(x))

    def inverse(self, z: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *shape"]:
        """Undo the scale, then the shift."""
        shift, log_scale = self._per_channel(z)
        return z * (-log_scale).exp() - shift


class Linear(Flow):
    """z = A x + b with a full matrix: the flow that reaches the Gaussian of greatest likelihood."""

    def __init__(self, n_features: int):
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(n_features))
        self.bias = nn.Parameter(torch.zeros(n_features))

    def forward(self, x: Float[Tensor, "batch d"]) -> tuple[Tensor, Float[Tensor, "batch"]]:
        """One determinant for all rows."""
        return x @ self.matrix.T + self.bias, self.matrix.slogdet().logabsdet.expand(len(x))

    def inverse(self, z: Float[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
        """Solve, never invert."""
        return torch.linalg.solve(self.matrix, (z - self.bias).T).T


class Chain(Flow):
    """Flows one after the other: their log-determinants add up."""

    def __init__(self, *flows: Flow):
        super().__init__()
        self.flows = nn.ModuleList(flows)

    def forward(self, x: Float[Tensor, "batch *shape"]) -> tuple[Tensor, Float[Tensor, "batch"]]:
        """First to last."""
        total = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for flow in self.flows:
            x, log_det = flow(x)
            total = total + log_det
        return x, total

    def inverse(self, z: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch *shape"]:
        """Last to first."""
        for flow in reversed(self.flows):
            z = flow.inverse(z)
        return z


# ---- pictures


@checked
def squeeze(x: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c4 h2 w2"]:
    """2 × 2 places become 4 channels; only moves numbers, so it changes no volume."""
    even = x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0
    require(even, "x must have an even height and width", *x.shape[2:])
    return nn.functional.pixel_unshuffle(x, 2)


@checked
def unsqueeze(y: Float[Tensor, "batch c4 h2 w2"]) -> Float[Tensor, "batch c h w"]:
    """The inverse of `squeeze`."""
    return nn.functional.pixel_shuffle(y, 2)


class MultiScale(Flow):
    """Couplings on the whole picture, squeeze, half of the channels is done; go on with the rest.

    Parameters
    ----------
    before
        On (c, h, w).
    after
        On (4c, h/2, w/2), between squeeze and split.
    rest
        On (2c, h/2, w/2), the half of the channels that is not done.
    """

    def __init__(self, before: Flow, after: Flow, rest: Flow):
        super().__init__()
        self.before, self.after, self.rest = before, after, rest

    def forward(self, x: Float[Tensor, "batch c h w"]) -> tuple[Tensor, Float[Tensor, "batch"]]:
        """Latents come in the shape of the squeezed picture: the rest, then what is done."""
        x, first = self.before(x)
        y, second = self.after(squeeze(x))
        goes_on, done = y.chunk(2, dim=1)
        z, third = self.rest(goes_on)
        return torch.cat([z, done], dim=1), first + second + third

    def inverse(self, z: Float[Tensor, "batch c4 h2 w2"]) -> Float[Tensor, "batch c h w"]:
        """The other way round."""
        z, done = z.chunk(2, dim=1)
        y = torch.cat([self.rest.inverse(z), done], dim=1)
        return self.before.inverse(unsqueeze(self.after.inverse(y)))


# ---- models


def _last_at_zero(network: nn.Sequential, generator: torch.Generator | None) -> nn.Sequential:
    """Random layers, the last one 0: the coupling starts as the identity."""
    for parameter in network.parameters():
        bound = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.0
        nn.init.uniform_(parameter, -bound, bound, generator=generator)
    for parameter in network[-1].parameters():
        nn.init.normal_(parameter, 0, 0.01, generator=generator)
    return network


def real_nvp(
    n_features: int,
    *,
    n_couplings: int = 8,
    width: int = 64,
    additive: bool = False,
    alternate: bool = True,
    generator: torch.Generator | None = None,
) -> Chain:
    """Couplings for rows of numbers: every other number is shown, then the others.

    Without `alternate` all masks are the same: what the first one shows is never changed.
    """
    require(n_features >= 2, "n_features must be at least 2", n_features)
    even, flows = torch.arange(n_features) % 2 == 0, []
    for i in range(n_couplings):
        sizes = (n_features, width), (width, width), (width, 2 * n_features)
        first, second, third = (nn.Linear(*size) for size in sizes)
        network = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
        mask = ~even if alternate and i % 2 else even
        flows += [Coupling(mask, _last_at_zero(network, generator), additive=additive)]
    return Chain(*flows)


def picture_flow(
    side: int, *, width: int = 32, generator: torch.Generator | None = None
) -> MultiScale:
    """One channel, side × side: checkerboards, squeeze, channels, split, checkerboards again."""

    def couplings(c: int, side: int, masks: list[Tensor]) -> Chain:
        flows: list[Flow] = []
        for mask in masks:
            sizes = (c, width, 3), (width, width, 1), (width, 2 * c, 3)
            first, second, third = (nn.Conv2d(*size, padding="same") for size in sizes)
            network = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
            flows += [ActNorm(c), Coupling(mask, _last_at_zero(network, generator))]
        return Chain(*flows)

    def board(c: int, side: int) -> Tensor:
        return (torch.arange(side)[:, None] + torch.arange(side) + torch.zeros(c, 1, 1)) % 2 == 0

    half = (torch.arange(4) < 2)[:, None, None].expand(4, side // 2, side // 2)
    one, two = board(1, side), board(2, side // 2)
    before = couplings(1, side, [one, ~one, one, ~one])
    after = couplings(4, side // 2, [half, ~half, half, ~half])
    return MultiScale(before, after, couplings(2, side // 2, [two, ~two, two, ~two]))


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
