"""The same adapted model in peft, for comparison.

>>> base = nn.Sequential(nn.Linear(4, 3))
>>> config = LoRAConfig(2, targets=("0",))
>>> ours = inject(copy.deepcopy(base), config)
>>> theirs = with_peft(ours, base, config)
>>> [name for name, p in theirs.named_parameters() if p.requires_grad][0]
'base_model.model.0.lora_A.default.weight'

peft (Mangrulkar et al., 2022) holds several adapters by name; ours is its `default`.
"""

import copy

from torch import nn

from shared.require import require
from week20.lora import LoRAConfig, adapter_state, inject

__all__ = ["inject", "peft_name", "with_peft"]

OWN = {"A": "lora_A.default.weight", "B": "lora_B.default.weight"}
OWN |= {"magnitude": "lora_magnitude_vector.default.weight"}


def peft_name(name: str) -> str:
    """What peft calls a learned tensor of ours."""
    layer, _, own = name.rpartition(".")
    return f"base_model.model.{layer}.{OWN[own]}"


def with_peft(ours: nn.Module, base: nn.Module, config: LoRAConfig, *, dora: bool = False):
    """peft's model around a copy of the base, with what our adapters have learned."""
    from peft import LoraConfig, get_peft_model

    options = {"use_rslora": config.rank_stabilized, "lora_dropout": config.dropout}
    options |= {"use_dora": dora, "target_modules": list(config.targets)}
    theirs = LoraConfig(r=config.r, lora_alpha=config.alpha, **options)
    theirs = get_peft_model(copy.deepcopy(base), theirs, autocast_adapter_dtype=False)
    state = {peft_name(name): p for name, p in adapter_state(ours).items()}
    unknown = theirs.load_state_dict(state, strict=False).unexpected_keys
    require(not unknown, "peft must know every tensor of ours", unknown)
    return theirs
