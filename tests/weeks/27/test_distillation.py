"""Losses against torch's, divergences against their definition, places, gradients, bad input."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from torch import nn

from shared import records
from shared.run import Run
from week27.digit_students import Copies, mixed_answers, new_net, split, train, warp
from week27.distillation import (
    FeatureMatching,
    distillation_loss,
    generalized_jsd,
    on_policy_loss,
    smoothing_loss,
    soft_loss,
    text_loss,
    write,
)
from week27.evidence import distillation as judge
from week27.evidence.language_students import new_student, surprise

seeds, temperatures = st.integers(0, 9999), st.floats(0.5, 50)
rows, classes = st.integers(1, 5), st.integers(2, 9)


def logits(seed, *shape):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


@given(seeds, rows, classes, temperatures)
def test_soft_loss_is_kl_div_with_batchmean_and_its_gradient(seed, n, k, t):
    student, teacher = logits(seed, n, k).requires_grad_(), logits(seed + 1, n, k).requires_grad_()
    ours = soft_loss(student, teacher, temperature=t)
    log_q, p = (student / t).log_softmax(-1), (teacher.detach() / t).softmax(-1)
    theirs = t**2 * F.kl_div(log_q, p, reduction="batchmean")
    torch.testing.assert_close(ours, theirs)
    grad = torch.autograd.grad(ours, student)[0]
    torch.testing.assert_close(grad, torch.autograd.grad(theirs, student)[0])
    torch.testing.assert_close(grad, t * (log_q.detach().exp() - p) / n)
    assert teacher.grad is None


def test_the_gradient_keeps_its_size_at_high_temperatures():
    student, teacher = logits(0, 1, 10).requires_grad_(), logits(1, 1, 10)
    sizes = [
        torch.autograd.grad(soft_loss(student, teacher, temperature=t), student)[0].norm()
        for t in (8.0, 64.0)
    ]
    assert 0.5 < sizes[1] / sizes[0] < 2
    v, z = (x.detach() - x.detach().mean() for x in (teacher, student))
    assert (sizes[1] - ((z - v) / 10).norm()).abs() < 0.1 * sizes[1]


def test_forward_kl_of_three_answers_is_pinned():
    p, q = torch.tensor([[0.5, 0.25, 0.25]]).double(), torch.tensor([[0.25, 0.25, 0.5]]).double()
    forward = generalized_jsd(q.log(), p.log(), beta=0.0).item()
    assert forward == pytest.approx(0.25 * 0.6931471805599453)
    p = torch.tensor([[0.8, 0.1, 0.1]]).double()
    forward, reverse = (generalized_jsd(q.log(), p.log(), beta=b).item() for b in (0.0, 1.0))
    assert forward == pytest.approx(0.8 * 1.1631508 - 0.1 * 0.9162907 - 0.1 * 1.6094379, abs=1e-6)
    assert reverse == pytest.approx(-0.25 * 1.1631508 + 0.25 * 0.9162907 + 0.5 * 1.6094379)


@given(seeds, rows, classes, st.floats(0.01, 0.99), temperatures)
def test_the_divergence_is_its_definition(seed, n, k, beta, t):
    student, teacher = logits(seed, n, k), logits(seed + 1, n, k)
    p, q = ((x / t).softmax(-1) for x in (teacher, student))
    m = beta * p + (1 - beta) * q
    kl = lambda a, b: (a * (a / b).log()).sum(-1)  # noqa: E731
    found = generalized_jsd(student, teacher, beta=beta, temperature=t)
    torch.testing.assert_close(found, beta * kl(p, m) + (1 - beta) * kl(q, m), rtol=1e-6, atol=1e-9)
    half = generalized_jsd(student, teacher, temperature=t)
    theirs = torch.tensor([jensenshannon(*pair) ** 2 for pair in zip(p, q, strict=True)])
    torch.testing.assert_close(half, theirs, rtol=1e-5, atol=1e-9)


def test_divergence_and_gradient_are_those_of_trl_in_both_directions():
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    theirs = GKDTrainer.generalized_jsd_loss
    p, q = torch.tensor([[[0.7, 0.2, 0.1]], [[0.1, 0.3, 0.6]]]).double().log()
    for beta, value in ((0.0, 1.1018681), (1.0, 1.0021042)):  # KL(p ‖ q), KL(q ‖ p)
        assert theirs(q, p, beta=beta).item() == pytest.approx(value, abs=1e-6)
        assert generalized_jsd(q, p, beta=beta).item() == pytest.approx(value, abs=1e-6)
    for seed, beta in enumerate((0.0, 0.2, 0.5, 0.9, 1.0)):
        student, teacher = logits(seed, 4, 9).requires_grad_(), logits(seed + 9, 4, 9)
        options = {"beta": beta, "temperature": 0.5 + seed}
        ours, other = (
            generalized_jsd(student, teacher, **options),
            theirs(student, teacher, **options),
        )
        torch.testing.assert_close(ours.mean(), other, rtol=1e-9, atol=1e-12)
        slopes = [torch.autograd.grad(x, student)[0] for x in (ours.mean(), other)]
        torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)


@given(seeds, classes)
def test_the_ends_are_the_limits_of_the_divergence_over_its_weight(seed, k):
    student, teacher = logits(seed, 2, k) / 3, logits(seed + 1, 2, k) / 3
    for end, near in ((0.0, 1e-5), (1.0, 1 - 1e-5)):
        scaled = generalized_jsd(student, teacher, beta=near) / 1e-5
        exact = generalized_jsd(student, teacher, beta=end)
        torch.testing.assert_close(scaled, exact, rtol=1e-2, atol=1e-3)


@given(seeds, rows, classes, st.floats(0, 1))
def test_the_mixed_loss_and_label_smoothing(seed, n, k, weight):
    student, teacher = logits(seed, n, k), logits(seed + 1, n, k)
    labels = torch.arange(n) % k
    found = distillation_loss(student, teacher, labels, temperature=3.0, soft=weight)
    soft = soft_loss(student, teacher, temperature=3.0)
    torch.testing.assert_close(
        found, weight * soft + (1 - weight) * F.cross_entropy(student, labels)
    )
    smoothing = weight * 0.9
    theirs = F.cross_entropy(student, labels, label_smoothing=smoothing)
    torch.testing.assert_close(smoothing_loss(student, labels, smoothing=smoothing), theirs)


def test_feature_matching_learns_its_map_and_leaves_the_teacher_alone():
    match = FeatureMatching(3, 5, torch.Generator().manual_seed(0)).double()
    student, teacher = logits(0, 4, 3).requires_grad_(), logits(1, 4, 5).requires_grad_()
    loss = match(student, teacher)
    theirs = F.mse_loss(match.regressor(student), teacher, reduction="sum") / 8
    torch.testing.assert_close(loss, theirs)
    loss.backward()
    assert teacher.grad is None
    assert student.grad.abs().sum() > 0
    assert match.regressor.weight.grad.abs().sum() > 0


# ---- texts


class Table(nn.Module):
    """Logits of the next token given the last one."""

    def __init__(self, seed, k):
        super().__init__()
        self.logits = nn.Parameter(logits(seed, k, k))

    def forward(self, tokens):
        return self.logits[tokens]


@given(seeds, st.integers(2, 4), st.integers(2, 6), st.data())
def test_only_places_after_the_prompt_count(seed, k, n, data):
    prompt = data.draw(st.integers(1, n - 1))
    student, teacher = Table(seed, k), Table(seed + 1, k)
    tokens = torch.randint(k, (3, n), generator=torch.Generator().manual_seed(seed))
    found = text_loss(student, teacher, tokens, prompt=prompt, beta=0.0)
    by_hand = [
        generalized_jsd(student.logits[a], teacher.logits[a], beta=0.0)
        for row in tokens
        for a in row[prompt - 1 : n - 1]  # what predicts the tokens after the prompt
    ]
    torch.testing.assert_close(found, torch.stack(by_hand).mean())


def test_what_the_student_writes_is_its_own_and_has_no_gradient():
    student, teacher = Table(0, 3), Table(1, 3)
    with torch.no_grad():
        student.logits.copy_(1000 * torch.eye(3).roll(1, 1))  # 0, 1, 2, 0, …
    prompts = torch.tensor([[0], [2]])
    text = write(student, prompts, 4)
    assert text.tolist() == [[0, 1, 2, 0, 1], [2, 0, 1, 2, 0]]
    assert not text.requires_grad
    loss = on_policy_loss(student, teacher, prompts, 4, beta=0.0)
    torch.testing.assert_close(loss, text_loss(student, teacher, text, beta=0.0))
    loss.backward()
    assert teacher.logits.grad is None
    assert student.logits.grad.abs().sum() > 0


def test_texts_follow_the_student():
    from scipy.stats import chisquare

    student = Table(3, 3)
    text = write(student, torch.zeros(4000, 1).long(), 2, torch.Generator().manual_seed(0))
    table = student.logits.softmax(-1).detach()
    law = (table[0, :, None] * table).flatten()
    counts = torch.bincount(3 * text[:, 1] + text[:, 2], minlength=9)
    assert chisquare(counts.numpy(), 4000 * law.numpy()).pvalue > 1e-4


# ---- digits


def test_rows_are_split():
    data = split(3, 100)
    assert len(data.x) == len(data.y) == 100
    assert len(data.x_test) == len(data.y_test) == 1697


def test_images_are_moved_by_less_than_a_pixel():
    x = torch.zeros(200, 8, 8)
    x[:, 3:5, 3:5] = 1
    moved = warp(x.flatten(1), torch.Generator().manual_seed(0)).view(-1, 8, 8)
    places = torch.arange(8.0)
    for dim in (1, 2):
        center = (moved.sum(dim) * places).sum(1) / moved.sum((1, 2))
        assert (center - 3.5).abs().max() < 0.47  # turned after it was moved
        assert (center - 3.5).abs().max() > 0.2
    assert not torch.equal(moved[0], moved[1])


@given(seeds)
def test_mixing_wrong_answers_keeps_the_best_and_the_set(seed):
    teacher = logits(seed, 6, 10)
    mixed = mixed_answers(teacher, torch.Generator().manual_seed(seed))
    assert torch.equal(mixed.argmax(-1), teacher.argmax(-1))
    assert torch.equal(mixed.sort(-1).values, teacher.sort(-1).values)
    assert not torch.equal(mixed, teacher)


def test_students_taught_at_once_are_students_taught_alone():
    data, teacher = split(0, 50), logits(0, 50, 10).float()

    def fresh():
        g = torch.Generator().manual_seed(5)
        return new_net(6, g), g

    losses = [
        lambda z, i: F.cross_entropy(z, data.y[i]),
        lambda z, i: soft_loss(z, teacher[i], temperature=4.0),
    ]
    net, g = fresh()
    both = Copies(net, 2)
    assert torch.equal(both(data.x)[0], both(data.x)[1])
    loss = lambda z, i: losses[0](z[0], i) + losses[1](z[1], i)  # noqa: E731
    train(both, data, loss, steps=20, generator=g)
    for k, loss in enumerate(losses):
        alone, g = fresh()
        train(alone, data, loss, steps=20, generator=g)
        torch.testing.assert_close(both(data.x)[k], alone(data.x), rtol=1e-3, atol=1e-4)


def test_digits_are_judged_by_errors_saved(tmp_path, monkeypatch):
    counts = {"labels": 150, "smoothed": 140, "wrong answers mixed": 160, "of other rows": 1300}
    counts |= {f"T = {t:g}": 110 for t in judge.TEMPERATURES}
    monkeypatch.setattr(
        judge, "new_teacher", lambda data, seed, steps: new_net(3, torch.Generator())
    )
    made_up = lambda data, v, seed, steps: {k: n + seed for k, n in counts.items()}  # noqa: E731
    monkeypatch.setattr(judge, "train_students", made_up)
    run = Run(records.ROOT / "weeks/27/distillation.py", out=tmp_path, quiet=True)
    judge.judge_digits(run, 3)
    assert [claim["verdict"] for claim in run.claims] == ["holds", "holds"]
    assert run.falsifiers[0]["broken"]
    assert run.claims[1]["mean"] == pytest.approx(100 * 30 / 1497)
    counts |= {"smoothed": 100}
    run = Run(records.ROOT / "weeks/27/distillation.py", out=tmp_path, quiet=True)
    judge.judge_digits(run, 3)
    assert run.claims[1]["verdict"] == "fails"


def test_surprise_is_that_of_what_follows_the_prompt():
    model, tokens = new_student(4, 0), torch.tensor([[0, 1, 2, 3], [3, 3, 1, 0]])
    log_p = model(tokens).log_softmax(-1)
    by_hand = -(log_p[0, 1, 2] + log_p[0, 2, 3] + log_p[1, 1, 1] + log_p[1, 2, 0]) / 4
    assert surprise(model, tokens, prompt=2) == pytest.approx(by_hand.item())


def test_nets_depend_on_their_generator_alone():
    a, b, c = (new_net(5, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    x = torch.rand(3, 64)
    assert torch.equal(a(x), b(x))
    assert not torch.equal(a(x), c(x))


A, B, TOKENS = torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(1, 3).long()
LABELS, MODEL = torch.zeros(2).long(), Table(0, 3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft_loss(A, B, temperature=0.0), "temperature must be positive and finite, got"),
        (lambda: soft_loss(A, B, temperature=float("inf")), "positive and finite, got inf"),
        (lambda: generalized_jsd(A, B, beta=1.5), r"beta must be in \[0, 1\], got 1.5"),
        (lambda: generalized_jsd(A, B, temperature=-1.0), "temperature must be positive"),
        (lambda: distillation_loss(A, B, LABELS, temperature=1.0, soft=2.0), r"soft must be in"),
        (lambda: smoothing_loss(A, LABELS, smoothing=1.0), r"smoothing must be in \[0, 1\), got"),
        (lambda: text_loss(MODEL, MODEL, TOKENS, prompt=3), "prompt must be between 1 and 2"),
        (lambda: text_loss(MODEL, MODEL, TOKENS, prompt=0), "prompt must be between 1 and 2"),
        (lambda: write(MODEL, TOKENS, 0), "length must be at least 1, got 0"),
        (lambda: write(MODEL, TOKENS[:, :0], 1), "prompts must hold at least one token each"),
        (lambda: split(0, 1797), "n_train must be between 1 and 1796, got 1797"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
