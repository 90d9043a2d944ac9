"""The loss of trl's GRPO trainer, which is PPO's clipped loss with a penalty, on given numbers."""

import torch
from torch import Tensor

from week21.policy_gradients import clipped_policy_loss, kl_estimate, masked_mean


def losses_and_gradients(generator: torch.Generator) -> tuple[dict, dict]:
    """Loss and gradient by the weight of the penalty: ours and trl's."""
    options = {"generator": generator, "dtype": torch.float64}
    now, old, reference = (-torch.rand(3, 6, 9, **options) * 2).unbind()
    advantages = torch.randn(6, 9, **options)
    mask = torch.arange(9) < torch.tensor([9, 1, 4, 7, 2, 5])[:, None]
    ours, theirs = {}, {}
    for beta in (0.0, 0.1):
        x = now.clone().requires_grad_()
        penalty = beta * masked_mean(kl_estimate(x, reference), mask)
        loss = clipped_policy_loss(x, old, advantages, clip=0.2, mask=mask) + penalty
        ours[beta] = loss, *torch.autograd.grad(loss, x)
        x = now.clone().requires_grad_()
        loss = trl_loss(x, old, reference, advantages, mask, beta)
        theirs[beta] = loss, *torch.autograd.grad(loss, x)
    return ours, theirs


def trl_loss(
    now: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, mask: Tensor, beta: float
) -> Tensor:
    """Trl's own method, on a stand-in for the trainer whose model returns `now`."""
    from collections import defaultdict
    from types import SimpleNamespace

    from trl.trainer.grpo_trainer import GRPOTrainer

    same = SimpleNamespace(reduce=lambda x, **_: x, gather=lambda x: x)
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *_, **__: (now, torch.zeros_like(now), None),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _entropy_bonus_enabled=False,
        accelerator=same,
        args=SimpleNamespace(use_bias_correction_kl=False, delta=None),
        aux_loss_enabled=False,
        beta=beta,
        current_gradient_accumulation_steps=1,
        epsilon_high=0.2,
        epsilon_low=0.2,
        importance_sampling_level="token",
        loss_type="bnpo",
        model=SimpleNamespace(training=True),
        off_policy_mask_threshold=None,
        top_entropy_quantile=1.0,
        use_vllm=False,
    )
    ids = torch.zeros_like(mask, dtype=torch.long)
    inputs = {"prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1] + 1, "completion_ids": ids}
    inputs |= {"completion_mask": mask.to(now.dtype), "advantages": advantages}
    inputs |= {"old_per_token_logps": old, "ref_per_token_logps": reference}
    return GRPOTrainer._compute_loss(trainer, None, inputs)
