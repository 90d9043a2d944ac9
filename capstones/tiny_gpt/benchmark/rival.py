"""What a user would otherwise run: stand-ins for nanoGPT, of `transformers` and `torch.optim`.

`train_rival` trains nanoGPT's documented CPU configuration (its README, "I only have a macbook"):
four layers, four heads, width 128, context 64, no biases, no dropout, AdamW at 1e-3 with betas 0.9
and 0.99 and weight decay 0.1 on matrices, gradients clipped at 1, 2,000 steps of twelve random
windows, 100 steps of warm-up and a cosine to a tenth. The model is `transformers`' GPT-2 with every
bias frozen at zero and the exact GELU, which is the same function of the same 804,096 parameters.
nanoGPT compiles its model by default; its documented command for a CPU turns that off.

`train_plain` is the loop of a few lines that trains a GPT-2 of any size, for its speed alone.

Sources: A. Karpathy, nanoGPT (2022), README.md, train.py (`get_lr`, `get_batch`) and model.py
(`configure_optimizers`, `generate`).
"""

import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.errors import UserError

__all__ = ["RivalGPT", "generate_uncached", "learning_rate", "train_plain", "train_rival"]

STEPS, WARMUP, BATCH_SIZE, CONTEXT = 2000, 100, 12, 64
PEAK, FLOOR = 1e-3, 1e-4


class RivalGPT(nn.Module):
    """`transformers`' GPT-2, called as tiny_gpt's model is, so that one evaluation serves both.

    Without `biases`, all parameters of that name stay at zero and do not count.
    """

    def __init__(
        self,
        vocab_size: int = 65,
        *,
        context: int = CONTEXT,
        n_layers: int = 4,
        n_heads: int = 4,
        d_model: int = 128,
        biases: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        try:
            from transformers import GPT2Config, GPT2LMHeadModel
        except ImportError as error:
            raise UserError(f"the rival needs the library transformers ({error})") from error
        torch.manual_seed(seed)
        sizes = {"n_positions": context, "n_embd": d_model, "n_layer": n_layers, "n_head": n_heads}
        still = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        # GPT-2's own ends of text, 50256, lie outside this vocabulary.
        still |= {"use_cache": False, "bos_token_id": 0, "eos_token_id": 0}
        config = GPT2Config(vocab_size=vocab_size, **sizes, activation_function="gelu", **still)
        self.gpt2 = GPT2LMHeadModel(config)
        self.config = SimpleNamespace(vocab_size=vocab_size, context=context)
        if not biases:
            for name, p in self.gpt2.named_parameters():
                if name.endswith("bias"):
                    p.requires_grad_(False)  # they start at zero

    def forward(self, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq vocab"]:
        """Logits of the next token after each one."""
        return self.gpt2(tokens).logits

    def last(self, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch vocab"]:
        """Logits after the last token alone, as nanoGPT's forward computes them."""
        return self.gpt2(tokens, logits_to_keep=1).logits[:, -1]

    def trained(self) -> list[nn.Parameter]:
        """The parameters that count."""
        return [p for p in self.parameters() if p.requires_grad]


def learning_rate(step: int, steps: int = STEPS, warmup: int = WARMUP) -> float:
    """nanoGPT's rate at a step: linear warm-up, then a cosine to a tenth of the peak."""
    if step < warmup:
        return PEAK * (step + 1) / (warmup + 1)
    ratio = (step - warmup) / max(1, steps - warmup)
    return FLOOR + 0.5 * (1 + math.cos(math.pi * ratio)) * (PEAK - FLOOR)


def optimizer_for(model: RivalGPT) -> torch.optim.Optimizer:
    """AdamW that decays matrices and embeddings, not vectors."""
    matrices = [p for p in model.trained() if p.ndim >= 2]
    vectors = [p for p in model.trained() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.99))


def random_windows(
    tokens: Int[Tensor, " n"], batch_size: int, context: int
) -> tuple[Int[Tensor, "batch context"], Int[Tensor, "batch context"]]:
    """Windows that begin anywhere, and the same one token later."""
    at = torch.randint(len(tokens) - context, (batch_size, 1)) + torch.arange(context)
    return tokens[at], tokens[at + 1]


def train_rival(
    data: str | Path, *, seed: int = 0, steps: int = STEPS, threads: int = 2, eval_every: int = 0
) -> dict[str, Any]:
    """Train nanoGPT's CPU configuration and evaluate it on the whole validation split.

    Evaluations on the way, every `eval_every` steps, do not count in its time. It reports as
    `recipes.train_recipe` does.
    """
    from tiny_gpt.data.shards import open_data
    from tiny_gpt.training.evaluate import evaluate

    torch.set_num_threads(threads)
    prepared = open_data(Path(data))
    train, val = prepared.splits["train"], prepared.splits["val"]
    tokens = torch.from_numpy(train.read(0, train.n_tokens))
    model = RivalGPT(prepared.tokenizer.vocab_size, seed=seed)
    optimizer, params = optimizer_for(model), model.trained()
    warmup = min(WARMUP, steps // 20)

    def validation_loss() -> float:
        return evaluate(model, val, prepared.tokenizer, batch_size=64).nats_per_token

    model.train()
    evaluated, seconds, begin = [], 0.0, time.perf_counter()
    for step in range(steps):
        x, y = random_windows(tokens, BATCH_SIZE, CONTEXT)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, warmup)
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        if eval_every and (step + 1) % eval_every == 0 and step + 1 < steps:
            seconds += time.perf_counter() - begin
            evaluated.append((step + 1, validation_loss()))
            begin = time.perf_counter()
    seconds += time.perf_counter() - begin
    evaluated.append((steps, validation_loss()))
    tokens = steps * BATCH_SIZE * CONTEXT
    report = {"recipe": "rival", "val_loss": evaluated[-1][1], "evaluated": evaluated}
    return report | _facts(seed, steps, tokens, params, seconds)


def train_plain(data: str | Path, *, steps: int, threads: int = 2) -> dict[str, Any]:
    """The loop of a few lines: a `transformers` GPT-2, biases and all, and `torch.optim.AdamW`."""
    from tiny_gpt.data.shards import open_data

    torch.set_num_threads(threads)
    prepared, batch_size, context = open_data(Path(data)), 32, 128
    train = prepared.splits["train"]
    text = torch.from_numpy(train.read(0, train.n_tokens))
    model = RivalGPT(prepared.tokenizer.vocab_size, context=context, biases=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    begin = time.perf_counter()
    for _ in range(steps):
        x, y = random_windows(text, batch_size, context)
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    seconds, tokens = time.perf_counter() - begin, steps * batch_size * context
    return {"recipe": "plain"} | _facts(0, steps, tokens, model.parameters(), seconds)


def _facts(
    seed: int, steps: int, tokens: int, params: Iterable[Tensor], seconds: float
) -> dict[str, Any]:
    report = {"seed": seed, "steps": steps, "n_parameters": sum(p.numel() for p in params)}
    return report | {"loop_seconds": seconds, "tokens_per_second": tokens / seconds}


@torch.inference_mode()
def generate_uncached(
    model: RivalGPT, tokens: Int[Tensor, "batch seq"], n: int, *, temperature: float = 0.8
) -> Iterator[Int[Tensor, "batch"]]:
    """nanoGPT's `generate`: every new token reads the last `context` ones again."""
    for _ in range(n):
        logits = model.last(tokens[:, -model.config.context :])
        new = torch.multinomial((logits / temperature).softmax(-1), 1)
        tokens = torch.cat([tokens, new], dim=1)
        yield new[:, 0]
