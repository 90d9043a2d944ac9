"""Losses against kl_div, trl and enumeration; then students of digits, and of a language model."""

import functools
import itertools

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from threadpoolctl import threadpool_limits
from torch import Tensor

from shared import plots
from shared.study import PositiveInt, Run
from week14.minimal_gpt import random_batch
from week18.llama3 import Llama, LlamaConfig
from week19.characters import manual, trained_model
from week27.digit_students import Split, errors, new_net, new_teacher, split, train
from week27.distillation import (
    FeatureMatching,
    generalized_jsd,
    on_policy_loss,
    smoothing_loss,
    soft_loss,
    text_loss,
    write,
)

TEMPERATURES = (1.0, 4.0, 8.0, 20.0)
BEST, SMOOTHING, WIDTH, ROWS = 4.0, 0.1, 12, 300  # chosen on other seeds, 100 and 101


def main(run: Run, *, seeds: PositiveInt = 5) -> None:
    """Check the losses, then teach small nets, and a small model that writes.

    Parameters
    ----------
    seeds
        Splits of the digits, each with a teacher of its own.
    """
    run.rounding(0.05, "some hundred steps in float32; Muon multiplies in bfloat16")
    check_losses(run)
    if run.mode != "quick":
        check_divergences(run)
    check_gradients(run)
    check_enumeration(run)
    with threadpool_limits(1):  # products this small are slower on several threads
        judge_digits(run, run.budget(quick=2, default=max(seeds, 2)))
    judge_language(run)


# ---- checks


def logits(run: Run, offset: int, *shape: int) -> Tensor:
    """Random logits in float64."""
    return 2 * torch.randn(*shape, generator=run.generator(offset), dtype=torch.double)


def check_losses(run: Run) -> None:
    """Values and gradients, by torch's own losses."""
    student, teacher = (logits(run, i, 5, 7) for i in range(2))
    student.requires_grad_()
    same = run.against("torch's kl_div, batchmean", rtol=1e-12, why="float64 rounding")
    values, theirs, slopes = [], [], []
    for t in TEMPERATURES:
        values.append(soft_loss(student, teacher, temperature=t))
        log_q, p = (student / t).log_softmax(-1), (teacher / t).softmax(-1)
        theirs.append(t**2 * F.kl_div(log_q, p, reduction="batchmean"))
        slopes.append([torch.autograd.grad(x[-1], student)[0] for x in (values, theirs)])
    same("soft loss at four temperatures", torch.stack(values), torch.stack(theirs))
    ours, other = (torch.stack(x) for x in zip(*slopes, strict=True))
    same("its gradient", ours, other, atol=1e-14)
    labels = torch.arange(5)
    smoothed = F.cross_entropy(student, labels, label_smoothing=0.1)
    ours = smoothing_loss(student, labels, smoothing=0.1)
    same("label smoothing", ours, smoothed, against="torch's cross_entropy")
    p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.1, 0.3, 0.6])
    forward = generalized_jsd(q.double().log(), p.double().log(), beta=0.0)
    by_hand = 0.7 * np.log(7) + 0.2 * np.log(2 / 3) - 0.1 * np.log(6)
    why = {"kind": "theorem", "against": "three terms by hand", "why": "inputs in float32"}
    run.check("KL(teacher ‖ student) of three answers", forward, by_hand, atol=1e-6, **why)


def check_divergences(run: Run) -> None:
    """The divergence of GKD, by trl's own trainer, whose import takes longer than a quick run."""
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    student, teacher = (logits(run, i, 5, 7) for i in range(2))
    student.requires_grad_()
    values, theirs, slopes = [], [], []
    in_batches = student[:, None], teacher[:, None]
    for beta in (0.0, 0.1, 0.5, 0.9, 1.0):
        options = {"beta": beta, "temperature": 1.5}
        values.append(generalized_jsd(student, teacher, **options).mean())
        theirs.append(GKDTrainer.generalized_jsd_loss(*in_batches, **options))
        slopes.append([torch.autograd.grad(x[-1], student)[0] for x in (values, theirs)])
    same = run.against("trl's GKDTrainer", rtol=1e-6, why="trl keeps β in single precision")
    same("divergence, five values of β", torch.stack(values), torch.stack(theirs))
    ours, other = (torch.stack(x) for x in zip(*slopes, strict=True))
    same("its gradient in the student", ours, other, atol=1e-8)


def check_gradients(run: Run) -> None:
    """T (q - p), its limit, and three steps of gradient descent in NumPy."""
    student, teacher = logits(run, 2, 4, 10).requires_grad_(), logits(run, 3, 4, 10)
    sizes = {}
    for t in (1.0, 8.0, 100.0):
        grad = torch.autograd.grad(soft_loss(student, teacher, temperature=t), student)[0]
        sizes[t] = grad
    exact = run.against("T (q - p)", kind="theorem", atol=1e-12, why="float64 rounding")
    p, q = ((x / 8).softmax(-1) for x in (teacher, student.detach()))
    exact("gradient at T = 8", sizes[8.0], 8 * (q - p) / 4)
    z, v = (x.detach() - x.detach().mean(-1, keepdim=True) for x in (student, teacher))
    limit = {"against": "(z - v) / N, centered", "kind": "theorem"}
    size = sizes[100.0].norm()
    options = {"atol": 0.05, "why": "terms of order 1/T, relative to the norm"} | limit
    run.check("gradient at T = 100", sizes[100.0] / size, (z - v) / 40 / size, **options)
    norms = {t: float(grad.norm()) for t, grad in sizes.items()}
    run.metric("gradient at T = 8 over that at T = 1, with T²", norms[8.0] / norms[1.0])
    run.metric("gradient at T = 8 over that at T = 1, without", norms[8.0] / norms[1.0] / 64)
    x, w = logits(run, 4, 20, 3), logits(run, 5, 3, 4)
    target, weight = logits(run, 6, 20, 4), w.clone().requires_grad_()
    optimizer, w = torch.optim.SGD([weight], lr=0.3), w.numpy()
    softmax = lambda a: np.exp(a) / np.exp(a).sum(-1, keepdims=True)  # noqa: E731
    for _ in range(3):
        optimizer.zero_grad()
        soft_loss(x @ weight, target, temperature=3.0).backward()
        optimizer.step()
        off = softmax(x.numpy() @ w / 3) - softmax(target.numpy() / 3)
        w = w - 0.3 * 3 * x.numpy().T @ off / 20
    exact("weights after three steps", weight, w, against="closed form, NumPy")
    match = FeatureMatching(3, 4, run.generator(7)).double()
    other = F.mse_loss(match.regressor(x), target, reduction="sum") / 40
    why = {"against": "torch's mse_loss", "why": "float64 rounding", "rtol": 1e-12}
    run.check("feature matching", match(x, target), other, **why)


def check_enumeration(run: Run) -> None:
    """Divergences place by place add up to that of whole texts, on the student's own texts."""
    p, q = (logits(run, 8 + i, 3, 3).log_softmax(-1) for i in range(2))  # next given last
    expected, whole = 0.0, 0.0
    for text in itertools.product(range(3), repeat=3):
        path = torch.tensor([0, *text])
        log_p, log_q = (x[path[:-1], path[1:]].sum() for x in (p, q))
        places = generalized_jsd(q[path[:-1]], p[path[:-1]], beta=1.0)
        expected += float(log_q.exp() * places.sum())
        whole += float(log_q.exp() * (log_q - log_p))
    why = {"kind": "theorem", "rtol": 1e-12, "why": "float64 rounding"}
    name = "reverse KL of texts of three tokens, place by place"
    run.check(name, expected, whole, against="all 27 texts enumerated", **why)


# ---- digits


def without_knowledge(teacher: Tensor, generator: torch.Generator) -> Tensor:
    """The teacher's logits with those of its wrong answers in random order, row by row."""
    best = teacher.argmax(-1, keepdim=True)
    others = torch.arange(10).expand(len(teacher), -1)
    others = others[others != best].view(len(teacher), 9)
    order = torch.rand(others.shape, generator=generator).argsort(-1)
    return teacher.scatter(-1, others, teacher.gather(-1, others.gather(-1, order)))


def arms_of(data: Split, teacher: Tensor, generator: torch.Generator) -> dict:
    """What is minimized, by name: a function of the logits and of which rows they are of."""
    mixed = without_knowledge(teacher, generator)
    strangers = teacher[torch.randperm(len(teacher), generator=generator)]
    arms = {"labels": lambda z, i: F.cross_entropy(z, data.y[i])}
    arms["smoothed"] = lambda z, i: smoothing_loss(z, data.y[i], smoothing=SMOOTHING)
    targets = {f"T = {t:g}": (teacher, t) for t in TEMPERATURES}
    targets |= {"wrong answers mixed": (mixed, BEST), "of other rows": (strangers, BEST)}
    for name, (v, t) in targets.items():
        arms[name] = lambda z, i, v=v, t=t: soft_loss(z, v[i], temperature=t)
    return arms


def judge_digits(run: Run, seeds: int) -> None:
    """Test errors of small nets, taught by labels, by soft targets, and by spoiled ones."""
    teacher_steps, steps = run.budget(quick=(60, 60), default=(800, 2000))
    found: dict[str, list[float]] = {}
    for seed in run.progress(range(run.seed, run.seed + seeds), "splits"):
        data = split(seed, ROWS)
        teacher = new_teacher(data, seed, steps=teacher_steps)
        found.setdefault("teacher", []).append(errors(teacher, data))
        arms = arms_of(data, teacher(data.x), torch.Generator().manual_seed(seed))
        if run.mode == "quick":
            wanted = ("labels", "smoothed", "T = 4", "wrong answers mixed", "of other rows")
            arms = {name: arms[name] for name in wanted}
        for name, loss in arms.items():
            g = torch.Generator().manual_seed(1000 + seed)
            student = new_net(WIDTH, g)
            train(student, data, loss, steps=steps, generator=g)
            found.setdefault(name, []).append(errors(student, data))
    rows = len(data.y_test)
    percent = {name: 100 * np.array(values) / rows for name, values in found.items()}
    best = percent[f"T = {BEST:g}"]
    options = {"unit": "points", "quick": False, "rtol": None}
    learned = "a student learns what one with logits of other rows does not"
    run.claim(learned, percent["of other rows"] - best, at_least=30, each=True, **options)
    gain = "soft targets are ahead of smoothed labels"
    seen = "two splits of other seeds, on which T and the width were chosen"
    run.claim(gain, percent["smoothed"] - best, at_least=0, seen_before=seen, **options)
    mixed = percent["smoothed"] - percent["wrong answers mixed"]
    run.falsifier("with the wrong answers mixed", mixed, breaks=gain)
    for name in ("teacher", "labels", "smoothed", "wrong answers mixed"):
        run.metric(f"errors: {name}", percent[name].mean(), "%", rtol=None)
    run.metric("errors: soft targets", best.mean(), "%", rtol=None)
    run.metric("rows to judge by", rows, rtol=0)
    if run.mode == "quick":
        return
    with run.figure("temperature", "At which temperature is a small net taught best?") as axes:
        runs = np.array([percent[f"T = {t:g}"] for t in TEMPERATURES]).T
        levels = {"labels alone": percent["labels"].mean(), "teacher": percent["teacher"].mean()}
        levels["smoothed labels"] = percent["smoothed"].mean()
        labels = {"xlabel": "temperature of the soft targets", "xscale": "log"}
        labels |= {"ylabel": f"test errors (%), {seeds} splits"}
        lines = {"soft targets": runs}
        options = {"marker": "o", "reference": levels, "ends": False}
        plots.curves(axes, TEMPERATURES, lines, **options, **labels)
        axes.set_xticks(TEMPERATURES, [f"{t:g}" for t in TEMPERATURES])
        axes.minorticks_off()


# ---- a language model


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
    teacher = trained_model(text, run.budget(quick=2, default=150), run.seed)
    steps, more, length = run.budget(quick=(2, 2, 4), default=(120, 30, 32))
    judged = text.held_out[: 128 * run.budget(quick=8, default=96)].view(-1, 128)
    mixed = lambda tokens: teacher(tokens).roll(1, dims=0)  # noqa: E731
    held_out, likely = {}, {}
    for seed in run.progress(range(run.budget(quick=2, default=4)), "students"):
        g = torch.Generator()
        batch = lambda g=g: random_batch(text.training, 8, 64, g)  # noqa: E731

        def hard(student, teacher=None, batch=batch):
            x, y = batch()
            return F.cross_entropy(student(x).flatten(0, 1), y.flatten())

        def soft(student, teacher=teacher, batch=batch):
            return text_loss(student, teacher, batch()[0], beta=0.0)

        for name, loss in (
            ("text", hard),
            ("spoiled", functools.partial(soft, teacher=mixed)),
            ("soft", soft),
        ):
            student = new_student(len(text.alphabet), run.seed + seed)
            g.manual_seed(run.seed + seed)
            teach(student, functools.partial(loss, student), steps, 1e-2)
            held_out.setdefault(name, []).append(surprise(student, judged))
        start = student.state_dict()
        options = {"length": length, "beta": 1.0, "generator": g}

        def own(student, teacher=teacher, batch=batch, options=options):
            return on_policy_loss(student, teacher, batch()[0][:, :prompt], **options)

        for name, loss in (
            ("given text", soft),
            ("own text", own),
            ("own text, spoiled", functools.partial(own, teacher=mixed)),
        ):
            student = new_student(len(text.alphabet), 0)
            student.load_state_dict(start)
            g.manual_seed(run.seed + 50 + seed)
            teach(student, functools.partial(loss, student), more, 3e-3)
            prompts = judged[:, :prompt]
            written = write(student, prompts, length, g.manual_seed(run.seed + 99 + seed))
            likely.setdefault(name, []).append(surprise(teacher, written, prompt))
            held_out.setdefault(name, []).append(surprise(student, judged))
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
