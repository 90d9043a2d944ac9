"""Nets as one vector, their posterior, its approximations: against torch.func and closed forms."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from torch import nn

from shared import records
from shared.run import Run
from week24.bayes_by_backprop import MeanField, ascent, elbo, fit_mean_field
from week24.bayesian_nn import doubt, dropout_masks, fit, log_predictive, regression_target
from week24.evidence import bayesian_nn as judge
from week24.evidence import real_tables
from week24.laplace import KroneckerLaplace, Laplace, draw, ggn, kronecker_factors
from week24.net_posterior import MLP, Categorical, Gaussian, Posterior
from week24.stochastic_gradient_samplers import Moments, sgld, stationary_variance, swag

SIZES = st.lists(st.integers(1, 4), min_size=2, max_size=4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def classes(seed: int, n: int = 9, sizes=(3, 4, 3), prior_sd: float = 0.7) -> Posterior:
    y = torch.randint(sizes[-1], (n,), generator=generator(seed))
    return Posterior(MLP(*sizes), Categorical(), normal(n, sizes[0], seed=seed), y, prior_sd)


def line(seed: int, n: int = 30, noise: float = 0.5, prior_sd: float = 1.0) -> Posterior:
    x = normal(n, 3, seed=seed) @ normal(3, 3, seed=seed + 1)
    return Posterior(MLP(3, 1), Gaussian(noise), x, normal(n, seed=seed + 2), prior_sd)


def exact(posterior: Posterior) -> tuple[np.ndarray, np.ndarray]:
    """Mean and precision of a line's weights, the bias last."""
    X = np.column_stack([posterior.x, np.ones(len(posterior.x))])
    noise = posterior.likelihood.sd**-2
    precision = noise * X.T @ X + np.eye(X.shape[1]) / posterior.prior_sd**2
    return np.linalg.solve(precision, noise * X.T @ posterior.y.numpy()), precision


# ---- the net


@given(seed=st.integers(0, 10**6), sizes=SIZES)
def test_outputs_and_jacobian_are_torchs(seed, sizes):
    net = MLP(*sizes)
    theta, x = normal(net.n_parameters, seed=seed), normal(5, sizes[0], seed=seed + 1)
    layers = []
    for w in net.matrices(theta):
        layers += [nn.Linear(w.shape[1] - 1, w.shape[0]).double(), nn.Tanh()]
        layers[-2].weight.data, layers[-2].bias.data = w[:, :-1], w[:, -1]
    torch.testing.assert_close(net(theta, x), nn.Sequential(*layers[:-1])(x))
    J = torch.func.jacrev(lambda t: net(t, x))(theta)
    torch.testing.assert_close(net.jacobian(theta, x), J, atol=1e-10, rtol=1e-10)


@given(seed=st.integers(0, 10**6))
def test_many_nets_are_each_alone(seed):
    net = MLP(2, 3, 4, 2)
    theta, x = normal(2, 3, net.n_parameters, seed=seed), normal(2, 3, 5, 2, seed=seed)
    together = net(theta, x)
    for i, j in itertools.product(range(2), range(3)):
        torch.testing.assert_close(together[i, j], net(theta[i, j], x[i, j]))


@given(seed=st.integers(0, 10**6))
def test_batches_estimate_the_log_joint(seed):
    """The mean over all batches of two rows is the whole, the prior counted once in each."""
    posterior = classes(seed, n=5)
    theta = normal(posterior.net.n_parameters, seed=seed)
    pairs = torch.tensor(list(itertools.combinations(range(5), 2)))
    many = posterior.log_joint(theta.expand(len(pairs), -1), pairs)
    whole = posterior.log_joint(theta)
    torch.testing.assert_close(many.mean(), whole)
    loss = nn.functional.cross_entropy(
        posterior.net(theta, posterior.x), posterior.y, reduction="sum"
    )
    prior = torch.distributions.Normal(0, posterior.prior_sd).log_prob(theta).sum()
    torch.testing.assert_close(whole, prior - loss)


@given(seed=st.integers(0, 10**6))
def test_gradients_of_nets_do_not_mix(seed):
    posterior = classes(seed)
    theta = normal(3, posterior.net.n_parameters, seed=seed)
    together = posterior.gradient(theta)
    for one, gradient in zip(theta, together, strict=True):
        torch.testing.assert_close(posterior.gradient(one), gradient)


@given(seed=st.integers(0, 10**6), width=st.integers(1, 6))
def test_the_target_for_nuts_is_the_log_joint(seed, width):
    x = normal(12, 2, seed=seed)
    posterior = Posterior(MLP(2, width, 1), Gaussian(0.3), x, normal(12, seed=seed), 0.8)
    target = regression_target(posterior)
    a, b = normal(2, posterior.net.n_parameters, seed=seed)
    (value_a, slope), (value_b, _) = target(a.numpy()), target(b.numpy())
    np.testing.assert_allclose(slope, posterior.gradient(a), rtol=1e-9, atol=1e-9)
    difference = float(posterior.log_joint(a) - posterior.log_joint(b))
    np.testing.assert_allclose(value_a - value_b, difference, rtol=1e-9)


# ---- averages


@given(seed=st.integers(0, 10**6))
def test_predictions_are_mixtures_of_probabilities(seed):
    outputs, y = normal(4, 6, 3, seed=seed), torch.arange(6) % 3
    p = outputs.softmax(-1).mean(0)
    found = log_predictive(Categorical(), outputs, y)
    torch.testing.assert_close(found, p[torch.arange(6), y].log())
    total, disagreement = doubt(outputs)
    torch.testing.assert_close(total, torch.distributions.Categorical(p).entropy())
    each = torch.distributions.Categorical(logits=outputs).entropy().mean(0)
    torch.testing.assert_close(disagreement, total - each)
    assert (disagreement >= 0).all()
    _, none = doubt(outputs[:1].repeat(3, 1, 1))
    torch.testing.assert_close(none, torch.zeros(6, dtype=torch.float64))


def test_dropout_over_all_masks():
    """Mean and variance of one hidden layer, by enumeration of what is dropped."""
    net, p = MLP(2, 3, 1), 0.25
    theta, x = normal(net.n_parameters), normal(4, 2, seed=1)
    mean, square = torch.zeros(4).double(), torch.zeros(4).double()
    for off in itertools.product([0, 1], repeat=3):
        chance = p ** sum(off) * (1 - p) ** (3 - sum(off))
        mask = (1 - torch.tensor([off]).double()) / (1 - p)
        f = net(theta, x, [mask])[:, 0]
        mean, square = mean + chance * f, square + chance * f**2
    torch.testing.assert_close(mean, net(theta, x)[:, 0])
    f = net(theta, x, dropout_masks(net, p, (40_000, 1), generator()))[..., 0]
    torch.testing.assert_close(f.mean(0), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(f.var(0), square - mean**2, atol=0.0, rtol=0.06)


def test_a_draw_of_dropout_is_one_function_and_rows_in_training_are_not():
    net = MLP(1, 50, 20, 1)
    first, second = dropout_masks(net, 0.5, (7, 1), generator())
    assert first.shape == (7, 1, 50)
    assert second.shape == (7, 1, 20)
    assert set(first.unique().tolist()) == {0.0, 2.0}
    posterior = Posterior(net, Gaussian(1.0), normal(6, 1), normal(6), 1.0)
    theta = net.start(2, generator())
    seen = []

    def spy(theta, rows, masks):
        seen.append(masks[0])
        return Posterior.gradient(posterior, theta, rows, masks)

    object.__setattr__(posterior, "gradient", spy)
    fit(posterior, theta, steps=2, lr=0.01, generator=generator(), dropout=0.5)
    assert seen[0].shape == (2, 6, 50)
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0][:, 0], seen[0][:, 1])


def test_fit_finds_the_maximum_of_each_start():
    posterior = line(3)
    mean, _ = exact(posterior)
    start = normal(2, 4, seed=5)
    before = start.clone()
    for batch in (None, 29):
        options = {"steps": 400, "lr": 0.08, "generator": generator(), "batch_size": batch}
        found = fit(posterior, start, **options)
        close = 1e-3 if batch is None else 0.1
        torch.testing.assert_close(found, torch.tensor(mean).expand(2, -1), atol=close, rtol=0)
    assert torch.equal(start, before)


# ---- Bayes by backprop


@given(seed=st.integers(0, 10**6))
def test_ascent_is_the_gradient_of_the_elbo(seed):
    posterior, k = classes(seed), 31
    leaves = [normal(k, seed=seed).requires_grad_(), normal(k, seed=seed + 1).requires_grad_()]
    q, eps = MeanField(*leaves), normal(5, k, seed=seed + 2)
    theta = q.mean + q.sd * eps
    law = torch.distributions.Normal(q.mean, q.sd)
    bound = posterior.log_joint(theta).mean() + law.entropy().sum()
    torch.testing.assert_close(elbo(posterior, q, theta), float(bound))
    by_mean, by_rho = torch.autograd.grad(bound, leaves)
    fixed = MeanField(*(leaf.detach() for leaf in leaves))
    ours = ascent(fixed, eps, posterior.gradient(theta))
    torch.testing.assert_close(ours[0], by_mean)
    torch.testing.assert_close(ours[1], by_rho)


@pytest.mark.parametrize("batches", [1, 4])
def test_the_elbo_is_level_at_the_mean_and_one_over_the_precision(batches):
    """Averages over points with the moments of ε, and over all batches, are exact for a line."""
    posterior = line(7, n=40)
    mean, precision = exact(posterior)
    eps = 2 * torch.cat([torch.eye(4), -torch.eye(4)]).double()
    sd = torch.tensor(np.diag(precision) ** -0.5)
    q = MeanField(torch.tensor(mean), sd.expm1().log())
    theta, rows = q.mean + q.sd * eps, torch.arange(40).chunk(batches)
    gradient = torch.stack([posterior.gradient(theta, part) for part in rows]).mean(0)
    for slope in ascent(q, eps, gradient):
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-9)


@pytest.mark.parametrize("batch_size", [None, 20])
def test_mean_field_of_a_line_is_one_over_the_precision(batch_size):
    posterior = line(7, n=40)
    mean, precision = exact(posterior)
    options = {"steps": 900, "lr": 0.05, "generator": generator(), "n_draws": 16}
    q = fit_mean_field(posterior, batch_size=batch_size, **options)
    np.testing.assert_allclose(q.sd, np.diag(precision) ** -0.5, rtol=0.15)
    assert float(abs((q.mean - torch.tensor(mean)) / q.sd).max()) < 1.0
    assert (q.sd.numpy() < 0.98 * np.sqrt(np.diag(np.linalg.inv(precision)))).any()


def test_the_elbo_is_below_the_evidence():
    posterior = line(7)
    mean, precision = exact(posterior)
    evidence = Laplace(posterior, torch.tensor(mean)).log_evidence
    sd = torch.tensor(np.diag(precision) ** -0.5)
    q = MeanField(torch.tensor(mean), torch.log(torch.expm1(sd)))
    bound = elbo(posterior, q, q.draw(4000, generator()))
    gap = 0.5 * (np.log(np.diag(precision)).sum() - np.linalg.slogdet(precision)[1])
    np.testing.assert_allclose(evidence - bound, gap, atol=0.15)


# ---- Laplace


@given(seed=st.integers(0, 10**6))
def test_laplace_is_exact_for_lines(seed):
    posterior = line(seed, n=12, noise=0.4, prior_sd=1.5)
    mean, precision = exact(posterior)
    found = Laplace(posterior, torch.tensor(mean))
    np.testing.assert_allclose(found.precision, precision, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.covariance(), np.linalg.inv(precision), rtol=1e-6, atol=1e-9)
    X = np.column_stack([posterior.x, np.ones(12)])
    marginal = multivariate_normal(cov=0.16 * np.eye(12) + 2.25 * X @ X.T)
    evidence = marginal.logpdf(posterior.y.numpy())
    np.testing.assert_allclose(found.log_evidence, evidence, rtol=1e-7, atol=1e-6)
    mean_of, covariance = found.predict(posterior.x)
    np.testing.assert_allclose(mean_of[:, 0], X @ mean, atol=1e-9)
    spread = np.einsum("ni,ij,nj->n", X, np.linalg.inv(precision), X)
    np.testing.assert_allclose(covariance[:, 0, 0], spread, rtol=1e-6)
    last = Laplace(posterior, torch.tensor(mean), last_layer=True)  # there is no other
    np.testing.assert_allclose(last.log_evidence, evidence, rtol=1e-7, atol=1e-6)


@given(seed=st.integers(0, 10**6), sizes=SIZES)
def test_ggn_is_the_fisher_information(seed, sizes):
    posterior = classes(seed, sizes=sizes)
    net, theta = posterior.net, normal(MLP(*sizes).n_parameters, seed=seed)
    scores = torch.func.jacrev(lambda t: net(t, posterior.x).log_softmax(-1))(theta)
    p = net(theta, posterior.x).softmax(-1)
    fisher = torch.einsum("nc,ncp,ncq->pq", p, scores, scores)
    torch.testing.assert_close(ggn(posterior, theta), fisher, atol=1e-9, rtol=1e-9)


@given(seed=st.integers(0, 10**6))
def test_kronecker_factors_are_exact_for_one_row_and_for_a_line(seed):
    one, row = classes(seed, sizes=(3, 4)), slice(0, 1)
    one = Posterior(one.net, one.likelihood, one.x[row], one.y[row], 1.0)
    for posterior in (one, line(seed)):
        theta = normal(posterior.net.n_parameters, seed=seed)
        ((A, G),) = kronecker_factors(posterior, theta)
        np.testing.assert_allclose(np.kron(G, A), ggn(posterior, theta), rtol=1e-9, atol=1e-9)
        kron, full = KroneckerLaplace(posterior, theta), Laplace(posterior, theta)
        np.testing.assert_allclose(kron.log_evidence, full.log_evidence, rtol=1e-8, atol=1e-8)
        for a, b in zip(kron.predict(posterior.x), full.predict(posterior.x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@given(seed=st.integers(0, 10**6))
def test_kronecker_predictions_are_those_of_the_matrix(seed):
    posterior = classes(seed)
    net, theta = posterior.net, normal(31, seed=seed)
    factors = kronecker_factors(posterior, theta)
    blocks = [torch.from_numpy(np.kron(G, A)) for A, G in factors]
    precision = torch.block_diag(*blocks) + torch.eye(31) / 0.49
    found = KroneckerLaplace(posterior, theta)
    J = net.jacobian(theta, posterior.x)
    covariance = J @ torch.linalg.inv(precision) @ J.mT
    torch.testing.assert_close(found.predict(posterior.x)[1], covariance, rtol=1e-8, atol=1e-8)
    joint = float(posterior.log_joint(theta))
    evidence = joint + 31 / 2 * np.log(2 * np.pi) - float(torch.logdet(precision)) / 2
    np.testing.assert_allclose(found.log_evidence, evidence)


def test_the_last_layer_alone():
    posterior = classes(2)
    theta = normal(31, seed=3)
    found = Laplace(posterior, theta, last_layer=True)
    full = Laplace(posterior, theta)
    torch.testing.assert_close(found.precision, full.precision[-15:, -15:])
    J = posterior.net.jacobian(theta, posterior.x)[..., -15:]
    covariance = J @ torch.linalg.inv(found.precision) @ J.mT
    torch.testing.assert_close(found.predict(posterior.x)[1], covariance)


def test_draws_of_outputs_have_their_covariance():
    root = normal(2, 3, 3)
    prediction = (normal(2, 3, seed=1), root @ root.mT)
    found = draw(prediction, 60_000, generator())
    torch.testing.assert_close(found.mean(0), prediction[0], atol=0.04, rtol=0)
    for i in range(2):
        covariance = torch.cov(found[:, i].T)
        torch.testing.assert_close(covariance, prediction[1][i], atol=0.15, rtol=0)


# ---- stochastic gradients


@pytest.mark.parametrize("batch", [None, 4])
def test_sgld_has_the_law_of_its_recursion(batch):
    n, y = 20, normal(20)
    posterior = Posterior(MLP(1, 1), Gaussian(1.0), torch.zeros(n, 1).double(), y, 1.0)
    options = {"step": 0.03, "steps": 300, "burn_in": 60, "keep_every": 12}
    start = torch.zeros(600, 2, dtype=torch.float64)
    draws = sgld(posterior, start, batch_size=batch, generator=generator(), **options)
    assert draws.shape == (20, 600, 2)
    noise = 0.0 if batch is None else n**2 / batch * float(y.var(correction=0))
    law = stationary_variance(step=0.03, precision=n + 1.0, noise_variance=noise)
    np.testing.assert_allclose(draws[..., 1].var(), law, rtol=0.06)
    np.testing.assert_allclose(draws[..., 1].mean(), y.sum() / (n + 1), atol=0.02)


def test_a_short_step_is_exact_and_a_long_one_explodes():
    law = {"precision": 5.0, "noise_variance": 3.0}
    np.testing.assert_allclose(stationary_variance(step=1e-9, **law), 0.2)
    assert stationary_variance(step=0.9, **law) == np.inf


@given(seed=st.integers(0, 10**6), n=st.integers(2, 12), rank=st.integers(2, 5))
def test_moments_of_a_path_are_numpys(seed, n, rank):
    path, moments = normal(n, 2, 3, seed=seed), Moments(rank)
    for theta in path:
        moments.add(theta)
    torch.testing.assert_close(moments.mean, path.mean(0))
    torch.testing.assert_close(moments.variance, path.var(0, correction=0))
    running = path.cumsum(0) / torch.arange(1, n + 1)[:, None, None]
    last = (path - running)[-rank:]
    for net in range(2):
        low_rank = last[:, net].T @ last[:, net] / (len(last) - 1)
        theirs = (path[:, net].var(0, correction=0).diag() + low_rank) / 2
        torch.testing.assert_close(moments.covariance()[net], theirs)


def test_swag_draws_its_covariance():
    moments = Moments(rank=4)
    for theta in normal(12, 3).cumsum(0):
        moments.add(theta)
    drawn = moments.draw(60_000, generator())
    torch.testing.assert_close(torch.cov(drawn.T), moments.covariance(), atol=0.12, rtol=0.03)
    torch.testing.assert_close(drawn.mean(0), moments.mean, atol=0.05, rtol=0)


def test_swag_wanders_around_the_maximum():
    posterior = line(1)
    mean, _ = exact(posterior)
    options = {"lr": 0.01, "steps": 360, "keep_every": 3, "batch_size": 10}
    found = swag(posterior, torch.tensor(mean), generator=generator(), **options)
    assert found.n == 120
    assert len(found.deviations) == 20
    torch.testing.assert_close(found.mean, torch.tensor(mean), atol=0.1, rtol=0)
    assert (found.variance > 0).all()


# ---- judges


def test_judging_of_real_tables_by_made_up_scores(tmp_path):
    one, split = {"one net": [0.5, 0.6, 0.55]}, {}
    losses = one | {"ensemble": [0.4, 0.5, 0.44], "Kronecker": [0.6, 0.7, 0.66]}
    for data in ("digits", "breast_cancer"):
        split |= {(data, "log loss"): losses, (data, "copies"): one}
    split["digits", "turned"] = {"one net": [0.7] * 3, "ensemble": [0.9, 0.91, 0.92]}
    split["digits", "upright"] = {"ensemble": [0.5, 0.52, 0.49]}
    run = Run(records.ROOT / "weeks" / "24" / "bayesian_nn.py", out=tmp_path, quiet=True)
    real_tables.judge(run, split)
    verdicts = [claim["verdict"] for claim in run.claims]
    assert verdicts == ["holds", "fails", "holds", "fails", "holds", "holds"]
    assert all(f["broken"] for f in run.falsifiers)


def test_scores_of_made_up_outputs():
    sure = torch.tensor([[0.0, 9.0]]).double().expand(8, 2)
    y = torch.tensor([1, 1, 1, 1, 1, 1, 0, 0])
    loss, error = real_tables.judged(sure[None], y)
    np.testing.assert_allclose(error, 0.25, atol=1e-3)  # sure of all, right in three quarters
    np.testing.assert_allclose(loss, 2.25, atol=1e-3)
    unsure = torch.zeros(1, 5, 2, dtype=torch.float64)
    assert real_tables.area(sure[None], unsure) == 1.0
    assert real_tables.area(unsure, sure[None]) == 0.0


def test_regions_and_spreads():
    at = judge.within(judge.GRID[:, 0].numpy(), "gap")
    assert abs(at).max() <= 0.5
    sd = np.ones(len(judge.GRID))
    assert judge.spread((sd, 3 * sd), 2 * sd, "data") == pytest.approx(1.5)


def test_splits_share_no_row():
    posterior, x, y, other = real_tables.rows_of("digits", 3)
    rows = torch.cat([posterior.x, x, other])
    assert len(y) == len(x) == 300
    assert len(rows.unique(dim=0)) == len(rows)
    found = real_tables.patches(20, np.random.default_rng(0))
    assert found.shape == (20, 64)
    assert found.min() == 0
    assert found.max() == 1


def test_bad_input():
    with pytest.raises(ValueError, match="sizes must be two or more positive numbers, got"):
        MLP(3)
    with pytest.raises(ValueError, match="y must have as many rows as x, 2, got 3"):
        Posterior(MLP(1, 1), Gaussian(1.0), normal(2, 1), normal(3), 1.0)
    with pytest.raises(ValueError, match=r"prior_sd must be positive, got 0\.0"):
        Posterior(MLP(1, 1), Gaussian(1.0), normal(2, 1), normal(2), 0.0)
    with pytest.raises(ValueError, match=r"p must be in \[0, 1\), got 1\.0"):
        dropout_masks(MLP(1, 2, 1), 1.0, (3,), generator())
    with pytest.raises(ValueError, match="rank must be at least 2, got 1"):
        Moments(1)
    with pytest.raises(ValueError, match="deviations must be at least 2"):
        Moments(2).draw(1, generator())
    with pytest.raises(ValueError, match="posterior must be of one hidden layer"):
        regression_target(classes(0))
    with pytest.raises(ValueError, match="burn_in must be from 0 to 4, got 5"):
        sgld(line(0), normal(1, 4), step=1, steps=5, burn_in=5, keep_every=1, generator=generator())
