"""Losses against kl_div, trl and enumeration; then students of digits, and of a language model."""

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor

from shared import plots
from shared.study import PositiveInt, Run
from week27.digit_students import (
    Copies,
    Split,
    errors,
    mixed_answers,
    new_net,
    new_teacher,
    split,
    train,
)
from week27.distillation import (
    FeatureMatching,
    generalized_jsd,
    smoothing_loss,
    soft_loss,
    text_loss,
)
from week27.evidence.language_students import judge_language

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


def three_answers() -> tuple[Tensor, Tensor]:
    """Logits of a teacher and of a student that has it the wrong way round."""
    p, q = torch.tensor([[[0.7, 0.2, 0.1]], [[0.1, 0.3, 0.6]]], dtype=torch.double).log()
    return p, q


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
    p, q = three_answers()
    found = [generalized_jsd(q, p, beta=beta).item() for beta in (0.0, 1.0)]
    by_hand = [0.7 * np.log(7) + 0.2 * np.log(2 / 3) - 0.1 * np.log(6)]
    by_hand.append(-0.1 * np.log(7) + 0.3 * np.log(3 / 2) + 0.6 * np.log(6))
    why = {"kind": "theorem", "against": "three terms by hand", "why": "float64 rounding"}
    run.check("forward and reverse KL of three answers", found, by_hand, rtol=1e-12, **why)


def check_divergences(run: Run) -> None:
    """The divergence of GKD, by trl's own trainer, whose import takes longer than a quick run."""
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    student, teacher = (logits(run, i, 5, 7) for i in range(2))
    student.requires_grad_()
    same = run.against("trl's GKDTrainer", rtol=1e-9, why="float64 rounding")
    values, theirs, slopes = [], [], []
    for beta in (0.0, 0.1, 0.5, 0.9, 1.0):
        options = {"beta": beta, "temperature": 1.5}
        values.append(generalized_jsd(student, teacher, **options).mean())
        theirs.append(GKDTrainer.generalized_jsd_loss(student, teacher, **options))
        slopes.append([torch.autograd.grad(x[-1], student)[0] for x in (values, theirs)])
    same("divergence, five values of β", torch.stack(values), torch.stack(theirs))
    same("its gradient in the student", *map(torch.stack, zip(*slopes, strict=True)), atol=1e-12)
    p, q = three_answers()
    theirs = [GKDTrainer.generalized_jsd_loss(q, p, beta=beta) for beta in (0.0, 1.0)]
    ours = [generalized_jsd(q, p, beta=beta)[0] for beta in (0.0, 1.0)]
    same("both directions, three answers", torch.stack(ours), torch.stack(theirs))
    texts = torch.arange(12).view(2, 6) % 7
    labels = texts[:, 1:].masked_fill(torch.arange(5) < 2, -100)  # the prompt: three tokens
    models = [logits(run, i, 7, 7).__getitem__ for i in (10, 11)]  # the last token decides
    ours = text_loss(*models, texts, prompt=3, beta=0.3)
    theirs = [model(texts)[:, :-1] for model in models]
    theirs = GKDTrainer.generalized_jsd_loss(*theirs, labels=labels, beta=0.3)
    same("mean over the places after a prompt", ours, theirs)


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


def train_students(data: Split, teacher: Tensor, seed: int, steps: int) -> dict[str, int]:
    """Test errors of students with the same first weights and batches, by what they minimize."""
    g = torch.Generator().manual_seed(seed)
    mixed, strangers = mixed_answers(teacher, g), teacher[torch.randperm(len(teacher), generator=g)]
    targets = {f"T = {t:g}": (teacher, t) for t in TEMPERATURES}
    targets |= {"wrong answers mixed": (mixed, BEST), "of other rows": (strangers, BEST)}
    names = ("labels", "smoothed", *targets)
    v = torch.stack([logits for logits, _ in targets.values()])
    t = torch.tensor([t for _, t in targets.values()])[:, None, None]

    def loss(z: Tensor, i: Tensor) -> Tensor:
        hard = F.cross_entropy(z[0], data.y[i])
        hard = hard + smoothing_loss(z[1], data.y[i], smoothing=SMOOTHING)
        soft = generalized_jsd(z[2:] / t, v[:, i] / t, beta=0.0)  # `soft_loss` of each, without T²
        return hard + (t[..., 0].square() * soft).mean(-1).sum()

    g.manual_seed(1000 + seed)
    students = Copies(new_net(WIDTH, g), len(names))
    train(students, data, loss, steps=steps, generator=g)
    return dict(zip(names, errors(students, data).tolist(), strict=True))


def judge_digits(run: Run, seeds: int) -> None:
    """Test errors of small nets, taught by labels, by soft targets, and by spoiled ones."""
    sizes = run.budget(quick=(20, 30), default=(400, 1000), full=(800, 2000))
    found: dict[str, list[float]] = {}
    for seed in run.progress(range(run.seed, run.seed + seeds), "splits"):
        data = split(seed, ROWS)
        teacher = new_teacher(data, seed, steps=sizes[0])
        counts = train_students(data, teacher(data.x), seed, sizes[1])
        for name, count in ({"teacher": int(errors(teacher, data))} | counts).items():
            found.setdefault(name, []).append(count)
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
