"""Students of a character model, taught on given text and on text that they write themselves."""

import copy
import functools

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from shared.study import Run
from week14.minimal_gpt import random_batch
from week18.llama3 import Llama, LlamaConfig
from week19.characters import manual, trained_model
from week27.distillation import on_policy_loss, text_loss, write


def new_student(vocab_size: int, seed: int) -> Llama:
    """One layer of width 48: about a tenth of the teacher."""
    sizes = {"d_model": 48, "n_layers": 1, "n_heads": 3, "context": 256, "rope_base": 10_000.0}
    return Llama(LlamaConfig(vocab_size, **sizes), torch.Generator().manual_seed(seed))


def teach(student: Llama, loss, steps: int, lr: float) -> None:
    """AdamW in place on what `loss` gives; the rate falls to zero."""
    optimizer = torch.optim.AdamW(student.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


@torch.no_grad()
def surprise(model: Llama, tokens: Int[Tensor, "text n"], prompt: int = 1) -> float:
    """Nats per character of what follows the first ones."""
    log_p = model(tokens)[:, prompt - 1 : -1].flatten(0, 1)
    return F.cross_entropy(log_p, tokens[:, prompt:].flatten()).item()


def judge_language(run: Run) -> None:
    """Students of a character model: on given text, then on what they write themselves."""
    text, prompt = manual(), 8
    teacher = trained_model(text, run.budget(quick=2, default=100, full=150), run.seed)
    steps, more, length = run.budget(quick=(2, 2, 4), default=(60, 15, 32), full=(120, 30, 32))
    judged = text.held_out[: 128 * run.budget(quick=8, default=96)].view(-1, 128)
    mixed = lambda tokens: teacher(tokens).roll(1, dims=0)  # noqa: E731
    held_out, likely = {}, {}
    for seed in run.progress(range(run.budget(quick=2, default=3, full=4)), "students"):
        g = torch.Generator()
        batch = lambda g=g: random_batch(text.training, 8, 64, g)  # noqa: E731

        def hard(student, batch=batch):
            x, y = batch()
            return F.cross_entropy(student(x).flatten(0, 1), y.flatten())

        def soft(student, teacher=teacher, batch=batch):
            return text_loss(student, teacher, batch()[0], beta=0.0)

        def own(student, teacher=teacher, batch=batch, g=g):
            prompts, options = batch()[0][:, :prompt], {"beta": 1.0, "generator": g}
            return on_policy_loss(student, teacher, prompts, length, **options)

        spoiled = functools.partial(soft, teacher=mixed)
        for name, loss in {"text": hard, "spoiled": spoiled, "soft": soft}.items():
            student = new_student(len(text.alphabet), run.seed + seed)
            g.manual_seed(run.seed + seed)
            teach(student, functools.partial(loss, student), steps, 1e-2)
            held_out.setdefault(name, []).append(surprise(student, judged))
        spoiled = functools.partial(own, teacher=mixed)
        ways = {"given text": soft, "own text": own, "own text, spoiled": spoiled}
        for name, loss in ways.items():
            taught = copy.deepcopy(student)  # the last one above, by soft targets
            g.manual_seed(run.seed + 50 + seed)
            teach(taught, functools.partial(loss, taught), more, 3e-3)
            g.manual_seed(run.seed + 99 + seed)
            written = write(taught, judged[:, :prompt], length, g)
            likely.setdefault(name, []).append(surprise(teacher, written, prompt))
            held_out.setdefault(name, []).append(surprise(taught, judged))
    held_out, likely = ({k: np.array(v) for k, v in d.items()} for d in (held_out, likely))
    options = {"unit": "nats/char", "quick": False, "rtol": None}
    gain = "a teacher's distributions teach more per step than the text"
    run.claim(gain, held_out["text"] - held_out["soft"], at_least=0, **options)
    spoiled = held_out["text"] - held_out["spoiled"]
    run.falsifier("the teacher reads another row", spoiled, breaks=gain)
    better = "after its own text the student writes what the teacher finds likelier"
    run.claim(better, likely["given text"] - likely["own text"], at_least=0.05, **options)
    spoiled = likely["given text"] - likely["own text, spoiled"]
    run.falsifier("its own text, the teacher reads another row", spoiled, breaks=better)
    for name in ("text", "soft", "given text", "own text"):
        run.metric(f"loss on held-out text, {name}", held_out[name].mean(), "nats/char", rtol=None)
    for name in ("given text", "own text"):
        value = likely[name].mean()
        run.metric(f"teacher's surprise at what it writes, {name}", value, "nats/char", rtol=None)
    run.metric("the teacher's own loss on held-out text", surprise(teacher, judged), rtol=None)
