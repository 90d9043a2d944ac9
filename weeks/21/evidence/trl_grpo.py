"""TRL's own GRPO loss, called on log-probabilities that are handed to it."""

import types
from collections import defaultdict

import torch
from torch import Tensor

from shared.study import silence_libraries


def trl_loss(
    log_p: Tensor,
    log_old: Tensor,
    log_ref: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    kind: str,
    beta: float,
    clip: tuple[float, float],
    max_length: int,
) -> Tensor:
    """`GRPOTrainer._compute_loss` of a trainer that has no model: its settings and our numbers.

    Parameters
    ----------
    kind
        ``grpo``, ``bnpo`` (a mean over the tokens of the batch), ``dr_grpo`` or ``dapo``.
    """
    silence_libraries()
    from trl import GRPOTrainer

    same = {"gather": lambda x: x, "gather_for_metrics": lambda x: x}
    same["reduce"] = lambda x, reduction: x
    args = types.SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1)
    trainer = types.SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (log_p, torch.zeros_like(log_p), None),
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level="token",
        beta=beta,
        args=args,
        loss_type=kind,
        epsilon_low=clip[0],
        epsilon_high=clip[1],
        use_vllm=False,
        model=types.SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        max_completion_length=max_length,
        accelerator=types.SimpleNamespace(num_processes=1, **same),
        _entropy_bonus_enabled=False,
        _metrics=defaultdict(lambda: defaultdict(list)),
    )
    ids = torch.zeros_like(log_p, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": ids[:, :1] + 1,
        "completion_ids": ids,
        "completion_mask": mask.long(),
        "advantages": advantages,
        "old_per_token_logps": log_old,
        "ref_per_token_logps": log_ref,
        "num_items_in_batch": mask.sum(),
    }
    return GRPOTrainer._compute_loss(trainer, trainer.model, inputs)
