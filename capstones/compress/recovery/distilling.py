"""After compression a little training: the student reads the text, the dense model says how.

Only floats are trained: what was quantized stays on its grid, what was pruned stays zero.

>>> from compress.models.testing import tiny_model
>>> opened, text = tiny_model(0)
>>> teacher = tiny_model(0)[0].model
>>> with torch.no_grad():
...     _ = opened.model.blocks[0].down_proj.weight.mul_(0.5)
>>> found = recover(opened.model, teacher, Recover(steps=8, lr=1e-2), text.ids, {}, set())
>>> found["loss_after"] < found["loss_before"]
True

Sources: Hinton, Vinyals & Dean, "Distilling the knowledge in a neural network" (2015); Hu et al.,
"LoRA" (2021). `week27.distillation` and `week20.lora` explain and check them.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from compress.pipeline.journal import Journal, NoJournal
from compress.pipeline.steps import Recover
from compress.recovery.resuming import keep, take_up
from week18.llama3 import Llama
from week19.folding import LAYERS
from week20.lora import LoRAConfig, LoRALinear, inject, merge, unload
from week27.distillation import soft_loss

CLIP = 1.0  # largest norm of a step's gradient


class MaskedLoRA(LoRALinear):
    """A correction that is masked as the weight is: what is merged is what was trained."""

    def merged_weight(self) -> Float[Tensor, "d_out d_in"]:
        """The sum, where weights are kept."""
        return super().merged_weight() * self.base.kept

    def forward(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d_out"]:
        """The layer's output."""
        return F.linear(x, self.base.weight if self.merged else self.merged_weight())


def recover(
    model: Llama,
    teacher: Llama,
    step: Recover,
    ids: Int[Tensor, "window seqlen"],
    masks: Mapping[str, Bool[Tensor, "out in"]],
    fixed: set[str],
    journal: Journal | NoJournal | None = None,
    key: str = "recover",
) -> dict[str, Any]:
    """Train in place; return the loss on the first batch before and after, and what was trained.

    Parameters
    ----------
    masks
        By layer: False for weights that stay zero.
    fixed
        Layers that are not trained: their numbers are codes.
    journal, key
        Where it is kept how far the training is, and as what; it goes on from there.
    """
    journal = journal or NoJournal()
    generator = torch.Generator().manual_seed(step.seed)
    first = ids[: step.batch_size]
    before = _loss(model, teacher, first, step).item()
    model.requires_grad_(False)
    floats = [
        f"blocks.{i}.{name}"
        for i in range(len(model.blocks))
        for name in LAYERS
        if f"blocks.{i}.{name}" not in fixed
    ]
    if step.method == "lora":
        _adapt(model, floats, masks, step, generator)
    else:
        _free(model, fixed)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.Adam(trained.values(), lr=step.lr)
    done = take_up(journal, key, step.steps, trained, optimizer, generator)
    with torch.enable_grad():
        for number in range(done, step.steps):
            for group in optimizer.param_groups:
                group["lr"] = step.lr * (1 - number / step.steps)
            rows = torch.randint(len(ids), (step.batch_size,), generator=generator)
            optimizer.zero_grad()
            _loss(model, teacher, ids[rows], step).backward()
            nn.utils.clip_grad_norm_(trained.values(), CLIP)
            optimizer.step()
            if step.method == "full":
                _mask(model, masks)
            keep(journal, key, number + 1, trained, optimizer, generator)
    if step.method == "lora":
        unload(merge(model))
    model.requires_grad_(False)
    after = _loss(model, teacher, first, step).item()
    n_trained = sum(p.numel() for p in trained.values())
    return {"loss_before": before, "loss_after": after, "n_trained": n_trained}


def _loss(model: Llama, teacher: Llama, ids: Tensor, step: Recover) -> Float[Tensor, ""]:
    with torch.no_grad():
        target = teacher(ids)
    return soft_loss(model(ids), target, temperature=step.temperature)


def _free(model: Llama, fixed: set[str]) -> None:
    """Train all parameters but those of fixed layers."""
    for name, p in model.named_parameters():
        p.requires_grad_(name.removesuffix(".weight") not in fixed)


def _adapt(
    model: Llama,
    floats: list[str],
    masks: Mapping[str, Tensor],
    step: Recover,
    generator: torch.Generator,
) -> None:
    for name in floats:
        layer = model.get_submodule(name)
        layer.kept = masks.get(name, torch.ones_like(layer.weight, dtype=torch.bool))
    config = LoRAConfig(r=step.r, alpha=2.0 * step.r, targets=tuple(floats))
    inject(model, config, generator, layer=MaskedLoRA)


@torch.no_grad()
def _mask(model: Llama, masks: Mapping[str, Tensor]) -> None:
    for name, mask in masks.items():
        model.get_submodule(name).weight.mul_(mask)
