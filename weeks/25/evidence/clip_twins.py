"""CLIP and SigLIP beside transformers', and what is known of their losses without a model."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from shared.study import Run
from week25 import siglip
from week25.clip import Clip, ImageTower, TextTower, contrastive_loss, sigmoid_loss
from week25.evidence.same_steps import side_by_side
from week25.vision_twins import clip_twin, randomize, siglip_twin


def check_clip(run: Run) -> None:
    """The whole of CLIP with copied weights; captions end early, and twice."""
    g = run.generator()
    image, text = ImageTower(16, 4, 24, 2, 2, 20), TextTower(40, 9, 32, 4, 2, 20)
    ours = randomize(Clip(image, text, g))
    ours.log_scale.data.fill_(1.5)
    theirs = clip_twin(ours, 16)
    images, tokens = torch.randn(6, 3, 16, 16, generator=g), texts(g)
    tokens[0, 3] = 1

    def their_way(model):
        out = model(input_ids=tokens, pixel_values=images, return_loss=True)
        return out.logits_per_image, out.loss

    def our_way(model):
        logits = model(images, tokens)
        return logits, contrastive_loss(logits)

    side_by_side(run, "CLIPModel", ours, theirs, our_way, their_way)


def texts(g: torch.Generator) -> Int[Tensor, "6 9"]:
    """Six texts of random words that end at position 5."""
    tokens = torch.randint(3, 40, (6, 9), generator=g)
    tokens[:, 5] = 1
    return tokens


def check_siglip(run: Run) -> None:
    """SigLIP with its towers, pool, scale and bias."""
    g = run.generator(1)
    sizes = {"d_model": 24, "n_heads": 2, "n_layers": 2, "d_ff": 40}
    image = siglip.ImageHead(siglip.VisionTower(side=16, patch=4, **sizes), 2, 40)
    text = siglip.TextTower(vocab_size=40, context=9, **sizes)
    ours = randomize(Clip(image, text, g, bias=-10.0))
    theirs = siglip_twin(ours)
    images, tokens = torch.randn(6, 3, 16, 16, generator=g), texts(g)

    def their_way(model):
        out = model(input_ids=tokens, pixel_values=images, return_loss=True)
        return out.logits_per_image, out.loss

    def our_way(model):
        logits = model(images, tokens)
        return logits, sigmoid_loss(logits)

    side_by_side(run, "SiglipModel", ours, theirs, our_way, their_way)


def check_losses(run: Run) -> None:
    """What is known of the losses without any model."""
    exact = run.against("ln n", kind="theorem", atol=1e-6, why="float32 rounding")
    losses = [contrastive_loss(torch.zeros(n, n)) for n in (1, 2, 8, 64)]
    exact("contrastive loss of equal logits", losses, [math.log(n) for n in (1, 2, 8, 64)])
    logits = torch.randn(12, 12, generator=run.generator(2))
    signs = 2 * torch.eye(12) - 1
    parts = [  # as four devices would, each with three pictures and all captions
        -F.logsigmoid(signs[i : i + 3] * logits[i : i + 3]).sum() / 12 for i in range(0, 12, 3)
    ]
    same = {"against": "its parts, device by device", "kind": "consistency"}
    run.check(
        "sigmoid loss",
        sigmoid_loss(logits),
        sum(parts),
        why="sums in another order",
        atol=1e-5,
        **same,
    )
