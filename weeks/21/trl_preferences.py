"""trl's own loss code, called on a small model: for comparisons, never for results.

Its trainers are not built. Their loss methods are called with an object that has the few attributes
these read, and a model that carries trl's own scoring head.

>>> small_llama(0)(torch.tensor([[1, 2, 3]])).logits.shape
torch.Size([1, 3, 23])

`uv run weeks/21/dpo.py` and `reward_model.py` make the comparisons.
"""

import contextlib
import io
from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from week21.dpo import Batch

T = TypeVar("T")


def quietly(make: Callable[[], T]) -> T:
    """Import what announces itself, without the announcement."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        return make()


def small_llama(seed: int, vocab_size: int = 23) -> nn.Module:
    """A random LLaMA of transformers, its weights large enough to make the losses differ."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocab_size, **sizes)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(float(p.ndim == 1), 0.2, generator=generator)
    return model


def _scoring(model: nn.Module) -> nn.Module:
    from trl.trainer.utils import add_fused_lm_head

    if not getattr(model, "scores", False):
        names = ("log_probs", "entropy", "log_sum_sq_probs", "mean_logits", "is_top1")
        add_fused_lm_head(model, outputs=names)
        model.scores = True
    return model


def _trainer(model: Any, reference: Any, **options) -> SimpleNamespace:
    def same(x: Tensor) -> Tensor:
        return x

    accelerator = SimpleNamespace(
        device=torch.device("cpu"), gather=same, gather_for_metrics=same, num_processes=1
    )
    return SimpleNamespace(
        model=model,
        ref_model=reference,
        accelerator=accelerator,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None, center_rewards_coefficient=None),
        aux_loss_enabled=False,
        precompute_ref_logps=False,
        label_smoothing=0.0,
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        _tp_size=1,
        **options,
    )


def pair_loss(
    model: nn.Module, reference: nn.Module, batch: Batch, loss: str, beta: float
) -> Float[Tensor, ""]:
    """DPOTrainer's loss, `sigmoid` or `ipo`, of chosen rows followed by rejected ones."""
    from trl.trainer.dpo_trainer import DPOTrainer

    options = {"loss_types": [loss], "loss_weights": [1.0], "ld_alpha": None, "beta": beta}
    options |= {"f_divergence_type": "reverse_kl", "use_weighting": False}
    trainer = _trainer(_scoring(model), _scoring(reference), **options)
    inputs = {"input_ids": batch.tokens, "completion_mask": batch.scored.long()}
    # right padding and a causal model: what is padded cannot be seen by what is scored
    inputs["attention_mask"] = torch.ones_like(batch.tokens)
    return DPOTrainer._compute_loss(trainer, model, inputs, False)


def kto_loss(
    model: nn.Module,
    reference: nn.Module,
    batch: Batch,
    other: Batch,
    desirable: Bool[Tensor, " n"],
    beta: float,
) -> Float[Tensor, ""]:
    """KTOTrainer's loss; `other` holds the mismatched responses of its reference point."""
    from trl.trainer.kto_trainer import KTOTrainer

    options = {"loss_type": "kto", "calculate_KL": True, "beta": beta}
    options |= {"desirable_weight": 1.0, "undesirable_weight": 1.0}
    trainer = _trainer(_scoring(model), _scoring(reference), **options)
    trainer._compute_kl_logps = lambda *given: KTOTrainer._compute_kl_logps(trainer, *given)
    inputs = {"input_ids": batch.tokens, "completion_mask": batch.scored.long()}
    inputs |= {"attention_mask": torch.ones_like(batch.tokens), "label": desirable}
    inputs |= {"KL_input_ids": other.tokens, "KL_completion_mask": other.scored.long()}
    inputs |= {"KL_attention_mask": torch.ones_like(other.tokens)}
    return KTOTrainer._compute_loss(trainer, model, inputs, False)


def simpo_loss(
    logits: Float[Tensor, "batch seq vocab"],
    labels: Int[Tensor, "batch seq"],
    beta: float,
    gamma: float,
) -> Float[Tensor, ""]:
    """CPOTrainer's SimPO of copied logits; labels are -100 where nothing counts."""
    from trl.experimental.cpo.cpo_trainer import CPOTrainer

    options = {"loss_type": "simpo", "alpha": 0.0, "beta": beta, "simpo_gamma": gamma}
    trainer = _trainer(None, None, **options)
    log_probs = CPOTrainer.get_batch_logps(logits, labels, average_log_prob=True)
    return CPOTrainer.cpo_loss(trainer, *log_probs.chunk(2))[0].mean()


def reward_loss(
    rewards: Float[Tensor, " twice_n"], margin: Float[Tensor, " n"] | None = None
) -> Float[Tensor, ""]:
    """RewardTrainer's loss of copied rewards, chosen ones first."""
    from trl.trainer.reward_trainer import RewardTrainer

    trainer = _trainer(SimpleNamespace(training=True), None)
    inputs = {"attention_mask": torch.ones(len(rewards), 1)}
    if margin is not None:
        inputs["margin"] = margin
    return RewardTrainer.compute_loss(
        trainer, lambda **_: SimpleNamespace(logits=rewards[:, None]), inputs
    )
