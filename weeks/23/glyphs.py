"""Captioned pictures with known answers: a colored glyph on a ground of another color.

>>> caption(Scene(0, 2, 1))
'a red plus on white'
>>> caption(Scene(0, 2, 1), 1)
'on white a red plus'
>>> decoded(encoded([caption(Scene(0, 2, 1)), ""]))
['a red plus on white', '']
>>> scenes, held_out = combinations(torch.Generator().manual_seed(0))
>>> len(scenes), len(held_out), render(scenes, torch.Generator().manual_seed(1)).shape
(52, 12, torch.Size([52, 3, 16, 16]))

Of 64 combinations 12 are held out.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

COLORS = {"red": (1.0, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0)}
SHAPES = {
    "square": "###### #....# #....# #....# #....# ######",
    "cross": "#....# .#..#. ..##.. ..##.. .#..#. #....#",
    "plus": "..##.. ..##.. ###### ###### ..##.. ..##..",
    "disc": ".####. ###### ###### ###### ###### .####.",
}
GROUNDS = {
    "black": (0.0, 0, 0),
    "white": (1, 1, 1),
    "gray": (0.5, 0.5, 0.5),
    "purple": (0.5, 0, 0.5),
}
START, END = 0, 1  # ends fill up, too, as in CLIP
WORDS = ("<start>", "<end>", "a", "on", *COLORS, *SHAPES, *GROUNDS)
CONTEXT = 7  # five words, start and end


class Scene(NamedTuple):
    """What is to be seen: numbers of the glyph's color, its shape, and the ground's color."""

    color: int
    shape: int
    ground: int


def caption(scene: Scene, template: int = 0) -> str:
    """The scene in words, in one of two orders."""
    what = f"a {list(COLORS)[scene.color]} {list(SHAPES)[scene.shape]}"
    where = f"on {list(GROUNDS)[scene.ground]}"
    return f"{where} {what}" if template else f"{what} {where}"


def encoded(captions: Sequence[str]) -> Int[Tensor, "batch 7"]:
    """Ids of captions, an empty one among them if you like."""
    ids = [[START, *(WORDS.index(word) for word in text.split())] for text in captions]
    return torch.tensor([row + [END] * (CONTEXT - len(row)) for row in ids])


def decoded(ids: Int[Tensor, "batch 7"]) -> list[str]:
    """The captions again."""
    return [" ".join(WORDS[i] for i in row if i > END) for row in ids.tolist()]


def combinations(generator: torch.Generator, n_held_out: int = 12) -> tuple[list, list]:
    """Scenes to learn from, and scenes never seen, drawn without replacement."""
    scenes = [Scene(*numbers) for numbers in itertools.product(range(4), repeat=3)]
    order = torch.randperm(len(scenes), generator=generator).tolist()
    return [scenes[i] for i in order[n_held_out:]], [scenes[i] for i in order[:n_held_out]]


def render(scenes: Sequence[Scene], generator: torch.Generator) -> Float[Tensor, "batch 3 16 16"]:
    """Pictures in [-1, 1]; the glyph of 12×12 pixels moves by up to two, and the light varies."""
    shapes = [[[c == "#" for c in row] for row in shape.split()] for shape in SHAPES.values()]
    glyphs = torch.tensor(shapes).repeat_interleave(2, 1).repeat_interleave(2, 2)
    colors, grounds = (torch.tensor(list(kind.values())) for kind in (COLORS, GROUNDS))
    shifts = torch.randint(5, (len(scenes), 2), generator=generator).tolist()
    light = 0.8 + 0.2 * torch.rand(len(scenes), 1, 1, 1, generator=generator)
    images = grounds[[scene.ground for scene in scenes]][:, :, None, None].repeat(1, 1, 16, 16)
    for image, scene, (y, x) in zip(images, scenes, shifts, strict=True):
        image[:, y : y + 12, x : x + 12][:, glyphs[scene.shape]] = colors[scene.color, :, None]
    return 2 * light * images - 1


class Reader(nn.Module):
    """A small convolutional net that tells color, shape and ground: three times four logits."""

    def __init__(self, generator: torch.Generator):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 12),
        )
        for p in self.parameters():
            std = p[0].numel() ** -0.5 if p.ndim > 1 else 0.0
            nn.init.normal_(p, std=std, generator=generator)

    def forward(self, images: Float[Tensor, "batch 3 16 16"]) -> Float[Tensor, "batch 3 4"]:
        """Logits."""
        return self.layers(images).unflatten(1, (3, 4))

    def learn(self, scenes: Sequence[Scene], steps: int, generator: torch.Generator) -> "Reader":
        """Train on fresh pictures, with noise so that imperfect ones are read too."""
        optimizer = torch.optim.Adam(self.parameters(), lr=3e-3, fused=True)
        for _ in range(steps):
            rows = torch.randint(len(scenes), (64,), generator=generator).tolist()
            batch = [scenes[i] for i in rows]
            images = render(batch, generator)
            images += 0.2 * torch.randn(images.shape, generator=generator)
            optimizer.zero_grad()
            F.cross_entropy(self(images).flatten(0, 1), torch.tensor(batch).flatten()).backward()
            optimizer.step()
        return self

    @torch.no_grad()
    def right(
        self, images: Float[Tensor, "batch 3 16 16"], scenes: Sequence[Scene]
    ) -> Float[Tensor, "batch 3"]:
        """Whether color, shape and ground of each picture are those of the scene."""
        return (self(images).argmax(-1) == torch.tensor(list(scenes))).float()
