"""In which number format to compute: measured on the step that will be taken, not assumed.

Week 16's probe times a matrix product. Where the narrow one is no quicker, no step can be. Where it
is, that is not enough: on a CPU with bfloat16 units the product is many times faster, yet a step of
a small model may be slower, since everything around the products is converted to and fro. So whole
training steps are timed then.
"""

import time
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import nn

from tiny_gpt.data.batches import Batch
from week16.choice_of_precision import Precision, choose_precision

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager:
    """Compute products in `dtype`; weights, gradients and the loss stay in float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def loss_sum(
    model: nn.Module, batch: Batch, device: torch.device, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | int]:
    """Sum of the losses of a batch, in nats, and the number of tokens that count."""
    inputs, targets, positions, segments = (
        None if x is None else x.to(device, non_blocking=True) for x in batch
    )
    with autocast(device, dtype):
        if segments is None:
            logits = model(inputs)
        else:
            logits = model(inputs, positions=positions, segments=segments)
    # The sum of thousands of logarithms does not fit into 16 bits.
    logits = logits.float().flatten(0, 1)
    n = (targets != -100).sum()  # packed rows have padding
    return F.cross_entropy(logits, targets.flatten(), reduction="sum"), n


def precision_for(name: str, model: nn.Module, batch: Batch, device: torch.device) -> Precision:
    """The format that `name` asks for, or for "auto" the one in which steps are quickest.

    Gradients of the trial steps are dropped, weights are not touched.
    """
    if name != "auto":
        dtype = DTYPES[name]
        return Precision(dtype, dtype == torch.float16, f"{name}: as asked")
    of_products = choose_precision(device, least_gain=1.0)
    if of_products.dtype == torch.float32:  # a step in a format that is emulated may take seconds
        return of_products

    def seconds(device: torch.device, dtype: torch.dtype) -> float:
        """The quickest of three steps, after one to warm up."""
        found = []
        for _ in range(4):
            begin = time.perf_counter()
            loss_sum(model, batch, device, dtype)[0].backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            found.append(time.perf_counter() - begin)
        return min(found[1:])

    choice = choose_precision(device, measure=seconds)
    model.zero_grad(set_to_none=True)
    return choice._replace(reason=choice.reason.replace("a product", "a training step"))
