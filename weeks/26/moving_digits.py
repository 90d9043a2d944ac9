r"""Videos small enough for two cores: one digit of 8×8 pixels that moves over a torus of 12×12.

Eight frames, one pixel per frame, to the left, right, up or down; what leaves at one edge comes
back at the other. So each frame alone is a digit at a random place, and says nothing about where it
goes. A caption names the digit and the direction. Every fourth combination of the two can be kept
out of training.

>>> g = torch.Generator().manual_seed(0)
>>> data = clips(split(0).x, split(0).y, 3, g)
>>> data.video.shape, caption(3, 0)
(torch.Size([3, 8, 12, 12]), 'a three moves left')
>>> bool((locate(data.video, data.sprite) == data.path).all())  # by matched filter
True

The digits are those of week 23, scaled to -1 … 1. Moving MNIST is the model: Srivastava et al.,
"Unsupervised learning of video representations using LSTMs" (2015), section 3.1. `uv run
weeks/26/temporal_attention.py` and `uv run weeks/26/mochi.py` learn from them.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared.arguments import checked
from shared.require import require
from week23.digit_judge import split

__all__ = [
    "CONTEXT",
    "DIRECTIONS",
    "FRAMES",
    "SIZE",
    "WORDS",
    "Clips",
    "Reader",
    "caption",
    "clips",
    "encoded",
    "held_out",
    "locate",
    "path_error",
    "render",
    "split",
    "strip",
]

SIZE, FRAMES, CONTEXT = 12, 8, 6
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
WORDS = ("", "a", "moves", *DIGITS, *DIRECTIONS)  # the first fills up


class Clips(NamedTuple):
    """Videos, and what is known of them.

    Attributes
    ----------
    sprite
        The digit itself, 8×8.
    path
        Row and column of its upper left corner, frame by frame.
    """

    video: Float[Tensor, "n frames 12 12"]
    sprite: Float[Tensor, "n 8 8"]
    path: Int[Tensor, "n frames 2"]
    digit: Int[Tensor, " n"]
    direction: Int[Tensor, " n"]

    def rows(self, chosen: Int[Tensor, " m"] | Bool[Tensor, " n"]) -> "Clips":
        """Some of them."""
        return Clips(*(part[chosen] for part in self))


@checked
def render(
    sprite: Float[Tensor, "n 8 8"], path: Int[Tensor, "n frames 2"]
) -> Float[Tensor, "n frames 12 12"]:
    """The sprite at each place of its path; around it is -1."""
    require(not len(sprite) or sprite.abs().max() <= 1, "sprite must lie in [-1, 1]")
    canvas = F.pad(sprite, (0, SIZE - 8, 0, SIZE - 8), value=-1.0)
    grid = torch.arange(SIZE)
    row, column = ((grid - path[:, :, axis, None]) % SIZE for axis in (0, 1))
    rows = torch.arange(len(sprite))[:, None, None, None]
    return canvas[rows, row[:, :, :, None], column[:, :, None, :]]


@checked
def clips(
    images: Float[Tensor, "digits 64"],
    labels: Int[Tensor, " digits"],
    n: int,
    generator: torch.Generator,
    *,
    frames: int = FRAMES,
    speed: int = 1,
    start: tuple[int, int] | None = None,
    known_only: bool = False,
) -> Clips:
    """Fresh videos: a digit, a direction and a start for each.

    Parameters
    ----------
    speed
        Pixels per frame; places are whole steps.
    start
        Where all of them begin; anywhere if not given.
    known_only
        Leave out the combinations that are held out.
    """
    require(n >= 1 and frames >= 1, "n and frames must be at least 1", n, frames)
    require(0 < speed <= SIZE and SIZE % speed == 0, f"speed must divide {SIZE}", speed)
    which = torch.randint(len(images), (n,), generator=generator)
    direction = torch.randint(4, (n,), generator=generator)
    if known_only:  # move on to the next direction, of which only one is held out
        direction = (direction + held_out(labels[which], direction).long()) % 4
    first = speed * torch.randint(SIZE // speed, (n, 1, 2), generator=generator)
    if start is not None:
        first = torch.tensor(start).expand(n, 1, 2)
    step = torch.tensor(list(DIRECTIONS.values()))[direction][:, None]
    path = (first + speed * step * torch.arange(frames)[:, None]) % SIZE
    sprite = images[which].unflatten(1, (8, 8))
    return Clips(render(sprite, path), sprite, path, labels[which], direction)


def held_out(digit: Int[Tensor, " n"], direction: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Whether a combination is kept out of training: one direction for each digit."""
    return digit % 4 == direction


def caption(digit: int, direction: int) -> str:
    """What a video shows."""
    return f"a {DIGITS[digit]} moves {list(DIRECTIONS)[direction]}"


def encoded(captions: list[str]) -> Int[Tensor, "n 6"]:
    """Ids of the words, filled up with 0; the empty caption is all zeros."""
    words = [text.split() for text in captions]
    unknown = {word for text in words for word in text} - set(WORDS)
    require(not unknown, f"captions must have words of {' '.join(WORDS[1:])}", *sorted(unknown))
    longest = max((len(text) for text in words), default=0)
    require(longest <= CONTEXT, f"captions must have at most {CONTEXT} words", longest)
    ids = [[WORDS.index(w) for w in text] + [0] * (CONTEXT - len(text)) for text in words]
    return torch.tensor(ids).view(len(words), CONTEXT)


def strip(video: Float[Tensor, "frames height width"]) -> Float[Tensor, "height row"]:
    """The frames side by side with a gray line between them, from 0 to 1."""
    gray = (video.clamp(-1, 1) + 1) / 2
    return F.pad(gray, (1, 1), value=0.5).transpose(0, 1).flatten(1)


# ---- judges


@checked
def locate(
    video: Float[Tensor, "n frames 12 12"], sprite: Float[Tensor, "n 8 8"]
) -> Int[Tensor, "n frames 2"]:
    """Where each frame looks most like the sprite: the maximum of their circular correlation."""
    still = render(sprite, torch.zeros(len(sprite), 1, 2, dtype=torch.long))
    product = torch.fft.rfft2(video) * torch.fft.rfft2(still - still.mean((-2, -1), True)).conj()
    flat = torch.fft.irfft2(product, s=(SIZE, SIZE)).flatten(-2).argmax(-1)
    return torch.stack([flat // SIZE, flat % SIZE], dim=-1)


@checked
def path_error(
    found: Int[Tensor, "n frames 2"], path: Int[Tensor, "n frames 2"]
) -> Float[Tensor, " n"]:
    """Mean distance in pixels between two paths, the short way around the torus."""
    away = (found - path) % SIZE
    return torch.minimum(away, SIZE - away).float().norm(dim=-1).mean(-1)


class Reader(nn.Module):
    """Tells digit and direction of a clip, wherever on the torus it is: convolutions that wrap.

    For the direction it sees two frames at a time.
    """

    def __init__(self, generator: torch.Generator):
        super().__init__()
        wrap = {"padding_mode": "circular"}
        self.shape = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2, **wrap),
            nn.ReLU(),
            nn.Conv2d(16, 48, 5, stride=2, padding=2, **wrap),
            nn.ReLU(),
        )
        self.digit = nn.Linear(48, 10)
        self.pairs = nn.Sequential(nn.Conv2d(2, 16, 9, padding=4, **wrap), nn.ReLU())
        self.direction = nn.Linear(16, 4)
        for p in self.parameters():
            std = (2 / p[0].numel()) ** 0.5 if p.ndim > 1 else 0.0
            nn.init.normal_(p, std=std, generator=generator)

    def forward(
        self, video: Float[Tensor, "n frames 12 12"]
    ) -> tuple[Float[Tensor, "n 10"], Float[Tensor, "n 4"]]:
        """Logits of the digit, from the first and the last frame, and of the direction."""
        n, frames = video.shape[:2]
        ends = video[:, [0, frames // 2, frames - 1]].flatten(0, 1)[:, None]
        shape = self.shape(ends).amax((-2, -1)).unflatten(0, (n, 3)).mean(1)
        pairs = torch.stack([video[:, :-1], video[:, 1:]], dim=2).flatten(0, 1)
        motion = self.pairs(pairs).mean((-2, -1)).unflatten(0, (n, frames - 1)).mean(1)
        return self.digit(shape), self.direction(motion)

    @torch.no_grad()
    def right(
        self,
        video: Float[Tensor, "n frames 12 12"],
        digit: Int[Tensor, " n"],
        direction: Int[Tensor, " n"],
    ) -> Bool[Tensor, "n 2"]:
        """Whether digit and direction are those that are named."""
        found = [logits.argmax(-1) for logits in self(video)]
        return torch.stack([found[0] == digit, found[1] == direction], dim=1)
