"""The judging of papers/2015-bayes-by-backprop and 2016-mc-dropout."""

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import norm
from test_scripts import load

from shared import papers, records
from shared.run import Run
from week24.bayes_by_backprop import MeanField
from week24.net_posterior import MLP, Categorical, Posterior

BBB, DROPOUT = (
    records.ROOT / "papers" / name / "reproduce.py"
    for name in ("2015-bayes-by-backprop", "2016-mc-dropout")
)
bbb, dropout = load(BBB), load(DROPOUT)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def verdicts(run):
    return [claim["verdict"] for claim in run.claims]


# ---- Bayes by backprop


def test_pruning_keeps_the_largest_scores():
    theta = torch.tensor([3.0, -2.0, 1.0, 0.5])
    kept = bbb.keep(theta, torch.tensor([0.1, 5.0, 0.2, 4.0]), 0.5)
    assert kept.tolist() == [0.0, -2.0, 0.0, 0.5]
    assert torch.equal(bbb.keep(theta, theta, 1.0), theta)


def test_each_order_prunes_by_its_own_scores(monkeypatch):
    seen = []

    def spy(theta, scores, share):
        seen.append((theta, scores))
        return theta

    monkeypatch.setattr(bbb, "keep", spy)
    net = MLP(2, 2)
    x, y = torch.randn(5, 2, generator=generator()), torch.zeros(5, dtype=torch.long)
    posterior = Posterior(net, Categorical(), x, y, 1.0)
    mean, rho = torch.randn(6, generator=generator()), torch.randn(6, generator=generator(1))
    q, plain = MeanField(mean, rho), torch.randn(6, generator=generator(2))
    found = bbb.accuracies(posterior, q, plain, x, y, [0.5])
    assert list(found) == [
        "signal to noise",
        "|mean| alone",
        "random order",
        "plain net, magnitude",
    ]
    torch.testing.assert_close(seen[0][1], mean.abs() / torch.log1p(rho.exp()))
    assert torch.equal(seen[1][1], mean.abs())
    assert torch.equal(seen[3][0], plain)
    assert torch.equal(seen[3][1], plain.abs())
    guess = posterior.net(mean, x).argmax(-1)
    assert found["signal to noise"] == [pytest.approx(100 * float((guess == 0).double().mean()))]


def test_bayes_by_backprop_judging_by_made_up_accuracies(tmp_path):
    paper = papers.load(BBB)
    # shares 1, .5, .25, .1, .05, .02
    rows = {
        "signal to noise": [95.0, 95, 95, 94.8, 92, 80],
        "|mean| alone": [95.0, 95, 94, 91, 80, 50],
        "random order": [95.0, 60, 40, 20, 10, 10],
        "plain net, magnitude": [96.0, 96, 95, 93, 85, 60],
    }
    found = [{k: [v + 0.1 * i for v in row] for k, row in rows.items()} for i in range(5)]
    run = Run(BBB, out=tmp_path, quiet=True)
    bbb.judge(run, paper, found, [(0.02, 0.1 + 0.001 * i) for i in range(5)])
    assert verdicts(run) == ["reproduced", "not reproduced", "reproduced", "reproduced"]
    assert [f["broken"] for f in run.falsifiers] == [True, True]
    run = Run(BBB, out=tmp_path, quiet=True)
    bbb.judge(run, paper, found, [(0.05, 0.1 + 0.001 * i) for i in range(5)])
    assert verdicts(run)[-1] == "not reproduced"
    for row in found:
        row["signal to noise"][3] -= 3  # at a tenth
    run = Run(BBB, out=tmp_path, quiet=True)
    bbb.judge(run, paper, found, [(0.02, 0.1 + 0.001 * i) for i in range(5)])
    assert verdicts(run)[0] == "not reproduced"


def test_inside_is_where_the_data_are():
    x = np.linspace(*bbb.OUTSIDE, 86)
    inside = (x >= 0) & (x <= 0.5)
    assert bbb.spreads(x, np.where(inside, 0.1, 0.4)) == (pytest.approx(0.1), pytest.approx(0.4))
    data = bbb.curve(0)
    assert data.x.min() >= -1
    assert data.x.max() <= 1


def test_the_prior_is_a_mixture_of_two():
    posterior, *_ = bbb.digits(0, 20, 0.3)
    a, b = 0.2 * torch.randn(2, 50, generator=generator(), dtype=torch.float64)
    density = 0.25 * norm.pdf(torch.stack([a, b]), scale=0.3)
    density += 0.75 * norm.pdf(torch.stack([a, b]), scale=0.02)
    exact = np.log(density).sum(axis=1)
    ours = posterior.log_prior(torch.stack([a, b]))
    np.testing.assert_allclose(ours[0] - ours[1], exact[0] - exact[1])


def test_both_nets_start_alike_and_are_trained():
    posterior, x, y = bbb.digits(0, 200, 0.3)
    assert len(x) == len(y) == 1597
    q, plain = bbb.trained(posterior, 0, 25)
    assert q.mean.dtype == plain.dtype == torch.float32
    for theta in (q.mean, plain):
        right = (posterior.net(theta, posterior.x).argmax(-1) == posterior.y).double().mean()
        assert right > 0.3


# ---- MC dropout


def test_log_likelihood_is_that_of_the_mixture():
    f, y = torch.randn(4, 2, 5, generator=generator()), torch.randn(2, 5, generator=generator(1))
    sd = torch.tensor([0.5, 2.0])
    found = dropout.log_likelihood(f, y, sd[:, None])
    for i in range(2):
        each = norm.logpdf(y[i].numpy(), f[:, i].numpy(), float(sd[i]))
        mixture = logsumexp(each, axis=0) - np.log(4)
        np.testing.assert_allclose(found[i], mixture.mean(), rtol=1e-4)
    best, at = dropout.tuned(f, y)
    scores = torch.stack([dropout.log_likelihood(f, y, s) for s in dropout.NOISE])
    torch.testing.assert_close(best, scores.amax(0))
    torch.testing.assert_close(dropout.log_likelihood(f, y, at[:, None]), best)


def test_training_rows_are_not_judged():
    X, _ = dropout.table("diabetes", np.random.default_rng(0))
    np.testing.assert_allclose(X.std(axis=0), 1)
    rows = dropout.split(X, np.arange(442.0), 3, np.random.default_rng(1))
    assert [part.shape[1] for part in rows.y] == [309, 67, 66]
    for i in range(3):
        together = torch.cat([part[i] for part in rows.y])
        assert len(together.unique()) == 442
    assert not torch.equal(rows.y[0][0], rows.y[0][1])


def test_nets_of_splits_are_trained_apart():
    """With one net of two alone, its weights come out as in company."""
    g = generator()
    x, y = torch.randn(2, 30, 3, generator=g), torch.randn(2, 30, generator=g)
    w = dropout.first_weights(2, 3, g)
    before = [part.clone() for part in w]
    dropout.train(w, x, y, torch.tensor([0.0, 0.5]), p=0.0, steps=60, g=g)
    sizes = [part.square().sum((1, 2)) for part in w]
    assert sizes[0][1] < 0.8 * sizes[0][0]  # each has a decay of its own
    fitted = (dropout.forward(w, x) - y).square().mean(1)
    started = (dropout.forward(before, x) - y).square().mean(1)
    assert (fitted < started).all()


def test_dropped_outputs_differ_and_those_of_all_units_do_not():
    g = generator()
    w = [part[None] for part in dropout.first_weights(2, 3, g)]
    x = torch.randn(2, 7, 3, generator=g)
    same = dropout.outputs(w, x, 0.0, 3, g)
    assert same.shape == (3, 2, 7)
    assert torch.equal(same[0], same[2])
    other = dropout.outputs(w, x, 0.3, 400, g)
    assert float(other.std(0).min()) > 0
    kept = dropout.keep((100_000,), 0.3, g)
    assert kept.unique().tolist() == [0.0, pytest.approx(1 / 0.7)]
    assert float(kept.mean()) == pytest.approx(1, abs=0.02)


def test_the_better_decay_is_chosen_per_split():
    worse = (torch.tensor([1.0, 3.0]), torch.tensor([0.1, 0.3]), torch.zeros(2, 2, 4))
    new = (torch.tensor([2.0, 2.0]), torch.tensor([0.2, 0.2]), torch.ones(2, 2, 4))
    score, sd, f = dropout.better(dropout.better(None, worse), new)
    assert score.tolist() == [2.0, 3.0]
    torch.testing.assert_close(sd, torch.tensor([0.2, 0.3]))
    assert f[:, 0].unique().tolist() == [1.0]
    assert f[:, 1].unique().tolist() == [0.0]


def scores(value: float, far: float = 3.0) -> dict:
    spread = 0.0001 * torch.arange(4)
    one = dict.fromkeys(("log-likelihood", "RMSE", "coverage"), value + spread)
    return one | {"far": far + spread}


def test_dropout_judging_by_made_up_scores(tmp_path):
    paper = papers.load(DROPOUT)
    names = ("MC dropout", "one pass", "dropout off", "ensemble")
    found = {
        "diabetes": {k: scores(v) for k, v in zip(names, (-1.0, -1.1, -1.1, -0.9), strict=True)},
        "uneven noise": {k: scores(v) for k, v in zip(names, (-1.2, -1.1, -1.1, -1), strict=True)},
    }
    ratios = {"MC dropout": [1.0, 1.1, 0.95], "linear": [0.5, 0.51, 0.49]}
    run = Run(DROPOUT, out=tmp_path, quiet=True)
    dropout.judge(run, paper, found, ratios)
    assert verdicts(run) == ["reproduced", "not reproduced", "reproduced", "holds"]
    assert all(f["broken"] for f in run.falsifiers)
    found["diabetes"]["MC dropout"] = scores(-1.0, far=1.2)
    found["uneven noise"]["MC dropout"] = scores(-1.2, far=1.2)
    run = Run(DROPOUT, out=tmp_path, quiet=True)
    dropout.judge(run, paper, found, ratios)
    assert verdicts(run)[2] == "not reproduced"


def test_coverage_of_a_right_law():
    g = generator()
    y = torch.randn(3, 4000, generator=g)
    found = dropout.coverage(torch.zeros(1, 3, 4000), y, torch.ones(3), g)
    np.testing.assert_allclose(found, 0.95, atol=0.02)
